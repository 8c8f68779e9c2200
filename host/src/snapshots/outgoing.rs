//! Sending snapshots.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use quorate_engine::{SnapshotOffer, SnapshotPlan, SnapshotSource};
use quorate_replicator::{BulkId, BulkOffer, BulkSource, GroupId, NodeId};
use quorate_storage::{Index, Pin};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use super::{GroupSide, Shared, SnapshotProgress, SnapshotReport, SnapshotWay};

/// A snapshot on its way to one node. Dropping it gives it up.
pub(super) struct Outgoing {
    index: Index,
    sent: Arc<Sent>,
    _given_up: oneshot::Sender<()>,
}

/// How far it has got.
#[derive(Debug, Default)]
struct Sent {
    done: AtomicU64,
    bytes: AtomicU64,
}

impl Outgoing {
    pub(super) fn progress(&self, to: NodeId) -> SnapshotProgress {
        SnapshotProgress {
            peer: to,
            way: SnapshotWay::Out,
            index: self.index,
            done: self.sent.done.load(Ordering::Relaxed),
            bytes: self.sent.bytes.load(Ordering::Relaxed),
        }
    }
}

/// See [`Snapshots::send`](super::Snapshots::send).
pub(super) fn send(shared: &Arc<Shared>, group: GroupId, to: NodeId, index: Index, head: Bytes) {
    let not_sent = |why: String| {
        shared.tell(group, SnapshotReport::Sent { to, index, outcome: Err(why) });
    };
    let begun = shared.group(group).and_then(|side| {
        let pin = pin(&side, index)?;
        let head =
            SnapshotOffer { group, index, head }.encode().map_err(|error| error.to_string())?;
        Ok(Sending { side, pin, to, head, sent: Arc::default() })
    });
    let sending = match begun {
        Ok(sending) => sending,
        Err(why) => return not_sent(why),
    };
    let (give_up, given_up) = oneshot::channel();
    let sent = Arc::clone(&sending.sent);
    let outgoing = Outgoing { index, sent: Arc::clone(&sent), _given_up: give_up };
    // The one before is reported by its own task.
    drop(shared.state().sending.insert((group, to), outgoing));
    let owner = Arc::clone(shared);
    shared.spawn(async move {
        let outcome = tokio::select! {
            biased;
            _ = given_up => Err("another snapshot is sent to the same node".to_owned()),
            outcome = sending.run(&owner) => outcome,
        };
        {
            let mut state = owner.state();
            let mine = state.sending.get(&(group, to));
            if mine.is_some_and(|outgoing| Arc::ptr_eq(&outgoing.sent, &sent)) {
                state.sending.remove(&(group, to));
            }
        }
        owner.tell(group, SnapshotReport::Sent { to, index, outcome });
    });
}

/// Pins just this checkpoint.
fn pin(side: &GroupSide, index: Index) -> Result<Pin, String> {
    let pin = side.store()?.pin().map_err(|error| error.to_string())?;
    match pin {
        Some(pin) if pin.meta().index == index => Ok(pin),
        Some(pin) => Err(format!("the newest checkpoint is at index {} by now", pin.meta().index)),
        None => Err("there is no checkpoint".to_owned()),
    }
}

/// One attempt to send a checkpoint.
struct Sending {
    side: Arc<GroupSide>,
    pin: Pin,
    to: NodeId,
    head: Bytes,
    sent: Arc<Sent>,
}

impl Sending {
    async fn run(self, shared: &Arc<Shared>) -> Result<(), String> {
        let Self { side, pin, to, head, sent } = self;
        let peer = {
            let mut state = shared.state();
            Arc::clone(state.peers.entry(to).or_insert_with(|| Arc::new(Semaphore::new(1))))
        };
        let closed = "this node is closing";
        // The peer's own turn first: a peer that is not there must not keep others from being sent to.
        let turn = async {
            let peer = peer.acquire().await.map_err(|_| closed)?;
            let send = shared.sends.acquire().await.map_err(|_| closed)?;
            Ok::<_, String>((peer, send))
        };
        let stalled_after = shared.config.stalled_after;
        let _turn: (_, _) = tokio::time::timeout(stalled_after, turn)
            .await
            .map_err(|_| "other snapshots are being sent; ask again".to_owned())??;
        let plan = plan(shared, &side, &pin).await?;
        let bytes = plan.head().bytes;
        sent.bytes.store(bytes, Ordering::Relaxed);
        let id = BulkId(plan.id(shared.transport.local_id()));
        let source = Arc::new(Mutex::new(SnapshotSource::new(pin, plan)));
        let source =
            Arc::new(Source { source, shared: Arc::clone(shared), sent: Arc::clone(&sent) });
        let transfer = shared.transport.send_bulk(to, BulkOffer { id, bytes, head }, source);
        tokio::select! {
            sent = transfer => sent.map_err(|error| error.to_string()),
            () = stalled(&sent, stalled_after) => {
                Err(format!("nothing of it was taken for {stalled_after:?}"))
            }
        }
    }
}

/// The plan of what is pinned, made if the last one is that of another checkpoint.
async fn plan(
    shared: &Shared,
    side: &Arc<GroupSide>,
    pin: &Pin,
) -> Result<Arc<SnapshotPlan>, String> {
    let (side, pin) = (Arc::clone(side), pin.clone());
    let work = move || {
        // Held while it is made, so that who sends the same checkpoint to another node waits for it.
        let mut known = side.plan.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = known.as_ref().filter(|plan| plan.is_of(&pin)) {
            return Ok(Arc::clone(plan));
        }
        *known = None;
        let plan = SnapshotPlan::new(side.group, &pin).map_err(|error| error.to_string())?;
        Ok(Arc::clone(known.insert(Arc::new(plan))))
    };
    shared.blocking(work).await?
}

/// Waits until nothing more of a transfer was read for so long.
async fn stalled(sent: &Sent, after: std::time::Duration) {
    let (mut done, mut moved_at) = (0, Instant::now());
    loop {
        tokio::time::sleep_until(moved_at + after).await;
        let now = sent.done.load(Ordering::Relaxed);
        if now == done {
            return;
        }
        (done, moved_at) = (now, Instant::now());
    }
}

/// Reads the stream for the transport, at the pace that is allowed.
struct Source {
    source: Arc<Mutex<SnapshotSource>>,
    shared: Arc<Shared>,
    sent: Arc<Sent>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("sent", &self.sent).finish_non_exhaustive()
    }
}

#[async_trait]
impl BulkSource for Source {
    async fn read(&self, offset: u64, bytes_max: usize) -> Result<Bytes, String> {
        let at_hand = || {
            // Not waited for: it is held while another piece is read from the disk.
            let source = self.source.try_lock().ok()?;
            source.at_hand(offset, bytes_max)
        };
        let bytes = match at_hand() {
            Some(bytes) => bytes,
            None => {
                let source = Arc::clone(&self.source);
                let read = move || {
                    let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
                    source.read(offset, bytes_max).map_err(|error| error.to_string())
                };
                self.shared.blocking(read).await??
            }
        };
        self.shared.pace.wait(bytes.len()).await;
        self.sent.done.store(offset + bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}
