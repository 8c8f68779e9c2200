//! Lanes: streams of messages in both directions, which a client opens and a node serves.
//!
//! ```text
//!   LaneSender::send --> frames of messages --> one stream of the connection --> LaneReceiver::next
//! ```
//!
//! 1. Messages of a lane arrive once each, in order, for as long as the connection lasts; lanes do not wait for one another.
//! 2. A sender waits for the receiver's window: what is not read is not sent.
//! 3. Whatever on a lane is not of the protocol ends the connection, as everywhere.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt, WriteError};
use quorate_replicator::limits::MESSAGE_BYTES_MAX;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::explain::{self, CloseCode, close};
use crate::frame_stream::{FrameStream, StreamError};
use crate::packing::{Packing, own_head};
use crate::wire::Messages;

/// What a stream is given up with in the middle of a message.
const GIVEN_UP: VarInt = VarInt::from_u32(1);

/// A connection that carries lanes, at either of its ends.
#[derive(Debug)]
pub(crate) struct Carrier {
    pub(crate) connection: Connection,
    /// What this end calls itself and the other end.
    me: &'static str,
    who: String,
    stall_timeout: Duration,
    /// Why this end ended it, if it did.
    ended: OnceLock<String>,
    /// Tells that this is let go, if somebody wants to know.
    _alive: Option<oneshot::Sender<()>>,
}

impl Carrier {
    pub(crate) fn new(
        connection: Connection,
        me: &'static str,
        who: String,
        stall_timeout: Duration,
        alive: Option<oneshot::Sender<()>>,
    ) -> Self {
        Self { connection, me, who, stall_timeout, ended: OnceLock::new(), _alive: alive }
    }

    /// Whether this end has ended the connection.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.get().is_some()
    }

    /// Ends the connection with words, unless this end has ended it before.
    pub(crate) fn end(&self, code: CloseCode, words: &str) {
        if self.ended.set(words.to_owned()).is_ok() {
            close(&self.connection, code, words);
        }
    }

    /// Waits for the end of the connection, and explains it.
    pub(crate) async fn closed(&self) -> String {
        self.explain(&self.connection.closed().await)
    }

    /// Why the connection has ended.
    pub(crate) fn explain(&self, error: &ConnectionError) -> String {
        match (error, self.ended.get()) {
            (ConnectionError::LocallyClosed, Some(words)) => words.clone(),
            _ => explain::lost_by(self.me, &self.who, error),
        }
    }

    fn lost(&self, error: &ConnectionError) -> LaneError {
        LaneError::Closed { reason: self.explain(error) }
    }

    /// What an end of a stream means for its lane.
    fn failed(&self, error: StreamError) -> LaneError {
        match error {
            StreamError::Lost(error) => self.lost(&error),
            StreamError::GivenUp => LaneError::GivenUp,
            other => {
                let problem = format!("{} broke the protocol: {other}", self.who);
                self.end(CloseCode::Protocol, &problem);
                LaneError::Protocol { problem }
            }
        }
    }
}

/// A stream of messages in both directions. A client opens it, and the node serves it; either end may end its direction first.
pub struct Lane {
    sender: LaneSender,
    receiver: LaneReceiver,
}

impl Lane {
    /// A lane on these streams.
    pub(crate) fn new(
        carrier: &Arc<Carrier>,
        send: SendStream,
        recv: RecvStream,
        place: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let place = place.map(Arc::new);
        let sender = LaneSender {
            stream: send,
            packing: Packing::default(),
            writing: Vec::new(),
            carrier: Arc::clone(carrier),
            _place: place.clone(),
        };
        let receiver = LaneReceiver {
            frames: FrameStream::new(recv, carrier.stall_timeout),
            messages: None,
            failed: None,
            carrier: Arc::clone(carrier),
            _place: place,
        };
        Self { sender, receiver }
    }

    /// Opens a lane on a connection that this end has dialled. `place` is let go when both halves are.
    pub(crate) async fn open(
        carrier: &Arc<Carrier>,
        place: OwnedSemaphorePermit,
    ) -> Result<Self, LaneError> {
        let opened = carrier.connection.open_bi().await;
        let (send, recv) = opened.map_err(|error| carrier.lost(&error))?;
        Ok(Self::new(carrier, send, recv, Some(place)))
    }

    /// Both directions, each for a task of its own.
    pub fn split(self) -> (LaneSender, LaneReceiver) {
        (self.sender, self.receiver)
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("with", &self.sender.carrier.who).finish_non_exhaustive()
    }
}

/// The direction of a lane in which this end speaks. Dropping it ends the direction after the messages that were sent; one that
/// is dropped in the middle of a message is given up instead.
pub struct LaneSender {
    stream: SendStream,
    packing: Packing,
    /// What is being written, the rest of it.
    writing: Vec<Bytes>,
    carrier: Arc<Carrier>,
    _place: Option<Arc<OwnedSemaphorePermit>>,
}

impl LaneSender {
    /// Sends messages in this order. Waits while the other end does not read, beyond its window; what was written is sent at
    /// once. Many small messages in one call share frames, and cost much less than in calls of their own.
    ///
    /// # Errors
    ///
    /// A message is too large, and then nothing of the call is sent; or the lane has ended, and then some messages may have come
    /// to the other end.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, what is not written yet stays and goes before the messages of the next call.
    pub async fn send(&mut self, messages: Vec<Bytes>) -> Result<(), LaneError> {
        let large = messages.iter().map(Bytes::len).find(|bytes| *bytes > MESSAGE_BYTES_MAX);
        if let Some(bytes) = large {
            return Err(LaneError::TooLarge { bytes });
        }
        for message in messages {
            let head = own_head(&message);
            self.packing.push(message, head);
        }
        self.flush().await
    }

    /// Ends this direction after all that was sent: the other end sees that no more comes. What was sent still arrives if the
    /// connection lasts so long.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send): what a dropped future left is written first.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped the direction ends as if the sender were dropped.
    pub async fn finish(mut self) -> Result<(), LaneError> {
        self.flush().await?;
        self.stream.finish().map_err(|_| LaneError::GivenUp)
    }

    async fn flush(&mut self) -> Result<(), LaneError> {
        loop {
            if self.writing.is_empty() {
                self.writing = self.packing.take().pieces;
            }
            if self.writing.is_empty() {
                return Ok(());
            }
            match self.stream.write_chunks(&mut self.writing).await {
                Ok(written) => drop(self.writing.drain(..written.chunks)),
                Err(error) => {
                    // No later write can do better, and what is left must not add up.
                    self.packing = Packing::default();
                    self.writing.clear();
                    return Err(match error {
                        WriteError::ConnectionLost(error) => self.carrier.lost(&error),
                        _ => LaneError::GivenUp,
                    });
                }
            }
        }
    }
}

impl Drop for LaneSender {
    fn drop(&mut self) {
        if !self.writing.is_empty() {
            // A stream that ended here would end in the middle of a frame. One that has ended does not mind.
            let _ = self.stream.reset(GIVEN_UP);
        }
    }
}

impl fmt::Debug for LaneSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneSender").field("to", &self.carrier.who).finish_non_exhaustive()
    }
}

/// The direction of a lane in which the other end speaks. Dropping it tells the other end that nobody reads any more.
pub struct LaneReceiver {
    frames: FrameStream,
    /// Of the frame that came last.
    messages: Option<Messages>,
    /// What came after that cannot be told apart any more.
    failed: Option<LaneError>,
    carrier: Arc<Carrier>,
    _place: Option<Arc<OwnedSemaphorePermit>>,
}

impl LaneReceiver {
    /// The next message; none when the other end has ended its direction. A small message is a share of a frame of up to 4 KiB,
    /// which is held while any message of it is.
    ///
    /// # Errors
    ///
    /// The lane or its connection has ended. What is not of the protocol ends the connection.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: what has arrived is there for the next call.
    pub async fn next(&mut self) -> Result<Option<Bytes>, LaneError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let next = self.read().await;
        next.map_err(|error| {
            let error = self.carrier.failed(error);
            self.failed.insert(error).clone()
        })
    }

    async fn read(&mut self) -> Result<Option<Bytes>, StreamError> {
        loop {
            if let Some(messages) = &mut self.messages {
                if let Some(message) = messages.next()? {
                    return Ok(Some(message));
                }
                self.messages = None;
            }
            // A lane on which there is always something must not keep the thread for itself.
            tokio::task::coop::consume_budget().await;
            match self.frames.next().await? {
                Some(frame) => self.messages = Some(Messages::of(frame)?),
                None => return Ok(None),
            }
        }
    }
}

impl fmt::Debug for LaneReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneReceiver").field("from", &self.carrier.who).finish_non_exhaustive()
    }
}

/// Why a lane does not open, or carries nothing any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaneError {
    /// The connection has ended, and all its lanes with it.
    #[error("{reason}")]
    Closed {
        /// Why, in words.
        reason: String,
    },
    /// The other end has given this lane up; the connection is as it was.
    #[error("the other end has given up this lane; open another one")]
    GivenUp,
    /// What came is not of the protocol. The connection has ended by that.
    #[error("{problem}")]
    Protocol {
        /// What came.
        problem: String,
    },
    /// A message has more bytes than any may have.
    #[error("a message has {bytes} bytes, at most {MESSAGE_BYTES_MAX} are taken; split it")]
    TooLarge {
        /// How many it has.
        bytes: usize,
    },
    /// The connection has as many lanes as it may have.
    #[error(
        "{max} lanes are open, which is as many as may be (limits.client_lanes_max); end one first"
    )]
    TooMany {
        /// How many those are.
        max: usize,
    },
}
