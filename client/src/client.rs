//! A program's way to a cluster.

use std::sync::Arc;
use std::time::Duration;

use quorate_replicator::{Event, NodeId, Replicator, Session, Status};
use quorate_shard::Kv;
use quorate_transport_quic::{Identity, QuicClient};
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::ClientConfig;
use crate::link::Link;
use crate::links::{Links, NoLink};
use crate::remote::Remote;
use crate::trust::Trust;

/// The driver whose decisions have certificates.
const PROVING_DRIVER: &str = "quorum";

/// A program's way to a cluster whose nodes are other processes. It stays connected with one node, the leader if it can be reached,
/// and goes on with another one when that is lost.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use quorate_client::{Client, ClientConfig};
/// use quorate_replicator::ShardKey;
/// use quorate_shard::kv::{PutOptions, ReadOptions};
///
/// let client = Client::connect(ClientConfig::from_file("client/client.toml")?).await?;
/// let settings = ShardKey::new("acme", "settings")?;
/// client.kv().put(&settings, b"colour", b"green", PutOptions::default()).await?;
/// let got = client.kv().get(&settings, b"colour", ReadOptions::default()).await?;
/// assert_eq!(got.entry.unwrap().value, "green");
/// client.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    quic: Arc<QuicClient>,
    remote: Arc<Remote>,
    kv: Kv,
}

impl Client {
    /// Connects with the first node that answers.
    ///
    /// # Errors
    ///
    /// A file cannot be used, or no node answered in time; the words tell of each.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives it up.
    pub async fn connect(config: ClientConfig) -> Result<Self, ClientError> {
        let ClientConfig { authority_file, certificate_file, key_file, .. } = &config;
        let identity = Identity::load(authority_file, certificate_file, key_file);
        let identity = identity.map_err(|error| ClientError::Identity(error.to_string()))?;
        Self::connect_as(identity, config).await
    }

    /// As [`connect`](Self::connect), with an identity that is not read from files.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives it up.
    pub async fn connect_as(identity: Identity, config: ClientConfig) -> Result<Self, ClientError> {
        let genesis = config.genesis()?;
        if let Some(genesis) = &genesis
            && genesis.cluster() != identity.cluster().bytes()
        {
            let file = config.genesis_file.as_deref().unwrap_or_else(|| "genesis".as_ref());
            return Err(ClientError::Config {
                file: file.display().to_string(),
                problem: format!(
                    "it is of another cluster than the certificate of this client, which is of {}; take both from the same `quorate init-cluster`",
                    identity.cluster()
                ),
            });
        }
        let quic = QuicClient::new(identity, config.limits());
        let quic = Arc::new(quic.map_err(|error| ClientError::Identity(error.to_string()))?);
        let links = Links::start(Arc::clone(&quic), config.nodes.clone());
        let link = links.current(Instant::now() + config.connect_within).await;
        let link = match link {
            Ok(link) => link,
            Err(no_link) => {
                links.close();
                quic.close().await;
                let NoLink::Unreachable(problem) = no_link else {
                    unreachable!("nobody else can close it");
                };
                return Err(ClientError::Unreachable { within: config.connect_within, problem });
            }
        };
        let Status { driver, groups, .. } = link.status();
        if genesis.is_some() && driver != PROVING_DRIVER {
            links.close();
            quic.close().await;
            return Err(ClientError::ProvesNothing { node: link.node, driver });
        }
        let groups = groups.len().max(1);
        let groups = u32::try_from(groups).expect("groups are counted in 32 bits");
        let remote =
            Arc::new(Remote::new(Arc::clone(&quic), links, groups, genesis.map(Trust::new)));
        let session = Session::new(Arc::clone(&remote) as _).map_err(ClientError::Random)?;
        let kv = Kv::with_reads(Arc::new(session), Arc::clone(&remote) as _);
        Ok(Self { config, quic, remote, kv })
    }

    /// Frames in, decisions out: the contract that a node in this process keeps too. [`pinned`](Replicator::pinned) has nothing
    /// here, and [`status`](Replicator::status) is of the node that calls go to.
    pub fn replicator(&self) -> Arc<dyn Replicator> {
        Arc::clone(&self.remote) as _
    }

    /// Keys and values, through one session of this client.
    pub fn kv(&self) -> &Kv {
        &self.kv
    }

    /// A new session, through which each proposed payload is applied at most once.
    ///
    /// # Errors
    ///
    /// The system has no random source.
    pub fn session(&self) -> std::io::Result<Session> {
        Session::new(self.replicator())
    }

    /// How each configured node is doing, or why it does not tell, in the order of their numbers.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it has no effect.
    pub async fn statuses(&self, within: Duration) -> Vec<(NodeId, Result<Status, String>)> {
        let mut asked = JoinSet::new();
        for (node, address) in self.config.nodes.clone() {
            let quic = Arc::clone(&self.quic);
            asked.spawn(async move {
                let opening = Link::open(&quic, node, &address, broadcast::Sender::<Event>::new(1));
                let status = match tokio::time::timeout(within, opening).await {
                    Ok(opened) => opened.map(|link| link.status()),
                    Err(_) => Err(format!("{node} at {address} does not answer within {within:?}")),
                };
                (node, status)
            });
        }
        let mut statuses = asked.join_all().await;
        statuses.sort_by_key(|(node, _)| *node);
        statuses
    }

    /// Ends the connection. What was proposed and not answered may still be decided.
    ///
    /// # Cancel safety
    ///
    /// May be called again to wait for the end.
    pub async fn close(&self) {
        self.remote.links().close();
        self.quic.close().await;
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Replicators that were handed out end with it.
        self.remote.links().close();
    }
}

/// Why a client does not come to a cluster.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The configuration is wrong.
    #[error("{file}: {problem}")]
    Config {
        /// Which file.
        file: String,
        /// What is wrong, and where.
        problem: String,
    },
    /// Certificate, key or authority cannot be used.
    #[error("{0}")]
    Identity(String),
    /// No node answered.
    #[error("no node answered within {within:?}: {problem}")]
    Unreachable {
        /// How long was waited.
        within: Duration,
        /// What became of each attempt.
        problem: String,
    },
    /// There is a genesis to verify proofs with, and no proofs.
    #[error(
        "{node} decides by driver {driver}, which proves nothing to clients; leave genesis_file out to believe it"
    )]
    ProvesNothing {
        /// The node that answered.
        node: NodeId,
        /// Its driver.
        driver: String,
    },
    /// The system has no random source.
    #[error("no random source: {0}")]
    Random(std::io::Error),
}
