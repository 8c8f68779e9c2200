//! Segments that are ready to be used.
//!
//! A new segment is written full of zeros and synced, so that later commits change no metadata of the file system. That is
//! done in slices, beside the commits, and is the only thing that fails when the disk is full: one spare is always kept
//! in reserve, so that votes and trims still find room while proposals are refused.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::shared::Shared;
use super::{LOG_DIR, LogConfig, LogError};
use crate::disk::is_full;
use crate::{Disk, DiskFile, OpenMode};

/// What a segment is filled with, piece by piece.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Segments that are ready, and the one in preparation. A clone is the same.
#[derive(Clone, Debug)]
pub(super) struct Spares {
    disk: Arc<dyn Disk>,
    shared: Arc<Shared>,
    segment_bytes: u64,
    fill_bytes: usize,
    wanted: usize,
    /// Held while a slice is filled.
    preparing: Arc<Mutex<Option<Preparing>>>,
    /// Held for a moment, so that a commit never waits for a slice.
    list: Arc<Mutex<List>>,
}

#[derive(Debug)]
struct List {
    /// Names of files that are zero, or old segments, and synced.
    ready: Vec<String>,
    full: bool,
    next: u64,
}

#[derive(Debug)]
struct Preparing {
    number: u64,
    file: Box<dyn DiskFile>,
    filled: u64,
}

fn temporary(number: u64) -> String {
    format!("{LOG_DIR}/spare-{number:010}.tmp")
}

pub(super) fn spare_name(number: u64) -> String {
    format!("{LOG_DIR}/spare-{number:010}")
}

impl Spares {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        shared: Arc<Shared>,
        config: &LogConfig,
        ready: Vec<String>,
        next: u64,
    ) -> Self {
        Self {
            disk,
            shared,
            segment_bytes: config.segment_bytes,
            fill_bytes: config.fill_bytes,
            wanted: config.spares,
            preparing: Arc::default(),
            list: Arc::new(Mutex::new(List { ready, full: false, next })),
        }
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are ready, and whether the disk had no room for another.
    pub(super) fn ready(&self) -> (usize, bool) {
        let list = self.list();
        (list.ready.len(), list.full)
    }

    /// Whether fewer are ready than there should be.
    pub(super) fn wants_more(&self) -> bool {
        self.list().ready.len() < self.wanted
    }

    /// A ready segment, made now if there is none.
    ///
    /// Gives [`LogError::Full`] if there is no room for one; that is not a fault.
    pub(super) fn take(&self) -> Result<String, LogError> {
        loop {
            if let Some(name) = self.list().ready.pop() {
                return Ok(name);
            }
            if !self.fill(self.segment_bytes as usize, 1)? {
                return Err(LogError::Full);
            }
        }
    }

    /// Does a slice of the preparation of a segment; whether there is more to do.
    pub(super) fn prepare(&self) -> Result<bool, LogError> {
        Ok(self.fill(self.fill_bytes, self.wanted)? && self.wants_more())
    }

    /// Fills some bytes unless so many are ready; `false` if there is no room.
    fn fill(&self, bytes: usize, wanted: usize) -> Result<bool, LogError> {
        let mut preparing = self.preparing.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may just have made one.
        {
            let mut list = self.list();
            if list.ready.len() >= wanted {
                list.full &= list.ready.len() < self.wanted;
                return Ok(true);
            }
        }
        match self.try_fill(&mut preparing, bytes) {
            Ok(()) => {
                self.list().full = false;
                Ok(true)
            }
            Err((_, error)) if is_full(&error) => {
                // What has been filled is given back, so that others on this disk get on.
                self.list().full = true;
                if let Some(Preparing { number, file, .. }) = preparing.take() {
                    drop(file);
                    self.remove(&temporary(number))?;
                }
                Ok(false)
            }
            Err((what, error)) => Err(self.fault(what, &error)),
        }
    }

    fn fault(&self, what: &str, error: &io::Error) -> LogError {
        self.shared.fault(&format!("{what}: {error}"))
    }

    fn try_fill(
        &self,
        slot: &mut Option<Preparing>,
        bytes: usize,
    ) -> Result<(), (&'static str, io::Error)> {
        if slot.is_none() {
            let number = self.next_number();
            let file = self
                .disk
                .open(&temporary(number), OpenMode::CreateNew)
                .map_err(|error| ("create a spare segment", error))?;
            *slot = Some(Preparing { number, file, filled: 0 });
        }
        let Some(preparing) = slot else { return Ok(()) };
        let failed = |error| ("fill a spare segment", error);
        let until = (preparing.filled + bytes as u64).min(self.segment_bytes);
        while preparing.filled < until {
            let now = (until - preparing.filled).min(ZEROS.len() as u64);
            preparing.file.write_at(preparing.filled, &ZEROS[..now as usize]).map_err(failed)?;
            preparing.filled += now;
        }
        // Each slice is synced, so that the last sync does not keep the disk busy for long.
        preparing.file.sync().map_err(failed)?;
        if preparing.filled == self.segment_bytes {
            let (from, to) = (temporary(preparing.number), spare_name(preparing.number));
            *slot = None;
            self.disk
                .rename(&from, &to)
                .and_then(|()| self.disk.sync_dir(LOG_DIR))
                .map_err(|error| ("name a spare segment", error))?;
            self.list().ready.push(to);
        }
        Ok(())
    }

    fn next_number(&self) -> u64 {
        let mut list = self.list();
        list.next += 1;
        list.next - 1
    }

    /// Takes a segment that nobody needs: keeps it as a spare if one is wanted and it fits, removes it otherwise.
    pub(super) fn recycle(&self, name: &str) -> Result<(), LogError> {
        let len = self.disk.open(name, OpenMode::Read).and_then(|file| file.len());
        let len = len.map_err(|error| self.fault("look at an old segment", &error))?;
        if !self.wants_more() || len != self.segment_bytes {
            return self.remove(name);
        }
        let spare = spare_name(self.next_number());
        self.disk
            .rename(name, &spare)
            .and_then(|()| self.disk.sync_dir(LOG_DIR))
            .map_err(|error| self.fault("recycle a segment", &error))?;
        let mut list = self.list();
        list.ready.push(spare);
        list.full = false;
        Ok(())
    }

    /// Removes a file that is of no use.
    pub(super) fn remove(&self, name: &str) -> Result<(), LogError> {
        self.disk
            .remove(name)
            .and_then(|()| self.disk.sync_dir(LOG_DIR))
            .map_err(|error| self.fault("remove an old segment", &error))
    }
}
