//! What is said of a snapshot before its first byte.

use bytes::{BufMut, Bytes, BytesMut};
use quorate_replicator::GroupId;
use quorate_storage::Index;

use super::SnapshotError;
use super::format::damaged;

/// Most bytes of an engine's words about a snapshot: with ours they fit the head of a bulk offer.
const WORDS_BYTES_MAX: usize = 60 << 10;

const VERSION: u8 = 1;
const FIXED_BYTES: usize = 1 + 4 + 8;

/// What is said of a snapshot before its first byte: the head of a bulk offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotOffer {
    /// The group.
    pub group: GroupId,
    /// The last index in it.
    pub index: Index,
    /// The engine's words for the receiver.
    pub head: Bytes,
}

impl SnapshotOffer {
    /// As bytes.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::TooLarge`] if the engine has too much to say.
    pub fn encode(&self) -> Result<Bytes, SnapshotError> {
        let (what, bytes) = ("what the engine says of a snapshot", self.head.len());
        if bytes > WORDS_BYTES_MAX {
            return Err(SnapshotError::TooLarge { what, bytes, limit: WORDS_BYTES_MAX });
        }
        let mut encoded = BytesMut::with_capacity(FIXED_BYTES + bytes);
        encoded.put_u8(VERSION);
        encoded.put_u32_le(self.group.number());
        encoded.put_u64_le(self.index);
        encoded.put_slice(&self.head);
        Ok(encoded.freeze())
    }

    /// Of bytes that another node sent.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Damaged`] and [`SnapshotError::Newer`] as they say.
    pub fn decode(bytes: &Bytes) -> Result<Self, SnapshotError> {
        let at = bytes.len() as u64;
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&version) => {
                let (version, known) = (u32::from(version), u32::from(VERSION));
                return Err(SnapshotError::Newer { version, known });
            }
            None => return Err(damaged(at, "nothing is said of it")),
        }
        if !(FIXED_BYTES..=FIXED_BYTES + WORDS_BYTES_MAX).contains(&bytes.len()) {
            return Err(damaged(at, "what is said of it has a wrong length"));
        }
        let number = |at: usize| -> u64 {
            bytes[at..].iter().take(8).rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
        };
        let group = GroupId::new(number(1) as u32);
        Ok(Self { group, index: number(5), head: bytes.slice(FIXED_BYTES..) })
    }
}
