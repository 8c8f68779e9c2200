//! A disk that fails under a running node.

#[path = "support/counter.rs"]
mod counter;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quorate_driver_local::{Local, LocalConfig};
use quorate_host::{HostConfig, Hosted, LogConfig};
use quorate_replicator::{
    Clock, CloseError, Decision, Driver, Env, Event, Frame, Health, MonotonicClock, NodeId,
    ProposeError, Replicator, SessionId,
};
use quorate_storage::{Fault, Keep, SimDisk};

use counter::{Counter, frame, shard};

/// Longer than any test runs.
const LONG: Duration = Duration::from_secs(600);

const SESSION: SessionId = SessionId::new([1; 16]);

async fn open(disk: &SimDisk) -> Arc<dyn Replicator> {
    open_with(disk, Arc::new(MonotonicClock::new())).await
}

async fn open_with(disk: &SimDisk, clock: Arc<dyn Clock>) -> Arc<dyn Replicator> {
    let mut config = HostConfig::default();
    config.disk = Some(Arc::new(disk.clone()));
    config.log = LogConfig::default();
    config.log.segment_bytes = 8 << 20;
    config.log.block_bytes_max = 64 << 10;
    let env = Env::new(NodeId::new(1), "unused", clock, 1);
    let hosted = Hosted::new(Local, config);
    let node = hosted.open(LocalConfig::default(), env, Box::<Counter>::default()).await.unwrap();
    let opened = node.propose(Frame::open_session(SESSION, shard()), LONG).await;
    assert!(matches!(opened, Ok(Decision::Accept(_))), "{opened:?}");
    node
}

/// Proposes until the disk fails one of its next operations, and checks that everyone is told.
async fn fails(fault: Fault, operation: u64) {
    let disk = SimDisk::new(1);
    let node = open(&disk).await;
    let mut events = node.events();
    disk.fail_at(disk.ops() + operation, fault);
    // Some are accepted before the fault.
    let mut accepted = 0;
    let mut waiting = Vec::new();
    for serial in 1..=200 {
        let node = Arc::clone(&node);
        waiting.push(tokio::spawn(async move {
            node.propose(frame(SESSION, serial, 0, vec![1; 100]), LONG).await
        }));
    }
    let mut faulted = 0;
    for proposal in waiting {
        match proposal.await.unwrap() {
            Ok(Decision::Accept(_)) => accepted += 1,
            Err(ProposeError::Faulted { cause, .. }) => {
                assert!(cause.contains("disk") || cause.contains("log"), "{cause}");
                faulted += 1;
            }
            other => panic!("{fault:?} at {operation}: {other:?}"),
        }
    }
    assert_eq!(accepted + faulted, 200, "everyone who waited was told");
    // However few operations those took, one more is the failing one at the latest.
    let mut serial = 201;
    let late = loop {
        match node.propose(frame(SESSION, serial, serial, vec![1]), LONG).await {
            Ok(Decision::Accept(_)) => (accepted, serial) = (accepted + 1, serial + 1),
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(late, ProposeError::Faulted { .. }), "{late:?}");
    let later = node.propose(frame(SESSION, serial + 1, 0, vec![1]), LONG).await.unwrap_err();
    assert!(matches!(later, ProposeError::Faulted { submitted: false, .. }), "{later:?}");
    assert!(!later.may_commit());
    assert!(matches!(node.status().health, Health::Faulted { .. }), "{:?}", node.status());
    let event = std::future::poll_fn(|context| events.as_mut().poll_next(context));
    assert!(matches!(event.await, Some(Event::Faulted { .. })));
    let closed = node.close().await.unwrap_err();
    assert!(matches!(closed, CloseError::Faulted { .. }), "{closed:?}");
    assert_eq!(node.close().await.unwrap_err(), closed, "as often as one asks");

    // What was accepted is there after a power cut.
    disk.reboot(Keep::None);
    let node = open(&disk).await;
    let counted = node.propose(frame(SESSION, serial + 2, 0, vec![1]), LONG).await.unwrap();
    let Decision::Accept(commit) = counted else { panic!("{counted:?}") };
    let count = u64::from_le_bytes(commit.reply.bytes().unwrap().as_ref().try_into().unwrap());
    assert!(count > accepted, "{accepted} were accepted, {count} are there");
    node.close().await.unwrap();
}

#[tokio::test]
async fn a_failed_write_or_sync_ends_the_node_and_everyone_is_told() {
    // A commit is a write and a sync, in this order; so both kinds meet the fault.
    for operation in 0..6 {
        fails(Fault::Eio, operation).await;
    }
}

#[tokio::test]
async fn a_short_write_ends_the_node_and_everyone_is_told() {
    for operation in 0..4 {
        fails(Fault::Short, operation).await;
    }
}

/// Ends the engine thread by a panic, when it has asked so often what time it is.
#[derive(Debug)]
struct Fatal {
    time: MonotonicClock,
    left: AtomicU64,
}

impl Clock for Fatal {
    fn now(&self) -> Duration {
        let is_engine = std::thread::current().name() == Some("quorate-engine");
        if is_engine && self.left.fetch_sub(1, Ordering::Relaxed) == 0 {
            panic!("out of time, as the test wants it");
        }
        self.time.now()
    }
}

/// Whoever is told that nothing will come of a frame must be able to rely on it, also where a bug ends the node.
#[tokio::test]
async fn an_engine_thread_that_panics_leaves_no_false_answers() {
    for left in 0..40 {
        let disk = SimDisk::new(1);
        let clock = Arc::new(Fatal { time: MonotonicClock::new(), left: u64::MAX.into() });
        let node = open_with(&disk, Arc::clone(&clock) as Arc<dyn Clock>).await;
        clock.left.store(left, Ordering::Relaxed);
        let mut waiting = Vec::new();
        for serial in 1..=20 {
            let node = Arc::clone(&node);
            waiting.push(tokio::spawn(async move {
                node.propose(frame(SESSION, serial, 0, vec![1]), LONG).await
            }));
        }
        let mut may_be = 0;
        for proposal in waiting {
            match proposal.await.unwrap() {
                Ok(Decision::Accept(_)) => may_be += 1,
                Err(error) => may_be += u64::from(error.may_commit()),
                other => panic!("{other:?}"),
            }
        }
        // With enough time left nothing has gone wrong yet.
        while node.propose(frame(SESSION, 21, 0, vec![1]), LONG).await.is_ok() {}
        may_be += 1;
        assert!(matches!(node.close().await, Err(CloseError::Faulted { .. })));

        let node = open(&disk.fork(Keep::All)).await;
        let counted = node.propose(frame(SESSION, 22, 0, vec![1]), LONG).await.unwrap();
        let Decision::Accept(commit) = counted else { panic!("{counted:?}") };
        let count = u64::from_le_bytes(commit.reply.bytes().unwrap().as_ref().try_into().unwrap());
        assert!(count - 1 <= may_be, "after {left} times: {count} are there, {may_be} may be");
        node.close().await.unwrap();
    }
}
