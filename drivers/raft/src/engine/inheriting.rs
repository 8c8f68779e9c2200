//! From and to another driver: what a node alone knows to be decided, and a group of one node that begins with a state.

use quorate_engine::engine::{Founding, Inherited};
use quorate_replicator::NodeId;

use quorate_storage::Recovered;

use super::{RaftEngine, unread};
use crate::founding::names;
use crate::members::{Mark, Members};
use crate::stored::{Identity, Stored};

/// The term of what is inherited; the group's own begin above it.
const INHERITED_TERM: u64 = 1;

/// The raft id of the only member.
const ALONE: u64 = 1;

/// A group of one node, which has decided everything up to the index that it inherits. It is another group than any that this node was
/// in before: its directory is new, and nobody who knew the old one is heard.
pub(super) fn found(inherited: &Inherited) -> Founding {
    let founding = vec![(inherited.node, inherited.incarnation)];
    let mark = Mark { term: INHERITED_TERM, members: Members::founding(&founding) };
    let stored = Stored {
        term: INHERITED_TERM,
        vote: ALONE,
        commit: inherited.index,
        identity: Some(Identity { raft: ALONE, active: true, founding }),
    };
    Founding { mark: mark.encode(), state: Some(stored.encode()) }
}

/// How far a log is decided is written after it is answered, so what was answered here may be in the log alone.
pub(super) fn take_for_decided(log: &mut Recovered) -> Result<(), String> {
    let Some(state) = &log.state else { return Ok(()) };
    let mut stored = Stored::decode(state).map_err(|_| unread("state in the log"))?;
    let last = log.entries.last().map_or(0, |entry| entry.index);
    stored.commit = stored.commit.max(last);
    log.state = Some(stored.encode());
    Ok(())
}

/// A member that decides alone has decided all that is in its log; any other has to ask.
pub(super) fn knows_all(engine: &RaftEngine) -> Result<(), String> {
    let node = engine.node;
    let Some(core) = engine.core() else {
        return Err(format!(
            "{node} is no member of the group, and does not know what the group has decided: switch a member"
        ));
    };
    let members = core.members();
    if members.decides_alone(core.id()) && core.committed() == core.last() {
        return Ok(());
    }
    let voters: Vec<NodeId> = members.voters().map(|seat| seat.node).collect();
    let all = names(&voters);
    let own = members.by_raft(core.id());
    if !own.is_some_and(|seat| members.is_voter(seat)) {
        let what = if own.is_some() { "does not vote in the group" } else { "was removed" };
        return Err(format!(
            "{node} {what}, and what the voters ({all}) have decided may not be here: switch one of them"
        ));
    }
    let others = voters.iter().filter(|voter| **voter != node);
    let others: Vec<_> = others.map(NodeId::to_string).collect();
    Err(format!(
        "{node} is one of {} voters ({all}), and what the others have decided without it is not here: start the cluster, remove \
         the others while {node} runs (`quorate member remove {}`), and stop {node} when it is the only voter",
        voters.len(),
        others.join("`, `quorate member remove ")
    ))
}
