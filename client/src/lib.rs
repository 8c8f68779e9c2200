//! Clients of a cluster: programs that are no node, and speak to nodes over QUIC.
//!
//! ```text
//!   Kv, Session                                                        Replicator, Shards
//!       |                                                                     ^
//!   Client: Replicator --> Links --> Link ==== lane: calls  ====> Service ----+
//!                 |          |           ==== lane: pages  ====>
//!                 |          |           ==== lane: watch  <====   status, events
//!                 |          +-- connects, follows the leader, goes to another node
//!                 +-- subscriptions: a lane each
//! ```
//!
//! 1. **The same contract.** [`Client::replicator`] is a [`Replicator`](quorate_replicator::Replicator), and [`Client::kv`] is the
//!    [`Kv`](quorate_shard::Kv) of a node in this process: what is written against them does not change.
//! 2. **Any node will do.** A node that is lost, closed or faulted is left for another one, within the deadline of the
//!    call and under the same frame id, so that nothing happens twice.
//! 3. **Unknown is not refused.** Once a frame may have reached a node whose answer was lost, only a decision ends the
//!    call otherwise than as [`Decision::Timeout`](quorate_replicator::Decision::Timeout).
//! 4. **No node need be believed.** With the genesis of a cluster of validators in its configuration, a client returns an accept if a quorum of
//!    them has decided that frame at that position, and goes to another node otherwise. Replies, refusals and reads are a node's word.
//! 5. **Pipelined.** All calls share long-lived streams; answers come in any order, and long ones on a stream of their own.

mod call;
mod client;
mod config;
mod feed;
#[doc(hidden)]
pub mod fuzzing;
mod heights;
mod link;
mod links;
mod proofs;
mod protocol;
mod reads;
mod remote;
mod service;
mod subscribe;
mod trust;

pub use client::{Client, ClientError};
pub use config::ClientConfig;
pub use service::Service;
