//! An engine whose every turn is looked at.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::engine::{
    Deliver, Demand, Engine, EngineDriver, EngineStatus, Input, Now, Opening, Output, Placed,
};
use quorate_replicator::{MemberRole, NodeId, OpenError};
use quorate_storage::{Body, Entry, Index, Record, Seq};

use super::quorum::{Liar, Lies};
use crate::node::{Life, Node};

/// Something that an engine did.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    /// It began to lead.
    Leads { term: u64 },
    /// It says that this entry is decided, with its mark, and in which term it leads, if it does.
    Delivered { entry: Entry, mark: Bytes, leads: Option<u64> },
    /// It leads in this term, and says that everything up to this index is decided.
    Counted { index: Index, term: u64 },
    /// It sends something that does not wait until its term and its vote are durable.
    SpeaksTooEarly { term: u64 },
    /// It put a snapshot in the place of everything up to here.
    Installed { index: Index, mark: Bytes },
    /// These are the members from this index on; 0 if it does not say.
    Members { index: Index, voters: Vec<NodeId>, learners: Vec<NodeId> },
    /// It has proof that another one broke the rules.
    Evidence(Bytes),
}

/// What an engine did since somebody looked.
pub(super) type Sight = Arc<Mutex<Vec<Seen>>>;

/// Opens nodes of some driver whose engines are looked at.
pub(super) trait Opens: fmt::Debug {
    /// Opens a node; what its engine does is seen by `sight`. One that lies is told which of the processes of its id it is.
    fn open(
        &self,
        life: Life<'_>,
        sight: &Sight,
        lies: Option<usize>,
        now: Duration,
    ) -> Result<Node, OpenError>;
}

/// Opens nodes of this driver.
pub(super) struct Opener<D: EngineDriver> {
    /// The driver of a node, as it is configured when it begins a life.
    driver: Box<dyn Fn(NodeId) -> D>,
    config: D::Config,
    /// What liars do, where validators vote; otherwise one node leads in each term.
    lies: Option<Lies>,
}

impl<D: EngineDriver> Opener<D> {
    /// One node leads in each term, and nobody lies.
    pub(super) fn of_terms(driver: impl Fn(NodeId) -> D + 'static, config: D::Config) -> Self {
        Self { driver: Box::new(driver), config, lies: None }
    }

    /// Validators vote, and some lie.
    pub(super) fn of_votes(
        driver: impl Fn(NodeId) -> D + 'static,
        config: D::Config,
        lies: Lies,
    ) -> Self {
        Self { driver: Box::new(driver), config, lies: Some(lies) }
    }
}

impl<D: EngineDriver> fmt::Debug for Opener<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(D::NAME).finish_non_exhaustive()
    }
}

impl<D: EngineDriver> Opens for Opener<D> {
    fn open(
        &self,
        life: Life<'_>,
        sight: &Sight,
        lies: Option<usize>,
        now: Duration,
    ) -> Result<Node, OpenError> {
        let watched = WatchedDriver {
            driver: (self.driver)(life.node),
            sight: Arc::clone(sight),
            has_terms: self.lies.is_none(),
            lies: self.lies.clone().zip(lies),
        };
        Node::open(&watched, &self.config, life, now)
    }
}

/// Opens engines of another driver and looks at them.
#[derive(Debug)]
struct WatchedDriver<D> {
    driver: D,
    sight: Sight,
    has_terms: bool,
    lies: Option<(Lies, usize)>,
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
        let (node, seed) = (opening.node, opening.seed);
        let engine = self.driver.open(config, opening, out)?;
        if let Some((lies, twin)) = &self.lies {
            return Ok(Box::new(Liar::new(engine, lies.clone(), node, *twin, seed)));
        }
        let (sight, term, has_terms) =
            (Arc::clone(&self.sight), engine.status().term, self.has_terms);
        Ok(Box::new(Watched {
            engine,
            node,
            sight,
            has_terms,
            leads: None,
            term,
            term_stored_by: 0,
        }))
    }
}

#[derive(Debug)]
struct Watched {
    engine: Box<dyn Engine>,
    node: NodeId,
    sight: Sight,
    /// Whether one node leads in each term.
    has_terms: bool,
    /// The term in which it leads.
    leads: Option<u64>,
    /// The newest term that it has written, and by which write it is stored.
    term: u64,
    term_stored_by: Seq,
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
        let sight = Arc::clone(&self.sight);
        let mut sight = sight.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, members) in &out.members {
            let of = |role| {
                let members = members.iter().filter(move |member| member.role == role);
                members.map(|member| member.node).collect()
            };
            let (voters, learners) = (of(MemberRole::Voter), of(MemberRole::Learner));
            sight.push(Seen::Members { index: *index, voters, learners });
        }
        sight.extend(out.evidence.iter().cloned().map(Seen::Evidence));
        self.settle_term(out, &mut sight);
        for delivery in &out.deliveries {
            sight.push(match &delivery.what {
                Deliver::Batch { entry, mark, .. } => {
                    Seen::Delivered { entry: entry.clone(), mark: mark.clone(), leads: self.leads }
                }
                Deliver::Install { index, mark } => {
                    Seen::Installed { index: *index, mark: mark.clone() }
                }
            });
        }
        if let (Some(term), false) = (self.leads, out.deliveries.is_empty()) {
            sight.push(Seen::Counted { index: self.engine.status().decided, term });
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

impl Watched {
    /// What a turn does to the term of the node.
    fn settle_term(&mut self, out: &Output, sight: &mut Vec<Seen>) {
        if !self.has_terms {
            return;
        }
        let state = out.writes.iter().find(|write| matches!(write.record, Record::State(_)));
        if let Some(state) = state {
            let term = self.engine.status().term;
            if term > self.term {
                (self.term, self.term_stored_by) = (term, state.seq);
            }
        }
        if out.sends.iter().any(|send| send.after < self.term_stored_by) {
            sight.push(Seen::SpeaksTooEarly { term: self.term });
        }
        let leads = self.engine.proposer() == Some(self.node);
        if leads && self.leads.is_none() {
            let term = self.engine.status().term;
            self.leads = Some(term);
            sight.push(Seen::Leads { term });
        }
        self.leads = self.leads.filter(|_| leads);
    }
}
