//! What a command works on: a node that it opens here, or a cluster that it asks as a client.

use std::path::PathBuf;
use std::sync::Arc;

use quorate::certificates::CertificateInfo;
use quorate::{Client, ClientConfig, ClientError, Config, Kv, Node, Replicator};

use crate::cli::Global;
use crate::exit::{Exit, Failure};
use crate::open;

/// Where a command finds the state, before it goes there.
#[derive(Debug)]
pub(crate) enum Way {
    /// In a data directory, for which a node is opened in this process.
    Here(Box<Config>),
    /// At the nodes of a cluster.
    There(Box<ClientConfig>),
}

impl Way {
    /// What the options say.
    ///
    /// # Errors
    ///
    /// A file says something that makes no sense, or an option is of the other way.
    pub(crate) fn of(global: &Global) -> Result<Self, Failure> {
        let Some(file) = &global.connect else {
            return Ok(Self::Here(Box::new(global.config().map_err(Failure::usage)?)));
        };
        let of_a_node = [
            ("--data-dir", global.data_dir.is_some()),
            ("--driver", global.driver.is_some()),
            ("--durability", global.durability.is_some()),
        ];
        if let Some((flag, _)) = of_a_node.iter().find(|(_, is_set)| *is_set) {
            return Err(Failure::usage(format!(
                "{flag} is of a node in this process, and --connect (or QUORATE_CONNECT) asks those of a cluster; leave \
                 one of them out"
            )));
        }
        Ok(Self::There(Box::new(ClientConfig::from_file(file).map_err(failure)?)))
    }

    /// Goes there.
    pub(crate) async fn open(self) -> Result<Target, Failure> {
        Ok(match self {
            Self::Here(config) => Target::Node(open::open(*config).await?),
            Self::There(config) => Target::Client(connect(*config).await?),
        })
    }

    /// The same for a command that only reads: a mistyped directory should be told, not set up.
    pub(crate) async fn open_existing(self) -> Result<Target, Failure> {
        match self {
            Self::Here(config) => Ok(Target::Node(open::open_existing(*config).await?)),
            there @ Self::There(_) => there.open().await,
        }
    }

    /// Where an import keeps what it has to remember, when nobody says where.
    pub(crate) fn import_state(&self) -> Result<PathBuf, Failure> {
        match self {
            Self::Here(config) => Ok(config.node.data_dir.join("imports")),
            Self::There(config) => {
                // The same file may be imported into several clusters.
                let certificate = CertificateInfo::read(&config.certificate_file);
                let certificate = certificate.map_err(Failure::usage)?;
                let subject = certificate.first().and_then(|info| info.subject.as_ref());
                let cluster = subject.map(|subject| subject.cluster().to_string());
                Ok(["quorate-import", &cluster.unwrap_or_default()].iter().collect())
            }
        }
    }
}

/// Connects with a cluster.
pub(crate) async fn connect(config: ClientConfig) -> Result<Client, Failure> {
    Client::connect(config).await.map_err(failure)
}

/// What a client's error says of the exit code.
pub(crate) fn failure(error: ClientError) -> Failure {
    match error {
        ClientError::Config { .. } | ClientError::Identity(_) => Failure::usage(error),
        error => Failure::service(error),
    }
}

/// What a command works on. Both have the same contract, and the same keys and values.
#[derive(Debug)]
pub(crate) enum Target {
    /// A node in this process.
    Node(Node),
    /// The nodes of a cluster.
    Client(Client),
}

impl Target {
    pub(crate) fn replicator(&self) -> Arc<dyn Replicator> {
        match self {
            Self::Node(node) => Arc::clone(node.replicator()),
            Self::Client(client) => client.replicator(),
        }
    }

    pub(crate) fn kv(&self) -> &Kv {
        match self {
            Self::Node(node) => node.kv(),
            Self::Client(client) => client.kv(),
        }
    }

    /// Leaves it in order, whatever the command came to.
    pub(crate) async fn close(&self, result: Result<Exit, Failure>) -> Result<Exit, Failure> {
        match self {
            Self::Node(node) => open::close(node, result).await,
            Self::Client(client) => {
                client.close().await;
                result
            }
        }
    }
}
