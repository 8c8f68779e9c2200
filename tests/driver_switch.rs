//! The same code and the same data, with another driver.

use quorate::builtin::{SwitchOptions, switch};
use quorate::{Config, Node, NodeError};

fn config(directory: &std::path::Path) -> Config {
    let mut config = Config::default();
    config.node.data_dir = directory.join("n1");
    config
}

#[tokio::test]
async fn a_driver_of_another_build_is_named_with_the_way_to_get_it() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    Node::open(config.clone()).await.unwrap().close().await.unwrap();
    let error = switch(&config, "paxos", &SwitchOptions::default()).unwrap_err();
    assert!(error.to_string().contains("unknown driver \"paxos\"; this program has"), "{error}");
    if !cfg!(feature = "raft") {
        let error = switch(&config, "raft", &SwitchOptions::default()).unwrap_err();
        assert!(error.to_string().contains("rebuild with `--features raft`"), "{error}");
    }
    let error = switch(&config, "local", &SwitchOptions::default()).unwrap_err();
    assert!(matches!(error, NodeError::Switch(_)), "{error}");
    assert!(!directory.path().join("n1.before-switch-1").exists());
}

#[cfg(feature = "raft")]
#[tokio::test]
async fn an_application_goes_on_with_its_session_and_its_revisions() {
    use quorate::kv::{Op, PutOptions, ReadOptions};
    use quorate::{Decision, ShardKey};

    const LONG: std::time::Duration = std::time::Duration::from_secs(60);

    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    let settings = ShardKey::new("acme", "settings").unwrap();
    let node = Node::open(config.clone()).await.unwrap();
    let kv = node.kv();
    for at in 1..=20_u64 {
        let (key, value) = ((at % 5).to_string(), at.to_string());
        let put = kv.put(&settings, key.as_bytes(), value.as_bytes(), PutOptions::default());
        assert_eq!(put.await.unwrap().revision, at);
    }
    // Proposed, and not settled: the application may not have heard the answer.
    let session = node.session().unwrap();
    let attempt = session.begin(&settings, Op::put(b"once", b"1").encode(), None);
    let frame = attempt.frame().clone();
    let first = session.resume(attempt, LONG).await.unwrap();
    node.close().await.unwrap();

    let report = switch(&config, "raft", &SwitchOptions::default()).unwrap();
    assert_eq!(report.namespaces.len(), 1);
    let namespace = &report.namespaces[0];
    assert_eq!((namespace.revision, namespace.keys), (21, Some(6)));
    assert_eq!(report.groups[0].sessions, 2);
    assert_eq!(report.backup, directory.path().join("n1.before-switch-1"));

    config.driver.kind = "raft".into();
    let node = Node::open(config.clone()).await.unwrap();
    let got = node.kv().get(&settings, b"0", ReadOptions::default()).await.unwrap();
    assert_eq!(got.entry.unwrap().value, "20");
    assert_eq!(got.revision, 21);
    // Proposed again, it is answered as it was, and has not happened twice.
    let again = node.replicator().propose(frame, LONG).await.unwrap();
    assert_eq!(again, Decision::Accept(first.clone()));
    assert!(first.position < report.groups[0].position);
    let put = node.kv().put(&settings, b"more", b"1", PutOptions::default()).await.unwrap();
    assert_eq!(put.revision, 22);
    assert!(put.position > report.groups[0].position);
    node.close().await.unwrap();
}
