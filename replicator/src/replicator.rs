//! The trait in front of every driver, and what makes it pleasant to use.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use futures_core::Stream;

use crate::{
    Accepted, AdminError, CloseError, Consistency, Cursor, DecidedBatch, Decision, EventStream,
    Frame, FrameId, GroupId, Handler, HandlerError, MemberChange, NodeId, Pinned, Position,
    ProposeError, ReadError, Scope, ShardKey, Signer, Status, SubscribeError, Subscription,
};

/// Decides frames, applies them, and tells who wants to know. One value serves one node.
///
/// # Contract
///
/// **Deadline.** `within` is how long the caller is willing to wait. A call returns no later than that, give or
/// take 50 ms of scheduling. It travels with a forwarded request as the time that is left, never as a moment of
/// a clock.
///
/// **Order.** Frames of one call to [`propose_many`](Self::propose_many) are decided in their order. Of frames
/// proposed concurrently either may come first; a frame proposed after the answer to another comes after it.
///
/// **Cancel safety.** A dropped future of [`propose`](Self::propose) takes its frame back only if it was not yet
/// handed to the group: the outcome is then unknown, as with [`Decision::Timeout`]. Nothing leaks.
///
/// **Threads.** All methods may be called from many tasks at once.
///
/// The forms without a deadline, and streams, are in [`ReplicatorExt`]; a driver does not write them.
#[async_trait]
pub trait Replicator: fmt::Debug + Send + Sync + 'static {
    /// Proposes one frame and waits until it is decided and applied here.
    ///
    /// # Errors
    ///
    /// This node could not submit the frame, or cannot know what became of it:
    /// [`may_commit`](ProposeError::may_commit) says which.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves the outcome unknown; propose the same frame again, or ask
    /// [`decision`](Self::decision).
    async fn propose(&self, frame: Frame, within: Duration) -> Result<Decision, ProposeError>;

    /// Proposes frames in order; answers in the same order.
    ///
    /// Frames are admitted all or none. Each is decided by itself: this is no transaction. Frames of one group are
    /// decided in their order.
    ///
    /// # Errors
    ///
    /// As for [`propose`](Self::propose). [`ProposeError::SessionEnded`] is of the first frame that met it; others of
    /// the call may have been decided, and [`decision`](Self::decision) tells. Where a session had room for some frames alone, the
    /// others are answered [`Decision::Timeout`].
    ///
    /// # Cancel safety
    ///
    /// As for [`propose`](Self::propose), for each frame.
    async fn propose_many(
        &self,
        frames: Vec<Frame>,
        within: Duration,
    ) -> Result<Vec<Decision>, ProposeError>;

    /// What became of an earlier frame; runs a linearizable barrier first, so that
    /// [`Decision::Undecided`] means: not decided when this call began.
    ///
    /// Never answers [`Decision::Timeout`].
    ///
    /// # Errors
    ///
    /// [`ReadError::Forgotten`] if the session has ended or has settled the serial.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it has no effect.
    async fn decision(
        &self,
        shard: &ShardKey,
        id: FrameId,
        within: Duration,
    ) -> Result<Decision, ReadError>;

    /// Gives every accepted frame in `scope` after `from` to `handler`, then those to come.
    ///
    /// # Errors
    ///
    /// [`SubscribeError::Compacted`] if frames after `from` are gone from the log.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may leave nothing behind: either the subscription was returned, or it ends at once.
    async fn subscribe(
        &self,
        scope: Scope,
        from: Cursor,
        handler: Arc<dyn Handler>,
    ) -> Result<Subscription, SubscribeError>;

    /// Waits until the state applied here is as fresh as `level` asks for the group of `shard`, and says how far
    /// it is. Waiting reads share one round of the group.
    ///
    /// # Errors
    ///
    /// [`ReadError::Timeout`] or [`ReadError::TooStale`] if freshness could not be shown in time.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it has no effect.
    async fn read_barrier(
        &self,
        shard: &ShardKey,
        level: Consistency,
        within: Duration,
    ) -> Result<Position, ReadError>;

    /// The newest durable checkpoint of the group of `shard`, held as it is while the value lives: what
    /// [`SubscribeError::Compacted`] points to, and a way to read much state at one moment without holding up
    /// writes.
    ///
    /// # Errors
    ///
    /// [`ReadError::NoCheckpoint`] if the node keeps none, or has made none yet.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it has no effect.
    async fn pinned(&self, shard: &ShardKey) -> Result<Arc<dyn Pinned>, ReadError>;

    /// The group that decides the frames of `shard`.
    fn group(&self, shard: &ShardKey) -> GroupId;

    /// What this node knows of itself now; never blocks on the group.
    fn status(&self) -> Status;

    /// A new key that signs what is proposed, if the groups take nothing else; its session is the one to number frames in.
    /// [`Session`](crate::Session) asks for one by itself.
    ///
    /// # Errors
    ///
    /// The system gave no randomness.
    fn signer(&self) -> io::Result<Option<Signer>> {
        Ok(None)
    }

    /// The batch that was decided at an index of a group, with what proves that to somebody who does not believe this node. Indexes are
    /// those of [`Position`]s.
    ///
    /// # Errors
    ///
    /// [`ReadError::NoProof`] if its driver has none, or the batch is not decided here yet, or no longer in the log.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it has no effect.
    async fn decided(&self, group: GroupId, index: u64) -> Result<DecidedBatch, ReadError> {
        let _ = (group, index);
        let reason = format!("driver {} has no proofs", self.status().driver);
        Err(ReadError::NoProof { reason })
    }

    /// The decided batches of a group after the index `after` that changed its members, in their order: whoever verifies a later batch
    /// needs them.
    ///
    /// # Errors
    ///
    /// As for [`decided`](Self::decided).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it has no effect.
    async fn member_batches(
        &self,
        group: GroupId,
        after: u64,
    ) -> Result<Vec<DecidedBatch>, ReadError> {
        let _ = (group, after);
        let reason = format!("driver {} has no proofs", self.status().driver);
        Err(ReadError::NoProof { reason })
    }

    /// Changes who the members of every group are, and waits until it is done: an added voter has caught up and votes,
    /// a removed member is out. May be asked of any member; with several groups they change one after the other, and
    /// asking again goes on where it stopped.
    ///
    /// # Errors
    ///
    /// [`AdminError::Refused`] with the reason if it would lose the quorum, another change is under way, or the node
    /// does not answer; [`AdminError::Unfinished`] if it is not done within the time.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves it unknown whether the change is made.
    async fn change_members(
        &self,
        change: MemberChange,
        within: Duration,
    ) -> Result<(), AdminError> {
        let _ = (change, within);
        Err(AdminError::Unsupported { driver: self.status().driver })
    }

    /// Makes `to` the leader of `group` and waits until it is. May be asked of any member.
    ///
    /// # Errors
    ///
    /// [`AdminError::Refused`] if `to` may not lead; [`AdminError::Unfinished`] if it does not lead within the time, and
    /// the leader before goes on then.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves it unknown whether leadership moves.
    async fn transfer(
        &self,
        group: GroupId,
        to: NodeId,
        within: Duration,
    ) -> Result<(), AdminError> {
        let _ = (group, to, within);
        Err(AdminError::Unsupported { driver: self.status().driver })
    }

    /// What happens to this node from now on.
    fn events(&self) -> EventStream;

    /// Ends the node in order: no further request is taken, waiting proposals end with
    /// [`ProposeError::Closed`], subscriptions end, what is durable stays, and the data directory is released when
    /// this returns. May be called again, and then waits for the same end.
    ///
    /// # Errors
    ///
    /// The node had stopped before; it is closed all the same.
    ///
    /// # Cancel safety
    ///
    /// Closing goes on when the future is dropped; call again to await the end.
    async fn close(&self) -> Result<(), CloseError>;
}

/// How long the forms without a deadline wait.
const PROPOSE_WAIT: Duration = Duration::from_secs(2);

/// Conveniences over any [`Replicator`]; drivers do not write these.
pub trait ReplicatorExt: Replicator {
    /// [`propose`](Replicator::propose) within two seconds.
    ///
    /// # Errors
    ///
    /// As [`Replicator::propose`].
    ///
    /// # Cancel safety
    ///
    /// As [`Replicator::propose`].
    fn propose_wait(
        &self,
        frame: Frame,
    ) -> impl Future<Output = Result<Decision, ProposeError>> + Send {
        self.propose(frame, PROPOSE_WAIT)
    }

    /// Waits until the group of `shard` answers this node: its log is replayed and a barrier has passed. False if it did
    /// not come to that within the time, or the node stopped. A node whose disk is full is ready too: it serves reads.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it has no effect.
    fn ready(&self, shard: &ShardKey, within: Duration) -> impl Future<Output = bool> + Send {
        async move { self.read_barrier(shard, Consistency::Linearizable, within).await.is_ok() }
    }

    /// One shard of each group, in no particular order: what has to be done once for each group is done for these. Nobody has to have
    /// changed them.
    fn shard_of_each_group(&self) -> Vec<ShardKey> {
        let groups = self.status().groups.len().max(1);
        let mut seen = BTreeSet::new();
        // Groups have their names by a hash, so a few names for each of them are tried.
        let names = (0_u64..)
            .map(|number| ShardKey::new("quorate", &number.to_string()).expect("both are names"));
        names.filter(|shard| seen.insert(self.group(shard))).take(groups).collect()
    }

    /// Waits until everything up to `position` is applied here: read your own writes on another node.
    ///
    /// # Errors
    ///
    /// [`ReadError::Timeout`] if it was not applied in time.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it has no effect.
    fn wait_applied(
        &self,
        shard: &ShardKey,
        position: Position,
        within: Duration,
    ) -> impl Future<Output = Result<Position, ReadError>> + Send {
        async move {
            // Whoever knows the position was answered, so a linearizable barrier is at or after it.
            let reached = self.read_barrier(shard, Consistency::Linearizable, within).await?;
            if (reached.epoch, reached.index) < (position.epoch, position.index) {
                return Err(ReadError::Timeout);
            }
            Ok(reached)
        }
    }

    /// The accepted frames in `scope` after `from` as a stream; ends when the subscription ends.
    ///
    /// Frames are handed over one batch at a time; a reader that stalls costs one batch.
    ///
    /// # Errors
    ///
    /// As [`Replicator::subscribe`].
    ///
    /// # Cancel safety
    ///
    /// As [`Replicator::subscribe`].
    fn accepted(
        &self,
        scope: Scope,
        from: Cursor,
    ) -> impl Future<Output = Result<AcceptedStream, SubscribeError>> + Send {
        async move {
            let handover = Arc::new(Handover::default());
            let handler = Arc::new(StreamHandler(Arc::clone(&handover)));
            let subscription = self.subscribe(scope, from, handler).await?;
            Ok(AcceptedStream { handover, subscription })
        }
    }
}

impl<R: Replicator + ?Sized> ReplicatorExt for R {}

/// Accepted frames in order; made by [`ReplicatorExt::accepted`].
#[derive(Debug)]
pub struct AcceptedStream {
    handover: Arc<Handover>,
    subscription: Subscription,
}

impl AcceptedStream {
    /// The subscription behind the stream: its cursor, and how it ended. A frame counts as handled when the last
    /// frame of its batch has been taken from the stream.
    pub fn subscription(&self) -> &Subscription {
        &self.subscription
    }
}

impl Stream for AcceptedStream {
    type Item = Accepted;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Accepted>> {
        let mut state = self.handover.lock();
        if let Some(accepted) = state.batch.pop_front() {
            if state.batch.is_empty() {
                state.wake_handler();
            }
            return Poll::Ready(Some(accepted));
        }
        if state.over {
            return Poll::Ready(None);
        }
        state.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

/// One batch on its way from the subscription to the stream.
#[derive(Debug, Default)]
struct Handover(Mutex<HandoverState>);

#[derive(Debug, Default)]
struct HandoverState {
    batch: VecDeque<Accepted>,
    over: bool,
    reader: Option<Waker>,
    handler: Option<Waker>,
}

impl Handover {
    fn lock(&self) -> std::sync::MutexGuard<'_, HandoverState> {
        // Nothing panics while the lock is held, so a poisoned lock still guards a whole state.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl HandoverState {
    fn wake_handler(&mut self) {
        if let Some(waker) = self.handler.take() {
            waker.wake();
        }
    }
}

/// Dropped with the subscription, which is how the stream learns of the end.
#[derive(Debug)]
struct StreamHandler(Arc<Handover>);

impl Drop for StreamHandler {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.over = true;
        if let Some(waker) = state.reader.take() {
            waker.wake();
        }
    }
}

#[async_trait]
impl Handler for StreamHandler {
    async fn handle(&self, batch: &[Accepted]) -> Result<(), HandlerError> {
        {
            let mut state = self.0.lock();
            state.batch.extend(batch.iter().cloned());
            if let Some(waker) = state.reader.take() {
                waker.wake();
            }
        }
        std::future::poll_fn(|context| {
            let mut state = self.0.lock();
            if state.batch.is_empty() {
                return Poll::Ready(());
            }
            state.handler = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
        Ok(())
    }
}
