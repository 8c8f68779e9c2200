//! The quorum driver with 1 to 7 validators over the memory transport, judged by the suite that judges every replicator.

#[path = "support/quorum_cluster.rs"]
mod quorum_cluster;

use async_trait::async_trait;
use quorate_certificate::FaultModel;
use quorate_conformance::replicator::{
    Cluster, MachineMaker, ReplicatorFactory, a_repeated_frame_happens_once,
    a_restart_keeps_everything, concurrent_proposers_share_one_order, replicator,
};
use quorate_replicator::Durability;
use quorum_cluster::QuorumCluster;

#[derive(Debug)]
struct Factory(usize, FaultModel, Durability);

#[async_trait]
impl ReplicatorFactory for Factory {
    fn nodes(&self) -> usize {
        self.0
    }

    async fn open(&self, nodes: usize, machine: MachineMaker) -> Box<dyn Cluster> {
        let cluster = QuorumCluster::new(nodes as u64, self.1, self.2, Box::new(move || machine()))
            .open()
            .await;
        Box::new(cluster)
    }
}

/// One cluster at a time: each has as much to do as there is.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

macro_rules! judged {
    ($($name:ident: $nodes:literal, $model:ident, $durability:ident;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let _alone = ALONE.lock().await;
            replicator(Factory($nodes, FaultModel::$model, Durability::$durability)).await;
        }
    )*};
}

judged! {
    one_node_on_disk: 1, Byzantine, Disk;
    two_nodes_on_disk: 2, Byzantine, Disk;
    three_nodes_on_disk_where_nobody_lies: 3, Crash, Disk;
    four_nodes_on_disk: 4, Byzantine, Disk;
    five_nodes_in_memory: 5, Byzantine, Memory;
}

/// What does not depend on their number is judged above.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_and_seven_nodes_on_disk() {
    let _alone = ALONE.lock().await;
    for nodes in [3, 7] {
        let factory = Factory(nodes, FaultModel::Byzantine, Durability::Disk);
        concurrent_proposers_share_one_order(&factory).await;
        a_repeated_frame_happens_once(&factory).await;
        a_restart_keeps_everything(&factory).await;
    }
}
