//! What can go wrong with a log.

use std::io;
use std::sync::Arc;

use thiserror::Error;

use crate::{Group, Index};

/// What can go wrong with a log.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum LogError {
    /// The disk refused something while the log was opened or read. Nothing is lost by trying again.
    #[error("the log cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the disk said.
        source: Arc<io::Error>,
    },
    /// Bytes that were durable are not what was written: not a torn tail, and never cut off silently.
    #[error(
        "the log is damaged at byte {offset} of segment {segment}{}: {what}; restore the data \
         directory from a backup or, in a cluster, remove it and let this node join anew",
        .group.map(|group| format!(" (group {})", group.number())).unwrap_or_default()
    )]
    Corrupt {
        /// Number of the segment file.
        segment: u64,
        /// Where in it.
        offset: u64,
        /// Whose record, if that is known.
        group: Option<Group>,
        /// What is wrong.
        what: String,
    },
    /// The log was written by a later version.
    #[error(
        "{file} has log format {version} with features {features:#x}, this program knows format \
         {known}: start it with the version that wrote it, or a later one"
    )]
    Newer {
        /// Which file.
        file: String,
        /// Its format version.
        version: u32,
        /// Features that a reader has to know.
        features: u32,
        /// The newest version that this program knows.
        known: u32,
    },
    /// A segment belongs to another store.
    #[error(
        "{file} belongs to another store: somebody mixed two data directories; put back the \
         files of one of them"
    )]
    OtherStore {
        /// Which file.
        file: String,
    },
    /// There is no log, and none was to be created.
    #[error("there is no log in {dir}: check the data directory, it may have been wiped")]
    Missing {
        /// Where.
        dir: String,
    },
    /// A configuration that makes no sense.
    #[error("the log's configuration is wrong: {what}")]
    Config {
        /// What is wrong.
        what: String,
    },
    /// A write or a sync failed before, and nothing has been written since. What was submitted and not reported as
    /// durable may or may not be there after the next open.
    #[error("the log stopped when it could not {cause}; check the disk and start the node anew")]
    Faulted {
        /// What failed first.
        cause: Arc<str>,
    },
    /// There is no room on the disk for this, and nothing of it has been taken. It will be taken again when there is room.
    #[error("the disk of the log is full: free some space, the log goes on by itself")]
    Full,
    /// More is waiting than the log may hold; nothing of this has been taken.
    #[error("the log has {queued} bytes waiting, at most {max} may wait: try again later")]
    Overloaded {
        /// How many bytes wait.
        queued: usize,
        /// The limit.
        max: usize,
    },
    /// A record that no segment can hold; nothing of the submission has been taken.
    #[error("a record of {bytes} bytes is too large for the log, {max} is the most")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// A record so far above the last entry of its group that an engine must have lost count; nothing of the
    /// submission has been taken.
    #[error("a record at index {index} is far above the last entry {last} of group {}", .group.number())]
    Gap {
        /// Whose.
        group: Group,
        /// Where it would be.
        index: Index,
        /// The last entry of the group.
        last: Index,
    },
    /// The log was opened for reading only.
    #[error("the log was opened for reading only")]
    ReadOnly,
    /// What was to be read is no longer kept.
    #[error("the log begins at index {first}: read what is older from a checkpoint")]
    Trimmed {
        /// The first index that is kept.
        first: Index,
    },
    /// The log has been closed.
    #[error("the log is closed")]
    Closed,
}

impl LogError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source: Arc::new(source) }
    }
}
