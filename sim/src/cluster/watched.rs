//! An engine whose every turn is looked at.

use std::sync::{Arc, Mutex, PoisonError};

use quorate_engine::engine::{
    Deliver, Demand, Engine, EngineDriver, EngineStatus, Input, Now, Opening, Output, Placed,
};
use quorate_replicator::{MemberRole, NodeId};
use quorate_storage::{Body, Index, Tag};

/// Something that an engine did.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    /// It began to lead.
    Leads { term: u64 },
    /// It says that this entry is decided.
    Delivered { index: Index, tag: Tag },
    /// It put a snapshot in the place of everything up to here.
    Installed { index: Index },
    /// These are the members from this index on; 0 if it does not say.
    Members { index: Index, voters: Vec<NodeId>, learners: Vec<NodeId> },
}

/// What an engine did since somebody looked.
pub(super) type Sight = Arc<Mutex<Vec<Seen>>>;

/// Opens engines of another driver and looks at them.
#[derive(Debug)]
pub(super) struct WatchedDriver<D> {
    pub(super) driver: Arc<D>,
    pub(super) sight: Sight,
}

impl<D: EngineDriver> EngineDriver for WatchedDriver<D> {
    const NAME: &'static str = D::NAME;
    type Config = D::Config;

    fn open(
        &self,
        config: &D::Config,
        opening: Opening,
        out: &mut Output,
    ) -> Result<Box<dyn Engine>, String> {
        let node = opening.node;
        let engine = self.driver.open(config, opening, out)?;
        Ok(Box::new(Watched { engine, node, sight: Arc::clone(&self.sight), leads: false }))
    }
}

#[derive(Debug)]
struct Watched {
    engine: Box<dyn Engine>,
    node: NodeId,
    sight: Sight,
    leads: bool,
}

impl Engine for Watched {
    fn step(&mut self, now: Now, input: Input, out: &mut Output) {
        self.engine.step(now, input, out);
    }

    fn propose(&mut self, now: Now, batch: Body, out: &mut Output) -> Result<Placed, Body> {
        self.engine.propose(now, batch, out)
    }

    fn settle(&mut self, now: Now, out: &mut Output) {
        self.engine.settle(now, out);
        let mut sight = self.sight.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, members) in &out.members {
            let of = |role| {
                let members = members.iter().filter(move |member| member.role == role);
                members.map(|member| member.node).collect()
            };
            let (voters, learners) = (of(MemberRole::Voter), of(MemberRole::Learner));
            sight.push(Seen::Members { index: *index, voters, learners });
        }
        let leads = self.engine.proposer() == Some(self.node);
        if leads && !self.leads {
            sight.push(Seen::Leads { term: self.engine.status().term });
        }
        self.leads = leads;
        for delivery in &out.deliveries {
            sight.push(match &delivery.what {
                Deliver::Batch { entry, .. } => {
                    Seen::Delivered { index: entry.index, tag: entry.tag }
                }
                Deliver::Install { index, .. } => Seen::Installed { index: *index },
            });
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
