//! The Unicode data go into a cluster of processes through a follower, while whoever leads is killed twice: everything is there
//! once, on every node.
//!
//! The beginning of the data; `QUORATE_TEST_BUDGET=long` takes all of it.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};

use common::process::{Cluster, Process};
use common::writer::Observer;
use common::{Ended, UNICODE, budget};
use quorate::ShardKey;
use serde_json::Value;

const NODES: usize = 3;

/// Waits until so many lines of the import are answered.
fn answered(import: &mut Process, lines: usize) {
    import.next("a report", |line| {
        let count: usize = line.split_once(" frames answered")?.0.parse().ok()?;
        (count >= lines).then_some(())
    });
}

/// Kills whoever leads, which is not `follower`, and starts it again once another one leads.
fn lose_leader(cluster: &Cluster, nodes: &mut [Process], observer: &Observer, follower: u64) {
    let mut leader = observer.leader();
    if leader == follower {
        // So that the import goes on through a follower.
        cluster.ok(&["member", "transfer", &format!("n{}", follower % 3 + 1)]);
        leader = observer.leader();
    }
    assert_ne!(leader, follower, "it took the lead back at once");
    let at = usize::try_from(leader - 1).unwrap();
    nodes[at].kill();
    observer.wait_for("led by another one", |told| {
        told.iter().find_map(|status| {
            status.groups.first()?.leader.filter(|found| found.number() != leader)
        })
    });
    nodes[at] = cluster.serve(leader);
}

#[test]
fn an_import_through_a_follower_bears_the_loss_of_two_leaders() {
    let text = fs::read_to_string(UNICODE).unwrap();
    let count = usize::try_from(budget(10_000, u64::MAX)).unwrap();
    let mut lines: Vec<_> = text.split_inclusive('\n').take(count).collect();
    let cluster = Cluster::new(NODES, "raft");
    let file = cluster.place.write("lines.ndjson", lines.concat());
    let mut nodes = cluster.serve_all();
    let observer = Observer::new(&cluster.client_toml());

    let follower = observer.leader() % 3 + 1;
    let through = cluster.client_of(&[follower]);
    let arguments = ["import", "--rate", "2000", "--report-every", "100", "-o", "json"];
    let mut command = cluster.command_of(&through, &arguments);
    command.arg(file);
    let summary = cluster.place.path("summary.json");
    let mut import = Process::spawn_into(File::create(&summary).unwrap(), command);
    for percent in [25, 60] {
        answered(&mut import, lines.len() * percent / 100);
        lose_leader(&cluster, &mut nodes, &observer, follower);
    }
    let (code, said) = import.end();
    assert_eq!(code, 0, "{said}");
    let summary: Value = serde_json::from_str(&fs::read_to_string(summary).unwrap()).unwrap();
    assert_eq!(summary["accepted"], lines.len(), "{summary}");

    observer.whole(NODES);
    observer.same_history(NODES);
    let mut keys = BTreeMap::<String, u64>::new();
    for line in &lines {
        let line: Value = serde_json::from_str(line).unwrap();
        *keys.entry(line["ns"].as_str().unwrap().into()).or_default() += 1;
    }
    lines.sort_unstable();
    for node in 1..=NODES as u64 {
        let alone = cluster.client_of(&[node]);
        let export = Ended::of(cluster.command_of(&alone, &["export"]));
        assert_eq!(export.code, 0, "{}", export.err);
        assert!(export.out == lines.concat(), "n{node} has something else than what was imported");
        // A line that was applied twice would have taken two revisions.
        let observer = Observer::new(&alone);
        for (namespace, keys) in &keys {
            let (entries, revision) = observer.read(&ShardKey::new("unicode", namespace).unwrap());
            assert_eq!(revision, *keys, "n{node} {namespace}");
            assert!(entries.iter().all(|entry| entry.created == entry.modified));
        }
    }
    cluster.close(nodes);
}
