//! What the writer and the readers of a log share.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;

use super::LogError;
use super::format::{Loc, RUN_HEADER, run_len};
use super::group_log::GroupLog;
use crate::{DiskFile, Group};

/// What the writer and the readers of a log share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: [u8; 16],
    /// What failed first, once something has.
    fault: OnceLock<Arc<str>>,
    // Held for the time of a look-up, or of folding one block; never while the disk works.
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) groups: BTreeMap<Group, GroupLog>,
    /// Segments that exist, by number.
    pub(super) files: BTreeMap<u32, Arc<dyn DiskFile>>,
    pub(super) cache: Cache,
    pub(super) durable_lsn: u64,
}

impl Shared {
    pub(super) fn new(store: [u8; 16], state: State) -> Self {
        Self { store, fault: OnceLock::new(), state: Mutex::new(state) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A fold that panicked has broken an invariant of ours, and every user of the log should hear of it; but a
        // reader must not panic for it: the writer sets the fault.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first fault stays.
    pub(super) fn fault(&self, cause: &str) -> LogError {
        LogError::Faulted { cause: Arc::clone(self.fault.get_or_init(|| Arc::from(cause))) }
    }

    pub(super) fn check(&self) -> Result<(), LogError> {
        match self.fault.get() {
            None => Ok(()),
            Some(cause) => Err(LogError::Faulted { cause: Arc::clone(cause) }),
        }
    }
}

/// The newest blocks of the log as they are on disk, bounded in bytes.
pub(super) struct Cache {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    max: usize,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

struct Chunk {
    segment: u32,
    offset: u32,
    bytes: Bytes,
}

/// What a chunk costs beside its bytes.
const CHUNK_BYTES: usize = 96;

impl Cache {
    pub(super) fn new(max: usize) -> Self {
        Self { chunks: VecDeque::new(), bytes: 0, max }
    }

    /// Adds what follows all that is there. Gives back the memory of a chunk that nobody uses any more.
    pub(super) fn push(&mut self, segment: u32, offset: u32, bytes: Bytes) -> Option<Vec<u8>> {
        self.bytes += bytes.len() + CHUNK_BYTES;
        self.chunks.push_back(Chunk { segment, offset, bytes });
        let mut free: Option<Vec<u8>> = None;
        while self.bytes > self.max {
            let chunk = self.chunks.pop_front().expect("bytes are of chunks");
            self.bytes -= chunk.bytes.len() + CHUNK_BYTES;
            let larger = free.as_ref().is_none_or(|free| free.capacity() < chunk.bytes.len());
            if larger && chunk.bytes.is_unique() {
                free = Some(chunk.bytes.into());
            }
        }
        free
    }

    /// The records of the run that holds a record.
    pub(super) fn run(&self, loc: Loc) -> Option<Bytes> {
        let at = (loc.segment, loc.run);
        let after = self.chunks.partition_point(|chunk| (chunk.segment, chunk.offset) <= at);
        let chunk = self.chunks.get(after.checked_sub(1)?)?;
        let from = (loc.run - chunk.offset) as usize;
        if chunk.segment != loc.segment || from >= chunk.bytes.len() {
            return None;
        }
        let header = chunk.bytes[from..from + RUN_HEADER].try_into().expect("a whole header");
        let body = from + RUN_HEADER;
        Some(chunk.bytes.slice(body..body + run_len(header)))
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
