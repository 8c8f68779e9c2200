//! A Raft cluster in one process, over the memory transport.

#![allow(dead_code, reason = "each test uses what it needs")]

#[path = "cluster.rs"]
mod cluster;

use std::time::Duration;

use quorate_driver_raft::{RaftConfig, RaftDriver};
use quorate_replicator::Durability;

pub(crate) use cluster::{Maker, Nodes};

/// Nodes 1 to n, each with a directory of its own.
pub(crate) type RaftCluster = Nodes<RaftDriver>;

/// Short, since tests wait for elections; long enough for a machine with other work.
pub(crate) fn raft_config() -> RaftConfig {
    let mut config = RaftConfig::default();
    config.election_timeout = Duration::from_millis(300);
    config.heartbeat_interval = Duration::from_millis(60);
    config
}

impl RaftCluster {
    pub(crate) fn new(count: u64, durability: Durability, machine: Maker) -> Self {
        Self::with_driver((RaftDriver, raft_config()), count, durability, machine)
    }
}
