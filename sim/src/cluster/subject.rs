//! Which driver is simulated, and what a seed makes of it.

use quorate_driver_raft::{RaftConfig, RaftDriver};
use quorate_storage::Tag;

use super::quorum::Votes;
use super::swarm::Swarm;
use super::watched::{Opener, Opens};

/// What a seed makes of a driver: its configuration, the nodes, the load, and what goes wrong.
#[derive(Debug)]
pub struct Group {
    pub(super) opens: Box<dyn Opens>,
    pub(super) swarm: Swarm,
    /// What must hold of votes, where validators vote.
    pub(super) votes: Option<Votes>,
    /// When the power of one node fails, at one of the things that it does.
    pub(super) crash: Option<Crash>,
    /// In which term an entry was proposed first, where leaders count copies of their own term only.
    pub(super) term_of: Option<fn(Tag) -> Option<u64>>,
}

/// The power of one node fails after the effect of this number: a message that leaves, or half a write of its log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crash {
    pub(super) place: usize,
    pub(super) at: u64,
}

/// A driver to be simulated.
pub trait Subject {
    /// What a seed makes of it.
    fn draw(&self, rng: &mut fastrand::Rng) -> Group;
}

/// The Raft driver as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct RaftSubject;

impl Subject for RaftSubject {
    fn draw(&self, rng: &mut fastrand::Rng) -> Group {
        let (swarm, tuning) = Swarm::draw(rng);
        let mut config = RaftConfig::default();
        config.election_timeout = swarm.patience;
        config.heartbeat_interval = swarm.patience / 5;
        config.batches_in_flight = tuning.batches_in_flight;
        config.catch_up_bytes = tuning.catch_up_bytes;
        config.cache_bytes = 16 << 10;
        Group {
            opens: Box::new(Opener::of_terms(|_| RaftDriver, config)),
            swarm,
            votes: None,
            crash: None,
            term_of: Some(|tag| tag.0.first_chunk().map(|term| u64::from_be_bytes(*term))),
        }
    }
}

/// What a seed sets of Raft beside the election timeout, which is the patience of the whole cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct RaftTuning {
    /// Batches that may be undecided at once.
    pub(super) batches_in_flight: u32,
    /// Bytes of the log that are kept for followers that lag.
    pub(super) catch_up_bytes: u64,
}
