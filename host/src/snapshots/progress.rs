//! How far a snapshot has got, for those who watch.

use std::fmt;

use quorate_replicator::NodeId;
use quorate_storage::Index;

/// How far a snapshot has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotProgress {
    /// The other node.
    pub peer: NodeId,
    /// Which way it goes.
    pub way: SnapshotWay,
    /// Its last index.
    pub index: Index,
    /// Bytes that have gone or come.
    pub done: u64,
    /// All bytes; 0 while they are being counted, or before its turn.
    pub bytes: u64,
}

/// Which way a snapshot goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "there are two ends")]
pub enum SnapshotWay {
    /// To the peer.
    Out,
    /// From the peer.
    In,
}

impl fmt::Display for SnapshotProgress {
    /// As a status says it: `snapshot at index 7: 12 of 40 MiB sent`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { way, index, done, bytes, .. } = *self;
        if bytes == 0 {
            return write!(f, "snapshot at index {index}: not begun");
        }
        let what = match way {
            SnapshotWay::Out => "sent",
            SnapshotWay::In => "received",
        };
        let (unit, name) = if bytes < 10 << 20 { (1 << 10, "KiB") } else { (1 << 20, "MiB") };
        write!(
            f,
            "snapshot at index {index}: {} of {} {name} {what}",
            done / unit,
            bytes.div_ceil(unit)
        )
    }
}
