//! Errors: why this node could not submit, serve, subscribe, open or close.
//!
//! None of them says what the cluster decided; that is a [`Decision`](crate::Decision).

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{NameError, NodeId, Position};

/// What there was not enough of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Resource {
    /// Frames waiting to be decided.
    #[error("frames in flight")]
    Frames,
    /// Bytes of frames waiting to be decided.
    #[error("bytes in flight")]
    Bytes,
    /// Reads waiting for a barrier.
    #[error("reads in flight")]
    Reads,
    /// Live sessions of the group.
    #[error("sessions")]
    Sessions,
    /// Decided and unsettled serials of one session; there is always room for the oldest that is open.
    #[error("unsettled serials of the session")]
    Unsettled,
    /// Subscriptions of the node.
    #[error("subscriptions")]
    Subscriptions,
}

/// Why this node could not submit a frame. Each says by [`may_commit`](ProposeError::may_commit) whether this
/// call may still have an effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ProposeError {
    /// The node holds as much as it may. Wait for answers, then propose again.
    #[error("too many {resource}: the limit is {limit}; wait for answers and propose again")]
    Overloaded {
        /// What there was not enough of.
        resource: Resource,
        /// How much there may be.
        limit: u64,
    },
    /// The disk has no room for further frames; votes, reads and compaction go on.
    #[error(
        "the disk of this node is full; free space in its data directory, and it accepts frames again"
    )]
    StorageFull,
    /// The payload, or the list of frames, is larger than allowed.
    #[error("{what} has {size}, at most {limit} are allowed")]
    TooLarge {
        /// What was too large, for example "payload in bytes".
        what: Cow<'static, str>,
        /// Its size.
        size: usize,
        /// The largest size allowed.
        limit: usize,
    },
    /// The frame can never be accepted as it is.
    #[error("frame is invalid: {reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
    /// Another node proposes, and forwarding is off.
    #[error("this node does not propose and forwarding is off; propose at {}", leader_text(.leader))]
    NotLeader {
        /// Who proposes, if known.
        leader: Option<NodeId>,
    },
    /// The session is not open, has ended, or has settled this serial. This attempt did nothing; an earlier
    /// one of the same frame may have been decided and forgotten.
    #[error("the session is not open here or has settled this serial; open a new session")]
    SessionEnded,
    /// No node of the cluster could be reached, as a client's node is another process.
    #[error("no node could be reached, and nothing was submitted: {problem}")]
    Unreachable {
        /// What became of each attempt, and what to do.
        problem: String,
    },
    /// The node was closed.
    #[error("the node is closed")]
    Closed {
        /// Whether the frame had already been handed to the group.
        submitted: bool,
    },
    /// The node stopped for good.
    #[error("the node stopped: {cause}")]
    Faulted {
        /// What happened, and what to do.
        cause: String,
        /// Whether the frame had already been handed to the group.
        submitted: bool,
    },
}

impl ProposeError {
    /// Whether the frame of this call may still be committed. Of earlier calls with the same id it says
    /// nothing.
    pub fn may_commit(&self) -> bool {
        match self {
            Self::Closed { submitted } | Self::Faulted { submitted, .. } => *submitted,
            Self::Overloaded { .. }
            | Self::StorageFull
            | Self::TooLarge { .. }
            | Self::Invalid { .. }
            | Self::NotLeader { .. }
            | Self::Unreachable { .. }
            | Self::SessionEnded => false,
        }
    }
}

impl From<NameError> for ProposeError {
    fn from(error: NameError) -> Self {
        Self::Invalid { reason: error.to_string() }
    }
}

fn leader_text(leader: &Option<NodeId>) -> String {
    leader.map_or_else(|| "again once a leader is known".into(), |leader| leader.to_string())
}

/// Why this node could not serve a read. A read has no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ReadError {
    /// Freshness could not be confirmed in time: no quorum answers, or it answers too slowly.
    #[error(
        "no confirmation from the group within the deadline; try again or ask for a weaker consistency"
    )]
    Timeout,
    /// Nothing recent enough is known here.
    #[error(
        "this node cannot show that its state is at most {bound:?} old; try again or ask another node"
    )]
    TooStale {
        /// What was asked for.
        bound: Duration,
    },
    /// The node holds as many waiting reads as it may.
    #[error("too many {resource}: the limit is {limit}; wait for answers and read again")]
    Overloaded {
        /// What there was not enough of.
        resource: Resource,
        /// How much there may be.
        limit: u64,
    },
    /// There is no checkpoint to read.
    #[error(
        "this node has no checkpoint yet, or keeps none because its durability is memory; read its present state"
    )]
    NoCheckpoint,
    /// The checkpoint could not be read.
    #[error("the checkpoint could not be read: {problem}")]
    Checkpoint {
        /// What is wrong, and what to do.
        problem: String,
    },
    /// What was decided at this index cannot be proved here.
    #[error("there is no proof of what was decided: {reason}")]
    NoProof {
        /// Why not.
        reason: String,
    },
    /// The decision of this frame is not kept any more: its session has ended or has settled it.
    #[error("the session has ended or has settled this serial; its decision is not kept any more")]
    Forgotten,
    /// No node of the cluster could be reached, as a client's node is another process.
    #[error("no node could be reached: {problem}")]
    Unreachable {
        /// What became of each attempt, and what to do.
        problem: String,
    },
    /// The node was closed.
    #[error("the node is closed")]
    Closed,
    /// The node stopped for good.
    #[error("the node stopped: {cause}")]
    Faulted {
        /// What happened, and what to do.
        cause: String,
    },
}

/// Why the members or the leader were not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum AdminError {
    /// The driver has nothing of the kind.
    #[error("driver {driver} has one node for ever; a driver with several nodes can do this")]
    Unsupported {
        /// The driver's name.
        driver: String,
    },
    /// Nothing was changed.
    #[error("refused: {reason}")]
    Refused {
        /// Why, and what to do.
        reason: String,
    },
    /// Another node leads, and forwarding is off; or no leader was found in time. Nothing was changed.
    #[error("this node does not lead; ask {}", leader_text(.leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// Not finished within the deadline, or the leader changed meanwhile: it may still be done. The status tells, and
    /// asking again for what is already so succeeds.
    #[error("not finished: {reason}; it may still be done, look at the status or ask again")]
    Unfinished {
        /// How far it got, or what it waits for.
        reason: String,
    },
    /// No node of the cluster could be reached, as a client's node is another process. Nothing was changed.
    #[error("no node could be reached: {problem}")]
    Unreachable {
        /// What became of each attempt, and what to do.
        problem: String,
    },
    /// The node was closed.
    #[error("the node is closed")]
    Closed,
    /// The node stopped for good.
    #[error("the node stopped: {cause}")]
    Faulted {
        /// What happened, and what to do.
        cause: String,
    },
}

/// Why a subscription could not begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SubscribeError {
    /// Frames after the cursor are no longer in the log. Read the state of `snapshot`, then subscribe after it.
    #[error("frames before {oldest} are no longer in the log; {}", snapshot_text(.snapshot))]
    Compacted {
        /// The oldest frame that can still be read.
        oldest: Position,
        /// The newest checkpoint, which can be read as pinned state; none if the node keeps no checkpoints.
        snapshot: Option<Position>,
    },
    /// The cursor names a position that the group has not reached.
    #[error(
        "cursor is after {asked}, but the group has only reached {reached}; is it of another cluster?"
    )]
    Ahead {
        /// What the cursor names.
        asked: Position,
        /// Where the group is.
        reached: Position,
    },
    /// The node holds as many subscriptions as it may.
    #[error("too many {resource}: the limit is {limit}; end another one first")]
    Overloaded {
        /// What there was not enough of.
        resource: Resource,
        /// How much there may be.
        limit: u64,
    },
    /// No node of the cluster could be reached, as a client's node is another process.
    #[error("no node could be reached: {problem}")]
    Unreachable {
        /// What became of each attempt, and what to do.
        problem: String,
    },
    /// The node was closed.
    #[error("the node is closed")]
    Closed,
    /// The node stopped for good.
    #[error("the node stopped: {cause}")]
    Faulted {
        /// What happened, and what to do.
        cause: String,
    },
}

fn snapshot_text(snapshot: &Option<Position>) -> String {
    snapshot.map_or_else(
        || {
            "this node keeps no checkpoints, so read its present state and subscribe from now"
                .into()
        },
        |snapshot| format!("read the state pinned at {snapshot} and subscribe after it"),
    )
}

/// A handler's own failure, which ends its subscription.
#[derive(Debug, thiserror::Error)]
#[error("handler failed: {0}")]
pub struct HandlerError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl HandlerError {
    /// Wraps what went wrong.
    pub fn new(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}

/// Why a node could not be opened. Nothing was changed on disk unless the message says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The configuration does not make sense.
    #[error("configuration: {problem}")]
    Config {
        /// What is wrong, where, and what would be right.
        problem: String,
    },
    /// The data directory cannot be used as it is.
    #[error("data directory {directory}: {problem}")]
    Directory {
        /// Which.
        directory: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The stored log or checkpoint is damaged.
    #[error("stored data is damaged: {problem}")]
    Corrupt {
        /// What, where, and what to do.
        problem: String,
    },
    /// The state machine could not be restored from its checkpoint.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The driver refused to start.
    #[error("driver {driver}: {problem}")]
    Driver {
        /// Which.
        driver: String,
        /// What is wrong, and what to do.
        problem: String,
    },
}

/// Why a state machine could not take over a checkpoint.
#[derive(Debug, thiserror::Error)]
#[error("checkpoint cannot be restored: {problem}")]
pub struct RestoreError {
    /// What is wrong with it.
    pub problem: String,
}

impl RestoreError {
    /// An error with this text.
    pub fn new(problem: impl Into<String>) -> Self {
        Self { problem: problem.into() }
    }
}

/// What went wrong while closing. The node is closed all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// The node had stopped for good before it was closed.
    #[error("the node had stopped before it was closed: {cause}")]
    Faulted {
        /// What happened, and what to do.
        cause: String,
    },
}
