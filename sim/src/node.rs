//! One life of a node: what a shell does with threads, done in steps.

use std::collections::{BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::engine::{Admin, EngineDriver, Input, LogWrite};
use quorate_engine::{
    Answer, Callers, CheckpointJob, CheckpointPolicy, CoreConfig, Effects, Fetch, Fetched,
    GroupStores, HashedFrame, HostCore, MemberList, Packet, RecoveredCheckpoint, Retain, Sent,
    Start, Stores, StoresConfig, SubscriptionId, SubscriptionOver,
};
use quorate_replicator::{
    Accepted, AdminError, Consistency, Cursor, Decision, Frame, FrameId, GroupId, GroupStatus,
    NodeId, OpenError, Position, ProposeError, ReadError, Scope, StateMachine, SubscribeError,
};
use quorate_shard::Shards;
use quorate_storage::{
    CheckpointStore, DataDir, DataMode, Disk, Entry, Group, Health, Identity, Index, Log,
    LogConfig, LogError, LogReader, Pin, Recovered, SimDisk, Staged,
};

use crate::copies::Copies;
use crate::counters::Counters;
use crate::judge::{Judge, JudgedMachine};

/// The only group.
pub(crate) const GROUP: GroupId = GroupId::new(0);
/// The id of the cluster.
pub(crate) const CLUSTER: [u8; 16] = [1; 16];
const LOG_GROUP: Group = Group::new(0);

/// Most steps of maintenance after a commit.
const MAINTAIN_STEPS: usize = 4;

/// Numbers that the scenario gives out.
#[derive(Debug)]
pub(crate) enum Numbers {}

impl Callers for Numbers {
    type Propose = u64;
    type ProposeMany = u64;
    type Read = u64;
    type Decision = u64;
    type Subscribe = u64;
    type Admin = u64;
}

/// What came out of a node.
#[derive(Debug)]
pub(crate) enum News {
    Proposed(u64, Result<Vec<Decision>, ProposeError>),
    Read(u64, Result<Position, ReadError>),
    Decided(u64, Result<Decision, ReadError>),
    Subscribed(Result<SubscriptionId, SubscribeError>),
    Accepted(Vec<Accepted>, Position),
    Over(SubscriptionOver),
    Admin(u64, Result<(), AdminError>),
}

/// What differs between two scenarios and never within one: limits that all lives of all nodes share.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) checkpoint_bytes: u64,
    pub(crate) retain_bytes: u64,
    pub(crate) session_idle_ms: u64,
    pub(crate) unsettled_max: usize,
    pub(crate) frames_in_flight_max: usize,
    pub(crate) log: LogConfig,
    /// Whether followers forward what they are asked to propose.
    pub(crate) forward: bool,
}

/// Where a life begins.
#[derive(Debug)]
pub(crate) struct Life<'a> {
    pub(crate) disk: &'a SimDisk,
    pub(crate) node: NodeId,
    /// The founding members.
    pub(crate) members: &'a [NodeId],
    /// Names the store if there is none.
    pub(crate) store: [u8; 16],
    pub(crate) seed: u64,
    pub(crate) settings: &'a Settings,
    /// Who looks at what its machine answers; nobody if it lies.
    pub(crate) judge: Option<&'a Judge>,
    /// Whether the journal of what is not decided is lost, and the candidates for it.
    pub(crate) forgets: (bool, bool),
    /// Whether the log takes for durable what is not.
    pub(crate) is_unflushed: bool,
}

/// The mark of a checkpoint, and what is decided in a log, with its proofs.
pub(crate) type History = (Option<Bytes>, Vec<(Entry, Bytes)>);

#[derive(Debug)]
pub(crate) struct Node {
    core: HostCore<Numbers>,
    effects: Effects<Numbers>,
    log: Log,
    reader: LogReader,
    pub(crate) checkpoints: CheckpointStore,
    /// A checkpoint that somebody reads for a long time, and a digest of what was in it first.
    pinned: Option<(Pin, u64)>,
    job: Option<CheckpointJob>,
    fetches: VecDeque<Fetch>,
    /// What a full log did not take.
    backlog: VecDeque<Vec<LogWrite>>,
    /// A block is written and not synced.
    written: bool,
    full: bool,
    is_unflushed: bool,
    /// A snapshot that was received and waits to be put in force.
    staged: Option<Staged>,
    /// The engine wants the staged snapshot at this index to be put in force.
    install: Option<Index>,
    /// What this node's log holds.
    pub(crate) copies: Copies,
    pub(crate) news: Vec<News>,
    /// To other nodes.
    pub(crate) outbox: Vec<Sent>,
    /// Checkpoints to be streamed.
    pub(crate) snapshots: Vec<(NodeId, Index, Bytes)>,
    /// Who the members are, if that has changed.
    pub(crate) members: Option<MemberList>,
    pub(crate) shards: Shards,
    /// Dropped last: it holds the lock.
    _directory: DataDir,
}

/// An empty machine, and how its state is read.
pub(crate) fn machine(judge: Option<&Judge>) -> (Box<dyn StateMachine>, Shards) {
    let (machine, shards) = Shards::builder().extension(Counters).build();
    let machine: Box<dyn StateMachine> = Box::new(machine);
    match judge {
        Some(judge) => (Box::new(JudgedMachine { machine, judge: judge.clone() }), shards),
        None => (machine, shards),
    }
}

impl Node {
    pub(crate) fn open<D: EngineDriver>(
        driver: &D,
        config: &D::Config,
        life: Life<'_>,
        now: Duration,
    ) -> Result<Self, OpenError> {
        let Life { disk, node, members, store, seed, settings, .. } = life;
        let identity =
            Identity { cluster: CLUSTER, node: node.number(), driver: D::NAME.into(), groups: 1 };
        let stores_config = StoresConfig {
            store,
            mode: DataMode::Create,
            log: settings.log.clone(),
            checkpoint_cache_bytes: 64 << 10,
        };
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let stores = Stores::open(disk, "sim", &identity, stores_config)?;
        let Stores { directory, log, mut groups } = stores;
        let stored = groups.remove(0);
        let mut checkpoint = stored.checkpoint()?;
        let GroupStores { checkpoints, mut recovered } = stored;
        forget(&mut recovered, life.forgets);
        let floor = checkpoints.latest().map_or(0, |meta| meta.index);
        let copies = Copies::recovered(floor, &recovered);
        let (machine, shards) = machine(life.judge);
        let start = Start {
            members: members.to_vec(),
            incarnation: directory.store(),
            seed,
            machine,
            checkpoint: checkpoint.as_mut().map(RecoveredCheckpoint::stored),
            log: recovered,
        };
        let mut core_config = CoreConfig::new(GROUP, node);
        core_config.checkpoint = CheckpointPolicy {
            log_bytes: settings.checkpoint_bytes,
            interval: Duration::from_secs(5),
            stored: true,
        };
        core_config.retain = Retain { bytes: settings.retain_bytes, age: Duration::ZERO };
        core_config.forward = settings.forward;
        core_config.frames_in_flight_max = settings.frames_in_flight_max;
        core_config.sessions.idle_ms = settings.session_idle_ms;
        core_config.sessions.unsettled_max = settings.unsettled_max;
        let core = HostCore::open(core_config, driver, config, start, now)?;
        let reader = log.reader();
        Ok(Self {
            core,
            effects: Effects::default(),
            log,
            reader,
            checkpoints,
            pinned: None,
            job: None,
            fetches: VecDeque::new(),
            backlog: VecDeque::new(),
            written: false,
            full: false,
            is_unflushed: life.is_unflushed,
            staged: None,
            install: None,
            copies,
            news: Vec::new(),
            outbox: Vec::new(),
            snapshots: Vec::new(),
            members: None,
            shards,
            _directory: directory,
        })
    }

    // ----- requests

    /// Proposes one frame, or several as a list.
    pub(crate) fn propose(&mut self, mut frames: Vec<Frame>, deadline: Duration, who: u64) {
        if frames.len() == 1 {
            let frame = HashedFrame::from(frames.remove(0));
            self.core.propose(frame, deadline, who, &mut self.effects);
        } else {
            let frames = frames.into_iter().map(HashedFrame::from).collect();
            self.core.propose_many(frames, deadline, who, &mut self.effects);
        }
    }

    pub(crate) fn read(&mut self, now: Duration, level: Consistency, deadline: Duration, who: u64) {
        self.core.read(now, level, deadline, who, &mut self.effects);
    }

    pub(crate) fn decision(&mut self, id: FrameId, deadline: Duration, who: u64) {
        self.core.decision(id, deadline, who, &mut self.effects);
    }

    pub(crate) fn subscribe(&mut self, from: &Cursor) {
        self.core.subscribe(Scope::All, from, 0, &mut self.effects);
    }

    pub(crate) fn handled(&mut self, id: SubscriptionId) {
        self.core.handled(id);
    }

    pub(crate) fn admin(&mut self, admin: Admin, deadline: Duration, who: u64) {
        self.core.admin(admin, deadline, who, &mut self.effects);
    }

    pub(crate) fn packet(&mut self, now: Duration, from: NodeId, packet: Packet) {
        // As the host does where packets arrive.
        if let Packet::Forward(forward) = &packet
            && self.core.inspector().is_some_and(|it| !it.admits_batch(&forward.batch))
        {
            return;
        }
        self.core.packet(now, from, packet, &mut self.effects);
    }

    pub(crate) fn input(&mut self, input: Input) {
        self.core.input(input);
    }

    // ----- turns

    /// Turns until nothing more can be done without the disk.
    pub(crate) fn turn(&mut self, now: Duration) {
        loop {
            let again = self.core.turn(now, &mut self.effects);
            self.perform();
            if !again {
                break;
            }
        }
        // A thread that is woken for what it cannot do turns without end.
        let wake = self.core.wake_at(now);
        assert!(
            wake.is_none_or(|at| at > now),
            "a node that has turned at {now:?} wakes at {wake:?}"
        );
        let full = self.log.health() == Health::Full || !self.backlog.is_empty();
        if full != self.full {
            self.full = full;
            self.core.storage_full(full, &mut self.effects);
        }
    }

    fn perform(&mut self) {
        let effects = std::mem::take(&mut self.effects);
        if !effects.writes.is_empty() {
            self.copies.written(&effects.writes);
            self.backlog.push_back(effects.writes);
            self.feed();
        }
        for answer in effects.answers {
            self.news.push(match answer {
                Answer::Propose(who, answer) => {
                    News::Proposed(who, answer.map(|decision| vec![decision]))
                }
                Answer::ProposeMany(who, answer) => News::Proposed(who, answer),
                Answer::Read(who, answer) => News::Read(who, answer),
                Answer::Decision(who, answer) => News::Decided(who, answer),
                Answer::Subscribe(_, answer) => News::Subscribed(answer),
                Answer::Admin(who, answer) => News::Admin(who, answer),
            });
        }
        for chunk in effects.chunks {
            self.news.push(News::Accepted(chunk.frames, chunk.reached));
        }
        self.news.extend(effects.over.into_iter().map(|(_, over)| News::Over(over)));
        self.fetches.extend(effects.fetches);
        if let Some(job) = effects.checkpoint {
            self.job = Some(job);
        }
        if let Some(index) = effects.install {
            self.install = Some(index);
        }
        self.outbox.extend(effects.sends);
        self.snapshots.extend(effects.snapshots);
        if effects.members.is_some() {
            self.members = effects.members;
        }
    }

    /// Gives the log what waits for it.
    fn feed(&mut self) {
        while let Some(writes) = self.backlog.front() {
            let writes = writes.iter().map(|w| (w.seq, w.flush, w.record.clone())).collect();
            match self.log.submit(LOG_GROUP, writes) {
                Ok(()) => {
                    let writes = self.backlog.pop_front();
                    let last = writes.and_then(|writes| Some(writes.last()?.seq));
                    if let (Some(last), true) = (last, self.is_unflushed) {
                        self.core.durable(last);
                    }
                }
                Err(LogError::Full) => return,
                Err(error) => return self.fail(error.to_string()),
            }
        }
    }

    fn fail(&mut self, cause: String) {
        self.core.fail(cause, &mut self.effects);
    }

    // ----- the log

    /// Writes a block if one is wanted; true if it waits to be synced now.
    pub(crate) fn begin_commit(&mut self) -> bool {
        self.feed();
        if !self.written && self.log.wants_commit() {
            match self.log.commit_write() {
                Ok(written) => self.written = written,
                Err(LogError::Full) => {}
                Err(error) => self.fail(error.to_string()),
            }
        }
        self.written
    }

    /// Syncs the block that was written.
    pub(crate) fn end_commit(&mut self) {
        self.written = false;
        match self.log.commit_sync() {
            Ok(durable) => {
                for (_, seq) in durable {
                    self.copies.durable(seq);
                    self.core.durable(seq);
                }
            }
            Err(LogError::Full) => {}
            Err(error) => self.fail(error.to_string()),
        }
    }

    /// Some of the work that nobody waits for.
    pub(crate) fn maintain(&mut self) {
        for _ in 0..MAINTAIN_STEPS {
            match self.log.maintain() {
                Ok(true) => {}
                Ok(false) | Err(LogError::Full) => return,
                Err(error) => return self.fail(error.to_string()),
            }
        }
    }

    /// One step of the log's work: half a commit, or some maintenance.
    pub(crate) fn step_log(&mut self, now: Duration) {
        if self.written {
            self.end_commit();
        } else if !self.begin_commit() {
            match self.log.maintain() {
                Ok(_) | Err(LogError::Full) => {}
                Err(error) => self.fail(error.to_string()),
            }
        }
        self.turn(now);
    }

    /// Whether the log has something that no room was found for.
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    // ----- checkpoints and snapshots

    pub(crate) fn has_job(&self) -> bool {
        self.job.is_some()
    }

    /// Stores the checkpoint that is waiting, if one is; true if it was stored.
    pub(crate) fn step_checkpoint(&mut self, now: Duration) -> bool {
        let Some(job) = self.job.take() else { return false };
        let index = job.index;
        let stored = self.checkpoints.write(job.into_write(self.reader.durable_lsn()));
        match stored {
            Ok(()) => self.core.checkpointed(now, index, &mut self.effects),
            Err(error) => self.fail(error.to_string()),
        }
        self.turn(now);
        self.core.faulted().is_none()
    }

    /// Reads the checkpoint that was pinned a while ago once more, or pins the newest; false if what was pinned has changed.
    pub(crate) fn step_pin(&mut self) -> bool {
        match self.pinned.take() {
            Some((pin, before)) => digest(&pin).is_none_or(|now| now == before),
            None => {
                let pin = self.checkpoints.pin().ok().flatten();
                self.pinned = pin.and_then(|pin| digest(&pin).map(|digest| (pin, digest)));
                true
            }
        }
    }

    /// Whether a snapshot may be received: none waits to be put in force.
    pub(crate) fn may_receive(&self, index: Index) -> bool {
        self.staged.is_none()
            && self.checkpoints.latest().is_none_or(|meta| meta.index < index)
            && self.core.faulted().is_none()
    }

    /// A block of the log that is durable.
    pub(crate) fn watermark(&self) -> u64 {
        self.reader.durable_lsn()
    }

    /// A snapshot has come whole, and is durable.
    pub(crate) fn staged(&mut self, now: Duration, from: NodeId, head: Bytes, staged: Staged) {
        let meta = staged.meta().clone();
        let index = meta.index;
        self.staged = Some(staged);
        let (mark, state) = (meta.mark, meta.state);
        self.core.input(Input::SnapshotStaged { from, index, mark, state, head });
        self.turn(now);
        if !self.copies.was_reset(index) {
            // The engine does not want it.
            self.staged = None;
        }
    }

    pub(crate) fn wants_install(&self) -> bool {
        self.install.is_some()
    }

    /// Puts the staged snapshot in force, after the checkpoint that is under way.
    pub(crate) fn step_install(&mut self, now: Duration) {
        self.step_checkpoint(now);
        let (Some(index), None) = (self.install.take(), self.core.faulted()) else { return };
        let staged = self.staged.take().expect("what was reset to is staged");
        assert_eq!(staged.meta().index, index, "the staged snapshot is the one that is wanted");
        let pinned = self.checkpoints.install(staged).and_then(|_| self.checkpoints.pin());
        match pinned {
            Ok(pin) => {
                let mut recovered = RecoveredCheckpoint::new(pin.expect("it was installed"));
                if let Err(error) = self.core.installed(now, recovered.stored()) {
                    self.fail(error.to_string());
                }
            }
            Err(error) => self.fail(error.to_string()),
        }
        self.turn(now);
    }

    // ----- readers

    pub(crate) fn has_fetch(&self) -> bool {
        !self.fetches.is_empty()
    }

    /// Reads the log for whoever waits for it.
    pub(crate) fn step_fetch(&mut self, now: Duration) {
        let Some(fetch) = self.fetches.pop_front() else { return };
        let fetched = match self.reader.read(LOG_GROUP, fetch.range, fetch.bytes_max) {
            Ok(entries) => Fetched::Entries(entries),
            Err(LogError::Trimmed { first }) => Fetched::Trimmed(first),
            Err(error) => return self.fail(error.to_string()),
        };
        self.core.fetched(fetch.reader, fetched, &mut self.effects);
        self.turn(now);
    }

    /// What an auditor is given: the mark of the checkpoint, and what is decided in the log, with its proofs.
    pub(crate) fn history(&self) -> Result<History, LogError> {
        let mark = self.checkpoints.latest().map(|meta| meta.mark);
        let read = |first| self.reader.read(LOG_GROUP, first..Index::MAX, usize::MAX);
        let log = match read(1) {
            Err(LogError::Trimmed { first }) => read(first),
            read => read,
        };
        let log = log?.into_iter().take_while(|(_, proof)| !proof.is_empty()).collect();
        Ok((mark, log))
    }

    // ----- what is known

    /// Whether nothing is on its way to the disk or back.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.written && !self.log.wants_commit() && self.fetches.is_empty() && self.job.is_none()
    }

    pub(crate) fn wake_at(&self, now: Duration) -> Option<Duration> {
        self.core.wake_at(now)
    }

    pub(crate) fn faulted(&self) -> Option<&str> {
        self.core.faulted()
    }

    pub(crate) fn status(&self) -> GroupStatus {
        self.core.status()
    }

    /// Ends without a word, as a process that is killed: nothing is tidied up on its disk. What its log held.
    pub(crate) fn end(mut self, disk: &SimDisk) -> Copies {
        let copies = std::mem::take(&mut self.copies);
        untouched(disk, self);
        copies
    }

    /// Closes in order.
    pub(crate) fn close(mut self) -> Result<(), LogError> {
        self.core.close(&mut self.effects);
        self.log.close().map(drop)
    }
}

/// Forgets what was said of what is not decided, or what it was said of.
fn forget(log: &mut Recovered, (notes, candidates): (bool, bool)) {
    if notes {
        log.notes.clear();
    }
    if candidates {
        let decided: BTreeSet<_> = log.decided.iter().map(|(index, ..)| *index).collect();
        log.entries.retain(|entry| decided.contains(&entry.index));
    }
}

/// A digest of everything in a checkpoint; none if the disk failed.
fn digest(pin: &Pin) -> Option<u64> {
    const PAIRS_MAX: usize = 1000;
    const BYTES_MAX: usize = 1 << 20;
    let mut hasher = DefaultHasher::new();
    let mut last: Option<Bytes> = None;
    loop {
        let from = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let pairs = pin.read_machine(from, PAIRS_MAX, BYTES_MAX).ok()?;
        let Some((key, _)) = pairs.last() else { return Some(hasher.finish()) };
        last = Some(key.clone());
        pairs.hash(&mut hasher);
    }
}

/// Drops something that would tidy up on a disk, and lets it do nothing there.
pub(crate) fn untouched<T>(disk: &SimDisk, it: T) {
    disk.set_read_only(true);
    drop(it);
    disk.set_read_only(false);
}
