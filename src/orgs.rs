//! Which organisations there are: a shard lists the namespaces of one, and an export needs all of them.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use quorate_replicator::{
    Batch, Bytes, CheckpointPairs, CheckpointReader, LogTime, Outcomes, RestoreError, StateMachine,
};

/// The names of all organisations that a frame was ever applied for; some may have no namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Orgs(Arc<RwLock<BTreeSet<String>>>);

impl Orgs {
    /// All of them, in byte order.
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn insert(&self, org: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(org.into());
    }
}

/// Notes the organisations that pass by on their way to the shards.
#[derive(Debug)]
pub(crate) struct Noting<M> {
    machine: M,
    orgs: Orgs,
    /// Whom the last frame was for: most frames are for the same one again.
    last: String,
}

impl<M> Noting<M> {
    pub(crate) fn new(machine: M, orgs: Orgs) -> Self {
        Self { machine, orgs, last: String::new() }
    }
}

impl<M: StateMachine> StateMachine for Noting<M> {
    fn apply(&mut self, batch: &Batch<'_>, outcomes: &mut Outcomes) {
        for frame in batch.frames {
            let org = frame.frame.shard.org();
            if org != self.last {
                self.last = org.into();
                self.orgs.insert(org);
            }
        }
        self.machine.apply(batch, outcomes);
    }

    fn next_deadline(&self) -> Option<LogTime> {
        self.machine.next_deadline()
    }

    fn begin_checkpoint(&mut self) -> CheckpointPairs {
        self.machine.begin_checkpoint()
    }

    fn restore(&mut self, reader: &mut dyn CheckpointReader) -> Result<(), RestoreError> {
        self.last.clear();
        self.machine.restore(&mut NotingReader { reader, orgs: &self.orgs })
    }
}

struct NotingReader<'a> {
    reader: &'a mut dyn CheckpointReader,
    orgs: &'a Orgs,
}

impl CheckpointReader for NotingReader<'_> {
    fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, RestoreError> {
        let pair = self.reader.next()?;
        // The head of a shard: 0x01, organisation, 0x00, namespace, 0x00, 0x00.
        if let Some((key, _)) = &pair
            && let [1, shard @ .., 0, 0] = &key[..]
            && let Some(end) = shard.iter().position(|byte| *byte == 0)
            && let Ok(org) = std::str::from_utf8(&shard[..end])
        {
            self.orgs.insert(org);
        }
        Ok(pair)
    }
}
