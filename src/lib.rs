#![doc = include_str!("../README.md")]
//!
//! # In this crate
//!
//! Everything of the contract, of [`shard`] and of the drivers that its Cargo features choose, behind one door.
//! [`Node`] opens a configured node inside a program, [`Config`] says what can be configured, and [`builtin`] lists the
//! drivers of this build.

#[cfg(feature = "audit")]
pub mod audit;
pub mod builtin;

mod config;
mod load;
mod located;
mod node;
#[cfg(feature = "quic")]
mod quic;
mod transports;

/// Certificates of nodes and clients, and the authority that makes them.
#[cfg(feature = "quic")]
pub mod certificates {
    pub use quorate_transport_quic::{
        Authority, CertificateInfo, CredentialError, Expiry, Identity, Issued, Secret, Subject,
        SubjectError, Validity,
    };
}

pub use config::{
    CheckpointConfig, Config, DriverConfig, LimitsConfig, LogConfig, NodeConfig, RetainConfig,
    ShardConfig, SnapshotConfig, TransportConfig,
};
pub use load::{ConfigBuilder, ConfigError, Explained, Origin};
pub use node::{Namespaces, Node, NodeBuilder, NodeError};
#[cfg(feature = "quic")]
pub use quic::QuicStatus;
/// Keys, certificates, and how they are verified.
#[cfg(feature = "audit")]
pub use quorate_certificate as certificate;
#[cfg(feature = "quic")]
pub use quorate_client::{Client, ClientConfig, ClientError};
pub use quorate_replicator::*;
pub use quorate_shard::{self as shard, Kv, Shards, kv};
#[cfg(feature = "quic")]
pub use quorate_transport_quic::QuicConfig;
pub use transports::{TransportKind, Transports};
