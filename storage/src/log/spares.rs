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
    list: Arc<Mutex<List>>,
}

#[derive(Debug)]
struct List {
    /// Names of files that are zero, or old segments, and synced.
    ready: Vec<String>,
    preparing: Option<Preparing>,
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
        let list = List { ready, preparing: None, full: false, next };
        Self {
            disk,
            shared,
            segment_bytes: config.segment_bytes,
            fill_bytes: config.fill_bytes,
            wanted: config.spares,
            list: Arc::new(Mutex::new(list)),
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

    /// A ready segment, made now if there is none.
    ///
    /// Gives [`LogError::Full`] if there is no room for one; that is not a fault.
    pub(super) fn take(&self) -> Result<String, LogError> {
        loop {
            let mut list = self.list();
            if let Some(name) = list.ready.pop() {
                return Ok(name);
            }
            self.fill(&mut list, self.segment_bytes as usize)?;
            if list.full {
                return Err(LogError::Full);
            }
        }
    }

    /// Does a slice of the preparation of a segment; whether there is more to do.
    pub(super) fn prepare(&self) -> Result<bool, LogError> {
        let mut list = self.list();
        if list.ready.len() >= self.wanted {
            list.full = false;
            return Ok(false);
        }
        self.fill(&mut list, self.fill_bytes)?;
        Ok(list.ready.len() < self.wanted && !list.full)
    }

    fn fill(&self, list: &mut List, bytes: usize) -> Result<(), LogError> {
        match self.try_fill(list, bytes) {
            Ok(()) => {
                list.full = false;
                Ok(())
            }
            Err((_, error)) if is_full(&error) => {
                // What has been filled is given back, so that others on this disk get on.
                list.full = true;
                if let Some(preparing) = list.preparing.take() {
                    drop(preparing.file);
                    self.disk
                        .remove(&temporary(preparing.number))
                        .and_then(|()| self.disk.sync_dir(LOG_DIR))
                        .map_err(|error| self.fault("remove a spare segment", &error))?;
                }
                Ok(())
            }
            Err((what, error)) => Err(self.fault(what, &error)),
        }
    }

    fn fault(&self, what: &str, error: &io::Error) -> LogError {
        self.shared.fault(&format!("{what}: {error}"))
    }

    fn try_fill(&self, list: &mut List, bytes: usize) -> Result<(), (&'static str, io::Error)> {
        if list.preparing.is_none() {
            let number = list.next;
            list.next += 1;
            let file = self
                .disk
                .open(&temporary(number), OpenMode::CreateNew)
                .map_err(|error| ("create a spare segment", error))?;
            list.preparing = Some(Preparing { number, file, filled: 0 });
        }
        let preparing = list.preparing.as_mut().expect("it was just made");
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
            let number = preparing.number;
            list.preparing = None;
            let failed = |error| ("name a spare segment", error);
            self.disk.rename(&temporary(number), &spare_name(number)).map_err(failed)?;
            self.disk.sync_dir(LOG_DIR).map_err(failed)?;
            list.ready.push(spare_name(number));
        }
        Ok(())
    }

    /// Takes a segment that nobody needs: keeps it as a spare if one is wanted and it fits, removes it otherwise.
    pub(super) fn recycle(&self, name: &str) -> Result<(), LogError> {
        let mut list = self.list();
        let fits = || {
            let file = self.disk.open(name, OpenMode::Read)?;
            Ok(file.len()? == self.segment_bytes)
        };
        let fits =
            fits().map_err(|error: io::Error| self.fault("look at an old segment", &error))?;
        if list.ready.len() < self.wanted && fits {
            let number = list.next;
            list.next += 1;
            self.disk
                .rename(name, &spare_name(number))
                .and_then(|()| self.disk.sync_dir(LOG_DIR))
                .map_err(|error| self.fault("recycle a segment", &error))?;
            list.ready.push(spare_name(number));
            list.full = false;
        } else {
            drop(list);
            self.remove(name)?;
        }
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
