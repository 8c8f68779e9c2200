//! What a decided batch says about itself; votes are for its hash.

use crate::codec::{Malformed, Reader, Writer, hash};
use crate::vote::ValueId;

/// What a batch carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_enums)]
pub enum BodyKind {
    /// Nothing.
    Empty,
    /// Frames.
    Frames,
    /// A change of the validators.
    Members,
}

impl BodyKind {
    const ALL: [Self; 3] = [Self::Empty, Self::Frames, Self::Members];

    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Empty => 0,
            Self::Frames => 1,
            Self::Members => 2,
        }
    }

    /// How it is called in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "nothing",
            Self::Frames => "frames",
            Self::Members => "a change of the validators",
        }
    }
}

/// What a batch says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct Header {
    /// Its height, which is its index in the log; the first is 1.
    pub height: u64,
    /// The id of the header of the height before it; at height 1 the bytes of the [`ChainId`](crate::ChainId).
    pub previous: ValueId,
    /// The node that made it, in whatever round it is decided.
    pub proposer: u64,
    /// The digest of the validators of this height.
    pub validators: [u8; 32],
    /// The digest of those of the next height, which are known already: a change takes two heights.
    pub next_validators: [u8; 32],
    /// The newest index whose history the proposer had; 0 if none.
    pub state_index: u64,
    /// The hash of that history. Whoever votes for this has the same one, or does not know it yet.
    pub state: [u8; 32],
    /// What it carries.
    pub kind: BodyKind,
    /// [`body_hash`](crate::body_hash) of what it carries.
    pub body: [u8; 32],
}

const VERSION: u8 = 1;

/// How many bytes a header has.
pub const HEADER_BYTES: usize = 186;

impl Header {
    /// The bytes that [`decode`](Self::decode) reads. Layout, integers little-endian: version (1), kind (1), height (8), previous (32),
    /// proposer (8), validators (32), next validators (32), state index (8), state (32), body (32).
    pub fn encode(&self) -> Vec<u8> {
        Writer::default()
            .u8(VERSION)
            .u8(self.kind.code())
            .u64(self.height)
            .bytes(&self.previous)
            .u64(self.proposer)
            .bytes(&self.validators)
            .bytes(&self.next_validators)
            .u64(self.state_index)
            .bytes(&self.state)
            .bytes(&self.body)
            .done()
    }

    /// Reads a header. Each has one encoding.
    ///
    /// # Errors
    ///
    /// The bytes are not one.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("header", bytes);
        reader.version(VERSION)?;
        let code = reader.u8()?;
        let kind = BodyKind::ALL.into_iter().find(|kind| kind.code() == code);
        let header = Self {
            kind: kind.ok_or_else(|| reader.wrong(format!("{code} is no kind of body")))?,
            height: reader.u64()?,
            previous: reader.array()?,
            proposer: reader.u64()?,
            validators: reader.array()?,
            next_validators: reader.array()?,
            state_index: reader.u64()?,
            state: reader.array()?,
            body: reader.array()?,
        };
        reader.end()?;
        Ok(header)
    }

    /// What names it: no other header has this hash.
    pub fn id(&self) -> ValueId {
        hash("quorate 1 header", &[&self.encode()])
    }
}
