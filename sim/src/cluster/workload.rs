//! What clients and subscribers do, and what they are told.

use std::hash::Hash;
use std::time::Duration;

use quorate_engine::SubscriptionOver;
use quorate_replicator::{
    Consistency, Cursor, Decision, Frame, FrameId, Position, ProposeError, ReadError,
    SubscribeError,
};

use super::event::Event;
use super::quorum::Votes;
use super::{Cluster, MS};
use crate::client::refuses_all;
use crate::node::{GROUP, News};
use crate::oracle::{Checked, violation};
use crate::registers;

/// Who waits for the answer to a proposal.
#[derive(Debug)]
pub(super) enum Waits {
    /// A client, and for which frames.
    Client(usize, Vec<FrameId>),
    /// Nobody any more; what the answer says must be true all the same.
    Nobody(Vec<FrameId>),
    /// Nobody: it is a copy of what was answered long ago.
    Ghost(Vec<FrameId>),
    /// Whoever took the id of another frame.
    Impostor(FrameId),
    /// Whoever wants to know whether this machine can commit.
    Probe(usize),
}

/// A read that is under way, and what it must see.
#[derive(Debug)]
pub(super) struct Read {
    floor: Option<Position>,
    /// Which key a linearizable read looks at, and since when. Other reads must see what it saw.
    register: Option<(u32, Duration)>,
}

/// The question what became of a frame.
#[derive(Debug)]
pub(super) struct Question {
    client: usize,
    id: FrameId,
    /// Someone had been told already that it is accepted.
    acknowledged: bool,
}

/// A write that shows that a machine can commit.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) frame: Frame,
    pub(super) under_way: bool,
    pub(super) done: bool,
}

impl Cluster<'_> {
    pub(super) const fn call(&mut self) -> u64 {
        self.next_call += 1;
        self.next_call
    }

    pub(super) fn client_acts(&mut self, client: usize) -> Checked {
        let think = self.draw(self.swarm.think / 2, self.swarm.think * 3 / 2);
        self.plan(think, Event::Client(client));
        let runs = |place: &usize| {
            self.machines[*place].runs(self.now)
                && !self.is_liar(*place)
                && (self.faults_on || self.healed.contains(place))
        };
        let up: Vec<_> = (0..self.machines.len()).filter(runs).collect();
        if up.is_empty() {
            return Ok(());
        }
        let any = up[self.rng.usize(..up.len())];
        let leader = self.hints.remove(&client).and_then(|leader| self.place_of(leader));
        let place = leader.filter(|leader| up.contains(leader)).unwrap_or(any);
        let place = self.censor_of(client).unwrap_or(place);
        if !self.faults_on {
            return self.propose(client, place);
        }
        match self.rng.u8(..100) {
            0..3 => self.lose_patience(client),
            3..15 => return self.read(place),
            15..23 => return self.ask(client, place),
            23..26 => return self.propose_ghost(place),
            26..29 => return self.propose_impostor(place),
            _ => {}
        }
        self.propose(client, place)
    }

    /// The censor, if this is its own client.
    fn censor_of(&self, client: usize) -> Option<usize> {
        let censor = self.place_of(self.votes.as_ref()?.censor()?)?;
        let is_own = client == 0 && self.faults_on && self.machines[censor].runs(self.now);
        is_own.then_some(censor)
    }

    fn is_censor(&self, place: usize) -> bool {
        let censor = self.votes.as_ref().and_then(Votes::censor);
        censor == Some(self.machines[place].id)
    }

    /// A client does not wait for an answer any more: it asks someone else at once.
    fn lose_patience(&mut self, client: usize) {
        let Some(call) = self.clients[client].waits_for() else { return };
        self.clients[client].lost(call);
        if let Some(waits) = self.calls.get_mut(&call)
            && let Waits::Client(_, ids) = waits
        {
            *waits = Waits::Nobody(std::mem::take(ids));
        }
    }

    fn propose(&mut self, client: usize, place: usize) -> Checked {
        let call = self.call();
        let frames = if self.faults_on {
            self.clients[client].next(&mut self.rng, self.oracle.log_time(), call)
        } else {
            self.clients[client].again(call)
        };
        let Some(frames) = frames else { return Ok(()) };
        self.oracle.proposed(&frames);
        for made in self.clients[client].made() {
            self.registers.called(client, made, self.now);
        }
        let ids = frames.iter().map(|frame| frame.id).collect();
        self.calls.insert(call, Waits::Client(client, ids));
        let within = self.within();
        self.submit(place, call, frames, within)
    }

    fn submit(
        &mut self,
        place: usize,
        call: u64,
        mut frames: Vec<Frame>,
        within: Duration,
    ) -> Checked {
        if let Some(keys) = &self.call_keys {
            keys.sign(&mut frames);
        }
        let machine = &mut self.machines[place];
        machine.calls.insert(call);
        let life = machine.life;
        self.with(place, life, |node, now| node.propose(frames, now + within, call))
    }

    /// How long someone is willing to wait.
    fn within(&mut self) -> Duration {
        let election = self.swarm.patience;
        if self.faults_on { self.draw(MS * 20, election * 3) } else { election }
    }

    /// A copy of a frame that was answered long ago arrives late, perhaps behind one of what opened its session: it must not happen again.
    fn propose_ghost(&mut self, place: usize) -> Checked {
        let frames = self.oracle.ghosts(&mut self.rng);
        if frames.is_empty() {
            return Ok(());
        }
        let call = self.call();
        self.calls.insert(call, Waits::Ghost(frames.iter().map(|frame| frame.id).collect()));
        let within = self.within();
        self.submit(place, call, frames, within)
    }

    /// Somebody takes the id of a frame for another payload.
    fn propose_impostor(&mut self, place: usize) -> Checked {
        let Some(frame) = self.oracle.impostor(&mut self.rng) else { return Ok(()) };
        let call = self.call();
        self.calls.insert(call, Waits::Impostor(frame.id));
        let within = self.within();
        self.submit(place, call, vec![frame], within)
    }

    fn read(&mut self, place: usize) -> Checked {
        let (call, within) = (self.call(), self.within());
        let (level, floor) = if self.rng.u8(..4) == 0 {
            let bound = self.draw(MS, self.swarm.patience);
            // Clocks differ by some per cent.
            let since = self.now.saturating_sub(bound + bound / 16);
            (Consistency::Bounded(bound), self.acknowledged_before(since))
        } else {
            (Consistency::Linearizable, self.oracle.read_floor())
        };
        let strict = level == Consistency::Linearizable;
        let register = strict.then(|| (self.rng.u32(..registers::KEYS), self.now));
        self.reads.insert(call, Read { floor, register });
        self.machines[place].calls.insert(call);
        let life = self.machines[place].life;
        self.with(place, life, |node, now| node.read(now, level, now + within, call))
    }

    /// The newest position that anyone had been told of at a moment.
    fn acknowledged_before(&self, moment: Duration) -> Option<Position> {
        let later = self.acknowledged.partition_point(|(at, _)| *at <= moment);
        later.checked_sub(1).map(|last| self.acknowledged[last].1)
    }

    fn ask(&mut self, client: usize, place: usize) -> Checked {
        let ghost = self.oracle.ghost(&mut self.rng).map(|frame| frame.id);
        let Some(id) = self.clients[client].doubtful().or(ghost) else { return Ok(()) };
        let (call, within) = (self.call(), self.within());
        let acknowledged = self.oracle.is_acknowledged(id);
        self.questions.insert(call, Question { client, id, acknowledged });
        self.machines[place].calls.insert(call);
        let life = self.machines[place].life;
        self.with(place, life, |node, now| node.decision(id, now + within, call))
    }

    /// Proposes at every machine that must converge a write that is answered only if it is decided now.
    pub(super) fn probe(&mut self) -> Checked {
        for place in self.healed.clone() {
            let Some(probe) = self.probes.get_mut(&place) else { continue };
            if probe.done || probe.under_way || !self.machines[place].runs(self.now) {
                continue;
            }
            probe.under_way = true;
            let frame = probe.frame.clone();
            let call = self.call();
            self.calls.insert(call, Waits::Probe(place));
            let within = self.within();
            self.submit(place, call, vec![frame], within)?;
        }
        Ok(())
    }

    /// Nobody will answer this call.
    pub(super) fn lost(&mut self, call: u64) {
        match self.calls.remove(&call) {
            Some(Waits::Client(client, _)) => self.clients[client].lost(call),
            Some(Waits::Probe(place)) => self.probe_ended(place, false),
            Some(Waits::Nobody(_) | Waits::Ghost(_) | Waits::Impostor(_)) | None => {}
        }
        self.reads.remove(&call);
        self.questions.remove(&call);
        self.operator_lost(call);
        self.approval_lost(call);
    }

    fn probe_ended(&mut self, place: usize, done: bool) {
        if let Some(probe) = self.probes.get_mut(&place) {
            (probe.under_way, probe.done) = (false, done);
        }
    }

    // ----- what they are told

    /// Takes what came out of a node; true if it must have another turn.
    pub(super) fn news(&mut self, place: usize, news: News) -> Checked<bool> {
        match news {
            // What a liar says is believed by nobody but its own client.
            _ if self.is_liar(place) && !self.is_censor(place) => Ok(false),
            News::Proposed(call, answer) => self.proposed(place, call, &answer).map(|()| false),
            News::Read(call, answer) => {
                self.machines[place].calls.remove(&call);
                if let (Some(read), Ok(reached)) = (self.reads.remove(&call), answer) {
                    self.report.reads += 1;
                    reached.hash(&mut self.hasher);
                    self.oracle.read(read.floor, reached, read.register.is_some())?;
                    if let (Some((key, asked)), Some(node)) =
                        (read.register, &self.machines[place].node)
                    {
                        self.registers.read(node, key, asked, self.now);
                    }
                }
                Ok(false)
            }
            News::Decided(call, answer) => {
                self.machines[place].calls.remove(&call);
                self.decided(call, answer).map(|()| false)
            }
            News::Subscribed(Ok(id)) => {
                self.machines[place].subscription = Some(id);
                Ok(true)
            }
            News::Subscribed(Err(error)) => self.not_subscribed(place, &error).map(|()| false),
            News::Accepted(frames, reached) => {
                let machine = &mut self.machines[place];
                self.oracle.given(&mut machine.witness, &frames, reached)?;
                machine.cursor.advance(reached);
                let (false, Some(id), Some(node)) =
                    (frames.is_empty(), machine.subscription, &mut machine.node)
                else {
                    return Ok(false);
                };
                if self.faults_on && self.rng.u8(..50) == 0 {
                    let life = machine.life;
                    let after = self.draw(MS, self.swarm.patience * 3);
                    self.plan(after, Event::Handled { place, life, id });
                    return Ok(false);
                }
                node.handled(id);
                Ok(true)
            }
            News::Over(SubscriptionOver::Compacted { oldest, .. }) => {
                self.machines[place].subscription = None;
                self.cut_off(place, oldest);
                Ok(false)
            }
            News::Over(SubscriptionOver::Faulted { .. }) => Ok(false),
            News::Admin(call, answer) => {
                self.machines[place].calls.remove(&call);
                self.operated(place, call, &answer);
                self.approved(place, call, &answer)?;
                Ok(false)
            }
        }
    }

    fn proposed(
        &mut self,
        place: usize,
        call: u64,
        answer: &Result<Vec<Decision>, ProposeError>,
    ) -> Checked {
        self.machines[place].calls.remove(&call);
        let Some(waits) = self.calls.remove(&call) else { return Ok(()) };
        let counted = matches!(waits, Waits::Client(..) | Waits::Nobody(_));
        let (client, ids) = match waits {
            Waits::Client(client, ids) => (Some(client), ids),
            Waits::Nobody(ids) => (None, ids),
            Waits::Ghost(ids) => (None, ids),
            Waits::Impostor(id) => {
                return match answer.as_deref() {
                    Ok([decision]) => self.oracle.impostor_answered(id, decision),
                    _ => Ok(()),
                };
            }
            Waits::Probe(probed) => {
                // It has a session of its own: one that has ended since was opened before.
                let decided = matches!(
                    answer.as_deref(),
                    Ok([Decision::Accept(_)]) | Err(ProposeError::SessionEnded)
                );
                self.probe_ended(probed, decided);
                return Ok(());
            }
        };
        if let (Err(ProposeError::NotLeader { leader: Some(leader) }), Some(client)) =
            (answer, client)
        {
            self.hints.insert(client, *leader);
        }
        if let Err(error) = answer
            && counted
            && self.swarm.keeps_contract
            && refuses_all(error, ids.len())
        {
            self.tell(|it| format!("{} refuses {ids:?}: {error}", it.machines[place].id));
            for id in &ids {
                self.oracle.refused(*id)?;
            }
        }
        if let Ok(decisions) = answer {
            for (id, decision) in ids.into_iter().zip(decisions) {
                self.oracle.answered(id, decision)?;
                self.registers.answered(id, decision, self.now);
                if let Decision::Accept(commit) = decision {
                    let position = commit.position;
                    if id.serial == FrameId::OPEN || id.serial == FrameId::CLOSE {
                        self.tell(|_| format!("{id} accepted at {position}"));
                    }
                    commit.position.hash(&mut self.hasher);
                    if self.acknowledged.last().is_none_or(|(_, newest)| *newest < position) {
                        self.acknowledged.push((self.now, position));
                    }
                    // A liar may be the first to apply what others decided with it.
                    if commit.position.index > self.laws.newest && !self.is_liar(place) {
                        return violation(format!(
                            "{id} was acknowledged at {}, which nobody decided",
                            commit.position
                        ));
                    }
                }
            }
        }
        match client {
            Some(client) => self.clients[client].answered(call, answer),
            None => Ok(()),
        }
    }

    fn decided(&mut self, call: u64, answer: Result<Decision, ReadError>) -> Checked {
        let (Some(question), Ok(decision)) = (self.questions.remove(&call), answer) else {
            return Ok(());
        };
        let Question { client, id, acknowledged } = question;
        if acknowledged && decision == Decision::Undecided {
            return violation(format!("{id} was acknowledged, and later nobody knew of it"));
        }
        self.oracle.answered(id, &decision)?;
        self.registers.answered(id, &decision, self.now);
        self.clients[client].learned(id, &decision);
        Ok(())
    }

    fn not_subscribed(&mut self, place: usize, error: &SubscribeError) -> Checked {
        match error {
            SubscribeError::Compacted { oldest, .. } => self.cut_off(place, *oldest),
            // After a restart a node learns only by and by how much was decided.
            SubscribeError::Ahead { .. } => {
                let life = self.machines[place].life;
                self.plan(MS * 50, Event::Subscribe { place, life });
            }
            SubscribeError::Faulted { .. } | SubscribeError::Closed => {}
            error => return violation(format!("a subscriber cannot go on: {error}")),
        }
        Ok(())
    }

    /// What a subscriber needs is gone from the log: it goes on with the oldest that is there.
    fn cut_off(&mut self, place: usize, oldest: Position) {
        self.report.cut_off += 1;
        let from = Position { index: oldest.index.saturating_sub(1), slot: u32::MAX, ..oldest };
        let machine = &mut self.machines[place];
        machine.cursor = Cursor::after([from]);
        self.oracle.cut_off(&mut machine.witness, from);
        let life = machine.life;
        self.plan(Duration::ZERO, Event::Subscribe { place, life });
    }

    /// Up to which batch the subscriber of a machine has seen everything.
    pub(super) fn given(&self, place: usize) -> u64 {
        self.machines[place].cursor.position(GROUP).map_or(0, |position| position.index)
    }
}
