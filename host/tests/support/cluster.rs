//! A cluster in one process, over the memory transport.

#![allow(dead_code, reason = "each test uses what it needs")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use quorate_conformance::replicator::Cluster;
use quorate_engine::engine::EngineDriver;
use quorate_host::{HostConfig, Hosted};
use quorate_replicator::{
    Driver, Durability, Env, MonotonicClock, NodeId, OpenError, Replicator, StateMachine,
};
use quorate_storage::Disk;
use quorate_transport_memory::MemoryHub;
use tempfile::TempDir;

/// Makes the state machine of a node.
pub(crate) type Maker = Box<dyn Fn() -> Box<dyn StateMachine> + Send + Sync>;

/// Nodes 1 to n, each with a directory of its own.
pub(crate) struct Nodes<D: EngineDriver> {
    pub(crate) hub: MemoryHub,
    pub(crate) config: HostConfig,
    pub(crate) driver: D,
    pub(crate) driver_config: D::Config,
    durability: Durability,
    founders: Vec<NodeId>,
    machine: Maker,
    nodes: Mutex<Vec<Option<Arc<dyn Replicator>>>>,
    /// Disks other than the real one.
    disks: Mutex<BTreeMap<NodeId, Arc<dyn Disk>>>,
    directory: TempDir,
}

impl<D: EngineDriver> std::fmt::Debug for Nodes<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nodes").field("founders", &self.founders).finish_non_exhaustive()
    }
}

impl<D: EngineDriver + Clone> Nodes<D>
where
    Hosted<D>: Driver<Config = D::Config>,
{
    pub(crate) fn with_driver(
        (driver, driver_config): (D, D::Config),
        count: u64,
        durability: Durability,
        machine: Maker,
    ) -> Self {
        let founders: Vec<_> = (1..=count).map(NodeId::new).collect();
        let hub = MemoryHub::new(1);
        hub.expect(founders.iter().copied());
        let mut config = HostConfig::default();
        config.cluster = Some(quorate_replicator::ClusterId::new([7; 16]));
        Self {
            hub,
            config,
            driver,
            driver_config,
            durability,
            nodes: Mutex::new(founders.iter().map(|_| None).collect()),
            founders,
            machine,
            disks: Mutex::default(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// Opens all founders.
    pub(crate) async fn open(self) -> Self {
        for node in self.founders.clone() {
            self.start(node).await.unwrap();
        }
        self
    }

    pub(crate) fn path(&self, node: NodeId) -> PathBuf {
        self.directory.path().join(node.to_string())
    }

    /// Starts a node on what it has stored; one that is no founder waits to be added.
    pub(crate) async fn start(&self, node: NodeId) -> Result<Arc<dyn Replicator>, OpenError> {
        let clock = Arc::new(MonotonicClock::new());
        let mut env = Env::new(node, self.path(node), clock, node.number());
        env.members.clone_from(&self.founders);
        env.durability = self.durability;
        env.transport = Some(self.hub.connect(node));
        let mut config = self.config.clone();
        config.disk = self.disks.lock().unwrap().get(&node).cloned();
        let hosted = Hosted::new(self.driver.clone(), config);
        let opened = hosted.open(self.driver_config.clone(), env, (self.machine)()).await?;
        let mut nodes = self.nodes.lock().unwrap();
        let place = node.number() as usize - 1;
        if nodes.len() <= place {
            nodes.resize_with(place + 1, || None);
        }
        nodes[place] = Some(Arc::clone(&opened));
        Ok(opened)
    }

    /// Gives a node this disk from its next start on.
    pub(crate) fn set_disk(&self, node: NodeId, disk: Arc<dyn Disk>) {
        self.disks.lock().unwrap().insert(node, disk);
    }

    pub(crate) fn node(&self, node: NodeId) -> Arc<dyn Replicator> {
        let nodes = self.nodes.lock().unwrap();
        Arc::clone(nodes[node.number() as usize - 1].as_ref().expect("it runs"))
    }

    /// Who leads, once all nodes that run agree.
    pub(crate) async fn leader(&self) -> NodeId {
        loop {
            let nodes = self.nodes();
            let led: Vec<_> = nodes.iter().map(|node| node.status().groups[0].leader).collect();
            if let Some(Some(leader)) = led.first()
                && led.iter().all(|other| *other == Some(*leader))
                && nodes.iter().any(|node| node.status().node == *leader)
            {
                return *leader;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Closes a node.
    pub(crate) async fn stop(&self, node: NodeId) {
        let stopped = self.nodes.lock().unwrap()[node.number() as usize - 1].take();
        if let Some(stopped) = stopped {
            let _ = stopped.close().await;
        }
    }

    /// Lets go of a node without a word.
    pub(crate) fn forget(&self, node: NodeId) {
        self.nodes.lock().unwrap()[node.number() as usize - 1] = None;
    }

    /// The nodes that run, in the order of their ids.
    pub(crate) fn nodes(&self) -> Vec<Arc<dyn Replicator>> {
        self.nodes.lock().unwrap().iter().flatten().cloned().collect()
    }

    /// Cuts every link, or restores all.
    pub(crate) fn cut_all(&self, cut: bool) {
        if !cut {
            return self.hub.heal();
        }
        for (place, a) in self.founders.iter().enumerate() {
            for b in &self.founders[place + 1..] {
                self.hub.cut(*a, *b);
            }
        }
    }

    pub(crate) async fn close(&self) {
        for node in self.nodes() {
            let _ = node.close().await;
        }
    }
}

/// As the suite that judges replicators drives it.
#[async_trait]
impl<D: EngineDriver + Clone + std::fmt::Debug> Cluster for Nodes<D>
where
    Hosted<D>: Driver<Config = D::Config>,
{
    fn nodes(&self) -> Vec<Arc<dyn Replicator>> {
        self.nodes()
    }

    async fn restart(&self, node: usize) -> bool {
        if self.durability == Durability::Memory {
            return false;
        }
        let node = NodeId::new(node as u64 + 1);
        self.stop(node).await;
        self.start(node).await.unwrap();
        true
    }

    async fn stall(&self, _: usize, stalled: bool) -> bool {
        if self.nodes().len() == 1 {
            return false;
        }
        self.cut_all(stalled);
        true
    }

    async fn close(&self) {
        self.close().await;
    }
}
