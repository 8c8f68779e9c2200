//! Nodes as processes that stop, die, and come back in the wrong place: what was answered is there once, on every node.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::budget;
use common::process::{Cluster, Process};
use common::writer::{Observer, Writer};
use rustix::process::Signal;

const NODES: usize = 3;

/// Writes that are answered before and after something happens.
const WRITES: usize = 20;

/// Three nodes under somebody who writes.
struct Scene {
    cluster: Cluster,
    nodes: Vec<Process>,
    observer: Observer,
    writer: Writer,
}

impl Scene {
    fn new() -> Self {
        let cluster = Cluster::new(NODES, "raft");
        let nodes = cluster.serve_all();
        let observer = Observer::new(&cluster.client_toml());
        let writer = Writer::start(&cluster.client_toml(), "kills");
        writer.wait_for(WRITES);
        Self { cluster, nodes, observer, writer }
    }

    fn node(&mut self, node: u64) -> &mut Process {
        &mut self.nodes[usize::try_from(node - 1).unwrap()]
    }

    fn start(&mut self, node: u64) {
        *self.node(node) = self.cluster.serve(node);
    }

    fn leader(&self) -> u64 {
        self.observer.whole(NODES)
    }

    /// Waits until everything is well, and compares all nodes with what was answered.
    fn end(self) {
        let Self { cluster, nodes, observer, writer } = self;
        writer.wait_for(WRITES);
        observer.whole(NODES);
        let each = (1..=NODES as u64).map(|node| Observer::new(&cluster.client_of(&[node])));
        writer.finish(&each.collect::<Vec<_>>());
        observer.same_history(NODES);
        cluster.close(nodes);
    }
}

#[test]
fn a_leader_that_stands_still_is_followed_no_more() {
    let mut scene = Scene::new();
    for _ in 0..budget(2, 20) {
        let leader = scene.leader();
        scene.node(leader).signal(Signal::STOP);
        scene.writer.wait_for(WRITES);
        assert_ne!(scene.observer.leader(), leader);
        // It wakes with what it was about to do, and with a lease that is over.
        scene.node(leader).signal(Signal::CONT);
        scene.writer.wait_for(WRITES);
    }
    // Two of three stand still, for less than it takes the others to miss them, and for longer.
    for wait in [false, true] {
        let leader = scene.leader();
        let other = leader % 3 + 1;
        scene.node(leader).signal(Signal::STOP);
        scene.node(other).signal(Signal::STOP);
        if wait {
            let alone = |told: &[quorate::Status]| {
                told.iter().all(|status| status.groups[0].leader.is_none()).then_some(())
            };
            scene.observer.wait_for("left alone", alone);
        }
        scene.node(other).signal(Signal::CONT);
        scene.writer.wait_for(WRITES);
        scene.node(leader).signal(Signal::CONT);
    }
    scene.end();
}

#[test]
fn a_follower_that_is_killed_catches_up() {
    let mut scene = Scene::new();
    for number in 0..budget(2, 20) {
        let follower = (scene.leader() + number % 2) % 3 + 1;
        scene.node(follower).kill();
        scene.writer.wait_for(WRITES * 5);
        scene.start(follower);
        scene.leader();
    }
    scene.end();
}

#[test]
fn a_cluster_that_is_killed_as_a_whole_comes_back_in_any_order() {
    let mut scene = Scene::new();
    let orders = [[3, 1, 2], [2, 3, 1], [1, 2, 3], [3, 2, 1], [1, 3, 2], [2, 1, 3]];
    let times = usize::try_from(budget(2, 24)).unwrap();
    for order in orders.into_iter().cycle().take(times) {
        scene.writer.wait_for(WRITES);
        scene.nodes.iter().for_each(|node| node.signal(Signal::KILL));
        scene.nodes.iter_mut().for_each(Process::kill);
        for node in order {
            scene.start(node);
            // The first one is alone for a while, the other two have each other.
            scene.node(node).wait_for("listens on");
        }
        scene.leader();
    }
    scene.end();
}

#[test]
fn a_node_is_not_started_twice() {
    let scene = Scene::new();
    let leader = scene.leader();
    let start = |old: &str, new: &str| {
        let text = fs::read_to_string(scene.cluster.node_toml(leader)).unwrap();
        assert!(text.contains(old), "{text}");
        let config = format!("cluster/n{leader}/again.toml");
        let config = scene.cluster.place.write(&config, text.replace(old, new));
        let mut command = scene.cluster.place.bare();
        command.arg("serve").arg("--config").arg(config);
        Process::spawn(command).end()
    };
    let address = &scene.cluster.addresses[usize::try_from(leader - 1).unwrap()];
    let (code, said) =
        start(&format!("listen           = \"{address}\""), "listen = \"127.0.0.1:0\"");
    assert_eq!(code, 3, "{said}");
    let (code, said) = start("data_dir = \"data\"", "data_dir = \"other\"");
    assert_eq!(code, 2, "{said}");
    // The one that runs goes on.
    scene.writer.wait_for(WRITES);
    assert_eq!(scene.observer.leader(), leader);
    scene.end();
}

/// The files of a data directory with what is in them, but for the lock.
fn files(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push((path.clone(), fs::read(&path).unwrap())),
        }
    }
    found.sort();
    found
}

#[test]
fn a_directory_of_somebody_else_is_left_as_it_is() {
    let other = Cluster::new(1, "raft");
    other.serve_all()[0].kill();
    let foreign = other.place.path("cluster/n1/data");

    let mut scene = Scene::new();
    let leader = scene.leader();
    let (one, two) = (leader, leader % 3 + 1);
    for node in [one, two] {
        scene.node(node).kill();
    }
    let of_two = scene.cluster.place.path(&format!("cluster/n{two}/data"));
    for directory in [of_two, foreign] {
        let before = files(&directory);
        let mut command = scene.cluster.serve_command(one);
        command.env("QUORATE_NODE_DATA_DIR", &directory);
        let (code, said) = Process::spawn(command).end();
        assert_eq!(code, 3, "{said}");
        assert!(files(&directory) == before, "a refused directory was changed: {said}");
    }
    for node in [one, two] {
        scene.start(node);
    }
    scene.end();
}

#[test]
fn a_node_that_was_removed_disturbs_nobody_when_it_comes_back() {
    let mut scene = Scene::new();
    let leader = scene.leader();
    let removed = leader % 3 + 1;
    scene.cluster.ok(&["member", "remove", &format!("n{removed}")]);
    let term = |told: &[quorate::Status]| told.iter().map(|status| status.groups[0].term).max();
    let before = scene.observer.wait_for("there", term);
    scene.node(removed).kill();
    scene.start(removed);
    scene.node(removed).wait_for("waits");
    scene.writer.wait_for(WRITES * 5);
    assert_eq!(scene.observer.wait_for("there", term), before, "somebody campaigned");

    let Scene { cluster, nodes, observer, writer } = scene;
    let left: Vec<_> = (1..=NODES as u64).filter(|node| *node != removed).collect();
    let each = left.iter().map(|node| Observer::new(&cluster.client_of(&[*node])));
    writer.finish(&each.collect::<Vec<_>>());
    drop(observer);
    cluster.close(nodes);
}
