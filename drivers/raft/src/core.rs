//! The seam: tikv's `raft` as a core that is told what happened and says what follows. No other module but its own names it.
//!
//! ```text
//!   tick, receive, propose, persisted, applied ---> RawNode ---> ready: writes, then messages held for them, deliveries
//! ```
//!
//! 1. A leader's appends leave before they are durable here; it counts itself only when they are (Ongaro's thesis, 10.2.1).
//! 2. Whatever is sent waits for the term and vote it speaks of; votes and acknowledgements wait for all that was written.
//! 3. Entries are written before the state that calls them decided.
//! 4. The core campaigns only when everything it wrote is durable: it would count itself at once where it votes alone.
//! 5. Nothing is parsed or printed as protobuf: changes of members go to the log in our encoding.

mod store;
pub(crate) mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::engine::{Deliver, Delivery, Now, Output, Placed};
use quorate_storage::{Body, Entry, Index, Record, Seq, Tag};
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
    Entry as CoreEntry, EntryType, HardState, Message, MessageType, Snapshot,
};
use raft::storage::GetEntriesContext;
use raft::{Config, ProgressState, RawNode, Ready, SnapshotStatus, StateRole};

use self::store::Store;
use crate::codec::{Malformed, Reader, Writer};
use crate::config::{RaftConfig, Timing};
use crate::members::{Change, ChangeEntry, Mark, Members, Seat};
use crate::stored::Stored;

/// Most bytes of entries in one append, except that one entry always fits.
const APPEND_BYTES_MAX: u64 = 1 << 20;

/// Most appends on the way to one follower; the bytes are limited beside.
const APPENDS_IN_FLIGHT: usize = 128;

/// Most bytes of entries that are not durable or not applied yet; further appends are dropped then, as if the network had,
/// and come again.
const BACKLOG_BYTES_MAX: u64 = 64 << 20;

/// Most followers that wait for one read of the log.
const FETCH_SHARED_BY: usize = 16;

/// A learner has caught up when it lacks no more entries, and no more bytes, than this: about what a turn brings.
const CAUGHT_UP_ENTRIES: u64 = 64;
const CAUGHT_UP_BYTES: u64 = 1 << 20;

pub(crate) struct Core {
    raw: RawNode<Store>,
    timing: Timing,
    election_timeout: Duration,
    inflight_bytes: usize,
    cache_bytes: u64,
    keeps: Keeps,
    random: fastrand::Rng,
    /// The election timeout that was drawn, in ticks.
    drawn: usize,
    seen: (u64, StateRole),
    /// Ready states on their way to the disk.
    persisting: VecDeque<Persisting>,
    durable: Seq,
    /// The last write of a term or a vote.
    state_seq: Seq,
    /// The last write that was to be flushed.
    flush_seq: Seq,
    stored: Stored,
    /// Proposals of this turn.
    pending: Vec<CoreEntry>,
    /// Proposals that stand in the log and are not decided.
    mine: VecDeque<(Placed, usize)>,
    mine_bytes: usize,
    handed: Index,
    applied: Index,
    members: Members,
    mark: (u64, Index, Bytes),
    /// A snapshot that was staged, until the core takes it or leaves it.
    staged: Option<(Index, Bytes, Members)>,
    /// A snapshot that is being installed: a checkpoint as soon as it is.
    installing: Option<(Index, Mark)>,
    fetches: BTreeMap<u64, FetchUnderWay>,
    fetched: u64,
    /// The leader stopped leading because its disk does not answer.
    gave_up_for_disk: bool,
}

/// How much of the log stays for those who lag.
#[derive(Clone, Copy, Debug)]
struct Keeps {
    idle: u64,
    streaming: u64,
}

#[derive(Debug)]
struct Persisting {
    seq: Seq,
    number: u64,
    since: Now,
    /// Whether something had to be flushed.
    must: bool,
}

#[derive(Debug)]
struct FetchUnderWay {
    from: Index,
    contexts: Vec<GetEntriesContext>,
}

/// What a turn came to, beside writes and deliveries.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Messages by raft id, in order, each with the write it waits for.
    pub(crate) messages: Vec<(Message, Seq)>,
    /// Snapshots to send: to which raft id, and which.
    pub(crate) snapshots: Vec<(u64, Index, wire::SnapshotHead)>,
    /// Reads that may be served at an index, by their names.
    pub(crate) reads: Vec<(Vec<u8>, Index)>,
    /// Changes of the members that were delivered.
    pub(crate) changes: Vec<(Index, Change)>,
}

/// What a core begins with.
#[derive(Debug)]
pub(crate) struct Begin {
    pub(crate) stored: Stored,
    /// The checkpoint, or the founding.
    pub(crate) base: Index,
    pub(crate) mark: Mark,
    pub(crate) entries: Vec<Entry>,
    pub(crate) seed: u64,
}

/// How far a member is, as a leader sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) matched: Index,
    pub(crate) state: ProgressWord,
    pub(crate) active: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProgressWord {
    Probing,
    Replicating,
    Full,
    Snapshot(Index),
}

/// What this node is in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CoreRole {
    Leader,
    Follower,
    Candidate,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("raft", &self.id())
            .field("term", &self.term())
            .field("role", &self.role())
            .field("applied", &self.applied)
            .finish_non_exhaustive()
    }
}

impl Core {
    /// Begins with what is stored.
    ///
    /// # Errors
    ///
    /// The log is not one that this driver wrote, or has lost something.
    pub(crate) fn open(config: &RaftConfig, timing: Timing, begin: Begin) -> Result<Self, String> {
        let Begin { mut stored, base, mark: Mark { term: base_term, members }, entries, seed } =
            begin;
        let id = stored.identity.as_ref().map_or(0, |identity| identity.raft);
        let entries = core_entries(base, base_term, entries)?;
        let last = base + entries.len() as u64;
        if stored.commit > last {
            return Err(format!(
                "the log ends at index {last}, and everything up to {} was known to be decided: entries are lost. Run `quorate verify`; if the disk lost them, remove this node and add it again with an empty directory",
                stored.commit
            ));
        }
        stored.commit = decided_on_disk(id, &stored, base, &members, &entries);
        let last_term = entries.last().map_or(base_term, |entry| entry.term);
        if stored.term < last_term {
            // The entries of a term reached the disk, and the term itself did not. No vote of it was sent, then.
            (stored.term, stored.vote) = (last_term, 0);
        }
        let mut hard = HardState::default();
        (hard.term, hard.vote, hard.commit) = (stored.term, stored.vote, stored.commit);
        let mut store = Store::new((base, base_term), hard, conf_state(&members));
        store.append(entries);
        let core_config = Config {
            id,
            election_tick: timing.election,
            heartbeat_tick: timing.heartbeat,
            applied: base,
            max_size_per_msg: APPEND_BYTES_MAX,
            max_inflight_msgs: APPENDS_IN_FLIGHT,
            check_quorum: true,
            pre_vote: true,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&core_config, store, &logger)
            .map_err(|problem| format!("the core cannot begin: {problem}"))?;
        let seen = (raw.raft.term, raw.raft.state);
        let mut core = Self {
            raw,
            timing,
            election_timeout: config.election_timeout,
            inflight_bytes: config.inflight_bytes,
            cache_bytes: config.cache_bytes as u64,
            keeps: Keeps { idle: config.catch_up_bytes, streaming: config.snapshot_catch_up_bytes },
            random: fastrand::Rng::with_seed(seed),
            drawn: 0,
            seen,
            persisting: VecDeque::new(),
            durable: 0,
            state_seq: 0,
            flush_seq: 0,
            stored,
            pending: Vec::new(),
            mine: VecDeque::new(),
            mine_bytes: 0,
            handed: base,
            applied: base,
            mark: (base_term, members.changed_at(), Bytes::new()),
            members,
            staged: None,
            installing: None,
            fetches: BTreeMap::new(),
            fetched: 0,
            gave_up_for_disk: false,
        };
        core.mark.2 = Mark { term: base_term, members: core.members.clone() }.encode();
        core.draw();
        Ok(core)
    }

    // ----- what it is

    pub(crate) fn id(&self) -> u64 {
        self.raw.raft.id
    }

    pub(crate) fn term(&self) -> u64 {
        self.raw.raft.term
    }

    pub(crate) fn role(&self) -> CoreRole {
        match self.raw.raft.state {
            StateRole::Leader => CoreRole::Leader,
            StateRole::Follower => CoreRole::Follower,
            StateRole::Candidate | StateRole::PreCandidate => CoreRole::Candidate,
        }
    }

    pub(crate) fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// The raft id of the leader, if it is known.
    pub(crate) fn leader(&self) -> Option<u64> {
        let leader = self.raw.raft.leader_id;
        (leader != 0).then_some(leader)
    }

    pub(crate) fn committed(&self) -> Index {
        self.raw.raft.raft_log.committed
    }

    pub(crate) fn last(&self) -> Index {
        self.raw.raft.raft_log.last_index()
    }

    pub(crate) const fn members(&self) -> &Members {
        &self.members
    }

    pub(crate) const fn stored(&self) -> &Stored {
        &self.stored
    }

    /// The write that made this node who it is, or a later one.
    pub(crate) const fn identity_seq(&self) -> Seq {
        self.state_seq
    }

    /// Whether an entry of the leader's own term is decided, so that it knows all that is.
    pub(crate) fn knows_what_is_decided(&self) -> bool {
        self.raw.raft.commit_to_current_term()
    }

    /// The raft id of the member that is to lead next.
    pub(crate) fn transferee(&self) -> Option<u64> {
        self.raw.raft.lead_transferee
    }

    pub(crate) const fn gave_up_for_disk(&self) -> bool {
        self.gave_up_for_disk
    }

    /// Whether a change of the members is, or may be, in the log and not applied.
    pub(crate) fn change_is_pending(&self) -> bool {
        self.raw.raft.has_pending_conf()
    }

    /// How far a member is; only a leader knows.
    pub(crate) fn progress(&self, raft: u64) -> Option<Progress> {
        let raft = self.raw.raft.prs().get(raft).filter(|_| self.leads())?;
        let state = match raft.state {
            ProgressState::Probe => ProgressWord::Probing,
            ProgressState::Replicate if raft.ins.full() => ProgressWord::Full,
            ProgressState::Replicate => ProgressWord::Replicating,
            ProgressState::Snapshot => ProgressWord::Snapshot(raft.pending_snapshot),
        };
        Some(Progress { matched: raft.matched, state, active: raft.recent_active })
    }

    /// Whether a learner lacks so little that it can vote without holding anything up.
    pub(crate) fn has_caught_up(&self, raft: u64) -> bool {
        self.progress(raft).is_some_and(|progress| {
            progress.active
                && matches!(progress.state, ProgressWord::Replicating | ProgressWord::Full)
                && self.last() - progress.matched <= CAUGHT_UP_ENTRIES
                && self.store().bytes_after(progress.matched) <= CAUGHT_UP_BYTES
        })
    }

    /// Whether nothing is to be done: everything is decided and applied, and every member that `counts` has it and knows
    /// so.
    pub(crate) fn is_quiet(&self, counts: impl Fn(&Seat) -> bool) -> bool {
        let last = self.last();
        let here = self.persisting.is_empty()
            && self.pending.is_empty()
            && self.fetches.is_empty()
            && (self.committed(), self.applied) == (last, last);
        let settled = |seat: &Seat| {
            let progress = self.raw.raft.prs().get(seat.raft);
            progress.is_some_and(|progress| {
                progress.state == ProgressState::Replicate
                    && progress.recent_active
                    && (progress.matched, progress.committed_index) == (last, last)
            })
        };
        let others = || self.members.seats().iter().filter(|seat| seat.raft != self.id());
        let voters = self.members.voters().filter(|seat| seat.raft == self.id() || counts(seat));
        here && !self.members.joint()
            && self.members.on_its_way().is_none()
            && voters.count() * 2 > self.members.voters().count()
            && (!self.leads() || others().filter(|seat| counts(seat)).all(settled))
    }

    /// Frees what only a busy group needs.
    pub(crate) fn rest(&mut self) {
        self.raw.raft.maybe_free_inflight_buffers();
    }

    /// A leader that had nothing to do makes itself heard again, and gives the others the time to answer.
    pub(crate) fn rouse(&mut self) {
        if self.leads() {
            self.raw.raft.election_elapsed = 0;
            self.raw.ping();
        }
    }

    /// How many batches the leader has in the log that are not decided, and their bytes.
    pub(crate) fn undecided(&self) -> (usize, usize) {
        (self.mine.len(), self.mine_bytes)
    }

    fn store(&self) -> &Store {
        self.raw.raft.store()
    }

    // ----- what happens to it

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
        } else if self.is_durable() || self.raw.raft.election_elapsed + 1 < self.drawn {
            self.raw.tick();
        }
        self.look();
    }

    fn writes_stall(&self, now: Now) -> bool {
        let oldest = self.persisting.iter().find(|ready| ready.must);
        oldest.is_some_and(|ready| now.saturating_sub(ready.since) > self.election_timeout)
    }

    /// Whether everything that must be durable is.
    fn is_durable(&self) -> bool {
        self.flush_seq <= self.durable && self.raw.raft.raft_log.unstable_entries().is_empty()
    }

    /// Asks to lead, with a pre-vote, or without one where the leader is to be deposed.
    pub(crate) fn campaign(&mut self, depose: bool) {
        if self.leads() || self.raw.raft.raft_log.persisted != self.last() {
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
            MessageType::MsgTimeoutNow if !self.is_durable() => return Ok(()),
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

    fn evict(&mut self) {
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

    fn flush_proposals(&mut self) {
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
    fn govern(&mut self, peer: u64) {
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

    // ----- what follows

    /// Everything that follows from what happened.
    pub(crate) fn settle(&mut self, now: Now, out: &mut Output) -> Turn {
        let mut turn = Turn::default();
        self.flush_proposals();
        loop {
            self.look();
            if !self.raw.has_ready() {
                break;
            }
            let ready = self.raw.ready();
            self.take(now, ready, &mut turn, out);
        }
        self.release(out);
        self.want(out);
        turn
    }

    fn take(&mut self, now: Now, mut ready: Ready, turn: &mut Turn, out: &mut Output) {
        let mut must = false;
        if !ready.snapshot().is_empty() {
            must = true;
            self.restore(&ready, out);
        }
        let entries = ready.take_entries();
        if !entries.is_empty() {
            must = true;
            self.write_entries(entries, out);
        }
        if let Some(hard) = ready.hs() {
            let ballot = (hard.term, hard.vote) != (self.stored.term, self.stored.vote);
            let due = ballot || must && hard.commit > self.stored.commit;
            (self.stored.term, self.stored.vote) = (hard.term, hard.vote);
            if due {
                self.stored.commit = hard.commit;
                self.write_state(true, out);
                if ballot {
                    self.state_seq = out.last_seq();
                }
                must = true;
            }
        }
        if must {
            self.flush_seq = out.last_seq();
        }
        let gate = self.flush_seq;
        for message in ready.take_messages() {
            self.sort(message, self.state_seq, turn);
        }
        for message in ready.take_persisted_messages() {
            // The reply to a heartbeat promises no more than a term.
            let after = match message.get_msg_type() {
                MessageType::MsgHeartbeatResponse => self.state_seq,
                _ => self.flush_seq,
            };
            self.sort(message, after, turn);
        }
        let reads = ready.take_read_states().into_iter();
        turn.reads.extend(reads.map(|state| (state.request_ctx, state.index)));
        let decided = ready.take_committed_entries();
        let number = ready.number();
        self.raw.advance_append_async(ready);
        if self.persisting.is_empty() && gate <= self.durable {
            self.raw.on_persist_ready(number);
        } else {
            self.persisting.push_back(Persisting { seq: gate, number, since: now, must });
        }
        for entry in decided {
            self.deliver(entry, turn, out);
        }
    }

    fn write_entries(&mut self, entries: Vec<CoreEntry>, out: &mut Output) {
        let from = entries.first().map_or(0, |entry| entry.index);
        if from <= self.store().last() {
            out.write(true, Record::Cut { from });
        }
        for entry in &entries {
            out.write(true, Record::Put(public_entry(entry)));
        }
        self.raw.mut_store().append(entries);
    }

    fn write_state(&self, flush: bool, out: &mut Output) -> Seq {
        out.write(flush, Record::State(self.stored.encode()))
    }

    /// Writes who this node is, with its ballots as they are.
    pub(crate) fn write_identity(&mut self, out: &mut Output) {
        self.state_seq = self.write_state(true, out);
        self.flush_seq = self.state_seq;
    }

    /// Writes how far the log is known to be decided, when the next write comes.
    pub(crate) fn note_decided(&mut self, out: &mut Output) {
        let decided = self.committed().min(self.store().last());
        if decided > self.stored.commit {
            self.stored.commit = decided;
            self.write_state(false, out);
        }
    }

    fn restore(&mut self, ready: &Ready, out: &mut Output) {
        let metadata = ready.snapshot().get_metadata();
        let (index, term) = (metadata.index, metadata.term);
        let Some((at, mark, members)) = self.staged.take() else {
            unreachable!("the core takes only snapshots that were staged")
        };
        assert_eq!(at, index, "the snapshot that was staged last is the one that is taken");
        out.write(true, Record::Reset { index, mark: mark.clone() });
        let after = out.last_seq();
        self.raw.mut_store().reset(index, term);
        self.fetches.clear();
        self.handed = index;
        self.mark = (term, members.changed_at(), mark.clone());
        self.installing = Some((index, Mark { term, members: members.clone() }));
        self.members = members;
        out.members.push((index, self.members.public()));
        out.deliveries.push(Delivery { after, what: Deliver::Install { index, mark } });
    }

    fn deliver(&mut self, entry: CoreEntry, turn: &mut Turn, out: &mut Output) {
        self.handed = entry.index;
        if entry.get_entry_type() != EntryType::EntryNormal {
            self.change(entry.index, &entry.data, turn, out);
        }
        let changed_at = self.members.changed_at();
        if (self.mark.0, self.mark.1) != (entry.term, changed_at) {
            let mark = Mark { term: entry.term, members: self.members.clone() };
            self.mark = (entry.term, changed_at, mark.encode());
        }
        while let Some((placed, bytes)) = self.mine.front()
            && placed.index <= entry.index
        {
            self.mine_bytes -= bytes;
            self.mine.pop_front();
        }
        let (entry, mark) = (public_entry(&entry), self.mark.2.clone());
        out.deliveries.push(Delivery { after: 0, what: Deliver::Batch { entry, mark } });
    }

    fn change(&mut self, index: Index, bytes: &[u8], turn: &mut Turn, out: &mut Output) {
        // What nobody can read changes nothing, on every node alike.
        let Ok(entry) = ChangeEntry::decode(bytes) else { return };
        if !self.members.apply(index, &entry) {
            return;
        }
        if let Some(change) = conf_change(&entry.change) {
            let now = self.raw.apply_conf_change(&change).expect("our members allow it");
            let voters = |before: bool| {
                let seats = self.members.seats().iter();
                let seats = seats.filter(|seat| if before { seat.voted } else { seat.votes });
                seats.map(|seat| seat.raft).collect::<Vec<_>>()
            };
            let sorted = |mut ids: Vec<u64>| {
                ids.sort_unstable();
                ids
            };
            assert_eq!(sorted(now.voters), voters(false), "core and members agree on who votes");
            assert_eq!(sorted(now.voters_outgoing), voters(true), "and on who did");
        }
        out.members.push((index, self.members.public()));
        turn.changes.push((index, entry.change));
    }

    fn sort(&self, message: Message, after: Seq, turn: &mut Turn) {
        if message.get_msg_type() == MessageType::MsgSnapshot {
            let metadata = message.get_snapshot().get_metadata();
            let (term, snapshot_term) = (message.term, metadata.term);
            let head = wire::SnapshotHead { term, snapshot_term };
            turn.snapshots.push((message.to, metadata.index, head));
        } else {
            turn.messages.push((message, after));
        }
    }

    /// Lets go of what was placed in a term that is over.
    fn release(&mut self, out: &mut Output) {
        let current = tag(self.term());
        while let Some((placed, bytes)) = self.mine.front()
            && (!self.leads() || placed.tag != current)
        {
            out.released.push(*placed);
            self.mine_bytes -= bytes;
            self.mine.pop_front();
        }
    }

    /// Puts out what the core wants fetched, one fetch for all who want the same.
    fn want(&mut self, out: &mut Output) {
        for wanted in self.raw.mut_store().take_wanted() {
            let same = self.fetches.values_mut().find(|fetch| fetch.from == wanted.from);
            if let Some(fetch) = same {
                if fetch.contexts.len() < FETCH_SHARED_BY {
                    fetch.contexts.push(wanted.context);
                }
                continue;
            }
            self.fetched += 1;
            let fetch = FetchUnderWay { from: wanted.from, contexts: vec![wanted.context] };
            self.fetches.insert(self.fetched, fetch);
            let bytes = usize::try_from(APPEND_BYTES_MAX).expect("it fits");
            out.fetches.push((self.fetched, wanted.from..wanted.to, bytes));
        }
    }

    /// Notices changes of term and role: each draws a new election timeout, as the core does.
    fn look(&mut self) {
        let now = (self.raw.raft.term, self.raw.raft.state);
        if now != self.seen {
            self.seen = now;
            self.draw();
        }
    }

    fn draw(&mut self) {
        let election = self.timing.election;
        // From [T, 1.5 T).
        self.drawn = self.random.usize(election..election + election / 2);
        self.raw.raft.set_randomized_election_timeout(self.drawn);
    }
}

/// Reads a message and addresses it.
pub(crate) fn read_message(
    reader: &mut Reader<'_>,
    bodies: &mut impl Iterator<Item = Bytes>,
    from: u64,
    to: u64,
) -> Result<Message, Malformed> {
    let mut message = wire::read(reader, bodies)?;
    (message.from, message.to) = (from, to);
    Ok(message)
}

/// Writes a message; `false` if it is of a kind that stays here.
pub(crate) fn write_message(m: &Message, writer: &mut Writer, bodies: &mut Vec<Bytes>) -> bool {
    wire::write(m, writer, bodies)
}

/// What matters of a message to who packs it.
pub(crate) fn describe(m: &Message) -> Kind {
    match m.get_msg_type() {
        MessageType::MsgAppend => Kind::Append {
            entries: m.entries.len(),
            bytes: m.entries.iter().map(|e| e.data.len()).sum(),
        },
        MessageType::MsgAppendResponse if !m.reject => Kind::Ack { term: m.term, index: m.index },
        MessageType::MsgHeartbeatResponse => Kind::Alive { term: m.term },
        _ => Kind::Other,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Append { entries: usize, bytes: usize },
    Ack { term: u64, index: Index },
    Alive { term: u64 },
    Other,
}

pub(crate) use raft::eraftpb::Message as CoreMessage;

/// The tag of entries of a term.
pub(crate) fn tag(term: u64) -> Tag {
    let mut tag = Tag::ZERO;
    tag.0[..8].copy_from_slice(&term.to_be_bytes());
    tag
}

fn term_of_tag(found: Tag) -> Option<u64> {
    let (term, _) = found.0.split_first_chunk().expect("a tag has 32 bytes");
    let term = u64::from_be_bytes(*term);
    (tag(term) == found && term > 0).then_some(term)
}

fn public_entry(entry: &CoreEntry) -> Entry {
    Entry { index: entry.index, tag: tag(entry.term), head: Bytes::new(), body: wire::body(entry) }
}

fn core_entry(entry: Entry, term: u64) -> CoreEntry {
    let mut core = wire::entry(entry.body);
    (core.index, core.term) = (entry.index, term);
    core
}

fn core_entries(base: Index, base_term: u64, found: Vec<Entry>) -> Result<Vec<CoreEntry>, String> {
    let mut entries: Vec<CoreEntry> = Vec::with_capacity(found.len());
    for entry in found.into_iter().filter(|entry| entry.index > base) {
        let before = entries.last().map_or(base_term, |before| before.term);
        let next = base + entries.len() as u64 + 1;
        let term = term_of_tag(entry.tag).filter(|term| *term >= before && entry.index == next);
        let Some(term) = term else {
            return Err(format!(
                "the log goes from index {} to {} {:?}, which this driver never writes; it is another driver's, or an entry is lost: run `quorate verify`",
                next - 1,
                entry.index,
                entry.tag
            ));
        };
        entries.push(core_entry(entry, term));
    }
    Ok(entries)
}

/// How far the log on the disk is known to be decided, without asking anyone.
fn decided_on_disk(
    id: u64,
    stored: &Stored,
    base: Index,
    members: &Members,
    entries: &[CoreEntry],
) -> Index {
    let change = |entry: &CoreEntry| match entry.get_entry_type() {
        EntryType::EntryNormal => None,
        _ => ChangeEntry::decode(&entry.data).ok(),
    };
    let mut decided = stored.commit.max(base);
    for entry in entries {
        // A change is proposed only when the one before is applied, and so decided.
        if let Some(change) = change(entry)
            && change.after < entry.index
        {
            decided = decided.max(change.after);
        }
    }
    let mut members = members.clone();
    for entry in entries {
        // Who decides alone and led in its newest term has decided all that it wrote.
        let alone = stored.vote == id && id != 0 && members.decides_alone(id);
        if entry.index > decided && !alone {
            break;
        }
        decided = decided.max(entry.index);
        if let Some(change) = change(entry) {
            members.apply(entry.index, &change);
        }
    }
    decided
}

fn conf_state(members: &Members) -> ConfState {
    let mut state = ConfState::default();
    for seat in members.seats() {
        if seat.votes {
            state.voters.push(seat.raft);
        } else if !members.is_voter(seat) {
            state.learners.push(seat.raft);
        }
        if members.joint() && seat.voted {
            state.voters_outgoing.push(seat.raft);
        }
    }
    state
}

fn conf_change(change: &Change) -> Option<ConfChangeV2> {
    let mut all = ConfChangeV2::default();
    let single = |raft: u64, kind: ConfChangeType| ConfChangeSingle {
        node_id: raft,
        change_type: kind,
        ..ConfChangeSingle::default()
    };
    let changes = match change {
        Change::AddLearner { raft, .. } => vec![single(*raft, ConfChangeType::AddLearnerNode)],
        Change::Intend { .. } => return None,
        Change::Promote { raft } => vec![single(*raft, ConfChangeType::AddNode)],
        Change::Remove { raft } => vec![single(*raft, ConfChangeType::RemoveNode)],
        Change::Swap { new, old } => {
            all.set_transition(ConfChangeTransition::Explicit);
            vec![single(*new, ConfChangeType::AddNode), single(*old, ConfChangeType::RemoveNode)]
        }
        Change::Leave => Vec::new(),
    };
    all.set_changes(changes.into());
    Some(all)
}

/// A message in words, for transcripts.
#[cfg(test)]
pub(crate) fn tell(m: &Message) -> String {
    let kind = format!("{:?}", m.get_msg_type());
    let mut words = kind.trim_start_matches("Msg").to_lowercase();
    let mut add = |name: &str, value: u64| words += &format!(" {name}={value}");
    if m.term > 0 {
        add("term", m.term);
    }
    match m.get_msg_type() {
        MessageType::MsgAppend => {
            words += &format!(" after={}/{} decided={}", m.log_term, m.index, m.commit);
            for entry in m.entries.iter() {
                let body = match wire::body(entry) {
                    Body::Empty => "empty".to_owned(),
                    Body::Frames(frames) => String::from_utf8_lossy(&frames).into_owned(),
                    Body::Members(change) => tell_change(&change),
                };
                words += &format!(" [{}/{} {body}]", entry.term, entry.index);
            }
        }
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
            words += &format!(" last={}/{}", m.log_term, m.index);
        }
        MessageType::MsgAppendResponse if m.reject => {
            words += &format!(" refused={} hint={}/{}", m.index, m.log_term, m.reject_hint);
        }
        MessageType::MsgAppendResponse | MessageType::MsgReadIndexResp => add("index", m.index),
        MessageType::MsgHeartbeat => add("decided", m.commit),
        _ if m.reject => words += " refused",
        _ => {}
    }
    words
}

/// A change of members in words, for transcripts.
#[cfg(test)]
pub(crate) fn tell_change(bytes: &[u8]) -> String {
    match ChangeEntry::decode(bytes).expect("it was encoded here").change {
        Change::AddLearner { raft, node, intent, .. } => {
            format!("add {node} as {raft}, to {intent:?}").to_lowercase()
        }
        change => format!("{change:?}").to_lowercase(),
    }
}
