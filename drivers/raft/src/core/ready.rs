//! What follows: writes, what is held for them, deliveries, and what is let go.

use quorate_engine::engine::{Deliver, Delivery, Now, Output};
use quorate_storage::{Index, Record, Seq};
use raft::Ready;
use raft::eraftpb::{Entry as CoreEntry, Message, MessageType};

use super::changes::conf_change;
use super::entries::{is_change, public_entry, tag};
use super::{APPEND_BYTES_MAX, Core, FETCH_SHARED_BY, FetchUnderWay, Persisting, Turn, wire};
use crate::members::{ChangeEntry, Mark};

impl Core {
    /// Everything that follows from what happened.
    pub(crate) fn settle(&mut self, now: Now, out: &mut Output) -> Turn {
        let mut turn = Turn::default();
        self.flush_proposals();
        #[cfg(quorate_planted)]
        if quorate_planted::Bug::OldTermCounted.is_planted() && self.leads() {
            let (counted, _) = self.raw.raft.mut_prs().maximal_committed_index();
            let decided = counted.max(self.committed());
            self.raw.raft.raft_log.commit_to(decided);
        }
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

    pub(super) fn take(&mut self, now: Now, mut ready: Ready, turn: &mut Turn, out: &mut Output) {
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
            #[cfg(quorate_planted)]
            let ballot = ballot && !quorate_planted::Bug::TermNotStored.is_planted();
            let changed = self.undecided_changes.front().is_some_and(|at| *at <= hard.commit);
            self.undecided_changes.retain(|at| *at > hard.commit);
            let due = ballot || changed || must && hard.commit > self.stored.commit;
            (self.stored.term, self.stored.vote) = (hard.term, hard.vote);
            if due {
                self.stored.commit = hard.commit;
                self.write_state(true, out);
                if ballot || changed {
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
                #[cfg(quorate_planted)]
                MessageType::MsgRequestVoteResponse
                    if quorate_planted::Bug::VoteNotSynced.is_planted() =>
                {
                    0
                }
                #[cfg(quorate_planted)]
                MessageType::MsgAppendResponse
                    if quorate_planted::Bug::AckNotSynced.is_planted() =>
                {
                    self.state_seq
                }
                _ => self.flush_seq,
            };
            self.sort(message, after, turn);
        }
        let reads = ready.take_read_states().into_iter();
        turn.reads.extend(reads.map(|state| (state.request_ctx, state.index)));
        let decided = ready.take_committed_entries();
        let number = ready.number();
        self.raw.advance_append_async(ready);
        let is_durable = gate <= self.durable;
        #[cfg(quorate_planted)]
        let is_durable = is_durable || quorate_planted::Bug::LeaderNotSynced.is_planted();
        if self.persisting.is_empty() && is_durable {
            self.raw.on_persist_ready(number);
        } else {
            self.persisting.push_back(Persisting { seq: gate, number, since: now, must });
        }
        for entry in decided {
            self.deliver(entry, turn, out);
        }
    }

    pub(super) fn write_entries(&mut self, entries: Vec<CoreEntry>, out: &mut Output) {
        let from = entries.first().map_or(0, |entry| entry.index);
        let is_cut = from <= self.store().last();
        #[cfg(quorate_planted)]
        let is_cut = is_cut && !quorate_planted::Bug::NeverCut.is_planted();
        if is_cut {
            out.write(true, Record::Cut { from });
        }
        self.undecided_changes.retain(|at| *at < from);
        for entry in &entries {
            if is_change(entry) {
                self.undecided_changes.push_back(entry.index);
            }
            out.write(true, Record::Put(public_entry(entry)));
        }
        self.raw.mut_store().append(entries);
    }

    pub(super) fn write_state(&self, flush: bool, out: &mut Output) -> Seq {
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

    pub(super) fn restore(&mut self, ready: &Ready, out: &mut Output) {
        let metadata = ready.snapshot().get_metadata();
        let (index, term) = (metadata.index, metadata.term);
        let Some((at, mark, members)) = self.staged.take() else {
            unreachable!("the core takes only snapshots that were staged")
        };
        assert_eq!(at, index, "the snapshot that was staged last is the one that is taken");
        let reset = Record::Reset { index, mark: mark.clone() };
        #[cfg(quorate_planted)]
        let reset = match quorate_planted::Bug::SnapshotWithoutReset.is_planted() {
            true => Record::Trim { below: 1 },
            false => reset,
        };
        out.write(true, reset);
        let after = out.last_seq();
        self.state_seq = after;
        self.undecided_changes.clear();
        self.raw.mut_store().reset(index, term);
        self.fetches.clear();
        self.handed = index;
        self.mark = (term, members.changed_at(), mark.clone());
        self.installing = Some((index, Mark { term, members: members.clone() }));
        self.members = members;
        out.members.push((index, self.members.public()));
        out.deliveries.push(Delivery { after, what: Deliver::Install { index, mark } });
    }

    pub(super) fn deliver(&mut self, entry: CoreEntry, turn: &mut Turn, out: &mut Output) {
        self.handed = entry.index;
        if is_change(&entry) {
            self.change(entry.index, &entry.data, turn, out);
        }
        let changed_at = self.members.changed_at();
        #[cfg(quorate_planted)]
        if quorate_planted::Bug::OldMembersStored.is_planted() {
            (self.mark.0, self.mark.1) = (entry.term, changed_at);
        }
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
        out.deliveries.push(Delivery {
            after: 0,
            what: Deliver::Batch { entry, mark, proof: bytes::Bytes::new() },
        });
    }

    pub(super) fn change(&mut self, index: Index, bytes: &[u8], turn: &mut Turn, out: &mut Output) {
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

    pub(super) fn sort(&self, message: Message, after: Seq, turn: &mut Turn) {
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
    pub(super) fn release(&mut self, out: &mut Output) {
        let current = tag(self.term());
        while let Some((placed, bytes)) = self.mine.front()
            && (!self.leads() || placed.tag != current)
        {
            #[cfg(quorate_planted)]
            if quorate_planted::Bug::OtherBatch.is_planted() {
                return;
            }
            out.released.push(*placed);
            self.mine_bytes -= bytes;
            self.mine.pop_front();
        }
    }

    /// Puts out what the core wants fetched, one fetch for all who want the same.
    pub(super) fn want(&mut self, out: &mut Output) {
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
    pub(super) fn look(&mut self) {
        let now = (self.raw.raft.term, self.raw.raft.state);
        if now != self.seen {
            self.seen = now;
            self.draw();
        }
    }

    pub(super) fn draw(&mut self) {
        let election = self.timing.election;
        // From [T, 1.5 T).
        self.drawn = self.random.usize(election..election + election / 2);
        self.raw.raft.set_randomized_election_timeout(self.drawn);
    }
}
