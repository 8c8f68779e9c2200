//! The messages of one channel that wait to be sent to one peer.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use quorate_replicator::SendError;
use tokio::sync::Notify;

use crate::Limits;
use crate::packing::{Batch, Packing, own_head};

/// A bounded queue in the order of sending, filled by callers and emptied by one task of the connection.
///
/// Small messages are put together into frames as they come, so that the task has to do with frames alone.
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
    packing: Packing,
    /// Of messages in the queue, and of those that are being written.
    count: usize,
    bytes: usize,
    sent: u64,
    lost: u64,
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
        let own_head = own_head(&message);
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
            state.packing.push(message, own_head);
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

    /// The connection is lost, and with it what was queued for it: what was sent of it cannot be told from what was not. Its
    /// task has ended before.
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
        state.count -= batch.count;
        state.bytes -= batch.bytes;
        state.sent += batch.count as u64;
    }

    /// Messages that were given to a connection, and messages that were lost with one.
    pub(crate) fn counters(&self) -> (u64, u64) {
        let state = self.lock();
        (state.sent, state.lost)
    }

    fn take(&self) -> Option<Batch> {
        let mut state = self.lock();
        let batch = state.packing.take();
        state.waiting = batch.pieces.is_empty();
        (!state.waiting).then_some(batch)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Decoder;
    use crate::packing::SHARING_BYTES_MAX;
    use crate::wire;

    fn queue(limits: Limits) -> Queue {
        let queue = Queue::new(&limits);
        queue.open();
        queue
    }

    fn messages(batch: &Batch) -> Vec<Bytes> {
        let mut decoder = Decoder::default();
        let mut messages = Vec::new();
        for piece in batch.pieces.iter().filter(|piece| !piece.is_empty()) {
            decoder.push(piece.clone());
            while let Some(frame) = decoder.next().unwrap() {
                let mut several = wire::Messages::of(frame).unwrap();
                while let Some(message) = several.next().unwrap() {
                    messages.push(message);
                }
            }
        }
        decoder.end().unwrap();
        messages
    }

    #[test]
    fn messages_of_all_sizes_come_out_in_order() {
        let queue = queue(Limits::default());
        let sizes =
            [0, 1, SHARING_BYTES_MAX, SHARING_BYTES_MAX + 1, 0, 70_000, 3, 4000, 4000, 4000];
        let sent: Vec<_> = sizes.iter().map(|size| Bytes::from(vec![*size as u8; *size])).collect();
        let mut got = Vec::new();
        for _ in 0..3 {
            sent.iter().for_each(|message| queue.push(message.clone()).unwrap());
            while let Some(batch) = queue.take() {
                got.extend(messages(&batch));
                queue.written(&batch);
            }
        }
        assert_eq!(got, [&*sent, &*sent, &*sent].concat());
        assert_eq!(queue.counters(), (30, 0));
        let state = queue.lock();
        assert_eq!((state.count, state.bytes), (0, 0));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_what_is_being_written_counts() {
        let mut limits = Limits::default();
        (limits.queue_messages_max, limits.queue_bytes_max) = (3, 100);
        let queue = queue(limits);
        let message = |bytes| Bytes::from(vec![1; bytes]);
        assert_eq!(queue.push(message(1000)), Ok(()), "a single message always fits");
        assert_eq!(queue.push(message(1)), Err(SendError::QueueFull));
        let batch = queue.take().unwrap();
        assert_eq!(queue.push(message(1)), Err(SendError::QueueFull));
        queue.written(&batch);
        for _ in 0..3 {
            assert_eq!(queue.push(message(0)), Ok(()));
        }
        assert_eq!(queue.push(message(0)), Err(SendError::QueueFull));
    }

    #[test]
    fn a_peer_that_is_not_connected_has_a_small_backlog_and_a_lost_connection_empties_it() {
        let queue = Queue::new(&Limits { backlog_bytes_max: 100, ..Limits::default() });
        let message = |bytes| Bytes::from(vec![1; bytes]);
        assert_eq!(queue.push(message(101)), Err(SendError::QueueFull));
        assert_eq!(queue.push(message(60)), Ok(()));
        assert_eq!(queue.push(message(60)), Err(SendError::QueueFull));
        queue.open();
        assert_eq!(queue.push(message(5000)), Ok(()));
        assert_eq!(messages(&queue.take().unwrap()).len(), 2);
        queue.close();
        assert_eq!(queue.counters(), (0, 2));
        assert!(queue.take().is_none());
    }
}
