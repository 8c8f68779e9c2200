//! A Raft cluster whose disks and links fail: what is answered, and that nothing is answered falsely.

#[path = "support/counter.rs"]
mod counter;
#[path = "support/raft_cluster.rs"]
mod raft_cluster;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use counter::{Counter, frame, shard};
use quorate_conformance::until;
use quorate_engine::Packet;
use quorate_engine::engine::Message;
use quorate_replicator::{
    Bytes, Channel, Consistency, Decision, Durability, Frame, GroupId, Health, NodeId,
    ProposeError, ReadError, Replicator, SessionId, Transport,
};
use quorate_storage::{Fault, SimDisk};
use raft_cluster::RaftCluster;

/// Longer than any test runs.
const LONG: Duration = Duration::from_secs(120);

/// Shorter than an election.
const SHORT: Duration = Duration::from_millis(100);

const SESSION: SessionId = SessionId::new([1; 16]);

fn node(number: u64) -> NodeId {
    NodeId::new(number)
}

/// Three nodes on simulated disks.
async fn cluster() -> (RaftCluster, BTreeMap<NodeId, SimDisk>) {
    let mut cluster = RaftCluster::new(3, Durability::Disk, Box::new(|| Box::<Counter>::default()));
    cluster.config.log.segment_bytes = 8 << 20;
    cluster.config.log.block_bytes_max = 64 << 10;
    let disks: BTreeMap<_, _> = (1..=3).map(|it| (node(it), SimDisk::new(it))).collect();
    for (node, disk) in &disks {
        cluster.set_disk(*node, Arc::new(disk.clone()));
    }
    let cluster = cluster.open().await;
    let opened = cluster.node(node(1)).propose(Frame::open_session(SESSION, shard()), LONG).await;
    assert!(matches!(opened, Ok(Decision::Accept(_))), "{opened:?}");
    (cluster, disks)
}

/// The count that a frame was answered with.
fn counted(decision: &Decision) -> u64 {
    let Decision::Accept(commit) = decision else { panic!("{decision:?}") };
    u64::from_le_bytes(commit.reply.bytes().unwrap().as_ref().try_into().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_calls_end_at_their_deadline_and_say_why() {
    let (cluster, _) = cluster().await;
    let left = cluster.leader().await;
    for other in (1..=3).map(node).filter(|it| *it != left) {
        cluster.stop(other).await;
    }
    let left = cluster.node(left);
    let proposed = left.propose(frame(SESSION, 1, 0, vec![1]), SHORT).await;
    assert_eq!(proposed, Ok(Decision::Timeout));
    let read = left.read_barrier(&shard(), Consistency::Linearizable, SHORT).await;
    assert_eq!(read, Err(ReadError::Timeout));
    let decision = left.decision(&shard(), frame(SESSION, 1, 0, vec![]).id, SHORT).await;
    assert_eq!(decision, Err(ReadError::Timeout));
    // It knows that it leads nobody any more, and says whom it misses.
    until("a reason", LONG, || left.status(), |left| left.groups[0].reason.is_some()).await;
    let status = left.status();
    let reason = status.groups[0].reason.clone().unwrap();
    assert_eq!(status.health, Health::Waiting { reason }, "it cannot decide, and says so");
    assert_eq!(left.status().groups[0].leader, None);
    // The same frame is decided once a quorum is there.
    let other = (1..=3).map(node).find(|it| *it != left.status().node).unwrap();
    cluster.start(other).await.unwrap();
    let decided = left.propose(frame(SESSION, 1, 0, vec![1]), LONG).await.unwrap();
    assert_eq!(counted(&decided), 1);
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_proposals_go_on_with_the_next_leader() {
    let (cluster, _) = cluster().await;
    let leader = cluster.leader().await;
    let follower = (1..=3).map(node).find(|it| *it != leader).unwrap();
    let follower = cluster.node(follower);
    // What is forwarded now goes nowhere.
    cluster.hub.disconnect(leader);
    let mut waiting = Vec::new();
    for serial in 1..=64 {
        let follower = Arc::clone(&follower);
        waiting.push(tokio::spawn(async move {
            follower.propose(frame(SESSION, serial, 0, vec![1]), LONG).await.unwrap()
        }));
    }
    let mut counts = Vec::new();
    for proposal in waiting {
        counts.push(counted(&proposal.await.unwrap()));
    }
    counts.sort_unstable();
    assert_eq!(counts, (1..=64).collect::<Vec<_>>(), "each once");
    // The old leader learns of it when it is back.
    let old = cluster.node(leader);
    cluster.hub.reconnect(leader);
    let decided = old.propose(frame(SESSION, 65, 0, vec![1]), LONG).await.unwrap();
    assert_eq!(counted(&decided), 65);
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_fails_ends_and_the_others_go_on() {
    let (cluster, disks) = cluster().await;
    let leader = cluster.leader().await;
    let failing = cluster.node(leader);
    disks[&leader].fail_at(disks[&leader].ops() + 3, Fault::Eio);
    let mut serial = 0;
    let mut accepted = 0;
    // What it accepts until then counts; its last words are typed.
    let error = loop {
        serial += 1;
        match failing.propose(frame(SESSION, serial, 0, vec![1]), LONG).await {
            Ok(decision) => accepted = counted(&decision),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ProposeError::Faulted { .. }), "{error:?}");
    assert_eq!(accepted, serial - 1);
    let Health::Faulted { cause } = failing.status().health else { panic!("it stopped") };
    assert!(cause.contains("disk") || cause.contains("log"), "{cause}");
    cluster.stop(leader).await;
    let other = cluster.nodes().remove(0);
    // The frame that failed may have been decided; it is the same frame, so it is counted once.
    let decided = other.propose(frame(SESSION, serial, 0, vec![1]), LONG).await.unwrap();
    assert_eq!(counted(&decided), serial);
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_is_full_steps_down_and_the_others_go_on() {
    let (cluster, disks) = cluster().await;
    let leader = cluster.leader().await;
    let full = cluster.node(leader);
    disks[&leader].set_capacity(Some(disks[&leader].used()));
    // Until its segments are full it goes on; then it refuses by name, and gives the lead away.
    let mut serial = 0;
    let payload = vec![7; 512 << 10];
    while full.status().health != Health::StorageFull {
        serial += 1;
        let proposed = full.propose(frame(SESSION, serial, serial, payload.clone()), SHORT).await;
        match proposed {
            Ok(Decision::Accept(_) | Decision::Timeout) | Err(ProposeError::StorageFull) => {}
            other => panic!("{other:?}"),
        }
    }
    let refused = full.propose(frame(SESSION, serial + 1, 0, vec![1]), LONG).await;
    assert_eq!(refused, Err(ProposeError::StorageFull));
    let other = (1..=3).map(node).find(|it| *it != leader).unwrap();
    let other = cluster.node(other);
    let decided =
        other.propose(frame(SESSION, serial + 2, serial + 2, vec![1]), LONG).await.unwrap();
    assert!(matches!(decided, Decision::Accept(_)), "{decided:?}");
    // With room again it takes part again.
    disks[&leader].set_capacity(None);
    until("room", LONG, || full.status(), |full| full.health == Health::Ready).await;
    let decided =
        full.propose(frame(SESSION, serial + 3, serial + 3, vec![1]), LONG).await.unwrap();
    assert_eq!(counted(&decided), counted(&other_count(&other, serial + 4).await) - 1);
    cluster.close().await;
}

async fn other_count(other: &Arc<dyn Replicator>, serial: u64) -> Decision {
    other.propose(frame(SESSION, serial, serial, vec![1]), LONG).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_no_member_is_not_heard() {
    let (cluster, _) = cluster().await;
    let before = cluster.node(node(1)).status().groups.remove(0);
    let stranger = cluster.hub.connect(node(99));
    for to in (1..=3).map(node) {
        for bytes in [Bytes::new(), Bytes::from(vec![0xff; 1000]), Bytes::from(vec![1; 1 << 20])] {
            for channel in Channel::ALL {
                let _ = stranger.send(to, channel, bytes.clone());
                let message = Message { head: bytes.clone(), bodies: vec![bytes.clone()] };
                let packet = Packet::Engine(message).encode(GroupId::new(0));
                let _ = stranger.send(to, channel, packet);
                // Of a group that there is none of.
                let packet = Packet::Engine(Message::default()).encode(GroupId::new(9));
                let _ = stranger.send(to, channel, packet);
            }
        }
    }
    for serial in 1..=3 {
        let through = cluster.node(node(serial));
        let decided = through.propose(frame(SESSION, serial, 0, vec![1]), LONG).await.unwrap();
        assert_eq!(counted(&decided), serial);
        assert_eq!(through.status().health, Health::Ready);
    }
    let after = cluster.node(node(1)).status().groups.remove(0);
    assert_eq!(after.members, before.members);
    stranger.close().await;
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_decide_apart_and_are_proposed_to_together() {
    let mut cluster = RaftCluster::new(3, Durability::Disk, Box::new(|| Box::<Groups>::default()));
    cluster.config.groups = 5;
    let cluster = cluster.open().await;
    // One frame for each of many shards, in one call.
    let shards: Vec<_> = (0..40)
        .map(|number| quorate_replicator::ShardKey::new("org", &number.to_string()).unwrap())
        .collect();
    let at = cluster.node(node(2));
    for shard in &shards {
        let opened = at.propose(Frame::open_session(SESSION, shard.clone()), LONG).await;
        assert!(matches!(opened, Ok(Decision::Accept(_))), "{opened:?}");
    }
    let frames = shards.iter().zip(1..).map(|(shard, serial)| {
        let id = quorate_replicator::FrameId { session: SESSION, serial };
        Frame::new(id, shard.clone(), vec![1])
    });
    let decisions = at.propose_many(frames.collect(), LONG).await.unwrap();
    for (shard, decision) in shards.iter().zip(&decisions) {
        let Decision::Accept(commit) = decision else { panic!("{decision:?}") };
        assert_eq!(commit.position.group, at.group(shard));
    }
    let groups: std::collections::BTreeSet<_> = shards.iter().map(|it| at.group(it)).collect();
    assert_eq!(groups.len(), 5, "40 names fall into every group");
    // They are there after a restart of every node.
    for number in 1..=3 {
        cluster.stop(node(number)).await;
    }
    for number in 1..=3 {
        cluster.start(node(number)).await.unwrap();
    }
    let at = cluster.node(node(3));
    for (shard, serial) in shards.iter().zip(1..) {
        let id = quorate_replicator::FrameId { session: SESSION, serial };
        let decision = at.decision(shard, id, LONG).await.unwrap();
        assert!(matches!(decision, Decision::Accept(_)), "{decision:?}");
    }
    cluster.close().await;
}

/// A counter for each group.
#[derive(Debug, Default)]
struct Groups(Counter);

impl quorate_replicator::StateMachine for Groups {
    fn apply(
        &mut self,
        batch: &quorate_replicator::Batch<'_>,
        outcomes: &mut quorate_replicator::Outcomes,
    ) {
        self.0.apply(batch, outcomes);
    }

    fn begin_checkpoint(&mut self) -> quorate_replicator::CheckpointPairs {
        self.0.begin_checkpoint()
    }

    fn restore(
        &mut self,
        reader: &mut dyn quorate_replicator::CheckpointReader,
    ) -> Result<(), quorate_replicator::RestoreError> {
        self.0.restore(reader)
    }

    fn sibling(&mut self, _: GroupId) -> Option<Box<dyn quorate_replicator::StateMachine>> {
        Some(Box::<Self>::default())
    }
}
