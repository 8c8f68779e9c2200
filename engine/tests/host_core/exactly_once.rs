//! Sessions: what makes each frame happen once.
use crate::desk::*;
use crate::scripted::LONG;
use quorate_engine::{CheckpointPolicy, HashedFrame};
use quorate_replicator::*;

fn accepted(decision: Result<Decision, ProposeError>) -> (Position, String) {
    let commit = decision.unwrap().accepted().expect("accepted");
    let reply = commit.reply.bytes().expect("known").to_vec();
    (commit.position, String::from_utf8(reply).unwrap())
}

#[test]
fn a_repeated_frame_is_answered_as_before_and_applied_once() {
    let mut desk = Desk::open(config());
    desk.open_session(1);
    let first = accepted(desk.decide(frame(1, 1, "a")));
    let other = accepted(desk.decide(frame(1, 2, "b")));
    assert_eq!(accepted(desk.decide(frame(1, 1, "a"))), first);
    assert_eq!(accepted(desk.decide(frame(1, 3, "c"))).1, "3");
    assert!(first.0 < other.0);
}

#[test]
fn both_copies_of_a_frame_in_one_batch_get_the_same_answer() {
    let mut desk = Desk::open(config());
    desk.open_session(1);
    let within = std::time::Duration::from_secs(1);
    let one = desk.propose(frame(1, 1, "a"), within);
    let two = desk.propose(frame(1, 1, "a"), within);
    desk.run();
    let answers: Vec<_> = desk.proposed.drain(..).collect();
    assert_eq!(answers[0], (one, answers[1].1.clone()));
    assert_eq!(answers[1].0, two);
    assert_eq!(accepted(answers[0].1.clone()).1, "1");
}

#[test]
fn an_id_with_another_payload_is_rejected_and_the_first_decision_stays() {
    let mut desk = Desk::open(config());
    desk.open_session(1);
    let first = accepted(desk.decide(frame(1, 1, "a")));
    for other in [
        frame(1, 1, "b"),
        Frame { shard: ShardKey::new("org", "other").unwrap(), ..frame(1, 1, "a") },
        Frame { valid_until: Some(LogTime::from_ms(1 << 40)), ..frame(1, 1, "a") },
    ] {
        assert_eq!(desk.decide(other), Ok(Decision::Reject(Rejection::IdReused)));
    }
    assert_eq!(accepted(desk.decide(frame(1, 1, "a"))), first);
}

#[test]
fn a_frame_without_an_open_session_does_nothing() {
    let mut desk = Desk::open(config());
    assert_eq!(desk.decide(frame(1, 1, "a")), Err(ProposeError::SessionEnded));
    desk.open_session(1);
    assert_eq!(accepted(desk.decide(frame(1, 1, "a"))).1, "1");
    let close = Frame::close_session(session(1), shard());
    assert!(matches!(desk.decide(close.clone()), Ok(Decision::Accept(_))));
    assert_eq!(desk.decide(frame(1, 2, "b")), Err(ProposeError::SessionEnded));
    assert_eq!(desk.decide(close), Err(ProposeError::SessionEnded));
}

#[test]
fn opening_again_is_told_where_the_session_was_opened() {
    let mut desk = Desk::open(config());
    let open = Frame::open_session(session(1), shard());
    let first = desk.decide(open.clone());
    desk.decide(frame(1, 1, "a")).unwrap();
    assert_eq!(desk.decide(open), first);
}

#[test]
fn settled_serials_are_forgotten_and_never_applied_again() {
    let mut desk = Desk::open(config());
    desk.open_session(1);
    accepted(desk.decide(frame(1, 1, "a")));
    accepted(desk.decide(Frame { settled: 2, ..frame(1, 2, "b") }));
    assert_eq!(desk.decide(frame(1, 1, "a")), Err(ProposeError::SessionEnded));
    assert_eq!(accepted(desk.decide(frame(1, 3, "c"))).1, "3");
    let settles_itself = Frame { settled: 5, ..frame(1, 4, "d") };
    assert!(matches!(desk.decide(settles_itself), Err(ProposeError::Invalid { .. })));
}

#[test]
fn a_session_has_room_for_so_many_unsettled_serials() {
    let mut config = config();
    config.sessions.unsettled_max = 3;
    let mut desk = Desk::open(config);
    desk.open_session(1);
    for serial in 1..=3 {
        accepted(desk.decide(frame(1, serial, "x")));
    }
    let full = ProposeError::Overloaded { resource: Resource::Unsettled, limit: 3 };
    assert_eq!(desk.decide(frame(1, 4, "x")), Err(full));
    // Refusing it decided nothing: with room it is accepted.
    assert_eq!(accepted(desk.decide(Frame { settled: 3, ..frame(1, 4, "x") })).1, "4");
}

#[test]
fn a_list_for_which_a_session_has_room_in_part_is_not_refused() {
    let mut config = config();
    config.sessions.unsettled_max = 2;
    let mut desk = Desk::open(config);
    desk.open_session(1);
    let list =
        |serials: std::ops::Range<u64>| serials.map(|it| Frame { settled: 1, ..frame(1, it, "x") });
    let mut decide = |frames: Vec<Frame>| {
        let (now, who) = (desk.now, desk.number());
        let frames = frames.into_iter().map(HashedFrame::from).collect();
        desk.core.propose_many(frames, now + LONG, who, &mut desk.effects);
        desk.run();
        desk.proposed_many.pop().unwrap().1
    };
    let answer = decide(list(1..4).collect()).unwrap();
    assert!(matches!(answer[..], [Decision::Accept(_), Decision::Accept(_), Decision::Timeout]));
    // One for which it has none at all is.
    let full = ProposeError::Overloaded { resource: Resource::Unsettled, limit: 2 };
    assert_eq!(decide(list(4..6).collect()), Err(full));
}

#[test]
fn a_full_session_has_room_for_its_oldest_open_serial() {
    let mut config = config();
    config.sessions.unsettled_max = 3;
    let mut desk = Desk::open(config);
    desk.open_session(1);
    // Serial 1 was proposed first and is still open; the three after it were decided before it.
    for serial in 2..=4 {
        accepted(desk.decide(Frame { settled: 1, ..frame(1, serial, "x") }));
    }
    let full = ProposeError::Overloaded { resource: Resource::Unsettled, limit: 3 };
    assert_eq!(desk.decide(Frame { settled: 1, ..frame(1, 5, "x") }), Err(full));
    assert_eq!(accepted(desk.decide(Frame { settled: 1, ..frame(1, 1, "x") })).1, "4");
    assert_eq!(accepted(desk.decide(Frame { settled: 5, ..frame(1, 5, "x") })).1, "5");
}

#[test]
fn a_live_session_is_never_evicted_to_make_room() {
    let mut config = config();
    config.sessions.sessions_max = 2;
    let mut desk = Desk::open(config);
    desk.open_session(1);
    desk.open_session(2);
    let third = Frame::open_session(session(3), shard());
    let full = ProposeError::Overloaded { resource: Resource::Sessions, limit: 2 };
    assert_eq!(desk.decide(third.clone()), Err(full));
    desk.decide(Frame::close_session(session(1), shard())).unwrap();
    assert!(matches!(desk.decide(third), Ok(Decision::Accept(_))));
    accepted(desk.decide(frame(2, 1, "still here")));
}

#[test]
fn a_session_ends_after_log_time_without_use() {
    let mut config = config();
    config.sessions.idle_ms = 1000;
    let mut desk = Desk::open(config);
    desk.open_session(1);
    desk.open_session(2);
    desk.pass(700);
    accepted(desk.decide(frame(1, 1, "a")));
    desk.pass(700);
    // Session 2 was idle for 1,400 ms, session 1 for 700.
    accepted(desk.decide(frame(1, 2, "b")));
    assert_eq!(desk.decide(frame(2, 1, "c")), Err(ProposeError::SessionEnded));
    // Opening again renews a session that lives.
    desk.pass(700);
    desk.open_session(1);
    desk.pass(700);
    accepted(desk.decide(frame(1, 3, "d")));
}

#[test]
fn a_frame_that_came_too_late_is_rejected_for_ever() {
    let mut desk = Desk::open(config());
    desk.open_session(1);
    desk.pass(100);
    let late = Frame { valid_until: Some(LogTime::from_ms(50)), ..frame(1, 1, "a") };
    assert_eq!(desk.decide(late.clone()), Ok(Decision::Reject(Rejection::Expired)));
    assert_eq!(desk.decide(late), Ok(Decision::Reject(Rejection::Expired)));
    let in_time = Frame { valid_until: Some(LogTime::from_ms(1000)), ..frame(1, 2, "b") };
    assert_eq!(accepted(desk.decide(in_time)).1, "1");
}

#[test]
fn an_opening_that_is_kept_does_not_bring_a_session_back() {
    let mut config = config();
    config.sessions.sessions_max = 1;
    let until = config.sessions.idle_ms / 2;
    let mut desk = Desk::open(config);
    desk.pass(100);
    let open = Frame::open_session(session(1), shard());
    let open = Frame { valid_until: Some(LogTime::from_ms(until)), ..open };
    let first = desk.decide(open.clone()).unwrap().accepted().unwrap();
    assert_eq!(accepted(desk.decide(frame(1, 1, "a"))).1, "1");
    // While the session lives, it is told where it was opened first; it may be too late for that, too.
    desk.pass(until);
    assert_eq!(desk.decide(open.clone()), Ok(Decision::Accept(first)));
    desk.pass(2 * until + 1);
    assert_eq!(desk.decide(open.clone()), Err(ProposeError::SessionEnded));
    // Nor once the group has forgotten that it was there.
    desk.open_session(2);
    desk.decide(Frame::close_session(session(2), shard())).unwrap();
    assert_eq!(desk.decide(open), Ok(Decision::Reject(Rejection::Expired)));
    assert_eq!(desk.decide(frame(1, 1, "a")), Err(ProposeError::SessionEnded));
}

#[test]
fn long_replies_are_given_once_and_old_ones_make_room() {
    let mut config = config();
    config.sessions.reply_bytes_max = 2;
    let mut desk = Desk::open(config);
    desk.open_session(1);
    let commit = desk.decide(frame(1, 1, "long")).unwrap().accepted().unwrap();
    assert_eq!(commit.reply.bytes().unwrap().len(), limits::REPLY_KEPT_BYTES_MAX + 1);
    let again = desk.decide(frame(1, 1, "long")).unwrap().accepted().unwrap();
    assert_eq!(again, Commit { position: commit.position, reply: Reply::Forgotten, proof: None });
    for serial in 2..=4 {
        accepted(desk.decide(frame(1, serial, "x")));
    }
    // Replies "2", "3", "4" are one byte each, and two are kept.
    let again = desk.decide(frame(1, 2, "x")).unwrap().accepted().unwrap();
    assert_eq!(again.reply, Reply::Forgotten);
    assert_eq!(accepted(desk.decide(frame(1, 3, "x"))).1, "3");
}

#[test]
fn sessions_survive_restart_from_log_and_from_checkpoint() {
    for store in [false, true] {
        let mut config = config();
        config.checkpoint =
            CheckpointPolicy { log_bytes: if store { 1 } else { 1 << 40 }, ..config.checkpoint };
        let mut desk = Desk::open(config.clone());
        desk.open_session(1);
        desk.open_session(2);
        let first = accepted(desk.decide(frame(1, 1, "a")));
        desk.decide(frame(1, 2, "long")).unwrap();
        let late = Frame { valid_until: Some(LogTime::ZERO), ..frame(1, 3, "late") };
        desk.pass(5);
        desk.decide(late.clone()).unwrap();
        desk.decide(Frame::close_session(session(2), shard())).unwrap();
        while !desk.jobs.is_empty() {
            desk.store();
        }
        assert_eq!(desk.stored.is_some(), store);
        let history = desk.core.status().history;
        let mut desk = desk.restart(config);
        assert_eq!(desk.core.status().history, history);
        assert_eq!(desk.core.status().sessions, 1);
        assert_eq!(accepted(desk.decide(frame(1, 1, "a"))), first);
        assert_eq!(desk.decide(frame(1, 1, "other")), Ok(Decision::Reject(Rejection::IdReused)));
        assert_eq!(desk.decide(late), Ok(Decision::Reject(Rejection::Expired)));
        assert_eq!(desk.decide(frame(2, 1, "x")), Err(ProposeError::SessionEnded));
        assert_eq!(accepted(desk.decide(frame(1, 4, "b"))).1, "3");
    }
}

#[test]
fn a_session_that_was_stored_and_then_closed_stays_closed() {
    let mut config = config();
    config.checkpoint = CheckpointPolicy { log_bytes: 1, ..config.checkpoint };
    let mut desk = Desk::open(config.clone());
    desk.open_session(1);
    desk.open_session(2);
    while !desk.jobs.is_empty() {
        desk.store();
    }
    desk.decide(Frame::close_session(session(2), shard())).unwrap();
    while !desk.jobs.is_empty() {
        desk.store();
    }
    let mut desk = desk.restart(config);
    assert_eq!(desk.core.status().sessions, 1);
    assert_eq!(desk.decide(frame(2, 1, "x")), Err(ProposeError::SessionEnded));
}

/// On its way through a cluster a frame can be copied, and a copy can come late: after its session was closed, or had ended for want of
/// use, and however much time has passed since.
#[test]
fn late_copies_do_not_bring_an_ended_session_back() {
    for (store, close) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut config = config();
        config.sessions.idle_ms = 1000;
        config.checkpoint =
            CheckpointPolicy { log_bytes: if store { 1 } else { 1 << 40 }, ..config.checkpoint };
        let mut desk = Desk::open(config.clone());
        let (open, once) = (Frame::open_session(session(1), shard()), frame(1, 1, "once"));
        desk.decide(open.clone()).unwrap();
        accepted(desk.decide(once.clone()));
        if close {
            desk.decide(Frame::close_session(session(1), shard())).unwrap();
        } else {
            desk.pass(1001);
            desk.open_session(2);
        }
        while !desk.jobs.is_empty() {
            desk.store();
        }
        let mut desk = desk.restart(config);
        let live = desk.core.status().sessions;
        for _ in 0..2 {
            assert_eq!(desk.decide(open.clone()), Err(ProposeError::SessionEnded));
            assert_eq!(desk.decide(once.clone()), Err(ProposeError::SessionEnded));
            assert_eq!(desk.core.status().sessions, live);
            desk.pass(500);
        }
        desk.pass(1_000_000);
        assert_eq!(desk.decide(open), Err(ProposeError::SessionEnded));
        assert_eq!(desk.decide(once), Err(ProposeError::SessionEnded));
    }
}

#[test]
fn so_many_ended_sessions_are_remembered_beside_those_that_live() {
    let mut config = config();
    config.sessions.sessions_max = 2;
    config.checkpoint = CheckpointPolicy { log_bytes: 1, ..config.checkpoint };
    let mut desk = Desk::open(config.clone());
    for number in 1..=9 {
        desk.open_session(number);
        desk.decide(Frame::close_session(session(number), shard())).unwrap();
        desk.pass(1);
    }
    desk.open_session(20);
    desk.open_session(21);
    while !desk.jobs.is_empty() {
        desk.store();
    }
    let mut desk = desk.restart(config);
    assert_eq!(desk.core.status().sessions, 2);
    let mut open = |number| desk.decide(Frame::open_session(session(number), shard()));
    assert_eq!(open(8), Err(ProposeError::SessionEnded));
    assert_eq!(open(9), Err(ProposeError::SessionEnded));
    // More are not remembered.
    let full = ProposeError::Overloaded { resource: Resource::Sessions, limit: 2 };
    assert_eq!(open(7), Err(full));
}

fn refused(decision: Result<Decision, ProposeError>) -> String {
    match decision {
        Ok(Decision::Reject(Rejection::Refused { reason })) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

/// Proposes frames that stand in one batch each, all of them admitted before the first is applied.
fn decide_apart(desk: &mut Desk, frames: Vec<Vec<Frame>>) -> Vec<Result<Decision, ProposeError>> {
    let within = std::time::Duration::from_secs(1);
    for batch in frames {
        for frame in batch {
            desk.propose(frame, within);
        }
        desk.turn();
    }
    desk.run();
    desk.proposed.drain(..).map(|(_, decision)| decision).collect()
}

#[test]
fn what_the_state_machine_does_not_allow_is_decided_as_refused() {
    let mut config = config();
    config.checkpoint = CheckpointPolicy { log_bytes: 1 << 40, ..config.checkpoint };
    let mut desk = Desk::open(config.clone());
    desk.open_session(1);
    let guarded = frame(1, 3, "below 1 line");
    let batches = vec![
        vec![frame(1, 1, "below 1 too"), frame(1, 2, "below 1, of the same batch")],
        vec![guarded.clone(), frame(1, 4, "another one of its batch")],
    ];
    let mut decisions = decide_apart(&mut desk, batches).into_iter();
    // Judged by the state before the batch.
    assert_eq!(accepted(decisions.next().unwrap()).1, "1");
    assert_eq!(accepted(decisions.next().unwrap()).1, "2");
    let reason = refused(decisions.next().unwrap());
    assert!(reason.starts_with("there are 2 lines: é"), "{reason}");
    assert_eq!(reason.len(), limits::REFUSAL_BYTES_MAX - 1, "cut between two characters");
    assert_eq!(accepted(decisions.next().unwrap()).1, "3");

    // It is the answer from now on, after a restart from the log and from a checkpoint as well.
    assert_eq!(refused(desk.decide(guarded.clone())), reason);
    config.checkpoint = CheckpointPolicy { log_bytes: 1, ..config.checkpoint };
    let mut desk = desk.restart(config.clone());
    assert_eq!(refused(desk.decide(guarded.clone())), reason);
    while !desk.jobs.is_empty() {
        desk.store();
    }
    let mut desk = desk.restart(config);
    assert_eq!(refused(desk.decide(guarded.clone())), reason);
    assert_eq!(desk.decide(frame(1, 3, "below 9")), Ok(Decision::Reject(Rejection::IdReused)));
    assert_eq!(accepted(desk.decide(frame(1, 5, "d"))).1, "4");
}

#[test]
fn what_is_not_allowed_now_costs_no_decision() {
    let mut desk = Desk::open(config());
    desk.open_session(1);
    let early = frame(1, 1, "below 1 line");
    let first = accepted(desk.decide(early.clone()));
    let Err(ProposeError::Invalid { reason }) = desk.decide(frame(1, 2, "below 1 line")) else {
        panic!("admitted");
    };
    assert!(reason.starts_with("there are 1 lines"), "{reason}");
    // What was decided when it was allowed is answered as then.
    assert_eq!(accepted(desk.decide(early)), first);
    assert_eq!(accepted(desk.decide(frame(1, 2, "b"))).1, "2");
}

#[test]
fn words_of_refusals_are_forgotten_before_they_grow_a_session_beyond_its_limit() {
    let mut config = config();
    config.sessions.reply_bytes_max = 3 * limits::REFUSAL_BYTES_MAX;
    config.checkpoint = CheckpointPolicy { log_bytes: 1, ..config.checkpoint };
    let mut desk = Desk::open(config.clone());
    desk.open_session(1);
    let guarded: Vec<_> = (2..10).map(|serial| frame(1, serial, "below 1 line")).collect();
    let batches = vec![vec![frame(1, 1, "a")], guarded.clone()];
    assert_eq!(decide_apart(&mut desk, batches).len(), 9);
    let told = |desk: &mut Desk| {
        guarded.iter().map(|frame| refused(desk.decide(frame.clone()))).collect::<Vec<_>>()
    };
    let before = told(&mut desk);
    assert_eq!(before.iter().filter(|reason| *reason == "forgotten").count(), 5, "{before:?}");
    assert!(before[5..].iter().all(|reason| reason.starts_with("there are 1 lines")));
    while !desk.jobs.is_empty() {
        desk.store();
    }
    assert_eq!(told(&mut desk.restart(config)), before);
}
