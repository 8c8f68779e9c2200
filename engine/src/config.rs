//! What can be set about a host core, whatever the engine.

use std::time::Duration;

use quorate_replicator::limits::FRAME_BYTES_MAX;
use quorate_replicator::{GroupId, NodeId};

use crate::sessions::SessionLimits;

/// What can be set about a host core, whatever the engine.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CoreConfig {
    /// The group that it serves.
    pub group: GroupId,
    /// The node that it runs on.
    pub node: NodeId,
    /// Largest payload, in bytes. Part of the genesis: equal on all nodes.
    pub frame_bytes_max: usize,
    /// Most frames that wait for a decision. More allow larger batches under load and cost about 200 bytes each.
    pub frames_in_flight_max: usize,
    /// Most bytes of frames that wait for a decision.
    pub bytes_in_flight_max: usize,
    /// Most reads that wait for a barrier.
    pub reads_max: usize,
    /// Most subscriptions.
    pub subscriptions_max: usize,
    /// Limits of the session table. Part of the genesis: equal on all nodes.
    pub sessions: SessionLimits,
    /// When to make checkpoints.
    pub checkpoint: CheckpointPolicy,
    /// How much log to keep for subscribers after a checkpoint has made it unnecessary.
    pub retain: Retain,
    /// How far ahead of this node's own estimate the log time of another proposer's batch may be.
    pub log_time_drift_max: Duration,
    /// How long a forwarded frame may be undecided before all who may propose are given it, where an engine names several: so
    /// long can one that is slow, or does not like it, hold it.
    pub witness_after: Duration,
    /// Whether frames are forwarded to the node that proposes. If not, they are refused with its name.
    pub forward: bool,
    /// Writes count as durable as soon as they are handed out: for a node whose durability is memory.
    pub volatile: bool,
}

impl CoreConfig {
    /// The defaults for a group of a node.
    pub fn new(group: GroupId, node: NodeId) -> Self {
        Self {
            group,
            node,
            frame_bytes_max: FRAME_BYTES_MAX,
            frames_in_flight_max: 64 << 10,
            bytes_in_flight_max: 64 << 20,
            reads_max: 64 << 10,
            subscriptions_max: 1024,
            sessions: SessionLimits::default(),
            checkpoint: CheckpointPolicy::default(),
            retain: Retain::default(),
            log_time_drift_max: Duration::from_millis(500),
            witness_after: Duration::from_millis(100),
            forward: true,
            volatile: false,
        }
    }
}

/// When to make checkpoints. A checkpoint bounds what must be replayed at a start and what the log must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointPolicy {
    /// Make one after this many bytes of log.
    pub log_bytes: u64,
    /// Make one after this time if anything was applied since the last one.
    pub interval: Duration,
    /// Whether checkpoints are stored. If not, what they would free of the log is freed all the same, and a restart
    /// begins with nothing.
    pub stored: bool,
}

impl Default for CheckpointPolicy {
    fn default() -> Self {
        Self { log_bytes: 64 << 20, interval: Duration::from_secs(30), stored: true }
    }
}

/// How much log to keep for subscribers: what either rule keeps is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retain {
    /// This many bytes of the newest entries.
    pub bytes: u64,
    /// What was applied here no longer ago than this.
    pub age: Duration,
}

impl Default for Retain {
    fn default() -> Self {
        Self { bytes: 64 << 20, age: Duration::ZERO }
    }
}
