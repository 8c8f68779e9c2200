//! The types that the core of Tendermint is made for.

use std::fmt;
use std::sync::Arc;

use malachitebft_core_types as core;
use malachitebft_core_types::{NilOrVal, Round};
use quorate_certificate::{PublicKey, Signature, ValidatorSet, ValueId, VoteType};
use quorate_storage::Tag;

/// What the core is told about a height: who votes, and who proposes first.
#[derive(Clone, Debug)]
pub(super) struct Context {
    /// The place in the set of the proposer of round 0.
    pub(super) first: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address(pub(super) u64);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

impl core::Address for Address {}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Height(pub(super) u64);

impl fmt::Display for Height {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl core::Height for Height {
    const ZERO: Self = Self(0);
    const INITIAL: Self = Self(1);

    fn increment_by(&self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }

    fn decrement_by(&self, count: u64) -> Option<Self> {
        self.0.checked_sub(count).map(Self)
    }

    fn as_u64(&self) -> u64 {
        self.0
    }
}

/// A candidate, by the id of its header alone: the engine keeps what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Value(pub(super) Id);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id(pub(super) ValueId);

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", Tag(self.0))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", Tag(self.0))
    }
}

impl core::Value for Value {
    type Id = Id;

    fn id(&self) -> Id {
        self.0
    }
}

/// Bodies travel with their proposals, in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part;

impl core::ProposalPart<Context> for Part {
    fn is_first(&self) -> bool {
        true
    }

    fn is_last(&self) -> bool {
        true
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proposal {
    pub(super) height: Height,
    pub(super) round: Round,
    pub(super) value: Value,
    pub(super) pol_round: Round,
    pub(super) proposer: Address,
}

impl core::Proposal<Context> for Proposal {
    fn height(&self) -> Height {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &Value {
        &self.value
    }

    fn take_value(self) -> Value {
        self.value
    }

    fn pol_round(&self) -> Round {
        self.pol_round
    }

    fn validator_address(&self) -> &Address {
        &self.proposer
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vote {
    pub(super) kind: core::VoteType,
    pub(super) height: Height,
    pub(super) round: Round,
    pub(super) value: NilOrVal<Id>,
    pub(super) validator: Address,
}

impl core::Vote<Context> for Vote {
    fn height(&self) -> Height {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &NilOrVal<Id> {
        &self.value
    }

    fn take_value(self) -> NilOrVal<Id> {
        self.value
    }

    fn vote_type(&self) -> core::VoteType {
        self.kind
    }

    fn validator_address(&self) -> &Address {
        &self.validator
    }

    fn extension(&self) -> Option<&core::SignedExtension<Context>> {
        None
    }

    fn take_extension(&mut self) -> Option<core::SignedExtension<Context>> {
        None
    }

    fn extend(self, _extension: core::SignedExtension<Context>) -> Self {
        self
    }
}

/// The kind of a vote as it is signed.
pub(super) const fn signed_kind(kind: core::VoteType) -> VoteType {
    match kind {
        core::VoteType::Prevote => VoteType::Prevote,
        core::VoteType::Precommit => VoteType::Precommit,
    }
}

/// The value of a vote as it is signed.
pub(super) const fn signed_value(value: &NilOrVal<Id>) -> Option<&ValueId> {
    match value {
        NilOrVal::Nil => None,
        NilOrVal::Val(Id(id)) => Some(id),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Validator {
    address: Address,
    power: u64,
    key: PublicKey,
}

impl core::Validator<Context> for Validator {
    fn address(&self) -> &Address {
        &self.address
    }

    fn public_key(&self) -> &PublicKey {
        &self.key
    }

    fn voting_power(&self) -> u64 {
        self.power
    }
}

/// The validators of a height, in the order of their nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Validators {
    total: u64,
    all: Arc<[Validator]>,
}

impl Validators {
    pub(super) fn new(set: &ValidatorSet) -> Self {
        let all = set.validators().iter().map(|known| Validator {
            address: Address(known.node),
            power: known.power,
            key: known.key.clone(),
        });
        Self { total: set.total_power(), all: all.collect() }
    }
}

impl core::ValidatorSet<Context> for Validators {
    fn count(&self) -> usize {
        self.all.len()
    }

    fn total_voting_power(&self) -> u64 {
        self.total
    }

    fn get_by_address(&self, address: &Address) -> Option<&Validator> {
        let place = self.all.binary_search_by_key(address, |known| known.address).ok()?;
        self.all.get(place)
    }

    fn get_by_index(&self, index: usize) -> Option<&Validator> {
        self.all.get(index)
    }
}

/// What the core wants to know of signatures: nothing, as the engine makes and verifies them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scheme;

impl core::SigningScheme for Scheme {
    type DecodingError = &'static str;
    type Signature = Signature;
    type PublicKey = PublicKey;
    type PrivateKey = ();

    fn decode_signature(_bytes: &[u8]) -> Result<Signature, &'static str> {
        Err("the engine reads signatures")
    }

    fn encode_signature(signature: &Signature) -> Vec<u8> {
        signature.as_bytes().to_vec()
    }

    fn decode_public_key(_bytes: &[u8]) -> Result<PublicKey, &'static str> {
        Err("the engine reads keys")
    }

    fn encode_public_key(key: &PublicKey) -> Vec<u8> {
        key.as_bytes().to_vec()
    }
}

impl core::Context for Context {
    type Address = Address;
    type Height = Height;
    type ProposalPart = Part;
    type Proposal = Proposal;
    type Validator = Validator;
    type ValidatorSet = Validators;
    type Timeouts = core::LinearTimeouts;
    type Value = Value;
    type Vote = Vote;
    type Extension = ();
    type SigningScheme = Scheme;

    fn select_proposer<'a>(
        &self,
        validators: &'a Validators,
        _height: Height,
        round: Round,
    ) -> &'a Validator {
        let place = proposer_place(self.first, round.as_u32().unwrap_or(0), validators.all.len());
        validators.all.get(place).expect("a set of validators is not empty")
    }

    fn new_proposal(
        &self,
        height: Height,
        round: Round,
        value: Value,
        pol_round: Round,
        proposer: Address,
    ) -> Proposal {
        Proposal { height, round, value, pol_round, proposer }
    }

    fn new_prevote(
        &self,
        height: Height,
        round: Round,
        value: NilOrVal<Id>,
        validator: Address,
    ) -> Vote {
        Vote { kind: core::VoteType::Prevote, height, round, value, validator }
    }

    fn new_precommit(
        &self,
        height: Height,
        round: Round,
        value: NilOrVal<Id>,
        validator: Address,
    ) -> Vote {
        Vote { kind: core::VoteType::Precommit, height, round, value, validator }
    }
}

/// The place in a set of `count` of the proposer of a round, whose round 0 has the one at `first`.
pub(crate) const fn proposer_place(first: usize, round: u32, count: usize) -> usize {
    (first + round as usize) % count
}
