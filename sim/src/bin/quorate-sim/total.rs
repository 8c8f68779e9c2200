//! What all seeds together saw.

use quorate_sim::{ClusterReport, RaftSubject, Report, Violation, run, run_cluster};

use crate::DriverName;

/// What all seeds together saw.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Total {
    Local(Report),
    Raft(ClusterReport),
}

impl Total {
    /// Nothing yet.
    pub(crate) fn new(driver: DriverName) -> Self {
        match driver {
            DriverName::Local => Self::Local(Report::default()),
            DriverName::Raft => Self::Raft(ClusterReport::default()),
        }
    }

    /// What one seed saw.
    pub(crate) fn of(driver: DriverName, seed: u64, trace: bool) -> Result<Self, Violation> {
        let mut tell = |line: &str| {
            if trace {
                println!("{line}");
            }
        };
        Ok(match driver {
            DriverName::Local => Self::Local(run(seed, &mut tell)?),
            DriverName::Raft => {
                let tell: Option<&mut dyn FnMut(&str)> = if trace { Some(&mut tell) } else { None };
                Self::Raft(run_cluster(&RaftSubject, seed, tell)?)
            }
        })
    }

    pub(crate) fn add(&mut self, other: &Self) {
        match (self, other) {
            (Self::Local(total), Self::Local(other)) => total.add(other),
            (Self::Raft(total), Self::Raft(other)) => total.add(other),
            _ => unreachable!("all seeds are of one driver"),
        }
    }

    /// Frames, faults, and everything in words.
    pub(crate) fn words(&self) -> (u64, u64, String) {
        match self {
            Self::Local(total) => {
                let faults = total.power_cuts + total.restarts + total.disk_faults;
                let words = format!(
                    "{} frames, {} answers, {faults} faults ({} power cuts, {} restarts, {} disk faults), \
                     {} checkpoints, {} disk operations, {} outcomes unknown for ever",
                    total.frames,
                    total.answers,
                    total.power_cuts,
                    total.restarts,
                    total.disk_faults,
                    total.checkpoints,
                    total.disk_ops,
                    total.orphans,
                );
                (total.frames, faults, words)
            }
            Self::Raft(total) => {
                let words = format!(
                    "{} frames, {} answers, {} reads, {} calls judged, {} faults ({} power cuts, {} lost disks), {} of {} messages lost, \
                     {} starts, {} terms, {} changes of members, {} checkpoints, {} snapshots installed, \
                     {} subscribers cut off, {} outcomes unknown for ever, {} s of virtual time, \
                     slowest convergence {:.2} election timeouts",
                    total.frames,
                    total.answers,
                    total.reads,
                    total.judged,
                    total.faults,
                    total.power_cuts,
                    total.wipes,
                    total.lost,
                    total.messages,
                    total.starts,
                    total.terms,
                    total.changes,
                    total.checkpoints,
                    total.installs,
                    total.cut_off,
                    total.orphans,
                    total.virtual_ms / 1000,
                    total.converged_permille as f64 / 1000.0,
                );
                (total.frames, total.faults, words)
            }
        }
    }
}
