//! A cluster in one process, over QUIC on the loopback.

#![allow(dead_code, reason = "each test uses what it needs")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use quorate_conformance::replicator::{Cluster, MachineMaker};
use quorate_engine::engine::EngineDriver;
use quorate_host::{HostConfig, Hosted};
use quorate_replicator::{
    ClusterId, Driver, Env, MonotonicClock, NodeId, Replicator, Transport as _,
};
use quorate_transport_quic::{Authority, QuicConfig, QuicTransport, Subject, Validity};
use tempfile::TempDir;

const CLUSTER: ClusterId = ClusterId::new([7; 16]);

/// Nodes 1 to n, each with a directory, a port and a certificate of its own.
pub(crate) struct OverQuic<D: EngineDriver> {
    driver: D,
    driver_config: D::Config,
    authority: Authority,
    machine: MachineMaker,
    addresses: Vec<SocketAddr>,
    nodes: Mutex<Vec<Arc<dyn Replicator>>>,
    directory: TempDir,
}

impl<D: EngineDriver> std::fmt::Debug for OverQuic<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OverQuic").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl<D: EngineDriver + Clone> OverQuic<D>
where
    Hosted<D>: Driver<Config = D::Config>,
{
    /// Opens so many nodes.
    pub(crate) async fn open(
        (driver, driver_config): (D, D::Config),
        nodes: usize,
        machine: MachineMaker,
    ) -> Self {
        let authority = Authority::create("test", Validity::days(1)).unwrap();
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut cluster = Self {
            driver,
            driver_config,
            authority,
            machine,
            addresses: Vec::new(),
            nodes: Mutex::default(),
            directory: tempfile::tempdir().unwrap(),
        };
        let bound: Vec<_> = (0..nodes).map(|place| cluster.bind(place, anywhere)).collect();
        cluster.addresses = bound.iter().map(|transport| transport.listens_on()).collect();
        for (place, transport) in bound.into_iter().enumerate() {
            let node = cluster.start(place, transport).await;
            cluster.nodes.lock().unwrap().push(node);
        }
        cluster
    }

    /// Starts a node that is no founder; where it listens.
    pub(crate) async fn join(&self, place: usize) -> (Arc<dyn Replicator>, String) {
        let transport = self.bind(place, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let address = transport.listens_on().to_string();
        (self.start(place, transport).await, address)
    }

    fn bind(&self, place: usize, at: SocketAddr) -> Arc<QuicTransport> {
        let subject = Subject::node(CLUSTER, NodeId::new(place as u64 + 1));
        let issued = self.authority.issue(&subject, Validity::days(1)).unwrap();
        let mut config = QuicConfig::listening(at);
        // All of them come from one address, and come back after each restart.
        config.limits.accepts_per_second = 10_000;
        let incarnation = fastrand::u64(..);
        Arc::new(QuicTransport::bind(issued.identity().unwrap(), incarnation, config).unwrap())
    }

    async fn start(&self, place: usize, transport: Arc<QuicTransport>) -> Arc<dyn Replicator> {
        for (other, address) in self.addresses.iter().enumerate().filter(|(it, _)| *it != place) {
            transport.add_peer(NodeId::new(other as u64 + 1), address.to_string());
        }
        let id = transport.local_id();
        let path = self.directory.path().join(id.to_string());
        let mut env = Env::new(id, path, Arc::new(MonotonicClock::new()), id.number());
        env.members = (1..=self.addresses.len() as u64).map(NodeId::new).collect();
        env.transport = Some(transport);
        let mut config = HostConfig::default();
        config.cluster = Some(CLUSTER);
        let hosted = Hosted::new(self.driver.clone(), config);
        hosted.open(self.driver_config.clone(), env, (self.machine)()).await.unwrap()
    }
}

#[async_trait]
impl<D: EngineDriver + Clone> Cluster for OverQuic<D>
where
    Hosted<D>: Driver<Config = D::Config>,
{
    fn nodes(&self) -> Vec<Arc<dyn Replicator>> {
        self.nodes.lock().unwrap().clone()
    }

    async fn restart(&self, node: usize) -> bool {
        let before = Arc::clone(&self.nodes.lock().unwrap()[node]);
        before.close().await.unwrap();
        let transport = self.bind(node, self.addresses[node]);
        let opened = self.start(node, transport).await;
        self.nodes.lock().unwrap()[node] = opened;
        true
    }

    async fn stall(&self, _: usize, _: bool) -> bool {
        false
    }

    async fn close(&self) {
        for node in self.nodes() {
            node.close().await.unwrap();
        }
    }
}
