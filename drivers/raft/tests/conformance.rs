//! The Raft engine, judged by the suite that judges every engine.

use std::time::Duration;

use quorate_conformance::EngineFactory;
use quorate_conformance::engine::{CASES, engine};
use quorate_driver_raft::{RaftConfig, RaftDriver};

/// A group of this many nodes, that keeps what it need not keep, or nothing of it.
#[derive(Debug)]
struct Factory(usize, Keeps);

#[derive(Debug, PartialEq, Eq)]
enum Keeps {
    Much,
    /// Followers that lag are served from the log, and with snapshots.
    Nothing,
}

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
        if self.1 == Keeps::Nothing {
            config.cache_bytes = 0;
            config.catch_up_bytes = 0;
            config.snapshot_catch_up_bytes = 0;
        }
        config
    }

    fn changes_members(&self) -> bool {
        true
    }

    fn seeds(&self) -> u64 {
        match std::env::var("QUORATE_TEST_BUDGET").as_deref() {
            Ok("long") => 200,
            _ => 10,
        }
    }
}

macro_rules! groups {
    ($($name:ident: $nodes:expr, $keeps:ident;)*) => {
        $(#[test]
        fn $name() {
            assert_eq!(engine(Factory($nodes, Keeps::$keeps)), CASES);
        })*
    };
}

groups! {
    one_node_passes: 1, Much;
    two_nodes_pass: 2, Much;
    three_nodes_pass: 3, Much;
    four_nodes_pass: 4, Much;
    five_nodes_pass: 5, Much;
    six_nodes_pass: 6, Much;
    seven_nodes_pass: 7, Much;
    three_nodes_pass_that_keep_nothing: 3, Nothing;
    four_nodes_pass_that_keep_nothing: 4, Nothing;
}
