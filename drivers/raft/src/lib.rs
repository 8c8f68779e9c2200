//! The Raft driver: a majority of nodes decides, and any minority may fail.
//!
//! ```text
//!   propose at the leader ---> log ---> append to all ---> durable on a majority ---> deliver everywhere
//! ```
//!
//! The consensus is tikv's `raft` behind a private seam; log, encoding, identity and membership are ours. What it promises,
//! and how to run it, stands in `docs/raft.md`.
//!
//! 1. An entry is decided when it is durable on a majority of the voters (of both majorities while members are replaced).
//! 2. A node votes and acknowledges only what is durable there.
//! 3. A directory is one member for ever: a lost disk never votes under its old identity.
//! 4. No byte from outside reaches the core unchecked, and none reaches protobuf.

mod admin;
mod codec;
mod config;
mod core;
mod engine;
mod founding;
#[doc(hidden)]
pub mod fuzzing;
mod hello;
#[cfg(test)]
mod malformed;
mod members;
mod packing;
mod reads;
mod sleep;
mod status;
mod stored;
#[cfg(test)]
mod transcripts;

pub use config::RaftConfig;
pub use engine::{RaftDriver, RaftEngine};
