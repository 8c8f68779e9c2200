//! Puts messages into frames: small ones share a frame, large ones have frames of their own and are not copied.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::codec::{BATCH_BYTES_MAX, HEAD_BYTES, Kind, head};
use crate::wire::LENGTH_BYTES;

/// About how many bytes are written at once. More make each write cheaper and the others of a connection wait longer.
const WRITE_BYTES: usize = 128 << 10;

/// Messages up to this size share frames; larger ones have frames of their own, and are not copied.
pub(crate) const SHARING_BYTES_MAX: usize = 2 << 10;

/// The memory that frames are put together in, at once.
const BLOCK_BYTES: usize = 32 << 10;

/// Messages on their way into frames, in order.
#[derive(Debug, Default)]
pub(crate) struct Packing {
    /// What is ready to be written.
    pieces: VecDeque<Piece>,
    /// The frame that small messages are put into, its head still empty; nothing if it has none.
    frame: BytesMut,
    frame_count: usize,
}

#[derive(Debug)]
struct Piece {
    wire: Bytes,
    count: usize,
    bytes: usize,
}

/// Frames ready to be written.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) pieces: Vec<Bytes>,
    /// Messages in them.
    pub(crate) count: usize,
    /// The bytes of those.
    pub(crate) bytes: usize,
}

/// The head of the frame that a message has for itself; none if it shares one. Made by itself, since it takes its time.
pub(crate) fn own_head(message: &[u8]) -> Option<Bytes> {
    (message.len() > SHARING_BYTES_MAX)
        .then(|| Bytes::copy_from_slice(&head(Kind::Message, &[message])))
}

impl Packing {
    /// Puts a message at the end, with what [`own_head`] says of it.
    pub(crate) fn push(&mut self, message: Bytes, own_head: Option<Bytes>) {
        match own_head {
            None => self.share(&message),
            Some(head) => {
                self.end_frame();
                let bytes = message.len();
                self.pieces.push_back(Piece { wire: head, count: 0, bytes: 0 });
                self.pieces.push_back(Piece { wire: message, count: 1, bytes });
            }
        }
    }

    /// What is to be written next, as much as one write takes; without pieces if nothing is left.
    pub(crate) fn take(&mut self) -> Batch {
        self.end_frame();
        let mut batch = Batch::default();
        let mut bytes = 0;
        while bytes < WRITE_BYTES
            && let Some(piece) = self.pieces.pop_front()
        {
            bytes += piece.wire.len();
            batch.count += piece.count;
            batch.bytes += piece.bytes;
            batch.pieces.push(piece.wire);
        }
        batch
    }

    /// Puts a small message into the frame that several share.
    fn share(&mut self, message: &[u8]) {
        let added = LENGTH_BYTES + message.len();
        if self.frame.len() + added > HEAD_BYTES + BATCH_BYTES_MAX {
            self.end_frame();
        }
        if self.frame.is_empty() {
            if self.frame.capacity() < HEAD_BYTES + BATCH_BYTES_MAX {
                self.frame.reserve(BLOCK_BYTES);
            }
            self.frame.extend_from_slice(&[0; HEAD_BYTES]);
        }
        let length = u16::try_from(message.len()).expect("a message that shares a frame is small");
        self.frame.extend_from_slice(&length.to_le_bytes());
        self.frame.extend_from_slice(message);
        self.frame_count += 1;
    }

    /// Makes the frame that messages share ready to be written, if there is one.
    fn end_frame(&mut self) {
        if self.frame.is_empty() {
            return;
        }
        let mut frame = self.frame.split();
        let (place, body) = frame.split_at_mut(HEAD_BYTES);
        place.copy_from_slice(&head(Kind::Messages, &[body]));
        let count = std::mem::take(&mut self.frame_count);
        let bytes = body.len() - count * LENGTH_BYTES;
        self.pieces.push_back(Piece { wire: frame.freeze(), count, bytes });
    }
}
