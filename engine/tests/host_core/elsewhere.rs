//! Frames and operators' wishes that belong to another node, on both sides.

use std::time::Duration;

use quorate_engine::engine::{Admin, Placed, Verdict};
use quorate_engine::{Forward, HashedFrame, Packet, Refusal, Refused};
use quorate_replicator::*;
use quorate_storage::{Body, Entry, Tag};

use crate::desk::*;
use crate::scripted::*;

const TWO: NodeId = NodeId::new(2);
const THREE: NodeId = NodeId::new(3);

/// A node that n2 leads.
fn led() -> (Scripted, Desk) {
    let (script, mut desk) = open();
    script.with(|script| script.led_by = Some(TWO));
    desk.turn();
    desk.sent.clear();
    (script, desk)
}

impl Desk {
    /// What was forwarded since the last call: to whom, and what.
    fn forwarded(&mut self) -> Vec<(NodeId, Forward)> {
        let mut forwarded = Vec::new();
        for sent in self.sent.drain(..) {
            if let Packet::Forward(forward) = sent.packet {
                forwarded.extend(sent.to.into_iter().map(|to| (to, forward.clone())));
            }
        }
        forwarded
    }

    fn packet(&mut self, from: NodeId, packet: Packet) {
        self.core.packet(self.now, from, packet, &mut self.effects);
        self.turn();
    }

    fn forward(&mut self, from: NodeId, stream: u64, number: u64, batch: Bytes) {
        let within = Duration::from_secs(2);
        self.packet(from, Packet::Forward(Forward { stream, number, within, batch }));
    }

    /// The refusals that were sent since the last call.
    fn refusals(&mut self) -> Vec<Refusal> {
        let sent = self.sent.drain(..);
        sent.filter_map(|sent| match sent.packet {
            Packet::Refused(refused) => Some(refused.why),
            _ => None,
        })
        .collect()
    }
}

/// The entry that a leader makes of forwarded frames.
fn entry(index: u64, forward: &Forward) -> Entry {
    let body = Body::Frames(forward.batch.clone());
    Entry { index, tag: Tag([9; 32]), head: Bytes::new(), body }
}

/// Frames as another node forwards them.
fn batch(frames: &[Frame]) -> Bytes {
    let (_, mut desk) = led();
    for frame in frames {
        desk.propose(frame.clone(), LONG);
    }
    desk.turn();
    desk.forwarded().remove(0).1.batch
}

fn opening() -> Frame {
    Frame::open_session(session(1), shard())
}

#[test]
fn a_forwarded_frame_is_answered_when_it_is_applied_here() {
    let (script, mut desk) = led();
    let opened = desk.propose(opening(), LONG);
    let call = desk.propose(frame(1, 1, "a"), LONG);
    desk.turn();
    let forwarded = desk.forwarded();
    assert_eq!(forwarded.len(), 1, "what waits goes together");
    assert_eq!(forwarded[0].0, TWO);
    assert!(desk.proposed.is_empty());
    script.deliver(&mut desk, entry(1, &forwarded[0].1));
    assert_eq!(desk.proposed.iter().map(|(who, _)| *who).collect::<Vec<_>>(), [opened, call]);
    let commit = desk.proposed[1].1.clone().unwrap().accepted().unwrap();
    assert_eq!((commit.position.index, commit.position.slot), (1, 1));
    assert_eq!(commit.reply, Reply::Known("1".into()));
    assert_eq!(desk.core.status().in_flight, 0);
}

#[test]
fn a_new_leader_is_given_everything_that_is_open_in_its_order() {
    let (script, mut desk) = led();
    for serial in 1..=3 {
        desk.propose(frame(1, serial, "x"), LONG);
        desk.turn();
    }
    let before = desk.forwarded();
    assert_eq!(before.iter().map(|(_, forward)| forward.number).collect::<Vec<_>>(), [0, 1, 2]);
    script.with(|script| script.led_by = Some(THREE));
    desk.turn();
    let after = desk.forwarded();
    assert_eq!(after.len(), 1, "it goes together");
    assert_eq!((after[0].0, after[0].1.number), (THREE, 0));
    assert_ne!(after[0].1.stream, before[0].1.stream);
    // And when this node leads itself, it proposes them.
    script.with(|script| script.led_by = None);
    let Body::Frames(own) = script.take(&mut desk).body else { panic!("frames") };
    let decode = |bytes: &Bytes| quorate_engine::DecodedBatch::decode(bytes).unwrap().frames;
    assert_eq!(decode(&own), decode(&after[0].1.batch));
}

#[test]
fn what_a_session_has_no_room_for_is_not_forwarded() {
    let mut config = config();
    config.sessions.unsettled_max = 1;
    let (script, mut desk) = open_with(config);
    script.with(|script| script.led_by = Some(TWO));
    desk.propose(opening(), LONG);
    desk.propose(frame(1, 1, "a"), LONG);
    desk.turn();
    let forwarded = desk.forwarded().remove(0).1;
    script.deliver(&mut desk, entry(1, &forwarded));
    let call = desk.propose(Frame { settled: 1, ..frame(1, 2, "b") }, LONG);
    desk.turn();
    let full = ProposeError::Overloaded { resource: Resource::Unsettled, limit: 1 };
    assert_eq!(desk.proposed.pop(), Some((call, Err(full))));
    assert!(desk.forwarded().is_empty());
    // What settles the one before has room.
    desk.propose(Frame { settled: 2, ..frame(1, 2, "b") }, LONG);
    desk.turn();
    assert_eq!(desk.forwarded().len(), 1);
}

#[test]
fn that_one_copy_finds_no_room_is_no_refusal() {
    let mut config = config();
    config.sessions.unsettled_max = 1;
    let (script, mut desk) = open_with(config);
    script.with(|script| script.led_by = Some(TWO));
    desk.propose(opening(), LONG);
    desk.propose(frame(1, 1, "a"), LONG);
    let call = desk.propose(Frame { settled: 1, ..frame(1, 2, "b") }, LONG);
    desk.turn();
    let first = desk.forwarded().remove(0).1;
    script.with(|script| script.led_by = Some(THREE));
    desk.turn();
    assert_eq!(desk.forwarded().len(), 1, "the new leader has a copy, too");
    script.deliver(&mut desk, entry(1, &first));
    // The other copy may be decided when there is room.
    let answer = desk.proposed.iter().find(|(who, _)| *who == call).map(|(_, answer)| answer);
    assert_eq!(answer, Some(&Ok(Decision::Timeout)));
}

#[test]
fn what_does_not_move_is_forwarded_again() {
    let (_script, mut desk) = led();
    desk.propose(frame(1, 1, "x"), LONG);
    desk.turn();
    let first = desk.forwarded().remove(0).1;
    desk.pass(999);
    desk.turn();
    assert_eq!(desk.forwarded(), []);
    assert!(desk.core.wake_at(desk.now).unwrap() <= desk.now + Duration::from_millis(1));
    desk.pass(1);
    desk.turn();
    let again = desk.forwarded().remove(0).1;
    assert_eq!((again.number, &again.batch), (0, &first.batch));
    assert_ne!(again.stream, first.stream);
}

#[test]
fn who_may_propose_too_is_given_what_is_not_decided_soon() {
    let (script, mut desk) = led();
    script.with(|script| script.witnesses = vec![THREE, NodeId::new(1)]);
    desk.propose(frame(1, 1, "x"), LONG);
    desk.turn();
    let (to, first) = desk.forwarded().remove(0);
    assert_eq!(to, TWO, "the first alone");
    desk.pass(99);
    desk.turn();
    assert_eq!((desk.forwarded(), script.with(|script| script.waited)), (vec![], 0));
    assert!(desk.core.wake_at(desk.now).unwrap() <= desk.now + Duration::from_millis(1));
    desk.pass(1);
    desk.turn();
    let copies = desk.forwarded();
    let to: Vec<_> = copies.iter().map(|(to, _)| *to).collect();
    assert_eq!(to, [THREE], "all but the first, which has it, and this node");
    let copy = &copies[0].1;
    assert_eq!((copy.number, &copy.batch), (0, &first.batch));
    assert_ne!(copy.stream, first.stream, "the first goes on with its own");
    assert_eq!(script.with(|script| script.waited), 1, "the engine is told");
    desk.pass(800);
    desk.turn();
    assert_eq!(desk.forwarded(), [], "once");
}

#[test]
fn a_copy_is_proposed_when_this_node_is_to_and_not_forwarded() {
    let batch = batch(&[opening()]);
    let (script, mut desk) = led();
    script.with(|script| script.witnesses = vec![THREE, NodeId::new(1)]);
    // Twice, since its node gives it again when nothing moves.
    desk.forward(THREE, 7, 0, batch.clone());
    desk.forward(THREE, 8, 0, batch.clone());
    assert_eq!(desk.refusals(), []);
    desk.pass(999);
    desk.turn();
    assert_eq!(desk.forwarded(), [], "its own node forwards it");
    assert_eq!(script.with(|script| script.waited), 0, "who proposes has it, too");
    assert!(desk.core.wake_at(desk.now).unwrap() <= desk.now + Duration::from_millis(1));
    desk.pass(1);
    desk.turn();
    desk.pass(100);
    desk.turn();
    assert_eq!(script.with(|script| script.waited), 1, "but it waits");
    script.with(|script| script.led_by = None);
    let Body::Frames(own) = script.take(&mut desk).body else { panic!("frames") };
    let decode = |bytes: &Bytes| quorate_engine::DecodedBatch::decode(bytes).unwrap().frames;
    assert_eq!(decode(&own), decode(&batch), "once");
    // What was decided through another batch is not proposed again.
    let (script, mut desk) = led();
    script.with(|script| script.witnesses = vec![NodeId::new(1)]);
    desk.forward(THREE, 7, 0, batch.clone());
    let (index, tag) = (1, Tag([9; 32]));
    let entry = Entry { index, tag, head: Bytes::new(), body: Body::Frames(own) };
    script.deliver(&mut desk, entry);
    assert_eq!(desk.core.status().in_flight, 0);
}

#[test]
fn copies_that_come_again_do_not_change_their_order() {
    let list: Vec<_> = (1..=4).map(|serial| frame(1, serial, "x")).collect();
    let (first, second) = (batch(&list[..2]), batch(&list[2..]));
    // Both parts came at first, or only one of them before the second time.
    for came_both in [true, false] {
        let (script, mut desk) = led();
        script.with(|script| script.witnesses = vec![THREE, NodeId::new(1)]);
        if !came_both {
            desk.forward(THREE, 6, 0, first.clone());
            desk.pass(1000);
        }
        desk.forward(THREE, 7, 0, first.clone());
        desk.pass(50);
        desk.forward(THREE, 7, 1, second.clone());
        // The time that the first part had when it came has passed, and that of the second has not.
        desk.pass(1980);
        desk.turn();
        desk.forward(THREE, 8, 0, first.clone());
        desk.forward(THREE, 8, 1, second.clone());
        script.with(|script| script.led_by = None);
        let Body::Frames(own) = script.take(&mut desk).body else { panic!("frames") };
        assert_eq!(quorate_engine::DecodedBatch::decode(&own).unwrap().frames, list, "{came_both}");
    }
}

/// A batch with this log time, of a proposer whose history has a hash like this.
fn stamped(log_time: u64, witness: u8) -> Body {
    let witness = quorate_engine::Witness { index: 0, history: [witness; 32] };
    let head = quorate_engine::BatchHead { log_time: LogTime::from_ms(log_time), witness };
    let frames = [frame(1, 1, "x")];
    Body::Frames(quorate_engine::BatchEncoder::default().encode(&head, frames.iter()))
}

/// What the host says of a batch.
fn judged(script: &Scripted, desk: &mut Desk, body: Body) -> Option<Verdict> {
    let entry = Entry { index: 1, tag: Tag([1; 32]), head: Bytes::new(), body };
    script.with(|script| script.candidate = Some(entry));
    desk.turn();
    script.with(|script| script.checked.pop())
}

#[test]
fn a_candidate_is_judged_before_the_turn_ends() {
    let (script, mut desk) = led();
    let estimate = desk.core.status().log_time.as_ms();
    for (body, verdict) in [
        (stamped(estimate, 0), Verdict::Valid),
        (stamped(estimate + 400, 0), Verdict::Valid),
        // A proposer that stamps the far future.
        (stamped(estimate + 600, 0), Verdict::Ahead(LogTime::from_ms(estimate + 600))),
        // One whose history is another one, which would stop this node if it were decided.
        (stamped(estimate, 1), Verdict::Invalid),
        // One that does both is refused for what it can never be right in.
        (stamped(estimate + 600, 1), Verdict::Invalid),
        // What nobody could read when it is decided.
        (Body::Frames(Bytes::from_static(b"no batch")), Verdict::Invalid),
        (Body::Empty, Verdict::Valid),
    ] {
        let entry = Entry { index: 1, tag: Tag([1; 32]), head: Bytes::new(), body };
        script.with(|script| script.candidate = Some(entry.clone()));
        desk.turn();
        script.with(|script| {
            assert_eq!(script.checked.pop(), Some(verdict), "{entry:?}");
            assert!(script.settled_since, "what follows from it is of the same turn");
        });
    }
}

#[test]
fn what_the_members_have_agreed_on_takes_the_place_of_what_a_node_is_told() {
    let script = Scripted::default();
    script.with(|script| {
        script.drift = Some(Duration::from_millis(100));
        script.led_by = Some(TWO);
    });
    let mut desk = Desk::with(config(), &script, &(), Vec::new(), 1, None);
    let estimate = desk.core.status().log_time.as_ms();
    let ahead = Verdict::Ahead(LogTime::from_ms(estimate + 400));
    for (by, verdict) in [(90, Verdict::Valid), (400, ahead)] {
        let found = judged(&script, &mut desk, stamped(estimate + by, 0));
        assert_eq!(found, Some(verdict), "{by} ms");
    }
}

#[test]
fn what_others_know_of_log_time_counts_before_the_next_candidate_is_judged() {
    let (script, mut desk) = led();
    let estimate = desk.core.status().log_time.as_ms();
    let late = estimate + 10_000;
    let ahead = Verdict::Ahead(LogTime::from_ms(late));
    assert_eq!(judged(&script, &mut desk, stamped(late, 0)), Some(ahead));
    // Told in the turn in which it is asked again.
    script.with(|script| script.log_time = Some(LogTime::from_ms(late)));
    assert_eq!(judged(&script, &mut desk, stamped(late, 0)), Some(Verdict::Valid));
    // The estimate goes on from there, and never back.
    script.with(|script| script.log_time = Some(LogTime::from_ms(estimate)));
    assert_eq!(judged(&script, &mut desk, stamped(late + 400, 0)), Some(Verdict::Valid));
    let ahead = Verdict::Ahead(LogTime::from_ms(late + 600));
    assert_eq!(judged(&script, &mut desk, stamped(late + 600, 0)), Some(ahead));
    desk.pass(200);
    assert_eq!(judged(&script, &mut desk, stamped(late + 600, 0)), Some(Verdict::Valid));
    // What is applied says how late it is, and no clock does.
    assert_eq!(desk.core.status().log_time, LogTime::from_ms(estimate));
}

#[test]
fn a_forwarded_frame_times_out_and_is_not_forwarded_again() {
    let (_script, mut desk) = led();
    let call = desk.propose(frame(1, 1, "x"), Duration::from_millis(50));
    desk.turn();
    assert_eq!(desk.forwarded().len(), 1);
    desk.pass(50);
    desk.turn();
    assert_eq!(desk.proposed, [(call, Ok(Decision::Timeout))]);
    desk.pass(2000);
    desk.turn();
    assert_eq!(desk.forwarded(), []);
    assert_eq!((desk.core.status().in_flight, desk.core.status().timeouts), (0, 1));
}

#[test]
fn with_forwarding_off_the_leader_is_named() {
    let mut without = config();
    without.forward = false;
    let (script, mut desk) = open_with(without);
    script.with(|script| script.led_by = Some(TWO));
    desk.turn();
    let call = desk.propose(frame(1, 1, "x"), LONG);
    desk.turn();
    assert_eq!(desk.proposed, [(call, Err(ProposeError::NotLeader { leader: Some(TWO) }))]);
    assert_eq!(desk.forwarded(), []);
}

#[test]
fn with_forwarding_off_a_frame_that_was_placed_is_not_refused() {
    let mut without = config();
    without.forward = false;
    let (script, mut desk) = open_with(without);
    desk.propose(opening(), LONG);
    let first = script.take(&mut desk);
    script.with(|script| {
        script.led_by = Some(TWO);
        script.release(Placed { index: first.index, tag: first.tag });
    });
    desk.turn();
    assert_eq!(desk.proposed, [], "it may still be decided");
    script.deliver(&mut desk, first);
    assert!(matches!(desk.proposed[..], [(_, Ok(Decision::Accept(_)))]));
}

#[test]
fn only_the_next_of_a_stream_is_taken() {
    let (script, mut desk) = open();
    desk.turn();
    desk.forward(TWO, 5, 0, batch(&[opening()]));
    desk.forward(TWO, 5, 2, batch(&[frame(1, 3, "third")]));
    assert_eq!(desk.refusals(), [Refusal::Gap]);
    // What followed the gap is refused too, until a stream begins.
    desk.forward(TWO, 5, 1, batch(&[frame(1, 2, "second")]));
    assert_eq!(desk.refusals(), [Refusal::Gap]);
    desk.forward(THREE, 5, 1, batch(&[frame(1, 9, "of another node")]));
    assert_eq!(desk.refusals(), [Refusal::Gap]);
    desk.forward(TWO, 6, 0, batch(&[frame(1, 2, "second"), frame(1, 3, "third")]));
    assert_eq!(desk.refusals(), []);
    let Body::Frames(bytes) = script.take(&mut desk).body else { panic!("frames") };
    let frames = quorate_engine::DecodedBatch::decode(&bytes).unwrap().frames;
    let serials: Vec<_> = frames.iter().map(|frame| frame.id.serial).collect();
    assert_eq!(serials, [0, 2, 3]);
    // Nobody here waits for them.
    assert_eq!(desk.proposed, []);
}

#[test]
fn what_nobody_waits_for_any_more_is_not_proposed() {
    let (script, mut desk) = open();
    desk.turn();
    desk.forward(TWO, 5, 0, batch(&[opening()]));
    assert_eq!(desk.core.status().in_flight, 1);
    desk.pass(2000);
    desk.turn();
    assert_eq!(desk.core.status().in_flight, 0);
    assert_eq!(desk.core.status().timeouts, 0, "a timeout is of this node's own callers");
    script.with(|script| script.wants = true);
    desk.turn();
    assert!(script.with(|script| script.proposed.is_empty()));
}

#[test]
fn a_node_that_does_not_lead_says_who_does() {
    let (_script, mut desk) = led();
    desk.forward(THREE, 1, 0, batch(&[opening()]));
    assert_eq!(desk.refusals(), [Refusal::NotLeader(Some(TWO))]);
    desk.forward(THREE, 1, 0, Bytes::from_static(b"nonsense"));
    assert_eq!(desk.refusals().len(), 1);
}

#[test]
fn a_full_leader_is_told_to_the_caller_unless_the_frame_may_be_decided() {
    let (script, mut desk) = led();
    let call = desk.propose(frame(1, 1, "x"), LONG);
    desk.turn();
    let forward = desk.forwarded().remove(0).1;
    let overloaded = |forward: &Forward| {
        let why = Refusal::Overloaded(Resource::Frames, 7);
        Packet::Refused(Refused { stream: forward.stream, number: forward.number, why })
    };
    // Not by somebody who was not asked, nor of another stream.
    desk.packet(THREE, overloaded(&forward));
    desk.packet(TWO, overloaded(&Forward { stream: forward.stream + 1, ..forward.clone() }));
    assert_eq!(desk.proposed, []);
    desk.packet(TWO, overloaded(&forward));
    let refused = ProposeError::Overloaded { resource: Resource::Frames, limit: 7 };
    assert_eq!(desk.proposed.drain(..).collect::<Vec<_>>(), [(call, Err(refused))]);

    // This one was handed to a leader before: that one may decide it.
    desk.pass(100);
    desk.propose(frame(1, 2, "x"), LONG);
    desk.turn();
    desk.forwarded();
    script.with(|script| script.led_by = Some(THREE));
    desk.turn();
    let forward = desk.forwarded().remove(0).1;
    desk.packet(THREE, overloaded(&forward));
    assert_eq!(desk.proposed, []);
    desk.pass(20);
    desk.turn();
    assert_eq!(desk.forwarded().len(), 1, "it is tried again");
}

#[test]
fn a_wish_goes_to_the_leader_and_its_answer_comes_back() {
    let (script, mut desk) = led();
    let deadline = desk.now + LONG;
    desk.core.admin(Admin::Transfer(THREE), deadline, 77, &mut desk.effects);
    desk.turn();
    let [ref sent] = desk.sent[..] else { panic!("one packet: {:?}", desk.sent) };
    let (to, Packet::Admin { ticket, .. }) = (&sent.to, &sent.packet) else { panic!("{sent:?}") };
    assert_eq!(to[..], [TWO]);
    let ticket = *ticket;
    // It does not lead any more: asked again, of whoever does.
    let not_leader = Err(AdminError::NotLeader { leader: None });
    desk.packet(TWO, Packet::AdminAnswer { ticket, answer: not_leader });
    assert_eq!(desk.administered, []);
    script.with(|script| script.led_by = Some(THREE));
    desk.turn();
    desk.sent.clear();
    desk.pass(50);
    desk.turn();
    assert_eq!(desk.sent[0].to, [THREE]);
    // An answer of somebody else does not count.
    desk.packet(TWO, Packet::AdminAnswer { ticket, answer: Ok(()) });
    assert_eq!(desk.administered, []);
    desk.packet(THREE, Packet::AdminAnswer { ticket, answer: Ok(()) });
    assert_eq!(desk.administered, [(77, Ok(()))]);
}

#[test]
fn an_approval_is_given_at_the_node_that_is_asked_and_by_no_other_node() {
    let approve =
        || Admin::Change(MemberChange::Approve { change: vec![1], new: vec![(THREE, "c".into())] });
    let (script, mut desk) = led();
    let deadline = desk.now + LONG;
    desk.core.admin(approve(), deadline, 77, &mut desk.effects);
    desk.turn();
    assert!(desk.sent.iter().all(|sent| !matches!(sent.packet, Packet::Admin { .. })));
    let wishes = script.with(|script| script.wishes.clone());
    let [(ticket, ref wish)] = wishes[..] else { panic!("{wishes:?}") };
    assert_eq!(*wish, approve());
    script.with(|script| script.granted.push((ticket, Ok(()))));
    desk.turn();
    assert_eq!(desk.administered, [(77, Ok(()))]);

    // The node that proposes is asked by another one: who runs that one does not speak for it.
    let (script, mut desk) = open();
    desk.turn();
    desk.packet(TWO, Packet::Admin { ticket: 5, within: LONG, admin: approve() });
    assert!(script.with(|script| script.wishes.is_empty()));
    let refused = desk.sent.iter().any(|sent| {
        let answer = matches!(
            sent.packet,
            Packet::AdminAnswer { ticket: 5, answer: Err(AdminError::Refused { .. }) }
        );
        answer && sent.to == [TWO]
    });
    assert!(refused, "{:?}", desk.sent);
}

#[test]
fn the_leader_asks_its_engine_once_for_a_repeated_wish() {
    let (script, mut desk) = open();
    desk.turn();
    let admin = Admin::Transfer(THREE);
    for _ in 0..2 {
        let wish = Packet::Admin { ticket: 5, within: LONG, admin: admin.clone() };
        desk.packet(TWO, wish);
    }
    let wishes = script.with(|script| script.wishes.clone());
    assert_eq!(wishes.len(), 1);
    let refused = Err(AdminError::Refused { reason: "no".into() });
    script.with(|script| script.granted.push((wishes[0].0, refused.clone())));
    desk.sent.clear();
    desk.turn();
    assert_eq!(desk.sent[0].to, [TWO]);
    assert_eq!(desk.sent[0].packet, Packet::AdminAnswer { ticket: 5, answer: refused });
}

#[test]
fn a_wish_that_nobody_answers_ends_unfinished() {
    let (_script, mut desk) = led();
    let deadline = desk.now + Duration::from_secs(3);
    desk.core.admin(Admin::Transfer(THREE), deadline, 1, &mut desk.effects);
    desk.turn();
    for _ in 0..3 {
        desk.pass(1000);
        desk.turn();
    }
    let asked = desk.sent.iter().filter(|sent| matches!(sent.packet, Packet::Admin { .. }));
    assert_eq!(asked.count(), 3, "it is sent again while nothing is heard");
    assert!(matches!(desk.administered[..], [(1, Err(AdminError::Unfinished { .. }))]));
}

/// A thread that is woken for what it cannot do would turn without end.
#[test]
fn what_was_forwarded_wakes_nobody_for_nothing() {
    let later = |desk: &mut Desk| {
        desk.pass(5000);
        desk.turn();
        let wake = desk.core.wake_at(desk.now);
        assert!(wake.is_none_or(|at| at > desk.now), "{wake:?} at {:?}", desk.now);
    };
    // It was decided.
    let (script, mut desk) = led();
    desk.propose(opening(), LONG);
    desk.turn();
    let forward = desk.forwarded().remove(0).1;
    script.deliver(&mut desk, entry(1, &forward));
    later(&mut desk);
    // Nobody leads who could be sent it again.
    desk.propose(frame(1, 1, "x"), LONG);
    desk.turn();
    script.with(|script| script.led_by = None);
    later(&mut desk);
    // And it goes on when somebody does.
    script.with(|script| script.led_by = Some(THREE));
    desk.sent.clear();
    desk.turn();
    assert_eq!(desk.forwarded().len(), 1);
    later(&mut desk);
}

/// Frames of a session as one signed run, from this serial on. What a signature is good for, no core asks.
fn run(serials: std::ops::Range<u64>) -> Vec<Frame> {
    let mut frames: Vec<_> = serials.map(|serial| frame(1, serial, "x")).collect();
    let (key, signature) = (Bytes::from_static(b"key"), Bytes::from_static(b"signature"));
    let count = frames.len() as u32;
    frames[0].signed = Some(Box::new(CallSignature { frames: count, key, signature }));
    frames
}

fn frames_of(forward: &Forward) -> Vec<Frame> {
    quorate_engine::DecodedBatch::decode(&forward.batch).unwrap().frames
}

impl Desk {
    fn propose_run(&mut self, frames: &[Frame]) -> u64 {
        let number = self.number();
        let frames = frames.iter().cloned().map(HashedFrame::from).collect();
        self.core.propose_many(frames, self.now + LONG, number, &mut self.effects);
        number
    }
}

#[test]
fn what_was_signed_together_stays_together_though_a_part_of_it_was_decided() {
    let (script, mut desk) = led();
    desk.propose(opening(), LONG);
    let signed = run(1..4);
    let call = desk.propose_run(&signed);
    desk.turn();
    let first = desk.forwarded().remove(0).1;
    assert_eq!(frames_of(&first)[1..], signed);
    // Somebody proposes one of them again, by itself, and that is decided first.
    let alone = Forward { batch: batch(&[opening(), frame(1, 2, "x")]), ..first };
    script.deliver(&mut desk, entry(1, &alone));
    assert_eq!(desk.proposed_many, []);
    for (leader, index) in [(THREE, 2), (TWO, 3)] {
        script.with(|script| script.led_by = Some(leader));
        desk.turn();
        let again = desk.forwarded().remove(0).1;
        assert_eq!(frames_of(&again), signed, "to {leader}");
        // Another node takes it as a copy, or to propose it, as a whole.
        let (other_script, mut other) = open();
        other.turn();
        other.forward(TWO, 1, 0, again.batch.clone());
        let Body::Frames(own) = other_script.take(&mut other).body else { panic!("frames") };
        assert_eq!(frames_of(&Forward { batch: own, ..again.clone() }), signed);
        if index == 3 {
            script.deliver(&mut desk, entry(2, &again));
        }
    }
    let [(answered, Ok(decisions))] = &desk.proposed_many[..] else {
        panic!("{:?}", desk.proposed_many)
    };
    assert_eq!(*answered, call);
    let places: Vec<_> = decisions
        .iter()
        .map(|decision| decision.clone().accepted().unwrap().position)
        .map(|position| (position.index, position.slot))
        .collect();
    assert_eq!(places, [(2, 0), (1, 1), (2, 2)]);
    assert_eq!(desk.core.status().in_flight, 0);
}

#[test]
fn what_was_signed_together_is_proposed_together() {
    let (_, mut desk) = open();
    desk.turn();
    let invalid = |desk: &mut Desk, frames: &[Frame]| {
        desk.propose_run(frames);
        desk.turn();
        match desk.proposed_many.pop() {
            Some((_, Err(ProposeError::Invalid { reason }))) => reason,
            other => panic!("{other:?}"),
        }
    };
    let signed = run(1..4);
    let reason = invalid(&mut desk, &signed[..2]);
    assert!(reason.contains("is for 3 frames, and there are only 2"), "{reason}");
    let mut within = signed.clone();
    within[1].signed = signed[0].signed.clone();
    let reason = invalid(&mut desk, &[&within[..], &run(4..9)].concat());
    assert!(reason.contains("among the frames that another one is for"), "{reason}");
    let reason = invalid(&mut desk, &run(1..limits::RUN_FRAMES_MAX as u64 + 2));
    assert!(reason.contains("one may be for 1024"), "{reason}");
    let mut long = signed.clone();
    let key = vec![0; limits::RUN_SIGNATURE_BYTES_MAX];
    long[0].signed.as_mut().unwrap().key = key.into();
    let reason = invalid(&mut desk, &long);
    assert!(reason.contains("have 8201 bytes"), "{reason}");
    // Nor is it taken from another node.
    desk.sent.clear();
    desk.forward(TWO, 1, 0, cut(&signed));
    assert_eq!(desk.refusals(), [], "it is whole");
    for frames in [&signed[..2], &long] {
        desk.forward(TWO, 1, 1, cut(frames));
        assert_eq!(desk.refusals(), [Refusal::Gap]);
    }
}

/// Frames as only a node that is not right forwards them.
fn cut(frames: &[Frame]) -> Bytes {
    let witness = quorate_engine::Witness { index: 0, history: [0; 32] };
    let head = quorate_engine::BatchHead { log_time: LogTime::ZERO, witness };
    quorate_engine::BatchEncoder::default().encode(&head, frames.iter())
}
