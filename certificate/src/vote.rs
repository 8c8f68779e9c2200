//! What validators sign: fixed layouts that say what is signed, and where it counts.

use crate::codec::Writer;
use crate::genesis::ChainId;

/// What names a header, and by that its batch and all before it; the log calls it a tag.
pub type ValueId = [u8; 32];

/// What a vote is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(clippy::exhaustive_enums)]
pub enum VoteType {
    /// The first vote of a round.
    Prevote,
    /// The second: a quorum of these decides.
    Precommit,
}

impl VoteType {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Prevote => 1,
            Self::Precommit => 2,
        }
    }
}

/// What no signature of another kind begins with.
const VOTE: &[u8; 16] = b"quorate.vote.001";
const PROPOSAL: &[u8; 16] = b"quorate.prop.001";

/// The bytes that a vote signs. Layout, integers little-endian: domain (16), chain (32), epoch (8), type (1), height (8), round (4),
/// whether there is a value (1), the value or zeros (32), the validator's node (8).
///
/// `value`: none is a vote against whatever was proposed.
pub fn vote_bytes(
    chain: &ChainId,
    epoch: u64,
    kind: VoteType,
    height: u64,
    round: u32,
    value: Option<&ValueId>,
    validator: u64,
) -> Vec<u8> {
    Writer::default()
        .bytes(VOTE)
        .bytes(chain.as_bytes())
        .u64(epoch)
        .u8(kind.code())
        .u64(height)
        .u32(round)
        .u8(value.is_some().into())
        .bytes(value.unwrap_or(&[0; 32]))
        .u64(validator)
        .done()
}

/// The bytes that a proposal signs. Layout, integers little-endian: domain (16), chain (32), epoch (8), height (8), round (4), whether there
/// is an earlier round (1), that round or zeros (4), the value (32), the validator's node (8).
///
/// `pol_round`: the round in which a quorum prevoted for the value, if it is proposed again.
pub fn proposal_bytes(
    chain: &ChainId,
    epoch: u64,
    height: u64,
    round: u32,
    pol_round: Option<u32>,
    value: &ValueId,
    validator: u64,
) -> Vec<u8> {
    Writer::default()
        .bytes(PROPOSAL)
        .bytes(chain.as_bytes())
        .u64(epoch)
        .u64(height)
        .u32(round)
        .u8(pol_round.is_some().into())
        .u32(pol_round.unwrap_or(0))
        .bytes(value)
        .u64(validator)
        .done()
}
