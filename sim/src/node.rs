//! One life of a node: what a shell does with threads, done in steps.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use quorate_driver_local::{Local, LocalConfig};
use quorate_engine::{
    Answer, Callers, CheckpointJob, CheckpointPolicy, CoreConfig, Effects, Fetch, Fetched,
    HashedFrame, HostCore, RecoveredCheckpoint, Retain, Start, Stores, StoresConfig,
    SubscriptionId,
};
use quorate_replicator::{
    Accepted, Consistency, Cursor, Decision, Frame, FrameId, GroupId, GroupStatus, NodeId,
    OpenError, Position, ProposeError, ReadError, Scope, SubscribeError,
};
use quorate_shard::Shards;
use quorate_storage::{
    CheckpointStore, DataDir, DataMode, Disk, Group, Health, Identity, Log, LogConfig, LogError,
    LogReader, SimDisk,
};

/// The only group.
const GROUP: Group = Group::new(0);

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
    Proposed(u64, Result<Decision, ProposeError>),
    Read(Result<Position, ReadError>),
    Decided(u64, Result<Decision, ReadError>),
    Subscribed(Result<SubscriptionId, SubscribeError>),
    Accepted(Vec<Accepted>, Position),
}

/// What differs between two scenarios and never within one: limits that all lives of a node share.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) checkpoint_bytes: u64,
    pub(crate) retain_bytes: u64,
    pub(crate) session_idle_ms: u64,
    pub(crate) unsettled_max: usize,
    pub(crate) batches_in_flight: u32,
}

#[derive(Debug)]
pub(crate) struct Node {
    core: HostCore<Numbers>,
    effects: Effects<Numbers>,
    log: Log,
    reader: LogReader,
    checkpoints: CheckpointStore,
    job: Option<CheckpointJob>,
    fetches: VecDeque<Fetch>,
    /// A block is written and not synced.
    written: bool,
    full: bool,
    pub(crate) news: Vec<News>,
    pub(crate) shards: Shards,
    /// Dropped last: it holds the lock.
    _directory: DataDir,
}

impl Node {
    pub(crate) fn open(
        disk: &SimDisk,
        settings: &Settings,
        now: Duration,
    ) -> Result<Self, OpenError> {
        let identity = Identity { cluster: [1; 16], node: 1, driver: "local".into(), groups: 1 };
        let config = StoresConfig {
            group: GROUP,
            store: [2; 16],
            mode: DataMode::Create,
            log: LogConfig::small(),
            checkpoint_cache_bytes: 64 << 10,
        };
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let stores = Stores::open(disk, "sim", &identity, config)?;
        let mut checkpoint = stores.checkpoint()?;
        let Stores { directory, checkpoints, log, recovered } = stores;
        let (machine, shards) = Shards::builder().build();
        let start = Start {
            members: vec![NodeId::new(1)],
            incarnation: directory.store(),
            seed: 1,
            machine: Box::new(machine),
            checkpoint: checkpoint.as_mut().map(RecoveredCheckpoint::stored),
            log: recovered,
        };
        let mut core_config = CoreConfig::new(GroupId::new(0), NodeId::new(1));
        core_config.checkpoint = CheckpointPolicy {
            log_bytes: settings.checkpoint_bytes,
            interval: Duration::from_secs(5),
            stored: true,
        };
        core_config.retain = Retain { bytes: settings.retain_bytes, age: Duration::ZERO };
        core_config.sessions.idle_ms = settings.session_idle_ms;
        core_config.sessions.unsettled_max = settings.unsettled_max;
        let mut local = LocalConfig::default();
        local.batches_in_flight = settings.batches_in_flight;
        let core = HostCore::open(core_config, &Local, &local, start, now)?;
        let reader = log.reader();
        Ok(Self {
            core,
            effects: Effects::default(),
            log,
            reader,
            checkpoints,
            job: None,
            fetches: VecDeque::new(),
            written: false,
            full: false,
            news: Vec::new(),
            shards,
            _directory: directory,
        })
    }

    pub(crate) fn propose(&mut self, frame: Frame, deadline: Duration, who: u64) {
        self.core.propose(HashedFrame::from(frame), deadline, who, &mut self.effects);
    }

    pub(crate) fn read(&mut self, now: Duration, deadline: Duration) {
        self.core.read(now, Consistency::Linearizable, deadline, 0, &mut self.effects);
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

    /// Turns until nothing more can be done without the disk.
    pub(crate) fn turn(&mut self, now: Duration) {
        loop {
            let again = self.core.turn(now, &mut self.effects);
            self.perform();
            if !again {
                break;
            }
        }
        let full = self.log.health() == Health::Full;
        if full != self.full {
            self.full = full;
            self.core.storage_full(full, &mut self.effects);
        }
    }

    fn perform(&mut self) {
        let effects = std::mem::take(&mut self.effects);
        if !effects.writes.is_empty() {
            let writes = effects.writes.into_iter().map(|w| (w.seq, w.flush, w.record)).collect();
            match self.log.submit(GROUP, writes) {
                Ok(()) => {}
                // A real shell keeps what a full log does not take; here the scenario ends the life of the node.
                Err(error) => self.core.fail(error.to_string(), &mut self.effects),
            }
        }
        for answer in effects.answers {
            self.news.push(match answer {
                Answer::Propose(who, answer) => News::Proposed(who, answer),
                Answer::ProposeMany(..) => unreachable!("the scenario proposes one by one"),
                Answer::Read(_, answer) => News::Read(answer),
                Answer::Decision(who, answer) => News::Decided(who, answer),
                Answer::Subscribe(_, answer) => News::Subscribed(answer),
                Answer::Admin(..) => unreachable!("the scenario has one node"),
            });
        }
        for chunk in effects.chunks {
            self.news.push(News::Accepted(chunk.frames, chunk.reached));
        }
        self.fetches.extend(effects.fetches);
        if let Some(job) = effects.checkpoint {
            self.job = Some(job);
        }
    }

    /// One step of the log's work: half a commit, or some maintenance.
    pub(crate) fn step_log(&mut self, now: Duration) {
        let stepped = if self.written {
            self.written = false;
            self.log.commit_sync().map(|durable| {
                for (_, seq) in durable {
                    self.core.durable(seq);
                }
            })
        } else if self.log.wants_commit() {
            self.log.commit_write().map(|written| self.written = written)
        } else {
            self.log.maintain().map(drop)
        };
        match stepped {
            Ok(()) | Err(LogError::Full) => {}
            Err(error) => self.core.fail(error.to_string(), &mut self.effects),
        }
        self.turn(now);
    }

    /// Stores the checkpoint that is waiting, if one is; true if it was stored.
    pub(crate) fn step_checkpoint(&mut self, now: Duration) -> bool {
        let Some(job) = self.job.take() else { return false };
        let index = job.index;
        let stored = self.checkpoints.write(job.into_write(self.reader.durable_lsn()));
        match stored {
            Ok(()) => self.core.checkpointed(now, index, &mut self.effects),
            Err(error) => self.core.fail(error.to_string(), &mut self.effects),
        }
        self.turn(now);
        self.core.faulted().is_none()
    }

    /// Reads the log for the subscriber that waits for it.
    pub(crate) fn step_fetch(&mut self, now: Duration) {
        let Some(fetch) = self.fetches.pop_front() else { return };
        let fetched = match self.reader.read(GROUP, fetch.range, fetch.bytes_max) {
            Ok(entries) => Fetched::Entries(entries),
            Err(LogError::Trimmed { first }) => Fetched::Trimmed(first),
            Err(error) => return self.core.fail(error.to_string(), &mut self.effects),
        };
        self.core.fetched(fetch.reader, fetched, &mut self.effects);
        self.turn(now);
    }

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

    /// Closes in order.
    pub(crate) fn close(mut self) -> Result<(), LogError> {
        self.core.close(&mut self.effects);
        self.log.close().map(drop)
    }
}
