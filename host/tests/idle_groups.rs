//! What groups cost that have nothing to do.

#[path = "support/counter.rs"]
mod counter;
#[path = "support/raft_cluster.rs"]
mod raft_cluster;

use std::time::Duration;

use counter::Counter;
use quorate_replicator::{
    Batch, Channel, CheckpointPairs, CheckpointReader, Durability, GroupId, Health, NodeId,
    Outcomes, RestoreError, StateMachine,
};
use raft_cluster::RaftCluster;

/// A counter for each group.
#[derive(Debug, Default)]
struct Groups(Counter);

impl StateMachine for Groups {
    fn apply(&mut self, batch: &Batch<'_>, outcomes: &mut Outcomes) {
        self.0.apply(batch, outcomes);
    }

    fn begin_checkpoint(&mut self) -> CheckpointPairs {
        self.0.begin_checkpoint()
    }

    fn restore(&mut self, reader: &mut dyn CheckpointReader) -> Result<(), RestoreError> {
        self.0.restore(reader)
    }

    fn sibling(&mut self, _: GroupId) -> Option<Box<dyn StateMachine>> {
        Some(Box::<Self>::default())
    }
}

/// What the process has in memory, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// What the process has used of processors, in seconds.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

const NODES: u64 = 3;

/// Messages of groups so far, and not of processes.
fn of_groups(cluster: &RaftCluster) -> u64 {
    let pairs = (1..=NODES).flat_map(|from| (1..=NODES).map(move |to| (from, to)));
    let pairs = pairs.filter(|(from, to)| from != to);
    pairs
        .map(|(from, to)| {
            let (from, to) = (NodeId::new(from), NodeId::new(to));
            cluster.hub.counters(from, to, Channel::Entries).sent
        })
        .sum()
}

/// Groups that have nothing to do fall silent, and cost little memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_groups_are_silent() {
    if !cfg!(target_os = "linux") {
        println!("SKIP: memory is measured on Linux only");
        return;
    }
    let long = std::env::var("QUORATE_TEST_BUDGET").is_ok_and(|budget| budget == "long");
    let (groups, idle) = if long { (1000, 30) } else { (200, 2) };
    let machine = || -> Box<dyn StateMachine> { Box::<Groups>::default() };
    let before = resident();
    let mut cluster = RaftCluster::new(NODES, Durability::Memory, Box::new(machine));
    cluster.config.groups = groups;
    let cluster = cluster.open().await;
    for node in cluster.nodes() {
        while node.status().health != Health::Ready {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    // Each falls asleep when its followers have everything.
    let mut sent = of_groups(&cluster);
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = of_groups(&cluster);
        if std::mem::replace(&mut sent, now) == now {
            break;
        }
    }
    let used = (resident() - before) / u64::from(groups) / NODES;
    let begun = processor();
    tokio::time::sleep(Duration::from_secs(idle)).await;
    let share = (processor() - begun) / idle as f64 / NODES as f64 * 100.0;
    println!(
        "{groups} idle groups: {used} bytes each on a node, {share:.2} % of a core for a node"
    );
    assert_eq!(of_groups(&cluster), sent, "an idle group says nothing");
    assert!(used < 64 << 10, "{used} bytes for an idle group");
    cluster.close().await;
}
