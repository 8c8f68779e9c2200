//! What happens to a message on its way over one link: decided here, carried out elsewhere.
//!
//! The model is sans-IO and seeded. The hub asks it with tokio's clock, the single-threaded simulator with its own;
//! both get the same fates from the same seed.

use std::time::Duration;

use quorate_replicator::{Channel, NodeId};
use serde::{Deserialize, Serialize};

/// What goes wrong on a link. All defaults mean: nothing, and no delay.
///
/// ```
/// # use std::time::Duration;
/// # use quorate_transport_memory::LinkFaults;
/// let faults = LinkFaults::none().delay(Duration::from_millis(1)..=Duration::from_millis(5)).loss(0.01);
/// faults.check()?;
/// # Ok::<(), quorate_transport_memory::FaultsError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LinkFaults {
    /// The shortest time that a message takes.
    #[serde(with = "humantime_serde")]
    pub delay_min: Duration,
    /// The longest time that a message takes, unless it waits behind an earlier one of its channel.
    #[serde(with = "humantime_serde")]
    pub delay_max: Duration,
    /// The share of messages that vanish, from 0 to 1.
    pub loss: f64,
    /// The share of messages that arrive twice, from 0 to 1. Breaks the contract of transports on purpose.
    pub duplication: f64,
    /// The share of messages that are held back so that later ones overtake them, from 0 to 1. Breaks the contract
    /// of transports on purpose.
    pub reordering: f64,
    /// How long a message is held back at most when it is reordered or is the second of a pair.
    #[serde(with = "humantime_serde")]
    pub held_back_max: Duration,
}

impl LinkFaults {
    /// A link without delay and without faults.
    pub fn none() -> Self {
        Self::default()
    }

    /// Messages take a time drawn evenly from `range`.
    #[must_use]
    pub fn delay(self, range: std::ops::RangeInclusive<Duration>) -> Self {
        Self { delay_min: *range.start(), delay_max: *range.end(), ..self }
    }

    /// This share of messages vanishes.
    #[must_use]
    pub fn loss(self, share: f64) -> Self {
        Self { loss: share, ..self }
    }

    /// This share of messages arrives twice, the second up to `held_back_max` later.
    #[must_use]
    pub fn duplication(self, share: f64, held_back_max: Duration) -> Self {
        Self { duplication: share, held_back_max, ..self }
    }

    /// This share of messages is held back for up to `held_back_max` while later ones pass.
    #[must_use]
    pub fn reordering(self, share: f64, held_back_max: Duration) -> Self {
        Self { reordering: share, held_back_max, ..self }
    }

    /// Whether every message arrives once, in order and at once.
    pub fn is_none(&self) -> bool {
        self.delay_max.is_zero()
            && self.loss == 0.0
            && self.duplication == 0.0
            && self.reordering == 0.0
    }

    /// Whether these values make sense together.
    ///
    /// # Errors
    ///
    /// Names the first value that does not.
    pub fn check(&self) -> Result<(), FaultsError> {
        for (name, share) in [
            ("loss", self.loss),
            ("duplication", self.duplication),
            ("reordering", self.reordering),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err(FaultsError::Share { name, share });
            }
        }
        if self.delay_min > self.delay_max {
            return Err(FaultsError::Delay { min: self.delay_min, max: self.delay_max });
        }
        Ok(())
    }
}

/// Why a description of faults makes no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultsError {
    /// A share is not between 0 and 1.
    #[error("{name} is {share}, a share from 0 to 1 is needed")]
    Share {
        /// Which.
        name: &'static str,
        /// Its value.
        share: f64,
    },
    /// The shortest delay is longer than the longest.
    #[error("delay_min {min:?} is longer than delay_max {max:?}; swap them or raise delay_max")]
    Delay {
        /// The shortest.
        min: Duration,
        /// The longest.
        max: Duration,
    },
}

/// What becomes of one message. Moments are of the clock that the model was asked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "a message arrives never, once or twice")]
pub enum Fate {
    /// It does not arrive.
    Lost,
    /// It arrives at this moment.
    Once(Duration),
    /// It arrives at both moments; the second is not before the first.
    Twice(Duration, Duration),
}

/// Decides the fate of the messages of one channel of one directed link.
///
/// Fates depend on the seed, the link and the calls so far, and on nothing else. Without reordering and duplication,
/// moments of arrival never go back: of two messages with the same moment the one sent first arrives first.
#[derive(Debug)]
pub struct Link {
    random: fastrand::Rng,
    /// No message that keeps its place arrives before this.
    floor: Duration,
}

impl Link {
    /// The model of `channel` from `from` to `to`. Each link and channel draws from its own sequence, so that
    /// traffic on one does not change the fates on another.
    pub fn new(seed: u64, from: NodeId, to: NodeId, channel: Channel) -> Self {
        let channel = match channel {
            Channel::Control => 1,
            Channel::Entries => 2,
            Channel::Requests => 3,
        };
        let mixed = [from.number(), to.number(), channel].into_iter().fold(seed, mix);
        Self { random: fastrand::Rng::with_seed(mixed), floor: Duration::ZERO }
    }

    /// Decides about a message that is sent at `now`.
    pub fn fate(&mut self, faults: &LinkFaults, now: Duration) -> Fate {
        if faults.loss > 0.0 && self.random.f64() < faults.loss {
            return Fate::Lost;
        }
        let held_back = faults.reordering > 0.0 && self.random.f64() < faults.reordering;
        let twice = faults.duplication > 0.0 && self.random.f64() < faults.duplication;
        let mut at = (now + self.draw(faults.delay_min, faults.delay_max)).max(self.floor);
        if held_back {
            at += self.draw(Duration::from_nanos(1), faults.held_back_max);
        } else {
            self.floor = at;
        }
        if twice {
            let again = at + self.draw(Duration::ZERO, faults.held_back_max);
            return Fate::Twice(at, again);
        }
        Fate::Once(at)
    }

    /// When a message on a link without faults arrives: at once, unless earlier ones are still under way.
    pub fn at_once(&self) -> Duration {
        self.floor
    }

    fn draw(&mut self, min: Duration, max: Duration) -> Duration {
        if min >= max {
            return min;
        }
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.random.u64(nanos(min)..=nanos(max)))
    }
}

/// Spreads `word` over `seed` (splitmix64), so that neighbouring links share nothing.
pub(crate) fn mix(seed: u64, word: u64) -> u64 {
    let mut z = (seed ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn link(seed: u64) -> Link {
        Link::new(seed, NodeId::new(1), NodeId::new(2), Channel::Entries)
    }

    fn fates(seed: u64, faults: &LinkFaults) -> Vec<Fate> {
        let mut link = link(seed);
        (0..10_000).map(|i| link.fate(faults, MS * i)).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_fates_and_another_seed_others() {
        let faults = LinkFaults::none()
            .delay(MS..=MS * 20)
            .loss(0.1)
            .duplication(0.1, MS * 5)
            .reordering(0.1, MS * 5);
        assert_eq!(fates(7, &faults), fates(7, &faults));
        assert_ne!(fates(7, &faults), fates(8, &faults));
    }

    #[test]
    fn delays_alone_keep_the_order() {
        let mut last = Duration::ZERO;
        for (i, fate) in (0..).zip(fates(1, &LinkFaults::none().delay(MS..=MS * 50))) {
            let Fate::Once(at) = fate else { panic!("message {i} had the fate {fate:?}") };
            assert!(at >= last, "message {i} arrives at {at:?}, the one before at {last:?}");
            assert!(at >= MS * i + MS, "message {i} took less than the shortest delay");
            last = at;
        }
    }

    #[test]
    fn shares_come_out_as_asked() {
        let lost = |fates: &[Fate]| fates.iter().filter(|fate| **fate == Fate::Lost).count();
        let faults = LinkFaults::none().loss(0.25);
        assert!((2_300..2_700).contains(&lost(&fates(3, &faults))));
        let faults = LinkFaults::none().duplication(0.25, MS);
        let twice = fates(3, &faults).iter().filter(|f| matches!(f, Fate::Twice(..))).count();
        assert!((2_300..2_700).contains(&twice));
        assert_eq!(lost(&fates(3, &LinkFaults::none().loss(1.0))), 10_000);
        assert_eq!(lost(&fates(3, &LinkFaults::none())), 0);
    }

    #[test]
    fn a_message_held_back_is_overtaken() {
        let fates = fates(4, &LinkFaults::none().reordering(0.1, MS * 10));
        let at = |fate: &Fate| match fate {
            Fate::Once(at) => *at,
            other => panic!("{other:?}"),
        };
        assert!(fates.windows(2).any(|pair| at(&pair[0]) > at(&pair[1])));
    }

    #[test]
    fn faults_that_make_no_sense_are_named() {
        let error = LinkFaults::none().loss(1.5).check().unwrap_err();
        assert_eq!(error.to_string(), "loss is 1.5, a share from 0 to 1 is needed");
        assert!(LinkFaults::none().reordering(f64::NAN, MS).check().is_err());
        let error = LinkFaults { delay_min: MS, ..LinkFaults::none() }.check().unwrap_err();
        assert_eq!(
            error.to_string(),
            "delay_min 1ms is longer than delay_max 0ns; swap them or raise delay_max"
        );
    }
}
