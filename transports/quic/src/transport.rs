//! One node's end of the network.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use quinn::{Endpoint, EndpointConfig};
use quorate_replicator::limits::MESSAGE_BYTES_MAX;
use quorate_replicator::{
    BulkError, BulkOffer, BulkSource, Channel, Inbound, Member, NodeId, PeerState, SendError,
    Transport,
};

use crate::handshake_limit::BriefServer;
use crate::node::{Credentials, Node};
use crate::runtime::OwnedRuntime;
use crate::{Clients, CredentialError, Identity, Limits, QuicConfig, QuicStatus, bulk_send, tls};

/// The most that one connection's packets may take up before it is looked at.
const INCOMING_BYTES_MAX: u64 = 64 << 10;

/// The most that the packets of all such connections may take up.
const INCOMING_BYTES_TOTAL: u64 = 4 << 20;

/// One node's end of the network. Dropping it begins to close it.
///
/// Others are dialled and let in from [`receive`](Transport::receive) on.
#[derive(Debug)]
pub struct QuicTransport {
    node: Arc<Node>,
    files: Option<Files>,
}

/// Where the identity was read from.
#[derive(Debug)]
struct Files {
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn load(&self) -> Result<Identity, CredentialError> {
        Identity::load(&self.authority, &self.certificate, &self.key)
    }
}

impl QuicTransport {
    /// Opens the transport of `node` with the identity that the configured files hold. `incarnation` says which life of the
    /// node this is: it must be greater than in any life before.
    ///
    /// # Errors
    ///
    /// The files, the configuration or the address are not as they should be; nothing runs.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, on which the transport runs.
    pub fn open(node: NodeId, incarnation: u64, config: QuicConfig) -> Result<Self, QuicError> {
        let files = Files {
            authority: config.authority_file.clone(),
            certificate: config.certificate_file.clone(),
            key: config.key_file.clone(),
        };
        let identity = files.load()?;
        if identity.node() != Some(node) {
            let found = identity.subject().to_string();
            return Err(QuicError::AnotherNode { expected: node, found });
        }
        let mut transport = Self::bind(identity, incarnation, config)?;
        transport.files = Some(files);
        Ok(transport)
    }

    /// Opens the transport of the node that `identity` is of; the files in the configuration are not looked at.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    ///
    /// # Panics
    ///
    /// As [`open`](Self::open).
    pub fn bind(
        identity: Identity,
        incarnation: u64,
        config: QuicConfig,
    ) -> Result<Self, QuicError> {
        let QuicConfig { listen, limits, peers, .. } = config;
        limits.check().map_err(|problem| QuicError::Config { problem })?;
        let id = identity.node().ok_or_else(|| {
            let name = identity.subject().short_name();
            let problem =
                format!("the certificate is of client {name}; a node needs one of a node");
            QuicError::Config { problem }
        })?;
        let address = |error: io::Error| {
            let way_out = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    "if this node runs already, ask it with `--connect`; else free the port (`ss -ulnp` names who has it), \
                     or set another address"
                }
                _ => "set an address of this machine",
            };
            let problem = format!("{error}; {way_out} as transport.quic.listen");
            QuicError::Address { listen, problem }
        };
        let socket = UdpSocket::bind(listen).map_err(address)?;
        let listens_on = socket.local_addr().map_err(address)?;
        let (server, client) = configs(&identity, &limits)?;
        let runtime = Arc::new(OwnedRuntime::default());
        let endpoint = Endpoint::new(
            EndpointConfig::default(),
            Some(server),
            socket,
            Arc::clone(&runtime) as _,
        )
        .map_err(address)?;
        let credentials = Credentials { identity, client };
        let node = Node::new(id, incarnation, limits, credentials, listens_on, endpoint, runtime);
        let transport = Self { node: Arc::new(node), files: None };
        transport.set_peers(peers);
        Ok(transport)
    }

    /// Where the node listens: with port 0 in the configuration, the port that it was given.
    pub fn listens_on(&self) -> SocketAddr {
        self.node.listens_on
    }

    /// Makes these the peers, each with `host:port`, and nobody else. What runs with nodes that are not among them ends. This
    /// node's own entry is passed over.
    pub fn set_peers(&self, peers: BTreeMap<NodeId, String>) {
        for id in self.node.peers().into_keys().filter(|id| !peers.contains_key(id)) {
            self.node.remove_peer(id);
        }
        for (id, address) in peers {
            self.node.add_peer(id, address);
        }
    }

    /// Makes a node a peer, or changes where it is dialled from now on; a connection that there is stays.
    pub fn add_peer(&self, id: NodeId, address: impl Into<String>) {
        self.node.add_peer(id, address.into());
    }

    /// Makes a node no peer any more: its connection ends, its queues are dropped, and it is refused from now on.
    pub fn remove_peer(&self, id: NodeId) {
        self.node.remove_peer(id);
    }

    /// Serves clients from now on: `clients` gets each lane that one opens. Until this is called clients are refused, and told that
    /// this node serves none. Called again, it is for the clients that come from then on.
    ///
    /// Like nodes, clients are let in from [`receive`](Transport::receive) on.
    pub fn serve_clients(&self, clients: Arc<dyn Clients>) {
        self.node.serve_clients(clients);
    }

    /// Reads the configured files anew, as [`reload_identity`](Self::reload_identity) with what they hold.
    ///
    /// # Errors
    ///
    /// The files do not hold an identity of this node; the one that there is stays.
    pub fn reload(&self) -> Result<(), QuicError> {
        let files = self.files.as_ref().ok_or_else(|| {
            let problem = "the identity was not read from files; give one with reload_identity";
            QuicError::Config { problem: problem.into() }
        })?;
        self.reload_identity(files.load()?)
    }

    /// Takes another certificate, key or authority for the connections from now on. Those that there are stay until the
    /// certificate expires that they began with.
    ///
    /// # Errors
    ///
    /// It is not of this node, or the transport is closed; the identity that there is stays.
    pub fn reload_identity(&self, identity: Identity) -> Result<(), QuicError> {
        let found = identity.subject().to_string();
        if identity.node() != Some(self.node.id) || identity.cluster() != self.node.cluster {
            return Err(QuicError::AnotherNode { expected: self.node.id, found });
        }
        let endpoint = self.node.endpoint().ok_or(QuicError::Closed)?;
        let (server, client) = configs(&identity, &self.node.limits)?;
        endpoint.set_server_config(Some(server));
        self.node.set_credentials(Credentials { identity, client });
        Ok(())
    }

    /// How everything stands now.
    pub fn status(&self) -> QuicStatus {
        let node = &self.node;
        let credentials = node.credentials();
        let (refusals, refused) = {
            let refusals = node.refusals();
            (refusals.latest(), refusals.total())
        };
        let transfers = node.transfers().iter().map(|progress| progress.status()).collect();
        let handshakes = node.admission().under_way();
        QuicStatus {
            subject: credentials.identity.subject().clone(),
            incarnation: node.incarnation,
            expiry: credentials.identity.expiry(),
            listens_on: node.listens_on,
            peers: node.peers().values().map(|peer| peer.status()).collect(),
            clients: node.guests().status(),
            transfers,
            refusals,
            refused,
            handshakes,
            tasks: node.tasks(),
        }
    }
}

#[async_trait]
impl Transport for QuicTransport {
    fn local_id(&self) -> NodeId {
        self.node.id
    }

    fn peers(&self) -> Vec<(NodeId, PeerState)> {
        let closed = self.node.is_closed();
        let state = |state| match closed {
            false => state,
            true => PeerState::Connecting { reason: Some("this transport is closed".to_owned()) },
        };
        let peers = self.node.peers();
        peers.values().map(|peer| (peer.id, state(peer.peer_state()))).collect()
    }

    fn members(&self, members: &[Member]) {
        for id in self.node.peers().into_keys() {
            if members.iter().all(|member| member.node != id) {
                self.node.remove_peer(id);
            }
        }
        // One without an address is where the configuration says, or was found before.
        for member in members.iter().filter(|member| !member.address.is_empty()) {
            self.node.add_peer(member.node, member.address.clone());
        }
    }

    fn receive(&self, inbound: Arc<dyn Inbound>) {
        self.node.receive(inbound);
    }

    fn send(&self, to: NodeId, channel: Channel, message: Bytes) -> Result<(), SendError> {
        if self.node.is_closed() {
            return Err(SendError::Closed);
        }
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(SendError::TooLarge(message.len()));
        }
        self.node
            .with_peer(to, |peer| peer.queue(channel).push(message))
            .unwrap_or(Err(SendError::UnknownPeer(to)))
    }

    async fn send_bulk(
        &self,
        to: NodeId,
        offer: BulkOffer,
        source: Arc<dyn BulkSource>,
    ) -> Result<(), BulkError> {
        if self.node.is_closed() {
            return Err(BulkError::Closed);
        }
        let peer = self.node.peer(to).ok_or(BulkError::UnknownPeer(to))?;
        tokio::select! {
            biased;
            () = self.node.closing() => Err(BulkError::Closed),
            result = bulk_send::send(&self.node, &peer, offer, &*source) => result,
        }
    }

    async fn close(&self) {
        self.node.begin_close();
        self.node.ended().await;
    }
}

impl Drop for QuicTransport {
    fn drop(&mut self) {
        self.node.begin_close();
    }
}

/// Why a transport does not open, or does not take another identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuicError {
    /// A certificate or key is not as it should be.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The certificate is not of this node.
    #[error("the certificate is of {found}, this node is {expected}; give each node its own")]
    AnotherNode {
        /// This node.
        expected: NodeId,
        /// What the certificate says.
        found: String,
    },
    /// The configuration makes no sense.
    #[error("{problem}")]
    Config {
        /// What is wrong with it.
        problem: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {listen}: {problem}")]
    Address {
        /// The address.
        listen: SocketAddr,
        /// Why not.
        problem: String,
    },
    /// The transport is closed.
    #[error("the transport is closed")]
    Closed,
}

/// What quinn needs to be dialled and to dial.
fn configs(
    identity: &Identity,
    limits: &Limits,
) -> Result<(quinn::ServerConfig, quinn::ClientConfig), QuicError> {
    let transport = Arc::new(limits.transport());
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(BriefServer::new(
        tls::server(identity).map_err(unfit)?,
    )));
    let mut tokens = quinn::ValidationTokenConfig::default();
    // A token that spares a dialler the proof of its address would be one more thing to keep and to steal.
    tokens.sent(0);
    server
        .transport_config(Arc::clone(&transport))
        .migration(false)
        .max_incoming(limits.incoming_max)
        .incoming_buffer_size(INCOMING_BYTES_MAX)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL)
        .validation_token_config(tokens);
    Ok((server, dials(identity, transport)?))
}

/// What quinn needs to dial.
pub(crate) fn dials(
    identity: &Identity,
    transport: Arc<quinn::TransportConfig>,
) -> Result<quinn::ClientConfig, QuicError> {
    let mut client = quinn::ClientConfig::new(Arc::new(tls::client(identity).map_err(unfit)?));
    client.transport_config(transport);
    Ok(client)
}

fn unfit(error: quinn::crypto::rustls::NoInitialCipherSuite) -> QuicError {
    let problem = format!("the cryptography cannot be used for QUIC: {error}");
    QuicError::Config { problem }
}
