//! Snapshots between nodes: which are sent, which are received, and what is reported of them.
//!
//! ```text
//!   engine thread                 Snapshots                          the other node
//!   Effects::snapshots --> send: pin, plan, send_bulk ~~~~~~~~~~~~~> offer: sink, queue, stage
//!   Input::SnapshotSent <--- report(Sent)                              | report(Staged) --> Input::SnapshotStaged
//!   Effects::install   --> install: rename, pin --> HostCore::installed
//! ```
//!
//! It knows nothing of an engine thread: it is told what to send and what to install, and calls back. What touches a disk runs
//! where tokio runs blocking work.
//!
//! 1. Each [`send`](Snapshots::send) is answered by one [`SnapshotReport::Sent`], until the node closes.
//! 2. Of each group one snapshot at most is received at a time. What was cut off is kept, and goes on where it stopped; what has
//!    come whole is kept until it is installed or discarded, and nothing else is received meanwhile, so that a log that begins
//!    after it finds it after a crash.
//! 3. At most one snapshot at a time goes to each peer, and so many to all of them; what is queued and held in memory is bounded.

mod incoming;
mod outgoing;
mod pace;
mod progress;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::engine::{Input, StateHash};
use quorate_engine::{RecoveredCheckpoint, SnapshotPlan};
use quorate_replicator::{BulkOffer, BulkSink, GroupId, NodeId, Transport};
use quorate_storage::{CheckpointStore, Index, LogReader};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;

use incoming::Incoming;
use outgoing::Outgoing;
use pace::Pace;
pub use progress::{SnapshotProgress, SnapshotWay};

/// What can be set about snapshots between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotsConfig {
    /// Most bytes that are sent in a second, to all nodes together; none: as fast as they are taken. Less leaves more of the disk
    /// and the network to what the cluster commits meanwhile, and makes a node that joins wait longer.
    pub bytes_per_second: Option<u64>,
    /// Most snapshots that are sent at once. More share the same bandwidth.
    pub sends_max: usize,
    /// Most snapshots that are received at once, those that were cut off and may go on included. Each costs the cache of a
    /// checkpoint file and room on the disk.
    pub receives_max: usize,
    /// The largest snapshot that is taken, in bytes: what another node can make this one write to its disk.
    pub bytes_max: u64,
    /// How long what came of a snapshot that was cut off is kept, for its sender to go on with. It takes room on the disk.
    pub kept_for: Duration,
    /// How long a snapshot that is sent may make no progress. What is pinned for it keeps the checkpoint file from using its room
    /// again.
    pub stalled_after: Duration,
}

impl Default for SnapshotsConfig {
    fn default() -> Self {
        Self {
            bytes_per_second: Some(128 << 20),
            sends_max: 2,
            receives_max: 4,
            bytes_max: 64 << 30,
            kept_for: Duration::from_secs(10 * 60),
            stalled_after: Duration::from_secs(60),
        }
    }
}

/// What became of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SnapshotReport {
    /// One that was to be sent has arrived whole, or will not.
    Sent {
        /// To whom.
        to: NodeId,
        /// Its last index.
        index: Index,
        /// Why it did not arrive.
        outcome: Result<(), String>,
    },
    /// One was received and is durable. It waits for [`Snapshots::install`] or [`Snapshots::discard`].
    Staged {
        /// Who sent it.
        from: NodeId,
        /// Its last index.
        index: Index,
        /// The engine's mark in it.
        mark: Bytes,
        /// Hash of the history up to it.
        state: StateHash,
        /// What the sender's engine said of it.
        head: Bytes,
    },
}

impl SnapshotReport {
    /// As the engine is told.
    pub fn into_input(self) -> Input {
        match self {
            Self::Sent { to, outcome, .. } => Input::SnapshotSent { to, arrived: outcome.is_ok() },
            Self::Staged { from, index, mark, state, head } => {
                Input::SnapshotStaged { from, index, mark, state, head }
            }
        }
    }
}

/// Is called with what becomes of snapshots, on any thread; must not block.
pub type OnSnapshot = Arc<dyn Fn(GroupId, SnapshotReport) + Send + Sync>;

/// The snapshots that a node sends and receives.
pub struct Snapshots {
    shared: Arc<Shared>,
}

/// What tasks and sinks hold.
struct Shared {
    transport: Arc<dyn Transport>,
    runtime: Handle,
    config: SnapshotsConfig,
    report: OnSnapshot,
    pace: Pace,
    /// One permit for each snapshot that may be sent at once.
    sends: Arc<Semaphore>,
    /// One permit for each snapshot that may be received at once.
    receives: Arc<Semaphore>,
    /// Held while an offer is answered.
    offers: Mutex<()>,
    closing: watch::Sender<bool>,
    state: Mutex<State>,
}

/// What is known of groups, peers and tasks.
#[derive(Default)]
struct State {
    groups: BTreeMap<GroupId, Arc<GroupSide>>,
    /// One permit each: one snapshot at a time.
    peers: BTreeMap<NodeId, Arc<Semaphore>>,
    sending: BTreeMap<(GroupId, NodeId), Outgoing>,
    /// Everything that runs; none once it closes.
    tasks: Option<JoinSet<()>>,
}

/// What is known of one group.
struct GroupSide {
    group: GroupId,
    store: Weak<CheckpointStore>,
    log: LogReader,
    /// Of the checkpoint that was sent last.
    plan: Mutex<Option<Arc<SnapshotPlan>>>,
    incoming: Mutex<Incoming>,
    /// Held by whoever writes to the stage.
    stage: Arc<Mutex<()>>,
}

impl Snapshots {
    /// Sends and receives over `transport`; `report` is told what becomes of it.
    pub fn new(
        transport: Arc<dyn Transport>,
        runtime: Handle,
        config: SnapshotsConfig,
        report: OnSnapshot,
    ) -> Self {
        let state = State { tasks: Some(JoinSet::new()), ..State::default() };
        let shared = Shared {
            transport,
            runtime,
            pace: Pace::new(config.bytes_per_second),
            sends: Arc::new(Semaphore::new(config.sends_max.max(1))),
            receives: Arc::new(Semaphore::new(config.receives_max.max(1))),
            offers: Mutex::new(()),
            config,
            report,
            closing: watch::Sender::new(false),
            state: Mutex::new(state),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Serves a group whose checkpoints are in `store`, which stays its owner's, and whose log is that of `log`. Before
    /// anything is sent or received of it.
    pub fn serve(&self, group: GroupId, store: &Arc<CheckpointStore>, log: LogReader) {
        let side = GroupSide {
            group,
            store: Arc::downgrade(store),
            log,
            plan: Mutex::default(),
            incoming: Mutex::default(),
            stage: Arc::default(),
        };
        self.shared.state().groups.insert(group, Arc::new(side));
    }

    /// Sends the checkpoint at `index` to a node, with the engine's words for the receiver. Pins it before it returns; if the newest
    /// checkpoint is another one by now, that is reported at once, and the engine asks for the newer one. One that is on
    /// its way to that node is given up, and reported, first.
    pub fn send(&self, group: GroupId, to: NodeId, index: Index, head: Bytes) {
        outgoing::send(&self.shared, group, to, index, head);
    }

    /// Where to put what another node offers: for [`Inbound::bulk`](quorate_replicator::Inbound::bulk). A snapshot that this node
    /// has already, or a newer one, is taken as if it had been sent.
    ///
    /// # Errors
    ///
    /// Why it is not taken; the words are for the sender.
    pub fn offer(&self, from: NodeId, offer: BulkOffer) -> Result<Box<dyn BulkSink>, String> {
        incoming::offer(&self.shared, from, offer)
    }

    /// Puts the staged snapshot of a group in force, after its reset is durable: [`Effects::install`](quorate_engine::Effects).
    /// Gives what [`HostCore::installed`](quorate_engine::HostCore::installed) takes. Blocks for some syncs of the disk, and
    /// must not run beside a checkpoint of the same group: call it on the thread that stores them.
    ///
    /// # Errors
    ///
    /// The disk failed, or nothing is staged at `index`: the group cannot go on.
    pub fn install(&self, group: GroupId, index: Index) -> Result<RecoveredCheckpoint, String> {
        incoming::install(&*self.shared.group(group)?, index)
    }

    /// Gives up a staged snapshot that the engine does not want: after the turn in which it was told of it, if that wrote no
    /// [`Record::Reset`](quorate_storage::Record) at this index. Until then nothing else is received. Does nothing if nothing is
    /// staged at `index`.
    pub fn discard(&self, group: GroupId, index: Index) {
        if let Ok(side) = self.shared.group(group) {
            incoming::discard(&self.shared, &side, index);
        }
    }

    /// How far the snapshots of a group have got that are on their way now.
    pub fn progress(&self, group: GroupId) -> Vec<SnapshotProgress> {
        let (side, mut progress) = {
            let state = self.shared.state();
            let sending = state.sending.range((group, NodeId::new(0))..);
            let sending = sending.take_while(|((of, _), _)| *of == group);
            let progress: Vec<_> = sending.map(|((_, to), sent)| sent.progress(*to)).collect();
            (state.groups.get(&group).cloned(), progress)
        };
        progress.extend(side.and_then(|side| side.incoming().progress()));
        progress
    }

    /// Ends everything, and waits until nothing runs any more. What was staged and not installed stays on the disk, where the next
    /// start finds it. Nothing is reported afterwards. May be called again.
    ///
    /// # Cancel safety
    ///
    /// Closing goes on when the future is dropped; call again to await the end.
    pub async fn close(&self) {
        let tasks = self.shared.begin_close();
        if let Some(mut tasks) = tasks {
            let ended = self
                .shared
                .runtime
                .spawn(async move { while tasks.join_next().await.is_some() {} });
            // It ends by itself if nobody waits here.
            let _ = ended.await;
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn group(&self, group: GroupId) -> Result<Arc<GroupSide>, String> {
        let side = self.state().groups.get(&group).cloned();
        side.ok_or_else(|| format!("{group} is not a group of this node"))
    }

    fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    fn tell(&self, group: GroupId, report: SnapshotReport) {
        if !self.is_closing() {
            (self.report)(group, report);
        }
    }

    /// Runs a task until it ends; false if this closes.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        let mut state = self.state();
        let Some(tasks) = &mut state.tasks else { return false };
        // Tasks that have ended are let go here, so that they do not add up.
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(task, &self.runtime);
        true
    }

    /// Runs blocking work until it ends; false if this closes.
    fn spawn_blocking(&self, work: impl FnOnce() + Send + 'static) -> bool {
        let mut state = self.state();
        let Some(tasks) = &mut state.tasks else { return false };
        while tasks.try_join_next().is_some() {}
        tasks.spawn_blocking_on(work, &self.runtime);
        true
    }

    /// Does blocking work where it may block.
    ///
    /// # Cancel safety
    ///
    /// The work goes on when the future is dropped, and closing waits for it.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let (done, result) = oneshot::channel();
        // Whoever does not wait any more does not need the result.
        let work = move || drop(done.send(work()));
        if !self.spawn_blocking(work) {
            return Err("this node is closing".to_owned());
        }
        result.await.map_err(|_| "a thread panicked; this is a bug".to_owned())
    }

    fn begin_close(&self) -> Option<JoinSet<()>> {
        self.closing.send_replace(true);
        let (tasks, groups, sending) = {
            let mut state = self.state();
            let sending = std::mem::take(&mut state.sending);
            (state.tasks.take(), state.groups.values().cloned().collect::<Vec<_>>(), sending)
        };
        drop(sending);
        for side in groups {
            side.incoming().end("this node is closing");
        }
        tasks
    }
}

impl GroupSide {
    fn incoming(&self) -> MutexGuard<'_, Incoming> {
        // Nothing panics between two changes that belong together.
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self) -> Result<Arc<CheckpointStore>, String> {
        self.store.upgrade().ok_or_else(|| "this node is closing".to_owned())
    }
}

impl Drop for Snapshots {
    fn drop(&mut self) {
        // Only signals: the tasks end by themselves.
        drop(self.shared.begin_close());
    }
}

impl fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state();
        f.debug_struct("Snapshots")
            .field("groups", &state.groups.len())
            .field("sending", &state.sending.len())
            .finish_non_exhaustive()
    }
}
