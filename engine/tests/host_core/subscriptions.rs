//! Subscriptions: every accepted frame once, in order, from memory or from the log.

use bytes::Bytes;
use quorate_engine::{
    CheckpointPolicy, CoreConfig, Fetched, Retain, SubscriptionId, SubscriptionOver,
};
use quorate_replicator::*;
use quorate_storage::Record;

use crate::desk::*;

pub(crate) fn subscribe(
    desk: &mut Desk,
    scope: Scope,
    from: &Cursor,
) -> Result<SubscriptionId, SubscribeError> {
    let who = desk.number();
    desk.core.subscribe(scope, from, who, &mut desk.effects);
    desk.turn();
    let (answered, begun) = desk.subscribed.pop().expect("an answer");
    assert_eq!(answered, who);
    begun
}

/// Handles everything there is; the payloads in order.
pub(crate) fn handle(desk: &mut Desk, id: SubscriptionId) -> Vec<String> {
    let mut payloads = Vec::new();
    while !desk.chunks.is_empty() {
        for chunk in std::mem::take(&mut desk.chunks) {
            assert_eq!(chunk.subscription, id);
            assert!(chunk.frames.is_sorted_by_key(|accepted| accepted.position));
            if !chunk.frames.is_empty() {
                desk.core.handled(id);
            }
            payloads.extend(
                chunk.frames.iter().map(|a| String::from_utf8_lossy(&a.frame.payload).into_owned()),
            );
        }
        desk.turn();
    }
    payloads
}

pub(crate) fn decide_all(desk: &mut Desk, serials: std::ops::RangeInclusive<u64>) {
    for serial in serials {
        desk.decide(frame(1, serial, &serial.to_string())).unwrap();
    }
}

pub(crate) fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn a_subscriber_gets_old_frames_from_the_log_and_new_ones_as_they_come() {
    let mut desk = Desk::open(config());
    desk.open_session(1);
    decide_all(&mut desk, 1..=10);
    let id = subscribe(&mut desk, Scope::All, &Cursor::beginning()).unwrap();
    assert_eq!(handle(&mut desk, id), numbers(1..=10));
    decide_all(&mut desk, 11..=12);
    assert_eq!(handle(&mut desk, id), numbers(11..=12));
}

#[test]
fn repeated_and_rejected_frames_are_not_given_even_from_the_log() {
    let mut config = config();
    config.checkpoint = CheckpointPolicy { log_bytes: 1, ..config.checkpoint };
    config.retain = Retain { bytes: 1 << 30, ..config.retain };
    let mut desk = Desk::open(config.clone());
    desk.open_session(1);
    decide_all(&mut desk, 1..=3);
    decide_all(&mut desk, 2..=4);
    assert_eq!(desk.decide(frame(1, 1, "other")), Ok(Decision::Reject(Rejection::IdReused)));
    while !desk.jobs.is_empty() {
        desk.store();
    }
    // After a restart nothing of what was skipped is in memory any more.
    let mut desk = desk.restart(config);
    let id = subscribe(&mut desk, Scope::All, &Cursor::beginning()).unwrap();
    assert_eq!(handle(&mut desk, id), numbers(1..=4));
}

#[test]
fn a_stalled_subscriber_holds_nothing_and_goes_on_where_it_was() {
    let mut desk = Desk::open(config());
    desk.open_session(1);
    let id = subscribe(&mut desk, Scope::All, &Cursor::now()).unwrap();
    decide_all(&mut desk, 1..=1);
    assert_eq!(desk.chunks.len(), 1);
    // It is handling the first chunk all the while: 30 MiB go by, more than is kept in memory.
    for serial in 2..=301 {
        let payload = format!("{serial}{}", " ".repeat(100_000));
        desk.decide(Frame { settled: serial, ..frame(1, serial, &payload) }).unwrap();
    }
    assert_eq!(desk.chunks.len(), 1, "one chunk at a time");
    let handled = handle(&mut desk, id);
    let handled: Vec<u64> = handled.iter().map(|line| line.trim().parse().unwrap()).collect();
    assert_eq!(handled, (1..=301).collect::<Vec<_>>());
}

#[test]
fn a_cursor_inside_a_batch_neither_repeats_nor_misses() {
    let mut desk = Desk::open(config());
    desk.open_session(1);
    for serial in 1..=6 {
        desk.propose(frame(1, serial, &serial.to_string()), std::time::Duration::from_secs(1));
    }
    desk.run();
    let third = desk.proposed[2].1.clone().unwrap().accepted().unwrap().position;
    assert_eq!(third.slot, 2, "all six are in one batch");
    let id = subscribe(&mut desk, Scope::All, &Cursor::after([third])).unwrap();
    assert_eq!(handle(&mut desk, id), numbers(4..=6));
}

#[test]
fn a_scope_filters_and_the_cursor_moves_all_the_same() {
    let mut desk = Desk::open(config());
    desk.open_session(1);
    let other = ShardKey::new("else", "where").unwrap();
    for serial in 1..=6 {
        let shard = if serial % 2 == 0 { other.clone() } else { shard() };
        let payload = serial.to_string();
        desk.decide(Frame { shard, ..frame(1, serial, &payload) }).unwrap();
    }
    for (scope, wanted) in [
        (Scope::Shard(other.clone()), vec!["2", "4", "6"]),
        (Scope::Org("org".into()), vec!["1", "3", "5"]),
        (Scope::Org("nobody".into()), vec![]),
        (Scope::Group(GroupId::new(1)), vec![]),
    ] {
        let id = subscribe(&mut desk, scope, &Cursor::beginning()).unwrap();
        let reached = desk.chunks.last().expect("a chunk").reached;
        assert_eq!(handle(&mut desk, id), wanted);
        assert!(reached.index > 1);
        desk.core.unsubscribe(id);
    }
}

#[test]
fn what_is_gone_or_not_there_yet_is_said() {
    let mut config = config();
    config.checkpoint = CheckpointPolicy { log_bytes: 1 << 20, ..config.checkpoint };
    config.retain = Retain { bytes: 0, ..config.retain };
    let mut desk = Desk::open(config);
    desk.open_session(1);
    let payload = "x".repeat(500 << 10);
    for serial in 1..=10 {
        desk.decide(Frame { settled: serial, ..frame(1, serial, &payload) }).unwrap();
        while !desk.jobs.is_empty() {
            desk.store();
        }
    }
    let gone = subscribe(&mut desk, Scope::All, &Cursor::beginning()).unwrap_err();
    let SubscribeError::Compacted { oldest, snapshot: Some(snapshot) } = gone else {
        panic!("{gone}");
    };
    assert_eq!(oldest.index, desk.first);
    assert_eq!(snapshot.index, desk.stored.as_ref().unwrap().index);
    let id = subscribe(&mut desk, Scope::All, &Cursor::after([snapshot])).unwrap();
    assert_eq!(handle(&mut desk, id).len() as u64, 11 - snapshot.index);
    let ahead = Position { index: 99, ..snapshot };
    let error = subscribe(&mut desk, Scope::All, &Cursor::after([ahead])).unwrap_err();
    assert!(matches!(error, SubscribeError::Ahead { .. }), "{error}");
}

/// A desk whose checkpoints free all of the log that they can, after a frame that was rejected and one that repeats another.
fn trimming(large: u64) -> (CoreConfig, Desk) {
    let mut config = config();
    config.checkpoint = CheckpointPolicy { log_bytes: 1 << 20, ..config.checkpoint };
    config.retain = Retain { bytes: 0, ..config.retain };
    let mut desk = Desk::open(config.clone());
    desk.open_session(1);
    desk.decide(frame(1, 1, "1")).unwrap();
    desk.decide(frame(1, 1, "1")).unwrap();
    assert_eq!(desk.decide(frame(1, 1, "other")), Ok(Decision::Reject(Rejection::IdReused)));
    let payload = "x".repeat(500 << 10);
    for serial in 2..2 + large {
        desk.decide(Frame { settled: serial, ..frame(1, serial, &payload) }).unwrap();
    }
    (config, desk)
}

#[test]
fn what_was_not_accepted_is_known_until_the_log_is_durably_without_it() {
    let (config, mut desk) = trimming(4);
    // The log is told to forget, and the next checkpoint is stored, before that is durable.
    let job = desk.jobs.remove(0);
    let index = job.index;
    desk.stored.get_or_insert_default().write(job);
    desk.core.checkpointed(desk.now, index, &mut desk.effects);
    desk.turn();
    assert!(desk.pending.iter().any(|write| matches!(write.record, Record::Trim { .. })));
    desk.now += config.checkpoint.interval;
    desk.turn();
    let job = desk.jobs.pop().expect("a checkpoint is due");
    desk.stored.get_or_insert_default().write(job);
    let mut desk = desk.restart(config);
    assert_eq!(desk.core.status().log_first, 1);
    let id = subscribe(&mut desk, Scope::All, &Cursor::beginning()).unwrap();
    let given = handle(&mut desk, id);
    let small: Vec<_> = given.iter().filter(|payload| payload.len() < 10).collect();
    assert_eq!(small, ["1"]);
}

#[test]
fn what_was_read_of_the_log_before_it_was_trimmed_is_not_given_after_that() {
    let (_, mut desk) = trimming(3);
    let who = desk.number();
    desk.core.subscribe(Scope::All, &Cursor::beginning(), who, &mut desk.effects);
    while desk.core.turn(desk.now, &mut desk.effects) {}
    let fetch = desk.effects.fetches.pop().expect("the log is read");
    let read = desk.entries.iter().filter(|entry| fetch.range.contains(&entry.index)).take(4);
    let read = read.map(|entry| (entry.clone(), Bytes::new())).collect();
    desk.store();
    assert!(desk.first > fetch.range.start);
    desk.core.fetched(fetch.reader, Fetched::Entries(read), &mut desk.effects);
    let over = desk.effects.over.pop();
    assert!(matches!(over, Some((_, SubscriptionOver::Compacted { .. }))), "{over:?}");
    assert!(desk.effects.chunks.is_empty());
}
