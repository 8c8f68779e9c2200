//! Receiving a snapshot.

use std::sync::Arc;

use redb::Database;

use super::backend::FileBackend;
use super::{
    Changes, CheckpointError, CheckpointMeta, HOST, MACHINE, META, Staged, Sticky, Summary,
    builder, durable, put_meta, put_pairs,
};
use crate::DiskFile;

/// A snapshot that is being received, beside the checkpoint in force. Dropping it leaves a file that the next one
/// removes.
pub struct Stage {
    database: Database,
    sticky: Arc<Sticky>,
    summary: Summary,
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage").field("summary", &self.summary).finish_non_exhaustive()
    }
}

impl Stage {
    pub(super) fn new(
        file: Box<dyn DiskFile>,
        cache_bytes: usize,
        sticky: Arc<Sticky>,
    ) -> Result<Self, CheckpointError> {
        let database = sticky.run("stage a snapshot", || {
            let database = builder(cache_bytes).create_with_backend(FileBackend::new(file))?;
            let transaction = durable(&database)?;
            transaction.open_table(MACHINE)?;
            transaction.open_table(HOST)?;
            transaction.open_table(META)?;
            transaction.commit()?;
            Ok(database)
        })?;
        Ok(Self { database, sticky, summary: Summary::default() })
    }

    /// Adds pairs, as [`Pin::read_machine`](super::Pin::read_machine) and [`Pin::read_host`](super::Pin::read_host) give them.
    /// Durable only with [`finish`](Self::finish).
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Faulted`] if the disk failed, now or before.
    pub fn put(&mut self, machine: Changes, host: Changes) -> Result<(), CheckpointError> {
        self.sticky.check()?;
        let (database, summary) = (&self.database, &mut self.summary);
        self.sticky.run("stage a snapshot", || {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(redb::Durability::None)?;
            put_pairs(&transaction, MACHINE, machine, &mut summary.machine)?;
            put_pairs(&transaction, HOST, host, &mut summary.host)?;
            transaction.commit()?;
            Ok(())
        })
    }

    /// What has been received so far.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// Compares what was received with what was sent, and makes it durable.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Mismatch`] if it differs; [`CheckpointError::Faulted`] if the disk failed, now or before.
    pub fn finish(self, meta: CheckpointMeta, sent: Summary) -> Result<Staged, CheckpointError> {
        self.sticky.check()?;
        let Self { database, sticky, summary } = self;
        if summary != sent {
            let what = format!(
                "{} and {} pairs came of {} and {}, or they differ",
                summary.machine.pairs, summary.host.pairs, sent.machine.pairs, sent.host.pairs
            );
            return Err(CheckpointError::Mismatch { what });
        }
        sticky.run("stage a snapshot", || {
            let transaction = durable(&database)?;
            put_meta(&transaction, &meta, &summary)?;
            transaction.commit()?;
            Ok(())
        })?;
        Ok(Staged { database, meta, summary })
    }
}
