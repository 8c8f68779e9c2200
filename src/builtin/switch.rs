//! From one driver to another, with the data: what each driver of this build has to do for it.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use quorate_engine::engine::EngineDriver;
pub use quorate_host::{GroupSwitched, Held, SwitchError, SwitchOptions, held};
use quorate_host::{Hosted, Leaving, MakeMachine};
use quorate_replicator::{Driver, Env, GroupId, NodeId, OpenError, ReadError, StateMachine};
use quorate_shard::Shards;
use quorate_shard::limits::PAGE_KEYS_MAX;

use super::hosted::table_of;
use crate::kv::Namespace;
use crate::{Config, NodeError};

/// What a driver switch has done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SwitchReport {
    /// The driver of before.
    pub from: &'static str,
    /// The driver that has the directory now.
    pub to: &'static str,
    /// The only voting member now.
    pub node: NodeId,
    /// Where the directory of before is.
    pub backup: PathBuf,
    /// Each group.
    pub groups: Vec<GroupSwitched>,
    /// Each namespace, with the revision at which it goes on.
    pub namespaces: Vec<Namespace>,
}

/// Takes the data directory that the configuration names, of a node that is stopped, to the driver `to`: every record, revision and
/// session goes on, this node is the only voting member, and positions are of a new epoch. The driver of before is the one that
/// wrote the directory, whatever `driver.kind` says. The directory is copied first, and what comes out is compared with
/// what was there before it is put in force.
///
/// It blocks until it is done. A process that is killed meanwhile leaves the directory as it was, or as it is to be.
///
/// # Errors
///
/// Nothing was changed, unless the message says so; and what to do.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// use quorate::builtin::{SwitchOptions, held, switch};
/// use quorate::{Config, Node};
///
/// # let directory = tempfile::tempdir()?;
/// let mut config = Config::default();
/// config.node.data_dir = directory.path().join("n1");
/// Node::open(config.clone()).await?.close().await?;
/// # if cfg!(feature = "raft") {
/// let report = switch(&config, "raft", &SwitchOptions::default())?;
/// assert_eq!((report.from, report.to), ("local", "raft"));
/// assert_eq!(held(&config.node.data_dir)?.unwrap().driver, "raft");
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn switch(
    config: &Config,
    to: &str,
    options: &SwitchOptions,
) -> Result<SwitchReport, NodeError> {
    config.check()?;
    let registry = super::registry(config);
    crate::node::check_names(config, &registry, &super::transports())?;
    let refused = |problem: String| NodeError::Open(OpenError::Config { problem });
    registry.check(to).map_err(|error| refused(error.to_string()))?;
    let directory = config.node.data_dir.display().to_string();
    let Some(held) = held(&config.node.data_dir)? else {
        let problem = "it is not set up: there is nothing to take over; check the path".into();
        return Err(OpenError::Directory { directory, problem }.into());
    };
    registry
        .check(&held.driver)
        .map_err(|error| refused(format!("the data directory {directory} has an {error}")))?;
    if held.driver == to {
        return Err(SwitchError::Same { directory, driver: held.driver }.into());
    }
    let state = States::new(config);
    let leaving = match held.driver.as_str() {
        #[cfg(feature = "local")]
        "local" => leave(&super::hosted::local(config), config, &state, options),
        #[cfg(feature = "raft")]
        "raft" => leave(&super::hosted::raft(config), config, &state, options),
        #[cfg(feature = "quorum")]
        "quorum" => leave(&super::hosted::quorum(config), config, &state, options),
        other => unreachable!("driver {other:?} is registered and not known here"),
    }?;
    let namespaces = state.take()?;
    match to {
        #[cfg(feature = "local")]
        "local" => take_over(&super::hosted::local(config), config, &state, leaving, namespaces),
        #[cfg(feature = "raft")]
        "raft" => take_over(&super::hosted::raft(config), config, &state, leaving, namespaces),
        #[cfg(feature = "quorum")]
        "quorum" => take_over(&super::hosted::quorum(config), config, &state, leaving, namespaces),
        other => unreachable!("driver {other:?} is registered and not known here"),
    }
}

fn leave<D: EngineDriver>(
    driver: &Hosted<D>,
    config: &Config,
    state: &States,
    options: &SwitchOptions,
) -> Result<Leaving, NodeError>
where
    Hosted<D>: Driver<Config = D::Config>,
{
    let table = table_of(driver, config)?;
    Ok(driver.leave(&table, &env(config), state.maker(), options)?)
}

fn take_over<D: EngineDriver>(
    driver: &Hosted<D>,
    config: &Config,
    state: &States,
    leaving: Leaving,
    namespaces: Vec<Namespace>,
) -> Result<SwitchReport, NodeError>
where
    Hosted<D>: Driver<Config = D::Config>,
{
    let table = table_of(driver, config)?;
    let agrees = || {
        let found = state.take()?;
        let differs = || namespaces.iter().zip(&found).find(|(left, found)| left != found);
        if found == namespaces {
            return Ok(());
        }
        let (left, found) = match differs() {
            Some((left, found)) => (format!("{left:?}"), format!("{found:?}")),
            None => (namespaces.len().to_string(), format!("{} namespaces", found.len())),
        };
        Err(SwitchError::Differs { found, left })
    };
    let done = driver.take_over(&table, &env(config), state.maker(), leaving, &agrees)?;
    let quorate_host::SwitchReport { from, to, node, backup, groups, .. } = done;
    Ok(SwitchReport { from, to, node, backup, groups, namespaces })
}

fn env(config: &Config) -> Env {
    super::hosted::env(config, vec![NodeId::new(config.node.id)])
}

/// The state machines that were made, to be looked at.
struct States {
    made: Rc<RefCell<Vec<Shards>>>,
    maker: Box<dyn Fn(GroupId) -> Box<dyn StateMachine>>,
}

impl States {
    fn new(config: &Config) -> Self {
        let bytes_max = config.shard.state_bytes_max;
        let made = Rc::<RefCell<Vec<Shards>>>::default();
        let shards_made = Rc::clone(&made);
        let maker = Box::new(move |_| -> Box<dyn StateMachine> {
            let shards = Shards::builder().limit(|limits| limits.state_bytes_max = bytes_max);
            let (machine, shards) = shards.build();
            shards_made.borrow_mut().push(shards);
            Box::new(machine)
        });
        Self { made, maker }
    }

    fn maker(&self) -> MakeMachine<'_> {
        &*self.maker
    }

    /// Everything that the machines made since the last call have, in order; they are let go of.
    fn take(&self) -> Result<Vec<Namespace>, OpenError> {
        let mut all = Vec::new();
        for shards in self.made.take() {
            all.extend(
                namespaces(&shards)
                    .map_err(|error| OpenError::Corrupt { problem: error.to_string() })?,
            );
        }
        all.sort_unstable_by(|one, other| one.shard.cmp(&other.shard));
        Ok(all)
    }
}

fn namespaces(shards: &Shards) -> Result<Vec<Namespace>, ReadError> {
    let (kv, mut all) = (shards.kv(), Vec::new());
    for org in kv.orgs(None, usize::MAX) {
        let mut after = None;
        loop {
            let page = kv.namespaces(&org, after.as_deref(), PAGE_KEYS_MAX)?;
            all.extend(page.namespaces);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    Ok(all)
}
