//! What the world reports: durable writes, entries that were read, checkpoints, snapshots, a full disk.

use quorate_replicator::{Accepted, Event, RestoreError};
use quorate_storage::{Body, Entry, Index, Seq};

use crate::batch::DecodedBatch;
use crate::callers::Callers;
use crate::compaction::Running;
use crate::effects::{Effects, FetchFor, Fetched};
use crate::engine::{Input, Now};
use crate::subscriptions::{SubscriptionId, SubscriptionOver};

use super::{HostCore, StoredCheckpoint};

impl<C: Callers> HostCore<C> {
    /// Every write up to `seq` is on stable storage.
    pub fn durable(&mut self, seq: Seq) {
        if self.stopped.is_none() && seq > self.durable {
            assert!(seq <= self.out.last_seq(), "only what was written becomes durable");
            self.made_durable(seq);
            self.inputs.push_back(Input::Durable(seq));
        }
    }

    /// Notes that every write up to `seq` is on stable storage.
    pub(super) fn made_durable(&mut self, seq: Seq) {
        self.durable = seq;
        while let Some((_, below)) = self.trims.pop_front_if(|(trim, _)| *trim <= seq) {
            self.state.trim(below);
        }
    }

    /// Something for the engine: a message, a staged or sent snapshot, an operator's wish.
    pub fn input(&mut self, input: Input) {
        if self.stopped.is_none() {
            self.inputs.push_back(input);
        }
    }

    /// The answer to a fetch.
    pub fn fetched(&mut self, reader: FetchFor, fetched: Fetched, effects: &mut Effects<C>) {
        if self.stopped.is_some() {
            return;
        }
        match (reader, fetched) {
            (FetchFor::Engine(ticket), Fetched::Entries(entries)) => {
                self.inputs.push_back(Input::Fetched { ticket, entries });
            }
            (FetchFor::Engine(ticket), Fetched::Trimmed(_)) => {
                self.inputs.push_back(Input::Fetched { ticket, entries: Vec::new() });
            }
            (FetchFor::Subscription(id), Fetched::Trimmed(_)) => self.compacted_under(id, effects),
            (FetchFor::Subscription(id), Fetched::Entries(entries)) => {
                // What was not accepted of an entry is known only while the log has it.
                if entries.first().is_some_and(|(entry, _)| entry.index < self.log_first) {
                    return self.compacted_under(id, effects);
                }
                let mut batches = Vec::with_capacity(entries.len());
                for (entry, _) in entries {
                    match self.accepted_of(&entry) {
                        Ok(accepted) => batches.push((entry.index, accepted)),
                        Err(cause) => return self.fault(cause, effects),
                    }
                }
                effects.chunks.extend(self.subscriptions.fetched(id, self.epoch(), &batches));
            }
        }
    }

    fn compacted_under(&mut self, id: SubscriptionId, effects: &mut Effects<C>) {
        self.subscriptions.remove(id);
        let (oldest, snapshot) = self.oldest_readable();
        effects.over.push((id, SubscriptionOver::Compacted { oldest, snapshot }));
    }

    /// The frames of a retained entry that were accepted there.
    pub(super) fn accepted_of(&self, entry: &Entry) -> Result<Vec<Accepted>, String> {
        let Body::Frames(bytes) = &entry.body else { return Ok(Vec::new()) };
        let batch = DecodedBatch::decode(bytes)
            .map_err(|error| format!("entry {} of the log cannot be read: {error}", entry.index))?;
        let skipped = self.state.skipped(entry.index);
        let frames =
            (0..).zip(batch.frames).filter(|(slot, _)| skipped.binary_search(slot).is_err());
        Ok(frames
            .map(|(slot, frame)| Accepted {
                position: self.state.position_of(entry.index, slot),
                frame,
            })
            .collect())
    }

    /// The checkpoint job is stored.
    pub fn checkpointed(&mut self, now: Now, index: Index, effects: &mut Effects<C>) {
        if self.stopped.is_some() {
            return;
        }
        let (Running { mark, state, .. }, trim_below) = self.compaction.finish(index, now);
        self.inputs.push_back(Input::Checkpointed { index, mark, state, trim_below });
        if self.compaction.stores() {
            effects.events.push(Event::Checkpoint { group: self.config.group, index });
        }
    }

    /// The staged snapshot that [`Effects::install`] named is in force on disk; here is what it holds.
    ///
    /// # Errors
    ///
    /// The state machine cannot take it over; the caller ends the group with [`fail`](Self::fail).
    pub fn installed(
        &mut self,
        now: Now,
        stored: StoredCheckpoint<'_>,
    ) -> Result<(), RestoreError> {
        let (index, mark) = self.installing.take().expect("an install was asked for");
        assert_eq!(index, stored.index, "the staged snapshot is the one that was asked for");
        self.state.restore(
            index,
            stored.state,
            &stored.words,
            self.config.sessions,
            stored.machine,
            stored.host,
        )?;
        self.mark = mark;
        self.clock.observe(self.state.log_time(), now);
        self.compaction.installed(index, now);
        // The log began anew after it.
        self.log_first = self.log_first.max(index + 1);
        self.pool.skip_to(index);
        self.reads.release(|placed| placed.index <= index);
        self.subscriptions.gap();
        self.proved.gap();
        self.inputs.push_back(Input::Applied { index, state: self.state.witness().history });
        Ok(())
    }

    /// Whether the disk has room for further frames.
    pub fn storage_full(&mut self, full: bool, effects: &mut Effects<C>) {
        if self.storage_full != full {
            self.storage_full = full;
            effects.events.push(Event::Storage { full });
            self.lead_only_with_room();
        }
    }
}
