//! The memory transport passes the public suite.

use std::sync::Arc;

use async_trait::async_trait;
use quorate_conformance::{Network, TransportFactory};
use quorate_replicator::{NodeId, Transport};
use quorate_transport_memory::{MemoryHub, MemoryTransport};

#[derive(Debug)]
struct Factory;

#[derive(Debug)]
struct MemoryNetwork {
    hub: MemoryHub,
    transports: Vec<Arc<MemoryTransport>>,
}

#[async_trait]
impl TransportFactory for Factory {
    async fn open(&self, nodes: usize) -> Box<dyn Network> {
        let hub = MemoryHub::new(1);
        let transports = (1..).take(nodes).map(|node| hub.connect(NodeId::new(node))).collect();
        Box::new(MemoryNetwork { hub, transports })
    }
}

#[async_trait]
impl Network for MemoryNetwork {
    fn transports(&self) -> Vec<Arc<dyn Transport>> {
        self.transports.iter().map(|transport| Arc::clone(transport) as _).collect()
    }

    async fn cut(&self, a: NodeId, b: NodeId) {
        self.hub.cut(a, b);
    }

    async fn heal(&self, a: NodeId, b: NodeId) {
        self.hub.restore(a, b);
    }

    async fn shutdown(&self) {
        let totals = self.hub.totals();
        assert_eq!(
            totals.sent + totals.duplicated,
            totals.delivered + totals.lost + totals.under_way,
            "counters add up: {totals:?}"
        );
    }
}

#[tokio::test]
async fn on_one_thread() {
    quorate_conformance::transport::transport(Factory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_many_threads() {
    quorate_conformance::transport::transport(Factory).await;
}
