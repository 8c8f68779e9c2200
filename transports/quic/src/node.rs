//! One life of a node on the network: what its tasks share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use quinn::{Connection, Endpoint};
use quorate_replicator::{ClusterId, Inbound, NodeId, PeerState};
use rustls::pki_types::CertificateDer;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::admission::Admission;
use crate::bulk_receive::Receiving;
use crate::certificate::Certified;
use crate::hello::{Hello, PROTOCOL, Welcome};
use crate::peer::Peer;
use crate::runtime::OwnedRuntime;
use crate::serve_clients::{Clients, Guests};
use crate::status::{Progress, Refusals};
use crate::throttle::Throttle;
use crate::{Identity, Limits, accept, dial};

/// What the tasks of a node share.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) cluster: ClusterId,
    pub(crate) incarnation: u64,
    pub(crate) limits: Limits,
    pub(crate) listens_on: SocketAddr,
    pub(crate) throttle: Throttle,
    pub(crate) receiving: Receiving,
    runtime: Handle,
    quinn_tasks: Arc<OwnedRuntime>,
    /// The zero of the moments that the sans-IO parts are given.
    start: Instant,
    credentials: RwLock<Arc<Credentials>>,
    /// Dials so far, to all peers: a peer that is removed and added goes on counting.
    dials: AtomicU64,
    // Read for each message, written when the membership changes.
    peers: RwLock<BTreeMap<NodeId, Arc<Peer>>>,
    closed: watch::Sender<bool>,
    /// The same, for those who ask for each message.
    is_closed: AtomicBool,
    /// Set when nothing of this node runs any more.
    ended: watch::Sender<bool>,
    /// Connections that are served. Each has tasks of its own, which end with it.
    links: watch::Sender<usize>,
    /// The standing of a peer changed.
    changed: Notify,
    // The following are held for short sections, never across an await, and never two at once.
    running: Mutex<Running>,
    admission: Mutex<Admission>,
    refusals: Mutex<Refusals>,
    guests: Mutex<Guests>,
    transfers: Mutex<Vec<Arc<Progress>>>,
}

/// Who this node is, in the forms in which it is needed.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) identity: Identity,
    pub(crate) client: quinn::ClientConfig,
}

#[derive(Debug, Default)]
struct Running {
    /// None once the node closes.
    endpoint: Option<Endpoint>,
    tasks: Option<JoinSet<()>>,
    inbound: Option<Arc<dyn Inbound>>,
    clients: Option<Arc<dyn Clients>>,
}

impl Node {
    #[allow(clippy::too_many_arguments, reason = "they are put together in one place")]
    pub(crate) fn new(
        id: NodeId,
        incarnation: u64,
        limits: Limits,
        credentials: Credentials,
        listens_on: SocketAddr,
        endpoint: Endpoint,
        quinn_tasks: Arc<OwnedRuntime>,
    ) -> Self {
        Self {
            id,
            cluster: credentials.identity.cluster(),
            incarnation,
            listens_on,
            throttle: Throttle::new(limits.bulk_bytes_per_second),
            receiving: Receiving::default(),
            runtime: Handle::current(),
            quinn_tasks,
            start: Instant::now(),
            credentials: RwLock::new(Arc::new(credentials)),
            dials: AtomicU64::new(0),
            peers: RwLock::default(),
            closed: watch::Sender::new(false),
            is_closed: AtomicBool::new(false),
            ended: watch::Sender::new(false),
            links: watch::Sender::new(0),
            changed: Notify::new(),
            running: Mutex::new(Running {
                endpoint: Some(endpoint),
                tasks: Some(JoinSet::new()),
                inbound: None,
                clients: None,
            }),
            admission: Mutex::new(Admission::new(&limits)),
            refusals: Mutex::default(),
            guests: Mutex::default(),
            transfers: Mutex::default(),
            limits,
        }
    }

    /// Begins to speak with others. A second call would leave open which of the two gets a message, so it is a mistake.
    pub(crate) fn receive(self: &Arc<Self>, inbound: Arc<dyn Inbound>) {
        let endpoint = {
            let mut running = self.running();
            let Some(endpoint) = running.endpoint.clone() else { return };
            assert!(running.inbound.is_none(), "receive was called twice on {}", self.id);
            running.inbound = Some(Arc::clone(&inbound));
            endpoint
        };
        self.spawn(accept::accept(Arc::clone(self), endpoint));
        for peer in self.peers().values() {
            self.spawn(dial::keep_connected(Arc::clone(self), Arc::clone(peer)));
        }
        let node = Arc::clone(self);
        self.spawn(async move {
            let mut told = BTreeMap::<NodeId, PeerState>::new();
            loop {
                let now: Vec<_> =
                    node.peers().values().map(|peer| (peer.id, peer.peer_state())).collect();
                told.retain(|id, _| now.iter().any(|(peer, _)| peer == id));
                for (peer, state) in now {
                    if told.insert(peer, state.clone()).as_ref() != Some(&state) {
                        inbound.peer(peer, state);
                    }
                }
                node.changed.notified().await;
            }
        });
    }

    pub(crate) fn inbound(&self) -> Option<Arc<dyn Inbound>> {
        self.running().inbound.clone()
    }

    /// Who serves the lanes of clients from now on.
    pub(crate) fn serve_clients(&self, clients: Arc<dyn Clients>) {
        let mut running = self.running();
        // A node that closes has let go of everything, and takes hold of nothing.
        if running.endpoint.is_some() {
            running.clients = Some(clients);
        }
    }

    pub(crate) fn clients(&self) -> Option<Arc<dyn Clients>> {
        self.running().clients.clone()
    }

    pub(crate) fn guests(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn endpoint(&self) -> Option<Endpoint> {
        self.running().endpoint.clone()
    }

    /// The peers as they are now.
    pub(crate) fn peers(&self) -> BTreeMap<NodeId, Arc<Peer>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn peer(&self, id: NodeId) -> Option<Arc<Peer>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// Runs `with` on the peer, without taking hold of it.
    pub(crate) fn with_peer<T>(&self, id: NodeId, with: impl FnOnce(&Peer) -> T) -> Option<T> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.get(&id).map(|peer| with(peer))
    }

    /// Makes `id` a peer, or changes where it is dialled.
    pub(crate) fn add_peer(self: &Arc<Self>, id: NodeId, address: String) {
        if id == self.id {
            return;
        }
        let new = {
            let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(peer) = peers.get(&id) {
                if peer.address() != address {
                    peer.set_address(address);
                }
                return;
            }
            let peer = Arc::new(Peer::new(self.id, id, address, &self.limits));
            peers.insert(id, Arc::clone(&peer));
            peer
        };
        if self.inbound().is_some() {
            self.spawn(dial::keep_connected(Arc::clone(self), new));
        }
        self.changed();
    }

    /// Makes `id` no peer any more. What runs with it ends.
    pub(crate) fn remove_peer(&self, id: NodeId) {
        let removed = self.peers.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if let Some(peer) = removed {
            let why = format!(
                "{id} is not a peer of {} any more; to come back, it is added under a new number",
                self.id
            );
            peer.remove(&why);
            self.changed();
        }
    }

    /// Notes that the standing of a peer changed.
    pub(crate) fn changed(&self) {
        self.changed.notify_one();
    }

    pub(crate) fn credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.credentials.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_credentials(&self, credentials: Credentials) {
        let credentials = Arc::new(credentials);
        *self.credentials.write().unwrap_or_else(PoisonError::into_inner) = credentials;
    }

    /// What this node says when it greets `to`.
    pub(crate) fn hello(&self, to: NodeId, attempt: u64) -> Hello {
        Hello {
            protocol: PROTOCOL,
            cluster: self.cluster,
            node: self.id,
            incarnation: self.incarnation,
            attempt,
            to,
        }
    }

    /// What this node says when a client greets it.
    pub(crate) fn welcome(&self) -> Welcome {
        Welcome {
            protocol: PROTOCOL,
            cluster: self.cluster,
            node: self.id,
            incarnation: self.incarnation,
            lanes_max: self.limits.client_lanes_max,
        }
    }

    /// The number of a new dial, greater than all before.
    pub(crate) fn next_dial(&self) -> u64 {
        self.dials.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Time since this node began.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Runs `task` until it ends or the node closes; drops it if the node has closed.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(tasks) = &mut self.running().tasks {
            // Tasks that have ended are let go here, so that they do not add up.
            while tasks.try_join_next().is_some() {}
            tasks.spawn_on(task, &self.runtime);
        }
    }

    /// Counts a connection that is served, for as long as it is held.
    pub(crate) fn serving(&self) -> Serving {
        self.links.send_modify(|links| *links += 1);
        Serving(self.links.clone())
    }

    /// How many tasks run, quinn's included.
    pub(crate) fn tasks(&self) -> usize {
        let own = {
            let mut running = self.running();
            running.tasks.as_mut().map_or(0, |tasks| {
                while tasks.try_join_next().is_some() {}
                tasks.len()
            })
        };
        own + self.quinn_tasks.running()
    }

    pub(crate) fn admission(&self) -> MutexGuard<'_, Admission> {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that somebody was refused, so that it can be found out why.
    pub(crate) fn refuse(&self, from: SocketAddr, reason: &str) {
        if self.refusals().note(from, reason) {
            tracing::warn!(node = %self.id, %from, "refused: {reason}");
        }
    }

    /// Shows a transfer in the status, for as long as it is held.
    pub(crate) fn show(self: &Arc<Self>, progress: Arc<Progress>) -> Shown {
        self.transfers().push(Arc::clone(&progress));
        Shown { node: Arc::clone(self), progress }
    }

    pub(crate) fn transfers(&self) -> MutexGuard<'_, Vec<Arc<Progress>>> {
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Waits until the node begins to close.
    pub(crate) async fn closing(&self) {
        // The sender lives in this node, so waiting cannot fail.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Ends all connections and stops everything that runs; may be called again.
    pub(crate) fn begin_close(&self) {
        let Running { endpoint, tasks, inbound, clients } = std::mem::take(&mut *self.running());
        drop((inbound, clients));
        let (Some(endpoint), Some(mut tasks)) = (endpoint, tasks) else { return };
        self.is_closed.store(true, Ordering::Release);
        self.closed.send_replace(true);
        endpoint.close(0_u32.into(), format!("{} is shutting down", self.id).as_bytes());
        let (ended, quinn_tasks) = (self.ended.clone(), Arc::clone(&self.quinn_tasks));
        let mut links = self.links.subscribe();
        self.runtime.spawn(async move {
            // They see the end of their connections, and wait for tasks that an abort from here would leave behind. Without a
            // node there are none, so the wait cannot fail.
            let _ = links.wait_for(|links| *links == 0).await;
            tasks.shutdown().await;
            quinn_tasks.end([endpoint]).await;
            ended.send_replace(true);
        });
    }

    /// Waits until nothing of the node runs any more.
    pub(crate) async fn ended(&self) {
        // The sender lives in this node, so waiting cannot fail.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        // Nothing panics between two changes that belong together, except for the assertion, which changes nothing.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is served.
#[derive(Debug)]
pub(crate) struct Serving(watch::Sender<usize>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.send_modify(|links| *links -= 1);
    }
}

/// A transfer that stands in the status.
#[derive(Debug)]
pub(crate) struct Shown {
    node: Arc<Node>,
    pub(crate) progress: Arc<Progress>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.node.transfers().retain(|shown| !Arc::ptr_eq(shown, &self.progress));
    }
}

/// Who the other end of a connection has proved to be.
pub(crate) fn proved(connection: &Connection) -> Result<Certified, String> {
    let identity = connection.peer_identity().ok_or("it showed no certificate")?;
    let chain = identity
        .downcast::<Vec<CertificateDer<'static>>>()
        .map_err(|_| "its certificate is of another kind")?;
    let first = chain.first().ok_or("it showed no certificate")?;
    Certified::read(first).map_err(|error| error.to_string())
}
