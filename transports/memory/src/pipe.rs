//! The messages of one channel under way from one node to another.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quorate_replicator::{Channel, Inbound, NodeId, SendError};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::counters::Counters;
use crate::link::{Fate, Link, LinkFaults};

/// A bounded queue in the order of arrival, filled by the sender and emptied by one task of the receiver.
#[derive(Debug)]
pub(crate) struct Pipe {
    from: NodeId,
    channel: Channel,
    /// The zero of the moments in the queue.
    start: Instant,
    messages_max: usize,
    bytes_max: usize,
    // A few operations on a queue; never held across an await.
    state: Mutex<State>,
    /// Tells the receiver's task that the head of the queue is another one.
    filled: Notify,
}

#[derive(Debug)]
struct State {
    /// Whether what is sent now can arrive.
    open: bool,
    link: Link,
    faults: LinkFaults,
    /// Ordered by arrival; equal moments in the order of sending.
    queue: VecDeque<(Duration, Bytes)>,
    /// Of the queue and of the message that the receiver holds.
    messages: usize,
    bytes: usize,
    counters: Counters,
}

/// What the head of the queue says.
enum Head {
    Message(Bytes),
    At(Instant),
    Empty,
}

impl Pipe {
    pub(crate) fn new(
        from: NodeId,
        channel: Channel,
        link: Link,
        faults: LinkFaults,
        start: Instant,
        config: &crate::HubConfig,
    ) -> Self {
        let state = State {
            open: false,
            link,
            faults,
            queue: VecDeque::new(),
            messages: 0,
            bytes: 0,
            counters: Counters::default(),
        };
        Self {
            from,
            channel,
            start,
            messages_max: config.queue_messages_max,
            bytes_max: config.queue_bytes_max,
            state: Mutex::new(state),
            filled: Notify::new(),
        }
    }

    /// Puts a message on its way.
    pub(crate) fn send(&self, message: Bytes) -> Result<(), SendError> {
        let wake = {
            let mut guard = self.lock();
            let state = &mut *guard;
            let full = state.messages >= self.messages_max
                || (state.messages > 0 && state.bytes + message.len() > self.bytes_max);
            if full {
                state.counters.refused += 1;
                return Err(SendError::QueueFull);
            }
            state.counters.sent += 1;
            if !state.open {
                state.counters.lost += 1;
                return Ok(());
            }
            let fate = if state.faults.is_none() {
                Fate::Once(state.link.at_once())
            } else {
                state.link.fate(&state.faults, self.start.elapsed())
            };
            match fate {
                Fate::Lost => {
                    state.counters.lost += 1;
                    false
                }
                Fate::Once(at) => state.enqueue(at, message),
                Fate::Twice(at, again) => {
                    let wake = state.enqueue(at, message.clone());
                    if state.messages < self.messages_max {
                        state.counters.duplicated += 1;
                        state.enqueue(again, message);
                    }
                    wake
                }
            }
        };
        if wake {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Gives what arrives to `inbound`, until the task is ended from outside.
    pub(crate) async fn deliver(self: Arc<Self>, inbound: Arc<dyn Inbound>) {
        loop {
            match self.head() {
                Head::Message(message) => {
                    let mut held = Held { pipe: &self, bytes: message.len(), delivered: false };
                    inbound.message(self.from, self.channel, message).await;
                    held.delivered = true;
                    drop(held);
                    // A receiver that is always ready must not keep the thread for itself.
                    tokio::task::coop::consume_budget().await;
                }
                Head::At(moment) => tokio::select! {
                    () = tokio::time::sleep_until(moment) => {}
                    () = self.filled.notified() => {}
                },
                Head::Empty => self.filled.notified().await,
            }
        }
    }

    /// Opens or closes the pipe. Closing loses what is under way, but not the message that the receiver holds.
    pub(crate) fn set_open(&self, open: bool) {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.open = open;
        if !open {
            let lost = std::mem::take(&mut state.queue);
            state.messages -= lost.len();
            state.bytes -= lost.iter().map(|(_, message)| message.len()).sum::<usize>();
            state.counters.lost += lost.len() as u64;
        }
    }

    /// Replaces the faults; messages under way keep their fate.
    pub(crate) fn set_faults(&self, faults: LinkFaults) {
        self.lock().faults = faults;
    }

    pub(crate) fn counters(&self) -> Counters {
        let state = self.lock();
        Counters { under_way: state.messages as u64, ..state.counters }
    }

    fn head(&self) -> Head {
        let mut state = self.lock();
        let Some((at, _)) = state.queue.front() else { return Head::Empty };
        // The clock is read only when a message can be early.
        if !at.is_zero() && *at > self.start.elapsed() {
            return Head::At(self.start + *at);
        }
        let (_, message) = state.queue.pop_front().expect("the queue has a head");
        Head::Message(message)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether the message became the head of the queue.
    fn enqueue(&mut self, at: Duration, message: Bytes) -> bool {
        self.messages += 1;
        self.bytes += message.len();
        let place = match self.queue.back() {
            Some((last, _)) if *last > at => self.queue.partition_point(|(other, _)| *other <= at),
            _ => self.queue.len(),
        };
        self.queue.insert(place, (at, message));
        place == 0
    }
}

/// A message in the receiver's hand; counted when it is let go, whichever way that happens.
struct Held<'a> {
    pipe: &'a Pipe,
    bytes: usize,
    delivered: bool,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut state = self.pipe.lock();
        state.messages -= 1;
        state.bytes -= self.bytes;
        if self.delivered {
            state.counters.delivered += 1;
        } else {
            state.counters.lost += 1;
        }
    }
}
