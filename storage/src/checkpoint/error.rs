//! What can go wrong with checkpoints.

use std::io;
use std::sync::Arc;

use thiserror::Error;

use crate::Index;

/// What can go wrong with checkpoints.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The disk refused something while the file was opened.
    #[error("the checkpoint cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the disk said.
        source: Arc<io::Error>,
    },
    /// The file is gone between looking for it and opening it.
    #[error("there is no checkpoint file {path}")]
    Missing {
        /// Which.
        path: String,
    },
    /// The file is not what was written.
    #[error(
        "checkpoint {path} is damaged: {what}; restore the data directory from a backup or, in a \
         cluster, remove it and let this node join anew"
    )]
    Damaged {
        /// Which file.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// The log begins anew after a snapshot that is not there: part of the data directory was lost.
    #[error(
        "the log begins after a snapshot at index {reset}, and {path} is {found}; the newest checkpoint is at \
         index {newest}: restore the data directory from a backup or, in a cluster, remove it and let this node join anew"
    )]
    NoSnapshot {
        /// The last index of the snapshot.
        reset: Index,
        /// Where it should be.
        path: String,
        /// What is there instead.
        found: String,
        /// Of the newest checkpoint; 0 if there is none.
        newest: Index,
    },
    /// A later version wrote it.
    #[error(
        "checkpoint {path} has format {format}, this program knows format {known}: start it with \
         the version that wrote it, or a later one"
    )]
    Newer {
        /// Which file.
        path: String,
        /// Its format.
        format: u32,
        /// The newest that this program knows.
        known: u32,
    },
    /// A read or a write failed before, and nothing is written any more. The last complete checkpoint is found at the
    /// next open.
    #[error(
        "the checkpoint stopped when it could not {cause}; check the disk and start the node anew"
    )]
    Faulted {
        /// What failed first.
        cause: Arc<str>,
    },
    /// A checkpoint must not be older than the one it replaces.
    #[error("a checkpoint at index {index} is older than the newest at {newest}")]
    Older {
        /// Of the refused one.
        index: Index,
        /// Of the one that stays.
        newest: Index,
    },
    /// What was received is not what was sent.
    #[error("the received snapshot is not what was sent: {what}; ask for it again")]
    Mismatch {
        /// What differs.
        what: String,
    },
    /// Something reads a checkpoint, and must end first.
    #[error("the checkpoint is being read: try again when its readers are done")]
    Pinned,
}

impl CheckpointError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source: Arc::new(source) }
    }
}
