//! What an extension may do while it carries out one operation.

use std::collections::BTreeSet;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::Arc;

use quorate_replicator::{LogTime, Outcomes, ShardKey};

use crate::changes::Change;
use crate::extension::Deadline;
use crate::fingerprint::Fingerprint;
use crate::journal::{Journal, Mark};
use crate::key::Key;
use crate::limits::KEY_BYTES_MAX;
use crate::row::{HEADER_BYTES, Row, RowView};
use crate::shard::{Cell, Shard, State, row_cost};
use crate::{Limits, Refusal, Table};

/// What the machine keeps over all shards. Only the apply thread has it.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) limits: Limits,
    pub(crate) journal: Journal,
    pub(crate) deadlines: BTreeSet<Deadline>,
    /// What all shards together are charged.
    pub(crate) bytes: u64,
    /// What the running operation wrote, to be undone or put on the change list.
    writes: Vec<Write>,
    /// Where rows are put together.
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Write {
    table: u8,
    key: Key,
    before: Option<Row>,
    after: Option<Row>,
}

impl Core {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            journal: Journal::new(),
            deadlines: BTreeSet::new(),
            bytes: 0,
            writes: Vec::new(),
            scratch: Vec::new(),
        }
    }
}

/// One operation on one shard: reads and writes of the extension's own tables.
///
/// Writes take effect at once for the reads that follow them, and are undone together if the operation is refused.
#[derive(Debug)]
pub struct ShardContext<'a> {
    core: &'a mut Core,
    shard: &'a Arc<Shard>,
    state: &'a mut State,
    tables: &'static [Table],
    log_time: LogTime,
}

impl<'a> ShardContext<'a> {
    pub(crate) fn new(
        core: &'a mut Core,
        shard: &'a Arc<Shard>,
        state: &'a mut State,
        tables: &'static [Table],
        log_time: LogTime,
    ) -> Self {
        assert!(core.writes.is_empty(), "an operation begins after the one before has ended");
        Self { core, shard, state, tables, log_time }
    }

    /// The shard.
    pub fn shard(&self) -> &ShardKey {
        self.shard.key()
    }

    /// The log time of the batch.
    pub fn log_time(&self) -> LogTime {
        self.log_time
    }

    /// The revision that this operation takes if it changes something.
    pub fn revision(&self) -> u64 {
        self.state.revision + 1
    }

    /// The shard's revision after this operation, if it ended now: what an answer should say.
    pub fn revision_reached(&self) -> u64 {
        self.state.revision + u64::from(!self.core.writes.is_empty())
    }

    /// A row of one of the extension's tables.
    ///
    /// # Panics
    ///
    /// As all methods here, if the table is not the extension's own.
    pub fn get(&self, table: u8, key: &[u8]) -> Option<RowView<'_>> {
        self.check(table);
        self.state.row(table, key).map(Row::view)
    }

    /// Rows in the order of their keys; none if `to` is before `from`.
    pub fn range(
        &self,
        table: u8,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (&[u8], RowView<'_>)> {
        self.check(table);
        self.state.range(table, from, to).map(|(key, row)| (key.as_slice(), row.view()))
    }

    /// Writes a row: the parts one after the other, due at `deadline` if there is one.
    ///
    /// # Errors
    ///
    /// The key is too long, or the state is full.
    pub fn put(
        &mut self,
        table: u8,
        key: &[u8],
        deadline: Option<LogTime>,
        parts: &[&[u8]],
    ) -> Result<(), Refusal> {
        self.update(table, key, |_, row| {
            row.set_deadline(deadline);
            parts.iter().for_each(|part| row.append(part));
            Ok(Update::Put)
        })
    }

    /// Removes a row; false if there was none.
    pub fn remove(&mut self, table: u8, key: &[u8]) -> bool {
        let mut found = false;
        self.update(table, key, |row, _| {
            found = row.is_some();
            Ok(Update::Remove)
        })
        .expect("removing is never refused");
        found
    }

    /// Removes up to `max` rows whose keys begin with `prefix`, in the order of their keys; says how many, and
    /// whether more remain.
    pub fn remove_prefix(&mut self, table: u8, prefix: &[u8], max: usize) -> (usize, bool) {
        self.check(table);
        let end = prefix_end(prefix);
        let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let found = self.state.range(table, Bound::Included(prefix), to);
        let mut keys: Vec<Key> =
            found.map(|(key, _)| key.clone()).take(max.saturating_add(1)).collect();
        let more = keys.len() > max;
        keys.truncate(max);
        for key in &keys {
            assert!(self.remove(table, key.as_slice()), "a key that was just found");
        }
        (keys.len(), more)
    }

    /// Looks at a row and decides what becomes of it, in one search.
    ///
    /// # Errors
    ///
    /// What `decide` answers; or the key is too long, or the state is full.
    pub fn update(
        &mut self,
        table: u8,
        key: &[u8],
        decide: impl FnOnce(Option<RowView<'_>>, &mut NewRow<'_>) -> Result<Update, Refusal>,
    ) -> Result<(), Refusal> {
        self.check(table);
        let core = &mut *self.core;
        core.scratch.clear();
        core.scratch.extend_from_slice(&[0; HEADER_BYTES]);
        // History yields to data: what the change list holds can be dropped to make room.
        let room = core
            .limits
            .state_bytes_max
            .saturating_add(self.state.changes.bytes())
            .saturating_sub(core.bytes);
        let full = Refusal::StateFull { limit: core.limits.state_bytes_max };
        let rows = self.state.rows_mut(table);
        let write = match rows.entry(Key::from(key)) {
            Entry::Vacant(entry) => {
                match decide(None, &mut NewRow { bytes: &mut core.scratch })? {
                    Update::Keep | Update::Remove => return Ok(()),
                    Update::Put if key.len() > KEY_BYTES_MAX => {
                        return Err(Refusal::KeyTooLarge { bytes: key.len() as u64 });
                    }
                    Update::Put => {}
                }
                let row = Row::new(&core.scratch);
                let cost = row_cost(entry.key(), &row);
                // The room of a shard that is not charged yet is what is left after it was.
                if cost > room {
                    return Err(full);
                }
                let mut mark = Mark::NEW;
                core.journal.put_row(&mut mark, self.shard, table, entry.key(), &row);
                let key = entry.key().clone();
                entry.insert(Cell { row: row.clone(), mark });
                Write { table, key, before: None, after: Some(row) }
            }
            Entry::Occupied(mut entry) => {
                let before = &entry.get().row;
                match decide(Some(before.view()), &mut NewRow { bytes: &mut core.scratch })? {
                    Update::Keep => return Ok(()),
                    Update::Put => {
                        let row = Row::new(&core.scratch);
                        let (cost, freed) =
                            (row_cost(entry.key(), &row), row_cost(entry.key(), before));
                        if cost > freed && cost - freed > room {
                            return Err(full);
                        }
                        let key = entry.key().clone();
                        let cell = entry.get_mut();
                        core.journal.put_row(&mut cell.mark, self.shard, table, &key, &row);
                        let before = std::mem::replace(&mut cell.row, row.clone());
                        Write { table, key, before: Some(before), after: Some(row) }
                    }
                    Update::Remove => {
                        let (key, cell) = entry.remove_entry();
                        core.journal.remove_row(cell.mark, self.shard, table, key.clone());
                        if rows.is_empty() {
                            // An empty map may keep a node, and an idle namespace should keep nothing.
                            *rows = Default::default();
                        }
                        Write { table, key, before: Some(cell.row), after: None }
                    }
                }
            }
        };
        self.account(&write);
        self.core.writes.push(write);
        Ok(())
    }

    /// Ends the operation: what it wrote gets a revision and goes on the change list.
    pub(crate) fn commit(self, outcomes: &mut Outcomes) {
        if self.core.writes.is_empty() {
            return;
        }
        let (core, state) = (self.core, self.state);
        state.revision += 1;
        let mut fingerprint = Fingerprint::new();
        let count = core.writes.len() as u64;
        let mut writes = std::mem::take(&mut core.writes);
        for write in writes.drain(..) {
            let Write { table, key, after, .. } = write;
            fingerprint.write(&[table]);
            fingerprint.write(key.as_slice());
            fingerprint.write(after.as_ref().map_or(&[], Row::stored_slice));
            if self.tables.iter().any(|own| own.number == table && own.watched) {
                let revision = state.revision;
                let mut change = Change { revision, table, key, row: after, mark: Mark::NEW };
                core.journal.put_change(self.shard, state.changes.next_number(), &mut change);
                state.bytes += change.cost();
                core.bytes += change.cost();
                state.changes.push(change);
            }
            while state.changes.len() > core.limits.changes_max as usize
                || state.changes.bytes() > core.limits.changes_bytes_max
                || (core.bytes > core.limits.state_bytes_max && state.changes.len() > 0)
            {
                let (number, change) = state.changes.pop().expect("a limit was exceeded");
                core.journal.remove_change(self.shard, number, &change);
                state.bytes -= change.cost();
                core.bytes -= change.cost();
            }
        }
        // The vector is kept for the next operation, except one that an unusual operation made large.
        writes.shrink_to(WRITES_KEPT);
        core.writes = writes;
        let head = state.head();
        core.journal.put_head(&mut state.mark, self.shard, head);
        let mut words = [0; 24];
        words[..8].copy_from_slice(&state.revision.to_le_bytes());
        words[8..16].copy_from_slice(&count.to_le_bytes());
        words[16..].copy_from_slice(&fingerprint.finish().to_le_bytes());
        outcomes.change(&words);
    }

    /// Undoes everything that the operation wrote.
    pub(crate) fn roll_back(mut self) {
        while let Some(Write { table, key, before, after }) = self.core.writes.pop() {
            let rows = self.state.rows_mut(table);
            match &before {
                Some(row) => {
                    let cell = rows
                        .entry(key.clone())
                        .or_insert_with(|| Cell { row: row.clone(), mark: Mark::NEW });
                    self.core.journal.put_row(&mut cell.mark, self.shard, table, &key, row);
                    cell.row = row.clone();
                }
                None => {
                    let cell = rows.remove(&key).expect("it was written by this operation");
                    self.core.journal.remove_row(cell.mark, self.shard, table, key.clone());
                }
            }
            self.account(&Write { table, key, before: after, after: before });
        }
    }

    /// Keeps byte counts and deadlines in step with one write.
    fn account(&mut self, write: &Write) {
        let mut deadline = |row: &Row, insert: bool| {
            if let Some(at) = row.deadline() {
                let key = write.key.clone();
                let shard = self.shard.key().clone();
                let deadline = Deadline { at, shard, table: write.table, key };
                let changed = if insert {
                    self.core.deadlines.insert(deadline)
                } else {
                    self.core.deadlines.remove(&deadline)
                };
                assert!(changed || !insert, "a row has one deadline");
            }
        };
        if let Some(row) = &write.before {
            deadline(row, false);
            self.state.bytes -= row_cost(&write.key, row);
            self.core.bytes -= row_cost(&write.key, row);
        }
        if let Some(row) = &write.after {
            deadline(row, true);
            self.state.bytes += row_cost(&write.key, row);
            self.core.bytes += row_cost(&write.key, row);
        }
    }

    fn check(&self, table: u8) {
        assert!(
            self.tables.iter().any(|own| own.number == table),
            "table {table} belongs to another extension"
        );
    }
}

/// Writes that the vector keeps room for.
const WRITES_KEPT: usize = 1024;

/// What becomes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "a row stays, changes or goes")]
pub enum Update {
    /// It stays as it is.
    Keep,
    /// It is replaced by, or made as, the [`NewRow`].
    Put,
    /// It is removed, if it was there.
    Remove,
}

/// A row being put together.
#[derive(Debug)]
pub struct NewRow<'a> {
    bytes: &'a mut Vec<u8>,
}

impl NewRow<'_> {
    /// When the row will be due; without this call it never is. The moment of genesis counts as one millisecond
    /// later.
    pub fn set_deadline(&mut self, deadline: Option<LogTime>) {
        let ms = deadline.map_or(0, |at| at.as_ms().max(1));
        self.bytes[..HEADER_BYTES].copy_from_slice(&ms.to_le_bytes());
    }

    /// Appends to the row.
    pub fn append(&mut self, part: &[u8]) {
        self.bytes.extend_from_slice(part);
    }
}

/// The first key after all keys that begin with `prefix`; none if there is no such key.
pub(crate) fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}
