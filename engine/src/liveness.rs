//! Which of the other nodes' processes are heard of, whatever their groups do.
//!
//! Groups without work are silent. So that a silent group learns that the node which leads it is gone, each node says
//! now and then that it is there, once for all its groups.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_replicator::NodeId;

use crate::engine::Now;

/// How often a node says that it is there.
const SAY_EVERY: Duration = Duration::from_millis(200);

/// After how long without a word a node counts as gone.
const GONE_AFTER: Duration = Duration::from_secs(1);

/// Who was heard of when.
#[derive(Debug)]
pub struct Liveness {
    say_at: Now,
    /// When each was last heard, and whether it counts as there.
    heard: BTreeMap<NodeId, (Now, bool)>,
}

impl Liveness {
    /// Nobody was heard.
    pub const fn new(now: Now) -> Self {
        Self { say_at: now, heard: BTreeMap::new() }
    }

    /// Something came from `node`; true if it did not count as there before.
    pub fn heard(&mut self, node: NodeId, now: Now) -> bool {
        let (at, alive) = self.heard.entry(node).or_insert((now, false));
        *at = now;
        !std::mem::replace(alive, true)
    }

    /// Whether to say now that this node is there, and who has gone.
    pub fn look(&mut self, now: Now) -> (bool, Vec<NodeId>) {
        if now < self.say_at {
            return (false, Vec::new());
        }
        self.say_at = now + SAY_EVERY;
        let mut gone = Vec::new();
        for (node, (at, alive)) in &mut self.heard {
            if *alive && now >= *at + GONE_AFTER {
                *alive = false;
                gone.push(*node);
            }
        }
        (true, gone)
    }

    /// When to look again.
    pub const fn wake_at(&self) -> Now {
        self.say_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_not_heard_is_gone_once_and_comes_back_once() {
        let (node, ms) = (NodeId::new(2), Duration::from_millis);
        let mut liveness = Liveness::new(ms(0));
        assert!(liveness.heard(node, ms(0)));
        assert!(!liveness.heard(node, ms(10)));
        assert_eq!(liveness.look(ms(10)), (true, vec![]));
        assert_eq!(liveness.look(ms(20)), (false, vec![]));
        assert_eq!(liveness.look(ms(1010)), (true, vec![node]));
        assert_eq!(liveness.look(ms(1210)), (true, vec![]));
        assert!(liveness.heard(node, ms(1300)));
    }
}
