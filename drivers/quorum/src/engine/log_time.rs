//! Validators whose log time is ahead of this node's.
//!
//! A host estimates log time by the last batch that it knows, and by the time since then. Who was away learns of that batch late, by as
//! long as it was away if nothing was decided meanwhile, and estimates log time so much earlier than the others. It refuses their batches,
//! and where it is needed nothing but its own are decided. So it believes them when there are too many to be liars: log time is at least
//! what validators have stamped of whom one keeps the rules. The rule that a batch may not run ahead of a clock stays what it was, as the
//! liars alone are too few to move it.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_certificate::{FaultModel, ValidatorSet};
use quorate_engine::engine::Now;
use quorate_replicator::LogTime;

/// What validators have stamped at this height that was refused for being ahead: for each the latest, and when it came.
#[derive(Debug, Default)]
pub(super) struct Stamps(BTreeMap<u64, (LogTime, Now)>);

impl Stamps {
    /// A validator has stamped a batch of its own so. Returns the log time that is known by that to be so late, if that is later than
    /// what was known by the stamps before.
    pub(super) fn add(
        &mut self,
        proposer: u64,
        stamp: LogTime,
        now: Now,
        (validators, model): (&ValidatorSet, FaultModel),
    ) -> Option<LogTime> {
        let before = self.known(now, validators, model);
        let is_later = |known: &(LogTime, Now)| stamp > at(*known, now);
        if self.0.get(&proposer).is_none_or(is_later) {
            self.0.insert(proposer, (stamp, now));
        }
        let after = self.known(now, validators, model);
        after.filter(|_| after > before)
    }

    /// The latest time that validators have stamped of whom one at least keeps the rules: what they have stamped, and the time since.
    fn known(&self, now: Now, validators: &ValidatorSet, model: FaultModel) -> Option<LogTime> {
        let mut stamps: Vec<_> =
            self.0.iter().map(|(proposer, stamp)| (at(*stamp, now), *proposer)).collect();
        stamps.sort_unstable_by(|one, other| other.cmp(one));
        let mut power = 0_u64;
        let latest = stamps.into_iter().find(|(_, proposer)| {
            let own = validators.get(*proposer).map_or(0, |known| known.power);
            power = power.saturating_add(own);
            model.has_honest(power, validators.total_power())
        });
        latest.map(|(stamp, _)| stamp)
    }

    /// Another height begins.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// What the clock of who stamped this shows now, if it did when the stamp came.
fn at((stamp, since): (LogTime, Now), now: Now) -> LogTime {
    let passed: Duration = now.saturating_sub(since);
    stamp.plus_ms(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quorate_certificate::{Scheme, SigningKey, Validator};

    use super::*;

    const BYZANTINE: FaultModel = FaultModel::Byzantine;

    fn validators(powers: &[u64]) -> ValidatorSet {
        let key = |node: u64| SigningKey::from_bytes(&[vec![1], vec![node as u8; 32]].concat());
        let one = |(node, power): (u64, &u64)| Validator {
            node,
            power: *power,
            key: key(node).unwrap().public().clone(),
        };
        let all = (1..).zip(powers).map(one).collect();
        ValidatorSet::new(0, Scheme::Ed25519, all).unwrap()
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    const fn stamp(ms: u64) -> LogTime {
        LogTime::from_ms(ms)
    }

    #[test]
    fn liars_alone_move_nothing() {
        let seven = validators(&[1; 7]);
        let mut stamps = Stamps::default();
        let by = (&seven, BYZANTINE);
        assert_eq!(stamps.add(1, stamp(u64::MAX), ms(0), by), None);
        assert_eq!(stamps.add(2, stamp(1_000_000), ms(0), by), None);
        assert_eq!(
            stamps.add(1, stamp(u64::MAX), ms(1), by),
            None,
            "a third one, not a third time"
        );
        // With one that keeps the rules it is as late as that one says, however much later the liars say that it is.
        assert_eq!(stamps.add(3, stamp(7000), ms(2), by), Some(stamp(7000)));
        assert_eq!(stamps.add(4, stamp(6000), ms(2), by), None, "that is earlier");
        stamps.clear();
        assert_eq!(stamps.add(4, stamp(6000), ms(3), by), None);
    }

    #[test]
    fn clocks_go_on() {
        let four = validators(&[1; 4]);
        let mut stamps = Stamps::default();
        let by = (&four, BYZANTINE);
        assert_eq!(stamps.add(1, stamp(5000), ms(0), by), None);
        // The same stamp, proposed again, says nothing new; when the second comes, the clock of the first has gone on.
        assert_eq!(stamps.add(1, stamp(5000), ms(3000), by), None);
        assert_eq!(stamps.add(2, stamp(8100), ms(3000), by), Some(stamp(8000)));
        assert_eq!(stamps.add(2, stamp(8100), ms(3000), by), None);
        assert_eq!(stamps.add(1, stamp(8050), ms(3000), by), Some(stamp(8050)));
    }

    #[test]
    fn power_counts() {
        let uneven = validators(&[1, 1, 1, 4]);
        let mut stamps = Stamps::default();
        let by = (&uneven, BYZANTINE);
        assert_eq!(stamps.add(1, stamp(5000), ms(0), by), None);
        assert_eq!(stamps.add(2, stamp(5000), ms(0), by), None);
        assert_eq!(stamps.add(4, stamp(4000), ms(0), by), Some(stamp(4000)));
        // Where nobody lies, one is enough.
        let mut stamps = Stamps::default();
        let by = (&uneven, FaultModel::Crash);
        assert_eq!(stamps.add(1, stamp(5000), ms(0), by), Some(stamp(5000)));
    }
}
