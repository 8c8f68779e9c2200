//! Status, restarts and the end.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use quorate_replicator::{
    Consistency, Cursor, Decision, EventStream, Frame, FrameId, Health, ProposeError, ReadError,
    Rejection, Replicator, Scope, SubscribeError, SubscriptionEnd,
};

use super::collector::Collector;
use super::journal::count;
use super::{Fixture, ReplicatorFactory, WAIT};
use crate::eventually::{eventually, within};

/// Status counts what happened, and nodes that have applied the same have the same history.
pub async fn status_tells_what_happened<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("status_tells_what_happened", factory).await;
    let session = fixture.session().await;
    let group = fixture.node(0).group(&fixture.shard);
    let status = |node: &Arc<dyn Replicator>| {
        let status = node.status();
        let found = status.groups.iter().find(|status| status.group == group).cloned();
        let found = found.unwrap_or_else(|| panic!("{}: {group} is in status", fixture.case));
        (status, found)
    };
    let nodes = fixture.nodes();
    let ids: BTreeSet<_> = nodes.iter().map(|node| status(node).0.node).collect();
    assert_eq!(ids.len(), nodes.len(), "{}: each node has an id of its own", fixture.case);
    let before: Vec<_> = nodes.iter().map(|node| status(node).1).collect();
    let commits = fixture.accept_many(session, 1, 20).await;
    let reused = fixture.propose(0, fixture.frame(session, 1, "another")).await;
    assert_eq!(reused, Ok(Decision::Reject(Rejection::IdReused)), "{}", fixture.case);

    let last = commits[19].position;
    let mut histories = BTreeSet::new();
    for (node, before) in nodes.iter().zip(&before) {
        let clause = fixture.clause("status counts every accepted frame, as soon as it is applied");
        eventually(&clause, || status(node).1.accepted >= before.accepted + 20).await;
        let clause = fixture.clause("status counts every rejected frame, as soon as it is decided");
        eventually(&clause, || status(node).1.rejected > before.rejected).await;
        let (whole, now) = status(node);
        assert_eq!(whole.health, Health::Ready, "{}: a node that decides is Ready", fixture.case);
        assert!(
            now.applied >= last.index && now.committed >= now.applied,
            "{}: what is answered is applied, and what is applied is committed: {now:?}",
            fixture.case
        );
        assert!(now.sessions >= 1, "{}: status counts live sessions", fixture.case);
        assert!(
            now.members.len() == nodes.len() && now.members.iter().all(|id| ids.contains(id)),
            "{}: status lists the voting members: {:?}",
            fixture.case,
            now.members
        );
        assert!(now.log_time >= before.log_time, "{}: log time never goes back", fixture.case);
        assert_ne!(
            now.history, before.history,
            "{}: history follows what is applied",
            fixture.case
        );
    }
    // Nothing is proposed any more, so that the nodes come to rest at one place.
    let clause = fixture.clause("nodes that have applied the same have the same history");
    eventually(&clause, || {
        let now: Vec<_> = nodes.iter().map(|node| status(node).1).collect();
        histories = now.iter().map(|status| (status.applied, status.history)).collect();
        histories.len() == 1
    })
    .await;
    fixture.close().await;
}

/// Closing ends proposals and subscriptions that wait, and says so.
pub async fn closing_ends_what_waits<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("closing_ends_what_waits", factory).await;
    let session = fixture.session().await;
    if !fixture.cluster.stall(0, true).await {
        return fixture.skip("stall").await;
    }
    let node = fixture.node(0);
    let mut waiting = tokio::task::JoinSet::new();
    for serial in 1..=5 {
        let (node, frame) = (Arc::clone(&node), fixture.frame(session, serial, "waits"));
        waiting.spawn(async move { node.propose(frame, WAIT * 100).await });
    }
    let clause = fixture.clause("a proposal that waits counts as in flight");
    eventually(&clause, || node.status().groups.iter().any(|group| group.in_flight >= 5)).await;
    let closed = within(&fixture.clause("close returns"), node.close()).await;
    assert_eq!(closed, Ok(()), "{}: a node that is well closes well", fixture.case);
    let clause = fixture.clause("close ends proposals that wait");
    while let Some(ended) = within(&clause, waiting.join_next()).await {
        let ended = ended.expect("a proposer does not panic");
        assert!(
            matches!(ended, Err(ProposeError::Closed { .. })),
            "{clause} with Closed, not: {ended:?}"
        );
    }
    fixture.cluster.stall(0, false).await;
    fixture.close().await;
}

/// Closing may be repeated; a closed node says so to everybody, and lets go of what it held.
pub async fn a_closed_node_is_closed<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("a_closed_node_is_closed", factory).await;
    let session = fixture.session().await;
    fixture.accept_many(session, 1, 3).await;
    let node = fixture.node(0);
    let (subscription, collector) = fixture.subscribe(0, Scope::All, Cursor::beginning()).await;
    let stalled = Arc::new(Collector::default());
    stalled.stall(true);
    let in_call = fixture.subscribe_with(0, Scope::All, Cursor::beginning(), &stalled).await;
    collector.wait(&fixture, 3).await;
    let mut events = node.events();

    let clause = fixture.clause("close returns, also when called twice at once");
    let (first, second) = within(&clause, async { tokio::join!(node.close(), node.close()) }).await;
    assert_eq!((first, second), (Ok(()), Ok(())), "{clause}");
    let again = within(&fixture.clause("close may be called again"), node.close()).await;
    assert_eq!(again, Ok(()), "{}: close is idempotent", fixture.case);

    let frame = fixture.frame(session, 4, "late");
    let clause = fixture.clause("a closed node answers Closed");
    let late = within(&clause, node.propose(frame.clone(), WAIT)).await;
    assert_eq!(late, Err(ProposeError::Closed { submitted: false }), "{clause}: propose");
    let late = within(&clause, node.propose_many(vec![frame.clone()], WAIT)).await;
    assert_eq!(late, Err(ProposeError::Closed { submitted: false }), "{clause}: propose_many");
    let late = within(&clause, node.decision(&fixture.shard, frame.id, WAIT)).await;
    assert_eq!(late, Err(ReadError::Closed), "{clause}: decision");
    let late = node.read_barrier(&fixture.shard, Consistency::Linearizable, WAIT);
    assert_eq!(within(&clause, late).await, Err(ReadError::Closed), "{clause}: read_barrier");
    let late = node.subscribe(Scope::All, Cursor::now(), Arc::new(Collector::default()));
    let late = within(&clause, late).await;
    assert!(matches!(late, Err(SubscribeError::Closed)), "{clause}: subscribe, not {late:?}");
    let late = within(&clause, node.pinned(&fixture.shard)).await;
    assert!(matches!(late, Err(ReadError::Closed)), "{clause}: pinned, not {late:?}");
    assert_eq!(node.status().health, Health::Closed, "{clause}: status");

    let clause = fixture.clause("close ends subscriptions as Cancelled");
    let end = within(&clause, subscription.ended()).await;
    assert!(matches!(end, SubscriptionEnd::Cancelled { .. }), "{clause}, not: {end:?}");
    let end = within(&clause, in_call.ended()).await;
    assert!(matches!(end, SubscriptionEnd::Cancelled { .. }), "{clause}, not: {end:?}");
    assert_eq!(stalled.count(), 0, "{clause}: a call that ran counts as not handled");
    within(&fixture.clause("events end when the node closes"), drain(&mut events)).await;
    let clause = fixture.clause("a closed node holds no handler");
    eventually(&clause, || Arc::strong_count(&collector) + Arc::strong_count(&stalled) == 2).await;
    fixture.close().await;
}

/// What was answered is there after a restart, and goes on from there.
pub async fn a_restart_keeps_everything<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("a_restart_keeps_everything", factory).await;
    let session = fixture.session().await;
    let mut commits = Vec::new();
    let mut rejected = fixture.frame(session, 1, "another");
    rejected.settled = 0;
    for round in 0..3 {
        commits.extend(fixture.accept_many(session, round * 10 + 1, 10).await);
        for node in 0..fixture.nodes().len() {
            if !fixture.cluster.restart(node).await {
                return fixture.skip("restart").await;
            }
            fixture.ready(&fixture.node(node)).await;
        }
        for (serial, commit) in (1..).zip(&commits) {
            let again = fixture.frame(session, serial, format!("frame {serial}"));
            assert_eq!(
                fixture.accept(serial as usize, again).await,
                *commit,
                "{}: a frame that was answered is told the same after a restart; {serial} was not",
                fixture.case
            );
        }
        let reused = fixture.propose(0, rejected.clone()).await;
        assert_eq!(
            reused,
            Ok(Decision::Reject(Rejection::IdReused)),
            "{}: what is known of an id survives a restart",
            fixture.case
        );
        let id = FrameId { session, serial: 1 };
        let known = fixture.node(0).decision(&fixture.shard, id, WAIT).await;
        assert_eq!(
            known,
            Ok(Decision::Accept(commits[0].clone())),
            "{}: a decision can be asked for after a restart",
            fixture.case
        );
    }
    assert!(
        commits.is_sorted_by(|a, b| a.position < b.position),
        "{}: positions are never reused, and rise over restarts",
        fixture.case
    );
    assert_eq!(
        commits.iter().map(count).collect::<Vec<_>>(),
        (1..=30).map(Some).collect::<Vec<_>>(),
        "{}: the state machine goes on where it was",
        fixture.case
    );
    let closed = fixture.accept(0, Frame::close_session(session, fixture.shard.clone())).await;
    for node in 0..fixture.nodes().len() {
        fixture.cluster.restart(node).await;
        fixture.ready(&fixture.node(node)).await;
    }
    let ended = fixture.propose(0, fixture.frame(session, 31, "x")).await;
    assert_eq!(
        ended,
        Err(ProposeError::SessionEnded),
        "{}: a session that was closed at {} stays closed over a restart",
        fixture.case,
        closed.position
    );
    fixture.close().await;
}

/// A subscriber that keeps its cursor sees each frame once over restarts; one from the beginning sees all of them.
pub async fn subscribers_resume_over_a_restart<F: ReplicatorFactory>(factory: &F) {
    const ROUND: u64 = 20;
    let fixture = Fixture::open("subscribers_resume_over_a_restart", factory).await;
    let session = fixture.session().await;
    let mut cursor = Cursor::beginning();
    let mut seen = Vec::new();
    let mut places = Vec::new();
    for round in 0..3 {
        let first = round * ROUND + 1;
        let (subscription, collector) = fixture.subscribe(0, Scope::All, cursor).await;
        let commits = fixture.accept_many(session, first, ROUND).await;
        places.extend(
            (first..)
                .zip(commits)
                .map(|(serial, commit)| (commit.position, FrameId { session, serial })),
        );
        // Some are handled before the restart, the others after it.
        let clause = fixture.clause("every accepted frame in scope reaches the subscriber");
        eventually(&clause, || collector.count() >= 5).await;
        subscription.cancel();
        let end = within(&fixture.clause("a subscription ends"), subscription.ended()).await;
        cursor = end.cursor().clone();
        seen.extend(collector.places());
        if !fixture.cluster.restart(0).await {
            return fixture.skip("restart").await;
        }
        fixture.ready(&fixture.node(0)).await;
    }
    let (_rest, rest) = fixture.subscribe(0, Scope::All, cursor).await;
    let missing = places.len() - seen.len().min(places.len());
    seen.extend(rest.wait(&fixture, missing).await);
    assert!(
        seen == places,
        "{}: a subscriber that resumes at its cursor sees each frame once, in order; it saw {seen:?}",
        fixture.case
    );
    let (_all, all) = fixture.subscribe(0, Scope::All, Cursor::beginning()).await;
    let all = all.wait(&fixture, places.len()).await;
    assert!(
        all == places,
        "{}: a subscriber from the beginning sees each frame once after restarts; it saw {all:?}",
        fixture.case
    );
    fixture.close().await;
}

/// Takes events until they end.
async fn drain(events: &mut EventStream) {
    while poll_fn(|context| events.as_mut().poll_next(context)).await.is_some() {
        tokio::time::sleep(Duration::ZERO).await;
    }
}
