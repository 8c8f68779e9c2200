//! One node under each driver, and its directory on the way from one to another.

use std::sync::Arc;
use std::time::Duration;

use quorate_certificate::{FaultModel, Genesis, Scheme, SigningKey, Validator};
use quorate_driver_local::{Local, LocalConfig};
use quorate_driver_quorum::{QuorumConfig, QuorumDriver, Setup};
use quorate_driver_raft::{RaftConfig, RaftDriver};
use quorate_host::{HostConfig, Hosted, SwitchError, SwitchOptions, SwitchReport};
use quorate_replicator::{
    ClusterId, Durability, Env, GroupId, MonotonicClock, NodeId, OpenError, StateMachine,
};
use quorate_storage::{DataDir, SimDisk};

use crate::judge::Judge;
use crate::node::{CLUSTER, Life, Node, Settings, machine};

/// The only node.
pub(crate) const NODE: NodeId = NodeId::new(1);

/// Which driver has the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Local,
    Raft,
    Quorum,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Local, Self::Raft, Self::Quorum];

    const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Raft => "raft",
            Self::Quorum => "quorum",
        }
    }
}

/// The driver that the MANIFEST names; none if there is none that can be read.
pub(crate) fn in_force(disk: &SimDisk) -> Option<Kind> {
    let identity = DataDir::peek(disk).ok().flatten()?;
    Kind::ALL.into_iter().find(|kind| kind.name() == identity.driver)
}

/// What is done under a driver, whichever it is.
macro_rules! under {
    ($drivers:expr, $kind:expr, |$driver:ident, $config:ident| $done:expr) => {
        match $kind {
            Kind::Local => {
                let ($driver, $config) = (Local, &$drivers.local);
                $done
            }
            Kind::Raft => {
                let ($driver, $config) = (RaftDriver, &$drivers.raft);
                $done
            }
            Kind::Quorum => {
                let ($driver, $config) = ($drivers.quorum.clone(), &$drivers.validating);
                $done
            }
        }
    };
}

/// The drivers of a node that is alone.
#[derive(Debug)]
pub(crate) struct Drivers {
    local: LocalConfig,
    raft: RaftConfig,
    quorum: QuorumDriver,
    validating: QuorumConfig,
}

impl Drivers {
    pub(crate) fn new(local: LocalConfig) -> Self {
        let mut raft = RaftConfig::default();
        raft.election_timeout = Duration::from_millis(100);
        raft.heartbeat_interval = Duration::from_millis(20);
        // The number of the scheme, and then the secret.
        let key = SigningKey::from_bytes(&[vec![1], vec![7; 32]].concat()).expect("it is a key");
        let validator = Validator { node: NODE.number(), power: 1, key: key.public().clone() };
        let (model, scheme) = (FaultModel::Byzantine, Scheme::Ed25519);
        let genesis = Genesis::new(CLUSTER, model, scheme, 500, vec![validator]);
        let setup = Setup::new(genesis.expect("one validator is a set"), Arc::new(key));
        let quorum = QuorumDriver::with_setups([(NODE, setup)]);
        Self { local, raft, quorum, validating: QuorumConfig::default() }
    }

    pub(crate) fn open(
        &self,
        kind: Kind,
        life: Life<'_>,
        now: Duration,
    ) -> Result<Node, OpenError> {
        under!(self, kind, |driver, config| Node::open(&driver, config, life, now))
    }

    /// Takes the directory of a node that does not run to another driver, as the command does that operators have for it. The copy of what
    /// was before goes to a directory of this machine, and away.
    pub(crate) fn switch(
        &self,
        (from, to): (Kind, Kind),
        disk: &SimDisk,
        settings: &Settings,
        judge: &Judge,
    ) -> Result<SwitchReport, SwitchError> {
        let backup = tempfile::tempdir().expect("this machine has room for a small directory");
        let mut host = HostConfig::default();
        host.cluster = Some(ClusterId::new(CLUSTER));
        host.log = settings.log.clone();
        host.disk = Some(Arc::new(disk.clone()));
        let mut env = Env::new(NODE, "sim", Arc::new(MonotonicClock::new()), 1);
        (env.members, env.durability) = (vec![NODE], Durability::Disk);
        let mut options = SwitchOptions::default();
        options.backup = Some(backup.path().to_owned());
        let make = |_: GroupId| -> Box<dyn StateMachine> { machine(Some(judge)).0 };
        let leaving = under!(self, from, |driver, config| {
            Hosted::new(driver, host.clone()).leave(config, &env, &make, &options)
        })?;
        under!(self, to, |driver, config| {
            Hosted::new(driver, host).take_over(config, &env, &make, leaving, &|| Ok(()))
        })
    }
}
