//! What groups without work cost: processor time and memory of three nodes that only keep their leaders.

use std::time::Duration;

use quorate_replicator::Durability;
use tokio::runtime::Runtime;

use crate::cluster::{Cluster, Kind, NODES};
use crate::meter::Meter;

/// How many groups; what one more costs is the difference.
pub(crate) const GROUPS: [u32; 2] = [1, 1000];

/// Until nothing is left of the elections.
const SETTLING: Duration = Duration::from_secs(10);

/// How long nothing is asked for.
const IDLE: Duration = Duration::from_secs(30);

pub(crate) fn measure(runtime: &Runtime, id: &str, groups: u32) {
    let before = resident();
    let cluster = runtime.block_on(Cluster::open(Kind::Raft, Durability::Memory, groups));
    runtime.block_on(async { tokio::time::sleep(SETTLING).await });
    let meter = Meter::start();
    runtime.block_on(async { tokio::time::sleep(IDLE).await });
    let metered = meter.stop();
    let nodes = NODES as f64;
    let cores = metered.process.as_secs_f64() / metered.wall.as_secs_f64() / nodes;
    let bytes = resident().saturating_sub(before) as f64 / nodes;
    println!(
        "{id}: {:.2} % of a core and {:.0} KiB a node ({:.1} KiB a group)",
        cores * 100.0,
        bytes / 1024.0,
        bytes / 1024.0 / f64::from(groups),
    );
    runtime.block_on(cluster.close());
}

/// Memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}
