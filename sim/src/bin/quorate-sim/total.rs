//! What all seeds together saw.

use quorate_sim::{
    Changed, ClusterReport, QuorumSubject, RaftSubject, Report, Scenario, Subject, Violation, run,
    run_cluster,
};

use crate::DriverName;

/// What all seeds together saw.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Total {
    Local(Report),
    Cluster(ClusterReport),
}

impl Total {
    /// Nothing yet.
    pub(crate) fn new(driver: DriverName) -> Self {
        match driver {
            DriverName::Local => Self::Local(Report::default()),
            DriverName::Raft | DriverName::Quorum => Self::Cluster(ClusterReport::default()),
        }
    }

    /// What one seed saw.
    pub(crate) fn of(
        driver: DriverName,
        scenario: Option<Scenario>,
        seed: u64,
        trace: bool,
    ) -> Result<Self, Violation> {
        let mut tell = |line: &str| {
            if trace {
                println!("{line}");
            }
        };
        Ok(match driver {
            DriverName::Local => Self::Local(run(seed, &mut tell)?),
            DriverName::Raft | DriverName::Quorum => {
                let tell: Option<&mut dyn FnMut(&str)> = if trace { Some(&mut tell) } else { None };
                let quorum = QuorumSubject::new(scenario);
                let subject: &dyn Subject =
                    if driver == DriverName::Raft { &RaftSubject } else { &quorum };
                Self::Cluster(run_cluster(subject, seed, tell)?)
            }
        })
    }

    /// Whether another life of the same seed may differ.
    pub(crate) const fn is_random(&self) -> bool {
        matches!(self, Self::Cluster(ClusterReport { is_random: true, .. }))
    }

    pub(crate) fn add(&mut self, other: &Self) {
        match (self, other) {
            (Self::Local(total), Self::Local(other)) => total.add(other),
            (Self::Cluster(total), Self::Cluster(other)) => total.add(other),
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
            Self::Cluster(total) => {
                let kinds = kinds(&total.changed);
                let words = format!(
                    "{} frames, {} answers, {} reads, {} calls judged, {} faults ({} power cuts, {} lost disks), {} of {} messages lost, \
                     {} starts, {} terms, {} changes of members{kinds}, {} checkpoints, {} snapshots installed, \
                     {} subscribers cut off, {} outcomes unknown for ever, {} s of virtual time, \
                     slowest convergence {:.2} times the patience; \
                     {} pieces of evidence, {} changed certificates refused, latest round {}",
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
                    total.evidence,
                    total.refused,
                    total.latest_round,
                );
                (total.frames, total.faults, words)
            }
        }
    }
}

/// Changes of validators in words; nothing of members of another kind.
fn kinds(changed: &Changed) -> String {
    if changed.all() == 0 {
        return String::new();
    }
    format!(
        " ({} added, {} removed, {} of power, {} of keys, {} of schemes)",
        changed.added, changed.removed, changed.weighed, changed.rekeyed, changed.schemes
    )
}
