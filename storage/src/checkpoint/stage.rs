//! Receiving a snapshot.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use redb::Database;

use super::backend::FileBackend;
use super::{
    CHECKPOINT_DIR, Changes, CheckpointError, CheckpointMeta, HOST, MACHINE, META, Staged, Sticky,
    Summary, builder, durable, put_meta, put_pairs, remove_if_there,
};
use crate::{Disk, OpenMode};

/// A snapshot that is being received, beside the checkpoint in force. Dropping it gives it up and removes its file.
///
/// A disk that fails here fails the stage alone: the checkpoint in force goes on, and finds out by itself how the disk is.
pub struct Stage {
    database: Database,
    // After the database, so that the file is closed before it is removed.
    file: StageFile,
    /// Of this file, and not of the checkpoint in force.
    sticky: Sticky,
    summary: Summary,
    /// Bytes of pairs since what was put was made durable.
    since_commit: u64,
}

/// How many bytes of pairs are put before they are made durable: redb keeps a list in memory of what is not.
const COMMIT_EVERY_BYTES: u64 = 64 << 20;

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage").field("summary", &self.summary).finish_non_exhaustive()
    }
}

impl Stage {
    pub(super) fn new(file: StageFile, cache_bytes: usize) -> Result<Self, CheckpointError> {
        let sticky = Sticky::default();
        let opened = remove_if_there(&*file.disk, &file.path)
            .and_then(|()| file.disk.open(&file.path, OpenMode::CreateNew))
            .map_err(|error| sticky.fault("stage a snapshot", error))?;
        let database = sticky.run("stage a snapshot", || {
            let database = builder(cache_bytes).create_with_backend(FileBackend::new(opened))?;
            let transaction = durable(&database)?;
            transaction.open_table(MACHINE)?;
            transaction.open_table(HOST)?;
            transaction.open_table(META)?;
            transaction.commit()?;
            Ok(database)
        })?;
        Ok(Self { database, file, sticky, summary: Summary::default(), since_commit: 0 })
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
        let bytes_of = |changes: &Changes| -> u64 {
            let bytes = |(key, value): &(Bytes, Option<Bytes>)| {
                key.len() + value.as_ref().map_or(0, Bytes::len)
            };
            changes.iter().map(bytes).sum::<usize>() as u64
        };
        self.since_commit += bytes_of(&machine) + bytes_of(&host);
        let is_due = self.since_commit >= COMMIT_EVERY_BYTES;
        if is_due {
            self.since_commit = 0;
        }
        self.sticky.run("stage a snapshot", || {
            let mut transaction = database.begin_write()?;
            if !is_due {
                transaction.set_durability(redb::Durability::None)?;
            }
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

    /// Compares what was received with what was sent, and makes it durable: from now on a crash leaves it to be found by
    /// [`CheckpointStore::recover`](super::CheckpointStore::recover).
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Mismatch`] if it differs; [`CheckpointError::Faulted`] if the disk failed, now or before.
    pub fn finish(self, meta: CheckpointMeta, sent: Summary) -> Result<Staged, CheckpointError> {
        self.sticky.check()?;
        let Self { database, mut file, sticky, summary, .. } = self;
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
            // Its name has to be there after a crash as well.
            file.disk.sync_dir(CHECKPOINT_DIR).map_err(redb::Error::Io)
        })?;
        // From here on it is given up only by who knows that no log begins after it.
        file.is_kept = true;
        Ok(Staged { database, file, meta, summary })
    }
}

/// The file of a stage, which goes when it is given up.
#[derive(Debug)]
pub(super) struct StageFile {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) path: String,
    /// The number of the last stage of its store: a later one has taken the name.
    pub(super) last: Arc<Mutex<u64>>,
    pub(super) number: u64,
    pub(super) is_kept: bool,
}

impl Drop for StageFile {
    fn drop(&mut self) {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_kept && *last == self.number {
            // It only takes room: whoever opens the directory next removes it otherwise.
            let _ = remove_if_there(&*self.disk, &self.path);
        }
    }
}
