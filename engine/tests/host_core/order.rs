//! Order, durability, deadlines, limits and log time.

use std::time::Duration;

use quorate_engine::{CheckpointPolicy, HashedFrame, Retain};
use quorate_replicator::*;

use crate::desk::*;

#[test]
fn nothing_is_accepted_before_it_is_durable() {
    let mut desk = Desk::open(config());
    desk.propose(Frame::open_session(session(1), shard()), Duration::from_secs(1));
    desk.turn();
    assert!(desk.proposed.is_empty(), "answered before the write was durable");
    assert_eq!(desk.core.status().applied, 0);
    desk.flush();
    desk.turn();
    assert_eq!(desk.proposed.len(), 1);
    assert_eq!(desk.core.status().applied, 1);
}

#[test]
fn what_waits_while_a_batch_is_written_becomes_one_batch() {
    let mut desk = Desk::open(config());
    desk.open_session(1);
    // Two batches may be on their way; the third gathers.
    for serial in 1..=100 {
        desk.propose(frame(1, serial, "x"), Duration::from_secs(1));
        desk.turn();
    }
    desk.run();
    let positions: Vec<_> = desk
        .proposed
        .drain(..)
        .map(|(_, answer)| answer.unwrap().accepted().unwrap().position)
        .collect();
    assert!(positions.is_sorted(), "positions are in the order of proposing");
    assert_eq!(positions.last().map(|last| (last.index, last.slot)), Some((4, 97)));
}

#[test]
fn a_batch_has_bounded_frames_and_bytes() {
    let mut desk = Desk::open(config());
    desk.open_session(1);
    let large = "x".repeat(limits::BATCH_BYTES_MAX / 3);
    for serial in 1..=7 {
        desk.propose(frame(1, serial, &large), Duration::from_secs(1));
    }
    desk.run();
    let slots: Vec<_> = desk
        .proposed
        .drain(..)
        .map(|(_, answer)| answer.unwrap().accepted().unwrap().position.slot)
        .collect();
    assert_eq!(slots, [0, 1, 0, 1, 0, 1, 0]);
}

#[test]
fn a_call_ends_at_its_deadline_and_the_frame_may_still_be_decided() {
    let mut desk = Desk::open(config());
    desk.open_session(1);
    let slow = desk.propose(frame(1, 1, "a"), Duration::from_millis(100));
    let patient = desk.propose(frame(1, 2, "b"), Duration::from_millis(500));
    desk.turn();
    desk.pass(99);
    desk.turn();
    assert!(desk.proposed.is_empty());
    assert!(desk.core.wake_at(desk.now).unwrap() <= desk.now + Duration::from_millis(1));
    desk.pass(1);
    desk.turn();
    assert_eq!(desk.proposed, [(slow, Ok(Decision::Timeout))]);
    desk.run();
    assert_eq!(desk.proposed.len(), 2);
    assert_eq!(desk.proposed[1].0, patient);
    // It was on its way to the disk, and proposing it again tells so.
    let commit = desk.decide(frame(1, 1, "a")).unwrap().accepted().unwrap();
    assert_eq!(commit.reply, Reply::Known("1".into()));
    assert_eq!(desk.core.status().timeouts, 1);
}

#[test]
fn frames_that_were_never_offered_are_dropped_with_their_call() {
    let mut desk = Desk::open(config());
    desk.open_session(1);
    for serial in 1..=10 {
        desk.propose(frame(1, serial, "x"), Duration::from_millis(100));
        desk.turn();
    }
    // Two batches of one frame are placed, eight frames wait.
    desk.pass(100);
    desk.turn();
    assert_eq!(desk.core.status().in_flight, 2);
    desk.run();
    assert_eq!(desk.core.status().in_flight, 0);
    assert_eq!(desk.core.status().accepted, 2);
}

#[test]
fn limits_are_answered_by_name_and_a_list_is_admitted_whole_or_not() {
    let mut config = config();
    config.frames_in_flight_max = 3;
    config.bytes_in_flight_max = 10_000;
    config.frame_bytes_max = 5_000;
    let mut desk = Desk::open(config);
    desk.open_session(1);
    let long = Duration::from_secs(1);
    let large = desk.propose(frame(1, 1, &"x".repeat(5_001)), long);
    let too_large =
        ProposeError::TooLarge { what: "payload in bytes".into(), size: 5_001, limit: 5_000 };
    desk.turn();
    assert_eq!(desk.proposed.pop(), Some((large, Err(too_large))));
    let many: Vec<_> = (1..=4).map(|serial| HashedFrame::from(frame(1, serial, "x"))).collect();
    desk.core.propose_many(many[..2].to_vec(), long, 90, &mut desk.effects);
    desk.core.propose_many(many[2..].to_vec(), long, 91, &mut desk.effects);
    let frames = ProposeError::Overloaded { resource: Resource::Frames, limit: 3 };
    desk.run();
    assert_eq!(desk.proposed_many[0], (91, Err(frames)));
    assert_eq!(desk.proposed_many[1].1.as_ref().map(Vec::len), Ok(2));
    let big = "x".repeat(4_990);
    desk.propose(frame(1, 5, &big), long);
    let second = desk.propose(frame(1, 6, &big), long);
    let bytes = ProposeError::Overloaded { resource: Resource::Bytes, limit: 10_000 };
    desk.turn();
    assert_eq!(desk.proposed.pop(), Some((second, Err(bytes))));
    let none = Vec::new();
    desk.core.propose_many(none, long, 92, &mut desk.effects);
    desk.turn();
    assert_eq!(desk.proposed_many.pop(), Some((92, Ok(Vec::new()))));
}

#[test]
fn a_full_disk_refuses_proposals_and_nothing_else() {
    let mut desk = Desk::open(config());
    desk.open_session(1);
    desk.core.storage_full(true, &mut desk.effects);
    assert_eq!(desk.decide(frame(1, 1, "a")), Err(ProposeError::StorageFull));
    desk.core.read(
        desk.now,
        Consistency::Linearizable,
        desk.now + Duration::from_secs(1),
        7,
        &mut desk.effects,
    );
    desk.run();
    assert!(matches!(desk.reads[..], [(7, Ok(_))]));
    desk.core.storage_full(false, &mut desk.effects);
    assert!(desk.decide(frame(1, 1, "a")).is_ok());
    let full = [Event::Storage { full: true }, Event::Storage { full: false }];
    assert!(full.iter().all(|event| desk.events.contains(event)));
}

#[test]
fn a_deadline_of_the_state_machine_is_met_by_an_empty_batch_and_silence_follows() {
    let mut desk = Desk::open(config());
    desk.open_session(1);
    desk.decide(frame(1, 1, "alarm")).unwrap();
    let applied = desk.core.status().applied;
    let wake = desk.core.wake_at(desk.now).unwrap();
    assert_eq!(wake, desk.now + Duration::from_millis(50));
    desk.pass(49);
    desk.run();
    assert_eq!(desk.core.status().applied, applied);
    desk.pass(1);
    desk.run();
    assert_eq!(desk.core.status().applied, applied + 1);
    desk.pass(1000);
    desk.run();
    assert_eq!(desk.core.status().applied, applied + 1, "an idle group is silent");
    // The deadline was handled: the next line is the third.
    let commit = desk.decide(frame(1, 2, "x")).unwrap().accepted().unwrap();
    assert_eq!(commit.reply, Reply::Known("3".into()));
}

#[test]
fn log_time_keeps_pace_under_load_and_goes_on_after_a_restart() {
    let mut desk = Desk::open(config());
    desk.open_session(1);
    for serial in 1..=50 {
        desk.propose(frame(1, serial, "x"), Duration::from_secs(9));
        desk.turn();
        // Each batch takes 10 ms to become durable.
        desk.pass(10);
        desk.run();
    }
    let log_time = desk.core.status().log_time;
    assert!((480..=500).contains(&log_time.as_ms()), "{log_time} after 500 ms");
    let mut desk = desk.restart(config());
    assert_eq!(desk.core.status().log_time, log_time);
    desk.pass(30);
    desk.decide(frame(1, 51, "x")).unwrap();
    assert_eq!(desk.core.status().log_time, log_time.plus_ms(30));
}

#[test]
fn checkpoints_free_the_log_down_to_what_is_retained() {
    let mut config = config();
    config.checkpoint = CheckpointPolicy { log_bytes: 1 << 20, ..config.checkpoint };
    config.retain = Retain { bytes: 2 << 20, age: Duration::ZERO };
    let mut desk = Desk::open(config.clone());
    desk.open_session(1);
    let payload = "x".repeat(100 << 10);
    let mut history = desk.core.status().history;
    for serial in 1..=100 {
        desk.decide(Frame { settled: serial, ..frame(1, serial, &payload) }).unwrap();
        assert_ne!(std::mem::replace(&mut history, desk.core.status().history), history);
        while !desk.jobs.is_empty() {
            desk.store();
        }
    }
    let kept: usize = desk.entries.len() * payload.len();
    assert!((2 << 20..5 << 20).contains(&kept), "{kept} bytes kept");
    assert_eq!(desk.core.status().log_first, desk.first);
    let desk = desk.restart(config);
    assert_eq!(desk.core.status().history, history);
    assert_eq!(desk.core.status().applied, 101);
}

#[test]
fn one_checkpoint_runs_at_a_time_and_later_frames_go_on() {
    let mut config = config();
    config.checkpoint = CheckpointPolicy { log_bytes: 1, ..config.checkpoint };
    let mut desk = Desk::open(config.clone());
    desk.open_session(1);
    assert_eq!(desk.jobs.len(), 1);
    for serial in 1..=5 {
        desk.decide(frame(1, serial, "x")).unwrap();
    }
    assert_eq!(desk.jobs.len(), 1, "a second checkpoint began while the first was being stored");
    // The job shows the state as it was when it began, whenever it is stored.
    desk.store();
    assert_eq!(desk.stored.as_ref().unwrap().index, 1);
    let restarted = Desk::with(
        config,
        &quorate_driver_local::Local,
        &quorate_driver_local::LocalConfig::default(),
        desk.entries.clone(),
        desk.first,
        desk.stored.clone(),
    );
    assert_eq!(restarted.core.status().history, desk.core.status().history);
}

#[test]
fn without_stored_checkpoints_the_log_is_freed_all_the_same() {
    let mut config = config();
    config.volatile = true;
    config.checkpoint = CheckpointPolicy { log_bytes: 1 << 20, stored: false, ..config.checkpoint };
    config.retain = Retain { bytes: 1 << 20, age: Duration::ZERO };
    let mut desk = Desk::open(config);
    desk.open_session(1);
    let payload = "x".repeat(100 << 10);
    for serial in 1..=50 {
        desk.decide(Frame { settled: serial, ..frame(1, serial, &payload) }).unwrap();
    }
    assert!(desk.jobs.is_empty());
    assert!(desk.first > 20, "the log begins at {}", desk.first);
}

#[test]
fn what_is_retained_stays_over_a_restart() {
    let mut config = config();
    config.checkpoint = CheckpointPolicy { log_bytes: 1 << 20, ..config.checkpoint };
    let payload = "x".repeat(100 << 10);
    for (bytes, kept_whole) in [(u64::MAX, true), (8 << 20, true), (1 << 20, false)] {
        config.retain = Retain { bytes, age: Duration::ZERO };
        let mut desk = Desk::open(config.clone());
        desk.open_session(1);
        for serial in 1..=70 {
            if serial % 25 == 0 {
                desk = desk.restart(config.clone());
            }
            desk.decide(Frame { settled: serial, ..frame(1, serial, &payload) }).unwrap();
            while !desk.jobs.is_empty() {
                desk.store();
            }
        }
        assert!(desk.stored.is_some());
        // 7 MiB were written in all.
        assert_eq!(
            desk.first == 1,
            kept_whole,
            "retaining {bytes}, the log begins at {}",
            desk.first
        );
    }
}
