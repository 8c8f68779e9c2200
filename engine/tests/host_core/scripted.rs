//! Engines that do what a test says: proposals that are released, overtaken, or wait for a marker.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_engine::CoreConfig;
use quorate_engine::engine::{
    Admin, Deliver, Delivery, Demand, Engine, EngineDriver, EngineStatus, Input, Now, Opening,
    Output, Placed, ReadAnswer, ReadId, TimerId, Verdict,
};
use quorate_replicator::*;
use quorate_storage::{Body, Entry, Tag};

use crate::desk::*;

/// What a test tells its engine, and what the engine has seen.
#[derive(Debug, Default)]
pub(crate) struct Script {
    /// Whether batches are wanted.
    pub(crate) wants: bool,
    /// Who proposes, if this node does not.
    pub(crate) led_by: Option<NodeId>,
    /// Who may propose beside it.
    pub(crate) witnesses: Vec<NodeId>,
    /// What the members have agreed on.
    pub(crate) drift: Option<Duration>,
    /// Ask about this candidate at the next settle.
    pub(crate) candidate: Option<Entry>,
    /// Tell the host at the next settle that it is this late.
    pub(crate) log_time: Option<LogTime>,
    /// What the host said about candidates, and whether it was settled since.
    pub(crate) checked: Vec<Verdict>,
    pub(crate) settled_since: bool,
    /// Operators' wishes that came, and answers to give at the next settle.
    pub(crate) wishes: Vec<(u64, Admin)>,
    pub(crate) granted: Vec<(u64, Result<(), AdminError>)>,
    /// Deliver these at the next settle.
    deliver: Vec<Entry>,
    /// Release these at the next settle.
    release: Vec<Placed>,
    read_answer: Option<ReadAnswer>,
    pub(crate) proposed: Vec<Entry>,
    /// The last delivered index.
    delivered: u64,
    asked: Vec<ReadId>,
    pub(crate) waited: u32,
    /// At the next timer.
    panics: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Scripted(Arc<Mutex<Script>>);

#[derive(Debug)]
struct ScriptedEngine(Scripted, u64);

impl EngineDriver for Scripted {
    const NAME: &'static str = "scripted";
    type Config = ();

    fn open(&self, (): &(), _: Opening, _: &mut Output) -> Result<Box<dyn Engine>, String> {
        Ok(Box::new(ScriptedEngine(self.clone(), 0)))
    }
}

fn tag(number: u64) -> Tag {
    Tag([u8::try_from(number).unwrap(); 32])
}

impl Engine for ScriptedEngine {
    fn step(&mut self, _: Now, input: Input, out: &mut Output) {
        let mut script = self.0.0.lock().unwrap();
        match input {
            Input::Read(id) => {
                script.asked.push(id);
                out.reads.extend(script.read_answer.map(|answer| (id, answer)));
            }
            Input::Waiting => script.waited += 1,
            Input::Checked { verdict, .. } => {
                script.checked.push(verdict);
                script.settled_since = false;
            }
            Input::Admin { ticket, admin } => script.wishes.push((ticket, admin)),
            Input::Timer(_) if script.panics => {
                // Without the lock, which the test still needs.
                drop(script);
                panic!("the script says so");
            }
            _ => {}
        }
    }

    fn propose(&mut self, _: Now, body: Body, _: &mut Output) -> Result<Placed, Body> {
        let mut script = self.0.0.lock().unwrap();
        script.wants = false;
        self.1 += 1;
        let index = script.delivered + 1;
        let entry = Entry { index, tag: tag(self.1), head: Bytes::new(), body };
        script.proposed.push(entry.clone());
        Ok(Placed { index, tag: entry.tag })
    }

    fn log_time_drift_max(&self) -> Option<Duration> {
        self.0.0.lock().unwrap().drift
    }

    fn settle(&mut self, _: Now, out: &mut Output) {
        let mut script = self.0.0.lock().unwrap();
        script.settled_since = true;
        out.checks.extend(script.candidate.take().map(|entry| (1, entry)));
        out.log_time = script.log_time.take();
        out.released.append(&mut script.release);
        out.admin.append(&mut script.granted);
        script.delivered = script.deliver.last().map_or(script.delivered, |last| last.index);
        out.deliveries.extend(script.deliver.drain(..).map(|entry| Delivery {
            after: 0,
            what: Deliver::Batch { entry, mark: Bytes::new(), proof: Bytes::new() },
        }));
    }

    fn demand(&self) -> Demand {
        let script = self.0.0.lock().unwrap();
        match script.led_by {
            Some(leader) => {
                Demand::At(std::iter::once(leader).chain(script.witnesses.clone()).collect())
            }
            None if script.wants => Demand::Here { batches: 1, members: false },
            None => Demand::Nowhere,
        }
    }

    fn status(&self) -> EngineStatus {
        let led_by = self.0.0.lock().unwrap().led_by;
        let proposer = led_by.or(Some(NodeId::new(1)));
        EngineStatus { term: 1, proposer, ..EngineStatus::new(Role::Leader) }
    }
}

pub(crate) fn open() -> (Scripted, Desk) {
    open_with(config())
}

pub(crate) fn open_with(config: CoreConfig) -> (Scripted, Desk) {
    let script = Scripted::default();
    let desk = Desk::with(config, &script, &(), Vec::new(), 1, None);
    (script, desk)
}

impl Script {
    /// Releases a placed batch at the next settle.
    pub(crate) fn release(&mut self, placed: Placed) {
        self.release.push(placed);
    }
}

impl Scripted {
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    /// The engine takes one batch.
    pub(crate) fn take(&self, desk: &mut Desk) -> Entry {
        self.with(|script| script.wants = true);
        desk.turn();
        self.with(|script| script.proposed.last().cloned()).expect("a batch")
    }

    pub(crate) fn deliver(&self, desk: &mut Desk, entry: Entry) {
        self.with(|script| script.deliver.push(entry));
        desk.turn();
    }
}

pub(crate) const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_released_frame_is_offered_again_and_answered_once_when_both_batches_are_decided() {
    let (script, mut desk) = open();
    desk.propose(Frame::open_session(session(1), shard()), LONG);
    let call = desk.propose(frame(1, 1, "a"), LONG);
    let first = script.take(&mut desk);
    let placed = Placed { index: 1, tag: first.tag };
    script.with(|script| script.release.push(placed));
    desk.turn();
    assert_eq!(desk.core.status().in_flight, 2);
    let second = script.take(&mut desk);
    assert_ne!(first.tag, second.tag);
    // The first one wins after all; the second comes later, and changes nothing.
    script.deliver(&mut desk, first);
    let answers: Vec<_> = desk.proposed.drain(..).collect();
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[1].0, call);
    let commit = answers[1].1.clone().unwrap().accepted().unwrap();
    assert_eq!((commit.position.index, commit.reply), (1, Reply::Known("1".into())));
    script.deliver(&mut desk, Entry { index: 2, ..second });
    assert!(desk.proposed.is_empty());
    assert_eq!(desk.core.status().accepted, 1);
    assert_eq!(desk.core.status().in_flight, 0);
}

#[test]
fn a_proposal_that_another_one_overtook_is_offered_again() {
    let (script, mut desk) = open();
    let call = desk.propose(Frame::open_session(session(1), shard()), LONG);
    let mine = script.take(&mut desk);
    // Another node's batch is decided at the same index.
    script.deliver(&mut desk, Entry { tag: tag(200), body: Body::Empty, ..mine.clone() });
    assert!(desk.proposed.is_empty());
    let again = script.take(&mut desk);
    script.deliver(&mut desk, again);
    assert_eq!(desk.proposed.len(), 1);
    assert_eq!(desk.proposed[0].0, call);
}

#[test]
fn what_was_decided_elsewhere_is_not_offered_again() {
    let (script, mut desk) = open();
    desk.propose(Frame::open_session(session(1), shard()), LONG);
    let mine = script.take(&mut desk);
    script.with(|script| script.release.push(Placed { index: 1, tag: mine.tag }));
    desk.turn();
    // It waits to be offered again when its first batch is delivered.
    script.deliver(&mut desk, mine);
    assert_eq!(desk.proposed.len(), 1);
    script.with(|script| script.wants = true);
    desk.turn();
    assert_eq!(script.with(|script| script.proposed.len()), 1, "it was offered for nothing");
    assert_eq!(desk.core.status().in_flight, 0);
}

#[test]
fn reads_share_one_question_and_later_ones_the_next() {
    let (script, mut desk) = open();
    let read = |desk: &mut Desk, who| {
        desk.core.read(
            desk.now,
            Consistency::Linearizable,
            desk.now + LONG,
            who,
            &mut desk.effects,
        );
    };
    read(&mut desk, 1);
    read(&mut desk, 2);
    desk.turn();
    read(&mut desk, 3);
    desk.turn();
    assert_eq!(script.with(|script| script.asked.len()), 1, "one question at a time");
    // No answer ever comes: it is put again under another id, for all.
    script.with(|script| script.read_answer = Some(ReadAnswer::At(0)));
    desk.pass(1000);
    desk.turn();
    assert_eq!(desk.reads.len(), 3);
    let asked = script.with(|script| script.asked.clone());
    assert_ne!(asked[0], asked[1]);
}

#[test]
fn reads_through_the_log_wait_for_a_marker_that_began_after_them() {
    let (script, mut desk) = open();
    script.with(|script| script.read_answer = Some(ReadAnswer::ThroughLog));
    desk.core.read(desk.now, Consistency::Linearizable, desk.now + LONG, 1, &mut desk.effects);
    desk.turn();
    let marker = script.take(&mut desk);
    assert!(desk.reads.is_empty());
    // The marker is overtaken: another one is needed.
    script.deliver(&mut desk, Entry { tag: tag(200), body: Body::Empty, ..marker });
    assert!(desk.reads.is_empty());
    let marker = script.take(&mut desk);
    script.deliver(&mut desk, marker);
    assert!(matches!(desk.reads[..], [(1, Ok(Position { index: 2, .. }))]));
}

#[test]
fn a_read_nobody_confirms_ends_at_its_deadline() {
    let (_script, mut desk) = open();
    let deadline = desk.now + Duration::from_millis(100);
    desk.core.read(desk.now, Consistency::Linearizable, deadline, 1, &mut desk.effects);
    let bound = Duration::from_millis(10);
    desk.core.read(desk.now, Consistency::Bounded(bound), deadline, 2, &mut desk.effects);
    desk.turn();
    desk.pass(100);
    desk.turn();
    desk.reads.sort_by_key(|(who, _)| *who);
    assert_eq!(desk.reads, [(1, Err(ReadError::Timeout)), (2, Err(ReadError::TooStale { bound }))]);
}

#[test]
fn the_engine_is_told_of_frames_that_nobody_places() {
    let (script, mut desk) = open();
    desk.propose(frame(1, 1, "a"), LONG);
    desk.turn();
    assert_eq!(script.with(|script| script.waited), 0);
    let end = desk.now + Duration::from_millis(300);
    while desk.now < end {
        let wake = desk.core.wake_at(desk.now).expect("it must wake for the frame");
        desk.now = wake;
        desk.turn();
    }
    assert_eq!(script.with(|script| script.waited), 3);
}

#[test]
fn a_panic_of_the_engine_stops_the_group_and_nobody_is_left_waiting() {
    let (script, mut desk) = open();
    let call = desk.propose(frame(1, 1, "a"), LONG);
    script.with(|script| script.panics = true);
    desk.core.input(Input::Timer(TimerId(1)));
    desk.turn();
    let (answered, answer) = desk.proposed.pop().expect("an answer");
    assert_eq!(answered, call);
    assert!(answer.unwrap_err().to_string().contains("the script says so"));
    assert!(desk.core.faulted().is_some());
}

#[test]
fn a_node_that_may_not_propose_sleeps_although_something_is_due() {
    let (script, mut desk) = open();
    desk.propose(Frame::open_session(session(1), shard()), LONG);
    desk.propose(frame(1, 1, "alarm"), LONG);
    let batch = script.take(&mut desk);
    script.deliver(&mut desk, batch);
    desk.pass(1000);
    desk.turn();
    let wake = desk.core.wake_at(desk.now);
    assert!(wake.is_none_or(|wake| wake > desk.now), "it would spin: {wake:?} at {:?}", desk.now);
    script.with(|script| script.wants = true);
    assert_eq!(desk.core.wake_at(desk.now), Some(desk.now));
}
