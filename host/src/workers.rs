//! The threads that do slow work with files, one job after the other.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use quorate_engine::{CheckpointJob, Fetch, Fetched};
use quorate_storage::{CheckpointStore, Group, LogError, LogReader};

use crate::engine_thread::Command;
use crate::inbox::Inbox;

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

/// Stores checkpoints.
pub(crate) fn checkpoints(
    store: Arc<CheckpointStore>,
    reader: LogReader,
    inbox: Arc<Inbox<Command>>,
) -> std::io::Result<Worker<CheckpointJob>> {
    Worker::start("quorate-checkpoint", move |job: CheckpointJob| {
        let index = job.index;
        // What a checkpoint holds was durable in the log before it was applied.
        let write = job.into_write(reader.durable_lsn());
        let stored = store.write(write).map_err(|error| error.to_string());
        inbox.report(Command::Checkpointed(index, stored));
    })
}

/// Reads the log for subscribers who are not among the newest batches.
pub(crate) fn fetches(
    group: Group,
    reader: LogReader,
    inbox: Arc<Inbox<Command>>,
) -> std::io::Result<Worker<Fetch>> {
    Worker::start("quorate-reader", move |fetch: Fetch| {
        let first = fetch.range.start;
        let fetched = match reader.read(group, fetch.range, fetch.bytes_max) {
            Ok(entries) if entries.is_empty() => {
                Err(format!("entry {first} of the log cannot be found; run `quorate verify`"))
            }
            Ok(entries) => Ok(Fetched::Entries(entries)),
            Err(LogError::Trimmed { first }) => Ok(Fetched::Trimmed(first)),
            Err(error) => Err(error.to_string()),
        };
        inbox.report(Command::Fetched(fetch.reader, fetched));
    })
}
