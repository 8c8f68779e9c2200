//! A node: the [`Replicator`] in front of an engine thread.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use quorate_engine::engine::EngineDriver;
use quorate_engine::{
    HashedFrame, HostCore, RecoveredCheckpoint, Start, Stores, checkpoint_position,
};
use quorate_replicator::{
    Clock, CloseError, Consistency, Cursor, Decision, Durability, Env, EventStream, Frame, FrameId,
    GroupId, Handler, Health, NodeId, OpenError, Pinned, Position, ProposeError, ReadError,
    Replicator, Resource, Scope, ShardKey, StateMachine, Status, SubscribeError, Subscription,
};
use quorate_storage::{CheckpointStore, DataMode, Group};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::HostConfig;
use crate::engine_thread::{Command, EngineThread, Shared};
use crate::files::{self, Files};
use crate::inbox::{Inbox, Refused};
use crate::pinned::HostPinned;
use crate::subscriber::{self, Control};
use crate::waiters::Subscriber;
use crate::workers;

/// The group of a node that has one.
const GROUP: GroupId = GroupId::new(0);

/// One node with one group.
#[derive(Debug)]
pub(crate) struct HostNode {
    node: NodeId,
    driver: &'static str,
    durability: Durability,
    clock: Arc<dyn Clock>,
    requests_max: usize,
    shared: Arc<Shared>,
    /// The store itself belongs to the threads, and is closed with them; none if the node keeps no checkpoints.
    checkpoints: Option<Weak<CheckpointStore>>,
    /// Where subscribers' tasks run.
    runtime: Handle,
}

impl HostNode {
    /// Opens the data directory, recovers what is in it, and starts the threads.
    pub(crate) async fn open<D: EngineDriver>(
        driver: &D,
        driver_config: &D::Config,
        config: &HostConfig,
        env: Env,
        machine: Box<dyn StateMachine>,
    ) -> Result<Self, OpenError> {
        let runtime = Handle::current();
        let volatile = env.durability == Durability::Memory;
        let inbox = Arc::new(Inbox::new(config.requests_max));
        let stores = files::open(D::NAME, config, &env, DataMode::Create)?;
        let mut checkpoint = stores.checkpoint()?;
        let Stores { directory, checkpoints, log, recovered } = stores;
        let start = Start {
            members: env.members.clone(),
            incarnation: directory.store(),
            seed: env.seed,
            machine,
            checkpoint: checkpoint.as_mut().map(RecoveredCheckpoint::stored),
            log: recovered,
        };
        let core_config = config.core(GROUP, env.node, volatile);
        let core = HostCore::open(core_config, driver, driver_config, start, env.clock.now())?;
        drop(checkpoint);
        let shared = Arc::new(Shared::new(Arc::clone(&inbox), core.status()));
        let group = Group::new(GROUP.number());
        let thread_failed = |error: std::io::Error| OpenError::Driver {
            driver: D::NAME.into(),
            problem: format!("a thread could not be started: {error}"),
        };
        let reader = log.reader();
        let (files, checkpoints) =
            Files::start(directory, log, checkpoints, env.durability, &inbox)
                .map_err(thread_failed)?;
        let checkpoints = checkpoints.map(Arc::new);
        let fetches =
            workers::fetches(group, reader.clone(), Arc::clone(&inbox)).map_err(thread_failed)?;
        let store = checkpoints.as_ref().map(Arc::downgrade);
        let writer = checkpoints
            .map(|store| workers::checkpoints(store, reader, Arc::clone(&inbox)))
            .transpose()
            .map_err(thread_failed)?;
        let thread = EngineThread {
            core,
            group,
            shared: Arc::clone(&shared),
            clock: Arc::clone(&env.clock),
            files,
            checkpoints: writer,
            fetches,
            subscribers: HashMap::new(),
            backlog: VecDeque::new(),
            no_room: false,
            full: false,
        };
        std::thread::Builder::new()
            .name("quorate-engine".into())
            .spawn(move || thread.run())
            .map_err(thread_failed)?;
        Ok(Self {
            node: env.node,
            driver: D::NAME,
            durability: env.durability,
            clock: env.clock,
            requests_max: config.requests_max,
            shared,
            checkpoints: store,
            runtime,
        })
    }

    fn deadline(&self, within: Duration) -> Duration {
        self.clock.now().saturating_add(within)
    }

    /// Asks the engine thread and waits for its answer.
    async fn ask<T, E>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, E>>) -> Command,
        refused: impl Fn(Refused) -> E,
    ) -> Result<T, E> {
        let (who, answer) = oneshot::channel();
        self.shared.inbox.request(command(who)).map_err(&refused)?;
        answer.await.unwrap_or_else(|_| Err(refused(Refused::Closed)))
    }

    fn propose_refused(&self, refused: Refused) -> ProposeError {
        match refused {
            Refused::Full => ProposeError::Overloaded {
                resource: Resource::Frames,
                limit: self.requests_max as u64,
            },
            Refused::Closed => ProposeError::Closed { submitted: false },
        }
    }

    fn read_refused(&self, refused: Refused) -> ReadError {
        match refused {
            Refused::Full => {
                ReadError::Overloaded { resource: Resource::Reads, limit: self.requests_max as u64 }
            }
            Refused::Closed => ReadError::Closed,
        }
    }
}

#[async_trait]
impl Replicator for HostNode {
    async fn propose(&self, frame: Frame, within: Duration) -> Result<Decision, ProposeError> {
        let deadline = self.deadline(within);
        // Hashed here, on the caller's thread, which there may be many of.
        let frame = HashedFrame::from(frame);
        self.ask(
            |who| Command::Propose(frame, deadline, who),
            |refused| self.propose_refused(refused),
        )
        .await
    }

    async fn propose_many(
        &self,
        frames: Vec<Frame>,
        within: Duration,
    ) -> Result<Vec<Decision>, ProposeError> {
        let deadline = self.deadline(within);
        let frames = frames.into_iter().map(HashedFrame::from).collect();
        self.ask(
            |who| Command::ProposeMany(frames, deadline, who),
            |refused| self.propose_refused(refused),
        )
        .await
    }

    async fn decision(
        &self,
        _shard: &ShardKey,
        id: FrameId,
        within: Duration,
    ) -> Result<Decision, ReadError> {
        let deadline = self.deadline(within);
        self.ask(|who| Command::Decision(id, deadline, who), |refused| self.read_refused(refused))
            .await
    }

    async fn subscribe(
        &self,
        scope: Scope,
        from: Cursor,
        handler: Arc<dyn Handler>,
    ) -> Result<Subscription, SubscribeError> {
        let (news, receiver) = mpsc::unbounded_channel();
        let begun = from.clone();
        let id = self
            .ask(
                |begun| Command::Subscribe(scope, from, Subscriber { begun, news }),
                |refused| match refused {
                    Refused::Full => SubscribeError::Overloaded {
                        resource: Resource::Subscriptions,
                        limit: self.requests_max as u64,
                    },
                    Refused::Closed => SubscribeError::Closed,
                },
            )
            .await?;
        let control = Arc::new(Control::new(begun));
        let inbox = Arc::clone(&self.shared.inbox);
        let closing = self.shared.closing.subscribe();
        let task = subscriber::run(id, Arc::clone(&control), handler, receiver, inbox, closing);
        self.runtime.spawn(task);
        Ok(Subscription::new(control))
    }

    async fn read_barrier(
        &self,
        _shard: &ShardKey,
        level: Consistency,
        within: Duration,
    ) -> Result<Position, ReadError> {
        let deadline = self.deadline(within);
        self.ask(|who| Command::Read(level, deadline, who), |refused| self.read_refused(refused))
            .await
    }

    async fn pinned(&self, _shard: &ShardKey) -> Result<Arc<dyn Pinned>, ReadError> {
        if *self.shared.closing.borrow() {
            return Err(ReadError::Closed);
        }
        let store = self.checkpoints.as_ref().ok_or(ReadError::NoCheckpoint)?;
        let store = store.upgrade().ok_or(ReadError::Closed)?;
        let pin = store
            .pin()
            .map_err(|error| ReadError::Checkpoint { problem: error.to_string() })?
            .ok_or(ReadError::NoCheckpoint)?;
        let position = checkpoint_position(GROUP, pin.meta().index, &pin.meta().position)
            .map_err(|error| ReadError::Checkpoint { problem: error.to_string() })?;
        Ok(Arc::new(HostPinned { pin, position }))
    }

    fn group(&self, _shard: &ShardKey) -> GroupId {
        GROUP
    }

    fn status(&self) -> Status {
        let seen = self.shared.seen().clone();
        let closed = self.shared.closed.borrow().is_some();
        let health = match seen.health {
            Health::Faulted { cause } => Health::Faulted { cause },
            _ if closed => Health::Closed,
            health => health,
        };
        let mut status = Status::new(self.node, self.driver, self.durability, health);
        status.groups = vec![seen.group];
        status
    }

    fn events(&self) -> EventStream {
        self.shared.listeners.listen()
    }

    async fn close(&self) -> Result<(), CloseError> {
        self.begin_close();
        let mut closed = self.shared.closed.subscribe();
        let outcome = closed.wait_for(Option::is_some).await;
        match outcome.expect("the sender is in self").clone().expect("waited for it") {
            Ok(()) => Ok(()),
            Err(cause) => Err(CloseError::Faulted { cause }),
        }
    }
}

impl HostNode {
    fn begin_close(&self) {
        if !self.shared.closing.send_replace(true) {
            self.shared.inbox.report(Command::Close);
        }
    }
}

impl Drop for HostNode {
    fn drop(&mut self) {
        // Only signals: the threads end by themselves and release the data directory.
        self.begin_close();
    }
}
