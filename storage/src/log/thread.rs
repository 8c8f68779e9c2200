//! A thread around a log.
//!
//! ```text
//!   submit --> queue (bounded) --> writer thread: drain, commit --> durable(group, seq)
//!                                                    |
//!                                    filler thread: prepares the next segment
//! ```
//!
//! The writer takes all that is there when it is free, so that a batch is as large as the disk is slow, and nobody
//! waits for a timer.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::format::record_bytes;
use super::{Health, Log, LogError, LogReader};
use crate::{Group, Record, Seq};

/// How often a full disk is tried again.
const FULL_RETRY: Duration = Duration::from_millis(100);

/// What is told of each commit, once and in order, on the writer thread: the last durable seq of each group, or the error
/// that ended the log.
pub type OnDurable = Box<dyn Fn(Result<&[(Group, Seq)], &LogError>) + Send>;

/// A log with a thread that commits what is submitted as soon as it can.
///
/// Dropping it asks the threads to end and does not wait; what has been submitted is still committed.
pub struct LogThread {
    shared: Arc<Queue>,
    reader: LogReader,
    flush_latency: Option<Duration>,
    threads: Vec<JoinHandle<()>>,
}

impl fmt::Debug for LogThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogThread").field("reader", &self.reader).finish_non_exhaustive()
    }
}

/// Writes of a group that were submitted together.
type Batch = (Group, Vec<(Seq, bool, Record)>);

#[derive(Debug)]
struct Queue {
    bytes_max: usize,
    record_bytes_max: usize,
    state: Mutex<State>,
    /// Something is in the queue, or the end has come.
    work: Condvar,
    /// There is something to fill, or the end has come.
    fill: Condvar,
}

#[derive(Debug)]
struct State {
    batches: VecDeque<Batch>,
    /// Bytes of the batches.
    queued: usize,
    /// Bytes that the writer has taken and not made durable.
    taken: usize,
    /// How many more bytes the segments take, once the disk is full.
    room: Option<u64>,
    closing: bool,
    wants_fill: bool,
    health: Health,
    /// What the end of the log was, once it has ended.
    ended: Option<Result<(), LogError>>,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogThread {
    /// Starts the threads. `on_durable` is called on the writer thread and should be quick.
    ///
    /// # Errors
    ///
    /// The operating system gives no thread.
    pub fn start(log: Log, on_durable: OnDurable) -> std::io::Result<Self> {
        let shared = Arc::new(Queue {
            bytes_max: log.config.queue_bytes_max,
            record_bytes_max: log.record_bytes_max(),
            state: Mutex::new(State {
                batches: VecDeque::new(),
                queued: 0,
                taken: 0,
                room: None,
                closing: false,
                wants_fill: true,
                health: log.health(),
                ended: None,
            }),
            work: Condvar::new(),
            fill: Condvar::new(),
        });
        let (reader, flush_latency) = (log.reader(), log.flush_latency());
        let spares = log.spares.clone();
        let queue = Arc::clone(&shared);
        let filler = std::thread::Builder::new()
            .name("quorate-log-fill".to_owned())
            .spawn(move || fill(&queue, &spares))?;
        let queue = Arc::clone(&shared);
        let writer = std::thread::Builder::new()
            .name("quorate-log".to_owned())
            .spawn(move || Writer::new(log, queue, on_durable).run());
        let writer = match writer {
            Ok(writer) => writer,
            Err(error) => {
                shared.state().closing = true;
                shared.fill.notify_all();
                return Err(error);
            }
        };
        Ok(Self { shared, reader, flush_latency, threads: vec![writer, filler] })
    }

    /// A reader of what is durable.
    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    /// As [`Log::flush_latency`].
    pub fn flush_latency(&self) -> Option<Duration> {
        self.flush_latency
    }

    /// How the log is.
    pub fn health(&self) -> Health {
        self.shared.state().health.clone()
    }

    /// Takes writes of a group, in order, and returns at once. Those of different groups may become durable in any
    /// order.
    ///
    /// # Errors
    ///
    /// Takes all or nothing. [`LogError::Overloaded`] while too many bytes wait, [`LogError::Full`] if the disk is and
    /// this is more than the reserve takes, [`LogError::TooLarge`] as it says, [`LogError::Closed`] after
    /// [`close`](Self::close), [`LogError::Faulted`] after a fault. [`LogError::Gap`] ends the log: an engine that
    /// writes it has lost count.
    pub fn submit(&self, group: Group, writes: Vec<(Seq, bool, Record)>) -> Result<(), LogError> {
        let queue = &*self.shared;
        let mut bytes = 0;
        for (_, _, record) in &writes {
            let more = record_bytes(record);
            if more > queue.record_bytes_max {
                return Err(LogError::TooLarge { bytes: more, max: queue.record_bytes_max });
            }
            bytes += more;
        }
        let mut state = queue.state();
        if let Some(Err(error)) = &state.ended {
            return Err(error.clone());
        }
        if state.closing {
            return Err(LogError::Closed);
        }
        let waiting = state.queued + state.taken;
        if state.room.is_some_and(|room| (waiting + bytes) as u64 > room) {
            return Err(LogError::Full);
        }
        // One submission of any size is taken while nothing waits, so that a small limit refuses nothing for ever.
        if waiting > 0 && waiting + bytes > queue.bytes_max {
            return Err(LogError::Overloaded { queued: waiting, max: queue.bytes_max });
        }
        state.queued += bytes;
        state.batches.push_back((group, writes));
        drop(state);
        queue.work.notify_one();
        Ok(())
    }

    /// Commits what has been submitted, marks the end of the log, and waits until the threads have ended.
    ///
    /// # Errors
    ///
    /// [`LogError::Faulted`] if the log has stopped before; [`LogError::Full`] if what was submitted found no room.
    pub fn close(mut self) -> Result<(), LogError> {
        self.end();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                return Err(LogError::Faulted { cause: Arc::from("go on: its thread panicked") });
            }
        }
        let state = self.shared.state();
        state.ended.clone().unwrap_or(Err(LogError::Closed))
    }

    fn end(&self) {
        self.shared.state().closing = true;
        self.shared.work.notify_all();
        self.shared.fill.notify_all();
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.end();
    }
}

struct Writer {
    log: Log,
    queue: Arc<Queue>,
    on_durable: OnDurable,
    /// Taken from the queue, but the log had no room.
    taken: VecDeque<Batch>,
    taken_bytes: usize,
    /// Whether there are segments to let go.
    more: bool,
}

impl Writer {
    fn new(log: Log, queue: Arc<Queue>, on_durable: OnDurable) -> Self {
        Self { log, queue, on_durable, taken: VecDeque::new(), taken_bytes: 0, more: true }
    }

    fn run(mut self) {
        let result = self.serve();
        let mut state = self.queue.state();
        if result.is_err() {
            state.health = self.log.health();
            state.batches.clear();
            state.queued = 0;
        }
        state.closing = true;
        state.ended = Some(result.clone());
        drop(state);
        self.queue.fill.notify_all();
        if let Err(error) = &result {
            (self.on_durable)(Err(error));
        }
    }

    fn serve(&mut self) -> Result<(), LogError> {
        loop {
            let closing = self.take();
            self.log.check()?;
            let full = !self.feed()? || !self.commit(closing)?;
            self.more = self.log.maintain_segments()?;
            self.note(closing);
            match (closing, full) {
                (true, true) => return Err(LogError::Full),
                (true, false) => return self.finish(),
                (false, true) => self.wait_for_room()?,
                (false, false) => {}
            }
        }
    }

    /// Waits for something to do and takes all there is; whether the end has come, so that no more will come.
    fn take(&mut self) -> bool {
        let mut state = self.queue.state();
        while state.batches.is_empty()
            && !state.closing
            && self.taken.is_empty()
            && !self.more
            && !self.log.wants_commit()
            && !matches!(state.health, Health::Faulted { .. })
        {
            state = self.queue.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.taken_bytes += state.queued;
        state.taken += std::mem::take(&mut state.queued);
        self.taken.append(&mut state.batches);
        state.closing
    }

    /// Hands to the log what has been taken; `false` if it has no room for all of it.
    fn feed(&mut self) -> Result<bool, LogError> {
        while let Some((group, writes)) = self.taken.front() {
            match self.log.admit(*group, writes) {
                Ok((bytes, _)) => self.taken_bytes -= bytes,
                Err(LogError::Full) => return Ok(false),
                Err(error) => return Err(self.log.shared.fault(&error.to_string())),
            }
            if let Some((group, writes)) = self.taken.pop_front() {
                self.log.submit(group, writes)?;
            }
        }
        Ok(true)
    }

    /// Commits what must become durable, or all of it; `false` if there is no room.
    fn commit(&mut self, all: bool) -> Result<bool, LogError> {
        while self.log.wants_commit() || all && self.log.has_pending() {
            match self.log.commit() {
                Ok(durable) => (self.on_durable)(Ok(&durable)),
                Err(LogError::Full) => return Ok(false),
                Err(error) => return Err(error),
            }
            // What waited for this commit may be taken now.
            self.note(all);
        }
        Ok(true)
    }

    /// Tells the others how things stand.
    fn note(&mut self, closing: bool) {
        let (ready, full) = self.log.spares.ready();
        let mut state = self.queue.state();
        state.taken = self.log.pending_bytes + self.taken_bytes;
        state.room = full.then(|| self.log.room(ready));
        state.health = self.log.health();
        if !closing && !full && self.log.spares.wants_more() && !state.wants_fill {
            state.wants_fill = true;
            self.queue.fill.notify_one();
        }
    }

    fn wait_for_room(&mut self) -> Result<(), LogError> {
        let state = self.queue.state();
        drop(self.queue.work.wait_timeout(state, FULL_RETRY));
        self.log.maintain().map(drop)
    }

    fn finish(&mut self) -> Result<(), LogError> {
        let durable = self.log.close()?;
        assert!(durable.is_empty(), "all has been committed before");
        Ok(())
    }
}

/// Prepares segments until the end comes.
fn fill(queue: &Queue, spares: &super::Spares) {
    let mut state = queue.state();
    while !state.closing {
        if !state.wants_fill {
            state = queue.fill.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        drop(state);
        let more = spares.prepare();
        state = queue.state();
        match more {
            // Commits come first on the disk, and on the processor.
            Ok(true) => {
                drop(state);
                std::thread::yield_now();
                state = queue.state();
            }
            Ok(false) if spares.ready().1 => {
                // The writer has to know, and tells when there is room again.
                state.health = Health::Full;
                let waited = queue.fill.wait_timeout(state, FULL_RETRY);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            Ok(false) => {
                if state.health == Health::Full {
                    (state.health, state.room) = (Health::Ok, None);
                }
                state.wants_fill = false;
            }
            Err(error) => {
                // The writer meets the same fault when it wakes.
                state.health = Health::Faulted { cause: Arc::from(error.to_string()) };
                queue.work.notify_all();
                return;
            }
        }
    }
}
