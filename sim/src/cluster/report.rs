//! What a run of a cluster saw.

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
    /// Changes of members that were done.
    pub changes: u64,
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
