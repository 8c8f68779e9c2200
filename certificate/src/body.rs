//! The hash of what a batch carries: of frames, a tree with a leaf for each, so that one of them can be shown without the others.
//!
//! ```text
//!   bytes of a batch:  front | shard 0 | shard 1 | .. | middle | frame 0 | frame 1 | ..
//!                        |     \_______ tree ______/      |      \_______ tree ______/
//!                        +----------------+---------------+---------------+
//!                                         hash
//! ```
//!
//! The parts are cut where the encoding of batches has its elements, and together they are all of the bytes: two batches with the same
//! hash have the same bytes, and a frame has one place. Bytes that stand inside of a payload are no part, whatever they look like.

use bytes::Bytes;

use crate::call::{CallFrame, CallHead};
use crate::codec::{Malformed, Writer, hash};
use crate::header::BodyKind;

/// Keys of the two kinds of hashes in a tree: a leaf is never taken for a node, nor either for anything else that is hashed.
const LEAF: &[u8; 32] = b"quorate 1, leaf of a batch tree.";
const NODE: &[u8; 32] = b"quorate 1, node of a batch tree.";

/// Most elements of a batch; more are no batch anybody makes.
const ELEMENTS_MAX: usize = 1 << 16;

/// The hash of what a batch carries.
pub fn body_hash(kind: BodyKind, body: &[u8]) -> [u8; 32] {
    match (kind, Parts::of(body)) {
        (BodyKind::Frames, Some(parts)) => {
            let tree = |leaves: &[&[u8]]| root(leaves.iter().map(|leaf| hash_leaf(leaf)).collect());
            let counts = [parts.shards.len(), parts.frames.len()];
            let roots = [tree(&parts.shards), tree(&parts.frames)];
            hash_batch(parts.front, parts.middle, counts, roots)
        }
        // What is not cut into frames is one piece. Nobody votes for frames that cannot be read.
        _ => hash("quorate 1 body", &[&[kind.code()], body]),
    }
}

/// The frames of a batch; none if the bytes are not one.
pub fn frames_of(body: &Bytes) -> Option<Vec<ProvenFrame>> {
    let parts = Parts::of(body)?;
    let frames = (0..).zip(&parts.frames).map(|(slot, frame)| {
        let frame = Cursor { bytes: frame, at: 0 }.frame()?;
        let shard = parts.shards.get(usize::try_from(frame.shard).ok()?)?;
        let shard = Cursor { bytes: shard, at: 0 }.text()?;
        let shard = String::from_utf8(shard.to_vec()).ok()?;
        proven(slot, &frame, shard, |payload| body.slice_ref(payload))
    });
    frames.collect()
}

/// What is signed of each frame of a batch, and the heads of calls; none if the bytes are not a batch.
pub(crate) fn calls_of(body: &[u8]) -> Option<Vec<(Option<CallHead<'_>>, CallFrame<'_>)>> {
    let parts = Parts::of(body)?;
    let frames = parts.frames.iter().map(|frame| {
        let frame = Cursor { bytes: frame, at: 0 }.frame()?;
        let shard = parts.shards.get(usize::try_from(frame.shard).ok()?)?;
        let shard = Cursor { bytes: shard, at: 0 }.text()?;
        let call = CallFrame {
            session: frame.session.try_into().ok()?,
            serial: frame.serial,
            settled: frame.settled,
            shard: std::str::from_utf8(shard).ok()?,
            payload: frame.payload,
            valid_until_ms: frame.valid_until_ms,
        };
        Some((frame.call, call))
    });
    frames.collect()
}

fn proven(
    slot: u32,
    frame: &RawFrame<'_>,
    shard: String,
    payload: impl FnOnce(&[u8]) -> Bytes,
) -> Option<ProvenFrame> {
    Some(ProvenFrame {
        slot,
        session: frame.session.try_into().ok()?,
        serial: frame.serial,
        shard,
        payload: payload(frame.payload),
        valid_until_ms: frame.valid_until_ms,
    })
}

fn hash_batch(front: &[u8], middle: &[u8], counts: [usize; 2], roots: [[u8; 32]; 2]) -> [u8; 32] {
    let [shards, frames] = counts.map(|count| (count as u64).to_le_bytes());
    let [shards_root, frames_root] = roots;
    let front_bytes = (front.len() as u64).to_le_bytes();
    let parts = [&front_bytes[..], front, middle, &shards, &frames, &shards_root, &frames_root];
    hash("quorate 1 batch", &parts)
}

fn hash_leaf(bytes: &[u8]) -> [u8; 32] {
    *blake3::keyed_hash(LEAF, bytes).as_bytes()
}

fn hash_node(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut both = [0; 64];
    let (first, second) = both.split_at_mut(32);
    first.copy_from_slice(left);
    second.copy_from_slice(right);
    *blake3::keyed_hash(NODE, &both).as_bytes()
}

/// The root of a tree; one that is left over in a row goes up as it is. No leaves have zeros.
fn root(mut row: Vec<[u8; 32]>) -> [u8; 32] {
    while row.len() > 1 {
        row = row_above(&row);
    }
    row.first().copied().unwrap_or([0; 32])
}

fn row_above(row: &[[u8; 32]]) -> Vec<[u8; 32]> {
    let above = row.chunks(2).map(|pair| match pair {
        [left, right] => hash_node(left, right),
        [alone] => *alone,
        _ => [0; 32],
    });
    above.collect()
}

/// A tree with all of its rows, so that the way up from any leaf is only looked up.
#[derive(Clone, Debug)]
struct Tree {
    leaves: Vec<Bytes>,
    /// From the hashes of the leaves to the row below the root.
    rows: Vec<Vec<[u8; 32]>>,
}

impl Tree {
    fn new(leaves: Vec<Bytes>) -> Self {
        let mut rows = Vec::new();
        let mut row: Vec<_> = leaves.iter().map(|leaf| hash_leaf(leaf)).collect();
        while row.len() > 1 {
            let above = row_above(&row);
            rows.push(row);
            row = above;
        }
        Self { leaves, rows }
    }

    /// The leaf at `place`, and what stands beside it on its way up.
    fn leaf(&self, place: u32) -> Option<Leaf> {
        let mut at = usize::try_from(place).ok()?;
        let bytes = self.leaves.get(at)?.clone();
        let mut path = Vec::with_capacity(self.rows.len());
        for row in &self.rows {
            path.extend(row.get(at ^ 1));
            at /= 2;
        }
        Some(Leaf { count: u32::try_from(self.leaves.len()).ok()?, place, bytes, path })
    }
}

/// The root above a leaf, if `path` has what stands beside it and no more.
fn climb(
    leaf: [u8; 32],
    mut place: usize,
    mut count: usize,
    path: &[[u8; 32]],
) -> Option<[u8; 32]> {
    if place >= count {
        return None;
    }
    let mut hash = leaf;
    let mut path = path.iter();
    while count > 1 {
        if place ^ 1 < count {
            let beside = path.next()?;
            hash = if place.is_multiple_of(2) {
                hash_node(&hash, beside)
            } else {
                hash_node(beside, &hash)
            };
        }
        place /= 2;
        count = count.div_ceil(2);
    }
    path.next().is_none().then_some(hash)
}

/// A batch of frames, cut where its elements are.
struct Parts<'a> {
    front: &'a [u8],
    shards: Vec<&'a [u8]>,
    middle: &'a [u8],
    frames: Vec<&'a [u8]>,
}

impl<'a> Parts<'a> {
    /// Cuts the MessagePack of a batch: an array of version, log time, index and history of the witness, shards, and frames.
    fn of(body: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor { bytes: body, at: 0 };
        if cursor.array()? != 6 {
            return None;
        }
        for _ in 0..3 {
            cursor.integer()?;
        }
        cursor.binary()?;
        let shards = cursor.array()?;
        let front = cursor.since(0)?;
        let shards = cursor.elements(shards, |cursor| cursor.text().map(drop))?;
        let start = cursor.at;
        let frames = cursor.array()?;
        let middle = cursor.since(start)?;
        let frames = cursor.elements(frames, |cursor| cursor.frame().map(drop))?;
        (cursor.at == body.len()).then_some(Self { front, shards, middle, frames })
    }
}

/// A frame as it stands in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct ProvenFrame {
    /// Its place in the batch.
    pub slot: u32,
    /// The session that numbered it.
    pub session: [u8; 16],
    /// Its number there.
    pub serial: u64,
    /// The shard that it is for, as `org/namespace`.
    pub shard: String,
    /// What it says.
    pub payload: Bytes,
    /// The log time, in milliseconds, after which it is not applied.
    pub valid_until_ms: Option<u64>,
}

/// The elements of a frame that are looked at.
struct RawFrame<'a> {
    session: &'a [u8],
    serial: u64,
    settled: u64,
    shard: u64,
    payload: &'a [u8],
    /// Where the payload ends in what is read.
    payload_end: usize,
    valid_until_ms: Option<u64>,
    call: Option<CallHead<'a>>,
}

/// Reads as much of MessagePack as batches have.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn since(&self, start: usize) -> Option<&'a [u8]> {
        self.bytes.get(start..self.at)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    /// A number of so many bytes, which MessagePack has in the order of networks.
    fn number(&mut self, bytes: usize) -> Option<u64> {
        Some(self.take(bytes)?.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    }

    fn integer(&mut self) -> Option<u64> {
        match self.u8()? {
            small @ 0..=0x7f => Some(small.into()),
            0xcc => self.number(1),
            0xcd => self.number(2),
            0xce => self.number(4),
            0xcf => self.number(8),
            _ => None,
        }
    }

    fn sized(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let length = self.number(bytes)?;
        self.take(usize::try_from(length).ok()?)
    }

    fn binary(&mut self) -> Option<&'a [u8]> {
        match self.u8()? {
            0xc4 => self.sized(1),
            0xc5 => self.sized(2),
            0xc6 => self.sized(4),
            _ => None,
        }
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        match self.u8()? {
            short @ 0xa0..=0xbf => self.take(usize::from(short & 0x1f)),
            0xd9 => self.sized(1),
            0xda => self.sized(2),
            0xdb => self.sized(4),
            _ => None,
        }
    }

    fn array(&mut self) -> Option<usize> {
        let count = match self.u8()? {
            short @ 0x90..=0x9f => u64::from(short & 0xf),
            0xdc => self.number(2)?,
            0xdd => self.number(4)?,
            _ => return None,
        };
        usize::try_from(count).ok().filter(|count| *count <= ELEMENTS_MAX)
    }

    fn elements(
        &mut self,
        count: usize,
        element: impl Fn(&mut Self) -> Option<()>,
    ) -> Option<Vec<&'a [u8]>> {
        let mut elements = Vec::new();
        for _ in 0..count {
            let start = self.at;
            element(self)?;
            elements.push(self.since(start)?);
        }
        Some(elements)
    }

    /// An array of session, serial, what is settled, place of the shard, payload, validity or nil, and of the first frame of a signed call:
    /// how many frames it has, the key and the signature.
    fn frame(&mut self) -> Option<RawFrame<'a>> {
        let elements = self.array()?;
        if !matches!(elements, 6 | 7) {
            return None;
        }
        let (session, serial, settled) = (self.binary()?, self.integer()?, self.integer()?);
        let (shard, payload) = (self.integer()?, self.binary()?);
        let payload_end = self.at;
        let valid_until_ms = match self.bytes.get(self.at)? {
            0xc0 => {
                self.at += 1;
                None
            }
            _ => Some(self.integer()?),
        };
        let call = match elements {
            6 => None,
            _ if self.array()? != 3 => return None,
            _ => Some(CallHead {
                frames: u32::try_from(self.integer()?).ok()?,
                key: self.binary()?,
                signature: self.binary()?,
            }),
        };
        Some(RawFrame {
            session,
            serial,
            settled,
            shard,
            payload,
            payload_end,
            valid_until_ms,
            call,
        })
    }
}

/// Shows any frame of one batch. The batch is hashed once, and a proof costs no more than what is in it.
#[derive(Clone, Debug)]
pub struct FrameProofs {
    front: Bytes,
    middle: Bytes,
    shards: Tree,
    frames: Tree,
}

impl FrameProofs {
    /// The proofs of a batch; none if the bytes are not one.
    pub fn new(body: &Bytes) -> Option<Self> {
        let parts = Parts::of(body)?;
        let tree =
            |leaves: &[&[u8]]| Tree::new(leaves.iter().map(|it| body.slice_ref(it)).collect());
        Some(Self {
            front: body.slice_ref(parts.front),
            middle: body.slice_ref(parts.middle),
            shards: tree(&parts.shards),
            frames: tree(&parts.frames),
        })
    }

    /// The proof of the frame in this slot; none if there is no such frame.
    pub fn proof(&self, slot: u32) -> Option<FrameProof> {
        let frames = self.frames.leaf(slot)?;
        let shard = Cursor { bytes: &frames.bytes, at: 0 }.frame()?.shard;
        let shards = self.shards.leaf(u32::try_from(shard).ok()?)?;
        Some(FrameProof { front: self.front.clone(), middle: self.middle.clone(), shards, frames })
    }
}

/// Shows one frame of a batch to somebody who has the batch's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameProof {
    front: Bytes,
    middle: Bytes,
    shards: Leaf,
    frames: Leaf,
}

/// One leaf of a tree, and what leads from it to the root.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Leaf {
    /// How many leaves there are.
    count: u32,
    place: u32,
    bytes: Bytes,
    path: Vec<[u8; 32]>,
}

/// Version of the encoding of a proof.
const VERSION: u8 = 1;

/// Most rows of a tree.
const PATH_MAX: usize = ELEMENTS_MAX.ilog2() as usize;

const WHAT: &str = "proof of a frame";

impl FrameProof {
    /// The proof of the frame in this slot of a batch; none if there is no such frame. Who shows several frames of a batch makes
    /// [`FrameProofs`].
    pub fn new(body: &Bytes, slot: u32) -> Option<Self> {
        FrameProofs::new(body)?.proof(slot)
    }

    /// The frame, if the batch whose header has `body` as its hash has it.
    ///
    /// # Errors
    ///
    /// This does not show any frame of that batch.
    pub fn verify(&self, body: &[u8; 32]) -> Result<ProvenFrame, Malformed> {
        let wrong = |problem: &str| Malformed::new(WHAT, problem);
        let root = |leaf: &Leaf| {
            let place = usize::try_from(leaf.place).ok()?;
            let count = usize::try_from(leaf.count).ok()?;
            climb(hash_leaf(&leaf.bytes), place, count, &leaf.path)
        };
        let counts = [&self.shards, &self.frames].map(|leaf| leaf.count as usize);
        let (Some(shards), Some(frames)) = (root(&self.shards), root(&self.frames)) else {
            return Err(wrong("its path is not one from its place to the root"));
        };
        if hash_batch(&self.front, &self.middle, counts, [shards, frames]) != *body {
            return Err(wrong("it is not of the batch that the header names"));
        }
        // The root says that a quorum voted for these bytes; what they are is read from nothing else.
        let mut cursor = Cursor { bytes: &self.frames.bytes, at: 0 };
        let frame = cursor.frame().ok_or_else(|| wrong("its frame cannot be read"))?;
        if frame.shard != u64::from(self.shards.place) {
            return Err(wrong("it shows another shard than that of its frame"));
        }
        let shard = Cursor { bytes: &self.shards.bytes, at: 0 }.text();
        let shard = shard.and_then(|text| String::from_utf8(text.to_vec()).ok());
        let shard = shard.ok_or_else(|| wrong("its shard cannot be read"))?;
        let payload = |payload: &[u8]| self.frames.bytes.slice_ref(payload);
        proven(self.frames.place, &frame, shard, payload)
            .ok_or_else(|| wrong("its session id is none"))
    }

    /// The bytes that [`decode`](Self::decode) reads.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default().u8(VERSION).long(&self.front).long(&self.middle);
        for Leaf { count, place, bytes, path } in [&self.shards, &self.frames] {
            let rows = u8::try_from(path.len()).expect("a tree has at most 16 rows");
            writer = writer.u32(*count).u32(*place).long(bytes).u8(rows);
            writer = path.iter().fold(writer, |writer, hash| writer.bytes(hash));
        }
        writer.done()
    }

    /// The bytes that [`decode_with`](Self::decode_with) reads, for somebody who has the frame's payload already; none if this shows no frame.
    pub fn encode_without_payload(&self) -> Option<Vec<u8>> {
        let bytes = &self.frames.bytes;
        let frame = Cursor { bytes, at: 0 }.frame()?;
        let at = frame.payload_end.checked_sub(frame.payload.len())?;
        let rest = [bytes.get(..at)?, bytes.get(frame.payload_end..)?].concat();
        let frames = Leaf { bytes: rest.into(), ..self.frames.clone() };
        let rest = Self { frames, ..self.clone() }.encode();
        Some(Writer::default().u32(u32::try_from(at).ok()?).bytes(&rest).done())
    }

    /// Reads a proof, and puts the payload of its frame back.
    ///
    /// # Errors
    ///
    /// The bytes are not one. Whether it shows a frame with this payload, [`verify`](Self::verify) says.
    pub fn decode_with(bytes: &Bytes, payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = crate::codec::Reader::new(WHAT, bytes);
        let at = reader.u32()?;
        let mut proof = Self::decode(&bytes.slice_ref(reader.rest()))?;
        let rest = &proof.frames.bytes;
        let parts = usize::try_from(at).ok().and_then(|at| rest.split_at_checked(at));
        let (before, after) = parts.ok_or_else(|| {
            Malformed::new(WHAT, format!("its payload is to begin at {at} of {}", rest.len()))
        })?;
        proof.frames.bytes = [before, payload, after].concat().into();
        Ok(proof)
    }

    /// Reads a proof. It says nothing about whether it shows anything: [`verify`](Self::verify) does.
    ///
    /// # Errors
    ///
    /// The bytes are not one.
    pub fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let mut reader = crate::codec::Reader::new(WHAT, bytes);
        reader.version(VERSION)?;
        let front = bytes.slice_ref(reader.long()?);
        let middle = bytes.slice_ref(reader.long()?);
        let mut leaf = || {
            let (count, place) = (reader.u32()?, reader.u32()?);
            let leaf = bytes.slice_ref(reader.long()?);
            let rows = usize::from(reader.u8()?);
            if rows > PATH_MAX {
                return Err(reader.wrong(format!("{rows} rows are more than {PATH_MAX}")));
            }
            let path = (0..rows).map(|_| reader.array()).collect::<Result<_, _>>()?;
            Ok(Leaf { count, place, bytes: leaf, path })
        };
        let (shards, frames) = (leaf()?, leaf()?);
        reader.end()?;
        Ok(Self { front, middle, shards, frames })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Session, serial, shard, payload, validity.
    type TestFrame<'a> = (u8, u64, u8, &'a [u8], Option<u8>);

    /// The MessagePack of a batch, by hand.
    fn batch(shards: &[&str], frames: &[TestFrame<'_>]) -> Bytes {
        let mut bytes = vec![0x96, 1, 0xcd, 1, 2, 3, 0xc4, 32];
        bytes.extend_from_slice(&[9; 32]);
        bytes.extend_from_slice(&[0xdc, 0, shards.len() as u8]);
        for shard in shards {
            bytes.push(0xa0 | shard.len() as u8);
            bytes.extend_from_slice(shard.as_bytes());
        }
        bytes.extend_from_slice(&[0xdd, 0, 0, (frames.len() >> 8) as u8, frames.len() as u8]);
        for (session, serial, shard, payload, validity) in frames {
            bytes.extend_from_slice(&[0x96, 0xc4, 16]);
            bytes.extend_from_slice(&[*session; 16]);
            bytes.push(0xcf);
            bytes.extend_from_slice(&serial.to_be_bytes());
            bytes.extend_from_slice(&[0, *shard, 0xc5]);
            bytes.extend_from_slice(&(payload.len() as u16).to_be_bytes());
            bytes.extend_from_slice(payload);
            bytes.push(validity.unwrap_or(0xc0));
        }
        bytes.into()
    }

    fn hash_of(body: &Bytes) -> [u8; 32] {
        body_hash(BodyKind::Frames, body)
    }

    #[test]
    fn every_frame_of_a_batch_can_be_shown_alone() {
        for count in [1, 2, 3, 4, 5, 8, 9, 31, 257] {
            let frames: Vec<_> = (0..count)
                .map(|i| (i as u8, i as u64 * 1000, (i % 3) as u8, &b"payload"[..], Some(5)))
                .collect();
            let body = batch(&["a/0", "a/1", "a/2"], &frames);
            let hash = hash_of(&body);
            let proofs = FrameProofs::new(&body).unwrap();
            for slot in 0..count {
                let proof = proofs.proof(slot as u32).unwrap();
                assert_eq!(FrameProof::new(&body, slot as u32).as_ref(), Some(&proof));
                let bytes = Bytes::from(proof.encode());
                assert!(bytes.len() < 1000, "{} bytes", bytes.len());
                let proof = FrameProof::decode(&bytes).unwrap();
                let frame = ProvenFrame {
                    slot: slot as u32,
                    session: [slot as u8; 16],
                    serial: slot as u64 * 1000,
                    shard: format!("a/{}", slot % 3),
                    payload: Bytes::from_static(b"payload"),
                    valid_until_ms: Some(5),
                };
                assert_eq!(proof.verify(&hash), Ok(frame));
            }
            assert_eq!(proofs.proof(count as u32), None);
        }
    }

    #[test]
    fn who_has_the_payload_needs_not_be_sent_it() {
        let payload = vec![7; 1000];
        let body = batch(&["a/0"], &[(1, 1, 0, b"", None), (1, 2, 0, &payload, Some(3))]);
        let hash = hash_of(&body);
        for (slot, payload) in [(0, &b""[..]), (1, &payload)] {
            let proof = FrameProof::new(&body, slot).unwrap();
            let bytes = Bytes::from(proof.encode_without_payload().unwrap());
            assert!(bytes.len() < 300, "{} bytes", bytes.len());
            assert_eq!(FrameProof::decode_with(&bytes, payload), Ok(proof));
            let other = FrameProof::decode_with(&bytes, b"other").unwrap();
            assert!(other.verify(&hash).is_err());
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let shown = FrameProof::decode_with(&flipped.into(), payload)
                    .and_then(|proof| proof.verify(&hash));
                // An empty payload is the same wherever it is put.
                assert!(shown.is_err() || (slot, bit / 8 < 4) == (0, true), "bit {bit}");
            }
            for length in 0..bytes.len() {
                assert!(FrameProof::decode_with(&bytes.slice(..length), payload).is_err());
            }
        }
    }

    #[test]
    fn no_bit_of_a_proof_can_flip() {
        let frames: Vec<_> = (0..5).map(|i| (i, 7, i % 2, &b"payload"[..], Some(i))).collect();
        let body = batch(&["a/0", "a/1"], &frames);
        let hash = hash_of(&body);
        for slot in 0..5 {
            let bytes = FrameProof::new(&body, slot).unwrap().encode();
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let shown =
                    FrameProof::decode(&flipped.into()).and_then(|proof| proof.verify(&hash));
                assert!(shown.is_err(), "slot {slot}, bit {bit}: {shown:?}");
            }
            for length in 0..bytes.len() {
                assert!(FrameProof::decode(&Bytes::copy_from_slice(&bytes[..length])).is_err());
            }
        }
    }

    #[test]
    fn a_frame_inside_of_a_payload_cannot_be_shown() {
        let honest = batch(&["a/0"], &[(1, 1, 0, b"honest", None)]);
        let inner = FrameProof::new(&honest, 0).unwrap();
        let body = batch(&["a/0"], &[(2, 1, 0, &inner.frames.bytes, None)]);
        let outer = FrameProof::new(&body, 0).unwrap();
        let forged = FrameProof { frames: inner.frames, ..outer };
        assert!(forged.verify(&hash_of(&body)).is_err());
    }

    #[test]
    fn a_frame_is_shown_with_its_own_shard() {
        let body = batch(&["a/0", "a/1"], &[(1, 1, 0, b"", None), (1, 2, 1, b"", None)]);
        let [first, second] = [0, 1].map(|slot| FrameProof::new(&body, slot).unwrap());
        let forged = FrameProof { shards: second.shards, ..first };
        let problem = forged.verify(&hash_of(&body)).unwrap_err();
        assert!(problem.to_string().contains("another shard"), "{problem}");
    }

    #[test]
    fn no_two_batches_have_the_same_hash() {
        let frames: [TestFrame<'_>; 3] =
            [(1, 1, 0, b"a", None), (1, 2, 0, b"b", None), (1, 3, 0, b"c", None)];
        let [a, b, c] = frames;
        let mut hashes = Vec::new();
        for frames in [&[a, b, c][..], &[b, a, c], &[a, b], &[a, b, b], &[a, b, c, c], &[a], &[]] {
            for shards in [&["a/0"][..], &["a/0", "a/1"], &["a/1", "a/0"], &[]] {
                hashes.push(hash_of(&batch(shards, frames)));
            }
        }
        // The same numbers in longer forms are other bytes.
        let short = batch(&["a/0"], &[a]);
        let mut long = short.to_vec();
        long.splice(1..2, [0xcc, 1]);
        hashes.push(hash_of(&long.into()));
        // What is not a batch, and the same bytes as something else.
        hashes.push(hash_of(&short.slice(1..)));
        hashes.push(body_hash(BodyKind::Members, &short));
        hashes.push(body_hash(BodyKind::Empty, &[]));
        hashes.push(body_hash(BodyKind::Frames, &[]));
        let count = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), count);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..256), slot in 0u32..4) {
            let bytes = Bytes::from(bytes);
            hash_of(&bytes);
            let _ = FrameProof::new(&bytes, slot);
            let _ = FrameProof::decode(&bytes).map(|proof| proof.verify(&[0; 32]));
        }

        #[test]
        fn no_damage_keeps_the_hash(place in any::<prop::sample::Index>(), bit in 0u8..8) {
            let body = batch(&["a/0"], &[(1, 1, 0, b"payload", Some(3)), (2, 1, 0, b"", None)]);
            let mut damaged = body.to_vec();
            damaged[place.index(body.len())] ^= 1 << bit;
            prop_assert_ne!(hash_of(&body), hash_of(&damaged.into()));
        }
    }
}
