//! The state machine that is measured: it counts.

use bytes::Bytes;
use quorate_replicator::{
    Batch, CheckpointPairs, CheckpointReader, GroupId, Outcomes, Pair, RestoreError, StateMachine,
};

/// Counts frames and answers with the count.
#[derive(Debug, Default)]
pub(crate) struct Counter(u64);

impl StateMachine for Counter {
    fn apply(&mut self, batch: &Batch<'_>, outcomes: &mut Outcomes) {
        for _ in batch.frames {
            self.0 += 1;
            outcomes.answer(Bytes::copy_from_slice(&self.0.to_le_bytes()));
        }
    }

    fn begin_checkpoint(&mut self) -> CheckpointPairs {
        Box::new([Pair::put("count", self.0.to_le_bytes().to_vec())].into_iter())
    }

    fn restore(&mut self, _: &mut dyn CheckpointReader) -> Result<(), RestoreError> {
        Ok(())
    }

    fn sibling(&mut self, _: GroupId) -> Option<Box<dyn StateMachine>> {
        Some(Box::<Self>::default())
    }
}
