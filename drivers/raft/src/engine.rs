//! The engine: founding, core, reads and wishes, put together.

mod identity;
mod inheriting;
mod turns;

use std::collections::{BTreeMap, BTreeSet};

use quorate_engine::engine::{
    Demand, Engine, EngineDriver, EngineStatus, Founding, Inherited, Input, Now, Opening, Output,
    Placed, TimerId,
};
use quorate_replicator::NodeId;
use quorate_storage::{Body, Index, Recovered, Seq};

use self::turns::succeed;
use crate::admin::Wishes;
use crate::codec::Incarnation;
use crate::config::{RaftConfig, Timing};
use crate::core::{Begin, Core};
use crate::founding::Outside;
use crate::members::{MEMBERS_MAX, Mark, Members};
use crate::reads::Reads;
use crate::sleep::Sleep;
use crate::stored::Stored;

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

    fn take_for_decided(&self, _node: NodeId, log: &mut Recovered) -> Result<(), String> {
        inheriting::take_for_decided(log)
    }

    fn inherit(&self, config: &RaftConfig, inherited: &Inherited) -> Result<Founding, String> {
        config.check()?;
        Ok(inheriting::found(inherited))
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
        let Opening { node, members: mut founders, incarnation, seed, checkpoint, log, .. } =
            opening;
        #[cfg(quorate_planted)]
        let incarnation = match quorate_planted::Bug::WipedRejoins.is_planted() {
            true => [node.number() as u8; 16],
            false => incarnation,
        };
        founders.sort_unstable();
        founders.dedup();
        if founders.len() > MEMBERS_MAX {
            return Err(format!("{} members are more than {MEMBERS_MAX}", founders.len()));
        }
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
        if let Part::Member(core) = &engine.part {
            // Who came after the configuration was written stands in the checkpoint alone.
            out.members.push((base, core.members().public()));
        }
        engine.turn(out);
        engine.lead_alone();
        engine.turn(out);
        match engine.fault.take() {
            Some(fault) => Err(fault),
            None => Ok(engine),
        }
    }

    pub(crate) fn core(&self) -> Option<&Core> {
        match &self.part {
            Part::Member(core) => Some(core),
            Part::Outside(..) => None,
        }
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

    fn knows_all(&self) -> Result<(), String> {
        inheriting::knows_all(self)
    }
}

/// Something stored that is not this driver's.
fn unread(what: &str) -> String {
    format!(
        "the {what} is not one that this driver wrote: was another driver used before? `quorate driver switch` goes from one to another"
    )
}

/// Most bytes of undecided batches of one leader.
const UNDECIDED_BYTES_MAX: usize = 64 << 20;
