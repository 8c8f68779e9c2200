//! What a log should hold, in plain maps.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_storage::{Entry, Group, Index, Record, Recovered, Tag};

/// Every group of a log, as the records say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Model {
    groups: BTreeMap<Group, GroupModel>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GroupModel {
    pub(crate) first: Index,
    pub(crate) entries: BTreeMap<Index, Vec<Entry>>,
    pub(crate) decided: BTreeMap<Index, (Tag, Bytes)>,
    notes: BTreeMap<Index, Vec<Bytes>>,
    state: Option<Bytes>,
    reset: Option<(Index, Bytes)>,
}

impl Default for GroupModel {
    fn default() -> Self {
        Self {
            first: 1,
            entries: BTreeMap::new(),
            decided: BTreeMap::new(),
            notes: BTreeMap::new(),
            state: None,
            reset: None,
        }
    }
}

impl Model {
    pub(crate) fn of<'a>(records: impl IntoIterator<Item = &'a (Group, Record)>) -> Self {
        let mut model = Self::default();
        for (group, record) in records {
            model.apply(*group, record);
        }
        model
    }

    pub(crate) fn apply(&mut self, group: Group, record: &Record) {
        self.groups.entry(group).or_default().apply(record);
    }

    pub(crate) fn group(&self, group: Group) -> GroupModel {
        self.groups.get(&group).cloned().unwrap_or_default()
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = (Group, &GroupModel)> {
        self.groups.iter().map(|(&group, model)| (group, model))
    }

    pub(crate) fn recovered(&self) -> BTreeMap<Group, Recovered> {
        self.groups.iter().map(|(&group, model)| (group, model.recovered())).collect()
    }
}

impl GroupModel {
    fn apply(&mut self, record: &Record) {
        match record.clone() {
            Record::Put(entry) if entry.index < self.first => {}
            Record::Put(entry) => {
                let decided = self.decided.get(&entry.index);
                if decided.is_none_or(|(tag, _)| *tag == entry.tag) {
                    let side_by_side = self.entries.entry(entry.index).or_default();
                    side_by_side.retain(|known| known.tag != entry.tag);
                    side_by_side.push(entry);
                }
            }
            Record::Cut { from } => {
                let decided = &self.decided;
                self.entries.retain(|index, _| *index < from || decided.contains_key(index));
            }
            Record::Decide { index, tag, proof } => {
                if index < self.first || self.decided.get(&index).is_some_and(|d| d.0 != tag) {
                    return;
                }
                self.decided.insert(index, (tag, proof));
                if let Some(entries) = self.entries.get_mut(&index) {
                    entries.retain(|entry| entry.tag == tag);
                }
            }
            Record::State(state) => self.state = Some(state),
            Record::Note { index, note } => {
                if index >= self.first {
                    self.notes.entry(index).or_default().push(note);
                }
            }
            Record::Reset { index, mark } => {
                let state = self.state.take();
                *self =
                    Self { first: index + 1, reset: Some((index, mark)), state, ..Self::default() };
            }
            Record::Trim { below } => {
                self.first = self.first.max(below);
                self.entries = self.entries.split_off(&self.first);
                self.decided = self.decided.split_off(&self.first);
                self.notes = self.notes.split_off(&self.first);
            }
        }
    }

    pub(crate) fn last(&self) -> Index {
        let last = self.entries.iter().rev().find(|(_, entries)| !entries.is_empty());
        last.map_or(self.first - 1, |(&index, _)| index)
    }

    /// What a reader is to see from an index on.
    pub(crate) fn read(&self, from: Index) -> Vec<(Entry, Bytes)> {
        let mut read = Vec::new();
        for index in from.. {
            let Some(entry) = self.entries.get(&index).and_then(|entries| entries.last()) else {
                break;
            };
            let proof = self.decided.get(&index).map(|(_, proof)| proof.clone());
            read.push((entry.clone(), proof.unwrap_or_default()));
        }
        read
    }

    fn recovered(&self) -> Recovered {
        let decided = self.decided.iter();
        let notes = self.notes.iter();
        Recovered {
            first: self.first,
            reset: self.reset.clone(),
            entries: self.entries.values().flatten().cloned().collect(),
            decided: decided.map(|(&i, (tag, proof))| (i, *tag, proof.clone())).collect(),
            state: self.state.clone(),
            notes: notes
                .flat_map(|(&i, notes)| notes.iter().map(move |n| (i, n.clone())))
                .collect(),
        }
    }
}
