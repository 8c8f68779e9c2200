//! The drivers and transports that this build has: the only place that knows every one.

#[cfg(feature = "local")]
use quorate_replicator::Driver;
use quorate_replicator::Registry;
use serde::Deserialize as _;

use crate::node;
use crate::transports::Transports;
use crate::{Config, ConfigError};

/// The drivers of this build, and how to get the others.
pub fn registry() -> Registry {
    let registry = Registry::new();
    #[cfg(not(feature = "local"))]
    let registry = registry.without("local", missing("local"));
    registry
}

/// The transports of this build, and how to get the others.
pub fn transports() -> Transports {
    Transports::new().without(
        "memory",
        "it joins nodes of one process: give each node a port of the same hub with `NodeBuilder::transport`",
    )
}

/// Checks a configuration against this build, without opening anything: names, and the keys of every driver's table.
///
/// # Errors
///
/// The first thing that is wrong: where it stands and what would be right.
pub fn check(config: &Config) -> Result<(), ConfigError> {
    config.check()?;
    node::check_names(config, &registry(), &transports())?;
    Ok(())
}

/// What to do about a driver or transport that was left out of this build.
#[cfg(not(feature = "local"))]
fn missing(feature: &str) -> String {
    format!("this program was built without it; rebuild with `--features {feature}`")
}

/// Reads the table of a driver as its opening would.
#[allow(dead_code)]
fn check_table<D: Driver>(config: &Config) -> Result<(), ConfigError> {
    let Some(table) = config.plugged_table("driver", D::NAME) else { return Ok(()) };
    let place = table.place();
    D::Config::deserialize(table)
        .map(drop)
        .map_err(|error| config.problem_at(place.span(), error.message()))
}
