//! A group that has nothing to do costs nothing: no ticks, no messages.
//!
//! ```text
//!   leader, quiet for half an election timeout ---Sleep---> followers: their timers stop, and its own
//!   a batch, a read, a wish, a message, the leader's node or the leader's majority is lost ---> awake
//! ```
//!
//! Only time stops for a group that sleeps, and safety does not depend on time. A leader that is lost while all sleep is
//! missed by whoever is told that its node is lost, or waits for it with a batch or a read; an election timeout runs then. A
//! follower that did not hear that the others sleep asks for votes after a while, which wakes them.

use std::collections::BTreeSet;

use quorate_engine::engine::{Message, Now, Outgoing, Output};
use quorate_replicator::NodeId;
use quorate_storage::Index;

use crate::core::{CoreMessage, Kind, describe};
use crate::engine::{Part, RaftEngine, TICK};

#[derive(Debug, Default)]
pub(crate) struct Sleep {
    /// Since when this node sleeps.
    pub(crate) since: Option<Now>,
    /// For so many ticks nothing was to be done.
    quiet: usize,
    /// Nodes of which the host says that they are lost.
    lost: BTreeSet<NodeId>,
}

impl RaftEngine {
    /// A leader that had nothing to do for half an election timeout lets the group sleep. It hears of all others at least that
    /// often: they are there, or the host has told that they are not.
    pub(crate) fn tick_sleep(&mut self, out: &mut Output) {
        let Part::Member(core) = &mut self.part else { return };
        let lost = &self.sleep.lost;
        let quiet = core.leads()
            && core.transferee().is_none()
            && self.reads.is_idle()
            && self.wishes.is_idle()
            && core.is_quiet(|seat| !lost.contains(&seat.node));
        self.sleep.quiet = if quiet { self.sleep.quiet + 1 } else { 0 };
        if self.sleep.quiet <= self.timing.election / 2 {
            return;
        }
        let (own, term, last) = (core.id(), core.term(), core.last());
        let after = core.identity_seq();
        let others: Vec<u64> = core.members().seats().iter().map(|seat| seat.raft).collect();
        for raft in others.into_iter().filter(|raft| *raft != own) {
            let Some((node, envelope)) = self.address(raft) else { continue };
            let message = Message { head: envelope.sleep(term, last), bodies: Vec::new() };
            // Behind the heartbeats that went before.
            out.sends.push(Outgoing { to: vec![node], after, urgent: true, message });
        }
        self.fall_asleep(out);
    }

    /// The leader has nothing to do. A follower that has something stays awake.
    pub(crate) fn told_to_sleep(&mut self, from: u64, term: u64, last: Index, out: &mut Output) {
        let Part::Member(core) = &self.part else { return };
        let follows = core.leader() == Some(from) && core.term() == term && core.last() == last;
        if follows && core.is_quiet(|_| true) && self.reads.is_idle() && self.wishes.is_idle() {
            self.fall_asleep(out);
        }
    }

    fn fall_asleep(&mut self, out: &mut Output) {
        if self.sleep.since.is_some() {
            return;
        }
        self.sleep.since = Some(self.now);
        self.sleep.quiet = 0;
        out.timers.push((TICK, None));
        if let Part::Member(core) = &mut self.part {
            core.rest();
        }
    }

    pub(crate) fn wake(&mut self, out: &mut Output) {
        self.sleep.quiet = 0;
        #[cfg(quorate_planted)]
        if quorate_planted::Bug::NeverWakes.is_planted() {
            return;
        }
        let Some(since) = self.sleep.since.take() else { return };
        out.timers.push((TICK, Some(self.timing.tick)));
        // Nobody is missed for a time in which nobody had to speak.
        let slept = self.now.saturating_sub(since);
        let now = self.now;
        self.heard.values_mut().for_each(|at| *at = (*at + slept).min(now));
        if let Part::Member(core) = &mut self.part {
            core.rouse();
        }
    }

    /// Any message wakes, but for the last answers to a leader that fell asleep.
    pub(crate) fn woken_by(&mut self, message: &CoreMessage, out: &mut Output) {
        if self.sleep.since.is_none() {
            return;
        }
        let Part::Member(core) = &self.part else { return };
        let late = match describe(message) {
            Kind::Alive { term } | Kind::Ack { term, .. } => term == core.term() && core.leads(),
            Kind::Append { .. } | Kind::Other => false,
        };
        if !late {
            self.wake(out);
        }
    }

    /// The host tells that a node is lost, or is back.
    pub(crate) fn peer(&mut self, node: NodeId, alive: bool, out: &mut Output) {
        let Part::Member(core) = &self.part else { return };
        let Some(raft) = core.members().by_node(node).map(|seat| seat.raft) else { return };
        let (leads, leader) = (core.leads(), core.leader());
        if alive {
            self.sleep.lost.remove(&node);
            if leads {
                self.wake(out);
            }
        } else {
            self.sleep.lost.insert(node);
            let lost = &self.sleep.lost;
            // A leader whom no majority can follow is to notice that it is none.
            let alone = leads && !core.is_majority(|seat| !lost.contains(&seat.node));
            if leader == Some(raft) || alone {
                self.wake(out);
            }
            self.heard.remove(&raft);
        }
    }
}
