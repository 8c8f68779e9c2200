//! The end of a run: all faults are over, and what was begun comes to its end.

use super::World;
use super::node::{Node, Reading};
use crate::engine::EngineFactory;

impl<F: EngineFactory> World<'_, F> {
    /// Ends all faults, and waits until everything that was begun has come to its end.
    pub(in crate::engine) fn finish(&mut self) {
        self.lossy(0.0, 0.0);
        self.isolated.clear();
        self.cuts.clear();
        for node in 0..self.nodes() {
            self.stall_disk(node, false);
            if self.nodes[node].lost.is_none() {
                self.start(node);
            }
        }
        let deadline = self.now + self.factory.patience();
        self.run_until(deadline, Self::is_finished);
        if !self.is_finished() {
            self.say_what_is_missing();
        }
    }

    fn is_finished(&self) -> bool {
        let top = self.top();
        let settled = |node: &Node| {
            node.running
                .as_ref()
                .is_some_and(|running| running.applied == top && running.placed.is_empty())
        };
        self.payloads.iter().all(|offered| offered.done || !self.serves(offered.home))
            && self.reads.iter().all(|read| read.stage == Reading::Over || !self.serves(read.node))
            && self.wishes.values().all(|wish| !self.is_owed(wish))
            && (0..self.nodes.len()).all(|node| !self.serves(node) || settled(&self.nodes[node]))
    }

    fn say_what_is_missing(&self) -> ! {
        let patience = self.factory.patience();
        for (number, node) in self.nodes.iter().enumerate() {
            let Some(running) = node.running.as_ref().filter(|_| self.serves(number)) else {
                continue;
            };
            if let Some((index, tag)) = running.placed.keys().next() {
                self.broken(
                    number,
                    format_args!("R9: a proposal is delivered, released or overtaken, and the one at index {index} {tag:?} is none of them after {patience:?}"),
                );
            }
            if running.applied < self.top() {
                self.broken(
                    number,
                    format_args!("all that is decided is delivered at every node, and after {patience:?} this one has {} of {}; {} wait for their write", running.applied, self.top(), running.deliveries.len()),
                );
            }
        }
        for (number, offered) in self.payloads.iter().enumerate() {
            if !offered.done && self.serves(offered.home) {
                self.broken(
                    offered.home,
                    format_args!("a batch on offer is decided when nothing fails, and batch {number} is not after {patience:?}"),
                );
            }
        }
        for read in &self.reads {
            if read.stage != Reading::Over && self.serves(read.node) {
                self.broken(
                    read.node,
                    format_args!(
                        "a read is answered when nothing fails, and one is not after {patience:?}"
                    ),
                );
            }
        }
        for wish in self.wishes.values() {
            if self.is_owed(wish) {
                self.broken(
                    wish.node,
                    format_args!(
                        "a wish is answered once, and one is not after {patience:?}: {:?}",
                        wish.admin
                    ),
                );
            }
        }
        unreachable!("one of these is what the group has not finished");
    }
}
