//! Whom a process reaches: the members of its groups, and for a while those who were.
//!
//! ```text
//!   stranger --a list names it--> member --a list does not name it--> leaving --10 s--> stranger
//! ```
//!
//! A removal is applied before it is spoken of. Who is out still has to be told so, and to be answered what it asked for; and if
//! it led, it asks the others whether they can do without it.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_replicator::{Member, MemberRole, NodeId};

use crate::engine::Now;

/// How long a node is reached after it was removed: for a few elections, and the pauses between two dials.
const FAREWELL: Duration = Duration::from_secs(10);

/// Whom to reach.
#[derive(Debug)]
pub struct Reach {
    node: NodeId,
    /// None until a group has told who they are.
    members: Option<Vec<Member>>,
    /// Those who are members no more, and until when they are reached.
    leaving: BTreeMap<NodeId, Now>,
}

impl Reach {
    /// Nothing is known of the members.
    pub const fn new(node: NodeId) -> Self {
        Self { node, members: None, leaving: BTreeMap::new() }
    }

    /// The members are these, and `reached` have been reached up to now. Whom to reach from now on, none if that stays as it is.
    ///
    /// A list without this node itself changes nothing. It is of the past, as a node that joins meets it on its way through the
    /// log: who leads now may have come later, and must be heard. Or this node is out, and it is for the others to let it go.
    pub fn members(
        &mut self,
        now: Now,
        members: &[Member],
        reached: impl IntoIterator<Item = NodeId>,
    ) -> Option<Vec<Member>> {
        if members.iter().all(|member| member.node != self.node) {
            return None;
        }
        for node in reached {
            self.leaving.entry(node).or_insert(now + FAREWELL);
        }
        self.leaving.retain(|node, _| members.iter().all(|member| member.node != *node));
        self.members = Some(members.to_vec());
        Some(self.all(now))
    }

    /// Whom to reach from now on, if somebody's time is over.
    pub fn look(&mut self, now: Now) -> Option<Vec<Member>> {
        self.leaving.values().any(|until| *until <= now).then(|| self.all(now))
    }

    /// Whether this is a member, as far as is known. Who is leaving is none: it may not know, and would wait for a leader that it
    /// believes to be there.
    pub fn is_member(&self, node: NodeId) -> bool {
        let members = self.members.as_ref();
        members.is_none_or(|members| members.iter().any(|member| member.node == node))
    }

    fn all(&mut self, now: Now) -> Vec<Member> {
        self.leaving.retain(|_, until| *until > now);
        // Where they are is known to whoever has reached them.
        let leaving = self.leaving.keys().map(|node| Member {
            node: *node,
            role: MemberRole::Learner,
            address: String::new(),
        });
        self.members.iter().flatten().cloned().chain(leaving).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u64) -> NodeId {
        NodeId::new(number)
    }

    fn members(numbers: &[u64]) -> Vec<Member> {
        let role = MemberRole::Voter;
        let member =
            |number: &u64| Member { node: node(*number), role, address: format!("host-{number}") };
        numbers.iter().map(member).collect()
    }

    fn numbers(reached: Option<Vec<Member>>) -> Option<Vec<u64>> {
        reached.map(|all| all.iter().map(|member| member.node.number()).collect())
    }

    #[test]
    fn who_was_removed_is_reached_for_a_while_and_counts_no_more() {
        let mut reach = Reach::new(node(1));
        let at = |seconds| Duration::from_secs(seconds);
        assert!(reach.is_member(node(2)), "nothing is known");
        let reached = reach.members(at(0), &members(&[1, 3]), [node(2), node(3)]);
        assert_eq!(numbers(reached), Some(vec![1, 3, 2]));
        assert!(reach.is_member(node(3)) && !reach.is_member(node(2)));
        // Lists that come meanwhile give it no more time.
        let reached = reach.members(at(9), &members(&[1, 3, 4]), [node(2), node(3)]);
        assert_eq!(numbers(reached), Some(vec![1, 3, 4, 2]));
        assert_eq!(reach.look(at(9)), None);
        assert_eq!(numbers(reach.look(at(10))), Some(vec![1, 3, 4]));
        assert_eq!(reach.look(at(11)), None);
    }

    #[test]
    fn who_comes_back_stays() {
        let mut reach = Reach::new(node(1));
        reach.members(Duration::ZERO, &members(&[1]), [node(2)]);
        let reached = reach.members(Duration::from_secs(1), &members(&[1, 2]), [node(2)]);
        assert_eq!(reached, Some(members(&[1, 2])));
        assert_eq!(reach.look(Duration::from_secs(60)), None);
    }

    #[test]
    fn a_list_without_this_node_changes_nothing() {
        let mut reach = Reach::new(node(4));
        assert_eq!(reach.members(Duration::ZERO, &members(&[1, 2]), [node(1), node(3)]), None);
        assert_eq!(reach.look(Duration::from_secs(60)), None);
        assert!(reach.is_member(node(3)));
    }
}
