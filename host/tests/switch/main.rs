//! A directory goes from driver to driver, and everything in it goes on.

mod crashes;
mod life;
#[path = "../support/raft_cluster.rs"]
mod raft_cluster;
mod refusals;
mod strangers;
mod subscribers;
mod validators;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use life::{Home, Kind, LONG, Told, backup_in, node, shard};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use quorate_host::SwitchOptions;
use quorate_replicator::{Consistency, Durability, GroupId, MemberChange, MemberRole, Replicator};
use quorate_shard::Shards;
use raft_cluster::RaftCluster;

/// How a node ends before its directory is switched.
#[derive(Clone, Copy, Debug)]
enum End {
    Close,
    /// Without being told, with what the disk has.
    Drop,
}

/// One life of a directory: how much is put in each part of it, and how the parts end.
#[derive(Clone, Debug)]
struct Plan {
    /// Before the first switch, alone under Raft, with three members, alone again, and at the end.
    puts: [usize; 5],
    ends: [End; 3],
    /// How much log there is between two checkpoints.
    checkpoint_bytes: u64,
    distinct: u64,
}

fn plans(puts: usize) -> impl Strategy<Value = Plan> {
    let end = || prop_oneof![Just(End::Close), Just(End::Drop)];
    let puts = proptest::array::uniform5(0..puts);
    let checkpoints = prop_oneof![Just(4 << 10_u64), Just(64 << 10), Just(64 << 20)];
    let plan = (puts, [end(), end(), end()], checkpoints, 1..5000_u64);
    plan.prop_map(|(puts, ends, checkpoint_bytes, distinct)| Plan {
        puts,
        ends,
        checkpoint_bytes,
        distinct,
    })
}

fn is_long() -> bool {
    std::env::var("QUORATE_TEST_BUDGET").is_ok_and(|budget| budget == "long")
}

fn runtime() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn nothing_is_lost_and_no_answer_changes_wherever_the_driver_is_switched() {
    let cases = if is_long() { 60 } else { 6 };
    let mut runner =
        TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let lived = runner.run(&plans(600), |plan| {
        runtime().block_on(live(plan));
        Ok::<(), TestCaseError>(())
    });
    lived.unwrap();
}

/// 100,000 keys with the long budget.
#[test]
fn many_keys_go_from_one_node_to_three_and_back() {
    let keys = if is_long() { 100_000 } else { 5_000 };
    let plan = Plan {
        puts: [keys, 100, 1000, 100, 100],
        ends: [End::Close, End::Close, End::Close],
        checkpoint_bytes: 64 << 20,
        distinct: keys as u64,
    };
    runtime().block_on(live(plan));
}

async fn end(node: Arc<dyn Replicator>, end: End) {
    match end {
        End::Close => node.close().await.unwrap(),
        End::Drop => drop(node),
    }
}

/// Waits until a node that was dropped has let go of its directory.
async fn switch(home: &Home, from: Kind, to: Kind) {
    let position = loop {
        match home.switch_from(from, to, &SwitchOptions::default()) {
            Ok(report) => break report.groups[0].position,
            Err(error) if error.to_string().contains("in use") => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error}"),
        }
    };
    let verified = home.verify(to).remove(0);
    assert!(verified.checkpoint >= position.index && verified.sessions == 1, "{verified:?}");
}

async fn live(plan: Plan) {
    let machines: Arc<Mutex<Vec<Shards>>> = Arc::default();
    let maker = {
        let machines = Arc::clone(&machines);
        Box::new(move || {
            let (machine, shards) = Shards::builder().build();
            machines.lock().unwrap().push(shards);
            Box::new(machine) as Box<dyn quorate_replicator::StateMachine>
        })
    };
    let mut cluster = RaftCluster::new(1, Durability::Disk, maker);
    cluster.config.checkpoint.log_bytes = plan.checkpoint_bytes;
    let mut home = Home::new(cluster.path(node(1)));
    home.config = cluster.config.clone();
    let mut told = Told::new(plan.distinct);

    let (local, shards) = home.open(Kind::Local).await.unwrap();
    told.open_session(&local).await;
    told.put(&local, plan.puts[0]).await;
    told.check(&local, &shards).await;
    end(local, plan.ends[0]).await;
    switch(&home, Kind::Local, Kind::Raft).await;

    // The only voter, and then with two who were never there.
    let one = cluster.start(node(1)).await.unwrap();
    told.repeat(&one).await;
    told.put(&one, plan.puts[1]).await;
    for number in [2, 3] {
        cluster.start(node(number)).await.unwrap();
        let (node, role) = (node(number), MemberRole::Voter);
        let change = MemberChange::Add { node, address: String::new(), role };
        one.change_members(change, LONG).await.unwrap();
    }
    let other = cluster.node(node(3));
    told.repeat(&other).await;
    told.put(&other, plan.puts[2]).await;
    let mut histories = Vec::new();
    for (place, node) in cluster.nodes().into_iter().enumerate() {
        let shards = machines.lock().unwrap()[place].clone();
        told.check(&node, &shards).await;
        let group = node.status().groups.remove(0);
        histories.push((group.applied, group.history));
    }
    assert!(histories.windows(2).all(|two| two[0] == two[1]), "{histories:?}");

    // And alone again.
    one.transfer(GroupId::new(0), node(1), LONG).await.unwrap();
    for number in [2, 3] {
        one.change_members(MemberChange::Remove { node: node(number) }, LONG).await.unwrap();
        cluster.stop(node(number)).await;
    }
    told.put(&one, plan.puts[3]).await;
    one.read_barrier(&shard(), Consistency::Linearizable, LONG).await.unwrap();
    drop(one);
    match plan.ends[1] {
        End::Close => cluster.stop(node(1)).await,
        End::Drop => cluster.forget(node(1)),
    }
    switch(&home, Kind::Raft, Kind::Local).await;

    let (local, shards) = home.open(Kind::Local).await.unwrap();
    told.repeat(&local).await;
    told.put(&local, plan.puts[4]).await;
    told.repeat(&local).await;
    told.check(&local, &shards).await;
    end(local, plan.ends[2]).await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_done_is_reported_and_the_directory_of_before_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let home = Home::new(directory.path().join("n1"));
    let mut told = Told::new(100);
    let (local, _) = home.open(Kind::Local).await.unwrap();
    told.open_session(&local).await;
    told.put(&local, 30).await;
    let before = local.status().groups.remove(0);
    local.close().await.unwrap();

    let report = home.switch(Kind::Raft, &SwitchOptions::default()).unwrap();
    assert_eq!((report.from, report.to, report.node), ("local", "raft", node(1)));
    assert_eq!(report.backup, directory.path().join("n1.before-switch-1"));
    let group = &report.groups[0];
    // The epoch has an index of its own.
    assert_eq!((group.position.epoch, group.position.index), (2, before.applied + 1));
    assert_eq!((group.sessions, group.missing.clone()), (1, None));
    assert!(group.pairs > 30, "{group:?}");
    assert!(group.left_behind.is_empty());

    // The copy opens as what it was made of.
    let mut copy = Home::new(&report.backup);
    copy.config = home.config.clone();
    let verified = copy.verify(Kind::Local).remove(0);
    assert_eq!((verified.applied, verified.history), (before.applied, before.history));
    let (local, shards) = copy.open(Kind::Local).await.unwrap();
    told.check(&local, &shards).await;
    local.close().await.unwrap();

    // The next copy has the next free name, or the one that is given.
    let report = home.switch(Kind::Local, &SwitchOptions::default()).unwrap();
    assert_eq!(report.backup, directory.path().join("n1.before-switch-2"));
    assert_eq!(report.groups[0].position.epoch, 3);
    let elsewhere = directory.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let report = home.switch(Kind::Raft, &backup_in(&elsewhere)).unwrap();
    assert_eq!(report.backup, elsewhere);
    // Nothing of before is left where the node is.
    let names = std::fs::read_dir(&home.path).unwrap();
    let mut names: Vec<_> = names.map(|name| name.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["LOCK", "MANIFEST", "switched-3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_groups_go_together_and_those_without_data_too() {
    let directory = tempfile::tempdir().unwrap();
    let mut home = Home::new(directory.path().join("n1"));
    home.config.groups = 4;
    let mut told = Told::new(100);
    let (local, _) = home.open(Kind::Local).await.unwrap();
    told.open_session(&local).await;
    told.put(&local, 30).await;
    local.close().await.unwrap();
    let report = home.switch(Kind::Raft, &SwitchOptions::default()).unwrap();
    let epochs: Vec<_> = report.groups.iter().map(|group| group.position.epoch).collect();
    assert_eq!(epochs, [2, 2, 2, 2]);
    assert_eq!(home.verify(Kind::Raft).len(), 4);
    let (raft, shards) = home.open(Kind::Raft).await.unwrap();
    told.repeat(&raft).await;
    told.put(&raft, 30).await;
    told.check(&raft, &shards).await;
    raft.close().await.unwrap();
}
