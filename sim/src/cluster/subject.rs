//! Which driver is simulated, and how it is set.

use std::time::Duration;

use quorate_driver_raft::{RaftConfig, RaftDriver};
use quorate_engine::engine::EngineDriver;
use quorate_storage::Tag;

/// What a seed sets of a driver.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Tuning {
    /// After what time without a leader there is an election.
    pub election_timeout: Duration,
    /// Batches that may be undecided at once.
    pub batches_in_flight: u32,
    /// Bytes of the log that are kept for followers that lag.
    pub catch_up_bytes: u64,
}

impl Tuning {
    pub(super) const fn new(
        election_timeout: Duration,
        batches_in_flight: u32,
        catch_up_bytes: u64,
    ) -> Self {
        Self { election_timeout, batches_in_flight, catch_up_bytes }
    }
}

/// A driver to be simulated.
pub trait Subject {
    /// The driver.
    type Driver: EngineDriver;

    /// The driver.
    fn driver(&self) -> Self::Driver;

    /// The term in which an entry was first proposed, if its tag says so and leaders may count copies of their own term only.
    fn term_of(&self) -> fn(Tag) -> Option<u64> {
        |_| None
    }

    /// Its configuration for a seed.
    fn config(&self, tuning: &Tuning) -> <Self::Driver as EngineDriver>::Config;
}

/// The Raft driver as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct RaftSubject;

impl Subject for RaftSubject {
    type Driver = RaftDriver;

    fn driver(&self) -> RaftDriver {
        RaftDriver
    }

    fn term_of(&self) -> fn(Tag) -> Option<u64> {
        |tag| tag.0.first_chunk().map(|term| u64::from_be_bytes(*term))
    }

    fn config(&self, tuning: &Tuning) -> RaftConfig {
        let mut config = RaftConfig::default();
        config.election_timeout = tuning.election_timeout;
        config.heartbeat_interval = tuning.election_timeout / 5;
        config.batches_in_flight = tuning.batches_in_flight;
        config.catch_up_bytes = tuning.catch_up_bytes;
        config.cache_bytes = 16 << 10;
        config
    }
}
