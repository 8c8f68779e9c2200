//! The host core: everything around a consensus, once, for every engine, without threads, clocks or files.
//!
//! ```text
//!   requests, messages, durable, fetched, ...        Effects
//!        |                                              ^
//!        v                                              |
//!   HostCore::turn:  step* -> settle -> pull batches -> deliver -> apply -> answer
//! ```
//!
//! A shell calls the input methods as things happen, then [`turn`](HostCore::turn), does what the effects say, and
//! calls again no later than [`wake_at`](HostCore::wake_at).
//!
//! 1. Nothing is answered as accepted before it is applied, and nothing is applied before the write that the engine
//!    named is durable.
//! 2. Batches are applied in the order of their index, without gaps.
//! 3. After a fault nothing is written, sent, applied or accepted any more, and everyone who waits is told.

mod apply;
mod elsewhere;
mod ends;
mod inheritance;
mod reports;
mod requests;
mod turn;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_replicator::{
    AdminError, CheckpointReader, GroupStatus, NodeId, OpenError, Position, StateMachine,
};
use quorate_storage::{Entry, Index, Recovered, Seq};

use crate::admin::Wishes;
use crate::batch::BatchEncoder;
use crate::callers::Callers;
use crate::compaction::Compaction;
use crate::config::CoreConfig;
use crate::engine::{
    Checkpointed, Delivery, Engine, EngineDriver, EngineStatus, Input, Inspector, Now, Opening,
    Outgoing, Output, StateHash, TimerId,
};
use crate::forwarding::{self, Incoming};
use crate::log_clock::LogClock;
use crate::pool::Pool;
use crate::proved::Proved;
use crate::reach::MemberList;
use crate::reads::Reads;
use crate::state::GroupState;
use crate::subscriptions::Subscriptions;

pub use inheritance::{HandOver, HandOverError, Inheritance};

/// Most frames that are applied in one turn before messages are looked at again.
const APPLY_FRAMES_PER_TURN: usize = 8192;

/// The ticket of the core's own wishes, whose answers nobody waits for.
const OWN_TICKET: u64 = 0;

/// How often the engine is asked for all that it knows, while it is busy.
const STATUS_EVERY: Duration = Duration::from_millis(50);

/// How long frames may wait unplaced before the engine is told.
const WAITING_AFTER: Duration = Duration::from_millis(100);

/// How long a copy of another node's frame may wait here before the engine is told: so long the one who proposes, and has it, may take.
const COPIES_WAIT_AFTER: Duration = Duration::from_secs(1);

/// The epoch of a group that was never switched or restored.
const FIRST_EPOCH: u32 = 1;

/// What a panic said.
pub fn panic_words(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without words")
}

/// A stored checkpoint that a core begins from.
pub struct StoredCheckpoint<'a> {
    /// The last index in it.
    pub index: Index,
    /// The engine's words in it.
    pub mark: Bytes,
    /// Hash of the history up to it.
    pub state: StateHash,
    /// The host's words in it.
    pub words: Bytes,
    /// The state machine's pairs.
    pub machine: &'a mut dyn CheckpointReader,
    /// The host's pairs.
    pub host: &'a mut dyn CheckpointReader,
}

impl std::fmt::Debug for StoredCheckpoint<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredCheckpoint").field("index", &self.index).finish_non_exhaustive()
    }
}

/// What a core begins with.
#[derive(Debug)]
pub struct Start<'a> {
    /// The voting members at the first start of the group.
    pub members: Vec<NodeId>,
    /// Drawn at random when the data directory was made.
    pub incarnation: [u8; 16],
    /// Where all random choices of the engine come from.
    pub seed: u64,
    /// The replicated state, empty.
    pub machine: Box<dyn StateMachine>,
    /// The newest stored checkpoint, if there is one.
    pub checkpoint: Option<StoredCheckpoint<'a>>,
    /// The group's log.
    pub log: Recovered,
}

/// One group on one node.
#[derive(Debug)]
pub struct HostCore<C: Callers> {
    config: CoreConfig,
    driver: &'static str,
    engine: Box<dyn Engine>,
    out: Output,
    state: GroupState,
    pool: Pool<C>,
    /// The stream in which this node forwards frames, and those in which others do.
    forwarding: forwarding::Outgoing,
    forwarded: Incoming,
    wishes: Wishes<C>,
    reads: Reads<C>,
    subscriptions: Subscriptions,
    compaction: Compaction,
    proved: Proved,
    clock: LogClock,
    encoder: BatchEncoder,
    /// Every write up to here is on stable storage.
    durable: Seq,
    sends: VecDeque<Outgoing>,
    deliveries: VecDeque<Delivery>,
    /// The words that were delivered with the last applied index.
    mark: Bytes,
    /// A snapshot is being put in force; nothing is delivered meanwhile.
    installing: Option<(Index, Bytes)>,
    timers: BTreeMap<TimerId, Now>,
    /// What the world reported since the last turn, for the engine: it is stepped in a turn only, where its panics are
    /// confined.
    inputs: VecDeque<Input>,
    /// Candidates whose predecessors are not all applied.
    checks: Vec<(u64, Entry)>,
    /// The first index of the log.
    log_first: Index,
    /// Writes that trim the log and are not durable: below which index. Until they are, a restart may find the log as it was.
    trims: VecDeque<(Seq, Index)>,
    /// Frames have been waiting unplaced since.
    waiting_since: Option<Now>,
    /// Who proposed at the end of the last turn.
    proposer: Option<NodeId>,
    /// What the engine said of itself last, when that was, and whether it may be another thing by now.
    engine_status: EngineStatus,
    asked_status_at: Now,
    status_is_old: bool,
    members: MemberList,
    ready: bool,
    storage_full: bool,
    stopped: Option<Stopped>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: u64,
    rejected: u64,
    timeouts: u64,
}

/// Why a core does nothing any more.
#[derive(Clone, Debug)]
enum Stopped {
    Closed,
    Faulted(String),
}

impl Stopped {
    fn as_admin_error(&self) -> AdminError {
        match self {
            Self::Closed => AdminError::Closed,
            Self::Faulted(cause) => AdminError::Faulted { cause: cause.clone() },
        }
    }
}

impl<C: Callers> HostCore<C> {
    /// Opens a group on what is stored. The first turn delivers what is decided after the checkpoint.
    ///
    /// # Errors
    ///
    /// The state machine or the engine cannot begin from what is stored.
    pub fn open<D: EngineDriver>(
        config: CoreConfig,
        driver: &D,
        driver_config: &D::Config,
        start: Start<'_>,
        now: Now,
    ) -> Result<Self, OpenError> {
        let Start { members, incarnation, seed, machine, checkpoint, log } = start;
        let mut state = GroupState::new(config.group, FIRST_EPOCH, machine, config.sessions);
        let mut known = None;
        if let Some(stored) = checkpoint {
            let StoredCheckpoint { index, mark, state: history, words, machine, host } = stored;
            state.restore(index, history, &words, config.sessions, machine, host)?;
            known = Some(Checkpointed { index, mark, state: history });
        }
        let log_first = log.first.max(1);
        let mark = known.as_ref().map_or_else(Bytes::new, |known| known.mark.clone());
        let mut out = Output::default();
        let opening = Opening {
            group: config.group,
            node: config.node,
            members,
            incarnation,
            seed,
            checkpoint: known,
            log,
        };
        let engine = driver
            .open(driver_config, opening, &mut out)
            .map_err(|problem| OpenError::Driver { driver: D::NAME.into(), problem })?;
        let mut config = config;
        if let Some(drift) = engine.log_time_drift_max() {
            config.log_time_drift_max = drift;
        }
        let applied = state.applied();
        let engine_status = engine.status();
        Ok(Self {
            driver: D::NAME,
            engine,
            out,
            pool: Pool::new(),
            forwarding: forwarding::Outgoing::new(seed),
            forwarded: Incoming::default(),
            wishes: Wishes::new(),
            reads: Reads::new(),
            subscriptions: Subscriptions::new(config.group),
            compaction: Compaction::new(config.checkpoint, config.retain, applied, log_first, now),
            proved: Proved::default(),
            clock: LogClock::new(state.log_time(), now),
            encoder: BatchEncoder::default(),
            durable: 0,
            sends: VecDeque::new(),
            deliveries: VecDeque::new(),
            mark,
            installing: None,
            timers: BTreeMap::new(),
            inputs: VecDeque::new(),
            checks: Vec::new(),
            log_first,
            trims: VecDeque::new(),
            waiting_since: None,
            proposer: None,
            engine_status,
            asked_status_at: now,
            status_is_old: false,
            members: MemberList::default(),
            ready: false,
            storage_full: false,
            stopped: None,
            counters: Counters::default(),
            state,
            config,
        })
    }

    /// The name of the driver.
    pub fn driver(&self) -> &'static str {
        self.driver
    }

    /// Whether the group has replayed its log and knows who proposes.
    pub const fn is_ready(&self) -> bool {
        self.ready && self.stopped.is_none()
    }

    /// After every frame of the last applied batch.
    pub fn position(&self) -> Position {
        self.state.position()
    }

    /// Who looks at messages of the group's engine before they come here.
    pub fn inspector(&self) -> Option<Arc<dyn Inspector>> {
        self.engine.inspector()
    }

    /// What the node knows of the group.
    pub fn status(&self) -> GroupStatus {
        let engine = self.engine_status.clone();
        let mut status = GroupStatus::new(self.config.group, engine.role);
        status.term = engine.term;
        status.leader = self.proposer;
        // What is applied was decided, however old the engine's own words are.
        status.committed = engine.decided.max(self.state.applied());
        status.applied = self.state.applied();
        status.log_first = self.log_first;
        status.checkpoint = if self.compaction.stores() { self.compaction.stored() } else { 0 };
        status.log_time = self.state.log_time();
        status.history = self.state.witness().history;
        status.members = engine.members;
        status.learners = engine.learners;
        status.peers = engine.peers;
        status.reason = engine.reason;
        status.accepted = self.counters.accepted;
        status.rejected = self.counters.rejected;
        status.timeouts = self.counters.timeouts;
        status.in_flight = self.pool.frames() as u64;
        status.sessions = self.state.sessions() as u64;
        status
    }
}
