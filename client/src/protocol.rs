//! What a client and a node say to one another on a lane.
//!
//! ```text
//!   request:  number u64 | within u32, ms | Request, MessagePack            all numbers little-endian
//!   answer:   number u64 | what u8        | part of the answer, MessagePack: what = 1 if more of it follows
//!   height:   0      u64 | what u8 = 2    | Height, MessagePack
//! ```
//!
//! The first request of a lane says what the lane is: [`Request::Watch`] and [`Request::Subscribe`] keep it for themselves,
//! everything else is a call, of which many can be under way. Where proofs are asked for, the [`Height`] of a decided batch comes once on a
//! lane, before the first answer that is about it, and each answer has no more than what leads from its frame to there.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use quorate_replicator::limits::MESSAGE_BYTES_MAX;
use quorate_replicator::{
    Accepted, Consistency, Cursor, Event, Frame, FrameId, GroupId, MemberChange, NodeId, Scope,
    ShardKey, Status, SubscriptionEnd,
};
use quorate_shard::envelope;
use quorate_shard::kv::{OrgReadOptions, ReadOptions, Scan};
use serde::{Deserialize, Serialize};

/// Nothing that is said nests deeper; a hostile body ends here rather than at the end of the stack.
const DEPTH_MAX: usize = 16;

/// Before a request: its number, and how long the caller waits.
const REQUEST_HEAD_BYTES: usize = 12;

/// Before a part of an answer: the request's number, and what it is.
const ANSWER_HEAD_BYTES: usize = 9;

/// The last part of an answer.
const LAST: u8 = 0;

/// A part of an answer, of which more follows.
const MORE: u8 = 1;

/// No answer, but the height that answers to come are about.
const HEIGHT: u8 = 2;

/// Heights that a node tells a lane once. One that is older than so many others is told again.
pub(crate) const HEIGHTS_TOLD: usize = 256;

/// Most bytes of the body of a request.
pub(crate) const REQUEST_BYTES_MAX: usize = MESSAGE_BYTES_MAX - REQUEST_HEAD_BYTES;

/// Bytes of a part of a long answer: others on the lane wait no longer than for so many.
const PART_BYTES: usize = 256 << 10;

/// The longest answer that a client puts together. A page has little more than one value; the changes of one revision can be as
/// many as a frame can delete.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The longest that a node works on a call, whatever the caller says.
const WITHIN_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What a client asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// The lane is told how the node is doing: [`Notice`]s, from now on.
    Watch,
    /// The lane is given accepted frames: [`Given`], each answered with [`Request::Taken`].
    Subscribe {
        scope: Scope,
        from: Cursor,
    },
    /// One [`Given::Batch`] was taken, and there is room for one more.
    Taken,
    Propose(Frame),
    ProposeMany(Vec<Frame>),
    Decision {
        shard: ShardKey,
        id: FrameId,
    },
    Barrier {
        shard: ShardKey,
        level: Consistency,
    },
    Get {
        shard: ShardKey,
        key: Bytes,
        options: ReadOptions,
    },
    Scan {
        shard: ShardKey,
        scan: Scan,
        options: ReadOptions,
    },
    Changes {
        shard: ShardKey,
        from: u64,
        prefix: Bytes,
        max: u64,
        options: ReadOptions,
    },
    Orgs {
        after: Option<String>,
        max: u64,
        options: OrgReadOptions,
    },
    Namespaces {
        org: String,
        after: Option<String>,
        max: u64,
        options: OrgReadOptions,
    },
    ScanOrg {
        org: String,
        scan: Scan,
        options: OrgReadOptions,
    },
    ChangeMembers(MemberChange),
    Transfer {
        group: GroupId,
        to: NodeId,
    },
    /// As [`Request::Propose`], and an accept has the proof of its frame.
    ProposeProven(Frame),
    /// As [`Request::ProposeMany`], and each accept has the proof of its frame.
    ProposeManyProven(Vec<Frame>),
    /// The decided batches after an index that changed the members.
    MemberBatches {
        group: GroupId,
        after: u64,
    },
}

/// What a decided batch says about itself, and who signed that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Height {
    pub(crate) group: GroupId,
    pub(crate) index: u64,
    pub(crate) head: Bytes,
    pub(crate) proof: Bytes,
}

/// What a node says on a lane of [`Request::Watch`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Notice {
    /// At first, and whenever it has changed.
    Status(Box<Status>),
    Event(Event),
}

/// What a node says on a lane of [`Request::Subscribe`], after a `Result<Cursor, SubscribeError>`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Given {
    Batch(Vec<Accepted>),
    /// Everything up to here was given.
    Progress(Cursor),
    End(SubscriptionEnd),
}

/// Bytes that are not what they should be; ends the lane.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not of this protocol: {0}")]
pub(crate) struct Malformed(String);

/// A request as it travels, or how large its body is, if that is too large.
pub(crate) fn request(number: u64, within: Duration, request: &Request) -> Result<Bytes, usize> {
    let mut bytes = Vec::with_capacity(256);
    bytes.put_u64_le(number);
    bytes.put_u32_le(millis(within));
    envelope::write_body(&mut bytes, request);
    match bytes.len() - REQUEST_HEAD_BYTES {
        size if size > REQUEST_BYTES_MAX => Err(size),
        _ => Ok(bytes.into()),
    }
}

/// Number, wait and request of a message.
pub(crate) fn read_request(mut message: Bytes) -> Result<(u64, Duration, Request), Malformed> {
    let short = |_| Malformed("a request is cut short".into());
    let number = message.try_get_u64_le().map_err(short)?;
    let within = Duration::from_millis(message.try_get_u32_le().map_err(short)?.into());
    Ok((number, within.min(WITHIN_MAX), decode(&message)?))
}

/// An answer as it travels.
pub(crate) fn answer(number: u64, answer: &impl Serialize) -> Vec<Bytes> {
    let mut body = Vec::with_capacity(128);
    envelope::write_body(&mut body, answer);
    let mut parts = body.chunks(PART_BYTES).peekable();
    let mut messages = Vec::with_capacity(1);
    while let Some(part) = parts.next() {
        messages.push(message(number, if parts.peek().is_some() { MORE } else { LAST }, part));
    }
    messages
}

/// A height as it travels.
pub(crate) fn height(height: &Height) -> Bytes {
    let mut body = Vec::with_capacity(1024);
    envelope::write_body(&mut body, height);
    message(0, HEIGHT, &body)
}

fn message(number: u64, what: u8, part: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(ANSWER_HEAD_BYTES + part.len());
    message.put_u64_le(number);
    message.put_u8(what);
    message.put_slice(part);
    message.freeze()
}

/// What came of a message of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// More of it is to come.
    Part,
    /// The number of a request, and all of its answer.
    Answer(u64, Bytes),
    Height(Box<Height>),
}

/// Puts the parts of answers together. Those of one answer come one after the other.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    begun: Option<(u64, BytesMut)>,
}

impl Parts {
    /// What ends with this message.
    pub(crate) fn push(&mut self, mut message: Bytes) -> Result<Heard, Malformed> {
        let short = |_| Malformed("an answer is cut short".into());
        let number = message.try_get_u64_le().map_err(short)?;
        let more = match message.try_get_u8().map_err(short)? {
            LAST => false,
            MORE => true,
            HEIGHT if self.begun.is_none() => {
                return decode(&message).map(|height| Heard::Height(Box::new(height)));
            }
            HEIGHT => return Err(Malformed("a height comes within an answer".into())),
            what => return Err(Malformed(format!("{what} is nothing that a node says"))),
        };
        let Some((begun, mut body)) = self.begun.take() else {
            if more {
                self.begun = Some((number, message.into()));
                return Ok(Heard::Part);
            }
            return Ok(Heard::Answer(number, message));
        };
        if begun != number {
            return Err(Malformed("an answer begins within another one".into()));
        }
        if body.len() + message.len() > ANSWER_BYTES_MAX {
            return Err(Malformed(format!("an answer is longer than {ANSWER_BYTES_MAX} bytes")));
        }
        body.extend_from_slice(&message);
        if more {
            self.begun = Some((number, body));
            return Ok(Heard::Part);
        }
        Ok(Heard::Answer(number, body.freeze()))
    }
}

/// Reads a body, all of it.
pub(crate) fn decode<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Malformed> {
    envelope::decode_nested(body, DEPTH_MAX).map_err(|refusal| Malformed(refusal.to_string()))
}

/// Milliseconds, rounded up: what is left of a wait must not become nothing.
fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use quorate_replicator::{Commit, Decision, Position, ProposeError, Reply, SessionId};

    use super::*;

    fn frame(bytes: usize) -> Frame {
        let id = FrameId { session: SessionId::new([7; 16]), serial: 1 };
        Frame::new(id, ShardKey::new("acme", "orders").unwrap(), vec![1; bytes])
    }

    #[test]
    fn a_request_comes_back_and_no_part_of_it_does() {
        let within = Duration::from_micros(1_500);
        let bytes = request(7, within, &Request::Propose(frame(100))).unwrap();
        let (number, within, back) = read_request(bytes.clone()).unwrap();
        assert_eq!((number, within), (7, Duration::from_millis(2)));
        assert!(matches!(back, Request::Propose(back) if back == frame(100)));
        for length in 0..bytes.len() {
            assert!(read_request(bytes.slice(..length)).is_err(), "{length}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(read_request(longer.into()).is_err());
        // Any flipped bit is refused or is another request; none panics.
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _ = read_request(flipped.into());
        }
    }

    #[test]
    fn the_largest_frame_fits_and_a_list_that_does_not_is_told_its_size() {
        assert!(request(0, WITHIN_MAX, &Request::Propose(frame(1 << 20))).is_ok());
        let many = vec![frame(1 << 20); 3];
        let size = request(0, WITHIN_MAX, &Request::ProposeMany(many)).unwrap_err();
        assert!(size > 3 << 20, "{size}");
    }

    #[test]
    fn a_long_answer_comes_in_parts() {
        let reply = Reply::Known(vec![9; 3 * PART_BYTES].into());
        let position = Position::origin(GroupId::new(0));
        let sent: Result<Decision, ProposeError> =
            Ok(Decision::Accept(Commit { position, reply, proof: None }));
        let messages = answer(5, &sent);
        assert_eq!(messages.len(), 4);
        let mut parts = Parts::default();
        let (last, first) = messages.split_last().unwrap();
        for message in first {
            assert_eq!(parts.push(message.clone()), Ok(Heard::Part));
        }
        let Ok(Heard::Answer(number, body)) = parts.push(last.clone()) else {
            panic!("the last part ends the answer");
        };
        assert_eq!(number, 5);
        assert_eq!(decode::<Result<Decision, ProposeError>>(&body).unwrap(), sent);
        // Another answer in between is a mistake of the node.
        parts.push(first[0].clone()).unwrap();
        let other = answer(6, &sent).remove(0);
        assert!(parts.push(other).is_err());
    }

    #[test]
    fn a_height_comes_between_answers_and_not_within_one() {
        let (head, proof) = (Bytes::from_static(b"head"), Bytes::from_static(b"proof"));
        let sent = Height { group: GroupId::new(1), index: 7, head, proof };
        let message = height(&sent);
        let mut parts = Parts::default();
        assert_eq!(parts.push(message.clone()), Ok(Heard::Height(Box::new(sent))));
        let long = answer(5, &Bytes::from(vec![9; 2 * PART_BYTES]));
        assert_eq!(parts.push(long[0].clone()), Ok(Heard::Part));
        assert!(parts.push(message.clone()).is_err());
        for length in 0..message.len() {
            assert!(Parts::default().push(message.slice(..length)).is_err(), "{length}");
        }
    }

    #[test]
    fn nesting_without_end_is_refused() {
        let deep = vec![0x91_u8; 1 << 16];
        assert!(decode::<Request>(&deep).is_err());
    }
}
