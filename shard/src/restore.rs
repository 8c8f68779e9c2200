//! Reads a whole machine from a checkpoint.

use quorate_replicator::{CheckpointReader, RestoreError, ShardKey};

use crate::Limits;
use crate::changes::ChangeList;
use crate::context::Core;
use crate::extension::Deadline;
use crate::journal::Mark;
use crate::key::Key;
use crate::layout::{self, Place};
use crate::row::{HEADER_BYTES, Row};
use crate::shard::{Cell, Shard, State, row_cost};
use crate::shards::{Extensions, World};

/// What a checkpoint holds; every byte of it is checked before it is relied on.
pub(crate) fn restore(
    reader: &mut dyn CheckpointReader,
    limits: Limits,
    extensions: &Extensions,
) -> Result<(Core, World), RestoreError> {
    let mut core = Core::new(limits);
    let world = World::new();
    let mut restoring = None;
    let mut has_format = false;
    while let Some((key, value)) = reader.next()? {
        match layout::read_key(&key)? {
            Place::Format => {
                layout::check_format(&value)?;
                has_format = true;
            }
            _ if !has_format => {
                return Err(RestoreError::new("it does not begin with its format version"));
            }
            Place::Head { shard } => {
                if let Some(done) = restoring.replace(Restoring::new(shard, &value, extensions)?) {
                    done.finish(&mut core, &world)?;
                }
            }
            Place::Row { shard, table, key } => {
                Restoring::of(&mut restoring, &shard)?.row(table, key, &value, &mut core)?;
            }
            Place::Change { shard, number } => {
                Restoring::of(&mut restoring, &shard)?.change(number, &value)?;
            }
        }
    }
    if let Some(done) = restoring {
        done.finish(&mut core, &world)?;
    }
    Ok((core, world))
}

/// A shard being read, which the checkpoint holds in one piece: head, rows, changes.
struct Restoring<'a> {
    shard: ShardKey,
    state: State,
    /// What the head says; what was read must come to the same.
    bytes: u64,
    extensions: &'a Extensions,
}

impl<'a> Restoring<'a> {
    fn new(
        shard: ShardKey,
        value: &[u8],
        extensions: &'a Extensions,
    ) -> Result<Self, RestoreError> {
        let mut state = State::new();
        let head = layout::decode_head(value)
            // A number that counts changes cannot have come near its end.
            .filter(|head| head.compacted <= head.revision && head.first_change < u64::MAX / 2)
            .ok_or_else(|| damaged("head", &shard))?;
        state.revision = head.revision;
        state.mark = Mark::RESTORED;
        state.changes = ChangeList::restored(head.first_change, head.compacted);
        Ok(Self { shard, state, bytes: head.bytes, extensions })
    }

    fn of<'b>(
        restoring: &'b mut Option<Self>,
        shard: &ShardKey,
    ) -> Result<&'b mut Self, RestoreError> {
        let found = restoring.as_mut().filter(|restoring| restoring.shard == *shard);
        found.ok_or_else(|| damaged("head", shard))
    }

    fn row(
        &mut self,
        table: u8,
        key: &[u8],
        value: &[u8],
        core: &mut Core,
    ) -> Result<(), RestoreError> {
        self.check(table, key, value)?;
        let (key, row) = (Key::from(key), Row::new(value));
        self.state.bytes += row_cost(&key, &row);
        if let Some(at) = row.deadline() {
            let (shard, key) = (self.shard.clone(), key.clone());
            core.deadlines.insert(Deadline { at, shard, table, key });
        }
        self.state.rows_mut(table).insert(key, Cell { row, mark: Mark::RESTORED });
        Ok(())
    }

    fn change(&mut self, number: u64, value: &[u8]) -> Result<(), RestoreError> {
        let change = layout::decode_change(value).ok_or_else(|| damaged("change", &self.shard))?;
        if let Some(row) = &change.row {
            self.check(change.table, change.key.as_slice(), row.stored_slice())?;
        }
        let in_order = number == self.state.changes.next_number()
            && change.revision >= self.state.changes.newest_revision()
            && change.revision <= self.state.revision;
        if !in_order {
            return Err(damaged("change list", &self.shard));
        }
        self.state.bytes += change.cost();
        self.state.changes.push(change);
        Ok(())
    }

    fn check(&self, table: u8, key: &[u8], row: &[u8]) -> Result<(), RestoreError> {
        let extension = self.extensions.of_table(table).ok_or_else(|| {
            RestoreError::new(format!(
                "shard {} has rows in table {table}, which belongs to no extension of this program; start it with \
                 the services that the cluster uses",
                self.shard
            ))
        })?;
        let bytes = row.get(HEADER_BYTES..).ok_or_else(|| damaged("row", &self.shard))?;
        extension.check_row(table, key, bytes).map_err(|problem| {
            let (shard, name) = (&self.shard, extension.name());
            RestoreError::new(format!(
                "a row of {name} in shard {shard} cannot be used: {problem}; if it is damaged, restore this node from \
                 another one or from a backup"
            ))
        })
    }

    fn finish(self, core: &mut Core, world: &World) -> Result<(), RestoreError> {
        if self.state.bytes != self.bytes {
            return Err(damaged("row count", &self.shard));
        }
        core.bytes += self.bytes;
        world.insert(Shard::new(self.shard, self.state));
        Ok(())
    }
}

fn damaged(what: &str, shard: &ShardKey) -> RestoreError {
    RestoreError::new(format!(
        "the {what} of shard {shard} is damaged or missing; restore this node from another one or from a backup"
    ))
}
