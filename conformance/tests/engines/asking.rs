//! An engine for one node that asks its host: whether a candidate is valid before it writes it, what stood in the log, and for a
//! batch where others answer a read with an index.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use quorate_conformance::EngineFactory;
use quorate_engine::engine::{
    Deliver, Delivery, Demand, Engine, EngineDriver, EngineStatus, Input, Now, Opening, Output,
    Placed, ReadAnswer, Verdict,
};
use quorate_replicator::{AdminError, NodeId, Role};
use quorate_storage::{Body, Entry, Index, Record, Seq, Tag};

const PROOF: &[u8] = b"sure";
const WINDOW: usize = 2;

#[derive(Debug)]
pub(crate) struct Factory;

impl EngineFactory for Factory {
    type Driver = Driver;

    fn nodes(&self) -> usize {
        1
    }

    fn driver(&self) -> Driver {
        Driver
    }

    fn seeds(&self) -> u64 {
        5
    }
}

#[derive(Debug)]
pub(crate) struct Driver;

#[derive(Debug)]
struct Asking {
    node: NodeId,
    given: Index,
    decided: Index,
    /// Candidates that nobody has judged, by ticket.
    asked: BTreeMap<u64, Entry>,
    in_flight: VecDeque<(Seq, Index)>,
    tickets: u64,
    /// Reads of the log, each with its first index.
    fetches: BTreeMap<u64, Index>,
}

impl EngineDriver for Driver {
    const NAME: &'static str = "asking";
    type Config = ();

    fn open(&self, (): &(), opening: Opening, out: &mut Output) -> Result<Box<dyn Engine>, String> {
        let mut last = opening.checkpoint.map_or(0, |checkpoint| checkpoint.index);
        for (index, tag, proof) in opening.log.decided {
            let is_it = |entry: &&Entry| (entry.index, entry.tag) == (index, tag);
            if index == last + 1 {
                assert_eq!(&proof[..], PROOF, "the log gives back what was written");
                let entry = opening.log.entries.iter().find(is_it).expect("it was put before");
                last = index;
                out.deliveries.push(delivery(0, entry.clone()));
            }
        }
        Ok(Box::new(Asking {
            node: opening.node,
            given: last,
            decided: last,
            asked: BTreeMap::new(),
            in_flight: VecDeque::new(),
            tickets: 0,
            fetches: BTreeMap::new(),
        }))
    }
}

const fn delivery(after: Seq, entry: Entry) -> Delivery {
    Delivery { after, what: Deliver::Batch { entry, mark: Bytes::new(), proof: Bytes::new() } }
}

impl Engine for Asking {
    fn step(&mut self, _: Now, input: Input, out: &mut Output) {
        match input {
            Input::Checked { ticket, verdict } => {
                let Some(entry) = self.asked.remove(&ticket) else { return };
                let (index, tag) = (entry.index, entry.tag);
                let valid = verdict == Verdict::Valid;
                assert!(valid && self.in_flight.is_empty(), "R10: what is below is applied");
                out.write(false, Record::Put(entry.clone()));
                let proof = Bytes::from_static(PROOF);
                let seq = out.write(true, Record::Decide { index, tag, proof });
                out.deliveries.push(delivery(seq, entry));
                self.in_flight.push_back((seq, index));
            }
            Input::Durable(seq) => {
                while let Some((_, index)) = self.in_flight.pop_front_if(|(at, _)| *at <= seq) {
                    self.decided = index;
                }
            }
            Input::Read(id) => out.reads.push((id, ReadAnswer::ThroughLog)),
            Input::Checkpointed { index, trim_below, .. } => {
                out.write(false, Record::Trim { below: trim_below });
                self.tickets += 1;
                self.fetches.insert(self.tickets, trim_below);
                out.fetches.push((self.tickets, trim_below..index + 1, 1 << 20));
            }
            Input::Fetched { ticket, entries } => {
                let Some(first) = self.fetches.remove(&ticket) else { return };
                for ((entry, proof), index) in entries.into_iter().zip(first..) {
                    assert_eq!((entry.index, &proof[..]), (index, PROOF), "it reads what it wrote");
                }
            }
            Input::Admin { ticket, .. } => {
                out.admin.push((ticket, Err(AdminError::Unsupported { driver: "asking".into() })));
            }
            _ => {}
        }
    }

    fn propose(&mut self, _: Now, body: Body, out: &mut Output) -> Result<Placed, Body> {
        self.given += 1;
        self.tickets += 1;
        let placed = Placed { index: self.given, tag: Tag([7; 32]) };
        let entry = Entry { index: placed.index, tag: placed.tag, head: Bytes::new(), body };
        self.asked.insert(self.tickets, entry.clone());
        out.checks.push((self.tickets, entry));
        Ok(placed)
    }

    fn settle(&mut self, _: Now, _: &mut Output) {}

    fn demand(&self) -> Demand {
        match WINDOW.saturating_sub(self.asked.len() + self.in_flight.len()) {
            0 => Demand::Nowhere,
            free => Demand::Here { batches: u32::try_from(free).unwrap(), members: false },
        }
    }

    fn status(&self) -> EngineStatus {
        EngineStatus {
            proposer: Some(self.node),
            decided: self.decided,
            members: vec![self.node],
            ..EngineStatus::new(Role::Leader)
        }
    }
}
