//! The bytes of the stream, and what they are held to.

use bytes::Bytes;
use quorate_replicator::{GroupId, NodeId};
use quorate_storage::{Index, Summary, Tally};

use super::SnapshotError;
use crate::engine::StateHash;

/// A piece ends with the pair that reaches this many bytes. Smaller pieces make the index of a source longer, larger ones
/// the memory of both ends.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// Longest key.
pub(super) const KEY_BYTES_MAX: usize = 64 << 10;

/// Longest value. Whoever stores a whole state as one value needs that much memory for it at the receiver.
pub(super) const VALUE_BYTES_MAX: usize = 64 << 20;

/// Most bytes of the words of the head: the engine's mark may hold signatures of all members.
const WORDS_BYTES_MAX: usize = 4 << 20;

/// Most bytes of a piece: one that would have ended with its next byte, and a largest pair.
const PIECE_BYTES_MAX: usize = PIECE_BYTES + PAIR_HEAD_BYTES + KEY_BYTES_MAX + VALUE_BYTES_MAX;

const MAGIC: &[u8; 8] = b"quorsnap";
const VERSION: u32 = 1;
const CHECKSUM_BYTES: usize = 32;
/// Group, index, state, two tallies, length of the stream.
const FIXED_WORDS_BYTES: usize = 4 + 8 + 32 + 2 * (8 + 32) + 8;
/// Magic, version, length of the words.
pub(super) const PREFIX_BYTES: usize = 8 + 4 + 4;
/// Table, pairs, bytes, checksum.
pub(super) const PIECE_HEAD_BYTES: usize = 1 + 4 + 4 + 4;
pub(super) const PAIR_HEAD_BYTES: usize = 4 + 4;

/// What a snapshot says of itself before its first pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHead {
    /// The group.
    pub group: GroupId,
    /// The last index in it.
    pub index: Index,
    /// Hash of the history up to it.
    pub state: StateHash,
    /// What its pairs add up to.
    pub summary: Summary,
    /// The length of the whole stream in bytes.
    pub bytes: u64,
    /// The host's words: position, log time and the like.
    pub position: Bytes,
    /// The engine's mark.
    pub mark: Bytes,
}

/// Which pairs a piece holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    Machine = 1,
    Host = 2,
}

/// What stands before the pairs of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PieceHead {
    pub(super) table: Table,
    pub(super) pairs: u32,
    pub(super) bytes: u32,
    pub(super) checksum: u32,
}

impl SnapshotHead {
    /// How long the encoding is.
    pub(super) fn encoded_bytes(&self) -> usize {
        PREFIX_BYTES + self.words_bytes() + CHECKSUM_BYTES
    }

    fn words_bytes(&self) -> usize {
        FIXED_WORDS_BYTES + 4 + self.position.len() + 4 + self.mark.len()
    }

    pub(super) fn encode(&self) -> Result<Bytes, SnapshotError> {
        let length = self.words_bytes();
        if length > WORDS_BYTES_MAX {
            let what = "the mark of a checkpoint";
            return Err(SnapshotError::TooLarge { what, bytes: length, limit: WORDS_BYTES_MAX });
        }
        let mut bytes = Vec::with_capacity(self.encoded_bytes());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(length as u32).to_le_bytes());
        bytes.extend_from_slice(&self.group.number().to_le_bytes());
        bytes.extend_from_slice(&self.index.to_le_bytes());
        bytes.extend_from_slice(&self.state);
        for tally in [&self.summary.machine, &self.summary.host] {
            bytes.extend_from_slice(&tally.pairs.to_le_bytes());
            bytes.extend_from_slice(&tally.digest);
        }
        bytes.extend_from_slice(&self.bytes.to_le_bytes());
        for words in [&self.position, &self.mark] {
            bytes.extend_from_slice(&(words.len() as u32).to_le_bytes());
            bytes.extend_from_slice(words);
        }
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(checksum.as_bytes());
        Ok(bytes.into())
    }

    /// How many bytes the head has after its prefix.
    pub(super) fn rest_bytes(prefix: &[u8; PREFIX_BYTES]) -> Result<usize, SnapshotError> {
        let mut bytes = Reader(prefix);
        let fixed = "the prefix has a fixed length";
        if bytes.array::<8>().expect(fixed) != *MAGIC {
            return Err(damaged(PREFIX_BYTES as u64, "it is not a snapshot"));
        }
        let version = bytes.u32().expect(fixed);
        if version != VERSION {
            return Err(SnapshotError::Newer { version, known: VERSION });
        }
        let words = bytes.u32().expect(fixed) as usize;
        if !(FIXED_WORDS_BYTES + 8..=WORDS_BYTES_MAX).contains(&words) {
            let what = format!("its head has {words} bytes");
            return Err(damaged(PREFIX_BYTES as u64, what));
        }
        Ok(words + CHECKSUM_BYTES)
    }

    /// The head, of all of its bytes.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let at = bytes.len() as u64;
        let whole = bytes.split_last_chunk::<CHECKSUM_BYTES>();
        let Some((body, _)) = whole.filter(|(body, sum)| blake3::hash(body) == **sum) else {
            return Err(damaged(at, "the checksum of its head is wrong"));
        };
        let words = |mut words: Reader<'_>| {
            let group = GroupId::new(words.u32()?);
            let index = words.u64()?;
            let state = words.array()?;
            let mut tally = || Some(Tally { pairs: words.u64()?, digest: words.array()? });
            let summary = Summary { machine: tally()?, host: tally()? };
            let bytes = words.u64()?;
            let mut sized = || {
                let length = words.u32()? as usize;
                Some(Bytes::copy_from_slice(words.take(length)?))
            };
            let (position, mark) = (sized()?, sized()?);
            let head = Self { group, index, state, summary, bytes, position, mark };
            words.0.is_empty().then_some(head)
        };
        let found = body.get(PREFIX_BYTES..).and_then(|body| words(Reader(body)));
        found.ok_or_else(|| damaged(at, "the lengths in its head do not add up"))
    }
}

/// The id of a snapshot: the same for each attempt to send it, and another one if anything of it differs. `head` is the
/// encoded head, which pins everything that follows.
pub(super) fn snapshot_id(sender: NodeId, head: &[u8]) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"quorate snapshot");
    hasher.update(&sender.number().to_le_bytes());
    hasher.update(head);
    let hash = hasher.finalize();
    u128::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash is longer"))
}

impl PieceHead {
    /// The head of a piece with these pairs.
    pub(super) fn of(table: Table, pairs: u32, payload: &[u8]) -> Self {
        let bytes = u32::try_from(payload.len()).expect("a piece is bounded");
        let mut head = Self { table, pairs, bytes, checksum: 0 };
        head.checksum = head.sum(payload);
        head
    }

    pub(super) fn encode(&self) -> [u8; PIECE_HEAD_BYTES] {
        let mut bytes = [0; PIECE_HEAD_BYTES];
        bytes[0] = self.table as u8;
        bytes[1..5].copy_from_slice(&self.pairs.to_le_bytes());
        bytes[5..9].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[9..].copy_from_slice(&self.checksum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; PIECE_HEAD_BYTES], at: u64) -> Result<Self, SnapshotError> {
        let fixed = "the head of a piece has a fixed length";
        let mut bytes = Reader(bytes);
        let table = match bytes.array::<1>().expect(fixed) {
            [1] => Table::Machine,
            [2] => Table::Host,
            [other] => return Err(damaged(at, format!("there is no table {other}"))),
        };
        let mut number = || bytes.u32().expect(fixed);
        let head = Self { table, pairs: number(), bytes: number(), checksum: number() };
        let bytes = head.bytes as usize;
        if !(1..=PIECE_BYTES_MAX).contains(&bytes) {
            return Err(damaged(at, format!("a piece has {bytes} bytes")));
        }
        Ok(head)
    }

    /// Whether this is the head of `payload`.
    pub(super) fn fits(&self, payload: &[u8]) -> bool {
        self.sum(payload) == self.checksum
    }

    fn sum(&self, payload: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&Self { checksum: 0, ..*self }.encode());
        hasher.update(payload);
        hasher.finalize()
    }
}

/// Adds a pair to a piece.
pub(super) fn put_pair(piece: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    piece.extend_from_slice(&(key.len() as u32).to_le_bytes());
    piece.extend_from_slice(&(value.len() as u32).to_le_bytes());
    piece.extend_from_slice(key);
    piece.extend_from_slice(value);
}

/// The next pair of a piece, which it is taken from; none if what is left is no pair.
pub(super) fn take_pair(piece: &mut Bytes) -> Option<(Bytes, Bytes)> {
    let mut head = Reader(piece);
    let (key, value) = (head.u32()? as usize, head.u32()? as usize);
    if key > KEY_BYTES_MAX || value > VALUE_BYTES_MAX || key + value > head.0.len() {
        return None;
    }
    drop(piece.split_to(PAIR_HEAD_BYTES));
    Some((piece.split_to(key), piece.split_to(value)))
}

pub(super) fn damaged(at: u64, what: impl Into<String>) -> SnapshotError {
    SnapshotError::Damaged { at, what: what.into() }
}

/// Takes values from the front of some bytes; none if they end too early.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}
