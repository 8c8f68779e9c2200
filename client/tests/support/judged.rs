//! Clients of nodes in other places, as the suite that judges replicators drives them.

use std::sync::Arc;

use async_trait::async_trait;
use quorate_client::{Client, ClientConfig};
use quorate_conformance::replicator::Cluster;
use quorate_replicator::Replicator;

use crate::served::Served;

/// A client for each node, which knows no other one.
#[derive(Debug)]
pub(crate) struct Judged {
    served: Served,
    clients: Vec<Client>,
}

impl Judged {
    /// Clients of this configuration.
    pub(crate) async fn open(served: Served, config: ClientConfig) -> Self {
        let mut clients = Vec::new();
        for node in 0..served.cluster.nodes().len() {
            clients.push(served.client_with(config.clone(), &[node]).await);
        }
        Self { served, clients }
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
