//! The Raft driver with 1 to 7 nodes over the memory transport, judged by the suite that judges every replicator.

#[path = "support/raft_cluster.rs"]
mod raft_cluster;

use std::sync::Arc;

use async_trait::async_trait;
use quorate_conformance::replicator::{Cluster, MachineMaker, ReplicatorFactory, replicator};
use quorate_replicator::{Durability, NodeId, Replicator};
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
        Box::new(Judged { cluster, durability: self.1 })
    }
}

#[derive(Debug)]
struct Judged {
    cluster: RaftCluster,
    durability: Durability,
}

#[async_trait]
impl Cluster for Judged {
    fn nodes(&self) -> Vec<Arc<dyn Replicator>> {
        self.cluster.nodes()
    }

    async fn restart(&self, node: usize) -> bool {
        if self.durability == Durability::Memory {
            return false;
        }
        let node = NodeId::new(node as u64 + 1);
        self.cluster.stop(node).await;
        self.cluster.start(node).await.unwrap();
        true
    }

    async fn stall(&self, _: usize, stalled: bool) -> bool {
        if self.cluster.nodes().len() == 1 {
            return false;
        }
        self.cluster.cut_all(stalled);
        true
    }

    async fn close(&self) {
        self.cluster.close().await;
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
