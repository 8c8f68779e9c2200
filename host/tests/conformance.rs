//! The local driver on a real disk and in memory, judged by the suite that judges every replicator.

#[path = "support/stallable.rs"]
mod stallable;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use quorate_conformance::replicator::{Cluster, MachineMaker, ReplicatorFactory, replicator};
use quorate_driver_local::LocalConfig;
use quorate_host::{HostConfig, Hosted};
use quorate_replicator::{Driver, Durability, Env, MonotonicClock, NodeId, Replicator};
use stallable::Stallable;
use tempfile::TempDir;

#[derive(Debug)]
struct Factory(Durability);

#[async_trait]
impl ReplicatorFactory for Factory {
    fn nodes(&self) -> usize {
        1
    }

    async fn open(&self, nodes: usize, machine: MachineMaker) -> Box<dyn Cluster> {
        assert_eq!(nodes, 1, "the local driver serves one node");
        let directory = tempfile::tempdir().unwrap();
        let driver = Stallable::default();
        let path = directory.path().join("data");
        let node = open(&driver, &path, self.0, &machine).await;
        let durability = self.0;
        Box::new(One {
            driver,
            path,
            durability,
            machine: Maker(machine),
            node: Mutex::new(node),
            _directory: directory,
        })
    }
}

struct Maker(MachineMaker);

impl std::fmt::Debug for Maker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Maker")
    }
}

#[derive(Debug)]
struct One {
    driver: Stallable,
    path: PathBuf,
    durability: Durability,
    machine: Maker,
    node: Mutex<Arc<dyn Replicator>>,
    _directory: TempDir,
}

async fn open(
    driver: &Stallable,
    path: &Path,
    durability: Durability,
    machine: &MachineMaker,
) -> Arc<dyn Replicator> {
    let mut env = Env::new(NodeId::new(1), path, Arc::new(MonotonicClock::new()), 1);
    env.durability = durability;
    let hosted = Hosted::new(driver.clone(), HostConfig::default());
    hosted.open(LocalConfig::default(), env, machine()).await.unwrap()
}

#[async_trait]
impl Cluster for One {
    fn nodes(&self) -> Vec<Arc<dyn Replicator>> {
        vec![Arc::clone(&self.node.lock().unwrap())]
    }

    async fn restart(&self, _: usize) -> bool {
        if self.durability == Durability::Memory {
            return false;
        }
        let before = Arc::clone(&self.node.lock().unwrap());
        before.close().await.unwrap();
        let node = open(&self.driver, &self.path, self.durability, &self.machine.0).await;
        *self.node.lock().unwrap() = node;
        true
    }

    async fn stall(&self, _: usize, stalled: bool) -> bool {
        self.driver.0.store(stalled, Ordering::SeqCst);
        true
    }

    async fn close(&self) {
        let node = Arc::clone(&self.node.lock().unwrap());
        node.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_local_driver_on_disk() {
    replicator(Factory(Durability::Disk)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_local_driver_in_memory() {
    replicator(Factory(Durability::Memory)).await;
}
