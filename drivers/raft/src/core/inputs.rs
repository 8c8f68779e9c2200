//! What happens to the core: time, messages, writes that are durable, entries that are applied, wishes.

use bytes::Bytes;
use quorate_engine::engine::{Now, Output, Placed};
use quorate_storage::{Body, Entry, Index, Record, Seq};
use raft::SnapshotStatus;
use raft::eraftpb::{Message, MessageType, Snapshot};

use super::changes::conf_state;
use super::entries::{core_entry, tag};
use super::{
    APPEND_BYTES_MAX, APPENDS_IN_FLIGHT, BACKLOG_BYTES_MAX, Core, CoreRole, FetchUnderWay,
    ProgressWord, wire,
};
use crate::members::{Change, ChangeEntry, Mark};

impl Core {
    /// A tick has passed.
    pub(crate) fn tick(&mut self, now: Now) {
        // The one random choice of the core is ours.
        self.raw.raft.set_randomized_election_timeout(self.drawn);
        if self.leads() {
            if self.writes_stall(now) {
                // What it counts on are the others alone; one with a working disk does better.
                let term = self.term();
                self.raw.raft.become_follower(term, 0);
                self.gave_up_for_disk = true;
            } else {
                self.raw.tick();
            }
        } else if self.may_campaign() || self.raw.raft.election_elapsed + 1 < self.drawn {
            self.raw.tick();
        }
        self.look();
    }

    pub(super) fn writes_stall(&self, now: Now) -> bool {
        let oldest = self.persisting.iter().find(|ready| ready.must);
        oldest.is_some_and(|ready| now.saturating_sub(ready.since) > self.election_timeout)
    }

    /// Whether everything that must be durable is.
    pub(super) fn is_durable(&self) -> bool {
        self.flush_seq <= self.durable && self.raw.raft.raft_log.unstable_entries().is_empty()
    }

    /// Whether this node may ask to lead. While a snapshot is installed, the core would look below it for changes of the members
    /// that are not applied.
    pub(super) fn may_campaign(&self) -> bool {
        self.is_durable() && self.installing.is_none()
    }

    /// Asks to lead, with a pre-vote, or without one where the leader is to be deposed.
    pub(crate) fn campaign(&mut self, depose: bool) {
        let durable = self.raw.raft.raft_log.persisted == self.last();
        if self.leads() || !durable || self.installing.is_some() {
            return;
        }
        if depose && self.role() == CoreRole::Follower {
            let mut message = Message::default();
            message.set_msg_type(MessageType::MsgTimeoutNow);
            (message.from, message.to, message.term) = (self.id(), self.id(), self.term());
            // A node that may not campaign does nothing.
            let _ = self.raw.step(message);
        } else {
            let _ = self.raw.campaign();
        }
        self.look();
    }

    pub(crate) fn step_down(&mut self) {
        if self.leads() {
            let term = self.term();
            self.raw.raft.become_follower(term, 0);
            self.look();
            // The others are to be first.
            self.drawn = 2 * self.timing.election - 1;
        }
    }

    /// Tells everyone what is decided, and stops leading: this member is out.
    pub(crate) fn leave(&mut self) {
        if self.leads() {
            self.raw.raft.bcast_append();
            self.step_down();
        }
    }

    pub(crate) fn transfer(&mut self, to: u64) {
        self.flush_proposals();
        self.raw.transfer_leader(to);
    }

    /// Takes in a message that was read by [`wire`](self::wire) and whose sender is known.
    ///
    /// # Errors
    ///
    /// This node has lost what it had acknowledged.
    pub(crate) fn receive(&mut self, message: Message) -> Result<(), String> {
        let m = &message;
        match m.get_msg_type() {
            MessageType::MsgAppend => {
                let backlog = self.store().bytes_after(self.applied);
                if backlog > BACKLOG_BYTES_MAX && !m.entries.is_empty() && m.term == self.term() {
                    return Ok(());
                }
            }
            MessageType::MsgAppendResponse => {
                let Some(progress) = self.raw.raft.prs().get(m.from) else { return Ok(()) };
                let matched = progress.matched;
                // A stale refusal would set the next index at or below what is matched (tikv/raft-rs 557).
                let stale = m.reject && (m.index <= matched || m.reject_hint < matched);
                if stale || !m.reject && m.index > self.last() {
                    return Ok(());
                }
                self.govern(m.from);
            }
            MessageType::MsgHeartbeatResponse => self.govern(m.from),
            MessageType::MsgHeartbeat if m.term >= self.term() && m.commit > self.last() => {
                return Err(format!(
                    "the leader knows that this node had stored everything up to index {}, and its log ends at {}: what it acknowledged is lost. Remove this node and add it again with an empty directory",
                    m.commit,
                    self.last()
                ));
            }
            // Who takes over has everything; with writes on their way it would count itself too early.
            MessageType::MsgTimeoutNow if !self.may_campaign() => return Ok(()),
            // It was sent to whoever led then, who does not pass it on.
            MessageType::MsgReadIndex if !self.leads() => return Ok(()),
            _ => {}
        }
        // Replies of those who are no members any more are refused, and nothing else is.
        let _ = self.raw.step(message);
        self.look();
        Ok(())
    }

    /// A staged snapshot: the core takes it if it is ahead.
    pub(crate) fn receive_snapshot(
        &mut self,
        from: u64,
        head: wire::SnapshotHead,
        index: Index,
        mark_bytes: Bytes,
        mark: Mark,
    ) {
        let mut members = conf_state(&mark.members);
        let listed = mark.members.by_raft(self.id()).is_some();
        if !listed && mark.members.next() <= self.id() {
            // It is from before this member was added, which is in the log behind it.
            members.learners.push(self.id());
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (index, head.snapshot_term);
        metadata.set_conf_state(members);
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgSnapshot);
        (message.from, message.to, message.term) = (from, self.id(), head.term);
        message.set_snapshot(snapshot);
        let _ = self.raw.step(message);
        if self.raw.snap().is_some_and(|taken| taken.get_metadata().index == index) {
            self.staged = Some((index, mark_bytes, mark.members));
        }
        self.look();
    }

    pub(crate) fn snapshot_sent(&mut self, to: u64, arrived: bool) {
        let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(to, status);
    }

    /// Everything up to `seq` is durable.
    pub(crate) fn persisted(&mut self, seq: Seq) {
        self.durable = self.durable.max(seq);
        let mut number = None;
        while let Some(ready) = self.persisting.front()
            && ready.seq <= self.durable
        {
            number = Some(ready.number);
            self.persisting.pop_front();
        }
        if let Some(number) = number {
            self.raw.on_persist_ready(number);
        }
        if self.is_durable() {
            self.gave_up_for_disk = false;
        }
        self.look();
    }

    /// Everything up to `index` is applied.
    pub(crate) fn applied(&mut self, index: Index) {
        if index <= self.applied || index > self.handed {
            return;
        }
        self.applied = index;
        self.raw.advance_apply_to(index);
        if let Some((at, mark)) = self.installing.take_if(|(at, _)| *at <= index) {
            let members = conf_state(&mark.members);
            self.raw.mut_store().set_checkpoint(at, mark.term, members);
        }
        self.evict();
    }

    pub(super) fn evict(&mut self) {
        let settled = self.applied.min(self.raw.raft.raft_log.persisted);
        let bytes = self.cache_bytes;
        self.raw.mut_store().evict(bytes, settled);
    }

    /// A checkpoint is stored, and the log below `trim_below` is not needed by this node. What followers may still want of
    /// it stays, within bounds.
    pub(crate) fn checkpointed(
        &mut self,
        index: Index,
        mark: &Mark,
        trim_below: Index,
        out: &mut Output,
    ) {
        let members = conf_state(&mark.members);
        if self.store().checkpoint().is_none_or(|known| known < index) {
            self.raw.mut_store().set_checkpoint(index, mark.term, members);
        }
        let alone = self.members.seats().len() < 2;
        let streamed =
            self.members.seats().iter().filter_map(|seat| match self.progress(seat.raft)?.state {
                ProgressWord::Snapshot(at) => Some(at + 1),
                _ => None,
            });
        let streamed = streamed.min();
        let mut below = trim_below.min(index + 1);
        if !alone {
            below = below.min(self.store().first_of_last(self.keeps.idle));
        }
        if let Some(streamed) = streamed {
            below = below.min(streamed.max(self.store().first_of_last(self.keeps.streaming)));
        }
        if below > self.store().first() && below <= self.applied + 1 {
            self.raw.mut_store().trim(below - 1);
            out.write(false, Record::Trim { below });
        }
    }

    /// The answer to a fetch.
    ///
    /// # Errors
    ///
    /// The log gave something else than what was written.
    pub(crate) fn fetched(&mut self, ticket: u64, entries: Vec<Entry>) -> Result<(), String> {
        let Some(FetchUnderWay { from, contexts }) = self.fetches.remove(&ticket) else {
            return Ok(());
        };
        let mut window = Vec::with_capacity(entries.len());
        for (entry, index) in entries.into_iter().zip(from..) {
            let Some(term) = self.store().term_of(index) else { break };
            if entry.index != index || entry.tag != tag(term) {
                return Err(format!(
                    "the log holds {:?} at index {}, and {:?} was written to index {index}: run `quorate verify`",
                    entry.tag,
                    entry.index,
                    tag(term)
                ));
            }
            window.push(core_entry(entry, term));
        }
        if window.is_empty() {
            // Trimmed away meanwhile: whoever wanted it gets a snapshot.
            let gone = from.min(self.applied);
            if self.store().checkpoint().is_some_and(|checkpoint| checkpoint >= gone) {
                self.raw.mut_store().trim(gone);
            }
        }
        self.raw.mut_store().set_window(window);
        for context in contexts {
            self.raw.on_entries_fetched(context);
        }
        self.raw.mut_store().set_window(Vec::new());
        Ok(())
    }

    /// Whether this node leads, stays so, and may place entries.
    pub(crate) fn may_propose(&self) -> bool {
        self.leads() && self.transferee().is_none() && self.members.by_raft(self.id()).is_some()
    }

    /// Places a batch at the end of the log; only while it [may](Self::may_propose).
    pub(crate) fn propose(&mut self, batch: Body) -> Placed {
        assert!(self.may_propose(), "only a leader that stays places batches");
        let index = self.last() + self.pending.len() as u64 + 1;
        let placed = Placed { index, tag: tag(self.term()) };
        let entry = wire::entry(batch);
        self.mine.push_back((placed, entry.data.len()));
        self.mine_bytes += entry.data.len();
        self.pending.push(entry);
        placed
    }

    /// Places a change of the members at the end of the log, if this node leads and no other is pending.
    pub(crate) fn propose_change(&mut self, change: Change) -> bool {
        self.flush_proposals();
        if !self.may_propose() || self.change_is_pending() {
            return false;
        }
        let change = ChangeEntry { after: self.members.changed_at(), change };
        let entry = wire::entry(Body::Members(change.encode()));
        let placed = self.raw.raft.append_entry(&mut [entry]);
        assert!(placed, "the core has no limit of its own");
        self.raw.raft.pending_conf_index = self.last();
        self.raw.raft.bcast_append();
        true
    }

    /// Asks for an index at which a linearizable read may be served; `name` comes back with it, or nothing does.
    pub(crate) fn read(&mut self, name: Vec<u8>) {
        self.raw.read_index(name);
    }

    pub(super) fn flush_proposals(&mut self) {
        if !self.leads() {
            self.pending.clear();
        }
        if self.pending.is_empty() {
            return;
        }
        for peer in self.members.seats().iter().map(|seat| seat.raft).collect::<Vec<_>>() {
            self.govern(peer);
        }
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.id();
        message.set_entries(std::mem::take(&mut self.pending).into());
        let placed = self.raw.step(message);
        assert!(placed.is_ok(), "a leader that may propose is not refused: {placed:?}");
    }

    /// Bounds what is on its way to a follower in bytes, by how many messages it may be: as many as there are, when the bytes
    /// are enough; what full ones would come to, where it lags.
    pub(super) fn govern(&mut self, peer: u64) {
        if !self.leads() || peer == self.id() {
            return;
        }
        let store = self.store();
        let Some(progress) = self.raw.raft.prs().get(peer) else { return };
        let sent = store.bytes_up_to(progress.next_idx.saturating_sub(1));
        let in_flight = sent - store.bytes_up_to(progress.matched).min(sent);
        let full = usize::try_from(APPEND_BYTES_MAX).expect("it fits");
        let messages = if in_flight >= self.inflight_bytes as u64 {
            1
        } else if store.bytes_after(progress.matched) > APPEND_BYTES_MAX {
            (self.inflight_bytes / full).clamp(1, APPENDS_IN_FLIGHT)
        } else {
            APPENDS_IN_FLIGHT
        };
        self.raw.raft.adjust_max_inflight_msgs(peer, messages);
    }
}
