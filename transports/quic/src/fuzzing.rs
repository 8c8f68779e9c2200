//! Reading what strangers send, for `fuzz/`: what could be read, written again.

use bytes::{Bytes, BytesMut};

use crate::codec::{Decoder, Frame, FrameError, Kind, frame};
use crate::hello::{ClientHello, Hello, Welcome};
use crate::wire::{self, Messages};

/// A stream that arrives in pieces of so many bytes: the frames before the first that is wrong, and whether none was.
pub fn stream(bytes: &[u8], piece: usize) -> (Bytes, bool) {
    let mut decoder = Decoder::default();
    let mut again = BytesMut::new();
    for piece in bytes.chunks(piece.max(1)) {
        decoder.push(Bytes::copy_from_slice(piece));
        loop {
            match decoder.next() {
                Ok(Some(Frame { kind, body })) => again.extend_from_slice(&frame(kind, &body)),
                Ok(None) => break,
                Err(_) => return (again.freeze(), false),
            }
        }
    }
    (again.freeze(), decoder.end().is_ok())
}

/// A frame of this kind with its checksum, if it may have such a body.
pub fn seal(kind: u8, body: &[u8]) -> Option<Bytes> {
    let kind = Kind::of(kind)?;
    kind.body_bytes().contains(&body.len()).then(|| frame(kind, body))
}

/// What stands in a frame of this kind.
pub fn body(kind: u8, body: &[u8]) -> Option<Bytes> {
    let kind = Kind::of(kind)?;
    kind.body_bytes()
        .contains(&body.len())
        .then(|| read(kind, Bytes::copy_from_slice(body)).ok())?
}

fn read(kind: Kind, body: Bytes) -> Result<Bytes, FrameError> {
    Ok(match kind {
        Kind::Hello => Hello::decode(body)?.encode(),
        Kind::ClientHello => ClientHello::decode(body)?.encode(),
        Kind::Welcome => Welcome::decode(body)?.encode(),
        Kind::Channel => wire::channel(wire::read_channel(&body)?),
        Kind::Message | Kind::Messages => {
            let mut messages = Messages::of(Frame { kind, body })?;
            let mut again = BytesMut::new();
            while let Some(message) = messages.next()? {
                if kind == Kind::Messages {
                    again.extend_from_slice(&(message.len() as u16).to_le_bytes());
                }
                again.extend_from_slice(&message);
            }
            frame(kind, &again)
        }
        Kind::BulkOffer => wire::offer(&wire::read_offer(body)?),
        Kind::BulkAccept | Kind::BulkTaken => wire::place(kind, wire::read_place(kind, &body)?),
        Kind::BulkChunk => {
            let (offset, bytes) = wire::read_chunk(body)?;
            [&wire::chunk_head(offset, &bytes)[..], &bytes].concat().into()
        }
        Kind::BulkDone => frame(kind, &body),
        Kind::BulkRefuse => wire::refuse(&wire::read_words(&body)),
    })
}
