//! A cluster for a try: it is there with one command, bears the loss of its leader, and leaves no process behind.

mod common;

use common::process::Process;
use common::{Ended, Place};
use rustix::process::Signal;

const CLIENT: &str = "quorate-dev/client/client.toml";

fn dev(place: &Place, arguments: &[&str]) -> Process {
    let mut command = place.bare();
    command.arg("dev").args(arguments).env("QUORATE_LOG_SEGMENT_BYTES", (8 << 20).to_string());
    // What is set for one node would be set for all.
    command.env("QUORATE_NODE_ID", "2").env("QUORATE_DRIVER_KIND", "local");
    Process::spawn(command)
}

/// Waits until each of these nodes has said that it is ready.
fn ready(process: &mut Process, nodes: u64) {
    for node in 1..=nodes {
        let line = format!("n{node} is ready");
        process.first(&line, |said| (*said == line).then_some(()));
    }
}

fn run(place: &Place, arguments: &[&str]) -> Ended {
    place.run_bare(&[&["--connect", CLIENT], arguments].concat())
}

#[test]
fn the_loss_of_a_leader_costs_no_answered_write() {
    let place = Place::new();
    let mut cluster = dev(&place, &["--nodes", "3"]);
    cluster.wait_for("dev 3 nodes, driver raft");
    cluster.wait_for("--connect quorate-dev/client/client.toml kv put app/greeting hello world");
    ready(&mut cluster, 3);
    let put = run(&place, &["kv", "put", "app/greeting", "hello", "world"]);
    assert_eq!((put.code, put.out.as_str()), (0, "1\n"), "{}", put.err);

    let killed = place.run_bare(&["dev", "kill-leader", "-o", "json"]);
    assert_eq!(killed.code, 0, "{}{}", killed.out, killed.err);
    let killed = killed.json();
    assert_eq!(killed["lost"], 0, "{killed}");
    assert_ne!(killed["leader"], killed["killed"], "{killed}");
    assert!(killed["writes"].as_u64().unwrap() >= 100, "{killed}");
    assert_ne!(killed["gap_ms"], 0, "{killed}");
    // It is started again, and is ready again.
    let node = format!("n{}", killed["killed"]);
    cluster.wait_for(&format!("dev {node} ended by signal 9; starts it again"));
    cluster.wait_for(&format!("{node} is ready"));

    cluster.signal(Signal::INT);
    let (code, said) = cluster.end();
    assert_eq!(code, 0, "{said}");
    for node in 1..=3 {
        assert!(said.contains(&format!("n{node} is closed")), "{said}");
    }

    // The same command goes on with the data.
    let mut again = dev(&place, &[]);
    again.wait_for("dev 3 nodes, driver raft");
    ready(&mut again, 3);
    assert_eq!(run(&place, &["kv", "get", "app/greeting", "hello"]).out, "world\n");
    // Its standard error ends when the last of its nodes has ended.
    again.signal(Signal::KILL);
    let (code, said) = again.end();
    assert_eq!(code, 128 + 9, "{said}");
    for node in 1..=3 {
        assert!(said.contains(&format!("n{node} is closed")), "{said}");
    }
}

#[test]
fn one_node_is_enough_for_a_try_and_says_what_it_cannot() {
    let place = Place::new();
    let mut node = dev(&place, &[]);
    node.wait_for("dev 1 node, driver local");
    ready(&mut node, 1);
    assert_eq!(run(&place, &["kv", "put", "app/x", "k", "v"]).out, "1\n");

    let refused = |arguments: &[&str], code: i32, words: &str| {
        let ended = place.run_bare(&[&["dev"], arguments].concat());
        assert_eq!(ended.code, code, "{}", ended.err);
        assert!(ended.err.contains(words), "no {words:?} in: {}", ended.err);
    };
    refused(&["kill-leader"], 2, "one node alone has nobody to take over");
    refused(&["kill-leader", "--dir", "other"], 2, "no `quorate dev` runs in other; start one");
    refused(&[], 3, "another `quorate dev` runs in quorate-dev");
    refused(&["--nodes", "3"], 2, "quorate-dev has 1 node from an earlier time");
    refused(&["--driver", "raft"], 2, "quorate-dev has driver local from an earlier time");
    refused(&["--dir", "o", "--nodes", "3", "--base-port", "65534"], 2, "leaves no 3 ports");

    node.signal(Signal::TERM);
    assert_eq!(node.end().0, 0);
    refused(&["kill-leader"], 2, "no `quorate dev` runs in quorate-dev");
}
