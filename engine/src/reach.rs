//! Whom a process reaches: the members of its groups, those who came after what it has applied, and for a while those who were.
//!
//! ```text
//!   stranger --a list names it--> member --a list does not name it--> leaving --10 s--> stranger
//!       '-----another member's newer list names it-----^
//! ```
//!
//! A removal is applied before it is spoken of. Who is out still has to be told so, and to be answered what it asked for; and if
//! it led, it asks the others whether they can do without it.
//!
//! A node that was away, or joins, may meet a leader of which its own log does not tell yet, and has to hear that leader to get there.
//! So each process says who the members are, and whoever knows less believes it.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_replicator::{Member, MemberRole, NodeId};
use quorate_storage::Index;
use serde::{Deserialize, Serialize};

use crate::engine::Now;

/// How long a node is reached after it was removed: for a few elections, and the pauses between two dials.
const FAREWELL: Duration = Duration::from_secs(10);

/// Most members that another process may name; far more than decide anything together.
const TOLD_MAX: usize = 1024;

/// Who the members are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberList {
    /// From which index on, or the sum of those of several groups: the list with the larger one is newer. 0 if nothing is known.
    pub since: Index,
    /// Each node once.
    pub members: Vec<Member>,
}

impl MemberList {
    /// The members of all groups of a node.
    pub fn of_all<'a>(groups: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut all = Self::default();
        for group in groups {
            all.since = all.since.saturating_add(group.since);
            all.add(&group.members);
        }
        all
    }

    /// Whether this node is among them.
    fn names(&self, node: NodeId) -> bool {
        self.members.iter().any(|member| member.node == node)
    }

    fn add(&mut self, members: &[Member]) {
        for member in members {
            if !self.names(member.node) {
                self.members.push(member.clone());
            }
        }
    }
}

/// Whom to reach.
#[derive(Debug)]
pub struct Reach {
    node: NodeId,
    /// As this node's groups have applied it; nobody until one has told.
    applied: MemberList,
    /// As another process has told, if that is newer.
    told: Option<MemberList>,
    /// Those who are members no more, and until when they are reached: without an end while this node is none itself.
    leaving: BTreeMap<NodeId, Now>,
}

impl Reach {
    /// Nothing is known of the members.
    pub fn new(node: NodeId) -> Self {
        Self { node, applied: MemberList::default(), told: None, leaving: BTreeMap::new() }
    }

    /// The groups of this node have applied that the members are these, and `reached` have been reached up to now. Whom to reach from
    /// now on.
    ///
    /// A list without this node itself cuts nobody off. It is of the past, as a node that joins meets it on its way through the log:
    /// who leads now may have come later, and must be heard. Or this node is out, and it is for the others to let it go.
    pub fn members(
        &mut self,
        now: Now,
        members: MemberList,
        reached: impl IntoIterator<Item = NodeId>,
    ) -> Vec<Member> {
        let until = if members.names(self.node) { now + FAREWELL } else { Now::MAX };
        for node in reached {
            let leaves = self.leaving.entry(node).or_insert(until);
            *leaves = until.min(*leaves);
        }
        self.told = self.told.take().filter(|told| told.since > members.since);
        self.applied = members;
        self.all(now)
    }

    /// Another process says who the members are. Whom to reach from now on, none if that stays as it is.
    ///
    /// Who is out may not know, and is not believed; nor is a list without this node.
    pub fn told(&mut self, now: Now, from: NodeId, list: MemberList) -> Option<Vec<Member>> {
        let newest = self.told.as_ref().map_or(self.applied.since, |told| told.since);
        let fits = list.members.len() <= TOLD_MAX && list.names(self.node);
        if list.since <= newest || !fits || !self.is_member(from) {
            return None;
        }
        self.told = Some(list);
        Some(self.all(now))
    }

    /// Whom to reach from now on, if somebody's time is over.
    pub fn look(&mut self, now: Now) -> Option<Vec<Member>> {
        self.leaving.values().any(|until| *until <= now).then(|| self.all(now))
    }

    /// Whether this is a member, as far as is known. Who is leaving is none: it may not know, and would wait for a leader that it
    /// believes to be there.
    pub fn is_member(&self, node: NodeId) -> bool {
        let nothing_is_known = self.applied.members.is_empty();
        let stays = self.leaving.get(&node) == Some(&Now::MAX);
        nothing_is_known || self.applied.names(node) || self.told_of(node) || stays
    }

    /// Who the members are, for other processes.
    pub const fn known(&self) -> &MemberList {
        &self.applied
    }

    fn told_of(&self, node: NodeId) -> bool {
        self.told.as_ref().is_some_and(|told| told.names(node))
    }

    fn all(&mut self, now: Now) -> Vec<Member> {
        // The newer list has the newer addresses.
        let mut all = self.told.clone().unwrap_or_default();
        all.add(&self.applied.members);
        self.leaving.retain(|node, until| *until > now && !all.names(*node));
        // Where they are is known to whoever has reached them.
        let leaving = self.leaving.keys().map(|node| Member {
            node: *node,
            role: MemberRole::Learner,
            address: String::new(),
        });
        all.members.extend(leaving);
        all.members
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u64) -> NodeId {
        NodeId::new(number)
    }

    fn members(since: Index, numbers: &[u64]) -> MemberList {
        let role = MemberRole::Voter;
        let member =
            |number: &u64| Member { node: node(*number), role, address: format!("host-{number}") };
        MemberList { since, members: numbers.iter().map(member).collect() }
    }

    fn numbers(reached: impl Into<Option<Vec<Member>>>) -> Option<Vec<u64>> {
        reached.into().map(|all| all.iter().map(|member| member.node.number()).collect())
    }

    #[test]
    fn who_was_removed_is_reached_for_a_while_and_counts_no_more() {
        let mut reach = Reach::new(node(1));
        let at = |seconds| Duration::from_secs(seconds);
        assert!(reach.is_member(node(2)), "nothing is known");
        let reached = reach.members(at(0), members(1, &[1, 3]), [node(2), node(3)]);
        assert_eq!(numbers(reached), Some(vec![1, 3, 2]));
        assert!(reach.is_member(node(3)) && !reach.is_member(node(2)));
        // Lists that come meanwhile give it no more time.
        let reached = reach.members(at(9), members(2, &[1, 3, 4]), [node(2), node(3)]);
        assert_eq!(numbers(reached), Some(vec![1, 3, 4, 2]));
        assert_eq!(reach.look(at(9)), None);
        assert_eq!(numbers(reach.look(at(10))), Some(vec![1, 3, 4]));
        assert_eq!(reach.look(at(11)), None);
    }

    #[test]
    fn who_comes_back_stays() {
        let mut reach = Reach::new(node(1));
        reach.members(Duration::ZERO, members(1, &[1]), [node(2)]);
        let reached = reach.members(Duration::from_secs(1), members(2, &[1, 2]), [node(2)]);
        assert_eq!(reached, members(2, &[1, 2]).members);
        assert_eq!(reach.look(Duration::from_secs(60)), None);
    }

    #[test]
    fn a_list_without_this_node_cuts_nobody_off() {
        let mut reach = Reach::new(node(4));
        let reached = reach.members(Duration::ZERO, members(1, &[1, 2]), [node(1), node(3)]);
        assert_eq!(numbers(reached), Some(vec![1, 2, 3]));
        assert!(reach.is_member(node(3)), "it may have come later");
        let now = Duration::from_secs(60);
        assert_eq!(reach.look(now), None);
        assert_eq!(reach.told(now, node(1), members(2, &[1, 2])), None, "nor is it believed");
        // It has joined, and the third is out.
        let reached = reach.members(now, members(3, &[1, 2, 4]), [node(1), node(2), node(3)]);
        assert_eq!(numbers(reached), Some(vec![1, 2, 4, 3]));
        assert_eq!(numbers(reach.look(now + FAREWELL)), Some(vec![1, 2, 4]));
    }

    #[test]
    fn who_came_after_what_is_applied_here_is_reached_on_the_word_of_a_member() {
        let mut reach = Reach::new(node(3));
        let now = Duration::ZERO;
        reach.members(now, members(5, &[1, 2, 3]), [node(1), node(2), node(9)]);
        // From one that is out, or knows no more than this node, it is worth nothing.
        assert_eq!(reach.told(now, node(9), members(8, &[1, 3, 4])), None);
        assert_eq!(reach.told(now, node(1), members(5, &[1, 3, 4])), None);
        assert!(!reach.is_member(node(4)));

        let reached = reach.told(now, node(1), members(8, &[1, 3, 4]));
        assert_eq!(numbers(reached), Some(vec![1, 3, 4, 2, 9]));
        assert!(reach.is_member(node(4)));
        assert_eq!(reach.told(now, node(2), members(8, &[1, 3, 4])), None, "it is known");
        assert_eq!(reach.known(), &members(5, &[1, 2, 3]), "only what is applied is told on");
        // What is applied meanwhile is older, and cuts nobody off.
        let reached = reach.members(now, members(7, &[1, 2, 3]), [node(1), node(2), node(4)]);
        assert_eq!(numbers(reached), Some(vec![1, 3, 4, 2, 9]));
        let reached = reach.members(now, members(8, &[1, 3, 4]), [node(1), node(2), node(4)]);
        assert_eq!(numbers(reached), Some(vec![1, 3, 4, 2, 9]));
        let reached = reach.members(now, members(9, &[1, 3]), [node(1), node(2), node(4)]);
        assert_eq!(numbers(reached), Some(vec![1, 3, 2, 4, 9]));
    }

    #[test]
    fn the_members_of_all_groups_are_as_new_as_all_of_them() {
        let all = MemberList::of_all(&[members(5, &[1, 2]), members(7, &[2, 3])]);
        assert_eq!(all, members(12, &[1, 2, 3]));
    }
}
