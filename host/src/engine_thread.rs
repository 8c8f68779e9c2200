//! The thread that owns a core: it takes what has arrived, lets the core turn, and does what the core wants.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_engine::engine::LogWrite;
use quorate_engine::{
    Answer, CheckpointJob, Effects, Fetch, FetchFor, Fetched, HashedFrame, HostCore,
    SubscriptionId, panic_words,
};
use quorate_replicator::{Clock, Consistency, Cursor, FrameId, GroupStatus, Health, Scope};
use quorate_storage::{Group, LogError, Seq};
use tokio::sync::{mpsc, oneshot, watch};

use crate::files::Files;
use crate::inbox::Inbox;
use crate::listeners::Listeners;
use crate::waiters::{News, Subscriber, Waiters};
use crate::workers::Worker;

/// How soon to look again whether a full disk has room.
const ROOM_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// What the engine thread is asked or told.
#[derive(Debug)]
pub(crate) enum Command {
    Propose(HashedFrame, Duration, oneshot::Sender<ProposeAnswer>),
    ProposeMany(Vec<HashedFrame>, Duration, oneshot::Sender<ProposeManyAnswer>),
    Read(Consistency, Duration, oneshot::Sender<ReadAnswer>),
    Decision(FrameId, Duration, oneshot::Sender<DecisionAnswer>),
    Subscribe(Scope, Cursor, Subscriber),
    Handled(SubscriptionId),
    Unsubscribe(SubscriptionId),
    Durable(Seq),
    LogFailed(String),
    Checkpointed(u64, Result<(), String>),
    Fetched(FetchFor, Result<Fetched, String>),
    Close,
}

type ProposeAnswer = Result<quorate_replicator::Decision, quorate_replicator::ProposeError>;
type ProposeManyAnswer =
    Result<Vec<quorate_replicator::Decision>, quorate_replicator::ProposeError>;
type ReadAnswer = Result<quorate_replicator::Position, quorate_replicator::ReadError>;
type DecisionAnswer = Result<quorate_replicator::Decision, quorate_replicator::ReadError>;

/// What other threads may look at.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) inbox: Arc<Inbox<Command>>,
    pub(crate) listeners: Listeners,
    pub(crate) closing: watch::Sender<bool>,
    /// How the node ended, once nothing of it runs any more.
    pub(crate) closed: watch::Sender<Option<Result<(), String>>>,
    seen: Mutex<Seen>,
}

/// What the core knew at the end of its last turn.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) health: Health,
    pub(crate) group: GroupStatus,
}

impl Shared {
    pub(crate) fn new(inbox: Arc<Inbox<Command>>, group: GroupStatus) -> Self {
        let health = Health::Waiting { reason: "the log is being replayed".into() };
        Self {
            inbox,
            listeners: Listeners::default(),
            closing: watch::Sender::new(false),
            closed: watch::Sender::new(None),
            seen: Mutex::new(Seen { health, group }),
        }
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        // It is replaced in one step.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything that the thread owns.
#[derive(Debug)]
pub(crate) struct EngineThread {
    pub(crate) core: HostCore<Waiters>,
    pub(crate) group: Group,
    pub(crate) shared: Arc<Shared>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) files: Files,
    pub(crate) checkpoints: Option<Worker<CheckpointJob>>,
    pub(crate) fetches: Worker<Fetch>,
    pub(crate) subscribers: HashMap<SubscriptionId, mpsc::UnboundedSender<News>>,
    /// Writes that the log had no room for, in order. The engine's window bounds them.
    pub(crate) backlog: VecDeque<LogWrite>,
    /// The log refused a write for want of space.
    pub(crate) no_room: bool,
    /// What the core was told of the disk.
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
            shared.seen().health = Health::Faulted { cause: cause.clone() };
            drop(shared.inbox.close());
            shared.listeners.end();
            shared.closed.send_replace(Some(Err(cause)));
        }
    }

    fn serve(mut self) {
        let mut commands = Vec::new();
        let mut effects = Effects::default();
        let mut closing = false;
        while !closing {
            let now = self.clock.now();
            for command in commands.drain(..) {
                closing |= matches!(command, Command::Close);
                self.take(now, command, &mut effects);
            }
            let again = self.core.turn(now, &mut effects);
            self.look_for_room(&mut effects);
            self.show(closing);
            let failed = self.perform(&mut effects);
            if closing {
                break;
            }
            let wait = if again || failed {
                Some(Duration::ZERO)
            } else {
                let wake = self.core.wake_at(now).map(|at| at.saturating_sub(self.clock.now()));
                // Nobody wakes this thread when there is room again.
                if self.full || !self.backlog.is_empty() {
                    Some(wake.map_or(ROOM_AGAIN_AFTER, |wake| wake.min(ROOM_AGAIN_AFTER)))
                } else {
                    wake
                }
            };
            self.shared.inbox.take(&mut commands, wait);
        }
        self.end();
    }

    fn take(&mut self, now: Duration, command: Command, effects: &mut Effects<Waiters>) {
        let core = &mut self.core;
        match command {
            Command::Propose(frame, deadline, who) => core.propose(frame, deadline, who, effects),
            Command::ProposeMany(frames, deadline, who) => {
                core.propose_many(frames, deadline, who, effects);
            }
            Command::Read(level, deadline, who) => core.read(now, level, deadline, who, effects),
            Command::Decision(id, deadline, who) => core.decision(id, deadline, who, effects),
            Command::Subscribe(scope, from, who) => core.subscribe(scope, &from, who, effects),
            Command::Handled(id) => core.handled(id),
            Command::Unsubscribe(id) => {
                self.subscribers.remove(&id);
                core.unsubscribe(id);
            }
            Command::Durable(seq) => core.durable(seq),
            Command::LogFailed(cause) => core.fail(cause, effects),
            Command::Checkpointed(index, Ok(())) => core.checkpointed(now, index, effects),
            Command::Checkpointed(index, Err(cause)) => {
                core.fail(
                    format!("the checkpoint at index {index} could not be stored: {cause}"),
                    effects,
                );
            }
            Command::Fetched(reader, Ok(fetched)) => core.fetched(reader, fetched, effects),
            Command::Fetched(_, Err(cause)) => core.fail(cause, effects),
            Command::Close => core.close(effects),
        }
    }

    /// Tells the core whether the disk has room for what may come.
    fn look_for_room(&mut self, effects: &mut Effects<Waiters>) {
        let full = self.no_room || self.files.log.is_full();
        if full != self.full {
            self.full = full;
            self.core.storage_full(full, effects);
        }
    }

    /// Shows what the core knows; before its answers go out, so that whoever has an answer sees no older state.
    fn show(&self, closing: bool) {
        let health = match self.core.faulted() {
            Some(cause) => Health::Faulted { cause: cause.into() },
            None if closing => Health::Closed,
            None if self.full => Health::StorageFull,
            None if self.core.is_ready() => Health::Ready,
            None => Health::Waiting {
                reason: "the log is being replayed, or nobody proposes yet".into(),
            },
        };
        *self.shared.seen() = Seen { health, group: self.core.status() };
    }

    /// What the core wants and a node without peers cannot do. It must not be dropped silently: an engine that asks for
    /// it would wait for ever.
    fn cannot(effects: &Effects<Waiters>) -> Option<&'static str> {
        if !effects.sends.is_empty() {
            Some("sends messages to other nodes")
        } else if !effects.snapshots.is_empty() || effects.install.is_some() {
            Some("sends or installs snapshots")
        } else {
            None
        }
    }

    /// Does what the core wants; true if the core must turn at once, because the log failed.
    fn perform(&mut self, effects: &mut Effects<Waiters>) -> bool {
        if let Some(what) = Self::cannot(effects) {
            let driver = self.core.driver();
            self.core.fail(
                format!("driver {driver} {what}, and this host serves engines of one node"),
                effects,
            );
        }
        self.backlog.extend(effects.writes.drain(..));
        let failed = self.write();
        for answer in effects.answers.drain(..) {
            self.answer(answer);
        }
        for chunk in effects.chunks.drain(..) {
            let id = chunk.subscription;
            self.tell(id, News::Chunk(chunk));
        }
        for (id, over) in effects.over.drain(..) {
            self.tell(id, News::Over(over));
            self.subscribers.remove(&id);
        }
        for fetch in effects.fetches.drain(..) {
            self.fetches.give(fetch);
        }
        if let (Some(job), Some(worker)) = (effects.checkpoint.take(), &self.checkpoints) {
            worker.give(job);
        }
        for event in effects.events.drain(..) {
            self.shared.listeners.tell(&event);
        }
        if let Err(cause) = failed {
            self.core.fail(cause, effects);
            return true;
        }
        false
    }

    /// Gives the log what it has room for.
    fn write(&mut self) -> Result<(), String> {
        if self.backlog.is_empty() {
            return Ok(());
        }
        let writes: Vec<_> =
            self.backlog.iter().map(|w| (w.seq, w.flush, w.record.clone())).collect();
        self.no_room = false;
        match self.files.log.try_submit(self.group, writes) {
            Ok(()) => self.backlog.clear(),
            Err(LogError::Full) => self.no_room = true,
            // It is taken when what is queued before it has become durable.
            Err(LogError::Overloaded { .. }) => {}
            Err(error) => return Err(error.to_string()),
        }
        Ok(())
    }

    fn answer(&mut self, answer: Answer<Waiters>) {
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
                        self.subscribers.insert(id, news);
                    } else {
                        self.core.unsubscribe(id);
                    }
                }
            }
        }
    }

    fn tell(&mut self, id: SubscriptionId, news: News) {
        let gone =
            self.subscribers.get(&id).is_none_or(|subscriber| subscriber.send(news).is_err());
        if gone {
            self.subscribers.remove(&id);
            self.core.unsubscribe(id);
        }
    }

    /// Ends everything in order and says so.
    fn end(self) {
        let Self { core, shared, files, checkpoints, fetches, subscribers, .. } = self;
        let mut outcome = core.faulted().map_or(Ok(()), |cause| Err(cause.to_owned()));
        drop(core);
        drop(subscribers);
        // Commands that came too late: dropping them tells their callers.
        drop(shared.inbox.close());
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
