//! How votes, proposals and what is made of them stand on the wire and in the journal.

use std::time::Duration;

use bytes::Bytes;
use malachitebft_core_consensus::{Input, ProposedValue};
use malachitebft_core_types as core;
use malachitebft_core_types::{
    NilOrVal, PolkaCertificate, PolkaSignature, Round, RoundCertificate, RoundCertificateType,
    RoundSignature, SignedProposal, SignedVote, Timeout, TimeoutKind, Validity, ValueOrigin,
};
use quorate_certificate::{
    ChainId, Signature, VALIDATORS_MAX, ValueId, proposal_bytes, vote_bytes,
};

use super::context::{
    Address, Context, Height, Id, Proposal, Value, Vote, signed_kind, signed_value,
};
use crate::codec::{Malformed, Reader, Writer};

/// Rounds grow by one at a time, and each takes longer than the one before: nobody gets here.
const ROUND_MAX: u32 = 1 << 24;

/// Smallest encoding of a signature with its node.
const SEAT_BYTES: usize = 8 + 4;

const VOTE: u8 = 1;
const PROPOSAL: u8 = 2;
const POLKA: u8 = 3;
const ROUNDS: u8 = 4;
const TIMEOUT: u8 = 5;
const CANDIDATE: u8 = 6;

/// What a validator says about a height.
#[derive(Clone, Debug)]
pub(super) enum Said {
    Vote(SignedVote<Context>),
    Proposal(SignedProposal<Context>),
    Polka(PolkaCertificate<Context>),
    Rounds(RoundCertificate<Context>),
}

/// The bytes that a vote signs.
pub(super) fn signed_vote(chain: &ChainId, epoch: u64, vote: &Vote) -> Vec<u8> {
    let (kind, value) = (signed_kind(vote.kind), signed_value(&vote.value));
    let round = vote.round.as_u32().unwrap_or(u32::MAX);
    vote_bytes(chain, epoch, kind, vote.height.0, round, value, vote.validator.0)
}

/// The bytes that a proposal signs.
pub(super) fn signed_proposal(chain: &ChainId, epoch: u64, proposal: &Proposal) -> Vec<u8> {
    let Proposal { height, round, value: Value(Id(value)), pol_round, proposer } = proposal;
    let round = round.as_u32().unwrap_or(u32::MAX);
    proposal_bytes(chain, epoch, height.0, round, pol_round.as_u32(), value, proposer.0)
}

impl Said {
    pub(super) fn encode(&self, to: &mut Writer) {
        match self {
            Self::Vote(vote) => encode_vote(to.u8(VOTE), vote),
            Self::Proposal(proposal) => encode_proposal(to.u8(PROPOSAL), proposal),
            Self::Polka(polka) => encode_polka(to.u8(POLKA), polka),
            Self::Rounds(rounds) => encode_rounds(to.u8(ROUNDS), rounds),
        }
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match from.u8()? {
            VOTE => Self::Vote(decode_vote(from)?),
            PROPOSAL => Self::Proposal(decode_proposal(from)?),
            POLKA => Self::Polka(decode_polka(from)?),
            ROUNDS => Self::Rounds(decode_rounds(from)?),
            _ => return Err(Malformed("validators say nothing of this kind")),
        })
    }
}

/// A line of the journal; none for what is not to be kept.
pub(super) fn encode_note(input: &Input<Context>) -> Option<Bytes> {
    let mut to = Writer::default();
    match input {
        Input::Vote(vote) => encode_vote(to.u8(VOTE), vote),
        Input::Proposal(proposal) => encode_proposal(to.u8(PROPOSAL), proposal),
        Input::PolkaCertificate(polka) => encode_polka(to.u8(POLKA), polka),
        Input::TimeoutElapsed(Timeout { kind, round }) => {
            let kind = match kind {
                TimeoutKind::Propose => 1,
                TimeoutKind::Prevote => 2,
                TimeoutKind::Precommit => 3,
                TimeoutKind::Rebroadcast | TimeoutKind::FinalizeHeight(_) => return None,
            };
            encode_round(to.u8(TIMEOUT).u8(kind), *round);
        }
        Input::ProposedValue(candidate, origin) => {
            let ProposedValue { height, round, valid_round, proposer, value, validity } = candidate;
            encode_round(to.u8(CANDIDATE).u64(height.0), *round);
            encode_pol(&mut to, *valid_round);
            to.u64(proposer.0).array(&value.0.0);
            to.bool(validity.is_valid()).bool(origin.is_sync());
        }
        Input::StartHeight(..)
        | Input::RoundCertificate(_)
        | Input::Propose(_)
        | Input::SyncValueResponse(_) => return None,
    }
    Some(to.finish())
}

/// Reads a line of the journal.
pub(super) fn decode_note(note: &[u8]) -> Result<Input<Context>, Malformed> {
    let mut from = Reader::new(note);
    let input = match from.u8()? {
        VOTE => Input::Vote(decode_vote(&mut from)?),
        PROPOSAL => Input::Proposal(decode_proposal(&mut from)?),
        POLKA => Input::PolkaCertificate(decode_polka(&mut from)?),
        TIMEOUT => {
            let kind = match from.u8()? {
                1 => TimeoutKind::Propose,
                2 => TimeoutKind::Prevote,
                3 => TimeoutKind::Precommit,
                _ => return Err(Malformed("there is no such timeout")),
            };
            Input::TimeoutElapsed(Timeout::new(decode_round(&mut from)?, kind))
        }
        CANDIDATE => {
            let candidate = ProposedValue {
                height: Height(from.u64()?),
                round: decode_round(&mut from)?,
                valid_round: decode_pol(&mut from)?,
                proposer: Address(from.u64()?),
                value: Value(Id(from.array()?)),
                validity: Validity::from_bool(from.bool()?),
            };
            let origin = if from.bool()? { ValueOrigin::Sync } else { ValueOrigin::Consensus };
            Input::ProposedValue(candidate, origin)
        }
        _ => return Err(Malformed("the journal has no such line")),
    };
    from.finish()?;
    Ok(input)
}

fn encode_round(to: &mut Writer, round: Round) {
    to.u32(round.as_u32().expect("rounds of messages are defined"));
}

fn decode_round(from: &mut Reader<'_>) -> Result<Round, Malformed> {
    let round = from.u32()?;
    if round > ROUND_MAX { Err(Malformed("a round is too large")) } else { Ok(Round::new(round)) }
}

fn encode_pol(to: &mut Writer, round: Round) {
    to.bool(round.is_defined()).u32(round.as_u32().unwrap_or(0));
}

fn decode_pol(from: &mut Reader<'_>) -> Result<Round, Malformed> {
    let is_defined = from.bool()?;
    let round = decode_round(from)?;
    match (is_defined, round) {
        (true, round) => Ok(round),
        (false, Round::ZERO) => Ok(Round::Nil),
        (false, _) => Err(Malformed("a round that is none has a number")),
    }
}

fn encode_value(to: &mut Writer, value: &NilOrVal<Id>) {
    let value = signed_value(value);
    to.bool(value.is_some()).array(value.unwrap_or(&[0; 32]));
}

fn decode_value(from: &mut Reader<'_>) -> Result<NilOrVal<Id>, Malformed> {
    let is_some = from.bool()?;
    let value: ValueId = from.array()?;
    match is_some {
        true => Ok(NilOrVal::Val(Id(value))),
        false if value == [0; 32] => Ok(NilOrVal::Nil),
        false => Err(Malformed("a value that is none has bytes")),
    }
}

fn encode_kind(to: &mut Writer, kind: core::VoteType) {
    to.bool(kind == core::VoteType::Precommit);
}

fn decode_kind(from: &mut Reader<'_>) -> Result<core::VoteType, Malformed> {
    Ok(if from.bool()? { core::VoteType::Precommit } else { core::VoteType::Prevote })
}

fn encode_vote(to: &mut Writer, vote: &SignedVote<Context>) {
    let Vote { kind, height, round, value, validator } = &vote.message;
    encode_kind(to, *kind);
    encode_round(to.u64(height.0), *round);
    encode_value(to, value);
    to.u64(validator.0).signature(&vote.signature);
}

fn decode_vote(from: &mut Reader<'_>) -> Result<SignedVote<Context>, Malformed> {
    let vote = Vote {
        kind: decode_kind(from)?,
        height: Height(from.u64()?),
        round: decode_round(from)?,
        value: decode_value(from)?,
        validator: Address(from.u64()?),
    };
    Ok(SignedVote::new(vote, from.signature()?))
}

fn encode_proposal(to: &mut Writer, proposal: &SignedProposal<Context>) {
    let Proposal { height, round, value, pol_round, proposer } = &proposal.message;
    encode_round(to.u64(height.0), *round);
    encode_pol(to.array(&value.0.0), *pol_round);
    to.u64(proposer.0).signature(&proposal.signature);
}

fn decode_proposal(from: &mut Reader<'_>) -> Result<SignedProposal<Context>, Malformed> {
    let proposal = Proposal {
        height: Height(from.u64()?),
        round: decode_round(from)?,
        value: Value(Id(from.array()?)),
        pol_round: decode_pol(from)?,
        proposer: Address(from.u64()?),
    };
    Ok(SignedProposal::new(proposal, from.signature()?))
}

fn encode_polka(to: &mut Writer, polka: &PolkaCertificate<Context>) {
    encode_round(to.u64(polka.height.0), polka.round);
    to.array(&polka.value_id.0).count(polka.polka_signatures.len());
    for PolkaSignature { address, signature } in &polka.polka_signatures {
        to.u64(address.0).signature(signature);
    }
}

fn decode_polka(from: &mut Reader<'_>) -> Result<PolkaCertificate<Context>, Malformed> {
    let (height, round) = (Height(from.u64()?), decode_round(from)?);
    let value_id = Id(from.array()?);
    let count = from.count(VALIDATORS_MAX, SEAT_BYTES)?;
    let mut polka_signatures = Vec::with_capacity(count);
    for _ in 0..count {
        let address = Address(from.u64()?);
        polka_signatures.push(PolkaSignature::new(address, from.signature()?));
    }
    Ok(PolkaCertificate { height, round, value_id, polka_signatures })
}

fn encode_rounds(to: &mut Writer, rounds: &RoundCertificate<Context>) {
    encode_round(to.u64(rounds.height.0), rounds.round);
    to.bool(rounds.cert_type == RoundCertificateType::Precommit);
    to.count(rounds.round_signatures.len());
    for RoundSignature { vote_type, value_id, address, signature } in &rounds.round_signatures {
        encode_kind(to, *vote_type);
        encode_value(to, value_id);
        to.u64(address.0).signature(signature);
    }
}

fn decode_rounds(from: &mut Reader<'_>) -> Result<RoundCertificate<Context>, Malformed> {
    let (height, round) = (Height(from.u64()?), decode_round(from)?);
    let cert_type = match from.bool()? {
        true => RoundCertificateType::Precommit,
        false => RoundCertificateType::Skip,
    };
    let count = from.count(VALIDATORS_MAX, SEAT_BYTES)?;
    let mut round_signatures = Vec::with_capacity(count);
    for _ in 0..count {
        let (kind, value) = (decode_kind(from)?, decode_value(from)?);
        let (address, signature): (_, Signature) = (Address(from.u64()?), from.signature()?);
        round_signatures.push(RoundSignature::new(kind, value, address, signature));
    }
    Ok(RoundCertificate { height, round, cert_type, round_signatures })
}

/// What the engine calls a timeout: its kind and its round.
pub(super) const fn timer(timeout: Timeout) -> u64 {
    let kind = match timeout.kind {
        TimeoutKind::Propose => 1,
        TimeoutKind::Prevote => 2,
        TimeoutKind::Precommit => 3,
        TimeoutKind::Rebroadcast => 4,
        TimeoutKind::FinalizeHeight(_) => 5,
    };
    let round = match timeout.round {
        Round::Nil => u32::MAX,
        Round::Some(round) => round,
    };
    kind << 32 | round as u64
}

/// The timeout of that name.
pub(super) fn timeout(timer: u64) -> Option<Timeout> {
    let kind = match timer >> 32 {
        1 => TimeoutKind::Propose,
        2 => TimeoutKind::Prevote,
        3 => TimeoutKind::Precommit,
        4 => TimeoutKind::Rebroadcast,
        5 => TimeoutKind::FinalizeHeight(Duration::ZERO),
        _ => return None,
    };
    let round = u32::try_from(timer & u64::from(u32::MAX)).ok()?;
    Some(Timeout::new(Round::new(round), kind))
}
