//! Nodes that have stores and snapshots, and no consensus.

use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use quorate_engine::{Stores, StoresConfig};
use quorate_host::{OnSnapshot, SnapshotReport, Snapshots, SnapshotsConfig};
use quorate_replicator::{
    BulkError, BulkOffer, BulkSink, BulkSource, Channel, GroupId, Inbound, Member, NodeId,
    OpenError, PeerState, SendError, Transport,
};
use quorate_storage::{
    Changes, CheckpointMeta, CheckpointStore, CheckpointWrite, DataDir, DataMode, Disk, Identity,
    Log, LogConfig, MemoryDisk, Recovered, Summary,
};
use quorate_transport_memory::{HubConfig, MemoryHub};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

pub(crate) const GROUP: GroupId = GroupId::new(0);

/// Longer than any step takes.
pub(crate) const LONG: Duration = Duration::from_secs(120);

pub(crate) const CACHE_BYTES: usize = 4 << 20;

/// What is on a disk, open.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) stores: Vec<Arc<CheckpointStore>>,
    pub(crate) recovered: Vec<Recovered>,
    pub(crate) log: Log,
    /// Last: it holds the lock.
    _directory: DataDir,
}

pub(crate) fn open(disk: Arc<dyn Disk>, node: NodeId, groups: u32) -> Result<Opened, OpenError> {
    let identity =
        Identity { cluster: [1; 16], node: node.number(), driver: "none".to_owned(), groups };
    let config = StoresConfig {
        store: [node.number() as u8; 16],
        mode: DataMode::Create,
        log: LogConfig::small(),
        checkpoint_cache_bytes: CACHE_BYTES * groups as usize,
    };
    let Stores { directory, log, groups } = Stores::open(disk, "test", &identity, config)?;
    let (stores, recovered) =
        groups.into_iter().map(|group| (Arc::new(group.checkpoints), group.recovered)).unzip();
    Ok(Opened { stores, recovered, log, _directory: directory })
}

/// A node with some groups.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) opened: Opened,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) reports: mpsc::UnboundedReceiver<(GroupId, SnapshotReport)>,
    transport: Arc<Counted>,
}

impl Node {
    /// A node with one group in memory.
    pub(crate) fn new(hub: &MemoryHub, number: u64) -> Self {
        let disk = Arc::new(MemoryDisk::new());
        Self::on(hub, number, disk, 1, SnapshotsConfig::default()).unwrap()
    }

    pub(crate) fn on(
        hub: &MemoryHub,
        number: u64,
        disk: Arc<dyn Disk>,
        groups: u32,
        config: SnapshotsConfig,
    ) -> Result<Self, OpenError> {
        let id = NodeId::new(number);
        let opened = open(disk, id, groups)?;
        let transport = Arc::new(Counted {
            inner: hub.connect(id),
            read: Arc::default(),
            offers: Mutex::default(),
        });
        let (reported, reports) = mpsc::unbounded_channel();
        // Whoever has closed the node does not listen any more.
        let report: OnSnapshot =
            Arc::new(move |group, report| drop(reported.send((group, report))));
        let over: Arc<dyn Transport> = Arc::clone(&transport) as _;
        let snapshots = Snapshots::new(over, Handle::current(), config, report);
        for (group, store) in (0..).zip(&opened.stores) {
            snapshots.serve(GroupId::new(group), store, opened.log.reader());
        }
        let snapshots = Arc::new(snapshots);
        transport.receive(Arc::new(Offers { snapshots: Arc::clone(&snapshots) }));
        Ok(Self { id, opened, snapshots, reports, transport })
    }

    pub(crate) fn store(&self) -> &Arc<CheckpointStore> {
        &self.opened.stores[0]
    }

    /// Writes a checkpoint.
    pub(crate) fn write(&self, index: u64, pairs: Changes) {
        write(self.store(), index, pairs);
    }

    pub(crate) fn send(&self, to: &Self, index: u64) {
        self.snapshots.send(GROUP, to.id, index, Bytes::from_static(b"head"));
    }

    /// The next report.
    pub(crate) async fn report(&mut self) -> SnapshotReport {
        let report = tokio::time::timeout(LONG, self.reports.recv()).await;
        report.expect("something is reported").expect("the node holds a sender").1
    }

    /// The next report, which is that something was sent.
    pub(crate) async fn sent(&mut self) -> Result<(), String> {
        match self.report().await {
            SnapshotReport::Sent { outcome, .. } => outcome,
            other => panic!("{other:?}"),
        }
    }

    /// The next report, which is that something is staged; its index.
    pub(crate) async fn staged(&mut self) -> u64 {
        match self.report().await {
            SnapshotReport::Staged { index, .. } => index,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn install(&self, index: u64) {
        drop(self.snapshots.install(GROUP, index).unwrap());
        assert_eq!(self.store().latest().unwrap().index, index);
    }

    /// Bytes that this node has read to send them.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.transport.read.load(Ordering::Relaxed)
    }

    /// What this node has offered.
    pub(crate) fn offers(&self) -> Vec<BulkOffer> {
        self.transport.offers.lock().unwrap().clone()
    }

    /// Closes it; what is on the disk is nobody's then.
    pub(crate) async fn close(self) {
        self.transport.close().await;
        self.snapshots.close().await;
        for store in &self.opened.stores {
            assert_eq!(Arc::strong_count(store), 1, "nothing holds the store any more");
        }
    }
}

/// A network whose transfers are cut into small chunks.
pub(crate) fn hub() -> MemoryHub {
    let mut config = HubConfig::seeded(1);
    config.bulk_chunk_bytes = 16 << 10;
    config.bulk_give_up_after = Duration::from_millis(200);
    MemoryHub::with_config(config).unwrap()
}

/// Writes a checkpoint.
pub(crate) fn write(store: &CheckpointStore, index: u64, machine_pairs: Changes) {
    let text = |what: &str| Bytes::from(format!("{what} of {index}"));
    let meta = CheckpointMeta {
        index,
        position: text("words"),
        mark: text("mark"),
        state: [index as u8; 32],
        log_watermark: 0,
    };
    let host_pairs = vec![(Bytes::from_static(b"session"), Some(text("session")))];
    store.write(CheckpointWrite { meta, machine_pairs, host_pairs }).unwrap();
}

/// So many values of so many bytes, which differ with the seed.
pub(crate) fn pairs(seed: u64, count: u64, value_bytes: usize) -> Changes {
    let mut random = fastrand::Rng::with_seed(seed);
    let pair = |number: u64| {
        let mut value = vec![0; value_bytes];
        random.fill(&mut value);
        (Bytes::from(format!("key {number:08}")), Some(Bytes::from(value)))
    };
    (0..count).map(pair).collect()
}

/// Compares two stores by what they hold, each pair of it read and added up.
pub(crate) fn assert_same(a: &CheckpointStore, b: &CheckpointStore) {
    let (of_a, of_b) = (counted(a), counted(b));
    assert_eq!(of_a, of_b);
    let (mut a, b) = (a.latest().unwrap(), b.latest().unwrap());
    a.log_watermark = b.log_watermark;
    assert_eq!(a, b);
}

/// What the newest checkpoint says it holds, which is compared with its first and its last pair.
fn counted(store: &CheckpointStore) -> (Summary, Vec<(Bytes, Bytes)>) {
    let pin = store.pin().unwrap().unwrap();
    let mut pairs = 0;
    pin.look_at_machine(|_, _| pairs += 1).unwrap();
    assert_eq!(pairs, pin.summary().machine.pairs);
    (pin.summary(), pin.read_machine(Bound::Unbounded, 10, usize::MAX).unwrap())
}

/// Gives offers to the snapshots of a node.
#[derive(Debug)]
struct Offers {
    snapshots: Arc<Snapshots>,
}

#[async_trait]
impl Inbound for Offers {
    async fn message(&self, _from: NodeId, _channel: Channel, _message: Bytes) {}

    fn peer(&self, _peer: NodeId, _state: PeerState) {}

    fn bulk(&self, from: NodeId, offer: BulkOffer) -> Result<Box<dyn BulkSink>, String> {
        self.snapshots.offer(from, offer)
    }
}

/// A transport that counts what it reads to send it.
#[derive(Debug)]
struct Counted {
    inner: Arc<dyn Transport>,
    read: Arc<AtomicU64>,
    offers: Mutex<Vec<BulkOffer>>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Transport for Counted {
    fn local_id(&self) -> NodeId {
        self.inner.local_id()
    }

    fn peers(&self) -> Vec<(NodeId, PeerState)> {
        self.inner.peers()
    }

    fn members(&self, members: &[Member]) {
        self.inner.members(members);
    }

    fn receive(&self, inbound: Arc<dyn Inbound>) {
        self.inner.receive(inbound);
    }

    fn send(&self, to: NodeId, channel: Channel, message: Bytes) -> Result<(), SendError> {
        self.inner.send(to, channel, message)
    }

    async fn send_bulk(
        &self,
        to: NodeId,
        offer: BulkOffer,
        source: Arc<dyn BulkSource>,
    ) -> Result<(), BulkError> {
        self.offers.lock().unwrap().push(offer.clone());
        let source = CountedSource { inner: source, read: Arc::clone(&self.read) };
        self.inner.send_bulk(to, offer, Arc::new(source)).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[derive(Debug)]
struct CountedSource {
    inner: Arc<dyn BulkSource>,
    read: Arc<AtomicU64>,
}

#[async_trait]
impl BulkSource for CountedSource {
    async fn read(&self, offset: u64, bytes_max: usize) -> Result<Bytes, String> {
        let bytes = self.inner.read(offset, bytes_max).await?;
        self.read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}
