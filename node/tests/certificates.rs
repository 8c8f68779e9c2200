//! What init-cluster makes, and how certificates are looked at and renewed.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use common::process::Cluster;
use common::{Ended, Place};

#[track_caller]
fn refused(ended: &Ended, words: &str) {
    assert_eq!(ended.code, 2, "{}{}", ended.out, ended.err);
    assert!(ended.err.contains(words), "no {words:?} in: {}", ended.err);
}

fn files(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_cluster_is_made_with_one_directory_for_each_node_and_client() {
    let place = Place::new();
    let made = place.run_bare(&[
        "init-cluster",
        "--nodes",
        "n1=a.example:7410,n2=[2001:db8::2]:7410,n7=127.0.0.1:7410",
        "--out",
        "made/cluster/",
        "--clients",
        "ops,app",
    ]);
    assert_eq!(made.code, 0, "{}", made.err);
    assert!(made.out.contains("quorate serve --config made/cluster/n7/node.toml"), "{}", made.out);
    assert!(made.out.contains("--connect made/cluster/ops/client.toml status"), "{}", made.out);

    let cluster = place.path("made/cluster");
    assert_eq!(files(&place.path("made")), ["cluster"]);
    let parts = ["app", "authority.key", "authority.pem", "cluster.toml", "n1", "n2", "n7", "ops"];
    assert_eq!(files(&cluster), parts);
    for (directory, kind) in [("n1", "node"), ("n2", "node"), ("n7", "node"), ("ops", "client")] {
        let names = ["key", "pem", "toml"].map(|ending| format!("{kind}.{ending}"));
        let found = files(&cluster.join(directory));
        assert_eq!(found[0], "authority.pem");
        assert_eq!(found[1..], names, "{directory}");
        assert_eq!(
            fs::read(cluster.join(directory).join("authority.pem")).unwrap(),
            fs::read(cluster.join("authority.pem")).unwrap()
        );
    }
    for key in ["authority.key", "n1/node.key", "n2/node.key", "ops/client.key", "app/client.key"] {
        let mode = fs::metadata(cluster.join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    for (node, listen) in [("n1", "0.0.0.0:7410"), ("n2", "[::]:7410"), ("n7", "127.0.0.1:7410")] {
        let config = cluster.join(node).join("node.toml");
        let check = place.run_bare(&["config", "check", "--config", config.to_str().unwrap()]);
        assert_eq!(check.code, 0, "{}", check.err);
        let text = fs::read_to_string(config).unwrap();
        assert!(text.contains(&format!("listen           = \"{listen}\"")), "{text}");
        assert!(text.contains("founders = [1, 2, 7]"), "{text}");
        assert!(text.contains("2 = \"[2001:db8::2]:7410\""), "{text}");
    }
    // Two clusters trust each other in nothing, and have ids of their own.
    let again = place.run_bare(&["init-cluster", "--nodes", "n1=a:1", "--out", "b", "-o", "json"]);
    let id = again.json()["cluster"].as_str().unwrap().to_string();
    assert!(!fs::read_to_string(cluster.join("cluster.toml")).unwrap().contains(&id));
}

#[test]
fn what_makes_no_cluster_is_refused_and_leaves_nothing() {
    let place = Place::new();
    let init = |nodes: &str, more: &[&str]| {
        place.run_bare(&[&["init-cluster", "--nodes", nodes, "--out", "c"], more].concat())
    };
    refused(&init("n1=a:1,n1=b:1", &[]), "n1 is there twice, at a:1 and at b:1");
    refused(&init("n1=a:1,n2=a:1", &[]), "n1 and n2 are both at a:1");
    refused(&init("n1=a", &[]), "\"a\" is no address: it has no port");
    refused(&init("one=a:1", &[]), "\"one\" is no name of a node");
    refused(&init("n1=a:1,n2=b:1", &["--driver", "local"]), "take --driver raft for several");
    refused(&init("n1=a:1", &["--driver", "paxos"]), "this program has: local, quorum, raft");
    refused(&init("n1=a:1", &["--clients", "a/b"]), "\"a/b\" is no name for a client");
    refused(&init("n1=a:1", &["--clients", "n1"]), "give it another name");
    refused(&init("n1=a:1", &["--clients", "ops,ops"]), "give it another name");
    refused(&init("n1=a:1", &["--validity-days", "0"]), "--validity-days");
    assert!(files(&place.path("")).is_empty(), "{:?}", files(&place.path("")));

    fs::create_dir(place.path("c")).unwrap();
    assert_eq!(init("n1=a:1", &[]).code, 0, "an empty directory is as good as none");
    let key = fs::read(place.path("c/authority.key")).unwrap();
    refused(&init("n1=a:1", &[]), "c is not empty, and may hold the only key of a cluster");
    assert_eq!(fs::read(place.path("c/authority.key")).unwrap(), key);
}

#[test]
fn certificates_are_shown_and_renewed_without_another_program() {
    let cluster = Cluster::new(2, "raft");
    let place = &cluster.place;
    let config = cluster.node_toml(2);
    let show = || {
        let shown =
            place.run_bare(&["certs", "show", "--config", config.to_str().unwrap(), "-o", "json"]);
        assert_eq!(shown.code, 0, "{}", shown.err);
        shown.json()
    };
    let before = show();
    assert_eq!(before[0]["name"], "n2");
    assert!(before[0]["subject"].as_str().unwrap().ends_with("/node/2"), "{before}");
    assert_eq!(before[0]["issuer"], before[1]["name"]);
    assert_eq!(before[0]["renew"], false);

    let node = place.path("cluster/n2");
    let key = fs::read(node.join("node.key")).unwrap();
    let renew = |more: &[&str]| {
        place.run_bare(&[&["certs", "renew", "--authority", "cluster"], more].concat())
    };
    let renewed = renew(&["--node", "n2", "--validity-days", "10"]);
    assert_eq!(renewed.code, 0, "{}", renewed.err);
    assert!(renewed.out.contains("kill -HUP"), "{}", renewed.out);
    assert_ne!(fs::read(node.join("node.key")).unwrap(), key);
    assert_eq!(fs::read(node.join("node.key.old")).unwrap(), key);
    let mode = fs::metadata(node.join("node.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let after = show();
    assert_ne!(after[0]["not_after"], before[0]["not_after"]);
    assert_eq!(after[0]["subject"], before[0]["subject"]);
    assert_eq!(renew(&["--node", "n2"]).code, 0, "twice is as good as once");

    // A client that is new gets everything it needs.
    assert_eq!(renew(&["--client", "ops"]).code, 0);
    let made = ["authority.pem", "client.key", "client.pem", "client.toml"];
    assert_eq!(files(&place.path("cluster/ops")), made);

    refused(&renew(&["--node", "n3"]), "cluster has no n3; `quorate init-node`");
    refused(&renew(&["--node", "n2", "--out", "elsewhere"]), "elsewhere does not exist");
    let other = renew(&["--node", "n2", "--out", "cluster/n1"]);
    refused(&other, "cluster/n1/node.pem is of n1, not of n2 in this cluster");
    refused(&renew(&["--node", "n2", "--out", "."]), "node.pem: No such file");
    refused(&renew(&[]), "--node");
    let elsewhere = place.run_bare(&["certs", "renew", "--authority", ".", "--node", "n1"]);
    refused(&elsewhere, "name the directory that `quorate init-cluster` made");
    let foreign = place.run_bare(&["certs", "show", "cluster/n2/node.key"]);
    refused(&foreign, "there is none in the text");
}

#[test]
fn a_node_that_is_to_be_added_gets_its_directory() {
    let cluster = Cluster::new(2, "raft");
    let init = |node: &str| cluster.place.run_bare(&["init-node", node, "--authority", "cluster"]);
    let made = init("n3=c.example:7410");
    assert_eq!(made.code, 0, "{}", made.err);
    assert!(made.out.contains("member add n3=c.example:7410"), "{}", made.out);
    let text = fs::read_to_string(cluster.node_toml(3)).unwrap();
    assert!(text.contains("id       = 3\n") && text.contains("founders = [1, 2]"), "{text}");
    assert!(text.contains("3 = \"c.example:7410\""), "{text}");
    let check = cluster.node_toml(3);
    let check = cluster.place.run_bare(&["config", "check", "--config", check.to_str().unwrap()]);
    assert_eq!(check.code, 0, "{}", check.err);

    refused(&init("n3=d.example:7410"), "n3 is there twice");
    refused(&init("n4=c.example:7410"), "n3 and n4 are both at c.example:7410");
}
