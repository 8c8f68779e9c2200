//! The Raft driver with 1 to 7 nodes over the memory transport, judged by the suite that judges every replicator.

#[path = "support/raft_cluster.rs"]
mod raft_cluster;

use async_trait::async_trait;
use quorate_conformance::replicator::{Cluster, MachineMaker, ReplicatorFactory, replicator};
use quorate_replicator::Durability;
use raft_cluster::RaftCluster;

#[derive(Debug)]
struct Factory(usize, Durability);

#[async_trait]
impl ReplicatorFactory for Factory {
    fn nodes(&self) -> usize {
        self.0
    }

    async fn open(&self, nodes: usize, machine: MachineMaker) -> Box<dyn Cluster> {
        let cluster =
            RaftCluster::new(nodes as u64, self.1, Box::new(move || machine())).open().await;
        Box::new(cluster)
    }
}

macro_rules! judged {
    ($($name:ident: $nodes:literal, $durability:ident;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            replicator(Factory($nodes, Durability::$durability)).await;
        }
    )*};
}

judged! {
    one_node_on_disk: 1, Disk;
    two_nodes_on_disk: 2, Disk;
    three_nodes_on_disk: 3, Disk;
    three_nodes_in_memory: 3, Memory;
    four_nodes_in_memory: 4, Memory;
    five_nodes_on_disk: 5, Disk;
    six_nodes_in_memory: 6, Memory;
    seven_nodes_in_memory: 7, Memory;
}
