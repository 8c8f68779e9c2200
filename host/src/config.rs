//! What can be set about a node, whatever the driver.

use std::sync::Arc;
use std::time::Duration;

use quorate_engine::{CheckpointPolicy, CoreConfig, Retain};
use quorate_replicator::{ClusterId, GroupId, NodeId};
use quorate_storage::{Disk, LogConfig};

use crate::SnapshotsConfig;

/// What can be set about a node, whatever the driver. Fields of the core and of the log are explained there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HostConfig {
    /// The cluster that the data directory must belong to; a new directory gets a random one when none is named.
    pub cluster: Option<ClusterId>,
    /// How many groups share the node's log and connections. Fixed at the first start, and equal on all nodes.
    pub groups: u32,
    /// Whether what this node cannot propose itself is forwarded to the one that does; if not, it is refused with its name.
    pub forward: bool,
    /// Snapshots between nodes.
    pub snapshots: SnapshotsConfig,
    /// Most requests that wait for the engine thread, beside the frames and reads that it has taken.
    pub requests_max: usize,
    /// Most frames that wait for a decision.
    pub frames_in_flight_max: usize,
    /// Most bytes of frames that wait for a decision.
    pub bytes_in_flight_max: usize,
    /// Most reads that wait for a barrier.
    pub reads_max: usize,
    /// Most subscriptions.
    pub subscriptions_max: usize,
    /// When to make checkpoints.
    pub checkpoint: CheckpointPolicy,
    /// How much log to keep for subscribers.
    pub retain: Retain,
    /// How far ahead of this node's own estimate the log time of another proposer's batch may be.
    pub log_time_drift_max: Duration,
    /// The log on disk.
    pub log: LogConfig,
    /// How many bytes of checkpoint pages stay in memory; more makes checkpoints of scattered changes faster.
    pub checkpoint_cache_bytes: usize,
    /// The disk that a durable node keeps its files on, for those who inject faults or count what is written; without
    /// one, the files are under the node's data directory.
    pub disk: Option<Arc<dyn Disk>>,
}

impl Default for HostConfig {
    fn default() -> Self {
        let core = CoreConfig::new(GroupId::new(0), NodeId::new(0));
        Self {
            cluster: None,
            groups: 1,
            forward: core.forward,
            snapshots: SnapshotsConfig::default(),
            requests_max: 64 << 10,
            frames_in_flight_max: core.frames_in_flight_max,
            bytes_in_flight_max: core.bytes_in_flight_max,
            reads_max: core.reads_max,
            subscriptions_max: core.subscriptions_max,
            checkpoint: core.checkpoint,
            retain: core.retain,
            log_time_drift_max: core.log_time_drift_max,
            log: LogConfig::default(),
            checkpoint_cache_bytes: 64 << 20,
            disk: None,
        }
    }
}

impl HostConfig {
    /// The configuration of one group's core.
    pub(crate) fn core(&self, group: GroupId, node: NodeId, volatile: bool) -> CoreConfig {
        let mut core = CoreConfig::new(group, node);
        core.frames_in_flight_max = self.frames_in_flight_max;
        core.bytes_in_flight_max = self.bytes_in_flight_max;
        core.reads_max = self.reads_max;
        core.subscriptions_max = self.subscriptions_max;
        core.checkpoint = CheckpointPolicy { stored: !volatile, ..self.checkpoint };
        core.retain = self.retain;
        core.log_time_drift_max = self.log_time_drift_max;
        core.forward = self.forward;
        core.volatile = volatile;
        core
    }
}
