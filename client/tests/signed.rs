//! Clients of nodes that take only what is signed: who has the genesis signs without being told, and who has not is told what is missing.

#[path = "support/nobody.rs"]
mod nobody;
#[path = "../../host/tests/support/quorum_cluster.rs"]
mod quorum_cluster;
#[path = "support/served.rs"]
mod served;

use std::sync::OnceLock;
use std::time::Duration;

use quorate_certificate::{DecidedFrame, FaultModel, Genesis};
use quorate_client::ClientConfig;
use quorate_driver_quorum::QuorumDriver;
use quorate_replicator::{
    Decision, Durability, Frame, FrameId, ProposeError, SessionError, ShardKey,
};
use quorate_shard::kv::{PutOptions, ReadOptions};
use quorum_cluster::{Maker, QuorumCluster as Founded, found_with, quorum_config};
use served::Served;

/// Longer than anything here takes on a machine with other work.
const WITHIN: Duration = Duration::from_secs(60);

fn validating() -> &'static (Genesis, QuorumDriver) {
    static VALIDATORS: OnceLock<(Genesis, QuorumDriver)> = OnceLock::new();
    VALIDATORS.get_or_init(|| found_with(4, FaultModel::Byzantine, Genesis::with_signed_frames))
}

fn found(nodes: u64, durability: Durability, maker: Maker) -> Founded {
    let driver = validating().1.clone();
    Founded::with_driver((driver, quorum_config()), nodes, durability, maker)
}

fn shard() -> ShardKey {
    ShardKey::new("acme", "orders").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_the_genesis_signs_without_being_told() {
    let served = Served::open_kv(4).await;
    let (genesis, _) = validating();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("genesis.toml");
    std::fs::write(&file, genesis.to_toml()).unwrap();
    let mut config = ClientConfig::default();
    config.genesis_file = Some(file);
    // Each is with another node, most of which forward.
    for node in 0..4 {
        let client = served.client_with(config.clone(), &[node]).await;
        let (key, options) = (format!("key {node}"), PutOptions::default().within(WITHIN));
        client.kv().put(&shard(), key.as_bytes(), b"value", options).await.unwrap();
        let options = ReadOptions::default().within(WITHIN);
        let got = client.kv().get(&shard(), key.as_bytes(), options).await.unwrap();
        assert_eq!(got.entry.unwrap().value, "value");

        let replicator = client.replicator();
        let signer = replicator.signer().unwrap().expect("the genesis wants frames signed");
        let open = signer.open_session(&shard(), &replicator.status()).unwrap();
        replicator.propose(open, WITHIN).await.unwrap().accepted().unwrap();
        let id = |serial| FrameId { session: signer.session(), serial };
        let mut frames: Vec<_> =
            (1..=20).map(|it| Frame::new(id(it), shard(), format!("no operation {it}"))).collect();
        signer.sign(&mut frames).unwrap();
        let decided = replicator.propose_many(frames.clone(), WITHIN).await.unwrap();
        for (frame, decision) in frames.iter().zip(decided) {
            let Decision::Accept(commit) = decision else { panic!("{decision:?}") };
            let proof = DecidedFrame::decode(&commit.proof.expect("it is proved")).unwrap();
            let shown = proof.verify(Some(genesis)).unwrap();
            assert_eq!(shown.frame.serial, frame.id.serial);
            assert_eq!(shown.frame.payload, frame.payload);
        }
        client.close().await;
    }
    served.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_genesis_is_told_what_is_missing() {
    let served = Served::open_kv(4).await;
    let client = served.client(&[0]).await;
    let refused = client.session().unwrap().propose(&shard(), "x", WITHIN).await;
    let Err(SessionError::Propose(ProposeError::Invalid { reason })) = refused else {
        panic!("{refused:?}")
    };
    assert!(reason.contains("not signed") && reason.contains("genesis_file"), "{reason}");
    client.close().await;
    served.close().await;
}
