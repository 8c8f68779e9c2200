//! Many calls on one lane: questions go out in the order in which they are asked, answers come back in any.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quorate_transport_quic::{Lane, LaneReceiver, LaneSender};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::heights::Heights;
use crate::protocol::{self, Heard, Parts, Request};

/// Requests that wait to be written; more wait at their callers.
const QUEUED_MAX: usize = 1024;

/// The client's end of a lane of calls.
#[derive(Debug)]
pub(crate) struct Calls {
    queue: mpsc::Sender<Bytes>,
    waiting: Arc<Waiting>,
    heights: Arc<Heights>,
    numbers: AtomicU64,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// The request is so large that it does not fit into a message.
    TooLarge(usize),
    /// The connection ended. The node may have read the request.
    Lost,
    /// The time is over. The node may have read the request.
    Deadline,
}

impl Calls {
    /// Serves the lane by tasks of `tasks`, until one of them ends.
    pub(crate) fn start(lane: Lane, tasks: &mut JoinSet<String>) -> Self {
        let (sender, receiver) = lane.split();
        let (queue, queued) = mpsc::channel(QUEUED_MAX);
        let waiting = Arc::new(Waiting::default());
        let heights = Arc::new(Heights::default());
        tasks.spawn(write(sender, queued));
        tasks.spawn(read(receiver, Arc::clone(&waiting), Arc::clone(&heights)));
        Self { queue, waiting, heights, numbers: AtomicU64::new(0) }
    }

    /// What the node told of the heights that its answers are about.
    pub(crate) fn heights(&self) -> &Heights {
        &self.heights
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn ask(
        &self,
        request: &Request,
        within: Duration,
    ) -> Result<Bytes, Unanswered> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let message = protocol::request(number, within, request).map_err(Unanswered::TooLarge)?;
        let asked = async {
            let (_entry, answer) = Entry::make(&self.waiting, number).ok_or(Unanswered::Lost)?;
            self.queue.send(message).await.map_err(|_| Unanswered::Lost)?;
            answer.await.map_err(|_| Unanswered::Lost)
        };
        tokio::time::timeout(within, asked).await.unwrap_or(Err(Unanswered::Deadline))
    }
}

/// The calls that wait for their answers.
#[derive(Debug, Default)]
struct Waiting(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    calls: HashMap<u64, oneshot::Sender<Bytes>>,
    ended: bool,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // Each change is one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call in the table, taken out when the caller is gone.
struct Entry<'a> {
    waiting: &'a Waiting,
    number: u64,
}

impl<'a> Entry<'a> {
    /// None once the lane has ended.
    fn make(waiting: &'a Waiting, number: u64) -> Option<(Self, oneshot::Receiver<Bytes>)> {
        let (who, answer) = oneshot::channel();
        let mut table = waiting.lock();
        if table.ended {
            return None;
        }
        table.calls.insert(number, who);
        Some((Self { waiting, number }, answer))
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.waiting.lock().calls.remove(&self.number);
    }
}

/// Ends all calls that wait when the reader of their answers ends, however it does.
struct End(Arc<Waiting>);

impl Drop for End {
    fn drop(&mut self) {
        let mut table = self.0.lock();
        table.ended = true;
        table.calls.clear();
    }
}

async fn write(mut lane: LaneSender, mut queued: mpsc::Receiver<Bytes>) -> String {
    loop {
        let mut batch = Vec::new();
        if queued.recv_many(&mut batch, QUEUED_MAX).await == 0 {
            return "the calls are over".into();
        }
        if let Err(error) = lane.send(batch).await {
            return error.to_string();
        }
    }
}

async fn read(mut lane: LaneReceiver, waiting: Arc<Waiting>, heights: Arc<Heights>) -> String {
    let end = End(waiting);
    let mut parts = Parts::default();
    loop {
        let message = match lane.next().await {
            Ok(Some(message)) => message,
            Ok(None) => return "the node ended the lane".into(),
            Err(error) => return error.to_string(),
        };
        match parts.push(message) {
            Ok(Heard::Answer(number, answer)) => {
                // One that nobody waits for any more is dropped.
                if let Some(who) = end.0.lock().calls.remove(&number) {
                    let _ = who.send(answer);
                }
            }
            // Before the answers that are about it are handed on.
            Ok(Heard::Height(height)) => heights.add(*height),
            Ok(Heard::Part) => {}
            Err(malformed) => return format!("what came is {malformed}"),
        }
    }
}
