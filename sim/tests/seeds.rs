//! Seeds and sweeps within a test run's budget; `QUORATE_TEST_BUDGET=long` multiplies it by ten.

use quorate_sim::{
    Changed, ClusterReport, Control, QuorumSubject, RaftSubject, Scenario, run, run_cluster, sweep,
    sweep_validators,
};

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
        (112, "a list was told to be refused whose first frames had found room in their session"),
        (
            1061,
            "a full session refused the list with its oldest open serial, and nothing could be settled",
        ),
        (1114, "a node that was given the lead while it installed a snapshot panicked"),
        (
            3448,
            "a frame was told to be refused by its session's end, and had been decided where a snapshot took the place of the log",
        ),
        (6642, "a checkpoint was lost whose directory could not be synced before a restart"),
        (13, "a late copy of what opened a session brought it back, and its frames happened again"),
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
        (63, "a disk that failed while a driver was left was called damaged"),
        (1503, "a directory survived a power cut in one that did not"),
        (5942, "a rename that survived a power cut gave the name to another file"),
        (7267, "a subscriber read rejected frames of a log whose trimming was lost with the power"),
        (19, "a late copy of what opened a session brought it back, and its frames happened again"),
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

fn validators_live_through(scenario: Scenario, seed: u64) -> ClusterReport {
    let name = scenario.name();
    run_cluster(&QuorumSubject::new(Some(scenario)), seed, None).unwrap_or_else(|violation| {
        panic!(
            "{name}, seed {seed}: {violation}\nreplay it: cargo run --release -p quorate-sim -- --driver quorum --scenario {name} --seed {seed} --trace"
        )
    })
}

#[test]
fn no_scenario_of_validators_shows_a_violation() {
    let mut total = ClusterReport::default();
    for scenario in Scenario::ALL {
        for seed in 0..budget(3) {
            total.add(&validators_live_through(*scenario, seed));
        }
    }
    assert!(total.frames > 2000, "only {} frames were accepted", total.frames);
    assert!(total.faults > 100, "only {} faults came", total.faults);
    assert!(total.evidence > 0, "nobody was found to lie");
    assert!(total.refused > 100, "only {} changed certificates were refused", total.refused);
    assert!(total.wipes > 0, "no disk was lost");
}

#[test]
fn validators_always_live_the_same_life() {
    for scenario in
        [Scenario::Swarm, Scenario::Twins, Scenario::Flood, Scenario::Invent, Scenario::Changes]
    {
        for seed in 0..budget(1) {
            let life = || validators_live_through(scenario, seed);
            let first = life();
            assert!(first.is_random || first == life(), "{} {seed}", scenario.name());
        }
    }
}

#[test]
fn validators_change_while_anything_may_fail() {
    let mut total = ClusterReport::default();
    for seed in 10..10 + budget(3) {
        total.add(&validators_live_through(Scenario::Changes, seed));
    }
    let Changed { added, removed, weighed, rekeyed, .. } = total.changed;
    assert!(added > 0 && removed > 0 && weighed > 0 && rekeyed > 0, "{:?}", total.changed);
    assert!(total.faults > 40, "only {} faults came", total.faults);
}

/// Seeds of validators that once showed a violation, and what it was.
#[test]
fn seeds_of_validators_that_found_something_stay_clean() {
    for (scenario, seed, found) in [
        (
            Scenario::Withhold,
            56,
            "a late copy of what opened a session brought it back, and its frames happened again",
        ),
        (Scenario::Swarm, 1, "a vote left in a certificate before it was durable"),
        (Scenario::LyingPeer, 5, "the same"),
        (
            Scenario::HiddenLock,
            3,
            "a lock that one node alone knew of delayed a decision to round 10",
        ),
        (Scenario::Equivocation, 1, "the same"),
        (Scenario::Twins, 0, "the same"),
        (Scenario::Silent, 47, "one that was away took the others to be ahead, and was needed"),
        (Scenario::HiddenLock, 58, "the same"),
        (Scenario::FarFuture, 0, "the same"),
        (Scenario::Swarm, 15, "a decision that checkpoints alone had was given to nobody"),
    ] {
        println!("{}, seed {seed}: {found}", scenario.name());
        validators_live_through(scenario, seed);
    }
}

#[test]
fn the_power_of_a_validator_may_fail_at_all_that_it_does() {
    let stride = if budget(1) > 1 { 1 } else { 11 };
    let done = sweep_validators(0, stride).unwrap_or_else(|violation| panic!("{violation}"));
    println!("{} effects of a node, {} power cuts", done.operations, done.runs);
    assert!(done.operations > 50, "the workload hardly does anything");
}

/// The judge must notice what is broken on purpose, and say this of it.
fn is_caught(scenario: Scenario, control: Control, words: &str) {
    let found = (0..200).find_map(|seed| {
        let violation = run_cluster(&QuorumSubject::broken(scenario, control), seed, None).err();
        let said = violation?.to_string();
        said.contains(words).then_some((seed, said))
    });
    let (seed, said) = found.unwrap_or_else(|| panic!("{control:?}: no seed showed it"));
    println!("{control:?}, seed {seed}: {said}");
}

#[test]
fn more_liars_than_may_be_are_noticed() {
    // Too few are left who keep the rules for anything to be decided.
    is_caught(Scenario::Twins, Control::TooManyLiars, "not converged");
}

#[test]
fn a_lost_journal_is_noticed() {
    is_caught(Scenario::Blackouts, Control::NoJournal, "votes twice");
}

#[test]
fn candidates_that_are_lost_are_noticed() {
    is_caught(Scenario::Blackouts, Control::NoBodies, "whose batch");
}

#[test]
fn frames_that_nobody_proposed_are_noticed() {
    is_caught(Scenario::Invent, Control::NoSignatures, "was never proposed");
}

#[test]
fn what_does_not_wait_for_the_disk_is_noticed() {
    is_caught(Scenario::Blackouts, Control::NoFlush, "that is not durable");
}
