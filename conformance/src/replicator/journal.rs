//! The suite's state machine, which writes down what it applies, and the comparison of what was written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use quorate_replicator::{
    Batch, CheckpointPairs, CheckpointReader, Commit, FrameId, LogTime, Outcomes, Pair, Position,
    Reply, RestoreError, StateMachine,
};

use super::MachineMaker;

/// A payload that begins with this is answered by as many bytes as the number after it says.
const LONG: &str = "reply with bytes: ";

/// The payload that is answered by `bytes` bytes.
pub(super) fn long_reply(bytes: usize) -> Bytes {
    format!("{LONG}{bytes}").into()
}

/// What the suite's machine answers to `payload` as the `count`th frame that it applied.
pub(super) fn reply(count: u64, payload: &[u8]) -> Bytes {
    let text = std::str::from_utf8(payload).ok().and_then(|text| text.strip_prefix(LONG));
    if let Some(bytes) = text.and_then(|bytes| bytes.parse().ok()) {
        return vec![b'r'; bytes].into();
    }
    // The end of a payload tells it apart, and is short whatever its length.
    let end = &payload[payload.len().saturating_sub(32)..];
    [&count.to_be_bytes(), end].concat().into()
}

/// The count in a reply.
pub(super) fn count(commit: &Commit) -> Option<u64> {
    let Reply::Known(bytes) = &commit.reply else { return None };
    Some(u64::from_be_bytes(*bytes.first_chunk()?))
}

/// The journals of all machines of a cluster, those of former lives included.
#[derive(Clone, Debug, Default)]
pub(super) struct Journals(Arc<Mutex<Vec<Arc<Mutex<Journal>>>>>);

/// What one machine applied, in its order.
#[derive(Debug, Default)]
struct Journal {
    frames: Vec<(Position, FrameId, Bytes)>,
    /// Index and log time of each batch.
    batches: Vec<(u64, LogTime)>,
}

impl Journals {
    pub(super) fn machine_maker(&self) -> MachineMaker {
        let journals = self.clone();
        Arc::new(move || {
            let journal = Arc::<Mutex<Journal>>::default();
            lock(&journals.0).push(Arc::clone(&journal));
            Box::new(Machine { count: 0, journal })
        })
    }

    /// Whether some machine has applied `id` at `position`.
    pub(super) fn holds(&self, id: FrameId, position: Position) -> bool {
        let journals = lock(&self.0);
        journals.iter().any(|journal| {
            lock(journal).frames.iter().any(|(at, frame, _)| (*at, *frame) == (position, id))
        })
    }

    /// Whether no machine has applied `id`.
    pub(super) fn lacks(&self, id: FrameId) -> bool {
        let journals = lock(&self.0);
        journals.iter().all(|journal| lock(journal).frames.iter().all(|(_, frame, _)| *frame != id))
    }

    /// Checks what must hold after every case.
    pub(super) fn check(&self, case: &str) {
        let mut at: BTreeMap<Position, (FrameId, Bytes)> = BTreeMap::new();
        let mut of: BTreeMap<FrameId, Position> = BTreeMap::new();
        for journal in lock(&self.0).iter() {
            let journal = lock(journal);
            let mut once = BTreeSet::new();
            for (position, id, payload) in &journal.frames {
                assert!(
                    once.insert(*id),
                    "{case}: a frame is applied once; {id} was applied again"
                );
                let frame = at.entry(*position).or_insert_with(|| (*id, payload.clone()));
                assert!(
                    (&frame.0, &frame.1) == (id, payload),
                    "{case}: all nodes apply the same frame at a position; at {position} {} and {id}",
                    frame.0
                );
                let place = of.entry(*id).or_insert(*position);
                assert_eq!(
                    place, position,
                    "{case}: a frame has one position for ever; {id} has two"
                );
            }
            assert!(
                journal.frames.is_sorted_by(|a, b| a.0 < b.0),
                "{case}: a state machine applies in the order of positions"
            );
            assert!(
                journal.batches.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1),
                "{case}: batches rise in index, and log time never goes back"
            );
        }
    }
}

/// Counts frames and writes them down. The count is the state; the journal is not.
#[derive(Debug)]
struct Machine {
    count: u64,
    journal: Arc<Mutex<Journal>>,
}

impl StateMachine for Machine {
    fn apply(&mut self, batch: &Batch<'_>, outcomes: &mut Outcomes) {
        let mut journal = lock(&self.journal);
        journal.batches.push((batch.index, batch.log_time));
        for frame in batch.frames {
            self.count += 1;
            let payload = &frame.frame.payload;
            journal.frames.push((batch.position(frame), frame.frame.id, payload.clone()));
            outcomes.change(&self.count.to_be_bytes());
            outcomes.answer(reply(self.count, payload));
        }
    }

    fn begin_checkpoint(&mut self) -> CheckpointPairs {
        let count = self.count.to_be_bytes().to_vec();
        Box::new(std::iter::once(Pair::put("count", count)))
    }

    fn restore(&mut self, reader: &mut dyn CheckpointReader) -> Result<(), RestoreError> {
        while let Some((_, value)) = reader.next()? {
            let count = value.as_ref().try_into();
            self.count = u64::from_be_bytes(
                count.map_err(|_| RestoreError::new("the count is not of 8 bytes"))?,
            );
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
