//! The node's side: answers what clients ask.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::OptionFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use quorate_replicator::limits::MESSAGE_BYTES_MAX;
use quorate_replicator::{
    Accepted, Consistency, Cursor, Handler, HandlerError, ProposeError, ReadError, Replicator,
    ReplicatorExt as _, Scope, Status, SubscribeError,
};
use quorate_shard::Shards;
use quorate_shard::kv::{Applied, Reads as _};
use quorate_transport_quic::{ClientName, Clients, Lane, LaneError, LaneReceiver, LaneSender};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use crate::proofs::{self, Proofs};
use crate::protocol::{self, Given, Notice, Request};

/// Calls under way on one lane; more wait unread, at the client.
const LANE_CALLS_MAX: usize = 4096;

/// Bytes of requests under way of all clients together; more wait unread.
const REQUEST_BYTES_TOTAL: usize = 256 << 20;

/// How often a status that has changed is told.
const STATUS_EVERY: Duration = Duration::from_millis(200);

/// How often a subscriber is told how far it has got while nothing in its scope is accepted.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Batches that a subscriber may be behind before the node waits for it.
const BATCHES_AHEAD: usize = 8;

/// Answers clients from one node. Give it to
/// [`QuicTransport::serve_clients`](quorate_transport_quic::QuicTransport::serve_clients).
///
/// Any client whose certificate is of the cluster may ask for everything, changes of the members among it.
#[derive(Debug)]
pub struct Service {
    replicator: Arc<dyn Replicator>,
    reads: Applied,
    proofs: Proofs,
    /// What requests under way may still take.
    room: Arc<Semaphore>,
}

impl Service {
    /// Answers from `replicator`, and reads `shards`, which belong to the machine that it was opened with.
    pub fn new(replicator: Arc<dyn Replicator>, shards: &Shards) -> Self {
        let reads = Applied::new(Arc::clone(&replicator), shards);
        let proofs = Proofs::new(Arc::clone(&replicator));
        Self { replicator, reads, proofs, room: Arc::new(Semaphore::new(REQUEST_BYTES_TOTAL)) }
    }

    /// Sets how many bytes of requests may be under way, of all clients together; 256 MiB unless set. More wait unread. Never less
    /// than one largest message.
    #[must_use]
    pub fn request_bytes_total(mut self, bytes: usize) -> Self {
        self.room = Arc::new(Semaphore::new(bytes.max(MESSAGE_BYTES_MAX)));
        self
    }
}

#[async_trait]
impl Clients for Service {
    async fn serve(&self, client: &ClientName, lane: Lane) {
        let (mut sender, mut receiver) = lane.split();
        let served = match first(&mut receiver).await {
            Ok(Some((_, _, Request::Watch))) => self.watch(&mut sender, &mut receiver).await,
            Ok(Some((number, _, Request::Subscribe { scope, from }))) => {
                self.subscribe(number, scope, from, sender, &mut receiver).await
            }
            Ok(Some(request)) => self.calls(request, &mut sender, &mut receiver).await,
            Ok(None) => Ok(()),
            Err(ended) => Err(ended),
        };
        if let Err(ended) = served {
            tracing::debug!(%client, "a lane has ended: {ended}");
        }
    }
}

/// Why a lane is served no longer.
type Ended = String;

fn ended(error: impl std::fmt::Display) -> Ended {
    error.to_string()
}

type Numbered = (u64, Duration, Request);

async fn first(receiver: &mut LaneReceiver) -> Result<Option<Numbered>, Ended> {
    match receiver.next().await.map_err(ended)? {
        Some(message) => protocol::read_request(message).map(Some).map_err(ended),
        None => Ok(None),
    }
}

impl Service {
    /// Answers calls, many at a time, in the order in which they are done.
    async fn calls(
        &self,
        first: Numbered,
        sender: &mut LaneSender,
        receiver: &mut LaneReceiver,
    ) -> Result<(), Ended> {
        let told = proofs::Lane::default();
        let mut running = FuturesUnordered::new();
        // The request that was read last, while there is no room for it. Those that have room go on meanwhile, and make some.
        let mut waiting = Some(Box::pin(self.admit(first, MESSAGE_BYTES_MAX)));
        let mut open = true;
        while open || waiting.is_some() || !running.is_empty() {
            tokio::select! {
                Some(answer) = running.next(), if !running.is_empty() => {
                    let mut answers: Vec<Bytes> = answer;
                    // What is done by now goes with it in one write.
                    while let Some(Some(answer)) = running.next().now_or_never() {
                        answers.extend(answer);
                    }
                    sender.send(answers).await.map_err(ended)?;
                }
                Some((request, room)) = OptionFuture::from(waiting.as_mut()) => {
                    waiting = None;
                    running.push(self.call(request, room, &told));
                }
                message = receiver.next(),
                    if open && waiting.is_none() && running.len() < LANE_CALLS_MAX =>
                {
                    match message.map_err(ended)? {
                        Some(message) => {
                            let bytes = message.len();
                            let request = protocol::read_request(message).map_err(ended)?;
                            waiting = Some(Box::pin(self.admit(request, bytes)));
                        }
                        None => open = false,
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits for room for a request of so many bytes.
    async fn admit(&self, request: Numbered, bytes: usize) -> (Numbered, OwnedSemaphorePermit) {
        let bytes = u32::try_from(bytes).expect("a message is far smaller");
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await;
        (request, room.expect("the semaphore is never closed"))
    }

    /// Carries out one call; the parts of its answer.
    async fn call(
        &self,
        (number, within, request): Numbered,
        _room: OwnedSemaphorePermit,
        lane: &proofs::Lane,
    ) -> Vec<Bytes> {
        let Self { replicator, reads, proofs, .. } = self;
        let size = |max: u64| usize::try_from(max).unwrap_or(usize::MAX);
        match request {
            Request::Propose(frame) => {
                protocol::answer(number, &replicator.propose(frame, within).await)
            }
            Request::ProposeMany(frames) => {
                protocol::answer(number, &replicator.propose_many(frames, within).await)
            }
            Request::ProposeProven(frame) => {
                let mut answer = replicator.propose(frame, within).await;
                let accepted = answer.as_mut().map(std::slice::from_mut).unwrap_or_default();
                let batches = proofs.add(accepted).await;
                // Nothing is waited for from here on, so that this goes out before what knows of it.
                let mut messages = lane.news(&batches);
                messages.extend(protocol::answer(number, &answer));
                messages
            }
            Request::ProposeManyProven(frames) => {
                let mut answer = replicator.propose_many(frames, within).await;
                let accepted = answer.as_mut().map(Vec::as_mut_slice).unwrap_or_default();
                let batches = proofs.add(accepted).await;
                let mut messages = lane.news(&batches);
                messages.extend(protocol::answer(number, &answer));
                messages
            }
            Request::MemberBatches { group, after } => {
                protocol::answer(number, &replicator.member_batches(group, after).await)
            }
            Request::Decision { shard, id } => {
                protocol::answer(number, &replicator.decision(&shard, id, within).await)
            }
            Request::Barrier { shard, level } => {
                protocol::answer(number, &replicator.read_barrier(&shard, level, within).await)
            }
            Request::Get { shard, key, options } => {
                protocol::answer(number, &reads.get(&shard, &key, options.within(within)).await)
            }
            Request::Scan { shard, scan, options } => {
                protocol::answer(number, &reads.scan(&shard, &scan, options.within(within)).await)
            }
            Request::Changes { shard, from, prefix, max, options } => {
                let options = options.within(within);
                let changes = reads.changes(&shard, from, &prefix, size(max), options).await;
                protocol::answer(number, &changes)
            }
            Request::Orgs { after, max, options } => {
                let options = options.within(within);
                let orgs = reads.orgs(after.as_deref(), size(max), options).await;
                protocol::answer(number, &orgs)
            }
            Request::Namespaces { org, after, max, options } => {
                let options = options.within(within);
                let page = reads.namespaces(&org, after.as_deref(), size(max), options).await;
                protocol::answer(number, &page)
            }
            Request::ScanOrg { org, scan, options } => {
                let options = options.within(within);
                protocol::answer(number, &reads.scan_org(&org, &scan, options).await)
            }
            Request::ChangeMembers(change) => {
                protocol::answer(number, &replicator.change_members(change, within).await)
            }
            Request::Transfer { group, to } => {
                protocol::answer(number, &replicator.transfer(group, to, within).await)
            }
            Request::Watch | Request::Subscribe { .. } | Request::Taken => {
                let reason = "a lane of calls takes nothing else; open another lane".into();
                protocol::answer(number, &Err::<(), _>(ProposeError::Invalid { reason }))
            }
        }
    }

    /// Tells how the node is doing, now and whenever that changes.
    async fn watch(
        &self,
        sender: &mut LaneSender,
        receiver: &mut LaneReceiver,
    ) -> Result<(), Ended> {
        let mut events = self.replicator.events();
        let mut ticks = tokio::time::interval(STATUS_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told: Option<Status> = None;
        let mut more = true;
        loop {
            let mut messages = Vec::new();
            tokio::select! {
                _ = ticks.tick() => {}
                event = events.next(), if more => match event {
                    Some(event) => messages.extend(protocol::answer(0, &Notice::Event(event))),
                    // A node that closes tells so in its status.
                    None => more = false,
                },
                // Nothing else is said on this lane but that it ends.
                ended = receiver.next() => return ended.map(drop).map_err(self::ended),
            }
            let status = self.replicator.status();
            if told.as_ref() != Some(&status) {
                let notice = Notice::Status(Box::new(status.clone()));
                messages.extend(protocol::answer(0, &notice));
                told = Some(status);
            }
            if !messages.is_empty() {
                sender.send(messages).await.map_err(ended)?;
            }
        }
    }

    /// Gives accepted frames until the lane or the subscription ends.
    async fn subscribe(
        &self,
        number: u64,
        scope: Scope,
        from: Cursor,
        sender: LaneSender,
        receiver: &mut LaneReceiver,
    ) -> Result<(), Ended> {
        let giver = Arc::new(Giver {
            number,
            sender: Mutex::new(sender),
            ahead: Semaphore::new(BATCHES_AHEAD),
        });
        let from = match self.begin(from).await {
            Ok(from) => from,
            Err(error) => return giver.say(&Err::<Cursor, _>(error)).await.map_err(ended),
        };
        // What is given must not come before the answer.
        let mut held = giver.sender.lock().await;
        let begun = self.replicator.subscribe(scope, from.clone(), Arc::clone(&giver) as _).await;
        let (answer, subscription) = match begun {
            Ok(subscription) => (Ok(from), Some(subscription)),
            Err(error) => (Err(error), None),
        };
        held.send(protocol::answer(number, &answer)).await.map_err(ended)?;
        drop(held);
        let Some(subscription) = subscription else { return Ok(()) };
        let mut told = subscription.cursor();
        let mut ticks = tokio::time::interval(PROGRESS_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                end = subscription.ended() => {
                    return giver.say(&Given::End(end)).await.map_err(ended);
                }
                message = receiver.next() => match message.map_err(ended)? {
                    None => return Ok(()),
                    Some(message) => match protocol::read_request(message).map_err(ended)? {
                        (_, _, Request::Taken) if giver.ahead.available_permits() < BATCHES_AHEAD => {
                            giver.ahead.add_permits(1);
                        }
                        _ => return Err("a subscriber says nothing but what it has taken".into()),
                    },
                },
                _ = ticks.tick() => {
                    let cursor = subscription.cursor();
                    if cursor != told {
                        giver.say(&Given::Progress(cursor.clone())).await.map_err(ended)?;
                        told = cursor;
                    }
                }
            }
        }
    }

    /// Where a subscription begins. "Now" is made a place, at which it can go on with another node.
    async fn begin(&self, from: Cursor) -> Result<Cursor, SubscribeError> {
        if !from.is_from_now() {
            return Ok(from);
        }
        let mut begins = Vec::new();
        for shard in self.replicator.shard_of_each_group() {
            let reached = self.replicator.read_barrier(&shard, Consistency::Local, Duration::ZERO);
            begins.push(reached.await.map_err(unreadable)?);
        }
        Ok(Cursor::after(begins))
    }
}

/// Why a subscription cannot begin where the node is.
fn unreadable(error: ReadError) -> SubscribeError {
    match error {
        ReadError::Closed => SubscribeError::Closed,
        ReadError::Faulted { cause } => SubscribeError::Faulted { cause },
        error => SubscribeError::Unreachable { problem: error.to_string() },
    }
}

/// Gives accepted frames to a lane, and waits for a subscriber that lags.
#[derive(Debug)]
struct Giver {
    number: u64,
    sender: Mutex<LaneSender>,
    ahead: Semaphore,
}

impl Giver {
    async fn say(&self, what: &impl serde::Serialize) -> Result<(), LaneError> {
        self.sender.lock().await.send(protocol::answer(self.number, what)).await
    }
}

#[async_trait]
impl Handler for Giver {
    async fn handle(&self, batch: &[Accepted]) -> Result<(), HandlerError> {
        let room = self.ahead.acquire().await.expect("the semaphore is never closed");
        room.forget();
        self.say(&Given::Batch(batch.to_vec())).await.map_err(HandlerError::new)
    }
}
