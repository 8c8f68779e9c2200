//! Checking a data directory without changing it.

use std::time::Duration;

use quorate_engine::engine::EngineDriver;
use quorate_engine::{Callers, Effects, HostCore, RecoveredCheckpoint, Start, Stores};
use quorate_replicator::{Env, GroupId, OpenError, StateMachine};
use quorate_storage::DataMode;

use crate::HostConfig;
use crate::files;

/// What a check found, when it found nothing wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// The first index in the log.
    pub log_first: u64,
    /// Entries of the log, each read and checked.
    pub log_entries: u64,
    /// The last batch of the checkpoint; 0 if there is none.
    pub checkpoint: u64,
    /// Pairs of the state machine in the checkpoint, each read and checked.
    pub checkpoint_pairs: u64,
    /// Digest of these pairs, equal on all nodes at the same index.
    pub checkpoint_digest: [u8; 32],
    /// The last batch.
    pub applied: u64,
    /// Hash of the history up to it, recomputed, and equal to what the log says of it.
    pub history: [u8; 32],
    /// Live sessions.
    pub sessions: u64,
}

/// Nobody asks anything of a core that only replays.
#[derive(Debug)]
enum Nobody {}

impl Callers for Nobody {
    type Propose = ();
    type ProposeMany = ();
    type Read = ();
    type Decision = ();
    type Subscribe = ();
}

/// See [`Hosted::verify`](crate::Hosted::verify).
pub(crate) fn verify<D: EngineDriver>(
    driver: &D,
    driver_config: &D::Config,
    config: &HostConfig,
    env: &Env,
    machine: Box<dyn StateMachine>,
) -> Result<VerifyReport, OpenError> {
    let mut stores = files::open(D::NAME, config, env, DataMode::ReadOnly)?;
    let corrupt = |problem: String| OpenError::Corrupt { problem };
    let summary = stores.checkpoints.verify().map_err(|error| corrupt(error.to_string()))?;
    let mut checkpoint = stores.checkpoint()?;
    let Stores { directory, checkpoints, log, recovered } = stores;
    let log_first = recovered.first.max(1);
    let log_entries = recovered.entries.len() as u64;
    // Replaying reads every entry, and stops where the history is not the one that the log says it was.
    let now = Duration::ZERO;
    let start = Start {
        members: env.members.clone(),
        seed: env.seed,
        machine,
        checkpoint: checkpoint.as_mut().map(RecoveredCheckpoint::stored),
        log: recovered,
    };
    let core_config = config.core(GroupId::new(0), env.node, false);
    let mut core = HostCore::<Nobody>::open(core_config, driver, driver_config, start, now)?;
    let mut effects = Effects::default();
    while core.turn(now, &mut effects) {}
    if let Some(cause) = core.faulted() {
        return Err(corrupt(cause.into()));
    }
    let status = core.status();
    drop((log, directory));
    Ok(VerifyReport {
        log_first,
        log_entries,
        checkpoint: checkpoints.latest().map_or(0, |meta| meta.index),
        checkpoint_pairs: summary.machine.pairs,
        checkpoint_digest: summary.machine.digest,
        applied: status.applied,
        history: status.history,
        sessions: status.sessions,
    })
}
