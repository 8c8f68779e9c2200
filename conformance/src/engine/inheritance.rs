//! Taking over what another driver has decided.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::engine::{
    Checkpointed, Deliver, Demand, Engine, EngineDriver, Inherited, Input, Now, Opening, Output,
    TimerId,
};
use quorate_replicator::{GroupId, NodeId};
use quorate_storage::{Body, Entry, Index, Record, Recovered};

use super::EngineFactory;

/// The last index of the driver before.
const LAST: Index = 7;

const NODE: NodeId = NodeId::new(1);

/// How many batches are decided after it, in each life.
const BATCHES: Index = 5;

/// A driver that takes over a state founds a group of one node on it: it delivers nothing of before, decides alone from the next
/// index on, and finds that again after a restart. It knows then that it knows everything. One that does not take over says so.
pub fn what_is_inherited_goes_on_with_one_node<F: EngineFactory>(factory: &F) {
    for seed in 0..factory.seeds() {
        let context = format!("what_is_inherited_goes_on_with_one_node: (seed {seed})");
        let inherited = Inherited {
            group: GroupId::new(0),
            node: NODE,
            incarnation: [9; 16],
            index: LAST,
            state: [3; 32],
        };
        let (driver, config) = (factory.driver(), factory.config());
        let founding = match driver.inherit(&config, &inherited) {
            Ok(founding) => founding,
            Err(words) => {
                assert!(!words.is_empty(), "{context} a refusal says why");
                return;
            }
        };
        let mut log = Recovered {
            first: LAST + 1,
            reset: Some((LAST, founding.mark.clone())),
            state: founding.state,
            ..Recovered::default()
        };
        let checkpoint = Checkpointed { index: LAST, mark: founding.mark, state: inherited.state };
        let mut delivered = LAST;
        for _ in 0..2 {
            let opening = Opening {
                group: GroupId::new(0),
                node: NODE,
                members: vec![NODE],
                incarnation: inherited.incarnation,
                seed,
                checkpoint: Some(checkpoint.clone()),
                log: log.clone(),
            };
            let mut out = Output::default();
            let engine = driver.open(&config, opening, &mut out);
            let engine = engine.unwrap_or_else(|words| panic!("{context} it opens: {words}"));
            let mut alone = Alone {
                engine,
                out,
                now: Now::ZERO,
                log,
                next: LAST + 1,
                context: &context,
                timers: BTreeMap::new(),
            };
            alone.decide(delivered, factory.patience());
            delivered += BATCHES;
            let status = alone.engine.status();
            assert_eq!(status.members, [NODE], "{context} it is the only voting member");
            let knows = alone.engine.knows_all();
            assert!(knows.is_ok(), "{context} it knows all that was decided: {knows:?}");
            log = alone.log;
        }
    }
}

/// A shell of one engine, whose writes are durable at once.
struct Alone<'a> {
    engine: Box<dyn Engine>,
    out: Output,
    now: Now,
    log: Recovered,
    /// The next index that is to be delivered.
    next: Index,
    timers: BTreeMap<TimerId, Now>,
    context: &'a str,
}

impl Alone<'_> {
    /// Decides batches until so many are delivered after `before`, the last of an earlier life.
    fn decide(&mut self, before: Index, patience: Duration) {
        self.turn();
        assert!(self.next > before, "{} what was decided is delivered again", self.context);
        let mut placed = Vec::new();
        let mut left = BATCHES;
        while left > 0 {
            if matches!(self.engine.demand(), Demand::Here { .. }) {
                let body = Body::Frames(Bytes::from(format!("{before} {left}")));
                if let Ok(at) = self.engine.propose(self.now, body, &mut self.out) {
                    placed.push(at.index);
                    left -= 1;
                }
                self.turn();
                continue;
            }
            let next = self.timers.iter().min_by_key(|(_, at)| **at).map(|(id, at)| (*id, *at));
            let Some((timer, at)) = next.filter(|(_, at)| *at <= patience) else {
                panic!("{} it wants a batch within {patience:?}", self.context);
            };
            self.timers.remove(&timer);
            self.now = at;
            self.engine.step(self.now, Input::Timer(timer), &mut self.out);
            self.turn();
        }
        let last = placed.last().copied().unwrap_or_default();
        assert!(self.next > last, "{} what it proposed is delivered", self.context);
    }

    /// Everything that follows, until nothing does.
    fn turn(&mut self) {
        loop {
            self.engine.settle(self.now, &mut self.out);
            let fault = self.out.fault.take();
            assert_eq!(fault, None, "{} it does not fault", self.context);
            for (timer, after) in self.out.timers.drain(..) {
                match after {
                    Some(after) => self.timers.insert(timer, self.now + after),
                    None => self.timers.remove(&timer),
                };
            }
            let (writes, deliveries) =
                (std::mem::take(&mut self.out.writes), std::mem::take(&mut self.out.deliveries));
            if writes.is_empty() && deliveries.is_empty() {
                return;
            }
            let durable = writes.last().map(|write| write.seq);
            for write in writes {
                self.write(write.record);
            }
            if let Some(seq) = durable {
                self.engine.step(self.now, Input::Durable(seq), &mut self.out);
            }
            for delivery in deliveries {
                let Deliver::Batch { entry: Entry { index, .. }, .. } = delivery.what else {
                    panic!("{} nobody sent it a snapshot", self.context);
                };
                assert_eq!(index, self.next, "{} in order, from the next index on", self.context);
                self.next += 1;
                let applied = Input::Applied { index, state: [0; 32] };
                self.engine.step(self.now, applied, &mut self.out);
            }
        }
    }

    fn write(&mut self, record: Record) {
        match record {
            Record::Put(entry) => self.log.entries.push(entry),
            Record::Decide { index, tag, proof } => self.log.decided.push((index, tag, proof)),
            Record::State(state) => self.log.state = Some(state),
            Record::Note { index, note } => self.log.notes.push((index, note)),
            Record::Cut { from } => self.log.entries.retain(|entry| entry.index < from),
            other => panic!("{} no checkpoint was made: {other:?}", self.context),
        }
    }
}
