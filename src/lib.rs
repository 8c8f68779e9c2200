//! quorate, a pluggable replication framework: the whole house behind one door.
//!
//! This crate gathers the contract, the key-value state and the drivers that its Cargo features choose. [`Node`]
//! opens a configured node inside a program; [`Config`] says what can be configured; [`builtin`] lists the drivers.

pub mod builtin;

mod config;
mod load;
mod located;
mod node;
mod transports;

pub use config::{
    CheckpointConfig, Config, DriverConfig, LimitsConfig, LogConfig, NodeConfig, RetainConfig,
    ShardConfig, TransportConfig,
};
pub use load::{ConfigBuilder, ConfigError, Explained, Origin};
pub use node::{Node, NodeBuilder, NodeError};
pub use quorate_replicator::*;
pub use transports::{TransportKind, Transports};
