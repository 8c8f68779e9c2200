//! Read barriers, and what became of a frame.

use std::time::Duration;

use quorate_replicator::*;

use crate::desk::*;

fn read(desk: &mut Desk, level: Consistency, within_ms: u64) -> u64 {
    let who = desk.number();
    let deadline = desk.now + Duration::from_millis(within_ms);
    desk.core.read(desk.now, level, deadline, who, &mut desk.effects);
    desk.turn();
    who
}

#[test]
fn a_barrier_passes_when_everything_decided_is_applied() {
    let mut desk = Desk::open(config());
    let idle = read(&mut desk, Consistency::Linearizable, 100);
    assert_eq!(desk.reads, [(idle, Ok(desk.core.position()))]);
    desk.open_session(1);
    let after = read(&mut desk, Consistency::Linearizable, 100);
    let reached = desk.reads.pop().unwrap();
    assert_eq!((reached.0, reached.1.unwrap().index), (after, 1));
}

#[test]
fn local_and_fresh_enough_reads_ask_nobody() {
    let mut desk = Desk::open(config());
    read(&mut desk, Consistency::Local, 0);
    read(&mut desk, Consistency::Linearizable, 100);
    desk.pass(50);
    read(&mut desk, Consistency::Bounded(Duration::from_millis(50)), 0);
    assert_eq!(desk.reads.len(), 3);
}

#[test]
fn the_decision_of_a_frame_can_be_asked_for() {
    let mut desk = Desk::open(config());
    desk.open_session(1);
    let made = desk.decide(frame(1, 1, "a")).unwrap();
    desk.decide(Frame { settled: 3, ..frame(1, 3, "c") }).unwrap();
    let mut ask = |number, serial| {
        let who = desk.number();
        let id = FrameId { session: session(number), serial };
        desk.core.decision(id, desk.now + Duration::from_secs(1), who, &mut desk.effects);
        desk.run();
        desk.decisions.pop().expect("an answer").1
    };
    assert_eq!(ask(1, 1), Err(ReadError::Forgotten), "it was settled");
    assert!(matches!(ask(1, 3), Ok(Decision::Accept(_))));
    assert_eq!(ask(1, 4), Ok(Decision::Undecided));
    assert_eq!(ask(2, 1), Err(ReadError::Forgotten));
    assert!(matches!(ask(1, FrameId::OPEN), Ok(Decision::Accept(_))));
    assert!(matches!(made, Decision::Accept(_)));
}
