//! Turns: ticks, what follows from what happened, and what a leader goes on with by itself.

use quorate_engine::engine::Output;
use quorate_replicator::NodeId;
use quorate_storage::{Index, Seq};

use super::{HELLO_TICKS, Part, RaftEngine, TICK, TURNS_MAX};
use crate::core::{Core, CoreMessage, Turn, wire};
use crate::hello::Envelope;
use crate::members::{Change, Intent};
use crate::packing::pack;
use crate::reads::Patience;

impl RaftEngine {
    pub(super) fn tick(&mut self, out: &mut Output) {
        if self.sleep.since.is_some() {
            return;
        }
        out.timers.push((TICK, Some(self.timing.tick)));
        self.ticks += 1;
        self.told.clear();
        self.reads.tick();
        if self.ticks.is_multiple_of(HELLO_TICKS) {
            self.say_hello(out);
        }
        self.ask_whether_settled(out);
        // A node that was told that it is out asks nobody for votes.
        if let Part::Member(core) = &mut self.part
            && self.removed_at.is_none()
        {
            core.tick(self.now);
            core.note_decided(out);
        }
        self.tick_wishes(out);
        self.tick_sleep(out);
    }

    /// Everything that follows from what happened.
    pub(super) fn turn(&mut self, out: &mut Output) {
        if let Some(fault) = self.fault.take() {
            out.fault = Some(fault);
        }
        let patience =
            Patience { round: 2 * self.timing.heartbeat, read: 2 * self.timing.election };
        for _ in 0..TURNS_MAX {
            let Part::Member(core) = &mut self.part else {
                self.reads.settle(None, patience, out);
                break;
            };
            self.reads.settle(Some(core), patience, out);
            let Turn { messages, snapshots, reads, changes } = core.settle(self.now, out);
            for (name, index) in reads {
                self.reads.answered(&name, index, out);
            }
            let quiet = changes.is_empty();
            self.send(messages, snapshots, out);
            for (at, change) in changes {
                self.changed(at, &change, out);
            }
            let more = self.drive_members();
            self.settle_wishes(out);
            if quiet && !more {
                break;
            }
        }
    }

    pub(super) fn send(
        &self,
        messages: Vec<(CoreMessage, Seq)>,
        snapshots: Vec<(u64, Index, wire::SnapshotHead)>,
        out: &mut Output,
    ) {
        if !messages.is_empty() {
            pack(messages, |raft| self.address(raft), &mut out.sends);
        }
        for (to, index, head) in snapshots {
            let Some((node, envelope)) = self.address(to) else { continue };
            let mut writer = envelope.begin_snapshot();
            head.write(&mut writer);
            out.snapshots.push((node, index, writer.finish()));
        }
    }

    pub(crate) fn address(&self, raft: u64) -> Option<(NodeId, Envelope)> {
        let Part::Member(core) = &self.part else { return None };
        let known = core.members().by_raft(raft).map(|seat| (seat.node, seat.incarnation));
        let (node, to) = known.or_else(|| self.strangers.get(&raft).copied())?;
        let from = self.incarnation;
        Some((node, Envelope { from_raft: core.id(), from, to_raft: raft, to }))
    }

    /// A change of the members is delivered here.
    pub(super) fn changed(&mut self, at: Index, change: &Change, out: &mut Output) {
        let Part::Member(core) = &mut self.part else { return };
        let members = core.members();
        self.foreign.retain(|node| members.by_node(*node).is_some());
        self.strangers.retain(|raft, _| *raft >= members.next());
        self.heard.retain(|raft, _| *raft >= members.next() || members.by_raft(*raft).is_some());
        if members.by_raft(core.id()).is_none() && core.id() < members.next() {
            self.removed_at = Some(at);
            core.leave();
        } else if matches!(change, Change::Remove { .. } | Change::Leave) && core.leads() {
            // Best effort: whoever is out and does not hear this is told when it asks for votes.
            let out_now = members.removed_at(at);
            for removed in out_now {
                self.tell_removed(removed.node, removed.raft, out);
            }
        }
    }

    /// A leader goes on with what was begun: learners that have caught up, joint majorities that are applied.
    pub(super) fn drive_members(&mut self) -> bool {
        let Part::Member(core) = &mut self.part else { return false };
        if !core.may_propose() || core.change_is_pending() {
            return false;
        }
        match next_change(core) {
            Some(change) => core.propose_change(change),
            None => false,
        }
    }
}

/// Who follows a leader that was removed does not wait for an election timeout: the first of those who may lead asks at once.
pub(super) fn succeed(core: &mut Core) {
    let members = core.members();
    let gone = core
        .leader()
        .is_some_and(|leader| leader < members.next() && members.by_raft(leader).is_none());
    if gone && members.voters().next().is_some_and(|first| first.raft == core.id()) {
        core.campaign(true);
    }
}

fn next_change(core: &Core) -> Option<Change> {
    if core.members().joint() {
        return Some(Change::Leave);
    }
    let seat = core.members().on_its_way()?;
    let ready = core.has_caught_up(seat.raft);
    match seat.intent {
        Intent::Vote if ready => Some(Change::Promote { raft: seat.raft }),
        Intent::Replace(old) if ready => Some(Change::Swap { new: seat.raft, old }),
        _ => None,
    }
}
