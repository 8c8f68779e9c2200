//! The log: what all groups of a node write, in one sequence of segments.
//!
//! ```text
//!  submit --> pending --> block --write--> segment --sync--> durable(group, seq)
//!                                             |
//!                         LogReader <-- tail cache, or the segment
//! ```
//!
//! [`Log`] is stepped by its caller and has no thread; [`LogThread`] is a thread around it. The bytes of a segment are
//! described in `log/format.rs`, and how a log is found again after a crash in `log/recovery.rs`.
//!
//! # Invariants
//!
//! 1. A block is synced before the next is written, so that only the last can be torn.
//! 2. What is reported as durable is found again by every later open, or the open says that the log is damaged.
//! 3. After the first write or sync that failed nothing is written or reported any more.
//! 4. A segment begins with the state of every group, so that any number of the oldest segments can go once no group needs
//!    a record in them; they go only after a later block, which names the oldest that is needed, is durable.

mod config;
mod error;
mod format;
#[doc(hidden)]
pub mod fuzzing;
mod group_log;
mod reader;
mod recovery;
mod shared;
mod spares;
mod thread;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

pub use config::LogConfig;
pub use error::LogError;
pub use reader::LogReader;
pub use thread::{LogThread, OnDurable};

use crate::{Disk, DiskFile, Group, Index, OpenMode, Record, Recovered, Seq};
use format::{
    BLOCK_HEADER, BlockBuilder, BlockHeader, BlockKind, Item, Loc, SECTOR, SegmentHeader,
    record_bytes, seed,
};
use recovery::recover;
use shared::{Shared, State};
use spares::Spares;

/// Where the segments are on the disk.
pub const LOG_DIR: &str = "log";

/// A record may be this far above the last entry of its group. An engine that leaves larger gaps has lost count.
const GAP_MAX: u64 = 4096;

/// How much of an old segment is copied forward in one step of maintenance.
const COPY_BYTES: usize = 1 << 20;

/// How many indexes are looked at for that.
const COPY_INDEXES: usize = 1024;

/// What a block of records leaves free in its segment: a sector for the block that lets go of old segments, and one for the
/// end of a log that is closed. So a full disk cannot keep either from being written.
const DATA_LEAVES: u64 = 2 * SECTOR as u64;

fn segment_name(segment: u32) -> String {
    format!("{LOG_DIR}/segment-{segment:010}")
}

/// How a log is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The id of the store, from its manifest. Segments of another store are refused.
    pub store: [u8; 16],
    /// The number of a block that is known to have been durable, from the newest checkpoint; 0 if there is none. A
    /// log that ends before it is damaged, not torn.
    pub durable_lsn: u64,
    /// Groups of which not everything need be given back: entries, decisions and notes at and below the index are
    /// left out of [`Recovered`], as their checkpoint has them. Without it all that is kept is brought into memory.
    /// [`LogReader`] reads them all the same.
    pub floors: BTreeMap<Group, Index>,
    /// What is expected of the disk.
    pub mode: LogMode,
}

/// What is expected of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogMode {
    /// A log is created if there is none.
    Create,
    /// There must be a log.
    Existing,
    /// There must be a log, and nothing is written.
    ReadOnly,
}

/// How a log is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// All is well.
    Ok,
    /// There was no room for another segment. What is left takes votes, states and trims; proposals must be refused.
    /// It ends by itself when [`Log::maintain`] finds room.
    Full,
    /// Something failed, and nothing is written any more.
    Faulted {
        /// What failed first.
        cause: Arc<str>,
    },
}

/// A log, stepped by its caller.
///
/// ```
/// use std::sync::Arc;
/// use quorate_storage::{Group, Log, LogConfig, LogMode, MemoryDisk, Opening, Record};
///
/// let floors = Default::default();
/// let opening = Opening { store: [7; 16], durable_lsn: 0, floors, mode: LogMode::Create };
/// let disk = Arc::new(MemoryDisk::new());
/// let (mut log, found) = Log::open(disk, LogConfig::default(), &opening)?;
/// assert!(found.is_empty());
///
/// let group = Group::new(0);
/// log.submit(group, vec![(1, true, Record::State(b"term 1"[..].into()))])?;
/// assert_eq!(log.commit()?, [(group, 1)]);
/// # Ok::<(), quorate_storage::LogError>(())
/// ```
#[derive(Debug)]
pub struct Log {
    disk: Arc<dyn Disk>,
    config: LogConfig,
    shared: Arc<Shared>,
    spares: Spares,
    active: Active,
    next_lsn: u64,
    chain: u32,
    /// The oldest segment that is needed, as of the last look.
    oldest: u64,
    /// The oldest segment that the last durable block needs: those before it may go.
    recorded_oldest: u64,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    wants_flush: bool,
    /// The last index that a pending record of a group will have reached.
    ends: BTreeMap<Group, Index>,
    in_flight: Option<InFlight>,
    builder: BlockBuilder,
    free: Vec<u8>,
    leftovers: Vec<String>,
    /// A segment that was too full of needed records to be copied forward, and how many there were.
    dense: Option<(u32, u64)>,
    /// Whether the last block says that the log was closed.
    ends_closed: bool,
    closed: bool,
    read_only: bool,
    flush_latency: Option<Duration>,
}

#[derive(Debug)]
struct Active {
    segment: u32,
    file: Arc<dyn DiskFile>,
    bytes: u64,
    /// Where the next block goes; at the first sector the head is still missing.
    end: u64,
}

/// What was submitted together, as it came.
#[derive(Debug)]
struct Pending {
    group: Group,
    writes: Vec<(Seq, bool, Record)>,
    /// How many of the writes are durable.
    done: usize,
}

impl Pending {
    fn rest(&self) -> &[(Seq, bool, Record)] {
        &self.writes[self.done..]
    }
}

/// A block that is written and not yet synced.
#[derive(Debug)]
struct InFlight {
    header: BlockHeader,
    bytes: Vec<u8>,
    /// Places of the first pending records, in order.
    locs: Vec<Loc>,
    records_bytes: usize,
}

impl Log {
    /// Opens the log of a disk, or creates it, and finds what each group has in it.
    ///
    /// # Errors
    ///
    /// [`LogError::Corrupt`] if anything but the torn tail of the last write is not as it was written;
    /// [`LogError::Newer`], [`LogError::OtherStore`], [`LogError::Missing`], [`LogError::Config`] and [`LogError::Io`]
    /// as they say.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: LogConfig,
        opening: &Opening,
    ) -> Result<(Self, BTreeMap<Group, Recovered>), LogError> {
        config.check().map_err(|what| LogError::Config { what })?;
        let found = recover(&*disk, &config, opening)?;
        let read_only = opening.mode == LogMode::ReadOnly;
        if !read_only && found.end.is_none() {
            disk.create_dir_all(LOG_DIR)
                .and_then(|()| disk.sync_dir(""))
                .map_err(LogError::io("create its directory"))?;
        }
        let next_lsn = found.end.as_ref().map_or(1, |end| end.next_lsn);
        let state = State {
            groups: found.groups,
            files: found.files,
            cache: found.cache,
            durable_lsn: next_lsn - 1,
        };
        let shared = Arc::new(Shared::new(opening.store, state));
        let (mut ready, mut leftovers) = (Vec::new(), found.leftovers);
        for name in found.spares {
            let file = disk.open(&name, OpenMode::Read);
            let len = file.and_then(|f| f.len()).map_err(LogError::io(format!("open {name}")))?;
            let fits = len == config.segment_bytes && ready.len() < config.spares;
            if fits { &mut ready } else { &mut leftovers }.push(name);
        }
        let spares =
            Spares::new(Arc::clone(&disk), Arc::clone(&shared), &config, ready, found.next_spare);
        let active = match &found.end {
            Some(end) => Active {
                segment: end.segment,
                file: Arc::clone(&shared.state().files[&end.segment]),
                bytes: end.segment_bytes,
                end: end.offset,
            },
            None => activate(&*disk, &shared, &spares, &config, 1, (1, 0)).map_err(as_opening)?,
        };
        let oldest = found.end.as_ref().map_or(1, |end| end.oldest);
        let mut log = Self {
            disk,
            shared,
            spares,
            active,
            next_lsn,
            chain: found.end.as_ref().map_or(0, |end| end.chain),
            oldest,
            recorded_oldest: oldest,
            pending: VecDeque::new(),
            pending_bytes: 0,
            wants_flush: false,
            ends: BTreeMap::new(),
            in_flight: None,
            builder: BlockBuilder::default(),
            free: Vec::new(),
            leftovers,
            dense: None,
            ends_closed: found.end.as_ref().is_some_and(|end| end.closed),
            closed: false,
            read_only,
            flush_latency: found.flush_latency,
            config,
        };
        if !read_only {
            log.write_head_if_missing()?;
        }
        Ok((log, found.recovered))
    }

    /// A reader of what is durable.
    pub fn reader(&self) -> LogReader {
        LogReader::new(Arc::clone(&self.shared))
    }

    /// How the log is.
    pub fn health(&self) -> Health {
        match self.shared.check() {
            Err(LogError::Faulted { cause }) => Health::Faulted { cause },
            _ if self.spares.ready().1 => Health::Full,
            _ => Health::Ok,
        }
    }

    /// Number of the last block that is durable.
    pub fn durable_lsn(&self) -> u64 {
        self.next_lsn - 1
    }

    /// How long the disk took to flush one block when the log was opened; `None` if it was opened for reading only.
    ///
    /// A host should report it, and remark on one below about 30 us: a disk without power-loss protection that is so
    /// fast says that bytes are stable which are not. Nothing that a program can ask will tell. With such a disk
    /// a power cut can take what this log has reported as durable; a crash of the process or the system's alone cannot.
    /// It decides nothing here, so that a run can be repeated.
    pub fn flush_latency(&self) -> Option<Duration> {
        self.flush_latency
    }

    /// The group that holds back the oldest segment, and how many bytes of segments are kept for it. A host that sees
    /// this grow should make a checkpoint of that group and let it trim.
    pub fn held_back(&self) -> Option<(Group, u64)> {
        let state = self.shared.state();
        let oldest = |(&group, log): (&Group, &group_log::GroupLog)| Some((log.oldest()?, group));
        let (segment, group) = state.groups.iter().filter_map(oldest).min()?;
        let kept = u64::from(self.active.segment.saturating_sub(segment));
        Some((group, kept * self.config.segment_bytes))
    }

    /// How many bytes of segments there are, spares aside.
    pub fn segment_bytes(&self) -> u64 {
        self.shared.state().files.len() as u64 * self.config.segment_bytes
    }

    /// Takes writes of a group, in order: their seqs, whether they must become durable soon, and the records. Nothing
    /// is written before [`commit`](Self::commit).
    ///
    /// # Errors
    ///
    /// Takes all or nothing. [`LogError::Full`], [`LogError::TooLarge`], [`LogError::Gap`], [`LogError::Faulted`],
    /// [`LogError::ReadOnly`] and [`LogError::Closed`] as they say.
    pub fn submit(
        &mut self,
        group: Group,
        writes: Vec<(Seq, bool, Record)>,
    ) -> Result<(), LogError> {
        self.check()?;
        let (bytes, end) = self.admit(group, &writes)?;
        self.ends.insert(group, end);
        self.pending_bytes += bytes;
        self.wants_flush |= writes.iter().any(|&(_, flush, _)| flush);
        if !writes.is_empty() {
            self.pending.push_back(Pending { group, writes, done: 0 });
        }
        Ok(())
    }

    /// Checks writes before any is taken: their bytes, and where the group ends with them.
    fn admit(
        &self,
        group: Group,
        writes: &[(Seq, bool, Record)],
    ) -> Result<(usize, Index), LogError> {
        let mut end = match self.ends.get(&group) {
            Some(&end) => end,
            None => self.shared.state().groups.get(&group).map_or(1, |log| log.end()),
        };
        let max = self.record_bytes_max();
        let mut all = 0;
        for (_, _, record) in writes {
            let bytes = record_bytes(record);
            if bytes > max {
                return Err(LogError::TooLarge { bytes, max });
            }
            all += bytes;
            match record {
                Record::Put(crate::Entry { index, .. }) | Record::Decide { index, .. } => {
                    if *index > end.saturating_add(GAP_MAX) {
                        return Err(LogError::Gap { group, index: *index, last: end - 1 });
                    }
                    end = end.max(index + 1);
                }
                Record::Cut { from } => end = end.min((*from).max(1)),
                Record::Reset { index, .. } => end = index + 1,
                Record::Trim { below } => end = end.max(*below),
                Record::State(_) | Record::Note { .. } => {}
            }
        }
        let (ready, full) = self.spares.ready();
        if full {
            let kept = writes.iter().map(|(_, _, record)| self.kept_from(record)).max();
            let block = (BLOCK_HEADER + self.pending_bytes + all).next_multiple_of(SECTOR);
            if block as u64 + kept.unwrap_or(0) > self.room(ready) {
                return Err(LogError::Full);
            }
        }
        Ok((all, end))
    }

    /// The largest record, so that it and the head of a segment fit into one.
    fn record_bytes_max(&self) -> usize {
        self.config.segment_bytes as usize / 2 - 4 * SECTOR
    }

    /// How many bytes still fit once the disk is full, with so many spares. Blocks may leave the end of a segment empty, and
    /// its head takes some, so a spare counts half.
    fn room(&self, spares: usize) -> u64 {
        let here = self.active.bytes - self.active.end;
        here.saturating_sub(DATA_LEAVES) + spares as u64 * self.config.segment_bytes / 2
    }

    /// How many bytes of a full log a record must leave to others: what brings more work leaves room for votes, and those for
    /// the trims which let go of segments.
    fn kept_from(&self, record: &Record) -> u64 {
        let sectors = |least: usize| (least * SECTOR) as u64;
        match record {
            Record::Trim { .. } => 0,
            Record::Put(_) => sectors(8).max(self.config.segment_bytes / 8),
            _ => sectors(4).max(self.config.segment_bytes / 32),
        }
    }

    /// Whether a commit is wanted: something must become durable soon, or much is waiting.
    pub fn wants_commit(&self) -> bool {
        self.in_flight.is_some()
            || !self.pending.is_empty()
                && (self.wants_flush || self.pending_bytes >= self.config.block_bytes_max)
    }

    /// Whether anything has been submitted that is not durable.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Makes what is pending durable, as much as fits into a block, with one write and one sync. Gives the last durable
    /// seq of each group that was in it. With [`wants_commit`](Self::wants_commit) still true there is more.
    ///
    /// # Errors
    ///
    /// [`LogError::Full`] if there is no room for another segment: what is pending stays pending.
    /// [`LogError::Faulted`] if a write or a sync failed, now or before.
    pub fn commit(&mut self) -> Result<Vec<(Group, Seq)>, LogError> {
        if self.in_flight.is_none() && !self.commit_write()? {
            return Ok(Vec::new());
        }
        self.commit_sync()
    }

    /// The first half of a commit: writes a block. `false` if nothing is pending.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub fn commit_write(&mut self) -> Result<bool, LogError> {
        self.check()?;
        assert!(self.in_flight.is_none(), "the block before has been synced");
        if self.pending.is_empty() {
            return Ok(false);
        }
        let (count, bytes) = self.next_block();
        self.make_room(BLOCK_HEADER + bytes, DATA_LEAVES)?;
        self.begin_block(BLOCK_HEADER + bytes);
        let mut locs = Vec::with_capacity(count);
        for pending in &self.pending {
            let now = pending.rest().iter().take(count - locs.len());
            locs.extend(now.map(|(_, _, record)| self.builder.record(pending.group, record)));
            if locs.len() == count {
                break;
            }
        }
        self.write_block(BlockKind::Data, locs, bytes)?;
        Ok(true)
    }

    /// The second half of a commit: syncs the block that was written, and shows it to readers.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub fn commit_sync(&mut self) -> Result<Vec<(Group, Seq)>, LogError> {
        self.check()?;
        let Some(block) = self.sync_block()? else { return Ok(Vec::new()) };
        let mut durable: Vec<(Group, Seq)> = Vec::new();
        let mut state = self.shared.state();
        let state = &mut *state;
        let mut locs = &block.locs[..];
        while let Some(pending) = self.pending.front_mut()
            && !locs.is_empty()
        {
            let group = pending.group;
            let (now, later) = locs.split_at(pending.rest().len().min(locs.len()));
            let log = state.groups.entry(group).or_insert_with(group_log::GroupLog::new);
            for ((_, _, record), loc) in pending.rest().iter().zip(now) {
                log.apply(record, *loc);
            }
            pending.done += now.len();
            locs = later;
            let seq = pending.writes[pending.done - 1].0;
            match durable.iter_mut().find(|(known, _)| *known == group) {
                Some((_, known)) => *known = seq,
                None => durable.push((group, seq)),
            }
            if pending.rest().is_empty() {
                self.pending.pop_front();
            }
        }
        assert!(locs.is_empty(), "what was written had been submitted");
        state.durable_lsn = block.header.lsn;
        let bytes = Bytes::from(block.bytes);
        let free = state.cache.push(self.active.segment, block.header.offset, bytes);
        self.free = free.unwrap_or_default();
        self.pending_bytes -= block.records_bytes;
        if self.pending.is_empty() {
            self.wants_flush = false;
            self.ends.clear();
        }
        Ok(durable)
    }

    /// How many of the pending records go into the next block, and about how many bytes they take.
    fn next_block(&self) -> (usize, usize) {
        if self.pending_bytes <= self.config.block_bytes_max {
            let count = self.pending.iter().map(|pending| pending.rest().len()).sum();
            return (count, self.pending_bytes);
        }
        let (mut count, mut all) = (0, 0);
        for (_, _, record) in self.pending.iter().flat_map(|pending| pending.rest()) {
            let bytes = record_bytes(record);
            if count > 0 && all + bytes > self.config.block_bytes_max {
                break;
            }
            count += 1;
            all += bytes;
        }
        (count, all)
    }

    /// Sees to it that a block of this size fits into the active segment, behind its head, and leaves so many bytes.
    fn make_room(&mut self, bytes: usize, leaves: u64) -> Result<(), LogError> {
        let bytes = bytes.next_multiple_of(SECTOR) as u64 + leaves;
        if self.active.end + bytes > self.active.bytes {
            let next = self.active.segment.checked_add(1).expect("segments are not that many");
            self.active = activate(
                &*self.disk,
                &self.shared,
                &self.spares,
                &self.config,
                next,
                (self.next_lsn, self.chain),
            )?;
        }
        self.write_head_if_missing()?;
        if self.active.end + bytes > self.active.bytes {
            return Err(self.shared.fault("place a block behind the head of a segment"));
        }
        Ok(())
    }

    /// Begins the active segment with the state of every group, and makes that durable.
    fn write_head_if_missing(&mut self) -> Result<(), LogError> {
        if self.active.end != SECTOR as u64 {
            return Ok(());
        }
        let items: Vec<(Group, Item)> = {
            let state = self.shared.state();
            let head = |(&group, log): (&Group, &group_log::GroupLog)| {
                log.head().into_iter().map(move |item| (group, item)).collect::<Vec<_>>()
            };
            state.groups.iter().flat_map(head).collect()
        };
        self.begin_block(BLOCK_HEADER);
        for (group, item) in &items {
            self.builder.item(*group, item);
        }
        if self.builder.len() as u64 > self.active.bytes / 2 - 2 * SECTOR as u64 {
            return Err(self.shared.fault(
                "write the head of a segment: states and notes of undecided indexes are larger \
                 than half of segment_bytes",
            ));
        }
        self.oldest = self.oldest_needed(true);
        self.write_block(BlockKind::Head, Vec::new(), 0)?;
        let block = self.sync_block()?.expect("it was just written");
        let mut state = self.shared.state();
        for log in state.groups.values_mut() {
            log.head_written(self.active.segment);
        }
        state.durable_lsn = block.header.lsn;
        state.cache.push(self.active.segment, block.header.offset, Bytes::from(block.bytes));
        Ok(())
    }

    /// The oldest segment in which a group has something, or the active one.
    fn oldest_needed(&self, head: bool) -> u64 {
        let state = self.shared.state();
        let groups = state.groups.values();
        let oldest =
            groups.filter_map(|log| if head { log.oldest_after_head() } else { log.oldest() });
        u64::from(oldest.min().unwrap_or(self.active.segment).min(self.active.segment))
    }

    fn begin_block(&mut self, bytes: usize) {
        let mut buffer = std::mem::take(&mut self.free);
        buffer.clear();
        buffer.reserve(bytes.next_multiple_of(SECTOR));
        let segment = self.active.segment;
        let seed = seed(&self.shared.store, u64::from(segment));
        self.builder.begin(buffer, seed, segment, self.active.end as u32);
    }

    fn write_block(
        &mut self,
        kind: BlockKind,
        locs: Vec<Loc>,
        records_bytes: usize,
    ) -> Result<(), LogError> {
        let (header, bytes) = self.builder.finish(kind, self.next_lsn, self.oldest, self.chain);
        assert!(self.active.end + bytes.len() as u64 <= self.active.bytes, "room has been made");
        if let Err(error) = self.active.file.write_at(self.active.end, &bytes) {
            return Err(self.shared.fault(&format!("write a block: {error}")));
        }
        self.in_flight = Some(InFlight { header, bytes, locs, records_bytes });
        Ok(())
    }

    fn sync_block(&mut self) -> Result<Option<InFlight>, LogError> {
        let Some(block) = self.in_flight.take() else { return Ok(None) };
        let start = self.flush_latency.is_none().then(Instant::now);
        let synced = self.active.file.sync();
        #[cfg(quorate_planted)]
        let synced = match quorate_planted::Bug::SyncRetried.is_planted() {
            true => synced.or_else(|_| self.active.file.sync()),
            false => synced,
        };
        if let Err(error) = synced {
            return Err(self.shared.fault(&format!("sync a block: {error}")));
        }
        if let Some(start) = start {
            self.flush_latency = Some(start.elapsed());
        }
        self.active.end += block.bytes.len() as u64;
        self.next_lsn = block.header.lsn + 1;
        self.chain = block.header.crc;
        self.recorded_oldest = block.header.oldest;
        self.ends_closed = block.header.kind == BlockKind::Close;
        Ok(Some(block))
    }

    /// Does a step of the work that nobody waits for: prepares the next segment, lets go of segments that no group needs, and
    /// copies forward what holds too many back. Call it when nothing is to be committed; `true` means that there is
    /// more to do. After [`Health::Full`] each call tries again.
    ///
    /// # Errors
    ///
    /// [`LogError::Faulted`] if something failed, now or before.
    pub fn maintain(&mut self) -> Result<bool, LogError> {
        self.check()?;
        if self.in_flight.is_some() {
            return Ok(true);
        }
        let more = self.maintain_segments()?;
        Ok(self.spares.prepare()? || more)
    }

    fn maintain_segments(&mut self) -> Result<bool, LogError> {
        if let Some(name) = self.leftovers.pop() {
            self.spares.remove(&name)?;
            return Ok(true);
        }
        let unneeded = {
            let mut state = self.shared.state();
            let oldest = state.files.first_key_value().map(|(&segment, _)| segment);
            let unneeded = oldest.filter(|&segment| u64::from(segment) < self.recorded_oldest);
            if let Some(segment) = unneeded {
                state.files.remove(&segment);
            }
            unneeded
        };
        if let Some(segment) = unneeded {
            self.spares.recycle(&segment_name(segment))?;
            return Ok(true);
        }
        self.oldest = self.oldest_needed(false);
        if !self.pending.is_empty() {
            return Ok(false);
        }
        if self.oldest > self.recorded_oldest {
            // An empty block tells that older segments are not needed.
            return self.commit_items(&[]);
        }
        let pinned = (u64::from(self.active.segment) - self.oldest) * self.config.segment_bytes;
        if pinned > self.config.pinned_bytes_max {
            return self.copy_forward();
        }
        Ok(false)
    }

    /// Copies some of what is needed of the oldest segment to the end of the log, if that is little; `false` if it is
    /// much, so that copying would only move it around.
    fn copy_forward(&mut self) -> Result<bool, LogError> {
        let segment = u32::try_from(self.oldest).expect("segments are numbered so");
        let (live, indexes) = self.needed_of(segment);
        if self.dense.is_some_and(|(dense, before)| dense == segment && live > before / 2) {
            return Ok(false);
        }
        let max = COPY_BYTES.min(self.config.block_bytes_max);
        let (mut items, mut bytes, mut copied) = (Vec::new(), 0, 0);
        for (group, index) in indexes {
            let records = self.records_of(group, index)?;
            let size = records.iter().map(record_bytes).sum::<usize>() + 64;
            if bytes + size > max.min(self.record_bytes_max()) {
                break;
            }
            bytes += size;
            copied += records.len();
            items.push((group, Item::Renew { index }));
            items.extend(records.into_iter().map(|record| (group, Item::Record(record))));
        }
        let all = bytes as u64 * live / (copied as u64).max(1);
        if copied == 0 || all > self.config.segment_bytes / 4 {
            self.dense = Some((segment, live));
            return Ok(false);
        }
        self.commit_items(&items)
    }

    /// How many records of a segment are needed, and some of the indexes they are at.
    fn needed_of(&self, segment: u32) -> (u64, Vec<(Group, Index)>) {
        let state = self.shared.state();
        let live = state.groups.values().map(|log| log.live_in(segment)).sum();
        let mut indexes = Vec::new();
        for (&group, log) in &state.groups {
            let room = COPY_INDEXES - indexes.len();
            indexes.extend(log.indexes_in(segment, room).into_iter().map(|index| (group, index)));
        }
        (live, indexes)
    }

    /// All that is known of an index, in an order that leads to the same again.
    fn records_of(&self, group: Group, index: Index) -> Result<Vec<Record>, LogError> {
        let (puts, decide, notes) = {
            let state = self.shared.state();
            let log = &state.groups[&group];
            let (puts, decide) = log.records(index);
            (puts, decide, log.notes_at(index).cloned().collect::<Vec<_>>())
        };
        let reader = self.reader();
        let mut records = Vec::new();
        for loc in puts.into_iter().chain(decide) {
            let record = reader.record(group, loc, &mut None);
            records.push(record.map_err(|error| self.shared.fault(&error.to_string()))?);
        }
        records.extend(notes.into_iter().map(|note| Record::Note { index, note }));
        Ok(records)
    }

    /// Writes records of the log itself, and makes them durable; `false` if there is no room.
    fn commit_items(&mut self, items: &[(Group, Item)]) -> Result<bool, LogError> {
        let bytes: usize = items
            .iter()
            .map(|(_, item)| match item {
                Item::Record(record) => record_bytes(record),
                Item::Head { .. } | Item::Renew { .. } => 64,
            })
            .sum();
        let leaves = if items.is_empty() { SECTOR as u64 } else { DATA_LEAVES };
        match self.make_room(BLOCK_HEADER + bytes, leaves) {
            Err(LogError::Full) => return Ok(false),
            made => made?,
        }
        self.begin_block(BLOCK_HEADER + bytes);
        let mut locs = Vec::with_capacity(items.len());
        for (group, item) in items {
            locs.push(self.builder.item(*group, item));
        }
        self.write_block(BlockKind::Data, Vec::new(), 0)?;
        let block = self.sync_block()?.expect("it was just written");
        let mut state = self.shared.state();
        for ((group, item), loc) in items.iter().zip(locs) {
            let log = state.groups.get_mut(group).expect("it is of a group that is known");
            log.apply_item(item, loc);
        }
        state.durable_lsn = block.header.lsn;
        state.cache.push(self.active.segment, block.header.offset, Bytes::from(block.bytes));
        Ok(true)
    }

    /// Makes everything durable, and the end of the log known as its end, so that damage there cannot be taken for a torn
    /// write. Nothing can be submitted after it. Gives what became durable, as [`commit`](Self::commit) does.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit). A log that is dropped without this is found again, too.
    pub fn close(&mut self) -> Result<Vec<(Group, Seq)>, LogError> {
        self.check()?;
        let mut durable: BTreeMap<Group, Seq> = BTreeMap::new();
        while self.in_flight.is_some() || !self.pending.is_empty() {
            durable.extend(self.commit()?);
        }
        if !self.ends_closed {
            // Every other block leaves room for this one.
            self.begin_block(BLOCK_HEADER);
            self.write_block(BlockKind::Close, Vec::new(), 0)?;
            self.sync_block()?;
            self.shared.state().durable_lsn = self.next_lsn - 1;
        }
        self.closed = true;
        Ok(durable.into_iter().collect())
    }

    fn check(&self) -> Result<(), LogError> {
        if self.read_only {
            return Err(LogError::ReadOnly);
        }
        if self.closed {
            return Err(LogError::Closed);
        }
        self.shared.check()
    }
}

/// A fault while a log is created is an error of its creation: nothing has been promised yet.
fn as_opening(error: LogError) -> LogError {
    match error {
        LogError::Full => LogError::Io {
            what: "create its first segment".to_owned(),
            source: Arc::new(std::io::ErrorKind::StorageFull.into()),
        },
        other => other,
    }
}

/// Puts a spare into use as the segment with this number.
fn activate(
    disk: &dyn Disk,
    shared: &Shared,
    spares: &Spares,
    config: &LogConfig,
    segment: u32,
    (first_lsn, chain): (u64, u32),
) -> Result<Active, LogError> {
    let spare = spares.take()?;
    let header = SegmentHeader {
        store: shared.store,
        segment: u64::from(segment),
        first_lsn,
        chain,
        segment_bytes: config.segment_bytes,
    };
    let begin = || {
        let file = disk.open(&spare, OpenMode::Write)?;
        file.write_at(0, &header.encode())?;
        file.sync()?;
        disk.rename(&spare, &segment_name(segment))?;
        disk.sync_dir(LOG_DIR)?;
        Ok(file)
    };
    let file = begin().map_err(|error: std::io::Error| {
        shared.fault(&format!("begin segment {segment}: {error}"))
    })?;
    let file: Arc<dyn DiskFile> = Arc::from(file);
    shared.state().files.insert(segment, Arc::clone(&file));
    Ok(Active { segment, file, bytes: config.segment_bytes, end: SECTOR as u64 })
}
