//! The suite of engines passes those that keep the contract, and catches each of many that do not.

mod engines;

use std::panic::catch_unwind;

use engines::alone::{self, Fault};
use engines::{asking, primary};
use quorate_conformance::EngineFactory;
use quorate_conformance::engine::{CASES, engine};

#[test]
fn an_engine_for_one_node_that_keeps_the_contract_passes() {
    assert_eq!(engine(alone::Factory(Fault::None)), CASES);
}

#[test]
fn an_engine_that_asks_its_host_passes() {
    assert_eq!(engine(asking::Factory), CASES);
}

/// Each fault, and the words with which the suite must name the clause that it breaks.
const PLANTED_ALONE: &[(Fault, &str)] = &[
    (Fault::DeliversBeforeDurable, "R3: a batch is delivered when it is durable"),
    (Fault::WaitsForNoWrite, "R2: a delivery waits for a write that was made"),
    (Fault::DeliversOutOfOrder, "R2: deliveries are in the order of the index, without gaps"),
    (Fault::SkipsAnIndex, "R2: deliveries are in the order of the index, without gaps"),
    (Fault::ReusesSeqs, "R1: the seqs of writes rise by one"),
    (Fault::GapAfterRestart, "R2: deliveries are in the order of the index, without gaps"),
    (Fault::ForgetsTheLastAtOpen, "R7: all that is decided after the checkpoint"),
    (Fault::DeliversBelowTheCheckpoint, "opening_begins_after_the_checkpoint: R2"),
    (Fault::WaitsAtOpen, "R7: what is delivered again at open has after = 0"),
    (Fault::DeliversUndurableAtOpen, "R7: only what is in the log is delivered again"),
    (Fault::TrimsTooMuch, "R6: an engine trims only what a checkpoint allows"),
    (Fault::TrimsUnasked, "R6: an engine trims only what a checkpoint allows"),
    (Fault::LosesAProposal, "R9: a proposal is delivered, released or overtaken"),
    (Fault::ChangesWhatItGivesBack, "given back as it was"),
    (Fault::ReleasesAnything, "R9: only what was placed here is released"),
    (Fault::ReadsTooLow, "reads_see_what_was_delivered_before: a read sees all"),
    (Fault::NeverAnswersReads, "a read is answered when nothing fails"),
    (Fault::InventsABatch, "only batches that were offered are delivered"),
    (Fault::PanicsAtMessages, "inputs_for_others_do_no_harm: no input makes an engine panic"),
    (Fault::FaultsAtTimers, "inputs_for_others_do_no_harm: an engine does not fault"),
    (Fault::IgnoresWishes, "inputs_for_others_do_no_harm: a wish is answered once"),
    (Fault::AnswersWishesTwice, "inputs_for_others_do_no_harm: a wish is answered once"),
    (Fault::StopsWhenAsked, "inputs_for_others_do_no_harm: a batch on offer is decided"),
    (Fault::FallsAsleep, "a_group_that_idles_decides_again: a batch on offer is decided"),
    (Fault::StatusTooLow, "status tells the last decided index"),
    (Fault::DrawsRandomness, "the_same_seed_gives_the_same_outputs"),
    (Fault::WantsNoneHere, "demand is Here for at least one batch"),
    (Fault::RefusesItsLog, "R7: what an engine wrote opens again"),
];

#[test]
fn each_fault_of_an_engine_for_one_node_is_caught_and_named() {
    for (fault, words) in PLANTED_ALONE {
        caught(alone::Factory(*fault), fault, words);
    }
}

#[test]
fn engines_for_several_nodes_that_keep_the_contract_pass() {
    for nodes in [3, 5] {
        assert_eq!(engine(primary::Factory(primary::Fault::None, nodes)), CASES);
    }
}

/// As above, for three nodes.
const PLANTED_AMONG_THREE: &[(primary::Fault, &str)] = &[
    (primary::Fault::AcksBeforeDurable, "R3: a batch is delivered when it is durable"),
    (primary::Fault::DecidesAlone, "R3: a batch is delivered when it is durable"),
    (primary::Fault::NeverCuts, "R3: a batch is delivered when it is durable"),
    (primary::Fault::ReadsLocally, "a read sees all that was delivered anywhere"),
    (primary::Fault::ReadsTooEarly, "a read sees all that was delivered anywhere"),
    (primary::Fault::NeverResends, "all that is decided is delivered at every node"),
    (primary::Fault::InstallsWithoutReset, "R5: an install waits until the reset"),
    (primary::Fault::SendsNoCheckpoint, "R6: a snapshot is a checkpoint that was stored"),
    (primary::Fault::SendsAfterNoWrite, "R2: a send waits for a write that was made"),
    (primary::Fault::RewritesNotes, "R7: notes are never written again at open"),
];

#[test]
fn each_fault_of_an_engine_for_several_nodes_is_caught_and_named() {
    for (fault, words) in PLANTED_AMONG_THREE {
        caught(primary::Factory(*fault, 3), fault, words);
    }
}

fn caught<F: EngineFactory + std::panic::UnwindSafe>(
    factory: F,
    fault: &dyn std::fmt::Debug,
    words: &str,
) {
    let suite = catch_unwind(|| engine(factory));
    let panic = suite.expect_err(&format!("{fault:?} passed the suite"));
    let named = panic.downcast_ref::<String>().cloned().unwrap_or_default();
    assert!(named.contains(words), "{fault:?} should be named by {words:?}, not: {named}");
}
