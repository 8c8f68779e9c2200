//! Who can reach whom.

use std::collections::{BTreeMap, BTreeSet};

use quorate_replicator::NodeId;

/// Which directed links are cut. Sans-IO, for the hub and the simulator alike.
///
/// Three kinds of cuts stand beside each other, and a link is open when none of them holds: single links, groups, and
/// nodes that are off the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partition {
    cut: BTreeSet<(NodeId, NodeId)>,
    /// The group of each node that was put into one.
    groups: BTreeMap<NodeId, usize>,
    disconnected: BTreeSet<NodeId>,
}

impl Partition {
    /// All links open.
    pub fn none() -> Self {
        Self::default()
    }

    /// Whether what `from` sends can reach `to`.
    pub fn is_open(&self, from: NodeId, to: NodeId) -> bool {
        !self.cut.contains(&(from, to))
            && !self.disconnected.contains(&from)
            && !self.disconnected.contains(&to)
            && (self.groups.is_empty() || self.groups.get(&from) == self.groups.get(&to))
    }

    /// Cuts both directions between `a` and `b`.
    pub fn cut(&mut self, a: NodeId, b: NodeId) {
        self.cut.extend([(a, b), (b, a)]);
    }

    /// Cuts only what goes from `from` to `to`.
    pub fn cut_one_way(&mut self, from: NodeId, to: NodeId) {
        self.cut.insert((from, to));
    }

    /// Takes back the cuts of single links between `a` and `b`, in both directions.
    pub fn restore(&mut self, a: NodeId, b: NodeId) {
        self.cut.remove(&(a, b));
        self.cut.remove(&(b, a));
    }

    /// Puts nodes into groups that cannot reach one another, in place of earlier groups. Nodes that are named in no
    /// group form one more.
    pub fn split(&mut self, groups: &[&[NodeId]]) {
        self.groups = (0..)
            .zip(groups)
            .flat_map(|(number, group)| group.iter().map(move |node| (*node, number)))
            .collect();
    }

    /// Takes a node off the network.
    pub fn disconnect(&mut self, node: NodeId) {
        self.disconnected.insert(node);
    }

    /// Puts a node back on the network.
    pub fn reconnect(&mut self, node: NodeId) {
        self.disconnected.remove(&node);
    }

    /// Opens all links.
    pub fn heal(&mut self) {
        *self = Self::none();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes() -> [NodeId; 5] {
        [1, 2, 3, 4, 5].map(NodeId::new)
    }

    #[test]
    fn a_one_way_cut_leaves_the_way_back_open() {
        let [a, b, ..] = nodes();
        let mut partition = Partition::none();
        partition.cut_one_way(a, b);
        assert!(!partition.is_open(a, b));
        assert!(partition.is_open(b, a));
        partition.restore(b, a);
        assert_eq!(partition, Partition::none());
    }

    #[test]
    fn groups_reach_only_themselves_and_the_unnamed_are_one_more() {
        let [a, b, c, d, e] = nodes();
        let mut partition = Partition::none();
        partition.split(&[&[a, b], &[c]]);
        for (from, to, open) in
            [(a, b, true), (a, c, false), (b, c, false), (c, d, false), (d, e, true), (d, a, false)]
        {
            assert_eq!(partition.is_open(from, to), open, "{from} to {to}");
            assert_eq!(partition.is_open(to, from), open, "{to} to {from}");
        }
        partition.heal();
        assert!(partition.is_open(a, c));
    }

    #[test]
    fn a_node_off_the_network_reaches_nobody_until_it_is_back() {
        let [a, b, c, ..] = nodes();
        let mut partition = Partition::none();
        partition.disconnect(a);
        assert!(!partition.is_open(a, b) && !partition.is_open(b, a) && partition.is_open(b, c));
        partition.reconnect(a);
        assert!(partition.is_open(a, b));
    }
}
