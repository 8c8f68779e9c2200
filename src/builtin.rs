//! The drivers and transports that this build has: the only place that knows every one.

#[cfg(feature = "hosted")]
mod switch;

use quorate_replicator::Registry;

use crate::node;
use crate::transports::Transports;
use crate::{Config, ConfigError};

#[cfg(feature = "hosted")]
pub use hosted::{VerifyReport, verify};
#[cfg(feature = "hosted")]
pub use switch::{GroupSwitched, Held, SwitchError, SwitchOptions, SwitchReport, held, switch};

/// The drivers of this build, with what the configuration says about every driver, and how to get the others.
#[cfg_attr(not(feature = "hosted"), allow(unused_variables, reason = "no driver is built in"))]
pub fn registry(config: &Config) -> Registry {
    let registry = Registry::new();
    #[cfg(feature = "local")]
    let registry = registry.with(hosted::local(config));
    #[cfg(not(feature = "local"))]
    let registry = registry.without("local", missing("local"));
    #[cfg(feature = "raft")]
    let registry = registry.with(hosted::raft(config));
    #[cfg(not(feature = "raft"))]
    let registry = registry.without("raft", missing("raft"));
    #[cfg(feature = "quorum")]
    let registry = registry.with(hosted::quorum(config));
    #[cfg(not(feature = "quorum"))]
    let registry = registry.without("quorum", missing("quorum"));
    registry
}

/// The transports of this build, and how to get the others.
pub fn transports() -> Transports {
    let transports = Transports::new().without(
        "memory",
        "it joins nodes of one process: give each node its end of the same hub with `NodeBuilder::transport`",
    );
    #[cfg(feature = "quic")]
    let transports = transports.with(crate::quic::Quic);
    #[cfg(not(feature = "quic"))]
    let transports = transports.without("quic", missing("quic"));
    transports
}

/// Checks a configuration against this build, without opening anything: names, values, and the keys of every driver's
/// and transport's table.
///
/// # Errors
///
/// The first thing that is wrong: where it stands and what would be right.
pub fn check(config: &Config) -> Result<(), ConfigError> {
    config.check()?;
    node::check_names(config, &registry(config), &transports())?;
    #[cfg(feature = "local")]
    hosted::table_of(&hosted::local(config), config)?;
    #[cfg(feature = "raft")]
    hosted::table_of(&hosted::raft(config), config)?;
    #[cfg(feature = "quorum")]
    hosted::table_of(&hosted::quorum(config), config)?;
    #[cfg(feature = "quic")]
    quic(config)?;
    Ok(())
}

/// The genesis of the configured cluster of driver `quorum`, whose key is looked at, too.
///
/// # Errors
///
/// A file cannot be read, is not what it should be, or the key is one that others may read: which, and what to do.
#[cfg(all(feature = "quorum", feature = "audit"))]
pub fn genesis(config: &Config) -> Result<quorate_certificate::Genesis, crate::NodeError> {
    validator(config).map(|(setup, _)| setup.genesis)
}

/// What the configured node of driver `quorum` signs with, beside the genesis; and where its next key is sought.
///
/// # Errors
///
/// As [`genesis`].
#[cfg(all(feature = "quorum", feature = "audit"))]
pub fn validator(
    config: &Config,
) -> Result<(quorate_driver_quorum::Setup, std::path::PathBuf), crate::NodeError> {
    let table = hosted::table_of(&hosted::quorum(config), config)?;
    let directory = config.directory().unwrap_or_else(|| std::path::Path::new(""));
    let setup = quorate_driver_quorum::Setup::read(directory, &table);
    let setup = setup.map_err(|problem| quorate_replicator::OpenError::Config { problem })?;
    Ok((setup, directory.join(&table.next_key_file)))
}

/// What the configuration says about QUIC, with its paths as they are opened; the defaults if it says nothing.
///
/// # Errors
///
/// What is wrong with the table: where it stands and what would be right.
#[cfg(feature = "quic")]
pub fn quic(config: &Config) -> Result<quorate_transport_quic::QuicConfig, ConfigError> {
    use serde::Deserialize as _;

    use crate::TransportKind as _;

    let mut quic = match config.plugged_table("transport", "quic") {
        None => quorate_transport_quic::QuicConfig::default(),
        Some(table) => {
            let place = table.place();
            quorate_transport_quic::QuicConfig::deserialize(table)
                .map_err(|error| config.problem_at(place.span(), error.message()))?
        }
    };
    if let Some(directory) = config.directory() {
        crate::quic::Quic::resolve(&mut quic, directory);
    }
    Ok(quic)
}

/// What to do about a driver or transport that was left out of this build.
#[cfg(not(all(feature = "local", feature = "raft", feature = "quorum", feature = "quic")))]
fn missing(feature: &str) -> String {
    format!("this program was built without it; rebuild with `--features {feature}`")
}

/// Drivers that are engines, and what they share.
#[cfg(feature = "hosted")]
mod hosted {
    use std::sync::Arc;

    use quorate_engine::engine::EngineDriver;
    pub use quorate_host::VerifyReport;
    use quorate_host::{CheckpointPolicy, HostConfig, Hosted, LogConfig, Retain};
    use quorate_replicator::{Driver, Env, MonotonicClock, NodeId, StateMachine};
    use quorate_shard::Shards;
    use serde::Deserialize as _;

    use crate::node::check_names;
    use crate::{Config, ConfigError, NodeError};

    #[cfg(feature = "local")]
    pub(super) fn local(config: &Config) -> Hosted<quorate_driver_local::Local> {
        Hosted::new(quorate_driver_local::Local, host_config(config))
    }

    #[cfg(feature = "raft")]
    pub(super) fn raft(config: &Config) -> Hosted<quorate_driver_raft::RaftDriver> {
        Hosted::new(quorate_driver_raft::RaftDriver, host_config(config))
    }

    #[cfg(feature = "quorum")]
    pub(super) fn quorum(config: &Config) -> Hosted<quorate_driver_quorum::QuorumDriver> {
        let driver = match config.directory() {
            Some(directory) => quorate_driver_quorum::QuorumDriver::in_directory(directory),
            None => quorate_driver_quorum::QuorumDriver::default(),
        };
        Hosted::new(driver, host_config(config))
    }

    /// Checks the data directory that the configuration names, without writing to it and without a node: every record
    /// of the log, every pair of the checkpoint, and that replaying the log gives the history that is written in it.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, where, and what to do.
    pub fn verify(config: &Config) -> Result<Vec<VerifyReport>, NodeError> {
        config.check()?;
        check_names(config, &super::registry(config), &super::transports())?;
        match config.driver.kind.as_str() {
            #[cfg(feature = "local")]
            "local" => verify_with(&local(config), config),
            #[cfg(feature = "raft")]
            "raft" => verify_with(&raft(config), config),
            #[cfg(feature = "quorum")]
            "quorum" => verify_with(&quorum(config), config),
            other => unreachable!("driver {other:?} is registered and not known here"),
        }
    }

    fn verify_with<D: EngineDriver>(
        driver: &Hosted<D>,
        config: &Config,
    ) -> Result<Vec<VerifyReport>, NodeError> {
        let table = table_of(driver, config)?;
        let env = env(config, config.node.members());
        let bytes_max = config.shard.state_bytes_max;
        let machine = || -> Box<dyn StateMachine> {
            let shards = Shards::builder().limit(|limits| limits.state_bytes_max = bytes_max);
            Box::new(shards.build().0)
        };
        Ok(driver.verify(&table, &env, &machine)?)
    }

    /// For work on a stopped node's directory.
    pub(super) fn env(config: &Config, members: Vec<NodeId>) -> Env {
        let node = NodeId::new(config.node.id);
        let mut env = Env::new(node, &config.node.data_dir, Arc::new(MonotonicClock::new()), 0);
        env.durability = config.node.durability;
        env.members = members;
        env
    }

    /// Reads the table of a driver as its opening would.
    pub(super) fn table_of<D: EngineDriver>(
        _driver: &Hosted<D>,
        config: &Config,
    ) -> Result<D::Config, ConfigError>
    where
        Hosted<D>: Driver<Config = D::Config>,
    {
        let Some(table) = config.plugged_table("driver", <Hosted<D> as Driver>::NAME) else {
            return Ok(D::Config::default());
        };
        let place = table.place();
        D::Config::deserialize(table)
            .map_err(|error| config.problem_at(place.span(), error.message()))
    }

    /// What the host takes from the configuration.
    fn host_config(config: &Config) -> HostConfig {
        let Config { node, shard, limits, checkpoint, snapshot, log, retain, .. } = config;
        let mut host = HostConfig::default();
        host.cluster = node.cluster_id();
        host.groups = shard.groups;
        host.forward = node.forward;
        host.requests_max = count(limits.requests_max);
        host.frames_in_flight_max = count(limits.frames_in_flight_max);
        host.bytes_in_flight_max = count(limits.bytes_in_flight_max);
        host.reads_max = count(limits.reads_in_flight_max);
        host.subscriptions_max = count(limits.subscriptions_max);
        host.log_time_drift_max = limits.log_time_drift_max;
        host.checkpoint = CheckpointPolicy {
            log_bytes: checkpoint.log_bytes,
            interval: checkpoint.interval,
            ..CheckpointPolicy::default()
        };
        host.snapshots.bytes_per_second =
            Some(snapshot.bytes_per_second).filter(|bytes| *bytes > 0);
        host.snapshots.sends_max = count(snapshot.sends_max);
        host.snapshots.bytes_max = snapshot.bytes_max;
        host.retain = Retain { bytes: retain.bytes, age: retain.age };
        host.log = log_config(log);
        host
    }

    fn log_config(log: &crate::LogConfig) -> LogConfig {
        let mut config = LogConfig::default();
        config.segment_bytes = log.segment_bytes;
        config.tail_cache_bytes = count(log.tail_cache_bytes);
        config.block_bytes_max = count(log.block_bytes_max.min(log.segment_bytes / 2));
        config.spares = count(log.spares);
        config.pinned_bytes_max = log.pinned_bytes_max;
        config
    }

    /// A number as memory counts; what does not fit is no limit on this machine.
    fn count(number: u64) -> usize {
        usize::try_from(number).unwrap_or(usize::MAX)
    }
}
