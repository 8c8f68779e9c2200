//! Consensus as a pure state machine, and the host core that does the rest once for every driver.
//!
//! A driver author implements [`Engine`](engine::Engine) and [`EngineDriver`](engine::EngineDriver): who decides what,
//! and nothing else. [`HostCore`] turns any engine into a replicated group: frame pool and batching, sessions, log time,
//! ordered apply, read barriers, subscriptions, checkpoints and compaction, and offering again what a lost proposer left
//! behind. Neither has a thread, a clock, a socket or a file, so the simulator runs both as they are.

pub mod engine;

mod admin;
mod batch;
mod callers;
mod codec;
mod compaction;
mod config;
mod core;
mod effects;
mod forwarding;
mod history;
mod liveness;
mod log_clock;
mod pool;
mod proved;
mod reach;
mod reads;
mod sessions;
mod snapshot;
mod state;
mod stores;
mod subscriptions;
mod verdict;
mod wire;

pub use batch::{BatchEncoder, BatchError, BatchHead, DecodedBatch, Witness};
pub use callers::{Answer, Callers};
pub use config::{CheckpointPolicy, CoreConfig, Retain};
pub use core::{
    HandOver, HandOverError, HostCore, Inheritance, Start, StoredCheckpoint, panic_words,
};
pub use effects::{CheckpointJob, Effects, Fetch, FetchFor, Fetched, Sent};
pub use history::PayloadHash;
pub use liveness::Liveness;
pub use pool::HashedFrame;
pub use proved::ProvedBatch;
pub use reach::{MemberList, Reach};
pub use sessions::SessionLimits;
#[doc(hidden)]
pub use snapshot::fuzzing;
pub use snapshot::{
    SnapshotError, SnapshotHead, SnapshotOffer, SnapshotPlan, SnapshotSink, SnapshotSource,
};
pub use state::checkpoint_position;
pub use stores::{GroupStores, RecoveredCheckpoint, Stores, StoresConfig};
pub use subscriptions::{Chunk, SubscriptionId, SubscriptionOver};
pub use wire::{Forward, Packet, PacketError, Refusal, Refused};
