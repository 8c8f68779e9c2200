//! One namespace's state.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, RwLock};

use quorate_replicator::ShardKey;

use crate::changes::{ChangeList, ChangeView};
use crate::journal::Mark;
use crate::key::Key;
use crate::limits::{DEADLINE_BYTES, NAMESPACE_BYTES, ROW_BYTES};
use crate::row::{Row, RowView};
use crate::rules;

/// One namespace's state behind its lock. There is no task, file or timer of its own.
pub(crate) struct Shard {
    key: ShardKey,
    /// Written by the apply thread alone, a run of frames at a time; read for as long as a page takes. No lock is
    /// taken while it is held, except by the apply thread.
    pub(crate) state: RwLock<State>,
}

impl Shard {
    pub(crate) fn new(key: ShardKey, state: State) -> Arc<Self> {
        Arc::new(Self { key, state: RwLock::new(state) })
    }

    pub(crate) fn key(&self) -> &ShardKey {
        &self.key
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.key, f)
    }
}

/// What is in a shard.
#[derive(Debug)]
pub(crate) struct State {
    /// By number; a shard has few, so they are searched one by one.
    tables: Vec<(u8, Rows)>,
    pub(crate) revision: u64,
    /// What the shard is charged.
    pub(crate) bytes: u64,
    pub(crate) changes: ChangeList,
    pub(crate) mark: Mark,
}

pub(crate) type Rows = BTreeMap<Key, Cell>;

/// A row in its table.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) row: Row,
    pub(crate) mark: Mark,
}

/// The numbers of a shard that are in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) revision: u64,
    pub(crate) first_change: u64,
    pub(crate) compacted: u64,
    pub(crate) bytes: u64,
}

impl State {
    /// A namespace in which nothing has happened.
    pub(crate) fn new() -> Self {
        Self {
            tables: Vec::new(),
            revision: 0,
            bytes: NAMESPACE_BYTES,
            changes: ChangeList::default(),
            mark: Mark::NEW,
        }
    }

    pub(crate) fn head(&self) -> Head {
        Head {
            revision: self.revision,
            first_change: self.changes.first(),
            compacted: self.changes.compacted(),
            bytes: self.bytes,
        }
    }

    pub(crate) fn rows(&self, table: u8) -> Option<&Rows> {
        self.tables.iter().find(|(number, _)| *number == table).map(|(_, rows)| rows)
    }

    pub(crate) fn rows_mut(&mut self, table: u8) -> &mut Rows {
        let place = self.tables.iter().position(|(number, _)| *number == table);
        let place = place.unwrap_or_else(|| {
            self.tables.reserve_exact(1);
            self.tables.push((table, Rows::new()));
            self.tables.len() - 1
        });
        &mut self.tables[place].1
    }

    pub(crate) fn row(&self, table: u8, key: &[u8]) -> Option<&Row> {
        self.rows(table)?.get(key).map(|cell| &cell.row)
    }

    /// Rows of a table in the order of their keys.
    pub(crate) fn range<'a>(
        &'a self,
        table: u8,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (&'a Key, &'a Row)> + use<'a> {
        // The map panics on a range that ends before it begins, which a caller may well ask for.
        let empty = match (from, to) {
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
            (Bound::Excluded(from), Bound::Excluded(to)) => from >= to,
            (
                Bound::Included(from) | Bound::Excluded(from),
                Bound::Included(to) | Bound::Excluded(to),
            ) => from > to,
        };
        let rows = self.rows(table).filter(|_| !empty);
        rows.map(|rows| rows.range::<[u8], _>((from, to)))
            .into_iter()
            .flatten()
            .map(|(key, cell)| (key, &cell.row))
    }
}

/// What a row is charged.
pub(crate) fn row_cost(key: &Key, row: &Row) -> u64 {
    let deadline = if row.deadline().is_some() { DEADLINE_BYTES } else { 0 };
    ROW_BYTES + deadline + (key.len() + row.len()) as u64
}

/// A shard as a reader sees it, at one moment between two operations.
#[derive(Clone, Copy, Debug)]
pub struct ShardView<'a> {
    pub(crate) state: &'a State,
}

impl<'a> ShardView<'a> {
    /// How many mutations have changed the shard.
    pub fn revision(self) -> u64 {
        self.state.revision
    }

    /// What the shard is charged, in bytes.
    pub fn state_bytes(self) -> u64 {
        self.state.bytes
    }

    /// Which version of the [rules](crate::Rules) is in force; 0: none.
    pub fn rules(self) -> u32 {
        rules::in_force(self)
    }

    /// How many rows a table has.
    pub fn len(self, table: u8) -> usize {
        self.state.rows(table).map_or(0, Rows::len)
    }

    /// Whether a table has no row.
    pub fn is_empty(self, table: u8) -> bool {
        self.len(table) == 0
    }

    /// A row of a table.
    pub fn get(self, table: u8, key: &[u8]) -> Option<RowView<'a>> {
        self.state.row(table, key).map(Row::view)
    }

    /// Rows of a table in the order of their keys; none if `to` is before `from`.
    pub fn range(
        self,
        table: u8,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (&'a [u8], RowView<'a>)> + use<'a> {
        self.state.range(table, from, to).map(|(key, row)| (key.as_slice(), row.view()))
    }

    /// The changes of a watched table made by revision `from` and later ones, in order, or none if some of them are
    /// not on the list any more: the oldest revision that can be asked for is
    /// [`changes_oldest`](Self::changes_oldest).
    pub fn changes(
        self,
        table: u8,
        from: u64,
    ) -> Option<impl Iterator<Item = ChangeView<'a>> + use<'a>> {
        let changes = self.state.changes.since(from)?;
        Some(changes.filter(move |change| change.table == table).map(|change| ChangeView {
            revision: change.revision,
            key: change.key.as_slice(),
            row: change.row.as_ref().map(Row::view),
        }))
    }

    /// All changes from this revision on are on the list.
    pub fn changes_oldest(self) -> u64 {
        self.state.changes.compacted() + 1
    }
}
