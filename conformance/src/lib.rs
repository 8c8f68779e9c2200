//! Public suites that every driver, transport and log must pass.
//!
//! Each suite is one function that takes a factory and panics at the first clause of the contract that does not hold;
//! its message begins with the name of the case and says which clause is broken. Each case can also be called alone, by
//! its own name, which is how to look into one that fails.
//!
//! | suite | judges | factory |
//! | --- | --- | --- |
//! | [`transport()`](transport::transport) | [`Transport`](quorate_replicator::Transport) | [`TransportFactory`] |
//! | [`replicator()`](replicator::replicator) | [`Replicator`](quorate_replicator::Replicator) | [`ReplicatorFactory`] |
//! | [`engine()`](engine::engine) | [`Engine`](quorate_engine::engine::Engine) | [`EngineFactory`] |
//!
//! Beside them is what tests of several crates share: [`linearizable()`](linearizable::linearizable) judges what clients were told of keys
//! and values, [`until`] waits for what must come, and [`each_source`] shows the sources of a crate to who judges what they name.
//!
//! The suite of engines is synchronous and runs in virtual time. The others run on a tokio runtime with time enabled, of
//! either flavour.

pub mod engine;
pub mod linearizable;
pub mod replicator;
pub mod transport;

mod eventually;
mod sources;

pub use engine::EngineFactory;
pub use eventually::until;
pub use replicator::{Cluster, MachineMaker, ReplicatorFactory};
pub use sources::each_source;
pub use transport::{Network, TransportFactory};
