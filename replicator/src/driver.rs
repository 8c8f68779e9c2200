//! Drivers, and how one is chosen by name.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde::de::DeserializeOwned;

use crate::{Clock, Durability, NodeId, OpenError, Replicator, StateMachine, Transport};

/// A way to make a [`Replicator`], with a name and a configuration of its own.
#[async_trait]
pub trait Driver: Send + Sync + 'static {
    /// The word that selects it: `kind = "local"`.
    const NAME: &'static str;

    /// What can be said about it in `[driver.NAME]`. Unknown keys should be refused
    /// (`#[serde(deny_unknown_fields)]`), all keys should have defaults.
    type Config: DeserializeOwned + Default + Send;

    /// Opens a node: recovers what is stored, and returns when requests can be taken.
    ///
    /// # Errors
    ///
    /// The node does not start, and nothing runs; the error says what to do.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: a dropped future may leave the data directory locked until the process ends.
    async fn open(
        &self,
        config: Self::Config,
        env: Env,
        machine: Box<dyn StateMachine>,
    ) -> Result<Arc<dyn Replicator>, OpenError>;
}

/// What a driver is given from outside. Everything that could differ between two runs comes in here.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Env {
    /// This node.
    pub node: NodeId,
    /// All voting members at the first start, this node among them.
    pub members: Vec<NodeId>,
    /// How to reach them; none on a single node.
    pub transport: Option<Arc<dyn Transport>>,
    /// Where the node keeps what it must not forget; not used with [`Durability::Memory`].
    pub data_dir: PathBuf,
    /// What an accept is worth.
    pub durability: Durability,
    /// Monotonic time.
    pub clock: Arc<dyn Clock>,
    /// Where all random choices of the driver come from.
    pub seed: u64,
}

impl Env {
    /// A single node with the machine's clock.
    pub fn new(
        node: NodeId,
        data_dir: impl Into<PathBuf>,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> Self {
        Self {
            node,
            members: vec![node],
            transport: None,
            data_dir: data_dir.into(),
            durability: Durability::Disk,
            clock,
            seed,
        }
    }
}

/// The drivers that an application has, by name. A plain value: nothing registers itself.
///
/// ```
/// # use quorate_replicator::Registry;
/// let registry = Registry::new();
/// let error = registry.check("raft").unwrap_err();
/// assert_eq!(error.to_string(), r#"unknown driver "raft"; this program has none"#);
/// ```
#[derive(Default)]
pub struct Registry {
    drivers: BTreeMap<&'static str, Box<dyn ErasedDriver>>,
    /// Names that are known and missing, with how to get them.
    absent: BTreeMap<&'static str, String>,
}

impl Registry {
    /// No driver at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a driver under its name.
    ///
    /// # Panics
    ///
    /// If the name is taken: two drivers of one name are a mistake in the program.
    #[must_use]
    pub fn with<D: Driver>(mut self, driver: D) -> Self {
        let before = self.drivers.insert(D::NAME, Box::new(driver));
        assert!(before.is_none(), "two drivers are named {:?}", D::NAME);
        self
    }

    /// Notes a driver that exists and is not part of this program, and how to get it, so that asking for it is
    /// answered with the way out.
    #[must_use]
    pub fn without(mut self, name: &'static str, way_out: impl Into<String>) -> Self {
        self.absent.insert(name, way_out.into());
        self
    }

    /// The names that can be opened, in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.drivers.keys().copied()
    }

    /// Whether a driver of this name can be opened.
    ///
    /// # Errors
    ///
    /// There is none; the error lists those there are, or says how to get it.
    pub fn check(&self, name: &str) -> Result<(), Unregistered> {
        self.find(name).map(drop)
    }

    /// Opens a node with the driver called `name`. `config` holds its `[driver.NAME]` table, in whatever format the
    /// application reads; none means all defaults.
    ///
    /// # Errors
    ///
    /// The name is unknown, the configuration is wrong, or the driver could not open.
    ///
    /// # Cancel safety
    ///
    /// As [`Driver::open`].
    pub async fn open<'de>(
        &self,
        name: &str,
        config: Option<Box<dyn erased_serde::Deserializer<'de> + Send + 'de>>,
        env: Env,
        machine: Box<dyn StateMachine>,
    ) -> Result<Arc<dyn Replicator>, RegistryError> {
        let opening = {
            let driver = self.find(name)?;
            // The deserializer is used up here, so that the future below does not hold it.
            driver
                .prepare(config)
                .map_err(|problem| RegistryError::Config { driver: name.into(), problem })?
        };
        Ok(opening.open(env, machine).await?)
    }

    fn find(&self, name: &str) -> Result<&dyn ErasedDriver, Unregistered> {
        self.drivers.get(name).map(AsRef::as_ref).ok_or_else(|| Unregistered {
            name: name.into(),
            known: self.names().collect(),
            way_out: self.absent.get(name).cloned(),
        })
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("drivers", &self.names().collect::<Vec<_>>()).finish()
    }
}

/// A driver with its configuration type forgotten.
trait ErasedDriver: Send + Sync {
    fn prepare<'a, 'de>(
        &'a self,
        config: Option<Box<dyn erased_serde::Deserializer<'de> + Send + 'de>>,
    ) -> Result<Box<dyn Opening + 'a>, String>;
}

/// A driver with its configuration read.
#[async_trait]
trait Opening: Send {
    async fn open(
        self: Box<Self>,
        env: Env,
        machine: Box<dyn StateMachine>,
    ) -> Result<Arc<dyn Replicator>, OpenError>;
}

struct Prepared<'a, D: Driver> {
    driver: &'a D,
    config: D::Config,
}

impl<D: Driver> ErasedDriver for D {
    fn prepare<'a, 'de>(
        &'a self,
        config: Option<Box<dyn erased_serde::Deserializer<'de> + Send + 'de>>,
    ) -> Result<Box<dyn Opening + 'a>, String> {
        let config = match config {
            None => D::Config::default(),
            Some(mut config) => {
                erased_serde::deserialize(&mut *config).map_err(|error| error.to_string())?
            }
        };
        Ok(Box::new(Prepared { driver: self, config }))
    }
}

#[async_trait]
impl<D: Driver> Opening for Prepared<'_, D> {
    async fn open(
        self: Box<Self>,
        env: Env,
        machine: Box<dyn StateMachine>,
    ) -> Result<Arc<dyn Replicator>, OpenError> {
        self.driver.open(self.config, env, machine).await
    }
}

/// No driver of this name can be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown driver {name:?}; {}", way_out_text(.known, .way_out))]
pub struct Unregistered {
    /// What was asked for.
    pub name: String,
    /// What there is.
    pub known: Vec<&'static str>,
    /// How to get it, if it exists at all.
    pub way_out: Option<String>,
}

fn way_out_text(known: &[&str], way_out: &Option<String>) -> String {
    match (way_out, known) {
        (Some(way_out), _) => way_out.clone(),
        (None, []) => "this program has none".into(),
        (None, known) => format!("this program has: {}", known.join(", ")),
    }
}

/// Why a driver could not be opened by name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// No driver of this name.
    #[error(transparent)]
    Unregistered(#[from] Unregistered),
    /// Its configuration could not be read.
    #[error("[driver.{driver}]: {problem}")]
    Config {
        /// The driver.
        driver: String,
        /// Where, and what is wrong.
        problem: String,
    },
    /// The driver could not open.
    #[error(transparent)]
    Open(#[from] OpenError),
}
