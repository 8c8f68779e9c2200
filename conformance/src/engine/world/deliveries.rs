//! What is decided, and what becomes of it at a node.

use std::time::Duration;

use quorate_engine::engine::{Deliver, Delivery, Input, Verdict};
use quorate_storage::{Body, Entry, Index};

use super::World;
use super::node::{Event, Reading};
use crate::engine::EngineFactory;

impl<F: EngineFactory> World<'_, F> {
    /// Begins to apply the next delivery when its write is durable.
    pub(super) fn apply_next(&mut self, node: usize) {
        let at = &mut self.nodes[node];
        let running = at.running.as_mut().expect("it has settled");
        let ready = running.deliveries.front().is_some_and(|next| next.after <= running.durable);
        if ready && !running.applying {
            running.applying = true;
            let (life, after) = (at.life, self.draw(Duration::from_millis(1)));
            self.schedule(after, Event::Apply { node, life });
        }
    }

    pub(super) fn apply(&mut self, node: usize) {
        let running = self.nodes[node].running.as_mut().expect("it lives");
        running.applying = false;
        let Delivery { what, .. } = running.deliveries.pop_front().expect("it was ready");
        let index = match what {
            Deliver::Batch { entry, mark, .. } => {
                running.mark = mark;
                running.applied = entry.index;
                let mut hasher = blake3::Hasher::new();
                hasher.update(&running.history).update(&entry.index.to_le_bytes());
                hasher.update(format!("{:?}", entry.body).as_bytes());
                running.history = *hasher.finalize().as_bytes();
                self.judge_batch(node, &entry);
                self.batch_done(node, &entry);
                entry.index
            }
            Deliver::Install { index, mark } => {
                running.mark = mark;
                running.applied = index;
                self.install(node, index);
                index
            }
        };
        let running = self.nodes[node].running.as_mut().expect("it lives");
        let state = running.history;
        self.step(node, Input::Applied { index, state });
    }

    /// Answers the engine's questions about candidates whose predecessors are all applied (R10).
    pub(super) fn check(&mut self, node: usize) {
        let running = self.nodes[node].running.as_mut().expect("it lives");
        let next = running.applied + 1;
        let checks = running.checks.extract_if(.., |(_, entry)| entry.index <= next);
        for (ticket, entry) in checks.collect::<Vec<_>>() {
            let verdict = if entry.index == next { Verdict::Valid } else { Verdict::Invalid };
            self.step(node, Input::Checked { ticket, verdict });
        }
    }

    /// Settles the proposals that this delivery decides about.
    pub(super) fn batch_done(&mut self, node: usize, entry: &Entry) {
        let now = self.now;
        for (number, offered) in self.payloads.iter_mut().enumerate() {
            let here = offered.home == node && offered.body == entry.body;
            if here && matches!(entry.body, Body::Frames(_)) {
                offered.done = true;
                offered.idle_since = None;
                for read in &mut self.reads {
                    if read.stage == Reading::Through(number) {
                        read.stage = Reading::Over;
                    }
                }
            }
        }
        let running = self.nodes[node].running.as_mut().expect("it lives");
        for payload in running.settle_up_to(entry.index) {
            let offered = &mut self.payloads[payload];
            // What was delivered here for another node reaches that one too.
            if !offered.done && offered.body != entry.body {
                offered.idle_since = Some(now);
            }
        }
    }

    pub(super) fn install(&mut self, node: usize, index: Index) {
        let now = self.now;
        let at = &mut self.nodes[node];
        let Some(staged) = at.staged.remove(&index) else {
            self.broken(node, format_args!("R5: the snapshot at {index} is installed once"));
        };
        if at.log.recovered().first <= index {
            self.broken(
                node,
                format_args!("R5: an install waits until the reset at {index} is durable"),
            );
        }
        let running = at.running.as_mut().expect("it lives");
        running.history = staged.state;
        at.checkpoints.insert(index, staged);
        for payload in running.settle_up_to(index) {
            if !self.payloads[payload].done {
                self.payloads[payload].idle_since = Some(now);
            }
        }
        self.holds_up_to(node, index);
    }

    /// What a snapshot holds is not delivered here any more.
    pub(super) fn holds_up_to(&mut self, node: usize, index: Index) {
        for offered in self.payloads.iter_mut().filter(|offered| offered.home == node) {
            if self.agreed.range(..=index).any(|(_, (_, body))| *body == offered.body) {
                offered.done = true;
                offered.idle_since = None;
            }
        }
    }
}
