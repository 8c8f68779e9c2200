//! Everything that can be configured, with its default and its trade-off.
//!
//! A configuration comes from a TOML file, from `QUORATE_*` environment variables and from code, in this order of
//! growing strength; see [`ConfigBuilder`]. Each key `key` of a section `[section]` can be set by the variable
//! `QUORATE_SECTION_KEY`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use quorate_replicator::{ClusterId, Durability, NodeId};
use serde::{Deserialize, Serialize};

use crate::load::{ConfigBuilder, ConfigError, Origin, Source};

/// The whole configuration of a node. Every key has a default, and the default is a durable single node that keeps
/// its data in `./quorate-data`.
///
/// ```
/// let config = quorate::Config::from_toml("[driver]\nkind = \"local\"")?;
/// assert_eq!(config.driver.kind, "local");
///
/// let error = quorate::Config::from_toml("[node]\nidd = 7").unwrap_err();
/// assert!(error.to_string().starts_with("configuration:2:1: unknown field `idd`, expected one of `id`"));
/// # Ok::<(), quorate::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// Who the node is and where it keeps its data.
    pub node: NodeConfig,
    /// Which consensus decides.
    pub driver: DriverConfig,
    /// How nodes reach one another.
    pub transport: TransportConfig,
    /// The key-value state.
    pub shard: ShardConfig,
    /// How much may wait inside the node.
    pub limits: LimitsConfig,
    /// When state is written down so that the log before it can go.
    pub checkpoint: CheckpointConfig,
    /// Checkpoints on their way to other nodes.
    pub snapshot: SnapshotConfig,
    /// The log's files.
    pub log: LogConfig,
    /// How much log is kept for subscribers that lag behind.
    pub retain: RetainConfig,
    /// The text that the configuration was read from, which also holds the tables of drivers and
    /// transports.
    #[serde(skip)]
    pub(crate) source: Option<Source>,
    /// Where the keys that are not at their defaults were set.
    #[serde(skip)]
    pub(crate) origins: BTreeMap<String, Origin>,
}

impl Config {
    /// All defaults, with the data in this directory.
    pub fn in_dir(directory: impl Into<PathBuf>) -> Self {
        let mut config = Self::default();
        config.node.data_dir = directory.into();
        config.origins.insert("node.data_dir".into(), Origin::Code);
        config
    }

    /// All defaults, except that nothing is written to disk and a restart forgets everything.
    pub fn in_memory() -> Self {
        let mut config = Self::default();
        config.node.durability = Durability::Memory;
        config.origins.insert("node.durability".into(), Origin::Code);
        config
    }

    /// Reads a configuration from TOML text.
    ///
    /// # Errors
    ///
    /// Names line, column, and what would be right.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        Self::builder().text("configuration", text).build()
    }

    /// Puts a configuration together from a file, the environment and code.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }
}

/// `[node]`: who the node is and where it keeps its data.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct NodeConfig {
    /// The node's number in its cluster, from 1; never given to a second node. It is kept in the data directory,
    /// which is refused to a node of another number.
    pub id: u64,
    /// The cluster that the node belongs to, in 32 hexadecimal digits. Empty: the one that the data directory belongs
    /// to, and a new one for a new directory. Set it to refuse the directory of another cluster.
    pub cluster: String,
    /// The nodes that found the cluster, this one among them: the same list on every node and at every start. Empty: this node
    /// alone. A node that is not in the list waits until it is added to the cluster.
    pub founders: Vec<u64>,
    /// What to do with frames when another node proposes: forward them to it, or, with `false`, refuse them with its
    /// name.
    pub forward: bool,
    /// Where everything is kept that must not be forgotten. Relative to the directory of the configuration file if it
    /// stands there, else to the working directory.
    pub data_dir: PathBuf,
    /// What an accept is worth. `disk`: on stable storage before the answer. `memory`: nothing is written, a restart
    /// forgets everything, and accepts are faster by the time of a disk's flush.
    pub durability: Durability,
    /// How long opening the node may take, from when its files are open: it replays what it accepted since its last
    /// checkpoint, and serves when it is open. Beyond it opening fails, and the next attempt begins where this one
    /// began. Zero: opening does not wait, and [`Node::ready`](crate::Node::ready) tells when the node serves.
    #[serde(with = "humantime_serde")]
    pub open_within: Duration,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            id: 1,
            cluster: String::new(),
            founders: Vec::new(),
            forward: true,
            data_dir: "./quorate-data".into(),
            durability: Durability::Disk,
            open_within: Duration::from_secs(300),
        }
    }
}

impl NodeConfig {
    /// The founding members.
    pub(crate) fn members(&self) -> Vec<NodeId> {
        match &self.founders[..] {
            [] => vec![NodeId::new(self.id)],
            founders => founders.iter().copied().map(NodeId::new).collect(),
        }
    }

    /// The cluster, if one is set and has the right form.
    pub(crate) fn cluster_id(&self) -> Option<ClusterId> {
        // `from_str_radix` would take a sign.
        let digits = self.cluster.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u128::from_str_radix(&self.cluster, 16).ok()?;
        (digits && self.cluster.len() == 32).then(|| ClusterId::new(number.to_be_bytes()))
    }
}

/// `[driver]`: which consensus decides. The driver's own keys are in `[driver.NAME]`; tables of several drivers may
/// be present at once, so that switching is one word.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct DriverConfig {
    /// The driver's name. `local`: one node, no peers. `raft`: a majority of the nodes decides. `quorum`: validators that need not trust
    /// one another decide.
    pub kind: String,
}

impl Default for DriverConfig {
    fn default() -> Self {
        Self { kind: "local".into() }
    }
}

/// `[transport]`: how nodes reach one another.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TransportConfig {
    /// The transport's name. `none`: this node has no peers. `quic`: over a network, with certificates.
    pub kind: String,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self { kind: "none".into() }
    }
}

/// `[shard]`: the key-value state.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ShardConfig {
    /// Consensus groups that share the namespaces out among them, 1 to 4096; they share the log, its flushes and the
    /// connections. Chosen at the first start, kept, and equal on all nodes. More than one helps when the state of one group
    /// would be too large for one checkpoint or snapshot.
    pub groups: u32,
    /// Most bytes of keys and values that a group keeps in memory. Operations that would grow the state beyond it
    /// are refused, deletions pass. Every node of a cluster must have the same value.
    pub state_bytes_max: u64,
}

impl Default for ShardConfig {
    fn default() -> Self {
        Self { groups: 1, state_bytes_max: 2 << 30 }
    }
}

/// `[limits]`: how much may wait inside the node. What does not fit is answered with `Overloaded`, at once.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LimitsConfig {
    /// Most frames that wait for their decision. More allow larger batches under load, and cost about 200 bytes each.
    pub frames_in_flight_max: u64,
    /// Most bytes of frames that wait for their decision.
    pub bytes_in_flight_max: u64,
    /// Most reads that wait for a barrier.
    pub reads_in_flight_max: u64,
    /// Most subscriptions.
    pub subscriptions_max: u64,
    /// Most requests that wait for the engine's thread, beside the frames and reads that it has taken.
    pub requests_max: u64,
    /// How far ahead of this node's own estimate the log time of another node's batch may be. With driver `quorum` that of the
    /// genesis counts, and this is not looked at.
    #[serde(with = "humantime_serde")]
    pub log_time_drift_max: Duration,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            frames_in_flight_max: 64 << 10,
            bytes_in_flight_max: 64 << 20,
            reads_in_flight_max: 64 << 10,
            subscriptions_max: 1024,
            requests_max: 64 << 10,
            log_time_drift_max: Duration::from_millis(500),
        }
    }
}

/// `[checkpoint]`: when state is written down so that the log before it can go. Frequent checkpoints make a restart
/// faster and write more.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct CheckpointConfig {
    /// After this many bytes of log since the last one.
    pub log_bytes: u64,
    /// After this time, if anything was applied since the last one.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { log_bytes: 64 << 20, interval: Duration::from_secs(30) }
    }
}

/// `[snapshot]`: checkpoints on their way to nodes that are new or far behind.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SnapshotConfig {
    /// Most bytes that are sent in a second, to all nodes together; 0: no limit. Less leaves more of the disk and the network
    /// to what the cluster decides meanwhile, and makes a node that joins wait longer.
    pub bytes_per_second: u64,
    /// Most snapshots that are sent at once.
    pub sends_max: u64,
    /// The largest snapshot that is taken, in bytes: what another node can make this one write to its disk.
    pub bytes_max: u64,
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self { bytes_per_second: 128 << 20, sends_max: 2, bytes_max: 64 << 30 }
    }
}

/// `[log]`: the log's files.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LogConfig {
    /// Size of one file of the log, a multiple of 512 from 8 MiB to 1 GiB. Files are filled with zeros before they are
    /// used, so that a new data directory takes `segment_bytes` x (1 + `spares`) at once: 48 MiB unless told. Larger files
    /// are renewed less often and hold more dead records. A file bounds the largest record; the largest batch has 2.1
    /// MiB.
    pub segment_bytes: u64,
    /// How much of the newest records stays in memory for readers. What is older is read from disk.
    pub tail_cache_bytes: u64,
    /// About how many bytes become durable with one flush of the disk; more waits for the next. Never more than half a
    /// file.
    pub block_bytes_max: u64,
    /// How many empty files are kept ready, the last of which is the reserve for a full disk; at least one.
    pub spares: u64,
    /// How many bytes of files may be held back by what is still needed. Beyond it what is needed of the oldest file
    /// is copied forward.
    pub pinned_bytes_max: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
            tail_cache_bytes: 32 << 20,
            block_bytes_max: 8 << 20,
            spares: 2,
            pinned_bytes_max: 1 << 30,
        }
    }
}

/// `[retain]`: how much log is kept, beyond what a restart needs, for subscribers that lag behind.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RetainConfig {
    /// At least this many bytes.
    pub bytes: u64,
    /// At least what was applied no longer ago than this.
    #[serde(with = "humantime_serde")]
    pub age: Duration,
}

impl Default for RetainConfig {
    fn default() -> Self {
        Self { bytes: 64 << 20, age: Duration::ZERO }
    }
}
