//! What the shell of one engine does: the turns of a host, without its threads and files.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use quorate_engine::engine::{Demand, EngineStatus, Input, Placed, TimerId};
use quorate_engine::panic_words;
use quorate_replicator::NodeId;

use super::node::{Event, Offered, Running};
use super::{OFFERED_PER_TURN, Payload, WAITING_AFTER, World};
use crate::engine::EngineFactory;

impl<F: EngineFactory> World<'_, F> {
    pub(super) fn step(&mut self, node: usize, input: Input) {
        let (now, words) = (self.now, self.trace.is_some().then(|| format!("{input:?}")));
        self.call(node, |running| running.engine.step(now, input, &mut running.out));
        if let (Some(trace), Some(words)) = (&mut self.trace, words) {
            trace.push(format!("node {} at {now:?} absorbs {words}", node + 1));
        }
    }

    /// Calls into an engine that may panic, which the contract forbids.
    pub(super) fn call<T>(
        &mut self,
        node: usize,
        call: impl FnOnce(&mut Running) -> T,
    ) -> Option<T> {
        let running = self.nodes[node].running.as_mut()?;
        match catch_unwind(AssertUnwindSafe(|| call(running))) {
            Ok(answer) => Some(answer),
            Err(panic) => {
                let words = panic_words(&*panic).to_owned();
                self.broken(node, format_args!("no input makes an engine panic: {words}"))
            }
        }
    }

    /// Ends a turn, as the host does: settle, do what is asked, offer batches.
    pub(super) fn turn(&mut self, node: usize) {
        self.settle(node);
        self.place(node);
        self.look(node);
    }

    pub(super) fn settle(&mut self, node: usize) {
        let now = self.now;
        if self.call(node, |running| running.engine.settle(now, &mut running.out)).is_some() {
            self.drain(node);
        }
    }

    /// Checks what the engine says of itself.
    pub(super) fn look(&mut self, node: usize) {
        let told = self.call(node, |running| {
            let status: EngineStatus = running.engine.status();
            let before = std::mem::replace(&mut running.decided, status.decided);
            (status.decided, before, running.applied)
        });
        let Some((decided, before, applied)) = told else { return };
        if decided < before || decided < applied {
            self.broken(
                node,
                format_args!("status tells the last decided index, which is not {decided} after {before}, with {applied} delivered"),
            );
        }
    }

    /// Gives batches to whoever wants them.
    pub(super) fn place(&mut self, node: usize) {
        for _ in 0..OFFERED_PER_TURN {
            let idle = |offered: &Offered| offered.home == node && offered.idle_since.is_some();
            let Some(payload) = self.payloads.iter().position(idle) else { return };
            let Some(demand) = self.call(node, |running| running.engine.demand()) else { return };
            let at = match demand {
                Demand::Here { batches: 0, .. } => {
                    self.broken(node, "demand is Here for at least one batch")
                }
                Demand::Here { .. } => node,
                Demand::At(nodes) => {
                    let Some(at) = self.forward(node, payload, &nodes) else { return };
                    at
                }
                Demand::Nowhere => return,
            };
            if !self.propose(at, payload) {
                return;
            }
        }
    }

    /// The node at which a batch is wanted and may be placed now: the first that was named, or any of them when the
    /// batch has waited for long.
    pub(super) fn forward(
        &mut self,
        node: usize,
        payload: Payload,
        nodes: &[NodeId],
    ) -> Option<usize> {
        if nodes.is_empty() {
            self.broken(node, "demand is At somebody");
        }
        let since = self.payloads[payload].idle_since?;
        let patient = self.now < since + WAITING_AFTER;
        let asked = if patient { nodes[0] } else { nodes[self.random.usize(..nodes.len())] };
        let at = self.nodes.iter().position(|other| other.id == asked)?;
        let cut = self.is_cut(node, at) || self.is_cut(at, node);
        let wanted = self.call(at, |running| running.engine.demand());
        (!cut && at != node && matches!(wanted, Some(Demand::Here { .. }))).then_some(at)
    }

    pub(super) fn propose(&mut self, node: usize, payload: Payload) -> bool {
        let (now, body) = (self.now, self.payloads[payload].body.clone());
        let offered = body.clone();
        let Some(answer) =
            self.call(node, |running| running.engine.propose(now, offered, &mut running.out))
        else {
            return false;
        };
        match answer {
            Err(back) if back != body => {
                self.broken(node, "a batch that cannot be placed is given back as it was")
            }
            Err(_) => {
                self.settle(node);
                return false;
            }
            Ok(Placed { index, tag }) => {
                let running = self.nodes[node].running.as_mut().expect("it has answered");
                let (emitted, new) =
                    (running.last_emitted, running.ever_placed.insert((index, tag)));
                running.placed.insert((index, tag), payload);
                self.payloads[payload].idle_since = None;
                if !new || index <= emitted {
                    self.broken(
                        node,
                        format_args!("(index, tag) names one entry for ever, and a batch was placed at {index} {tag:?}, which is taken"),
                    );
                }
            }
        }
        self.settle(node);
        true
    }

    /// Takes over and judges what the engine put out.
    pub(super) fn drain(&mut self, node: usize) {
        let running = self.nodes[node].running.as_mut().expect("it has settled");
        if let Some(trace) = &mut self.trace {
            let demand = running.engine.demand();
            trace.push(format!("node {} puts out {:?}, then {demand:?}", node + 1, running.out));
        }
        let out = &mut running.out;
        let writes = std::mem::take(&mut out.writes);
        let sends = std::mem::take(&mut out.sends);
        let deliveries = std::mem::take(&mut out.deliveries);
        let timers = std::mem::take(&mut out.timers);
        let fetches = std::mem::take(&mut out.fetches);
        let reads = std::mem::take(&mut out.reads);
        let snapshots = std::mem::take(&mut out.snapshots);
        let released = std::mem::take(&mut out.released);
        let fault = out.fault.take();
        let members = std::mem::take(&mut out.members);
        let answers = std::mem::take(&mut out.admin);
        out.evidence.clear();
        running.checks.append(&mut running.out.checks);
        if let Some(cause) = fault {
            return self.faulted(node, cause);
        }
        members.into_iter().for_each(|(from, members)| self.members_told(node, from, members));
        answers.into_iter().for_each(|(ticket, answer)| self.wish_answered(node, ticket, answer));
        writes.into_iter().for_each(|write| self.written(node, write));
        sends.into_iter().for_each(|send| self.sent(node, send));
        deliveries.into_iter().for_each(|delivery| self.delivery(node, delivery));
        self.set_timers(node, timers);
        let life = self.nodes[node].life;
        for (ticket, range, _) in fetches {
            let mut entries = self.nodes[node].log.fetch(range);
            // Any number from the first on is an answer.
            let count = self.random.usize(..=entries.len()).max(1);
            entries.truncate(count);
            let after = self.draw(Duration::from_millis(2));
            self.schedule(after, Event::Fetched { node, life, ticket, entries });
        }
        let running = self.nodes[node].running.as_ref().expect("it has settled");
        if running.checks.iter().any(|(_, entry)| entry.index <= running.applied + 1) {
            let after = self.draw(Duration::from_millis(1));
            self.schedule(after, Event::Check { node, life });
        }
        reads.into_iter().for_each(|(id, answer)| self.answered(node, id, answer));
        for (to, index, head) in snapshots {
            let found = self.nodes[node].checkpoints.get(&index).cloned();
            let Some(checkpoint) = found else {
                self.broken(
                    node,
                    format_args!(
                        "R6: a snapshot is a checkpoint that was stored, and none was at {index}"
                    ),
                );
            };
            if let Some(to) = self.nodes.iter().position(|other| other.id == to) {
                let after = self.draw(Duration::from_millis(20));
                self.schedule(after, Event::Snapshot { from: node, life, to, checkpoint, head });
            }
        }
        for placed in released {
            self.released(node, placed);
        }
        self.sync(node);
        self.send_held(node);
        self.apply_next(node);
        self.serve_reads(node);
    }

    pub(super) fn set_timers(&mut self, node: usize, timers: Vec<(TimerId, Option<Duration>)>) {
        let (now, life) = (self.now, self.nodes[node].life);
        for (id, after) in timers {
            let running = self.nodes[node].running.as_mut().expect("it has settled");
            let Some(after) = after else {
                running.timers.remove(&id);
                continue;
            };
            running.timers.insert(id, now + after);
            self.schedule(after, Event::Timer { node, life, id });
        }
    }

    pub(super) fn released(&mut self, node: usize, placed: Placed) {
        let now = self.now;
        let Placed { index, tag } = placed;
        let running = self.nodes[node].running.as_mut().expect("it has settled");
        if !running.ever_placed.contains(&(index, tag)) {
            self.broken(
                node,
                format_args!(
                    "R9: only what was placed here is released, and {index} {tag:?} was not"
                ),
            );
        }
        if let Some(payload) = running.placed.remove(&(index, tag))
            && !self.payloads[payload].done
        {
            self.payloads[payload].idle_since = Some(now);
        }
    }

    /// Begins a sync if one is wanted and none runs.
    pub(super) fn sync(&mut self, node: usize) {
        let at = &mut self.nodes[node];
        let Some(running) = at.running.as_mut() else { return };
        if running.syncing || at.disk_stalled {
            return;
        }
        let Some(seq) = at.log.wants_sync() else { return };
        running.syncing = true;
        let (life, after) = (at.life, self.draw(Duration::from_millis(3)));
        self.schedule(after, Event::Synced { node, life, seq });
    }
}
