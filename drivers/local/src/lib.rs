//! The local driver: one node, a batch is committed once it is durable.
//!
//! ```text
//!   propose ---> put at the next index ---> durable ---> deliver
//! ```
//!
//! The path of a frame is that of every driver - pool, batch, log, apply - and only the vote is missing. So a service
//! that starts on one machine keeps its code, its data and its guarantees when it grows.
//!
//! 1. Every put is a decision: there is one candidate for an index, with the tag zero.
//! 2. A batch is delivered when its put is durable, in the order of the indexes.

mod config;
mod engine;

pub use config::LocalConfig;
pub use engine::{Local, LocalEngine};
