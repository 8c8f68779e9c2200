//! The local driver, which decides and confirms nothing while it is told so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quorate_driver_local::{Local, LocalConfig};
use quorate_engine::engine::{
    Demand, Engine, EngineDriver, EngineStatus, Input, Now, Opening, Output, Placed, ReadAnswer,
};
use quorate_replicator::NodeId;
use quorate_storage::Body;

/// The local driver with a switch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stallable(pub(crate) Arc<AtomicBool>);

#[derive(Debug)]
struct StallableEngine(Box<dyn Engine>, Arc<AtomicBool>);

impl EngineDriver for Stallable {
    const NAME: &'static str = "stallable";
    type Config = LocalConfig;

    fn open(
        &self,
        config: &LocalConfig,
        opening: Opening,
        out: &mut Output,
    ) -> Result<Box<dyn Engine>, String> {
        let engine = Local.open(config, opening, out)?;
        Ok(Box::new(StallableEngine(engine, Arc::clone(&self.0))))
    }
}

impl Engine for StallableEngine {
    fn step(&mut self, now: Now, input: Input, out: &mut Output) {
        match input {
            // Like a node that has lost its quorum, it can confirm nothing.
            Input::Read(id) if self.1.load(Ordering::SeqCst) => {
                out.reads.push((id, ReadAnswer::Retry));
            }
            input => self.0.step(now, input, out),
        }
    }

    fn propose(&mut self, now: Now, batch: Body, out: &mut Output) -> Result<Placed, Body> {
        self.0.propose(now, batch, out)
    }

    fn settle(&mut self, now: Now, out: &mut Output) {
        self.0.settle(now, out);
    }

    fn demand(&self) -> Demand {
        if self.1.load(Ordering::SeqCst) { Demand::Nowhere } else { self.0.demand() }
    }

    fn proposer(&self) -> Option<NodeId> {
        self.0.proposer()
    }

    fn status(&self) -> EngineStatus {
        self.0.status()
    }
}
