//! Clients in the process of the test: one that looks, and one that writes while things go wrong.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use quorate::kv::{Entry, PutOptions, ReadOptions, Scan};
use quorate::{Client, ClientConfig, Health, NodeId, ShardKey, Status};
use tokio::runtime::Runtime;

use super::process::PATIENCE;

/// How long a node that is asked for its status may take. One that is killed never answers.
const ASK_WITHIN: Duration = Duration::from_secs(1);

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

pub(crate) async fn connect(config: &Path) -> Client {
    let mut config = ClientConfig::from_file(config).unwrap();
    config.connect_within = PATIENCE;
    Client::connect(config).await.unwrap()
}

/// A client that looks at what there is.
pub(crate) struct Observer {
    runtime: Runtime,
    client: Client,
}

impl Observer {
    /// Connects with the nodes that a client's file names.
    pub(crate) fn new(config: &Path) -> Self {
        let runtime = runtime();
        let client = runtime.block_on(connect(config));
        Self { runtime, client }
    }

    fn statuses(&self) -> Vec<(NodeId, Result<Status, String>)> {
        self.runtime.block_on(self.client.statuses(ASK_WITHIN))
    }

    /// Asks all nodes again and again, until what they say has what is looked for.
    #[track_caller]
    pub(crate) fn wait_for<T>(&self, what: &str, found: impl Fn(&[Status]) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            let statuses = self.statuses();
            let told: Vec<_> =
                statuses.iter().filter_map(|(_, status)| status.as_ref().ok().cloned()).collect();
            match found(&told) {
                Some(found) => return found,
                None => assert!(Instant::now() < until, "not {what}: {statuses:?}"),
            }
        }
    }

    /// Waits until those who answer are of one mind about who leads, and that one is among them.
    #[track_caller]
    pub(crate) fn leader(&self) -> u64 {
        self.wait_for("led", leader)
    }

    /// Waits until all of so many nodes are ready, and have what any of them had before; who leads.
    #[track_caller]
    pub(crate) fn whole(&self, nodes: usize) -> u64 {
        let before = self.wait_for("there", |told| {
            told.iter().filter_map(|status| Some(status.groups.first()?.committed)).max()
        });
        self.wait_for("whole", |told| {
            let has_all = |status: &Status| {
                status.health == Health::Ready
                    && status.groups.first().is_some_and(|group| group.applied >= before)
            };
            let all = told.len() == nodes && told.iter().all(has_all);
            all.then(|| leader(told)).flatten()
        })
    }

    /// Waits until all of so many nodes have applied the same, and compares what that led to.
    #[track_caller]
    pub(crate) fn same_history(&self, nodes: usize) {
        let histories = self.wait_for("equally far", |told| {
            let groups: Vec<_> = told.iter().filter_map(|status| status.groups.first()).collect();
            let all = groups.len() == nodes
                && groups.iter().all(|group| group.applied == groups[0].applied);
            all.then(|| groups.iter().map(|group| group.history).collect::<Vec<_>>())
        });
        assert!(histories.windows(2).all(|pair| pair[0] == pair[1]), "{histories:?}");
    }

    /// All keys of a namespace, and its revision.
    pub(crate) fn read(&self, shard: &ShardKey) -> (Vec<Entry>, u64) {
        self.runtime.block_on(async {
            let mut entries = Vec::new();
            let mut scan = Scan::all();
            loop {
                let options = ReadOptions::default().within(PATIENCE);
                let page = self.client.kv().scan(shard, &scan, options).await.unwrap();
                entries.extend(page.entries);
                match page.next {
                    Some(next) => scan = Scan::all().after(next),
                    None => return (entries, page.revision),
                }
            }
        })
    }
}

fn leader(told: &[Status]) -> Option<u64> {
    let leads = |status: &Status| status.groups.first()?.leader;
    let leader = leads(told.first()?)?;
    let agree = told.iter().all(|status| leads(status) == Some(leader));
    (agree && told.iter().any(|status| status.node == leader)).then(|| leader.number())
}

/// A write that was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) at: Instant,
    /// The namespace's revision that it was told.
    revision: u64,
}

#[derive(Debug, Default)]
struct Written {
    answers: Vec<Answer>,
    /// Why there are no more.
    problem: Option<String>,
}

/// Writes one new key after the other into a namespace of its own, each once, until it is told to stop.
pub(crate) struct Writer {
    shard: ShardKey,
    written: Arc<(Mutex<Written>, Condvar)>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn start(config: &Path, namespace: &str) -> Self {
        let shard = ShardKey::new("writers", namespace).unwrap();
        let written: Arc<(Mutex<Written>, Condvar)> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let job = write(config.to_owned(), shard.clone(), Arc::clone(&written), Arc::clone(&stop));
        let thread = std::thread::spawn(|| runtime().block_on(job));
        Self { shard, written, stop, thread: Some(thread) }
    }

    /// Waits until so many more writes are answered.
    #[track_caller]
    pub(crate) fn wait_for(&self, more: usize) {
        let (lock, changed) = &*self.written;
        let written = lock.lock().unwrap();
        let enough = written.answers.len() + more;
        let waits =
            |written: &mut Written| written.answers.len() < enough && written.problem.is_none();
        let (written, waited) = changed.wait_timeout_while(written, PATIENCE, waits).unwrap();
        assert_eq!(written.problem, None);
        assert!(!waited.timed_out(), "writes are not answered: {}", written.answers.len());
    }

    /// The longest time between two answers of which the later one came after this moment.
    pub(crate) fn gap_since(&self, since: Instant) -> Duration {
        let written = self.written.0.lock().unwrap();
        let pairs = written.answers.windows(2).rev();
        let gaps = pairs.map_while(|pair| (pair[1].at > since).then(|| pair[1].at - pair[0].at));
        gaps.max().unwrap_or_default()
    }

    /// Ends the writes, and compares what was answered with what is there: each is there once, with the revision that was told.
    #[track_caller]
    pub(crate) fn finish(mut self, observers: &[Observer]) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("it is taken once").join().unwrap();
        let written = self.written.0.lock().unwrap();
        assert_eq!(written.problem, None);
        for observer in observers {
            let (entries, revision) = observer.read(&self.shard);
            assert_eq!(entries.len(), written.answers.len());
            assert_eq!(revision, entries.len() as u64, "something was applied twice");
            for ((number, answer), entry) in (0_u64..).zip(&written.answers).zip(entries) {
                assert_eq!(entry.key, key(number));
                assert_eq!((entry.created, entry.modified), (answer.revision, answer.revision));
            }
        }
        written.answers.len()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It ends with the process if nobody answers it any more.
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn key(number: u64) -> String {
    format!("{number:010}")
}

async fn write(
    config: PathBuf,
    shard: ShardKey,
    written: Arc<(Mutex<Written>, Condvar)>,
    stop: Arc<AtomicBool>,
) {
    let client = connect(&config).await;
    let (lock, changed) = &*written;
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = key(number);
        let options = PutOptions::default().within(PATIENCE);
        let put = client.kv().put(&shard, key.as_bytes(), key.as_bytes(), options).await;
        let mut written = lock.lock().unwrap();
        match put {
            Ok(done) => {
                written.answers.push(Answer { at: Instant::now(), revision: done.revision });
            }
            Err(error) => written.problem = Some(format!("write {number}: {error}")),
        }
        changed.notify_all();
        if written.problem.is_some() {
            break;
        }
    }
    client.close().await;
}
