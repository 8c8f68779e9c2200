//! Cutting the power at every operation of the disk in a small workload, and at everything that a validator does in one.

use quorate_storage::Keep;

use crate::cluster::{QuorumSubject, run_cluster};
use crate::oracle::Violation;
use crate::scenario::{Plan, run_plan};

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sweep {
    /// Operations of the disk in the workload.
    pub operations: u64,
    /// Runs, each with one power cut.
    pub runs: u64,
}

/// Runs the workload of a seed once for each operation of the disk that it makes, and for each of: nothing of the
/// unsynced sectors is kept, all of them, a random part, another random part.
///
/// # Errors
///
/// The first violation, with the operation and what was kept.
pub fn sweep(seed: u64, steps: u32) -> Result<Sweep, Violation> {
    let quiet = Plan { steps, faults: false, cut: None };
    let operations = run_plan(seed, quiet, &mut |_| {})?.disk_ops;
    let mut runs = 0;
    for operation in 0..operations {
        for (keep, seed) in [
            (Keep::None, seed),
            (Keep::All, seed),
            (Keep::Random, seed),
            (Keep::Random, seed + 1000),
        ] {
            let plan = Plan { cut: Some((operation, keep)), ..quiet };
            run_plan(seed, plan, &mut |_| {}).map_err(|violation| Violation {
                what: format!(
                    "seed {seed}, power cut at operation {operation}, keeping {keep:?}: {violation}"
                ),
            })?;
            runs += 1;
        }
    }
    Ok(Sweep { operations, runs })
}

/// Lives through a seed of four validators without any fault, and then once for every `stride`th effect of each of them, with its power
/// failing right after it: a message that leaves, a block that is written, a sync that ends.
///
/// # Errors
///
/// The first violation, with the node and the effect.
pub fn sweep_validators(seed: u64, stride: u64) -> Result<Sweep, Violation> {
    let mut done = Sweep::default();
    for place in 0..4 {
        let operations = run_cluster(&QuorumSubject::crashing(place, 0), seed, None)?.effects;
        done.operations = done.operations.max(operations);
        for at in (1..=operations).step_by(stride.max(1) as usize) {
            run_cluster(&QuorumSubject::crashing(place, at), seed, None).map_err(|violation| {
                Violation {
                    what: format!(
                        "seed {seed}, power cut after effect {at} of n{}: {violation}",
                        place + 1
                    ),
                }
            })?;
            done.runs += 1;
        }
    }
    Ok(done)
}
