//! The engine: heights one after the other, and what goes on beside them.

mod candidates;
mod catching_up;
mod heights;
mod inheriting;
mod log_time;
mod members;
mod opening;
mod reads;
mod standing;
mod status;
mod suspicion;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_certificate::{ChainId, Evidence, FaultModel, Genesis, ValidatorSet, ValueId};
use quorate_engine::engine::{
    Delivery, Demand, Engine, EngineDriver, EngineStatus, Founding, Inherited, Input, Inspector,
    Message, Now, Opening, Outgoing, Output, Placed, StateHash, TimerId,
};
use quorate_replicator::{DecidedBatch, NodeId};
use quorate_storage::{Body, Entry, Index, Recovered, Seq, Tag};

use self::candidates::{Candidate, Check};
use self::catching_up::{Fetching, Peer, Sync};
use self::heights::Ahead;
use self::log_time::Stamps;
use self::members::{APPROVE, Motions};
use self::reads::Reads;
use self::standing::{Incarnation, Standing};
use self::suspicion::Wait;
use crate::config::{QuorumConfig, Timing};
use crate::inspection::Inspection;
use crate::keys::Keys;
use crate::mark::Mark;
use crate::message::{self, Said};
use crate::setup::Setup;
use crate::tendermint::{Proposed, Tendermint, proposer_place};

/// The engine's own timers; those of the core have smaller numbers.
const OWN: u64 = 1 << 40;
/// Nobody had anything to propose.
const EMPTY: TimerId = TimerId(OWN);
/// Others may not know what is decided.
const TELL: TimerId = TimerId(OWN + 1);
/// This node does not know what is decided.
const SYNC: TimerId = TimerId(OWN + 2);

/// This node does not know yet whether it may vote.
const FOUND: TimerId = TimerId(OWN + 3);

/// How often a node with a new directory asks about it.
const FOUND_EVERY: Duration = Duration::from_millis(200);

/// How long a proposer that was woken waits for frames of its own node before it proposes nothing.
const EMPTY_AFTER: Duration = Duration::from_millis(1);

/// What a stored state has of evidence; none if it is not one of this chain.
pub(crate) fn evidence_of(chain: &ChainId, state: &[u8]) -> Option<Vec<Evidence>> {
    Standing::decode(chain, state).ok().map(|standing| standing.evidence)
}

/// The quorum-vote driver.
#[derive(Clone, Debug, Default)]
pub struct QuorumDriver {
    /// Where relative paths of the configuration begin.
    directory: PathBuf,
    given: BTreeMap<NodeId, Setup>,
}

impl QuorumDriver {
    /// The driver of a configuration that stands in this directory: the files it names are sought there.
    pub fn in_directory(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), ..Self::default() }
    }

    /// A driver that reads no files, for nodes whose genesis and keys are at hand.
    pub fn with_setups(given: impl IntoIterator<Item = (NodeId, Setup)>) -> Self {
        Self { given: given.into_iter().collect(), ..Self::default() }
    }

    fn setup(&self, config: &QuorumConfig, node: NodeId) -> Result<Setup, String> {
        match self.given.get(&node) {
            Some(setup) => Ok(setup.clone()),
            None => Setup::read(&self.directory, config),
        }
    }
}

impl EngineDriver for QuorumDriver {
    const NAME: &'static str = "quorum";
    type Config = QuorumConfig;

    fn open(
        &self,
        config: &QuorumConfig,
        opening: Opening,
        out: &mut Output,
    ) -> Result<Box<dyn Engine>, String> {
        let timing = config.check()?;
        let setup = self.setup(config, opening.node)?;
        let rotate_every = config.rotate_every;
        Ok(Box::new(QuorumEngine::open(rotate_every, timing, setup, opening, out)?))
    }

    fn take_for_decided(&self, node: NodeId, log: &mut Recovered) -> Result<(), String> {
        inheriting::take_for_decided(node, log)
    }

    fn inherit(&self, config: &QuorumConfig, inherited: &Inherited) -> Result<Founding, String> {
        config.check()?;
        inheriting::found(&self.setup(config, inherited.node)?, inherited)
    }
}

/// One node's part in a group.
#[derive(Debug)]
pub struct QuorumEngine {
    node: NodeId,
    timing: Timing,
    rotate_every: u64,
    genesis: Genesis,
    group: u32,
    fault_model: FaultModel,
    chain: ChainId,
    incarnation: Incarnation,
    standing: Standing,
    keys: Keys,
    inspection: Arc<Inspection>,
    now: Now,
    /// Where the group stands after the last height that is decided here.
    mark: Mark,
    /// That height, with its certificate, which may not be durable.
    last: Option<(Entry, Bytes)>,
    decided_at: Now,
    /// What is applied, and the hash of the history up to it.
    applied: (Index, StateHash),
    /// Hashes of histories that validators vouch for, of what is not applied yet.
    vouched: BTreeMap<Index, StateHash>,
    /// The height that is under way.
    height: Option<Tendermint>,
    /// Something waits to be decided.
    has_work: bool,
    candidates: BTreeMap<ValueId, Candidate>,
    /// What this node proposed at this height.
    own: Option<ValueId>,
    /// What was said about heights that are not under way here.
    ahead: Ahead,
    /// The last write that must be durable before anything is said or delivered.
    gate: Seq,
    /// The last write that is.
    durable: Seq,
    /// Deliveries of the opening that wait for writes.
    held: VecDeque<Delivery>,
    next_ticket: u64,
    /// Tickets of candidates that the host judges.
    checks: BTreeMap<u64, Check>,
    /// What validators have stamped at this height that was too far ahead for this node.
    stamps: Stamps,
    fetches: BTreeMap<u64, Fetching>,
    peers: BTreeMap<NodeId, Peer>,
    sync: Sync,
    reads: Reads,
    motions: Motions,
    waits: Option<Wait>,
    /// What a suspect proposed, and whether it is valid.
    kept_back: Vec<(Proposed, bool)>,
    /// The first index of the log.
    log_first: Index,
    /// The newest stored checkpoint.
    checkpoint: Option<Index>,
    is_empty_timer_set: bool,
    tell_after: Duration,
    /// Nodes that are of another cluster, or of another genesis.
    foreign: BTreeSet<NodeId>,
    fault: Option<String>,
}

impl QuorumEngine {
    /// The height that is to be decided next.
    const fn next(&self) -> u64 {
        self.mark.height + 1
    }

    const fn validators(&self) -> &ValidatorSet {
        &self.mark.validators
    }

    fn is_validator(&self) -> bool {
        self.validators().get(self.node.number()).is_some()
    }

    /// Whether a node is a validator of one of the next two heights.
    fn knows(&self, node: NodeId) -> bool {
        let known = |set: &ValidatorSet| set.get(node.number()).is_some();
        known(&self.mark.validators) || known(&self.mark.next_validators)
    }

    /// The validators of the next two heights.
    fn everybody(&self) -> BTreeSet<NodeId> {
        let all =
            self.validators().validators().iter().chain(self.mark.next_validators.validators());
        all.map(|known| NodeId::new(known.node)).collect()
    }

    /// All of them but this node.
    fn others(&self) -> Vec<NodeId> {
        self.everybody().into_iter().filter(|node| *node != self.node).collect()
    }

    /// Who proposes in the round so many after the present one.
    fn proposer_in(&self, rounds: u32) -> NodeId {
        let round = self.height.as_ref().map_or(0, Tendermint::round).saturating_add(rounds);
        let validators = self.validators().validators();
        let place = proposer_place(self.mark.first(self.rotate_every), round, validators.len());
        NodeId::new(validators.get(place).map_or(0, |known| known.node))
    }

    /// Who proposes in the first round.
    fn first_proposer(&self) -> NodeId {
        let place = self.mark.first(self.rotate_every);
        NodeId::new(self.validators().validators().get(place).map_or(0, |known| known.node))
    }

    const fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    fn send(&self, to: Vec<NodeId>, message: Message, out: &mut Output) {
        if !to.is_empty() {
            out.sends.push(Outgoing { to, after: 0, urgent: true, message });
        }
    }

    /// Whether this node may place a batch now.
    fn may_place(&self) -> bool {
        if !self.votes() || self.applied.0 != self.mark.height || self.fault.is_some() {
            return false;
        }
        match &self.height {
            Some(height) => height.wants().is_some(),
            None => self.proposer_in(0) == self.node,
        }
    }

    fn received(&mut self, from: NodeId, message: &Message, out: &mut Output) {
        if from == self.node {
            return;
        }
        let said = match Said::decode(&self.chain, message) {
            Ok(said) => said,
            Err(message::Unread::Foreign) => {
                if self.knows(from) {
                    self.foreign.insert(from);
                }
                return;
            }
            Err(message::Unread::Malformed(_)) => return,
        };
        if !self.knows(from) {
            return self.heard_follower(from, &said, out);
        }
        self.foreign.remove(&from);
        self.peers.entry(from).or_default().heard = Some(self.now);
        match said {
            Said::Words(words, carried) => self.words(from, *words, carried.map(|it| *it), out),
            Said::Status { height, asks } => self.told(from, height, asks, out),
            Said::Wake { height } => {
                self.has_work |= height == self.next();
                if height <= self.mark.height {
                    self.late(from, height, out);
                }
            }
            Said::Ask { from: first } => self.asked(from, first, out),
            Said::Heights(heights) => self.given(from, heights, out),
            Said::Read { nonce } => {
                if self.votes() {
                    let claim = message::claim(&self.chain, nonce, self.claim());
                    self.send(vec![from], claim, out);
                }
            }
            Said::Claim { nonce, height } => {
                self.reads.claimed(nonce, from, height);
            }
            Said::Hello { incarnation } => self.greeted(from, incarnation, out),
            Said::Vouch { index, state } => {
                self.peers.entry(from).or_default().vouches = Some((index, state));
            }
            Said::Welcome { incarnation, is_that, claim } => {
                self.welcomed(from, &incarnation, is_that, claim, out);
            }
            Said::Approvals { epoch, motion, approvals } => {
                self.approved(epoch, &motion, approvals, out);
            }
        }
    }

    /// Everything that follows from what happened.
    fn turn(&mut self, out: &mut Output) {
        out.deliveries.extend(self.held.drain(..));
        self.drive(out);
        self.give_back(out);
        self.answer_reads(out);
        self.propose_change(out);
        if self.height.as_ref().is_some_and(|height| height.wants().is_some()) {
            self.propose_again(out);
            if !self.is_empty_timer_set && self.may_place() {
                self.is_empty_timer_set = true;
                out.timers.push((EMPTY, Some(EMPTY_AFTER)));
            }
        }
        if let Some(fault) = self.fault.clone() {
            out.fault = Some(fault);
        }
    }
}

impl Engine for QuorumEngine {
    fn step(&mut self, now: Now, input: Input, out: &mut Output) {
        self.now = now;
        if self.fault.is_some() {
            return;
        }
        match input {
            Input::Message { from, message } => self.received(from, &message, out),
            Input::Timer(EMPTY) => {
                self.is_empty_timer_set = false;
                if self.height.is_some() && self.may_place() {
                    // What is decided then is that nobody had anything.
                    let _ = self.place(Body::Empty, out);
                }
            }
            Input::Timer(TELL) => self.tell(out),
            Input::Timer(SYNC) => self.catch_up(out),
            Input::Timer(FOUND) => self.found(out),
            Input::Timer(APPROVE) => self.look_at_motions(out),
            Input::Timer(TimerId(timer)) => {
                self.core(out, |height, keys, acts| height.timeout(timer, keys, acts));
            }
            Input::Applied { index, state } => self.was_applied(index, state),
            Input::Waiting => {
                self.note_wait();
                self.wake(out);
            }
            Input::Checked { ticket, verdict } => self.checked(ticket, verdict, out),
            Input::Fetched { ticket, entries } => self.fetched(ticket, entries, out),
            Input::Read(id) => self.ask_to_read(id, out),
            Input::Checkpointed { index, trim_below, .. } => {
                self.checkpointed(index, trim_below, out);
            }
            Input::SnapshotStaged { index, mark, state, head, .. } => {
                self.staged(index, &mark, state, &head, out);
            }
            Input::SnapshotSent { to, .. } => {
                self.peers.entry(to).or_default().is_sent_snapshot = false;
            }
            Input::Admin { ticket, admin } => self.wish(ticket, &admin, out),
            Input::Peer { node, alive } => self.peer(node, alive, out),
            Input::Durable(seq) => self.durable = seq,
        }
    }

    fn propose(&mut self, now: Now, batch: Body, out: &mut Output) -> Result<Placed, Body> {
        self.now = now;
        // The validators change by what their operators approve.
        if matches!(batch, Body::Members(_)) || !self.may_place() {
            return Err(batch);
        }
        let index = self.next();
        let value = self.place(batch, out)?;
        Ok(Placed { index, tag: Tag(value) })
    }

    fn settle(&mut self, now: Now, out: &mut Output) {
        self.now = now;
        self.turn(out);
    }

    fn demand(&self) -> Demand {
        if self.may_place() {
            return Demand::Here { batches: 1, members: false };
        }
        let first = self.proposer_in(0);
        if first == self.node || self.fault.is_some() {
            return Demand::Nowhere;
        }
        // Who proposes now, who does if that one fails, and everybody, this node too: so nobody can hold a frame back.
        let mut to = vec![first];
        let mut rest = vec![self.proposer_in(1)];
        rest.extend(self.others());
        if self.is_validator() {
            rest.push(self.node);
        }
        for node in rest {
            if !to.contains(&node) {
                to.push(node);
            }
        }
        Demand::At(to)
    }

    fn proposer(&self) -> Option<NodeId> {
        Some(self.proposer_in(0))
    }

    fn log_time_drift_max(&self) -> Option<Duration> {
        Some(Duration::from_millis(self.genesis.log_time_drift_max_ms()))
    }

    fn member_batches(&self, after: Index) -> Vec<DecidedBatch> {
        self.mark.changes.after(after)
    }

    fn status(&self) -> EngineStatus {
        self.explain()
    }

    fn knows_all(&self) -> Result<(), String> {
        inheriting::knows_all(self)
    }

    fn inspector(&self) -> Option<Arc<dyn Inspector>> {
        Some(Arc::clone(&self.inspection) as Arc<dyn Inspector>)
    }
}
