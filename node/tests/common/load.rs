//! Clients that write and read few keys together, and what they were told, to be judged.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use fastrand::Rng;
use quorate::kv::{Condition, DeleteOptions, KvError, PutOptions, ReadOptions};
use quorate::{Kv, SessionError, ShardKey};
use quorate_conformance::linearizable::{KvCall, What, linearizable};

use super::process::PATIENCE;
use super::writer::{connect, runtime};

const KEYS: u32 = 16;

/// How long a call waits before it is unknown what became of it.
const WITHIN: Duration = Duration::from_secs(3);

/// Clients that go on until they are told to stop.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    told: Mutex<Told>,
    more: Condvar,
    stop: AtomicBool,
    /// Makes each value another one.
    values: AtomicU64,
    /// A clock that all clients share: what one of them did before another began has a smaller number.
    moments: AtomicI64,
}

#[derive(Default)]
struct Told {
    calls: Vec<KvCall>,
    answered: usize,
    /// The namespace's revisions that writes were told.
    revisions: Vec<u64>,
    /// Writes of which it is not known whether they took a revision.
    unknown: u64,
    problem: Option<String>,
}

impl Load {
    /// One client for each of these files. Clients that know different nodes read at different nodes.
    pub(crate) fn start(configs: &[PathBuf], seed: u64) -> Self {
        let shared: Arc<Shared> = Arc::default();
        let clients = (0..).zip(configs).map(|(client, config)| {
            let (shared, config) = (Arc::clone(&shared), config.clone());
            std::thread::spawn(move || {
                runtime().block_on(async {
                    let link = connect(&config).await;
                    let random = Rng::with_seed(seed << 8 | u64::from(client));
                    Caller { client, shared, random, kv: link.kv() }.run().await;
                    link.close().await;
                });
            })
        });
        Self { clients: clients.collect(), shared }
    }

    /// Waits until so many more calls are answered.
    #[track_caller]
    pub(crate) fn wait_for(&self, more: usize) {
        let told = self.shared.told.lock().unwrap();
        let enough = told.answered + more;
        let waits = |told: &mut Told| told.answered < enough && told.problem.is_none();
        let (told, waited) = self.shared.more.wait_timeout_while(told, PATIENCE, waits).unwrap();
        assert_eq!(told.problem, None);
        assert!(!waited.timed_out(), "calls are not answered: {} are", told.answered);
    }

    /// Ends the clients and judges what they were told; the namespace came to `revision` by it. Gives how many calls there were, and
    /// of how many it is unknown what became of them.
    #[track_caller]
    pub(crate) fn finish(mut self, revision: impl FnOnce(&ShardKey) -> u64) -> (usize, u64) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.clients.drain(..).for_each(|client| client.join().unwrap());
        let mut told = self.shared.told.lock().unwrap();
        assert_eq!(told.problem, None);
        if let Err(wrong) = linearizable(&told.calls) {
            panic!("{wrong}");
        }
        // Each write has a revision of its own, and no revision has no write: nothing was done twice.
        let revision = revision(&shard());
        let written = told.revisions.len() as u64;
        told.revisions.sort_unstable();
        assert!(told.revisions.windows(2).all(|two| two[0] < two[1]), "two writes in one place");
        assert!(told.revisions.last() <= Some(&revision), "a write that was answered is lost");
        let most = written + told.unknown;
        assert!((written..=most).contains(&revision), "{revision} writes, not {written} to {most}");
        (told.calls.len(), told.unknown)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // They end with the process if nobody answers them any more.
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

fn shard() -> ShardKey {
    ShardKey::new("load", "keys").unwrap()
}

struct Caller<'a> {
    client: u32,
    shared: Arc<Shared>,
    random: Rng,
    kv: &'a Kv,
}

/// What came of a call.
enum Came {
    /// It is told so; a write took this revision.
    Told(What, Option<u64>),
    /// A write whose outcome is unknown.
    Unknown,
    /// Nothing was done, or nothing was read.
    Nothing,
}

impl Caller<'_> {
    async fn run(&mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let key = self.random.u32(..KEYS);
            let wanted = match self.random.u32(..100) {
                0..40 => What::Put { value: self.value() },
                40..50 => What::Delete { existed: None },
                50..65 => match self.expected(key).await {
                    Some(expected) => expected,
                    None => continue,
                },
                _ => What::Get { seen: None },
            };
            self.call(key, wanted).await;
        }
    }

    fn value(&self) -> u64 {
        self.shared.values.fetch_add(1, Ordering::Relaxed)
    }

    fn moment(&self) -> i64 {
        self.shared.moments.fetch_add(1, Ordering::SeqCst)
    }

    /// A swap of what the key holds now; a read of its own.
    async fn expected(&mut self, key: u32) -> Option<What> {
        match self.call(key, What::Get { seen: None }).await? {
            What::Get { seen } => {
                Some(What::Swap { expected: seen, value: self.value(), done: None })
            }
            other => panic!("a read was answered with {other:?}"),
        }
    }

    async fn call(&mut self, key: u32, wanted: What) -> Option<What> {
        let called = self.moment();
        let came = self.ask(key, wanted).await;
        let (what, revision, answered) = match came {
            Ok(Came::Told(what, revision)) => (what, revision, Some(self.moment())),
            Ok(Came::Unknown) => (wanted, None, None),
            Ok(Came::Nothing) => return None,
            Err(problem) => {
                self.shared.stop.store(true, Ordering::Relaxed);
                self.shared.told.lock().unwrap().problem = Some(problem);
                self.shared.more.notify_all();
                return None;
            }
        };
        let mut told = self.shared.told.lock().unwrap();
        told.calls.push(KvCall { client: self.client, key, what, called, answered });
        told.answered += usize::from(answered.is_some());
        told.unknown += u64::from(answered.is_none());
        told.revisions.extend(revision);
        self.shared.more.notify_all();
        answered.map(|_| what)
    }

    /// Swaps compare values, so that what is known of revisions is not needed to judge them.
    async fn ask(&mut self, key: u32, wanted: What) -> Result<Came, String> {
        let (kv, shard, key) = (self.kv, shard(), key.to_le_bytes());
        let put = PutOptions::default().within(WITHIN);
        Ok(match wanted {
            What::Get { .. } => {
                let Ok(got) = kv.get(&shard, &key, ReadOptions::default().within(WITHIN)).await
                else {
                    return Ok(Came::Nothing);
                };
                let value = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes);
                let seen = got.entry.map(|entry| value(&entry.value)).transpose();
                Came::Told(What::Get { seen: seen.map_err(|error| error.to_string())? }, None)
            }
            What::Put { value } => match kv.put(&shard, &key, &value.to_le_bytes(), put).await {
                Ok(done) => Came::Told(wanted, Some(done.revision)),
                Err(error) => self.failed(error)?,
            },
            What::Swap { expected, value, .. } => {
                let held = expected.map(u64::to_le_bytes);
                let condition =
                    held.as_ref().map_or(Condition::Missing, |held| Condition::Value(held));
                let put = put.only_if(condition);
                let told = |done| What::Swap { expected, value, done: Some(done) };
                match kv.put(&shard, &key, &value.to_le_bytes(), put).await {
                    Ok(done) => Came::Told(told(true), Some(done.revision)),
                    Err(KvError::CompareFailed { .. }) => Came::Told(told(false), None),
                    Err(error) => self.failed(error)?,
                }
            }
            What::Delete { .. } => {
                let options = DeleteOptions::default().within(WITHIN);
                match kv.delete(&shard, &key, options).await {
                    Ok(done) => {
                        let told = What::Delete { existed: Some(done.existed) };
                        Came::Told(told, done.existed.then_some(done.revision))
                    }
                    Err(error) => self.failed(error)?,
                }
            }
        })
    }

    fn failed(&self, error: KvError) -> Result<Came, String> {
        match error {
            error if error.may_commit() => Ok(Came::Unknown),
            KvError::Session(SessionError::Propose(_)) => Ok(Came::Nothing),
            other => Err(other.to_string()),
        }
    }
}
