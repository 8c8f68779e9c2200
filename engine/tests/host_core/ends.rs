//! Faults and closing: nothing happens any more, and everyone is told.

use std::time::Duration;

use quorate_driver_local::{Local, LocalConfig};
use quorate_engine::{BatchEncoder, BatchHead, Witness};
use quorate_replicator::*;
use quorate_storage::{Body, Entry, Tag};

use crate::desk::*;

#[test]
fn closing_tells_everyone_and_later_calls_too() {
    let mut desk = Desk::open(config());
    desk.open_session(1);
    // Two batches are placed, the third frame waits.
    let calls: Vec<_> = (1..=3)
        .map(|serial| {
            let who = desk.propose(frame(1, serial, "x"), Duration::from_secs(1));
            desk.turn();
            who
        })
        .collect();
    desk.core.close(&mut desk.effects);
    desk.core.close(&mut desk.effects);
    desk.turn();
    desk.proposed.sort_by_key(|(who, _)| *who);
    let closed = |submitted| Err(ProposeError::Closed { submitted });
    assert_eq!(
        desk.proposed,
        [(calls[0], closed(true)), (calls[1], closed(true)), (calls[2], closed(false))]
    );
    desk.proposed.clear();
    assert_eq!(desk.decide(frame(1, 9, "x")), closed(false));
    desk.core.read(desk.now, Consistency::Local, desk.now, 1, &mut desk.effects);
    desk.core.subscribe(Scope::All, &Cursor::now(), 2, &mut desk.effects);
    desk.turn();
    assert_eq!(desk.reads, [(1, Err(ReadError::Closed))]);
    assert_eq!(desk.subscribed, [(2, Err(SubscribeError::Closed))]);
    assert_eq!(desk.core.wake_at(desk.now), None);
}

#[test]
fn a_panic_of_the_state_machine_stops_the_group_and_names_the_place() {
    let mut desk = Desk::open(config());
    desk.open_session(1);
    let error = desk.decide(frame(1, 1, "panic")).unwrap_err();
    assert!(error.may_commit());
    assert!(error.to_string().contains("asked to"), "{error}");
    assert!(error.to_string().contains("index 2"), "{error}");
    assert!(matches!(
        desk.decide(frame(1, 2, "x")),
        Err(ProposeError::Faulted { submitted: false, .. })
    ));
    assert!(desk.events.iter().any(|event| matches!(event, Event::Faulted { .. })));
}

#[test]
fn after_a_failed_write_nothing_is_written_or_accepted() {
    let mut desk = Desk::open(config());
    desk.open_session(1);
    let who = desk.propose(frame(1, 1, "x"), Duration::from_secs(1));
    desk.turn();
    desk.pending.clear();
    desk.core.fail("the log could not be synced: EIO", &mut desk.effects);
    desk.turn();
    let cause = "the log could not be synced: EIO".to_owned();
    assert_eq!(desk.proposed, [(who, Err(ProposeError::Faulted { cause, submitted: true }))]);
    assert!(desk.decide(frame(1, 2, "y")).is_err());
    assert!(desk.pending.is_empty());
}

/// An entry as a proposer with this history would write it.
fn entry(index: u64, witness: Witness) -> Entry {
    stamped(index, witness, LogTime::ZERO)
}

fn stamped(index: u64, witness: Witness, log_time: LogTime) -> Entry {
    let head = BatchHead { log_time, witness };
    let body = Body::Frames(BatchEncoder::default().encode(&head, [].iter()));
    Entry { index, tag: Tag::ZERO, head: Bytes::new(), body }
}

#[test]
fn a_history_that_differs_stops_the_node() {
    let honest = Witness { index: 0, history: [0; 32] };
    let other = Witness { index: 1, history: [9; 32] };
    let open = |entries| Desk::with(config(), &Local, &LocalConfig::default(), entries, 1, None);
    let desk = open(vec![entry(1, honest), entry(2, honest)]);
    assert_eq!(desk.core.faulted(), None);
    let desk = open(vec![entry(1, honest), entry(2, other)]);
    let cause = desk.core.faulted().expect("it must stop");
    assert!(cause.contains("history at index 1 differs"), "{cause}");
    assert_eq!(desk.core.status().applied, 1);
}

#[test]
fn a_proposer_that_is_behind_does_not_turn_log_time_back() {
    let honest = Witness { index: 0, history: [0; 32] };
    let times = [50, 20, 60].map(LogTime::from_ms);
    let entries = (1..).zip(times).map(|(index, time)| stamped(index, honest, time)).collect();
    for (count, reached) in [(1, 50), (2, 50), (3, 60)] {
        let entries: Vec<_> = Vec::<Entry>::clone(&entries)[..count].to_vec();
        let desk = Desk::with(config(), &Local, &LocalConfig::default(), entries, 1, None);
        assert_eq!(desk.core.status().log_time, LogTime::from_ms(reached));
    }
}

#[test]
fn an_entry_that_is_no_batch_stops_the_node() {
    let body = Body::Frames(Bytes::from_static(b"\xc1 not a batch"));
    let entry = Entry { index: 1, tag: Tag::ZERO, head: Bytes::new(), body };
    let desk = Desk::with(config(), &Local, &LocalConfig::default(), vec![entry], 1, None);
    assert!(desk.core.faulted().expect("it must stop").contains("entry 1"));
}
