//! A durable segmented log shared by all groups, checkpoints, and the `Disk` they stand on.
//!
//! ```text
//!             DataDir                 whose data is it? LOCK, MANIFEST
//!            /       \
//!   Log, LogReader   CheckpointStore
//!            \       /
//!              Disk                   RealDisk, MemoryDisk, SimDisk
//! ```
//!
//! A node opens its [`DataDir`], then the [`CheckpointStore`] of each group, then the [`Log`] with the largest
//! watermark the checkpoints name. [`Log`] is stepped by its caller, so that the simulator drives the same code as
//! a node does.

mod checkpoint;
mod data_dir;
mod disk;
mod log;
mod record;

pub use checkpoint::{
    Changes, CheckpointError, CheckpointMeta, CheckpointMode, CheckpointStore, CheckpointWrite,
    Pin, Stage, Staged, Summary, Tally,
};
pub use data_dir::{CHECKPOINT_DIR, DataDir, DataDirError, DataMode, Hex, Identity};
pub use disk::{
    Disk, DiskFile, Fault, Keep, MemoryDisk, OpenMode, RealDisk, SECTOR_BYTES, SimDisk,
    is_power_cut,
};
#[doc(hidden)]
pub use log::fuzzing;
pub use log::{
    Health, LOG_DIR, Log, LogConfig, LogError, LogMode, LogReader, LogThread, OnDurable, Opening,
};
pub use record::{Body, Entry, Group, Index, Record, Recovered, Seq, Tag};
