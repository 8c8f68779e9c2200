//! What a node says of itself: what it does, how far the others are, and why it waits.

use quorate_engine::engine::{Engine, EngineStatus};
use quorate_replicator::{NodeId, PeerStatus, Role};

use crate::core::{Core, CoreRole, ProgressWord};
use crate::engine::{Part, RaftEngine};
use crate::founding::names;
use crate::members::Seat;

impl RaftEngine {
    pub(crate) fn explain(&self) -> EngineStatus {
        let core = match &self.part {
            Part::Member(core) => core,
            Part::Outside(outside, _) => {
                let reason = Some(outside.reason());
                return EngineStatus { reason, ..EngineStatus::new(Role::Learner) };
            }
        };
        let members = core.members();
        let own = members.by_raft(core.id());
        let votes = own.is_some_and(|seat| members.is_voter(seat));
        let role = match core.role() {
            CoreRole::Leader => Role::Leader,
            CoreRole::Candidate => Role::Candidate,
            CoreRole::Follower if votes => Role::Follower,
            CoreRole::Follower => Role::Learner,
        };
        let learners = members.seats().iter().filter(|seat| !members.is_voter(seat));
        let others = members.seats().iter().filter(|seat| seat.raft != core.id());
        EngineStatus {
            term: core.term(),
            proposer: self.proposer(),
            decided: core.committed(),
            members: members.voters().map(|seat| seat.node).collect(),
            learners: learners.map(|seat| seat.node).collect(),
            peers: others.map(|seat| self.peer_status(core, seat)).collect(),
            reason: self.reason(core, votes),
            ..EngineStatus::new(role)
        }
    }

    fn peer_status(&self, core: &Core, seat: &Seat) -> PeerStatus {
        let mut status = PeerStatus::new(seat.node);
        status.last_contact = self.heard.get(&seat.raft).map(|at| self.now.saturating_sub(*at));
        let Some(progress) = core.progress(seat.raft) else { return status };
        status.matched = Some(progress.matched);
        status.lag = Some(core.last().saturating_sub(progress.matched));
        status.note = match progress.state {
            ProgressWord::Snapshot(at) => format!("is sent the snapshot at index {at}"),
            _ if status.last_contact.is_none_or(|ago| ago > self.config.election_timeout) => {
                "was not heard of for an election timeout".into()
            }
            ProgressWord::Probing => "is asked how far it is".into(),
            ProgressWord::Full => "has as much on its way as it may have".into(),
            ProgressWord::Replicating => String::new(),
        };
        status
    }

    /// Why this node does not take part, or knows no leader.
    fn reason(&self, core: &Core, votes: bool) -> Option<String> {
        if let Some(at) = self.removed_at {
            return Some(format!(
                "this node was removed from the group at index {at}; it can be stopped when that was answered as done. To add it again, start it with an empty directory first"
            ));
        }
        if core.leader().is_some() {
            return self.noted.clone();
        }
        if core.gave_up_for_disk() {
            return Some(format!(
                "this node stopped leading because its disk has not answered for {:?}, and does not ask to lead before it does",
                self.config.election_timeout
            ));
        }
        let members = core.members();
        if members.seats().is_empty() || !votes {
            return Some(
                "no leader is known; this node does not vote, and waits to hear of one".into(),
            );
        }
        let quiet = |seat: &&Seat| {
            let at = self.heard.get(&seat.raft);
            let lately = |at: &_| self.now.saturating_sub(*at) <= 2 * self.config.election_timeout;
            seat.raft != core.id() && !at.is_some_and(lately)
        };
        let down: Vec<NodeId> = members.voters().filter(quiet).map(|seat| seat.node).collect();
        let all = members.voters().count();
        let needed = all / 2 + 1;
        let up = all - down.len();
        Some(if up < needed {
            format!(
                "no leader is known: of {all} voters {needed} are needed, and nothing is heard of {}",
                names(&down)
            )
        } else {
            format!(
                "no leader is known; {up} of {all} voters can be reached, and one of them is to be elected"
            )
        })
    }
}
