//! The quorum-vote driver: signed votes, Byzantine tolerance, decisions that anyone can verify.
//!
//! ```text
//!   propose ---> prevotes of a quorum ---> precommits of a quorum ---> certificate, deliver everywhere
//! ```
//!
//! The consensus is Tendermint, from Malachite's core behind a private seam; signatures, journal, catching up, encoding and identity
//! are ours. What it promises, and how to run it, stands in `docs/quorum.md`.
//!
//! 1. A batch is decided when validators with a quorum of the power have precommitted to it in one round; their signatures are its
//!    certificate, and stand beside it in the log.
//! 2. Nothing is said that is not durable: what a vote is for, then the vote, then the message. A node that begins anew says again
//!    what it has said.
//! 3. What another node says is believed as far as it is signed by a quorum, and no further.

mod calls;
mod codec;
mod config;
mod engine;
mod inspection;
mod keys;
mod mark;
mod message;
mod setup;
#[doc(hidden)]
pub mod simulation;
mod stored;
mod tendermint;

pub use config::QuorumConfig;
pub use engine::{QuorumDriver, QuorumEngine};
pub use setup::Setup;
pub use stored::{changes_in, evidence_in};
