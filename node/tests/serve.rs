//! Nodes as processes: the same command at every start, and an end in order.

mod common;

use std::time::{Duration, SystemTime};

use common::process::{Cluster, Process};
use quorate::certificates::{Authority, CertificateInfo, Validity};
use rustix::process::Signal;

/// The process that leads, and the others.
fn led(mut nodes: Vec<(u64, Process)>) -> ((u64, Process), Vec<(u64, Process)>) {
    let leader = nodes[0].1.first("leader", |line| match line.strip_prefix("n1 follows n") {
        Some(leader) => leader.parse().ok(),
        None => (line == "n1 leads").then_some(1),
    });
    let at = nodes.iter().position(|(node, _)| *node == leader).unwrap();
    (nodes.remove(at), nodes)
}

#[test]
fn a_leader_that_is_told_to_end_hands_over_and_comes_back() {
    let cluster = Cluster::new(3, "raft");
    let nodes = (1..).zip(cluster.serve_all()).collect();
    let ((number, leader), mut others) = led(nodes);

    leader.signal(Signal::TERM);
    let (code, said) = leader.end();
    assert_eq!(code, 0, "{said}");
    let to = said.lines().find_map(|line| line.split_once(" handed over to n")).unwrap();
    let to: u64 = to.1.parse().unwrap();
    for (node, process) in &mut others {
        let words = if *node == to { "leads".to_string() } else { format!("follows n{to}") };
        process.wait_for(&words);
    }
    // It left in order, so the others never had to elect.
    assert!(!said.contains("could not"), "{said}");
    assert!(said.ends_with("is closed"), "{said}");

    let mut back = cluster.serve(number);
    back.wait_for("listens on 127.0.0.1:");
    back.wait_for("is ready");
    back.signal(Signal::INT);
    let (code, said) = back.end();
    assert_eq!(code, 0, "{said}");
}

#[test]
fn a_node_alone_serves_and_ends_with_its_parent() {
    let cluster = Cluster::new(1, "local");
    let mut command = cluster.place.bare();
    command.args(["serve", "--until-stdin-ends", "--config"]).arg(cluster.node_toml(1));
    command.stdin(std::process::Stdio::piped());
    let mut node = Process::spawn(command);
    node.wait_for("driver local");
    node.close_stdin();
    let (code, said) = node.end();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("because of the end of its standard input"), "{said}");
}

#[test]
fn certificates_are_read_anew_on_a_signal() {
    let cluster = Cluster::new(1, "raft");
    let mut node = cluster.serve(1);
    node.wait_for("is ready");
    let renew = |days: &str| {
        let arguments = ["certs", "renew", "--authority", "cluster", "--node", "n1"];
        let renewed =
            cluster.place.run_bare(&[&arguments[..], &["--validity-days", days]].concat());
        assert_eq!(renewed.code, 0, "{}", renewed.err);
    };
    renew("5");
    node.signal(Signal::HUP);
    node.wait_for("reads its certificates anew");
    // A key of somebody else is not taken, and the node goes on.
    std::fs::write(cluster.place.path("cluster/n1/node.key"), "nothing").unwrap();
    node.signal(Signal::HUP);
    node.wait_for("goes on with the certificates it has");
    node.signal(Signal::TERM);
    assert_eq!(node.end().0, 0);
}

#[test]
fn a_certificate_that_ends_soon_is_told_with_the_way_out() {
    let cluster = Cluster::new(1, "raft");
    let at = |name: &str| cluster.place.path(&format!("cluster/{name}"));
    let authority = Authority::load(&at("authority.pem"), &at("authority.key")).unwrap();
    let subject = CertificateInfo::read(&at("n1/node.pem")).unwrap().remove(0).subject.unwrap();
    let hour = Duration::from_secs(60 * 60);
    let now = SystemTime::now();
    let validity = Validity { not_before: now - 4 * hour, not_after: now + hour };
    for file in ["n1/node.pem", "n1/node.key"] {
        std::fs::remove_file(at(file)).unwrap();
    }
    let issued = authority.issue(&subject, validity).unwrap();
    issued.save(&at("n1/node.pem"), &at("n1/node.key")).unwrap();
    let mut node = cluster.serve(1);
    let line = node.wait_for("warns: n1 in ");
    assert!(line.contains("left; renew it with `quorate certs renew`, then kill -HUP"), "{line}");
}

#[test]
fn a_configuration_that_nobody_could_reach_is_refused() {
    let cluster = Cluster::new(1, "local");
    let ended = cluster.place.run(&["serve"]);
    assert_eq!(ended.code, 2, "{}", ended.err);
    assert!(ended.err.contains("transport.kind is none, and nobody could reach"), "{}", ended.err);
    assert!(!cluster.place.data().exists(), "a refused command made a data directory");
}
