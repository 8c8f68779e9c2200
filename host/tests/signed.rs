//! Nodes whose genesis wants frames signed: sessions sign by themselves on every node, and nothing else is taken.

#[path = "support/counter.rs"]
mod counter;
#[path = "support/quorum_cluster.rs"]
mod quorum_cluster;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use counter::{Counter, frame, shard};
use quorate_certificate::{FaultModel, Genesis};
use quorate_replicator::limits::{RUN_FRAMES_MAX, SESSION_UNSETTLED_MAX};
use quorate_replicator::{
    Decision, Durability, Frame, NodeId, ProposeError, Rejection, Replicator, ReplicatorExt as _,
    Session, SessionId, Signer,
};
use quorum_cluster::{QuorumCluster, found_with, quorum_config};

const WITHIN: Duration = Duration::from_secs(60);

const NODES: u64 = 4;

async fn cluster(durability: Durability) -> QuorumCluster {
    let (_, driver) = found_with(NODES, FaultModel::Byzantine, Genesis::with_signed_frames);
    let machine = Box::new(|| Box::<Counter>::default() as _);
    QuorumCluster::with_driver((driver, quorum_config()), NODES, durability, machine).open().await
}

fn signer(node: &dyn Replicator) -> Signer {
    node.signer().unwrap().expect("frames have to be signed")
}

/// Opens a session at a node, for frames that are numbered by hand.
async fn opened(node: &dyn Replicator) -> Signer {
    let signer = signer(node);
    let open = signer.open_session(&shard(), &node.status()).unwrap();
    node.propose(open, WITHIN).await.unwrap().accepted().unwrap();
    signer
}

fn count(reply: &Bytes) -> u64 {
    u64::from_le_bytes(reply.as_ref().try_into().unwrap())
}

fn invalid<T: std::fmt::Debug>(answer: Result<T, ProposeError>) -> String {
    match answer {
        Err(ProposeError::Invalid { reason }) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_all_nodes_sign_what_they_propose() {
    const FRAMES: u64 = 20;
    let cluster = cluster(Durability::Memory).await;
    let mut proposing = Vec::new();
    for node in cluster.nodes() {
        // Two of each node at once, so that calls stand beside one another in a batch.
        for _ in 0..2 {
            let session = Session::new(Arc::clone(&node)).unwrap();
            proposing.push(tokio::spawn(async move {
                let mut counts = Vec::new();
                for _ in 0..FRAMES {
                    let commit = session.propose(&shard(), "x", WITHIN).await.unwrap();
                    counts.push(count(commit.reply.bytes().unwrap()));
                }
                session.close(&shard(), WITHIN).await.unwrap();
                let again = session.propose(&shard(), "y", WITHIN).await.unwrap();
                counts.push(count(again.reply.bytes().unwrap()));
                counts
            }));
        }
    }
    let mut counts = Vec::new();
    for proposing in proposing {
        counts.extend(proposing.await.unwrap());
    }
    counts.sort_unstable();
    let all = 2 * NODES * (FRAMES + 1);
    assert_eq!(counts, (1..=all).collect::<Vec<_>>(), "each frame happened once");
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_of_many_frames_is_decided_in_its_order_and_once() {
    let cluster = cluster(Durability::Disk).await;
    for node in cluster.nodes() {
        let signer = opened(&*node).await;
        let first = node.propose(signed_frame(&signer, 1, 1), WITHIN).await.unwrap();
        let before = count(first.accepted().unwrap().reply.bytes().unwrap());
        let last = SESSION_UNSETTLED_MAX as u64;
        let mut frames: Vec<_> =
            (2..=last).map(|serial| frame(signer.session(), serial, 2, vec![7; 9])).collect();
        signer.sign(&mut frames).unwrap();
        assert_eq!(frames.iter().filter(|frame| frame.signed.is_some()).count(), 1);
        assert!(frames.len() < RUN_FRAMES_MAX);
        let once = node.propose_many(frames.clone(), WITHIN).await.unwrap();
        for (at, decision) in (1..).zip(&once) {
            let Decision::Accept(commit) = decision else { panic!("{decision:?}") };
            assert_eq!(count(commit.reply.bytes().unwrap()), before + at);
        }
        let again = node.propose_many(frames.clone(), WITHIN).await.unwrap();
        assert_eq!(again, once);
        // Some of them again, in a call of their own.
        let mut some = frames[10..20].to_vec();
        signer.sign(&mut some).unwrap();
        assert_eq!(node.propose_many(some, WITHIN).await.unwrap(), once[10..20]);
        let other = signed_frame(&signer, last, 2);
        let reused = node.propose(other, WITHIN).await.unwrap();
        assert_eq!(reused, Decision::Reject(Rejection::IdReused));
    }
    // What is decided is not looked at again where it is read from the log.
    for place in 0..NODES {
        let node = NodeId::new(place + 1);
        cluster.stop(node).await;
        let node = cluster.start(node).await.unwrap();
        assert!(node.ready(&shard(), WITHIN).await);
    }
    cluster.close().await;
}

fn signed_frame(signer: &Signer, serial: u64, settled: u64) -> Frame {
    let mut frame = frame(signer.session(), serial, settled, b"alone".to_vec());
    signer.sign(std::slice::from_mut(&mut frame)).unwrap();
    frame
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_signed_is_refused_where_it_is_proposed() {
    let cluster = cluster(Durability::Memory).await;
    for node in cluster.nodes() {
        let unsigned = frame(SessionId::new([1; 16]), 1, 1, Vec::new());
        let reason = invalid(node.propose(unsigned.clone(), WITHIN).await);
        assert!(reason.contains("not signed") && reason.contains("Session"), "{reason}");
        let signer = opened(&*node).await;
        let good = signed_frame(&signer, 1, 1);
        let reason = invalid(node.propose_many(vec![good.clone(), unsigned], WITHIN).await);
        assert!(reason.contains("not signed"), "{reason}");
        let stolen = signed_frame(&self::signer(&*node), 2, 1);
        let stolen = Frame { id: good.id, ..stolen };
        let reason = invalid(node.propose(stolen, WITHIN).await);
        assert!(reason.contains("not that of the key"), "{reason}");
        let settles = Frame { settled: 0, ..good.clone() };
        let reason = invalid(node.propose(settles, WITHIN).await);
        assert!(reason.contains("does not hold"), "{reason}");
        let mut call = [1, 2, 3].map(|it| frame(signer.session(), it, 1, vec![1])).to_vec();
        signer.sign(&mut call).unwrap();
        call.pop();
        let reason = invalid(node.propose_many(call, WITHIN).await);
        assert!(reason.contains("fewer frames"), "{reason}");
        assert!(node.propose(good, WITHIN).await.unwrap().accepted().is_some());
    }
    cluster.close().await;
}
