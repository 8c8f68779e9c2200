//! What a node costs in memory when much goes through it. In a process of its own, so that nothing else counts.

#[path = "support/counter.rs"]
mod counter;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use quorate_driver_local::{Local, LocalConfig};
use quorate_host::{HostConfig, Hosted, Retain};
use quorate_replicator::{
    Accepted, Cursor, Decision, Driver, Env, Frame, Handler, HandlerError, MonotonicClock, NodeId,
    Scope, SessionId,
};
use tokio::sync::{Semaphore, watch};

use counter::{Counter, frame, shard};

/// Longer than any test runs.
const LONG: Duration = Duration::from_secs(600);

const SESSION: SessionId = SessionId::new([1; 16]);

const PAYLOAD_BYTES: usize = 32 << 10;

const CALL_FRAMES: u64 = 16;

/// What a node may grow by, whatever goes through it: newest batches for subscribers, newest records for readers, blocks on
/// their way to the disk, pages of the checkpoint.
const GROWTH_MAX: u64 = 48 << 20;

/// A subscriber that handles nothing until it may.
#[derive(Debug)]
struct Stalled {
    may: Semaphore,
    last: Mutex<u64>,
    count: watch::Sender<u64>,
    bytes: AtomicU64,
}

#[async_trait]
impl Handler for Stalled {
    async fn handle(&self, batch: &[Accepted]) -> Result<(), HandlerError> {
        drop(self.may.acquire().await.unwrap());
        let mut last = self.last.lock().unwrap();
        for Accepted { frame, .. } in batch {
            assert_eq!(frame.id.serial, *last + 1, "in order, without a gap");
            *last = frame.id.serial;
            self.bytes.fetch_add(frame.payload.len() as u64, Ordering::Relaxed);
        }
        self.count.send_replace(*last);
        Ok(())
    }
}

/// What the process has in memory, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_subscriber_costs_nothing_and_misses_nothing() {
    let total: u64 = match std::env::var("QUORATE_TEST_BUDGET").as_deref() {
        Ok("long") => 1 << 30,
        _ => 128 << 20,
    };
    let frames = total / PAYLOAD_BYTES as u64;
    let directory = tempfile::tempdir().unwrap();
    let mut config = HostConfig::default();
    config.log.tail_cache_bytes = 4 << 20;
    config.checkpoint.log_bytes = 16 << 20;
    config.retain = Retain { bytes: 2 * total, ..config.retain };
    let env = Env::new(NodeId::new(1), directory.path(), Arc::new(MonotonicClock::new()), 1);
    let hosted = Hosted::new(Local, config);
    let node = hosted.open(LocalConfig::default(), env, Box::<Counter>::default()).await.unwrap();
    let handler = Arc::new(Stalled {
        may: Semaphore::new(0),
        last: Mutex::new(0),
        count: watch::Sender::new(0),
        bytes: AtomicU64::new(0),
    });
    let stalled = Arc::<Stalled>::clone(&handler);
    let subscription = node.subscribe(Scope::All, Cursor::beginning(), stalled).await.unwrap();
    node.propose(Frame::open_session(SESSION, shard()), LONG).await.unwrap();

    let before = resident();
    let mut most = 0;
    for first in (1..=frames).step_by(CALL_FRAMES as usize) {
        let call = (first..first + CALL_FRAMES)
            .map(|serial| frame(SESSION, serial, first, vec![serial as u8; PAYLOAD_BYTES]));
        let decisions = node.propose_many(call.collect(), LONG).await.unwrap();
        assert!(decisions.iter().all(|decision| matches!(decision, Decision::Accept(_))));
        most = most.max(resident());
    }
    let growth = most.saturating_sub(before);
    println!("{} MiB went through and {} MiB were added", total >> 20, growth >> 20);
    assert!(growth < GROWTH_MAX, "{growth} bytes more in memory after {total} bytes");
    assert_eq!(*handler.last.lock().unwrap(), 0, "it has handled nothing yet");

    // It goes on from the log.
    handler.may.add_permits(1);
    let mut count = handler.count.subscribe();
    let all = tokio::time::timeout(LONG, count.wait_for(|last| *last == frames)).await;
    all.expect("the subscriber catches up").unwrap();
    assert_eq!(handler.bytes.load(Ordering::Relaxed), total);
    drop(subscription);
    node.close().await.unwrap();
}
