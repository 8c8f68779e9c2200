//! One node's directory as it goes from driver to driver, and what it has been told.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_certificate::{FaultModel, Genesis, Scheme, SigningKey, Validator};
use quorate_driver_local::{Local, LocalConfig};
use quorate_driver_quorum::{QuorumConfig, QuorumDriver, Setup};
use quorate_driver_raft::{RaftConfig, RaftDriver};
use quorate_host::{HostConfig, Hosted, SwitchError, SwitchOptions, SwitchReport, VerifyReport};
use quorate_replicator::{
    ClusterId, Commit, Consistency, Cursor, Decision, Driver, Durability, Env, Frame, FrameId,
    GroupId, MonotonicClock, NodeId, OpenError, Replicator, SessionId, ShardKey, StateMachine,
};
use quorate_shard::Shards;
use quorate_shard::kv::{self, Op, Scan};

use crate::raft_cluster::raft_config;

/// Longer than any test runs.
pub(crate) const LONG: Duration = Duration::from_secs(300);

/// So many frames of a session stay unsettled, to be repeated.
const UNSETTLED: usize = 40;

/// Frames of one call.
const CALL: usize = 200;

pub(crate) fn node(number: u64) -> NodeId {
    NodeId::new(number)
}

pub(crate) fn shard() -> ShardKey {
    ShardKey::new("acme", "settings").unwrap()
}

/// Which driver a directory has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Local,
    Raft,
    Quorum,
}

/// What is done under a driver, whichever it is.
macro_rules! under {
    ($home:expr, $kind:expr, |$hosted:ident, $table:ident| $done:expr) => {
        match $kind {
            Kind::Local => {
                let $hosted = Hosted::new(Local, $home.config.clone());
                let $table = LocalConfig::default();
                $done
            }
            Kind::Raft => {
                let $hosted = Hosted::new(RaftDriver, $home.config.clone());
                let $table = $home.raft.clone();
                $done
            }
            Kind::Quorum => {
                let $hosted = Hosted::new($home.quorum.clone(), $home.config.clone());
                let $table = QuorumConfig::default();
                $done
            }
        }
    };
}

/// A directory.
pub(crate) struct Home {
    pub(crate) path: PathBuf,
    pub(crate) node: NodeId,
    pub(crate) durability: Durability,
    pub(crate) config: HostConfig,
    pub(crate) raft: RaftConfig,
    /// With the genesis of a group of this node alone.
    pub(crate) quorum: QuorumDriver,
}

impl Home {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        let mut config = HostConfig::default();
        config.cluster = Some(ClusterId::new([7; 16]));
        let (path, node, durability) = (path.into(), node(1), Durability::Disk);
        let quorum = validators(1);
        Self { path, node, durability, config, raft: raft_config(), quorum }
    }

    pub(crate) fn env(&self) -> Env {
        let mut env = Env::new(self.node, &self.path, Arc::new(MonotonicClock::new()), 1);
        env.members = vec![self.node];
        env.durability = self.durability;
        env
    }

    /// Opens it, with what can be read of its state.
    pub(crate) async fn open(
        &self,
        kind: Kind,
    ) -> Result<(Arc<dyn Replicator>, Shards), OpenError> {
        let (machine, shards) = Shards::builder().build();
        let machine = Box::new(machine);
        let opened =
            under!(self, kind, |hosted, table| hosted.open(table, self.env(), machine).await);
        opened.map(|opened| (opened, shards))
    }

    pub(crate) fn switch(
        &self,
        to: Kind,
        options: &SwitchOptions,
    ) -> Result<SwitchReport, SwitchError> {
        self.switch_from(if to == Kind::Local { Kind::Raft } else { Kind::Local }, to, options)
    }

    pub(crate) fn switch_from(
        &self,
        from: Kind,
        to: Kind,
        options: &SwitchOptions,
    ) -> Result<SwitchReport, SwitchError> {
        let env = self.env();
        let leaving =
            under!(self, from, |hosted, table| hosted.leave(&table, &env, &machine, options))?;
        under!(self, to, |hosted, table| {
            hosted.take_over(&table, &env, &machine, leaving, &|| Ok(()))
        })
    }

    pub(crate) fn verify(&self, kind: Kind) -> Vec<VerifyReport> {
        let (env, make) = (self.env(), || machine(GroupId::new(0)));
        under!(self, kind, |hosted, table| hosted.verify(&table, &env, &make)).unwrap()
    }
}

/// The driver of nodes 1 to `count`, which are all the validators of its genesis.
pub(crate) fn validators(count: u8) -> QuorumDriver {
    let key = |number| {
        // The number of the scheme, and then the secret.
        Arc::new(SigningKey::from_bytes(&[vec![1], vec![number; 32]].concat()).unwrap())
    };
    let keys: Vec<_> = (1..=count).map(key).collect();
    let all = (1..).zip(&keys);
    let all = all.map(|(node, key)| Validator { node, power: 1, key: key.public().clone() });
    let genesis = Genesis::new([7; 16], FaultModel::Byzantine, Scheme::Ed25519, 500, all.collect());
    let genesis = genesis.unwrap();
    let setups = (1..).zip(keys);
    QuorumDriver::with_setups(
        setups.map(|(number, key)| (node(number), Setup::new(genesis.clone(), key))),
    )
}

pub(crate) fn machine(_group: GroupId) -> Box<dyn StateMachine> {
    Box::new(Shards::builder().build().0)
}

/// Options with the copy in `backup`.
pub(crate) fn backup_in(backup: &Path) -> SwitchOptions {
    let mut options = SwitchOptions::default();
    options.backup = Some(backup.to_owned());
    options
}

/// Everything that was accepted, and how it was answered.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    serial: u64,
    /// How many keys there are; further puts set them again.
    distinct: u64,
    pub(crate) keys: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) revision: u64,
    last: Option<Commit>,
    /// The newest frames, none of which is settled.
    open: VecDeque<(Frame, Commit)>,
}

pub(crate) const SESSION: SessionId = SessionId::new([5; 16]);

impl Told {
    pub(crate) fn new(distinct: u64) -> Self {
        Self {
            serial: 0,
            distinct,
            keys: BTreeMap::new(),
            revision: 0,
            last: None,
            open: VecDeque::new(),
        }
    }

    /// Opens the session, which is answered as it was the first time.
    pub(crate) async fn open_session(&self, node: &Arc<dyn Replicator>) {
        let opened = node.propose(Frame::open_session(SESSION, shard()), LONG).await;
        assert!(matches!(opened, Ok(Decision::Accept(_))), "{opened:?}");
    }

    /// Puts so many keys, and compares each answer with what it has to be.
    pub(crate) async fn put(&mut self, node: &Arc<dyn Replicator>, count: usize) {
        let mut left = count;
        while left > 0 {
            let now = left.min(CALL);
            left -= now;
            let settled = self.serial.saturating_sub(UNSETTLED as u64) + 1;
            let frames: Vec<_> = (0..now).map(|_| self.frame(settled)).collect();
            let decisions = node.propose_many(frames.clone(), LONG).await.unwrap();
            for (frame, decision) in frames.into_iter().zip(decisions) {
                self.answered(frame, decision);
            }
            let over = self.open.len().saturating_sub(UNSETTLED);
            self.open.drain(..over);
        }
    }

    fn frame(&mut self, settled: u64) -> Frame {
        self.serial += 1;
        // Some keys are put again and again.
        let key = (self.serial * 7 % self.distinct).to_string().into_bytes();
        let value = self.serial.to_string().into_bytes();
        let payload = Op::put(&key, &value).encode();
        self.keys.insert(key, value);
        let id = FrameId { session: SESSION, serial: self.serial };
        Frame { settled, ..Frame::new(id, shard(), payload) }
    }

    fn answered(&mut self, frame: Frame, decision: Decision) {
        let Decision::Accept(commit) = decision else { panic!("{:?}: {decision:?}", frame.id) };
        if let Some(last) = &self.last {
            assert!(commit.position > last.position, "{commit:?} after {last:?}");
        }
        self.revision += 1;
        assert_eq!(revision_of(commit.reply.bytes().unwrap()), self.revision, "{commit:?}");
        self.last = Some(commit.clone());
        self.open.push_back((frame, commit));
    }

    /// Proposes every frame that is not settled once more: each is answered as it was.
    pub(crate) async fn repeat(&self, node: &Arc<dyn Replicator>) {
        let frames = self.open.iter().map(|(frame, _)| frame.clone()).collect();
        let decisions = node.propose_many(frames, LONG).await.unwrap();
        for ((frame, commit), decision) in self.open.iter().zip(decisions) {
            assert_eq!(decision, Decision::Accept(commit.clone()), "{:?}", frame.id);
        }
    }

    /// Compares what can be read with what was accepted.
    pub(crate) async fn check(&self, node: &Arc<dyn Replicator>, shards: &Shards) {
        node.read_barrier(&shard(), Consistency::Linearizable, LONG).await.unwrap();
        let (kv, shard) = (shards.kv(), shard());
        let mut found = BTreeMap::new();
        let mut scan = Scan::all();
        loop {
            let page = kv.scan(&shard, &scan).unwrap();
            assert_eq!(page.revision, self.revision);
            found.extend(page.entries.into_iter().map(|it| (it.key.to_vec(), it.value.to_vec())));
            let Some(next) = page.next else { break };
            scan = Scan::all().after(next);
        }
        assert!(found == self.keys, "{} keys are there, of {}", found.len(), self.keys.len());
    }

    /// After the last frame that was answered.
    pub(crate) fn cursor(&self) -> Cursor {
        Cursor::after(self.last.iter().map(|last| last.position))
    }
}

fn revision_of(reply: &Bytes) -> u64 {
    match kv::Reply::decode(reply).unwrap() {
        kv::Reply::Put { revision, .. } => revision,
        other => panic!("{other:?}"),
    }
}
