//! A cluster of validators in one process, over the memory transport.

#![allow(dead_code, reason = "each test uses what it needs")]

#[path = "cluster.rs"]
mod cluster;

use std::sync::Arc;
use std::time::Duration;

use quorate_certificate::{FaultModel, Genesis, Scheme, SigningKey, Validator};
use quorate_driver_quorum::{QuorumConfig, QuorumDriver, Setup};
use quorate_replicator::{Durability, NodeId};

pub(crate) use cluster::Maker;
use cluster::Nodes;

/// Validators 1 to n, each with a directory and a key of its own.
pub(crate) type QuorumCluster = Nodes<QuorumDriver>;

/// Long enough for a machine with other work, on which all nodes run.
pub(crate) fn quorum_config() -> QuorumConfig {
    let mut config = QuorumConfig::default();
    config.propose_timeout = Duration::from_millis(500);
    config.prevote_timeout = Duration::from_millis(250);
    config.precommit_timeout = Duration::from_millis(250);
    config
}

impl QuorumCluster {
    pub(crate) fn new(
        count: u64,
        model: FaultModel,
        durability: Durability,
        machine: Maker,
    ) -> Self {
        let (_, driver) = found(count, model);
        Self::with_driver((driver, quorum_config()), count, durability, machine)
    }
}

/// The genesis of so many validators, and a driver that has their keys.
pub(crate) fn found(count: u64, model: FaultModel) -> (Genesis, QuorumDriver) {
    found_with(count, model, |genesis| genesis)
}

/// The same, with another genesis than usual.
pub(crate) fn found_with(
    count: u64,
    model: FaultModel,
    change: impl Fn(Genesis) -> Genesis,
) -> (Genesis, QuorumDriver) {
    let keys: Vec<_> =
        (0..count).map(|_| Arc::new(SigningKey::generate(Scheme::Ed25519).unwrap())).collect();
    let validators =
        (1..).zip(&keys).map(|(node, key)| Validator { node, power: 1, key: key.public().clone() });
    let genesis = Genesis::new([7; 16], model, Scheme::Ed25519, 500, validators.collect()).unwrap();
    let genesis = change(genesis);
    let driver = QuorumDriver::with_setups(
        (1..).zip(keys).map(|(node, key)| (NodeId::new(node), Setup::new(genesis.clone(), key))),
    );
    (genesis, driver)
}
