//! What a cluster of the quorum driver begins with: its genesis, and a key for each validator.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use quorate::certificate::{FaultModel, Genesis, Scheme, SigningKey, Validator};
use quorate::{ClusterId, Config, NodeId};

use crate::cluster::NodeAt;
use crate::exit::Failure;
use crate::validator::write_join;

/// The driver whose members are validators.
pub(crate) const QUORUM: &str = "quorum";

/// The genesis, beside the authority and in the directory of each node.
pub(crate) const GENESIS_FILE: &str = "genesis.toml";

/// The key of a validator, in the directory of its node alone.
pub(crate) const KEY_FILE: &str = "validator.key";

/// The fewest validators that can do without one of them, if it may lie.
const BYZANTINE_MIN: usize = 4;

/// What the validators are to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    pub(crate) fault_model: FaultModel,
    pub(crate) scheme: Scheme,
    pub(crate) signed_frames: bool,
}

impl Default for Choice {
    fn default() -> Self {
        Self { fault_model: FaultModel::Byzantine, scheme: Scheme::Ed25519, signed_frames: false }
    }
}

/// The genesis of a new cluster, and the keys of its validators.
#[derive(Clone, Debug)]
pub(crate) struct Founding {
    pub(crate) genesis: Genesis,
    keys: Arc<BTreeMap<NodeId, SigningKey>>,
}

impl Founding {
    /// Makes a key for each node. The founders are the validators, all of the same power; the others are added later.
    ///
    /// # Errors
    ///
    /// There are too many nodes, or the system gives no randomness.
    pub(crate) fn new(
        cluster: ClusterId,
        nodes: impl Iterator<Item = NodeId>,
        founders: &[NodeId],
        choice: Choice,
    ) -> Result<Self, Failure> {
        let Choice { fault_model, scheme, signed_frames } = choice;
        let mut keys = BTreeMap::new();
        for node in nodes {
            keys.insert(node, SigningKey::generate(scheme).map_err(Failure::service)?);
        }
        let founding = keys.iter().filter(|(node, _)| founders.contains(node));
        let validators = founding.map(|(node, key)| Validator {
            node: node.number(),
            power: 1,
            key: key.public().clone(),
        });
        let drift = Config::default().limits.log_time_drift_max;
        let drift_ms = u64::try_from(drift.as_millis()).unwrap_or(u64::MAX);
        let validators = validators.collect();
        let genesis = Genesis::new(cluster.bytes(), fault_model, scheme, drift_ms, validators)
            .map_err(Failure::usage)?;
        let genesis = if signed_frames { genesis.with_signed_frames() } else { genesis };
        Ok(Self { genesis, keys: Arc::new(keys) })
    }

    /// What a node is given that is to be added to a cluster with this genesis: a key of the scheme that the cluster has begun with.
    ///
    /// # Errors
    ///
    /// The system gives no randomness.
    pub(crate) fn joining(genesis: Genesis, node: NodeId) -> Result<Self, Failure> {
        let key = SigningKey::generate(genesis.validators().scheme());
        let keys = [(node, key.map_err(Failure::service)?)].into();
        Ok(Self { genesis, keys: Arc::new(keys) })
    }

    /// Writes the genesis into a directory.
    pub(crate) fn write_genesis(&self, directory: &Path) -> Result<(), Failure> {
        let path = directory.join(GENESIS_FILE);
        fs::write(&path, self.genesis.to_toml()).map_err(|error| failed(&path, error))
    }

    /// Writes genesis and key of a node into its directory; of one that is to be added the change that does so, too.
    pub(crate) fn write_node(&self, directory: &Path, at: &NodeAt) -> Result<(), Failure> {
        self.write_genesis(directory)?;
        let path = directory.join(KEY_FILE);
        let key = self.keys.get(&at.node).expect("each node of a new cluster has a key");
        write_secret(&path, &key.to_text()).map_err(|error| failed(&path, error))?;
        if self.genesis.validators().get(at.node.number()).is_some() {
            return Ok(());
        }
        write_join(directory, &self.genesis, at, key)
    }
}

/// What there is to say about a genesis that promises less than its number of validators seems to.
pub(crate) fn warning(genesis: &Genesis) -> Option<String> {
    let count = genesis.validators().validators().len();
    let few = genesis.fault_model() == FaultModel::Byzantine && count < BYZANTINE_MIN;
    few.then(|| {
        let validators = if count == 1 { "validator" } else { "validators" };
        format!(
            "{count} {validators} of fault model byzantine cannot do without any: nothing is decided while one is down, and {BYZANTINE_MIN} are the fewest \
             that can. Found a cluster of {BYZANTINE_MIN}, or take --fault-model crash if none of them will lie"
        )
    })
}

/// Writes a key into a new file that nobody else may read. One that is there is never replaced.
pub(crate) fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all())
}

fn failed(path: &Path, error: io::Error) -> Failure {
    Failure::usage(format!("{}: {error}", path.display()))
}
