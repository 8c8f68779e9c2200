//! The frames of one stream of a connection.

use std::time::Duration;

use bytes::Bytes;
use quinn::{ConnectionError, ReadError, RecvStream};

use crate::codec::{Decoder, Frame, FrameError, Kind};

/// Pieces that are taken from quinn at once. Each is what one packet carried.
const PIECES: usize = 32;

/// Reads frames.
#[derive(Debug)]
pub(crate) struct FrameStream {
    stream: RecvStream,
    decoder: Decoder,
    /// What quinn gave, the next piece last.
    pieces: Vec<Bytes>,
    stall_timeout: Duration,
}

/// Why a stream gives no more frames.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// What came is not of the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The other end stopped in the middle of a frame.
    #[error("nothing came for {0:?} in the middle of a frame (limits.stall_timeout)")]
    Stalled(Duration),
    /// The other end gave the stream up.
    #[error("the stream was given up")]
    GivenUp,
    /// The connection has ended.
    #[error("the connection has ended: {0}")]
    Lost(ConnectionError),
}

impl FrameStream {
    pub(crate) fn new(stream: RecvStream, stall_timeout: Duration) -> Self {
        Self { stream, decoder: Decoder::default(), pieces: Vec::new(), stall_timeout }
    }

    /// A stream on which nothing but a greeting of this kind comes.
    pub(crate) fn greeting(stream: RecvStream, kind: Kind, stall_timeout: Duration) -> Self {
        let decoder = Decoder::only(kind);
        Self { stream, decoder, pieces: Vec::new(), stall_timeout }
    }

    /// The next frame; none at the end of the stream.
    ///
    /// Cancel safe: what has arrived stays here.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, StreamError> {
        loop {
            if let Some(frame) = self.decoder.next()? {
                return Ok(Some(frame));
            }
            if let Some(piece) = self.pieces.pop() {
                self.decoder.push(piece);
                continue;
            }
            let mut pieces = [const { Bytes::new() }; PIECES];
            let reading = self.stream.read_chunks(&mut pieces);
            let read = if self.decoder.in_frame() {
                let stalled = |_| StreamError::Stalled(self.stall_timeout);
                tokio::time::timeout(self.stall_timeout, reading).await.map_err(stalled)?
            } else {
                reading.await
            };
            let Some(count) = read? else {
                self.decoder.end()?;
                return Ok(None);
            };
            self.pieces.extend(pieces.into_iter().take(count).rev());
        }
    }

    /// The next frame, where the stream must not end.
    pub(crate) async fn expect(&mut self) -> Result<Frame, StreamError> {
        self.next().await?.ok_or(StreamError::Frame(FrameError::Truncated))
    }

    /// The body of the next frame, which must be of this kind.
    pub(crate) async fn expect_kind(&mut self, kind: Kind) -> Result<Bytes, StreamError> {
        Ok(self.expect().await?.expect(kind)?)
    }
}

impl From<ReadError> for StreamError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => Self::Lost(error),
            _ => Self::GivenUp,
        }
    }
}
