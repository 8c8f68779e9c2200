//! What a node keeps on disk, or in memory if that is what its durability says.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::StoredCheckpoint;
use quorate_replicator::{CheckpointReader, Durability, Env, OpenError, RestoreError, SessionId};
use quorate_storage::{
    CheckpointError, CheckpointMeta, CheckpointMode, CheckpointStore, DataDir, DataDirError,
    DataMode, Disk, Group, Health, Identity, Log, LogError, LogReader, LogThread, MemoryDisk,
    OnDurable, Pin, RealDisk, Record, Recovered, Seq,
};

use crate::HostConfig;
use crate::engine_thread::Command;
use crate::inbox::Inbox;

/// The only group of a node.
const GROUP: Group = Group::new(0);

/// How many pairs of a checkpoint are read at a time.
const RESTORE_PAIRS: usize = 4096;

/// How many bytes of a checkpoint are read at a time.
const RESTORE_BYTES: usize = 1 << 20;

/// The files of a running node.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) log: LogSide,
    /// Holds the lock of the directory until everything else is closed.
    directory: DataDir,
}

/// The log as the engine thread uses it.
#[derive(Debug)]
pub(crate) enum LogSide {
    /// Written and synced by a thread of its own.
    Thread(LogThread),
    /// In memory: nothing to wait for, so the engine thread writes it itself.
    Inline(Box<Log>),
}

/// What was found on disk.
pub(crate) struct Opened {
    pub(crate) files: Files,
    pub(crate) checkpoint: Option<RecoveredCheckpoint>,
    /// None if the node keeps no checkpoints.
    pub(crate) checkpoints: Option<Arc<CheckpointStore>>,
    pub(crate) log: Recovered,
    pub(crate) reader: LogReader,
}

impl Files {
    /// Opens everything, or creates it at the first start.
    pub(crate) fn open(
        driver: &str,
        config: &HostConfig,
        env: &Env,
        inbox: &Arc<Inbox<Command>>,
    ) -> Result<Opened, OpenError> {
        let volatile = env.durability == Durability::Memory;
        let disk: Arc<dyn Disk> = if volatile {
            Arc::new(MemoryDisk::new())
        } else {
            Arc::new(RealDisk::new(&env.data_dir))
        };
        let Recovery { directory, log, recovered, store } =
            recover(disk, driver, config, env, DataMode::Create)?;
        let checkpoint = restore_point(&store, env)?;
        let reader = log.reader();
        let log = if volatile {
            LogSide::Inline(Box::new(log))
        } else {
            let inbox = Arc::clone(inbox);
            let on_durable: OnDurable = Box::new(move |durable| match durable {
                Ok(durable) => {
                    for (_, seq) in durable {
                        inbox.report(Command::Durable(*seq));
                    }
                }
                Err(error) => inbox.report(Command::LogFailed(error.to_string())),
            });
            let thread = LogThread::start(log, on_durable);
            LogSide::Thread(thread.map_err(|error| directory_error(env, &error))?)
        };
        let checkpoints = (!volatile).then(|| Arc::new(store));
        let files = Self { log, directory };
        Ok(Opened { files, checkpoint, checkpoints, log: recovered, reader })
    }

    /// Closes the log, then releases the directory.
    pub(crate) fn close(self) -> Result<(), String> {
        let closed = match self.log {
            LogSide::Thread(thread) => thread.close(),
            LogSide::Inline(mut log) => log.close().map(drop),
        };
        drop(self.directory);
        closed.map_err(|error| error.to_string())
    }
}

impl LogSide {
    /// Whether proposals must be refused for want of space.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::Thread(thread) => thread.health() == Health::Full,
            Self::Inline(_) => false,
        }
    }

    pub(crate) fn try_submit(
        &mut self,
        group: Group,
        writes: Vec<(Seq, bool, Record)>,
    ) -> Result<(), LogError> {
        match self {
            Self::Thread(thread) => thread.submit(group, writes),
            Self::Inline(log) => {
                log.submit(group, writes)?;
                while log.has_pending() {
                    log.commit()?;
                }
                while log.maintain()? {}
                Ok(())
            }
        }
    }
}

/// A directory with what is in it.
pub(crate) struct Recovery {
    pub(crate) directory: DataDir,
    pub(crate) log: Log,
    pub(crate) recovered: Recovered,
    pub(crate) store: CheckpointStore,
}

/// Opens a directory, its checkpoint, and its log.
pub(crate) fn recover(
    disk: Arc<dyn Disk>,
    driver: &str,
    config: &HostConfig,
    env: &Env,
    mode: DataMode,
) -> Result<Recovery, OpenError> {
    let found = DataDir::peek(&*disk).map_err(|error| of_directory(env, error))?;
    let random =
        || SessionId::random().map(SessionId::bytes).map_err(|error| directory_error(env, &error));
    let cluster = match (config.cluster, found) {
        (Some(cluster), _) => cluster.bytes(),
        (None, Some(found)) => found.cluster,
        (None, None) => random()?,
    };
    let identity = Identity { cluster, node: env.node.number(), driver: driver.into(), groups: 1 };
    let mut directory = DataDir::open(disk, &identity, mode, random()?)
        .map_err(|error| of_directory(env, error))?;
    let checkpoint_mode = match mode {
        DataMode::ReadOnly => CheckpointMode::ReadOnly,
        DataMode::Create | DataMode::Existing => CheckpointMode::Create,
    };
    let store = CheckpointStore::open(
        directory.disk(),
        GROUP,
        checkpoint_mode,
        config.checkpoint_cache_bytes,
    )
    .map_err(|error| OpenError::Corrupt { problem: error.to_string() })?;
    let watermark = store.latest().map_or(0, |meta| meta.log_watermark);
    let (log, mut recovered) = directory
        .open_log(config.log.clone(), watermark)
        .map_err(|error| of_directory(env, error))?;
    let recovered = recovered.remove(&GROUP).unwrap_or_default();
    Ok(Recovery { directory, log, recovered, store })
}

/// The newest checkpoint, to begin from.
pub(crate) fn restore_point(
    store: &CheckpointStore,
    env: &Env,
) -> Result<Option<RecoveredCheckpoint>, OpenError> {
    let pin = store.pin().map_err(|error| directory_error(env, &error))?;
    Ok(pin.map(RecoveredCheckpoint::new))
}

fn of_directory(env: &Env, error: DataDirError) -> OpenError {
    match error {
        DataDirError::Log(LogError::Corrupt { .. }) | DataDirError::Damaged { .. } => {
            OpenError::Corrupt { problem: error.to_string() }
        }
        error => directory_error(env, &error),
    }
}

fn directory_error(env: &Env, error: &dyn std::fmt::Display) -> OpenError {
    OpenError::Directory {
        directory: env.data_dir.display().to_string(),
        problem: error.to_string(),
    }
}

/// A checkpoint being read.
pub(crate) struct RecoveredCheckpoint {
    meta: CheckpointMeta,
    machine: PairReader,
    host: PairReader,
}

impl RecoveredCheckpoint {
    fn new(pin: Pin) -> Self {
        Self {
            meta: pin.meta().clone(),
            machine: PairReader::new(pin.clone(), Pin::read_machine),
            host: PairReader::new(pin, Pin::read_host),
        }
    }

    /// As a core takes it.
    pub(crate) fn stored(&mut self) -> StoredCheckpoint<'_> {
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

/// Reads the pairs of one table, some at a time.
struct PairReader {
    pin: Pin,
    read: ReadPairs,
    /// Read and not yet given.
    waiting: std::vec::IntoIter<(Bytes, Bytes)>,
    last: Option<Bytes>,
}

type ReadPairs =
    fn(&Pin, Bound<&[u8]>, usize, usize) -> Result<Vec<(Bytes, Bytes)>, CheckpointError>;

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
