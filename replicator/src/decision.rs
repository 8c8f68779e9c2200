//! What became of a frame.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::Position;

/// What became of a frame.
///
/// `Accept` and `Reject` are what the cluster agreed and are equal on all nodes. `Timeout` and `Undecided`
/// are what this node knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(
    clippy::exhaustive_enums,
    reason = "the four values of the contract; every caller must handle each"
)]
pub enum Decision {
    /// Committed, and applied on the answering node in log order.
    Accept(Commit),
    /// A committed outcome of this id with this payload: it was not applied and never will be.
    Reject(Rejection),
    /// The wait ended and the outcome is unknown. Ask [`decision`](crate::Replicator::decision), or propose
    /// the same frame again: it happens at most once.
    Timeout,
    /// In flight, or never seen. Only [`decision`](crate::Replicator::decision) answers this.
    Undecided,
}

impl Decision {
    /// The commit, if the frame was accepted.
    pub fn accepted(self) -> Option<Commit> {
        match self {
            Self::Accept(commit) => Some(commit),
            Self::Reject(_) | Self::Timeout | Self::Undecided => None,
        }
    }
}

/// Where an accepted frame stands and what the state machine answered. Two are equal if these are: nodes have different proofs of the
/// same decision.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Commit {
    /// The place of the first acceptance; a repetition is told the same place.
    pub position: Position,
    /// The state machine's words.
    pub reply: Reply,
    /// That the frame was decided at its position, as `quorate audit FILE` verifies it. From a client that asks for proofs,
    /// which has verified it; a node in this process is believed without. It does not prove the reply.
    #[serde(default)]
    pub proof: Option<Bytes>,
}

impl PartialEq for Commit {
    fn eq(&self, other: &Self) -> bool {
        (self.position, &self.reply) == (other.position, &other.reply)
    }
}

impl Eq for Commit {}

/// The state machine's answer to an accepted frame. Its own refusals (a compare that failed) travel here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::exhaustive_enums, reason = "a reply is known or not")]
pub enum Reply {
    /// What the state machine answered.
    Known(Bytes),
    /// The frame was decided earlier, and its reply was longer than
    /// [`REPLY_KEPT_BYTES_MAX`](crate::limits::REPLY_KEPT_BYTES_MAX) or had to make room: read the state.
    Forgotten,
}

impl Reply {
    /// The bytes, unless they are forgotten.
    pub fn bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Known(bytes) => Some(bytes),
            Self::Forgotten => None,
        }
    }
}

/// A decided batch as a node keeps it, with what proves to others that it was decided. What the bytes are is the driver's matter;
/// those of driver `quorum` are verified by `quorate-certificate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::exhaustive_structs, reason = "three encodings, whatever the driver")]
pub struct DecidedBatch {
    /// What the batch says about itself.
    pub head: Bytes,
    /// What it carries.
    pub body: Bytes,
    /// The proof.
    pub proof: Bytes,
}

/// Why a frame was decided as rejected. Final, and the same on all nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The same id was decided before with another payload; that first decision stands.
    #[error(
        "frame id was used before with another payload, and that first decision stands; use a new serial"
    )]
    IdReused,
    /// The frame's `valid_until` had passed when it was decided.
    #[error("frame was not decided before its valid_until passed")]
    Expired,
    /// The validators decided that the frame is not allowed.
    #[error("validators refused the frame: {reason}")]
    Refused {
        /// In the words of [`StateMachine::validate`](crate::StateMachine::validate); "forgotten", if it is told long after and its session
        /// had more to remember than it may.
        reason: String,
    },
}
