//! Reads: barriers and questions about earlier frames.

use std::time::Duration;

use quorate_replicator::{
    Consistency, Decision, Frame, FrameId, ReadError, Rejection, ReplicatorExt, SessionId,
};

use super::{Fixture, ReplicatorFactory, WAIT};
use crate::eventually::within;

/// A linearizable barrier on any node sees every frame that any node had answered; weaker ones do not go back.
pub async fn a_barrier_sees_what_was_answered<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("a_barrier_sees_what_was_answered", factory).await;
    let session = fixture.session().await;
    for serial in 1..=30 {
        let frame = fixture.frame(session, serial, "x");
        let commit = fixture.accept(serial as usize, frame).await;
        for node in fixture.nodes() {
            // The weaker levels come after the linearizable one, so that they must see as much on the same node.
            for level in [
                Consistency::Linearizable,
                Consistency::Bounded(Duration::from_secs(3600)),
                Consistency::Local,
            ] {
                let barrier = node.read_barrier(&fixture.shard, level, WAIT);
                let reached = within(&fixture.clause("read_barrier returns"), barrier).await;
                let reached = reached.map(|position| (position.epoch, position.index));
                assert!(
                    reached.as_ref().is_ok_and(|reached| {
                        *reached >= (commit.position.epoch, commit.position.index)
                    }),
                    "{}: a read ({level:?}) sees what was answered before a linearizable barrier passed; {} was \
                     answered, {reached:?} is seen",
                    fixture.case,
                    commit.position
                );
            }
            let waited = node.wait_applied(&fixture.shard, commit.position, WAIT).await;
            assert!(waited.is_ok(), "{}: wait_applied: {waited:?}", fixture.case);
        }
    }
    fixture.close().await;
}

/// What became of a frame can be asked on any node, in the words of its first answer.
pub async fn a_decision_can_be_asked_for<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("a_decision_can_be_asked_for", factory).await;
    let session = fixture.session().await;
    let commits = fixture.accept_many(session, 1, 5).await;
    let ask = async |session: SessionId, serial| {
        let id = FrameId { session, serial };
        let mut answers = Vec::new();
        for node in fixture.nodes() {
            let asking = node.decision(&fixture.shard, id, WAIT);
            answers.push(within(&fixture.clause("decision returns"), asking).await);
        }
        assert!(
            answers.iter().all(|answer| *answer == answers[0]),
            "{}: all nodes answer the same about a frame: {answers:?}",
            fixture.case
        );
        answers.swap_remove(0)
    };
    for (serial, commit) in (1..).zip(&commits) {
        assert_eq!(
            ask(session, serial).await,
            Ok(Decision::Accept(commit.clone())),
            "{}: decision answers an accepted frame with its position and reply",
            fixture.case
        );
    }
    assert_eq!(
        ask(session, 6).await,
        Ok(Decision::Undecided),
        "{}: decision answers Undecided about a frame that was never seen",
        fixture.case
    );
    // A rejected repetition does not change what is known of the id.
    let reused = fixture.propose(0, fixture.frame(session, 1, "another")).await;
    assert_eq!(reused, Ok(Decision::Reject(Rejection::IdReused)), "{}", fixture.case);
    assert_eq!(
        ask(session, 1).await,
        Ok(Decision::Accept(commits[0].clone())),
        "{}: decision tells the first decision of an id",
        fixture.case
    );
    fixture.accept(0, Frame { settled: 4, ..fixture.frame(session, 6, "x") }).await;
    for serial in 1..4 {
        assert_eq!(
            ask(session, serial).await,
            Err(ReadError::Forgotten),
            "{}: a settled serial is Forgotten",
            fixture.case
        );
    }
    assert_eq!(
        ask(session, 5).await,
        Ok(Decision::Accept(commits[4].clone())),
        "{}: a serial that is not settled is kept",
        fixture.case
    );
    fixture.accept(0, Frame::close_session(session, fixture.shard.clone())).await;
    assert_eq!(
        ask(session, 5).await,
        Err(ReadError::Forgotten),
        "{}: what an ended session decided is Forgotten",
        fixture.case
    );
    fixture.close().await;
}
