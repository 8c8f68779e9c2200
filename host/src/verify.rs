//! Checking a data directory without changing it.

use std::time::Duration;

use quorate_engine::engine::EngineDriver;
use quorate_engine::{
    Callers, DecodedBatch, Effects, GroupStores, HostCore, RecoveredCheckpoint, Start,
    StoredCheckpoint, Stores,
};
use quorate_replicator::{Env, GroupId, GroupStatus, OpenError, StateMachine};
use quorate_storage::{Body, DataMode, Entry, Group, LogReader, Recovered};

use crate::HostConfig;
use crate::files;

/// How many bytes of the log are read at a time.
const READ_BYTES: usize = 4 << 20;

/// What a check found of one group, when it found nothing wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// The group.
    pub group: GroupId,
    /// The first index in the log.
    pub log_first: u64,
    /// Entries of the log, each read and checked.
    pub log_entries: u64,
    /// Frames in these entries, repeated ones counted each time.
    pub log_frames: u64,
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
    /// Whether the history was recomputed from the first batch on. If not, the log begins later, and it was recomputed
    /// from the checkpoint on.
    pub from_genesis: bool,
    /// Live sessions.
    pub sessions: u64,
}

/// Nobody asks anything of a core that only replays.
#[derive(Debug)]
pub(crate) enum Nobody {}

impl Callers for Nobody {
    type Propose = ();
    type ProposeMany = ();
    type Read = ();
    type Decision = ();
    type Subscribe = ();
    type Admin = ();
}

/// What a check is about.
struct Check<'a, D: EngineDriver> {
    driver: &'a D,
    driver_config: &'a D::Config,
    config: &'a HostConfig,
    env: &'a Env,
    /// Of the directory.
    incarnation: [u8; 16],
    machine: &'a dyn Fn() -> Box<dyn StateMachine>,
}

/// See [`Hosted::verify`](crate::Hosted::verify).
pub(crate) fn verify<D: EngineDriver>(
    driver: &D,
    driver_config: &D::Config,
    config: &HostConfig,
    env: &Env,
    machine: &dyn Fn() -> Box<dyn StateMachine>,
) -> Result<Vec<VerifyReport>, OpenError> {
    let Stores { directory, log, groups } = files::open(D::NAME, config, env, DataMode::ReadOnly)?;
    let incarnation = directory.store();
    let check = Check { driver, driver_config, config, env, incarnation, machine };
    let reader = log.reader();
    let reports = (0..)
        .zip(groups)
        .map(|(number, stored)| check.group(GroupId::new(number), stored, &reader));
    let reports = reports.collect();
    drop((log, directory));
    reports
}

fn corrupt(problem: impl std::fmt::Display) -> OpenError {
    OpenError::Corrupt { problem: problem.to_string() }
}

/// Reads every entry of the log and decodes its batch; how many frames there are.
fn read_all(reader: &LogReader, group: Group, first: u64) -> Result<(Vec<Entry>, u64), OpenError> {
    let last = reader.last(group);
    let (mut entries, mut frames, mut next) = (Vec::new(), 0, first);
    while next <= last {
        let read = reader.read(group, next..last + 1, READ_BYTES).map_err(corrupt)?;
        if read.is_empty() {
            return Err(corrupt(format!("the log has no entry {next}, but entries up to {last}")));
        }
        for (entry, _) in read {
            if let Body::Frames(bytes) = &entry.body {
                let batch = DecodedBatch::decode(bytes).map_err(|error| {
                    corrupt(format!("entry {} of the log: {error}", entry.index))
                })?;
                frames += batch.frames.len() as u64;
            }
            next = entry.index + 1;
            entries.push(entry);
        }
    }
    Ok((entries, frames))
}

impl<D: EngineDriver> Check<'_, D> {
    /// Checks what is stored of one group.
    fn group(
        &self,
        group: GroupId,
        mut stored: GroupStores,
        reader: &LogReader,
    ) -> Result<VerifyReport, OpenError> {
        let summary = stored.verify()?;
        let mut checkpoint = stored.checkpoint()?;
        let GroupStores { checkpoints, recovered } = stored;
        let log_first = recovered.first.max(1);
        let (entries, log_frames) = read_all(reader, Group::new(group.number()), log_first)?;
        let log_entries = entries.len() as u64;
        let from_genesis = log_first == 1;
        // The same history must come out of the log alone: what the checkpoint holds was made of it.
        let whole = (from_genesis && checkpoint.is_some()).then(|| Recovered {
            first: 1,
            entries,
            ..recovered.clone()
        });
        let has_checkpoint = checkpoint.as_mut().map(RecoveredCheckpoint::stored);
        let status = self.replay(group, has_checkpoint, recovered)?;
        if let Some(log) = whole
            && self.replay(group, None, log)?.history != status.history
        {
            return Err(corrupt(format!(
                "the history up to index {} is another one when it is replayed from the first batch than from the \
                 checkpoint: one of the two was changed; restore the directory from a backup",
                status.applied
            )));
        }
        Ok(VerifyReport {
            group,
            log_first,
            log_entries,
            log_frames,
            checkpoint: checkpoints.latest().map_or(0, |meta| meta.index),
            checkpoint_pairs: summary.machine.pairs,
            checkpoint_digest: summary.machine.digest,
            applied: status.applied,
            history: status.history,
            from_genesis,
            sessions: status.sessions,
        })
    }

    /// Replays the log, which stops where the history is not the one that the log says it was.
    fn replay(
        &self,
        group: GroupId,
        checkpoint: Option<StoredCheckpoint<'_>>,
        log: Recovered,
    ) -> Result<GroupStatus, OpenError> {
        let now = Duration::ZERO;
        let start = Start {
            members: self.env.members.clone(),
            incarnation: self.incarnation,
            seed: self.env.seed,
            machine: (self.machine)(),
            checkpoint,
            log,
        };
        let config = self.config.core(group, self.env.node, false);
        let mut core =
            HostCore::<Nobody>::open(config, self.driver, self.driver_config, start, now)?;
        let mut effects = Effects::default();
        while core.turn(now, &mut effects) {}
        match core.faulted() {
            Some(cause) => Err(corrupt(cause)),
            None => Ok(core.status()),
        }
    }
}
