//! The core of Tendermint behind a private seam: this module alone names it, and no type of it is on wire, on disk or in what
//! other crates see.
//!
//! ```text
//!   start, hear, propose, candidate, timeout ---> core ---> effects, each answered at once ---> acts, in order
//! ```
//!
//! One value of [`Tendermint`] is for one height. The core's effects are answered as they come: it signs and verifies here, and
//! what must happen outside is an [`Act`]. The engine does the acts in their order, so that a note is written before the vote that
//! it is of leaves.

mod context;
mod wire;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use malachitebft_core_consensus as consensus;
use malachitebft_core_consensus::{
    Effect, Input, LivenessMsg, LocallyProposedValue, ProposedValue, Resumable, Resume,
    SignedConsensusMsg, State,
};
use malachitebft_core_types as core;
use malachitebft_core_types::{
    CertificateError, LinearTimeouts, NilOrVal, PolkaCertificate, Round, RoundCertificate,
    RoundCertificateType, SignedMessage, SignedVote, ThresholdParam, ThresholdParams, Validity,
    ValueOrigin, ValuePayload, VoteExtensionPolicy,
};
use quorate_certificate::{ChainId, Evidence, FaultModel, Signature, ValidatorSet, ValueId};

use self::context::{Address, Context, Height, Id, Proposal, Validators, Value, Vote};
use self::wire::Said;
use crate::codec::{Malformed, Reader, Writer};
use crate::config::Timing;
use crate::keys::Keys;

pub(crate) use self::context::proposer_place;

/// How far ahead of its own a node looks at rounds: what is further off is of nobody who is right.
pub(crate) const ROUNDS_AHEAD: u32 = consensus::MAX_FUTURE_ROUND_LOOKAHEAD;

/// Something that the engine has to do, in order.
#[derive(Debug)]
pub(crate) enum Act {
    /// The candidate is valid: it must be in the log before the notes that follow.
    Keep(ValueId),
    /// A line of the journal; of this node's own words it must be durable before they are said.
    Note {
        /// The line.
        note: Bytes,
        /// Whether it is of what this node says.
        is_own: bool,
    },
    /// Words for all validators, once what was written so far is durable; with the candidate, if they propose one.
    Say(Bytes, Option<ValueId>),
    /// A timer to set, or to cancel.
    Timer(u64, Option<Duration>),
    /// The height is decided.
    Decide {
        /// In which round.
        round: u32,
        /// For which candidate.
        value: ValueId,
        /// The precommits of a quorum.
        signatures: Vec<(u64, Signature)>,
    },
    /// Validators that said two things where they may say one.
    Evidence(Vec<Evidence>),
    /// The engine must stop.
    Fault(String),
}

/// What a validator says about a height.
#[derive(Clone, Debug)]
pub(crate) struct Words(Said);

/// A proposal, as far as the engine has to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Proposed {
    pub(crate) round: u32,
    pub(crate) value: ValueId,
    pub(crate) proposer: u64,
}

impl Words {
    pub(crate) fn decode(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Said::decode(from).map(Self)
    }

    pub(crate) const fn height(&self) -> u64 {
        match &self.0 {
            Said::Vote(vote) => vote.message.height.0,
            Said::Proposal(proposal) => proposal.message.height.0,
            Said::Polka(polka) => polka.height.0,
            Said::Rounds(rounds) => rounds.height.0,
        }
    }

    /// What the vote is for: whether it is the second, its height, its round and its value.
    pub(crate) fn vote(&self) -> Option<(bool, u64, u32, Option<ValueId>)> {
        let Said::Vote(vote) = &self.0 else { return None };
        let Vote { kind, height, round, value, .. } = &vote.message;
        let is_precommit = *kind == core::VoteType::Precommit;
        Some((is_precommit, height.0, round.as_u32()?, context::signed_value(value).copied()))
    }

    pub(crate) fn encode(&self, to: &mut Writer) {
        self.0.encode(to);
    }

    /// The votes that a certificate of the core is made of: for each who gave it, and what it is.
    pub(crate) fn votes_in(&self, first: usize) -> Vec<(u64, Self)> {
        let context = Context { first };
        let votes: Vec<_> = match &self.0 {
            Said::Polka(polka) => polka.votes(&context).collect(),
            Said::Rounds(rounds) => rounds.votes(&context).collect(),
            Said::Vote(_) | Said::Proposal(_) => Vec::new(),
        };
        let words = |vote: SignedVote<Context>| (vote.message.validator.0, Self(Said::Vote(vote)));
        votes.into_iter().map(words).collect()
    }

    /// A second vote that was given.
    pub(crate) fn precommit(
        (height, round, value): (u64, u32, Option<ValueId>),
        node: u64,
        signature: Signature,
    ) -> Self {
        let vote = vote_of((true, height, round, value), node);
        Self(Said::Vote(SignedVote::new(vote, signature)))
    }

    /// The line of the journal for it.
    pub(crate) fn note(&self) -> Bytes {
        let mut to = Writer::default();
        self.0.encode(&mut to);
        to.finish()
    }

    /// What it proposes, if it does.
    pub(crate) fn proposal(&self) -> Option<Proposed> {
        let Said::Proposal(proposal) = &self.0 else { return None };
        let Proposal { round, value: Value(Id(value)), proposer, .. } = &proposal.message;
        Some(Proposed { round: round.as_u32()?, value: *value, proposer: proposer.0 })
    }

    /// What was signed in it, by whom, as validators of this epoch sign. At most so many as a message holds.
    pub(crate) fn signed(&self, chain: &ChainId, epoch: u64) -> Vec<(u64, Vec<u8>, Signature)> {
        // Who proposes is no part of a vote.
        let context = Context { first: 0 };
        let votes: Vec<_> = match &self.0 {
            Said::Vote(vote) => vec![vote.clone()],
            Said::Proposal(proposal) => {
                let message = wire::signed_proposal(chain, epoch, &proposal.message);
                return vec![(proposal.message.proposer.0, message, proposal.signature.clone())];
            }
            Said::Polka(polka) => polka.votes(&context).collect(),
            Said::Rounds(rounds) => rounds.votes(&context).collect(),
        };
        let signed = votes.into_iter().map(|vote| {
            let message = wire::signed_vote(chain, epoch, &vote.message);
            (vote.message.validator.0, message, vote.signature)
        });
        signed.collect()
    }

    /// Who gave the vote, if it is one: everybody sends their own.
    pub(crate) const fn voter(&self) -> Option<u64> {
        match &self.0 {
            Said::Vote(vote) => Some(vote.message.validator.0),
            Said::Proposal(_) | Said::Polka(_) | Said::Rounds(_) => None,
        }
    }
}

/// What a height is about.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub(crate) height: u64,
    pub(crate) node: u64,
    pub(crate) validators: ValidatorSet,
    /// The place among the validators of the proposer of round 0.
    pub(crate) first: usize,
    pub(crate) fault_model: FaultModel,
    /// Whether this node votes.
    pub(crate) votes: bool,
}

/// One height.
pub(crate) struct Tendermint {
    about: About,
    state: Option<State<Context>>,
    timing: LinearTimeouts,
    timers: BTreeSet<u64>,
    /// Hashes of the lines that the journal of the height has.
    noted: BTreeSet<[u8; 32]>,
    /// The core wants a candidate for this round.
    wants: Option<u32>,
    round: u32,
    /// Whether this node has precommitted to some candidate.
    precommitted: bool,
    /// What this node has locked itself on last, and whether others have to be shown why.
    locked: Option<(Round, Id)>,
    shows_lock: bool,
}

impl std::fmt::Debug for Tendermint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tendermint")
            .field("height", &self.about.height)
            .field("round", &self.round)
            .field("wants", &self.wants)
            .finish_non_exhaustive()
    }
}

impl Tendermint {
    /// Begins a height.
    pub(crate) fn begin(
        about: About,
        timing: &Timing,
        keys: &mut Keys,
        acts: &mut Vec<Act>,
    ) -> Self {
        let mut tendermint = Self::new(about, timing);
        tendermint.start(keys, acts);
        tendermint
    }

    /// Begins a height anew, with the journal of it: it does and says again what it did and said.
    ///
    /// # Errors
    ///
    /// The journal is not one.
    pub(crate) fn replay(
        about: About,
        timing: &Timing,
        journal: &[Bytes],
        keys: &mut Keys,
        acts: &mut Vec<Act>,
    ) -> Result<Self, Malformed> {
        let inputs: Vec<_> =
            journal.iter().map(|note| wire::decode_note(note)).collect::<Result<_, _>>()?;
        let mut tendermint = Self::new(about, timing);
        tendermint.noted.extend(journal.iter().map(|note| *blake3::hash(note).as_bytes()));
        if let Some(state) = &mut tendermint.state {
            state.index_wal_entries(inputs.iter());
        }
        let node = Address(tendermint.about.node);
        tendermint.precommitted = inputs.iter().any(|input| match input {
            Input::Vote(SignedMessage { message: vote, .. }) => {
                vote.validator == node && is_commitment(vote)
            }
            _ => false,
        });
        keys.trust(true);
        tendermint.start(keys, acts);
        for input in inputs {
            if acts.iter().any(|act| matches!(act, Act::Decide { .. } | Act::Fault(_))) {
                break;
            }
            tendermint.run(input, keys, acts);
        }
        keys.trust(false);
        if let Some(state) = &mut tendermint.state {
            state.reset_entries_index();
        }
        Ok(tendermint)
    }

    fn new(about: About, timing: &Timing) -> Self {
        let thresholds = match about.fault_model {
            #[cfg(quorate_planted)]
            FaultModel::Byzantine if quorate_planted::Bug::HalfIsQuorum.is_planted() => {
                ThresholdParams {
                    quorum: ThresholdParam::new(1, 2),
                    honest: ThresholdParam::new(0, 1),
                }
            }
            FaultModel::Byzantine => ThresholdParams::default(),
            // Any two majorities have a node in common, and no node lies.
            FaultModel::Crash => ThresholdParams {
                quorum: ThresholdParam::new(1, 2),
                honest: ThresholdParam::new(0, 1),
            },
        };
        let params = consensus::Params {
            address: Address(about.node),
            threshold_params: thresholds,
            value_payload: ValuePayload::ProposalAndParts,
            enabled: about.votes,
        };
        let (context, validators) =
            (Context { first: about.first }, Validators::new(&about.validators));
        // What is for later heights is kept by the engine, which knows who sent it.
        let state = State::new(context, Height(about.height), validators, params, 1, 1);
        let timing = LinearTimeouts {
            propose: timing.propose,
            propose_delta: timing.longer,
            prevote: timing.prevote,
            prevote_delta: timing.longer,
            precommit: timing.precommit,
            precommit_delta: timing.longer,
            rebroadcast: timing.rebroadcast,
            max_timeout: timing.longest,
        };
        Self {
            about,
            state: Some(state),
            timing,
            timers: BTreeSet::new(),
            noted: BTreeSet::new(),
            wants: None,
            round: 0,
            precommitted: false,
            locked: None,
            shows_lock: false,
        }
    }

    fn start(&mut self, keys: &mut Keys, acts: &mut Vec<Act>) {
        let validators = Validators::new(&self.about.validators);
        let policy = VoteExtensionPolicy::Disabled;
        let height = Height(self.about.height);
        self.run(Input::StartHeight(height, validators, false, None, policy), keys, acts);
    }

    /// The round that this node is in.
    pub(crate) const fn round(&self) -> u32 {
        self.round
    }

    /// The round for which this node is to propose a candidate.
    pub(crate) const fn wants(&self) -> Option<u32> {
        self.wants
    }

    /// Whether this node has precommitted to a candidate of this height: it may be decided then, and nobody here knows it yet.
    pub(crate) const fn precommitted(&self) -> bool {
        self.precommitted
    }

    /// Whether this timer is set.
    pub(crate) fn has_timer(&self, timer: u64) -> bool {
        self.timers.contains(&timer)
    }

    /// The timers that are set.
    pub(crate) fn timers(&self) -> impl Iterator<Item = u64> {
        self.timers.iter().copied()
    }

    /// Whether a proposal is of whoever proposes in its round.
    pub(crate) fn proposes(&self, proposed: &Proposed) -> bool {
        let validators = self.about.validators.validators();
        let place = proposer_place(self.about.first, proposed.round, validators.len());
        validators.get(place).is_some_and(|known| known.node == proposed.proposer)
    }

    /// Whether the signature of a proposal holds.
    pub(crate) fn verifies(&self, words: &Words, keys: &mut Keys) -> bool {
        let Said::Proposal(proposal) = &words.0 else { return false };
        let signed =
            wire::signed_proposal(keys.chain(), self.about.validators.epoch(), &proposal.message);
        let validator = self.about.validators.get(proposal.message.proposer.0);
        validator.is_some_and(|known| keys.verify(&known.key, &signed, &proposal.signature))
    }

    /// A validator said something about this height.
    pub(crate) fn hear(&mut self, words: Words, keys: &mut Keys, acts: &mut Vec<Act>) {
        let input = match words.0 {
            Said::Vote(vote) => Input::Vote(vote),
            Said::Proposal(proposal) => Input::Proposal(proposal),
            Said::Polka(polka) => Input::PolkaCertificate(polka),
            Said::Rounds(rounds) => Input::RoundCertificate(rounds),
        };
        self.run(input, keys, acts);
    }

    /// This node proposes a candidate, for the round for which one is wanted.
    pub(crate) fn propose(&mut self, value: ValueId, keys: &mut Keys, acts: &mut Vec<Act>) {
        let Some(round) = self.wants.take() else { return };
        let (height, round) = (Height(self.about.height), Round::new(round));
        let value = LocallyProposedValue::new(height, round, Value(Id(value)));
        self.run(Input::Propose(value), keys, acts);
    }

    /// The candidate of a proposal is here, and was judged.
    pub(crate) fn candidate(
        &mut self,
        proposed: Proposed,
        valid: bool,
        keys: &mut Keys,
        acts: &mut Vec<Act>,
    ) {
        let candidate = ProposedValue {
            height: Height(self.about.height),
            round: Round::new(proposed.round),
            valid_round: Round::Nil,
            proposer: Address(proposed.proposer),
            value: Value(Id(proposed.value)),
            validity: Validity::from_bool(valid),
        };
        self.run(Input::ProposedValue(candidate, ValueOrigin::Consensus), keys, acts);
    }

    /// A timer ran out.
    pub(crate) fn timeout(&mut self, timer: u64, keys: &mut Keys, acts: &mut Vec<Act>) {
        if self.timers.remove(&timer)
            && let Some(timeout) = wire::timeout(timer)
        {
            self.run(Input::TimeoutElapsed(timeout), keys, acts);
        }
    }

    fn run(&mut self, input: Input<Context>, keys: &mut Keys, acts: &mut Vec<Act>) {
        let Some(mut state) = self.state.take() else { return };
        let result: Result<(), consensus::Error<Context>> = consensus::process!(
            input: input,
            state: &mut state,
            metrics: &(),
            with: effect => self.effect(effect, keys, acts)
        );
        self.state = Some(state);
        self.show_lock(acts);
        match result {
            Ok(()) => {}
            Err(consensus::Error::ReplayDivergence(kind, height, round)) => {
                acts.push(Act::Fault(format!(
                    "the journal of height {height} has another {kind} of round {round} than follows from it: this node must not vote again. Its log was changed, or written by another version; remove the node, empty its directory, and add it anew with a new key"
                )));
            }
            Err(error) => match keys.fault() {
                Some(fault) => acts.push(Act::Fault(fault)),
                // What a peer said does not fit what the core knows; it is as if it had not been said.
                None => drop(error),
            },
        }
    }

    /// Shows all validators why this node locked itself on a candidate: a liar may have let it alone see that there is a quorum for it, and
    /// then the others would propose what this node must not vote for, until it is its turn. In a height that ends with its first round nothing
    /// is shown. The core does so from its tenth round on.
    fn show_lock(&mut self, acts: &mut Vec<Act>) {
        if !std::mem::take(&mut self.shows_lock) {
            return;
        }
        let (Some((round, id)), Some(state)) = (self.locked, &self.state) else { return };
        if let Some(polka) = state.polka_certificate(round, &id) {
            acts.push(say(&Said::Polka(polka.clone()), None));
        }
        let proposal = state.driver.proposal_and_validity_for_round_and_value(round, id);
        if let Some((proposal, Validity::Valid)) = proposal {
            acts.push(say(&Said::Proposal(proposal.clone()), Some(id.0)));
        }
    }

    #[allow(clippy::result_large_err, reason = "the core says so, and nothing here fails")]
    fn effect(
        &mut self,
        effect: Effect<Context>,
        keys: &mut Keys,
        acts: &mut Vec<Act>,
    ) -> Result<Resume<Context>, consensus::Error<Context>> {
        Ok(match effect {
            Effect::CancelAllTimeouts(resume) => {
                acts.extend(
                    std::mem::take(&mut self.timers).into_iter().map(|id| Act::Timer(id, None)),
                );
                resume.resume_with(())
            }
            Effect::CancelTimeout(timeout, resume) => {
                let id = wire::timer(timeout);
                if self.timers.remove(&id) {
                    acts.push(Act::Timer(id, None));
                }
                resume.resume_with(())
            }
            Effect::ScheduleTimeout(timeout, resume) => {
                let id = wire::timer(timeout);
                #[cfg(quorate_planted)]
                if quorate_planted::Bug::WaitsForSilent.is_planted()
                    && timeout.kind == core::TimeoutKind::Propose
                {
                    return Ok(resume.resume_with(()));
                }
                self.timers.insert(id);
                acts.push(Act::Timer(id, Some(self.timing.duration_for(timeout))));
                resume.resume_with(())
            }
            Effect::StartRound(_, round, _, _, resume) => {
                self.round = round.as_u32().unwrap_or(0);
                self.wants = None;
                self.shows_lock |= self.round > 0;
                resume.resume_with(())
            }
            Effect::PublishConsensusMsg(SignedConsensusMsg::Vote(vote), resume) => {
                if let (NilOrVal::Val(id), true) =
                    (vote.message.value, is_commitment(&vote.message))
                {
                    self.precommitted = true;
                    self.locked = Some((vote.message.round, id));
                    self.shows_lock |= vote.message.round > Round::ZERO;
                }
                acts.push(say(&Said::Vote(vote), None));
                resume.resume_with(())
            }
            Effect::PublishConsensusMsg(SignedConsensusMsg::Proposal(proposal), resume) => {
                let value = proposal.message.value.0.0;
                acts.push(say(&Said::Proposal(proposal), Some(value)));
                resume.resume_with(())
            }
            Effect::PublishLivenessMsg(message, resume) => {
                let said = match message {
                    LivenessMsg::Vote(vote) => Said::Vote(vote),
                    LivenessMsg::PolkaCertificate(polka) => Said::Polka(polka),
                    LivenessMsg::SkipRoundCertificate(rounds) => Said::Rounds(rounds),
                };
                acts.push(say(&said, None));
                resume.resume_with(())
            }
            Effect::RepublishVote(vote, resume) => {
                acts.push(say(&Said::Vote(vote), None));
                resume.resume_with(())
            }
            Effect::RepublishRoundCertificate(rounds, resume) => {
                acts.push(say(&Said::Rounds(rounds), None));
                resume.resume_with(())
            }
            Effect::GetValue(_, round, _, resume) => {
                self.wants = round.as_u32();
                resume.resume_with(())
            }
            // A proposal goes out with what it proposes, each time.
            Effect::RestreamProposal(.., resume) => resume.resume_with(()),
            // What others have decided never goes through the core.
            Effect::CertVerifiedSyncValue(_, _, resume) => resume.resume_with(()),
            Effect::CertRejectedSyncValue(_, _, _, resume) => resume.resume_with(()),
            Effect::SignVote(vote, resume) => {
                let bytes = wire::signed_vote(keys.chain(), self.about.validators.epoch(), &vote);
                match keys.sign(&bytes) {
                    Some(signature) => resume.resume_with(SignedMessage::new(vote, signature)),
                    // Not what the core expects, so that it ends here.
                    None => Resume::Continue,
                }
            }
            Effect::SignProposal(proposal, resume) => {
                let epoch = self.about.validators.epoch();
                let bytes = wire::signed_proposal(keys.chain(), epoch, &proposal);
                match keys.sign(&bytes) {
                    Some(signature) => resume.resume_with(SignedMessage::new(proposal, signature)),
                    None => Resume::Continue,
                }
            }
            Effect::VerifySignature(message, key, resume) => {
                let epoch = self.about.validators.epoch();
                let bytes = match &message.message {
                    consensus::ConsensusMsg::Vote(vote) => {
                        wire::signed_vote(keys.chain(), epoch, vote)
                    }
                    consensus::ConsensusMsg::Proposal(proposal) => {
                        wire::signed_proposal(keys.chain(), epoch, proposal)
                    }
                };
                let holds = keys.verify(&key, &bytes, &message.signature);
                #[cfg(quorate_planted)]
                let holds = holds || quorate_planted::Bug::VotesUnverified.is_planted();
                resume.resume_with(holds)
            }
            Effect::VerifyCommitCertificate(certificate, _, _, resume) => {
                let core::CommitCertificate { height, round, value_id, commit_signatures } =
                    certificate;
                let votes = commit_signatures.into_iter().map(|signed| {
                    let kind = core::VoteType::Precommit;
                    let (value, validator) = (NilOrVal::Val(value_id), signed.address);
                    SignedVote::new(
                        Vote { kind, height, round, value, validator },
                        signed.signature,
                    )
                });
                resume.resume_with(self.verify_votes(votes.collect(), Needed::Quorum, keys))
            }
            // Nothing of this kind is ever asked of the core.
            Effect::VerifyExtendedCommitCertificate(_, _, _, _, resume) => {
                resume.resume_with(Err(CertificateError::VerificationError(None)))
            }
            Effect::VerifyPolkaCertificate(polka, _, _, resume) => {
                resume.resume_with(self.verify_polka(&polka, keys))
            }
            Effect::VerifyRoundCertificate(rounds, _, _, resume) => {
                resume.resume_with(self.verify_rounds(&rounds, keys))
            }
            Effect::WalAppend(_, input, resume) => {
                self.note(&input, acts);
                resume.resume_with(())
            }
            Effect::ExtendVote(.., resume) => resume.resume_with(None),
            Effect::VerifyVoteExtension(.., resume) => resume.resume_with(Ok(())),
            Effect::Decide(certificate, _, resume) => {
                let core::CommitCertificate { round, value_id, commit_signatures, .. } =
                    certificate;
                let signatures = commit_signatures
                    .into_iter()
                    .map(|signed| (signed.address.0, signed.signature))
                    .collect();
                let round = round.as_u32().unwrap_or(0);
                acts.push(Act::Decide { round, value: value_id.0, signatures });
                resume.resume_with(())
            }
            Effect::Finalize(_, _, found, resume) => {
                let found = self.evidence_of(found);
                if !found.is_empty() {
                    acts.push(Act::Evidence(found));
                }
                resume.resume_with(())
            }
        })
    }

    fn note(&mut self, input: &Input<Context>, acts: &mut Vec<Act>) {
        let Some(note) = wire::encode_note(input) else { return };
        if let Input::ProposedValue(ProposedValue { value, validity: Validity::Valid, .. }, _) =
            input
        {
            acts.push(Act::Keep(value.0.0));
        }
        // What stands in the journal is never written again, and what is heard twice has no effect the second time.
        if self.noted.insert(*blake3::hash(&note).as_bytes()) {
            let node = Address(self.about.node);
            let is_own = match input {
                Input::Vote(vote) => vote.message.validator == node,
                Input::Proposal(proposal) => proposal.message.proposer == node,
                _ => false,
            };
            acts.push(Act::Note { note, is_own });
        }
    }

    /// What was found so far, for a height that does not come to its end here.
    pub(crate) fn take_evidence(&mut self) -> Vec<Evidence> {
        let Some(state) = &mut self.state else { return Vec::new() };
        let found = consensus::MisbehaviorEvidence {
            proposals: state.driver.take_proposal_evidence(),
            votes: state.driver.take_vote_evidence(),
        };
        self.evidence_of(found)
    }

    fn evidence_of(&self, found: consensus::MisbehaviorEvidence<Context>) -> Vec<Evidence> {
        let epoch = self.about.validators.epoch();
        let place = |height: Height, round: Round| (epoch, height.0, round.as_u32().unwrap_or(0));
        let mut evidence = Vec::new();
        for (validator, pairs) in found.votes {
            for (one, other) in pairs {
                let at = place(one.message.height, one.message.round);
                let kind = context::signed_kind(one.message.kind);
                let vote = |vote: SignedVote<Context>| {
                    (context::signed_value(&vote.message.value).copied(), vote.signature)
                };
                let votes = [vote(one), vote(other)];
                evidence.extend(Evidence::votes(at, validator.0, kind, votes));
            }
        }
        for (validator, pairs) in &found.proposals {
            for (one, other) in pairs {
                let at = place(one.message.height, one.message.round);
                let proposal = |it: &core::SignedProposal<Context>| {
                    let Proposal { value: Value(Id(value)), pol_round, .. } = it.message;
                    (pol_round.as_u32(), value, it.signature.clone())
                };
                let proposals = [proposal(one), proposal(other)];
                evidence.extend(Evidence::proposals(at, validator.0, proposals));
            }
        }
        evidence
    }

    fn verify_polka(
        &self,
        polka: &PolkaCertificate<Context>,
        keys: &mut Keys,
    ) -> Result<(), CertificateError<Context>> {
        let votes = polka.votes(&Context { first: self.about.first }).collect();
        self.verify_votes(votes, Needed::Quorum, keys)
    }

    fn verify_rounds(
        &self,
        rounds: &RoundCertificate<Context>,
        keys: &mut Keys,
    ) -> Result<(), CertificateError<Context>> {
        let votes: Vec<_> = rounds.votes(&Context { first: self.about.first }).collect();
        let needed = match rounds.cert_type {
            RoundCertificateType::Precommit => {
                let prevote =
                    |vote: &&SignedVote<Context>| vote.message.kind == core::VoteType::Prevote;
                if let Some(vote) = votes.iter().find(prevote) {
                    return Err(CertificateError::InvalidVoteType(vote.message.validator));
                }
                Needed::Quorum
            }
            RoundCertificateType::Skip => Needed::Honest,
        };
        self.verify_votes(votes, needed, keys)
    }

    /// Whether each vote is of another validator, and holds, and together they have the power that is needed.
    fn verify_votes(
        &self,
        votes: Vec<SignedVote<Context>>,
        needed: Needed,
        keys: &mut Keys,
    ) -> Result<(), CertificateError<Context>> {
        let validators = &self.about.validators;
        let mut voted = BTreeSet::new();
        let mut signed = 0;
        for vote in &votes {
            let address = vote.message.validator;
            if !voted.insert(address) {
                return Err(CertificateError::DuplicateVote(address));
            }
            let Some(validator) = validators.get(address.0) else {
                return Err(CertificateError::UnknownValidator(address));
            };
            signed += validator.power;
        }
        let (model, total) = (self.about.fault_model, validators.total_power());
        let is_enough = match needed {
            Needed::Quorum => model.is_quorum(signed, total),
            Needed::Honest => model.has_honest(signed, total),
        };
        if !is_enough {
            return Err(CertificateError::NotEnoughVotingPower { signed, total, expected: total });
        }
        for vote in &votes {
            let bytes = wire::signed_vote(keys.chain(), validators.epoch(), &vote.message);
            let key = validators.get(vote.message.validator.0).map(|known| &known.key);
            if !key.is_some_and(|key| keys.verify(key, &bytes, &vote.signature)) {
                return Err(CertificateError::VerificationError(None));
            }
        }
        Ok(())
    }
}

/// The timer that runs while a proposal of this round is waited for.
pub(crate) fn propose_timer(round: u32) -> u64 {
    wire::timer(core::Timeout::propose(Round::new(round)))
}

/// How much power a certificate of the core needs.
#[derive(Clone, Copy, Debug)]
enum Needed {
    Quorum,
    Honest,
}

/// The round and value that a line of the journal precommits this node to, if it does.
pub(crate) fn commitment_of(node: u64, note: &[u8]) -> Result<Option<(u32, ValueId)>, Malformed> {
    let Input::Vote(SignedMessage { message: vote, .. }) = wire::decode_note(note)? else {
        return Ok(None);
    };
    let is_own = vote.validator == Address(node) && is_commitment(&vote);
    Ok(match vote.value {
        NilOrVal::Val(Id(value)) if is_own => Some((vote.round.as_u32().unwrap_or(0), value)),
        _ => None,
    })
}

fn is_commitment(vote: &Vote) -> bool {
    vote.kind == core::VoteType::Precommit && matches!(vote.value, NilOrVal::Val(_))
}

fn say(said: &Said, carries: Option<ValueId>) -> Act {
    let mut to = Writer::default();
    said.encode(&mut to);
    Act::Say(to.finish(), carries)
}

fn vote_of(
    (is_precommit, height, round, value): (bool, u64, u32, Option<ValueId>),
    node: u64,
) -> Vote {
    Vote {
        kind: if is_precommit { core::VoteType::Precommit } else { core::VoteType::Prevote },
        height: Height(height),
        round: Round::new(round),
        value: value.map_or(NilOrVal::Nil, |value| NilOrVal::Val(Id(value))),
        validator: Address(node),
    }
}

/// A vote signed with this key.
pub(crate) fn signed_vote_of(
    (chain, epoch): (&ChainId, u64),
    what: (bool, u64, u32, Option<ValueId>),
    node: u64,
    key: &quorate_certificate::SigningKey,
) -> Option<Words> {
    let vote = vote_of(what, node);
    let signature = key.sign(&wire::signed_vote(chain, epoch, &vote)).ok()?;
    Some(Words(Said::Vote(SignedVote::new(vote, signature))))
}

/// A proposal of a batch that nobody has seen before, signed with this key.
pub(crate) fn signed_proposal_of(
    (chain, epoch): (&ChainId, u64),
    (height, round, value): (u64, u32, ValueId),
    node: u64,
    key: &quorate_certificate::SigningKey,
) -> Option<Words> {
    let proposal = Proposal {
        height: Height(height),
        round: Round::new(round),
        value: Value(Id(value)),
        pol_round: Round::Nil,
        proposer: Address(node),
    };
    let signature = key.sign(&wire::signed_proposal(chain, epoch, &proposal)).ok()?;
    Some(Words(Said::Proposal(SignedMessage::new(proposal, signature))))
}
