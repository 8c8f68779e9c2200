//! What a node keeps on disk, or in memory if that is what its durability says.

use std::sync::Arc;

use quorate_engine::{Stores, StoresConfig};
use quorate_replicator::{Durability, Env, OpenError, SessionId, limits};
use quorate_storage::{
    CheckpointStore, DataDir, DataMode, Disk, Group, Health, Identity, Log, LogError, LogThread,
    MemoryDisk, OnDurable, RealDisk, Record, Seq,
};

use crate::HostConfig;
use crate::engine_thread::Command;
use crate::inbox::Inbox;

/// The only group of a node.
const GROUP: Group = Group::new(0);

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
    let identity = Identity { cluster, node: env.node.number(), driver: driver.into(), groups: 1 };
    let stores = StoresConfig {
        group: GROUP,
        store: random()?,
        mode,
        log: config.log.clone(),
        checkpoint_cache_bytes: config.checkpoint_cache_bytes,
    };
    Stores::open(disk, &directory, &identity, stores)
}

impl Files {
    /// Starts to write: `inbox` is told what becomes durable. None of checkpoints if the node keeps none.
    pub(crate) fn start(
        directory: DataDir,
        log: Log,
        checkpoints: CheckpointStore,
        durability: Durability,
        inbox: &Arc<Inbox<Command>>,
    ) -> std::io::Result<(Self, Option<CheckpointStore>)> {
        if durability == Durability::Memory {
            return Ok((Self { log: LogSide::Inline(Box::new(log)), directory }, None));
        }
        let inbox = Arc::clone(inbox);
        let on_durable: OnDurable = Box::new(move |durable| match durable {
            Ok(durable) => {
                for (_, seq) in durable {
                    inbox.report(Command::Durable(*seq));
                }
            }
            Err(error) => inbox.report(Command::LogFailed(error.to_string())),
        });
        let log = LogSide::Thread(LogThread::start(log, on_durable)?);
        Ok((Self { log, directory }, Some(checkpoints)))
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
