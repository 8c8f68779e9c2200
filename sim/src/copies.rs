//! Which entries a node's log holds, and which of them are durable.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use quorate_engine::engine::LogWrite;
use quorate_storage::{Index, Record, Recovered, Seq, Tag};

/// Which entries a node's log holds. Everything up to the floor was decided and is in its checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    floor: Index,
    /// Several candidates may stand at one index until it is decided, the newest last.
    durable: BTreeMap<Index, Vec<Tag>>,
    /// Lines of the journals of what is not decided.
    notes: BTreeMap<Index, BTreeSet<Bytes>>,
    /// The last index that is durably decided.
    decided: Index,
    /// Written, not yet durable.
    pending: VecDeque<(Seq, Change)>,
    /// The index of the last snapshot after which the log began anew in this life.
    reset: Option<Index>,
}

#[derive(Clone, Debug)]
enum Change {
    Put(Index, Tag),
    Decide(Index, Tag),
    Note(Index, Bytes),
    Cut(Index),
    Reset(Index),
    Trim(Index),
}

impl Copies {
    /// What was found on the disk.
    pub(crate) fn recovered(floor: Index, log: &Recovered) -> Self {
        let mut durable: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for entry in &log.entries {
            durable.entry(entry.index).or_default().push(entry.tag);
        }
        let decided = log.decided.last().map_or(0, |(index, ..)| *index);
        let mut notes: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (index, note) in log.notes.iter().filter(|(index, _)| *index > decided) {
            notes.entry(*index).or_default().insert(note.clone());
        }
        let floor = floor.max(log.first.saturating_sub(1));
        let decided = decided.max(floor);
        Self { floor, durable, notes, decided, ..Self::default() }
    }

    pub(crate) fn written(&mut self, writes: &[LogWrite]) {
        for LogWrite { seq, record, .. } in writes {
            let change = match record {
                Record::Put(entry) => Change::Put(entry.index, entry.tag),
                Record::Decide { index, tag, .. } => Change::Decide(*index, *tag),
                Record::Note { index, note } => Change::Note(*index, note.clone()),
                Record::Cut { from } => Change::Cut(*from),
                Record::Reset { index, .. } => {
                    self.reset = Some(*index);
                    Change::Reset(*index)
                }
                Record::Trim { below } => Change::Trim(*below),
                Record::State(_) => continue,
            };
            self.pending.push_back((*seq, change));
        }
    }

    pub(crate) fn durable(&mut self, seq: Seq) {
        while let Some((_, change)) = self.pending.pop_front_if(|(at, _)| *at <= seq) {
            match change {
                Change::Put(index, tag) => {
                    let tags = self.durable.entry(index).or_default();
                    tags.retain(|known| *known != tag);
                    tags.push(tag);
                }
                Change::Decide(index, tag) => {
                    if let Some(tags) = self.durable.get_mut(&index) {
                        tags.retain(|known| *known == tag);
                    }
                    self.decided = self.decided.max(index);
                    self.notes = self.notes.split_off(&(index + 1));
                }
                Change::Note(index, note) => {
                    self.notes.entry(index).or_default().insert(note);
                }
                Change::Cut(from) => drop(self.durable.split_off(&from)),
                Change::Reset(index) => {
                    self.durable.clear();
                    self.notes.clear();
                    (self.floor, self.decided) = (index, index);
                }
                Change::Trim(below) => {
                    self.durable = self.durable.split_off(&below);
                    self.floor = self.floor.max(below.saturating_sub(1));
                }
            }
        }
    }

    /// The first index of which something was here for good when a process ended, and is not in what the next one found; none if it has
    /// all. What was on its way to the disk may be there, and what it makes void may be gone.
    pub(crate) fn lost_in(&self, found: &Self) -> Option<Index> {
        let mut until = Index::MAX;
        // Where all candidates but one may be void.
        let mut decided = BTreeSet::new();
        for (_, change) in &self.pending {
            match change {
                Change::Decide(index, _) => {
                    decided.insert(*index);
                }
                Change::Cut(from) => until = until.min(*from),
                Change::Reset(_) => return None,
                Change::Put(..) | Change::Trim(_) | Change::Note(..) => {}
            }
        }
        let is_gone = |(index, tags): (&Index, &Vec<Tag>)| {
            let has = |tag: &Tag| found.has(*index, *tag);
            let all = tags.iter().all(has);
            let is_decided = decided.contains(index) && found.decided >= *index;
            (!all && !is_decided).then_some(*index)
        };
        let is_forgotten = |(index, notes): (&Index, &BTreeSet<Bytes>)| {
            let known = found.notes.get(index);
            let all = known.is_some_and(|known| notes.is_subset(known));
            (*index > found.decided && !all).then_some(*index)
        };
        self.durable
            .range(..until)
            .find_map(is_gone)
            .or_else(|| self.notes.iter().find_map(is_forgotten))
    }

    /// This, once everything that is on its way to the disk is there.
    pub(crate) fn written_out(&self) -> Self {
        let mut copies = Self {
            floor: self.floor,
            durable: self.durable.clone(),
            notes: BTreeMap::new(),
            decided: self.decided,
            pending: self.pending.iter().cloned().collect(),
            reset: self.reset,
        };
        copies.durable(Seq::MAX);
        copies
    }

    /// Adds what was here before the disk was lost, too.
    pub(crate) fn absorb(&mut self, other: Self) {
        self.floor = self.floor.max(other.floor);
        for (index, tags) in other.durable {
            self.durable.entry(index).or_default().extend(tags);
        }
    }

    /// Whether nothing was ever decided or written here.
    pub(crate) fn is_empty(&self) -> bool {
        self.floor == 0 && self.durable.is_empty() && self.pending.is_empty()
    }

    /// The entry at an index, whether it is durable or on its way.
    pub(crate) fn tag(&self, index: Index) -> Option<Tag> {
        for (_, change) in self.pending.iter().rev() {
            match change {
                Change::Put(at, tag) | Change::Decide(at, tag) if *at == index => {
                    return Some(*tag);
                }
                Change::Cut(from) if *from <= index => return None,
                Change::Reset(_) => return None,
                _ => {}
            }
        }
        self.durable.get(&index)?.last().copied()
    }

    /// The last index of which it is known only that it was decided.
    pub(crate) const fn floor(&self) -> Index {
        self.floor
    }

    /// Whether this entry is here for good.
    pub(crate) fn has(&self, index: Index, tag: Tag) -> bool {
        index <= self.floor || self.durable.get(&index).is_some_and(|tags| tags.contains(&tag))
    }

    /// Whether a line of the journal of an index is here for good, or the index is decided.
    pub(crate) fn has_note(&self, index: Index, note: &Bytes) -> bool {
        index <= self.decided || self.notes.get(&index).is_some_and(|notes| notes.contains(note))
    }

    /// The last index that is decided for good here.
    pub(crate) const fn decided(&self) -> Index {
        self.decided
    }

    /// Whether the log began anew after a snapshot at this index.
    pub(crate) fn was_reset(&self, index: Index) -> bool {
        self.reset == Some(index)
    }
}
