//! A node inside the program.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_replicator::{
    CloseError, Consistency, Env, EventStream, MonotonicClock, NodeId, OpenError, ReadError,
    Registry, RegistryError, Replicator, ReplicatorExt as _, Session, SessionId, StateMachine,
    Status, Transport,
};
use quorate_shard::{Kv, Shards, ShardsBuilder};

use crate::builtin;
use crate::located::Place;
use crate::transports::{Opened, Table, Transports};
use crate::{Config, ConfigError};

/// One node, embedded in this program: it decides, keeps and applies frames, and serves its state.
///
/// `S` says what the state is: [`Namespaces`] with keys and values, or `()` around a state machine of one's own.
/// Dropping the node without [`close`](Self::close) loses nothing that was accepted; the data directory is then
/// released some time later.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// use quorate::{Config, Node, ShardKey};
/// use quorate::kv::{PutOptions, ReadOptions};
///
/// let node = Node::open(Config::in_memory()).await?;
/// let settings = ShardKey::new("acme", "settings")?;
/// let put = node.kv().put(&settings, b"colour", b"green", PutOptions::default()).await?;
/// let got = node.kv().get(&settings, b"colour", ReadOptions::default()).await?;
/// assert_eq!(got.entry.unwrap().modified, put.revision);
/// node.close().await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Node<S = Namespaces> {
    replicator: Arc<dyn Replicator>,
    transport: Option<Arc<dyn Transport>>,
    state: S,
}

/// The state of a node that serves keys and values.
#[derive(Debug)]
pub struct Namespaces {
    kv: Kv,
    shards: Shards,
}

impl Node<Namespaces> {
    /// Opens a node with keys and values, with the drivers of [`builtin`]. When this returns, the node has applied
    /// everything that it had accepted before, and serves; see [`NodeConfig::open_within`](crate::NodeConfig).
    ///
    /// # Errors
    ///
    /// Nothing runs; the error says what to do.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives the opening up. Until what had begun has ended, the data directory is in use.
    pub async fn open(config: Config) -> Result<Self, NodeError> {
        NodeBuilder::new(config).open().await
    }

    /// Keys and values, through one session of this node. A clone shares the session.
    pub fn kv(&self) -> &Kv {
        &self.state.kv
    }

    /// The namespaces as this node has applied them.
    pub fn shards(&self) -> &Shards {
        &self.state.shards
    }

    /// Answers clients from now on, at the address that other nodes reach this one at. Until then they are refused.
    ///
    /// # Errors
    ///
    /// The node has no transport that clients can come by.
    #[cfg(feature = "quic")]
    pub fn serve_clients(&self) -> Result<(), NodeError> {
        let service =
            quorate_client::Service::new(Arc::clone(&self.replicator), &self.state.shards);
        self.quic()?.serve_clients(Arc::new(service));
        Ok(())
    }
}

impl Node<()> {
    /// Opens a node around a state machine of one's own, with the drivers of [`builtin`]. When this returns, the node
    /// has applied everything that it had accepted before, and serves; see
    /// [`NodeConfig::open_within`](crate::NodeConfig).
    ///
    /// # Errors
    ///
    /// Nothing runs; the error says what to do.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives the opening up. Until what had begun has ended, the data directory is in use.
    pub async fn open_with(config: Config, machine: impl StateMachine) -> Result<Self, NodeError> {
        NodeBuilder::new(config).open_with(machine).await
    }
}

impl<S> Node<S> {
    /// Frames in, decisions out: the contract that every driver keeps.
    pub fn replicator(&self) -> &Arc<dyn Replicator> {
        &self.replicator
    }

    /// What it reaches other nodes by, if it has any.
    pub fn transport(&self) -> Option<&Arc<dyn Transport>> {
        self.transport.as_ref()
    }

    /// A new session, through which each proposed payload is applied at most once.
    ///
    /// # Errors
    ///
    /// The system has no random source.
    pub fn session(&self) -> std::io::Result<Session> {
        Session::new(Arc::clone(&self.replicator))
    }

    /// Waits until the node has applied everything that it had accepted before it was opened. [`open`](Node::open) has
    /// waited for that already, unless it was told not to. A node whose disk is full is ready too: it answers reads, and
    /// says to each proposal why it refuses it.
    ///
    /// # Errors
    ///
    /// [`ReadError::Timeout`] if it did not come to that within the time; else why it never will.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it has no effect.
    pub async fn ready(&self, within: Duration) -> Result<(), ReadError> {
        replayed(&self.replicator, within).await
    }

    /// What the node knows of itself now.
    pub fn status(&self) -> Status {
        self.replicator.status()
    }

    /// What happens to the node from now on.
    pub fn events(&self) -> EventStream {
        self.replicator.events()
    }

    /// Reads the certificates anew that the configuration names, for the connections from now on.
    ///
    /// # Errors
    ///
    /// The files do not hold an identity of this node; the one that there is stays.
    #[cfg(feature = "quic")]
    pub fn reload_certificates(&self) -> Result<(), NodeError> {
        self.quic()?.reload().map_err(|error| NodeError::Transport {
            kind: "quic".into(),
            problem: error.to_string(),
        })
    }

    /// How the network stands: who is connected, what was refused, when certificates end.
    ///
    /// # Errors
    ///
    /// The node has another transport, or none.
    #[cfg(feature = "quic")]
    pub fn quic_status(&self) -> Result<crate::quic::QuicStatus, NodeError> {
        Ok(self.quic()?.status())
    }

    #[cfg(feature = "quic")]
    fn quic(&self) -> Result<Arc<quorate_transport_quic::QuicTransport>, NodeError> {
        self.transport().and_then(crate::quic::transport).ok_or_else(|| NodeError::Transport {
            kind: "quic".into(),
            problem: "this node has another one, or none; set transport.kind = \"quic\"".into(),
        })
    }

    /// Ends the node in order and releases its data directory; may be called again.
    ///
    /// # Errors
    ///
    /// The node had stopped before; it is closed all the same.
    ///
    /// # Cancel safety
    ///
    /// Closing goes on when the future is dropped; call again to await the end.
    pub async fn close(&self) -> Result<(), CloseError> {
        self.replicator.close().await
    }
}

impl<S: fmt::Debug> fmt::Debug for Node<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("replicator", &self.replicator)
            .field("state", &self.state)
            .finish()
    }
}

/// Opens a node with parts that a configuration cannot name: own drivers, own transports, services of the shards.
#[derive(Debug)]
pub struct NodeBuilder {
    config: Config,
    registry: Option<Registry>,
    transports: Transports,
    transport: Option<Arc<dyn Transport>>,
    shards: ShardsBuilder,
}

impl NodeBuilder {
    /// With the drivers and transports of [`builtin`].
    pub fn new(config: Config) -> Self {
        Self {
            registry: None,
            transports: builtin::transports(),
            transport: None,
            shards: Shards::builder(),
            config,
        }
    }

    /// Takes these drivers in place of those of [`builtin`].
    #[must_use]
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Takes these transports in place of those of [`builtin`].
    #[must_use]
    pub fn transports(mut self, transports: Transports) -> Self {
        self.transports = transports;
        self
    }

    /// Takes this transport in place of the one that the configuration names.
    #[must_use]
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }

    /// Takes shards with services plugged in; `state_bytes_max` is set from the configuration.
    #[must_use]
    pub fn shards(mut self, shards: ShardsBuilder) -> Self {
        self.shards = shards;
        self
    }

    /// Opens the node with keys and values.
    ///
    /// # Errors
    ///
    /// Nothing runs; the error says what to do.
    ///
    /// # Cancel safety
    ///
    /// As [`Node::open`].
    pub async fn open(mut self) -> Result<Node, NodeError> {
        let bytes_max = self.config.shard.state_bytes_max;
        let shards = std::mem::replace(&mut self.shards, Shards::builder());
        let (machine, shards) = shards.limit(|limits| limits.state_bytes_max = bytes_max).build();
        let (replicator, transport) = self.open_replicator(Box::new(machine)).await?;
        let session = Session::new(Arc::clone(&replicator)).map_err(NodeError::Random)?;
        let kv = Kv::new(Arc::new(session), &shards);
        Ok(Node { replicator, transport, state: Namespaces { kv, shards } })
    }

    /// Opens the node around a state machine of one's own.
    ///
    /// # Errors
    ///
    /// Nothing runs; the error says what to do.
    ///
    /// # Cancel safety
    ///
    /// As [`Node::open`].
    pub async fn open_with(self, machine: impl StateMachine) -> Result<Node<()>, NodeError> {
        let (replicator, transport) = self.open_replicator(Box::new(machine)).await?;
        Ok(Node { replicator, transport, state: () })
    }

    async fn open_replicator(
        self,
        machine: Box<dyn StateMachine>,
    ) -> Result<(Arc<dyn Replicator>, Option<Arc<dyn Transport>>), NodeError> {
        let Self { mut config, registry, transports, transport, shards: _ } = self;
        config.check()?;
        match &registry {
            Some(registry) => check_names(&config, registry, &transports)?,
            None => check_names(&config, &builtin::registry(&config), &transports)?,
        }

        let node = NodeId::new(config.node.id);
        let members = config.node.members();
        let transport = match transport {
            Some(transport) => Some(transport),
            None => open_transport(&config, &transports, node, members.clone()).await?,
        };
        let opened = async {
            if let Some(transport) = &transport {
                belong_together(&mut config, transport)?;
            }
            // It takes the cluster from the configuration.
            let registry = registry.unwrap_or_else(|| builtin::registry(&config));
            let seed = SessionId::random().map_err(NodeError::Random)?.bytes();
            let seed = u64::from_le_bytes(seed[..8].try_into().expect("eight of sixteen bytes"));
            let clock = Arc::new(MonotonicClock::new());
            let mut env = Env::new(node, &config.node.data_dir, clock, seed);
            env.durability = config.node.durability;
            env.members = members;
            env.transport = transport.clone();
            let kind = &config.driver.kind;
            let (table, place) = erased(&config, "driver", kind);
            let opened = registry.open(kind, table, env, machine).await;
            let replicator = opened.map_err(|error| match (error, place) {
                (RegistryError::Open(error), _) => NodeError::Open(error),
                (RegistryError::Config { problem, .. }, Some(place)) => {
                    config.problem_at(place.span(), problem.trim()).into()
                }
                (error, _) => config.problem_with("driver.kind", error.to_string()).into(),
            })?;
            serving(replicator, config.node.open_within).await
        };
        match opened.await {
            Ok(replicator) => Ok((replicator, transport)),
            Err(error) => {
                if let Some(transport) = transport {
                    transport.close().await;
                }
                Err(error)
            }
        }
    }
}

/// The cluster of the certificate is that of the data.
#[cfg_attr(not(feature = "quic"), allow(unused_variables, reason = "no transport names a cluster"))]
fn belong_together(config: &mut Config, transport: &Arc<dyn Transport>) -> Result<(), NodeError> {
    #[cfg(feature = "quic")]
    if let Some(quic) = crate::quic::transport(transport) {
        let certified = quic.status().subject.cluster();
        match config.node.cluster_id() {
            None => config.node.cluster = certified.to_string(),
            Some(cluster) if cluster == certified => {}
            Some(cluster) => {
                let problem = format!(
                    "the certificate is of cluster {certified}, and node.cluster is {cluster}; use the certificate that \
                     was made with this configuration"
                );
                return Err(NodeError::Transport { kind: "quic".into(), problem });
            }
        }
    }
    Ok(())
}

/// The replicator once it serves; it is closed if it does not come to that.
async fn serving(
    replicator: Arc<dyn Replicator>,
    within: Duration,
) -> Result<Arc<dyn Replicator>, NodeError> {
    if within.is_zero() {
        return Ok(replicator);
    }
    let Err(error) = replayed(&replicator, within).await else { return Ok(replicator) };
    let status = replicator.status();
    // What is wrong with it is told already, and the directory is released in any case.
    let _ = replicator.close().await;
    Err(match error {
        ReadError::Timeout => {
            let progress = status.groups.first().map(|group| (group.applied, group.committed));
            let (applied, committed) = progress.unwrap_or_default();
            NodeError::NotReady { within, applied, committed }
        }
        error => NodeError::Stopped(error),
    })
}

/// Waits until everything is applied that was accepted before. A barrier passes exactly then, so that no state has to
/// be polled.
async fn replayed(replicator: &Arc<dyn Replicator>, within: Duration) -> Result<(), ReadError> {
    // A wait beyond what the clock can say is one without an end.
    let until = Instant::now().checked_add(within);
    for shard in replicator.shard_of_each_group() {
        let left = until.map_or(within, |until| until.saturating_duration_since(Instant::now()));
        replicator.read_barrier(&shard, Consistency::Linearizable, left).await?;
    }
    Ok(())
}

/// A plugged-in part's own table, if there is one, and where to look when reading it fails.
fn erased<'a>(config: &'a Config, section: &str, name: &str) -> (Table<'a>, Option<Place>) {
    let Some(table) = config.plugged_table(section, name) else { return (None, None) };
    let place = table.place();
    (Some(Box::new(<dyn erased_serde::Deserializer<'_>>::erase(table))), Some(place))
}

async fn open_transport(
    config: &Config,
    transports: &Transports,
    node: NodeId,
    members: Vec<NodeId>,
) -> Result<Option<Arc<dyn Transport>>, NodeError> {
    let kind = &config.transport.kind;
    let opening = {
        let (table, place) = erased(config, "transport", kind);
        let opened = Opened { directory: config.directory(), node, members };
        transports.prepare(kind, table, opened).map_err(|problem| match place {
            Some(place) => config.problem_at(place.span(), problem.trim()),
            None => config.problem_with("transport.kind", problem),
        })?
    };
    let Some(opening) = opening else { return Ok(None) };
    let transport =
        opening.await.map_err(|problem| NodeError::Transport { kind: kind.clone(), problem })?;
    Ok(Some(transport))
}

/// Whether every driver and transport that the configuration names is known.
pub(crate) fn check_names(
    config: &Config,
    registry: &Registry,
    transports: &Transports,
) -> Result<(), ConfigError> {
    if let Err(unregistered) = registry.check(&config.driver.kind) {
        return Err(config.problem_with("driver.kind", format!("names an {unregistered}")));
    }
    for (name, place) in config.plugged_names("driver") {
        // The table of a driver that was left out of this build may stay in the file.
        if let Err(unregistered) = registry.check(&name)
            && unregistered.way_out.is_none()
        {
            return Err(config.problem_at(place, unregistered.to_string()));
        }
    }
    if let Err(problem) = transports.check(&config.transport.kind) {
        return Err(config.problem_with("transport.kind", format!("names an {problem}")));
    }
    for (name, place) in config.plugged_names("transport") {
        if !transports.knows(&name)
            && let Err(problem) = transports.check(&name)
        {
            return Err(config.problem_at(place, problem));
        }
    }
    Ok(())
}

/// Why a node did not open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The driver could not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The transport could not open.
    #[error("transport {kind}: {problem}")]
    Transport {
        /// Which.
        kind: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// It did not come to serve in time, and is closed again.
    #[error(
        "the node did not serve within {within:?}: it had applied {applied} of {committed} batches; give it longer \
         with node.open_within"
    )]
    NotReady {
        /// How long was waited.
        within: Duration,
        /// The last batch that was applied.
        applied: u64,
        /// The last batch that is known to be decided.
        committed: u64,
    },
    /// It stopped while it replayed what it had accepted, and is closed again.
    #[error(transparent)]
    Stopped(ReadError),
    /// The system has no random source.
    #[error("no random source: {0}")]
    Random(std::io::Error),
    /// Its data did not go to another driver.
    #[cfg(feature = "hosted")]
    #[error(transparent)]
    Switch(quorate_host::SwitchError),
}

#[cfg(feature = "hosted")]
impl From<quorate_host::SwitchError> for NodeError {
    fn from(error: quorate_host::SwitchError) -> Self {
        match error {
            quorate_host::SwitchError::Open(error) => Self::Open(error),
            error => Self::Switch(error),
        }
    }
}
