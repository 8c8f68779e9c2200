//! Many lives of small groups: everything fails, and the members change. `QUORATE_TEST_BUDGET=long` lives through 2,000 of each,
//! `QUORATE_SIM_SEEDS` says another number.

use std::time::Duration;

use quorate_conformance::EngineFactory;
use quorate_conformance::engine::{
    a_life_of_faults_keeps_every_rule, a_lost_disk_never_votes_again, members_change_under_faults,
    one_way_cuts_are_survived, who_was_away_is_brought_up,
};
use quorate_driver_raft::{RaftConfig, RaftDriver};

/// A group of this many nodes, which keeps so much of its log for those who lag.
#[derive(Debug)]
struct Factory(usize, u64);

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
        config.election_timeout = Duration::from_millis(150);
        config.heartbeat_interval = Duration::from_millis(30);
        config.catch_up_bytes = self.1;
        config.snapshot_catch_up_bytes = self.1;
        config.cache_bytes = 0;
        config
    }

    fn changes_members(&self) -> bool {
        true
    }

    fn seeds(&self) -> u64 {
        let long = std::env::var("QUORATE_TEST_BUDGET").is_ok_and(|budget| budget == "long");
        let said = std::env::var("QUORATE_SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
        said.unwrap_or(if long { 2_000 } else { 10 })
    }
}

#[test]
fn three_nodes_live_on_with_snapshots() {
    members_change_under_faults(&Factory(3, 0));
    who_was_away_is_brought_up(&Factory(3, 0));
}

#[test]
fn five_nodes_live_on_with_what_the_log_keeps() {
    members_change_under_faults(&Factory(5, 1 << 20));
    one_way_cuts_are_survived(&Factory(5, 1 << 20));
}

#[test]
fn four_nodes_live_on_without_a_disk() {
    a_lost_disk_never_votes_again(&Factory(4, 0));
    a_life_of_faults_keeps_every_rule(&Factory(4, 0));
}
