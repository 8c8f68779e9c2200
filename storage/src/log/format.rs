//! The bytes of a segment.
//!
//! ```text
//! segment   header | block | block | ... | zeros, or what an earlier use of the file left
//! header    512 bytes: magic, version, features, store, segment, first lsn, chain, ... , crc
//! block     one commit, from a sector boundary on: header | run | run | ... | zeros up to the boundary
//!           header: magic, kind, length, records, offset, crc of the runs' headers, lsn, oldest, chain, crc
//! run       length, crc | record | record | ...        as many records as fill 4 KiB, at least one
//! record    kind, small lengths, group, length | ...
//! ```
//!
//! Every checksum starts from a seed made of the store's id and the segment's number, so that what an earlier use of
//! the file left is never valid. A block names its own offset, so that a misdirected write is not valid either. The
//! chain is the checksum of the block before, across segments. Integers are little-endian. A block is one commit: all
//! of it counts or nothing. An entry can be read alone with its run, which has its own checksum.

use bytes::Bytes;
use crc32fast::Hasher;

use crate::{Body, Entry, Group, Index, Record, Tag};

/// The format that this version writes, and the newest it reads.
pub(crate) const VERSION: u32 = 1;
pub(super) const SECTOR: usize = 512;
pub(super) const MIN_SEGMENT_BYTES: u64 = 16 << 10;
pub(super) const SEGMENT_BYTES_MAX: u64 = 1 << 30;
pub(super) const BLOCK_HEADER: usize = 48;
pub(super) const RUN_HEADER: usize = 8;
pub(super) const RECORD_HEADER: usize = 12;
const RUN_BYTES: usize = 4096;
const SEGMENT_MAGIC: [u8; 8] = *b"quorlog\0";
const BLOCK_MAGIC: u32 = 0x6b6c_7271;

/// Where the checksums of a segment start.
pub(super) fn seed(store: &[u8; 16], segment: u64) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(store);
    hasher.update(&segment.to_le_bytes());
    hasher.finalize()
}

fn crc(seed: u32, parts: &[&[u8]]) -> u32 {
    let mut hasher = Hasher::new_with_initial(seed);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The first sector of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) store: [u8; 16],
    pub(super) segment: u64,
    pub(super) first_lsn: u64,
    pub(super) chain: u32,
    pub(super) segment_bytes: u64,
}

/// Why a sector is not the header of a segment that we can read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    Damaged,
    Newer { version: u32, features: u32 },
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SECTOR] {
        let mut bytes = [0; SECTOR];
        bytes[..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        // 12..16: features that a reader has to know; 16..20: features that it may ignore. There are none yet.
        bytes[24..40].copy_from_slice(&self.store);
        bytes[40..48].copy_from_slice(&self.segment.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.first_lsn.to_le_bytes());
        bytes[56..60].copy_from_slice(&self.chain.to_le_bytes());
        bytes[60..68].copy_from_slice(&self.segment_bytes.to_le_bytes());
        let crc = crc(0, &[&bytes[..SECTOR - 4]]);
        bytes[SECTOR - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; SECTOR]) -> Result<Self, HeaderError> {
        if bytes[..8] != SEGMENT_MAGIC
            || crc(0, &[&bytes[..SECTOR - 4]]) != u32_at(bytes, SECTOR - 4)
        {
            return Err(HeaderError::Damaged);
        }
        let (version, features) = (u32_at(bytes, 8), u32_at(bytes, 12));
        if version != VERSION || features != 0 {
            return Err(HeaderError::Newer { version, features });
        }
        Ok(Self {
            store: bytes[24..40].try_into().expect("sixteen bytes"),
            segment: u64_at(bytes, 40),
            first_lsn: u64_at(bytes, 48),
            chain: u32_at(bytes, 56),
            segment_bytes: u64_at(bytes, 60),
        })
    }
}

/// What a block is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockKind {
    /// A commit.
    Data = 1,
    /// The state of every group at the beginning of a segment.
    Head = 2,
    /// The end of a log that was closed: all before it was durable.
    Close = 3,
}

/// The head of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BlockHeader {
    pub(super) kind: BlockKind,
    /// Bytes of the runs.
    pub(super) len: u32,
    pub(super) records: u32,
    /// Where in the segment the block begins.
    pub(super) offset: u32,
    /// Checksum of the headers of the runs, which in turn hold checksums of their records.
    pub(super) runs_crc: u32,
    pub(super) lsn: u64,
    /// The oldest segment that was needed when this was written. Older ones may be missing.
    pub(super) oldest: u64,
    /// Checksum of the block before.
    pub(super) chain: u32,
    /// Its own checksum, the chain of the next.
    pub(super) crc: u32,
}

impl BlockHeader {
    /// Writes it over the first bytes, and sets its own checksum.
    pub(super) fn encode(&mut self, seed: u32, bytes: &mut [u8]) {
        bytes[..4].copy_from_slice(&BLOCK_MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&(self.kind as u32).to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.records.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.offset.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.runs_crc.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.lsn.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.oldest.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.chain.to_le_bytes());
        self.crc = crc(seed, &[&bytes[..44]]);
        bytes[44..48].copy_from_slice(&self.crc.to_le_bytes());
    }

    /// The header at `offset`, if these bytes are one.
    pub(super) fn decode(seed: u32, offset: u64, bytes: &[u8]) -> Option<Self> {
        if bytes.len() < BLOCK_HEADER
            || u32_at(bytes, 0) != BLOCK_MAGIC
            || u64::from(u32_at(bytes, 16)) != offset
            || crc(seed, &[&bytes[..44]]) != u32_at(bytes, 44)
        {
            return None;
        }
        let kind = match u32_at(bytes, 4) {
            1 => BlockKind::Data,
            2 => BlockKind::Head,
            3 => BlockKind::Close,
            _ => return None,
        };
        Some(Self {
            kind,
            len: u32_at(bytes, 8),
            records: u32_at(bytes, 12),
            offset: u32_at(bytes, 16),
            runs_crc: u32_at(bytes, 20),
            lsn: u64_at(bytes, 24),
            oldest: u64_at(bytes, 32),
            chain: u32_at(bytes, 40),
            crc: u32_at(bytes, 44),
        })
    }

    /// Bytes of the whole block with its padding.
    pub(super) fn block_bytes(&self) -> u64 {
        (BLOCK_HEADER as u64 + u64::from(self.len)).next_multiple_of(SECTOR as u64)
    }
}

/// Where a record is: its run in a segment, and its place in the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Loc {
    /// Number of the segment; 0 is none.
    pub(super) segment: u32,
    /// Where the run begins in the segment.
    pub(super) run: u32,
    /// Where the record begins after the run's header.
    pub(super) at: u32,
}

impl Loc {
    pub(super) const NONE: Self = Self { segment: 0, run: 0, at: 0 };

    pub(super) fn is_none(self) -> bool {
        self.segment == 0
    }
}

/// What a record says: of an engine, or of the log itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// Of an engine.
    Record(Record),
    /// How a group stood when a segment began; notes of undecided indexes follow.
    Head { first: Index, reset: Option<(Index, Bytes)>, state: Option<Bytes> },
    /// What is known of an index comes anew after this, copied forward from an old segment.
    Renew { index: Index },
}

/// Builds a block in memory that is used again.
#[derive(Debug, Default)]
pub(super) struct BlockBuilder {
    bytes: Vec<u8>,
    seed: u32,
    segment: u32,
    offset: u32,
    run: usize,
    records: u32,
    runs: Option<Hasher>,
}

impl BlockBuilder {
    /// Begins a block in `bytes`, which is cleared.
    pub(super) fn begin(&mut self, mut bytes: Vec<u8>, seed: u32, segment: u32, offset: u32) {
        bytes.clear();
        bytes.resize(BLOCK_HEADER, 0);
        *self = Self {
            bytes,
            seed,
            segment,
            offset,
            run: 0,
            records: 0,
            runs: Some(Hasher::new_with_initial(seed)),
        };
    }

    pub(super) fn record(&mut self, group: Group, record: &Record) -> Loc {
        let loc = self.start();
        put_record(&mut self.bytes, group, record);
        self.end();
        loc
    }

    pub(super) fn item(&mut self, group: Group, item: &Item) -> Loc {
        let loc = self.start();
        match item {
            Item::Record(record) => put_record(&mut self.bytes, group, record),
            Item::Head { first, reset, state } => {
                let (flags, index, mark) = match reset {
                    Some((index, mark)) => (1, *index, &mark[..]),
                    None => (0, 0, &[][..]),
                };
                let flags = flags | if state.is_some() { 2 } else { 0 };
                let state = state.as_deref().unwrap_or_default();
                let len = 20 + mark.len() + state.len();
                put_header(&mut self.bytes, KIND_HEAD, 0, flags, group, len);
                self.bytes.extend_from_slice(&first.to_le_bytes());
                self.bytes.extend_from_slice(&index.to_le_bytes());
                self.bytes.extend_from_slice(&(mark.len() as u32).to_le_bytes());
                self.bytes.extend_from_slice(mark);
                self.bytes.extend_from_slice(state);
            }
            Item::Renew { index } => {
                put_header(&mut self.bytes, KIND_RENEW, 0, 0, group, 8);
                self.bytes.extend_from_slice(&index.to_le_bytes());
            }
        }
        self.end();
        loc
    }

    /// Opens a run if none is open; the place of the next record.
    fn start(&mut self) -> Loc {
        if self.run == 0 {
            self.run = self.bytes.len();
            self.bytes.extend_from_slice(&[0; RUN_HEADER]);
        }
        self.records += 1;
        Loc {
            segment: self.segment,
            run: self.offset + self.run as u32,
            at: (self.bytes.len() - self.run - RUN_HEADER) as u32,
        }
    }

    /// Closes the run if it is long enough.
    fn end(&mut self) {
        if self.bytes.len() - self.run >= RUN_BYTES {
            self.close_run();
        }
    }

    fn close_run(&mut self) {
        let body = self.run + RUN_HEADER;
        let head = run_head(self.seed, &self.bytes[body..]);
        self.bytes[self.run..body].copy_from_slice(&head);
        self.runs.as_mut().expect("a block has begun").update(&head);
        self.run = 0;
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Ends the block: its header, and its bytes with the padding.
    pub(super) fn finish(
        &mut self,
        kind: BlockKind,
        lsn: u64,
        oldest: u64,
        chain: u32,
    ) -> (BlockHeader, Vec<u8>) {
        if self.run != 0 {
            self.close_run();
        }
        let runs_crc = self.runs.take().expect("a block has begun").finalize();
        let mut header = BlockHeader {
            kind,
            len: (self.bytes.len() - BLOCK_HEADER) as u32,
            records: self.records,
            offset: self.offset,
            runs_crc,
            lsn,
            oldest,
            chain,
            crc: 0,
        };
        self.bytes.resize(self.bytes.len().next_multiple_of(SECTOR), 0);
        header.encode(self.seed, &mut self.bytes);
        (header, std::mem::take(&mut self.bytes))
    }
}

const KIND_PUT: u8 = 1;
const KIND_CUT: u8 = 2;
const KIND_DECIDE: u8 = 3;
const KIND_STATE: u8 = 4;
const KIND_NOTE: u8 = 5;
const KIND_RESET: u8 = 6;
const KIND_TRIM: u8 = 7;
const KIND_HEAD: u8 = 8;
const KIND_RENEW: u8 = 9;

fn put_header(bytes: &mut Vec<u8>, kind: u8, tag: u8, flags: u8, group: Group, len: usize) {
    let mut header = [kind, tag, flags, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&group.number().to_le_bytes());
    header[8..12].copy_from_slice(&(len as u32).to_le_bytes());
    bytes.extend_from_slice(&header);
}

/// Tags end in zeros with every engine but the voting one, so those are left out.
fn short_tag(tag: &Tag) -> &[u8] {
    if tag.0 == [0; 32] {
        return &[];
    }
    let len = tag.0.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1);
    &tag.0[..len]
}

fn put_record(bytes: &mut Vec<u8>, group: Group, record: &Record) {
    match record {
        Record::Put(entry) => {
            let tag = short_tag(&entry.tag);
            let (kind, body) = match &entry.body {
                Body::Empty => (0, &[][..]),
                Body::Frames(body) => (1, &body[..]),
                Body::Members(body) => (2, &body[..]),
            };
            let len = 12 + tag.len() + entry.head.len() + body.len();
            let mut fixed = [0; RECORD_HEADER + 12];
            fixed[0] = KIND_PUT;
            fixed[1] = tag.len() as u8;
            fixed[2] = kind;
            fixed[4..8].copy_from_slice(&group.number().to_le_bytes());
            fixed[8..12].copy_from_slice(&(len as u32).to_le_bytes());
            fixed[12..20].copy_from_slice(&entry.index.to_le_bytes());
            fixed[20..24].copy_from_slice(&(entry.head.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&fixed);
            for part in [tag, &entry.head, body] {
                if !part.is_empty() {
                    bytes.extend_from_slice(part);
                }
            }
        }
        Record::Cut { from } => {
            put_header(bytes, KIND_CUT, 0, 0, group, 8);
            bytes.extend_from_slice(&from.to_le_bytes());
        }
        Record::Decide { index, tag, proof } => {
            let tag = short_tag(tag);
            let len = 8 + tag.len() + proof.len();
            put_header(bytes, KIND_DECIDE, tag.len() as u8, 0, group, len);
            bytes.extend_from_slice(&index.to_le_bytes());
            bytes.extend_from_slice(tag);
            bytes.extend_from_slice(proof);
        }
        Record::State(state) => {
            put_header(bytes, KIND_STATE, 0, 0, group, state.len());
            bytes.extend_from_slice(state);
        }
        Record::Note { index, note } => {
            put_header(bytes, KIND_NOTE, 0, 0, group, 8 + note.len());
            bytes.extend_from_slice(&index.to_le_bytes());
            bytes.extend_from_slice(note);
        }
        Record::Reset { index, mark } => {
            put_header(bytes, KIND_RESET, 0, 0, group, 8 + mark.len());
            bytes.extend_from_slice(&index.to_le_bytes());
            bytes.extend_from_slice(mark);
        }
        Record::Trim { below } => {
            put_header(bytes, KIND_TRIM, 0, 0, group, 8);
            bytes.extend_from_slice(&below.to_le_bytes());
        }
    }
}

/// At most how many bytes a record takes in a block, its share of runs included.
pub(super) fn record_bytes(record: &Record) -> usize {
    let body = match record {
        Record::Put(entry) => {
            let body = match &entry.body {
                Body::Empty => 0,
                Body::Frames(body) | Body::Members(body) => body.len(),
            };
            12 + 32 + entry.head.len() + body
        }
        Record::Decide { proof, .. } => 8 + 32 + proof.len(),
        Record::State(state) => state.len(),
        Record::Note { note, .. } => 8 + note.len(),
        Record::Reset { mark, .. } => 8 + mark.len(),
        Record::Cut { .. } | Record::Trim { .. } => 8,
    };
    RUN_HEADER + RECORD_HEADER + body
}

/// Checks the headers of a block's runs, and the runs themselves. `payload` is what follows the block's header.
pub(super) fn check_runs(seed: u32, header: &BlockHeader, payload: &[u8]) -> bool {
    let mut hasher = Hasher::new_with_initial(seed);
    let mut rest = payload;
    while !rest.is_empty() {
        let Some(run) = run_at(seed, rest) else { return false };
        hasher.update(&rest[..RUN_HEADER]);
        rest = &rest[RUN_HEADER + run.len()..];
    }
    hasher.finalize() == header.runs_crc
}

/// The records of the run at the beginning of these bytes, if it is whole and its checksum is right.
pub(super) fn run_at(seed: u32, bytes: &[u8]) -> Option<&[u8]> {
    if bytes.len() < RUN_HEADER {
        return None;
    }
    let (header, rest) = bytes.split_at(RUN_HEADER);
    let body = rest.get(..u32_at(header, 0) as usize)?;
    (crc(seed, &[&header[..4], body]) == u32_at(header, 4)).then_some(body)
}

/// The header of a run of these records.
fn run_head(seed: u32, records: &[u8]) -> [u8; RUN_HEADER] {
    let mut head = [0; RUN_HEADER];
    head[..4].copy_from_slice(&(records.len() as u32).to_le_bytes());
    let crc = crc(seed, &[&head[..4], records]);
    head[4..].copy_from_slice(&crc.to_le_bytes());
    head
}

/// The header of a run of these records, and the checksum for a block that has no other run.
pub(super) fn run_seal(seed: u32, records: &[u8]) -> ([u8; RUN_HEADER], u32) {
    let head = run_head(seed, records);
    (head, crc(seed, &[&head]))
}

/// Bytes of records in a run with this header.
pub(super) fn run_len(header: &[u8; RUN_HEADER]) -> usize {
    u32_at(header, 0) as usize
}

/// What is read of a record before it is decoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordHeader {
    pub(super) group: Group,
    /// Index and tag, if the record is an entry.
    pub(super) put: Option<(Index, Tag)>,
}

/// Walks the records of a checked run.
#[derive(Debug)]
pub(super) struct Records {
    run: Bytes,
    at: usize,
}

impl Records {
    pub(super) fn new(run: Bytes, at: usize) -> Self {
        Self { run, at }
    }

    /// Where the next record is, and its header; `None` at the end of the run, or if the next record is not whole, which
    /// decoding it will tell.
    pub(super) fn peek(&self) -> Option<(u32, RecordHeader)> {
        let rest = self.run.get(self.at..)?;
        let (header, body) = rest.split_at_checked(RECORD_HEADER)?;
        let (kind, tag_len) = (header[0], header[1] as usize);
        let group = Group::new(u32_at(header, 4));
        let body = body.get(..u32_at(header, 8) as usize)?;
        let put = (kind == KIND_PUT).then(|| put_header_of(body, tag_len, header[2])).flatten();
        Some((self.at as u32, RecordHeader { group, put }))
    }

    /// Goes on behind the record that was just seen.
    pub(super) fn skip_seen(&mut self) {
        self.at += RECORD_HEADER + u32_at(&self.run, self.at + 8) as usize;
    }
}

/// Index and tag of an entry that [`decode`] takes.
fn put_header_of(body: &[u8], tag_len: usize, flags: u8) -> Option<(Index, Tag)> {
    if body.len() < 12 + tag_len || tag_len > 32 || flags > 2 {
        return None;
    }
    if body.len() - 12 - tag_len < u32_at(body, 8) as usize {
        return None;
    }
    let mut tag = Tag::ZERO;
    tag.0[..tag_len].copy_from_slice(&body[12..12 + tag_len]);
    Some((u64_at(body, 0), tag))
}

impl Iterator for Records {
    /// The place in the run, whose, and what; or what is wrong.
    type Item = Result<(u32, Group, Item), &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.run.get(self.at..)?;
        if rest.is_empty() {
            return None;
        }
        if rest.len() < RECORD_HEADER {
            return Some(Err("a record ends in its header"));
        }
        let (kind, tag, flags) = (rest[0], rest[1] as usize, rest[2]);
        let group = Group::new(u32_at(rest, 4));
        let len = u32_at(rest, 8) as usize;
        if rest.len() - RECORD_HEADER < len {
            return Some(Err("a record is longer than its run"));
        }
        let at = self.at;
        let from = at + RECORD_HEADER;
        self.at = from + len;
        let item = decode(&self.run, from, from + len, kind, tag, flags);
        Some(item.map(|item| (at as u32, group, item)))
    }
}

fn decode(
    run: &Bytes,
    from: usize,
    to: usize,
    kind: u8,
    tag_len: usize,
    flags: u8,
) -> Result<Item, &'static str> {
    let len = to - from;
    let index = || u64_at(run, from);
    let slice = |a: usize, b: usize| if a == b { Bytes::new() } else { run.slice(a..b) };
    let need = |least: usize| {
        if len < least || tag_len > 32 { Err("a record is too short for its kind") } else { Ok(()) }
    };
    let tag = |at: usize| {
        let mut tag = [0; 32];
        tag[..tag_len].copy_from_slice(&run[at..at + tag_len]);
        Tag(tag)
    };
    let record = match kind {
        KIND_PUT => {
            need(12 + tag_len)?;
            let head_len = u32_at(run, from + 8) as usize;
            let head = from + 12 + tag_len;
            if to - head < head_len {
                return Err("the head of an entry is longer than its record");
            }
            let body = slice(head + head_len, to);
            let body = match flags {
                0 => Body::Empty,
                1 => Body::Frames(body),
                2 => Body::Members(body),
                _ => return Err("an entry has an unknown kind of body"),
            };
            let head = slice(head, head + head_len);
            Record::Put(Entry { index: index(), tag: tag(from + 12), head, body })
        }
        KIND_CUT => {
            need(8)?;
            Record::Cut { from: index() }
        }
        KIND_DECIDE => {
            need(8 + tag_len)?;
            let proof = slice(from + 8 + tag_len, to);
            Record::Decide { index: index(), tag: tag(from + 8), proof }
        }
        KIND_STATE => Record::State(slice(from, to)),
        KIND_NOTE => {
            need(8)?;
            Record::Note { index: index(), note: slice(from + 8, to) }
        }
        KIND_RESET => {
            need(8)?;
            Record::Reset { index: index(), mark: slice(from + 8, to) }
        }
        KIND_TRIM => {
            need(8)?;
            Record::Trim { below: index() }
        }
        KIND_HEAD => {
            need(20)?;
            let mark = u32_at(run, from + 16) as usize;
            if len - 20 < mark {
                return Err("the mark of a reset is longer than its record");
            }
            let reset = (flags & 1 != 0)
                .then(|| (u64_at(run, from + 8), slice(from + 20, from + 20 + mark)));
            let state = (flags & 2 != 0).then(|| slice(from + 20 + mark, to));
            return Ok(Item::Head { first: index(), reset, state });
        }
        KIND_RENEW => {
            need(8)?;
            return Ok(Item::Renew { index: index() });
        }
        _ => return Err("a record has an unknown kind"),
    };
    Ok(Item::Record(record))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn must_03_a_block_is_valid_only_in_its_store_its_segment_and_its_place() {
        let store = [7; 16];
        let mut builder = BlockBuilder::default();
        builder.begin(Vec::new(), seed(&store, 3), 3, 1024);
        builder.record(Group::new(1), &Record::State(Bytes::from_static(b"state")));
        let (header, bytes) = builder.finish(BlockKind::Data, 9, 3, 5);
        let payload = &bytes[BLOCK_HEADER..BLOCK_HEADER + header.len as usize];
        assert_eq!(BlockHeader::decode(seed(&store, 3), 1024, &bytes), Some(header.clone()));
        assert!(check_runs(seed(&store, 3), &header, payload));
        for (store, segment, offset) in [([8; 16], 3, 1024), (store, 4, 1024), (store, 3, 1536)] {
            assert_eq!(BlockHeader::decode(seed(&store, segment), offset, &bytes), None);
            let same = (store, segment) == ([7; 16], 3);
            assert_eq!(check_runs(seed(&store, segment), &header, payload), same);
        }
    }
}
