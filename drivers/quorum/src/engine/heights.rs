//! The height that is under way: from the first word of it to its decision.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use quorate_certificate::{Certificate, Header, ValueId, body_hash};
use quorate_engine::engine::{Deliver, Delivery, Outgoing, Output, StateHash, TimerId};
use quorate_replicator::NodeId;
use quorate_storage::{Body, Entry, Index, Record, Tag};

use super::candidates::Candidate;
use super::{QuorumEngine, TELL};
use crate::keys::Keys;
use crate::message::{self, Carried, body_parts};
use crate::tendermint::{About, Act, Tendermint, Words};

/// Most messages about heights that are not under way that are kept for each sender: votes of a few rounds.
const AHEAD_MAX: usize = 64;

/// Most bodies among them: those of this height and of the next.
const AHEAD_BODIES_MAX: usize = 2;

/// How long to wait, after a decision, before others are asked whether they know of it: while there is more to decide they do.
pub(super) const TELL_AFTER: Duration = Duration::from_millis(200);

/// What was said about heights that are not under way here, by sender, so that nobody takes the place of another.
#[derive(Debug, Default)]
pub(super) struct Ahead(BTreeMap<NodeId, Vec<(u64, Words, Option<Carried>)>>);

impl Ahead {
    fn keep(&mut self, from: NodeId, words: Words, carried: Option<Carried>) {
        let kept = self.0.entry(from).or_default();
        let bodies = kept.iter().filter(|(.., carried)| carried.is_some()).count();
        if kept.len() < AHEAD_MAX && (carried.is_none() || bodies < AHEAD_BODIES_MAX) {
            kept.push((words.height(), words, carried));
        }
    }

    fn has(&self, height: u64) -> bool {
        self.0.values().flatten().any(|(at, ..)| *at == height)
    }

    /// Takes what is about this height, and forgets what is about those before.
    fn take(&mut self, height: u64) -> Vec<(NodeId, Words, Option<Carried>)> {
        let mut taken = Vec::new();
        for (from, kept) in &mut self.0 {
            kept.retain(|(at, ..)| *at >= height);
            for (_, words, carried) in kept.extract_if(.., |(at, ..)| *at == height) {
                taken.push((*from, words, carried));
            }
        }
        self.0.retain(|_, kept| !kept.is_empty());
        taken
    }
}

impl QuorumEngine {
    pub(super) fn about(&self) -> About {
        About {
            height: self.next(),
            node: self.node.number(),
            validators: self.validators().clone(),
            first: self.mark.first(self.rotate_every),
            fault_model: self.fault_model,
            votes: true,
        }
    }

    /// Begins the next height if something is to be decided, and everything before is applied.
    pub(super) fn drive(&mut self, out: &mut Output) {
        while self.height.is_none()
            && self.fault.is_none()
            && self.votes()
            && self.applied.0 == self.mark.height
            // A decided change comes into force with the height after it, which has to be decided too.
            && (self.has_work || self.mark.is_changing() || self.ahead.has(self.next()))
        {
            let mut acts = Vec::new();
            let about = self.about();
            self.height = Some(Tendermint::begin(about, &self.timing, &mut self.keys, &mut acts));
            self.act(acts, out);
            for (from, words, carried) in self.ahead.take(self.next()) {
                self.words(from, words, carried, out);
            }
        }
    }

    /// This node has frames that nobody places.
    pub(super) fn wake(&mut self, out: &mut Output) {
        let is_new = !self.has_work && self.height.is_none();
        self.has_work = true;
        if is_new {
            let wake = message::wake(&self.chain, self.next());
            self.send(self.others(), wake, out);
        }
    }

    /// A validator said something about a height.
    pub(super) fn words(
        &mut self,
        from: NodeId,
        words: Words,
        carried: Option<Carried>,
        out: &mut Output,
    ) {
        let height = words.height();
        if words.voter().is_some_and(|voter| voter != from.number()) {
            return;
        }
        if height < self.next() {
            return self.late(from, height, out);
        }
        let peer = self.peers.entry(from).or_default();
        // Who speaks of a height knows what was decided before it.
        peer.height = peer.height.max(Some(height - 1));
        if height > self.next() {
            self.is_ahead(from, height - 1, out);
        }
        if height > self.next() || self.height.is_none() {
            if height <= self.next() + 1 {
                self.ahead.keep(from, words, carried);
            }
            return;
        }
        let Some(proposed) = words.proposal() else {
            return self.core(out, |height, keys, acts| height.hear(words, keys, acts));
        };
        let Some(height) = &self.height else { return };
        let Some(rounds) = proposed.round.checked_sub(height.round()) else {
            // Of a round that is over, and perhaps what is decided.
            return self.proposal(proposed, words, carried, out);
        };
        if rounds <= crate::tendermint::ROUNDS_AHEAD {
            self.proposal(proposed, words, carried, out);
        }
    }

    /// Lets the core absorb something, and does what follows.
    pub(super) fn core(
        &mut self,
        out: &mut Output,
        absorb: impl FnOnce(&mut Tendermint, &mut Keys, &mut Vec<Act>),
    ) {
        let Some(height) = &mut self.height else { return };
        let mut acts = Vec::new();
        absorb(height, &mut self.keys, &mut acts);
        self.act(acts, out);
    }

    /// Does what the core wants, in order.
    pub(super) fn act(&mut self, acts: Vec<Act>, out: &mut Output) {
        let index = self.next();
        let mut decided = None;
        for act in acts {
            match act {
                Act::Keep(value) => self.keep(&value, out),
                Act::Note { note, is_own } => {
                    let seq = out.write(is_own, Record::Note { index, note });
                    if is_own {
                        self.gate = seq;
                    }
                }
                Act::Say(words, carries) => self.say(&words, carries, out),
                Act::Timer(timer, after) => out.timers.push((TimerId(timer), after)),
                Act::Decide { round, value, signatures } => {
                    match Certificate::new(index, round, value, signatures) {
                        Ok(certificate) => decided = Some((value, certificate)),
                        Err(error) => self.fault = Some(format!("height {index}: {error}")),
                    }
                }
                Act::Evidence(found) => self.keep_evidence(found, out),
                Act::Fault(words) => self.fault = Some(words),
            }
        }
        if let Some((value, certificate)) = decided {
            self.decided(&value, &certificate, out);
        }
    }

    /// Puts a candidate into the log, once.
    fn keep(&mut self, value: &ValueId, out: &mut Output) {
        #[cfg(quorate_planted)]
        if quorate_planted::Bug::CandidateNotKept.is_planted() && self.height.is_some() {
            return;
        }
        if let Some(candidate) = self.candidates.get_mut(value)
            && !std::mem::replace(&mut candidate.is_kept, true)
        {
            self.gate = out.write(true, Record::Put(candidate.entry.clone()));
        }
    }

    fn say(&mut self, words: &[u8], carries: Option<ValueId>, out: &mut Output) {
        let candidate = carries.and_then(|value| self.candidates.get(&value));
        let carried = candidate.map(|candidate| (&candidate.entry.head, &candidate.entry.body));
        let urgent = carried.is_none();
        let message = message::words(&self.chain, words, carried);
        let (to, after) = (self.others(), self.gate);
        #[cfg(quorate_planted)]
        let after = match quorate_planted::Bug::WordsNotSynced.is_planted() {
            true => 0,
            false => after,
        };
        if !to.is_empty() {
            out.sends.push(Outgoing { to, after, urgent, message });
        }
    }

    /// The height is decided by the votes that came here.
    fn decided(&mut self, value: &ValueId, certificate: &Certificate, out: &mut Output) {
        self.keep(value, out);
        let Some(Candidate { entry, header, .. }) = self.candidates.remove(value) else {
            self.fault = Some(format!(
                "height {} is decided, and what it decides is not here; this is a bug in quorate",
                self.next()
            ));
            return;
        };
        let proof = Bytes::from(certificate.encode());
        let (index, tag) = (entry.index, entry.tag);
        // The precommits of a quorum are durable, and so is what they are for: the decision follows from them again.
        out.write(false, Record::Decide { index, tag, proof: proof.clone() });
        self.advance(entry, &header, proof, self.gate, out);
    }

    /// Goes on after a decided height, which is delivered once `after` is durable.
    pub(super) fn advance(
        &mut self,
        entry: Entry,
        header: &Header,
        proof: Bytes,
        after: u64,
        out: &mut Output,
    ) {
        let changed = match self.changed_by(&entry.body) {
            Ok(changed) => changed,
            Err(problem) => {
                self.fault = Some(format!(
                    "height {} is decided, and changes the validators in a way that is not allowed: {problem}; this is a bug in quorate, or more validators lie than may",
                    header.height
                ));
                return;
            }
        };
        self.end_height(out);
        let (was_changing, epoch) = (self.mark.is_changing(), self.mark.next_validators.epoch());
        let changed = changed.map(|next| (body_parts(&entry.body).1, next));
        let changed = changed.as_ref().map(|(body, next)| (&body[..], next.clone()));
        self.mark = self.mark.after(header, entry.head.clone(), proof.clone(), changed);
        if was_changing || self.mark.is_changing() {
            self.members_changed(epoch, out);
        }
        self.inspection.follow(&self.mark);
        self.vouched.insert(header.state_index, header.state);
        let (mark, delivered) = (self.mark.encode(), entry.clone());
        let what = Deliver::Batch { entry: delivered, mark, proof: proof.clone() };
        out.deliveries.push(Delivery { after, what });
        self.last = Some((entry, proof));
        self.decided_at = self.now;
        self.tell_after = TELL_AFTER;
        if !self.others().is_empty() {
            out.timers.push((TELL, Some(TELL_AFTER)));
        }
    }

    /// Forgets what was about the present height.
    pub(super) fn end_height(&mut self, out: &mut Output) {
        if let Some(mut height) = self.height.take() {
            let found = height.take_evidence();
            self.keep_evidence(found, out);
            out.timers.extend(height.timers().map(|timer| (TimerId(timer), None)));
        }
        self.has_work = false;
        self.candidates.clear();
        self.checks.clear();
        self.stamps.clear();
        self.kept_back.clear();
        self.own = None;
        self.keys.forget();
    }

    pub(super) fn was_applied(&mut self, index: Index, state: StateHash) {
        self.applied = (index, state);
        if let Some(vouched) = self.vouched.get(&index)
            && *vouched != state
        {
            self.fault = Some(format!(
                "this node's history at index {index} differs from the one that a quorum of validators has signed: its state machine is not deterministic, or its data was changed; compare versions, then restore this node from another one or a backup"
            ));
        }
        self.vouched.retain(|at, _| *at > index);
    }

    /// Proposes `body` at this height; gives it back if the core does not want it now.
    pub(super) fn place(&mut self, body: Body, out: &mut Output) -> Result<ValueId, Body> {
        self.has_work = true;
        self.drive(out);
        if self.height.as_ref().is_none_or(|height| height.wants().is_none()) {
            return Err(body);
        }
        let (kind, bytes) = body_parts(&body);
        let header = Header {
            height: self.next(),
            previous: self.mark.value,
            proposer: self.node.number(),
            validators: self.mark.validators.digest(),
            next_validators: self.mark.next_validators.digest(),
            state_index: self.applied.0,
            state: self.applied.1,
            kind,
            body: body_hash(kind, &bytes),
        };
        let value = header.id();
        let head = Bytes::from(header.encode());
        let entry = Entry { index: header.height, tag: Tag(value), head, body };
        self.candidates.entry(value).or_insert(Candidate {
            entry,
            header,
            refused_in: None,
            is_kept: false,
        });
        self.own = Some(value);
        self.core(out, |height, keys, acts| height.propose(value, keys, acts));
        Ok(value)
    }

    /// What this node proposed in an earlier round it proposes again: it drives it until the height is decided.
    pub(super) fn propose_again(&mut self, out: &mut Output) {
        if let Some(value) = self.own.filter(|value| self.candidates.contains_key(value)) {
            self.core(out, |height, keys, acts| height.propose(value, keys, acts));
        }
    }
}
