//! A node: the [`Replicator`] in front of an engine thread.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use quorate_engine::engine::{Admin, EngineDriver, Inspector};
use quorate_engine::{
    HashedFrame, HostCore, ProvedBatch, RecoveredCheckpoint, Start, checkpoint_position,
};
use quorate_replicator::{
    AdminError, Clock, CloseError, Consistency, Cursor, DecidedBatch, Decision, Durability, Env,
    EventStream, Frame, FrameId, GroupId, Handler, Health, MemberChange, NodeId, OpenError,
    PeerState, PeerStatus, Pinned, Position, ProposeError, ReadError, Replicator, Resource, Scope,
    ShardKey, Signer, StateMachine, Status, SubscribeError, Subscription, Transport,
};
use quorate_storage::{CheckpointStore, DataMode, LogReader};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::HostConfig;
use crate::engine_thread::{Command, EngineThread, ForGroup, GroupSlot, SpreadPart};
use crate::files::{self, Files};
use crate::inbox::{Inbox, Refused};
use crate::network::Network;
use crate::pinned::HostPinned;
use crate::proved;
use crate::shared::Shared;
use crate::snapshots::{OnSnapshot, Snapshots};
use crate::subscriber::{self, Control};
use crate::waiters::Subscriber;
use crate::workers;

/// One node with its groups.
#[derive(Debug)]
pub(crate) struct HostNode {
    node: NodeId,
    driver: &'static str,
    durability: Durability,
    clock: Arc<dyn Clock>,
    requests_max: usize,
    groups: u32,
    shared: Arc<Shared>,
    /// The stores themselves belong to the threads, and are closed with them; none if the node keeps no checkpoints.
    checkpoints: Vec<Weak<CheckpointStore>>,
    transport: Option<Arc<dyn Transport>>,
    snapshots: Option<Arc<Snapshots>>,
    reader: LogReader,
    /// Of each group: who looks at what is to be proposed.
    inspectors: Vec<Option<Arc<dyn Inspector>>>,
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
        let alone = env.members == [env.node];
        if !alone && env.transport.is_none() {
            return Err(OpenError::Config {
                problem: format!(
                    "{} is to be a member of {} nodes and has no transport; configure one",
                    env.node,
                    env.members.len()
                ),
            });
        }
        // What is in memory alone must still be given to a node that joins.
        let keeps_checkpoints = env.durability == Durability::Disk || env.transport.is_some();
        let inbox = Arc::new(Inbox::new(config.requests_max));
        let opened = files::open(D::NAME, config, &env, DataMode::Create)?;
        let now = env.clock.now();
        let mut machines = vec![machine];
        for number in 1..config.groups {
            let sibling = machines[0].sibling(GroupId::new(number));
            machines.push(sibling.ok_or_else(|| OpenError::Config {
                problem: format!(
                    "the state machine serves one group, and groups = {} are configured; set groups = 1 or give the machine siblings",
                    config.groups
                ),
            })?);
        }
        let (mut slots, mut stores) = (Vec::new(), Vec::new());
        for ((number, stored), machine) in (0..).zip(opened.groups).zip(machines) {
            let mut checkpoint = stored.checkpoint()?;
            let start = Start {
                members: env.members.clone(),
                incarnation: opened.directory.store(),
                seed: env.seed.wrapping_add(number),
                machine,
                checkpoint: checkpoint.as_mut().map(RecoveredCheckpoint::stored),
                log: stored.recovered,
            };
            let group = GroupId::new(u32::try_from(number).expect("groups are counted in 32 bits"));
            let mut core = config.core(group, env.node, env.durability == Durability::Memory);
            core.checkpoint.stored = keeps_checkpoints;
            slots.push(GroupSlot::new(HostCore::open(core, driver, driver_config, start, now)?));
            stores.push(Arc::new(stored.checkpoints));
        }
        let statuses = slots.iter().map(|slot| slot.core.status()).collect();
        let shared = Arc::new(Shared::new(Arc::clone(&inbox), statuses));
        let thread_failed = |error: io::Error| OpenError::Driver {
            driver: D::NAME.into(),
            problem: format!("a thread could not be started: {error}"),
        };
        let reader = opened.log.reader();
        let snapshots = env.transport.as_ref().map(|transport| {
            let on_snapshot: OnSnapshot = {
                let inbox = Arc::clone(&inbox);
                Arc::new(move |group, report| {
                    let group = group.number() as usize;
                    inbox.report(Command::Group(group, ForGroup::Snapshot(report)));
                })
            };
            let transport = Arc::clone(transport);
            let config = config.snapshots.clone();
            let snapshots = Snapshots::new(transport, runtime.clone(), config, on_snapshot);
            for (number, store) in (0..).zip(&stores) {
                snapshots.serve(GroupId::new(number), store, reader.clone());
            }
            Arc::new(snapshots)
        });
        let files = Files::start(opened.directory, opened.log, env.durability, &inbox)
            .map_err(thread_failed)?;
        let fetches =
            workers::fetches(reader.clone(), Arc::clone(&inbox)).map_err(thread_failed)?;
        let proofs = reader.clone();
        let mut checkpoints = Vec::new();
        let mut writer = None;
        if keeps_checkpoints {
            checkpoints.extend(stores.iter().map(Arc::downgrade));
            let started =
                workers::checkpoints(stores, snapshots.clone(), reader, Arc::clone(&inbox));
            writer = Some(started.map_err(thread_failed)?);
        }
        let inspectors: Vec<_> = slots.iter().map(|slot| slot.core.inspector()).collect();
        let network = env.transport.clone().zip(snapshots.clone()).map(|(transport, snapshots)| {
            let inbox = Arc::clone(&inbox);
            let inspectors = inspectors.clone();
            Network::start(transport, snapshots, inbox, inspectors, runtime.clone(), now)
        });
        let thread = EngineThread {
            groups: slots,
            shared: Arc::clone(&shared),
            clock: Arc::clone(&env.clock),
            files,
            checkpoints: writer,
            fetches,
            network,
            due: Vec::new(),
            wakes: BTreeSet::new(),
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
            groups: config.groups,
            shared,
            checkpoints,
            transport: env.transport,
            snapshots,
            reader: proofs,
            inspectors,
            runtime,
        })
    }

    /// The place of the group of `shard`.
    fn place(&self, shard: &ShardKey) -> usize {
        GroupId::of(shard, self.groups).number() as usize
    }

    /// The place of a group that somebody named.
    fn existing(&self, group: GroupId) -> Result<usize, ReadError> {
        if group.number() < self.groups {
            return Ok(group.number() as usize);
        }
        let reason = format!("there is no {group}; groups are numbered below {}", self.groups);
        Err(ReadError::NoProof { reason })
    }

    fn deadline(&self, within: Duration) -> Duration {
        self.clock.now().saturating_add(within)
    }

    /// Asks the engine thread and waits for its answer, which is `lost` if that thread ends without one: it may have done what it
    /// was asked.
    async fn ask<T, E>(
        &self,
        group: usize,
        question: impl FnOnce(oneshot::Sender<Result<T, E>>) -> ForGroup,
        refused: impl FnOnce(Refused) -> E,
        lost: E,
    ) -> Result<T, E> {
        let (who, answer) = oneshot::channel();
        let command = Command::Group(group, question(who));
        self.shared.inbox.request(command).map_err(refused)?;
        answer.await.unwrap_or(Err(lost))
    }

    /// Whether a group takes frames as they are. Looked at on the caller's thread, which there may be many of.
    fn admits(&self, group: usize, frames: &[Frame]) -> Result<(), ProposeError> {
        let inspector = self.inspectors.get(group).and_then(Option::as_ref);
        let admitted = inspector.map_or(Ok(()), |inspector| inspector.admits(frames));
        admitted.map_err(|reason| ProposeError::Invalid { reason })
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
        let group = self.place(&frame.shard);
        self.admits(group, std::slice::from_ref(&frame))?;
        // Hashed here, on the caller's thread, too.
        let frame = HashedFrame::from(frame);
        self.ask(
            group,
            |who| ForGroup::Propose(frame, deadline, who),
            |refused| self.propose_refused(refused),
            ProposeError::Closed { submitted: true },
        )
        .await
    }

    async fn propose_many(
        &self,
        frames: Vec<Frame>,
        within: Duration,
    ) -> Result<Vec<Decision>, ProposeError> {
        let deadline = self.deadline(within);
        let group = frames.first().map_or(0, |frame| self.place(&frame.shard));
        if self.groups > 1 && frames.iter().any(|frame| self.place(&frame.shard) != group) {
            return self.propose_spread(frames, deadline).await;
        }
        self.admits(group, &frames)?;
        let frames = frames.into_iter().map(HashedFrame::from).collect();
        self.ask(
            group,
            |who| ForGroup::ProposeMany(frames, deadline, who),
            |refused| self.propose_refused(refused),
            ProposeError::Closed { submitted: true },
        )
        .await
    }

    async fn decision(
        &self,
        shard: &ShardKey,
        id: FrameId,
        within: Duration,
    ) -> Result<Decision, ReadError> {
        let deadline = self.deadline(within);
        self.ask(
            self.place(shard),
            |who| ForGroup::Decision(id, deadline, who),
            |refused| self.read_refused(refused),
            ReadError::Closed,
        )
        .await
    }

    async fn subscribe(
        &self,
        scope: Scope,
        from: Cursor,
        handler: Arc<dyn Handler>,
    ) -> Result<Subscription, SubscribeError> {
        let (news, receiver) = mpsc::unbounded_channel();
        let groups = match &scope {
            Scope::Shard(shard) => self.place(shard)..self.place(shard) + 1,
            Scope::Group(group) if group.number() < self.groups => {
                group.number() as usize..group.number() as usize + 1
            }
            _ => 0..self.groups as usize,
        };
        let mut ids = Vec::new();
        // One that fails drops the receiver, and with it what was begun before.
        for group in groups {
            let (scope, from, news) = (scope.clone(), from.clone(), news.clone());
            let id = self
                .ask(
                    group,
                    |begun| ForGroup::Subscribe(scope, from, Subscriber { begun, news }),
                    |refused| match refused {
                        Refused::Full => SubscribeError::Overloaded {
                            resource: Resource::Subscriptions,
                            limit: self.requests_max as u64,
                        },
                        Refused::Closed => SubscribeError::Closed,
                    },
                    SubscribeError::Closed,
                )
                .await?;
            ids.push((group, id));
        }
        let control = Arc::new(Control::new(from));
        let inbox = Arc::clone(&self.shared.inbox);
        let closing = self.shared.closing.subscribe();
        let task = subscriber::run(ids, Arc::clone(&control), handler, receiver, inbox, closing);
        self.runtime.spawn(task);
        Ok(Subscription::new(control))
    }

    async fn read_barrier(
        &self,
        shard: &ShardKey,
        level: Consistency,
        within: Duration,
    ) -> Result<Position, ReadError> {
        let deadline = self.deadline(within);
        self.ask(
            self.place(shard),
            |who| ForGroup::Read(level, deadline, who),
            |refused| self.read_refused(refused),
            ReadError::Closed,
        )
        .await
    }

    async fn pinned(&self, shard: &ShardKey) -> Result<Arc<dyn Pinned>, ReadError> {
        if *self.shared.closing.borrow() {
            return Err(ReadError::Closed);
        }
        let place = self.place(shard);
        let store = self.checkpoints.get(place).ok_or(ReadError::NoCheckpoint)?;
        let store = store.upgrade().ok_or(ReadError::Closed)?;
        let pin = store
            .pin()
            .map_err(|error| ReadError::Checkpoint { problem: error.to_string() })?
            .ok_or(ReadError::NoCheckpoint)?;
        let group = GroupId::of(shard, self.groups);
        let position = checkpoint_position(group, pin.meta().index, &pin.meta().position)
            .map_err(|error| ReadError::Checkpoint { problem: error.to_string() })?;
        Ok(Arc::new(HostPinned { pin, position }))
    }

    fn group(&self, shard: &ShardKey) -> GroupId {
        GroupId::of(shard, self.groups)
    }

    fn status(&self) -> Status {
        let (health, mut groups) = {
            let seen = self.shared.seen();
            (seen.health(), seen.groups())
        };
        let closed = self.shared.closed.borrow().is_some();
        let health = match health {
            Health::Faulted { cause } => Health::Faulted { cause },
            _ if closed => Health::Closed,
            health => health,
        };
        if let Some(transport) = &self.transport {
            let peers = transport.peers();
            for group in &mut groups {
                for peer in &mut group.peers {
                    self.note(group.group, peer, &peers);
                }
            }
        }
        let mut status = Status::new(self.node, self.driver, self.durability, health);
        status.groups = groups;
        status
    }

    async fn decided(&self, group: GroupId, index: u64) -> Result<DecidedBatch, ReadError> {
        let place = self.existing(group)?;
        let refused = |refused| self.read_refused(refused);
        let ask = |who| ForGroup::Decided(index, who);
        match self.ask(place, ask, refused, ReadError::Closed).await? {
            ProvedBatch::Here(batch) => Ok(batch),
            ProvedBatch::Nothing(reason) => Err(ReadError::NoProof { reason }),
            ProvedBatch::InLog => {
                let reader = self.reader.clone();
                // Reading may wait for the disk.
                let read = self.runtime.spawn_blocking(move || proved::read(&reader, group, index));
                read.await.unwrap_or(Err(ReadError::Closed))
            }
        }
    }

    async fn member_batches(
        &self,
        group: GroupId,
        after: u64,
    ) -> Result<Vec<DecidedBatch>, ReadError> {
        let place = self.existing(group)?;
        let refused = |refused| self.read_refused(refused);
        let ask = |who| ForGroup::MemberBatches(after, who);
        self.ask(place, ask, refused, ReadError::Closed).await
    }

    async fn change_members(
        &self,
        change: MemberChange,
        within: Duration,
    ) -> Result<(), AdminError> {
        let deadline = self.deadline(within);
        for group in 0..self.groups as usize {
            self.admin(group, Admin::Change(change.clone()), deadline).await?;
        }
        Ok(())
    }

    async fn transfer(
        &self,
        group: GroupId,
        to: NodeId,
        within: Duration,
    ) -> Result<(), AdminError> {
        if group.number() >= self.groups {
            let reason = format!("there is no {group}; groups are numbered below {}", self.groups);
            return Err(AdminError::Refused { reason });
        }
        self.admin(group.number() as usize, Admin::Transfer(to), self.deadline(within)).await
    }

    fn signer(&self) -> io::Result<Option<Signer>> {
        let inspector = self.inspectors.first().and_then(Option::as_ref);
        inspector.map_or(Ok(None), |inspector| inspector.signer(self.groups))
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
    async fn admin(
        &self,
        group: usize,
        admin: Admin,
        deadline: Duration,
    ) -> Result<(), AdminError> {
        self.ask(
            group,
            |who| ForGroup::Admin(admin, deadline, who),
            |refused| match refused {
                Refused::Full => {
                    AdminError::Refused { reason: "too many requests wait; try again".to_owned() }
                }
                Refused::Closed => AdminError::Closed,
            },
            AdminError::Unfinished { reason: "the node was closed".to_owned() },
        )
        .await
    }

    /// Frames of several groups: each group decides its own, in their order.
    async fn propose_spread(
        &self,
        frames: Vec<Frame>,
        deadline: Duration,
    ) -> Result<Vec<Decision>, ProposeError> {
        let places: Vec<_> = frames.iter().map(|frame| self.place(&frame.shard)).collect();
        let mut spread: BTreeMap<usize, Vec<Frame>> = BTreeMap::new();
        for (group, frame) in places.iter().zip(frames) {
            spread.entry(*group).or_default().push(frame);
        }
        for (group, frames) in &spread {
            self.admits(*group, frames)?;
        }
        let (mut parts, mut answers) = (Vec::new(), Vec::new());
        for (group, frames) in spread {
            let (who, answer) = oneshot::channel();
            let frames = frames.into_iter().map(HashedFrame::from).collect();
            parts.push(SpreadPart { group, frames, who });
            answers.push((group, answer));
        }
        self.shared
            .inbox
            .request(Command::ProposeSpread(parts, deadline))
            .map_err(|refused| self.propose_refused(refused))?;
        let mut decided = Vec::new();
        for (group, answer) in answers {
            let answer = answer.await.unwrap_or(Err(ProposeError::Closed { submitted: true }))?;
            decided.push((group, answer.into_iter()));
        }
        let decisions = places.iter().map(|group| {
            let part = decided.iter_mut().find(|(of, _)| of == group);
            part.and_then(|(_, decisions)| decisions.next()).expect("each frame has an answer")
        });
        Ok(decisions.collect())
    }

    /// Adds to what the engine knows of a peer what the transport and the snapshots know.
    fn note(&self, group: GroupId, peer: &mut PeerStatus, peers: &[(NodeId, PeerState)]) {
        let mut notes = Vec::new();
        if !peer.note.is_empty() {
            notes.push(std::mem::take(&mut peer.note));
        }
        if let Some((_, PeerState::Connecting { reason })) =
            peers.iter().find(|(node, _)| *node == peer.node)
        {
            let reason = reason.as_deref().unwrap_or("it is being connected");
            notes.push(format!("not connected: {reason}"));
        }
        if let Some(snapshots) = &self.snapshots {
            let going = snapshots.progress(group).into_iter();
            notes.extend(going.filter(|it| it.peer == peer.node).map(|it| it.to_string()));
        }
        peer.note = notes.join("; ");
    }

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
