//! Seeds and sweeps within a test run's budget; `QUORATE_TEST_BUDGET=long` multiplies it by ten.

use quorate_sim::{ClusterReport, RaftSubject, run, run_cluster, sweep};

fn budget(short: u64) -> u64 {
    match std::env::var("QUORATE_TEST_BUDGET").as_deref() {
        Ok("long") => short * 10,
        _ => short,
    }
}

fn live_through(seed: u64) -> quorate_sim::Report {
    run(seed, &mut |_| {}).unwrap_or_else(|violation| {
        panic!(
            "seed {seed}: {violation}\nreplay it: cargo run --release -p quorate-sim -- --seed {seed} --trace"
        )
    })
}

fn cluster_lives_through(seed: u64) -> ClusterReport {
    run_cluster(&RaftSubject, seed, None).unwrap_or_else(|violation| {
        panic!(
            "seed {seed}: {violation}\nreplay it: cargo run --release -p quorate-sim -- --driver raft --seed {seed} --trace"
        )
    })
}

#[test]
fn no_seed_shows_a_violation_in_a_cluster() {
    let mut total = ClusterReport::default();
    for seed in 0..budget(25) {
        total.add(&cluster_lives_through(seed));
    }
    assert!(total.frames > 2500, "only {} frames were accepted", total.frames);
    assert!(total.faults > 250, "only {} faults came", total.faults);
    assert!(total.installs > 0, "no snapshot was installed");
    assert!(total.changes > 0, "no member was changed");
}

#[test]
fn a_cluster_always_lives_the_same_life() {
    for seed in 0..budget(5) {
        assert_eq!(cluster_lives_through(seed), cluster_lives_through(seed), "seed {seed}");
    }
}

/// Seeds of clusters that once showed a violation, and what it was.
#[test]
fn seeds_of_clusters_that_found_something_stay_clean() {
    for (seed, found) in [
        (2, "a frame was told to be refused, and another copy of it was decided"),
        (
            17,
            "after a snapshot a subscriber was told for ever to go on where the log no longer begins",
        ),
        (98, "a disk that failed at a start was called damaged"),
        (397, "a follower that lagged by more than 1,024 small entries never caught up"),
        (1114, "a node that was given the lead while it installed a snapshot panicked"),
    ] {
        println!("seed {seed}: {found}");
        cluster_lives_through(seed);
    }
}

#[test]
fn no_seed_shows_a_violation() {
    let mut frames = 0;
    for seed in 0..budget(100) {
        frames += live_through(seed).frames;
    }
    assert!(frames > 1000, "only {frames} frames were accepted: the scenario does too little");
}

#[test]
fn a_seed_always_lives_the_same_life() {
    for seed in 0..budget(25) {
        assert_eq!(live_through(seed), live_through(seed), "seed {seed}");
    }
}

/// Seeds that once showed a violation, and what it was.
#[test]
fn seeds_that_found_something_stay_clean() {
    for (seed, found) in [
        (2, "a session full of later serials refused its oldest open one for ever"),
        (12, "a block whose sync had failed was trusted by the next process"),
        (7267, "a subscriber read rejected frames of a log whose trimming was lost with the power"),
    ] {
        println!("seed {seed}: {found}");
        live_through(seed);
    }
}

#[test]
fn the_power_may_fail_at_every_operation_of_the_disk() {
    for seed in 0..budget(1) {
        let done = sweep(seed, 120).unwrap_or_else(|violation| panic!("{violation}"));
        println!("seed {seed}: {} operations, {} power cuts", done.operations, done.runs);
        assert!(done.operations > 50, "the workload hardly touches the disk");
    }
}
