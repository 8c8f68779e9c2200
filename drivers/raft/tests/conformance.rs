//! The Raft engine, judged by the suite that judges every engine.

use std::time::Duration;

use quorate_conformance::EngineFactory;
use quorate_conformance::engine::{CASES, engine};
use quorate_driver_raft::{RaftConfig, RaftDriver};

/// A group of this many nodes.
#[derive(Debug)]
struct Factory(usize);

impl EngineFactory for Factory {
    type Driver = RaftDriver;

    fn nodes(&self) -> usize {
        self.0
    }

    fn driver(&self) -> RaftDriver {
        RaftDriver
    }

    fn config(&self) -> RaftConfig {
        let mut config = RaftConfig::default();
        config.election_timeout = Duration::from_millis(200);
        config.heartbeat_interval = Duration::from_millis(40);
        config
    }

    fn seeds(&self) -> u64 {
        match std::env::var("QUORATE_TEST_BUDGET").as_deref() {
            Ok("long") => 200,
            _ => 10,
        }
    }
}

macro_rules! groups {
    ($($name:ident: $nodes:expr),* $(,)?) => {
        $(#[test]
        fn $name() {
            assert_eq!(engine(Factory($nodes)), CASES);
        })*
    };
}

groups! {
    one_node_passes: 1,
    two_nodes_pass: 2,
    three_nodes_pass: 3,
    four_nodes_pass: 4,
    five_nodes_pass: 5,
    six_nodes_pass: 6,
    seven_nodes_pass: 7,
}
