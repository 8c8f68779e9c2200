//! Who knows of what is decided, and how a node that does not comes to it.
//!
//! ```text
//!   status  (asks) ---> status           while others may not know of the last height, each time later
//!   ask     ----------> heights, ...     by a node that knows of somebody who has more
//!   ask     ----------> a snapshot       if the log there begins later
//! ```
//!
//! What a peer says of itself makes a node ask, nothing more. Heights are taken with their certificates, one after the other, and a
//! snapshot with the certificate of the height after it, whose header has the hash of its history.

use std::time::Duration;

use bytes::Bytes;
use quorate_certificate::{
    Certificate, HEADER_BYTES, Header, PublicKey, Signature, verify_header, verify_header_by,
};
use quorate_engine::engine::{Deliver, Delivery, Message, Now, Outgoing, Output, StateHash};
use quorate_replicator::NodeId;
use quorate_storage::{Entry, Index, Record, Tag};

use super::opening::header_of;
use super::{QuorumEngine, SYNC, TELL};
use crate::codec::{Reader, Writer};
use crate::mark::{Mark, PROOF_BYTES_MAX};
use crate::message::{self, HEIGHTS_MAX, Proved, Said, body_parts};

/// How long to wait for what may be on its way already, before somebody is asked for it.
const ASK_AFTER: Duration = Duration::from_millis(50);

/// How long to wait for an answer before somebody else is asked.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(300);

/// How long nothing is decided before a node that cannot take part without it is sent a snapshot that no quorum has signed for.
const UNSIGNED_AFTER: Duration = Duration::from_secs(1);

/// Longest pause between two times in which others are told of the last height.
const TELL_AFTER_MAX: Duration = Duration::from_secs(5);

/// How often a node that is no validator asks how far the others are.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// Words of a height that has just been decided are on their way for a while; later ones are of nodes that missed it.
const LATE_AFTER: Duration = Duration::from_millis(100);

/// How often a node that is late is told so.
const LATE_EVERY: Duration = Duration::from_millis(100);

/// Most nodes that are no validators, and are helped to follow.
const FOLLOWERS_MAX: usize = 64;

/// About how many bytes of heights go into one message; one that is larger goes alone.
const HEIGHTS_BYTES: usize = 1 << 20;

/// Most heights that wait to be applied while more are asked for.
const UNAPPLIED_MAX: u64 = 128;

/// What is known of another validator.
#[derive(Debug)]
pub(super) struct Peer {
    /// The last height that it knows to be decided, as far as it says.
    pub(super) height: Option<u64>,
    pub(super) is_alive: bool,
    pub(super) heard: Option<Now>,
    told_at: Option<Now>,
    pub(super) is_sent_snapshot: bool,
    /// The hash of its history up to an index, as it says.
    pub(super) vouches: Option<(Index, StateHash)>,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            height: None,
            is_alive: true,
            heard: None,
            told_at: None,
            is_sent_snapshot: false,
            vouches: None,
        }
    }
}

/// How this node comes to what it lacks.
#[derive(Debug, Default)]
pub(super) struct Sync {
    is_timer_set: bool,
    asked: Option<(NodeId, Now)>,
    /// Who was asked last, so that the next one is another.
    last: Option<NodeId>,
}

/// What is read from the log, and for whom.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fetching {
    Heights(NodeId),
    /// The height after the checkpoint that is to be sent.
    Snapshot(NodeId, Index),
}

impl QuorumEngine {
    /// Something that a node said shows that it is late.
    pub(super) fn late(&mut self, from: NodeId, height: u64, out: &mut Output) {
        let is_recent = height == self.mark.height && self.now < self.decided_at + LATE_AFTER;
        let now = self.now;
        let peer = self.peers.entry(from).or_default();
        if is_recent || peer.told_at.is_some_and(|at| now < at + LATE_EVERY) {
            return;
        }
        peer.told_at = Some(now);
        let status = message::status(&self.chain, self.mark.height, false);
        self.send(vec![from], status, out);
    }

    /// Something that a node said shows that it knows of decisions up to `height`.
    pub(super) fn is_ahead(&mut self, from: NodeId, height: u64, out: &mut Output) {
        let peer = self.peers.entry(from).or_default();
        peer.height = peer.height.max(Some(height));
        self.watch(ASK_AFTER, out);
    }

    /// A node says how far it is.
    pub(super) fn told(&mut self, from: NodeId, height: u64, asks: bool, out: &mut Output) {
        self.peers.entry(from).or_default().height = Some(height);
        if asks {
            let status = message::status(&self.chain, self.mark.height, false);
            self.send(vec![from], status, out);
        }
        self.watch(ASK_AFTER, out);
    }

    /// The process of a node is there, or not.
    pub(super) fn peer(&mut self, node: NodeId, alive: bool, out: &mut Output) {
        if !self.knows(node) {
            return;
        }
        self.peers.entry(node).or_default().is_alive = alive;
        if alive {
            let status = message::status(&self.chain, self.mark.height, true);
            self.send(vec![node], status, out);
        }
    }

    /// Tells those of the last height who may not know of it, and asks how far they are.
    pub(super) fn tell(&mut self, out: &mut Output) {
        if !self.knows(self.node) {
            // Nobody tells a node that is no validator: it asks.
            out.timers.push((TELL, Some(FOLLOW_EVERY)));
            let status = message::status(&self.chain, self.mark.height, true);
            return self.send(self.others(), status, out);
        }
        let known = |node: &NodeId| self.peers.get(node);
        let unsure = |node: &NodeId| {
            known(node).is_none_or(|peer| {
                peer.is_alive && peer.height.is_none_or(|height| height < self.mark.height)
            })
        };
        let to: Vec<_> = self.others().into_iter().filter(unsure).collect();
        if to.is_empty() {
            return;
        }
        self.tell_after = (self.tell_after * 2).min(TELL_AFTER_MAX);
        out.timers.push((TELL, Some(self.tell_after)));
        let status = message::status(&self.chain, self.mark.height, true);
        self.send(to, status, out);
    }

    fn is_behind(&self, peer: &Peer) -> bool {
        peer.height.is_some_and(|height| height > self.mark.height)
    }

    /// Sees to it that somebody is asked if somebody knows more.
    fn watch(&mut self, after: Duration, out: &mut Output) {
        if !self.sync.is_timer_set && self.peers.values().any(|peer| self.is_behind(peer)) {
            self.sync.is_timer_set = true;
            out.timers.push((SYNC, Some(after)));
        }
    }

    /// Asks somebody for what this node lacks.
    pub(super) fn catch_up(&mut self, out: &mut Output) {
        self.sync.is_timer_set = false;
        let waits = self.mark.height - self.applied.0 > UNAPPLIED_MAX;
        let asked = self.sync.asked.is_some_and(|(_, at)| self.now < at + ASK_AGAIN_AFTER);
        if waits || asked {
            return self.watch(ASK_AFTER, out);
        }
        let able = |(_, peer): &(&NodeId, &Peer)| self.is_behind(peer);
        let able: Vec<_> = self.peers.iter().filter(able).map(|(node, _)| *node).collect();
        let next = able.iter().find(|node| self.sync.last.is_none_or(|last| **node > last));
        let Some(whom) = next.or_else(|| able.first()).copied() else {
            self.sync.asked = None;
            return;
        };
        self.ask(whom, out);
    }

    fn ask(&mut self, whom: NodeId, out: &mut Output) {
        self.sync.asked = Some((whom, self.now));
        self.sync.last = Some(whom);
        let ask = message::ask(&self.chain, self.next());
        self.send(vec![whom], ask, out);
        self.watch(ASK_AGAIN_AFTER, out);
    }

    /// What somebody said that is no validator of the next two heights: one that is to be added, or was removed. It is helped to follow.
    pub(super) fn heard_follower(&mut self, from: NodeId, said: &Said, out: &mut Output) {
        let followers = self.peers.keys().filter(|node| !self.knows(**node)).count();
        if !self.peers.contains_key(&from) && followers >= FOLLOWERS_MAX {
            return;
        }
        match said {
            Said::Status { asks: true, height } => {
                let status = message::status(&self.chain, self.mark.height, false);
                self.send(vec![from], status, out);
                self.peers.entry(from).or_default().heard = Some(self.now);
                self.heard_of_follower(from, *height, out);
            }
            Said::Ask { from: first } => self.asked(from, *first, out),
            _ => {}
        }
    }

    /// A node lacks what follows from `first` on.
    pub(super) fn asked(&mut self, from: NodeId, first: u64, out: &mut Output) {
        if first == 0 || first > self.mark.height {
            return self.late(from, 0, out);
        }
        let is_reading = |fetching: &Fetching| match fetching {
            Fetching::Heights(to) | Fetching::Snapshot(to, _) => *to == from,
        };
        self.fetches.retain(|_, fetching| !is_reading(fetching));
        if let Some((entry, proof)) = self.last.as_ref().filter(|(last, _)| last.index == first) {
            // It may not be durable yet, and is not read back then; nor is the vote of this node in its certificate.
            let last = [(&entry.head, proof, &entry.body)];
            let message = message::heights(&self.chain, last.into_iter());
            let (to, after) = (vec![from], self.gate);
            out.sends.push(Outgoing { to, after, urgent: false, message });
            return;
        }
        if first < self.log_first {
            return self.offer_snapshot(from, out);
        }
        let ticket = self.ticket();
        self.fetches.insert(ticket, Fetching::Heights(from));
        let until = (self.mark.height + 1).min(first + HEIGHTS_MAX as u64);
        out.fetches.push((ticket, first..until, HEIGHTS_BYTES));
    }

    /// Sends what may be long, and waits for nothing.
    pub(super) fn answer(&self, to: Vec<NodeId>, message: Message, out: &mut Output) {
        if to.is_empty() {
            return;
        }
        out.sends.push(Outgoing { to, after: 0, urgent: false, message });
    }

    /// What was asked for was read from the log.
    pub(super) fn fetched(&mut self, ticket: u64, entries: Vec<(Entry, Bytes)>, out: &mut Output) {
        match self.fetches.remove(&ticket) {
            Some(Fetching::Heights(to)) => {
                let mut bytes = 0;
                let mut count = 0;
                for (entry, proof) in &entries {
                    bytes += entry.head.len() + body_parts(&entry.body).1.len() + proof.len();
                    if proof.is_empty() || count > 0 && bytes > HEIGHTS_BYTES {
                        break;
                    }
                    count += 1;
                }
                if count > 0 {
                    let heights = entries.iter().take(count);
                    let heights = heights.map(|(entry, proof)| (&entry.head, proof, &entry.body));
                    let message = message::heights(&self.chain, heights);
                    self.answer(vec![to], message, out);
                }
            }
            Some(Fetching::Snapshot(to, checkpoint)) => {
                if let Some((entry, proof)) = entries.first() {
                    self.send_snapshot(to, checkpoint, &entry.head, proof, out);
                }
            }
            None => {}
        }
    }

    /// Somebody answers with heights.
    pub(super) fn given(&mut self, from: NodeId, heights: Vec<Proved>, out: &mut Output) {
        if self.sync.asked.is_none_or(|(whom, _)| whom != from) {
            return;
        }
        self.sync.asked = None;
        let before = self.mark.height;
        for proved in heights {
            if proved.carried.header.height <= self.mark.height {
                continue;
            }
            if self.take(proved, out).is_err() {
                // It tells again if it has anything.
                self.peers.entry(from).or_default().height = None;
                break;
            }
        }
        let goes_on = self.mark.height > before
            && self.mark.height - self.applied.0 <= UNAPPLIED_MAX
            && self.peers.get(&from).is_some_and(|peer| self.is_behind(peer));
        if goes_on {
            self.ask(from, out);
        } else {
            self.watch(ASK_AFTER, out);
        }
    }

    /// Takes the next height, if a quorum has decided it.
    fn take(&mut self, proved: Proved, out: &mut Output) -> Result<(), ()> {
        let Proved { carried: message::Carried { head, body, .. }, proof } = proved;
        let certificate = Certificate::decode(&proof).map_err(drop)?;
        let validators = self.validators();
        let verify = |key: &PublicKey, message: &[u8], signature: &Signature| {
            self.keys.verify(key, message, signature)
        };
        let model = self.fault_model;
        let header = verify_header_by(&self.chain, model, validators, &certificate, &head, verify);
        #[cfg(quorate_planted)]
        let header = match quorate_planted::Bug::HeightsUnverified.is_planted() {
            true => Ok(Header::decode(&head).map_err(drop)?),
            false => header,
        };
        let header = header.map_err(drop)?;
        let entry = Entry { index: header.height, tag: Tag(header.id()), head, body };
        let is_next = header.height == self.next()
            && header.previous == self.mark.value
            && header.next_validators == self.mark.next_validators.digest()
            && self.changed_by(&entry.body).is_ok();
        if !is_next || header_of(&entry).is_none() {
            return Err(());
        }
        let (index, tag) = (entry.index, entry.tag);
        if !self.candidates.get(&tag.0).is_some_and(|candidate| candidate.is_kept) {
            out.write(true, Record::Put(entry.clone()));
        }
        self.gate = out.write(true, Record::Decide { index, tag, proof: proof.clone() });
        self.advance(entry, &header, proof, self.gate, out);
        Ok(())
    }

    /// A node lacks what is not in the log any more.
    fn offer_snapshot(&mut self, to: NodeId, out: &mut Output) {
        let is_sent = self.peers.get(&to).is_some_and(|peer| peer.is_sent_snapshot);
        let Some(checkpoint) = self.checkpoint.filter(|_| !is_sent) else { return };
        if checkpoint >= self.mark.height {
            // Only the height after it says what its state is: that is decided now, and the node asks again.
            self.wake(out);
            return self.offer_unsigned_snapshot(to, checkpoint, out);
        }
        let is_durable = self.durable >= self.gate;
        let last = self.last.clone();
        match last.filter(|(last, _)| last.index == checkpoint + 1 && is_durable) {
            Some((entry, proof)) => self.send_snapshot(to, checkpoint, &entry.head, &proof, out),
            None => {
                let ticket = self.ticket();
                self.fetches.insert(ticket, Fetching::Snapshot(to, checkpoint));
                out.fetches.push((ticket, checkpoint + 1..checkpoint + 2, HEIGHTS_BYTES));
            }
        }
    }

    /// Without the node that lacks it there may be too few to decide the height after the newest checkpoint. Then it is sent what no quorum
    /// has signed for, and takes it if more say that it is right than may lie.
    fn offer_unsigned_snapshot(&mut self, to: NodeId, checkpoint: Index, out: &mut Output) {
        let is_stuck = self.now >= self.decided_at + UNSIGNED_AFTER;
        if !is_stuck || self.applied.0 != checkpoint || self.durable < self.gate {
            return;
        }
        let vouch = message::vouch(&self.chain, checkpoint, &self.applied.1);
        self.send(vec![to], vouch, out);
        self.peers.entry(to).or_default().is_sent_snapshot = true;
        out.snapshots.push((to, checkpoint, Bytes::new()));
    }

    /// Whether validators of whom one at least keeps the rules say that this is the hash of the history up to an index.
    fn is_vouched(&self, index: Index, state: StateHash) -> bool {
        let vouches = |node: &u64| {
            let peer = self.peers.get(&NodeId::new(*node));
            peer.is_some_and(|peer| peer.vouches == Some((index, state)))
        };
        let all = self.validators().validators().iter();
        let power = all.filter(|known| vouches(&known.node)).map(|known| known.power).sum();
        self.fault_model.has_honest(power, self.validators().total_power())
    }

    fn send_snapshot(
        &mut self,
        to: NodeId,
        checkpoint: Index,
        head: &Bytes,
        proof: &Bytes,
        out: &mut Output,
    ) {
        // A newer one may have taken its place.
        if self.checkpoint != Some(checkpoint) || proof.is_empty() {
            return;
        }
        self.peers.entry(to).or_default().is_sent_snapshot = true;
        let mut words = Writer::default();
        words.bytes(head).bytes(proof);
        out.snapshots.push((to, checkpoint, words.finish()));
    }

    /// A snapshot is durable here; it is put in force if a quorum has signed for what it says of itself.
    pub(super) fn staged(
        &mut self,
        index: Index,
        mark: &Bytes,
        state: StateHash,
        head: &Bytes,
        out: &mut Output,
    ) {
        self.sync.asked = None;
        if index <= self.mark.height {
            return;
        }
        let Some(found) = self.snapshot_mark(mark) else { return };
        let is_right = match head.is_empty() {
            true => found.proved.is_some() && self.is_vouched(index, state),
            false => self.is_signed(&found, index, state, head),
        };
        if found.height != index || !is_right {
            return;
        }
        self.end_height(out);
        let epoch = self.mark.next_validators.epoch();
        self.mark = found;
        self.inspection.follow(&self.mark);
        self.last = None;
        self.vouched.clear();
        self.log_first = index + 1;
        self.checkpoint = Some(index);
        let reset = out.write(true, Record::Reset { index, mark: mark.clone() });
        self.gate = reset;
        let what = Deliver::Install { index, mark: mark.clone() };
        out.deliveries.push(Delivery { after: reset, what });
        self.members_changed(epoch, out);
        self.watch(ASK_AFTER, out);
    }

    /// The mark of a snapshot, if validators that follow from the genesis, and from what this node knows of them, have signed for its height.
    fn snapshot_mark(&self, mark: &Bytes) -> Option<Mark> {
        let found = Mark::decode(&self.chain, mark).ok()?;
        if !found.changes.begin_with(&self.mark.changes) {
            return None;
        }
        let history = found.history(&self.genesis, self.group).ok()?;
        if let Some((header, certificate)) = &found.proved {
            history.verify_header(header, certificate).ok()?;
        }
        Some(found)
    }

    /// Whether a quorum has signed the hash of the history that a snapshot has, in the header of the height after it.
    fn is_signed(&self, found: &Mark, index: Index, state: StateHash, head: &Bytes) -> bool {
        self.next_header(found, head).is_some_and(|next| {
            next.height == index + 1
                && next.previous == found.value
                && (next.state_index, next.state) == (index, state)
                && next.next_validators == found.next_validators.digest()
        })
    }

    fn next_header(&self, found: &Mark, head: &Bytes) -> Option<Header> {
        let mut from = Reader::new(head);
        let next = from.bytes(HEADER_BYTES).ok()?;
        let proof = from.bytes(PROOF_BYTES_MAX).ok()?;
        from.finish().ok()?;
        let certificate = Certificate::decode(proof).ok()?;
        let model = self.fault_model;
        verify_header(&self.chain, model, &found.validators, &certificate, next).ok()
    }

    /// A checkpoint is stored.
    pub(super) fn checkpointed(&mut self, index: Index, trim_below: Index, out: &mut Output) {
        self.checkpoint = self.checkpoint.max(Some(index));
        // The last height is kept: a validator that helped to decide it may lack it alone, and nothing else can be decided
        // without that one where all are needed.
        let below = trim_below.min(index + 1).min(self.mark.height);
        if below > self.log_first {
            self.log_first = below;
            out.write(false, Record::Trim { below });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quorate_certificate::{
        BodyKind, ChainId, FaultModel, Genesis, Scheme, SigningKey, Validator, VoteType, body_hash,
        vote_bytes,
    };
    use quorate_engine::engine::{Engine, Input, Opening};
    use quorate_replicator::GroupId;
    use quorate_storage::Recovered;

    use super::*;
    use crate::{QuorumConfig, Setup};

    const STATE: StateHash = [5; 32];

    fn key(node: u64) -> SigningKey {
        SigningKey::from_bytes(&[vec![1], vec![node as u8; 32]].concat()).unwrap()
    }

    fn genesis() -> Genesis {
        let validator = |node| Validator { node, power: 1, key: key(node).public().clone() };
        let all = (1..=4).map(validator).collect();
        Genesis::new([7; 16], FaultModel::Byzantine, Scheme::Ed25519, 500, all).unwrap()
    }

    /// The last of four validators, which has nothing.
    fn behind() -> (QuorumEngine, ChainId) {
        let timing = QuorumConfig::default().check().unwrap();
        let opening = Opening {
            group: GroupId::new(0),
            node: NodeId::new(4),
            members: (1..=4).map(NodeId::new).collect(),
            incarnation: [4; 16],
            seed: 1,
            checkpoint: None,
            log: Recovered::default(),
        };
        let setup = Setup::new(genesis(), Arc::new(key(4)));
        let engine = QuorumEngine::open(1000, timing, setup, opening, &mut Output::default());
        (engine.unwrap(), genesis().chain(0))
    }

    /// The mark after a first height that the three others have decided.
    fn mark(chain: &ChainId) -> Bytes {
        let before = Mark::genesis(&genesis(), chain);
        let header = Header {
            height: 1,
            previous: before.value,
            proposer: 1,
            validators: before.validators.digest(),
            next_validators: before.next_validators.digest(),
            state_index: 0,
            state: [0; 32],
            kind: BodyKind::Empty,
            body: body_hash(BodyKind::Empty, &[]),
        };
        let value = header.id();
        let sign = |node| {
            let kind = VoteType::Precommit;
            let vote = vote_bytes(chain, 0, kind, 1, 0, Some(&value), node);
            (node, key(node).sign(&vote).unwrap())
        };
        let certificate = Certificate::new(1, 0, value, (1..=3).map(sign).collect()).unwrap();
        let (head, proof) = (header.encode().into(), certificate.encode().into());
        before.after(&header, head, proof, None).encode()
    }

    /// Whether an unsigned snapshot is put in force after these have said which state is right.
    fn installs(vouchers: &[(u64, Index, StateHash)]) -> bool {
        let (mut engine, chain) = behind();
        let mut out = Output::default();
        for (from, index, state) in vouchers {
            let message = message::vouch(&chain, *index, state);
            let from = NodeId::new(*from);
            engine.step(Now::ZERO, Input::Message { from, message }, &mut out);
        }
        let (from, mark) = (NodeId::new(1), mark(&chain));
        let staged =
            Input::SnapshotStaged { from, index: 1, mark, state: STATE, head: Bytes::new() };
        engine.step(Now::ZERO, staged, &mut out);
        engine.settle(Now::ZERO, &mut out);
        out.deliveries.iter().any(|it| matches!(it.what, Deliver::Install { index: 1, .. }))
    }

    #[test]
    fn an_unsigned_snapshot_takes_more_vouchers_than_may_lie() {
        assert!(installs(&[(1, 1, STATE), (2, 1, STATE)]));
        for too_few in [
            &[][..],
            &[(1, 1, STATE)],
            &[(1, 1, STATE), (1, 1, STATE)],
            &[(1, 1, STATE), (2, 1, [6; 32])],
            &[(1, 1, STATE), (2, 2, STATE)],
            // One that knows itself, and one that nobody knows.
            &[(1, 1, STATE), (4, 1, STATE)],
            &[(1, 1, STATE), (5, 1, STATE)],
            // What was said last counts.
            &[(1, 1, STATE), (2, 1, STATE), (2, 1, [6; 32])],
        ] {
            assert!(!installs(too_few), "{too_few:?}");
        }
    }
}
