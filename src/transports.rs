//! The transports that a program has, by name.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use quorate_replicator::{NodeId, Transport};
use serde::de::DeserializeOwned;

/// A way to make a [`Transport`], with a name and a configuration of its own.
#[async_trait]
pub trait TransportKind: Send + Sync + 'static {
    /// The word that selects it: `kind = "quic"`.
    const NAME: &'static str;

    /// What can be said about it in `[transport.NAME]`. Unknown keys should be refused, all keys should have
    /// defaults.
    type Config: DeserializeOwned + Default + Send + 'static;

    /// Makes the paths in a configuration that are relative ones of this directory, in which the configuration file is.
    /// Not called without a file: they are then of the working directory.
    fn resolve(config: &mut Self::Config, directory: &Path) {
        let _ = (config, directory);
    }

    /// Makes the transport of one node. Peers are reached for from now on.
    ///
    /// # Errors
    ///
    /// The node does not start; the words say what to do.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: a dropped future may leave an address in use until the process ends.
    async fn open(
        &self,
        config: Self::Config,
        node: NodeId,
        members: Vec<NodeId>,
    ) -> Result<Arc<dyn Transport>, String>;
}

/// The transports that a program has, by name. A plain value: nothing registers itself. The word `none` is always
/// there and means no transport.
#[derive(Default)]
pub struct Transports {
    kinds: BTreeMap<&'static str, Opener>,
    /// Names that are known and missing, with how to get them.
    absent: BTreeMap<&'static str, String>,
}

/// What selects no transport.
const NONE: &str = "none";

/// The table `[section.NAME]`, for whoever is plugged in there.
pub(crate) type Table<'de> = Option<Box<dyn erased_serde::Deserializer<'de> + Send + 'de>>;
type Opening = Pin<Box<dyn Future<Output = Result<Arc<dyn Transport>, String>> + Send>>;
type Opener = Box<dyn for<'de> Fn(Table<'de>, Opened<'_>) -> Result<Opening, String> + Send + Sync>;

/// For whom a transport is opened.
pub(crate) struct Opened<'a> {
    /// Where the configuration file is, if there is one.
    pub(crate) directory: Option<&'a Path>,
    pub(crate) node: NodeId,
    pub(crate) members: Vec<NodeId>,
}

impl Transports {
    /// No transport but `none`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a transport under its name.
    ///
    /// # Panics
    ///
    /// If the name is taken: two transports of one name are a mistake in the program.
    #[must_use]
    pub fn with<T: TransportKind>(mut self, kind: T) -> Self {
        let kind = Arc::new(kind);
        let opener: Opener = Box::new(move |table, opened| {
            let Opened { directory, node, members } = opened;
            let mut config = match table {
                None => T::Config::default(),
                Some(mut table) => {
                    erased_serde::deserialize(&mut *table).map_err(|error| error.to_string())?
                }
            };
            if let Some(directory) = directory {
                T::resolve(&mut config, directory);
            }
            let kind = Arc::clone(&kind);
            Ok(Box::pin(async move { kind.open(config, node, members).await }))
        });
        let taken = T::NAME == NONE || self.kinds.insert(T::NAME, opener).is_some();
        assert!(!taken, "two transports are named {:?}", T::NAME);
        self
    }

    /// Notes a transport that exists and is not part of this program, and how to get it.
    #[must_use]
    pub fn without(mut self, name: &'static str, way_out: impl Into<String>) -> Self {
        self.absent.insert(name, way_out.into());
        self
    }

    /// The names that can be opened, in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        std::iter::once(NONE).chain(self.kinds.keys().copied())
    }

    /// Whether a transport of this name can be opened; the words say what there is.
    pub(crate) fn check(&self, name: &str) -> Result<(), String> {
        if self.names().any(|known| known == name) {
            return Ok(());
        }
        let way_out = match self.absent.get(name) {
            Some(way_out) => way_out.clone(),
            None => format!("this program has: {}", self.names().collect::<Vec<_>>().join(", ")),
        };
        Err(format!("unknown transport {name:?}; {way_out}"))
    }

    /// Whether a table of this name may stand in a configuration.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.absent.contains_key(name) || self.check(name).is_ok()
    }

    /// Reads the configuration of the transport called `name`, and gives what opens it; nothing for `none`.
    pub(crate) fn prepare(
        &self,
        name: &str,
        table: Table<'_>,
        opened: Opened<'_>,
    ) -> Result<Option<Opening>, String> {
        self.kinds.get(name).map(|opener| opener(table, opened)).transpose()
    }
}

impl fmt::Debug for Transports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transports").field("kinds", &self.names().collect::<Vec<_>>()).finish()
    }
}
