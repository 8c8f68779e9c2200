//! The bodies of frames other than messages: how they are written and read.

use bytes::{Buf as _, Bytes};
use quorate_replicator::{BulkId, BulkOffer, Channel};

use crate::codec::{Frame, FrameError, HEAD_BYTES, Kind, WORDS_BYTES_MAX, frame, head};

/// The first frame of a stream of messages.
pub(crate) fn channel(channel: Channel) -> Bytes {
    frame(Kind::Channel, &[channel as u8])
}

/// Which channel a stream says that it carries.
pub(crate) fn read_channel(body: &Bytes) -> Result<Channel, FrameError> {
    let wrong = FrameError::Body(Kind::Channel);
    let [number] = **body else { return Err(wrong) };
    Channel::ALL.into_iter().find(|channel| *channel as u8 == number).ok_or(wrong)
}

/// Bytes of the length before each message of a frame that several share.
pub(crate) const LENGTH_BYTES: usize = 2;

/// The messages of a frame: the one that has it for itself, or those that share it. They hold on to its body.
#[derive(Debug)]
pub(crate) enum Messages {
    One(Bytes),
    Several(Bytes),
}

impl Messages {
    pub(crate) fn of(frame: Frame) -> Result<Self, FrameError> {
        match frame.kind {
            Kind::Messages => Ok(Self::Several(frame.body)),
            _ => frame.expect(Kind::Message).map(Self::One),
        }
    }

    /// The next message; none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        let left = match self {
            Self::One(message) => {
                let message = std::mem::take(message);
                *self = Self::Several(Bytes::new());
                return Ok(Some(message));
            }
            Self::Several(left) if left.is_empty() => return Ok(None),
            Self::Several(left) => left,
        };
        let wrong = FrameError::Body(Kind::Messages);
        let length = usize::from(left.try_get_u16_le().map_err(|_| wrong)?);
        if length > left.len() {
            return Err(wrong);
        }
        Ok(Some(left.split_to(length)))
    }
}

/// A body that is offered.
pub(crate) fn offer(offer: &BulkOffer) -> Bytes {
    let mut body = Vec::with_capacity(24 + offer.head.len());
    body.extend_from_slice(&offer.id.0.to_le_bytes());
    body.extend_from_slice(&offer.bytes.to_le_bytes());
    body.extend_from_slice(&offer.head);
    frame(Kind::BulkOffer, &body)
}

pub(crate) fn read_offer(mut body: Bytes) -> Result<BulkOffer, FrameError> {
    let wrong = |_| FrameError::Body(Kind::BulkOffer);
    let id = BulkId(body.try_get_u128_le().map_err(wrong)?);
    let bytes = body.try_get_u64_le().map_err(wrong)?;
    Ok(BulkOffer { id, bytes, head: body })
}

/// A place in a body, for the kinds that say just that.
pub(crate) fn place(kind: Kind, offset: u64) -> Bytes {
    frame(kind, &offset.to_le_bytes())
}

pub(crate) fn read_place(kind: Kind, body: &Bytes) -> Result<u64, FrameError> {
    let bytes = <[u8; 8]>::try_from(&**body).map_err(|_| FrameError::Body(kind))?;
    Ok(u64::from_le_bytes(bytes))
}

/// What stands before the bytes of a chunk on the stream. They follow by themselves, so that they need not be copied.
pub(crate) fn chunk_head(offset: u64, bytes: &[u8]) -> Bytes {
    let offset = offset.to_le_bytes();
    let mut head_and_offset = [0; HEAD_BYTES + 8];
    head_and_offset[..HEAD_BYTES].copy_from_slice(&head(Kind::BulkChunk, &[&offset, bytes]));
    head_and_offset[HEAD_BYTES..].copy_from_slice(&offset);
    Bytes::copy_from_slice(&head_and_offset)
}

/// Where a chunk belongs, and its bytes.
pub(crate) fn read_chunk(mut body: Bytes) -> Result<(u64, Bytes), FrameError> {
    let offset = body.try_get_u64_le().map_err(|_| FrameError::Body(Kind::BulkChunk))?;
    Ok((offset, body))
}

/// A refusal. Words that are too long lose their end.
pub(crate) fn refuse(words: &str) -> Bytes {
    let mut end = words.len().min(WORDS_BYTES_MAX);
    while !words.is_char_boundary(end) {
        end -= 1;
    }
    frame(Kind::BulkRefuse, &words.as_bytes()[..end])
}

pub(crate) fn read_words(body: &Bytes) -> String {
    String::from_utf8_lossy(body).into_owned()
}
