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

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;
use quorate_replicator::{
    Accepted, AdminError, CheckpointReader, Consistency, Cursor, Decision, Event, FrameId,
    GroupStatus, LogTime, Member, MemberChange, MemberRole, NodeId, OpenError, Position,
    ProposeError, ReadError, Resource, RestoreError, Role, Scope, StateMachine, SubscribeError,
};
use quorate_storage::{Body, Entry, Index, Record, Recovered, Seq};

use crate::admin::{Ask, Wishes};
use crate::batch::{BatchEncoder, BatchHead, DecodedBatch, Witness};
use crate::callers::{Answer, Callers, sooner};
use crate::compaction::{Compaction, Running};
use crate::config::CoreConfig;
use crate::effects::{CheckpointJob, Effects, Fetch, FetchFor, Fetched, Sent};
use crate::engine::{
    Admin, Checkpointed, Deliver, Delivery, Demand, Engine, EngineDriver, EngineStatus, Input, Now,
    Opening, Outgoing, Output, Placed, StateHash, TimerId,
};
use crate::forwarding::{self, Incoming};
use crate::log_clock::LogClock;
use crate::pool::{HashedFrame, Pool, cost};
use crate::reads::{Reads, Waiting, Wants};
use crate::sessions::Lookup;
use crate::state::GroupState;
use crate::subscriptions::{FETCH_BYTES, Next, SubscriptionId, SubscriptionOver, Subscriptions};
use crate::wire::{Forward, Packet, Refusal, Refused};

/// Most frames that are applied in one turn before messages are looked at again.
const APPLY_FRAMES_PER_TURN: usize = 8192;

/// The ticket of the core's own wishes, whose answers nobody waits for.
const OWN_TICKET: u64 = 0;

/// How often the engine is asked for all that it knows, while it is busy.
const STATUS_EVERY: Duration = Duration::from_millis(50);

/// How long frames may wait unplaced before the engine is told.
const WAITING_AFTER: Duration = Duration::from_millis(100);

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
    /// Frames have been waiting unplaced since.
    waiting_since: Option<Now>,
    /// Who proposed at the end of the last turn.
    proposer: Option<NodeId>,
    /// What the engine said of itself last, when that was, and whether it may be another thing by now.
    engine_status: EngineStatus,
    asked_status_at: Now,
    status_is_old: bool,
    members: Vec<Member>,
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
        let opening =
            Opening { node: config.node, members, incarnation, seed, checkpoint: known, log };
        let engine = driver
            .open(driver_config, opening, &mut out)
            .map_err(|problem| OpenError::Driver { driver: D::NAME.into(), problem })?;
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
            waiting_since: None,
            proposer: None,
            engine_status,
            asked_status_at: now,
            status_is_old: false,
            members: Vec::new(),
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

    // ----- requests

    /// Proposes one frame, to be answered by `deadline`.
    pub fn propose(
        &mut self,
        frame: HashedFrame,
        deadline: Now,
        who: C::Propose,
        effects: &mut Effects<C>,
    ) {
        if let Err(error) = self.admits(std::slice::from_ref(&frame)) {
            effects.answers.push(Answer::Propose(who, Err(error)));
            return;
        }
        let call = self.pool.calls.one(who, deadline);
        self.pool.add(frame, call, 0);
    }

    /// Proposes several frames in their order; admits all or none, and answers by `deadline`.
    pub fn propose_many(
        &mut self,
        frames: Vec<HashedFrame>,
        deadline: Now,
        who: C::ProposeMany,
        effects: &mut Effects<C>,
    ) {
        if let Err(error) = self.admits(&frames) {
            effects.answers.push(Answer::ProposeMany(who, Err(error)));
            return;
        }
        if frames.is_empty() {
            effects.answers.push(Answer::ProposeMany(who, Ok(Vec::new())));
            return;
        }
        let call = self.pool.calls.many(who, frames.len(), deadline);
        for (slot, frame) in (0..).zip(frames) {
            self.pool.add(frame, call, slot);
        }
    }

    /// Asks the group for an operator's wish.
    pub fn admin(&mut self, admin: Admin, deadline: Now, who: C::Admin, effects: &mut Effects<C>) {
        let added = match &self.stopped {
            Some(stopped) => Err((who, stopped.as_admin_error())),
            None => self.wishes.add(admin, deadline, who),
        };
        if let Err((who, error)) = added {
            effects.answers.push(Answer::Admin(who, Err(error)));
        }
    }

    /// Whether these frames would be taken now, as a whole.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn admits(&self, frames: &[HashedFrame]) -> Result<(), ProposeError> {
        match &self.stopped {
            Some(Stopped::Closed) => return Err(ProposeError::Closed { submitted: false }),
            Some(Stopped::Faulted(cause)) => {
                return Err(ProposeError::Faulted { cause: cause.clone(), submitted: false });
            }
            None => {}
        }
        if self.storage_full {
            return Err(ProposeError::StorageFull);
        }
        let many = quorate_replicator::limits::PROPOSE_MANY_MAX;
        if frames.len() > many {
            return Err(ProposeError::TooLarge {
                what: "list of frames",
                size: frames.len(),
                limit: many,
            });
        }
        let mut bytes = self.pool.bytes();
        for HashedFrame { frame, .. } in frames {
            let (size, limit) = (frame.payload.len(), self.config.frame_bytes_max);
            if size > limit {
                return Err(ProposeError::TooLarge { what: "payload in bytes", size, limit });
            }
            if frame.settled > frame.id.serial {
                return Err(ProposeError::Invalid {
                    reason: format!(
                        "it settles serials below {}, which its own serial {} would be; settle only what was answered",
                        frame.settled, frame.id.serial
                    ),
                });
            }
            bytes += cost(frame);
        }
        if self.pool.frames() + frames.len() > self.config.frames_in_flight_max {
            let limit = self.config.frames_in_flight_max as u64;
            return Err(ProposeError::Overloaded { resource: Resource::Frames, limit });
        }
        if bytes > self.config.bytes_in_flight_max {
            let limit = self.config.bytes_in_flight_max as u64;
            return Err(ProposeError::Overloaded { resource: Resource::Bytes, limit });
        }
        Ok(())
    }

    /// Asks for a read barrier.
    pub fn read(
        &mut self,
        now: Now,
        level: Consistency,
        deadline: Now,
        who: C::Read,
        effects: &mut Effects<C>,
    ) {
        if let Err(error) = self.admit_read() {
            effects.answers.push(Answer::Read(who, Err(error)));
            return;
        }
        let bound = match level {
            Consistency::Linearizable => None,
            Consistency::Bounded(bound) if self.reads.is_fresh(now, bound) => {
                effects.answers.push(Answer::Read(who, Ok(self.state.position())));
                return;
            }
            Consistency::Bounded(bound) => Some(bound),
            _ => {
                effects.answers.push(Answer::Read(who, Ok(self.state.position())));
                return;
            }
        };
        self.reads.add(Waiting { deadline, what: Wants::Barrier(who), bound });
    }

    /// Asks what became of a frame.
    pub fn decision(
        &mut self,
        id: FrameId,
        deadline: Now,
        who: C::Decision,
        effects: &mut Effects<C>,
    ) {
        if let Err(error) = self.admit_read() {
            effects.answers.push(Answer::Decision(who, Err(error)));
            return;
        }
        self.reads.add(Waiting { deadline, what: Wants::Decision(id, who), bound: None });
    }

    fn admit_read(&self) -> Result<(), ReadError> {
        match &self.stopped {
            Some(Stopped::Closed) => return Err(ReadError::Closed),
            Some(Stopped::Faulted(cause)) => {
                return Err(ReadError::Faulted { cause: cause.clone() });
            }
            None => {}
        }
        if self.reads.count() >= self.config.reads_max {
            let limit = self.config.reads_max as u64;
            return Err(ReadError::Overloaded { resource: Resource::Reads, limit });
        }
        Ok(())
    }

    /// Begins a subscription.
    pub fn subscribe(
        &mut self,
        scope: Scope,
        from: &Cursor,
        who: C::Subscribe,
        effects: &mut Effects<C>,
    ) {
        let begun = self.admit_subscription(from).map(|given| self.subscriptions.add(scope, given));
        effects.answers.push(Answer::Subscribe(who, begun));
    }

    fn admit_subscription(&self, from: &Cursor) -> Result<(Index, u32), SubscribeError> {
        match &self.stopped {
            Some(Stopped::Closed) => return Err(SubscribeError::Closed),
            Some(Stopped::Faulted(cause)) => {
                return Err(SubscribeError::Faulted { cause: cause.clone() });
            }
            None => {}
        }
        if self.subscriptions.len() >= self.config.subscriptions_max {
            let limit = self.config.subscriptions_max as u64;
            return Err(SubscribeError::Overloaded { resource: Resource::Subscriptions, limit });
        }
        let reached = self.state.position();
        let given = match from.position(self.config.group) {
            None if from.is_from_now() => (reached.index, u32::MAX),
            None => (0, u32::MAX),
            Some(asked) if (asked.epoch, asked.index) > (reached.epoch, reached.index) => {
                return Err(SubscribeError::Ahead { asked, reached });
            }
            Some(asked) => (asked.index, asked.slot),
        };
        let first_wanted = if given.1 == u32::MAX { given.0 + 1 } else { given.0 };
        if first_wanted < self.log_first && first_wanted <= reached.index {
            let (oldest, snapshot) = self.oldest_readable();
            return Err(SubscribeError::Compacted { oldest, snapshot });
        }
        Ok(given)
    }

    fn oldest_readable(&self) -> (Position, Option<Position>) {
        let stored = self.compaction.stored();
        let snapshot = (self.compaction.stores() && stored > 0)
            .then(|| self.state.position_of(stored, u32::MAX));
        (self.state.position_of(self.log_first, 0), snapshot)
    }

    /// A subscriber has handled its chunk and is ready for the next.
    pub fn handled(&mut self, id: SubscriptionId) {
        self.subscriptions.handled(id);
    }

    /// A subscriber wants no more.
    pub fn unsubscribe(&mut self, id: SubscriptionId) {
        self.subscriptions.remove(id);
    }

    // ----- what the world reports

    /// Every write up to `seq` is on stable storage.
    pub fn durable(&mut self, seq: Seq) {
        if self.stopped.is_none() && seq > self.durable {
            assert!(seq <= self.out.last_seq(), "only what was written becomes durable");
            self.durable = seq;
            self.inputs.push_back(Input::Durable(seq));
        }
    }

    /// Something for the engine: a message, a staged or sent snapshot, an operator's wish.
    pub fn input(&mut self, input: Input) {
        if self.stopped.is_none() {
            self.inputs.push_back(input);
        }
    }

    /// A packet of another node, which proved to be `from`.
    pub fn packet(&mut self, now: Now, from: NodeId, packet: Packet, effects: &mut Effects<C>) {
        if self.stopped.is_some() {
            return;
        }
        match packet {
            // Of the process, not of a group: the shell takes note of it.
            Packet::Alive => {}
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
                let answer = if self.leads() {
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
    fn announce(&self, admin: &Admin, effects: &mut Effects<C>) {
        if let Admin::Change(
            MemberChange::Add { node, address, .. }
            | MemberChange::Replace { new: node, address, .. },
        ) = admin
        {
            let (node, role, address) = (*node, MemberRole::Learner, address.clone());
            let mut members = self.members.clone();
            members.retain(|member| member.node != node);
            members.push(Member { node, role, address });
            effects.members = Some(members);
        }
    }

    fn send(&self, to: NodeId, packet: Packet, effects: &mut Effects<C>) {
        effects.sends.push(Sent { to: vec![to], urgent: false, packet });
    }

    /// Whether this node is the one who proposes, as far as it knows.
    fn leads(&self) -> bool {
        self.proposer == Some(self.config.node)
    }

    /// Takes frames that another node forwarded into the pool, with nobody to answer: that node learns what becomes of
    /// them by applying them.
    fn take_forwarded(&mut self, now: Now, from: NodeId, forward: Forward) -> Result<(), Refusal> {
        let takes = match self.engine.demand() {
            Demand::Here { .. } => true,
            Demand::At(nodes) => nodes.contains(&self.config.node),
            Demand::Nowhere => self.leads(),
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
        self.forwarded.taken(from, forward.stream, forward.number);
        if !frames.is_empty() {
            let call = self.pool.calls.elsewhere(frames.len(), now + forward.within);
            for frame in frames {
                self.pool.add(frame, call, 0);
            }
        }
        Ok(())
    }

    /// Another node does not take what was forwarded to it.
    fn refused(&mut self, now: Now, from: NodeId, refused: Refused, effects: &mut Effects<C>) {
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
        self.forwarding.restart(Vec::new(), now);
        self.forwarding.pause(now);
    }

    /// The answer to a fetch.
    pub fn fetched(&mut self, reader: FetchFor, fetched: Fetched, effects: &mut Effects<C>) {
        if self.stopped.is_some() {
            return;
        }
        match (reader, fetched) {
            (FetchFor::Engine(ticket), Fetched::Entries(entries)) => {
                self.inputs.push_back(Input::Fetched { ticket, entries });
            }
            (FetchFor::Engine(ticket), Fetched::Trimmed(_)) => {
                self.inputs.push_back(Input::Fetched { ticket, entries: Vec::new() });
            }
            (FetchFor::Subscription(id), Fetched::Trimmed(_)) => {
                self.subscriptions.remove(id);
                let (oldest, snapshot) = self.oldest_readable();
                effects.over.push((id, SubscriptionOver::Compacted { oldest, snapshot }));
            }
            (FetchFor::Subscription(id), Fetched::Entries(entries)) => {
                let mut batches = Vec::with_capacity(entries.len());
                for (entry, _) in entries {
                    match self.accepted_of(&entry) {
                        Ok(accepted) => batches.push((entry.index, accepted)),
                        Err(cause) => return self.fault(cause, effects),
                    }
                }
                effects.chunks.extend(self.subscriptions.fetched(id, self.epoch(), &batches));
            }
        }
    }

    /// The frames of a retained entry that were accepted there.
    fn accepted_of(&self, entry: &Entry) -> Result<Vec<Accepted>, String> {
        let Body::Frames(bytes) = &entry.body else { return Ok(Vec::new()) };
        let batch = DecodedBatch::decode(bytes)
            .map_err(|error| format!("entry {} of the log cannot be read: {error}", entry.index))?;
        let skipped = self.state.skipped(entry.index);
        let frames =
            (0..).zip(batch.frames).filter(|(slot, _)| skipped.binary_search(slot).is_err());
        Ok(frames
            .map(|(slot, frame)| Accepted {
                position: self.state.position_of(entry.index, slot),
                frame,
            })
            .collect())
    }

    /// The checkpoint job is stored.
    pub fn checkpointed(&mut self, now: Now, index: Index, effects: &mut Effects<C>) {
        if self.stopped.is_some() {
            return;
        }
        let (Running { mark, state, .. }, trim_below) = self.compaction.finish(index, now);
        self.inputs.push_back(Input::Checkpointed { index, mark, state, trim_below });
        if self.compaction.stores() {
            effects.events.push(Event::Checkpoint { group: self.config.group, index });
        }
    }

    /// The staged snapshot that [`Effects::install`] named is in force on disk; here is what it holds.
    ///
    /// # Errors
    ///
    /// The state machine cannot take it over; the caller ends the group with [`fail`](Self::fail).
    pub fn installed(
        &mut self,
        now: Now,
        stored: StoredCheckpoint<'_>,
    ) -> Result<(), RestoreError> {
        let (index, mark) = self.installing.take().expect("an install was asked for");
        assert_eq!(index, stored.index, "the staged snapshot is the one that was asked for");
        self.state.restore(
            index,
            stored.state,
            &stored.words,
            self.config.sessions,
            stored.machine,
            stored.host,
        )?;
        self.mark = mark;
        self.clock.observe(self.state.log_time(), now);
        self.compaction.installed(index, now);
        // The log began anew after it.
        self.log_first = self.log_first.max(index + 1);
        self.pool.skip_to(index);
        self.reads.release(|placed| placed.index <= index);
        self.subscriptions.gap();
        self.inputs.push_back(Input::Applied { index, state: self.state.witness().history });
        Ok(())
    }

    /// Whether the disk has room for further frames.
    pub fn storage_full(&mut self, full: bool, effects: &mut Effects<C>) {
        if self.storage_full != full {
            self.storage_full = full;
            effects.events.push(Event::Storage { full });
            self.lead_only_with_room();
        }
    }

    /// A leader that can take nothing would hold up everyone: another one may lead.
    fn lead_only_with_room(&mut self) {
        if self.storage_full && self.leads() && self.engine_status.members.len() > 1 {
            self.inputs.push_back(Input::Admin { ticket: OWN_TICKET, admin: Admin::StepDown });
        }
    }

    /// The world failed under this group: a write, a sync, a thread. It stops for good.
    pub fn fail(&mut self, cause: impl Into<String>, effects: &mut Effects<C>) {
        self.fault(cause.into(), effects);
    }

    /// Ends the group in order: everyone who waits is told. Durable state is whole at any time, so nothing else is to
    /// be done.
    pub fn close(&mut self, effects: &mut Effects<C>) {
        if self.stopped.is_none() {
            self.stop(Stopped::Closed, effects);
        }
    }

    // ----- the turn

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

    fn run(&mut self, now: Now, effects: &mut Effects<C>) -> bool {
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
            self.check_candidates(now);
            if self.stopped.is_some() {
                return false;
            }
            if frames_left == 0 || !(offered || applied) {
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
        // What is due waits for the batch that is on its way, or for whoever may propose one: waking would not help.
        let can_propose =
            self.pool.placed() == 0 && matches!(self.engine.demand(), Demand::Here { .. });
        let due = self.state.next_deadline().filter(|_| can_propose);
        let due = due.map(|at| now + self.clock.until(at, now));
        let waiting = self.waiting_since.map(|since| since + WAITING_AFTER);
        let checkpoint = self.compaction.wake_at(self.state.applied());
        let checkpoint = checkpoint.filter(|_| self.installing.is_none());
        let forwarding = self.forwarding.wake_at(self.pool.has_idle(), now);
        let status = self.status_is_old.then(|| self.asked_status_at + STATUS_EVERY);
        let others = [timer, due, waiting, checkpoint, forwarding, status];
        [self.pool.calls.earliest(), self.reads.wake_at(), self.wishes.wake_at()]
            .into_iter()
            .chain(others)
            .fold(None, sooner)
    }

    fn step(&mut self, now: Now, input: Input) {
        self.engine.step(now, input, &mut self.out);
    }

    fn epoch(&self) -> u32 {
        self.state.position().epoch
    }

    fn expire(&mut self, now: Now, effects: &mut Effects<C>) {
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

    fn ask_wishes(&mut self, now: Now, effects: &mut Effects<C>) {
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

    fn run_inputs(&mut self, now: Now) {
        while let Some(input) = self.inputs.pop_front() {
            self.step(now, input);
        }
    }

    fn run_timers(&mut self, now: Now) {
        let due: Vec<_> =
            self.timers.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
        for id in due {
            self.timers.remove(&id);
            self.step(now, Input::Timer(id));
        }
    }

    /// Tells the engine when frames have not been placed for a while.
    fn tell_waiting(&mut self, now: Now) {
        if !self.pool.has_idle() {
            self.waiting_since = None;
            return;
        }
        let since = *self.waiting_since.get_or_insert(now);
        if now >= since + WAITING_AFTER {
            self.waiting_since = Some(now);
            self.step(now, Input::Waiting);
        }
    }

    fn settle(&mut self, now: Now, effects: &mut Effects<C>) {
        self.engine.settle(now, &mut self.out);
        self.drain(now, effects);
        if self.config.volatile && self.durable < self.out.last_seq() {
            self.durable = self.out.last_seq();
            self.step(now, Input::Durable(self.durable));
            self.engine.settle(now, &mut self.out);
            self.drain(now, effects);
        }
    }

    /// Takes over what the engine put out in this turn.
    fn drain(&mut self, now: Now, effects: &mut Effects<C>) {
        for write in self.out.writes.drain(..) {
            if let Record::Trim { below } = &write.record {
                self.log_first = self.log_first.max(*below);
                self.state.trim(*below);
            }
            effects.writes.push(write);
        }
        self.sends.extend(self.out.sends.drain(..));
        let durable = self.durable;
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
        for (_, members) in self.out.members.drain(..) {
            effects.members = Some(members.clone());
            self.members.clone_from(&members);
            effects.events.push(Event::Members { group: self.config.group, members });
        }
        effects.evidence.append(&mut self.out.evidence);
        if let Some(cause) = self.out.fault.take() {
            self.fault(cause, effects);
        }
    }

    /// Gives the engine the batches that it wants; true if there was one.
    fn offer(&mut self, now: Now, effects: &mut Effects<C>) -> bool {
        if self.stopped.is_some() || self.installing.is_some() {
            return false;
        }
        let is_due = self.pool.placed() == 0
            && self.state.next_deadline().is_some_and(|at| at <= self.clock.estimate(now));
        let mut wanted = is_due || self.reads.wants_marker();
        if !wanted && !self.pool.has_idle() {
            return false;
        }
        let Demand::Here { batches, .. } = self.engine.demand() else { return false };
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

    /// Sends waiting frames to whoever proposes, if that is another node.
    fn forward(&mut self, now: Now, effects: &mut Effects<C>) {
        if self.stopped.is_some() || !(self.pool.has_idle() || self.pool.oldest_forward().is_some())
        {
            return;
        }
        let to = match self.engine.demand() {
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
            // The first is asked first; the others when it does not answer.
            let to = if stuck { to } else { to[..1].to_vec() };
            self.forwarding.restart(to, now);
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
            let to = self.forwarding.to().to_vec();
            effects.sends.push(Sent { to, urgent: false, packet });
        }
        self.forwarding.is_stuck(self.pool.oldest_forward(), now);
    }

    /// Applies what is decided and durable, at most `frames_left` frames; true if anything was applied.
    fn deliver(&mut self, now: Now, frames_left: &mut usize, effects: &mut Effects<C>) -> bool {
        let mut applied = false;
        while *frames_left > 0 && self.stopped.is_none() && self.installing.is_none() {
            if self.deliveries.front().is_none_or(|next| next.after > self.durable) {
                break;
            }
            let next = self.deliveries.pop_front().expect("there is a front");
            match next.what {
                Deliver::Batch { entry, mark } => {
                    let frames = self.apply(now, &entry, effects);
                    self.mark = mark;
                    *frames_left = frames_left.saturating_sub(frames);
                    applied = true;
                }
                Deliver::Install { index, mark } => {
                    self.installing = Some((index, mark));
                    effects.install = Some(index);
                }
            }
        }
        if self.reads.count() > 0 {
            self.serve_reads(effects);
        }
        applied
    }

    /// Applies one decided batch; how many frames it had.
    fn apply(&mut self, now: Now, entry: &Entry, effects: &mut Effects<C>) -> usize {
        let placed = Placed { index: entry.index, tag: entry.tag };
        let (applied, waiters, count) = match (self.pool.deliver(placed), &entry.body) {
            // Placed here: the frames are at hand, and those who wait for them too.
            (Some((stamped, frames)), Body::Frames(bytes)) => {
                let waiters: Vec<_> = frames.iter().map(|pending| pending.waiter).collect();
                let frames = frames.into_iter().map(|pending| pending.hashed);
                (self.state.apply(entry.index, stamped, frames), waiters, bytes.len())
            }
            (_, Body::Frames(bytes)) => match DecodedBatch::decode(bytes) {
                Ok(batch) if !self.state.agrees(&batch.head.witness) => {
                    self.fault(
                        format!(
                            "this node's history at index {} differs from that of the proposer of index {}: its state machine is not deterministic, or its data was changed; compare versions, then restore this node from another one or a backup",
                            batch.head.witness.index, entry.index
                        ),
                        effects,
                    );
                    return 0;
                }
                Ok(batch) => {
                    let frames = batch.frames.into_iter().map(HashedFrame::from);
                    (
                        self.state.apply(entry.index, batch.head.log_time, frames),
                        Vec::new(),
                        bytes.len(),
                    )
                }
                Err(error) => {
                    self.fault(
                        format!(
                            "entry {} of the log cannot be read: {error}; it may be of a newer version",
                            entry.index
                        ),
                        effects,
                    );
                    return 0;
                }
            },
            (_, Body::Empty | Body::Members(_)) => {
                (self.state.apply(entry.index, LogTime::ZERO, std::iter::empty()), Vec::new(), 0)
            }
        };
        let frames = applied.decisions.len();
        let had_released = self.pool.has_released();
        self.counters.accepted += applied.accepted.len() as u64;
        self.counters.rejected += applied.rejected;
        if !waiters.is_empty() {
            for (waiter, decision) in waiters.into_iter().zip(applied.decisions) {
                self.pool.answer(waiter, decision, &mut effects.answers);
            }
        } else if had_released {
            for ((id, hash), decision) in self.state.judged().zip(&applied.decisions) {
                self.pool.answer_released(id, hash, decision, &mut effects.answers);
            }
        }
        if had_released {
            self.pool.drop_unwanted();
        }
        if !self.subscriptions.is_empty() {
            let accepted = applied.accepted.into_iter().map(|frame| Accepted {
                position: self.state.position_of(entry.index, frame.slot),
                frame: frame.frame,
            });
            self.subscriptions.applied(entry.index, accepted.collect());
        }
        self.clock.observe(self.state.log_time(), now);
        self.compaction.applied(entry.index, count, now);
        self.reads.applied(placed);
        self.step(now, Input::Applied { index: entry.index, state: self.state.witness().history });
        frames
    }

    fn serve_reads(&mut self, effects: &mut Effects<C>) {
        for waiting in self.reads.served(self.state.applied()) {
            effects.answers.push(match waiting.what {
                Wants::Barrier(who) => Answer::Read(who, Ok(self.state.position())),
                Wants::Decision(id, who) => Answer::Decision(
                    who,
                    match self.state.lookup(id) {
                        Lookup::Decided(decision) => Ok(decision),
                        Lookup::Undecided => Ok(Decision::Undecided),
                        Lookup::Ended => Err(ReadError::Forgotten),
                    },
                ),
            });
        }
    }

    /// Answers the engine's questions about candidates whose predecessors are all applied (R10).
    fn check_candidates(&mut self, now: Now) {
        let applied = self.state.applied();
        for (ticket, entry) in
            self.checks.extract_if(.., |(_, entry)| entry.index <= applied + 1).collect::<Vec<_>>()
        {
            let valid = entry.index == applied + 1 && self.is_valid(now, &entry);
            self.step(now, Input::Checked { ticket, valid });
        }
    }

    /// Whether every node would take this candidate as the next one.
    fn is_valid(&self, now: Now, entry: &Entry) -> bool {
        let Body::Frames(bytes) = &entry.body else { return true };
        let Ok(batch) = DecodedBatch::decode(bytes) else { return false };
        let drift = u64::try_from(self.config.log_time_drift_max.as_millis()).unwrap_or(u64::MAX);
        let latest = self.clock.estimate(now).plus_ms(drift);
        let largest = self.config.frame_bytes_max;
        batch.head.log_time >= self.state.log_time()
            && batch.head.log_time <= latest
            && self.state.agrees(&batch.head.witness)
            && batch.frames.iter().all(|frame| frame.payload.len() <= largest)
    }

    fn serve_subscribers(&mut self, effects: &mut Effects<C>) {
        if self.subscriptions.is_empty() {
            return;
        }
        loop {
            let next = self.subscriptions.next(self.epoch(), self.state.applied());
            if next.is_empty() {
                return;
            }
            for next in next {
                match next {
                    Next::Chunk(chunk) => effects.chunks.push(chunk),
                    Next::Fetch(id, from, until) => effects.fetches.push(Fetch {
                        reader: FetchFor::Subscription(id),
                        range: from..until,
                        bytes_max: FETCH_BYTES,
                    }),
                }
            }
        }
    }

    fn checkpoint(&mut self, now: Now, effects: &mut Effects<C>) {
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
    fn report(&mut self, now: Now, effects: &mut Effects<C>) {
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
    fn has_caught_up(&self) -> bool {
        let applied = self.state.applied();
        let is_new = self.engine_status.role == Role::Learner && applied == 0;
        let waits = !self.deliveries.is_empty() || self.installing.is_some();
        !waits && !is_new && applied >= self.engine_status.decided
    }

    // ----- the end

    fn fault(&mut self, cause: String, effects: &mut Effects<C>) {
        if self.stopped.is_some() {
            return;
        }
        effects.events.push(Event::Faulted { group: self.config.group, cause: cause.clone() });
        self.stop(Stopped::Faulted(cause), effects);
    }

    fn stop(&mut self, stopped: Stopped, effects: &mut Effects<C>) {
        // What the engine wanted in this turn must not happen any more.
        effects.writes.clear();
        effects.sends.clear();
        effects.checkpoint = None;
        effects.install = None;
        self.sends.clear();
        self.deliveries.clear();
        self.timers.clear();
        self.inputs.clear();
        self.pool.end(
            |submitted| match &stopped {
                Stopped::Closed => ProposeError::Closed { submitted },
                Stopped::Faulted(cause) => {
                    ProposeError::Faulted { cause: cause.clone(), submitted }
                }
            },
            &mut effects.answers,
        );
        let error = match &stopped {
            Stopped::Closed => ReadError::Closed,
            Stopped::Faulted(cause) => ReadError::Faulted { cause: cause.clone() },
        };
        for waiting in self.reads.end() {
            effects.answers.push(match waiting.what {
                Wants::Barrier(who) => Answer::Read(who, Err(error.clone())),
                Wants::Decision(_, who) => Answer::Decision(who, Err(error.clone())),
            });
        }
        self.wishes.end(&stopped.as_admin_error(), &mut effects.answers);
        let subscriptions = self.subscriptions.end();
        if let Stopped::Faulted(cause) = &stopped {
            let over = SubscriptionOver::Faulted { cause: cause.clone() };
            effects.over.extend(subscriptions.into_iter().map(|id| (id, over.clone())));
        }
        self.stopped = Some(stopped);
    }

    // ----- what it knows

    /// Why the group stopped for good, if it did.
    pub fn faulted(&self) -> Option<&str> {
        match &self.stopped {
            Some(Stopped::Faulted(cause)) => Some(cause),
            Some(Stopped::Closed) | None => None,
        }
    }

    /// Whether the group has replayed its log and knows who proposes.
    pub const fn is_ready(&self) -> bool {
        self.ready && self.stopped.is_none()
    }

    /// After every frame of the last applied batch.
    pub fn position(&self) -> Position {
        self.state.position()
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
