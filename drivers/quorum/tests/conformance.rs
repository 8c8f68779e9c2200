//! The quorum engine, judged by the suite that judges every engine.

use std::sync::Arc;

use quorate_certificate::{FaultModel, Genesis, Scheme, SigningKey, Validator};
use quorate_conformance::EngineFactory;
use quorate_conformance::engine::{CASES, engine};
use quorate_driver_quorum::{QuorumConfig, QuorumDriver, Setup};
use quorate_replicator::NodeId;

/// A group of this many validators, against these faults.
#[derive(Debug)]
struct Factory {
    model: FaultModel,
    keys: Vec<Arc<SigningKey>>,
}

impl Factory {
    fn new(nodes: u8, model: FaultModel) -> Self {
        let key = |number| {
            // The scheme's number, and then the secret.
            let bytes = [vec![1], vec![number; 32]].concat();
            Arc::new(SigningKey::from_bytes(&bytes).unwrap())
        };
        Self { model, keys: (1..=nodes).map(key).collect() }
    }

    fn genesis(&self) -> Genesis {
        let validators = (1..).zip(&self.keys).map(|(node, key)| Validator {
            node,
            power: 1,
            key: key.public().clone(),
        });
        Genesis::new([7; 16], self.model, Scheme::Ed25519, 500, validators.collect()).unwrap()
    }
}

impl EngineFactory for Factory {
    type Driver = QuorumDriver;

    fn nodes(&self) -> usize {
        self.keys.len()
    }

    fn driver(&self) -> QuorumDriver {
        let genesis = self.genesis();
        QuorumDriver::with_setups(
            (1..).zip(&self.keys).map(|(node, key)| {
                (NodeId::new(node), Setup::new(genesis.clone(), Arc::clone(key)))
            }),
        )
    }

    fn config(&self) -> QuorumConfig {
        QuorumConfig::default()
    }

    fn seeds(&self) -> u64 {
        match std::env::var("QUORATE_TEST_BUDGET").as_deref() {
            Ok("long") => 100,
            _ => 4,
        }
    }
}

macro_rules! groups {
    ($($name:ident: $nodes:expr, $model:ident;)*) => {
        $(#[test]
        fn $name() {
            assert_eq!(engine(Factory::new($nodes, FaultModel::$model)), CASES);
        })*
    };
}

groups! {
    one_node_passes: 1, Byzantine;
    two_nodes_pass: 2, Byzantine;
    three_nodes_pass: 3, Byzantine;
    four_nodes_pass: 4, Byzantine;
    five_nodes_pass: 5, Byzantine;
    seven_nodes_pass: 7, Byzantine;
    one_node_passes_where_nobody_lies: 1, Crash;
    two_nodes_pass_where_nobody_lies: 2, Crash;
    three_nodes_pass_where_nobody_lies: 3, Crash;
    five_nodes_pass_where_nobody_lies: 5, Crash;
}
