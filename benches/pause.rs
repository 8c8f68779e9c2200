//! How long a checkpoint holds up applying, with a million keys: every one of them is in the first checkpoint.
//!
//! Prints the longest time between the ends of two consecutive batches while a checkpoint is made and while none is,
//! under the same load, and how long beginning one took. It is no criterion bench: what counts is the worst case.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quorate_driver_local::{Local, LocalConfig};
use quorate_host::{HostConfig, Hosted};
use quorate_replicator::{
    Batch, CheckpointPairs, CheckpointReader, Decision, Driver, Env, Event, Frame, FrameId,
    MonotonicClock, NodeId, Outcomes, Replicator, RestoreError, SessionId, ShardKey, StateMachine,
};
use quorate_shard::{Shards, kv::Op};

const KEYS: u64 = 1_000_000;
const CLIENTS: u64 = 64;
const CHECKPOINTS: usize = 3;
const WITHIN: Duration = Duration::from_secs(60);

/// What was seen on the engine thread.
#[derive(Debug, Default)]
struct Seen {
    running: AtomicBool,
    gaps: Mutex<Gaps>,
}

#[derive(Debug, Default)]
struct Gaps {
    during: Vec<Duration>,
    between: Vec<Duration>,
    begin: Vec<Duration>,
    /// Only the work on a batch, during a checkpoint: the rest of a gap is waiting for frames, the disk or a core.
    apply: Vec<Duration>,
}

#[derive(Debug)]
struct Watched {
    machine: Box<dyn StateMachine>,
    seen: Arc<Seen>,
    applied: Option<Instant>,
}

impl StateMachine for Watched {
    fn apply(&mut self, batch: &Batch<'_>, outcomes: &mut Outcomes) {
        let begun = Instant::now();
        self.machine.apply(batch, outcomes);
        let now = Instant::now();
        if self.seen.running.load(Ordering::SeqCst) {
            self.seen.gaps.lock().expect("nobody panics with it").apply.push(now - begun);
        }
        if let Some(before) = self.applied.replace(now) {
            let mut gaps = self.seen.gaps.lock().expect("nobody panics with it");
            let running = self.seen.running.load(Ordering::SeqCst);
            if running { &mut gaps.during } else { &mut gaps.between }.push(now - before);
        }
    }

    fn begin_checkpoint(&mut self) -> CheckpointPairs {
        let begun = Instant::now();
        let pairs = self.machine.begin_checkpoint();
        self.seen.gaps.lock().expect("nobody panics with it").begin.push(begun.elapsed());
        self.seen.running.store(true, Ordering::SeqCst);
        pairs
    }

    fn restore(&mut self, reader: &mut dyn CheckpointReader) -> Result<(), RestoreError> {
        self.machine.restore(reader)
    }
}

fn main() {
    // `cargo test --benches` asks every bench whether it starts.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("threads can be started");
    runtime.block_on(measure());
}

async fn measure() {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let directory = tempfile::tempdir_in(target).expect("a directory for the data");
    let seen = Arc::<Seen>::default();
    let machine = Box::new(Shards::builder().build().0);
    let machine = Watched { machine, seen: Arc::clone(&seen), applied: None };
    let mut config = HostConfig::default();
    // The first one comes when all keys are there.
    config.checkpoint.log_bytes = 120 << 20;
    let env = Env::new(NodeId::new(1), directory.path(), Arc::new(MonotonicClock::new()), 1);
    let hosted = Hosted::new(Local, config);
    let opened = hosted.open(LocalConfig::default(), env, Box::new(machine)).await;
    let node = opened.expect("a node opens on an empty directory");
    let mut events = node.events();

    let mut filler = Client::open(&node, 0).await;
    for _ in 0..KEYS / 1000 {
        filler.put(1000).await;
    }
    *seen.gaps.lock().expect("nobody panics with it") = Gaps::default();
    for number in 1..=CLIENTS {
        let mut client = Client::open(&node, number * (KEYS / CLIENTS)).await;
        tokio::spawn(async move { while client.put(1).await {} });
    }
    let mut stored = 0;
    while stored < CHECKPOINTS {
        let event = std::future::poll_fn(|context| events.as_mut().poll_next(context)).await;
        if let Some(Event::Checkpoint { .. }) = event {
            seen.running.store(false, Ordering::SeqCst);
            stored += 1;
        }
    }
    node.close().await.expect("a node closes");
    let mut gaps = seen.gaps.lock().expect("nobody panics with it");
    let Gaps { during, between, begin, apply } = &mut *gaps;
    println!("| | count | p50 | p99.9 | longest |");
    println!("|---|--:|--:|--:|--:|");
    for (what, times) in [
        ("between two batches, during a checkpoint", during),
        ("between two batches, otherwise", between),
        ("applying one batch, during a checkpoint", apply),
        ("beginning a checkpoint", begin),
    ] {
        times.sort_unstable();
        let at =
            |share: f64| times.get((times.len() as f64 * share) as usize).or_else(|| times.last());
        let shown = [at(0.5), at(0.999), times.last()]
            .map(|time| format!("{:?}", time.copied().unwrap_or_default()));
        println!("| {what} | {} | {} |", times.len(), shown.join(" | "));
    }
}

/// Puts one key after the other.
struct Client {
    node: Arc<dyn Replicator>,
    shard: ShardKey,
    session: SessionId,
    serial: u64,
    number: u64,
}

impl Client {
    async fn open(node: &Arc<dyn Replicator>, number: u64) -> Self {
        let session = SessionId::random().expect("the system has a random source");
        let shard = ShardKey::new("org", "ns").expect("two names");
        let opened = node.propose(Frame::open_session(session, shard.clone()), WITHIN).await;
        assert!(matches!(opened, Ok(Decision::Accept(_))), "{opened:?}");
        Self { node: Arc::clone(node), shard, session, serial: 1, number }
    }

    /// False once the node is closed.
    async fn put(&mut self, count: u64) -> bool {
        let settled = self.serial;
        let frames = (0..count).map(|_| {
            let spread = (self.number % KEYS).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut key = [0; 16];
            key[..8].copy_from_slice(&spread.to_be_bytes());
            let id = FrameId { session: self.session, serial: self.serial };
            (self.serial, self.number) = (self.serial + 1, self.number + 1);
            let payload = Op::put(&key, &[7; 64]).encode();
            Frame { settled, ..Frame::new(id, self.shard.clone(), payload) }
        });
        self.node.propose_many(frames.collect(), WITHIN).await.is_ok()
    }
}
