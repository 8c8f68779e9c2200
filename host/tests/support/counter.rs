//! A state machine of a few lines, and frames for it.
#![allow(dead_code, reason = "each test uses what it needs")]

use quorate_replicator::{
    Batch, CheckpointPairs, CheckpointReader, Frame, FrameId, Outcomes, Pair, RestoreError,
    SessionId, ShardKey, StateMachine,
};

/// Counts frames and answers with the count.
#[derive(Debug, Default)]
pub(crate) struct Counter(u64);

impl StateMachine for Counter {
    fn apply(&mut self, batch: &Batch<'_>, outcomes: &mut Outcomes) {
        for _ in batch.frames {
            self.0 += 1;
            outcomes.answer(self.0.to_le_bytes().to_vec());
        }
    }

    fn begin_checkpoint(&mut self) -> CheckpointPairs {
        Box::new([Pair::put("count", self.0.to_le_bytes().to_vec())].into_iter())
    }

    fn restore(&mut self, reader: &mut dyn CheckpointReader) -> Result<(), RestoreError> {
        while let Some((_, count)) = reader.next()? {
            let count = count.as_ref().try_into();
            self.0 = u64::from_le_bytes(count.map_err(|_| RestoreError::new("not 8 bytes"))?);
        }
        Ok(())
    }
}

/// Where all frames go.
pub(crate) fn shard() -> ShardKey {
    ShardKey::new("org", "ns").unwrap()
}

/// A frame that settles everything below `settled`.
pub(crate) fn frame(session: SessionId, serial: u64, settled: u64, payload: Vec<u8>) -> Frame {
    Frame { settled, ..Frame::new(FrameId { session, serial }, shard(), payload) }
}
