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
//! 5. Nobody speaks of a change of members as decided before it has stored that, durably.
//! 6. Nothing is parsed or printed as protobuf: changes of members go to the log in our encoding.

mod changes;
mod entries;
mod inputs;
mod messages;
mod ready;
mod store;
pub(crate) mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::engine::{Now, Placed};
use quorate_storage::{Entry, Index, Seq};
pub(crate) use raft::eraftpb::Message as CoreMessage;
use raft::eraftpb::{Entry as CoreEntry, HardState, Message};
use raft::storage::GetEntriesContext;
use raft::{Config, ProgressState, RawNode, StateRole};

use self::changes::conf_state;
use self::entries::{core_entries, decided_on_disk, is_change};
pub(crate) use self::messages::{Kind, describe, read_message, write_message};
#[cfg(test)]
pub(crate) use self::messages::{tell, tell_change};
use self::store::Store;
use crate::config::{RaftConfig, Timing};
use crate::members::{Change, Mark, Members, Seat};
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
    /// The last write of a term or a vote, or of the decision on a change of members.
    state_seq: Seq,
    /// Changes of members in the log of which it is not stored that they are decided.
    undecided_changes: VecDeque<Index>,
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
        let undecided = entries.iter().filter(|entry| entry.index > stored.commit);
        let undecided_changes = undecided.filter(|entry| is_change(entry)).map(|entry| entry.index);
        let undecided_changes = undecided_changes.collect();
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
        let mut raw = RawNode::new(&core_config, store, &logger)
            .map_err(|problem| format!("the core cannot begin: {problem}"))?;
        // Only a leader needs them, and it makes new ones.
        raw.raft.maybe_free_inflight_buffers();
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
            undecided_changes,
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

    /// The write that made this node who it is, and the last that called a change of members decided, or a later one.
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

    /// Whether the members can do without those who were removed: a majority of the voters has stored, durably, that the last
    /// change is decided. `told` are voters that have said so.
    pub(crate) fn change_is_settled(&self, told: impl Fn(u64) -> bool) -> bool {
        let changed_at = self.members.changed_at();
        let here = self.state_seq <= self.durable;
        let knows = |raft: u64| {
            // What is sent of a decided change was stored before.
            let progress = self.raw.raft.prs().get(raft).filter(|_| self.leads());
            raft == self.id()
                || told(raft)
                || progress.is_some_and(|p| p.committed_index >= changed_at)
        };
        let voters = self.members.voters();
        here && !self.members.joint()
            && voters.filter(|seat| knows(seat.raft)).count() * 2 > self.members.voters().count()
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
        here && !self.members.joint()
            && self.members.on_its_way().is_none()
            && self.is_majority(&counts)
            && (!self.leads() || others().filter(|seat| counts(seat)).all(settled))
    }

    /// Whether this node and the others that count are a majority of the voters.
    pub(crate) fn is_majority(&self, counts: impl Fn(&Seat) -> bool) -> bool {
        let voters = self.members.voters().filter(|seat| seat.raft == self.id() || counts(seat));
        voters.count() * 2 > self.members.voters().count()
    }

    /// Frees what only a busy group needs.
    pub(crate) fn rest(&mut self) {
        self.raw.raft.maybe_free_inflight_buffers();
        let settled = self.applied.min(self.raw.raft.raft_log.persisted);
        self.raw.mut_store().rest(settled);
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
}
