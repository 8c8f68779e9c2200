//! The whole node on one thread: real host core, engine, log, checkpoints, codec, sessions and KV, on a virtual clock and a
//! simulated disk, all from one seed.
//!
//! ```text
//!   seed ---> scenario: clients, time, faults
//!                |                    ^
//!                v                    | answers, accepted frames
//!   Node: HostCore - Log - CheckpointStore - ShardMachine
//!                |                              Oracle: what must be true of all this
//!                v
//!             SimDisk: power cuts, torn sectors, EIO, ENOSPC
//! ```
//!
//! [`run`] lives through one seed; [`sweep()`] cuts the power at every operation of the disk in a small workload. A
//! violation names its seed, and the seed replays it.

mod call_keys;
mod client;
mod cluster;
mod copies;
mod counters;
mod judge;
mod node;
mod oracle;
mod registers;
mod scenario;
mod sweep;
mod switching;

pub use cluster::{
    Changed, ClusterReport, Control, Group, QuorumSubject, RaftSubject, Scenario, Subject,
    run_cluster,
};
pub use oracle::Violation;
pub use scenario::{Report, run};
pub use sweep::{Sweep, sweep, sweep_validators};
