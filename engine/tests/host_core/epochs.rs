//! What one driver leaves and another takes over: positions, cursors, sessions and log time go on.

use quorate_driver_local::{Local, LocalConfig};
use quorate_engine::{CheckpointPolicy, CoreConfig, HandOverError, Inheritance};
use quorate_replicator::*;
use quorate_storage::Record;

use crate::desk::*;
use crate::scripted::{Scripted, open_with};
use crate::subscriptions::{decide_all, handle, numbers, subscribe};

/// Ten frames, and the position of the last.
fn ten() -> (Desk, Position) {
    ten_with(config())
}

fn ten_with(config: CoreConfig) -> (Desk, Position) {
    let mut desk = Desk::open(config);
    desk.open_session(1);
    decide_all(&mut desk, 1..=9);
    let last = desk.decide(frame(1, 10, "10")).unwrap();
    (desk, last.accepted().unwrap().position)
}

fn compacted(error: &SubscribeError) -> (Position, Position) {
    let SubscribeError::Compacted { oldest, snapshot: Some(snapshot) } = error else {
        panic!("{error}")
    };
    (*oldest, *snapshot)
}

#[test]
fn the_epoch_rises_and_nothing_else_changes() {
    let (mut desk, last) = ten();
    desk.pass(5000);
    desk.open_session(2);
    let answers: Vec<_> = (8..=10).map(|at| desk.decide(frame(1, at, &at.to_string()))).collect();
    let before = desk.core.inheritance();

    let mut desk = desk.inherit(config());
    let after = desk.core.inheritance();
    let Inheritance { position, log_time, sessions, .. } = after;
    assert_eq!((position.epoch, position.index), (2, before.position.index + 1));
    assert_eq!((log_time, sessions), (before.log_time, 2));
    assert_ne!(after.history, before.history, "the epoch is part of the history");
    // What was decided before is answered as it was, at its old position.
    for (serial, answer) in (8..=10).zip(answers) {
        assert_eq!(desk.decide(frame(1, serial, &serial.to_string())), answer);
    }
    let fresh = desk.decide(frame(1, 11, "11")).unwrap().accepted().unwrap();
    assert!(fresh.position > last && fresh.position > position, "{fresh:?}");
    assert_eq!(fresh.reply, Reply::Known("11".into()));

    // It is so after a restart, and once more.
    let desk = desk.restart(config());
    let mut desk = desk.inherit(config());
    assert_eq!(desk.core.position().epoch, 3);
    let again = desk.decide(frame(1, 11, "11")).unwrap();
    assert_eq!(again, Decision::Accept(fresh));
}

#[test]
fn what_has_handled_everything_goes_on_in_the_next_epoch() {
    let (desk, last) = ten();
    let reached = desk.core.position();
    let mut desk = desk.inherit(config());
    let began = desk.core.position();
    decide_all(&mut desk, 11..=12);
    for cursor in [last, reached, began] {
        let id = subscribe(&mut desk, Scope::All, &Cursor::after([cursor])).unwrap();
        assert_eq!(handle(&mut desk, id), numbers(11..=12), "after {cursor}");
        desk.core.unsubscribe(id);
    }
}

#[test]
fn epochs_in_which_nothing_was_accepted_are_nothing_to_miss() {
    let (desk, last) = ten();
    let reached = desk.core.position();
    let mut desk = desk.inherit(config());
    let second = desk.core.position();
    // A repeated frame takes an index and is not accepted.
    desk.decide(frame(1, 10, "10")).unwrap();
    let quiet = desk.core.position();
    let desk = desk.inherit(config());
    let third = desk.core.position();
    let mut desk = desk.inherit(config());
    let fourth = desk.core.position();
    assert_eq!((second.epoch, third.epoch, fourth.epoch), (2, 3, 4));
    decide_all(&mut desk, 11..=12);
    for cursor in [last, reached, second, quiet, third, fourth] {
        let id = subscribe(&mut desk, Scope::All, &Cursor::after([cursor])).unwrap();
        assert_eq!(handle(&mut desk, id), numbers(11..=12), "after {cursor}");
        desk.core.unsubscribe(id);
    }
    // What each of them came to elsewhere is lost.
    let lost = [
        Position { index: second.index, ..reached },
        Position { index: third.index, ..second },
        Position { index: fourth.index, ..third },
        Position { index: last.index - 1, slot: u32::MAX, ..reached },
    ];
    for cursor in lost {
        let error = subscribe(&mut desk, Scope::All, &Cursor::after([cursor])).unwrap_err();
        assert_eq!(compacted(&error).1, fourth, "after {cursor}");
    }
}

#[test]
fn batches_without_accepted_frames_are_nothing_to_miss() {
    let (mut desk, last) = ten();
    // Repeated, and so accepted before.
    desk.decide(frame(1, 10, "10")).unwrap();
    desk.open_session(3);
    let mut desk = desk.restart(config()).inherit(config());
    decide_all(&mut desk, 11..=11);
    let id = subscribe(&mut desk, Scope::All, &Cursor::after([last])).unwrap();
    assert_eq!(handle(&mut desk, id), numbers(11..=11));
}

#[test]
fn what_lacks_frames_of_before_is_told_where_the_state_is() {
    let mut config = config();
    config.checkpoint = CheckpointPolicy { log_bytes: 1, ..config.checkpoint };
    let (mut desk, last) = ten_with(config.clone());
    while !desk.jobs.is_empty() {
        desk.store();
    }
    // Begun from a checkpoint, with a log that has nothing to add.
    let mut desk = desk.restart(config.clone()).inherit(config);
    let began = desk.core.position();
    decide_all(&mut desk, 11..=12);
    let earlier = Position { index: last.index - 1, slot: u32::MAX, ..last };
    for cursor in [Cursor::beginning(), Cursor::after([earlier])] {
        let (oldest, snapshot) = compacted(&subscribe(&mut desk, Scope::All, &cursor).unwrap_err());
        assert_eq!(snapshot, began, "{cursor}");
        assert!(oldest > began, "{cursor}");
        let id = subscribe(&mut desk, Scope::All, &Cursor::after([snapshot])).unwrap();
        assert_eq!(handle(&mut desk, id), numbers(11..=12));
        desk.core.unsubscribe(id);
    }
}

#[test]
fn what_has_handled_what_was_lost_is_told_where_the_state_is() {
    let (desk, last) = ten();
    // Others went on from here, and this group did not.
    let lost = Position { index: last.index + 5, ..last };
    let mut desk = desk.inherit(config());
    let began = desk.core.position();
    // More than were lost, so that the index says nothing.
    decide_all(&mut desk, 11..=30);
    let error = subscribe(&mut desk, Scope::All, &Cursor::after([lost])).unwrap_err();
    assert_eq!(compacted(&error).1, began);
    // The same two epochs later, and for the one in between; also where nothing was accepted for a while.
    for _ in 0..5 {
        desk.decide(frame(1, 30, "30")).unwrap();
    }
    let quiet = Position { index: desk.core.position().index - 2, ..last };
    let mut desk = desk.inherit(config());
    for cursor in [lost, last, began, quiet] {
        let error = subscribe(&mut desk, Scope::All, &Cursor::after([cursor])).unwrap_err();
        assert_eq!(compacted(&error).1, desk.core.position());
    }
    // And of an epoch that has not come.
    let later = Position { epoch: 9, index: 1, ..last };
    let error = subscribe(&mut desk, Scope::All, &Cursor::after([later])).unwrap_err();
    assert!(matches!(error, SubscribeError::Ahead { .. }), "{error}");
}

#[test]
fn a_group_that_does_not_know_everything_is_left_only_when_told() {
    // A scripted engine says nothing of what others know.
    let unsure = || {
        let mut config = config();
        config.volatile = true;
        open_with(config).1.core
    };
    let HandOverError::Unsure { missing } = unsure().hand_over(false).unwrap_err() else {
        panic!("it was sure");
    };
    assert!(missing.contains("other nodes"), "{missing}");
    let left = unsure().hand_over(true).unwrap();
    assert_eq!(left.missing, Some(missing));
    let refused = left.found(&Scripted::default(), &(), [2; 16]).unwrap_err();
    assert!(refused.to_string().contains("does not take over"), "{refused}");
}

#[test]
fn an_empty_log_begins_after_what_is_taken_over() {
    let (desk, _) = ten();
    let left = desk.leave(config());
    let position = left.state.position;
    let (job, records) = left.found(&Local, &LocalConfig::default(), [2; 16]).unwrap();
    assert_eq!(job.index, position.index);
    let [Record::Reset { index, .. }] = &records[..] else { panic!("{records:?}") };
    assert_eq!(*index, position.index);
}
