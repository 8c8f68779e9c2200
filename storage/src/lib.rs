//! A durable segmented log shared by all groups, checkpoints, and the `Disk` they stand on.

mod disk;
mod log;
mod record;

pub use disk::{
    Disk, DiskFile, Fault, Keep, MemoryDisk, OpenMode, RealDisk, SECTOR_BYTES, SimDisk,
    is_power_cut,
};
pub use log::{Health, LOG_DIR, Log, LogConfig, LogError, LogMode, LogReader, Opening};
pub use record::{Body, Entry, Group, Index, Record, Recovered, Seq, Tag};
