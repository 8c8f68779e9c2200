//! The whole contract of a replicator, as plainly as it can be written: one lock around everything, one frame a batch.
//!
//! It serves to show that the suite can be passed, and, with a [`Fault`] planted, that it can be failed.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_core::Stream;
use quorate_conformance::{Cluster, MachineMaker, ReplicatorFactory};
use quorate_replicator::limits::{
    FRAME_BYTES_MAX, PROPOSE_MANY_MAX, REPLY_KEPT_BYTES_MAX, SESSION_UNSETTLED_MAX,
};
use quorate_replicator::{
    Accepted, Batch, BatchFrame, Bytes, CloseError, Commit, Consistency, Cursor, Decision,
    Durability, Event, EventStream, Frame, FrameId, FrameRole, GroupId, GroupStatus, Handler,
    Health, LogTime, NodeId, Outcomes, Pinned, Position, ProposeError, ReadError, Rejection,
    Replicator, Reply, Resource, Role, Scope, SessionId, ShardKey, StateMachine, Status,
    SubscribeError, Subscription, SubscriptionControl, SubscriptionEnd,
};
use tokio::sync::watch;

const GROUP: GroupId = GroupId::new(0);

/// What is wrong with a replicator, on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    AppliesRetries,
    AppliesRetriesOnOneNode,
    IgnoresReusedIds,
    AppliesBelowSettled,
    KeepsClosedSessions,
    OpensClosedSessions,
    KeepsLongReplies,
    KeepsAnyNumberUnsettled,
    IgnoresValidUntil,
    TakesAnySize,
    TakesSettledAboveSerial,
    AdmitsBatchesInPart,
    AnswersBatchesBackwards,
    ReadsTheBeginning,
    ForgetsDecisions,
    SwapsFramesForSubscribers,
    RepeatsTheFrameAtTheCursor,
    SkipsAFrameAfterTheCursor,
    GivesEveryScopeEverything,
    CountsTheFailedBatchAsHandled,
    SubscribesAnywhere,
    AnswersAfterClose,
    SubscriptionsOutliveClose,
    ReusesPositionsAfterRestart,
    LosesSessionsAtRestart,
    HistoriesDiffer,
}

#[derive(Debug)]
pub(crate) struct Factory(pub(crate) Fault);

#[async_trait]
impl ReplicatorFactory for Factory {
    async fn open(&self, nodes: usize, machine: MachineMaker) -> Box<dyn Cluster> {
        let shared = Arc::new(Shared {
            fault: self.0,
            start: Instant::now(),
            core: Mutex::new(Core::new(nodes, &machine)),
            machine: Maker(machine),
            stalled: watch::Sender::new(BTreeSet::new()),
            log_length: watch::Sender::new(0),
        });
        let nodes = (0..nodes).map(|node| Arc::new(Node::new(node, &shared))).collect();
        Box::new(ReferenceCluster { shared, nodes: Mutex::new(nodes) })
    }
}

#[derive(Debug)]
struct ReferenceCluster {
    shared: Arc<Shared>,
    nodes: Mutex<Vec<Arc<Node>>>,
}

#[async_trait]
impl Cluster for ReferenceCluster {
    fn nodes(&self) -> Vec<Arc<dyn Replicator>> {
        lock(&self.nodes).iter().map(|node| Arc::clone(node) as _).collect()
    }

    async fn restart(&self, node: usize) -> bool {
        let before = Arc::clone(&lock(&self.nodes)[node]);
        before.close().await.expect("a reference node closes well");
        self.shared.replay(node);
        lock(&self.nodes)[node] = Arc::new(Node::new(node, &self.shared));
        true
    }

    async fn stall(&self, node: usize, stalled: bool) -> bool {
        if !stalled {
            // What was proposed while nothing could be decided is decided now, whoever still waits for it.
            let parked = std::mem::take(&mut self.shared.core().parked);
            for frame in parked {
                let _ = self.shared.decide(frame);
            }
        }
        self.shared.stalled.send_modify(|nodes| {
            if stalled {
                nodes.insert(node);
            } else {
                nodes.remove(&node);
            }
        });
        true
    }

    async fn close(&self) {
        for node in self.nodes() {
            node.close().await.expect("a reference node closes well");
        }
    }
}

/// What all nodes share.
#[derive(Debug)]
struct Shared {
    fault: Fault,
    start: Instant,
    core: Mutex<Core>,
    machine: Maker,
    /// The nodes at which nothing is decided.
    stalled: watch::Sender<BTreeSet<usize>>,
    log_length: watch::Sender<usize>,
}

struct Maker(MachineMaker);

impl std::fmt::Debug for Maker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Maker")
    }
}

/// All state.
#[derive(Debug)]
struct Core {
    machines: Vec<Box<dyn StateMachine>>,
    index: u64,
    log_time: LogTime,
    history: u64,
    log: Vec<(Accepted, LogTime)>,
    sessions: BTreeMap<SessionId, Kept>,
    closed: BTreeSet<SessionId>,
    rejected: u64,
    /// Proposed at a node that is stalled.
    parked: Vec<Frame>,
}

/// What is kept of a session.
#[derive(Debug, Default)]
struct Kept {
    settled: u64,
    decided: BTreeMap<u64, (Bytes, Decision)>,
}

impl Core {
    fn new(nodes: usize, machine: &MachineMaker) -> Self {
        Self {
            machines: (0..nodes).map(|_| machine()).collect(),
            index: 0,
            log_time: LogTime::ZERO,
            history: 0,
            log: Vec::new(),
            sessions: BTreeMap::new(),
            closed: BTreeSet::new(),
            rejected: 0,
            parked: Vec::new(),
        }
    }

    fn reached(&self) -> Position {
        Position { group: GROUP, epoch: 0, index: self.index, slot: u32::MAX }
    }
}

/// Applies one frame on one machine, as a batch of its own.
fn apply(
    machine: &mut dyn StateMachine,
    position: Position,
    log_time: LogTime,
    frame: &Frame,
) -> Reply {
    let mut outcomes = Outcomes::default();
    let frames = [BatchFrame { slot: position.slot, frame: frame.clone() }];
    let Position { group, epoch, index, .. } = position;
    machine.apply(&Batch { group, epoch, index, log_time, frames: &frames }, &mut outcomes);
    Reply::Known(outcomes.replies()[0].clone())
}

impl Shared {
    fn core(&self) -> MutexGuard<'_, Core> {
        lock(&self.core)
    }

    /// Decides one frame on all nodes at once.
    fn decide(&self, frame: Frame) -> Result<Decision, ProposeError> {
        let mut guard = self.core();
        let core = &mut *guard;
        let FrameId { session, serial } = frame.id;
        let now = u64::try_from(self.start.elapsed().as_millis()).expect("a short test");
        core.log_time = core.log_time.max(LogTime::from_ms(now));
        match frame.role() {
            FrameRole::OpenSession => {
                if core.closed.contains(&session) && self.fault != Fault::OpensClosedSessions {
                    return Err(ProposeError::SessionEnded);
                }
                core.sessions.entry(session).or_default();
            }
            FrameRole::CloseSession => {
                if self.fault != Fault::KeepsClosedSessions {
                    core.sessions.remove(&session);
                    core.closed.insert(session);
                }
            }
            FrameRole::Mutation => return self.mutate(core, frame),
        }
        let position = Position { group: GROUP, epoch: 0, index: core.index, slot: serial as u32 };
        Ok(Decision::Accept(Commit { position, reply: Reply::Known(Bytes::new()), proof: None }))
    }

    fn mutate(&self, core: &mut Core, frame: Frame) -> Result<Decision, ProposeError> {
        let serial = frame.id.serial;
        let reached = core.reached();
        let kept = core.sessions.get_mut(&frame.id.session).ok_or(ProposeError::SessionEnded)?;
        kept.settled = kept.settled.max(frame.settled);
        kept.decided.retain(|serial, _| *serial >= kept.settled);
        if serial < kept.settled && self.fault != Fault::AppliesBelowSettled {
            return Err(ProposeError::SessionEnded);
        }
        if let Some((payload, decision)) = kept.decided.get(&serial) {
            match self.fault {
                Fault::AppliesRetries => {}
                Fault::AppliesRetriesOnOneNode => {
                    let at = Position { slot: 1, ..reached };
                    apply(&mut *core.machines[0], at, core.log_time, &frame);
                    return Ok(decision.clone());
                }
                Fault::IgnoresReusedIds => return Ok(decision.clone()),
                _ if *payload == frame.payload => return Ok(decision.clone()),
                _ => {
                    core.rejected += 1;
                    return Ok(Decision::Reject(Rejection::IdReused));
                }
            }
        }
        let limit = SESSION_UNSETTLED_MAX as u64;
        if kept.decided.len() as u64 >= limit && self.fault != Fault::KeepsAnyNumberUnsettled {
            return Err(ProposeError::Overloaded { resource: Resource::Unsettled, limit });
        }
        let late = frame.valid_until.is_some_and(|until| core.log_time > until);
        let (decision, remembered) = if late && self.fault != Fault::IgnoresValidUntil {
            core.rejected += 1;
            let rejection = Decision::Reject(Rejection::Expired);
            (rejection.clone(), rejection)
        } else {
            core.index += 1;
            let position = Position { group: GROUP, epoch: 0, index: core.index, slot: 0 };
            let mut reply = Reply::Forgotten;
            for machine in &mut core.machines {
                reply = apply(&mut **machine, position, core.log_time, &frame);
            }
            core.history = core.history.wrapping_mul(31).wrapping_add(serial + 1);
            core.log.push((Accepted { position, frame: frame.clone() }, core.log_time));
            self.log_length.send_replace(core.log.len());
            let long = reply.bytes().map_or(0, Bytes::len) > REPLY_KEPT_BYTES_MAX;
            let kept = if long && self.fault != Fault::KeepsLongReplies {
                Reply::Forgotten
            } else {
                reply.clone()
            };
            let accept = |reply| Decision::Accept(Commit { position, reply, proof: None });
            (accept(reply), accept(kept))
        };
        kept.decided.insert(serial, (frame.payload, remembered));
        Ok(decision)
    }

    /// Makes a new machine for `node` from the log.
    fn replay(&self, node: usize) {
        let mut guard = self.core();
        let core = &mut *guard;
        core.machines[node] = self.machine.0();
        for (accepted, log_time) in &core.log {
            apply(&mut *core.machines[node], accepted.position, *log_time, &accepted.frame);
        }
        match self.fault {
            Fault::LosesSessionsAtRestart => core.sessions.clear(),
            Fault::ReusesPositionsAfterRestart => core.index = core.index.saturating_sub(1),
            _ => {}
        }
    }

    fn check(&self, frame: &Frame) -> Result<(), ProposeError> {
        let size = frame.payload.len();
        if size > FRAME_BYTES_MAX && self.fault != Fault::TakesAnySize {
            let what = "payload in bytes".into();
            return Err(ProposeError::TooLarge { what, size, limit: FRAME_BYTES_MAX });
        }
        if frame.settled > frame.id.serial && self.fault != Fault::TakesSettledAboveSerial {
            return Err(ProposeError::Invalid { reason: "settled is above the serial".into() });
        }
        Ok(())
    }
}

/// One life of one node.
#[derive(Debug)]
struct Node {
    number: usize,
    shared: Arc<Shared>,
    closed: watch::Sender<bool>,
    in_flight: Mutex<u64>,
}

impl Node {
    fn new(number: usize, shared: &Arc<Shared>) -> Self {
        Self {
            number,
            shared: Arc::clone(shared),
            closed: watch::Sender::new(false),
            in_flight: Mutex::new(0),
        }
    }

    fn is_closed(&self) -> bool {
        *self.closed.borrow() && self.shared.fault != Fault::AnswersAfterClose
    }

    /// Waits until something can be decided here. False if the time is up first, none if the node closes.
    async fn can_decide(&self, within: Duration) -> Option<bool> {
        let mut stalled = self.shared.stalled.subscribe();
        let mut closed = self.closed.subscribe();
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => None,
            _ = stalled.wait_for(|nodes| !nodes.contains(&self.number)) => Some(true),
            () = tokio::time::sleep(within) => Some(false),
        }
    }

    fn is_stalled(&self) -> bool {
        self.shared.stalled.borrow().contains(&self.number)
    }

    async fn barrier(&self, within: Duration) -> Result<(), ReadError> {
        match self.can_decide(within).await {
            Some(true) => Ok(()),
            Some(false) => Err(ReadError::Timeout),
            None => Err(ReadError::Closed),
        }
    }
}

#[async_trait]
impl Replicator for Node {
    async fn propose(&self, frame: Frame, within: Duration) -> Result<Decision, ProposeError> {
        let mut decisions = self.propose_many(vec![frame], within).await?;
        Ok(decisions.remove(0))
    }

    async fn propose_many(
        &self,
        frames: Vec<Frame>,
        within: Duration,
    ) -> Result<Vec<Decision>, ProposeError> {
        if self.is_closed() {
            return Err(ProposeError::Closed { submitted: false });
        }
        let size = frames.len();
        if size > PROPOSE_MANY_MAX {
            let what = "list of frames".into();
            return Err(ProposeError::TooLarge { what, size, limit: PROPOSE_MANY_MAX });
        }
        if self.shared.fault == Fault::AdmitsBatchesInPart {
            let whole = frames.iter().all(|frame| self.shared.check(frame).is_ok());
            let good: Vec<_> =
                frames.iter().take_while(|frame| self.shared.check(frame).is_ok()).collect();
            for frame in good.into_iter().filter(|_| !whole) {
                self.shared.decide(frame.clone())?;
            }
        }
        frames.iter().try_for_each(|frame| self.shared.check(frame))?;
        if self.is_stalled() {
            self.shared.core().parked.extend(frames.iter().cloned());
            let _in_flight = InFlight::begin(&self.in_flight, frames.len() as u64);
            match self.can_decide(within).await {
                Some(true) => {}
                Some(false) => return Ok(vec![Decision::Timeout; frames.len()]),
                None => return Err(ProposeError::Closed { submitted: true }),
            }
        }
        let mut decisions = Vec::new();
        for frame in frames {
            decisions.push(self.shared.decide(frame)?);
        }
        if self.shared.fault == Fault::AnswersBatchesBackwards {
            decisions.reverse();
        }
        Ok(decisions)
    }

    async fn decision(
        &self,
        _: &ShardKey,
        id: FrameId,
        within: Duration,
    ) -> Result<Decision, ReadError> {
        if self.is_closed() {
            return Err(ReadError::Closed);
        }
        self.barrier(within).await?;
        if self.shared.fault == Fault::ForgetsDecisions {
            return Ok(Decision::Undecided);
        }
        let core = self.shared.core();
        let kept = core.sessions.get(&id.session).ok_or(ReadError::Forgotten)?;
        if id.serial < kept.settled {
            return Err(ReadError::Forgotten);
        }
        Ok(kept.decided.get(&id.serial).map_or(Decision::Undecided, |(_, known)| known.clone()))
    }

    async fn subscribe(
        &self,
        scope: Scope,
        from: Cursor,
        handler: Arc<dyn Handler>,
    ) -> Result<Subscription, SubscribeError> {
        if self.is_closed() {
            return Err(SubscribeError::Closed);
        }
        let fault = self.shared.fault;
        let (next, mut cursor) = {
            let core = self.shared.core();
            let asked = from.position(GROUP);
            let reached = core.reached();
            if let Some(asked) = asked.filter(|asked| *asked > reached)
                && fault != Fault::SubscribesAnywhere
            {
                return Err(SubscribeError::Ahead { asked, reached });
            }
            let next = match asked {
                Some(asked) => core.log.partition_point(|(a, _)| a.position <= asked),
                None if from.is_from_now() => core.log.len(),
                None => 0,
            };
            let next = match fault {
                Fault::RepeatsTheFrameAtTheCursor => next.saturating_sub(1),
                Fault::SkipsAFrameAfterTheCursor if asked.is_some() => next + 1,
                _ => next,
            };
            (next, from.clone())
        };
        if from.is_from_now() {
            cursor =
                Cursor::after(next.checked_sub(1).map(|i| self.shared.core().log[i].0.position));
        }
        let control = Arc::new(Control {
            cursor: Mutex::new(cursor),
            cancelled: watch::Sender::new(false),
            end: watch::Sender::new(None),
        });
        let mut closed = self.closed.subscribe();
        let (shared, task) = (Arc::clone(&self.shared), Arc::clone(&control));
        tokio::spawn(async move {
            let mut cancelled = task.cancelled.subscribe();
            let serving = serve(&shared, &scope, next, &*handler, &task.cursor);
            let stop = async {
                let outlives = shared.fault == Fault::SubscriptionsOutliveClose;
                tokio::select! {
                    _ = closed.wait_for(|closed| *closed && !outlives) => {}
                    _ = cancelled.wait_for(|cancelled| *cancelled) => {}
                }
            };
            let end = tokio::select! {
                biased;
                () = stop => SubscriptionEnd::Cancelled { cursor: lock(&task.cursor).clone() },
                error = serving => SubscriptionEnd::Failed { cursor: lock(&task.cursor).clone(), error },
            };
            drop(handler);
            task.end.send_replace(Some(end));
        });
        Ok(Subscription::new(control))
    }

    async fn read_barrier(
        &self,
        _: &ShardKey,
        level: Consistency,
        within: Duration,
    ) -> Result<Position, ReadError> {
        if self.is_closed() {
            return Err(ReadError::Closed);
        }
        if level == Consistency::Linearizable {
            self.barrier(within).await?;
        }
        if self.shared.fault == Fault::ReadsTheBeginning {
            return Ok(Position::origin(GROUP));
        }
        Ok(self.shared.core().reached())
    }

    async fn pinned(&self, _: &ShardKey) -> Result<Arc<dyn Pinned>, ReadError> {
        Err(if self.is_closed() { ReadError::Closed } else { ReadError::NoCheckpoint })
    }

    fn group(&self, _: &ShardKey) -> GroupId {
        GROUP
    }

    fn status(&self) -> Status {
        let id = |node| NodeId::new(node as u64 + 1);
        let health = if *self.closed.borrow() { Health::Closed } else { Health::Ready };
        let mut status = Status::new(id(self.number), "reference", Durability::Memory, health);
        let core = self.shared.core();
        let mut group = GroupStatus::new(GROUP, Role::Follower);
        (group.committed, group.applied) = (core.index, core.index);
        group.log_time = core.log_time;
        group.history[..8].copy_from_slice(&core.history.to_be_bytes());
        if self.shared.fault == Fault::HistoriesDiffer {
            group.history[8] = self.number as u8;
        }
        group.members = (0..core.machines.len()).map(id).collect();
        (group.accepted, group.rejected) = (core.log.len() as u64, core.rejected);
        group.sessions = core.sessions.len() as u64;
        group.in_flight = *lock(&self.in_flight);
        status.groups.push(group);
        status
    }

    fn events(&self) -> EventStream {
        let mut closed = self.closed.subscribe();
        Box::pin(NoEvents(Box::pin(async move {
            // A node that is gone is closed.
            let _ = closed.wait_for(|closed| *closed).await;
        })))
    }

    async fn close(&self) -> Result<(), CloseError> {
        self.closed.send_replace(true);
        Ok(())
    }
}

/// Gives accepted frames to a handler until it fails, and answers its words.
async fn serve(
    shared: &Shared,
    scope: &Scope,
    mut next: usize,
    handler: &dyn Handler,
    cursor: &Mutex<Cursor>,
) -> String {
    /// Most frames of one call.
    const BATCH: usize = 8;
    let mut length = shared.log_length.subscribe();
    loop {
        // The sender lives in `shared`, so waiting cannot fail.
        let _ = length.wait_for(|length| *length > next).await;
        let mut batch: Vec<_> = {
            let core = shared.core();
            core.log[next..].iter().take(BATCH).map(|(accepted, _)| accepted.clone()).collect()
        };
        next += batch.len();
        let last = batch[batch.len() - 1].position;
        if shared.fault != Fault::GivesEveryScopeEverything {
            batch.retain(|accepted| scope.holds(GROUP, &accepted.frame.shard));
        }
        if shared.fault == Fault::SwapsFramesForSubscribers {
            batch.reverse();
        }
        if shared.fault == Fault::CountsTheFailedBatchAsHandled {
            lock(cursor).advance(last);
        }
        if !batch.is_empty()
            && let Err(error) = handler.handle(&batch).await
        {
            return error.to_string();
        }
        lock(cursor).advance(last);
    }
}

#[derive(Debug)]
struct Control {
    cursor: Mutex<Cursor>,
    cancelled: watch::Sender<bool>,
    end: watch::Sender<Option<SubscriptionEnd>>,
}

#[async_trait]
impl SubscriptionControl for Control {
    fn cursor(&self) -> Cursor {
        lock(&self.cursor).clone()
    }

    fn cancel(&self) {
        self.cancelled.send_replace(true);
    }

    async fn ended(&self) -> SubscriptionEnd {
        let mut end = self.end.subscribe();
        let end = end.wait_for(Option::is_some).await.expect("the sender lives in this value");
        end.clone().expect("it was waited for")
    }
}

/// Counts proposals while they wait.
struct InFlight<'a>(&'a Mutex<u64>, u64);

impl<'a> InFlight<'a> {
    fn begin(in_flight: &'a Mutex<u64>, frames: u64) -> Self {
        *lock(in_flight) += frames;
        Self(in_flight, frames)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        *lock(self.0) -= self.1;
    }
}

/// Events of a node to which nothing happens until it ends.
struct NoEvents(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Stream for NoEvents {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.as_mut().poll(context).map(|()| None)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
