//! A group of engines in one virtual time: a shell for each, a seeded network, and disks that lose what was not durable.
//!
//! Every turn of every engine is judged here, so that each case has only to make things happen.

mod deliveries;
mod ending;
mod judge;
mod membership;
mod network;
mod node;
mod opening;
mod reads;
mod shell;
mod time;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::engine::{Checkpointed, Input, Now};
use quorate_replicator::{Member, NodeId};
use quorate_storage::{Body, Index, Tag};
use quorate_transport_memory::{Link, LinkFaults};

use self::membership::Wish;
use self::node::{Event, Node, Offered, Read, Reading};
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
    /// Links that carry nothing, each in one direction.
    cuts: BTreeSet<(usize, usize)>,
    payloads: Vec<Offered>,
    /// What was delivered at each index, by the first node that delivered it.
    agreed: BTreeMap<Index, (Tag, Body)>,
    disks_lost: bool,
    /// Which nodes were told that another one is lost.
    told_lost: BTreeSet<(usize, usize)>,
    /// The members from an index on, by the first node that told it.
    agreed_members: BTreeMap<Index, Vec<Member>>,
    /// What was asked of whom, in which life, and what came of it.
    wishes: BTreeMap<u64, Wish>,
    reads: Vec<Read>,
    questions: u64,
    /// All outputs, in words, when two runs are to be compared.
    trace: Option<Vec<String>>,
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
            incarnation: [u8::try_from(id.number()).expect("there are few nodes"); 16],
            lost: None,
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
            cuts: BTreeSet::new(),
            payloads: Vec::new(),
            agreed: BTreeMap::new(),
            disks_lost: false,
            told_lost: BTreeSet::new(),
            agreed_members: BTreeMap::new(),
            wishes: BTreeMap::new(),
            reads: Vec::new(),
            questions: 0,
            trace,
        };
        world.schedule(TICK, Event::Tick);
        (0..count).for_each(|node| world.start(node));
        world
    }

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
        self.note_wish(node, &input);
        self.step(node, input);
        self.turn(node);
    }

    /// Stores a checkpoint of what a node has applied, and allows it to trim a part of what is below.
    pub(super) fn checkpoint(&mut self, node: usize) {
        let part = self.random.f64();
        self.checkpoint_trimming(node, part);
    }

    /// As `checkpoint`, with this part of what is below.
    pub(super) fn checkpoint_trimming(&mut self, node: usize, part: f64) {
        let Some(running) = &mut self.nodes[node].running else { return };
        if running.applied == 0 {
            return;
        }
        let (index, mark) = (running.applied, running.mark.clone());
        let state = running.history;
        let trim_below = 1 + (part * index as f64) as Index;
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
        self.missed(node);
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

    /// Lets nothing through from one node to another, or takes that back; the other direction is as it was.
    pub(super) fn cut(&mut self, from: usize, to: usize, cut: bool) {
        if cut {
            self.cuts.insert((from, to));
        } else {
            self.cuts.remove(&(from, to));
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
}
