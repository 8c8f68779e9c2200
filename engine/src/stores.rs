//! What a node keeps on a disk, opened in the one order that is right: directory, checkpoint, log.
//!
//! A shell does the rest: it writes and syncs the log and stores the checkpoints, on threads or in steps.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use quorate_replicator::{CheckpointPairs, CheckpointReader, OpenError, Pair, RestoreError};
use quorate_storage::{
    CheckpointError, CheckpointMeta, CheckpointMode, CheckpointStore, CheckpointWrite, DataDir,
    DataDirError, DataMode, Disk, Group, Identity, Log, LogConfig, LogError, Pin, Recovered,
    Summary,
};

use crate::core::StoredCheckpoint;
use crate::effects::CheckpointJob;

/// How many pairs of a checkpoint are read at a time.
const RESTORE_PAIRS: usize = 4096;

/// What each group's checkpoint pages have at least.
const CACHE_BYTES_MIN: usize = 64 << 10;

/// How many bytes of a checkpoint are read at a time.
const RESTORE_BYTES: usize = 1 << 20;

/// How the stores of a node are opened.
#[derive(Clone, Debug)]
pub struct StoresConfig {
    /// Names a new store, and should be random; an existing one keeps its name.
    pub store: [u8; 16],
    /// What is expected of the directory.
    pub mode: DataMode,
    /// The log.
    pub log: LogConfig,
    /// How many bytes of checkpoint pages stay in memory, for all groups together.
    pub checkpoint_cache_bytes: usize,
}

/// A data directory, open, with what was found in it.
#[derive(Debug)]
pub struct Stores {
    /// Holds the lock: drop it after everything else.
    pub directory: DataDir,
    /// The log, which all groups share.
    pub log: Log,
    /// Each group, in the order of their numbers.
    pub groups: Vec<GroupStores>,
}

/// What one group has in a data directory.
#[derive(Debug)]
pub struct GroupStores {
    /// Its checkpoints.
    pub checkpoints: CheckpointStore,
    /// What it has in the log.
    pub recovered: Recovered,
}

impl Stores {
    /// Opens the directory that is the root of `disk`, with as many groups as `identity` says. `directory` is what errors call
    /// it. A snapshot whose reset is in the log is in force afterwards.
    ///
    /// # Errors
    ///
    /// The directory belongs to someone else, is in use, or is damaged: what, where, and what to do.
    pub fn open(
        disk: Arc<dyn Disk>,
        directory: &str,
        identity: &Identity,
        config: StoresConfig,
    ) -> Result<Self, OpenError> {
        let opened = DataDir::open(disk, identity, config.mode, config.store)
            .map_err(|error| of_directory(directory, error))?;
        Self::open_in(opened, directory, config)
    }

    /// As [`open`](Self::open), in a directory that is open already.
    ///
    /// # Errors
    ///
    /// What it holds is damaged: what, where, and what to do.
    pub fn open_in(
        mut opened: DataDir,
        directory: &str,
        config: StoresConfig,
    ) -> Result<Self, OpenError> {
        let StoresConfig { store: _, mode, log, checkpoint_cache_bytes } = config;
        let refused = |error| of_directory(directory, error);
        let groups = opened.identity().groups;
        let checkpoint_mode = match mode {
            DataMode::ReadOnly => CheckpointMode::ReadOnly,
            DataMode::Create | DataMode::Existing => CheckpointMode::Create,
        };
        let cache_bytes = (checkpoint_cache_bytes / groups as usize).max(CACHE_BYTES_MIN);
        let of_checkpoint = |error| of_checkpoint(directory, error);
        let mut checkpoints = BTreeMap::new();
        for group in (0..groups).map(Group::new) {
            let store = CheckpointStore::open(opened.disk(), group, checkpoint_mode, cache_bytes)
                .map_err(of_checkpoint)?;
            checkpoints.insert(group, store);
        }
        // The log must reach what the checkpoints say was durable: a shorter one was cut, not torn.
        let newest = |store: &CheckpointStore| store.latest();
        let watermark =
            checkpoints.values().filter_map(newest).map(|meta| meta.log_watermark).max();
        // What a checkpoint has is not brought into memory again; whoever only reads looks at all there is.
        let floors = match mode {
            DataMode::ReadOnly => BTreeMap::new(),
            DataMode::Create | DataMode::Existing => checkpoints
                .iter()
                .filter_map(|(group, store)| Some((*group, store.latest()?.index)))
                .collect(),
        };
        let (log, mut recovered) =
            opened.open_log(log, watermark.unwrap_or(0), floors).map_err(refused)?;
        let mut groups = Vec::with_capacity(checkpoints.len());
        for (group, mut checkpoints) in checkpoints {
            let recovered = recovered.remove(&group).unwrap_or_default();
            let reset = recovered.reset.as_ref().map(|(index, _)| *index);
            checkpoints.recover(reset).map_err(of_checkpoint)?;
            let held = checkpoints.latest().map_or(0, |meta| meta.index);
            if recovered.first > held + 1 {
                return Err(OpenError::Corrupt {
                    problem: format!(
                        "the log of g{} begins at {} and its checkpoint ends at {held}: the file in `checkpoint` is missing or older than \
                         the log; restore the directory from a backup, or in a cluster remove the node and add it again",
                        group.number(),
                        recovered.first
                    ),
                });
            }
            groups.push(GroupStores { checkpoints, recovered });
        }
        Ok(Self { directory: opened, log, groups })
    }
}

impl GroupStores {
    /// The newest checkpoint, to begin from.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn checkpoint(&self) -> Result<Option<RecoveredCheckpoint>, OpenError> {
        let pin = self.checkpoints.pin().map_err(|error| of_checkpoint("checkpoints", error))?;
        Ok(pin.map(RecoveredCheckpoint::new))
    }

    /// Reads all of the newest checkpoint, and compares it with its digests.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is damaged.
    pub fn verify(&mut self) -> Result<Summary, OpenError> {
        self.checkpoints.verify().map_err(|error| of_checkpoint("checkpoints", error))
    }
}

/// A disk that fails is not damage.
fn of_checkpoint(directory: &str, error: CheckpointError) -> OpenError {
    match error {
        CheckpointError::Io { .. } | CheckpointError::Faulted { .. } => {
            of_directory_text(directory, &error)
        }
        error => OpenError::Corrupt { problem: error.to_string() },
    }
}

/// What speaks against a directory, in words.
fn of_directory(directory: &str, error: DataDirError) -> OpenError {
    match error {
        DataDirError::OtherDriver { found, wanted } => OpenError::Directory {
            directory: directory.into(),
            problem: format!(
                "it was written by driver `{found}`, and the configuration says `{wanted}`: run `quorate driver switch --to {wanted} \
                 --data-dir {directory}`, which keeps what it holds, or configure `{found}`"
            ),
        },
        DataDirError::Log(LogError::Corrupt { .. }) | DataDirError::Damaged { .. } => {
            OpenError::Corrupt { problem: error.to_string() }
        }
        error => of_directory_text(directory, &error),
    }
}

fn of_directory_text(directory: &str, error: &dyn std::fmt::Display) -> OpenError {
    OpenError::Directory { directory: directory.into(), problem: error.to_string() }
}

impl CheckpointJob {
    /// As a checkpoint store takes it. Reads all pairs: not for the thread that applies. `log_watermark` is a block of
    /// the log that is durable.
    pub fn into_write(self, log_watermark: u64) -> CheckpointWrite {
        let changes =
            |pairs: CheckpointPairs| pairs.map(|Pair { key, value }| (key, value)).collect();
        CheckpointWrite {
            meta: CheckpointMeta {
                index: self.index,
                position: self.words.into(),
                mark: self.mark,
                state: self.state,
                log_watermark,
            },
            machine_pairs: changes(self.machine),
            host_pairs: changes(self.host),
        }
    }
}

/// A checkpoint that is being read.
#[derive(Debug)]
pub struct RecoveredCheckpoint {
    meta: CheckpointMeta,
    machine: PairReader,
    host: PairReader,
}

impl RecoveredCheckpoint {
    /// What is pinned, to be read from its first pair on.
    pub fn new(pin: Pin) -> Self {
        Self {
            meta: pin.meta().clone(),
            machine: PairReader::new(pin.clone(), Pin::read_machine),
            host: PairReader::new(pin, Pin::read_host),
        }
    }

    /// As a core takes it, once.
    pub fn stored(&mut self) -> StoredCheckpoint<'_> {
        StoredCheckpoint {
            index: self.meta.index,
            mark: self.meta.mark.clone(),
            state: self.meta.state,
            words: self.meta.position.clone(),
            machine: &mut self.machine,
            host: &mut self.host,
        }
    }
}

type ReadPairs =
    fn(&Pin, Bound<&[u8]>, usize, usize) -> Result<Vec<(Bytes, Bytes)>, CheckpointError>;

/// Reads the pairs of one table, some at a time.
#[derive(Debug)]
struct PairReader {
    pin: Pin,
    read: ReadPairs,
    /// Read and not yet given.
    waiting: std::vec::IntoIter<(Bytes, Bytes)>,
    last: Option<Bytes>,
}

impl PairReader {
    fn new(pin: Pin, read: ReadPairs) -> Self {
        Self { pin, read, waiting: Vec::new().into_iter(), last: None }
    }
}

impl CheckpointReader for PairReader {
    fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, RestoreError> {
        if let Some(pair) = self.waiting.next() {
            return Ok(Some(pair));
        }
        let from = self.last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let pairs = (self.read)(&self.pin, from, RESTORE_PAIRS, RESTORE_BYTES)
            .map_err(|error| RestoreError::new(error.to_string()))?;
        self.last = pairs.last().map(|(key, _)| key.clone());
        self.waiting = pairs.into_iter();
        Ok(self.waiting.next())
    }
}
