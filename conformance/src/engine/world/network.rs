//! Messages between the nodes.

use quorate_engine::engine::{Message, Outgoing};
use quorate_replicator::Channel;
use quorate_transport_memory::{Fate, Link};

use super::World;
use super::node::Event;
use crate::engine::EngineFactory;

impl<F: EngineFactory> World<'_, F> {
    /// Whether nothing gets from one node to another.
    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        let isolated = self.isolated.contains(&from) || self.isolated.contains(&to);
        isolated || self.cuts.contains(&(from, to))
    }

    pub(super) fn send_held(&mut self, node: usize) {
        let running = self.nodes[node].running.as_mut().expect("it has settled");
        let durable = running.durable;
        let ready: Vec<_> = running.sends.extract_if(.., |send| send.after <= durable).collect();
        for Outgoing { to, urgent, message, .. } in ready {
            for to in to {
                let Some(to) = self.nodes.iter().position(|other| other.id == to) else { continue };
                self.carry(node, to, urgent, message.clone());
            }
        }
    }

    pub(super) fn carry(&mut self, from: usize, to: usize, urgent: bool, message: Message) {
        if from == to || self.is_cut(from, to) {
            return;
        }
        let channel = if urgent { Channel::Control } else { Channel::Entries };
        let (sender, receiver) = (self.nodes[from].id, self.nodes[to].id);
        let link = self
            .links
            .entry((from, to, urgent))
            .or_insert_with(|| Link::new(self.seed, sender, receiver, channel));
        let now = self.now;
        let (first, second) = match link.fate(&self.faults, now) {
            Fate::Lost => (None, None),
            Fate::Once(at) => (Some(at), None),
            Fate::Twice(at, again) => (Some(at), Some(again)),
        };
        for at in first.into_iter().chain(second) {
            self.schedule(at - now, Event::Message { from, to, message: message.clone() });
        }
    }
}
