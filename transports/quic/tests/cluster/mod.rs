//! Nodes on the loopback whose links can be cut: every dial goes through a relay that passes datagrams on, or does not.
#![allow(dead_code, reason = "each test takes what it needs")]

pub(crate) mod guests;
pub(crate) mod receiver;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use quorate_conformance::{Network, TransportFactory};
use quorate_replicator::{ClusterId, NodeId, Transport};
use quorate_transport_quic::{
    Authority, Identity, Limits, QuicClient, QuicConfig, QuicTransport, Subject, Validity,
};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// Largest datagram on the loopback.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Limits that notice a cut soon, though not as soon as a busy machine makes a node wait, and let a whole cluster come from one
/// address.
pub(crate) fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.idle_timeout = Duration::from_millis(1500);
    limits.keep_alive = Duration::from_millis(100);
    limits.backoff_min = Duration::from_millis(10);
    limits.backoff_max = Duration::from_millis(200);
    limits.handshake_timeout = Duration::from_secs(2);
    limits.bulk_bytes_per_second = 0;
    limits.accepts_per_second = 10_000;
    limits
}

/// A cluster with an authority of its own.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) authority: Authority,
    pub(crate) id: ClusterId,
    pub(crate) limits: Limits,
}

impl Cluster {
    pub(crate) fn new(limits: Limits) -> Self {
        let authority = Authority::create("test", Validity::days(1)).unwrap();
        Self { authority, id: ClusterId::new(fastrand::u128(..).to_be_bytes()), limits }
    }

    pub(crate) fn identity(&self, node: u64) -> Identity {
        let subject = Subject::node(self.id, NodeId::new(node));
        self.authority.issue(&subject, Validity::days(1)).unwrap().identity().unwrap()
    }

    pub(crate) fn client_identity(&self, name: &str) -> Identity {
        let subject = Subject::client(self.id, name).unwrap();
        self.authority.issue(&subject, Validity::days(1)).unwrap().identity().unwrap()
    }

    pub(crate) fn client(&self, name: &str) -> QuicClient {
        QuicClient::new(self.client_identity(name), self.limits.clone()).unwrap()
    }

    /// A node on a free port without peers.
    pub(crate) fn node(&self, node: u64, incarnation: u64) -> Arc<QuicTransport> {
        self.node_at(node, incarnation, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    pub(crate) fn node_at(
        &self,
        node: u64,
        incarnation: u64,
        at: SocketAddr,
    ) -> Arc<QuicTransport> {
        let mut config = QuicConfig::listening(at);
        config.limits = self.limits.clone();
        Arc::new(QuicTransport::bind(self.identity(node), incarnation, config).unwrap())
    }

    /// Nodes from 1 on, each with the others as peers, without relays.
    pub(crate) fn nodes(&self, count: u64) -> Vec<Arc<QuicTransport>> {
        let nodes: Vec<_> = (1..=count).map(|node| self.node(node, 1)).collect();
        for node in &nodes {
            for other in &nodes {
                node.add_peer(other.local_id(), other.listens_on().to_string());
            }
        }
        nodes
    }
}

/// Passes on what one node sends to another and what comes back.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) at: SocketAddr,
    open: Arc<AtomicBool>,
    pub(crate) passed: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Relay {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let socket = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        let at = socket.local_addr().unwrap();
        let open = Arc::new(AtomicBool::new(true));
        let passed = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(relay(socket, target, Arc::clone(&open), Arc::clone(&passed)));
        Self { at, open, passed, _tasks: tasks }
    }

    pub(crate) fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::SeqCst);
    }
}

async fn relay(
    socket: Arc<UdpSocket>,
    target: SocketAddr,
    open: Arc<AtomicBool>,
    passed: Arc<AtomicU64>,
) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let mut beyond: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut back = JoinSet::new();
    loop {
        // A node that is gone makes an error of the datagram before.
        let Ok((bytes, from)) = socket.recv_from(&mut buffer).await else { continue };
        if !open.load(Ordering::SeqCst) {
            continue;
        }
        let upstream = match beyond.entry(from) {
            Entry::Occupied(known) => Arc::clone(known.get()),
            Entry::Vacant(unknown) => {
                let new = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
                new.connect(target).await.unwrap();
                let (socket, open) = (Arc::clone(&socket), Arc::clone(&open));
                back.spawn(pass_back(Arc::clone(&new), socket, from, open));
                Arc::clone(unknown.insert(new))
            }
        };
        passed.fetch_add(1, Ordering::Relaxed);
        let _ = upstream.send(&buffer[..bytes]).await;
    }
}

async fn pass_back(
    upstream: Arc<UdpSocket>,
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    open: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok(bytes) = upstream.recv(&mut buffer).await else { continue };
        if open.load(Ordering::SeqCst) {
            let _ = socket.send_to(&buffer[..bytes], to).await;
        }
    }
}

/// Makes networks of QUIC transports for the public suite.
#[derive(Debug)]
pub(crate) struct Factory(pub(crate) Limits);

#[derive(Debug)]
pub(crate) struct QuicNetwork {
    pub(crate) transports: Vec<Arc<QuicTransport>>,
    /// By who dials and who is dialled.
    pub(crate) relays: Mutex<BTreeMap<(NodeId, NodeId), Relay>>,
}

impl QuicNetwork {
    pub(crate) async fn open(limits: Limits, nodes: u64) -> Self {
        let cluster = Cluster::new(limits);
        let transports: Vec<_> = (1..=nodes).map(|node| cluster.node(node, 1)).collect();
        let mut relays = BTreeMap::new();
        for from in &transports {
            for to in transports.iter().filter(|to| to.local_id() != from.local_id()) {
                let relay = Relay::to(to.listens_on()).await;
                from.add_peer(to.local_id(), relay.at.to_string());
                relays.insert((from.local_id(), to.local_id()), relay);
            }
        }
        Self { transports, relays: Mutex::new(relays) }
    }

    pub(crate) fn set_open(&self, a: NodeId, b: NodeId, open: bool) {
        let relays = self.relays.lock().unwrap();
        relays[&(a, b)].set_open(open);
        relays[&(b, a)].set_open(open);
    }
}

#[async_trait]
impl TransportFactory for Factory {
    async fn open(&self, nodes: usize) -> Box<dyn Network> {
        Box::new(QuicNetwork::open(self.0.clone(), nodes as u64).await)
    }
}

#[async_trait]
impl Network for QuicNetwork {
    fn transports(&self) -> Vec<Arc<dyn Transport>> {
        self.transports.iter().map(|transport| Arc::clone(transport) as _).collect()
    }

    async fn cut(&self, a: NodeId, b: NodeId) {
        self.set_open(a, b, false);
    }

    async fn heal(&self, a: NodeId, b: NodeId) {
        self.set_open(a, b, true);
    }

    async fn shutdown(&self) {
        for transport in &self.transports {
            assert_eq!(transport.status().tasks, 0, "tasks of {} are left", transport.local_id());
        }
        self.relays.lock().unwrap().clear();
    }
}
