//! Members and their changes in the words of the core.

use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
};

use crate::members::{Change, Members};

pub(super) fn conf_state(members: &Members) -> ConfState {
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

pub(super) fn conf_change(change: &Change) -> Option<ConfChangeV2> {
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
