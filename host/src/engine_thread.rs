//! The thread that owns the cores: it takes what has arrived, lets the cores that it concerns turn, and does what they
//! want.
//!
//! Only groups with work are visited: those that a command named, and those whose time has come. A group without either
//! costs nothing.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use quorate_engine::engine::{Admin, Input, LogWrite};
use quorate_engine::{
    Answer, Effects, FetchFor, Fetched, HashedFrame, HostCore, MemberList, Packet, ProvedBatch,
    RecoveredCheckpoint, SubscriptionId, panic_words,
};
use quorate_replicator::{
    AdminError, Clock, Consistency, Cursor, DecidedBatch, FrameId, NodeId, ProposeError, ReadError,
    Scope,
};
use quorate_storage::{Group, Index, LogError, Record, Seq};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::files::Files;
use crate::network::Network;
use crate::shared::Shared;
use crate::snapshots::SnapshotReport;
use crate::waiters::{
    AdminAnswer, DecisionAnswer, News, ProposeAnswer, ProposeManyAnswer, ReadAnswer, Subscriber,
    Waiters,
};
use crate::workers::{CheckpointWork, FetchJob, Worker};

/// How soon to look again whether a full disk has room.
const ROOM_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// What the engine thread is asked or told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Something for one group, by its place.
    Group(usize, ForGroup),
    /// Frames of several groups, which are admitted all or none.
    ProposeSpread(Vec<SpreadPart>, Duration),
    /// A packet of another node, and its share of what may wait.
    Packet(NodeId, usize, Packet, OwnedSemaphorePermit),
    LogFailed(String),
    Close,
}

impl Command {
    /// Tells who asked that nothing was done. A caller whose command is dropped without a word cannot know.
    fn came_too_late(self) {
        let closed = ProposeError::Closed { submitted: false };
        // Whoever does not wait any more need not know.
        match self {
            Self::Group(_, ForGroup::Propose(_, _, who)) => drop(who.send(Err(closed))),
            Self::Group(_, ForGroup::ProposeMany(_, _, who)) => drop(who.send(Err(closed))),
            Self::Group(_, ForGroup::Admin(_, _, who)) => drop(who.send(Err(AdminError::Closed))),
            Self::ProposeSpread(parts, _) => {
                parts.into_iter().for_each(|part| drop(part.who.send(Err(closed.clone()))));
            }
            _ => {}
        }
    }
}

/// What one group is asked or told.
#[derive(Debug)]
pub(crate) enum ForGroup {
    Propose(HashedFrame, Duration, oneshot::Sender<ProposeAnswer>),
    ProposeMany(Vec<HashedFrame>, Duration, oneshot::Sender<ProposeManyAnswer>),
    Read(Consistency, Duration, oneshot::Sender<ReadAnswer>),
    Decision(FrameId, Duration, oneshot::Sender<DecisionAnswer>),
    Subscribe(Scope, Cursor, Subscriber),
    Admin(Admin, Duration, oneshot::Sender<AdminAnswer>),
    Decided(Index, oneshot::Sender<Result<ProvedBatch, ReadError>>),
    MemberBatches(Index, oneshot::Sender<Result<Vec<DecidedBatch>, ReadError>>),
    Handled(SubscriptionId),
    Unsubscribe(SubscriptionId),
    Durable(Seq),
    Checkpointed(u64, Result<(), String>),
    Fetched(FetchFor, Result<Fetched, String>),
    Snapshot(SnapshotReport),
    Installed(Result<Box<RecoveredCheckpoint>, String>),
}

/// What one group is to take of frames that are spread over several.
#[derive(Debug)]
pub(crate) struct SpreadPart {
    pub(crate) group: usize,
    pub(crate) frames: Vec<HashedFrame>,
    pub(crate) who: oneshot::Sender<ProposeManyAnswer>,
}

/// One group on this thread.
#[derive(Debug)]
pub(crate) struct GroupSlot {
    pub(crate) core: HostCore<Waiters>,
    effects: Effects<Waiters>,
    subscribers: HashMap<SubscriptionId, mpsc::UnboundedSender<News>>,
    /// Writes that the log had no room for, in order. The engine's window bounds them.
    backlog: VecDeque<LogWrite>,
    members: MemberList,
    /// The engine was told of this snapshot, and must want it in its next turn.
    staged: Option<Index>,
    /// When it must turn without being told anything.
    wake: Option<Duration>,
    /// It is to turn in this round.
    is_due: bool,
}

impl GroupSlot {
    pub(crate) fn new(core: HostCore<Waiters>) -> Self {
        Self {
            core,
            effects: Effects::default(),
            subscribers: HashMap::new(),
            backlog: VecDeque::new(),
            members: MemberList::default(),
            staged: None,
            wake: None,
            is_due: false,
        }
    }
}

impl GroupSlot {
    /// Gives back the memory of a group that sleeps.
    fn rest(&mut self) {
        self.core.rest();
        self.effects = Effects::default();
        self.backlog.shrink_to_fit();
        self.subscribers.shrink_to_fit();
    }
}

/// Everything that the thread owns.
#[derive(Debug)]
pub(crate) struct EngineThread {
    pub(crate) groups: Vec<GroupSlot>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) files: Files,
    /// None on a node that keeps no checkpoints.
    pub(crate) checkpoints: Option<Worker<CheckpointWork>>,
    pub(crate) fetches: Worker<FetchJob>,
    /// None on a node without peers.
    pub(crate) network: Option<Network>,
    /// Groups that turn in the next round.
    pub(crate) due: Vec<usize>,
    /// When groups wake by themselves.
    pub(crate) wakes: BTreeSet<(Duration, usize)>,
    /// The log refused a write for want of space.
    pub(crate) no_room: bool,
    /// What the cores were told of the disk.
    pub(crate) full: bool,
}

impl EngineThread {
    /// Runs until it is told to close. A panic here is a bug of the host: the node counts as stopped, and nobody waits
    /// for a thread that is gone.
    pub(crate) fn run(self) {
        let shared = Arc::clone(&self.shared);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.serve())) {
            let cause =
                format!("the engine thread panicked: {}; this is a bug", panic_words(&*panic));
            shared.seen().fault = Some(cause.clone());
            shared.inbox.close().into_iter().for_each(Command::came_too_late);
            shared.listeners.end();
            shared.closed.send_replace(Some(Err(cause)));
        }
    }

    fn serve(mut self) {
        let mut commands = Vec::new();
        let mut closing = false;
        (0..self.groups.len()).for_each(|group| self.wake(group));
        while !closing {
            let now = self.clock.now();
            for command in commands.drain(..) {
                closing |= matches!(command, Command::Close);
                self.take(now, command);
            }
            self.look_for_room();
            self.look_at_peers(now);
            while let Some((_, group)) = self.wakes.first().filter(|(at, _)| *at <= now).copied() {
                self.wake(group);
            }
            if closing {
                self.shared.seen().closing = true;
            }
            for group in std::mem::take(&mut self.due) {
                self.turn(now, group);
            }
            if closing {
                break;
            }
            self.shared.inbox.take(&mut commands, self.wait());
        }
        self.end();
    }

    /// How long nothing is to be done unless a command comes.
    fn wait(&self) -> Option<Duration> {
        if !self.due.is_empty() {
            return Some(Duration::ZERO);
        }
        let wake = self.wakes.first().map(|(at, _)| *at);
        let network = self.network.as_ref().map(Network::wake_at);
        let wake = [wake, network].into_iter().flatten().min();
        let wake = wake.map(|at| at.saturating_sub(self.clock.now()));
        // Nobody wakes this thread when there is room again.
        if self.full || self.groups.iter().any(|slot| !slot.backlog.is_empty()) {
            return Some(wake.map_or(ROOM_AGAIN_AFTER, |wake| wake.min(ROOM_AGAIN_AFTER)));
        }
        wake
    }

    /// Lets a group turn in this round.
    fn wake(&mut self, group: usize) {
        let slot = &mut self.groups[group];
        if let Some(at) = slot.wake.take() {
            self.wakes.remove(&(at, group));
        }
        if !std::mem::replace(&mut slot.is_due, true) {
            self.due.push(group);
        }
    }

    fn wake_all(&mut self) {
        (0..self.groups.len()).for_each(|group| self.wake(group));
    }

    fn turn(&mut self, now: Duration, group: usize) {
        let slot = &mut self.groups[group];
        slot.is_due = false;
        let again = slot.core.turn(now, &mut slot.effects);
        self.show(group);
        let failed = self.perform(now, group);
        if let Err(cause) = failed {
            self.fail_all(&cause);
        } else if again {
            self.wake(group);
        }
        let has_many = self.groups.len() > 1;
        let slot = &mut self.groups[group];
        if !slot.is_due {
            slot.wake = slot.core.wake_at(now);
            match slot.wake {
                Some(at) => {
                    self.wakes.insert((at, group));
                }
                // With one group, what it has it needs again.
                None if has_many => slot.rest(),
                None => {}
            }
        }
    }

    fn take(&mut self, now: Duration, command: Command) {
        match command {
            Command::Group(group, what) => {
                self.wake(group);
                self.take_of_group(now, group, what);
            }
            Command::ProposeSpread(parts, deadline) => self.propose_spread(parts, deadline),
            Command::Packet(from, group, packet, permit) => {
                if let Some(network) = &mut self.network
                    && network.heard(from, now)
                {
                    self.tell_peer(from, true);
                }
                if let Packet::Alive(members) = packet {
                    // That the process is there is no work for the group.
                    if let Some(network) = &mut self.network {
                        network.told(now, from, members);
                    }
                } else {
                    self.wake(group);
                    let slot = &mut self.groups[group];
                    slot.core.packet(now, from, packet, &mut slot.effects);
                }
                drop(permit);
            }
            Command::LogFailed(cause) => self.fail_all(&cause),
            Command::Close => {
                self.wake_all();
                for slot in &mut self.groups {
                    slot.core.close(&mut slot.effects);
                }
            }
        }
    }

    fn take_of_group(&mut self, now: Duration, group: usize, what: ForGroup) {
        let GroupSlot { core, effects, subscribers, staged, .. } = &mut self.groups[group];
        match what {
            ForGroup::Propose(frame, deadline, who) => core.propose(frame, deadline, who, effects),
            ForGroup::ProposeMany(frames, deadline, who) => {
                core.propose_many(frames, deadline, who, effects);
            }
            ForGroup::Read(level, deadline, who) => core.read(now, level, deadline, who, effects),
            ForGroup::Decision(id, deadline, who) => core.decision(id, deadline, who, effects),
            ForGroup::Subscribe(scope, from, who) => core.subscribe(scope, &from, who, effects),
            ForGroup::Admin(admin, deadline, who) => core.admin(admin, deadline, who, effects),
            // Whoever does not wait any more has dropped the other half.
            ForGroup::Decided(index, who) => drop(who.send(Ok(core.decided(index)))),
            ForGroup::MemberBatches(after, who) => drop(who.send(Ok(core.member_batches(after)))),
            ForGroup::Handled(id) => core.handled(id),
            ForGroup::Unsubscribe(id) => {
                subscribers.remove(&id);
                core.unsubscribe(id);
            }
            ForGroup::Durable(seq) => core.durable(seq),
            ForGroup::Checkpointed(index, Ok(())) => core.checkpointed(now, index, effects),
            ForGroup::Checkpointed(index, Err(cause)) => {
                core.fail(
                    format!("the checkpoint at index {index} could not be stored: {cause}"),
                    effects,
                );
            }
            ForGroup::Fetched(reader, Ok(fetched)) => core.fetched(reader, fetched, effects),
            ForGroup::Fetched(_, Err(cause)) => core.fail(cause, effects),
            ForGroup::Snapshot(report) => {
                if let SnapshotReport::Staged { index, .. } = &report {
                    *staged = Some(*index);
                }
                core.input(report.into_input());
            }
            ForGroup::Installed(Ok(mut stored)) => {
                if let Err(error) = core.installed(now, stored.stored()) {
                    core.fail(error.to_string(), effects);
                }
            }
            ForGroup::Installed(Err(cause)) => {
                core.fail(format!("a snapshot could not be put in force: {cause}"), effects);
            }
        }
    }

    /// Frames of several groups: all of them are admitted or none.
    fn propose_spread(&mut self, parts: Vec<SpreadPart>, deadline: Duration) {
        let refused =
            parts.iter().find_map(|part| self.groups[part.group].core.admits(&part.frames).err());
        for SpreadPart { group, frames, who } in parts {
            if let Some(error) = &refused {
                let _ = who.send(Err(ProposeError::clone(error)));
                continue;
            }
            self.wake(group);
            let GroupSlot { core, effects, .. } = &mut self.groups[group];
            core.propose_many(frames, deadline, who, effects);
        }
    }

    fn fail_all(&mut self, cause: &str) {
        self.wake_all();
        for slot in &mut self.groups {
            slot.core.fail(cause, &mut slot.effects);
        }
    }

    /// Tells the cores whether the disk has room for what may come.
    fn look_for_room(&mut self) {
        let full = self.no_room || self.files.log.is_full();
        if full != self.full {
            self.full = full;
            self.shared.seen().full = full;
            self.wake_all();
            for slot in &mut self.groups {
                slot.core.storage_full(full, &mut slot.effects);
            }
        }
        if (0..self.groups.len()).any(|group| !self.groups[group].backlog.is_empty()) {
            self.no_room = false;
            for group in 0..self.groups.len() {
                if let Err(cause) = self.write(group) {
                    return self.fail_all(&cause);
                }
            }
        }
    }

    /// Says that this process is there, and looks who else is.
    fn look_at_peers(&mut self, now: Duration) {
        let Some(network) = &mut self.network else { return };
        for gone in network.look(now) {
            self.tell_peer(gone, false);
        }
    }

    fn tell_peer(&mut self, node: NodeId, alive: bool) {
        self.wake_all();
        for slot in &mut self.groups {
            slot.core.input(Input::Peer { node, alive });
        }
    }

    /// Shows what the core knows; before its answers go out, so that whoever has an answer sees no older state.
    fn show(&self, group: usize) {
        let core = &self.groups[group].core;
        self.shared.seen().show(group, core.status(), core.is_ready(), core.faulted());
    }

    /// Does what the core wants. An error is of the log, which ends every group.
    fn perform(&mut self, now: Duration, group: usize) -> Result<(), String> {
        let slot = &mut self.groups[group];
        let (core, effects) = (&mut slot.core, &mut slot.effects);
        match &mut self.network {
            Some(network) => {
                if let Some(index) = slot.staged.take()
                    && !effects.writes.iter().any(|write| resets(write, index))
                {
                    network.discard_snapshot(group, index);
                }
                for sent in effects.sends.drain(..) {
                    network.send(group, &sent);
                }
                for (to, index, head) in effects.snapshots.drain(..) {
                    network.send_snapshot(group, to, index, head);
                }
            }
            // It must not be dropped silently: an engine that asks for it would wait for ever.
            None if !effects.sends.is_empty()
                || !effects.snapshots.is_empty()
                || effects.install.is_some() =>
            {
                let driver = core.driver();
                core.fail(
                    format!("driver {driver} speaks with other nodes, and this node was opened without a transport; configure one"),
                    effects,
                );
            }
            None => {}
        }
        slot.backlog.extend(effects.writes.drain(..));
        for event in effects.events.drain(..) {
            self.shared.listeners.tell(&event);
        }
        let written = self.write(group);
        let slot = &mut self.groups[group];
        if let Some(members) = slot.effects.members.take() {
            slot.members = members;
            self.tell_members(now);
        }
        let slot = &mut self.groups[group];
        for fetch in slot.effects.fetches.drain(..) {
            self.fetches.give((group, fetch));
        }
        if let (Some(index), Some(worker)) = (slot.effects.install.take(), &self.checkpoints) {
            worker.give(CheckpointWork::Install(group, index));
        }
        if let (Some(job), Some(worker)) = (slot.effects.checkpoint.take(), &self.checkpoints) {
            worker.give(CheckpointWork::Store(group, job));
        }
        for answer in slot.effects.answers.drain(..) {
            give(&mut slot.core, &mut slot.subscribers, answer);
        }
        for chunk in slot.effects.chunks.drain(..) {
            let id = chunk.subscription;
            tell(&mut slot.core, &mut slot.subscribers, id, News::Chunk(chunk));
        }
        for (id, over) in slot.effects.over.drain(..) {
            tell(&mut slot.core, &mut slot.subscribers, id, News::Over(over));
            slot.subscribers.remove(&id);
        }
        written
    }

    /// Lets the transport reach the members of every group.
    fn tell_members(&mut self, now: Duration) {
        let Some(network) = &mut self.network else { return };
        network.members(now, MemberList::of_all(self.groups.iter().map(|slot| &slot.members)));
    }

    /// Gives the log what it has room for.
    fn write(&mut self, group: usize) -> Result<(), String> {
        let backlog = &mut self.groups[group].backlog;
        if backlog.is_empty() {
            return Ok(());
        }
        let writes: Vec<_> = backlog.iter().map(|w| (w.seq, w.flush, w.record.clone())).collect();
        let number = u32::try_from(group).expect("groups are counted in 32 bits");
        match self.files.log.try_submit(Group::new(number), writes) {
            Ok(()) => {
                backlog.clear();
                self.no_room = false;
            }
            Err(LogError::Full) => self.no_room = true,
            // It is taken when what is queued before it has become durable.
            Err(LogError::Overloaded { .. }) => {}
            Err(error) => return Err(error.to_string()),
        }
        Ok(())
    }

    /// Ends everything in order and says so.
    fn end(self) {
        let Self { groups, shared, files, checkpoints, fetches, network, .. } = self;
        let fault = groups.iter().find_map(|slot| slot.core.faulted());
        let mut outcome = fault.map_or(Ok(()), |cause| Err(cause.to_owned()));
        // Nothing of the network may come any more, and nothing it began may go on with the files.
        if let Some(network) = network {
            network.close();
        }
        drop(groups);
        shared.inbox.close().into_iter().for_each(Command::came_too_late);
        let mut joined = fetches.join();
        joined &= checkpoints.is_none_or(Worker::join);
        let closed = files.close();
        outcome = outcome.and(closed);
        if !joined {
            outcome = outcome.and_then(|()| Err("a thread panicked; this is a bug".into()));
        }
        shared.listeners.end();
        shared.closed.send_replace(Some(outcome));
    }
}

fn resets(write: &LogWrite, index: Index) -> bool {
    matches!(&write.record, Record::Reset { index: reset, .. } if *reset == index)
}

fn give(
    core: &mut HostCore<Waiters>,
    subscribers: &mut HashMap<SubscriptionId, mpsc::UnboundedSender<News>>,
    answer: Answer<Waiters>,
) {
    // Whoever does not wait any more has dropped the other half; the frame's decision stands all the same.
    match answer {
        Answer::Propose(who, answer) => drop(who.send(answer)),
        Answer::ProposeMany(who, answer) => drop(who.send(answer)),
        Answer::Read(who, answer) => drop(who.send(answer)),
        Answer::Decision(who, answer) => drop(who.send(answer)),
        Answer::Admin(who, answer) => drop(who.send(answer)),
        Answer::Subscribe(Subscriber { begun, news }, answer) => {
            let id = answer.as_ref().ok().copied();
            let wanted = begun.send(answer).is_ok();
            if let Some(id) = id {
                if wanted {
                    subscribers.insert(id, news);
                } else {
                    core.unsubscribe(id);
                }
            }
        }
    }
}

fn tell(
    core: &mut HostCore<Waiters>,
    subscribers: &mut HashMap<SubscriptionId, mpsc::UnboundedSender<News>>,
    id: SubscriptionId,
    news: News,
) {
    let gone = subscribers.get(&id).is_none_or(|subscriber| subscriber.send(news).is_err());
    if gone {
        subscribers.remove(&id);
        core.unsubscribe(id);
    }
}
