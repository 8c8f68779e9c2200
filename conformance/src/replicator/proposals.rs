//! Proposals: acceptance, order, exactly once, rejections, refusals, deadlines.

use std::time::Duration;

use bytes::Bytes;
use quorate_replicator::limits::{
    FRAME_BYTES_MAX, PROPOSE_MANY_MAX, REPLY_KEPT_BYTES_MAX, SESSION_UNSETTLED_MAX,
};
use quorate_replicator::{
    Commit, Consistency, Cursor, Decision, Frame, FrameId, LogTime, ProposeError, ReadError,
    Rejection, ReplicatorExt as _, Reply, Resource, Scope, SessionId,
};

use super::journal::{count, long_reply, reply};
use super::{Fixture, ReplicatorFactory, WAIT};
use crate::eventually::within;

/// How long a proposal waits that is known to get no answer.
const SHORT: Duration = Duration::from_millis(50);

/// An accepted frame is applied on the answering node, and the answer is the state machine's.
pub async fn accepted_means_applied<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("accepted_means_applied", factory).await;
    let session = fixture.session().await;
    let mut last = None;
    for serial in 1..=20 {
        let payload = Bytes::from(format!("payload {serial}"));
        let node = serial as usize;
        let frame = fixture.frame(session, serial, payload.clone());
        let id = frame.id;
        let commit = fixture.accept(node, frame).await;
        assert_eq!(
            commit.reply,
            Reply::Known(reply(serial, &payload)),
            "{}: an accept carries what the state machine answered",
            fixture.case
        );
        assert!(
            fixture.journals.holds(id, commit.position),
            "{}: an accepted frame has been applied at its position",
            fixture.case
        );
        let local = fixture.node(node);
        let reached = local.read_barrier(&fixture.shard, Consistency::Local, WAIT).await;
        let reached = reached.map(|position| (position.epoch, position.index));
        assert!(
            reached.as_ref().is_ok_and(|reached| {
                *reached >= (commit.position.epoch, commit.position.index)
            }),
            "{}: an accepted frame has been applied on the answering node; {} was, {reached:?} is",
            fixture.case,
            commit.position
        );
        assert!(
            last < Some(commit.position),
            "{}: a frame proposed after the answer to another comes after it",
            fixture.case
        );
        assert_eq!(
            commit.position.group,
            fixture.node(0).group(&fixture.shard),
            "{}: a frame is decided by the group of its shard",
            fixture.case
        );
        last = Some(commit.position);
    }
    fixture.close().await;
}

/// Eight proposers at once, on all nodes: every subscriber on every node sees one order, the order of positions.
pub async fn concurrent_proposers_share_one_order<F: ReplicatorFactory>(factory: &F) {
    const PROPOSERS: u64 = 8;
    const FRAMES: u64 = 50;
    let fixture = Fixture::open("concurrent_proposers_share_one_order", factory).await;
    let mut subscribers = Vec::new();
    for node in 0..fixture.nodes().len() {
        subscribers.push(fixture.subscribe(node, Scope::All, Cursor::beginning()).await);
    }
    let mut proposers = tokio::task::JoinSet::new();
    for proposer in 0..PROPOSERS {
        let session = fixture.session().await;
        let node = fixture.node(proposer as usize);
        let frames: Vec<_> = (1..=FRAMES)
            .map(|serial| fixture.frame(session, serial, format!("{proposer} {serial}")))
            .collect();
        proposers.spawn(async move {
            let mut places = Vec::new();
            for frame in frames {
                let id = frame.id;
                match node.propose(frame, WAIT).await {
                    Ok(Decision::Accept(commit)) => places.push((commit.position, id)),
                    other => return Err(format!("frame {id} got {other:?}")),
                }
            }
            Ok(places)
        });
    }
    let mut answered = Vec::new();
    let clause = fixture.clause("concurrent proposals are answered");
    while let Some(places) = within(&clause, proposers.join_next()).await {
        match places.expect("a proposer does not panic") {
            Ok(places) => {
                assert!(
                    places.is_sorted_by(|a, b| a.0 < b.0),
                    "{}: a frame proposed after the answer to another comes after it",
                    fixture.case
                );
                answered.extend(places);
            }
            Err(problem) => panic!("{clause}, accepted: {problem}"),
        }
    }
    answered.sort();
    for (node, (_, collector)) in subscribers.iter().enumerate() {
        let got = collector.wait(&fixture, answered.len()).await;
        assert!(
            got == answered,
            "{}: subscribers on all nodes see what was answered, in the order of positions; node {node} differs",
            fixture.case
        );
    }
    fixture.close().await;
}

/// The same frame again, anywhere and at any time, is told its first position and reply and does nothing.
pub async fn a_repeated_frame_happens_once<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("a_repeated_frame_happens_once", factory).await;
    let session = fixture.session().await;
    let (subscription, collector) = fixture.subscribe(0, Scope::All, Cursor::beginning()).await;
    let frame = fixture.frame(session, 1, "once");
    let first = fixture.accept(0, frame.clone()).await;
    for node in 0..4 {
        let again = fixture.accept(node, frame.clone()).await;
        assert_eq!(
            again, first,
            "{}: a repeated frame is told its first position and reply",
            fixture.case
        );
    }
    // At once, from all sides, before there is a first answer.
    let frame = fixture.frame(session, 2, "at once");
    let mut proposals = tokio::task::JoinSet::new();
    for node in 0..8 {
        let (node, frame) = (fixture.node(node), frame.clone());
        proposals.spawn(async move { node.propose(frame, WAIT).await });
    }
    let mut commits = Vec::new();
    while let Some(decision) = proposals.join_next().await {
        match decision.expect("a proposer does not panic") {
            Ok(Decision::Accept(commit)) => commits.push(commit),
            other => {
                panic!("{}: a frame repeated at once is accepted, not: {other:?}", fixture.case)
            }
        }
    }
    assert!(
        commits.iter().all(|commit| *commit == commits[0]),
        "{}: a repeated frame is told its first position and reply: {commits:?}",
        fixture.case
    );
    // Twice in one call.
    let frame = fixture.frame(session, 3, "twice");
    let node = fixture.node(0);
    let both = node.propose_many(vec![frame.clone(), frame], WAIT).await;
    assert!(
        matches!(both.as_deref(), Ok([Decision::Accept(a), Decision::Accept(b)]) if a == b),
        "{}: a frame that is repeated in one call happens once: {both:?}",
        fixture.case
    );
    let after = fixture.accept(0, fixture.frame(session, 4, "after")).await;
    assert_eq!(
        count(&after),
        Some(4),
        "{}: repetitions are not applied; the state machine counts the frames",
        fixture.case
    );
    let got = collector.wait(&fixture, 4).await;
    assert_eq!(got.len(), 4, "{}: repetitions are not given to subscribers", fixture.case);
    drop(subscription);
    fixture.close().await;
}

/// The same id with another payload is rejected for ever, and the first decision stays.
pub async fn a_reused_id_is_rejected<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("a_reused_id_is_rejected", factory).await;
    let session = fixture.session().await;
    let first = fixture.accept(0, fixture.frame(session, 1, "first")).await;
    for node in 0..3 {
        let decision = fixture.propose(node, fixture.frame(session, 1, "second")).await;
        assert_eq!(
            decision,
            Ok(Decision::Reject(Rejection::IdReused)),
            "{}: an id with another payload is rejected as IdReused",
            fixture.case
        );
        let again = fixture.accept(node, fixture.frame(session, 1, "first")).await;
        assert_eq!(again, first, "{}: the first decision of an id stays", fixture.case);
    }
    fixture.close().await;
}

/// A session that was never opened, or has ended, or has settled the serial, refuses, and nothing happens.
pub async fn an_ended_session_refuses<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("an_ended_session_refuses", factory).await;
    let refused = async |what: &str, frame: Frame| {
        let id = frame.id;
        for node in 0..fixture.nodes().len() {
            let decision = fixture.propose(node, frame.clone()).await;
            assert_eq!(
                decision,
                Err(ProposeError::SessionEnded),
                "{}: {what} is refused as SessionEnded",
                fixture.case
            );
        }
        id
    };
    let stranger = SessionId::new(fastrand::u128(..).to_be_bytes());
    let id = refused("a session that was never opened", fixture.frame(stranger, 1, "x")).await;
    assert!(fixture.journals.lacks(id), "{}: SessionEnded does nothing", fixture.case);

    let session = fixture.session().await;
    for serial in 1..=4 {
        fixture.accept(0, fixture.frame(session, serial, "x")).await;
    }
    // A node that has yet to apply what settles or closes may still give the first decision, which is true as well.
    let everywhere = async |commit: Commit| {
        for node in fixture.nodes() {
            let applied = node.wait_applied(&fixture.shard, commit.position, WAIT).await;
            assert!(applied.is_ok(), "{}: what was accepted is applied everywhere", fixture.case);
        }
    };
    let settling = Frame { settled: 4, ..fixture.frame(session, 5, "x") };
    everywhere(fixture.accept(0, settling).await).await;
    for serial in 1..=3 {
        refused("a serial below settled", fixture.frame(session, serial, "x")).await;
    }
    // A serial that was settled without ever being proposed is gone as well.
    let settling = Frame { settled: 10, ..fixture.frame(session, 10, "x") };
    everywhere(fixture.accept(0, settling).await).await;
    let id = refused("a serial below settled", fixture.frame(session, 7, "x")).await;
    assert!(fixture.journals.lacks(id), "{}: SessionEnded does nothing", fixture.case);
    fixture.accept(0, fixture.frame(session, 10, "x")).await;

    let closing = Frame::close_session(session, fixture.shard.clone());
    everywhere(fixture.accept(0, closing).await).await;
    let id = refused("a session that was closed", fixture.frame(session, 11, "x")).await;
    assert!(fixture.journals.lacks(id), "{}: SessionEnded does nothing", fixture.case);
    refused("a session that was closed", fixture.frame(session, 10, "x")).await;
    // A copy of its opening must not bring it back: a copy of what was settled would happen again.
    let opening = Frame::open_session(session, fixture.shard.clone());
    refused("the opening of a session that was closed", opening).await;
    let again = fixture.frame(session, 1, "x");
    refused("a session that was closed", again).await;
    fixture.close().await;
}

/// A reply longer than what is kept is given once; a repetition is told that it is forgotten.
pub async fn a_long_reply_is_forgotten<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("a_long_reply_is_forgotten", factory).await;
    let session = fixture.session().await;
    for (serial, bytes) in [(1, REPLY_KEPT_BYTES_MAX), (2, REPLY_KEPT_BYTES_MAX + 1)] {
        let frame = fixture.frame(session, serial, long_reply(bytes));
        let first = fixture.accept(0, frame.clone()).await;
        assert_eq!(
            first.reply.bytes().map(Bytes::len),
            Some(bytes),
            "{}: the first proposer gets the whole reply, however long",
            fixture.case
        );
        // A node that has yet to apply the frame has the whole reply when it does.
        let applied = fixture.node(1).wait_applied(&fixture.shard, first.position, WAIT).await;
        assert!(applied.is_ok(), "{}: what was accepted is applied everywhere", fixture.case);
        let again = fixture.accept(1, frame).await;
        assert_eq!(again.position, first.position, "{}: the position is kept", fixture.case);
        let expected = if bytes > REPLY_KEPT_BYTES_MAX { Reply::Forgotten } else { first.reply };
        assert!(
            again.reply == expected,
            "{}: of a repetition, replies up to REPLY_KEPT_BYTES_MAX are kept and longer ones are Forgotten; \
             one of {bytes} bytes was not so",
            fixture.case
        );
    }
    fixture.close().await;
}

/// A session holds so many decided and unsettled serials and no more; settling makes room.
pub async fn unsettled_serials_are_bounded<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("unsettled_serials_are_bounded", factory).await;
    let session = fixture.session().await;
    let limit = SESSION_UNSETTLED_MAX as u64;
    let frames = (1..=limit).map(|serial| fixture.frame(session, serial, "x")).collect();
    let decisions = fixture.node(0).propose_many(frames, WAIT).await;
    assert!(
        decisions.as_ref().is_ok_and(|all| {
            all.iter().all(|decision| matches!(decision, Decision::Accept(_)))
        }),
        "{}: SESSION_UNSETTLED_MAX serials of a session may be unsettled",
        fixture.case
    );
    let over = fixture.propose(0, fixture.frame(session, limit + 1, "x")).await;
    assert_eq!(
        over,
        Err(ProposeError::Overloaded { resource: Resource::Unsettled, limit }),
        "{}: one more unsettled serial is refused as Overloaded",
        fixture.case
    );
    fixture.accept(0, fixture.frame(session, 1, "x")).await;
    let settled = Frame { settled: 2, ..fixture.frame(session, limit + 1, "x") };
    fixture.accept(0, settled).await;
    fixture.close().await;
}

/// A frame whose `valid_until` has passed in log time is rejected, and stays so.
pub async fn a_late_frame_is_rejected_as_expired<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("a_late_frame_is_rejected_as_expired", factory).await;
    let session = fixture.session().await;
    // Log time moves with what is proposed; it must have left genesis for anything to be late.
    let mut serial = 0;
    let clause = fixture.clause("log time goes on with the batches that are decided");
    within(&clause, async {
        loop {
            serial += 1;
            fixture
                .accept(0, Frame { settled: serial, ..fixture.frame(session, serial, "tick") })
                .await;
            let group = fixture.node(0).group(&fixture.shard);
            let status = fixture.node(0).status();
            let status = status.groups.iter().find(|status| status.group == group);
            if status.is_some_and(|status| status.log_time > LogTime::ZERO) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let late =
        Frame { valid_until: Some(LogTime::ZERO), ..fixture.frame(session, serial + 1, "late") };
    for node in 0..3 {
        let decision = fixture.propose(node, late.clone()).await;
        assert_eq!(
            decision,
            Ok(Decision::Reject(Rejection::Expired)),
            "{}: a frame is rejected as Expired once its valid_until has passed, every time it is proposed",
            fixture.case
        );
    }
    assert!(fixture.journals.lacks(late.id), "{}: a rejected frame is never applied", fixture.case);
    let known = fixture.node(0).decision(&fixture.shard, late.id, WAIT).await;
    assert_eq!(
        known,
        Ok(Decision::Reject(Rejection::Expired)),
        "{}: a rejection is recorded under its id",
        fixture.case
    );
    let in_time = Frame {
        valid_until: Some(LogTime::from_ms(u64::MAX)),
        ..fixture.frame(session, serial + 2, "in time")
    };
    fixture.accept(0, in_time).await;
    fixture.close().await;
}

/// The largest payload passes, a larger one is refused with its size.
pub async fn a_frame_too_large_is_refused<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("a_frame_too_large_is_refused", factory).await;
    let session = fixture.session().await;
    for node in 0..fixture.nodes().len() {
        let frame = fixture.frame(session, 1, vec![1; FRAME_BYTES_MAX + 1]);
        let id = frame.id;
        let refused = fixture.propose(node, frame).await;
        assert!(
            matches!(
                refused,
                Err(ProposeError::TooLarge { size, limit, .. })
                    if size > limit && limit >= FRAME_BYTES_MAX
            ),
            "{}: a payload over FRAME_BYTES_MAX is refused as TooLarge with its size, not: {refused:?}",
            fixture.case
        );
        assert!(fixture.journals.lacks(id), "{}: a refused frame does nothing", fixture.case);
    }
    fixture.accept(0, fixture.frame(session, 2, vec![1; FRAME_BYTES_MAX])).await;
    fixture.close().await;
}

/// A frame that contradicts itself is refused with a reason.
pub async fn a_frame_that_makes_no_sense_is_refused<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("a_frame_that_makes_no_sense_is_refused", factory).await;
    let session = fixture.session().await;
    let frame = Frame { settled: 3, ..fixture.frame(session, 2, "x") };
    let id = frame.id;
    for node in 0..fixture.nodes().len() {
        let refused = fixture.propose(node, frame.clone()).await;
        assert!(
            matches!(refused, Err(ProposeError::Invalid { .. })),
            "{}: a frame that settles its own serial is refused as Invalid, not: {refused:?}",
            fixture.case
        );
    }
    assert!(fixture.journals.lacks(id), "{}: a refused frame does nothing", fixture.case);
    fixture.accept(0, fixture.frame(session, 2, "x")).await;
    fixture.close().await;
}

/// The frames of one call are decided in their order and answered in their order, each by itself.
pub async fn frames_of_one_call_keep_their_order<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("frames_of_one_call_keep_their_order", factory).await;
    let session = fixture.session().await;
    let used = fixture.accept(0, fixture.frame(session, 1, "used")).await;
    let nodes = fixture.nodes().len() as u64;
    // All of them stay unsettled, since the first serial is used once more.
    let each = 300.min(1000 / nodes);
    let reused = each as usize / 2;
    for node in 0..nodes {
        let first = 2 + node * each;
        let mut frames: Vec<_> = (first..first + each)
            .map(|serial| fixture.frame(session, serial, format!("{serial}")))
            .collect();
        // One of them is rejected, which is no concern of the others.
        frames[reused] = fixture.frame(session, 1, "used for something else");
        let proposer = fixture.node(node as usize);
        let proposing = proposer.propose_many(frames, WAIT);
        let decisions = within(&fixture.clause("propose_many returns"), proposing).await;
        let decisions = match decisions {
            Ok(decisions) => decisions,
            Err(error) => panic!("{}: frames that make sense are admitted: {error}", fixture.case),
        };
        assert_eq!(decisions.len() as u64, each, "{}: each frame is answered", fixture.case);
        let mut last = used.position;
        let mut applied = 1 + node * (each - 1);
        for (i, decision) in decisions.into_iter().enumerate() {
            match decision {
                Decision::Reject(Rejection::IdReused) if i == reused => {}
                Decision::Accept(commit) if i != reused => {
                    applied += 1;
                    assert!(
                        commit.position > last && count(&commit) == Some(applied),
                        "{}: frames of one call are decided and answered in their order; the one at {i} is not",
                        fixture.case
                    );
                    last = commit.position;
                }
                other => panic!(
                    "{}: each frame of a call is decided by itself; the one at {i} got {other:?}",
                    fixture.case
                ),
            }
        }
    }
    fixture.close().await;
}

/// A call with one frame that cannot be admitted, or with too many, is refused whole.
pub async fn a_batch_too_large_is_refused_whole<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("a_batch_too_large_is_refused_whole", factory).await;
    let session = fixture.session().await;
    let good = |serial| fixture.frame(session, serial, "good");
    let bad = fixture.frame(session, 3, vec![0; FRAME_BYTES_MAX + 1]);
    let nonsense = Frame { settled: 9, ..good(3) };
    let too_many = (1..=PROPOSE_MANY_MAX as u64 + 1).map(good).collect();
    for (what, frames) in [
        ("a frame that is too large", vec![good(1), good(2), bad, good(4)]),
        ("a frame that is invalid", vec![good(1), good(2), nonsense, good(4)]),
        ("more than PROPOSE_MANY_MAX frames", too_many),
    ] {
        let refused = fixture.node(0).propose_many(frames, WAIT).await;
        let fits = match &refused {
            Err(ProposeError::Invalid { .. }) => what.ends_with("invalid"),
            Err(ProposeError::TooLarge { .. }) => !what.ends_with("invalid"),
            _ => false,
        };
        assert!(
            fits,
            "{}: a call with {what} is refused for it, not: {:?}",
            fixture.case,
            refused.map(|decisions| decisions.len())
        );
    }
    let after = fixture.accept(0, fixture.frame(session, 5, "after")).await;
    assert_eq!(
        count(&after),
        Some(1),
        "{}: frames of one call are admitted all or none",
        fixture.case
    );
    fixture.close().await;
}

/// When nothing can be decided, a proposal ends with `Timeout` by its deadline, and the same frame can be proposed again.
pub async fn a_proposal_keeps_its_deadline<F: ReplicatorFactory>(factory: &F) {
    let fixture = Fixture::open("a_proposal_keeps_its_deadline", factory).await;
    let session = fixture.session().await;
    if !fixture.cluster.stall(0, true).await {
        return fixture.skip("stall").await;
    }
    let node = fixture.node(0);
    let frame = fixture.frame(session, 1, "waits");
    let clause = fixture.clause("a call returns by its deadline when nothing can be decided");
    let timeout = within(&clause, node.propose(frame.clone(), SHORT)).await;
    assert_eq!(timeout, Ok(Decision::Timeout), "{clause}, with Timeout");
    let many = vec![frame.clone(), fixture.frame(session, 2, "waits as well")];
    let timeouts = within(&clause, node.propose_many(many.clone(), SHORT)).await;
    assert_eq!(timeouts, Ok(vec![Decision::Timeout; 2]), "{clause}, with Timeout");
    let decision = within(&clause, node.decision(&fixture.shard, frame.id, SHORT)).await;
    assert_eq!(decision, Err(ReadError::Timeout), "{clause}: decision");
    let barrier = node.read_barrier(&fixture.shard, Consistency::Linearizable, SHORT);
    assert_eq!(within(&clause, barrier).await, Err(ReadError::Timeout), "{clause}: read_barrier");
    let local = node.read_barrier(&fixture.shard, Consistency::Local, SHORT);
    let local = within(&clause, local).await;
    assert!(local.is_ok(), "{}: a local read needs nobody, not: {local:?}", fixture.case);
    // A proposal that is given up leaves nothing that stands in the way later.
    {
        let abandoned = node.propose(fixture.frame(session, 3, "abandoned"), WAIT);
        let abandoned = tokio::time::timeout(Duration::from_millis(1), abandoned).await;
        assert!(abandoned.is_err(), "{}: nothing is decided while stalled", fixture.case);
    }

    fixture.cluster.stall(0, false).await;
    for frame in many {
        fixture.accept(0, frame).await;
    }
    fixture.accept(0, fixture.frame(session, 3, "abandoned")).await;
    let after = fixture.accept(0, fixture.frame(session, 4, "after")).await;
    assert_eq!(
        count(&after),
        Some(4),
        "{}: a frame that timed out and is proposed again happens once",
        fixture.case
    );
    let id = FrameId { session, serial: 1 };
    let known = node.decision(&fixture.shard, id, WAIT).await;
    assert!(
        matches!(known, Ok(Decision::Accept(_))),
        "{}: what timed out can be asked for later, not: {known:?}",
        fixture.case
    );
    fixture.close().await;
}
