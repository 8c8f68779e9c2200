//! What `open` returns serves, and what does not come to serve is closed again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use quorate::*;
use quorate_driver_local::{Local, LocalConfig};
use quorate_host::{HostConfig, Hosted};
use tempfile::TempDir;

const FRAMES: u64 = 20;

/// Counts frames, after it was allowed to.
#[derive(Debug)]
struct Counter {
    gate: Gate,
    count: Arc<AtomicU64>,
}

/// What happens before a batch is counted.
#[derive(Debug)]
enum Gate {
    Open,
    /// Says that it has come to the gate, and waits until the other side lets it go on.
    Closed(mpsc::Sender<()>, Mutex<mpsc::Receiver<()>>),
    Panics,
}

impl Counter {
    fn new(gate: Gate) -> (Self, Arc<AtomicU64>) {
        let count = Arc::new(AtomicU64::new(0));
        (Self { gate, count: Arc::clone(&count) }, count)
    }
}

impl StateMachine for Counter {
    fn apply(&mut self, batch: &Batch<'_>, outcomes: &mut Outcomes) {
        match &self.gate {
            Gate::Open => {}
            Gate::Closed(arrived, leave) => {
                let _ = arrived.send(());
                // An error says that the gate is open for good.
                let _ = leave.lock().unwrap().recv();
            }
            Gate::Panics => panic!("planted"),
        }
        self.count.fetch_add(batch.frames.len() as u64, Ordering::Relaxed);
        batch.frames.iter().for_each(|_| outcomes.answer(Bytes::new()));
    }
    fn begin_checkpoint(&mut self) -> CheckpointPairs {
        let count = self.count.load(Ordering::Relaxed).to_le_bytes().to_vec();
        Box::new(std::iter::once(Pair::put("count", count)))
    }
    fn restore(&mut self, reader: &mut dyn CheckpointReader) -> Result<(), RestoreError> {
        let (_, count) = reader.next()?.ok_or_else(|| RestoreError::new("count"))?;
        let count = (*count).try_into().map_err(|_| RestoreError::new("count"))?;
        self.count.store(u64::from_le_bytes(count), Ordering::Relaxed);
        Ok(())
    }
}

/// A machine behind a gate: who listens for it, who lets it go on, and what it counted.
fn gated() -> (Counter, mpsc::Receiver<()>, mpsc::Sender<()>, Arc<AtomicU64>) {
    let (arrived, has_arrived) = mpsc::channel();
    let (leave, may_leave) = mpsc::channel();
    let (counter, count) = Counter::new(Gate::Closed(arrived, Mutex::new(may_leave)));
    (counter, has_arrived, leave, count)
}

/// A data directory with frames in its log.
async fn written() -> Result<TempDir, Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let node = Node::open_with(config(&directory), Counter::new(Gate::Open).0).await?;
    let (session, shard) = (node.session()?, ShardKey::new("o", "n")?);
    for _ in 0..FRAMES {
        session.propose(&shard, "frame", Duration::from_secs(60)).await?;
    }
    node.close().await?;
    Ok(directory)
}

fn config(directory: &TempDir) -> Config {
    Config::in_dir(directory.path())
}

/// The directory is free, and nothing is lost.
async fn check_whole(directory: &TempDir) -> Result<(), Box<dyn std::error::Error>> {
    let (counter, count) = Counter::new(Gate::Open);
    let node = Node::open_with(config(directory), counter).await?;
    assert_eq!(count.load(Ordering::Relaxed), FRAMES);
    Ok(node.close().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn open_returns_when_everything_accepted_before_is_applied()
-> Result<(), Box<dyn std::error::Error>> {
    let directory = written().await?;
    let (counter, has_arrived, leave, count) = gated();
    let opening = tokio::spawn(Node::open_with(config(&directory), counter));
    has_arrived.recv()?;
    assert!(!opening.is_finished(), "it was opened with frames to replay");
    drop(leave);
    let node = opening.await??;
    assert_eq!(count.load(Ordering::Relaxed), FRAMES);
    assert_eq!(node.status().health, Health::Ready);
    node.close().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_bound_open_does_not_wait_and_ready_does()
-> Result<(), Box<dyn std::error::Error>> {
    let directory = written().await?;
    let (counter, has_arrived, leave, count) = gated();
    let mut config = config(&directory);
    config.node.open_within = Duration::ZERO;
    let node = Node::open_with(config, counter).await?;
    has_arrived.recv()?;
    assert_eq!(count.load(Ordering::Relaxed), 0);
    drop(leave);
    node.ready(Duration::from_secs(60)).await?;
    assert_eq!(count.load(Ordering::Relaxed), FRAMES);
    node.close().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_given_up_is_closed() -> Result<(), Box<dyn std::error::Error>> {
    let directory = written().await?;
    let (counter, has_arrived, leave, _) = gated();
    let opening = tokio::spawn(Node::open_with(config(&directory), counter));
    has_arrived.recv()?;
    opening.abort();
    assert!(opening.await.unwrap_err().is_cancelled());
    drop(leave);
    // The directory is released when the threads have ended, which nobody waits for.
    loop {
        match check_whole(&directory).await {
            Err(error) if error.to_string().contains("in use") => tokio::task::yield_now().await,
            checked => return checked,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_while_it_replays_is_closed_and_says_why()
-> Result<(), Box<dyn std::error::Error>> {
    let directory = written().await?;
    let error = Node::open_with(config(&directory), Counter::new(Gate::Panics).0).await;
    let error = error.unwrap_err();
    assert!(matches!(error, NodeError::Stopped(_)), "{error:?}");
    assert!(error.to_string().contains("planted"), "{error}");
    check_whole(&directory).await
}

/// Opens the local driver with a clock by which everything takes too long.
struct Late;

#[derive(Debug, Default)]
struct Leaping(AtomicU64);

impl Clock for Leaping {
    fn now(&self) -> Duration {
        Duration::from_secs(3600 * self.0.fetch_add(1, Ordering::Relaxed))
    }
}

#[async_trait]
impl Driver for Late {
    const NAME: &'static str = "local";
    type Config = LocalConfig;

    async fn open(
        &self,
        config: LocalConfig,
        mut env: Env,
        machine: Box<dyn StateMachine>,
    ) -> Result<Arc<dyn Replicator>, OpenError> {
        env.clock = Arc::new(Leaping::default());
        Hosted::new(Local, HostConfig::default()).open(config, env, machine).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_ready_in_time_is_closed_and_says_how_far_it_came()
-> Result<(), Box<dyn std::error::Error>> {
    let directory = written().await?;
    let error = NodeBuilder::new(config(&directory))
        .registry(Registry::new().with(Late))
        .open_with(Counter::new(Gate::Open).0)
        .await
        .unwrap_err();
    assert!(matches!(error, NodeError::NotReady { .. }), "{error:?}");
    let words = error.to_string();
    assert!(words.starts_with("the node did not serve within 300s: it had applied "), "{words}");
    assert!(words.ends_with("; give it longer with node.open_within"), "{words}");
    check_whole(&directory).await
}
