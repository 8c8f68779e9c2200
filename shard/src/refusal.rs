//! Why an operation changed nothing, in words that are equal on all nodes.

use serde::{Deserialize, Serialize};

/// Why an accepted operation was refused when it was applied. It changed nothing and took no revision.
///
/// This is what the whole cluster decided, so the same operation at the same place is refused on every node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The operation would have grown the state beyond its limit.
    #[error("state is full: it may hold {limit} bytes; delete something first")]
    StateFull {
        /// [`state_bytes_max`](crate::Limits::state_bytes_max).
        limit: u64,
    },
    /// The envelope is of a version that this cluster does not know.
    #[error(
        "operation has version {version}, and version {} is the newest known; upgrade all nodes first",
        crate::envelope::VERSION
    )]
    UnknownVersion {
        /// What the envelope says.
        version: u8,
    },
    /// No extension has operations of this kind.
    #[error("operation kind {kind} is unknown; is its service enabled on this cluster?")]
    UnknownKind {
        /// What the envelope says.
        kind: u16,
    },
    /// The bytes are no operation of their kind.
    #[error("operation is malformed: {problem}")]
    Malformed {
        /// What is wrong with it.
        problem: String,
    },
    /// A key is empty.
    #[error("key is empty; a key has at least one byte")]
    KeyEmpty,
    /// A key is too long.
    #[error("key has {bytes} bytes, at most {} are allowed", crate::limits::KEY_BYTES_MAX)]
    KeyTooLarge {
        /// Its length.
        bytes: u64,
    },
    /// A list or a number in the operation is larger than allowed.
    #[error("{what} is {count}, at most {limit} are allowed")]
    TooMany {
        /// Of what, for example "number of operations to do".
        what: String,
        /// How many.
        count: u64,
        /// The limit.
        limit: u64,
    },
    /// The values that the operation reads do not fit into a reply.
    #[error("values read are more than {limit} bytes in all; read fewer at once")]
    ReplyTooLarge {
        /// [`REPLY_BYTES_MAX`](crate::limits::REPLY_BYTES_MAX).
        limit: u64,
    },
    /// The extension's own refusal.
    #[error("refused by its service with code {code}: {detail}")]
    Other {
        /// The extension's code.
        code: u16,
        /// The extension's words; the same on all nodes.
        detail: String,
    },
}

impl Refusal {
    /// The bytes are no operation, for this reason.
    pub fn malformed(problem: impl Into<String>) -> Self {
        Self::Malformed { problem: problem.into() }
    }
}
