//! Nodes in one process, over the memory transport, with the defaults that users have.

use std::sync::Arc;
use std::time::Duration;

use quorate_certificate::{FaultModel, Genesis, Scheme, SigningKey, Validator};
use quorate_driver_local::{Local, LocalConfig};
use quorate_driver_quorum::{QuorumConfig, QuorumDriver, Setup};
use quorate_driver_raft::{RaftConfig, RaftDriver};
use quorate_host::{HostConfig, Hosted};
use quorate_replicator::{
    ClusterId, Driver, Durability, Env, GroupId, MonotonicClock, NodeId, Replicator, ShardKey,
};
use quorate_transport_memory::MemoryHub;
use tempfile::TempDir;

use crate::counting_disk::CountingDisk;
use crate::machine::Counter;

/// How many nodes a Raft cluster has.
pub(crate) const NODES: u64 = 3;

/// How many a cluster has that decides by vote: the fewest of which one may do what it likes.
const VALIDATORS: u64 = 4;

const CLUSTER: [u8; 16] = [7; 16];

/// How long an election may take on a machine with other work.
const ELECTION_WITHIN: Duration = Duration::from_secs(120);

/// Which driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Three nodes that decide by majority.
    Raft,
    /// Four nodes that decide by signed votes.
    Quorum(Scheme),
    /// The same with Ed25519, of what clients have signed.
    SignedFrames,
    /// One node that decides alone.
    Local,
}

/// Nodes that run.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) disks: Vec<Arc<CountingDisk>>,
    nodes: Vec<Arc<dyn Replicator>>,
    groups: u32,
    _directory: TempDir,
}

impl Cluster {
    /// Opens all nodes and waits until every group has a leader that all know.
    pub(crate) async fn open(kind: Kind, durability: Durability, groups: u32) -> Self {
        let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
        std::fs::create_dir_all(&target).expect("a directory for the data");
        let directory = tempfile::tempdir_in(target).expect("a directory for the data");
        let members: Vec<_> = match kind {
            Kind::Raft => (1..=NODES).map(NodeId::new).collect(),
            Kind::Quorum(_) | Kind::SignedFrames => (1..=VALIDATORS).map(NodeId::new).collect(),
            Kind::Local => vec![NodeId::new(1)],
        };
        let voting = match kind {
            Kind::Quorum(scheme) => voting(scheme, &members, |genesis| genesis),
            Kind::SignedFrames => voting(Scheme::Ed25519, &members, Genesis::with_signed_frames),
            Kind::Raft | Kind::Local => QuorumDriver::default(),
        };
        let hub = MemoryHub::new(1);
        hub.expect(members.iter().copied());
        let (mut nodes, mut disks) = (Vec::new(), Vec::new());
        for node in &members {
            let path = directory.path().join(node.to_string());
            let disk = Arc::new(CountingDisk::new(&path));
            let mut config = HostConfig::default();
            config.cluster = Some(ClusterId::new(CLUSTER));
            config.groups = groups;
            config.disk = Some(Arc::<CountingDisk>::clone(&disk));
            let clock = Arc::new(MonotonicClock::new());
            let mut env = Env::new(*node, path, clock, node.number());
            env.members.clone_from(&members);
            env.durability = durability;
            let machine = Box::<Counter>::default();
            let opened = match kind {
                Kind::Raft => {
                    env.transport = Some(hub.connect(*node));
                    Hosted::new(RaftDriver, config).open(RaftConfig::default(), env, machine).await
                }
                Kind::Quorum(_) | Kind::SignedFrames => {
                    env.transport = Some(hub.connect(*node));
                    let hosted = Hosted::new(voting.clone(), config);
                    hosted.open(QuorumConfig::default(), env, machine).await
                }
                Kind::Local => {
                    Hosted::new(Local, config).open(LocalConfig::default(), env, machine).await
                }
            };
            nodes.push(opened.expect("a node opens on an empty directory"));
            disks.push(disk);
        }
        let cluster = Self { disks, nodes, groups, _directory: directory };
        tokio::time::timeout(ELECTION_WITHIN, cluster.elected())
            .await
            .expect("nodes that reach each other elect a leader");
        cluster
    }

    async fn elected(&self) {
        while !(0..self.groups as usize).all(|group| self.leader(group).is_some()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The place of the node that leads a group, if all know it.
    fn leader(&self, group: usize) -> Option<usize> {
        let mut leaders = self.nodes.iter().map(|node| node.status().groups[group].leader);
        let first = leaders.next()??;
        leaders.all(|leader| leader == Some(first)).then(|| first.number() as usize - 1)
    }

    /// For each group a shard of it, and the node that leads it, or so many places after that one.
    pub(crate) fn places(&self, after: usize) -> Vec<(Arc<dyn Replicator>, ShardKey)> {
        let place = |group: u32| {
            let leader = self.leader(group as usize).expect("the leader stays");
            let node = &self.nodes[(leader + after) % self.nodes.len()];
            (Arc::clone(node), shard_of(group, self.groups))
        };
        (0..self.groups).map(place).collect()
    }

    /// How many batches are decided, as a node tells it.
    pub(crate) fn decided(&self) -> impl Fn() -> u64 + Send + use<> {
        let node = Arc::clone(&self.nodes[0]);
        move || node.status().groups.iter().map(|group| group.committed).sum()
    }

    pub(crate) async fn close(self) {
        for node in self.nodes {
            node.close().await.expect("a node closes");
        }
    }
}

/// Validators with one vote each.
fn voting(
    scheme: Scheme,
    members: &[NodeId],
    change: impl FnOnce(Genesis) -> Genesis,
) -> QuorumDriver {
    let generate =
        |_| Arc::new(SigningKey::generate(scheme).expect("the system has a random source"));
    let keys: Vec<_> = members.iter().map(generate).collect();
    let validator = |(node, key): (&NodeId, &Arc<SigningKey>)| Validator {
        node: node.number(),
        power: 1,
        key: key.public().clone(),
    };
    let validators = members.iter().zip(&keys).map(validator).collect();
    let genesis = Genesis::new(CLUSTER, FaultModel::Byzantine, scheme, 500, validators)
        .expect("these can be validators");
    let genesis = change(genesis);
    QuorumDriver::with_setups(
        members
            .iter()
            .copied()
            .zip(keys)
            .map(|(node, key)| (node, Setup::new(genesis.clone(), key))),
    )
}

/// Some shard that belongs to a group.
fn shard_of(group: u32, groups: u32) -> ShardKey {
    (0..)
        .map(|name: u64| ShardKey::new("org", &format!("ns{name}")).expect("two names"))
        .find(|shard| GroupId::of(shard, groups) == GroupId::new(group))
        .expect("every group has shards")
}
