//! Clients of nodes in other places, judged by the suite that judges every replicator.

#[path = "support/judged.rs"]
mod judged;
#[path = "support/nobody.rs"]
mod nobody;
#[path = "../../host/tests/support/raft_cluster.rs"]
mod raft_cluster;
#[path = "support/served.rs"]
mod served;

use async_trait::async_trait;
use judged::Judged;
use quorate_client::ClientConfig;
use quorate_conformance::replicator::{Cluster, MachineMaker, ReplicatorFactory, replicator};
use quorate_replicator::Durability;
use raft_cluster::{Maker, RaftCluster as Founded};
use served::Served;

fn found(nodes: u64, durability: Durability, maker: Maker) -> Founded {
    Founded::new(nodes, durability, maker)
}

#[derive(Debug)]
struct Factory(usize);

#[async_trait]
impl ReplicatorFactory for Factory {
    fn nodes(&self) -> usize {
        self.0
    }

    async fn open(&self, nodes: usize, machine: MachineMaker) -> Box<dyn Cluster> {
        let served = Served::open(nodes, Durability::Disk, Box::new(move || machine())).await;
        Box::new(Judged::open(served, ClientConfig::default()).await)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_one_node_keeps_the_contract() {
    replicator(Factory(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_three_nodes_keep_the_contract() {
    replicator(Factory(3)).await;
}
