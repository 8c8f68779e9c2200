//! The state machine: frames in, answers out.

use std::fmt;
use std::sync::{Arc, PoisonError};

use quorate_replicator::{
    Batch, BatchFrame, CheckpointPairs, CheckpointReader, LogTime, Outcomes, RestoreError,
    ShardKey, StateMachine,
};

use crate::context::{Core, ShardContext};
use crate::envelope;
use crate::extension::Deadline;
use crate::journal::Mark;
use crate::key::Key;
use crate::layout::{self, Place};
use crate::limits::DUE_MAX;
use crate::row::{HEADER_BYTES, Row};
use crate::shard::{Cell, Shard, State, row_cost};
use crate::shards::{Extensions, World};
use crate::{Refusal, Shards};

/// Applies frames to shards. Made together with the [`Shards`] that read them by
/// [`Shards::builder`](crate::Shards::builder); given to a driver at open.
pub struct ShardMachine {
    shards: Shards,
    world: Arc<World>,
    core: Core,
    extensions: Extensions,
}

impl ShardMachine {
    pub(crate) fn new(shards: Shards, core: Core, extensions: Extensions) -> Self {
        let world = shards.world();
        Self { shards, world, core, extensions }
    }

    /// Handles the deadlines that are due, a bounded number of them.
    fn handle_due(&mut self, now: LogTime, outcomes: &mut Outcomes) {
        for _ in 0..DUE_MAX {
            if self.core.deadlines.first().is_none_or(|deadline| deadline.at > now) {
                return;
            }
            let Deadline { shard: name, table, key, .. } =
                self.core.deadlines.pop_first().expect("it was just seen");
            let shard = self.world.shard(&name).expect("a deadline belongs to a row of a shard");
            let extension = self.extensions.of_table(table).expect("checked when it was restored");
            let mut state = shard.state.write().unwrap_or_else(PoisonError::into_inner);
            outcomes.change(name.as_str().as_bytes());
            outcomes.change(key.as_slice());
            let mut context =
                ShardContext::new(&mut self.core, &shard, &mut state, extension.tables(), now);
            extension.due(table, key.as_slice(), &mut context);
            // Whatever the extension made of it: a row that stayed due would be due for ever.
            let row = context.get(table, key.as_slice());
            if row.and_then(|row| row.deadline()).is_some_and(|at| at <= now) {
                context.remove(table, key.as_slice());
            }
            context.commit(outcomes);
        }
    }

    /// Applies frames of one shard under one lock.
    fn apply_run(&mut self, run: &[BatchFrame], now: LogTime, outcomes: &mut Outcomes) {
        let name = &run[0].frame.shard;
        let known = self.world.shard(name);
        let is_new = known.is_none();
        let shard = known.unwrap_or_else(|| Shard::new(name.clone(), State::new()));
        {
            let mut state = shard.state.write().unwrap_or_else(PoisonError::into_inner);
            for frame in run {
                apply_frame(
                    &frame.frame.payload,
                    &self.extensions,
                    &mut self.core,
                    &shard,
                    &mut state,
                    now,
                    outcomes,
                );
            }
            if state.revision == 0 {
                // Nothing happened, so there is still no such namespace.
                return;
            }
        }
        if is_new {
            self.world.insert(shard);
        }
    }
}

/// Applies one operation, and answers it.
fn apply_frame(
    payload: &[u8],
    extensions: &Extensions,
    core: &mut Core,
    shard: &Arc<Shard>,
    state: &mut State,
    now: LogTime,
    outcomes: &mut Outcomes,
) {
    let found = envelope::open_op(payload).and_then(|(kind, body)| {
        let extension = extensions.of_kind(kind).ok_or(Refusal::UnknownKind { kind })?;
        Ok((extension, kind, body))
    });
    let (extension, kind, body) = match found {
        Ok(found) => found,
        Err(refusal) => return outcomes.answer(envelope::encode_refusal(&refusal)),
    };
    // A namespace is charged from its first revision on, and has to fit.
    let charge = if state.revision == 0 { state.bytes } else { 0 };
    core.bytes += charge;
    let mut context = ShardContext::new(core, shard, state, extension.tables(), now);
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    envelope::begin_answer(&mut answer);
    match extension.apply(kind, body, &mut context, &mut answer) {
        Ok(()) => {
            context.commit(outcomes);
            outcomes.answer(answer);
        }
        Err(refusal) => {
            context.roll_back();
            outcomes.answer(envelope::encode_refusal(&refusal));
        }
    }
    if state.revision == 0 {
        core.bytes -= charge;
    }
}

/// Room for a usual answer: a head, a tag and two numbers.
const ANSWER_BYTES: usize = 24;

impl StateMachine for ShardMachine {
    fn apply(&mut self, batch: &Batch<'_>, outcomes: &mut Outcomes) {
        self.handle_due(batch.log_time, outcomes);
        for run in batch.frames.chunk_by(|a, b| a.frame.shard == b.frame.shard) {
            self.apply_run(run, batch.log_time, outcomes);
        }
        self.world.set_bytes(self.core.bytes);
    }

    fn next_deadline(&self) -> Option<LogTime> {
        self.core.deadlines.first().map(|deadline| deadline.at)
    }

    fn begin_checkpoint(&mut self) -> CheckpointPairs {
        self.core.journal.take().into_pairs()
    }

    fn restore(&mut self, reader: &mut dyn CheckpointReader) -> Result<(), RestoreError> {
        let mut core = Core::new(self.core.limits);
        // Readers go on with the state as it was until the new one is whole.
        let world = Arc::new(World::new());
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
                    if let Some(done) = restoring.replace(Restoring::new(shard, &value)?) {
                        done.finish(&mut core, &world)?;
                    }
                }
                Place::Row { shard, table, key } => {
                    if self.extensions.of_table(table).is_none() {
                        return Err(RestoreError::new(format!(
                            "shard {shard} has rows in table {table}, which belongs to no extension of this program; start it with the services that the cluster uses"
                        )));
                    }
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
        world.set_bytes(core.bytes);
        self.core = core;
        self.world = Arc::clone(&world);
        self.shards.replace(world);
        Ok(())
    }
}

impl fmt::Debug for ShardMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardMachine")
            .field("namespaces", &self.world.len())
            .field("state_bytes", &self.core.bytes)
            .finish_non_exhaustive()
    }
}

/// A shard being read from a checkpoint, which holds it in one piece: head, rows, changes.
struct Restoring {
    shard: ShardKey,
    state: State,
    /// What the head says; what was read must come to the same.
    bytes: u64,
}

impl Restoring {
    fn new(shard: ShardKey, value: &[u8]) -> Result<Self, RestoreError> {
        let head = layout::decode_head(value)
            .ok_or_else(|| RestoreError::new(format!("the head of shard {shard} is damaged")))?;
        let mut state = State::new();
        state.revision = head.revision;
        state.mark = Mark::RESTORED;
        state.changes = crate::changes::ChangeList::restored(head.first_change, head.compacted);
        Ok(Self { shard, state, bytes: head.bytes })
    }

    fn of<'a>(
        restoring: &'a mut Option<Self>,
        shard: &ShardKey,
    ) -> Result<&'a mut Self, RestoreError> {
        restoring
            .as_mut()
            .filter(|restoring| restoring.shard == *shard)
            .ok_or_else(|| RestoreError::new(format!("shard {shard} has no head")))
    }

    fn row(
        &mut self,
        table: u8,
        key: &[u8],
        value: &[u8],
        core: &mut Core,
    ) -> Result<(), RestoreError> {
        if value.len() < HEADER_BYTES {
            return Err(self.damaged("row"));
        }
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
        let change = layout::decode_change(value).ok_or_else(|| self.damaged("change"))?;
        let in_order = number == self.state.changes.next_number()
            && change.revision >= self.state.changes.newest_revision()
            && change.revision <= self.state.revision;
        if !in_order {
            return Err(self.damaged("change list"));
        }
        self.state.bytes += change.cost();
        self.state.changes.push(change);
        Ok(())
    }

    fn finish(self, core: &mut Core, world: &World) -> Result<(), RestoreError> {
        if self.state.bytes != self.bytes {
            return Err(self.damaged("count of bytes"));
        }
        core.bytes += self.bytes;
        world.insert(Shard::new(self.shard, self.state));
        Ok(())
    }

    fn damaged(&self, what: &str) -> RestoreError {
        RestoreError::new(format!(
            "a {what} of shard {} is damaged; restore this node from another one or from a backup",
            self.shard
        ))
    }
}
