//! A log that keeps what it promised and nothing else: a durable prefix, and at a crash any part, in order, of the rest.

use std::collections::VecDeque;

use quorate_engine::engine::LogWrite;
use quorate_storage::{Entry, Index, Record, Recovered, Seq, Tag};

/// The log of one node, over all its lives.
#[derive(Debug)]
pub(super) struct LogModel {
    /// The durable records, folded as the real log folds them.
    durable: Recovered,
    /// Written in this life and not durable, in order.
    pending: VecDeque<LogWrite>,
}

impl LogModel {
    pub(super) fn new() -> Self {
        Self { durable: Recovered { first: 1, ..Recovered::default() }, pending: VecDeque::new() }
    }

    pub(super) fn write(&mut self, write: LogWrite) {
        self.pending.push_back(write);
    }

    /// The write up to which a sync that begins now reaches; none if nothing asks for one.
    pub(super) fn wants_sync(&self) -> Option<Seq> {
        let flush = self.pending.iter().any(|write| write.flush);
        self.pending.back().filter(|_| flush).map(|write| write.seq)
    }

    /// Everything up to `seq` is durable.
    pub(super) fn sync(&mut self, seq: Seq) {
        while self.pending.front().is_some_and(|write| write.seq <= seq) {
            self.keep_one();
        }
    }

    /// Power is lost: of what is not durable, the first `kept` writes happen to be on the disk.
    pub(super) fn crash(&mut self, kept: usize) {
        (0..kept.min(self.pending.len())).for_each(|_| self.keep_one());
        self.pending.clear();
    }

    /// How many writes are not durable.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// What an engine finds at open.
    pub(super) fn recovered(&self) -> &Recovered {
        &self.durable
    }

    /// Whether this entry is on stable storage, or was and is not needed any more.
    pub(super) fn holds(&self, index: Index, tag: Tag) -> bool {
        index < self.durable.first || self.place(index, tag).is_some()
    }

    /// Durable entries in order with their proofs, from the first of `range` on: one for each index, the decided one or
    /// else the newest.
    pub(super) fn fetch(&self, range: std::ops::Range<Index>) -> Vec<(Entry, bytes::Bytes)> {
        let mut found = Vec::new();
        for index in range {
            let decided = self.durable.decided.iter().find(|(at, ..)| *at == index);
            let here = self.durable.entries.iter().filter(|entry| entry.index == index);
            let tagged = |entry: &&Entry| decided.is_none_or(|(_, tag, _)| *tag == entry.tag);
            let Some(entry) = here.filter(tagged).last() else { break };
            let proof = decided.map(|(.., proof)| proof.clone()).unwrap_or_default();
            found.push((entry.clone(), proof));
        }
        found
    }

    fn place(&self, index: Index, tag: Tag) -> Option<usize> {
        // Sorted by index: candidates of one index are neighbours.
        let first = self.durable.entries.partition_point(|entry| entry.index < index);
        let here = self.durable.entries[first..].iter().take_while(|entry| entry.index == index);
        here.zip(first..).find(|(entry, _)| entry.tag == tag).map(|(_, place)| place)
    }

    fn decided(&self, index: Index) -> Option<Tag> {
        self.durable.decided.iter().find(|(at, ..)| *at == index).map(|(_, tag, _)| *tag)
    }

    fn keep_one(&mut self) {
        let Some(LogWrite { record, .. }) = self.pending.pop_front() else { return };
        match record {
            Record::Put(entry) => self.put(entry),
            Record::Cut { from } => {
                let decided: Vec<_> = self.durable.decided.iter().map(|(at, ..)| *at).collect();
                let kept = |entry: &Entry| entry.index < from || decided.contains(&entry.index);
                self.durable.entries.retain(kept);
            }
            Record::Decide { index, tag, proof } => {
                if index >= self.durable.first && self.decided(index).is_none_or(|old| old == tag) {
                    self.durable.entries.retain(|entry| entry.index != index || entry.tag == tag);
                    self.durable.decided.retain(|(at, ..)| *at != index);
                    let place = self.durable.decided.partition_point(|(at, ..)| *at < index);
                    self.durable.decided.insert(place, (index, tag, proof));
                }
            }
            Record::State(state) => self.durable.state = Some(state),
            Record::Note { index, note } => {
                if index >= self.durable.first {
                    let place = self.durable.notes.partition_point(|(at, _)| *at <= index);
                    self.durable.notes.insert(place, (index, note));
                }
            }
            Record::Reset { index, mark } => {
                let state = self.durable.state.take();
                let (first, reset) = (index + 1, Some((index, mark)));
                self.durable = Recovered { first, reset, state, ..Recovered::default() };
            }
            Record::Trim { below } => {
                let first = self.durable.first.max(below);
                self.durable.first = first;
                self.durable.entries.retain(|entry| entry.index >= first);
                self.durable.decided.retain(|(at, ..)| *at >= first);
                self.durable.notes.retain(|(at, _)| *at >= first);
            }
        }
    }

    fn put(&mut self, entry: Entry) {
        let void = self.decided(entry.index).is_some_and(|tag| tag != entry.tag);
        if entry.index < self.durable.first || void {
            return;
        }
        match self.place(entry.index, entry.tag) {
            Some(place) => self.durable.entries[place] = entry,
            None => {
                let at = |other: &Entry| other.index <= entry.index;
                let place = self.durable.entries.partition_point(at);
                self.durable.entries.insert(place, entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use quorate_storage::Body;

    use super::*;

    fn put(index: Index, tag: u8) -> Record {
        let tag = Tag([tag; 32]);
        Record::Put(Entry { index, tag, head: Bytes::new(), body: Body::Empty })
    }

    fn log(records: Vec<Record>) -> LogModel {
        let mut log = LogModel::new();
        for (seq, record) in (1..).zip(records) {
            log.write(LogWrite { seq, flush: true, record });
        }
        log
    }

    #[test]
    fn a_crash_keeps_the_prefix_and_a_part_of_the_rest() {
        let mut log = log(vec![put(1, 0), put(2, 0), put(3, 0)]);
        log.sync(1);
        log.crash(1);
        assert!(log.holds(1, Tag::ZERO) && log.holds(2, Tag::ZERO) && !log.holds(3, Tag::ZERO));
        assert_eq!(log.pending(), 0);
    }

    #[test]
    fn records_fold_as_they_say() {
        let decide = Record::Decide { index: 2, tag: Tag([1; 32]), proof: Bytes::new() };
        let records = vec![put(1, 0), put(2, 0), put(2, 1), decide, put(3, 0), put(4, 0)];
        let mut log = log(records);
        log.write(LogWrite { seq: 7, flush: true, record: Record::Cut { from: 2 } });
        log.sync(7);
        // The decided candidate stays; what else stood there, and what was undecided above, is void.
        let left: Vec<_> = log.recovered().entries.iter().map(|e| (e.index, e.tag.0[0])).collect();
        assert_eq!(left, [(1, 0), (2, 1)]);
        assert_eq!(log.fetch(1..9).len(), 2);
        log.write(LogWrite { seq: 8, flush: true, record: Record::Trim { below: 2 } });
        log.sync(8);
        assert_eq!((log.recovered().first, log.recovered().entries.len()), (2, 1));
        let mark = Bytes::from_static(b"mark");
        log.write(LogWrite { seq: 9, flush: true, record: Record::Reset { index: 9, mark } });
        log.sync(9);
        assert_eq!((log.recovered().first, log.recovered().entries.len()), (10, 0));
    }
}
