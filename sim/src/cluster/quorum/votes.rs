//! What must hold of votes, whoever lies: what honest validators say, what certificates say of what is decided, and whom evidence
//! names.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_certificate::{
    Audit, BodyKind, Certificate, ChainId, Decided, Evidence, FaultModel, Genesis, HEADER_BYTES,
    Header, MembersBody, Motion, Signature, ValidatorHistory, ValidatorSet, ValueId, VoteType,
    vote_bytes,
};
use quorate_driver_quorum::changes_in;
use quorate_driver_quorum::simulation::{self, Ballot, Heard};
use quorate_engine::engine::Message;
use quorate_replicator::NodeId;
use quorate_storage::{Body, Entry, Index, Tag};

use super::{Control, Keyring, Scenario};
use crate::call_keys::CallKeys;
use crate::cluster::report::Changed;
use crate::copies::Copies;
use crate::oracle::{Checked, violation};

/// What a seed makes of a group whose validators vote.
#[derive(Debug)]
pub(super) struct VotesOf {
    pub(super) scenario: Scenario,
    pub(super) control: Control,
    pub(super) genesis: Genesis,
    /// All who may ever be validators.
    pub(super) nodes: Vec<NodeId>,
    /// Those of the beginning.
    pub(super) founders: Vec<NodeId>,
    pub(super) liars: BTreeSet<NodeId>,
    /// How many may lose their disks.
    pub(super) losses: usize,
    pub(super) keyring: Keyring,
    /// Whether operators change the scheme, too.
    pub(super) schemes: bool,
}

/// What is known of a group whose validators vote, over all lives of all nodes.
#[derive(Debug)]
pub(in crate::cluster) struct Votes {
    of: VotesOf,
    chain: ChainId,
    /// Who has lost its disk.
    lost: BTreeSet<NodeId>,
    /// Whose operators were asked to approve which motion.
    asked: BTreeMap<[u8; 32], BTreeSet<NodeId>>,
    /// In which epoch operators have approved what, and the validators that it would make.
    possible: (u64, Vec<ValidatorSet>),
    /// The changes that were decided.
    pub(in crate::cluster) changed: Changed,
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
    pub(super) fn new(of: VotesOf) -> Self {
        Self {
            chain: of.genesis.chain(0),
            audit: Audit::new(&of.genesis, 0),
            of,
            lost: BTreeSet::new(),
            asked: BTreeMap::new(),
            possible: (0, Vec::new()),
            changed: Changed::default(),
            said: BTreeMap::new(),
            evidence: 0,
            latest_round: 0,
            refused: 0,
        }
    }

    /// What clients sign with, where frames are signed.
    pub(in crate::cluster) fn call_keys(&self) -> Option<CallKeys> {
        self.of.genesis.signed_frames().then(|| CallKeys::new(self.of.genesis.clone()))
    }

    /// All who may ever be validators.
    pub(in crate::cluster) fn nodes(&self) -> &[NodeId] {
        &self.of.nodes
    }

    /// The validators of the beginning.
    pub(in crate::cluster) fn founders(&self) -> &[NodeId] {
        &self.of.founders
    }

    pub(in crate::cluster) const fn keyring(&self) -> &Keyring {
        &self.of.keyring
    }

    pub(in crate::cluster) const fn genesis(&self) -> &Genesis {
        &self.of.genesis
    }

    /// Whether operators change the scheme, too.
    pub(in crate::cluster) const fn changes_schemes(&self) -> bool {
        self.of.schemes
    }

    pub(in crate::cluster) fn is_liar(&self, node: NodeId) -> bool {
        self.of.liars.contains(&node)
    }

    /// Who runs twice.
    pub(in crate::cluster) fn twins(&self) -> Vec<NodeId> {
        match self.of.scenario {
            Scenario::Twins => self.of.liars.iter().copied().collect(),
            _ => Vec::new(),
        }
    }

    /// A liar that serves its own client alone.
    pub(in crate::cluster) fn censor(&self) -> Option<NodeId> {
        match self.of.scenario {
            Scenario::Censor => self.of.liars.first().copied(),
            _ => None,
        }
    }

    /// Whether a group of which a minority is gone for ever can found nodes that were never seen.
    pub(in crate::cluster) fn founds_without_some(&self) -> bool {
        self.of.genesis.fault_model() == FaultModel::Byzantine
    }

    /// What a node forgets when it ends: the journal, and what it voted for.
    pub(in crate::cluster) fn forgets(&self, node: NodeId) -> (bool, bool) {
        match self.of.control {
            _ if self.is_liar(node) => {
                let forgets = self.of.scenario == Scenario::Amnesia;
                (forgets, forgets)
            }
            Control::NoJournal => (true, false),
            Control::NoBodies => (false, true),
            _ => (false, false),
        }
    }

    /// Whether nodes take for durable what is not.
    pub(in crate::cluster) fn is_unflushed(&self) -> bool {
        self.of.control == Control::NoFlush
    }

    /// Whether the group can do without what is on the disk of this node.
    pub(in crate::cluster) fn may_lose(&self, node: NodeId) -> bool {
        let is_next = self.lost.contains(&node) || self.lost.len() < self.of.losses;
        !self.is_liar(node) && is_next && self.bears(&[node].into())
    }

    /// Whether validators can do without these, those who lie, and those whose disks were lost: those of the next heights, and those that
    /// operators may have made already.
    pub(in crate::cluster) fn bears(&self, others: &BTreeSet<NodeId>) -> bool {
        let newest = self.validators().at(u64::MAX);
        let (epoch, possible) = &self.possible;
        let possible = possible.iter().filter(|_| *epoch == newest.epoch());
        [newest, self.next_validators()]
            .into_iter()
            .chain(possible)
            .all(|set| self.is_borne_by(set, others))
    }

    fn is_borne_by(&self, set: &ValidatorSet, others: &BTreeSet<NodeId>) -> bool {
        let fails = |node: NodeId| {
            self.is_liar(node) || self.lost.contains(&node) || others.contains(&node)
        };
        let all = set.validators().iter();
        let power = all.filter(|known| fails(NodeId::new(known.node))).map(|known| known.power);
        power.sum::<u64>() <= self.of.genesis.fault_model().tolerates(set.total_power())
    }

    /// After how many times its patience a healed group must have converged. A liar may waste each round that is its own, and rounds
    /// become longer; and a node whose disk was lost votes two heights later than it hears of. The slowest of 1,200 lives took 9.8 times
    /// it, half of them less than once.
    pub(in crate::cluster) fn converges_within(&self) -> u32 {
        if self.of.liars.is_empty() && self.lost.is_empty() {
            crate::cluster::CONVERGES_WITHIN
        } else {
            15
        }
    }

    pub(in crate::cluster) fn loses(&mut self, node: NodeId) {
        self.lost.insert(node);
    }

    // ----- how the validators change

    /// Which validators decide which height.
    pub(in crate::cluster) const fn validators(&self) -> &ValidatorHistory {
        self.audit.validators()
    }

    fn tip(&self) -> u64 {
        self.audit.tip().map_or(0, |(height, _)| height)
    }

    /// The validators of the height that is decided next.
    pub(in crate::cluster) fn next_validators(&self) -> &ValidatorSet {
        self.validators().at(self.tip() + 1)
    }

    /// Those of whom operators may change something now; none while a change is decided and not in force.
    pub(in crate::cluster) fn base(&self) -> Option<&ValidatorSet> {
        let base = self.next_validators();
        (self.validators().at(u64::MAX).epoch() == base.epoch()).then_some(base)
    }

    /// Whether operators may want this: it is allowed, and the validators that it makes bear those who lie and lost disks.
    pub(in crate::cluster) fn may_want(&mut self, motion: &Motion) -> bool {
        let Some(base) = self.base() else { return false };
        let Ok(changed) = base.change(&self.of.genesis.key_chain(), motion.changes()) else {
            return false;
        };
        let epoch = base.epoch();
        if !self.is_borne_by(&changed, &BTreeSet::new()) {
            return false;
        }
        if self.possible.0 != epoch {
            self.possible = (epoch, Vec::new());
        }
        self.possible.1.push(changed);
        true
    }

    /// The operator of a node is asked to approve this.
    pub(in crate::cluster) fn asks(&mut self, node: NodeId, motion: &Motion) {
        self.asked.entry(motion.digest()).or_default().insert(node);
    }

    /// Whether what a motion wants was in force at some height.
    pub(in crate::cluster) fn was_in_force(&self, motion: &Motion) -> bool {
        let epochs = 0..=self.validators().at(u64::MAX).epoch();
        let mut sets = epochs.filter_map(|epoch| self.validators().of_epoch(epoch));
        sets.any(|set| motion.is_done(set))
    }

    /// A change is decided: operators of a quorum have approved it, each its own node, and it is in force two heights later.
    fn changes(&mut self, height: u64, body: &[u8]) -> Checked {
        let motion = MembersBody::decode(body).and_then(|body| Motion::of(&body));
        let Ok((motion, approvals)) = motion else {
            return violation(format!("height {height} changes the validators by no motion"));
        };
        let epoch = |height| self.validators().at(height).epoch();
        let epochs = [height, height + 1, height + 2, u64::MAX].map(epoch);
        let before = epochs[0];
        if epochs != [before, before, before + 1, before + 1] {
            return violation(format!(
                "a change of height {height} is not in force exactly two heights later: {epochs:?}"
            ));
        }
        let asked = self.asked.get(&motion.digest());
        for (node, _) in approvals {
            let node = NodeId::new(node);
            if !self.is_liar(node) && !asked.is_some_and(|asked| asked.contains(&node)) {
                return violation(format!(
                    "height {height} has an approval of {node}, whose operator was never asked: {motion}"
                ));
            }
        }
        motion.changes().iter().for_each(|change| self.changed.add(change));
        Ok(())
    }

    /// A node stands after a height, as its mark says: the validators of the next two heights are those that all have.
    pub(in crate::cluster) fn stands(&self, node: NodeId, height: u64, mark: &[u8]) -> Checked {
        let Some(sets) = simulation::validators_after(&self.chain, mark) else {
            return violation(format!("{node} has a mark after height {height} that is none"));
        };
        for (height, set) in (height + 1..).zip(sets) {
            let known = self.validators().at(height);
            if set != *known {
                return violation(format!(
                    "{node} has validators of epoch {} at height {height}, and those of epoch {} are in force there",
                    set.epoch(),
                    known.epoch()
                ));
            }
        }
        Ok(())
    }

    /// What an auditor says who was given the log of a node and its checkpoint's mark: the same changes, approved by the same.
    pub(in crate::cluster) fn audits(
        &self,
        node: NodeId,
        mark: Option<&[u8]>,
        log: &[(Entry, Bytes)],
    ) -> Checked {
        let first = log.first().map_or(1, |(entry, _)| entry.index);
        let wrong = |why: String| violation(format!("an audit of the log of {node}: {why}"));
        let mut history = ValidatorHistory::new(&self.of.genesis, 0);
        let stored = match mark.map(|mark| changes_in(&self.of.genesis, 0, mark)).transpose() {
            Ok(stored) => stored.unwrap_or_default(),
            Err(why) => return wrong(why),
        };
        for [header, body, certificate] in &stored {
            let is_before = Header::decode(header).is_ok_and(|header| header.height < first);
            let decided = Decided { header, body, certificate };
            if is_before && let Err(why) = history.push(decided) {
                return wrong(why.to_string());
            }
        }
        let mut audit = match first {
            1 => Audit::new(&self.of.genesis, 0),
            _ => Audit::after(history, first - 1),
        };
        for (entry, certificate) in log {
            let (header, body) = (&entry.head, &bytes_of(&entry.body));
            if let Err(why) = audit.add(Decided { header, body, certificate }) {
                return wrong(why.to_string());
            }
        }
        let (here, all) = match (audit.finish(), self.audit.finish()) {
            (Ok(here), Ok(all)) => (here, all),
            (Err(why), _) | (_, Err(why)) => return wrong(why.to_string()),
        };
        let is_there = |height: u64| (first..=here.height).contains(&height);
        let expected: Vec<_> = all.changes.iter().filter(|it| is_there(it.height)).collect();
        if here.changes.iter().collect::<Vec<_>>() != expected {
            return wrong(format!("it shows {:?}, and should show {expected:?}", here.changes));
        }
        for change in &here.changes {
            let set = self.validators().at(change.height + 1);
            if !self.is_quorum_of(set, change.approved_by.iter().copied().map(NodeId::new)) {
                return wrong(format!("a change is approved by no quorum: {change:?}"));
            }
        }
        Ok(())
    }

    /// Whether these validators of a height, and whoever lies, are a quorum of it.
    pub(in crate::cluster) fn is_quorum(
        &self,
        height: u64,
        honest: impl Iterator<Item = NodeId>,
    ) -> bool {
        let all = honest.chain(self.of.liars.iter().copied());
        self.is_quorum_of(self.validators().at(height), all)
    }

    fn is_quorum_of(&self, set: &ValidatorSet, nodes: impl Iterator<Item = NodeId>) -> bool {
        let nodes: BTreeSet<_> = nodes.collect();
        let power = |node: &NodeId| set.get(node.number()).map_or(0, |known| known.power);
        set.is_quorum(nodes.iter().map(power).sum(), self.of.genesis.fault_model())
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
        self.is_quorum(height, voters.chain([node]))
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
            Ok(found) => {
                let round = Certificate::decode(&certificate).map_or(0, |it| it.round());
                self.latest_round = self.latest_round.max(u64::from(round));
                if found.kind == BodyKind::Members { self.changes(index, &body) } else { Ok(()) }
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
        let set = self.validators().at(height);
        let few = |seats: &mut Vec<(u64, Signature)>| {
            while self.is_quorum_of(set, seats.iter().map(|(node, _)| NodeId::new(*node))) {
                seats.pop();
            }
        };
        let changed = match pick % 8 {
            // One signature fewer than a quorum.
            0 => {
                few(&mut seats);
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
            // All that were validators once, and the keys that those who are had before, count for nothing.
            5 if set.epoch() > 0 => {
                few(&mut seats);
                for node in &self.of.nodes {
                    let is_seated = |(seat, _): &(u64, Signature)| *seat == node.number();
                    let Some(key) = self.of.keyring.outdated(*node, set) else { continue };
                    let (kind, number) = (VoteType::Precommit, node.number());
                    let epoch = set.epoch() - (pick >> 3 & 1);
                    let vote =
                        vote_bytes(&self.chain, epoch, kind, height, round, Some(&value), number);
                    let signature = key.sign(&vote).expect("keys sign");
                    if !seats.iter().any(is_seated) {
                        seats.push((number, signature));
                    }
                }
                seats.sort_by_key(|(node, _)| *node);
                Certificate::new(height, round, value, seats)
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
        let set = self.validators().of_epoch(evidence.epoch());
        match set.map(|set| evidence.verify(&self.chain, set)) {
            None => return violation(format!("{node} has evidence of an epoch that never was")),
            Some(Err(error)) => {
                return violation(format!("evidence of {node} does not hold: {error}"));
            }
            Some(Ok(())) => {}
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
