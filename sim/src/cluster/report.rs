//! What a run of a cluster saw.

use quorate_certificate::ValidatorChange;

/// What a run of a cluster saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterReport {
    /// Accepted frames, each once.
    pub frames: u64,
    /// Answers that clients got.
    pub answers: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// Calls on keys whose history was judged for linearizability.
    pub judged: u64,
    /// Faults of all kinds, lost messages not counted.
    pub faults: u64,
    /// Power cuts.
    pub power_cuts: u64,
    /// Starts of nodes.
    pub starts: u64,
    /// Messages that were sent.
    pub messages: u64,
    /// Messages that did not arrive.
    pub lost: u64,
    /// Terms that had a leader.
    pub terms: u64,
    /// Checkpoints stored.
    pub checkpoints: u64,
    /// Snapshots that were put in force.
    pub installs: u64,
    /// Changes of members that were done; those of validators are counted by their kind.
    pub changes: u64,
    /// Changes of validators that were decided.
    pub changed: Changed,
    /// Whether signatures that are other ones each time have a part in what was decided: then no two lives need be the same.
    pub is_random: bool,
    /// Disks that were lost.
    pub wipes: u64,
    /// Subscribers that were cut off.
    pub cut_off: u64,
    /// Frames whose outcome stayed unknown because their session ended.
    pub orphans: u64,
    /// Pieces of evidence that honest validators found.
    pub evidence: u64,
    /// The latest round in which a height was decided.
    pub latest_round: u64,
    /// Changed certificates that were refused.
    pub refused: u64,
    /// The most that one node did that others may see, or its disk, while anything may fail.
    pub effects: u64,
    /// Virtual time, in milliseconds.
    pub virtual_ms: u64,
    /// Virtual time from healing to convergence, in thousandths of the election timeout.
    pub converged_permille: u64,
    /// Hash over everything that happened: the same for the same seed.
    pub events: u64,
}

impl ClusterReport {
    /// Adds what another run saw; of the time to convergence the longest counts.
    pub fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.answers += other.answers;
        self.reads += other.reads;
        self.judged += other.judged;
        self.faults += other.faults;
        self.power_cuts += other.power_cuts;
        self.starts += other.starts;
        self.messages += other.messages;
        self.lost += other.lost;
        self.terms += other.terms;
        self.checkpoints += other.checkpoints;
        self.installs += other.installs;
        self.changes += other.changes;
        self.changed.sum(&other.changed);
        self.is_random |= other.is_random;
        self.wipes += other.wipes;
        self.cut_off += other.cut_off;
        self.orphans += other.orphans;
        self.evidence += other.evidence;
        self.latest_round = self.latest_round.max(other.latest_round);
        self.refused += other.refused;
        self.effects = self.effects.max(other.effects);
        self.virtual_ms += other.virtual_ms;
        self.converged_permille = self.converged_permille.max(other.converged_permille);
        self.events ^= other.events;
    }
}

/// Changes of validators, by their kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changed {
    /// Nodes that became validators.
    pub added: u64,
    /// Validators that were removed.
    pub removed: u64,
    /// Validators that got another power.
    pub weighed: u64,
    /// Validators that got another key.
    pub rekeyed: u64,
    /// Changes of the scheme of all.
    pub schemes: u64,
}

impl Changed {
    pub(super) fn add(&mut self, change: &ValidatorChange) {
        let count = match change {
            ValidatorChange::Add { .. } => &mut self.added,
            ValidatorChange::Remove { .. } => &mut self.removed,
            ValidatorChange::Power { .. } => &mut self.weighed,
            ValidatorChange::RotateKey(_) => &mut self.rekeyed,
            ValidatorChange::Scheme { .. } => &mut self.schemes,
            _ => unreachable!("operators want nothing else"),
        };
        *count += 1;
    }

    fn sum(&mut self, other: &Self) {
        self.added += other.added;
        self.removed += other.removed;
        self.weighed += other.weighed;
        self.rekeyed += other.rekeyed;
        self.schemes += other.schemes;
    }

    /// All of them.
    pub const fn all(&self) -> u64 {
        self.added + self.removed + self.weighed + self.rekeyed + self.schemes
    }
}
