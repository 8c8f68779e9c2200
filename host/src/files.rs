//! What a node keeps on disk, or in memory if that is what its durability says.

use std::sync::Arc;

use quorate_engine::{Stores, StoresConfig};
use quorate_replicator::{Durability, Env, OpenError, SessionId, limits};
use quorate_storage::{
    DataDir, DataMode, Disk, Group, Health, Identity, Log, LogError, LogThread, MemoryDisk,
    OnDurable, RealDisk, Record, Seq,
};

use crate::HostConfig;
use crate::engine_thread::{Command, ForGroup};
use crate::inbox::Inbox;

/// A record fills at most half a segment, and the largest batch is a full one and a largest frame.
const SEGMENT_BYTES_MIN: u64 = 2 * (limits::MESSAGE_BYTES_MAX as u64 + (64 << 10));

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

/// Opens what a node of `env` keeps.
pub(crate) fn open(
    driver: &str,
    config: &HostConfig,
    env: &Env,
    mode: DataMode,
) -> Result<Stores, OpenError> {
    if config.groups == 0 || config.groups > limits::GROUPS_MAX {
        return Err(OpenError::Config {
            problem: format!(
                "groups = {} makes no sense; use 1 to {}",
                config.groups,
                limits::GROUPS_MAX
            ),
        });
    }
    let segment = config.log.segment_bytes;
    if segment < SEGMENT_BYTES_MIN {
        return Err(OpenError::Config {
            problem: format!(
                "log segments of {segment} bytes cannot hold the largest batch; use at least {SEGMENT_BYTES_MIN}"
            ),
        });
    }
    let disk: Arc<dyn Disk> = match (env.durability, &config.disk) {
        (Durability::Memory, _) => Arc::new(MemoryDisk::new()),
        (Durability::Disk, Some(disk)) => Arc::clone(disk),
        (Durability::Disk, None) => Arc::new(RealDisk::new(&env.data_dir)),
    };
    let directory = env.data_dir.display().to_string();
    let failed = |problem: String| OpenError::Directory { directory: directory.clone(), problem };
    let found = DataDir::peek(&*disk).map_err(|error| failed(error.to_string()))?;
    let random =
        || SessionId::random().map(SessionId::bytes).map_err(|error| failed(error.to_string()));
    let cluster = match (config.cluster, found) {
        (Some(cluster), _) => cluster.bytes(),
        (None, Some(found)) => found.cluster,
        (None, None) => random()?,
    };
    let groups = config.groups;
    let identity = Identity { cluster, node: env.node.number(), driver: driver.into(), groups };
    let stores = StoresConfig {
        store: random()?,
        mode,
        log: config.log.clone(),
        checkpoint_cache_bytes: config.checkpoint_cache_bytes,
    };
    Stores::open(disk, &directory, &identity, stores)
}

impl Files {
    /// Starts to write: `inbox` is told what becomes durable.
    pub(crate) fn start(
        directory: DataDir,
        log: Log,
        durability: Durability,
        inbox: &Arc<Inbox<Command>>,
    ) -> std::io::Result<Self> {
        if durability == Durability::Memory {
            return Ok(Self { log: LogSide::Inline(Box::new(log)), directory });
        }
        let inbox = Arc::clone(inbox);
        let on_durable: OnDurable = Box::new(move |durable| match durable {
            Ok(durable) => {
                for (group, seq) in durable {
                    let group = group.number() as usize;
                    inbox.report(Command::Group(group, ForGroup::Durable(*seq)));
                }
            }
            Err(error) => inbox.report(Command::LogFailed(error.to_string())),
        });
        let log = LogSide::Thread(LogThread::start(log, on_durable)?);
        Ok(Self { log, directory })
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
