//! The tokio shell around a host core: threads, channels and files. It takes no decision of its own.
//!
//! ```text
//!   tasks: propose, read, subscribe          subscribers' tasks
//!        |  inbox (bounded)                     ^  chunks
//!        v                                      |
//!   engine thread: HostCore::turn ------------- + ----> answers (oneshot)
//!        |  writes          ^ durable     |         \
//!        v                  |             v          v
//!   log thread: write, sync +      checkpoint thread  reader thread (log, for slow subscribers)
//! ```
//!
//! 1. One thread owns the core; everyone else sends it messages.
//! 2. What the core writes goes to the log in its order, or the group stops.
//! 3. Closing ends the threads in the order of the arrows and releases the data directory last.

mod config;
mod engine_thread;
mod files;
mod hosted;
mod inbox;
mod listeners;
mod network;
mod node;
mod pinned;
mod proved;
mod shared;
mod snapshots;
mod subscriber;
mod switch;
mod sync;
mod verify;
mod waiters;
mod workers;

pub use config::HostConfig;
pub use hosted::Hosted;
pub use quorate_engine::{CheckpointPolicy, Retain, SessionLimits};
pub use quorate_storage::{Disk, LogConfig};
pub use snapshots::{
    OnSnapshot, SnapshotProgress, SnapshotReport, SnapshotWay, Snapshots, SnapshotsConfig,
};
pub use switch::{
    GroupSwitched, Held, Leaving, MakeMachine, SwitchError, SwitchOptions, SwitchReport, held,
};
pub use verify::VerifyReport;
