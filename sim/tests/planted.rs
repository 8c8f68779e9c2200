//! Controls: engines that break one rule each must be found out, or a clean run says nothing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quorate_driver_raft::{RaftConfig, RaftDriver};
use quorate_engine::engine::{
    Deliver, Demand, Engine, EngineDriver, EngineStatus, Input, Now, Opening, Output, Placed,
    ReadAnswer,
};
use quorate_replicator::NodeId;
use quorate_sim::{RaftSubject, Subject, Tuning, run_cluster};
use quorate_storage::{Body, Index, Record};

/// What is wrong with an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planted {
    /// Nothing.
    Nothing,
    /// Votes and acknowledgements leave before what they promise is durable.
    HeldSendsGoEarly,
    /// What is written counts as durable at once.
    DurableTooEarly,
    /// Reads are answered with what this node has delivered.
    ReadsLocally,
    /// Checkpoints carry the members of the beginning.
    StaleMark,
    /// A node whose disk was lost comes back as if it had lost nothing.
    WipedRejoins,
    /// Snapshots are put in force without a log that begins after them.
    NoReset,
    /// The log forgets what was cut from it only in memory.
    NeverCuts,
    /// What it stored last is not stored.
    ForgetsState,
    /// It does not hear that anything is durable any more after a while.
    Deaf,
}

#[derive(Clone, Debug)]
struct PlantedSubject(Planted);

impl Subject for PlantedSubject {
    type Driver = PlantedDriver;

    fn driver(&self) -> PlantedDriver {
        PlantedDriver { planted: self.0, identities: Arc::default() }
    }

    fn config(&self, tuning: &Tuning) -> RaftConfig {
        RaftSubject::tuned(tuning)
    }
}

#[derive(Debug)]
struct PlantedDriver {
    planted: Planted,
    /// The first incarnation of each node, and the state that went with it.
    identities: Arc<Mutex<BTreeMap<NodeId, Identity>>>,
}

#[derive(Clone, Debug)]
struct Identity {
    incarnation: [u8; 16],
    state: Option<Bytes>,
}

impl EngineDriver for PlantedDriver {
    const NAME: &'static str = "raft";
    type Config = RaftConfig;

    fn open(
        &self,
        config: &RaftConfig,
        mut opening: Opening,
        out: &mut Output,
    ) -> Result<Box<dyn Engine>, String> {
        let node = opening.node;
        if self.planted == Planted::WipedRejoins {
            let mut known = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
            let first = Identity { incarnation: opening.incarnation, state: None };
            let known = known.entry(node).or_insert(first);
            if known.incarnation != opening.incarnation && opening.log.state.is_none() {
                opening.log.state.clone_from(&known.state);
            }
            opening.incarnation = known.incarnation;
        }
        let delivered = opening.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.index);
        let engine = RaftDriver.open(config, opening, out)?;
        let identities = Arc::clone(&self.identities);
        let planted = self.planted;
        Ok(Box::new(Wrong { engine, planted, node, identities, delivered, mark: None, heard: 0 }))
    }
}

#[derive(Debug)]
struct Wrong {
    engine: Box<dyn Engine>,
    planted: Planted,
    node: NodeId,
    identities: Arc<Mutex<BTreeMap<NodeId, Identity>>>,
    delivered: Index,
    mark: Option<Bytes>,
    heard: u32,
}

impl Engine for Wrong {
    fn step(&mut self, now: Now, input: Input, out: &mut Output) {
        match (self.planted, input) {
            (Planted::ReadsLocally, Input::Read(id)) => {
                out.reads.push((id, ReadAnswer::At(self.delivered)));
            }
            (Planted::DurableTooEarly, Input::Durable(_)) => {}
            (Planted::Deaf, Input::Durable(_)) if self.heard > 200 => {}
            (_, input) => {
                self.heard += u32::from(matches!(input, Input::Durable(_)));
                self.engine.step(now, input, out);
            }
        }
    }

    fn propose(&mut self, now: Now, batch: Body, out: &mut Output) -> Result<Placed, Body> {
        self.engine.propose(now, batch, out)
    }

    fn settle(&mut self, now: Now, out: &mut Output) {
        self.engine.settle(now, out);
        if self.planted == Planted::DurableTooEarly && out.last_seq() > 0 {
            self.engine.step(now, Input::Durable(out.last_seq()), out);
            self.engine.settle(now, out);
        }
        match self.planted {
            Planted::HeldSendsGoEarly => out.sends.iter_mut().for_each(|send| send.after = 0),
            Planted::WipedRejoins => {
                let mut known = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
                for write in &out.writes {
                    if let (Record::State(state), Some(known)) =
                        (&write.record, known.get_mut(&self.node))
                    {
                        known.state.get_or_insert_with(|| state.clone());
                    }
                }
            }
            Planted::NoReset => {
                let mut last = None;
                for write in &mut out.writes {
                    match &write.record {
                        Record::Reset { .. } => {
                            write.record = last.clone().unwrap_or(Record::Trim { below: 1 });
                        }
                        record @ Record::Trim { .. } => last = Some(record.clone()),
                        _ => {}
                    }
                }
            }
            Planted::NeverCuts => {
                for write in &mut out.writes {
                    if matches!(write.record, Record::Cut { .. }) {
                        write.record = Record::Trim { below: 1 };
                    }
                }
            }
            Planted::ForgetsState => {
                self.heard += out.writes.len() as u32;
                for write in &mut out.writes {
                    if matches!(write.record, Record::State(_)) && self.heard > 20 {
                        write.record = Record::Trim { below: 1 };
                    }
                }
            }
            _ => {}
        }
        for delivery in &mut out.deliveries {
            match &mut delivery.what {
                Deliver::Batch { entry, mark } => {
                    self.delivered = entry.index;
                    let first = self.mark.get_or_insert_with(|| mark.clone());
                    if self.planted == Planted::StaleMark {
                        mark.clone_from(first);
                    }
                }
                Deliver::Install { index, .. } => self.delivered = *index,
            }
        }
    }

    fn demand(&self) -> Demand {
        self.engine.demand()
    }

    fn proposer(&self) -> Option<NodeId> {
        self.engine.proposer()
    }

    fn status(&self) -> EngineStatus {
        self.engine.status()
    }
}

/// The first seed that shows that something is wrong, and how.
fn found(planted: Planted, mut seeds: Range<u64>) -> Option<(u64, String)> {
    seeds.find_map(|seed| {
        let run = || run_cluster(&PlantedSubject(planted), seed, None);
        match std::panic::catch_unwind(run) {
            Ok(Ok(_)) => None,
            Ok(Err(violation)) => Some((seed, violation.what)),
            Err(_) => Some((seed, "a panic".to_owned())),
        }
    })
}

fn is_found(planted: Planted, seeds: Range<u64>) {
    let (seed, what) = found(planted, seeds.clone())
        .unwrap_or_else(|| panic!("{planted:?} is not found in the seeds {seeds:?}"));
    println!("{planted:?}: seed {seed}: {what}");
}

#[test]
fn a_wrapper_that_does_nothing_wrong_is_not_found() {
    assert_eq!(found(Planted::Nothing, 0..5), None);
}

#[test]
fn what_leaves_before_it_is_durable_is_found() {
    is_found(Planted::HeldSendsGoEarly, 0..10);
    is_found(Planted::DurableTooEarly, 0..10);
}

#[test]
fn a_read_that_asks_nobody_is_found() {
    is_found(Planted::ReadsLocally, 0..10);
}

#[test]
fn members_that_a_checkpoint_does_not_know_are_found() {
    is_found(Planted::StaleMark, 0..20);
}

#[test]
fn a_log_that_keeps_what_is_void_is_found() {
    is_found(Planted::NeverCuts, 0..20);
    is_found(Planted::NoReset, 0..20);
}

#[test]
fn votes_that_are_forgotten_are_found() {
    // The first ones show nothing.
    is_found(Planted::ForgetsState, 60..500);
}

#[test]
fn a_lost_disk_that_votes_again_is_found() {
    // The first ones show nothing.
    is_found(Planted::WipedRejoins, 70..500);
}

#[test]
fn an_engine_that_stands_still_is_found() {
    is_found(Planted::Deaf, 0..20);
}
