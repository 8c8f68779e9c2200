//! What proves that a batch was decided, told by a node of validators: from memory, from the log, after a restart, and not at all.

#[path = "support/counter.rs"]
mod counter;
#[path = "support/quorum_cluster.rs"]
mod quorum_cluster;

use std::time::Duration;

use counter::{Counter, frame, shard};
use quorate_certificate::{Decided, FaultModel, ValidatorHistory};
use quorate_conformance::replicator::Cluster;
use quorate_replicator::{
    Durability, Frame, GroupId, NodeId, ReadError, Replicator, ReplicatorExt as _, SessionId,
};
use quorum_cluster::{QuorumCluster, found, quorum_config};

const WITHIN: Duration = Duration::from_secs(60);
const GROUP: GroupId = GroupId::new(0);

/// More than the core keeps in memory, one batch for each.
const FRAMES: u64 = 300;

/// Every height up to `last` is proved to who has the genesis; why not, for the first that is not.
async fn prove(
    node: &dyn Replicator,
    validators: &ValidatorHistory,
    last: u64,
) -> Result<(), ReadError> {
    for index in 1..=last {
        let batch = node.decided(GROUP, index).await?;
        let decided = Decided { header: &batch.head, body: &batch.body, certificate: &batch.proof };
        assert_eq!(validators.verify(decided).unwrap().height, index);
    }
    Ok(())
}

fn reason(error: ReadError) -> String {
    match error {
        ReadError::NoProof { reason } => reason,
        error => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_decided_batch_is_proved_as_long_as_the_log_has_it() {
    for durability in [Durability::Memory, Durability::Disk] {
        let (genesis, driver) = found(1, FaultModel::Byzantine);
        let validators = ValidatorHistory::new(&genesis, 0);
        let config = (driver, quorum_config());
        let machine = Box::new(|| Box::<Counter>::default() as _);
        let cluster = QuorumCluster::with_driver(config, 1, durability, machine).open().await;
        let node = cluster.node(NodeId::new(1));
        let session = SessionId::new([1; 16]);
        let opened = Frame::open_session(session, shard());
        node.propose(opened, WITHIN).await.unwrap().accepted().unwrap();
        let mut last = 0;
        for serial in 1..=FRAMES {
            let frame = frame(session, serial, serial, vec![7; 100]);
            let commit = node.propose(frame, WITHIN).await.unwrap().accepted().unwrap();
            assert_eq!(commit.proof, None, "a caller in the process believes its node");
            last = commit.position.index;
        }
        assert!(last > FRAMES, "a batch for each frame");
        prove(&*node, &validators, last).await.unwrap();
        for index in [0, last + 1] {
            let words = reason(node.decided(GROUP, index).await.unwrap_err());
            assert!(words.contains("is not decided"), "{words}");
        }
        let words = reason(node.decided(GroupId::new(7), 1).await.unwrap_err());
        assert!(words.contains("there is no g7"), "{words}");
        assert_eq!(node.member_batches(GROUP, 0).await, Ok(Vec::new()));
        if durability == Durability::Disk {
            drop(node);
            assert!(cluster.restart(0).await);
            let node = cluster.node(NodeId::new(1));
            assert!(node.ready(&shard(), WITHIN).await);
            prove(&*node, &validators, last).await.unwrap();
        }
        Cluster::close(&cluster).await;
    }
}
