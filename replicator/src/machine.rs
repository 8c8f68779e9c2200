//! The state machine: what accepted frames do.

use bytes::Bytes;

use crate::{Frame, GroupId, LogTime, Position, RestoreError};

/// Replicated state. One value serves one group on one node; the host owns it and calls it from one thread.
///
/// # Contract
///
/// - **Deterministic.** What [`apply`](Self::apply) does and answers follows from the restored state and the
///   batches alone: no clock, no random source, no map order, no configuration that could differ between nodes.
///   Nodes compare hashes of what was answered and changed, and one that differs stops.
/// - **Total.** Every payload has an answer. One that makes no sense is refused in its reply and changes nothing.
///   A panic stops the group on this node for good.
/// - **Exactly once.** The host has removed repeated, rejected and expired frames before `apply`, and those that
///   [`validate`](Self::validate) refused.
///
/// # Minimal state machine
///
/// ```
/// use quorate_replicator::*;
///
/// /// Counts the frames.
/// #[derive(Debug, Default)]
/// struct Counter {
///     count: u64,
/// }
///
/// impl StateMachine for Counter {
///     fn apply(&mut self, batch: &Batch<'_>, outcomes: &mut Outcomes) {
///         for _ in batch.frames {
///             self.count += 1;
///             outcomes.answer(self.count.to_le_bytes().to_vec());
///         }
///     }
///     fn begin_checkpoint(&mut self) -> CheckpointPairs {
///         Box::new([Pair::put("count", self.count.to_le_bytes().to_vec())].into_iter())
///     }
///     fn restore(&mut self, reader: &mut dyn CheckpointReader) -> Result<(), RestoreError> {
///         while let Some((_, value)) = reader.next()? {
///             let bytes = value.as_ref().try_into().map_err(|_| RestoreError::new("count is not 8 bytes"))?;
///             self.count = u64::from_le_bytes(bytes);
///         }
///         Ok(())
///     }
/// }
/// ```
pub trait StateMachine: std::fmt::Debug + Send + 'static {
    /// Applies one batch in order and answers each frame through `outcomes`: exactly one
    /// [`answer`](Outcomes::answer) for each frame, in the order of the frames.
    ///
    /// `batch.frames` is empty when only time has passed; the deadlines that are due must be handled then, as at
    /// the beginning of every other batch.
    fn apply(&mut self, batch: &Batch<'_>, outcomes: &mut Outcomes);

    /// Whether a frame may be applied, as the state after the batches before its own says. Asked once for each frame that has not been
    /// decided before; also when a frame is proposed, of the state of the node that takes it, so that one that is not allowed costs no decision.
    ///
    /// What it answers follows from the frame and the applied batches alone, as in [`apply`](Self::apply). A rule that changes must therefore
    /// change by a frame, and a program that does not know a rule that is in force must not go on: it may panic, which stops the group on
    /// this node.
    ///
    /// # Errors
    ///
    /// Why not. It is decided then, under every driver, as [`Rejection::Refused`](crate::Rejection::Refused) with these words, of which
    /// [`REFUSAL_BYTES_MAX`](crate::limits::REFUSAL_BYTES_MAX) bytes are kept; the other frames of its batch are applied.
    fn validate(&self, frame: &Frame) -> Result<(), String> {
        let _ = frame;
        Ok(())
    }

    /// When something is next due by itself, such as a key that expires. The proposer commits a batch by then,
    /// empty if need be. Without a deadline an idle cluster is silent.
    fn next_deadline(&self) -> Option<LogTime> {
        None
    }

    /// Begins a checkpoint of the present state: what was put or removed since the last call, or since
    /// [`restore`](Self::restore); everything at the first call of an empty machine.
    ///
    /// Must return in constant time, since applying waits for it. The pairs are read later on another thread,
    /// while `apply` goes on, and must show the state as it is now. They need not be sorted; of a key that occurs
    /// more than once the last pair counts.
    fn begin_checkpoint(&mut self) -> CheckpointPairs;

    /// Replaces the state by the one that the checkpoint holds. Called before the first `apply`, and again when a
    /// node receives a snapshot.
    ///
    /// # Errors
    ///
    /// The checkpoint is not one of this machine, or of a later version of it; the node does not start.
    fn restore(&mut self, reader: &mut dyn CheckpointReader) -> Result<(), RestoreError>;

    /// An empty machine of the same kind for another group of the same node. Called before anything is applied or
    /// restored, once for each group after the first, in their order.
    ///
    /// None, which is the default, if the machine serves one group alone; a node with several groups does not open then.
    fn sibling(&mut self, group: GroupId) -> Option<Box<dyn StateMachine>> {
        let _ = group;
        None
    }
}

/// The pairs of one checkpoint, read off the apply path.
pub type CheckpointPairs = Box<dyn Iterator<Item = Pair> + Send>;

/// One key of a checkpoint, with its value or with the fact that it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The key; keys are ordered by their bytes.
    pub key: Bytes,
    /// The value; none if the key was removed.
    pub value: Option<Bytes>,
}

impl Pair {
    /// `key` has `value`.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { key: key.into(), value: Some(value.into()) }
    }

    /// `key` is gone.
    pub fn remove(key: impl Into<Bytes>) -> Self {
        Self { key: key.into(), value: None }
    }
}

/// Reads a checkpoint in the order of its keys.
pub trait CheckpointReader {
    /// The next pair, or none at the end.
    ///
    /// # Errors
    ///
    /// The stored checkpoint cannot be read; hand the error on.
    fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, RestoreError>;
}

/// One committed batch as a state machine sees it.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The group that decided it.
    pub group: GroupId,
    /// The group's epoch.
    pub epoch: u32,
    /// The place of the batch; larger than that of the batch before, not always by one.
    pub index: u64,
    /// The log time of the whole batch; never before that of the batch before.
    pub log_time: LogTime,
    /// The frames to apply, each with its slot.
    pub frames: &'a [BatchFrame],
}

impl Batch<'_> {
    /// The position of one of its frames.
    pub fn position(&self, frame: &BatchFrame) -> Position {
        Position { group: self.group, epoch: self.epoch, index: self.index, slot: frame.slot }
    }
}

/// One frame of a batch and its place there.
#[derive(Clone, Debug)]
pub struct BatchFrame {
    /// The place in the batch as it was decided; frames that are not applied leave gaps.
    pub slot: u32,
    /// The frame.
    pub frame: Frame,
}

/// Where a state machine leaves its answers, and says what it changed.
#[derive(Debug, Default)]
pub struct Outcomes {
    replies: Vec<Bytes>,
    changes: Vec<u8>,
    records_changes: bool,
}

impl Outcomes {
    /// Answers the next frame.
    pub fn answer(&mut self, reply: impl Into<Bytes>) {
        self.replies.push(reply.into());
    }

    /// Says what was changed, in any words that are equal on all nodes when the change is. Nodes compare a hash of
    /// replies and changes; what a reply already tells need not be said here.
    pub fn change(&mut self, words: &[u8]) {
        if self.records_changes {
            let length = u32::try_from(words.len()).expect("a change is smaller than a batch");
            self.changes.extend_from_slice(&length.to_le_bytes());
            self.changes.extend_from_slice(words);
        }
    }

    /// For hosts: empties this value for the next batch.
    pub fn reset(&mut self, records_changes: bool) {
        self.replies.clear();
        self.changes.clear();
        self.records_changes = records_changes;
    }

    /// For hosts: the replies so far, in order.
    pub fn replies(&self) -> &[Bytes] {
        &self.replies
    }

    /// For hosts: the changes so far, each with its length in front.
    pub fn changes(&self) -> &[u8] {
        &self.changes
    }
}
