//! Nodes join, are replaced and leave, while the others decide.

#[path = "support/counter.rs"]
mod counter;
#[path = "support/raft_cluster.rs"]
mod raft_cluster;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use counter::{Counter, frame, shard};
use quorate_conformance::until;
use quorate_replicator::{
    AdminError, Consistency, Decision, Durability, Frame, Health, MemberChange, MemberRole, NodeId,
    Replicator, SessionId,
};
use raft_cluster::RaftCluster;

/// Longer than any test runs.
const LONG: Duration = Duration::from_secs(120);

const SESSION: SessionId = SessionId::new([1; 16]);

fn node(number: u64) -> NodeId {
    NodeId::new(number)
}

async fn cluster() -> RaftCluster {
    let mut cluster = RaftCluster::new(3, Durability::Disk, Box::new(|| Box::<Counter>::default()));
    // So that a node that joins is sent a snapshot.
    cluster.config.checkpoint.log_bytes = 64 << 10;
    cluster.config.retain.bytes = 0;
    cluster.driver_config.catch_up_bytes = 64 << 10;
    cluster.driver_config.snapshot_catch_up_bytes = 1 << 20;
    let cluster = cluster.open().await;
    let opened = cluster.node(node(1)).propose(Frame::open_session(SESSION, shard()), LONG).await;
    assert!(matches!(opened, Ok(Decision::Accept(_))), "{opened:?}");
    cluster
}

fn add(number: u64) -> MemberChange {
    MemberChange::Add { node: node(number), address: String::new(), role: MemberRole::Voter }
}

async fn count(node: &Arc<dyn Replicator>, serial: u64) -> u64 {
    match node.propose(frame(SESSION, serial, serial, vec![1]), LONG).await {
        Ok(Decision::Accept(commit)) => {
            u64::from_le_bytes(commit.reply.bytes().unwrap().as_ref().try_into().unwrap())
        }
        other => panic!("frame {serial}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_change_while_others_decide() {
    let cluster = Arc::new(cluster().await);
    let stop = Arc::new(AtomicBool::new(false));
    // One writer, who is told the count: nothing is lost and nothing is counted twice, whatever the members are.
    let writer = {
        let (cluster, stop) = (Arc::clone(&cluster), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut serial = 0;
            while !stop.load(Ordering::Relaxed) {
                serial += 1;
                // Each frame through another node; a removed one does not serve any more.
                let nodes = cluster.nodes();
                let through = nodes.iter().filter(|node| {
                    let status = node.status();
                    status.groups[0].members.contains(&status.node)
                });
                let through: Vec<_> = through.cloned().collect();
                let through = &through[serial as usize % through.len()];
                let payload = vec![7; 1000];
                let proposed = frame(SESSION, serial, serial, payload);
                let mut decided = through.propose(proposed.clone(), Duration::from_secs(5)).await;
                while !matches!(decided, Ok(Decision::Accept(_))) {
                    // It may have been removed meanwhile; the frame is the same, so it is counted once.
                    let other = cluster.nodes();
                    let other = &other[fastrand::usize(..other.len())];
                    decided = other.propose(proposed.clone(), Duration::from_millis(500)).await;
                }
                let Ok(Decision::Accept(commit)) = decided else { unreachable!() };
                let reply = commit.reply.bytes().unwrap().as_ref().try_into().unwrap();
                assert_eq!(u64::from_le_bytes(reply), serial, "nothing lost, nothing twice");
            }
            serial
        })
    };
    let leader = cluster.leader().await;
    // Whoever leads when a node joins, it has no first entry to send.
    for founder in cluster.nodes() {
        until("checkpoints", LONG, || founder.status(), |node| node.groups[0].log_first > 50).await;
    }

    // A node that nobody has added waits, and says for what.
    let four = cluster.start(node(4)).await.unwrap();
    until("a reason", LONG, || four.status(), |four| four.groups[0].reason.is_some()).await;
    assert!(matches!(four.status().health, Health::Waiting { .. }), "{:?}", four.status());
    // Asked of one that does not lead.
    let follower = cluster.nodes().into_iter().find(|it| it.status().node != leader).unwrap();
    follower.change_members(add(4), LONG).await.unwrap();
    until("four voters", LONG, || four.status(), |four| four.groups[0].members.len() == 4).await;
    until("it serves", LONG, || four.status(), |four| four.health == Health::Ready).await;
    let began = four.status().groups.remove(0);
    assert!(began.log_first > 1, "it began with a snapshot: {began:#?}");
    // Asked again, it is so already.
    follower.change_members(add(4), LONG).await.unwrap();

    let to =
        cluster.nodes().iter().map(|node| node.status().node).find(|id| *id != leader).unwrap();
    follower.transfer(quorate_replicator::GroupId::new(0), to, LONG).await.unwrap();
    until("the new leader", LONG, || follower.status(), |it| it.groups[0].leader == Some(to)).await;

    // The leader is removed, by asking itself.
    let removed = cluster.node(to);
    removed.change_members(MemberChange::Remove { node: to }, LONG).await.unwrap();
    let rest: Vec<_> =
        cluster.nodes().into_iter().filter(|node| node.status().node != to).collect();
    for left in &rest {
        until("three voters", LONG, || left.status(), |it| it.groups[0].members.len() == 3).await;
    }
    cluster.stop(to).await;

    let old = rest[0].status().node;
    let five = cluster.start(node(5)).await.unwrap();
    let change = MemberChange::Replace { old, new: node(5), address: String::new() };
    rest[1].change_members(change, LONG).await.unwrap();
    until(
        "replaced",
        LONG,
        || five.status(),
        |five| {
            let members = &five.groups[0].members;
            members.len() == 3 && members.contains(&node(5)) && !members.contains(&old)
        },
    )
    .await;
    until(
        "it is told",
        LONG,
        || rest[0].status(),
        |it| it.groups[0].reason.as_ref().is_some_and(|reason| reason.contains("removed")),
    )
    .await;
    cluster.stop(old).await;

    stop.store(true, Ordering::Relaxed);
    let written = writer.await.unwrap();
    assert_eq!(count(&five, written + 1).await, written + 1);
    // All that are left have the same history.
    let mut histories = Vec::new();
    for left in cluster.nodes() {
        left.read_barrier(&shard(), Consistency::Linearizable, LONG).await.unwrap();
        let group = left.status().groups.remove(0);
        histories.push((group.applied, group.history));
    }
    assert!(histories.windows(2).all(|two| two[0] == two[1]), "{histories:?}");
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_lose_the_quorum_is_refused_with_the_reason() {
    let cluster = cluster().await;
    let leader = cluster.leader().await;
    let asked = cluster.node(leader);
    // Nobody is there under this id.
    let error = asked.change_members(add(4), LONG).await.unwrap_err();
    let AdminError::Refused { reason } = &error else { panic!("{error:?}") };
    assert!(reason.contains("n4"), "{reason}");
    let change = MemberChange::Promote { node: node(9) };
    let error = asked.change_members(change, LONG).await.unwrap_err();
    assert!(matches!(error, AdminError::Refused { .. }), "{error:?}");
    let error =
        asked.transfer(quorate_replicator::GroupId::new(0), node(9), LONG).await.unwrap_err();
    assert!(matches!(error, AdminError::Refused { .. }), "{error:?}");
    // With one of three gone, a second one must stay: the two that are left decide.
    let others: Vec<_> = (1..=3).map(node).filter(|it| *it != leader).collect();
    cluster.stop(others[0]).await;
    let asked = cluster.node(leader);
    until(
        "it is missed",
        LONG,
        || asked.status(),
        |asked| {
            asked.groups[0].peers.iter().any(|peer| {
                peer.node == others[0]
                    && peer.last_contact.is_none_or(|ago| ago > Duration::from_secs(1))
            })
        },
    )
    .await;
    let remove = MemberChange::Remove { node: others[1] };
    let error = asked.change_members(remove, LONG).await.unwrap_err();
    let AdminError::Refused { reason } = &error else { panic!("{error:?}") };
    assert!(reason.contains("2 are needed, and 1 of them can be reached"), "{reason}");
    // The one that is gone may be removed.
    asked.change_members(MemberChange::Remove { node: others[0] }, LONG).await.unwrap();
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_disk_is_refused_and_joins_anew() {
    let cluster = cluster().await;
    let leader = cluster.leader().await;
    let lost = (1..=3).map(node).find(|it| *it != leader).unwrap();
    count(&cluster.node(leader), 1).await;
    cluster.stop(lost).await;
    std::fs::remove_dir_all(cluster.path(lost)).unwrap();
    let wiped = cluster.start(lost).await.unwrap();
    until(
        "it says what to do",
        LONG,
        || wiped.status(),
        |it| match &it.health {
            Health::Waiting { reason } => {
                reason.contains("remove n") && reason.contains("add it again")
            }
            _ => false,
        },
    )
    .await;
    assert!(wiped.status().groups[0].leader.is_none(), "it takes no part");
    cluster.stop(lost).await;
    // As it says.
    let asked = cluster.node(leader);
    asked.change_members(MemberChange::Remove { node: lost }, LONG).await.unwrap();
    std::fs::remove_dir_all(cluster.path(lost)).unwrap();
    let anew = cluster.start(lost).await.unwrap();
    let change = add(lost.number());
    asked.change_members(change, LONG).await.unwrap();
    assert_eq!(count(&anew, 2).await, 2);
    cluster.close().await;
}
