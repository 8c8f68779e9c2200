//! Clients of nodes in other places, judged by the suite that judges every replicator.

#[path = "support/nobody.rs"]
mod nobody;
#[path = "../../host/tests/support/raft_cluster.rs"]
mod raft_cluster;
#[path = "support/served.rs"]
mod served;

use std::sync::Arc;

use async_trait::async_trait;
use quorate_client::Client;
use quorate_conformance::replicator::{Cluster, MachineMaker, ReplicatorFactory, replicator};
use quorate_replicator::{Durability, Replicator};
use raft_cluster::{Maker, RaftCluster as Founded};
use served::Served;

fn found(nodes: u64, durability: Durability, maker: Maker) -> Founded {
    Founded::new(nodes, durability, maker)
}

#[derive(Debug)]
struct Factory(usize);

/// A client for each node, which knows no other one.
#[derive(Debug)]
struct Judged {
    served: Served,
    clients: Vec<Client>,
}

#[async_trait]
impl ReplicatorFactory for Factory {
    fn nodes(&self) -> usize {
        self.0
    }

    async fn open(&self, nodes: usize, machine: MachineMaker) -> Box<dyn Cluster> {
        let served = Served::open(nodes, Durability::Disk, Box::new(move || machine())).await;
        let mut clients = Vec::new();
        for node in 0..nodes {
            clients.push(served.client(&[node]).await);
        }
        Box::new(Judged { served, clients })
    }
}

#[async_trait]
impl Cluster for Judged {
    fn nodes(&self) -> Vec<Arc<dyn Replicator>> {
        self.clients.iter().map(Client::replicator).collect()
    }

    async fn restart(&self, node: usize) -> bool {
        self.served.stop(node).await;
        self.served.start(node).await;
        true
    }

    async fn stall(&self, _: usize, stalled: bool) -> bool {
        if self.clients.len() == 1 {
            return false;
        }
        self.served.cluster.cut_all(stalled);
        true
    }

    async fn close(&self) {
        for client in &self.clients {
            client.close().await;
        }
        self.served.close().await;
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
