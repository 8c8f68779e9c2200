//! Reading entries while the log is written.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::LogError;
use super::format::{Item, Loc, RUN_HEADER, Records, run_at, run_len, seed};
use super::group_log::Found;
use super::shared::Shared;
use crate::{Body, DiskFile, Entry, Group, Index, Record};

/// Reads what is durable in a log, from any thread, also while it is written and after it is closed. A clone reads the
/// same log.
#[derive(Clone, Debug)]
pub struct LogReader {
    shared: Arc<Shared>,
}

/// Where the bytes of a run are.
#[derive(Debug)]
enum Source {
    Memory(Bytes),
    Disk(Arc<dyn DiskFile>),
}

impl LogReader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Entries of a group in the order of their indexes, each with the proof of its decision, empty if it is not decided or has
    /// none. Where candidates stand side by side, the decided one; if none is decided, the one that was put last.
    ///
    /// Ends before the first index that has no entry, and once `bytes_max` bytes are read; at least one entry is read
    /// if there is one.
    ///
    /// # Errors
    ///
    /// [`LogError::Trimmed`] if the range begins below what is kept, [`LogError::Corrupt`] if bytes on disk are not what
    /// was written, [`LogError::Io`] if the disk does not give them.
    pub fn read(
        &self,
        group: Group,
        range: Range<Index>,
        bytes_max: usize,
    ) -> Result<Vec<(Entry, Bytes)>, LogError> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        // A run holds many small entries: the last one read from disk is kept for the next.
        let mut runs = [None, None];
        for index in range {
            if bytes >= bytes_max && !entries.is_empty() {
                break;
            }
            let Some((entry, proof)) = self.entry(group, index, &mut runs)? else { break };
            let body = match &entry.body {
                Body::Empty => 0,
                Body::Frames(body) | Body::Members(body) => body.len(),
            };
            bytes += entry.head.len() + body + proof.len();
            entries.push((entry, proof));
        }
        Ok(entries)
    }

    fn entry(
        &self,
        group: Group,
        index: Index,
        runs: &mut [Option<(Loc, Bytes)>; 2],
    ) -> Result<Option<(Entry, Bytes)>, LogError> {
        loop {
            let Some(found) = self.find(group, index)? else { return Ok(None) };
            match self.load(group, found, runs) {
                Ok((entry, proof)) => {
                    assert_eq!(entry.index, index, "the index of the log leads to another entry");
                    return Ok(Some((entry, proof)));
                }
                // The segment may have been recycled, or the entry copied forward, in between. If not, it is damaged.
                Err(_) if self.find(group, index)? != Some(found) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn find(&self, group: Group, index: Index) -> Result<Option<Found>, LogError> {
        let state = self.shared.state();
        let Some(log) = state.groups.get(&group) else {
            return if index == 0 { Err(LogError::Trimmed { first: 1 }) } else { Ok(None) };
        };
        if index < log.first() {
            return Err(LogError::Trimmed { first: log.first() });
        }
        Ok(log.find(index))
    }

    fn load(
        &self,
        group: Group,
        found: Found,
        runs: &mut [Option<(Loc, Bytes)>; 2],
    ) -> Result<(Entry, Bytes), LogError> {
        let [put_run, decide_run] = runs;
        let Record::Put(entry) = self.record(group, found.put, put_run)? else {
            return Err(corrupt(group, found.put, "the record is not an entry"));
        };
        let Some(proof) = found.proof else { return Ok((entry, Bytes::new())) };
        let Record::Decide { proof, .. } = self.record(group, proof, decide_run)? else {
            return Err(corrupt(group, proof, "the record is not a decision"));
        };
        Ok((entry, proof))
    }

    /// One record, from memory or from disk.
    pub(super) fn record(
        &self,
        group: Group,
        loc: Loc,
        last: &mut Option<(Loc, Bytes)>,
    ) -> Result<Record, LogError> {
        let known = last.as_ref().filter(|(at, _)| (at.segment, at.run) == (loc.segment, loc.run));
        let run = match known {
            Some((_, run)) => run.clone(),
            None => {
                let run = self.run(group, loc)?;
                *last = Some((loc, run.clone()));
                run
            }
        };
        match Records::new(run, loc.at as usize).next() {
            Some(Ok((_, owner, Item::Record(record)))) if owner == group => Ok(record),
            Some(Err(what)) => Err(corrupt(group, loc, what)),
            _ => Err(corrupt(group, loc, "the record is of something else")),
        }
    }

    fn run(&self, group: Group, loc: Loc) -> Result<Bytes, LogError> {
        let source = {
            let state = self.shared.state();
            match (state.cache.run(loc), state.files.get(&loc.segment)) {
                (Some(run), _) => Source::Memory(run),
                (None, Some(file)) => Source::Disk(Arc::clone(file)),
                (None, None) => return Err(corrupt(group, loc, "its segment is gone")),
            }
        };
        match source {
            Source::Memory(run) => Ok(run),
            Source::Disk(file) => self.run_on_disk(&*file, group, loc),
        }
    }

    fn run_on_disk(&self, file: &dyn DiskFile, group: Group, loc: Loc) -> Result<Bytes, LogError> {
        let seed = seed(&self.shared.store, u64::from(loc.segment));
        let failed = || LogError::io(format!("read segment {}", loc.segment));
        let size = file.len().map_err(failed())?;
        let at = u64::from(loc.run);
        // Most runs are a little over 4 KiB, so that one read brings them.
        let guess = size.saturating_sub(at).min(5 * 1024) as usize;
        if guess < RUN_HEADER {
            return Err(corrupt(group, loc, "its segment has been cut short"));
        }
        let mut bytes = vec![0; guess];
        file.read_at(at, &mut bytes).map_err(failed())?;
        let len = RUN_HEADER + run_len(bytes[..RUN_HEADER].try_into().expect("a whole header"));
        if len as u64 > size - at {
            return Err(corrupt(group, loc, "a run is longer than its segment"));
        }
        if len > guess {
            bytes.resize(len, 0);
            file.read_at(at + guess as u64, &mut bytes[guess..]).map_err(failed())?;
        }
        if run_at(seed, &bytes).is_none() {
            return Err(corrupt(group, loc, "its checksum is wrong"));
        }
        Ok(Bytes::from(bytes).slice(RUN_HEADER..len))
    }

    /// The first index of a group that is kept; 1 in a new log.
    pub fn first(&self, group: Group) -> Index {
        self.shared.state().groups.get(&group).map_or(1, |log| log.first())
    }

    /// The last index of a group that has an entry; one below [`first`](Self::first) if none has.
    pub fn last(&self, group: Group) -> Index {
        self.shared.state().groups.get(&group).map_or(0, |log| log.last())
    }

    /// Number of the last block that is durable. A checkpoint keeps it and gives it back as
    /// [`Opening::durable_lsn`](super::Opening::durable_lsn): a log that ends before it has been damaged.
    pub fn durable_lsn(&self) -> u64 {
        self.shared.state().durable_lsn
    }

    /// Bytes that the cache of the newest blocks takes.
    pub fn cache_bytes(&self) -> usize {
        self.shared.state().cache.bytes()
    }
}

fn corrupt(group: Group, loc: Loc, what: &str) -> LogError {
    LogError::Corrupt {
        segment: u64::from(loc.segment),
        offset: u64::from(loc.run),
        group: Some(group),
        what: what.to_owned(),
    }
}
