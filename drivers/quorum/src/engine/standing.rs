//! Whether this node may vote: one that has lost its disk must never vote again where it may have voted before.
//!
//! ```text
//!   hello (directory) ---> all others: they store, once, under which directory they know the node
//!   welcome (known directory, claim) <---
//! ```
//!
//! Who became a validator after a node cannot know whether that had another directory before, and does not confirm one.
//!
//! A new directory votes when enough others have stored it as the one of its node: of any two such sets, one validator that keeps the rules is in
//! both, so a second directory is not confirmed after a first one was. If others know another directory, this one is that of a node that lost
//! its disk. It may have voted at any height up to the one after the last that a quorum has precommitted to, and votes from
//! the height after that on; until then it follows the others.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_certificate::{ChainId, Evidence, FaultModel, SIGNATURE_BYTES_MAX, VALIDATORS_MAX};
use quorate_engine::engine::{Outgoing, Output};
use quorate_replicator::NodeId;
use quorate_storage::Record;

use super::{FOUND, FOUND_EVERY, QuorumEngine};
use crate::codec::{Malformed, Reader, Writer};
use crate::message;

/// The random id of a data directory.
pub(crate) type Incarnation = [u8; 16];

const VERSION: u8 = 1;

/// Most pieces of evidence that are kept for one validator: the first prove it.
const EVIDENCE_EACH: usize = 2;

/// Most bytes of a piece of evidence: two signatures, and what they are for.
const EVIDENCE_BYTES_MAX: usize = 2 * SIGNATURE_BYTES_MAX + 256;

/// What is known of who may vote and who broke the rules, and stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// From which height on this node votes; none while it is not known.
    pub(super) votes_from: Option<u64>,
    /// Under which directory each other node is known.
    known: BTreeMap<NodeId, Incarnation>,
    /// Proof of who has said two things where one may be said.
    pub(super) evidence: Vec<Evidence>,
    /// What others have answered about this node's directory: whether it is the one that they know, and their claims.
    answers: BTreeMap<NodeId, (bool, u64)>,
}

impl Standing {
    /// That of a node which votes from this height on, and knows nobody else.
    pub(super) fn alone(votes_from: u64) -> Self {
        Self { votes_from: Some(votes_from), ..Self::default() }
    }

    pub(super) fn encode(&self, chain: &ChainId) -> Bytes {
        let mut to = Writer::default();
        to.u8(VERSION).array(chain.as_bytes()).u64(self.votes_from.unwrap_or(0));
        to.count(self.known.len());
        for (node, incarnation) in &self.known {
            to.u64(node.number()).array(incarnation);
        }
        to.count(self.evidence.len());
        for evidence in &self.evidence {
            to.bytes(&evidence.encode());
        }
        to.finish()
    }

    /// Reads what was stored.
    pub(super) fn decode(chain: &ChainId, stored: &[u8]) -> Result<Self, StoredError> {
        let mut from = Reader::new(stored);
        if from.u8()? != VERSION {
            return Err(StoredError::Malformed);
        }
        if from.array()? != *chain.as_bytes() {
            return Err(StoredError::Foreign);
        }
        let votes_from = Some(from.u64()?).filter(|height| *height > 0);
        let count = from.count(2 * VALIDATORS_MAX, 24)?;
        let mut known = BTreeMap::new();
        for _ in 0..count {
            known.insert(NodeId::new(from.u64()?), from.array()?);
        }
        let count = from.count(2 * VALIDATORS_MAX * EVIDENCE_EACH, 4)?;
        let mut evidence = Vec::with_capacity(count);
        for _ in 0..count {
            let bytes = from.bytes(EVIDENCE_BYTES_MAX)?;
            evidence.push(Evidence::decode(bytes).map_err(|_| StoredError::Malformed)?);
        }
        from.finish()?;
        Ok(Self { votes_from, known, evidence, answers: BTreeMap::new() })
    }
}

/// What is wrong with what was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoredError {
    Malformed,
    Foreign,
}

impl From<Malformed> for StoredError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl QuorumEngine {
    /// Whether this node votes at the next height.
    pub(super) fn votes(&self) -> bool {
        self.has_key() && self.standing.votes_from.is_some_and(|from| from <= self.next())
    }

    /// Whether this node has the key by which the validators of the next height know it.
    pub(super) fn has_key(&self) -> bool {
        let known = self.validators().get(self.node.number());
        known.is_some_and(|known| self.keys.of(&known.key).is_some())
    }

    /// Asks the others under which directory they know this node, until that is clear.
    pub(super) fn found(&mut self, out: &mut Output) {
        if self.standing.votes_from.is_some() || !self.knows(self.node) {
            return;
        }
        if self.others().is_empty() {
            // Alone it has nobody to contradict.
            return self.vote_from(1, out);
        }
        let hello = message::hello(&self.chain, &self.incarnation);
        self.send(self.others(), hello, out);
        out.timers.push((FOUND, Some(FOUND_EVERY)));
    }

    /// A node tells which directory it has.
    pub(super) fn greeted(&mut self, from: NodeId, incarnation: Incarnation, out: &mut Output) {
        let known = self.standing.known.get(&from).copied();
        let is_new = known.is_none() && self.was_here_before(from);
        if is_new {
            self.standing.known.insert(from, incarnation);
            self.gate = out.write(true, Record::State(self.standing.encode(&self.chain)));
        }
        let is_that = is_new || known == Some(incarnation);
        let message = message::welcome(&self.chain, &incarnation, is_that, self.claim());
        // What is said here must be remembered.
        out.sends.push(Outgoing { to: vec![from], after: self.gate, urgent: true, message });
    }

    /// Whether this node has been a validator without a break since the other one became one for the first time: otherwise that one may have told
    /// others of a directory, and not this node.
    fn was_here_before(&self, other: NodeId) -> bool {
        if self.mark.next_validators.epoch() == 0 {
            return true;
        }
        let history = self.mark.known_history(&self.genesis, self.group);
        let (own, its) = (history.since(self.node.number()), history.since(other.number()));
        own.zip(its).is_some_and(|((_, since), (first, _))| since <= first)
    }

    /// A node answers under which directory it knows this one.
    pub(super) fn welcomed(
        &mut self,
        from: NodeId,
        incarnation: &Incarnation,
        is_that: bool,
        claim: u64,
        out: &mut Output,
    ) {
        if self.standing.votes_from.is_some() || *incarnation != self.incarnation {
            return;
        }
        self.standing.answers.insert(from, (is_that, claim));
        let power = |node: &NodeId| self.validators().get(node.number()).map_or(0, |it| it.power);
        let sum = |is_that: bool| -> u64 {
            let answers = self.standing.answers.iter().filter(|(_, (it, _))| *it == is_that);
            answers.map(|(node, _)| power(node)).sum()
        };
        if self.is_enough(sum(true)) {
            return self.vote_from(1, out);
        }
        let total = self.validators().total_power();
        if !self.fault_model.has_honest(sum(false), total) {
            return;
        }
        // It lost its disk. The lowest claims of enough others say up to where it may have voted.
        let answers = self.standing.answers.iter();
        let mut claims: Vec<_> = answers.map(|(node, (_, claim))| (*claim, power(node))).collect();
        claims.sort_unstable();
        let mut heard = 0;
        let highest = claims.into_iter().find_map(|(claim, power)| {
            heard += power;
            self.is_enough(heard).then_some(claim)
        });
        #[cfg(quorate_planted)]
        let highest = match quorate_planted::Bug::WipedVotesAtOnce.is_planted() {
            true => return self.vote_from(1, out),
            false => highest,
        };
        if let Some(highest) = highest {
            self.vote_from(highest.saturating_add(2), out);
        }
    }

    /// Whether validators of this power, without this node, have one that keeps the rules in common with any others of as much. This node itself is
    /// one of those that fail.
    fn is_enough(&self, power: u64) -> bool {
        let validators = self.validators();
        let own = validators.get(self.node.number()).map_or(0, |it| it.power);
        let total = validators.total_power();
        let liars = match self.fault_model {
            FaultModel::Byzantine => self.fault_model.tolerates(total).saturating_sub(own),
            FaultModel::Crash => 0,
        };
        2 * power > total.saturating_sub(own) + liars
    }

    fn vote_from(&mut self, height: u64, out: &mut Output) {
        self.standing.votes_from = Some(height);
        self.standing.answers.clear();
        self.gate = out.write(true, Record::State(self.standing.encode(&self.chain)));
        out.timers.push((FOUND, None));
    }

    /// Keeps what proves that a validator broke the rules, if there is little of it yet, and hands it out.
    pub(super) fn keep_evidence(&mut self, found: Vec<Evidence>, out: &mut Output) {
        let before = self.standing.evidence.len();
        for evidence in found {
            let of = |known: &&Evidence| known.validator() == evidence.validator();
            let is_known = self.standing.evidence.contains(&evidence);
            if is_known || self.standing.evidence.iter().filter(of).count() >= EVIDENCE_EACH {
                continue;
            }
            out.evidence.push(evidence.encode().into());
            self.standing.evidence.push(evidence);
        }
        if self.standing.evidence.len() > before {
            out.write(false, Record::State(self.standing.encode(&self.chain)));
        }
    }

    /// What a validator was found to have done, in words.
    pub(super) fn deed_of(&self, node: NodeId) -> Option<String> {
        let of = |known: &&Evidence| known.validator() == node.number();
        let evidence = self.standing.evidence.iter().find(of)?;
        let (deed, height, round) = (evidence.deed(), evidence.height(), evidence.round());
        Some(format!(
            "{deed} at height {height}, round {round}: both signatures are kept; replace its key or the node"
        ))
    }

    /// Why this node does not vote.
    pub(super) fn why_it_does_not_vote(&self) -> String {
        if !self.has_key() {
            return self.lacks_key();
        }
        match self.standing.votes_from {
            Some(from) => format!(
                "this node's disk was lost: it votes from height {from} on, where it cannot have voted before"
            ),
            None => {
                let silent: Vec<_> = self
                    .others()
                    .into_iter()
                    .filter(|node| !self.standing.answers.contains_key(node))
                    .map(|node| node.to_string())
                    .collect();
                format!(
                    "this node has a new directory and votes once enough others have noted that; nothing is heard of {}",
                    silent.join(", ")
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quorate_certificate::{
        BodyKind, Genesis, Header, Motion, Scheme, SigningKey, Validator, ValidatorChange,
        body_hash,
    };
    use quorate_engine::engine::Opening;
    use quorate_replicator::GroupId;
    use quorate_storage::Recovered;

    use super::*;
    use crate::mark::Mark;
    use crate::message::Said;
    use crate::{QuorumConfig, Setup};

    fn key(node: u64) -> SigningKey {
        SigningKey::from_bytes(&[vec![1], vec![node as u8; 32]].concat()).unwrap()
    }

    /// What a node, one of four or the fifth that came later, says of the directory that another one has.
    fn confirms(node: u64, other: u64) -> bool {
        let validator = |node| Validator { node, power: 1, key: key(node).public().clone() };
        let all = (1..=4).map(validator).collect();
        let (model, scheme) = (FaultModel::Byzantine, Scheme::Ed25519);
        let genesis = Genesis::new([7; 16], model, scheme, 500, all).unwrap();
        let chain = genesis.chain(0);
        let add = ValidatorChange::add(&genesis.key_chain(), 5, 1, &key(5)).unwrap();
        let body = Motion::new(vec![add.clone()], Vec::new()).unwrap().body(&[]).encode();
        let before = Mark::genesis(&genesis, &chain);
        let header = Header {
            height: 1,
            previous: before.value,
            proposer: 1,
            validators: before.validators.digest(),
            next_validators: before.next_validators.digest(),
            state_index: 0,
            state: [0; 32],
            kind: BodyKind::Members,
            body: body_hash(BodyKind::Members, &body),
        };
        let changed = before.validators.change(&genesis.key_chain(), &[add]).unwrap();
        let opening = Opening {
            group: GroupId::new(0),
            node: NodeId::new(node),
            members: (1..=4).map(NodeId::new).collect(),
            incarnation: [node as u8; 16],
            seed: 1,
            checkpoint: None,
            log: Recovered::default(),
        };
        let timing = QuorumConfig::default().check().unwrap();
        let setup = Setup::new(genesis, Arc::new(key(node)));
        let mut out = Output::default();
        let mut engine = QuorumEngine::open(1000, timing, setup, opening, &mut out).unwrap();
        let head = Bytes::from(header.encode());
        engine.mark = before.after(&header, head, Bytes::new(), Some((&body, changed)));
        out = Output::default();
        engine.greeted(NodeId::new(other), [9; 16], &mut out);
        // A second time is as the first.
        engine.greeted(NodeId::new(other), [9; 16], &mut out);
        let answers = out.sends.iter().map(|send| match Said::decode(&chain, &send.message) {
            Ok(Said::Welcome { is_that, .. }) => is_that,
            _ => panic!("it answers"),
        });
        let answers: Vec<_> = answers.collect();
        assert_eq!(answers.len(), 2);
        assert_eq!(answers[0], answers[1]);
        answers[0]
    }

    /// What others were told before this node came, it does not know: a disk that was lost is no new one.
    #[test]
    fn who_came_later_confirms_no_directory_of_who_was_there_before() {
        assert!(confirms(2, 1) && confirms(2, 5));
        assert!(!confirms(5, 1));
    }
}
