//! Proposers and subscribers who go on while the node is closed, dropped and loses its power under them.

#[path = "support/counter.rs"]
mod counter;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use quorate_driver_local::{Local, LocalConfig};
use quorate_host::{HostConfig, Hosted, Retain};
use quorate_replicator::{
    Accepted, Consistency, Cursor, Decision, Driver, Env, Frame, FrameId, Handler, HandlerError,
    MonotonicClock, NodeId, Position, ProposeError, Replicator, Scope, SessionId, Subscription,
};
use quorate_storage::{Keep, SimDisk};
use tokio::sync::watch;

use counter::{Counter, frame, shard};

/// How long nothing at all may happen.
const PATIENCE: Duration = Duration::from_secs(300);

const PROPOSERS: u64 = 8;

/// Most frames of one call; every call has its own number of them.
const CALL_FRAMES_MAX: u64 = 64;

/// How much is done.
#[derive(Clone, Copy, Debug)]
struct Budget {
    /// Frames of all proposers, a multiple of their number.
    frames: u64,
    restarts: usize,
}

impl Budget {
    fn of_environment() -> Self {
        match std::env::var("QUORATE_TEST_BUDGET").as_deref() {
            Ok("long") => Self { frames: 1_000_000, restarts: 20 },
            _ => Self { frames: 100_000, restarts: 5 },
        }
    }
}

/// How a life of the node ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Close,
    /// Without being told.
    Drop,
    /// A random part of what was not synced is kept.
    PowerCut,
}

type Serving = Option<Arc<dyn Replicator>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_subscriber_sees_each_frame_once_in_order_across_restarts() {
    let seed = seed();
    soak(seed, Budget::of_environment(), None, &[End::Close, End::Drop]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_subscriber_sees_each_frame_once_in_order_across_power_cuts() {
    let seed = seed();
    let Budget { frames, restarts } = Budget::of_environment();
    let budget = Budget { frames: frames / 5, restarts };
    let disk = SimDisk::new(seed);
    soak(seed, budget, Some(disk), &[End::Close, End::Drop, End::PowerCut, End::PowerCut]).await;
}

/// Random unless `QUORATE_SEED` says otherwise. It decides what is proposed and how and when lives end, not how the threads
/// take turns.
fn seed() -> u64 {
    let given = std::env::var("QUORATE_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed = given.unwrap_or_else(|| {
        let bytes = SessionId::random().unwrap().bytes();
        u64::from_le_bytes(bytes[..8].try_into().unwrap())
    });
    println!("QUORATE_SEED={seed}");
    seed
}

async fn soak(seed: u64, budget: Budget, disk: Option<SimDisk>, ends: &[End]) {
    let directory = tempfile::tempdir().unwrap();
    let mut random = Random(seed);
    let (serving, node) = watch::channel::<Serving>(None);
    let progress = watch::Sender::new(0);
    let proposers: Vec<_> = (0..PROPOSERS)
        .map(|number| {
            let (node, random) = (node.clone(), Random(random.next()));
            let frames = budget.frames / PROPOSERS;
            tokio::spawn(proposer(number as u8 + 1, frames, node, progress.clone(), random))
        })
        .collect();
    let journals: Vec<_> =
        [false, true, true].map(Journal::new).into_iter().map(Arc::new).collect();

    let mut moments: Vec<_> = (0..budget.restarts).map(|_| random.below(budget.frames)).collect();
    moments.sort_unstable();
    for moment in moments {
        let (node, subscriptions) = open(directory.path(), disk.as_ref(), &journals).await;
        serving.send_replace(Some(Arc::clone(&node)));
        let mut accepted = progress.subscribe();
        patiently("frames are accepted", accepted.wait_for(|count| *count >= moment))
            .await
            .unwrap();
        let end = ends[random.below(ends.len() as u64) as usize];
        println!("at {} frames: {end:?}", *progress.borrow());
        finish(node, end, &serving, disk.as_ref()).await;
        drop(subscriptions);
    }

    let (node, _subscriptions) = open(directory.path(), disk.as_ref(), &journals).await;
    serving.send_replace(Some(Arc::clone(&node)));
    let mut expected = Vec::new();
    for (proposer, session) in proposers.into_iter().zip(1..) {
        let commits = patiently("proposers end", proposer).await.unwrap();
        let id = |serial| FrameId { session: SessionId::new([session; 16]), serial };
        expected.extend((1..).zip(commits).map(|(serial, position)| (position, id(serial))));
    }
    expected.sort_unstable_by_key(|(position, _)| *position);
    assert_eq!(expected.len() as u64, budget.frames);

    // One more, who has seen nothing yet.
    let late = Arc::new(Journal::new(false));
    let _late = subscribe(&*node, &late).await;
    for journal in journals.iter().chain([&late]) {
        let mut count = journal.count.subscribe();
        patiently("frames reach a subscriber", count.wait_for(|count| *count >= expected.len()))
            .await
            .unwrap();
        let seen = journal.seen.lock().unwrap();
        let differs = seen.iter().zip(&expected).position(|(seen, expected)| seen != expected);
        assert_eq!(differs, None, "seed {seed}: a subscriber saw something else there");
        assert_eq!(seen.len(), expected.len(), "seed {seed}: a subscriber saw more");
    }
    node.close().await.unwrap();
}

async fn open(
    directory: &Path,
    disk: Option<&SimDisk>,
    journals: &[Arc<Journal>],
) -> (Arc<dyn Replicator>, Vec<Subscription>) {
    let env = Env::new(NodeId::new(1), directory, Arc::new(MonotonicClock::new()), 1);
    let mut config = HostConfig::default();
    // Checkpoints come often, and what subscribers may need stays.
    config.checkpoint.log_bytes = 2 << 20;
    config.retain = Retain { bytes: u64::MAX, ..config.retain };
    config.log.segment_bytes = 8 << 20;
    config.log.block_bytes_max = 1 << 20;
    config.disk = disk.map(|disk| Arc::new(disk.clone()) as _);
    let hosted = Hosted::new(Local, config);
    let node = hosted.open(LocalConfig::default(), env, Box::<Counter>::default()).await.unwrap();
    let mut subscriptions = Vec::new();
    for journal in journals {
        subscriptions.push(subscribe(&*node, journal).await);
    }
    (node, subscriptions)
}

async fn subscribe(node: &dyn Replicator, journal: &Arc<Journal>) -> Subscription {
    let handler = Arc::<Journal>::clone(journal);
    // Waits for what is replayed, since a cursor must not be ahead of the node.
    node.read_barrier(&shard(), Consistency::Linearizable, PATIENCE).await.unwrap();
    node.subscribe(Scope::All, journal.cursor(), handler).await.unwrap()
}

/// Ends a node in this way and returns when its data directory is free.
async fn finish(
    node: Arc<dyn Replicator>,
    end: End,
    serving: &watch::Sender<Serving>,
    disk: Option<&SimDisk>,
) {
    let mut events = node.events();
    match (end, disk) {
        (End::Close, _) => {
            node.close().await.unwrap();
            serving.send_replace(None);
        }
        (End::PowerCut, Some(disk)) => {
            disk.power_cut(Keep::Random);
            serving.send_replace(None);
            // It finds out by itself, or has nothing more to write.
            drop(node);
        }
        (End::Drop | End::PowerCut, _) => {
            serving.send_replace(None);
            drop(node);
        }
    }
    // The stream of events ends with the node.
    patiently("the node ends", async {
        while std::future::poll_fn(|context| events.as_mut().poll_next(context)).await.is_some() {}
    })
    .await;
}

/// Proposes until everything is accepted; where each serial was.
async fn proposer(
    number: u8,
    frames: u64,
    mut node: watch::Receiver<Serving>,
    progress: watch::Sender<u64>,
    mut random: Random,
) -> Vec<Position> {
    let session = SessionId::new([number; 16]);
    decided(&mut node, vec![Frame::open_session(session, shard())]).await;
    let mut positions = Vec::new();
    while (positions.len() as u64) < frames {
        let first = positions.len() as u64 + 1;
        let count = (1 + random.below(CALL_FRAMES_MAX)).min(frames - positions.len() as u64);
        let payload = |serial: u64| [&[number][..], &serial.to_le_bytes()].concat();
        let call =
            (first..first + count).map(|serial| frame(session, serial, first, payload(serial)));
        positions.extend(decided(&mut node, call.collect()).await);
        progress.send_modify(|accepted| *accepted += count);
    }
    positions
}

/// Proposes the same frames to one life of the node after the other until they are accepted.
async fn decided(node: &mut watch::Receiver<Serving>, frames: Vec<Frame>) -> Vec<Position> {
    loop {
        let serving = node.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        let propose = async {
            match &frames[..] {
                [frame] => {
                    serving.propose(frame.clone(), PATIENCE).await.map(|decision| vec![decision])
                }
                _ => serving.propose_many(frames.clone(), PATIENCE).await,
            }
        };
        let outcome = tokio::select! {
            biased;
            // Dropped with its future; the outcome is unknown.
            _ = node.changed() => continue,
            outcome = propose => outcome,
        };
        match outcome {
            Ok(decisions) => {
                let position = |decision| match decision {
                    Decision::Accept(commit) => commit.position,
                    other => panic!("{other:?} of {frames:?}"),
                };
                return decisions.into_iter().map(position).collect();
            }
            Err(ProposeError::Closed { .. } | ProposeError::Faulted { .. }) => {
                drop(serving);
                node.changed().await.unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// A subscriber that writes down what it is given, and goes on after the last of it.
#[derive(Debug)]
struct Journal {
    seen: Mutex<Vec<(Position, FrameId)>>,
    count: watch::Sender<usize>,
    /// Gives the node a chance to end between being given a batch and having handled it.
    dawdles: bool,
}

impl Journal {
    fn new(dawdles: bool) -> Self {
        Self { seen: Mutex::default(), count: watch::Sender::new(0), dawdles }
    }

    fn cursor(&self) -> Cursor {
        Cursor::after(self.seen.lock().unwrap().last().map(|(position, _)| *position))
    }
}

#[async_trait]
impl Handler for Journal {
    async fn handle(&self, batch: &[Accepted]) -> Result<(), HandlerError> {
        if self.dawdles {
            for _ in 0..batch.len() % 64 {
                tokio::task::yield_now().await;
            }
        }
        let mut seen = self.seen.lock().unwrap();
        seen.extend(batch.iter().map(|accepted| (accepted.position, accepted.frame.id)));
        self.count.send_replace(seen.len());
        Ok(())
    }
}

async fn patiently<F: Future>(what: &str, future: F) -> F::Output {
    let done = tokio::time::timeout(PATIENCE, future).await;
    done.unwrap_or_else(|_| panic!("{what}, within {PATIENCE:?}"))
}

/// SplitMix64: the same numbers from the same seed.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
