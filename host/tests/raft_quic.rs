//! Raft over QUIC: nodes on the loopback, judged by the suite that judges every replicator.

#[path = "support/counter.rs"]
mod counter;
#[path = "support/over_quic.rs"]
mod over_quic;
#[path = "support/raft_cluster.rs"]
mod raft_cluster;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use counter::{Counter, frame, shard};
use over_quic::OverQuic;
use quorate_conformance::replicator::{Cluster, MachineMaker, ReplicatorFactory, replicator};
use quorate_conformance::until;
use quorate_driver_raft::RaftDriver;
use quorate_replicator::{
    Consistency, Decision, Frame, GroupId, MemberChange, MemberRole, NodeId, Replicator, SessionId,
    Status,
};
use raft_cluster::raft_config;

#[derive(Debug)]
struct Factory(usize);

#[async_trait]
impl ReplicatorFactory for Factory {
    fn nodes(&self) -> usize {
        self.0
    }

    async fn open(&self, nodes: usize, machine: MachineMaker) -> Box<dyn Cluster> {
        Box::new(open(nodes, machine).await)
    }
}

async fn open(nodes: usize, machine: MachineMaker) -> OverQuic<RaftDriver> {
    OverQuic::open((RaftDriver, raft_config()), nodes, machine).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_over_quic() {
    replicator(Factory(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_over_quic() {
    replicator(Factory(2)).await;
}

/// A node that nobody was configured with joins by its address, and one that was removed is not heard any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_by_its_address() {
    let machine: MachineMaker = Arc::new(|| Box::<Counter>::default());
    let cluster = open(3, machine).await;
    let (session, within) = (SessionId::new([1; 16]), Duration::from_secs(60));
    let one = cluster.nodes().remove(0);
    let opened = one.propose(Frame::open_session(session, shard()), within).await;
    assert!(matches!(opened, Ok(Decision::Accept(_))), "{opened:?}");
    let (four, address) = cluster.join(3).await;
    let node = NodeId::new(4);
    let change = MemberChange::Add { node, address, role: MemberRole::Voter };
    one.change_members(change, within).await.unwrap();
    let decided = four.propose(frame(session, 1, 0, vec![1]), within).await;
    assert!(matches!(decided, Ok(Decision::Accept(_))), "{decided:?}");
    one.change_members(MemberChange::Remove { node }, within).await.unwrap();
    until("three members", within, || one.status(), |it| it.groups[0].members.len() == 3).await;
    four.close().await.unwrap();
    cluster.close().await;
}

/// Waits until `node` says that it was removed.
async fn until_it_is_told(node: &Arc<dyn Replicator>) {
    let knows = |reason: &String| reason.contains("was removed from the group");
    let told = |it: &Status| it.groups[0].reason.as_ref().is_some_and(knows);
    until("it is told", Duration::from_secs(60), || node.status(), told).await;
}

/// Who is out is no peer any more, and is told so before; and what it asked for is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_removed_is_told_and_answered() {
    let machine: MachineMaker = Arc::new(|| Box::<Counter>::default());
    let cluster = open(4, machine).await;
    let (session, within) = (SessionId::new([1; 16]), Duration::from_secs(60));
    let nodes = cluster.nodes();
    let opened = nodes[0].propose(Frame::open_session(session, shard()), within).await;
    assert!(matches!(opened, Ok(Decision::Accept(_))), "{opened:?}");
    nodes[1].transfer(GroupId::new(0), NodeId::new(1), within).await.unwrap();
    let remove = |number| MemberChange::Remove { node: NodeId::new(number) };
    // Asked of the one that goes, and of one that is out and may not know so yet.
    nodes[1].change_members(remove(2), within).await.unwrap();
    nodes[1].change_members(remove(3), within).await.unwrap();
    nodes[3].change_members(remove(4), within).await.unwrap();
    for gone in &nodes[1..] {
        until_it_is_told(gone).await;
    }
    let decided = nodes[0].propose(frame(session, 1, 0, vec![1]), within).await;
    assert!(matches!(decided, Ok(Decision::Accept(_))), "{decided:?}");
    cluster.close().await;
}

/// A leader that is out asks the others whether they can do without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_removes_itself_hears_that_it_may_go() {
    let machine: MachineMaker = Arc::new(|| Box::<Counter>::default());
    let cluster = open(3, machine).await;
    let (session, within) = (SessionId::new([1; 16]), Duration::from_secs(60));
    let nodes = cluster.nodes();
    let opened = nodes[0].propose(Frame::open_session(session, shard()), within).await;
    assert!(matches!(opened, Ok(Decision::Accept(_))), "{opened:?}");
    let node = NodeId::new(1);
    nodes[1].transfer(GroupId::new(0), node, within).await.unwrap();
    nodes[0].change_members(MemberChange::Remove { node }, within).await.unwrap();
    nodes[0].close().await.unwrap();
    let decided = nodes[1].propose(frame(session, 1, 0, vec![1]), within).await;
    assert!(matches!(decided, Ok(Decision::Accept(_))), "{decided:?}");
    cluster.close().await;
}

/// A node that was away while another one joined, and leads since, hears of it from the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_came_while_a_node_was_away_is_heard() {
    let machine: MachineMaker = Arc::new(|| Box::<Counter>::default());
    let cluster = open(3, machine).await;
    let within = Duration::from_secs(60);
    let nodes = cluster.nodes();
    nodes[2].read_barrier(&shard(), Consistency::Linearizable, within).await.unwrap();
    nodes[2].close().await.unwrap();
    let (four, address) = cluster.join(3).await;
    let node = NodeId::new(4);
    let change = MemberChange::Add { node, address, role: MemberRole::Voter };
    nodes[0].change_members(change, within).await.unwrap();
    nodes[0].transfer(GroupId::new(0), node, within).await.unwrap();
    assert!(cluster.restart(2).await);
    let back = &cluster.nodes()[2];
    back.read_barrier(&shard(), Consistency::Linearizable, within).await.unwrap();
    assert_eq!(back.status().groups[0].leader, Some(node), "nobody else had to lead");
    four.close().await.unwrap();
    cluster.close().await;
}
