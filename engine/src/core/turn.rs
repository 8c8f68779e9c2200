//! One turn: what has come is given to the engine, and what the engine wants is done.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use quorate_replicator::{Event, Role};
use quorate_storage::{Body, Record};

use crate::batch::{BatchEncoder, BatchHead};
use crate::callers::{Answer, Callers, sooner};
use crate::compaction::Running;
use crate::effects::{CheckpointJob, Effects, Fetch, FetchFor, Sent};
use crate::engine::{Demand, Input, Now, Outgoing};
use crate::reach::MemberList;
use crate::reads::Wants;
use crate::wire::Packet;

use super::{
    APPLY_FRAMES_PER_TURN, COPIES_WAIT_AFTER, HostCore, STATUS_EVERY, WAITING_AFTER, panic_words,
};

impl<C: Callers> HostCore<C> {
    /// Does everything that can be done now. True if there is more to do at once.
    pub fn turn(&mut self, now: Now, effects: &mut Effects<C>) -> bool {
        if self.stopped.is_some() {
            return false;
        }
        // A panic of the state machine or the engine is confined to the group: it stops, and its callers are told.
        match catch_unwind(AssertUnwindSafe(|| self.run(now, effects))) {
            Ok(again) => again,
            Err(panic) => {
                let words = panic_words(&*panic);
                self.fault(
                    format!("a panic at index {}: {words}; this is a bug in the state machine or in quorate, and a restart replays it", self.state.applied() + 1),
                    effects,
                );
                false
            }
        }
    }

    pub(super) fn run(&mut self, now: Now, effects: &mut Effects<C>) -> bool {
        self.expire(now, effects);
        self.run_timers(now);
        self.ask_wishes(now, effects);
        let mut frames_left = APPLY_FRAMES_PER_TURN;
        loop {
            self.run_inputs(now);
            self.tell_waiting(now);
            if let Some(read) = self.reads.ask(now) {
                self.step(now, Input::Read(read));
            }
            self.settle(now, effects);
            self.forward(now, effects);
            let offered = self.offer(now, effects);
            let applied = self.deliver(now, &mut frames_left, effects);
            let checked = self.check_candidates(now);
            if self.stopped.is_some() {
                return false;
            }
            if frames_left == 0 || !(offered || applied || checked) {
                break;
            }
        }
        self.serve_subscribers(effects);
        self.checkpoint(now, effects);
        self.report(now, effects);
        frames_left == 0
    }

    /// The latest moment of the next turn, if nothing happens before.
    pub fn wake_at(&self, now: Now) -> Option<Now> {
        if self.stopped.is_some() {
            return None;
        }
        let timer = self.timers.values().min().copied();
        let demand = self.engine.demand();
        // What is due waits for the batch that is on its way, or for whoever may propose one: waking would not help.
        let can_propose = self.pool.placed() == 0 && matches!(demand, Demand::Here { .. });
        let due = self.state.next_deadline().filter(|_| can_propose);
        let due = due.map(|at| now + self.clock.until(at, now));
        let waiting = self.waiting_since.map(|since| since + WAITING_AFTER);
        let copies = self.pool.witnessed_since().map(|since| since + COPIES_WAIT_AFTER);
        let waiting = waiting.or(copies);
        let checkpoint = self.compaction.wake_at(self.state.applied());
        let checkpoint = checkpoint.filter(|_| self.installing.is_none());
        // Nor would it help what was forwarded while there is nobody to forward it to again.
        let can_forward = matches!(demand, Demand::At(to) if !to.is_empty());
        let is_open = self.pool.oldest_forward().is_some();
        let forwarding = self.forwarding.wake_at(self.pool.has_idle(), is_open, now);
        let forwarding = forwarding.filter(|_| can_forward);
        let status = self.status_is_old.then(|| self.asked_status_at + STATUS_EVERY);
        let others = [timer, due, waiting, checkpoint, forwarding, status];
        [self.pool.calls.earliest(), self.reads.wake_at(), self.wishes.wake_at()]
            .into_iter()
            .chain(others)
            .fold(None, sooner)
    }

    /// Gives back the memory of a group that has nothing to do: there may be thousands of them.
    pub fn rest(&mut self) {
        self.out.rest();
        self.inputs.shrink_to_fit();
        self.sends.shrink_to_fit();
        self.deliveries.shrink_to_fit();
        self.checks.shrink_to_fit();
        self.encoder = BatchEncoder::default();
        self.pool.rest();
        self.proved.rest();
    }

    pub(super) fn step(&mut self, now: Now, input: Input) {
        self.engine.step(now, input, &mut self.out);
    }

    pub(super) fn epoch(&self) -> u32 {
        self.state.position().epoch
    }

    pub(super) fn expire(&mut self, now: Now, effects: &mut Effects<C>) {
        let before = effects.answers.len();
        self.pool.expire(now, &mut effects.answers);
        self.counters.timeouts += (effects.answers.len() - before) as u64;
        self.wishes.expire(now, &mut effects.answers);
        for waiting in self.reads.expire(now) {
            let error = waiting.too_late();
            effects.answers.push(match waiting.what {
                Wants::Barrier(who) => Answer::Read(who, Err(error)),
                Wants::Decision(_, who) => Answer::Decision(who, Err(error)),
            });
        }
    }

    pub(super) fn run_inputs(&mut self, now: Now) {
        while let Some(input) = self.inputs.pop_front() {
            self.step(now, input);
        }
    }

    pub(super) fn run_timers(&mut self, now: Now) {
        let due: Vec<_> =
            self.timers.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
        for id in due {
            self.timers.remove(&id);
            self.step(now, Input::Timer(id));
        }
    }

    /// Tells the engine when frames have not been placed for a while.
    pub(super) fn tell_waiting(&mut self, now: Now) {
        let copies_wait =
            self.pool.witnessed_since().is_some_and(|since| now >= since + COPIES_WAIT_AFTER);
        if !self.pool.has_idle() && !copies_wait {
            self.waiting_since = None;
            return;
        }
        let since = *self.waiting_since.get_or_insert(now);
        if now >= since + WAITING_AFTER {
            self.waiting_since = Some(now);
            self.step(now, Input::Waiting);
        }
    }

    pub(super) fn settle(&mut self, now: Now, effects: &mut Effects<C>) {
        self.engine.settle(now, &mut self.out);
        self.drain(now, effects);
        if self.config.volatile && self.durable < self.out.last_seq() {
            self.made_durable(self.out.last_seq());
            self.step(now, Input::Durable(self.durable));
            self.engine.settle(now, &mut self.out);
            self.drain(now, effects);
        }
    }

    /// Takes over what the engine put out in this turn.
    pub(super) fn drain(&mut self, now: Now, effects: &mut Effects<C>) {
        for write in self.out.writes.drain(..) {
            if let Record::Trim { below } = &write.record {
                self.log_first = self.log_first.max(*below);
                self.trims.push_back((write.seq, *below));
            }
            effects.writes.push(write);
        }
        self.sends.extend(self.out.sends.drain(..));
        let durable = self.durable;
        #[cfg(quorate_planted)]
        let durable = match quorate_planted::Bug::HeldSendsGoEarly.is_planted() {
            true => self.out.last_seq(),
            false => durable,
        };
        let mut held = VecDeque::new();
        for send in self.sends.drain(..) {
            if send.after <= durable {
                let Outgoing { to, urgent, message, .. } = send;
                effects.sends.push(Sent { to, urgent, packet: Packet::Engine(message) });
            } else {
                held.push_back(send);
            }
        }
        self.sends = held;
        self.deliveries.extend(self.out.deliveries.drain(..));
        for (id, after) in self.out.timers.drain(..) {
            match after {
                Some(after) => self.timers.insert(id, now + after),
                None => self.timers.remove(&id),
            };
        }
        self.checks.append(&mut self.out.checks);
        if let Some(known) = self.out.log_time.take() {
            self.clock.observe(known, now);
        }
        effects.fetches.extend(self.out.fetches.drain(..).map(|(ticket, range, bytes_max)| {
            Fetch { reader: FetchFor::Engine(ticket), range, bytes_max }
        }));
        for (id, answer) in self.out.reads.drain(..) {
            self.reads.answered(now, id, answer);
        }
        effects.snapshots.append(&mut self.out.snapshots);
        for placed in self.out.released.drain(..) {
            self.pool.release(placed);
            self.reads.release(|marked| *marked == placed);
        }
        for (ticket, answer) in self.out.admin.drain(..) {
            let foreign = self.wishes.answered_here(now, ticket, answer, &mut effects.answers);
            if let Some((to, ticket, answer)) = foreign {
                let packet = Packet::AdminAnswer { ticket, answer };
                effects.sends.push(Sent { to: vec![to], urgent: false, packet });
            }
        }
        for (since, members) in self.out.members.drain(..) {
            self.members = MemberList { since, members: members.clone() };
            effects.members = Some(self.members.clone());
            effects.events.push(Event::Members { group: self.config.group, members });
        }
        effects.evidence.append(&mut self.out.evidence);
        if let Some(cause) = self.out.fault.take() {
            self.fault(cause, effects);
        }
    }

    /// Gives the engine the batches that it wants; true if there was one.
    pub(super) fn offer(&mut self, now: Now, effects: &mut Effects<C>) -> bool {
        if self.stopped.is_some() || self.installing.is_some() {
            return false;
        }
        let is_due = self.pool.placed() == 0
            && self.state.next_deadline().is_some_and(|at| at <= self.clock.estimate(now));
        let mut wanted = is_due || self.reads.wants_marker();
        if !wanted && !self.pool.has_idle() && !self.pool.has_witnessed() {
            return false;
        }
        let Demand::Here { batches, .. } = self.engine.demand() else { return false };
        self.pool.take_up_witnessed();
        let mut offered = false;
        for _ in 0..batches {
            let frames = self.pool.take_batch();
            if frames.is_empty() && !wanted {
                break;
            }
            let head =
                BatchHead { log_time: self.clock.estimate(now), witness: self.state.witness() };
            let body =
                self.encoder.encode(&head, frames.iter().map(|pending| &pending.hashed.frame));
            match self.engine.propose(now, Body::Frames(body), &mut self.out) {
                Ok(placed) => {
                    self.pool.place(placed, head.log_time, frames);
                    self.reads.mark(placed);
                    self.waiting_since = None;
                    (offered, wanted) = (true, false);
                }
                Err(_) => {
                    self.pool.put_back(frames);
                    break;
                }
            }
        }
        if offered {
            self.settle(now, effects);
        }
        offered
    }

    pub(super) fn checkpoint(&mut self, now: Now, effects: &mut Effects<C>) {
        let index = self.state.applied();
        if self.installing.is_some() || !self.compaction.is_due(index, now) {
            return;
        }
        let state = self.state.witness().history;
        let (words, pairs) = self.state.begin_checkpoint();
        let mark = self.mark.clone();
        self.compaction.begin(Running { index, mark: mark.clone(), state }, now);
        if self.compaction.stores() {
            let (machine, host) = (pairs.machine, pairs.host);
            effects.checkpoint = Some(CheckpointJob { index, mark, state, words, machine, host });
        } else {
            drop(pairs);
            self.checkpointed(now, index, effects);
            self.run_inputs(now);
            self.settle(now, effects);
        }
    }

    /// Tells what changed in this turn.
    pub(super) fn report(&mut self, now: Now, effects: &mut Effects<C>) {
        let group = self.config.group;
        let leader = self.engine.proposer();
        let changed = leader != self.proposer;
        self.status_is_old = !changed && now < self.asked_status_at + STATUS_EVERY;
        if !self.status_is_old {
            self.engine_status = self.engine.status();
            self.asked_status_at = now;
        }
        if changed {
            self.proposer = leader;
            self.lead_only_with_room();
            effects.events.push(Event::Leader { group, leader });
        }
        if !self.ready && leader.is_some() && self.has_caught_up() {
            self.ready = true;
            effects.events.push(Event::Ready { group });
        }
    }

    /// Whether everything is applied that is known to be decided. A node that has just been added knows of nothing yet.
    pub(super) fn has_caught_up(&self) -> bool {
        let applied = self.state.applied();
        let is_new = self.engine_status.role == Role::Learner && applied == 0;
        let waits = !self.deliveries.is_empty() || self.installing.is_some();
        !waits && !is_new && applied >= self.engine_status.decided
    }
}
