//! Which entries a node's log holds, and which of them are durable.

use std::collections::{BTreeMap, VecDeque};

use quorate_engine::engine::LogWrite;
use quorate_storage::{Index, Record, Recovered, Seq, Tag};

/// Which entries a node's log holds. Everything up to the floor was decided and is in its checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    floor: Index,
    durable: BTreeMap<Index, Tag>,
    /// Written, not yet durable.
    pending: VecDeque<(Seq, Change)>,
    /// The index of the last snapshot after which the log began anew in this life.
    reset: Option<Index>,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Put(Index, Tag),
    Cut(Index),
    Reset(Index),
    Trim(Index),
}

impl Copies {
    /// What was found on the disk.
    pub(crate) fn recovered(floor: Index, log: &Recovered) -> Self {
        let durable = log.entries.iter().map(|entry| (entry.index, entry.tag)).collect();
        let floor = floor.max(log.first.saturating_sub(1));
        Self { floor, durable, pending: VecDeque::new(), reset: None }
    }

    pub(crate) fn written(&mut self, writes: &[LogWrite]) {
        for LogWrite { seq, record, .. } in writes {
            let change = match record {
                Record::Put(entry) => Change::Put(entry.index, entry.tag),
                Record::Cut { from } => Change::Cut(*from),
                Record::Reset { index, .. } => {
                    self.reset = Some(*index);
                    Change::Reset(*index)
                }
                Record::Trim { below } => Change::Trim(*below),
                Record::Decide { .. } | Record::State(_) | Record::Note { .. } => continue,
            };
            self.pending.push_back((*seq, change));
        }
    }

    pub(crate) fn durable(&mut self, seq: Seq) {
        while let Some((_, change)) = self.pending.pop_front_if(|(at, _)| *at <= seq) {
            match change {
                Change::Put(index, tag) => drop(self.durable.insert(index, tag)),
                Change::Cut(from) => drop(self.durable.split_off(&from)),
                Change::Reset(index) => {
                    self.durable.clear();
                    self.floor = index;
                }
                Change::Trim(below) => {
                    self.durable = self.durable.split_off(&below);
                    self.floor = self.floor.max(below.saturating_sub(1));
                }
            }
        }
    }

    /// The first entry that was here for good when a process ended, and is not in what the next one found; none if it has all.
    /// What was on its way to the disk may have come as far as its own place.
    pub(crate) fn lost_in(&self, found: &Self) -> Option<Index> {
        let mut until = Index::MAX;
        for (_, change) in &self.pending {
            match change {
                Change::Put(index, _) => until = until.min(*index),
                Change::Cut(from) => until = until.min(*from),
                Change::Reset(_) => return None,
                Change::Trim(_) => {}
            }
        }
        let durable = self.durable.range(..until);
        durable.map(|(index, tag)| (*index, *tag)).find(|it| !found.has(it.0, it.1)).map(|it| it.0)
    }

    /// This, once everything that is on its way to the disk is there.
    pub(crate) fn written_out(&self) -> Self {
        let mut copies = Self {
            floor: self.floor,
            durable: self.durable.clone(),
            pending: self.pending.iter().copied().collect(),
            reset: self.reset,
        };
        copies.durable(Seq::MAX);
        copies
    }

    /// Whether nothing was ever decided or written here.
    pub(crate) fn is_empty(&self) -> bool {
        self.floor == 0 && self.durable.is_empty() && self.pending.is_empty()
    }

    /// The entry at an index, whether it is durable or on its way.
    pub(crate) fn tag(&self, index: Index) -> Option<Tag> {
        for (_, change) in self.pending.iter().rev() {
            match change {
                Change::Put(at, tag) if *at == index => return Some(*tag),
                Change::Cut(from) if *from <= index => return None,
                Change::Reset(_) => return None,
                Change::Put(..) | Change::Cut(_) | Change::Trim(_) => {}
            }
        }
        self.durable.get(&index).copied()
    }

    /// The last index of which it is known only that it was decided.
    pub(crate) const fn floor(&self) -> Index {
        self.floor
    }

    /// Whether this entry is here for good.
    pub(crate) fn has(&self, index: Index, tag: Tag) -> bool {
        index <= self.floor || self.durable.get(&index) == Some(&tag)
    }

    /// Whether the log began anew after a snapshot at this index.
    pub(crate) fn was_reset(&self, index: Index) -> bool {
        self.reset == Some(index)
    }
}
