//! The engine: founding, core, reads and wishes, put together.

use std::collections::{BTreeMap, BTreeSet};

use quorate_engine::engine::{
    Demand, Engine, EngineDriver, EngineStatus, Input, Message, Now, Opening, Outgoing, Output,
    Placed, TimerId,
};
use quorate_replicator::NodeId;
use quorate_storage::{Body, Index, Record, Seq};

use crate::admin::Wishes;
use crate::codec::Incarnation;
use crate::config::{RaftConfig, Timing};
use crate::core::{Begin, Core, Turn, read_message, wire};
use crate::founding::{Outside, Step};
use crate::hello::{Envelope, Head, Hello, You};
use crate::members::{Change, MEMBERS_MAX, Mark, Members};
use crate::packing::pack;
use crate::reads::{Patience, Reads};
use crate::sleep::Sleep;
use crate::stored::{Identity, Stored};

/// The one timer of the engine.
pub(crate) const TICK: TimerId = TimerId(1);

/// A node that is no member yet tells of itself each so many ticks.
const HELLO_TICKS: u64 = 4;

/// Senders that are no members, as far as this node knows, to which it may have to answer.
const STRANGERS_MAX: usize = 32;

/// Most turns of the core in one of the engine: a change of members can bring about the next one, and no more.
const TURNS_MAX: usize = 8;

/// The Raft driver.
#[derive(Clone, Copy, Debug, Default)]
pub struct RaftDriver;

impl EngineDriver for RaftDriver {
    const NAME: &'static str = "raft";
    type Config = RaftConfig;

    fn open(
        &self,
        config: &RaftConfig,
        opening: Opening,
        out: &mut Output,
    ) -> Result<Box<dyn Engine>, String> {
        let timing = config.check()?;
        Ok(Box::new(RaftEngine::open(config.clone(), timing, opening, out)?))
    }
}

/// One node's part in a group.
#[derive(Debug)]
pub struct RaftEngine {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) config: RaftConfig,
    pub(crate) timing: Timing,
    /// The founding members in the configuration, in order.
    founders: Vec<NodeId>,
    seed: u64,
    pub(crate) now: Now,
    pub(crate) part: Part,
    pub(crate) reads: Reads,
    pub(crate) wishes: Wishes,
    /// Raft ids that are newer than what this node knows of the members.
    strangers: BTreeMap<u64, (NodeId, Incarnation)>,
    /// When each member was last heard of, by raft id.
    pub(crate) heard: BTreeMap<u64, Now>,
    /// To whom it was told since the last tick that it is no member.
    told: BTreeSet<NodeId>,
    /// Where this node was removed, as it learnt.
    pub(crate) removed_at: Option<Index>,
    /// Members whose node runs on another directory.
    pub(crate) foreign: BTreeSet<NodeId>,
    /// The last thing that was refused and somebody should know of.
    pub(crate) noted: Option<String>,
    fault: Option<String>,
    ticks: u64,
    pub(crate) sleep: Sleep,
}

/// What this node is to the group.
#[derive(Debug)]
pub(crate) enum Part {
    Outside(Outside, Seq),
    Member(Box<Core>),
}

impl RaftEngine {
    fn open(
        config: RaftConfig,
        timing: Timing,
        opening: Opening,
        out: &mut Output,
    ) -> Result<Self, String> {
        let Opening { node, members: mut founders, incarnation, seed, checkpoint, log } = opening;
        founders.sort_unstable();
        founders.dedup();
        if founders.len() > MEMBERS_MAX {
            return Err(format!("{} members are more than {MEMBERS_MAX}", founders.len()));
        }
        let unread = |what: &str| {
            format!(
                "the {what} is not one that this driver wrote: was another driver used before? `quorate driver switch` goes from one to another"
            )
        };
        let stored = match &log.state {
            Some(state) => Stored::decode(state).map_err(|_| unread("state in the log"))?,
            None => Stored::default(),
        };
        let base = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.index);
        if log.first > base + 1 {
            return Err(format!(
                "the log begins at index {} and the newest checkpoint ends at {base}: what is between is lost; run `quorate verify`",
                log.first
            ));
        }
        let mut random = fastrand::Rng::with_seed(seed);
        let reads = Reads::new(random.u64(..));
        let active = stored.identity.as_ref().is_some_and(|identity| identity.active);
        let part = match &stored.identity {
            Some(identity) if active => {
                let mark = match checkpoint {
                    Some(checkpoint) => {
                        Mark::decode(&checkpoint.mark).map_err(|_| unread("checkpoint"))?
                    }
                    None => Mark { term: 0, members: Members::founding(&identity.founding) },
                };
                let entries = log.entries;
                let begin = Begin { stored, base, mark, entries, seed: random.u64(..) };
                Part::Member(Box::new(Core::open(&config, timing, begin)?))
            }
            _ if base > 0 || !log.entries.is_empty() => return Err(unread("log")),
            identity => {
                let outside = Outside::new(node, incarnation, founders.clone(), identity.clone());
                Part::Outside(outside, 0)
            }
        };
        let mut engine = Self {
            node,
            incarnation,
            config,
            timing,
            founders,
            seed: random.u64(..),
            now: Now::ZERO,
            part,
            reads,
            wishes: Wishes::default(),
            strangers: BTreeMap::new(),
            heard: BTreeMap::new(),
            told: BTreeSet::new(),
            removed_at: None,
            foreign: BTreeSet::new(),
            noted: None,
            fault: None,
            ticks: 0,
            sleep: Sleep::default(),
        };
        // Nodes that are started together do not tick together, or they would always ask to lead together.
        out.timers.push((TICK, Some(timing.tick.mul_f64(0.5 + random.f64() / 2.0))));
        if let Part::Outside(outside, _) = &mut engine.part {
            let step = outside.begin();
            engine.found(step, out);
            engine.say_hello(out);
        }
        engine.turn(out);
        engine.lead_alone();
        engine.turn(out);
        match engine.fault.take() {
            Some(fault) => Err(fault),
            None => Ok(engine),
        }
    }

    // ----- founding

    fn found(&mut self, step: Step, out: &mut Output) {
        match step {
            Step::Nothing => {}
            Step::Store(identity) => {
                let stored = Stored { identity: Some(identity), ..Stored::default() };
                let seq = out.write(true, Record::State(stored.encode()));
                if let Part::Outside(_, told_after) = &mut self.part {
                    *told_after = seq;
                }
                self.say_hello(out);
            }
            Step::Join(identity) => {
                self.join(identity, out);
                self.lead_alone();
            }
            Step::Fault(words) => self.fault = Some(words),
        }
    }

    /// This node is a member from now on.
    fn join(&mut self, identity: Identity, out: &mut Output) {
        let mark = Mark { term: 0, members: Members::founding(&identity.founding) };
        let stored = Stored { identity: Some(identity), ..Stored::default() };
        let begin = Begin { stored, base: 0, mark, entries: Vec::new(), seed: self.seed };
        match Core::open(&self.config, self.timing, begin) {
            Ok(mut core) => {
                core.write_identity(out);
                out.members.push((0, core.members().public()));
                self.part = Part::Member(Box::new(core));
                // Those who wait for this node to have stored the founding hear it at once.
                self.greet_founders(out);
            }
            Err(problem) => self.fault = Some(problem),
        }
    }

    /// A node that decides alone has nobody to wait for.
    fn lead_alone(&mut self) {
        if let Part::Member(core) = &mut self.part
            && core.members().decides_alone(core.id())
        {
            core.campaign(false);
        }
    }

    fn say_hello(&mut self, out: &mut Output) {
        if let Part::Outside(outside, _) = &self.part {
            for node in outside.others() {
                self.hello(node, true, out);
            }
        }
    }

    fn greet_founders(&mut self, out: &mut Output) {
        for node in self.founders.clone() {
            if node != self.node {
                self.hello(node, false, out);
            }
        }
    }

    /// Tells a node who this one is, and what it knows of that node.
    pub(crate) fn hello(&self, to: NodeId, asks: bool, out: &mut Output) {
        let (stored, raft, active, you, after) = match &self.part {
            Part::Outside(outside, seq) => {
                (outside.stored().to_vec(), 0, false, You::Unknown, *seq)
            }
            Part::Member(core) => {
                let Some(identity) = &core.stored().identity else { return };
                let you = match core.members().by_node(to) {
                    Some(seat) => You::Member(seat.incarnation),
                    None => You::Stranger,
                };
                (identity.founding.clone(), identity.raft, true, you, core.identity_seq())
            }
        };
        let (incarnation, founders) = (self.incarnation, self.founders.clone());
        let hello = Hello { incarnation, founders, stored, active, raft, asks, you };
        let message = Message { head: hello.encode(), bodies: Vec::new() };
        out.sends.push(Outgoing { to: vec![to], after, urgent: true, message });
    }

    fn heard_hello(&mut self, from: NodeId, hello: &Hello, out: &mut Output) {
        match &mut self.part {
            Part::Outside(outside, _) => {
                let step = outside.hear(from, hello);
                self.found(step, out);
            }
            Part::Member(core) => {
                if let You::Removed(at) = hello.you
                    && hello.active
                {
                    self.removed_at = Some(at);
                }
                let wrong = core
                    .members()
                    .by_node(from)
                    .is_some_and(|seat| seat.incarnation != hello.incarnation);
                if wrong {
                    self.foreign.insert(from);
                    self.noted = Some(format!(
                        "{from} runs on another directory than the one that is a member; if its disk was lost, remove {from} and add it again"
                    ));
                }
                self.probed(from, hello, out);
            }
        }
        if hello.asks {
            self.hello(from, false, out);
        }
    }

    // ----- messages

    fn received(&mut self, from: NodeId, message: Message, out: &mut Output) {
        match Head::read(&message.head) {
            Ok(Head::Hello(hello)) if message.bodies.is_empty() => {
                self.heard_hello(from, &hello, out);
            }
            Ok(Head::Sleep(envelope, term, last)) if self.knows(from, &envelope, out) => {
                self.told_to_sleep(envelope.from_raft, term, last, out);
            }
            Ok(Head::Raft(envelope, count, mut reader)) => {
                if !self.knows(from, &envelope, out) {
                    return;
                }
                let mut bodies = message.bodies.into_iter();
                for _ in 0..count {
                    let (sender, receiver) = (envelope.from_raft, envelope.to_raft);
                    let read = read_message(&mut reader, &mut bodies, sender, receiver);
                    let Ok(message) = read else { return };
                    self.woken_by(&message, out);
                    let Part::Member(core) = &mut self.part else { return };
                    if let Err(words) = core.receive(message) {
                        self.fault = Some(words);
                        return;
                    }
                }
            }
            // What is no message is nothing; whoever sent it hears nothing.
            _ => {}
        }
    }

    /// Whether a message is for this directory and from who it says it is.
    fn knows(&mut self, from: NodeId, envelope: &Envelope, out: &mut Output) -> bool {
        if let Part::Outside(outside, _) = &mut self.part {
            let Some(identity) = outside.adopt(envelope) else { return false };
            self.join(identity, out);
        }
        let Part::Member(core) = &self.part else { return false };
        let Envelope { from_raft, from: directory, to_raft, to } = *envelope;
        if to != self.incarnation || to_raft != core.id() {
            return false;
        }
        let members = core.members();
        match members.by_raft(from_raft) {
            Some(seat) if seat.node == from && seat.incarnation == directory => {}
            Some(seat) => {
                self.noted = Some(format!(
                    "{from} spoke as the member {} from another directory, and was not heard",
                    seat.node
                ));
                return false;
            }
            None if from_raft < members.next() => {
                self.tell_removed(from, from_raft, out);
                return false;
            }
            // It was added after what this node has applied, or it leads and this node has much to catch up with.
            None => {
                let full = self.strangers.len() >= STRANGERS_MAX;
                if full && !self.strangers.contains_key(&from_raft) {
                    self.strangers.pop_first();
                }
                self.strangers.insert(from_raft, (from, directory));
            }
        }
        self.heard.insert(from_raft, self.now);
        true
    }

    fn tell_removed(&mut self, node: NodeId, raft: u64, out: &mut Output) {
        let Part::Member(core) = &self.part else { return };
        let Some(identity) = &core.stored().identity else { return };
        if !self.told.insert(node) {
            return;
        }
        let at = core.members().removed(raft).map_or(0, |removed| removed.at);
        let hello = Hello {
            incarnation: self.incarnation,
            founders: self.founders.clone(),
            stored: identity.founding.clone(),
            active: true,
            raft: identity.raft,
            asks: false,
            you: You::Removed(at),
        };
        let message = Message { head: hello.encode(), bodies: Vec::new() };
        let after = core.identity_seq();
        out.sends.push(Outgoing { to: vec![node], after, urgent: true, message });
    }

    fn staged(
        &mut self,
        from: NodeId,
        index: Index,
        mark: bytes::Bytes,
        head: &[u8],
        out: &mut Output,
    ) {
        let Ok(Head::Snapshot(envelope, mut reader)) = Head::read(head) else { return };
        let read = wire::SnapshotHead::read(&mut reader);
        let (Ok(head), Ok(()), Ok(decoded)) = (read, reader.finish(), Mark::decode(&mark)) else {
            return;
        };
        if !head.fits(index, &decoded) || !self.knows(from, &envelope, out) {
            return;
        }
        self.wake(out);
        if let Part::Member(core) = &mut self.part {
            core.receive_snapshot(envelope.from_raft, head, index, mark, decoded);
        }
    }

    // ----- turns

    fn tick(&mut self, out: &mut Output) {
        if self.sleep.since.is_some() {
            return;
        }
        out.timers.push((TICK, Some(self.timing.tick)));
        self.ticks += 1;
        self.told.clear();
        self.reads.tick();
        if self.ticks.is_multiple_of(HELLO_TICKS) {
            self.say_hello(out);
        }
        // A node that was told that it is out asks nobody for votes.
        if let Part::Member(core) = &mut self.part
            && self.removed_at.is_none()
        {
            core.tick(self.now);
            core.note_decided(out);
        }
        self.tick_wishes(out);
        self.tick_sleep(out);
    }

    /// Everything that follows from what happened.
    fn turn(&mut self, out: &mut Output) {
        if let Some(fault) = self.fault.take() {
            out.fault = Some(fault);
        }
        let patience =
            Patience { round: 2 * self.timing.heartbeat, read: 2 * self.timing.election };
        for _ in 0..TURNS_MAX {
            let Part::Member(core) = &mut self.part else {
                self.reads.settle(None, patience, out);
                break;
            };
            self.reads.settle(Some(core), patience, out);
            let Turn { messages, snapshots, reads, changes } = core.settle(self.now, out);
            for (name, index) in reads {
                self.reads.answered(&name, index, out);
            }
            let quiet = changes.is_empty();
            self.send(messages, snapshots, out);
            for (at, change) in changes {
                self.changed(at, &change, out);
            }
            let more = self.drive_members() | self.settle_wishes(out);
            if quiet && !more {
                break;
            }
        }
    }

    fn send(
        &self,
        messages: Vec<(crate::core::CoreMessage, Seq)>,
        snapshots: Vec<(u64, Index, wire::SnapshotHead)>,
        out: &mut Output,
    ) {
        if !messages.is_empty() {
            pack(messages, |raft| self.address(raft), &mut out.sends);
        }
        for (to, index, head) in snapshots {
            let Some((node, envelope)) = self.address(to) else { continue };
            let mut writer = envelope.begin_snapshot();
            head.write(&mut writer);
            out.snapshots.push((node, index, writer.finish()));
        }
    }

    pub(crate) fn address(&self, raft: u64) -> Option<(NodeId, Envelope)> {
        let Part::Member(core) = &self.part else { return None };
        let known = core.members().by_raft(raft).map(|seat| (seat.node, seat.incarnation));
        let (node, to) = known.or_else(|| self.strangers.get(&raft).copied())?;
        let from = self.incarnation;
        Some((node, Envelope { from_raft: core.id(), from, to_raft: raft, to }))
    }

    /// A change of the members is delivered here.
    fn changed(&mut self, at: Index, change: &Change, out: &mut Output) {
        let Part::Member(core) = &mut self.part else { return };
        let members = core.members();
        self.foreign.retain(|node| members.by_node(*node).is_some());
        self.strangers.retain(|raft, _| *raft >= members.next());
        self.heard.retain(|raft, _| *raft >= members.next() || members.by_raft(*raft).is_some());
        if members.by_raft(core.id()).is_none() && core.id() < members.next() {
            self.removed_at = Some(at);
            core.leave();
        } else if matches!(change, Change::Remove { .. } | Change::Leave) && core.leads() {
            // Best effort: whoever is out and does not hear this is told when it asks for votes.
            let out_now = members.removed_at(at);
            for removed in out_now {
                self.tell_removed(removed.node, removed.raft, out);
            }
        }
    }

    /// A leader goes on with what was begun: learners that have caught up, joint majorities that are applied.
    fn drive_members(&mut self) -> bool {
        let Part::Member(core) = &mut self.part else { return false };
        if !core.may_propose() || core.change_is_pending() {
            return false;
        }
        match next_change(core) {
            Some(change) => core.propose_change(change),
            None => false,
        }
    }

    pub(crate) fn core(&self) -> Option<&Core> {
        match &self.part {
            Part::Member(core) => Some(core),
            Part::Outside(..) => None,
        }
    }
}

/// Who follows a leader that was removed does not wait for an election timeout: the first of those who may lead asks at once.
fn succeed(core: &mut Core) {
    let members = core.members();
    let gone = core
        .leader()
        .is_some_and(|leader| leader < members.next() && members.by_raft(leader).is_none());
    if gone && members.voters().next().is_some_and(|first| first.raft == core.id()) {
        core.campaign(true);
    }
}

fn next_change(core: &Core) -> Option<Change> {
    use crate::members::Intent;
    if core.members().joint() {
        return Some(Change::Leave);
    }
    let seat = core.members().on_its_way()?;
    let ready = core.has_caught_up(seat.raft);
    match seat.intent {
        Intent::Vote if ready => Some(Change::Promote { raft: seat.raft }),
        Intent::Replace(old) if ready => Some(Change::Swap { new: seat.raft, old }),
        _ => None,
    }
}

impl Engine for RaftEngine {
    fn step(&mut self, now: Now, input: Input, out: &mut Output) {
        self.now = now;
        match input {
            Input::Message { from, message } => self.received(from, message, out),
            Input::Durable(seq) => {
                if let Part::Member(core) = &mut self.part {
                    core.persisted(seq);
                }
            }
            Input::Timer(TICK) => self.tick(out),
            Input::Applied { index, .. } => {
                if let Part::Member(core) = &mut self.part {
                    core.applied(index);
                    succeed(core);
                }
            }
            Input::Fetched { ticket, entries } => {
                if let Part::Member(core) = &mut self.part {
                    let entries = entries.into_iter().map(|(entry, _)| entry).collect();
                    if let Err(words) = core.fetched(ticket, entries) {
                        self.fault = Some(words);
                    }
                }
            }
            Input::Read(read) => {
                self.wake(out);
                self.reads.ask(read, out);
            }
            Input::Checkpointed { index, mark, trim_below, .. } => {
                if let (Part::Member(core), Ok(mark)) = (&mut self.part, Mark::decode(&mark)) {
                    core.checkpointed(index, &mark, trim_below, out);
                }
            }
            Input::SnapshotStaged { from, index, mark, head, .. } => {
                self.staged(from, index, mark, &head, out);
            }
            Input::SnapshotSent { to, arrived } => {
                if let Part::Member(core) = &mut self.part
                    && let Some(raft) = core.members().by_node(to).map(|seat| seat.raft)
                {
                    core.snapshot_sent(raft, arrived);
                }
            }
            Input::Admin { ticket, admin } => {
                self.wake(out);
                self.wish(ticket, admin, out);
            }
            Input::Waiting => self.wake(out),
            Input::Peer { node, alive } => self.peer(node, alive, out),
            Input::Timer(_) | Input::Checked { .. } => {}
        }
    }

    fn propose(&mut self, now: Now, batch: Body, out: &mut Output) -> Result<Placed, Body> {
        self.now = now;
        self.wake(out);
        let Part::Member(core) = &mut self.part else { return Err(batch) };
        // Members change by wishes alone: their entries are in words of this driver.
        if matches!(batch, Body::Members(_)) || !core.may_propose() {
            return Err(batch);
        }
        Ok(core.propose(batch))
    }

    fn settle(&mut self, now: Now, out: &mut Output) {
        self.now = now;
        self.turn(out);
    }

    fn demand(&self) -> Demand {
        let Some(core) = self.core() else { return Demand::Nowhere };
        if core.may_propose() {
            let (batches, bytes) = core.undecided();
            let window = self.config.batches_in_flight as usize;
            let free = u32::try_from(window.saturating_sub(batches)).unwrap_or(u32::MAX);
            if free == 0 || bytes >= UNDECIDED_BYTES_MAX {
                return Demand::Nowhere;
            }
            return Demand::Here { batches: free, members: false };
        }
        match self.proposer() {
            Some(leader) if leader != self.node => Demand::At(vec![leader]),
            _ => Demand::Nowhere,
        }
    }

    fn proposer(&self) -> Option<NodeId> {
        let core = self.core()?;
        let leader = core.leader()?;
        let seat = core.members().by_raft(leader).map(|seat| seat.node);
        seat.or_else(|| self.strangers.get(&leader).map(|(node, _)| *node))
    }

    fn status(&self) -> EngineStatus {
        self.explain()
    }
}

/// Most bytes of undecided batches of one leader.
const UNDECIDED_BYTES_MAX: usize = 64 << 20;
