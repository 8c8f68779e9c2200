//! A group of engines in one virtual time: a shell for each, a seeded network, and disks that lose what was not durable.
//!
//! Every turn of every engine is judged here, so that each case has only to make things happen.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::engine::{
    Checkpointed, Deliver, Delivery, Demand, Engine, EngineDriver, EngineStatus, Input, LogWrite,
    Message, Now, Opening, Outgoing, Output, Placed, ReadAnswer, ReadId, StateHash, TimerId,
};
use quorate_engine::panic_words;
use quorate_replicator::{Channel, NodeId};
use quorate_storage::{Body, Entry, Index, Record, Seq, Tag};
use quorate_transport_memory::{Fate, Link, LinkFaults};

use super::EngineFactory;
use super::log_model::LogModel;

/// Moments are multiples of this, so that several things happen at one moment and share a turn.
const GRAIN: Duration = Duration::from_micros(100);

/// How often the shell looks for payloads that nobody placed.
const TICK: Duration = Duration::from_millis(10);

/// How long a payload waits unplaced before its engine is told.
const WAITING_AFTER: Duration = Duration::from_millis(100);

/// How long a read waits for an answer before it is asked again under a new id.
const READ_AGAIN: Duration = Duration::from_millis(500);

/// Most batches that a shell places at one engine in one turn, whatever the engine would take.
const OFFERED_PER_TURN: u32 = 64;

type Payload = usize;

/// The whole group.
pub(super) struct World<'f, F: EngineFactory> {
    case: &'static str,
    seed: u64,
    factory: &'f F,
    driver: F::Driver,
    now: Now,
    pub(super) random: fastrand::Rng,
    members: Vec<NodeId>,
    nodes: Vec<Node>,
    events: BTreeMap<(Now, u64), Event>,
    scheduled: u64,
    links: BTreeMap<(usize, usize, bool), Link>,
    faults: LinkFaults,
    isolated: BTreeSet<usize>,
    payloads: Vec<Offered>,
    /// What was delivered at each index, by the first node that delivered it.
    agreed: BTreeMap<Index, (Tag, Body)>,
    reads: Vec<Read>,
    questions: u64,
    /// All outputs, in words, when two runs are to be compared.
    trace: Option<Vec<String>>,
}

/// One node: what survives a crash, and what does not.
struct Node {
    id: NodeId,
    log: LogModel,
    checkpoints: BTreeMap<Index, Checkpointed>,
    staged: BTreeMap<Index, Checkpointed>,
    life: u32,
    disk_stalled: bool,
    running: Option<Running>,
}

/// One life of an engine and its shell.
struct Running {
    engine: Box<dyn Engine>,
    out: Output,
    written: Seq,
    durable: Seq,
    syncing: bool,
    sends: Vec<Outgoing>,
    deliveries: VecDeque<Delivery>,
    /// The index of the newest delivery that the engine put out.
    last_emitted: Index,
    applied: Index,
    applying: bool,
    mark: Bytes,
    history: StateHash,
    timers: BTreeMap<TimerId, Now>,
    checks: Vec<(u64, Entry)>,
    /// Proposals that stand somewhere and are not settled.
    placed: BTreeMap<(Index, Tag), Payload>,
    /// All proposals of this life.
    ever_placed: BTreeSet<(Index, Tag)>,
    trim_below: Index,
    decided: Index,
}

impl Running {
    /// Takes out the proposals that stand at or below `index`, and of which it is known now what became.
    fn settle_up_to(&mut self, index: Index) -> impl Iterator<Item = Payload> + use<> {
        let above = self.placed.split_off(&(index + 1, Tag::ZERO));
        std::mem::replace(&mut self.placed, above).into_values()
    }
}

/// A batch that someone wants decided.
struct Offered {
    home: usize,
    body: Body,
    idle_since: Option<Now>,
    done: bool,
}

/// A linearizable read.
struct Read {
    node: usize,
    life: u32,
    asked: Option<(ReadId, Now)>,
    /// The last index that any node had delivered when it was asked.
    floor: Index,
    stage: Reading,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Asked,
    Waits(Index),
    Through(Payload),
    Over,
}

enum Event {
    Message { from: usize, to: usize, message: Message },
    Synced { node: usize, life: u32, seq: Seq },
    Apply { node: usize, life: u32 },
    Check { node: usize, life: u32 },
    Timer { node: usize, life: u32, id: TimerId },
    Fetched { node: usize, life: u32, ticket: u64, entries: Vec<(Entry, Bytes)> },
    Snapshot { from: usize, life: u32, to: usize, checkpoint: Checkpointed, head: Bytes },
    Tick,
}

impl<'f, F: EngineFactory> World<'f, F> {
    /// Opens all nodes, empty.
    pub(super) fn open(case: &'static str, factory: &'f F, seed: u64) -> Self {
        Self::open_with(case, factory, seed, None)
    }

    /// As `open`, writing down all outputs.
    pub(super) fn open_traced(case: &'static str, factory: &'f F, seed: u64) -> Self {
        Self::open_with(case, factory, seed, Some(Vec::new()))
    }

    fn open_with(
        case: &'static str,
        factory: &'f F,
        seed: u64,
        trace: Option<Vec<String>>,
    ) -> Self {
        let count = factory.nodes();
        assert!(count > 0, "{case}: a group has at least one node");
        let members: Vec<_> = (1..).take(count).map(NodeId::new).collect();
        let node = |id: &NodeId| Node {
            id: *id,
            log: LogModel::new(),
            checkpoints: BTreeMap::new(),
            staged: BTreeMap::new(),
            life: 0,
            disk_stalled: false,
            running: None,
        };
        let delays = Duration::from_micros(50)..=Duration::from_millis(2);
        let mut world = Self {
            case,
            seed,
            factory,
            driver: factory.driver(),
            now: Duration::from_secs(1),
            random: fastrand::Rng::with_seed(seed),
            nodes: members.iter().map(node).collect(),
            members,
            events: BTreeMap::new(),
            scheduled: 0,
            links: BTreeMap::new(),
            faults: LinkFaults::none().delay(delays),
            isolated: BTreeSet::new(),
            payloads: Vec::new(),
            agreed: BTreeMap::new(),
            reads: Vec::new(),
            questions: 0,
            trace,
        };
        world.schedule(TICK, Event::Tick);
        (0..count).for_each(|node| world.start(node));
        world
    }

    // ----- what a case does to the group

    /// How many nodes there are.
    pub(super) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// One of the nodes, drawn.
    pub(super) fn any_node(&mut self) -> usize {
        self.random.usize(..self.nodes.len())
    }

    /// Offers a batch at `node` from now on, until it is delivered there.
    pub(super) fn offer(&mut self, node: usize) {
        let number = self.payloads.len();
        let body = Bytes::from(format!("{}, seed {}, batch {number}", self.case, self.seed));
        self.offer_body(node, Body::Frames(body));
    }

    fn offer_body(&mut self, home: usize, body: Body) -> Payload {
        let payload = self.payloads.len();
        self.payloads.push(Offered { home, body, idle_since: Some(self.now), done: false });
        self.turn(home);
        payload
    }

    /// Asks for a linearizable read at `node`.
    pub(super) fn read(&mut self, node: usize) {
        let life = self.nodes[node].life;
        let floor = self.top();
        self.reads.push(Read { node, life, asked: None, floor, stage: Reading::Asked });
        self.ask(self.reads.len() - 1);
    }

    /// Tells an engine something that the shell did not come upon by itself.
    pub(super) fn tell(&mut self, node: usize, input: Input) {
        self.step(node, input);
        self.turn(node);
    }

    /// Stores a checkpoint of what a node has applied, and allows it to trim a part of what is below.
    pub(super) fn checkpoint(&mut self, node: usize) {
        let drawn = self.random.f64();
        let Some(running) = &mut self.nodes[node].running else { return };
        if running.applied == 0 {
            return;
        }
        let (index, mark) = (running.applied, running.mark.clone());
        let state = running.history;
        let trim_below = 1 + (drawn * (index + 1) as f64) as Index;
        running.trim_below = running.trim_below.max(trim_below);
        let trim_below = running.trim_below;
        let checkpoint = Checkpointed { index, mark: mark.clone(), state };
        self.nodes[node].checkpoints.insert(index, checkpoint);
        self.tell(node, Input::Checkpointed { index, mark, state, trim_below });
    }

    /// Power is lost at one node: it keeps what is durable, and some of the rest.
    pub(super) fn crash(&mut self, node: usize) {
        let pending = self.nodes[node].log.pending();
        let kept = self.random.usize(..=pending);
        self.crash_keeping(node, kept);
    }

    /// As `crash`, with this many of the writes that were not durable.
    pub(super) fn crash_keeping(&mut self, node: usize, kept: usize) {
        let now = self.now;
        let at = &mut self.nodes[node];
        let Some(running) = at.running.take() else { return };
        at.life += 1;
        at.log.crash(kept);
        for payload in running.placed.into_values() {
            if !self.payloads[payload].done {
                self.payloads[payload].idle_since = Some(now);
            }
        }
        // Who read here is gone too.
        self.reads.iter_mut().filter(|read| read.node == node).for_each(|read| {
            read.stage = Reading::Over;
        });
    }

    /// Opens a node again that had crashed.
    pub(super) fn start(&mut self, node: usize) {
        if self.nodes[node].running.is_some() {
            return;
        }
        let (seed, members) = (self.random.u64(..), self.members.clone());
        let at = &mut self.nodes[node];
        if let Some((reset, _)) = at.log.recovered().reset
            && let Some(staged) = at.staged.remove(&reset)
        {
            // The reset was durable and its install was not applied: the staged snapshot is in force (R5).
            at.checkpoints.insert(reset, staged);
        }
        at.staged.clear();
        let checkpoint = at.checkpoints.last_key_value().map(|(_, newest)| newest.clone());
        let log = at.log.recovered().clone();
        let opening = Opening {
            node: at.id,
            members,
            incarnation: [node as u8 + 1; 16],
            seed,
            checkpoint: checkpoint.clone(),
            log: log.clone(),
        };
        let mut out = Output::default();
        let config = self.factory.config();
        let driver = &self.driver;
        let opened = catch_unwind(AssertUnwindSafe(|| driver.open(&config, opening, &mut out)));
        let engine = match opened {
            Ok(Ok(engine)) => engine,
            Ok(Err(problem)) => self
                .broken(node, format_args!("R7: what an engine wrote opens again, not: {problem}")),
            Err(panic) => self.broken(
                node,
                format_args!("no input makes an engine panic, at open: {}", panic_words(&*panic)),
            ),
        };
        let applied = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.index);
        self.judge_opening(node, applied, &log, &out);
        let (mark, history) = checkpoint.map_or((Bytes::new(), [0; 32]), |known| {
            let Checkpointed { mark, state, .. } = known;
            (mark, state)
        });
        self.nodes[node].running = Some(Running {
            engine,
            out,
            written: 0,
            durable: 0,
            syncing: false,
            sends: Vec::new(),
            deliveries: VecDeque::new(),
            last_emitted: applied,
            applied,
            applying: false,
            mark,
            history,
            timers: BTreeMap::new(),
            checks: Vec::new(),
            placed: BTreeMap::new(),
            ever_placed: BTreeSet::new(),
            trim_below: 0,
            decided: 0,
        });
        self.turn(node);
    }

    /// R7, as far as it can be told from what was stored.
    fn judge_opening(
        &self,
        node: usize,
        checkpoint: Index,
        log: &quorate_storage::Recovered,
        out: &Output,
    ) {
        let mut last = checkpoint;
        for Delivery { after, what } in &out.deliveries {
            let Deliver::Batch { entry, .. } = what else { continue };
            if *after != 0 {
                self.broken(
                    node,
                    format_args!(
                        "R7: what is delivered again at open has after = 0, and index {} has {after}",
                        entry.index
                    ),
                );
            }
            if !log.entries.contains(entry) {
                self.broken(
                    node,
                    format_args!(
                        "R7: only what is in the log is delivered again, and index {} {:?} is not",
                        entry.index, entry.tag
                    ),
                );
            }
            last = last.max(entry.index);
        }
        let mut must = checkpoint;
        while log.decided.iter().any(|(index, ..)| *index == must + 1) {
            must += 1;
        }
        if self.nodes.len() == 1 {
            // Alone, a node has nobody to ask: all that was delivered comes from its own log.
            must = must.max(self.top());
        }
        if last < must {
            self.broken(
                node,
                format_args!("R7: all that is decided after the checkpoint is delivered again at open, and the last is {last} of {must}"),
            );
        }
        for LogWrite { record, .. } in &out.writes {
            if let Record::Note { index, note } = record
                && log.notes.iter().any(|(at, known)| at == index && known == note)
            {
                self.broken(
                    node,
                    format_args!(
                        "R7: notes are never written again at open, and one of index {index} is"
                    ),
                );
            }
        }
    }

    /// Lets the syncs of a node's disk end, or not.
    pub(super) fn stall_disk(&mut self, node: usize, stalled: bool) {
        self.nodes[node].disk_stalled = stalled;
        if !stalled {
            self.sync(node);
        }
    }

    /// Cuts a node off from all others, or takes that back.
    pub(super) fn isolate(&mut self, node: usize, isolated: bool) {
        if isolated {
            self.isolated.insert(node);
        } else {
            self.isolated.remove(&node);
        }
    }

    /// What the network does to messages from now on, beside delays.
    pub(super) fn lossy(&mut self, loss: f64, duplication: f64) {
        let faults = LinkFaults::none().delay(self.faults.delay_min..=self.faults.delay_max);
        self.faults = faults.loss(loss).duplication(duplication, Duration::from_millis(5));
    }

    /// Lets this much time pass.
    pub(super) fn pass(&mut self, time: Duration) {
        self.run_until(self.now + time, |_| false);
    }

    /// Ends all faults, and waits until everything that was begun has come to its end.
    pub(super) fn finish(&mut self) {
        self.lossy(0.0, 0.0);
        self.isolated.clear();
        for node in 0..self.nodes() {
            self.stall_disk(node, false);
            self.start(node);
        }
        let deadline = self.now + self.factory.patience();
        self.run_until(deadline, Self::is_finished);
        if !self.is_finished() {
            self.say_what_is_missing();
        }
    }

    /// All outputs in words, in order.
    pub(super) fn into_trace(self) -> Vec<String> {
        self.trace.unwrap_or_default()
    }

    /// How many indexes were delivered at any node.
    pub(super) fn top(&self) -> Index {
        self.agreed.last_key_value().map_or(0, |(index, _)| *index)
    }

    /// Ends the suite: a clause does not hold.
    pub(super) fn broken(&self, node: usize, clause: impl fmt::Display) -> ! {
        let Self { case, seed, now, .. } = self;
        panic!("{case}: {clause} (node {}, seed {seed}, virtual time {now:?})", node + 1);
    }

    fn is_finished(&self) -> bool {
        let top = self.top();
        let settled = |node: &Node| {
            node.running
                .as_ref()
                .is_some_and(|running| running.applied == top && running.placed.is_empty())
        };
        self.payloads.iter().all(|offered| offered.done)
            && self.reads.iter().all(|read| read.stage == Reading::Over)
            && self.nodes.iter().all(settled)
    }

    fn say_what_is_missing(&self) -> ! {
        let patience = self.factory.patience();
        for (number, node) in self.nodes.iter().enumerate() {
            let Some(running) = &node.running else { continue };
            if let Some((index, tag)) = running.placed.keys().next() {
                self.broken(
                    number,
                    format_args!("R9: a proposal is delivered, released or overtaken, and the one at index {index} {tag:?} is none of them after {patience:?}"),
                );
            }
            if running.applied < self.top() {
                self.broken(
                    number,
                    format_args!("all that is decided is delivered at every node, and after {patience:?} this one has {} of {}; {} wait for their write", running.applied, self.top(), running.deliveries.len()),
                );
            }
        }
        for (number, offered) in self.payloads.iter().enumerate() {
            if !offered.done {
                self.broken(
                    offered.home,
                    format_args!("a batch on offer is decided when nothing fails, and batch {number} is not after {patience:?}"),
                );
            }
        }
        for read in &self.reads {
            if read.stage != Reading::Over {
                self.broken(
                    read.node,
                    format_args!(
                        "a read is answered when nothing fails, and one is not after {patience:?}"
                    ),
                );
            }
        }
        unreachable!("one of these is what the group has not finished");
    }

    // ----- time

    fn schedule(&mut self, after: Duration, event: Event) {
        let grains = (self.now + after).as_nanos().div_ceil(GRAIN.as_nanos());
        let at = GRAIN * u32::try_from(grains).expect("no run takes that long");
        self.scheduled += 1;
        self.events.insert((at.max(self.now), self.scheduled), event);
    }

    fn draw(&mut self, max: Duration) -> Duration {
        GRAIN + max.mul_f64(self.random.f64())
    }

    fn run_until(&mut self, deadline: Now, over: impl Fn(&Self) -> bool) {
        while let Some((&(at, _), _)) = self.events.first_key_value()
            && at <= deadline
            && !over(self)
        {
            self.now = at;
            // What happens at one moment is absorbed in one turn.
            let mut touched = BTreeSet::new();
            while let Some(entry) = self.events.first_entry()
                && entry.key().0 == at
            {
                let event = entry.remove();
                self.happen(event, &mut touched);
            }
            touched.into_iter().for_each(|node| self.turn(node));
        }
        if !over(self) {
            self.now = deadline;
        }
    }

    fn happen(&mut self, event: Event, touched: &mut BTreeSet<usize>) {
        match event {
            Event::Message { from, to, message } => {
                let cut = self.isolated.contains(&from) || self.isolated.contains(&to);
                if !cut && self.nodes[to].running.is_some() {
                    let from = self.nodes[from].id;
                    self.step(to, Input::Message { from, message });
                    touched.insert(to);
                }
            }
            Event::Synced { node, life, seq } if self.lives(node, life) => {
                let at = &mut self.nodes[node];
                let running = at.running.as_mut().expect("it lives");
                running.syncing = false;
                if at.disk_stalled {
                    return;
                }
                running.durable = seq;
                at.log.sync(seq);
                self.step(node, Input::Durable(seq));
                touched.insert(node);
            }
            Event::Apply { node, life } if self.lives(node, life) => {
                self.apply(node);
                touched.insert(node);
            }
            Event::Check { node, life } if self.lives(node, life) => {
                self.check(node);
                touched.insert(node);
            }
            Event::Timer { node, life, id } if self.lives(node, life) => {
                let now = self.now;
                let running = self.nodes[node].running.as_mut().expect("it lives");
                if running.timers.get(&id).is_some_and(|at| *at <= now) {
                    running.timers.remove(&id);
                    self.step(node, Input::Timer(id));
                    touched.insert(node);
                }
            }
            Event::Fetched { node, life, ticket, entries } if self.lives(node, life) => {
                self.step(node, Input::Fetched { ticket, entries });
                touched.insert(node);
            }
            Event::Snapshot { from, life, to, checkpoint, head } => {
                let cut = self.isolated.contains(&from) || self.isolated.contains(&to);
                let arrived = !cut && self.nodes[to].running.is_some();
                let (sender, receiver) = (self.nodes[from].id, self.nodes[to].id);
                if arrived {
                    let Checkpointed { index, mark, state } = checkpoint.clone();
                    self.nodes[to].staged.insert(index, checkpoint);
                    let staged = Input::SnapshotStaged { from: sender, index, mark, state, head };
                    self.step(to, staged);
                    touched.insert(to);
                }
                if self.lives(from, life) {
                    self.step(from, Input::SnapshotSent { to: receiver, arrived });
                    touched.insert(from);
                }
            }
            Event::Tick => {
                self.schedule(TICK, Event::Tick);
                self.tick();
                touched.extend((0..self.nodes.len()).filter(|n| self.nodes[*n].running.is_some()));
            }
            // Of a life that is over.
            _ => {}
        }
    }

    fn lives(&self, node: usize, life: u32) -> bool {
        self.nodes[node].life == life && self.nodes[node].running.is_some()
    }

    fn tick(&mut self) {
        for node in 0..self.nodes.len() {
            let (now, stuck) = (self.now, |since: Now| since + WAITING_AFTER);
            let waits = self.payloads.iter().any(|offered| {
                offered.home == node && offered.idle_since.is_some_and(|since| stuck(since) <= now)
            });
            if waits && self.nodes[node].running.is_some() {
                self.step(node, Input::Waiting);
            }
        }
        for read in 0..self.reads.len() {
            let asked = self.reads[read].asked;
            if self.reads[read].stage == Reading::Asked
                && asked.is_none_or(|(_, at)| at + READ_AGAIN <= self.now)
            {
                self.ask(read);
            }
        }
    }

    // ----- one node's shell

    fn step(&mut self, node: usize, input: Input) {
        let (now, words) = (self.now, self.trace.is_some().then(|| format!("{input:?}")));
        self.call(node, |running| running.engine.step(now, input, &mut running.out));
        if let (Some(trace), Some(words)) = (&mut self.trace, words) {
            trace.push(format!("node {} at {now:?} absorbs {words}", node + 1));
        }
    }

    /// Calls into an engine that may panic, which the contract forbids.
    fn call<T>(&mut self, node: usize, call: impl FnOnce(&mut Running) -> T) -> Option<T> {
        let running = self.nodes[node].running.as_mut()?;
        match catch_unwind(AssertUnwindSafe(|| call(running))) {
            Ok(answer) => Some(answer),
            Err(panic) => {
                let words = panic_words(&*panic).to_owned();
                self.broken(node, format_args!("no input makes an engine panic: {words}"))
            }
        }
    }

    /// Ends a turn, as the host does: settle, do what is asked, offer batches.
    fn turn(&mut self, node: usize) {
        self.settle(node);
        self.place(node);
        self.look(node);
    }

    fn settle(&mut self, node: usize) {
        let now = self.now;
        if self.call(node, |running| running.engine.settle(now, &mut running.out)).is_some() {
            self.drain(node);
        }
    }

    /// Checks what the engine says of itself.
    fn look(&mut self, node: usize) {
        let told = self.call(node, |running| {
            let status: EngineStatus = running.engine.status();
            let before = std::mem::replace(&mut running.decided, status.decided);
            (status.decided, before, running.applied)
        });
        let Some((decided, before, applied)) = told else { return };
        if decided < before || decided < applied {
            self.broken(
                node,
                format_args!("status tells the last decided index, which is not {decided} after {before}, with {applied} delivered"),
            );
        }
    }

    /// Gives batches to whoever wants them.
    fn place(&mut self, node: usize) {
        for _ in 0..OFFERED_PER_TURN {
            let idle = |offered: &Offered| offered.home == node && offered.idle_since.is_some();
            let Some(payload) = self.payloads.iter().position(idle) else { return };
            let Some(demand) = self.call(node, |running| running.engine.demand()) else { return };
            let at = match demand {
                Demand::Here { batches: 0, .. } => {
                    self.broken(node, "demand is Here for at least one batch")
                }
                Demand::Here { .. } => node,
                Demand::At(nodes) => {
                    let Some(at) = self.forward(node, payload, &nodes) else { return };
                    at
                }
                Demand::Nowhere => return,
            };
            if !self.propose(at, payload) {
                return;
            }
        }
    }

    /// The node at which a batch is wanted and may be placed now: the first that was named, or any of them when the
    /// batch has waited for long.
    fn forward(&mut self, node: usize, payload: Payload, nodes: &[NodeId]) -> Option<usize> {
        if nodes.is_empty() {
            self.broken(node, "demand is At somebody");
        }
        let since = self.payloads[payload].idle_since?;
        let patient = self.now < since + WAITING_AFTER;
        let asked = if patient { nodes[0] } else { nodes[self.random.usize(..nodes.len())] };
        let at = self.nodes.iter().position(|other| other.id == asked)?;
        let cut = self.isolated.contains(&at) || self.isolated.contains(&node);
        let wanted = self.call(at, |running| running.engine.demand());
        (!cut && at != node && matches!(wanted, Some(Demand::Here { .. }))).then_some(at)
    }

    fn propose(&mut self, node: usize, payload: Payload) -> bool {
        let (now, body) = (self.now, self.payloads[payload].body.clone());
        let offered = body.clone();
        let Some(answer) =
            self.call(node, |running| running.engine.propose(now, offered, &mut running.out))
        else {
            return false;
        };
        match answer {
            Err(back) if back != body => {
                self.broken(node, "a batch that cannot be placed is given back as it was")
            }
            Err(_) => {
                self.settle(node);
                return false;
            }
            Ok(Placed { index, tag }) => {
                let running = self.nodes[node].running.as_mut().expect("it has answered");
                let (emitted, new) =
                    (running.last_emitted, running.ever_placed.insert((index, tag)));
                running.placed.insert((index, tag), payload);
                self.payloads[payload].idle_since = None;
                if !new || index <= emitted {
                    self.broken(
                        node,
                        format_args!("(index, tag) names one entry for ever, and a batch was placed at {index} {tag:?}, which is taken"),
                    );
                }
            }
        }
        self.settle(node);
        true
    }

    /// Takes over and judges what the engine put out.
    fn drain(&mut self, node: usize) {
        let running = self.nodes[node].running.as_mut().expect("it has settled");
        if let Some(trace) = &mut self.trace {
            let demand = running.engine.demand();
            trace.push(format!("node {} puts out {:?}, then {demand:?}", node + 1, running.out));
        }
        let out = &mut running.out;
        let writes = std::mem::take(&mut out.writes);
        let sends = std::mem::take(&mut out.sends);
        let deliveries = std::mem::take(&mut out.deliveries);
        let timers = std::mem::take(&mut out.timers);
        let fetches = std::mem::take(&mut out.fetches);
        let reads = std::mem::take(&mut out.reads);
        let snapshots = std::mem::take(&mut out.snapshots);
        let released = std::mem::take(&mut out.released);
        let fault = out.fault.take();
        out.members.clear();
        out.evidence.clear();
        running.checks.append(&mut running.out.checks);
        if let Some(cause) = fault {
            self.broken(
                node,
                format_args!("an engine does not fault when nothing is wrong: {cause}"),
            );
        }
        writes.into_iter().for_each(|write| self.written(node, write));
        sends.into_iter().for_each(|send| self.sent(node, send));
        deliveries.into_iter().for_each(|delivery| self.delivery(node, delivery));
        self.set_timers(node, timers);
        let life = self.nodes[node].life;
        for (ticket, range, _) in fetches {
            let mut entries = self.nodes[node].log.fetch(range);
            // Any number from the first on is an answer.
            let count = self.random.usize(..=entries.len()).max(1);
            entries.truncate(count);
            let after = self.draw(Duration::from_millis(2));
            self.schedule(after, Event::Fetched { node, life, ticket, entries });
        }
        let running = self.nodes[node].running.as_ref().expect("it has settled");
        if running.checks.iter().any(|(_, entry)| entry.index <= running.applied + 1) {
            let after = self.draw(Duration::from_millis(1));
            self.schedule(after, Event::Check { node, life });
        }
        reads.into_iter().for_each(|(id, answer)| self.answered(node, id, answer));
        for (to, index, head) in snapshots {
            let found = self.nodes[node].checkpoints.get(&index).cloned();
            let Some(checkpoint) = found else {
                self.broken(
                    node,
                    format_args!(
                        "R6: a snapshot is a checkpoint that was stored, and none was at {index}"
                    ),
                );
            };
            if let Some(to) = self.nodes.iter().position(|other| other.id == to) {
                let after = self.draw(Duration::from_millis(20));
                self.schedule(after, Event::Snapshot { from: node, life, to, checkpoint, head });
            }
        }
        for placed in released {
            self.released(node, placed);
        }
        self.sync(node);
        self.send_held(node);
        self.apply_next(node);
        self.serve_reads(node);
    }

    fn written(&mut self, node: usize, write: LogWrite) {
        let at = &mut self.nodes[node];
        let running = at.running.as_mut().expect("it has settled");
        let before = running.written;
        running.written = write.seq;
        let trim_below = running.trim_below;
        let staged = |index: &Index| at.staged.contains_key(index);
        let clause = match &write.record {
            _ if write.seq != before + 1 => Some(format!(
                "R1: the seqs of writes rise by one, and {} follows {before}",
                write.seq
            )),
            Record::Trim { below } if *below > trim_below => Some(format!(
                "R6: an engine trims only what a checkpoint allows, which is below {trim_below}, and not below {below}"
            )),
            Record::Reset { index, .. } if !staged(index) => Some(format!(
                "R5: a reset follows a staged snapshot, and none at {index} is staged"
            )),
            _ => None,
        };
        if let Some(clause) = clause {
            self.broken(node, clause);
        }
        self.nodes[node].log.write(write);
    }

    fn sent(&mut self, node: usize, send: Outgoing) {
        let running = self.nodes[node].running.as_mut().expect("it has settled");
        let written = running.written;
        if send.after > written {
            self.broken(
                node,
                format_args!(
                    "R2: a send waits for a write that was made, and not for {} of {written}",
                    send.after
                ),
            );
        }
        running.sends.push(send);
    }

    fn delivery(&mut self, node: usize, delivery: Delivery) {
        let running = self.nodes[node].running.as_mut().expect("it has settled");
        let (written, last) = (running.written, running.last_emitted);
        if delivery.after > written {
            self.broken(
                node,
                format_args!(
                    "R2: a delivery waits for a write that was made, and not for {} of {written}",
                    delivery.after
                ),
            );
        }
        match &delivery.what {
            Deliver::Batch { entry, .. } => {
                running.last_emitted = entry.index;
                if entry.index != last + 1 {
                    self.broken(
                        node,
                        format_args!("R2: deliveries are in the order of the index, without gaps, and {} follows {last}", entry.index),
                    );
                }
            }
            Deliver::Install { index, .. } => {
                running.last_emitted = *index;
                let staged = self.nodes[node].staged.contains_key(index);
                if *index <= last || !staged {
                    self.broken(
                        node,
                        format_args!("R5: what is installed is a staged snapshot ahead of {last}, and not {index}"),
                    );
                }
            }
        }
        let running = self.nodes[node].running.as_mut().expect("it has settled");
        running.deliveries.push_back(delivery);
    }

    fn set_timers(&mut self, node: usize, timers: Vec<(TimerId, Option<Duration>)>) {
        let (now, life) = (self.now, self.nodes[node].life);
        for (id, after) in timers {
            let running = self.nodes[node].running.as_mut().expect("it has settled");
            let Some(after) = after else {
                running.timers.remove(&id);
                continue;
            };
            running.timers.insert(id, now + after);
            self.schedule(after, Event::Timer { node, life, id });
        }
    }

    fn released(&mut self, node: usize, placed: Placed) {
        let now = self.now;
        let Placed { index, tag } = placed;
        let running = self.nodes[node].running.as_mut().expect("it has settled");
        if !running.ever_placed.contains(&(index, tag)) {
            self.broken(
                node,
                format_args!(
                    "R9: only what was placed here is released, and {index} {tag:?} was not"
                ),
            );
        }
        if let Some(payload) = running.placed.remove(&(index, tag))
            && !self.payloads[payload].done
        {
            self.payloads[payload].idle_since = Some(now);
        }
    }

    /// Begins a sync if one is wanted and none runs.
    fn sync(&mut self, node: usize) {
        let at = &mut self.nodes[node];
        let Some(running) = at.running.as_mut() else { return };
        if running.syncing || at.disk_stalled {
            return;
        }
        let Some(seq) = at.log.wants_sync() else { return };
        running.syncing = true;
        let (life, after) = (at.life, self.draw(Duration::from_millis(3)));
        self.schedule(after, Event::Synced { node, life, seq });
    }

    fn send_held(&mut self, node: usize) {
        let running = self.nodes[node].running.as_mut().expect("it has settled");
        let durable = running.durable;
        let ready: Vec<_> = running.sends.extract_if(.., |send| send.after <= durable).collect();
        for Outgoing { to, urgent, message, .. } in ready {
            for to in to {
                let Some(to) = self.nodes.iter().position(|other| other.id == to) else { continue };
                self.carry(node, to, urgent, message.clone());
            }
        }
    }

    fn carry(&mut self, from: usize, to: usize, urgent: bool, message: Message) {
        if from == to || self.isolated.contains(&from) {
            return;
        }
        let channel = if urgent { Channel::Control } else { Channel::Entries };
        let (sender, receiver) = (self.nodes[from].id, self.nodes[to].id);
        let link = self
            .links
            .entry((from, to, urgent))
            .or_insert_with(|| Link::new(self.seed, sender, receiver, channel));
        let now = self.now;
        let (first, second) = match link.fate(&self.faults, now) {
            Fate::Lost => (None, None),
            Fate::Once(at) => (Some(at), None),
            Fate::Twice(at, again) => (Some(at), Some(again)),
        };
        for at in first.into_iter().chain(second) {
            self.schedule(at - now, Event::Message { from, to, message: message.clone() });
        }
    }

    // ----- deliveries

    /// Begins to apply the next delivery when its write is durable.
    fn apply_next(&mut self, node: usize) {
        let at = &mut self.nodes[node];
        let running = at.running.as_mut().expect("it has settled");
        let ready = running.deliveries.front().is_some_and(|next| next.after <= running.durable);
        if ready && !running.applying {
            running.applying = true;
            let (life, after) = (at.life, self.draw(Duration::from_millis(1)));
            self.schedule(after, Event::Apply { node, life });
        }
    }

    fn apply(&mut self, node: usize) {
        let running = self.nodes[node].running.as_mut().expect("it lives");
        running.applying = false;
        let Delivery { what, .. } = running.deliveries.pop_front().expect("it was ready");
        let index = match what {
            Deliver::Batch { entry, mark } => {
                running.mark = mark;
                running.applied = entry.index;
                let mut hasher = blake3::Hasher::new();
                hasher.update(&running.history).update(&entry.index.to_le_bytes());
                hasher.update(format!("{:?}", entry.body).as_bytes());
                running.history = *hasher.finalize().as_bytes();
                self.judge_batch(node, &entry);
                self.batch_done(node, &entry);
                entry.index
            }
            Deliver::Install { index, mark } => {
                running.mark = mark;
                running.applied = index;
                self.install(node, index);
                index
            }
        };
        let running = self.nodes[node].running.as_mut().expect("it lives");
        let state = running.history;
        self.step(node, Input::Applied { index, state });
    }

    /// Answers the engine's questions about candidates whose predecessors are all applied (R10).
    fn check(&mut self, node: usize) {
        let running = self.nodes[node].running.as_mut().expect("it lives");
        let next = running.applied + 1;
        let checks = running.checks.extract_if(.., |(_, entry)| entry.index <= next);
        for (ticket, entry) in checks.collect::<Vec<_>>() {
            self.step(node, Input::Checked { ticket, valid: entry.index == next });
        }
    }

    /// What must hold of a batch at the moment at which it is delivered.
    fn judge_batch(&mut self, node: usize, entry: &Entry) {
        let Entry { index, tag, body, .. } = entry;
        let agreed = self.agreed.entry(*index).or_insert_with(|| (*tag, body.clone()));
        if (&agreed.0, &agreed.1) != (tag, body) {
            let first = agreed.0;
            self.broken(
                node,
                format_args!("the same (tag, batch) is delivered at an index at all nodes and in all lives, and index {index} is now {tag:?} {body:?}, after {first:?}"),
            );
        }
        let invented = matches!(body, Body::Frames(_))
            && !self.payloads.iter().any(|offered| offered.body == *body);
        if invented {
            self.broken(
                node,
                format_args!(
                    "only batches that were offered are delivered, and at index {index} is {body:?}"
                ),
            );
        }
        let holders = self.nodes.iter().filter(|other| other.log.holds(*index, *tag)).count();
        let all = self.nodes.len();
        if holders <= all / 2 {
            self.broken(
                node,
                format_args!("R3: a batch is delivered when it is durable on a majority, and index {index} is on {holders} of {all}"),
            );
        }
    }

    /// Settles the proposals that this delivery decides about.
    fn batch_done(&mut self, node: usize, entry: &Entry) {
        let now = self.now;
        for (number, offered) in self.payloads.iter_mut().enumerate() {
            let here = offered.home == node && offered.body == entry.body;
            if here && matches!(entry.body, Body::Frames(_)) {
                offered.done = true;
                offered.idle_since = None;
                for read in &mut self.reads {
                    if read.stage == Reading::Through(number) {
                        read.stage = Reading::Over;
                    }
                }
            }
        }
        let running = self.nodes[node].running.as_mut().expect("it lives");
        for payload in running.settle_up_to(entry.index) {
            let offered = &mut self.payloads[payload];
            // What was delivered here for another node reaches that one too.
            if !offered.done && offered.body != entry.body {
                offered.idle_since = Some(now);
            }
        }
    }

    fn install(&mut self, node: usize, index: Index) {
        let now = self.now;
        let at = &mut self.nodes[node];
        let Some(staged) = at.staged.remove(&index) else {
            self.broken(node, format_args!("R5: the snapshot at {index} is installed once"));
        };
        if at.log.recovered().first <= index {
            self.broken(
                node,
                format_args!("R5: an install waits until the reset at {index} is durable"),
            );
        }
        let running = at.running.as_mut().expect("it lives");
        running.history = staged.state;
        at.checkpoints.insert(index, staged);
        for payload in running.settle_up_to(index) {
            if !self.payloads[payload].done {
                self.payloads[payload].idle_since = Some(now);
            }
        }
        // What the snapshot holds is not delivered here any more.
        for offered in self.payloads.iter_mut().filter(|offered| offered.home == node) {
            if self.agreed.range(..=index).any(|(_, (_, body))| *body == offered.body) {
                offered.done = true;
                offered.idle_since = None;
            }
        }
    }

    // ----- reads

    fn ask(&mut self, read: usize) {
        let Read { node, life, .. } = self.reads[read];
        if !self.lives(node, life) {
            self.reads[read].stage = Reading::Over;
            return;
        }
        self.questions += 1;
        let id = ReadId(self.questions);
        self.reads[read].asked = Some((id, self.now));
        self.tell(node, Input::Read(id));
    }

    fn answered(&mut self, node: usize, id: ReadId, answer: ReadAnswer) {
        if id.0 == 0 || id.0 > self.questions {
            self.broken(
                node,
                format_args!("only a question is answered, and {id:?} was never asked"),
            );
        }
        // An answer to an earlier form of the question comes too late to count.
        let asked = |read: &Read| read.node == node && read.asked.is_some_and(|(at, _)| at == id);
        let Some(place) = self.reads.iter().position(asked) else { return };
        let Read { floor, stage, .. } = self.reads[place];
        if stage != Reading::Asked {
            return;
        }
        match answer {
            ReadAnswer::At(index) if index < floor => self.broken(
                node,
                format_args!("a read sees all that was delivered anywhere before it was asked, which is up to {floor}, and it is answered at {index}"),
            ),
            ReadAnswer::At(index) => self.reads[place].stage = Reading::Waits(index),
            ReadAnswer::ThroughLog => {
                let number = self.payloads.len();
                let words = format!("{}, seed {}, marker {number}", self.case, self.seed);
                let body = Body::Frames(Bytes::from(words));
                let idle_since = Some(self.now);
                self.payloads.push(Offered { home: node, body, idle_since, done: false });
                self.reads[place].stage = Reading::Through(number);
            }
            ReadAnswer::Retry => {}
        }
    }

    fn serve_reads(&mut self, node: usize) {
        let applied = self.nodes[node].running.as_ref().map_or(0, |running| running.applied);
        for read in self.reads.iter_mut().filter(|read| read.node == node) {
            if matches!(read.stage, Reading::Waits(index) if index <= applied) {
                read.stage = Reading::Over;
            }
        }
    }
}
