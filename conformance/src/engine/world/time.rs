//! Virtual time, and what happens in it.

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_engine::engine::{Checkpointed, Input, Now};

use super::node::{Event, Reading};
use super::{GRAIN, READ_AGAIN, TICK, WAITING_AFTER, World};
use crate::engine::EngineFactory;

impl<F: EngineFactory> World<'_, F> {
    pub(super) fn schedule(&mut self, after: Duration, event: Event) {
        let grains = (self.now + after).as_nanos().div_ceil(GRAIN.as_nanos());
        let at = GRAIN * u32::try_from(grains).expect("no run takes that long");
        self.scheduled += 1;
        self.events.insert((at.max(self.now), self.scheduled), event);
    }

    pub(super) fn draw(&mut self, max: Duration) -> Duration {
        GRAIN + max.mul_f64(self.random.f64())
    }

    pub(super) fn run_until(&mut self, deadline: Now, over: impl Fn(&Self) -> bool) {
        while let Some((&(at, _), _)) = self.events.first_key_value()
            && at <= deadline
            && !over(self)
        {
            self.now = at;
            // What happens at one moment is absorbed in one turn.
            let mut touched = BTreeSet::new();
            while let Some(entry) = self.events.first_entry()
                && entry.key().0 == at
            {
                let event = entry.remove();
                self.happen(event, &mut touched);
            }
            touched.into_iter().for_each(|node| self.turn(node));
        }
        if !over(self) {
            self.now = deadline;
        }
    }

    pub(super) fn happen(&mut self, event: Event, touched: &mut BTreeSet<usize>) {
        match event {
            Event::Message { from, to, message }
                if !self.is_cut(from, to) && self.nodes[to].running.is_some() =>
            {
                let from = self.nodes[from].id;
                self.step(to, Input::Message { from, message });
                touched.insert(to);
            }
            Event::Synced { node, life, seq } if self.lives(node, life) => {
                let at = &mut self.nodes[node];
                let running = at.running.as_mut().expect("it lives");
                running.syncing = false;
                if at.disk_stalled {
                    return;
                }
                running.durable = seq;
                at.log.sync(seq);
                self.step(node, Input::Durable(seq));
                touched.insert(node);
            }
            Event::Apply { node, life } if self.lives(node, life) => {
                self.apply(node);
                touched.insert(node);
            }
            Event::Check { node, life } if self.lives(node, life) => {
                self.check(node);
                touched.insert(node);
            }
            Event::Timer { node, life, id } if self.lives(node, life) => {
                let now = self.now;
                let running = self.nodes[node].running.as_mut().expect("it lives");
                if running.timers.get(&id).is_some_and(|at| *at <= now) {
                    running.timers.remove(&id);
                    self.step(node, Input::Timer(id));
                    touched.insert(node);
                }
            }
            Event::Fetched { node, life, ticket, entries } if self.lives(node, life) => {
                self.step(node, Input::Fetched { ticket, entries });
                touched.insert(node);
            }
            Event::Snapshot { from, life, to, checkpoint, head } => {
                let arrived = !self.is_cut(from, to) && self.nodes[to].running.is_some();
                let (sender, receiver) = (self.nodes[from].id, self.nodes[to].id);
                if arrived {
                    let Checkpointed { index, mark, state } = checkpoint.clone();
                    self.nodes[to].staged.insert(index, checkpoint);
                    let staged = Input::SnapshotStaged { from: sender, index, mark, state, head };
                    self.step(to, staged);
                    touched.insert(to);
                }
                if self.lives(from, life) {
                    self.step(from, Input::SnapshotSent { to: receiver, arrived });
                    touched.insert(from);
                }
            }
            Event::Look { node, at }
                if self.nodes[node].running.is_some() && self.look_at(node, at) =>
            {
                touched.insert(node);
            }
            Event::Tick => {
                self.schedule(TICK, Event::Tick);
                self.tick();
                touched.extend((0..self.nodes.len()).filter(|n| self.nodes[*n].running.is_some()));
            }
            // Of a life that is over.
            _ => {}
        }
    }

    pub(super) fn lives(&self, node: usize, life: u32) -> bool {
        self.nodes[node].life == life && self.nodes[node].running.is_some()
    }

    pub(super) fn tick(&mut self) {
        for node in 0..self.nodes.len() {
            let (now, stuck) = (self.now, |since: Now| since + WAITING_AFTER);
            let waits = self.payloads.iter().any(|offered| {
                offered.home == node && offered.idle_since.is_some_and(|since| stuck(since) <= now)
            });
            if waits && self.nodes[node].running.is_some() {
                self.step(node, Input::Waiting);
            }
        }
        for read in 0..self.reads.len() {
            let asked = self.reads[read].asked;
            if self.reads[read].stage == Reading::Asked
                && asked.is_none_or(|(_, at)| at + READ_AGAIN <= self.now)
            {
                self.ask(read);
            }
        }
    }
}
