//! Receiving snapshots.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use quorate_engine::{RecoveredCheckpoint, SnapshotOffer, SnapshotSink};
use quorate_replicator::{BulkOffer, BulkSink, NodeId};
use quorate_storage::{Index, Staged};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::{GroupSide, Shared, SnapshotProgress, SnapshotReport, SnapshotWay};

/// Bytes that wait for the disk: enough to keep it busy while the next come.
const QUEUE_BYTES: usize = 4 << 20;

/// What a group receives.
#[derive(Default)]
pub(super) enum Incoming {
    /// Nothing.
    #[default]
    Idle,
    /// A snapshot that has not come whole.
    Receiving(Arc<Receiving>),
    /// A snapshot that is durable and waits to be put in force.
    Staged(Box<Waiting>),
    /// The snapshot at this index is being put in force.
    Installing(Index),
}

/// A snapshot that is durable and waits to be put in force.
pub(super) struct Waiting {
    staged: Staged,
    from: NodeId,
    id: u128,
    bytes: u64,
}

/// What was said of a snapshot before it came.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Offered {
    from: NodeId,
    id: u128,
    index: Index,
    bytes: u64,
}

/// A snapshot that comes, over all attempts to send it.
pub(super) struct Receiving {
    offered: Offered,
    /// Bytes that were queued for the disk, or written.
    taken: AtomicU64,
    /// How many of `QUEUE_BYTES` are free.
    room: Arc<Semaphore>,
    phase: watch::Sender<Phase>,
}

/// How far a snapshot that comes has got.
struct Phase {
    /// Rises with each attempt; an earlier one may do nothing any more.
    attempt: u64,
    /// Whether the attempt is under way.
    is_live: bool,
    /// To whoever writes; none once all has come, or it has ended.
    queue: Option<mpsc::UnboundedSender<Job>>,
    /// What the sender's engine said at the last attempt.
    head: Bytes,
    /// What came of it.
    end: Option<Result<(), String>>,
    /// One of as many as may be received at once.
    permit: Option<OwnedSemaphorePermit>,
}

enum Job {
    Bytes(Bytes, OwnedSemaphorePermit),
    Finish,
}

impl Incoming {
    pub(super) fn progress(&self) -> Option<SnapshotProgress> {
        let of = |from, index, done, bytes| {
            Some(SnapshotProgress { peer: from, way: SnapshotWay::In, index, done, bytes })
        };
        match self {
            Self::Idle | Self::Installing(_) => None,
            Self::Receiving(receiving) => {
                let Offered { from, index, bytes, .. } = receiving.offered;
                of(from, index, receiving.taken.load(Ordering::Acquire), bytes)
            }
            Self::Staged(waiting) => {
                of(waiting.from, waiting.index(), waiting.bytes, waiting.bytes)
            }
        }
    }

    /// Ends what comes. What is staged stays on the disk.
    pub(super) fn end(&mut self, why: &str) {
        if let Self::Receiving(receiving) = self {
            receiving.end(Err(why.to_owned()));
            *self = Self::Idle;
        }
    }

    fn is_receiving(&self, receiving: &Arc<Receiving>) -> bool {
        matches!(self, Self::Receiving(now) if Arc::ptr_eq(now, receiving))
    }
}

impl Receiving {
    /// Another attempt to send it.
    fn attempt(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        side: &Arc<GroupSide>,
        head: Bytes,
    ) -> Box<dyn BulkSink> {
        let mut attempt = 0;
        self.phase.send_modify(|phase| {
            phase.attempt += 1;
            phase.is_live = true;
            phase.head = head;
            attempt = phase.attempt;
        });
        let (shared, side) = (Arc::clone(shared), Arc::clone(side));
        Box::new(Sink { shared, side, receiving: Arc::clone(self), attempt })
    }

    fn is_live(&self) -> bool {
        self.phase.borrow().is_live
    }

    /// Queues a job of this attempt, unless it is over.
    fn queue(&self, attempt: u64, job: Job) -> Result<(), String> {
        let mut result = Ok(());
        self.phase.send_if_modified(|phase| {
            result = phase.over(attempt).map_or(Ok(()), Err);
            if result.is_ok() {
                let is_last = matches!(job, Job::Finish);
                if let Job::Bytes(bytes, _) = &job {
                    self.taken.fetch_add(bytes.len() as u64, Ordering::AcqRel);
                }
                // Without a queue the end is queued already; a writer that is gone has said why, or says so in `end`.
                if let Some(queue) = &phase.queue {
                    let _ = queue.send(job);
                }
                if is_last {
                    phase.queue = None;
                }
            }
            false
        });
        result
    }

    /// Waits until this attempt is over, or all of it is done.
    async fn over(&self, attempt: u64) -> Result<(), String> {
        let mut phase = self.phase.subscribe();
        let over = phase.wait_for(|phase| phase.over(attempt).is_some() || phase.end.is_some());
        let phase = over.await.map_err(|error| error.to_string())?;
        match (&phase.end, phase.over(attempt)) {
            (Some(Ok(())), _) => Ok(()),
            (_, Some(why)) => Err(why),
            (_, None) => Err("it ended".to_owned()),
        }
    }

    /// Ends it, once.
    fn end(&self, result: Result<(), String>) {
        self.phase.send_modify(|phase| {
            phase.queue = None;
            phase.permit = None;
            phase.end.get_or_insert(result);
        });
    }
}

impl Phase {
    /// Why an attempt may not go on; none if it may.
    fn over(&self, attempt: u64) -> Option<String> {
        match &self.end {
            Some(Err(why)) => Some(why.clone()),
            _ if self.attempt != attempt => Some("it is being sent once more".to_owned()),
            _ => None,
        }
    }
}

/// See [`Snapshots::offer`](super::Snapshots::offer).
pub(super) fn offer(
    shared: &Arc<Shared>,
    from: NodeId,
    offer: BulkOffer,
) -> Result<Box<dyn BulkSink>, String> {
    let BulkOffer { id, bytes, head } = offer;
    let SnapshotOffer { group, index, head } =
        SnapshotOffer::decode(&head).map_err(|error| error.to_string())?;
    let offered = Offered { from, id: id.0, index, bytes };
    let bytes_max = shared.config.bytes_max;
    if bytes > bytes_max {
        return Err(format!("the snapshot has {bytes} bytes, this node takes at most {bytes_max}"));
    }
    let side = shared.group(group)?;
    // One offer at a time: nobody else begins to receive something.
    let _offers = shared.offers.lock().unwrap_or_else(PoisonError::into_inner);
    if shared.is_closing() {
        return Err("this node is closing".to_owned());
    }
    let newest = side.store()?.latest().map_or(0, |meta| meta.index);
    if newest >= index {
        return Ok(Box::new(Done { bytes, again: None }));
    }
    let stale = {
        let mut incoming = side.incoming();
        match &*incoming {
            Incoming::Idle => None,
            Incoming::Installing(now) => {
                return Err(format!(
                    "a snapshot at index {now} is being put in force; offer it again"
                ));
            }
            Incoming::Staged(waiting) if waiting.index() > newest => {
                if (waiting.from, waiting.id) == (from, id.0) {
                    // The engine may have dropped what it was told with the words of an earlier attempt.
                    let (shared, side) = (Arc::clone(shared), Arc::clone(&side));
                    let again = Again { shared, side, id: id.0, head };
                    return Ok(Box::new(Done { bytes, again: Some(again) }));
                }
                let waits = waiting.index();
                return Err(format!(
                    "a snapshot at index {waits} waits to be put in force; offer it again"
                ));
            }
            // The checkpoint has gone past it: nobody waits for it any more.
            Incoming::Staged(_) => match std::mem::take(&mut *incoming) {
                Incoming::Staged(waiting) => Some(waiting.staged),
                _ => None,
            },
            Incoming::Receiving(now) if now.offered == offered => {
                return Ok(now.attempt(shared, &side, head));
            }
            Incoming::Receiving(now) if now.is_live() && now.offered.index >= index => {
                let Offered { from, index, .. } = now.offered;
                return Err(format!(
                    "a snapshot at index {index} comes from {from}; offer it again"
                ));
            }
            Incoming::Receiving(_) => {
                incoming.end("another snapshot takes its place");
                None
            }
        }
    };
    let permit = permit(shared)?;
    // Held until it is known here, so that a writer that fails at once finds what it ends.
    let mut incoming = side.incoming();
    let receiving = begin(shared, &side, offered, permit, stale)?;
    let sink = receiving.attempt(shared, &side, head);
    *incoming = Incoming::Receiving(receiving);
    Ok(sink)
}

/// One of as many snapshots as may be received at once. One that was cut off gives way.
fn permit(shared: &Shared) -> Result<OwnedSemaphorePermit, String> {
    let permit = || Arc::clone(&shared.receives).try_acquire_owned().ok();
    if let Some(permit) = permit() {
        return Ok(permit);
    }
    let sides: Vec<_> = shared.state().groups.values().cloned().collect();
    for side in sides {
        let mut incoming = side.incoming();
        if matches!(&*incoming, Incoming::Receiving(receiving) if !receiving.is_live()) {
            incoming.end("it was cut off, and another snapshot takes its place");
            break;
        }
    }
    permit().ok_or_else(|| {
        format!(
            "this node receives {} snapshots already; offer it again",
            shared.config.receives_max
        )
    })
}

/// Begins to receive: from now on a thread writes what comes.
fn begin(
    shared: &Arc<Shared>,
    side: &Arc<GroupSide>,
    offered: Offered,
    permit: OwnedSemaphorePermit,
    stale: Option<Staged>,
) -> Result<Arc<Receiving>, String> {
    let (queue, jobs) = mpsc::unbounded_channel();
    let phase = Phase {
        attempt: 0,
        is_live: false,
        queue: Some(queue),
        head: Bytes::new(),
        end: None,
        permit: Some(permit),
    };
    let receiving = Arc::new(Receiving {
        offered,
        taken: AtomicU64::new(0),
        room: Arc::new(Semaphore::new(QUEUE_BYTES)),
        phase: watch::Sender::new(phase),
    });
    let writer = Writer {
        shared: Arc::clone(shared),
        side: Arc::clone(side),
        receiving: Arc::clone(&receiving),
    };
    let work = move || {
        if let Some(stale) = stale {
            stale.discard();
        }
        writer.run(jobs);
    };
    if shared.spawn_blocking(work) { Ok(receiving) } else { Err("this node is closing".to_owned()) }
}

/// Writes what comes to the disk.
struct Writer {
    shared: Arc<Shared>,
    side: Arc<GroupSide>,
    receiving: Arc<Receiving>,
}

impl Writer {
    fn run(self, jobs: mpsc::UnboundedReceiver<Job>) {
        // The one before has to let go of the stage first.
        let stage = self.side.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let result = self.write(jobs);
        drop(stage);
        if result.is_err() {
            let mut incoming = self.side.incoming();
            if incoming.is_receiving(&self.receiving) {
                *incoming = Incoming::Idle;
            }
        }
        self.receiving.end(result);
    }

    fn write(&self, mut jobs: mpsc::UnboundedReceiver<Job>) -> Result<(), String> {
        let Offered { from, id, index, bytes } = self.receiving.offered;
        let words = |error: quorate_engine::SnapshotError| error.to_string();
        let mut sink = {
            let store = self.side.store()?;
            SnapshotSink::new(&store, from, id, self.side.group, index, bytes).map_err(words)?
        };
        loop {
            let job = jobs.blocking_recv();
            if self.receiving.phase.borrow().end.is_some() {
                return Err("it was given up".to_owned());
            }
            match job {
                Some(Job::Bytes(bytes, room)) => {
                    sink.write(&bytes).map_err(words)?;
                    drop(room);
                }
                Some(Job::Finish) => break,
                None => return Err("it was given up".to_owned()),
            }
        }
        let staged = sink.finish(self.side.log.durable_lsn()).map_err(words)?;
        {
            let mut incoming = self.side.incoming();
            if !incoming.is_receiving(&self.receiving) {
                staged.discard();
                return Err("it was given up".to_owned());
            }
            *incoming = Incoming::Staged(Box::new(Waiting { staged, from, id, bytes }));
        }
        let head = self.receiving.phase.borrow().head.clone();
        tell_staged(&self.shared, &self.side, id, head);
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Only after a panic there is no end yet, and somebody may wait for it.
        self.receiving.end(Err("a thread panicked; this is a bug".to_owned()));
    }
}

/// Reports what is staged, if it still is.
fn tell_staged(shared: &Shared, side: &GroupSide, id: u128, head: Bytes) {
    let report = match &*side.incoming() {
        Incoming::Staged(waiting) if waiting.id == id => {
            let meta = waiting.staged.meta();
            let (index, mark, state) = (meta.index, meta.mark.clone(), meta.state);
            SnapshotReport::Staged { from: waiting.from, index, mark, state, head }
        }
        _ => return,
    };
    shared.tell(side.group, report);
}

/// See [`Snapshots::install`](super::Snapshots::install).
pub(super) fn install(side: &GroupSide, index: Index) -> Result<RecoveredCheckpoint, String> {
    let store = side.store()?;
    let staged = {
        let mut incoming = side.incoming();
        match std::mem::take(&mut *incoming) {
            Incoming::Staged(waiting) if waiting.index() == index => {
                *incoming = Incoming::Installing(index);
                waiting.staged
            }
            other => {
                *incoming = other;
                return Err(format!("no snapshot at index {index} is staged; this is a bug"));
            }
        }
    };
    let install = || {
        store.install(staged)?;
        store.pin()
    };
    let installed = install();
    *side.incoming() = Incoming::Idle;
    match installed {
        Ok(Some(pin)) if pin.meta().index == index => Ok(RecoveredCheckpoint::new(pin)),
        Ok(_) => Err(format!("the snapshot at index {index} was replaced at once; this is a bug")),
        Err(error) => Err(format!("the snapshot at index {index} cannot be put in force: {error}")),
    }
}

/// See [`Snapshots::discard`](super::Snapshots::discard).
pub(super) fn discard(shared: &Shared, side: &GroupSide, index: Index) {
    let staged = {
        let mut incoming = side.incoming();
        match std::mem::take(&mut *incoming) {
            Incoming::Staged(waiting) if waiting.index() == index => waiting.staged,
            other => return *incoming = other,
        }
    };
    // To remove a large file takes a while. If this closes, the next start removes it.
    shared.spawn_blocking(|| staged.discard());
}

impl Waiting {
    fn index(&self) -> Index {
        self.staged.meta().index
    }
}

/// One attempt to send a snapshot here.
struct Sink {
    shared: Arc<Shared>,
    side: Arc<GroupSide>,
    receiving: Arc<Receiving>,
    attempt: u64,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

#[async_trait]
impl BulkSink for Sink {
    fn resume_at(&self) -> u64 {
        self.receiving.taken.load(Ordering::Acquire)
    }

    async fn write(&mut self, chunk: Bytes) -> Result<(), String> {
        let receiving = &self.receiving;
        // A chunk that is larger than the queue takes all of it.
        let bytes = chunk.len().min(QUEUE_BYTES) as u32;
        let room = Arc::clone(&receiving.room).acquire_many_owned(bytes);
        let room = tokio::select! {
            biased;
            over = receiving.over(self.attempt) => {
                over?;
                return Err("it has come whole".to_owned());
            }
            room = room => room.map_err(|error| error.to_string())?,
        };
        // From here on nothing waits: what is queued counts.
        receiving.queue(self.attempt, Job::Bytes(chunk, room))
    }

    async fn finish(self: Box<Self>) -> Result<(), String> {
        let receiving = &self.receiving;
        let (taken, bytes) = (self.resume_at(), receiving.offered.bytes);
        if taken != bytes {
            return Err(format!("{taken} bytes of {bytes} came"));
        }
        receiving.queue(self.attempt, Job::Finish)?;
        // Not only of this attempt: the end is that of the snapshot.
        receiving.over(self.attempt).await
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let mut was_cut_off = false;
        self.receiving.phase.send_if_modified(|phase| {
            if phase.attempt == self.attempt {
                phase.is_live = false;
                was_cut_off = phase.queue.is_some();
            }
            false
        });
        if was_cut_off {
            let (shared, side) = (Arc::clone(&self.shared), Arc::clone(&self.side));
            let (receiving, attempt) = (Arc::clone(&self.receiving), self.attempt);
            self.shared.spawn(forget(shared, side, receiving, attempt));
        }
    }
}

/// Lets go of a snapshot that was cut off and does not go on.
async fn forget(
    shared: Arc<Shared>,
    side: Arc<GroupSide>,
    receiving: Arc<Receiving>,
    attempt: u64,
) {
    let mut closing = shared.closing.subscribe();
    let mut phase = receiving.phase.subscribe();
    tokio::select! {
        // Whoever closes ends it, and waits for this task.
        _ = closing.wait_for(|closing| *closing) => {}
        _ = phase.wait_for(|phase| phase.attempt != attempt || phase.end.is_some()) => {}
        () = tokio::time::sleep(shared.config.kept_for) => {
            let mut incoming = side.incoming();
            if incoming.is_receiving(&receiving) && !receiving.is_live() {
                incoming.end("it was cut off and did not go on");
            }
        }
    }
}

/// Takes what this node has already.
struct Done {
    bytes: u64,
    again: Option<Again>,
}

/// What is staged, to be reported once more with other words.
struct Again {
    shared: Arc<Shared>,
    side: Arc<GroupSide>,
    id: u128,
    head: Bytes,
}

impl std::fmt::Debug for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Done").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

#[async_trait]
impl BulkSink for Done {
    fn resume_at(&self) -> u64 {
        self.bytes
    }

    async fn write(&mut self, _chunk: Bytes) -> Result<(), String> {
        Err("this node has all of it".to_owned())
    }

    async fn finish(self: Box<Self>) -> Result<(), String> {
        if let Some(Again { shared, side, id, head }) = self.again {
            tell_staged(&shared, &side, id, head);
        }
        Ok(())
    }
}
