//! What becomes of calls that nobody waits for any more, or that cannot be answered.

#[path = "support/counter.rs"]
mod counter;
#[path = "support/stallable.rs"]
mod stallable;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use quorate_driver_local::LocalConfig;
use quorate_host::{HostConfig, Hosted};
use quorate_replicator::{
    Consistency, Decision, Driver, Durability, Env, Frame, Health, MonotonicClock, NodeId,
    ProposeError, ReadError, Replicator, SessionId,
};

use counter::{Counter, frame, shard};
use stallable::Stallable;

/// Longer than any test runs.
const LONG: Duration = Duration::from_secs(600);

/// Shorter than anyone would notice.
const SHORT: Duration = Duration::from_millis(50);

const SESSION: SessionId = SessionId::new([1; 16]);

/// A node in memory with an open session, and what stalls it.
async fn open(config: HostConfig) -> (Arc<dyn Replicator>, Stallable) {
    let driver = Stallable::default();
    let mut env = Env::new(NodeId::new(1), "unused", Arc::new(MonotonicClock::new()), 1);
    env.durability = Durability::Memory;
    let hosted = Hosted::new(driver.clone(), config);
    let node = hosted.open(LocalConfig::default(), env, Box::<Counter>::default()).await.unwrap();
    let opened = node.propose(Frame::open_session(SESSION, shard()), LONG).await;
    assert!(matches!(opened, Ok(Decision::Accept(_))), "{opened:?}");
    (node, driver)
}

fn in_flight(node: &dyn Replicator) -> u64 {
    node.status().groups[0].in_flight
}

/// Lets a call begin, and abandons it.
async fn abandon<F: Future>(call: F) {
    let mut call = Box::pin(call);
    poll_fn(|context| {
        assert!(call.as_mut().poll(context).is_pending(), "nothing is answered yet");
        Poll::Ready(())
    })
    .await;
}

#[tokio::test]
async fn abandoned_proposals_are_decided_and_leave_nothing() {
    let (node, driver) = open(HostConfig::default()).await;
    driver.0.store(true, Ordering::SeqCst);
    for serial in 1..=100 {
        abandon(node.propose(frame(SESSION, serial, 0, vec![1]), LONG)).await;
    }
    let many = (101..=200).map(|serial| frame(SESSION, serial, 0, vec![1])).collect();
    abandon(node.propose_many(many, LONG)).await;
    // Answered after everything before it was taken.
    let timeout = node.propose(frame(SESSION, 201, 0, vec![1]), SHORT).await;
    assert_eq!(timeout, Ok(Decision::Timeout));
    assert_eq!(in_flight(&*node), 200, "they wait, and the one that timed out does not");

    driver.0.store(false, Ordering::SeqCst);
    let last = node.propose(frame(SESSION, 202, 0, vec![1]), LONG).await.unwrap();
    let Decision::Accept(commit) = last else { panic!("{last:?}") };
    assert_eq!(commit.reply.bytes().unwrap().as_ref(), 201u64.to_le_bytes(), "each happened once");
    assert_eq!(in_flight(&*node), 0);
}

#[tokio::test]
async fn abandoned_proposals_go_at_their_deadline_when_nothing_is_decided() {
    let (node, driver) = open(HostConfig::default()).await;
    driver.0.store(true, Ordering::SeqCst);
    let before = node.status().groups[0].timeouts;
    for serial in 1..=100 {
        abandon(node.propose(frame(SESSION, serial, 0, vec![1]), SHORT / 2)).await;
    }
    let timeout = node.propose(frame(SESSION, 101, 0, vec![1]), SHORT).await;
    assert_eq!(timeout, Ok(Decision::Timeout));
    assert_eq!(in_flight(&*node), 0);
    assert_eq!(node.status().groups[0].timeouts - before, 101);
    // There is as much room as before.
    driver.0.store(false, Ordering::SeqCst);
    let accepted = node.propose(frame(SESSION, 102, 0, vec![1]), LONG).await;
    assert!(matches!(accepted, Ok(Decision::Accept(_))), "{accepted:?}");
}

#[tokio::test]
async fn more_than_may_wait_is_refused_and_room_comes_back() {
    let mut config = HostConfig::default();
    config.frames_in_flight_max = 10;
    let (node, driver) = open(config).await;
    driver.0.store(true, Ordering::SeqCst);
    for serial in 1..=10 {
        abandon(node.propose(frame(SESSION, serial, 0, vec![1]), LONG)).await;
    }
    let refused = node.propose(frame(SESSION, 11, 0, vec![1]), LONG).await.unwrap_err();
    assert!(matches!(refused, ProposeError::Overloaded { limit: 10, .. }), "{refused:?}");
    assert!(!refused.may_commit());
    driver.0.store(false, Ordering::SeqCst);
    // A read is answered after the turn in which the frames before it were.
    node.read_barrier(&shard(), Consistency::Linearizable, LONG).await.unwrap();
    let accepted = node.propose(frame(SESSION, 11, 0, vec![1]), LONG).await;
    assert!(matches!(accepted, Ok(Decision::Accept(_))), "{accepted:?}");
}

#[tokio::test]
async fn closing_ends_everything_that_waits() {
    let (node, driver) = open(HostConfig::default()).await;
    driver.0.store(true, Ordering::SeqCst);
    let mut proposals = Vec::new();
    for serial in 1..=1000 {
        let node = Arc::clone(&node);
        proposals.push(tokio::spawn(async move {
            node.propose(frame(SESSION, serial, 0, vec![1]), LONG).await.map(|one| vec![one])
        }));
    }
    for first in (1001..2000).step_by(100) {
        let node = Arc::clone(&node);
        let many = (first..first + 100).map(|serial| frame(SESSION, serial, 0, vec![1])).collect();
        proposals.push(tokio::spawn(async move { node.propose_many(many, LONG).await }));
    }
    let reader = Arc::clone(&node);
    let read = tokio::spawn(async move {
        reader.read_barrier(&shard(), Consistency::Linearizable, LONG).await
    });
    let timeout = node.propose(frame(SESSION, 2001, 0, vec![1]), SHORT).await;
    assert_eq!(timeout, Ok(Decision::Timeout));
    // Nothing is decided meanwhile, so the count only rises until all calls have begun.
    while in_flight(&*node) < 2000 {
        tokio::task::yield_now().await;
    }

    node.close().await.unwrap();
    for proposal in proposals {
        let ended = proposal.await.unwrap();
        assert_eq!(ended, Err(ProposeError::Closed { submitted: false }));
    }
    assert_eq!(read.await.unwrap(), Err(ReadError::Closed));
    assert_eq!(in_flight(&*node), 0);
    assert_eq!(node.status().health, Health::Closed);
    let late = node.propose(frame(SESSION, 2002, 0, vec![1]), LONG).await;
    assert_eq!(late, Err(ProposeError::Closed { submitted: false }));
}
