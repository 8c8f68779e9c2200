//! What must hold of votes, whoever lies: what honest validators say, what certificates say of what is decided, and whom evidence
//! names.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_certificate::{
    Audit, Certificate, ChainId, Decided, Evidence, FaultModel, Genesis, HEADER_BYTES, ValueId,
};
use quorate_driver_quorum::simulation::{self, Ballot, Heard};
use quorate_engine::engine::Message;
use quorate_replicator::NodeId;
use quorate_storage::{Body, Entry, Index, Tag};

use super::{Control, Scenario};
use crate::copies::Copies;
use crate::oracle::{Checked, violation};

/// What is known of a group whose validators vote, over all lives of all nodes.
#[derive(Debug)]
pub(in crate::cluster) struct Votes {
    scenario: Scenario,
    control: Control,
    genesis: Genesis,
    chain: ChainId,
    nodes: Vec<NodeId>,
    liars: BTreeSet<NodeId>,
    /// How many may lose their disks, and who has.
    losses: usize,
    lost: BTreeSet<NodeId>,
    /// What an auditor who sees everything has verified.
    audit: Audit,
    /// What honest nodes voted for: by height, round, type and node.
    said: BTreeMap<(u64, u32, bool, NodeId), Option<ValueId>>,
    /// How many pieces of evidence honest nodes found.
    pub(in crate::cluster) evidence: u64,
    /// The latest round in which something was decided.
    pub(in crate::cluster) latest_round: u64,
    /// How many changed certificates were refused.
    pub(in crate::cluster) refused: u64,
}

impl Votes {
    pub(super) fn new(
        scenario: Scenario,
        control: Control,
        genesis: Genesis,
        nodes: Vec<NodeId>,
        liars: BTreeSet<NodeId>,
        losses: usize,
    ) -> Self {
        Self {
            scenario,
            control,
            chain: genesis.chain(0),
            audit: Audit::new(&genesis, 0),
            genesis,
            nodes,
            liars,
            losses,
            lost: BTreeSet::new(),
            said: BTreeMap::new(),
            evidence: 0,
            latest_round: 0,
            refused: 0,
        }
    }

    pub(in crate::cluster) fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    pub(in crate::cluster) fn is_liar(&self, node: NodeId) -> bool {
        self.liars.contains(&node)
    }

    /// Who runs twice.
    pub(in crate::cluster) fn twins(&self) -> Vec<NodeId> {
        match self.scenario {
            Scenario::Twins => self.liars.iter().copied().collect(),
            _ => Vec::new(),
        }
    }

    /// A liar that serves its own client alone.
    pub(in crate::cluster) fn censor(&self) -> Option<NodeId> {
        match self.scenario {
            Scenario::Censor => self.liars.first().copied(),
            _ => None,
        }
    }

    /// Whether a group of which a minority is gone for ever can found nodes that were never seen.
    pub(in crate::cluster) fn founds_without_some(&self) -> bool {
        self.genesis.fault_model() == FaultModel::Byzantine
    }

    /// What a node forgets when it ends: the journal, and what it voted for.
    pub(in crate::cluster) fn forgets(&self, node: NodeId) -> (bool, bool) {
        match self.control {
            _ if self.is_liar(node) => {
                let forgets = self.scenario == Scenario::Amnesia;
                (forgets, forgets)
            }
            Control::NoJournal => (true, false),
            Control::NoBodies => (false, true),
            _ => (false, false),
        }
    }

    /// Whether nodes take for durable what is not.
    pub(in crate::cluster) fn is_unflushed(&self) -> bool {
        self.control == Control::NoFlush
    }

    /// Whether the group can do without what is on the disk of this node.
    pub(in crate::cluster) fn may_lose(&self, node: NodeId) -> bool {
        !self.is_liar(node) && (self.lost.contains(&node) || self.lost.len() < self.losses)
    }

    /// After how many times its patience a healed group must have converged. A liar may waste each round that is its own, and rounds
    /// become longer; and a node whose disk was lost votes two heights later than it hears of.
    pub(in crate::cluster) fn converges_within(&self) -> u32 {
        if self.liars.is_empty() && self.lost.is_empty() {
            crate::cluster::CONVERGES_WITHIN
        } else {
            30
        }
    }

    pub(in crate::cluster) fn loses(&mut self, node: NodeId) {
        self.lost.insert(node);
    }

    /// Whether these nodes, and whoever lies, are a quorum.
    pub(in crate::cluster) fn is_quorum(&self, honest: impl Iterator<Item = NodeId>) -> bool {
        let all: BTreeSet<_> = honest.chain(self.liars.iter().copied()).collect();
        self.genesis.fault_model().is_quorum(all.len() as u64, self.nodes.len() as u64)
    }

    /// An honest node says these to others.
    pub(in crate::cluster) fn speaks<'a>(
        &mut self,
        node: NodeId,
        copies: &Copies,
        messages: impl Iterator<Item = &'a Message>,
    ) -> Checked {
        let heard = messages.filter_map(|message| simulation::hear(&self.chain, message));
        let heard: Vec<_> = heard.collect();
        // What leaves at the same moment has no order: a second vote may stand before the first one that it follows from.
        for said in &heard {
            match said {
                Heard::Vote(ballot) if ballot.node == node.number() => self.gave(ballot)?,
                // An honest node has verified what it shows: whoever gave it may have been killed before it left.
                Heard::Votes(ballots) => {
                    ballots.iter().try_for_each(|ballot| self.gave(ballot))?;
                }
                _ => {}
            }
        }
        for said in heard {
            match said {
                Heard::Vote(ballot) if ballot.node == node.number() => {
                    self.votes(node, copies, &ballot)?;
                }
                Heard::Proposal { node: proposer, height, value, line, .. }
                    if proposer == node.number() =>
                {
                    if !copies.has_note(height, &line) {
                        return early(node, height, "a proposal");
                    }
                    if copies.decided() < height && !copies.has(height, Tag(value)) {
                        return early(node, height, "a proposal whose batch");
                    }
                }
                Heard::Heights(proofs) => {
                    Self::shows(node, copies, proofs.iter().flatten())?;
                }
                Heard::Votes(ballots) => Self::shows(node, copies, ballots.iter())?,
                _ => {}
            }
        }
        Ok(())
    }

    /// A validator gave a vote: an honest one gives one of its type in a round, over all its lives.
    fn gave(&mut self, ballot: &Ballot) -> Checked {
        let Ballot { is_precommit, height, round, value, .. } = *ballot;
        let node = NodeId::new(ballot.node);
        if self.is_liar(node) {
            return Ok(());
        }
        let known = *self.said.entry((height, round, is_precommit, node)).or_insert(value);
        if known == value {
            return Ok(());
        }
        let kind = if is_precommit { "precommits" } else { "prevotes" };
        violation(format!("{node} {kind} twice at height {height}, round {round}"))
    }

    /// An honest node sends a snapshot with these words.
    pub(in crate::cluster) fn sends_snapshot(
        node: NodeId,
        copies: &Copies,
        words: &[u8],
    ) -> Checked {
        Self::shows(node, copies, simulation::votes_of_snapshot(words).iter())
    }

    /// An honest node shows these votes: its own must be durable.
    fn shows<'a>(
        node: NodeId,
        copies: &Copies,
        mut ballots: impl Iterator<Item = &'a Ballot>,
    ) -> Checked {
        match ballots.find(|ballot| ballot.node == node.number()) {
            Some(own) if !copies.has_note(own.height, &own.line) => {
                early(node, own.height, "its vote in a certificate")
            }
            _ => Ok(()),
        }
    }

    fn votes(&self, node: NodeId, copies: &Copies, ballot: &Ballot) -> Checked {
        let Ballot { is_precommit, height, round, value, .. } = *ballot;
        if !copies.has_note(height, &ballot.line) {
            return early(node, height, "a vote");
        }
        let Some(value) = value else { return Ok(()) };
        if copies.decided() < height && !copies.has(height, Tag(value)) {
            return early(node, height, "a vote whose batch");
        }
        if is_precommit && !self.may_have_polka(node, height, round, value) {
            return violation(format!(
                "{node} precommits at height {height}, round {round}, to what no quorum has prevoted for"
            ));
        }
        let locked = self
            .said
            .range((height, 0, false, NodeId::new(0))..(height, round, false, NodeId::new(0)));
        let locked = locked
            .filter(|((_, _, is_precommit, by), _)| *is_precommit && *by == node)
            .filter_map(|((_, at, ..), value)| Some((*at, (*value)?)))
            .next_back();
        // A first vote has its reason in an earlier round.
        let end = round + u32::from(is_precommit);
        if let Some((at, other)) = locked
            && other != value
            && !(at + 1..end).any(|newer| self.may_have_polka(node, height, newer, value))
        {
            return violation(format!(
                "{node} is locked at height {height} since round {at}, and votes for another batch in round {round} without a newer quorum for it"
            ));
        }
        Ok(())
    }

    /// Whether a quorum may have prevoted for a value in a round, as far as `node` can know: its own vote may have left it never, if it was
    /// killed when that was durable.
    fn may_have_polka(&self, node: NodeId, height: u64, round: u32, value: ValueId) -> bool {
        let first = (height, round, false, NodeId::new(0));
        let votes = self.said.range(first..(height, round, true, NodeId::new(0)));
        let voters = votes.filter(|(_, it)| **it == Some(value)).map(|((.., by), _)| *by);
        self.is_quorum(voters.chain([node]))
    }

    /// A height is decided, as an honest node says for the first time. `pick` chooses what is done to its certificate.
    pub(in crate::cluster) fn delivered(
        &mut self,
        entry: &Entry,
        mark: &[u8],
        pick: u64,
    ) -> Checked {
        let index = entry.index;
        let Some((header, certificate)) = simulation::proved(&self.chain, mark) else {
            return violation(format!("height {index} is delivered without a certificate"));
        };
        let body = bytes_of(&entry.body);
        let decided = Decided { header: &header, body: &body, certificate: &certificate };
        self.refuses(index, decided, pick)?;
        match self.audit.add(decided) {
            Ok(found) if found.id() != entry.tag.0 || found.height != index => {
                violation(format!("height {index} is delivered with the header of another one"))
            }
            Ok(_) => {
                let round = Certificate::decode(&certificate).map_or(0, |it| it.round());
                self.latest_round = self.latest_round.max(u64::from(round));
                Ok(())
            }
            Err(error) => violation(format!("height {index} has no proof that holds: {error}")),
        }
    }

    /// A certificate that was changed in some way is refused.
    fn refuses(&mut self, index: Index, decided: Decided<'_>, pick: u64) -> Checked {
        let Ok(certificate) = Certificate::decode(decided.certificate) else { return Ok(()) };
        let (height, round, value) = (index, certificate.round(), *certificate.value());
        let mut seats = certificate.signatures().to_vec();
        let mut header = decided.header.to_vec();
        let changed = match pick % 8 {
            // One signature fewer than a quorum.
            0 => {
                while self
                    .genesis
                    .fault_model()
                    .is_quorum(seats.len() as u64, self.nodes.len() as u64)
                {
                    seats.pop();
                }
                Certificate::new(height, round, value, seats)
            }
            1 => Certificate::new(height, round + 1, value, seats),
            2 => Certificate::new(height + 1, round, value, seats),
            3 if seats.len() > 1 => {
                // Two signers trade signatures.
                let (one, other) = (seats[0].1.clone(), seats[1].1.clone());
                (seats[0].1, seats[1].1) = (other, one);
                Certificate::new(height, round, value, seats)
            }
            4 => {
                header[(pick >> 8) as usize % HEADER_BYTES] ^= 1 << (pick >> 3 & 7);
                Ok(certificate)
            }
            // Most are left as they are: each of these costs as much as a certificate.
            _ => return Ok(()),
        };
        let Ok(changed) = changed else { return Ok(()) };
        let certificate = changed.encode();
        let changed = Decided { header: &header, certificate: &certificate, ..decided };
        self.refused += 1;
        match self.audit.validators().verify(changed) {
            Ok(_) => violation(format!("a changed certificate of height {index} is accepted")),
            Err(_) => Ok(()),
        }
    }

    /// An honest node has found that another one broke the rules.
    pub(in crate::cluster) fn found(&mut self, node: NodeId, evidence: &Bytes) -> Checked {
        self.evidence += 1;
        let evidence = match Evidence::decode(evidence) {
            Ok(evidence) => evidence,
            Err(error) => return violation(format!("{node} has evidence that is none: {error}")),
        };
        let liar = NodeId::new(evidence.validator());
        if let Err(error) = evidence.verify(&self.chain, self.genesis.validators()) {
            return violation(format!("evidence of {node} does not hold: {error}"));
        }
        if !self.is_liar(liar) {
            let deed = evidence.deed();
            return violation(format!("{node} has evidence that {liar}, which is honest, {deed}"));
        }
        Ok(())
    }
}

fn early(node: NodeId, height: u64, what: &str) -> Checked {
    violation(format!("{node} sends {what} of height {height} that is not durable"))
}

fn bytes_of(body: &Body) -> Bytes {
    match body {
        Body::Empty => Bytes::new(),
        Body::Frames(bytes) | Body::Members(bytes) => bytes.clone(),
    }
}
