//! The threads that do slow work with files, one job after the other.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use quorate_engine::{CheckpointJob, Fetch, Fetched, panic_words};
use quorate_replicator::GroupId;
use quorate_storage::{CheckpointStore, Group, Index, LogError, LogReader};

use crate::engine_thread::{Command, ForGroup};
use crate::inbox::Inbox;
use crate::snapshots::Snapshots;

/// A thread that takes jobs of one kind until it is dropped or joined.
#[derive(Debug)]
pub(crate) struct Worker<J> {
    jobs: Option<mpsc::Sender<J>>,
    thread: Option<JoinHandle<()>>,
}

impl<J: Send + 'static> Worker<J> {
    /// Starts a thread that does each job with `work`.
    pub(crate) fn start(
        name: &str,
        mut work: impl FnMut(J) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (jobs, waiting) = mpsc::channel::<J>();
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || waiting.iter().for_each(&mut work))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Gives it a job. The giver has few at a time: one checkpoint, and one fetch for each subscription.
    pub(crate) fn give(&self, job: J) {
        let jobs = self.jobs.as_ref().expect("jobs are given before the end");
        // A worker that died has panicked; its giver learns that at the end, and nobody waits for this job's answer
        // longer than its own deadline.
        let _ = jobs.send(job);
    }

    /// Ends the thread after the jobs it has; false if it panicked.
    pub(crate) fn join(mut self) -> bool {
        self.jobs = None;
        self.thread.take().is_none_or(|thread| thread.join().is_ok())
    }
}

/// What is done with a group's checkpoints, one after the other.
#[derive(Debug)]
pub(crate) enum CheckpointWork {
    /// Store one.
    Store(usize, CheckpointJob),
    /// Put a staged snapshot in the place of the newest.
    Install(usize, Index),
}

/// Stores checkpoints, and puts snapshots in their place.
pub(crate) fn checkpoints(
    stores: Vec<Arc<CheckpointStore>>,
    snapshots: Option<Arc<Snapshots>>,
    reader: LogReader,
    inbox: Arc<Inbox<Command>>,
) -> std::io::Result<Worker<CheckpointWork>> {
    Worker::start("quorate-checkpoint", move |work| {
        let (group, done) = match work {
            CheckpointWork::Store(group, job) => {
                let index = job.index;
                // What a checkpoint holds was durable in the log before it was applied.
                let watermark = reader.durable_lsn();
                // The pairs are the state machine's own iterator: its panic stops the group, as one in `apply` does.
                let stored = contained(|| stores[group].write(job.into_write(watermark)));
                (group, ForGroup::Checkpointed(index, stored))
            }
            CheckpointWork::Install(group, index) => {
                let of = GroupId::new(u32::try_from(group).expect("groups are counted in 32 bits"));
                let installed = contained(|| {
                    let snapshots = snapshots.as_ref().ok_or("this node has no transport")?;
                    snapshots.install(of, index).map(Box::new)
                });
                (group, ForGroup::Installed(installed))
            }
        };
        inbox.report(Command::Group(group, done));
    })
}

/// Which group's log is to be read.
pub(crate) type FetchJob = (usize, Fetch);

/// Reads the log for subscribers and for engines whose peers are behind.
pub(crate) fn fetches(
    reader: LogReader,
    inbox: Arc<Inbox<Command>>,
) -> std::io::Result<Worker<FetchJob>> {
    Worker::start("quorate-reader", move |(place, fetch): FetchJob| {
        let group = Group::new(u32::try_from(place).expect("groups are counted in 32 bits"));
        let first = fetch.range.start;
        let read = || match reader.read(group, fetch.range.clone(), fetch.bytes_max) {
            Ok(entries) => Ok(Fetched::Entries(entries)),
            Err(LogError::Trimmed { first }) => Ok(Fetched::Trimmed(first)),
            Err(error) => Err(error),
        };
        let fetched = contained(read).and_then(|fetched| match fetched {
            Fetched::Entries(entries) if entries.is_empty() => {
                Err(format!("entry {first} of the log cannot be found; run `quorate verify`"))
            }
            fetched => Ok(fetched),
        });
        inbox.report(Command::Group(place, ForGroup::Fetched(fetch.reader, fetched)));
    })
}

/// Does `work`, and makes words of an error or a panic: a worker always reports.
fn contained<T, E: Display>(work: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(panic) => Err(format!("a panic: {}", panic_words(&*panic))),
    }
}
