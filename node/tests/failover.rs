//! What the loss of a leader costs those who write: nothing that was answered, and a gap between two answers, which is printed.
//!
//! Five losses of each kind; `QUORATE_TEST_BUDGET=long` takes a hundred. For figures: in release, with `--nocapture`, on a
//! machine that does nothing else.

mod common;

use std::time::{Duration, Instant};

use common::budget;
use common::process::{Cluster, Process};
use common::writer::{Observer, Writer};
use rustix::process::Signal;

const NODES: usize = 3;

/// The default of `driver.raft.election_timeout`.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);

/// Writes that are answered before a leader is lost, and after.
const WRITES: usize = 200;

/// Loses leaders, each when all nodes are there, under somebody who writes.
fn lose_leaders(how: &str, losses: u64, lose: impl Fn(Process)) {
    let cluster = Cluster::new(NODES, "raft");
    let mut nodes: Vec<_> = cluster.serve_all().into_iter().map(Some).collect();
    let observer = Observer::new(&cluster.client_toml());
    let writer = Writer::start(&cluster.client_toml(), "gaps");
    let (mut quiet, mut lost, mut back) = (Vec::new(), Vec::new(), Vec::new());
    for number in 1..=losses {
        let leader = observer.whole(NODES);
        let node = &mut nodes[usize::try_from(leader - 1).unwrap()];
        let before = Instant::now();
        writer.wait_for(WRITES);
        quiet.push(writer.gap_since(before));
        let since = Instant::now();
        lose(node.take().expect("it is started again below"));
        writer.wait_for(WRITES);
        let gap = writer.gap_since(since);
        println!("{how} {number}: n{leader}, {gap:?}");
        lost.push(gap);
        let since = Instant::now();
        let mut again = cluster.serve(leader);
        again.wait_for("is ready");
        *node = Some(again);
        observer.whole(NODES);
        back.push(writer.gap_since(since));
    }
    let nodes = nodes.into_iter().flatten().collect();
    let writes = writer.finish(std::slice::from_ref(&observer));
    cluster.close(nodes);

    println!(
        "{how}: {losses} times, {writes} writes of which none was lost; T = {ELECTION_TIMEOUT:?}"
    );
    println!("longest gap between two answers, with all nodes: {}", shown(quiet));
    println!("  when the leader is lost: {}", shown(lost));
    println!("  when its node comes back: {}", shown(back));
}

fn shown(mut gaps: Vec<Duration>) -> String {
    gaps.sort_unstable();
    let quantile = |hundredths: usize| {
        let gap = gaps[(gaps.len() - 1) * hundredths / 100];
        format!(
            "{} ms or {:.2} T",
            gap.as_millis(),
            gap.as_secs_f64() / ELECTION_TIMEOUT.as_secs_f64()
        )
    };
    format!("median {}, p90 {}, largest {}", quantile(50), quantile(90), quantile(100))
}

#[test]
fn no_answered_write_is_lost_with_a_leader_that_is_killed() {
    lose_leaders("killed", budget(5, 100), |mut leader| leader.kill());
}

#[test]
fn no_answered_write_is_lost_with_a_leader_that_ends_in_order() {
    lose_leaders("ended", budget(5, 100), |leader| {
        leader.signal(Signal::TERM);
        let (code, said) = leader.end();
        assert_eq!(code, 0, "{said}");
        assert!(!said.contains("could not hand over"), "{said}");
    });
}
