//! Subscriptions: where they begin, what they hold, how they end.

use std::sync::Arc;

use quorate_replicator::{
    Cursor, Frame, FrameId, Position, Scope, SubscribeError, SubscriptionEnd,
};

use super::collector::Collector;
use super::{Fixture, ReplicatorFactory, shard};
use crate::eventually::{eventually, within};

/// From the beginning, from now, and after any position: exactly the frames that lie there.
pub async fn a_subscription_begins_where_it_is_told<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("a_subscription_begins_where_it_is_told", factory).await;
    let session = fixture.session().await;
    let mut commits = fixture.accept_many(session, 1, 20).await;
    let mut subscribers = Vec::new();
    for node in 0..fixture.nodes().len() {
        // What a node has not applied yet is still to come for it, so it catches up first.
        let barrier = fixture.node(node);
        let level = quorate_replicator::Consistency::Linearizable;
        let reached = barrier.read_barrier(&fixture.shard, level, super::WAIT).await;
        assert!(reached.is_ok(), "{}: {reached:?}", fixture.case);
        for skipped in [0, 1, 7, 19, 20] {
            let from = match skipped {
                0 => Cursor::beginning(),
                n => Cursor::after([commits[n - 1].position]),
            };
            let subscriber = fixture.subscribe(node, Scope::All, from).await;
            subscribers.push((skipped, subscriber));
        }
        subscribers.push((20, fixture.subscribe(node, Scope::All, Cursor::now()).await));
    }
    commits.extend(fixture.accept_many(session, 21, 20).await);
    let places: Vec<_> = (1..)
        .zip(&commits)
        .map(|(serial, commit)| (commit.position, FrameId { session, serial }))
        .collect();
    for (skipped, (subscription, collector)) in subscribers {
        let got = collector.wait(&fixture, places.len() - skipped).await;
        assert!(
            got == places[skipped..],
            "{}: a subscription gives exactly the frames after its cursor; the one after {skipped} frames gave {got:?}",
            fixture.case
        );
        let last = places[39].0;
        let clause = fixture.clause("the cursor of a subscription follows what was handled");
        let seen = || subscription.cursor().position(last.group);
        eventually(&clause, || seen() >= Some(last)).await;
    }
    fixture.close().await;
}

/// A scope holds the frames that it names and no others.
pub async fn scopes_hold_what_they_name<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("scopes_hold_what_they_name", factory).await;
    // Names that are prefixes of one another must not be mixed up.
    let shards = [
        shard("acme", "orders"),
        shard("acme", "orders2"),
        shard("acme2", "orders"),
        shard("other", "acme"),
    ];
    let session = fixture.session().await;
    for shard in &shards {
        fixture.accept(0, Frame::open_session(session, shard.clone())).await;
    }
    let group = fixture.node(0).group(&shards[0]);
    let scopes = [
        Scope::All,
        Scope::Group(group),
        Scope::Org("acme".into()),
        Scope::Shard(shards[0].clone()),
        Scope::Shard(shard("acme", "empty")),
    ];
    let mut live = Vec::new();
    for scope in &scopes {
        live.push(fixture.subscribe(0, scope.clone(), Cursor::beginning()).await);
    }
    let mut places = Vec::new();
    for serial in 1..=40 {
        let shard = &shards[serial as usize % shards.len()];
        let id = FrameId { session, serial };
        let commit = fixture.accept(0, Frame::new(id, shard.clone(), "x")).await;
        places.push((commit.position, id, shard));
    }
    for (scope, (_, live)) in scopes.iter().zip(&live) {
        let expected: Vec<_> = places
            .iter()
            .filter(|(position, _, shard)| scope.holds(position.group, shard))
            .map(|(position, id, _)| (*position, *id))
            .collect();
        let (_late, late) = fixture.subscribe(0, scope.clone(), Cursor::beginning()).await;
        for collector in [live, &late] {
            let mut got = collector.wait(&fixture, expected.len()).await;
            // Groups have no order among one another.
            got.sort();
            assert!(
                got == expected,
                "{}: the scope {scope:?} holds the frames that it names and no others; it gave {} of {}",
                fixture.case,
                got.len(),
                expected.len()
            );
        }
    }
    fixture.close().await;
}

/// A handler that fails ends its subscription at what it had handled, and one that resumes there misses nothing.
pub async fn a_failing_handler_ends_where_it_was<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("a_failing_handler_ends_where_it_was", factory).await;
    let session = fixture.session().await;
    let group = fixture.node(0).group(&fixture.shard);
    let failing = Arc::new(Collector::failing_at(11));
    let subscription = fixture.subscribe_with(0, Scope::All, Cursor::beginning(), &failing).await;
    let commits = fixture.accept_many(session, 1, 20).await;
    let end = within(&fixture.clause("a handler's error ends it"), subscription.ended()).await;
    let SubscriptionEnd::Failed { cursor, error } = &end else {
        panic!("{}: a handler's error ends its subscription as Failed, not: {end:?}", fixture.case)
    };
    assert!(
        error.contains("the collector has had enough"),
        "{}: the end carries the handler's words, not: {error}",
        fixture.case
    );
    let handled = failing.count();
    let last = handled.checked_sub(1).map(|last| commits[last].position);
    let at = cursor.position(group);
    let next = commits[handled].position;
    assert!(
        at >= last && at < Some(next),
        "{}: the cursor of the end names what was handled, and not what failed; it is {cursor} after {last:?} and \
         before {next}",
        fixture.case
    );
    assert_eq!(subscription.ended().await, end, "{}: the end can be asked again", fixture.case);
    let calls = failing.calls();
    let (_resumed, rest) = fixture.subscribe(0, Scope::All, cursor.clone()).await;
    let mut got = failing.places();
    got.extend(rest.wait(&fixture, 20 - handled).await);
    assert_eq!(
        got.iter().map(|(position, _)| *position).collect::<Vec<_>>(),
        commits.iter().map(|commit| commit.position).collect::<Vec<_>>(),
        "{}: resuming at the cursor of the end neither repeats nor misses a frame",
        fixture.case
    );
    assert_eq!(failing.calls(), calls, "{}: no call follows the end", fixture.case);
    fixture.close().await;
}

/// After a cancel no call begins; dropping the subscription cancels it; the cursor is a place to resume.
pub async fn a_cancelled_subscription_ends<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("a_cancelled_subscription_ends", factory).await;
    let session = fixture.session().await;
    let (subscription, collector) = fixture.subscribe(0, Scope::All, Cursor::beginning()).await;
    fixture.accept_many(session, 1, 10).await;
    collector.wait(&fixture, 10).await;
    subscription.cancel();
    subscription.cancel();
    let end = within(&fixture.clause("a cancelled subscription ends"), subscription.ended()).await;
    let SubscriptionEnd::Cancelled { cursor } = end else {
        panic!("{}: a cancelled subscription ends as Cancelled, not: {end:?}", fixture.case)
    };
    let calls = collector.calls();

    let (dropped, of_dropped) = fixture.subscribe(0, Scope::All, Cursor::beginning()).await;
    of_dropped.wait(&fixture, 10).await;
    drop(dropped);
    let clause = fixture.clause("a dropped subscription lets go of its handler");
    eventually(&clause, || Arc::strong_count(&of_dropped) == 1).await;

    fixture.accept_many(session, 11, 10).await;
    let (_resumed, rest) = fixture.subscribe(0, Scope::All, cursor).await;
    let serials: Vec<_> = rest.wait(&fixture, 10).await.iter().map(|(_, id)| id.serial).collect();
    assert_eq!(
        serials,
        (11..=20).collect::<Vec<_>>(),
        "{}: resuming at the cursor of the end neither repeats nor misses a frame",
        fixture.case
    );
    assert_eq!(collector.calls(), calls, "{}: no call begins after the end", fixture.case);
    assert_eq!(of_dropped.count(), 10, "{}: no call begins after the end", fixture.case);
    fixture.close().await;
}

/// A handler that stalls holds up neither proposals nor other subscribers, and gets everything once it goes on.
pub async fn a_stalled_handler_blocks_nobody<F: ReplicatorFactory>(factory: &F) {
    const FRAMES: u64 = 500;
    let fixture = Fixture::open("a_stalled_handler_blocks_nobody", factory).await;
    let session = fixture.session().await;
    let stalled = Arc::new(Collector::default());
    stalled.stall(true);
    let _stalled = fixture.subscribe_with(0, Scope::All, Cursor::beginning(), &stalled).await;
    let (_free, free) = fixture.subscribe(0, Scope::All, Cursor::beginning()).await;
    for first in (1..=FRAMES).step_by(100) {
        let frames = (first..first + 100)
            .map(|serial| Frame { settled: first, ..fixture.frame(session, serial, "x") })
            .collect();
        let clause = fixture.clause("a stalled handler holds up no proposal");
        let decisions = within(&clause, fixture.node(0).propose_many(frames, super::WAIT)).await;
        assert!(decisions.is_ok(), "{clause}: {decisions:?}");
    }
    let places = free.wait(&fixture, FRAMES as usize).await;
    assert_eq!(places.len(), FRAMES as usize, "{}: each frame once", fixture.case);
    assert!(
        stalled.count() == 0 && stalled.calls() <= 1,
        "{}: a handler is called once at a time",
        fixture.case
    );
    stalled.stall(false);
    let got = stalled.wait(&fixture, FRAMES as usize).await;
    assert!(got == places, "{}: a handler that goes on is given everything, once", fixture.case);
    fixture.close().await;
}

/// A cursor beyond what the group has reached is refused, and the error names both.
pub async fn a_cursor_ahead_is_refused<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("a_cursor_ahead_is_refused", factory).await;
    let session = fixture.session().await;
    let commit = fixture.accept(0, fixture.frame(session, 1, "x")).await;
    for asked in [
        Position { index: commit.position.index + 1_000_000, ..commit.position },
        Position { epoch: commit.position.epoch + 1, ..commit.position },
    ] {
        let handler = Arc::new(Collector::default());
        let ahead = fixture.node(0).subscribe(Scope::All, Cursor::after([asked]), handler).await;
        assert!(
            matches!(
                ahead,
                Err(SubscribeError::Ahead { asked: named, reached })
                    if named == asked && reached >= commit.position && reached < asked
            ),
            "{}: a cursor that the group has not reached is refused as Ahead, not: {ahead:?}",
            fixture.case
        );
    }
    fixture.close().await;
}
