//! The quorum driver over QUIC: validators on the loopback, judged by the suite that judges every replicator.

#[path = "support/over_quic.rs"]
mod over_quic;
#[path = "support/quorum_cluster.rs"]
mod quorum_cluster;

use async_trait::async_trait;
use over_quic::OverQuic;
use quorate_certificate::FaultModel;
use quorate_conformance::replicator::{
    Cluster, MachineMaker, ReplicatorFactory, concurrent_proposers_share_one_order, replicator,
};
use quorum_cluster::{found, quorum_config};

#[derive(Debug)]
struct Factory(usize);

#[async_trait]
impl ReplicatorFactory for Factory {
    fn nodes(&self) -> usize {
        self.0
    }

    async fn open(&self, nodes: usize, machine: MachineMaker) -> Box<dyn Cluster> {
        let (_, driver) = found(nodes as u64, FaultModel::Byzantine);
        Box::new(OverQuic::open((driver, quorum_config()), nodes, machine).await)
    }
}

/// One cluster at a time: each has as much to do as there is.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_validators_over_quic() {
    let _alone = ALONE.lock().await;
    replicator(Factory(4)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_sizes_have_one_order_over_quic() {
    let _alone = ALONE.lock().await;
    for validators in [1, 2, 3, 5, 7] {
        concurrent_proposers_share_one_order(&Factory(validators)).await;
    }
}
