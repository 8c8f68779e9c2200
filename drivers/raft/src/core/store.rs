//! The log as the core reads it: the newest entries in memory, older ones fetched, and of all of them the term.
//!
//! ```text
//!    base        first                ring                    last
//!      |  trimmed  |   fetched on demand  |  in memory          |
//!      +-----------+----------------------+---------------------+
//!                  '------------ terms are known ---------------'
//! ```

use std::cell::RefCell;
use std::collections::VecDeque;

use quorate_storage::Index;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::storage::GetEntriesContext;
use raft::{Error, RaftState, Storage, StorageError};

/// What an entry costs in memory beside its body.
const ENTRY_BYTES: u64 = 96;

/// The log is weighed in pieces of this many bytes.
const PIECE_BYTES: u64 = 256 << 10;

#[derive(Debug)]
pub(super) struct Store {
    initial: RaftState,
    /// The entry before the first one, and its term.
    base: (Index, u64),
    /// Where each term begins, for everything after the base.
    terms: VecDeque<(Index, u64)>,
    last: Index,
    /// The newest entries, without gaps up to the last one, each with the bytes of all entries up to and including it.
    ring: VecDeque<(Entry, u64)>,
    /// The bytes of all entries before the ring.
    before_ring: u64,
    /// How many bytes there were up to and including some of the entries since the base, about one for each piece.
    pieces: VecDeque<(Index, u64)>,
    /// What was fetched for a follower, while it is being sent.
    window: Vec<Entry>,
    /// Entries that the core wants fetched.
    wanted: RefCell<Vec<Wanted>>,
    /// The newest checkpoint: index, term, members.
    checkpoint: Option<(Index, u64, ConfState)>,
}

#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) from: Index,
    pub(super) to: Index,
    pub(super) context: GetEntriesContext,
}

impl Store {
    /// A log after `base`, empty so far.
    pub(super) fn new(base: (Index, u64), hard: HardState, members: ConfState) -> Self {
        let checkpoint = (base.0 > 0).then(|| (base.0, base.1, members.clone()));
        Self {
            initial: RaftState::new(hard, members),
            base,
            terms: VecDeque::new(),
            last: base.0,
            ring: VecDeque::new(),
            before_ring: 0,
            pieces: VecDeque::new(),
            window: Vec::new(),
            wanted: RefCell::default(),
            checkpoint,
        }
    }

    pub(super) const fn first(&self) -> Index {
        self.base.0 + 1
    }

    pub(super) const fn last(&self) -> Index {
        self.last
    }

    fn ring_first(&self) -> Index {
        self.last + 1 - self.ring.len() as u64
    }

    /// The term of the entry at `index`; none if it is before the base or after the last.
    pub(super) fn term_of(&self, index: Index) -> Option<u64> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        if index < self.base.0 || index > self.last {
            return None;
        }
        let after = self.terms.partition_point(|(from, _)| *from <= index);
        self.terms.get(after.checked_sub(1)?).map(|(_, term)| *term)
    }

    /// Adds entries, which replace what stands there and after.
    pub(super) fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first().map(|entry| entry.index) else { return };
        assert!(first > self.base.0 && first <= self.last + 1, "entries follow one another");
        if first <= self.last {
            self.cut(first);
        }
        for entry in entries {
            if self.terms.back().is_none_or(|(_, term)| *term != entry.term) {
                self.terms.push_back((entry.index, entry.term));
            }
            let bytes = self.bytes_total() + ENTRY_BYTES + entry.data.len() as u64;
            self.last = entry.index;
            if self.pieces.back().is_none_or(|(_, before)| bytes - before >= PIECE_BYTES) {
                self.pieces.push_back((entry.index, bytes));
            }
            self.ring.push_back((entry, bytes));
        }
    }

    fn cut(&mut self, from: Index) {
        assert!(from >= self.ring_first(), "what is not durable and applied is in memory");
        let kept = usize::try_from(from - self.ring_first()).expect("it is a place in memory");
        self.ring.truncate(kept);
        self.last = from - 1;
        let kept = self.terms.partition_point(|(at, _)| *at < from);
        self.terms.truncate(kept);
        let kept = self.pieces.partition_point(|(at, _)| *at < from);
        self.pieces.truncate(kept);
    }

    /// The first of the entries that are the last `bytes` of the log, a piece more or less; for no bytes, the one after the
    /// last.
    pub(super) fn first_of_last(&self, bytes: u64) -> Index {
        if bytes == 0 {
            return self.last + 1;
        }
        let total = self.bytes_total();
        let out = self.pieces.partition_point(|(_, up_to)| total - up_to > bytes);
        match out.checked_sub(1) {
            Some(place) => self.pieces[place].0 + 1,
            None => self.first(),
        }
    }

    fn bytes_total(&self) -> u64 {
        self.ring.back().map_or(self.before_ring, |(_, bytes)| *bytes)
    }

    /// The bytes of the entries after `index`, as far as they are in memory.
    pub(super) fn bytes_after(&self, index: Index) -> u64 {
        self.bytes_total() - self.bytes_up_to(index)
    }

    /// The bytes of the entries in memory up to and including `index`, counted from the beginning of this life.
    pub(super) fn bytes_up_to(&self, index: Index) -> u64 {
        let Some(place) = index.checked_sub(self.ring_first()) else { return self.before_ring };
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        self.ring.get(place).map_or_else(|| self.bytes_total(), |(_, bytes)| *bytes)
    }

    /// Drops the oldest entries from memory while they are more than `bytes`, up to and including `settled`.
    pub(super) fn evict(&mut self, bytes: u64, settled: Index) {
        while self.ring_first() <= settled
            && self.bytes_total() - self.before_ring > bytes
            && let Some((_, up_to)) = self.ring.pop_front()
        {
            self.before_ring = up_to;
        }
    }

    /// Keeps in memory what is not settled alone.
    pub(super) fn rest(&mut self, settled: Index) {
        self.evict(0, settled);
        self.ring.shrink_to_fit();
        self.terms.shrink_to_fit();
        self.pieces.shrink_to_fit();
    }

    /// Forgets everything up to and including `index`.
    pub(super) fn trim(&mut self, index: Index) {
        let Some(term) = self.term_of(index) else { return };
        if index <= self.base.0 {
            return;
        }
        while self.ring_first() <= index
            && let Some((_, up_to)) = self.ring.pop_front()
        {
            self.before_ring = up_to;
        }
        self.base = (index, term);
        let gone = self.pieces.partition_point(|(at, _)| *at <= index);
        self.pieces.drain(..gone);
        while self.terms.get(1).is_some_and(|(from, _)| *from <= index + 1) {
            self.terms.pop_front();
        }
    }

    /// Begins anew after a snapshot.
    pub(super) fn reset(&mut self, index: Index, term: u64) {
        self.before_ring = self.bytes_total();
        self.ring.clear();
        self.terms.clear();
        self.pieces.clear();
        self.base = (index, term);
        self.last = index;
    }

    pub(super) fn set_checkpoint(&mut self, index: Index, term: u64, members: ConfState) {
        self.checkpoint = Some((index, term, members));
    }

    pub(super) fn checkpoint(&self) -> Option<Index> {
        self.checkpoint.as_ref().map(|(index, ..)| *index)
    }

    /// What the core asked for since it was asked last.
    pub(super) fn take_wanted(&mut self) -> Vec<Wanted> {
        std::mem::take(self.wanted.get_mut())
    }

    /// Holds fetched entries ready while `send` runs.
    pub(super) fn set_window(&mut self, entries: Vec<Entry>) {
        self.window = entries;
    }
}

fn limited<'e>(entries: impl Iterator<Item = &'e Entry>, max: Option<u64>) -> Vec<Entry> {
    let mut bytes = 0;
    let mut taken = Vec::new();
    for entry in entries {
        bytes += ENTRY_BYTES + entry.data.len() as u64;
        if !taken.is_empty() && max.is_some_and(|max| bytes > max) {
            break;
        }
        taken.push(entry.clone());
    }
    taken
}

impl Storage for Store {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let max = max_size.into();
        if low <= self.base.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        if low >= self.ring_first() {
            let from = usize::try_from(low - self.ring_first()).expect("a place in memory");
            let count = usize::try_from(high - low).expect("a place in memory");
            return Ok(limited(self.ring.iter().skip(from).take(count).map(|(e, _)| e), max));
        }
        let high = high.min(self.ring_first());
        let held = self.window.iter().filter(|entry| (low..high).contains(&entry.index));
        let held = limited(held, max);
        if held.first().is_some_and(|entry| entry.index == low) {
            return Ok(held);
        }
        assert!(context.can_async(), "what is not applied is in memory");
        self.wanted.borrow_mut().push(Wanted { from: low, to: high, context });
        Err(Error::Store(StorageError::LogTemporarilyUnavailable))
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let missing =
            if index < self.base.0 { StorageError::Compacted } else { StorageError::Unavailable };
        self.term_of(index).ok_or(Error::Store(missing))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last)
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let temporarily = Error::Store(StorageError::SnapshotTemporarilyUnavailable);
        let Some((index, term, members)) = &self.checkpoint else { return Err(temporarily) };
        if *index < request_index || *index < self.base.0 {
            return Err(temporarily);
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = *index;
        metadata.term = *term;
        metadata.set_conf_state(members.clone());
        Ok(snapshot)
    }
}
