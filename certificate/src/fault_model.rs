//! Against what the validators stand, and how many of them it takes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Against what the validators stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(clippy::exhaustive_enums)]
pub enum FaultModel {
    /// Less than a third of the power may do anything at all: lie, vote twice, stay silent. More than two thirds decide, so that of
    /// three equal validators all are needed; four are the fewest that can do without one.
    Byzantine,
    /// Less than half of the power may stop, and nobody lies. More than half decides. A single liar can break it.
    Crash,
}

impl FaultModel {
    /// Whether `power` out of `total` decides.
    pub const fn is_quorum(self, power: u64, total: u64) -> bool {
        match self {
            Self::Byzantine => power * 3 > total * 2,
            Self::Crash => power * 2 > total,
        }
    }

    /// Whether `power` out of `total` has somebody in it who keeps the rules.
    pub const fn has_honest(self, power: u64, total: u64) -> bool {
        match self {
            Self::Byzantine => power * 3 > total,
            Self::Crash => power > 0,
        }
    }

    /// How much power, out of `total`, may fail without harm.
    pub const fn tolerates(self, total: u64) -> u64 {
        match self {
            Self::Byzantine => total.saturating_sub(1) / 3,
            Self::Crash => total.saturating_sub(1) / 2,
        }
    }

    /// The name that configurations have for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Byzantine => "byzantine",
            Self::Crash => "crash",
        }
    }

    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Byzantine => 1,
            Self::Crash => 2,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [Self::Byzantine, Self::Crash].into_iter().find(|model| model.code() == code)
    }
}

impl fmt::Display for FaultModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FaultModel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Byzantine, Self::Crash]
            .into_iter()
            .find(|model| model.name() == text)
            .ok_or_else(|| format!("{text:?} is no fault model; there are byzantine and crash"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_is_the_least_power_that_does() {
        // Validators of power 1, how many of them decide, and how many may fail.
        for (model, count, needed, may_fail) in [
            (FaultModel::Byzantine, 1, 1, 0),
            (FaultModel::Byzantine, 2, 2, 0),
            (FaultModel::Byzantine, 3, 3, 0),
            (FaultModel::Byzantine, 4, 3, 1),
            (FaultModel::Byzantine, 6, 5, 1),
            (FaultModel::Byzantine, 7, 5, 2),
            (FaultModel::Crash, 1, 1, 0),
            (FaultModel::Crash, 2, 2, 0),
            (FaultModel::Crash, 3, 2, 1),
            (FaultModel::Crash, 4, 3, 1),
            (FaultModel::Crash, 5, 3, 2),
        ] {
            let least = (0..=count).find(|power| model.is_quorum(*power, count));
            assert_eq!(least, Some(needed), "{model} {count}");
            assert_eq!(model.tolerates(count), may_fail, "{model} {count}");
            assert!(model.is_quorum(count - may_fail, count));
            assert!(!model.is_quorum(count - may_fail - 1, count));
        }
    }

    #[test]
    fn two_quorums_share_somebody_who_keeps_the_rules() {
        for model in [FaultModel::Byzantine, FaultModel::Crash] {
            for total in 1..100 {
                let least = (0..=total).find(|power| model.is_quorum(*power, total)).unwrap();
                let shared = 2 * least - total;
                assert!(model.has_honest(shared, total), "{model} of {total}");
                assert!(model == FaultModel::Crash || shared > model.tolerates(total));
            }
        }
    }
}
