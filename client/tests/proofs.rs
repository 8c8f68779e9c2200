//! Clients that have the genesis, and believe no node: what is accepted is proved, whoever answers. The suite judges those of one
//! validator; with `QUORATE_TEST_BUDGET=long` those of four, too.

#[path = "support/judged.rs"]
mod judged;
#[path = "support/nobody.rs"]
mod nobody;
#[path = "../../host/tests/support/quorum_cluster.rs"]
mod quorum_cluster;
#[path = "support/served.rs"]
mod served;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use judged::Judged;
use quorate_certificate::{
    Certificate, DecidedFrame, FaultModel, Genesis, Motion, ValidatorChange,
};
use quorate_client::{Client, ClientConfig};
use quorate_conformance::replicator::{Cluster, MachineMaker, ReplicatorFactory, replicator};
use quorate_conformance::until;
use quorate_driver_quorum::QuorumDriver;
use quorate_replicator::{
    CloseError, Consistency, Cursor, DecidedBatch, Decision, Durability, EventStream, Frame,
    FrameId, GroupId, Handler, MemberChange, NodeId, Pinned, Position, ProposeError, ReadError,
    Replicator, Scope, SessionId, ShardKey, Status, SubscribeError, Subscription,
};
use quorate_shard::kv::ReadOptions;
use quorum_cluster::{Maker, QuorumCluster as Founded, found as validators, quorum_config};
use served::Served;
use tempfile::TempDir;

/// Longer than anything here takes on a machine with other work.
const WITHIN: Duration = Duration::from_secs(60);

const NODES: usize = 4;

/// The same for all clusters of so many nodes in this test, but for one of strangers.
fn validating(nodes: usize) -> &'static (Genesis, QuorumDriver) {
    static VALIDATORS: [OnceLock<(Genesis, QuorumDriver)>; NODES + 1] =
        [const { OnceLock::new() }; NODES + 1];
    VALIDATORS[nodes].get_or_init(|| validators(nodes as u64, FaultModel::Byzantine))
}

fn found(nodes: u64, durability: Durability, maker: Maker) -> Founded {
    let driver = validating(nodes as usize).1.clone();
    Founded::with_driver((driver, quorum_config()), nodes, durability, maker)
}

/// A client's configuration that names a genesis, and the directory that holds it.
fn trusting(genesis: &Genesis) -> (ClientConfig, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("genesis.toml");
    std::fs::write(&file, genesis.to_toml()).unwrap();
    let mut config = ClientConfig::default();
    config.genesis_file = Some(file);
    (config, directory)
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
        let (config, genesis) = trusting(&validating(nodes).0);
        let judged = Judged::open(served, config).await;
        // They have read it.
        drop(genesis);
        Box::new(judged)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_verify_keep_the_contract() {
    replicator(Factory(1)).await;
    if std::env::var("QUORATE_TEST_BUDGET").as_deref() == Ok("long") {
        replicator(Factory(NODES)).await;
    }
}

/// In what a node lies about what it has decided.
#[derive(Clone, Debug)]
enum Lie {
    /// It has no proof.
    NoProof,
    /// It shows another batch, which was decided.
    OtherBatch,
    /// It says that another frame's place is that of this one, and proposes nothing.
    OtherFrame,
    /// It shows a batch of others, which other validators have decided.
    Strangers(DecidedBatch),
    /// One signature fewer than a quorum.
    Few,
    /// It changes what the batch says beside the payloads, which it does not send.
    Batch,
    /// It keeps to itself who the validators are.
    NoChanges,
}

/// A node that is said to lead, and may lie.
#[derive(Debug)]
struct Node {
    inner: Arc<dyn Replicator>,
    lie: Option<Lie>,
}

#[async_trait]
impl Replicator for Node {
    async fn propose(&self, frame: Frame, within: Duration) -> Result<Decision, ProposeError> {
        let session = frame.id.serial == FrameId::OPEN;
        if matches!(self.lie, Some(Lie::OtherFrame)) && !session {
            let mut decision = self.inner.propose(other_frame(), within).await?;
            if let Decision::Accept(commit) = &mut decision {
                commit.reply = quorate_replicator::Reply::Known("trust me".into());
            }
            return Ok(decision);
        }
        self.inner.propose(frame, within).await
    }

    async fn propose_many(
        &self,
        frames: Vec<Frame>,
        within: Duration,
    ) -> Result<Vec<Decision>, ProposeError> {
        let mut decisions = Vec::new();
        for frame in frames {
            decisions.push(self.propose(frame, within).await?);
        }
        Ok(decisions)
    }

    async fn decided(&self, group: GroupId, index: u64) -> Result<DecidedBatch, ReadError> {
        let mut batch = self.inner.decided(group, index).await?;
        match &self.lie {
            None | Some(Lie::OtherFrame | Lie::NoChanges) => {}
            Some(Lie::NoProof) => {
                return Err(ReadError::NoProof { reason: "it was eaten by the dog".into() });
            }
            Some(Lie::OtherBatch) => batch = self.inner.decided(group, 1).await?,
            Some(Lie::Strangers(theirs)) => batch = theirs.clone(),
            Some(Lie::Few) => {
                let whole = Certificate::decode(&batch.proof).unwrap();
                let few = whole.signatures()[..2].to_vec();
                let few = Certificate::new(whole.height(), whole.round(), *whole.value(), few);
                batch.proof = few.unwrap().encode().into();
            }
            Some(Lie::Batch) => {
                let mut body = batch.body.to_vec();
                // In the history that its proposer had.
                body[30] ^= 1;
                batch.body = body.into();
            }
        }
        Ok(batch)
    }

    async fn member_batches(
        &self,
        group: GroupId,
        after: u64,
    ) -> Result<Vec<DecidedBatch>, ReadError> {
        match self.lie {
            Some(Lie::NoChanges) => Ok(Vec::new()),
            _ => self.inner.member_batches(group, after).await,
        }
    }

    async fn decision(
        &self,
        shard: &ShardKey,
        id: FrameId,
        within: Duration,
    ) -> Result<Decision, ReadError> {
        self.inner.decision(shard, id, within).await
    }

    async fn subscribe(
        &self,
        scope: Scope,
        from: Cursor,
        handler: Arc<dyn Handler>,
    ) -> Result<Subscription, SubscribeError> {
        self.inner.subscribe(scope, from, handler).await
    }

    async fn read_barrier(
        &self,
        shard: &ShardKey,
        level: Consistency,
        within: Duration,
    ) -> Result<Position, ReadError> {
        self.inner.read_barrier(shard, level, within).await
    }

    async fn pinned(&self, shard: &ShardKey) -> Result<Arc<dyn Pinned>, ReadError> {
        self.inner.pinned(shard).await
    }

    fn group(&self, shard: &ShardKey) -> GroupId {
        self.inner.group(shard)
    }

    fn status(&self) -> Status {
        let mut status = self.inner.status();
        // Clients follow the first node.
        status.groups[0].leader = Some(NodeId::new(1));
        status
    }

    fn events(&self) -> EventStream {
        self.inner.events()
    }

    async fn close(&self) -> Result<(), CloseError> {
        self.inner.close().await
    }
}

fn shard() -> ShardKey {
    ShardKey::new("acme", "orders").unwrap()
}

fn other_frame() -> Frame {
    // An opened session can be opened again.
    Frame::open_session(SessionId::new([9; 16]), shard())
}

fn options() -> ReadOptions {
    ReadOptions::default().within(WITHIN)
}

/// Serves two nodes, of which the first lies.
async fn serve(lie: Option<Lie>) -> Served {
    let served = Served::open_kv(NODES).await;
    for (node, lie) in [lie, None].into_iter().enumerate() {
        served.close_door(node).await;
        let inner = served.cluster.node(NodeId::new(node as u64 + 1));
        served.serve_through(node, Arc::new(Node { inner, lie }));
    }
    served
}

fn node_of(client: &Client) -> NodeId {
    client.replicator().status().node
}

/// A batch that four other validators have decided in a cluster of the same name.
async fn of_strangers() -> DecidedBatch {
    let (_, driver) = validators(NODES as u64, FaultModel::Byzantine);
    let (machine, durability) = (shards_machine(), Durability::Memory);
    let config = (driver, quorum_config());
    let strangers = Founded::with_driver(config, NODES as u64, durability, machine).open().await;
    let node = strangers.node(NodeId::new(1));
    let decided = node.propose(other_frame(), WITHIN).await.unwrap().accepted().unwrap();
    let batch = node.decided(GroupId::new(0), decided.position.index).await.unwrap();
    Cluster::close(&strangers).await;
    batch
}

fn shards_machine() -> Maker {
    Box::new(|| Box::new(quorate_shard::Shards::builder().build().0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_accepted_is_proved_to_anyone() {
    let served = serve(None).await;
    let (genesis, _) = validating(NODES);
    let (config, _directory) = trusting(genesis);
    let client = served.client_with(config, &[0, 1]).await;
    let session = client.session().unwrap();
    let id = FrameId { session: session.id(), serial: 1 };
    let opened = Frame::open_session(session.id(), shard());
    let opened = client.replicator().propose(opened, WITHIN).await.unwrap().accepted().unwrap();
    // Several frames of one batch, and one that is decided already.
    let frames: Vec<_> = (1..=40)
        .map(|serial| {
            Frame::new(FrameId { serial, ..id }, shard(), format!("not an operation {serial}"))
        })
        .collect();
    let decided = client.replicator().propose_many(frames.clone(), WITHIN).await.unwrap();
    let again = client.replicator().propose(frames[3].clone(), WITHIN).await.unwrap();
    assert_eq!(again, decided[3]);
    let commits = decided.into_iter().map(|decision| decision.accepted().unwrap());
    for (serial, commit) in (0..).zip([opened].into_iter().chain(commits)) {
        let file = commit.proof.expect("the client asks for it");
        let shown = DecidedFrame::decode(&file).unwrap().verify(Some(genesis)).unwrap();
        assert_eq!((shown.height, shown.frame.slot), (commit.position.index, commit.position.slot));
        assert_eq!((shown.frame.session, shown.frame.serial), (session.id().bytes(), serial));
    }
    // Who does not ask has none.
    let believing = served.client(&[0, 1]).await;
    let decision = believing.replicator().propose(frames[0].clone(), WITHIN).await.unwrap();
    assert_eq!(decision.accepted().unwrap().proof, None);
    for client in [client, believing] {
        client.close().await;
    }
    served.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lies_is_left_for_another_and_nothing_happens_twice() {
    let strangers = of_strangers().await;
    let lies = [
        Lie::NoProof,
        Lie::OtherBatch,
        Lie::OtherFrame,
        Lie::Strangers(strangers),
        Lie::Few,
        Lie::Batch,
    ];
    for lie in lies {
        println!("{lie:?}");
        let served = serve(Some(lie)).await;
        let opened = served.cluster.node(NodeId::new(1)).propose(other_frame(), WITHIN).await;
        opened.unwrap().accepted().unwrap();
        let (config, _directory) = trusting(&validating(NODES).0);
        let client = served.client_with(config.clone(), &[0, 1]).await;
        let first = NodeId::new(1);
        until("the client is with the liar", WITHIN, || node_of(&client), |it| *it == first).await;
        let options = quorate_shard::kv::PutOptions::default().within(WITHIN);
        let put = client.kv().put(&shard(), b"key", b"value", options).await.unwrap();
        assert_eq!(put.revision, 1, "it happened once");
        assert_eq!(node_of(&client), NodeId::new(2));
        let got = client.kv().get(&shard(), b"key", self::options()).await.unwrap();
        assert_eq!(got.entry.unwrap().value, "value");
        client.close().await;
        // With nobody else to ask, nothing is known, and nothing is refused.
        let alone = served.client_with(config, &[0]).await;
        let id = FrameId { session: SessionId::new([9; 16]), serial: 1 };
        let frame = Frame::new(id, shard(), "not an operation");
        let within = Duration::from_millis(300);
        let unknown = alone.replicator().propose(frame.clone(), within).await;
        assert_eq!(unknown, Ok(Decision::Timeout));
        let unknown = alone.replicator().propose_many(vec![frame], within).await;
        assert_eq!(unknown, Ok(vec![Decision::Timeout]));
        alone.close().await;
        served.close().await;
    }
}

/// The validators change after the client has verified something by those of the genesis, which it then does not believe any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn validators_are_followed_along_what_those_before_have_decided() {
    let served = serve(Some(Lie::NoChanges)).await;
    let (genesis, _) = validating(NODES);
    let (config, _directory) = trusting(genesis);
    let put = async |client: &Client, key: &str| {
        let options = quorate_shard::kv::PutOptions::default().within(WITHIN);
        client.kv().put(&shard(), key.as_bytes(), b"value", options).await.unwrap();
    };
    let client = served.client_with(config.clone(), &[0, 1]).await;
    let first = NodeId::new(1);
    until("the client is with the first", WITHIN, || node_of(&client), |it| *it == first).await;
    put(&client, "before").await;
    assert_eq!(node_of(&client), first, "there is no change to be silent about");
    for power in [2, 1] {
        let change = ValidatorChange::Power { node: 4, power };
        let change = Motion::new(vec![change], Vec::new()).unwrap().encode();
        let operators = (1..=NODES as u64).map(|node| {
            let (node, change) = (served.cluster.node(NodeId::new(node)), change.clone());
            let approve = MemberChange::Approve { change, new: Vec::new() };
            async move { node.change_members(approve, WITHIN).await }
        });
        for approved in futures_util::future::join_all(operators).await {
            approved.unwrap();
        }
        put(&client, "after").await;
        assert_eq!(
            node_of(&client),
            NodeId::new(2),
            "the first does not say who the validators are"
        );
    }
    // What it keeps is verified by the genesis, whoever decides now.
    let later = served.client_with(config, &[1]).await;
    let commit = later.session().unwrap().propose(&shard(), "not an operation", WITHIN).await;
    let file = commit.unwrap().proof.unwrap();
    DecidedFrame::decode(&file).unwrap().verify(Some(genesis)).unwrap();
    for client in [client, later] {
        client.close().await;
    }
    served.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_genesis_that_does_not_fit_is_told_at_once() {
    let served = serve(None).await;
    let key = quorate_certificate::SigningKey::generate(quorate_certificate::Scheme::Ed25519);
    let validator =
        quorate_certificate::Validator { node: 1, power: 1, key: key.unwrap().public().clone() };
    let (model, scheme) = (FaultModel::Byzantine, quorate_certificate::Scheme::Ed25519);
    let other = Genesis::new([8; 16], model, scheme, 500, vec![validator]).unwrap();
    let (config, _directory) = trusting(&other);
    let error = served.try_client(config, &[0]).await.unwrap_err().to_string();
    assert!(error.contains("genesis.toml: it is of another cluster"), "{error}");
    let mut config = ClientConfig::default();
    config.genesis_file = Some("nowhere/genesis.toml".into());
    let error = served.try_client(config, &[0]).await.unwrap_err().to_string();
    assert!(error.starts_with("nowhere/genesis.toml: "), "{error}");
    served.close().await;
}
