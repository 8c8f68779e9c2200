//! The change list: the latest changes of a shard by revision, from which watches read.

use std::collections::VecDeque;

use crate::journal::Mark;
use crate::key::Key;
use crate::limits::CHANGE_BYTES;
use crate::row::{Row, RowView};

/// One write to a watched table.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) table: u8,
    pub(crate) key: Key,
    /// The row that was written, none if it was removed.
    pub(crate) row: Option<Row>,
    pub(crate) mark: Mark,
}

impl Change {
    pub(crate) fn cost(&self) -> u64 {
        let row = self.row.as_ref().map_or(0, Row::len);
        CHANGE_BYTES + (self.key.len() + row) as u64
    }
}

/// The latest changes, numbered without gaps in the order of the writes.
#[derive(Debug, Default)]
pub(crate) struct ChangeList {
    list: VecDeque<Change>,
    /// The number of the first change in the list.
    first: u64,
    /// What the list is charged.
    bytes: u64,
    /// The revision of the latest change that was dropped; changes after it are complete.
    compacted: u64,
}

impl ChangeList {
    pub(crate) fn restored(first: u64, compacted: u64) -> Self {
        Self { first, compacted, ..Self::default() }
    }

    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn compacted(&self) -> u64 {
        self.compacted
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// The revision of the latest change that was ever put on the list.
    pub(crate) fn newest_revision(&self) -> u64 {
        self.list.back().map_or(self.compacted, |change| change.revision)
    }

    /// The number that the next change gets.
    pub(crate) fn next_number(&self) -> u64 {
        self.first + self.list.len() as u64
    }

    pub(crate) fn push(&mut self, change: Change) {
        assert!(
            self.newest_revision() <= change.revision,
            "changes are put on the list in the order of their revisions"
        );
        if self.list.capacity() == 0 {
            // Most namespaces are small and idle, and the usual first capacity is four.
            self.list.reserve_exact(1);
        }
        self.bytes += change.cost();
        self.list.push_back(change);
    }

    /// Drops the oldest change.
    pub(crate) fn pop(&mut self) -> Option<(u64, Change)> {
        let change = self.list.pop_front()?;
        let number = self.first;
        self.first += 1;
        self.bytes -= change.cost();
        self.compacted = change.revision;
        Some((number, change))
    }

    /// Changes of revisions from `from` on, or none if some of them are dropped.
    pub(crate) fn since(&self, from: u64) -> Option<impl Iterator<Item = &Change>> {
        if from <= self.compacted {
            return None;
        }
        let start = self.list.partition_point(|change| change.revision < from);
        Some(self.list.range(start..))
    }
}

/// One change as it is read.
#[derive(Clone, Copy, Debug)]
pub struct ChangeView<'a> {
    /// The revision that it made; all changes of one operation have the same.
    pub revision: u64,
    /// The key.
    pub key: &'a [u8],
    /// What was written, none if the row was removed.
    pub row: Option<RowView<'a>>,
}
