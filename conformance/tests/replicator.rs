//! The suite of replicators passes one that keeps the contract, and catches each of many that do not.

mod reference;

use quorate_conformance::replicator::{CASES, replicator};
use reference::{Factory, Fault};

#[tokio::test]
async fn a_replicator_that_keeps_the_contract_passes() {
    assert_eq!(replicator(Factory(Fault::None)).await, CASES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replicator_that_keeps_the_contract_passes_on_many_threads() {
    assert_eq!(replicator(Factory(Fault::None)).await, CASES);
}

/// Each fault, and the words with which the suite must name the clause that it breaks.
const PLANTED: &[(Fault, &str)] = &[
    (Fault::AppliesRetries, "told its first position and reply"),
    (Fault::AppliesRetriesOnOneNode, "a frame is applied once"),
    (Fault::IgnoresReusedIds, "rejected as IdReused"),
    (Fault::AppliesBelowSettled, "a serial below settled is refused as SessionEnded"),
    (Fault::KeepsClosedSessions, "a session that was closed is refused as SessionEnded"),
    (
        Fault::OpensClosedSessions,
        "the opening of a session that was closed is refused as SessionEnded",
    ),
    (Fault::KeepsLongReplies, "longer ones are Forgotten"),
    (Fault::KeepsAnyNumberUnsettled, "refused as Overloaded"),
    (Fault::IgnoresValidUntil, "rejected as Expired"),
    (Fault::TakesAnySize, "refused as TooLarge"),
    (Fault::TakesSettledAboveSerial, "refused as Invalid"),
    (Fault::AdmitsBatchesInPart, "admitted all or none"),
    (Fault::AnswersBatchesBackwards, "in their order"),
    (Fault::ReadsTheBeginning, "has been applied on the answering node"),
    (Fault::ForgetsDecisions, "a rejection is recorded under its id"),
    (Fault::SwapsFramesForSubscribers, "in the order of positions"),
    (Fault::RepeatsTheFrameAtTheCursor, "exactly the frames after its cursor"),
    (Fault::SkipsAFrameAfterTheCursor, "every accepted frame in scope reaches the subscriber"),
    (Fault::GivesEveryScopeEverything, "the frames that it names and no others"),
    (Fault::CountsTheFailedBatchAsHandled, "names what was handled, and not what failed"),
    (Fault::SubscribesAnywhere, "refused as Ahead"),
    (Fault::AnswersAfterClose, "answers Closed"),
    (Fault::SubscriptionsOutliveClose, "close ends subscriptions"),
    (Fault::ReusesPositionsAfterRestart, "position"),
    (Fault::LosesSessionsAtRestart, "a_restart_keeps_everything"),
    (Fault::HistoriesDiffer, "have the same history"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_planted_fault_is_caught_and_named() {
    let mut suites = tokio::task::JoinSet::new();
    for (fault, words) in PLANTED {
        suites.spawn(async move {
            let suite = tokio::spawn(replicator(Factory(*fault)));
            let panic = suite.await.expect_err(&format!("{fault:?} passed the suite")).into_panic();
            let named = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            assert!(named.contains(words), "{fault:?} should be named by {words:?}, not: {named}");
        });
    }
    while let Some(caught) = suites.join_next().await {
        caught.expect("the fault is caught");
    }
}
