//! What goes between the cores of two nodes: messages of engines, forwarded frames, operators' wishes.

use quorate_replicator::{
    AdminError, LogTime, Member, MemberChange, MemberRole, NodeId, ProposeError,
};

use crate::admin::Ask;
use crate::batch::{BatchHead, DecodedBatch, Witness};
use crate::callers::Callers;
use crate::effects::{Effects, Sent};
use crate::engine::{Admin, Demand, Input, Now};
use crate::forwarding::{self, Last};
use crate::pool::HashedFrame;
use crate::wire::{Forward, Packet, Refusal, Refused};

use super::{HostCore, OWN_TICKET};

impl<C: Callers> HostCore<C> {
    /// A packet of another node, which proved to be `from`.
    pub fn packet(&mut self, now: Now, from: NodeId, packet: Packet, effects: &mut Effects<C>) {
        if self.stopped.is_some() {
            return;
        }
        match packet {
            // Of the process, not of a group: the shell takes note of it.
            Packet::Alive(_) => {}
            Packet::Engine(message) => self.inputs.push_back(Input::Message { from, message }),
            Packet::Forward(forward) => {
                let (stream, number) = (forward.stream, forward.number);
                if let Err(why) = self.take_forwarded(now, from, forward) {
                    self.forwarded.refused(from);
                    let packet = Packet::Refused(Refused { stream, number, why });
                    effects.sends.push(Sent { to: vec![from], urgent: false, packet });
                }
            }
            Packet::Refused(refused) => self.refused(now, from, refused, effects),
            Packet::Admin { ticket, within, admin } => {
                let answer = if matches!(admin, Admin::Change(MemberChange::Approve { .. })) {
                    // Whoever runs that node speaks for it alone.
                    let reason = "a change is approved by the operator of each node, there".into();
                    Err(AdminError::Refused { reason })
                } else if self.leads() {
                    match self.wishes.add_foreign(from, ticket, now + within) {
                        Ok(None) => return,
                        Ok(Some(ticket)) => {
                            self.announce(&admin, effects);
                            return self.inputs.push_back(Input::Admin { ticket, admin });
                        }
                        Err(error) => Err(error),
                    }
                } else {
                    Err(AdminError::NotLeader { leader: self.proposer })
                };
                self.send(from, Packet::AdminAnswer { ticket, answer }, effects);
            }
            Packet::AdminAnswer { ticket, answer } => {
                self.wishes.answered(now, ticket, Some(from), answer, &mut effects.answers);
            }
        }
    }

    /// Lets the transport reach a node that is about to be added: the engine speaks with it before it is a member.
    pub(super) fn announce(&self, admin: &Admin, effects: &mut Effects<C>) {
        let new = match admin {
            Admin::Change(
                MemberChange::Add { node, address, .. }
                | MemberChange::Replace { new: node, address, .. },
            ) => vec![(*node, address.clone())],
            Admin::Change(MemberChange::Approve { new, .. }) => new.clone(),
            _ => Vec::new(),
        };
        if new.is_empty() {
            return;
        }
        let mut known = self.members.clone();
        for (node, address) in new {
            known.members.retain(|member| member.node != node);
            known.members.push(Member { node, role: MemberRole::Learner, address });
        }
        effects.members = Some(known);
    }

    pub(super) fn send(&self, to: NodeId, packet: Packet, effects: &mut Effects<C>) {
        effects.sends.push(Sent { to: vec![to], urgent: false, packet });
    }

    /// Whether this node is the one who proposes, as far as it knows.
    pub(super) fn leads(&self) -> bool {
        self.proposer == Some(self.config.node)
    }

    /// Takes frames that another node forwarded into the pool, with nobody to answer: that node learns what becomes of
    /// them by applying them.
    pub(super) fn take_forwarded(
        &mut self,
        now: Now,
        from: NodeId,
        forward: Forward,
    ) -> Result<(), Refusal> {
        let (takes, is_witness) = match self.engine.demand() {
            Demand::Here { .. } => (true, false),
            // It may come to this node to propose them.
            Demand::At(nodes) => (nodes.contains(&self.config.node), true),
            Demand::Nowhere => (self.leads(), false),
        };
        if !takes {
            return Err(Refusal::NotLeader(self.proposer));
        }
        if !self.forwarded.is_next(from, forward.stream, forward.number) {
            return Err(Refusal::Gap);
        }
        // What is not a batch is of a node that is not right; it is not taken, and nothing after it.
        let batch = DecodedBatch::decode(&forward.batch).map_err(|_| Refusal::Gap)?;
        let frames: Vec<_> = batch.frames.into_iter().map(HashedFrame::from).collect();
        match self.admits(&frames) {
            Ok(()) => {}
            Err(ProposeError::Overloaded { resource, limit }) => {
                return Err(Refusal::Overloaded(resource, limit));
            }
            Err(ProposeError::StorageFull) => return Err(Refusal::StorageFull),
            Err(_) => return Err(Refusal::Gap),
        }
        let Forward { stream, number, within, .. } = forward;
        let (Some(first), Some(last)) = (frames.first(), frames.last()) else {
            self.forwarded.taken(from, stream, number, None);
            return Ok(());
        };
        let (first, session) = (first.frame.id.session, last.frame.id.session);
        let (calls, until) = (&mut self.pool.calls, now + within);
        let before = self.forwarded.before(from, number, first);
        let call = match before.filter(|call| calls.extend(*call, frames.len(), until)) {
            Some(call) => call,
            None => calls.elsewhere(frames.len(), until),
        };
        let call = if is_witness {
            self.pool.add_witnessed(frames, call, now)
        } else {
            frames.into_iter().for_each(|frame| self.pool.add(frame, call, 0));
            call
        };
        self.forwarded.taken(from, stream, number, Some(Last { session, call }));
        Ok(())
    }

    /// Another node does not take what was forwarded to it.
    pub(super) fn refused(
        &mut self,
        now: Now,
        from: NodeId,
        refused: Refused,
        effects: &mut Effects<C>,
    ) {
        if !self.forwarding.is_open(refused.stream) || !self.forwarding.to().contains(&from) {
            return;
        }
        let error = match refused.why {
            Refusal::Overloaded(resource, limit) => {
                Some(ProposeError::Overloaded { resource, limit })
            }
            // A leader whose disk is full gives the lead away.
            Refusal::StorageFull | Refusal::NotLeader(_) | Refusal::Gap => None,
        };
        if let Some(error) = error
            && let Some(number) = self.forwarding.fresh(refused.number)
        {
            self.pool.refuse(number, &error, &mut effects.answers);
        }
        self.pool.take_back();
        self.forwarding.restart(Vec::new(), None, now);
        self.forwarding.pause(now);
    }

    /// A leader that can take nothing would hold up everyone: another one may lead.
    pub(super) fn lead_only_with_room(&mut self) {
        if self.storage_full && self.leads() && self.engine_status.members.len() > 1 {
            self.inputs.push_back(Input::Admin { ticket: OWN_TICKET, admin: Admin::StepDown });
        }
    }

    pub(super) fn ask_wishes(&mut self, now: Now, effects: &mut Effects<C>) {
        let (node, leader) = (self.config.node, self.proposer);
        for ask in self.wishes.ask(now, node, leader) {
            match ask {
                Ask::Here(ticket, admin) => {
                    self.announce(&admin, effects);
                    self.step(now, Input::Admin { ticket, admin });
                }
                Ask::There(to, ticket, within, admin) => {
                    self.send(to, Packet::Admin { ticket, within, admin }, effects);
                }
            }
        }
    }

    /// Sends waiting frames to whoever proposes, if that is another node.
    pub(super) fn forward(&mut self, now: Now, effects: &mut Effects<C>) {
        if self.stopped.is_some() || !(self.pool.has_idle() || self.pool.oldest_forward().is_some())
        {
            return;
        }
        let to = match self.engine.demand() {
            // What was placed here before may be offered again: nothing overtakes it.
            Demand::At(_) if self.pool.placed() > 0 => return,
            Demand::At(to) if !to.is_empty() => to,
            // What it had forwarded before is its own to place.
            Demand::Here { .. } => return self.pool.take_back(),
            Demand::At(_) | Demand::Nowhere => return,
        };
        if !self.config.forward {
            let leader = to.first().copied();
            self.pool.refuse_idle(&ProposeError::NotLeader { leader }, &mut effects.answers);
            return;
        }
        let stuck = self.forwarding.is_stuck(self.pool.oldest_forward(), now);
        let begun = self.forwarding.to();
        if stuck || begun.first() != to.first() {
            self.pool.take_back();
            // The first is asked first; the others are given a copy when nothing moves.
            let witness_after = (to.len() > 1).then_some(self.config.witness_after);
            self.forwarding.restart(to[..1].to_vec(), witness_after, now);
        }
        while self.pool.has_idle()
            && self.forwarding.may_send(now)
            && self.pool.forwarded_bytes() < forwarding::WINDOW_BYTES
        {
            let frames = self.pool.take_batch();
            let Some(deadline) = self.pool.deadline(&frames) else { continue };
            let head = BatchHead {
                log_time: LogTime::ZERO,
                witness: Witness { index: 0, history: [0; 32] },
            };
            let batch =
                self.encoder.encode(&head, frames.iter().map(|pending| &pending.hashed.frame));
            let fresh = self.pool.is_fresh_and_single(&frames);
            let number = self.pool.forward(frames);
            let (stream, place) = self.forwarding.next(number, fresh);
            let within = deadline.saturating_sub(now);
            let packet = Packet::Forward(Forward { stream, number: place, within, batch });
            let first = self.forwarding.to().to_vec();
            effects.sends.push(Sent { to: first, urgent: false, packet });
        }
        self.forwarding.is_stuck(self.pool.oldest_forward(), now);
        if let Some(stream) = self.forwarding.witness(now) {
            self.give_to_witnesses(now, stream, &to[1..], effects);
        }
    }

    /// Gives all who may propose too a copy of everything that is open, so that nobody can hold it back, and tells the engine.
    fn give_to_witnesses(
        &mut self,
        now: Now,
        stream: u64,
        to: &[NodeId],
        effects: &mut Effects<C>,
    ) {
        let to: Vec<_> = to.iter().copied().filter(|it| *it != self.config.node).collect();
        let head =
            BatchHead { log_time: LogTime::ZERO, witness: Witness { index: 0, history: [0; 32] } };
        let mut number = 0;
        for frames in self.pool.open_forwards() {
            let Some(deadline) = self.pool.deadline(frames) else { continue };
            let batch =
                self.encoder.encode(&head, frames.iter().map(|pending| &pending.hashed.frame));
            let within = deadline.saturating_sub(now);
            let packet = Packet::Forward(Forward { stream, number, within, batch });
            effects.sends.push(Sent { to: to.clone(), urgent: false, packet });
            number += 1;
        }
        self.step(now, Input::Waiting);
        self.settle(now, effects);
    }
}
