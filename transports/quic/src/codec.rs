//! The frames on a stream: what they look like, and how they are read from bytes that anybody may have written.
//!
//! ```text
//!   | length: 3 bytes | kind: 1 byte | CRC-32: 4 bytes | body: `length` bytes |     little-endian
//! ```
//!
//! 1. A length beyond what the kind allows is refused before anything is kept for it.
//! 2. Memory for a body grows with the bytes that have arrived, never with what was announced.
//! 3. The checksum covers length, kind and body. It finds mistakes; the cipher below it finds malice.
//! 4. Whatever is wrong ends the connection: after it nothing can be told apart any more.

use bytes::{Buf as _, Bytes, BytesMut};
use quorate_replicator::limits::MESSAGE_BYTES_MAX;

use crate::limits::BULK_CHUNK_BYTES_MAX;
use crate::subject::CLIENT_NAME_BYTES_MAX;

/// Bytes before each body.
pub(crate) const HEAD_BYTES: usize = 8;

/// Most bytes of an offer's head.
pub(crate) const BULK_HEAD_BYTES_MAX: usize = 64 << 10;

/// Most bytes of the body of a frame that several messages share. A message that is kept keeps the others of its frame, so it
/// is small.
pub(crate) const BATCH_BYTES_MAX: usize = 4 << 10;

/// Most bytes of words that one end gives to the other.
pub(crate) const WORDS_BYTES_MAX: usize = 1 << 10;

/// What is kept for a body at first; more is added as it arrives.
const BODY_BYTES_AT_FIRST: usize = 16 << 10;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Who is there; the first of either end.
    Hello = 1,
    /// Which channel a stream carries; the first of it.
    Channel = 2,
    /// One message of a channel.
    Message = 3,
    /// Several messages of a channel, each with its length before it.
    Messages = 4,
    /// A bulk body that somebody wants to send.
    BulkOffer = 5,
    /// Where the sender shall go on.
    BulkAccept = 6,
    /// A piece of a body.
    BulkChunk = 7,
    /// How far the receiver has come.
    BulkTaken = 8,
    /// The receiver has all of it.
    BulkDone = 9,
    /// The receiver does not want it, or not any more, in words.
    BulkRefuse = 10,
    /// Which client is there; the first of it.
    ClientHello = 11,
    /// Which node is there; the first that a client hears.
    Welcome = 12,
}

impl Kind {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 12] = [
        Self::Hello,
        Self::Channel,
        Self::Message,
        Self::Messages,
        Self::BulkOffer,
        Self::BulkAccept,
        Self::BulkChunk,
        Self::BulkTaken,
        Self::BulkDone,
        Self::BulkRefuse,
        Self::ClientHello,
        Self::Welcome,
    ];

    pub(crate) fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Hello,
            2 => Self::Channel,
            3 => Self::Message,
            4 => Self::Messages,
            5 => Self::BulkOffer,
            6 => Self::BulkAccept,
            7 => Self::BulkChunk,
            8 => Self::BulkTaken,
            9 => Self::BulkDone,
            10 => Self::BulkRefuse,
            11 => Self::ClientHello,
            12 => Self::Welcome,
            _ => return None,
        })
    }

    /// How many bytes its body may have.
    pub(crate) const fn body_bytes(self) -> std::ops::RangeInclusive<usize> {
        match self {
            Self::Hello => 52..=52,
            Self::Channel => 1..=1,
            Self::Message => 0..=MESSAGE_BYTES_MAX,
            Self::Messages => 2..=BATCH_BYTES_MAX,
            Self::BulkOffer => 24..=24 + BULK_HEAD_BYTES_MAX,
            Self::BulkAccept | Self::BulkTaken => 8..=8,
            Self::BulkChunk => 9..=8 + BULK_CHUNK_BYTES_MAX,
            Self::BulkDone => 0..=0,
            Self::BulkRefuse => 0..=WORDS_BYTES_MAX,
            Self::ClientHello => 21..=20 + CLIENT_NAME_BYTES_MAX,
            Self::Welcome => 40..=40,
        }
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) body: Bytes,
}

/// Why bytes are no frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame of kind {0} does not exist")]
    Kind(u8),
    #[error("a frame of kind {kind:?} has {bytes} bytes, which it cannot have")]
    Length { kind: Kind, bytes: usize },
    #[error("the checksum of a frame of kind {0:?} is wrong")]
    Checksum(Kind),
    #[error("a frame of kind {found:?} came where {expected:?} was expected")]
    Unexpected { expected: Kind, found: Kind },
    #[error("the stream ends in the middle of a frame")]
    Truncated,
    #[error("a frame of kind {0:?} cannot be read")]
    Body(Kind),
}

/// The head of a frame whose body is `parts`, one after the other.
pub(crate) fn head(kind: Kind, parts: &[&[u8]]) -> [u8; HEAD_BYTES] {
    let bytes = parts.iter().map(|part| part.len()).sum::<usize>();
    assert!(kind.body_bytes().contains(&bytes), "a frame {kind:?} of {bytes} bytes is never made");
    let word = (bytes as u32) | (kind as u32) << 24;
    let mut head = [0; HEAD_BYTES];
    head[..4].copy_from_slice(&word.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head[..4]);
    parts.iter().for_each(|part| crc.update(part));
    head[4..].copy_from_slice(&crc.finalize().to_le_bytes());
    head
}

/// A whole frame in one piece.
pub(crate) fn frame(kind: Kind, body: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEAD_BYTES + body.len());
    bytes.extend_from_slice(&head(kind, &[body]));
    bytes.extend_from_slice(body);
    bytes.freeze()
}

/// Takes a stream apart into frames, in whatever pieces it arrives.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// The only kind that is taken, if there is but one.
    only: Option<Kind>,
    /// What has arrived and was not looked at.
    input: Bytes,
    /// The head of the frame that is arriving, as far as it is there.
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    /// The body of the frame that is arriving, once its head is whole.
    body: Option<Arriving>,
}

#[derive(Debug)]
struct Arriving {
    kind: Kind,
    bytes: usize,
    body: Vec<u8>,
}

impl Arriving {
    /// Takes what belongs to the body from `input`.
    fn take(&mut self, input: &mut Bytes) {
        let taken = input.len().min(self.bytes - self.body.len());
        let needed = self.body.len() + taken;
        if needed > self.body.capacity() {
            // Doubled, so that a large body is not copied often; never beyond its end.
            let capacity = needed.max(self.body.capacity() * 2).min(self.bytes);
            self.body.reserve_exact(capacity - self.body.len());
        }
        self.body.extend_from_slice(&input[..taken]);
        input.advance(taken);
    }
}

impl Decoder {
    /// For a stream of one kind: others are refused by the head, before anything is kept for them.
    pub(crate) fn only(kind: Kind) -> Self {
        Self { only: Some(kind), ..Self::default() }
    }

    /// What a head says, if it may be there.
    fn read_head(&self, head: &[u8; HEAD_BYTES]) -> Result<(Kind, usize), FrameError> {
        let (found, bytes) = read_head(head)?;
        match self.only {
            Some(expected) if expected != found => Err(FrameError::Unexpected { expected, found }),
            _ => Ok((found, bytes)),
        }
    }

    /// Takes the next piece of the stream. Frames of the piece before it must have been taken out.
    pub(crate) fn push(&mut self, piece: Bytes) {
        assert!(self.input.is_empty(), "the frames of the piece before were not taken out");
        self.input = piece;
    }

    /// Whether a frame has begun and is not whole.
    pub(crate) fn in_frame(&self) -> bool {
        self.head_bytes > 0 || !self.input.is_empty()
    }

    /// The next whole frame; none if more has to arrive.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            match &mut self.body {
                None => {
                    if self.head_bytes == 0 && self.input.len() >= HEAD_BYTES {
                        let (head, rest) = self.input.split_at(HEAD_BYTES);
                        let head: [u8; HEAD_BYTES] = head.try_into().expect("it was split there");
                        let (kind, bytes) = self.read_head(&head)?;
                        if let Some(body) = rest.get(..bytes) {
                            check(&head, kind, body)?;
                            // A copy: the piece holds a whole datagram, and would for as long as the message is kept.
                            let body = Bytes::copy_from_slice(body);
                            self.input.advance(HEAD_BYTES + bytes);
                            return Ok(Some(Frame { kind, body }));
                        }
                    }
                    let taken = self.input.len().min(HEAD_BYTES - self.head_bytes);
                    self.head[self.head_bytes..self.head_bytes + taken]
                        .copy_from_slice(&self.input[..taken]);
                    self.input.advance(taken);
                    self.head_bytes += taken;
                    if self.head_bytes < HEAD_BYTES {
                        return Ok(None);
                    }
                    let (kind, bytes) = self.read_head(&self.head)?;
                    let body = Vec::with_capacity(bytes.min(BODY_BYTES_AT_FIRST));
                    self.body = Some(Arriving { kind, bytes, body });
                }
                Some(arriving) => {
                    arriving.take(&mut self.input);
                    if arriving.body.len() < arriving.bytes {
                        return Ok(None);
                    }
                    let kind = arriving.kind;
                    check(&self.head, kind, &arriving.body)?;
                    let body = std::mem::take(&mut arriving.body).into();
                    self.body = None;
                    self.head_bytes = 0;
                    return Ok(Some(Frame { kind, body }));
                }
            }
        }
    }

    /// Says whether the stream may end here.
    pub(crate) fn end(&self) -> Result<(), FrameError> {
        if self.in_frame() { Err(FrameError::Truncated) } else { Ok(()) }
    }
}

impl Frame {
    /// The body, if the frame is of this kind.
    pub(crate) fn expect(self, expected: Kind) -> Result<Bytes, FrameError> {
        let found = self.kind;
        if found == expected {
            Ok(self.body)
        } else {
            Err(FrameError::Unexpected { expected, found })
        }
    }
}

fn read_head(head: &[u8; HEAD_BYTES]) -> Result<(Kind, usize), FrameError> {
    let [low, middle, high, kind, ..] = *head;
    let kind = Kind::of(kind).ok_or(FrameError::Kind(kind))?;
    let bytes = u32::from_le_bytes([low, middle, high, 0]) as usize;
    if !kind.body_bytes().contains(&bytes) {
        return Err(FrameError::Length { kind, bytes });
    }
    Ok((kind, bytes))
}

fn check(head: &[u8; HEAD_BYTES], kind: Kind, body: &[u8]) -> Result<(), FrameError> {
    let (word, crc) = head.split_at(4);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(word);
    hasher.update(body);
    if hasher.finalize().to_le_bytes() == crc { Ok(()) } else { Err(FrameError::Checksum(kind)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quorate_replicator::{BulkId, BulkOffer, Channel, ClusterId, NodeId};

    use super::*;
    use crate::hello::{ClientHello, Hello, Welcome};
    use crate::wire;

    /// One frame of each kind, as it is sent.
    fn samples() -> Vec<(Kind, Bytes)> {
        let hello = Hello {
            protocol: 1,
            cluster: ClusterId::new([0xa5; 16]),
            node: NodeId::new(2),
            incarnation: 77,
            attempt: 3,
            to: NodeId::new(1),
        };
        let offer =
            BulkOffer { id: BulkId(u128::MAX / 3), bytes: 1 << 40, head: Bytes::from("head") };
        let client =
            ClientHello { protocol: 1, cluster: ClusterId::new([0xa5; 16]), name: "ops".into() };
        let welcome = Welcome {
            protocol: 1,
            cluster: ClusterId::new([0xa5; 16]),
            node: NodeId::new(2),
            incarnation: 77,
            lanes_max: 16,
        };
        let chunk = [&*wire::chunk_head(1 << 33, b"some bytes"), b"some bytes"].concat();
        let samples = vec![
            (Kind::Hello, hello.encode()),
            (Kind::Channel, wire::channel(Channel::Entries)),
            (Kind::Message, frame(Kind::Message, b"a message of a few bytes")),
            (Kind::Messages, frame(Kind::Messages, b"\x03\0abc\0\0\x01\0d")),
            (Kind::BulkOffer, wire::offer(&offer)),
            (Kind::BulkAccept, wire::place(Kind::BulkAccept, 1 << 20)),
            (Kind::BulkChunk, chunk.into()),
            (Kind::BulkTaken, wire::place(Kind::BulkTaken, u64::MAX)),
            (Kind::BulkDone, frame(Kind::BulkDone, &[])),
            (Kind::BulkRefuse, wire::refuse("too old for me")),
            (Kind::ClientHello, client.encode()),
            (Kind::Welcome, welcome.encode()),
        ];
        assert_eq!(samples.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), Kind::ALL);
        samples
    }

    /// Takes a whole stream apart, in pieces of this size.
    fn decode(stream: &[u8], piece: usize) -> Result<Vec<Frame>, FrameError> {
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        for piece in stream.chunks(piece.max(1)) {
            decoder.push(Bytes::copy_from_slice(piece));
            while let Some(frame) = decoder.next()? {
                frames.push(frame);
            }
        }
        decoder.end()?;
        Ok(frames)
    }

    /// Reads the body of a frame as the one who gets it does.
    fn read(frame: Frame) -> Result<(), FrameError> {
        if matches!(frame.kind, Kind::Message | Kind::Messages) {
            let mut messages = wire::Messages::of(frame)?;
            while messages.next()?.is_some() {}
            return Ok(());
        }
        let Frame { kind, body } = frame;
        match kind {
            Kind::Hello => Hello::decode(body).map(drop),
            Kind::Channel => wire::read_channel(&body).map(drop),
            Kind::BulkOffer => wire::read_offer(body).map(drop),
            Kind::BulkChunk => wire::read_chunk(body).map(drop),
            Kind::BulkAccept | Kind::BulkTaken => wire::read_place(kind, &body).map(drop),
            Kind::BulkRefuse => {
                let _ = wire::read_words(&body);
                Ok(())
            }
            Kind::ClientHello => ClientHello::decode(body).map(drop),
            Kind::Welcome => Welcome::decode(body).map(drop),
            Kind::Message | Kind::Messages | Kind::BulkDone => Ok(()),
        }
    }

    #[test]
    fn frames_come_out_as_they_went_in_whatever_the_pieces() {
        let stream: Vec<u8> = samples().iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
        for piece in 1..=stream.len() {
            let frames = decode(&stream, piece).unwrap();
            let kinds: Vec<_> = frames.iter().map(|frame| frame.kind).collect();
            assert_eq!(kinds, Kind::ALL, "in pieces of {piece}");
            assert_eq!(frames[2].body, "a message of a few bytes");
            frames.into_iter().for_each(|frame| read(frame).unwrap());
        }
    }

    #[test]
    fn every_bit_flip_of_each_kind_is_refused() {
        for (kind, bytes) in samples() {
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                for piece in [1, 7, flipped.len()] {
                    let result = decode(&flipped, piece);
                    assert!(result.is_err(), "{kind:?} with bit {bit} flipped: {result:?}");
                }
                // What follows is not taken for the rest of a longer frame, or for a frame by itself.
                let stream = [&*flipped, &*bytes, &*bytes].concat();
                let result = decode(&stream, stream.len());
                assert!(result.is_err(), "{kind:?} with bit {bit} flipped, and more: {result:?}");
            }
        }
    }

    #[test]
    fn every_truncation_of_each_kind_is_refused() {
        for (kind, bytes) in samples() {
            for end in 1..bytes.len() {
                for piece in [1, end] {
                    let result = decode(&bytes[..end], piece);
                    assert_eq!(result, Err(FrameError::Truncated), "{kind:?} cut at {end}");
                }
            }
        }
    }

    #[test]
    fn lengths_beyond_a_kinds_limit_are_refused_by_the_head_alone() {
        for kind in Kind::ALL {
            let max = *kind.body_bytes().end();
            for bytes in [max + 1, 0xff_ffff] {
                let word = (bytes as u32) | (kind as u32) << 24;
                let mut head = [0; HEAD_BYTES];
                head[..4].copy_from_slice(&word.to_le_bytes());
                let mut decoder = Decoder::default();
                decoder.push(Bytes::copy_from_slice(&head));
                assert_eq!(decoder.next(), Err(FrameError::Length { kind, bytes }));
            }
        }
    }

    #[test]
    fn where_one_kind_is_expected_others_are_refused_by_the_head_alone() {
        for (found, bytes) in samples() {
            for piece in [1, HEAD_BYTES] {
                let mut decoder = Decoder::only(Kind::Hello);
                let mut taken = Ok(None);
                for piece in bytes[..HEAD_BYTES].chunks(piece) {
                    decoder.push(Bytes::copy_from_slice(piece));
                    taken = decoder.next();
                }
                let expected = Kind::Hello;
                let refused = Err(FrameError::Unexpected { expected, found });
                assert_eq!(taken, if found == expected { Ok(None) } else { refused });
            }
        }
    }

    #[test]
    fn memory_grows_with_what_has_arrived_and_not_with_what_is_announced() {
        let message = vec![7; MESSAGE_BYTES_MAX];
        let stream = frame(Kind::Message, &message);
        let mut decoder = Decoder::default();
        let mut pushed = 0;
        for piece in stream.chunks(1200) {
            decoder.push(Bytes::copy_from_slice(piece));
            pushed += piece.len();
            if let Some(frame) = decoder.next().unwrap() {
                assert_eq!(frame.body, message);
                assert_eq!(pushed, stream.len());
                return;
            }
            let held = decoder.body.as_ref().map_or(0, |arriving| arriving.body.capacity());
            assert!(held <= 2 * pushed + BODY_BYTES_AT_FIRST, "{held} bytes held for {pushed}");
        }
        panic!("the message did not come out");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(stream in prop::collection::vec(any::<u8>(), 0..2000), piece in 1usize..64) {
            let _ = decode(&stream, piece);
        }

        #[test]
        fn no_body_with_a_right_checksum_makes_it_panic(
            number in 0..Kind::ALL.len(),
            mut body in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            let kind = Kind::ALL[number];
            body.truncate(*kind.body_bytes().end());
            body.resize(body.len().max(*kind.body_bytes().start()), 0);
            let frames = decode(&frame(kind, &body), 100).unwrap();
            for frame in frames {
                let _ = read(frame);
            }
        }
    }
}
