//! What [`Session`] makes of a driver.

use std::sync::Arc;
use std::time::Duration;

use quorate_replicator::limits::SESSION_UNSETTLED_MAX;
use quorate_replicator::{Frame, ProposeError, Session, SessionError};

use super::journal::count;
use super::{Fixture, ReplicatorFactory, WAIT};
use crate::eventually::within;

/// A session numbers its frames, each happens once, and it settles what was answered, so that it never fills up.
pub async fn a_session_numbers_and_settles<F: ReplicatorFactory>(factory: &F) {
    const TASKS: u64 = 8;
    let fixture = Fixture::open("a_session_numbers_and_settles", factory).await;
    let session = Arc::new(session(&fixture));
    let each = SESSION_UNSETTLED_MAX as u64 / TASKS + 20;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let (session, shard) = (Arc::clone(&session), fixture.shard.clone());
        tasks.spawn(async move {
            let mut counts = Vec::new();
            for i in 0..each {
                let payload = format!("{task} {i}");
                match session.propose(&shard, payload, WAIT).await {
                    Ok(commit) => counts.push(count(&commit)),
                    Err(error) => return Err(error.to_string()),
                }
            }
            Ok(counts)
        });
    }
    let mut counts = Vec::new();
    let clause = fixture.clause("a session settles what was answered, and so never fills up");
    while let Some(ended) = within(&clause, tasks.join_next()).await {
        match ended.expect("a proposer does not panic") {
            Ok(some) => counts.extend(some),
            Err(error) => panic!("{clause}: {error}"),
        }
    }
    counts.sort_unstable();
    assert!(
        counts == (1..=TASKS * each).map(Some).collect::<Vec<_>>(),
        "{}: each payload of a session is applied once",
        fixture.case
    );
    within(&clause, session.close(&fixture.shard, WAIT)).await.expect("a session can be closed");
    fixture.close().await;
}

/// When the group has ended a session, it goes on under a new id, and nothing is applied twice.
pub async fn a_session_goes_on_under_a_new_id<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("a_session_goes_on_under_a_new_id", factory).await;
    let session = session(&fixture);
    for round in 1..=3 {
        let commit = session.propose(&fixture.shard, "x", WAIT).await;
        let commit = commit.unwrap_or_else(|error| {
            panic!("{}: a session goes on when the group has ended it: {error}", fixture.case)
        });
        assert_eq!(count(&commit), Some(round), "{}: each payload once", fixture.case);
        let id = session.id();
        fixture.accept(0, Frame::close_session(id, fixture.shard.clone())).await;
    }
    let id = session.id();
    assert!(
        session.propose(&fixture.shard, "x", WAIT).await.is_ok() && session.id() != id,
        "{}: a session takes a new id when the group has ended the old one",
        fixture.case
    );
    // As if the answer to its opening had been lost, and the group had ended it since.
    let session = self::session(&fixture);
    let id = session.id();
    fixture.accept(0, Frame::open_session(id, fixture.shard.clone())).await;
    fixture.accept(0, Frame::close_session(id, fixture.shard.clone())).await;
    assert!(
        session.propose(&fixture.shard, "x", WAIT).await.is_ok() && session.id() != id,
        "{}: a session takes a new id when it cannot be opened any more",
        fixture.case
    );
    fixture.close().await;
}

/// A frame with an unknown outcome keeps its id, whatever happens, and is told its outcome when it is resumed.
pub async fn an_unknown_outcome_is_resumed_under_its_id<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("an_unknown_outcome_is_resumed_under_its_id", factory).await;
    let session = session(&fixture);
    let first = session.propose(&fixture.shard, "first", WAIT).await;
    assert!(first.is_ok(), "{}: {first:?}", fixture.case);
    if !fixture.cluster.stall(0, true).await {
        return fixture.skip("stall").await;
    }
    let mut attempt = session.begin(&fixture.shard, "second", None);
    let id = attempt.frame().id;
    for _ in 0..2 {
        let waited = session.resume(attempt, Duration::from_millis(30));
        let clause = fixture.clause("a proposal of a session returns by its deadline");
        attempt = match within(&clause, waited).await {
            Err(SessionError::Unknown { attempt, .. }) => *attempt,
            other => panic!("{}: without a decision it is Unknown, not: {other:?}", fixture.case),
        };
        assert_eq!(attempt.frame().id, id, "{}: an attempt keeps its id", fixture.case);
    }
    fixture.cluster.stall(0, false).await;
    let again = attempt.clone();
    let commit = session.resume(attempt, WAIT).await;
    let commit = commit.unwrap_or_else(|error| panic!("{}: resumed: {error}", fixture.case));
    assert!(
        fixture.journals.holds(id, commit.position),
        "{}: what is resumed is applied under the first id",
        fixture.case
    );
    let after = session.propose(&fixture.shard, "third", WAIT).await;
    let after = after.unwrap_or_else(|error| panic!("{}: goes on: {error}", fixture.case));
    assert_eq!(count(&after), Some(3), "{}: an attempt is applied once", fixture.case);

    // The group forgets the session while an outcome is unknown: it stays unknown for ever, and is not applied anew.
    fixture.accept(0, Frame::close_session(session.id(), fixture.shard.clone())).await;
    match session.resume(again, WAIT).await {
        Err(SessionError::Unknown { attempt, error: Some(ProposeError::SessionEnded) }) => {
            assert_eq!(attempt.frame().id, id, "{}: an attempt keeps its id", fixture.case);
        }
        other => panic!(
            "{}: an attempt that may have happened is never given a new id, so it stays Unknown, not: {other:?}",
            fixture.case
        ),
    }
    let fourth = session.propose(&fixture.shard, "fourth", WAIT).await;
    let fourth = fourth.unwrap_or_else(|error| panic!("{}: goes on: {error}", fixture.case));
    assert_eq!(count(&fourth), Some(4), "{}: nothing was applied twice", fixture.case);
    fixture.close().await;
}

/// A proposal whose future was dropped is told its outcome when a clone of its attempt is resumed, and happens once.
pub async fn an_abandoned_attempt_is_resumed_by_its_clone<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("an_abandoned_attempt_is_resumed_by_its_clone", factory).await;
    let session = session(&fixture);
    let first = session.propose(&fixture.shard, "first", WAIT).await;
    assert!(first.is_ok(), "{}: {first:?}", fixture.case);
    if !fixture.cluster.stall(0, true).await {
        return fixture.skip("stall").await;
    }
    let attempt = session.begin(&fixture.shard, "second", None);
    let id = attempt.frame().id;
    let abandoned = session.resume(attempt.clone(), WAIT);
    let abandoned = tokio::time::timeout(Duration::from_millis(30), abandoned).await;
    assert!(abandoned.is_err(), "{}: nothing is decided while stalled", fixture.case);
    fixture.cluster.stall(0, false).await;
    // Were the abandoned serial settled by this, its outcome would be lost, and the clone applied anew.
    let third = session.propose(&fixture.shard, "third", WAIT).await;
    assert!(third.is_ok(), "{}: {third:?}", fixture.case);
    let commit = session.resume(attempt, WAIT).await;
    let commit = commit.unwrap_or_else(|error| panic!("{}: resumed: {error}", fixture.case));
    assert!(
        fixture.journals.holds(id, commit.position),
        "{}: a clone is resumed under the id that the dropped proposal had",
        fixture.case
    );
    let fourth = session.propose(&fixture.shard, "fourth", WAIT).await;
    let fourth = fourth.unwrap_or_else(|error| panic!("{}: goes on: {error}", fixture.case));
    assert_eq!(count(&fourth), Some(4), "{}: an attempt is applied once", fixture.case);
    fixture.close().await;
}

/// Attempts that are dropped, and proposals whose future is dropped, do not fill the session up.
pub async fn dropped_attempts_count_as_settled<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("dropped_attempts_count_as_settled", factory).await;
    let session = session(&fixture);
    for i in 0..SESSION_UNSETTLED_MAX + 20 {
        drop(session.begin(&fixture.shard, "dropped", None));
        let proposed = session.propose(&fixture.shard, "x", WAIT).await;
        let commit = proposed.unwrap_or_else(|error| {
            panic!("{}: an attempt that was dropped counts as settled: {error}", fixture.case)
        });
        assert_eq!(count(&commit), Some(i as u64 + 1), "{}: each payload once", fixture.case);
    }
    fixture.close().await;
}

/// After a close, frames go on under a new id: under the old one, an attempt from before could happen again.
pub async fn a_closed_session_goes_on_under_a_new_id<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("a_closed_session_goes_on_under_a_new_id", factory).await;
    let session = session(&fixture);
    let attempt = session.begin(&fixture.shard, "first", None);
    let before = attempt.clone();
    let first = session.resume(attempt, WAIT).await;
    assert!(first.is_ok(), "{}: {first:?}", fixture.case);
    let old = session.id();
    let closed = session.close(&fixture.shard, WAIT).await;
    assert!(closed.is_ok(), "{}: {closed:?}", fixture.case);
    let second = session.propose(&fixture.shard, "second", WAIT).await;
    let second = second.unwrap_or_else(|error| panic!("{}: goes on: {error}", fixture.case));
    assert_eq!(count(&second), Some(2), "{}: each payload once", fixture.case);
    assert_ne!(session.id(), old, "{}: a closed session's id is not used again", fixture.case);
    let again = session.resume(before, WAIT).await;
    assert!(
        matches!(again, Err(SessionError::Unknown { .. })),
        "{}: what a closed session decided stays Unknown, and is not applied anew: {again:?}",
        fixture.case
    );
    let third = session.propose(&fixture.shard, "third", WAIT).await;
    let third = third.unwrap_or_else(|error| panic!("{}: goes on: {error}", fixture.case));
    assert_eq!(count(&third), Some(3), "{}: nothing was applied twice", fixture.case);
    fixture.close().await;
}

fn session(fixture: &Fixture) -> Session {
    Session::new(fixture.node(0)).expect("the system has a random source")
}
