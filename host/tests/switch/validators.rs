//! To and from a group of one validator.

use quorate_driver_quorum::QuorumConfig;
use quorate_host::{SwitchError, SwitchOptions};
use quorate_replicator::{Durability, OpenError};
use quorate_shard::Shards;

use crate::life::{Home, Kind, Told, node, validators};
use crate::raft_cluster::Nodes;
use crate::subscribers::compacted;
use crate::{End, end, switch};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_goes_on_from_driver_to_driver() {
    let directory = tempfile::tempdir().unwrap();
    let mut home = Home::new(directory.path().join("n1"));
    home.config.groups = 2;
    home.config.checkpoint.log_bytes = 4 << 10;
    let mut told = Told::new(100);
    let mut before = None;
    // Between two lives under one driver it has to let go of the directory first.
    let lives = [
        (Kind::Local, End::Close),
        (Kind::Quorum, End::Drop),
        (Kind::Raft, End::Close),
        (Kind::Quorum, End::Close),
        (Kind::Quorum, End::Drop),
        (Kind::Local, End::Close),
    ];
    for (kind, how) in lives {
        if let Some(before) = before.filter(|before| *before != kind) {
            switch(&home, before, kind).await;
        }
        before = Some(kind);
        let (node, shards) = home.open(kind).await.unwrap();
        told.open_session(&node).await;
        told.repeat(&node).await;
        told.put(&node, 300).await;
        told.repeat(&node).await;
        told.check(&node, &shards).await;
        end(node, how).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_genesis_of_several_or_of_another_node_or_key_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut home = Home::new(directory.path().join("n1"));
    let mut told = Told::new(100);
    let (local, _) = home.open(Kind::Local).await.unwrap();
    told.open_session(&local).await;
    told.put(&local, 10).await;
    local.close().await.unwrap();
    home.quorum = validators(4);
    let several = home.switch_from(Kind::Local, Kind::Quorum, &SwitchOptions::default());
    let Err(SwitchError::Open(OpenError::Driver { problem, .. })) = several else {
        panic!("{several:?}");
    };
    for part in ["n1, n2, n3 and n4 as validators", "--from DATA --nodes n1=HOST:PORT"] {
        assert!(problem.contains(part), "{problem}");
    }
    let (local, shards) = home.open(Kind::Local).await.unwrap();
    told.repeat(&local).await;
    told.check(&local, &shards).await;
    local.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_several_validators_cannot_know_all_unless_it_is_told_to_go_on_from_what_it_has() {
    let maker = Box::new(|| Box::new(Shards::builder().build().0) as _);
    let driver = (validators(4), QuorumConfig::default());
    let cluster = Nodes::with_driver(driver, 4, Durability::Disk, maker).open().await;
    let mut told = Told::new(100);
    let one = cluster.node(node(1));
    told.open_session(&one).await;
    told.put(&one, 30).await;
    drop(one);
    cluster.stop(node(1)).await;
    // What comes now n1 does not hear of.
    let had = told.clone();
    told.put(&cluster.node(node(2)), 20).await;
    let mut home = Home::new(cluster.path(node(1)));
    home.config = cluster.config.clone();
    home.quorum = cluster.driver.clone();
    cluster.close().await;

    let error = home.switch_from(Kind::Quorum, Kind::Local, &SwitchOptions::default()).unwrap_err();
    let words = error.to_string();
    assert!(matches!(error, SwitchError::Unsure { .. }), "{words}");
    for part in
        ["one of 4 validators (n1, n2, n3 and n4)", "member remove n2`", "--from-this-replica"]
    {
        assert!(words.contains(part), "{words}");
    }
    let mut options = SwitchOptions::default();
    options.from_this_replica = true;
    let report = home.switch_from(Kind::Quorum, Kind::Local, &options).unwrap();
    let group = &report.groups[0];
    assert!(group.missing.as_ref().unwrap().contains("one of 4 validators"), "{group:?}");
    assert_eq!(group.left_behind, [node(2), node(3), node(4)]);
    // Everything that n1 had answered is there.
    let (local, shards) = home.open(Kind::Local).await.unwrap();
    let mut had = had;
    had.repeat(&local).await;
    assert_eq!(compacted(&local, told.cursor()).await, group.position);
    had.put(&local, 10).await;
    had.check(&local, &shards).await;
    local.close().await.unwrap();
}
