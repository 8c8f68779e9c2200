//! Messages between the nodes.

use std::time::Duration;

use quorate_engine::engine::{Input, Message, Outgoing};
use quorate_replicator::Channel;
use quorate_transport_memory::{Fate, Link};

use super::World;
use super::node::Event;
use crate::engine::EngineFactory;

impl<F: EngineFactory> World<'_, F> {
    /// A node is gone, or is back: the others notice, after a while.
    pub(super) fn missed(&mut self, at: usize) {
        for node in (0..self.nodes.len()).filter(|node| *node != at) {
            let after = self.draw(Duration::from_millis(300));
            self.schedule(after, Event::Look { node, at });
            self.schedule(after, Event::Look { node: at, at: node });
        }
    }

    /// Tells an engine whether the process of another node is there, if that is new.
    pub(super) fn look_at(&mut self, node: usize, at: usize) -> bool {
        let alive = self.nodes[at].running.is_some();
        let new = match alive {
            true => self.told_lost.remove(&(node, at)),
            false => self.told_lost.insert((node, at)),
        };
        if new {
            let peer = self.nodes[at].id;
            self.step(node, Input::Peer { node: peer, alive });
        }
        new
    }

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
