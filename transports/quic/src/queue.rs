//! The messages of one channel that wait to be sent to one peer.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use quorate_replicator::SendError;
use tokio::sync::Notify;

use crate::Limits;
use crate::codec::{HEAD_BYTES, Kind, head};

/// About how many bytes are written at once. More make each write cheaper and the others of a connection wait longer.
const BATCH_BYTES: usize = 128 << 10;

/// Messages up to this size are copied beside one another; larger ones are handed over as they are.
const COPIED_BYTES_MAX: usize = 4 << 10;

/// A bounded queue in the order of sending, filled by callers and emptied by one task of the connection.
#[derive(Debug)]
pub(crate) struct Queue {
    messages_max: usize,
    bytes_max: usize,
    backlog_bytes_max: usize,
    // A few operations on a queue; never held across an await.
    state: Mutex<State>,
    /// Tells the task of the connection that there is something to write.
    filled: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Whether a connection takes messages away.
    open: bool,
    /// Whether the task of the connection waits to be told.
    waiting: bool,
    messages: VecDeque<Bytes>,
    /// Of the queue, and of what is being written.
    count: usize,
    bytes: usize,
    sent: u64,
    lost: u64,
}

/// Frames ready to be written.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) frames: Vec<Bytes>,
    count: usize,
    bytes: usize,
}

impl Queue {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            messages_max: limits.queue_messages_max,
            bytes_max: limits.queue_bytes_max,
            backlog_bytes_max: limits.backlog_bytes_max,
            state: Mutex::default(),
            filled: Notify::new(),
        }
    }

    /// Puts a message at the end.
    pub(crate) fn push(&self, message: Bytes) -> Result<(), SendError> {
        let wake = {
            let mut state = self.lock();
            let bytes = state.bytes + message.len();
            let full = if state.open {
                state.count > 0 && bytes > self.bytes_max
            } else {
                bytes > self.backlog_bytes_max
            };
            if full || state.count >= self.messages_max {
                return Err(SendError::QueueFull);
            }
            state.count += 1;
            state.bytes = bytes;
            state.messages.push_back(message);
            std::mem::take(&mut state.waiting)
        };
        if wake {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// A connection takes messages away from now on.
    pub(crate) fn open(&self) {
        self.lock().open = true;
    }

    /// The connection is lost, and with it what was queued for it: what was sent since cannot be told from what was not.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        let sent = state.sent;
        let lost = state.lost + state.count as u64;
        *state = State { sent, lost, ..State::default() };
    }

    /// The next messages as frames. Waits until there is one.
    pub(crate) async fn next(&self) -> Batch {
        loop {
            if let Some(batch) = self.take() {
                return batch;
            }
            self.filled.notified().await;
        }
    }

    /// Counts a batch as sent.
    pub(crate) fn written(&self, batch: &Batch) {
        let mut state = self.lock();
        // After a close the batch was counted as lost.
        if state.open && state.count >= batch.count {
            state.count -= batch.count;
            state.bytes -= batch.bytes;
            state.sent += batch.count as u64;
        }
    }

    /// Messages that were given to a connection, and messages that were lost with one.
    pub(crate) fn counters(&self) -> (u64, u64) {
        let state = self.lock();
        (state.sent, state.lost)
    }

    fn take(&self) -> Option<Batch> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        {
            let mut state = self.lock();
            while bytes < BATCH_BYTES
                && let Some(message) = state.messages.pop_front()
            {
                bytes += message.len();
                taken.push(message);
            }
            state.waiting = taken.is_empty();
        }
        if taken.is_empty() {
            return None;
        }
        let count = taken.len();
        Some(Batch { frames: frames(taken), count, bytes })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Messages as frames, the small ones in one piece.
fn frames(messages: Vec<Bytes>) -> Vec<Bytes> {
    let copied =
        |message: &Bytes| if message.len() <= COPIED_BYTES_MAX { message.len() } else { 0 };
    let bytes: usize = messages.iter().map(|message| HEAD_BYTES + copied(message)).sum();
    let mut piece = BytesMut::with_capacity(bytes);
    let mut frames = Vec::new();
    for message in messages {
        piece.extend_from_slice(&head(Kind::Message, &[&message]));
        if message.len() <= COPIED_BYTES_MAX {
            piece.extend_from_slice(&message);
        } else {
            frames.push(piece.split().freeze());
            frames.push(message);
        }
    }
    if !piece.is_empty() {
        frames.push(piece.freeze());
    }
    frames
}
