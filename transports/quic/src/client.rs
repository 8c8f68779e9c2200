//! A client's end of the network: dials nodes, and opens lanes to them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use quinn::{ConnectionError, Endpoint, EndpointConfig, Runtime as _};
use quorate_replicator::NodeId;
use tokio::sync::{Semaphore, oneshot};

use crate::codec::Kind;
use crate::explain::{self, CloseCode, close};
use crate::frame_stream::StreamError;
use crate::hello::{ClientHello, PROTOCOL, Welcome, greet};
use crate::lane::{Carrier, Lane, LaneError};
use crate::node::proved;
use crate::resolve::lookup;
use crate::runtime::OwnedRuntime;
use crate::subject::{ClientName, Subject};
use crate::transport::dials;
use crate::{Identity, Limits, QuicError, tls};

/// What a client calls itself.
const THIS_CLIENT: &str = "this client";

/// A client's end of the network, on ports of its own. Dropping it begins to close it.
///
/// Of the limits those hold that are about connections: the windows, the timeouts, and how many lanes one has.
///
/// A certificate is taken for the client's whole life: to renew it, make another client and close this one.
///
/// ```
/// # use std::sync::Arc;
/// # use quorate_replicator::{BulkOffer, BulkSink, Bytes, Channel, ClusterId, Inbound, NodeId, PeerState, Transport};
/// # use quorate_transport_quic::*;
/// # #[derive(Debug)]
/// # struct NoPeers;
/// # #[async_trait::async_trait]
/// # impl Inbound for NoPeers {
/// #     async fn message(&self, _: NodeId, _: Channel, _: Bytes) {}
/// #     fn peer(&self, _: NodeId, _: PeerState) {}
/// #     fn bulk(&self, _: NodeId, _: BulkOffer) -> Result<Box<dyn BulkSink>, String> { Err("none".into()) }
/// # }
/// #[derive(Debug)]
/// struct Greeter;
///
/// #[async_trait::async_trait]
/// impl Clients for Greeter {
///     async fn serve(&self, client: &ClientName, lane: Lane) {
///         let (mut sender, mut receiver) = lane.split();
///         while let Ok(Some(_)) = receiver.next().await {
///             // Who is gone need not be answered.
///             let _ = sender.send(vec![format!("hello {client}").into()]).await;
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let authority = Authority::create("example", Validity::days(1))?;
/// # let cluster = ClusterId::new([7; 16]);
/// # let issue = |subject| authority.issue(&subject, Validity::days(1));
/// # let (node, ops) = (issue(Subject::node(cluster, NodeId::new(1)))?, issue(Subject::client(cluster, "ops")?)?);
/// let node = QuicTransport::bind(node.identity()?, 1, QuicConfig::listening("127.0.0.1:0".parse()?))?;
/// node.serve_clients(Arc::new(Greeter));
/// # node.receive(Arc::new(NoPeers));
///
/// let client = QuicClient::new(ops.identity()?, Limits::default())?;
/// let link = client.connect(&node.listens_on().to_string()).await?;
/// let (mut sender, mut receiver) = link.open_lane().await?.split();
/// sender.send(vec!["who am I?".into()]).await?;
/// assert_eq!(receiver.next().await?, Some("hello ops".into()));
/// # client.close().await;
/// # node.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct QuicClient {
    name: ClientName,
    identity: Identity,
    limits: Limits,
    config: quinn::ClientConfig,
    tasks: Arc<OwnedRuntime>,
    // Short sections, never across an await.
    sockets: Mutex<Sockets>,
}

/// What is dialled from: one endpoint for each kind of address, made when the first node of its kind is dialled.
#[derive(Debug, Default)]
struct Sockets {
    closed: bool,
    v4: Option<Endpoint>,
    v6: Option<Endpoint>,
}

impl QuicClient {
    /// A client with this identity.
    ///
    /// # Errors
    ///
    /// The identity is a node's, or the limits make no sense.
    pub fn new(identity: Identity, limits: Limits) -> Result<Self, QuicError> {
        limits.check().map_err(|problem| QuicError::Config { problem })?;
        let Subject::Client { name, .. } = identity.subject() else {
            let name = identity.subject().short_name();
            let problem =
                format!("the certificate is of node {name}; a client needs one of a client");
            return Err(QuicError::Config { problem });
        };
        Ok(Self {
            name: ClientName::new(name),
            config: dials(&identity, Arc::new(limits.client_transport()))?,
            identity,
            limits,
            tasks: Arc::default(),
            sockets: Mutex::default(),
        })
    }

    /// What the certificate calls this client.
    pub fn name(&self) -> &ClientName {
        &self.name
    }

    /// Dials the node at `host:port`, and answers when both ends have greeted. Of several addresses of the host an IPv4 one is
    /// dialled if there is one.
    ///
    /// # Errors
    ///
    /// The node is not found, does not answer within [`handshake_timeout`](Limits::handshake_timeout), or either end refuses the
    /// other. The words say what to do about it.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, on which the client runs.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives the dial up.
    pub async fn connect(&self, address: &str) -> Result<ClientLink, ConnectError> {
        let within = self.limits.handshake_timeout;
        let dialled = tokio::time::timeout(within, self.dial(address)).await;
        dialled.unwrap_or_else(|_| Err(ConnectError::NoAnswer { address: address.into(), within }))
    }

    /// Ends all connections, and waits until nothing of the client runs any more. May be called again.
    ///
    /// # Cancel safety
    ///
    /// Closing has begun when the future is first polled. If it is dropped the rest ends by itself, and a further call waits for
    /// it.
    pub async fn close(&self) {
        self.tasks.end(self.begin_close()).await;
    }

    /// Closes the endpoints and answers them.
    fn begin_close(&self) -> Vec<Endpoint> {
        let endpoints: Vec<_> = {
            let mut sockets = self.sockets();
            sockets.closed = true;
            [sockets.v4.take(), sockets.v6.take()].into_iter().flatten().collect()
        };
        let words = format!("client {} closes", self.name);
        for endpoint in &endpoints {
            endpoint.close(0_u32.into(), words.as_bytes());
        }
        endpoints
    }

    async fn dial(&self, address: &str) -> Result<ClientLink, ConnectError> {
        let found = lookup(address)
            .await
            .map_err(|problem| ConnectError::Address { address: address.into(), problem })?;
        let at = found.iter().find(|at| at.is_ipv4()).unwrap_or(&found[0]);
        let refused = |reason: String| ConnectError::Refused { address: address.into(), reason };
        let who = format!("the node at {address}");
        let connecting = self
            .endpoint(*at)?
            .connect_with(self.config.clone(), *at, tls::SERVER_NAME)
            .map_err(|error| refused(format!("{who} cannot be dialled: {error}")))?;
        let lost =
            |who: &str, error: &ConnectionError| refused(explain::lost_by(THIS_CLIENT, who, error));
        let connection = connecting.await.map_err(|error| lost(&who, &error))?;

        // The handshake is over here and not yet at the other end, which has still to judge this client: what counts is its
        // greeting.
        let certified = proved(&connection)
            .map_err(|problem| refused(format!("{who} is refused: {problem}")))?;
        let away = |code, words: String| {
            close(&connection, code, &words);
            refused(words)
        };
        let Subject::Node { node, .. } = certified.subject else {
            let name = certified.subject.short_name();
            return Err(away(CloseCode::Client, format!("{who} is the client {name}")));
        };
        let who = format!("{node} at {address}");
        let failed = |error: StreamError| match error {
            StreamError::Lost(error) => lost(&who, &error),
            other => away(CloseCode::Protocol, format!("{who} does not greet: {other}")),
        };
        let cluster = self.identity.cluster();
        let name = self.name.as_str().to_owned();
        let hello = ClientHello { protocol: PROTOCOL, cluster, name }.encode();
        let stall_timeout = self.limits.stall_timeout;
        let body =
            greet(&connection, hello, Kind::Welcome, stall_timeout).await.map_err(&failed)?;
        let theirs = Welcome::decode(body).map_err(|error| failed(error.into()))?;
        theirs.check(cluster, node).map_err(|words| away(CloseCode::Greeting, words))?;

        let (alive, gone) = oneshot::channel();
        let carrier = Carrier::new(connection, THIS_CLIENT, who, stall_timeout, Some(alive));
        let carrier = Arc::new(carrier);
        let expires = end_when_expired(Arc::downgrade(&carrier), node, certified.not_after, gone);
        self.tasks.spawn(Box::pin(expires));
        let lanes_max = theirs.lanes_max.min(self.limits.client_lanes_max) as usize;
        Ok(ClientLink(Arc::new(Linked {
            carrier,
            node,
            incarnation: theirs.incarnation,
            lanes: Arc::new(Semaphore::new(lanes_max)),
            lanes_max,
        })))
    }

    /// What nodes at addresses of this kind are dialled from.
    fn endpoint(&self, to: SocketAddr) -> Result<Endpoint, ConnectError> {
        let mut sockets = self.sockets();
        if sockets.closed {
            return Err(ConnectError::Closed);
        }
        let (place, from) = match to {
            SocketAddr::V4(_) => (&mut sockets.v4, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
            SocketAddr::V6(_) => (&mut sockets.v6, IpAddr::from(Ipv6Addr::UNSPECIFIED)),
        };
        if let Some(endpoint) = place {
            return Ok(endpoint.clone());
        }
        let runtime = Arc::clone(&self.tasks) as _;
        let endpoint = UdpSocket::bind((from, 0))
            .and_then(|socket| Endpoint::new(EndpointConfig::default(), None, socket, runtime))
            .map_err(|error| ConnectError::Socket { from, problem: error.to_string() })?;
        Ok(place.insert(endpoint).clone())
    }

    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        // Nothing panics between two changes that belong together.
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for QuicClient {
    fn drop(&mut self) {
        self.begin_close();
    }
}

/// Ends a connection when the certificate expires that the node came with, unless it is let go before.
async fn end_when_expired(
    carrier: Weak<Carrier>,
    node: NodeId,
    not_after: SystemTime,
    gone: oneshot::Receiver<()>,
) {
    let left = not_after.duration_since(SystemTime::now()).unwrap_or_default();
    tokio::select! {
        _ = gone => {}
        () = tokio::time::sleep(left) => {
            if let Some(carrier) = carrier.upgrade() {
                let words = format!("the certificate that {node} came with has expired");
                carrier.end(CloseCode::Expired, &words);
            }
        }
    }
}

/// A connection of a client with a node, on which both ends have greeted. A clone is the same connection; it ends when all
/// clones and all lanes are dropped.
#[derive(Clone, Debug)]
pub struct ClientLink(Arc<Linked>);

#[derive(Debug)]
struct Linked {
    carrier: Arc<Carrier>,
    node: NodeId,
    incarnation: u64,
    /// One permit for each lane that may be.
    lanes: Arc<Semaphore>,
    lanes_max: usize,
}

impl ClientLink {
    /// The node, as its certificate says.
    pub fn node(&self) -> NodeId {
        self.0.node
    }

    /// Which life of the node; rises with each start.
    pub fn incarnation(&self) -> u64 {
        self.0.incarnation
    }

    /// How many lanes this connection may have at once: the node's limit, or this client's if that is lower.
    pub fn lanes_max(&self) -> usize {
        self.0.lanes_max
    }

    /// Opens a lane. The node notices it by the first message on it. Waits while the node still serves one that was ended here.
    ///
    /// # Errors
    ///
    /// There are as many lanes as may be, or the connection has ended.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped no lane is opened.
    pub async fn open_lane(&self) -> Result<Lane, LaneError> {
        let Linked { carrier, lanes, lanes_max, .. } = &*self.0;
        let place = Arc::clone(lanes)
            .try_acquire_owned()
            .map_err(|_| LaneError::TooMany { max: *lanes_max })?;
        Lane::open(carrier, place).await
    }

    /// Waits until the connection has ended, and says why in words.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn closed(&self) -> String {
        self.0.carrier.closed().await
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.0.carrier.connection.close_reason().is_some()
    }

    /// Ends the connection and its lanes, from all clones. What was sent and has not arrived is lost.
    pub fn close(&self) {
        self.0.carrier.end(CloseCode::Closed, "the client has ended the connection");
    }
}

/// Why a node cannot be spoken with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address leads nowhere.
    #[error("{address:?} {problem}")]
    Address {
        /// The address.
        address: String,
        /// What is wrong with it.
        problem: String,
    },
    /// There is nothing to dial from.
    #[error("cannot dial from {from}: {problem}")]
    Socket {
        /// Where from.
        from: IpAddr,
        /// What the system says.
        problem: String,
    },
    /// Nobody answers.
    #[error(
        "the node at {address} does not answer within {within:?}; check that it runs, the address, and that UDP \
         passes the firewall"
    )]
    NoAnswer {
        /// The address.
        address: String,
        /// How long was waited.
        within: Duration,
    },
    /// Either end refuses the other.
    #[error("{reason}")]
    Refused {
        /// The address.
        address: String,
        /// Why, and what to do about it.
        reason: String,
    },
    /// The client is closed.
    #[error("this client is closed; make another one")]
    Closed,
}
