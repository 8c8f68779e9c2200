//! Reading a checkpoint while newer ones are written.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, ReadOnlyTable};

use super::{CheckpointError, CheckpointMeta, Sticky, Summary};

/// A checkpoint that stays as it is while this is held, on any thread; a clone costs nothing. The file cannot
/// give back the space of what it holds.
#[derive(Clone)]
pub struct Pin {
    inner: Arc<Inner>,
}

struct Inner {
    meta: CheckpointMeta,
    summary: Summary,
    machine: ReadOnlyTable<&'static [u8], &'static [u8]>,
    host: ReadOnlyTable<&'static [u8], &'static [u8]>,
    sticky: Arc<Sticky>,
    // Last, so that the tables end before the file is closed.
    _database: Arc<Database>,
}

impl std::fmt::Debug for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pin").field("meta", &self.inner.meta).finish_non_exhaustive()
    }
}

impl Pin {
    pub(super) fn new(
        (meta, summary): (CheckpointMeta, Summary),
        machine: ReadOnlyTable<&'static [u8], &'static [u8]>,
        host: ReadOnlyTable<&'static [u8], &'static [u8]>,
        sticky: Arc<Sticky>,
        database: Arc<Database>,
    ) -> Self {
        let inner = Inner { meta, summary, machine, host, sticky, _database: database };
        Self { inner: Arc::new(inner) }
    }

    /// What the checkpoint says of itself.
    pub fn meta(&self) -> &CheckpointMeta {
        &self.inner.meta
    }

    /// How many pairs there are, and their digests.
    pub fn summary(&self) -> Summary {
        self.inner.summary
    }

    /// Pairs of the state machine in the order of their keys, from a key on: until `pairs_max` pairs or `bytes_max` bytes are
    /// reached; at least one if there is one.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Faulted`] if the file cannot be read.
    pub fn read_machine(
        &self,
        from: Bound<&[u8]>,
        pairs_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, CheckpointError> {
        self.read(&self.inner.machine, from, pairs_max, bytes_max)
    }

    /// Pairs of the host; otherwise as [`read_machine`](Self::read_machine).
    ///
    /// # Errors
    ///
    /// As [`read_machine`](Self::read_machine).
    pub fn read_host(
        &self,
        from: Bound<&[u8]>,
        pairs_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, CheckpointError> {
        self.read(&self.inner.host, from, pairs_max, bytes_max)
    }

    /// Looks at every pair of the state machine in the order of their keys: `look` is given the key and the length of the
    /// value. Nothing is copied.
    ///
    /// # Errors
    ///
    /// As [`read_machine`](Self::read_machine).
    pub fn look_at_machine(&self, look: impl FnMut(&[u8], usize)) -> Result<(), CheckpointError> {
        self.look_at(&self.inner.machine, look)
    }

    /// Looks at every pair of the host; otherwise as [`look_at_machine`](Self::look_at_machine).
    ///
    /// # Errors
    ///
    /// As [`read_machine`](Self::read_machine).
    pub fn look_at_host(&self, look: impl FnMut(&[u8], usize)) -> Result<(), CheckpointError> {
        self.look_at(&self.inner.host, look)
    }

    fn look_at(
        &self,
        table: &ReadOnlyTable<&'static [u8], &'static [u8]>,
        mut look: impl FnMut(&[u8], usize),
    ) -> Result<(), CheckpointError> {
        let sticky = &self.inner.sticky;
        sticky.check()?;
        sticky.run("read a checkpoint", || {
            for pair in table.range::<&[u8]>(..)? {
                let (key, value) = pair?;
                look(key.value(), value.value().len());
            }
            Ok(())
        })
    }

    fn read(
        &self,
        table: &ReadOnlyTable<&'static [u8], &'static [u8]>,
        from: Bound<&[u8]>,
        pairs_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, CheckpointError> {
        let sticky = &self.inner.sticky;
        sticky.check()?;
        sticky.run("read a checkpoint", || {
            let (mut pairs, mut bytes) = (Vec::<(Bytes, Bytes)>::new(), 0);
            for pair in table.range::<&[u8]>((from, Bound::Unbounded))? {
                let full = pairs.len() >= pairs_max || bytes >= bytes_max;
                if full && !pairs.is_empty() {
                    break;
                }
                let (key, value) = pair?;
                let (key, value) = (key.value(), value.value());
                // Damaged pages may lead anywhere, and who reads on from the last key would never come to the end.
                let rises = match (pairs.last(), from) {
                    (Some((last, _)), _) => key > &**last,
                    (None, Bound::Excluded(last)) => key > last,
                    (None, Bound::Included(first)) => key >= first,
                    (None, Bound::Unbounded) => true,
                };
                if !rises {
                    return Err(redb::Error::Corrupted("its keys are not in order".to_owned()));
                }
                bytes += key.len() + value.len();
                pairs.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            }
            Ok(pairs)
        })
    }
}
