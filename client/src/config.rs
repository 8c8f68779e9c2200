//! What a client has to know.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_certificate::Genesis;
use quorate_replicator::NodeId;
use quorate_transport_quic::{Limits, peer_table};
use serde::{Deserialize, Serialize};

use crate::ClientError;

/// What a client has to know: who it is, and where the nodes are. Usually read from the `client.toml` that
/// `quorate init-cluster` writes:
///
/// ```toml
/// [client]
/// authority_file = "authority.pem"
/// certificate_file = "client.pem"
/// key_file = "client.key"
///
/// [client.nodes]
/// 1 = "a.example:7410"
/// 2 = "b.example:7410"
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ClientConfig {
    /// The certificate of the cluster's authority, in PEM.
    pub authority_file: PathBuf,
    /// This client's certificate, in PEM.
    pub certificate_file: PathBuf,
    /// The key of the certificate, in PEM. Refused if others than its owner may read the file.
    pub key_file: PathBuf,
    /// The genesis of a cluster of driver `quorum`, as `quorate init-cluster` wrote it. With one, nodes need not be believed that a frame was
    /// accepted: they are asked for proof, and what does not hold is not returned. That costs the client some tenths of a millisecond for each
    /// batch, and some microseconds for each frame. Without one, nodes are believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub genesis_file: Option<PathBuf>,
    /// Nodes by their numbers, each with `host:port`. Not all have to be there; those that are not are not asked.
    #[serde(with = "peer_table")]
    pub nodes: BTreeMap<NodeId, String>,
    /// How long the first node may take to answer.
    #[serde(with = "humantime_serde")]
    pub connect_within: Duration,
    /// How long a node may be silent before the client goes to another one. It is asked for a sign of life five times as often.
    #[serde(with = "humantime_serde")]
    pub silence: Duration,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            authority_file: "authority.pem".into(),
            certificate_file: "client.pem".into(),
            key_file: "client.key".into(),
            genesis_file: None,
            nodes: BTreeMap::new(),
            connect_within: Duration::from_secs(5),
            silence: Duration::from_secs(1),
        }
    }
}

impl ClientConfig {
    /// Reads `[client]` of a TOML file. Relative paths in it are relative to the directory that the file is in.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or says something that makes no sense; the words tell the line.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            client: ClientConfig,
        }

        let path = path.as_ref();
        let wrong =
            |problem: String| ClientError::Config { file: path.display().to_string(), problem };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let File { client: mut config } =
            toml::from_str(&text).map_err(|error| wrong(error.to_string().trim().to_owned()))?;
        if config.nodes.is_empty() {
            let problem = "[client.nodes] names no node; write one, as in `1 = \"host:7410\"`";
            return Err(wrong(problem.into()));
        }
        let directory = path.parent().unwrap_or_else(|| Path::new(""));
        let Self { authority_file, certificate_file, key_file, genesis_file, .. } = &mut config;
        for file in [authority_file, certificate_file, key_file].into_iter().chain(genesis_file) {
            // Joining leaves an absolute path as it is.
            *file = directory.join(&*file);
        }
        Ok(config)
    }

    /// What `genesis_file` holds.
    pub(crate) fn genesis(&self) -> Result<Option<Genesis>, ClientError> {
        let Some(file) = &self.genesis_file else { return Ok(None) };
        let wrong =
            |problem: String| ClientError::Config { file: file.display().to_string(), problem };
        let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
        let genesis = toml::from_str(&text);
        genesis.map(Some).map_err(|error| wrong(error.to_string().trim().to_owned()))
    }

    /// The limits of the client's end of connections.
    pub(crate) fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        limits.idle_timeout = self.silence;
        limits.keep_alive = self.silence / 5;
        limits
    }
}
