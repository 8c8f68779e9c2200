//! The quorum engine, judged by the suite that judges every engine.

use std::sync::Arc;

use quorate_certificate::{
    FaultModel, Genesis, Motion, Scheme, SigningKey, Validator, ValidatorChange,
};
use quorate_conformance::EngineFactory;
use quorate_conformance::engine::{CASES, engine};
use quorate_driver_quorum::{QuorumConfig, QuorumDriver, Setup};
use quorate_replicator::{MemberChange, MemberRole, NodeId};

/// Most nodes that a case adds.
const NEWCOMERS: u8 = 8;

/// A group of this many validators, against these faults.
#[derive(Debug)]
struct Factory {
    model: FaultModel,
    nodes: usize,
    keys: Vec<Arc<SigningKey>>,
}

impl Factory {
    fn new(nodes: u8, model: FaultModel) -> Self {
        let key = |number| {
            // The scheme's number, and then the secret.
            let bytes = [vec![1], vec![number; 32]].concat();
            Arc::new(SigningKey::from_bytes(&bytes).unwrap())
        };
        // Those of nodes that come later, too.
        let keys = (1..=nodes + NEWCOMERS).map(key).collect();
        Self { model, nodes: nodes.into(), keys }
    }

    fn genesis(&self) -> Genesis {
        let founders = (1..).zip(&self.keys).take(self.nodes);
        let validators =
            founders.map(|(node, key)| Validator { node, power: 1, key: key.public().clone() });
        Genesis::new([7; 16], self.model, Scheme::Ed25519, 500, validators.collect()).unwrap()
    }
}

impl EngineFactory for Factory {
    type Driver = QuorumDriver;

    fn nodes(&self) -> usize {
        self.nodes
    }

    fn driver(&self) -> QuorumDriver {
        let genesis = self.genesis();
        QuorumDriver::with_setups(
            (1..).zip(&self.keys).map(|(node, key)| {
                (NodeId::new(node), Setup::new(genesis.clone(), Arc::clone(key)))
            }),
        )
    }

    fn changes_members(&self) -> bool {
        // Fewer cannot have one in the place of another in one step, and what holds of four holds of more.
        self.nodes == 4 && self.model == FaultModel::Byzantine
    }

    fn change(&self, change: MemberChange) -> Option<MemberChange> {
        let add = |node: NodeId, address: String| {
            let key = self.keys.get(node.number() as usize - 1).expect("each node has a key");
            let chain = self.genesis().key_chain();
            let change = ValidatorChange::add(&chain, node.number(), 1, key).unwrap();
            (change, (node, address))
        };
        let remove = |node: NodeId| ValidatorChange::Remove { node: node.number() };
        let (changes, new) = match change {
            MemberChange::Add { node, address, role: MemberRole::Voter } => {
                let (change, new) = add(node, address);
                (vec![change], vec![new])
            }
            MemberChange::Remove { node } => (vec![remove(node)], Vec::new()),
            MemberChange::Replace { old, new, address } => {
                let (change, new) = add(new, address);
                (vec![remove(old), change], vec![new])
            }
            _ => return None,
        };
        let addresses = new.iter().map(|(node, address)| (node.number(), address.clone()));
        let motion = Motion::new(changes, addresses.collect()).unwrap();
        Some(MemberChange::Approve { change: motion.encode(), new })
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
