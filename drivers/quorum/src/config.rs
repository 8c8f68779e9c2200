//! What can be set about the quorum driver.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What can be set about the quorum driver: `[driver.quorum]`. Timeouts and `rotate_every` should be the same on all nodes; who
/// the validators are, and how they sign, stands in the genesis, which must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct QuorumConfig {
    /// The genesis of the cluster, the same file on all nodes.
    pub genesis_file: PathBuf,
    /// What this node signs with. Nobody else may read the file.
    pub key_file: PathBuf,
    /// What it is to sign with from the height on from which the validators know it by that key: `quorate validator new-key` makes it. Read
    /// at the start, if it is there.
    pub next_key_file: PathBuf,
    /// How long the others wait for a proposal before they vote for none. As long as it takes to send a full batch to all, to
    /// write and to check it; so long is nothing decided after a proposer is lost. From 1 ms to `timeout_max`.
    #[serde(with = "humantime_serde")]
    pub propose_timeout: Duration,
    /// How long to wait for further first votes when a quorum of them does not agree. From 1 ms to `timeout_max`.
    #[serde(with = "humantime_serde")]
    pub prevote_timeout: Duration,
    /// The same for second votes.
    #[serde(with = "humantime_serde")]
    pub precommit_timeout: Duration,
    /// By how much each of the above is longer in each round after the first: rounds become long enough for any network.
    #[serde(with = "humantime_serde")]
    pub timeout_delta: Duration,
    /// No timeout is longer than this.
    #[serde(with = "humantime_serde")]
    pub timeout_max: Duration,
    /// How often votes are sent again while nothing is decided. From 1 ms to `timeout_max`.
    #[serde(with = "humantime_serde")]
    pub rebroadcast_interval: Duration,
    /// After how many heights another validator proposes, even if the one who does is well: so long can one that ignores what it
    /// does not like be in the way. Each change costs nothing if the next one is well. At least 1.
    pub rotate_every: u64,
}

impl Default for QuorumConfig {
    fn default() -> Self {
        Self {
            genesis_file: PathBuf::from("genesis.toml"),
            key_file: PathBuf::from("validator.key"),
            next_key_file: PathBuf::from("next.key"),
            propose_timeout: Duration::from_millis(150),
            prevote_timeout: Duration::from_millis(50),
            precommit_timeout: Duration::from_millis(50),
            timeout_delta: Duration::from_millis(50),
            timeout_max: Duration::from_secs(3),
            rebroadcast_interval: Duration::from_millis(200),
            rotate_every: 1000,
        }
    }
}

/// Times, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) propose: Duration,
    pub(crate) prevote: Duration,
    pub(crate) precommit: Duration,
    pub(crate) longer: Duration,
    pub(crate) longest: Duration,
    pub(crate) rebroadcast: Duration,
}

impl QuorumConfig {
    /// What is wrong, in words, or the times.
    pub(crate) fn check(&self) -> Result<Timing, String> {
        let (shortest, longest) = (Duration::from_millis(1), self.timeout_max);
        if longest > Duration::from_secs(60) {
            return Err(format!("timeout_max = {longest:?} is more than a minute"));
        }
        for (name, value) in [
            ("propose_timeout", self.propose_timeout),
            ("prevote_timeout", self.prevote_timeout),
            ("precommit_timeout", self.precommit_timeout),
            ("timeout_delta", self.timeout_delta),
            ("rebroadcast_interval", self.rebroadcast_interval),
        ] {
            if !(shortest..=longest).contains(&value) {
                return Err(format!(
                    "{name} = {value:?} is not between {shortest:?} and timeout_max = {longest:?}"
                ));
            }
        }
        if self.rotate_every == 0 {
            return Err(
                "rotate_every = 0: no height would have a proposer; 1 changes it each time".into(),
            );
        }
        Ok(Timing {
            propose: self.propose_timeout,
            prevote: self.prevote_timeout,
            precommit: self.precommit_timeout,
            longer: self.timeout_delta,
            longest,
            rebroadcast: self.rebroadcast_interval,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_said() {
        let default = QuorumConfig::default();
        assert!(default.check().is_ok());
        let wrong = [
            QuorumConfig { propose_timeout: Duration::ZERO, ..default.clone() },
            QuorumConfig { prevote_timeout: Duration::from_secs(4), ..default.clone() },
            QuorumConfig { timeout_max: Duration::from_secs(61), ..default.clone() },
            QuorumConfig { rotate_every: 0, ..default },
        ];
        for config in wrong {
            assert!(config.check().is_err(), "{config:?}");
        }
    }
}
