//! A durable segmented log shared by all groups, checkpoints, and the `Disk` they stand on.

mod record;

pub use record::{Body, Entry, Group, Index, Record, Recovered, Seq, Tag};
