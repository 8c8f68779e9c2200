//! Nodes that decide over the memory transport, and serve clients over QUIC. Which cluster, the test says.

#![allow(dead_code, reason = "each test uses what it needs")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use quorate_client::{Client, ClientConfig, ClientError, Service};
use quorate_replicator::{ClusterId, Durability, NodeId, Replicator, Transport as _};
use quorate_shard::Shards;
use quorate_transport_quic::{Authority, Identity, QuicConfig, QuicTransport, Subject, Validity};

use crate::nobody::Nobody;
use crate::{Founded, Maker, found};

const CLUSTER: ClusterId = ClusterId::new([7; 16]);

/// A cluster whose nodes serve clients.
pub(crate) struct Served {
    pub(crate) cluster: Founded,
    authority: Authority,
    /// What reads of each node are answered from, if the machine is that of shards.
    shards: Mutex<Vec<Shards>>,
    /// What the machines that were made last are read through, in the order in which they were made.
    made: Arc<Mutex<Vec<Shards>>>,
    doors: Mutex<Vec<Door>>,
}

/// Where clients come to one node.
struct Door {
    address: SocketAddr,
    quic: Option<QuicTransport>,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl Served {
    /// Opens nodes around machines of `maker`.
    pub(crate) async fn open(nodes: usize, durability: Durability, maker: Maker) -> Self {
        let cluster = found(nodes as u64, durability, maker).open().await;
        let nothing = (0..nodes).map(|_| Shards::builder().build().1).collect();
        Self::around(cluster, Arc::new(Mutex::new(nothing))).await
    }

    /// Opens nodes with keys and values.
    pub(crate) async fn open_kv(nodes: usize) -> Self {
        let made: Arc<Mutex<Vec<Shards>>> = Arc::default();
        let maker: Maker = {
            let made = Arc::clone(&made);
            Box::new(move || {
                let (machine, shards) = Shards::builder().build();
                made.lock().unwrap().push(shards);
                Box::new(machine)
            })
        };
        let cluster = found(nodes as u64, Durability::Disk, maker).open().await;
        Self::around(cluster, made).await
    }

    async fn around(cluster: Founded, made: Arc<Mutex<Vec<Shards>>>) -> Self {
        let shards = std::mem::take(&mut *made.lock().unwrap());
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let doors = shards.iter().map(|_| Door { address: anywhere, quic: None }).collect();
        let authority = Authority::create("test", Validity::days(1)).unwrap();
        let nodes = shards.len();
        let (shards, doors) = (Mutex::new(shards), Mutex::new(doors));
        let served = Self { cluster, authority, shards, made, doors };
        (0..nodes).for_each(|node| served.serve(node));
        served
    }

    /// Serves clients of a node, at the address that it had before.
    pub(crate) fn serve(&self, node: usize) {
        self.serve_through(node, self.cluster.node(NodeId::new(node as u64 + 1)));
    }

    /// Serves clients of a node, through something that may change what it says.
    pub(crate) fn serve_through(&self, node: usize, replicator: Arc<dyn Replicator>) {
        let id = NodeId::new(node as u64 + 1);
        let identity = self.identity(&Subject::node(CLUSTER, id));
        let door = &mut self.doors.lock().unwrap()[node];
        let mut config = QuicConfig::listening(door.address);
        config.limits.accepts_per_second = 1000;
        let quic = QuicTransport::bind(identity, 1, config).unwrap();
        let service = Service::new(replicator, &self.shards.lock().unwrap()[node]);
        // Room for one largest message, so that calls wait for one another.
        let service = service.request_bytes_total(0);
        quic.receive(Arc::new(Nobody));
        quic.serve_clients(Arc::new(service));
        door.address = quic.status().listens_on;
        door.quic = Some(quic);
    }

    /// Cuts clients off from a node, as if its process had ended; they are not told.
    pub(crate) async fn close_door(&self, node: usize) {
        let quic = self.doors.lock().unwrap()[node].quic.take();
        if let Some(quic) = quic {
            quic.close().await;
        }
    }

    /// Ends a node and its door.
    pub(crate) async fn stop(&self, node: usize) {
        self.close_door(node).await;
        self.cluster.stop(NodeId::new(node as u64 + 1)).await;
    }

    /// Starts a node again.
    pub(crate) async fn start(&self, node: usize) {
        self.cluster.start(NodeId::new(node as u64 + 1)).await.unwrap();
        // A machine of its own has no shards.
        if let Some(shards) = self.made.lock().unwrap().pop() {
            self.shards.lock().unwrap()[node] = shards;
        }
        self.serve(node);
    }

    fn identity(&self, subject: &Subject) -> Identity {
        self.authority.issue(subject, Validity::days(1)).unwrap().identity().unwrap()
    }

    /// A client that knows these nodes.
    pub(crate) async fn client(&self, nodes: &[usize]) -> Client {
        self.client_with(ClientConfig::default(), nodes).await
    }

    /// The same with what else the configuration says.
    pub(crate) async fn client_with(&self, config: ClientConfig, nodes: &[usize]) -> Client {
        self.try_client(config, nodes).await.unwrap()
    }

    pub(crate) async fn try_client(
        &self,
        mut config: ClientConfig,
        nodes: &[usize],
    ) -> Result<Client, ClientError> {
        let doors: Vec<_> = self.doors.lock().unwrap().iter().map(|door| door.address).collect();
        config.nodes = nodes
            .iter()
            .map(|node| (NodeId::new(*node as u64 + 1), doors[*node].to_string()))
            .collect();
        let identity = self.identity(&Subject::client(CLUSTER, "test").unwrap());
        Client::connect_as(identity, config).await
    }

    pub(crate) async fn close(&self) {
        let nodes = self.shards.lock().unwrap().len();
        for node in 0..nodes {
            self.stop(node).await;
        }
    }
}
