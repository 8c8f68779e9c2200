//! The commands through the client: the same words and codes as on a node of one's own, whatever happens to the nodes.

mod common;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Instant;

use common::process::{Cluster, PATIENCE, Process};
use common::{Ended, Place};
use serde_json::Value;

#[track_caller]
fn refused(ended: &Ended, code: i32, words: &str) {
    assert_eq!(ended.code, code, "{}{}", ended.out, ended.err);
    assert!(ended.err.contains(words), "no {words:?} in: {}", ended.err);
}

/// Asks for the status until it is as it should be.
#[track_caller]
fn wait_until(cluster: &Cluster, what: &str, is_so: impl Fn(&Ended) -> bool) -> Ended {
    let until = Instant::now() + PATIENCE;
    loop {
        let status = cluster.run(&["status", "-o", "json"]);
        if is_so(&status) {
            return status;
        }
        assert!(Instant::now() < until, "not {what}: {}{}", status.out, status.err);
    }
}

fn leader(status: &Value) -> Option<u64> {
    let groups = status["nodes"].as_array()?.iter().map(|node| &node["groups"][0]);
    groups.max_by_key(|group| group["term"].as_u64())?["leader"].as_u64()
}

#[test]
fn keys_are_put_read_listed_and_deleted_at_any_node() {
    let cluster = Cluster::new(3, "raft");
    let _nodes = cluster.serve_all();
    assert_eq!(cluster.ok(&["kv", "put", "acme/cfg", "colour", "green"]).out, "1\n");
    assert_eq!(cluster.ok(&["kv", "put", "acme/cfg", "count", "7"]).out, "2\n");
    let got = cluster.ok(&["kv", "get", "acme/cfg", "colour"]);
    assert_eq!((got.out.as_str(), got.err.as_str()), ("green\n", "revision 1, created at 1\n"));
    assert_eq!(cluster.ok(&["kv", "list", "acme/cfg"]).out, "colour\t1\tgreen\ncount\t2\t7\n");
    assert_eq!(cluster.ok(&["kv", "del", "acme/cfg", "colour"]).out, "3\n");
    let gone = cluster.run(&["kv", "get", "acme/cfg", "colour"]);
    assert_eq!((gone.code, gone.err.as_str()), (1, "quorate: no key \"colour\" in acme/cfg\n"));

    // The variable does as well as the option.
    let mut command = cluster.place.bare();
    command.env("QUORATE_CONNECT", cluster.client_toml()).args(["kv", "get", "acme/cfg", "count"]);
    assert_eq!(Ended::of(command).out, "7\n");
}

#[test]
fn an_import_that_was_killed_goes_on_through_the_client() {
    const LINES: usize = 4000;
    let cluster = Cluster::new(3, "raft");
    let _nodes = cluster.serve_all();
    let mut text = String::new();
    for number in 0..LINES {
        writeln!(
            text,
            "{{\"org\":\"o\",\"ns\":\"n{}\",\"op\":\"put\",\"key\":\"{number:05}\",\"text\":\"v\"}}",
            number % 3
        )
        .unwrap();
    }
    let file = cluster.place.write("lines.ndjson", &text);
    let file = file.to_str().unwrap();
    let mut child = cluster
        .command(&["import", file, "--rate", "4000", "--report-every", "16"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The window has moved on by then, so the earlier of them are settled.
    let far = |line: &String| {
        let count = line.split_once(" frames answered").and_then(|(count, _)| count.parse().ok());
        count.is_some_and(|count: usize| count >= LINES / 2)
    };
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let answered = lines.find(far);
    child.kill().unwrap();
    assert!(answered.is_some() && !child.wait().unwrap().success(), "{answered:?}");

    let resumed = cluster.ok(&["import", file, "-o", "json"]).json();
    assert_eq!(resumed["resumed"], true, "{resumed}");
    assert_ne!(resumed["already"], 0, "{resumed}");
    let mut expected: Vec<_> = text.split_inclusive('\n').collect();
    expected.sort_unstable();
    assert!(cluster.ok(&["export"]).out == expected.concat(), "export differs from sort");
    for namespace in 0..3 {
        let list = ["kv", "list", &format!("o/n{namespace}"), "--limit", "1", "-o", "json"];
        let keys = (0..LINES).filter(|number| number % 3 == namespace).count();
        assert_eq!(cluster.ok(&list).json()["namespace_revision"], keys, "applied twice or lost");
    }
    // What an import remembers is of one cluster, and goes with its end.
    let state = cluster.place.path("quorate-import");
    let clusters: Vec<_> =
        fs::read_dir(state).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(clusters.len(), 1);
    assert_eq!(fs::read_dir(&clusters[0]).unwrap().count(), 0);
}

#[test]
fn the_status_says_who_is_missing_and_why_nobody_leads() {
    let cluster = Cluster::new(3, "raft");
    let mut nodes = cluster.serve_all();
    let all = wait_until(&cluster, "led", |status| status.code == 0).json();
    let led_by = leader(&all).unwrap();
    let histories: BTreeSet<_> = all["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["groups"][0]["history"].as_str().unwrap())
        .collect();
    assert_eq!(histories.len(), 1, "{all}");

    // The leader and one more are lost: one is left, and says whom it misses.
    let other = led_by % 3;
    for at in [led_by as usize - 1, other as usize] {
        nodes[at].kill();
    }
    let lost = wait_until(&cluster, "lost", |status| status.code == 4);
    let nodes = lost.json()["nodes"].clone();
    let problems = nodes.as_array().unwrap().iter().filter(|node| node.get("problem").is_some());
    assert_eq!(problems.count(), 2, "{nodes}");
    let shown = wait_until(&cluster, "explained", |_| {
        let text = cluster.run(&["status"]).out;
        text.contains(
            "nobody leads: no leader is known: of 3 voters 2 are needed, and nothing is heard of n",
        )
    });
    assert_eq!(shown.code, 4);
}

#[test]
fn the_status_is_watched_until_somebody_ends_it() {
    let cluster = Cluster::new(1, "local");
    let mut node = cluster.serve(1);
    node.wait_for("is ready");
    let mut watching = cluster
        .command(&["status", "--watch", "1", "-o", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines: Vec<_> = BufReader::new(watching.stdout.take().unwrap())
        .lines()
        .take(2)
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap())
        .collect();
    watching.kill().unwrap();
    watching.wait().unwrap();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines.iter().all(|line| line["nodes"][0]["health"] == "ready"), "{lines:?}");
}

#[test]
fn members_come_and_go_while_the_cluster_runs() {
    let cluster = Cluster::new(3, "raft");
    let mut nodes = cluster.serve_all();
    cluster.ok(&["kv", "put", "acme/cfg", "kept", "value"]);
    let join = |node: u64| -> (Process, String) {
        let [address] = &common::process::free_addresses(1)[..] else { unreachable!() };
        let named = format!("n{node}={address}");
        let made = cluster.place.run_bare(&["init-node", &named, "--authority", "cluster"]);
        assert_eq!(made.code, 0, "{}", made.err);
        let mut process = cluster.serve(node);
        process.wait_for(&format!("it waits to be added: `quorate member add n{node}=HOST:PORT`"));
        (process, named)
    };
    let members = || -> Vec<String> {
        let list = cluster.ok(&["member", "list", "-o", "json"]).json();
        let member =
            |member: &Value| format!("n{} {}", member["node"], member["role"].as_str().unwrap());
        list.as_array().unwrap().iter().map(member).collect()
    };
    assert_eq!(members(), ["n1 voter", "n2 voter", "n3 voter"]);

    let (mut four, named) = join(4);
    cluster.ok(&["member", "add", "--learner", &named]);
    assert_eq!(members(), ["n1 voter", "n2 voter", "n3 voter", "n4 learner"]);
    assert_eq!(cluster.ok(&["member", "promote", "n4"]).out, "n4 votes\n");
    four.wait_for("is ready");
    assert_eq!(cluster.ok(&["member", "transfer", "n4"]).out, "n4 leads\n");
    four.wait_for("leads");

    // One whose machine is lost is replaced without it.
    let (_five, named) = join(5);
    nodes[0].kill();
    let replaced = cluster.ok(&["member", "replace", "n1", &named]);
    assert_eq!(replaced.out, "n5 votes in the place of n1; stop n1\n");
    assert!(cluster.ok(&["member", "remove", "n2"]).out.starts_with("n2 is out; stop it"));
    nodes[1].kill();
    assert_eq!(members(), ["n3 voter", "n4 voter", "n5 voter"]);
    assert_eq!(cluster.ok(&["kv", "get", "acme/cfg", "kept"]).out, "value\n");

    // What is so already is done already, and what cannot be is refused with the reason.
    cluster.ok(&["member", "remove", "n2"]);
    refused(&cluster.run(&["member", "transfer", "n1"]), 4, "refused: ");
    refused(&cluster.run(&["member", "transfer", "n3", "--group", "7"]), 2, "the cluster has 1");
}

#[test]
fn a_node_that_starts_from_a_checkpoint_knows_who_came_after_its_configuration() {
    let cluster = Cluster::new(1, "raft");
    let serve = |node: u64| {
        let mut command = cluster.place.bare();
        command.arg("serve").arg("--config").arg(cluster.node_toml(node));
        command.env("QUORATE_CHECKPOINT_LOG_BYTES", "1");
        command.env("QUORATE_LOG_SEGMENT_BYTES", (8 << 20).to_string());
        Process::spawn(command)
    };
    let number = |status: &Ended, key: &str| status.json()["nodes"][0]["groups"][0][key].as_u64();
    let checkpointed = || {
        let now = number(&cluster.ok(&["status", "-o", "json"]), "applied");
        wait_until(&cluster, "a checkpoint of all that was there", |status| {
            cluster.ok(&["kv", "put", "acme/cfg", "k", "v"]);
            number(status, "checkpoint") > now
        });
    };
    let mut one = serve(1);
    one.wait_for("is ready");
    checkpointed();
    one.kill();

    let mut one = serve(1);
    one.wait_for("is ready");
    let address = &common::process::free_addresses(1)[0];
    let named = format!("n2={address}");
    let made = cluster.place.run_bare(&["init-node", &named, "--authority", "cluster"]);
    assert_eq!(made.code, 0, "{}", made.err);
    let mut two = serve(2);
    two.wait_for("waits to be added");
    cluster.ok(&["member", "add", &named]);
    checkpointed();
    one.kill();

    // Its file does not name the other, without whom nothing is decided.
    let mut one = serve(1);
    one.wait_for("is ready");
    cluster.ok(&["kv", "put", "acme/cfg", "k", "last"]);
}

#[test]
fn what_cannot_be_asked_is_refused_with_the_way_out() {
    let cluster = Cluster::new(1, "raft");
    let both = cluster.run(&["kv", "get", "a/b", "k", "--data-dir", "data"]);
    refused(&both, 2, "--data-dir is of a node in this process, and --connect");
    let place = Place::new();
    refused(&place.run(&["member", "list"]), 2, "name the client's file with --connect");
    refused(&place.run(&["status", "--watch"]), 2, "ask the nodes of a cluster with --connect");
    refused(&place.run_bare(&["status", "--connect", "missing.toml"]), 2, "missing.toml: No such");
    // Nobody listens there.
    let alone = cluster.run(&["status"]);
    refused(&alone, 4, "no node answered within 5s");
    assert!(alone.err.contains(&cluster.addresses[0]), "{}", alone.err);
}
