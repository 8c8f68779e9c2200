//! Finding out what a log holds.
//!
//! A block that is not valid ends the log only if it can be the torn tail of the last write: it is in the newest
//! segment, no block with a larger number follows it anywhere there, and its number is above what is known to have been
//! durable. Every block is synced before the next is written, so nothing else can be torn. All the rest is damage, and
//! is refused with its place.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::format::{
    BLOCK_HEADER, BlockHeader, BlockKind, HeaderError, Item, Loc, RUN_HEADER, RecordHeader,
    Records, SECTOR, SEGMENT_BYTES_MAX, SegmentHeader, VERSION, check_runs, run_len, seed,
};
use super::group_log::GroupLog;
use super::shared::Cache;
use super::{GAP_MAX, LOG_DIR, LogConfig, LogError, LogMode, Opening, segment_name};
use crate::{Disk, DiskFile, Entry, Group, Index, OpenMode, Record, Recovered, Tag};

/// What a log holds.
#[derive(Debug)]
pub(super) struct Recovery {
    pub(super) groups: BTreeMap<Group, GroupLog>,
    pub(super) recovered: BTreeMap<Group, Recovered>,
    pub(super) files: BTreeMap<u32, Arc<dyn DiskFile>>,
    pub(super) cache: Cache,
    /// Where the next block goes; `None` if there is no segment.
    pub(super) end: Option<End>,
    /// Files that nobody needs: old segments and half-made spares.
    pub(super) leftovers: Vec<String>,
    pub(super) spares: Vec<String>,
    pub(super) next_spare: u64,
    /// How long the sync of the last block took.
    pub(super) flush_latency: Option<Duration>,
}

/// Where the next block goes.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) segment: u32,
    pub(super) segment_bytes: u64,
    pub(super) offset: u64,
    pub(super) next_lsn: u64,
    pub(super) chain: u32,
    /// Where the last block begins; where the next one goes if the segment has none.
    pub(super) last_block: u64,
    /// The oldest segment that the last block needs.
    pub(super) oldest: u64,
    /// Whether the log was closed in order.
    pub(super) closed: bool,
}

/// How much of a segment is read at once.
const WINDOW_BYTES: u64 = 1 << 20;

pub(super) fn recover(
    disk: &dyn Disk,
    config: &LogConfig,
    opening: &Opening,
) -> Result<Recovery, LogError> {
    let mut names = match disk.list(LOG_DIR) {
        Ok(names) => Names::sort(names),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Names::default(),
        Err(error) => return Err(LogError::io("list its files")(error)),
    };
    if names.segments.is_empty() && opening.mode != LogMode::Create {
        return Err(LogError::Missing { dir: LOG_DIR.to_owned() });
    }
    // Old segments are removed from the oldest on, but their names may vanish in any order.
    let whole = names.segments.windows(2).rposition(|pair| pair[0] + 1 != pair[1]);
    let old = whole.map_or(0, |at| at + 1);
    let segments = names.segments.split_off(old);
    names.leftovers.extend(names.segments.iter().map(|&segment| segment_name(segment)));

    let mut fold = Fold {
        groups: BTreeMap::new(),
        buildings: Vec::new(),
        floors: &opening.floors,
        cache: Cache::new(config.tail_cache_bytes),
        log_bytes: 0,
        free: BytesMut::new(),
    };
    let mut files: BTreeMap<u32, Arc<dyn DiskFile>> = BTreeMap::new();
    let mut headers = Vec::new();
    for &segment in &segments {
        let (file, header) = open_segment(disk, segment, opening)?;
        fold.log_bytes += header.segment_bytes;
        files.insert(segment, file);
        headers.push(header);
    }
    let mut end: Option<End> = None;
    for (at, (&segment, header)) in segments.iter().zip(&headers).enumerate() {
        let scan = Scan { segment, header, seed: seed(&opening.store, u64::from(segment)) };
        let file = &*files[&segment];
        let found = scan.fold(file, at == 0, end.as_ref(), &mut fold)?;
        match headers.get(at + 1) {
            Some(next) => scan.check_next(&found, next)?,
            None => scan.check_tail(file, &found, opening)?,
        }
        end = Some(found.end);
    }
    if let (Some(end), Some(&first)) = (&end, segments.first()) {
        let known = opening.durable_lsn;
        #[cfg(quorate_planted)]
        let known = if quorate_planted::Bug::DamageIsTornTail.is_planted() { 0 } else { known };
        if end.next_lsn <= known {
            return Err(LogError::Corrupt {
                segment: u64::from(end.segment),
                offset: end.offset,
                group: None,
                what: format!(
                    "it ends with block {}, but block {} is known to have been durable",
                    end.next_lsn - 1,
                    opening.durable_lsn
                ),
            });
        }
        if end.oldest < u64::from(first) {
            return Err(LogError::Corrupt {
                segment: end.oldest,
                offset: 0,
                group: None,
                what: format!("the segment is needed, but the oldest there is is {first}"),
            });
        }
    }
    let mut flush_latency = None;
    if let (Some(end), true) = (&end, opening.mode != LogMode::ReadOnly) {
        let took = rewrite_last_block(disk, &*files[&end.segment], end)
            .map_err(LogError::io("make its last block stable"))?;
        flush_latency = Some(took);
    }
    let Fold { groups, buildings, cache, .. } = fold;
    let mut recovery = Recovery {
        groups: BTreeMap::new(),
        recovered: BTreeMap::new(),
        files,
        cache,
        end,
        leftovers: names.leftovers,
        spares: names.spares,
        next_spare: names.next_spare,
        flush_latency,
    };
    let mut buildings: Vec<_> = buildings.into_iter().map(Some).collect();
    for (group, at) in groups {
        let building = buildings[at].take().expect("each group has its own");
        let (recovered, log) = building.recovered();
        recovery.recovered.insert(group, recovered);
        recovery.groups.insert(group, log);
    }
    Ok(recovery)
}

/// Makes the last block stable, before anyone trusts it.
///
/// An earlier process may have died before its sync, or its sync may have failed: then the system still shows what was
/// written, and a further sync says that all is well although the disk has none of it. Only writing it again makes
/// that sync true. Every block before the last was synced before the next one was written. Gives the time of that sync.
fn rewrite_last_block(disk: &dyn Disk, file: &dyn DiskFile, end: &End) -> io::Result<Duration> {
    #[cfg(quorate_planted)]
    if quorate_planted::Bug::LastBlockTrusted.is_planted() {
        return Ok(Duration::ZERO);
    }
    let mut offset = end.last_block;
    let mut bytes = vec![0; WINDOW_BYTES as usize];
    while offset < end.offset {
        let now = (end.offset - offset).min(WINDOW_BYTES) as usize;
        file.read_at(offset, &mut bytes[..now])?;
        file.write_at(offset, &bytes[..now])?;
        offset += now as u64;
    }
    let start = Instant::now();
    file.sync()?;
    let took = start.elapsed();
    disk.sync_dir(LOG_DIR)?;
    Ok(took)
}

/// The files of a log, by what they are for.
#[derive(Debug, Default)]
struct Names {
    segments: Vec<u32>,
    spares: Vec<String>,
    leftovers: Vec<String>,
    next_spare: u64,
}

impl Names {
    fn sort(names: Vec<String>) -> Self {
        let mut sorted = Self::default();
        for name in names {
            let path = format!("{LOG_DIR}/{name}");
            if let Some(number) = name.strip_prefix("segment-").and_then(|n| n.parse().ok()) {
                // Only the name that we would give counts, so that no two files have one number.
                if path == segment_name(number) && number > 0 {
                    sorted.segments.push(number);
                }
            } else if let Some(number) = name.strip_prefix("spare-") {
                let half = number.strip_suffix(".tmp");
                let Ok(number) = half.unwrap_or(number).parse::<u64>() else { continue };
                sorted.next_spare = sorted.next_spare.max(number.saturating_add(1));
                let list = if half.is_some() { &mut sorted.leftovers } else { &mut sorted.spares };
                list.push(path);
            }
        }
        sorted.segments.sort_unstable();
        sorted
    }
}

fn open_segment(
    disk: &dyn Disk,
    segment: u32,
    opening: &Opening,
) -> Result<(Arc<dyn DiskFile>, SegmentHeader), LogError> {
    let name = segment_name(segment);
    let mode = match opening.mode {
        LogMode::ReadOnly => OpenMode::Read,
        LogMode::Create | LogMode::Existing => OpenMode::Write,
    };
    let corrupt = |what: &str| LogError::Corrupt {
        segment: u64::from(segment),
        offset: 0,
        group: None,
        what: what.to_owned(),
    };
    let file = disk.open(&name, mode).map_err(LogError::io(format!("open {name}")))?;
    let len = file.len().map_err(LogError::io(format!("open {name}")))?;
    if len < SECTOR as u64 {
        return Err(corrupt("the file is too short to have a header"));
    }
    let mut bytes = [0; SECTOR];
    file.read_at(0, &mut bytes).map_err(LogError::io(format!("read {name}")))?;
    let header = match SegmentHeader::decode(&bytes) {
        Ok(header) => header,
        Err(HeaderError::Damaged) => return Err(corrupt("its header is not valid")),
        Err(HeaderError::Newer { version, features }) => {
            return Err(LogError::Newer { file: name, version, features, known: VERSION });
        }
    };
    if header.store != opening.store {
        return Err(LogError::OtherStore { file: name });
    }
    if header.segment != u64::from(segment) {
        return Err(corrupt("its header is of another segment"));
    }
    if header.segment_bytes != len || len > SEGMENT_BYTES_MAX {
        return Err(corrupt("the file does not have the length that its header says"));
    }
    Ok((Arc::from(file), header))
}

/// What has been found so far.
#[derive(Debug)]
struct Fold<'a> {
    /// Which of the buildings is of a group.
    groups: BTreeMap<Group, usize>,
    buildings: Vec<Building>,
    floors: &'a BTreeMap<Group, Index>,
    cache: Cache,
    log_bytes: u64,
    /// A window that nothing holds on to.
    free: BytesMut,
}

impl Fold<'_> {
    fn building(&mut self, group: Group) -> usize {
        if let Some(&at) = self.groups.get(&group) {
            return at;
        }
        let floor = self.floors.get(&group).copied().unwrap_or(0);
        self.buildings.push(Building::new(floor));
        self.groups.insert(group, self.buildings.len() - 1);
        self.buildings.len() - 1
    }

    /// The head of this segment holds what the heads of segments hold.
    fn head_written(&mut self, segment: u32) {
        for building in &mut self.buildings {
            building.log.head_written(segment);
        }
    }
}

#[derive(Debug)]
struct Building {
    log: GroupLog,
    /// What is at or below this index is not given back.
    floor: Index,
    /// Entries as they were found; those that are void by now are dropped now and then.
    entries: Vec<Entry>,
    /// While it is so, entries came in the order of their indexes, one for each, and only trims made any void: where
    /// they are need not be known.
    in_order: bool,
    /// Where each of them is, once they are not in order.
    places: Vec<Loc>,
    decided: Vec<(Loc, (Index, Tag, Bytes))>,
}

impl Building {
    fn new(floor: Index) -> Self {
        Self {
            log: GroupLog::new(),
            floor,
            entries: Vec::new(),
            in_order: true,
            places: Vec::new(),
            decided: Vec::new(),
        }
    }

    fn add(&mut self, item: Item, loc: Loc) {
        let in_order = match &item {
            Item::Record(Record::Put(entry)) => entry.index >= self.log.end(),
            Item::Record(Record::Cut { .. }) | Item::Renew { .. } => false,
            Item::Record(Record::Decide { index, tag, .. }) => self.log.is_only(*index, tag),
            Item::Record(
                Record::State(_) | Record::Note { .. } | Record::Reset { .. } | Record::Trim { .. },
            )
            | Item::Head { .. } => true,
        };
        if self.in_order && !in_order {
            self.note_places();
        }
        self.log.apply_item(&item, loc);
        match item {
            Item::Record(Record::Put(entry)) if entry.index > self.floor => {
                self.entries.push(entry);
                if !self.in_order {
                    self.places.push(loc);
                }
            }
            Item::Record(Record::Decide { index, tag, proof }) if index > self.floor => {
                self.decided.push((loc, (index, tag, proof)));
            }
            Item::Record(Record::Reset { .. }) => {
                self.entries.clear();
                self.places.clear();
                self.decided.clear();
                return;
            }
            _ => return,
        }
        let found = self.entries.len() + self.decided.len();
        if found.is_multiple_of(4096) && found as u64 > 4096 + 2 * self.log.live() {
            self.drop_void();
        }
    }

    /// From now on entries may be void for other reasons than trims.
    fn note_places(&mut self) {
        self.drop_void();
        let place = |entry: &Entry| self.log.place(entry.index).expect("it is not void");
        self.places = self.entries.iter().map(place).collect();
        self.in_order = false;
    }

    fn drop_void(&mut self) {
        let Self { log, entries, in_order, places, decided, .. } = self;
        let void = |(entry, loc): (&Entry, &Loc)| !log.has(entry.index, *loc);
        if *in_order {
            let trimmed = entries.partition_point(|entry| entry.index < log.first());
            entries.drain(..trimmed);
        } else if entries.iter().zip(&*places).any(void) {
            let both = std::mem::take(entries).into_iter().zip(std::mem::take(places));
            (*entries, *places) = both.filter(|(e, loc)| log.has(e.index, *loc)).unzip();
        }
        decided.retain(|(loc, (index, ..))| log.decides(*index, *loc));
    }

    fn recovered(mut self) -> (Recovered, GroupLog) {
        self.drop_void();
        let Self { log, floor, mut entries, places, mut decided, .. } = self;
        // Only rivals at one index, or what was copied forward, are out of order; most logs have neither.
        if !entries.is_sorted_by(|a, b| a.index < b.index) {
            let mut both: Vec<(Loc, Entry)> = places.into_iter().zip(entries).collect();
            both.sort_by_cached_key(|(loc, entry)| (entry.index, log.ordinal(entry.index, *loc)));
            entries = both.into_iter().map(|(_, entry)| entry).collect();
        }
        decided.sort_by_key(|(_, (index, ..))| *index);
        let notes = log.notes().filter(|(index, _)| *index > floor);
        let recovered = Recovered {
            first: log.first(),
            reset: log.reset().cloned(),
            entries,
            decided: decided.into_iter().map(|(_, decided)| decided).collect(),
            state: log.state().cloned(),
            notes: notes.map(|(index, note)| (index, note.clone())).collect(),
        };
        (recovered, log)
    }
}

/// The scan of a segment.
#[derive(Debug)]
struct Scan<'a> {
    segment: u32,
    header: &'a SegmentHeader,
    seed: u32,
}

#[derive(Debug)]
struct Scanned {
    end: End,
    /// Why the block at the end is not valid.
    why: &'static str,
}

impl Scan<'_> {
    fn corrupt(&self, offset: u64, group: Option<Group>, what: impl Into<String>) -> LogError {
        LogError::Corrupt { segment: u64::from(self.segment), offset, group, what: what.into() }
    }

    /// Folds all blocks up to the first that is not valid.
    fn fold(
        &self,
        file: &dyn DiskFile,
        is_first: bool,
        before: Option<&End>,
        fold: &mut Fold<'_>,
    ) -> Result<Scanned, LogError> {
        let mut window = Window::new(self, file);
        let mut end = End {
            segment: self.segment,
            segment_bytes: self.header.segment_bytes,
            offset: SECTOR as u64,
            next_lsn: self.header.first_lsn,
            chain: self.header.chain,
            last_block: SECTOR as u64,
            oldest: before.map_or_else(|| u64::from(self.segment), |before| before.oldest),
            closed: before.is_some_and(|before| before.closed),
        };
        let why = loop {
            let (header, payload) = match window.block(end.offset, fold)? {
                Ok(block) => block,
                Err(why) => break why,
            };
            if header.lsn != end.next_lsn || header.chain != end.chain {
                break "the block is out of order";
            }
            if !check_runs(self.seed, &header, &payload) {
                break "the checksum of a block is wrong";
            }
            let at_start = end.offset == SECTOR as u64;
            if (header.kind == BlockKind::Head) != at_start {
                return Err(self.corrupt(end.offset, None, "the head of the segment is misplaced"));
            }
            if header.kind != BlockKind::Head || is_first {
                self.records(&header, &payload, fold)?;
            } else {
                // The head repeats what the segments before have said, which is why they may be gone one day.
                fold.head_written(self.segment);
            }
            end.last_block = end.offset;
            end.offset += header.block_bytes();
            end.next_lsn += 1;
            end.chain = header.crc;
            end.oldest = header.oldest;
            end.closed = header.kind == BlockKind::Close;
            window.valid_to(end.offset);
        };
        window.flush(fold);
        if is_first && end.offset == SECTOR as u64 && self.segment > 1 {
            return Err(self.corrupt(
                end.offset,
                None,
                "the head of the oldest segment is missing",
            ));
        }
        Ok(Scanned { end, why })
    }

    fn records(
        &self,
        header: &BlockHeader,
        payload: &Bytes,
        fold: &mut Fold<'_>,
    ) -> Result<(), LogError> {
        let limit = fold.log_bytes / RUN_HEADER as u64 + GAP_MAX;
        let mut at = 0;
        let mut count = 0;
        let mut last: Option<(Group, usize)> = None;
        while at < payload.len() {
            let run = u64::from(header.offset) + (BLOCK_HEADER + at) as u64;
            let len = run_len(payload[at..at + RUN_HEADER].try_into().expect("a checked run"));
            at += RUN_HEADER;
            let mut records = Records::new(payload.slice(at..at + len), 0);
            loop {
                let seen = records.peek();
                let group = match seen {
                    Some((_, seen)) => seen.group,
                    None => match records.next() {
                        None => break,
                        Some(Err(what)) => return Err(self.corrupt(run, None, what)),
                        Some(Ok(_)) => unreachable!("what can be decoded has a header"),
                    },
                };
                count += 1;
                let building = match last {
                    Some((known, at)) if known == group => at,
                    _ => fold.building(group),
                };
                last = Some((group, building));
                let building = &mut fold.buildings[building];
                let limit = building.log.first().saturating_add(limit);
                let unreachable = |index: Index| {
                    let what = format!("a record has index {index}, which no log can reach");
                    Err(self.corrupt(run, Some(group), what))
                };
                // An entry that nobody wants back is not made.
                if let Some((place, RecordHeader { put: Some((index, tag)), .. })) = seen
                    && index <= building.floor
                    && (!building.in_order || index >= building.log.end())
                {
                    if index > limit {
                        return unreachable(index);
                    }
                    let loc = Loc { segment: self.segment, run: run as u32, at: place };
                    building.log.put(index, &tag, loc);
                    records.skip_seen();
                    continue;
                }
                let (place, _, item) = match records.next() {
                    Some(Ok(found)) => found,
                    Some(Err(what)) => return Err(self.corrupt(run, None, what)),
                    None => unreachable!("a record has been seen"),
                };
                if let Some(index) = slot_of(&item)
                    && index > limit
                {
                    return unreachable(index);
                }
                if let Some(index) = indexes_of(&item).into_iter().find(|index| *index > INDEX_MAX)
                {
                    return unreachable(index);
                }
                building.add(item, Loc { segment: self.segment, run: run as u32, at: place });
            }
            at += len;
        }
        if count != header.records {
            return Err(self.corrupt(u64::from(header.offset), None, "a block misses records"));
        }
        Ok(())
    }

    /// A segment that has a successor ends where that begins.
    fn check_next(&self, found: &Scanned, next: &SegmentHeader) -> Result<(), LogError> {
        #[cfg(quorate_planted)]
        if quorate_planted::Bug::DamageIsTornTail.is_planted() {
            return Ok(());
        }
        if found.end.next_lsn == next.first_lsn && found.end.chain == next.chain {
            return Ok(());
        }
        let what = format!(
            "{}, but blocks up to {} follow in later segments",
            found.why,
            next.first_lsn.saturating_sub(1)
        );
        Err(self.corrupt(found.end.offset, None, what))
    }

    /// The newest segment may end in a torn block, which nothing follows.
    fn check_tail(
        &self,
        file: &dyn DiskFile,
        found: &Scanned,
        opening: &Opening,
    ) -> Result<(), LogError> {
        let end = &found.end;
        #[cfg(quorate_planted)]
        if quorate_planted::Bug::DamageIsTornTail.is_planted() {
            return Ok(());
        }
        #[cfg(quorate_planted)]
        if quorate_planted::Bug::TornTailIsDamage.is_planted() && found.why.contains("checksum") {
            return Err(self.corrupt(end.offset, None, found.why));
        }
        if end.next_lsn <= opening.durable_lsn {
            let what = format!(
                "{}, but block {} is known to have been durable",
                found.why, opening.durable_lsn
            );
            return Err(self.corrupt(end.offset, None, what));
        }
        let mut offset = end.offset;
        let mut bytes = vec![0; WINDOW_BYTES as usize];
        while offset < end.segment_bytes {
            let now = (end.segment_bytes - offset).min(WINDOW_BYTES) as usize;
            file.read_at(offset, &mut bytes[..now])
                .map_err(LogError::io(format!("read segment {}", self.segment)))?;
            for (at, sector) in (offset..).step_by(SECTOR).zip(bytes[..now].chunks(SECTOR)) {
                let header = BlockHeader::decode(self.seed, at, sector);
                if let Some(header) = header.filter(|header| header.lsn > end.next_lsn) {
                    let what = format!(
                        "{}, but block {}, which was written after it, is at byte {at}",
                        found.why, header.lsn
                    );
                    return Err(self.corrupt(end.offset, None, what));
                }
            }
            offset += now as u64;
        }
        Ok(())
    }
}

/// No log comes so far, whatever jumps over; so sums of indexes have room.
const INDEX_MAX: Index = 1 << 62;

/// Every index that a record names.
fn indexes_of(item: &Item) -> [Index; 2] {
    match item {
        Item::Record(Record::Put(Entry { index, .. }))
        | Item::Record(Record::Cut { from: index } | Record::Trim { below: index })
        | Item::Record(Record::Decide { index, .. } | Record::Note { index, .. })
        | Item::Record(Record::Reset { index, .. })
        | Item::Renew { index } => [*index, 0],
        Item::Record(Record::State(_)) => [0, 0],
        Item::Head { first, reset, .. } => [*first, reset.as_ref().map_or(0, |(index, _)| *index)],
    }
}

/// The index of a record that needs a slot.
fn slot_of(item: &Item) -> Option<u64> {
    match item {
        Item::Record(Record::Put(entry)) => Some(entry.index),
        Item::Record(Record::Decide { index, .. }) => Some(*index),
        _ => None,
    }
}

/// A piece of a segment in memory; the blocks in it that are valid become part of the cache.
#[derive(Debug)]
struct Window<'a> {
    scan: &'a Scan<'a>,
    file: &'a dyn DiskFile,
    size: u64,
    from: u64,
    bytes: Bytes,
    valid_from: u64,
    valid_to: u64,
}

impl<'a> Window<'a> {
    fn new(scan: &'a Scan<'a>, file: &'a dyn DiskFile) -> Self {
        let size = scan.header.segment_bytes;
        Self { scan, file, size, from: 0, bytes: Bytes::new(), valid_from: 0, valid_to: 0 }
    }

    /// The block at an offset and what follows its header; or why there is none.
    fn block(
        &mut self,
        offset: u64,
        fold: &mut Fold<'_>,
    ) -> Result<Result<(BlockHeader, Bytes), &'static str>, LogError> {
        if self.size.saturating_sub(offset) < SECTOR as u64 {
            return Ok(Err("the segment is full"));
        }
        let sector = self.get(offset, SECTOR as u64, fold)?;
        let Some(header) = BlockHeader::decode(self.scan.seed, offset, &sector) else {
            return Ok(Err("the header of a block is not valid"));
        };
        // What is held of a window keeps it from being used again.
        drop(sector);
        let bytes = header.block_bytes();
        if bytes > self.size - offset {
            return Ok(Err("a block is longer than its segment"));
        }
        let block = self.get(offset, bytes, fold)?;
        let payload = block.slice(BLOCK_HEADER..BLOCK_HEADER + header.len as usize);
        Ok(Ok((header, payload)))
    }

    fn get(&mut self, offset: u64, len: u64, fold: &mut Fold<'_>) -> Result<Bytes, LogError> {
        if offset < self.from || offset + len > self.from + self.bytes.len() as u64 {
            self.flush(fold);
            let mut bytes = std::mem::take(&mut fold.free);
            bytes.resize(len.max(WINDOW_BYTES).min(self.size - offset) as usize, 0);
            self.file
                .read_at(offset, &mut bytes)
                .map_err(LogError::io(format!("read segment {}", self.scan.segment)))?;
            self.from = offset;
            self.bytes = bytes.freeze();
            (self.valid_from, self.valid_to) = (offset, offset);
        }
        let at = (offset - self.from) as usize;
        Ok(self.bytes.slice(at..at + len as usize))
    }

    /// Everything below this offset is valid.
    fn valid_to(&mut self, offset: u64) {
        self.valid_to = offset;
    }

    /// Ends the window. If entries in it are given back, they hold it, and it may as well serve readers; if not, it is used
    /// again.
    fn flush(&mut self, fold: &mut Fold<'_>) {
        let bytes = match std::mem::take(&mut self.bytes).try_into_mut() {
            Ok(free) => {
                fold.free = free;
                return;
            }
            Err(held) => held,
        };
        if self.valid_to > self.valid_from {
            let (from, to) = (self.valid_from - self.from, self.valid_to - self.from);
            let bytes = bytes.slice(from as usize..to as usize);
            fold.cache.push(self.scan.segment, self.valid_from as u32, bytes);
            self.valid_from = self.valid_to;
        }
    }
}
