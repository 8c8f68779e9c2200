//! What can go wrong with a snapshot on its way.

use quorate_storage::CheckpointError;

/// What can go wrong with a snapshot on its way. Nothing that is in force is touched by any of it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// A byte is not what a source wrote.
    #[error("the snapshot is damaged before byte {at}: {what}; it has to be sent anew")]
    Damaged {
        /// Where in the stream this was noticed.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// A later version wrote it.
    #[error(
        "the snapshot has format {version}, this program knows format {known}: bring this node to the version of the \
         node that sends it"
    )]
    Newer {
        /// Its format.
        version: u32,
        /// The newest that this program knows.
        known: u32,
    },
    /// It is a good snapshot, but not the one that was offered.
    #[error("the snapshot is not the one that was offered: {what}")]
    NotOffered {
        /// What differs.
        what: String,
    },
    /// It ends too early.
    #[error("{received} bytes of a snapshot of {bytes} came; it has to be sent on")]
    Incomplete {
        /// What came.
        received: u64,
        /// What was offered.
        bytes: u64,
    },
    /// A pair, the host's words or the engine's mark of this checkpoint are larger than a snapshot may hold.
    #[error("{what} has {bytes} bytes, a snapshot takes at most {limit}; keep it in several pairs")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its bytes.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Something failed before, and nothing is taken any more.
    #[error("the snapshot was given up before")]
    Ended,
    /// The checkpoint could not be read, or the stage not be written.
    #[error(transparent)]
    Store(#[from] CheckpointError),
}
