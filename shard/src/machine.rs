//! The state machine: frames in, answers out.

use std::fmt;
use std::sync::{Arc, PoisonError};

use quorate_replicator::{
    Batch, BatchFrame, CheckpointPairs, CheckpointReader, Frame, GroupId, LogTime, Outcomes,
    RestoreError, StateMachine,
};

use crate::context::{Core, ShardContext};
use crate::envelope;
use crate::extension::Deadline;
use crate::limits::DUE_MAX;
use crate::restore::restore;
use crate::rules::RuleBook;
use crate::shard::{Shard, ShardView, State};
use crate::shards::{Extensions, World};
use crate::{Refusal, Shards};

/// Applies frames to shards. Made together with the [`Shards`] that read them by
/// [`Shards::builder`](crate::Shards::builder); given to a driver at open.
pub struct ShardMachine {
    shards: Shards,
    /// The place of its world among those of the shards.
    place: usize,
    world: Arc<World>,
    core: Core,
    extensions: Arc<Extensions>,
}

impl ShardMachine {
    pub(crate) fn new(shards: Shards, core: Core, extensions: Arc<Extensions>) -> Self {
        let world = Arc::new(World::new());
        let place = shards.add(Arc::clone(&world));
        Self { shards, place, world, core, extensions }
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
            #[cfg(quorate_planted)]
            if quorate_planted::Bug::RefusedKept.is_planted() {
                context.commit(outcomes);
                return outcomes.answer(envelope::encode_refusal(&refusal));
            }
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

    fn validate(&self, frame: &Frame) -> Result<(), String> {
        let rules = &self.extensions.rules;
        match RuleBook::version_of(frame) {
            Some(Ok(version)) => return rules.check_version(version),
            // Refused as an operation when it is applied.
            Some(Err(_)) => return Ok(()),
            None if rules.is_empty() => return Ok(()),
            None => {}
        }
        let Some(shard) = self.world.shard(&frame.shard) else { return Ok(()) };
        let state = shard.state.read().unwrap_or_else(PoisonError::into_inner);
        rules.check(frame, ShardView { state: &state })
    }

    fn next_deadline(&self) -> Option<LogTime> {
        self.core.deadlines.first().map(|deadline| deadline.at)
    }

    fn begin_checkpoint(&mut self) -> CheckpointPairs {
        self.core.journal.take().into_pairs()
    }

    fn restore(&mut self, reader: &mut dyn CheckpointReader) -> Result<(), RestoreError> {
        // Readers go on with the state as it was until the new one is whole.
        let (core, world) = restore(reader, self.core.limits, &self.extensions)?;
        let world = Arc::new(world);
        world.set_bytes(core.bytes);
        self.core = core;
        self.world = Arc::clone(&world);
        self.shards.replace(self.place, world);
        Ok(())
    }

    fn sibling(&mut self, group: GroupId) -> Option<Box<dyn StateMachine>> {
        let core = Core::new(self.core.limits);
        let sibling = Self::new(self.shards.clone(), core, Arc::clone(&self.extensions));
        assert_eq!(sibling.place, group.number() as usize, "siblings are made in their order");
        Some(Box::new(sibling))
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

#[cfg(test)]
mod tests {
    use quorate_replicator::{Frame, FrameId, GroupId, SessionId, ShardKey};

    use super::*;
    use crate::kv::Op;

    fn apply(machine: &mut ShardMachine, ops: &[Op<'_>]) {
        let shard = ShardKey::new("acme", "orders").unwrap();
        let id = FrameId { session: SessionId::new([1; 16]), serial: 1 };
        let frames: Vec<_> = ops
            .iter()
            .map(|op| BatchFrame { slot: 0, frame: Frame::new(id, shard.clone(), op.encode()) })
            .collect();
        let batch = Batch {
            group: GroupId::new(0),
            epoch: 0,
            index: 1,
            log_time: LogTime::ZERO,
            frames: &frames,
        };
        machine.apply(&batch, &mut Outcomes::default());
    }

    /// A node in memory may never make a checkpoint, and one on disk may make none for long.
    #[test]
    fn the_journal_is_bounded_by_the_state_without_any_checkpoint() {
        let limit = |limits: &mut crate::Limits| limits.changes_max = 4;
        let (mut machine, _shards) = Shards::builder().limit(limit).build();
        let large = [0; 1000];
        let round = [
            Op::put(b"stays", b"1"),
            Op::put(b"goes", b"1"),
            Op::put(b"goes", &large),
            Op::delete(b"goes"),
            Op::put(b"a key that does not stand in the tree", b""),
            Op::delete_prefix(b"a key"),
        ];
        // One row, four changes, one head; two keys that were in the checkpoint and are gone, and its changes.
        for (checkpointed, most) in [(false, 1 + 4 + 1), (true, 1 + 4 + 1 + 2 + 4)] {
            if checkpointed {
                apply(&mut machine, &round[1..2]);
                apply(&mut machine, &round[4..5]);
                drop(machine.begin_checkpoint());
            }
            for _ in 0..100 {
                apply(&mut machine, &round);
                let length = machine.core.journal.len();
                assert!(length <= most, "{length} entries after a checkpoint: {checkpointed}");
            }
        }
    }
}
