//! What can be set about the Raft driver.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What can be set about the Raft driver: `[driver.raft]`. All nodes should have the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RaftConfig {
    /// A follower that hears nothing of a leader for a time drawn from this to one and a half of this asks to become
    /// leader; so long is nothing decided after a leader is lost. Shorter than the pauses of disk, network or scheduler, it
    /// makes leaders change without need. From 20 ms to 60 s.
    #[serde(with = "humantime_serde")]
    pub election_timeout: Duration,
    /// How often an idle leader tells that it is there; at most a third of the election timeout. Shorter finds lost messages
    /// sooner, and costs a message to each follower each time.
    #[serde(with = "humantime_serde")]
    pub heartbeat_interval: Duration,
    /// Batches of the leader that may be undecided at once, from 1 to 64. With one, a batch gathers while the one before is
    /// decided, which makes the largest batches; more hide the way to the followers, and make batches smaller.
    pub batches_in_flight: u32,
    /// Most bytes of entries on the way to one follower, at least 1 MiB: what it takes to fill the link (bandwidth times
    /// delay), and what a follower that is slow may cost in memory.
    pub inflight_bytes: usize,
    /// Most bytes of entries of one group kept in memory for followers that lag, beside what is not applied yet; none while
    /// it sleeps. Older ones are read from the log.
    pub cache_bytes: usize,
    /// Bytes of the log that are kept below a checkpoint for followers that lag, where one would have to be sent a
    /// snapshot instead.
    pub catch_up_bytes: u64,
    /// As `catch_up_bytes`, while a snapshot is on its way to somebody: what is written meanwhile, or it is too old when it
    /// has arrived.
    pub snapshot_catch_up_bytes: u64,
}

impl Default for RaftConfig {
    fn default() -> Self {
        Self {
            election_timeout: Duration::from_secs(1),
            heartbeat_interval: Duration::from_millis(200),
            batches_in_flight: 4,
            inflight_bytes: 16 << 20,
            cache_bytes: 8 << 20,
            catch_up_bytes: 16 << 20,
            snapshot_catch_up_bytes: 1 << 30,
        }
    }
}

impl RaftConfig {
    /// What is wrong, in words, or the timing in ticks.
    pub(crate) fn check(&self) -> Result<Timing, String> {
        let Self { election_timeout, heartbeat_interval, .. } = self;
        let (shortest, longest) = (Duration::from_millis(20), Duration::from_secs(60));
        if !(shortest..=longest).contains(election_timeout) {
            return Err(format!(
                "election_timeout = {election_timeout:?} is not between {shortest:?} and {longest:?}"
            ));
        }
        if heartbeat_interval.is_zero() || *heartbeat_interval > *election_timeout / 3 {
            return Err(format!(
                "heartbeat_interval = {heartbeat_interval:?} is not between 1 ms and a third of election_timeout = {election_timeout:?}"
            ));
        }
        if !(1..=64).contains(&self.batches_in_flight) {
            return Err(format!(
                "batches_in_flight = {} is not between 1 and 64",
                self.batches_in_flight
            ));
        }
        if self.inflight_bytes < 1 << 20 {
            return Err(format!(
                "inflight_bytes = {} is less than the {} of one full message",
                self.inflight_bytes,
                1 << 20
            ));
        }
        let tick = *election_timeout / ELECTION_TICKS;
        let heartbeat = heartbeat_interval.as_nanos().div_ceil(tick.as_nanos());
        let heartbeat = usize::try_from(heartbeat).expect("at most a third of the ticks");
        Ok(Timing { tick, election: ELECTION_TICKS as usize, heartbeat })
    }
}

/// How many ticks an election timeout has: followers draw one of half as many moments, and the moments of two nodes are
/// not the same, as each begins to tick at a moment of its own.
const ELECTION_TICKS: u32 = 20;

/// Times in ticks, as the core counts them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) tick: Duration,
    pub(crate) election: usize,
    pub(crate) heartbeat: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_said() {
        let default = RaftConfig::default();
        assert!(default.check().is_ok());
        let wrong = [
            RaftConfig { election_timeout: Duration::from_millis(1), ..default.clone() },
            RaftConfig { heartbeat_interval: Duration::from_secs(1), ..default.clone() },
            RaftConfig { heartbeat_interval: Duration::ZERO, ..default.clone() },
            RaftConfig { batches_in_flight: 0, ..default.clone() },
            RaftConfig { inflight_bytes: 1, ..default },
        ];
        for config in wrong {
            assert!(config.check().is_err(), "{config:?}");
        }
    }
}
