//! Bytes that nobody meant: they are refused, or they are what they say, and nothing panics.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use quorate_engine::engine::{Input, Message};
use quorate_replicator::NodeId;

use crate::codec::{Malformed, Reader, Writer};
use crate::core::{CoreMessage, read_message, write_message};
use crate::hello::{Envelope, Head, Hello, You};
use crate::members::{Change, ChangeEntry, Intent, Mark, Members};
use crate::stored::{Identity, Stored};
use crate::transcripts::Group;

/// What is read is what was written, every shorter or longer form is refused, and what is read of a changed form is exactly
/// what the changed form says.
fn judge<T>(
    written: &[u8],
    read: impl Fn(&[u8]) -> Result<T, Malformed>,
    write: impl Fn(&T) -> Vec<u8>,
) {
    let value = read(written).expect("what was written is read");
    assert_eq!(write(&value), written, "and is written the same again");
    for end in 0..written.len() {
        assert!(read(&written[..end]).is_err(), "cut at {end}: {written:?}");
    }
    let longer = [written, &[0]].concat();
    assert!(read(&longer).is_err(), "one byte too many: {written:?}");
    for bit in 0..written.len() * 8 {
        let mut changed = written.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        if let Ok(value) = read(&changed) {
            assert_eq!(write(&value), changed, "bit {bit} of {written:?}");
        }
    }
}

fn members() -> Members {
    let founders: Vec<_> = (1..=3).map(|node| (NodeId::new(node), [node as u8; 16])).collect();
    let mut members = Members::founding(&founders);
    let address = "there".to_owned();
    let (raft, node, incarnation, intent) = (4, NodeId::new(9), [9; 16], Intent::Replace(2));
    let changes = [
        Change::AddLearner { raft, node, incarnation, address, intent },
        Change::Swap { new: 4, old: 2 },
        Change::Leave,
        Change::Remove { raft: 3 },
    ];
    for (index, change) in (1..).zip(changes) {
        let entry = ChangeEntry { after: index - 1, change };
        let written = entry.encode();
        judge(&written, ChangeEntry::decode, |entry| entry.encode().to_vec());
        assert!(members.apply(index, &entry));
    }
    members
}

#[test]
fn marks_and_changes_are_read_as_they_are_written() {
    let mark = Mark { term: 7, members: members() };
    judge(&mark.encode(), Mark::decode, |mark| mark.encode().to_vec());
}

#[test]
fn states_are_read_as_they_are_written() {
    let founding = vec![(NodeId::new(1), [1; 16]), (NodeId::new(5), [5; 16])];
    let identity = Some(Identity { raft: 2, active: true, founding });
    for identity in [None, identity] {
        let stored = Stored { term: 3, vote: 1, commit: 9, identity };
        judge(&stored.encode(), Stored::decode, |stored| stored.encode().to_vec());
    }
}

#[test]
fn hellos_are_read_as_they_are_written() {
    for you in [You::Unknown, You::Member([3; 16]), You::Stranger, You::Removed(8)] {
        let hello = Hello {
            incarnation: [1; 16],
            founders: vec![NodeId::new(1), NodeId::new(2)],
            stored: vec![(NodeId::new(1), [1; 16])],
            active: true,
            raft: 1,
            asks: false,
            you,
        };
        let read = |bytes: &[u8]| match Head::read(bytes)? {
            Head::Hello(hello) => Ok(hello),
            _ => Err(Malformed("something else")),
        };
        judge(&hello.encode(), read, |hello| hello.encode().to_vec());
    }
}

/// A message of a random kind, with small numbers, so that they often mean something.
fn any_message(random: &mut fastrand::Rng, writer: &mut Writer) {
    let kind = random.u8(1..=11);
    writer.u8(kind);
    let mut number = || random.u64(..6);
    match kind {
        1 => {
            writer.u64(number()).u64(number()).u64(number()).u64(number());
            let count = number() as usize % 3;
            writer.count(count);
            for _ in 0..count {
                writer.u64(number()).u8(number() as u8 % 3);
            }
        }
        2 => {
            writer.u64(number()).u64(number()).u64(number());
            writer.bool(number() < 3).u64(number()).u64(number());
        }
        3 | 5 => {
            (0..5).for_each(|_| _ = writer.u64(number()));
            writer.bool(number() < 3);
        }
        4 | 6 => {
            writer.u64(number()).bool(number() < 3).u64(number()).u64(number());
        }
        7 | 8 => {
            writer.u64(number()).u64(number()).bytes(b"name");
        }
        9 => _ = writer.bytes(b"name"),
        10 => _ = writer.u64(number()).u64(number()).bytes(b"name"),
        _ => _ = writer.u64(number()),
    }
}

#[test]
fn messages_of_the_core_are_read_as_they_are_written() {
    let bodies: Vec<Bytes> = vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")];
    for seed in 0..2_000 {
        let mut writer = Writer::default();
        any_message(&mut fastrand::Rng::with_seed(seed), &mut writer);
        let written = writer.finish();
        let read = |bytes: &[u8]| -> Result<CoreMessage, Malformed> {
            let mut reader = Reader::new(bytes);
            let message = read_message(&mut reader, &mut bodies.iter().cloned(), 1, 2)?;
            reader.finish()?;
            Ok(message)
        };
        if read(&written).is_ok() {
            judge(&written, read, |message| {
                let mut writer = Writer::default();
                assert!(write_message(message, &mut writer, &mut Vec::new()));
                writer.finish().to_vec()
            });
        }
    }
}

/// Well-formed messages between members that no member would have sent now: the engine goes on, or says that it stops; it does
/// not panic.
#[test]
fn messages_that_make_no_sense_do_not_panic() {
    for seed in 0..400 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut group = Group::default();
        group.command("group 3");
        for _ in 0..60 {
            let (from, to) = (random.u64(1..=3), random.u64(1..=3));
            let run = catch_unwind(AssertUnwindSafe(|| match random.u32(..8) {
                0 => group.command(&format!("campaign n{to}")),
                1 => group.command(&format!("propose n{to} x")),
                2 => group.command("stabilize"),
                3 => group.command(&format!("tick n{to} {}", random.u64(1..30))),
                4 => group.command(&format!("durable n{to}")),
                _ if from != to => {
                    let (from_raft, to_raft) = (from, to);
                    let incarnation = |node: u64| [node as u8; 16];
                    let (from_dir, to_dir) = (incarnation(from), incarnation(to));
                    let envelope = Envelope { from_raft, from: from_dir, to_raft, to: to_dir };
                    let mut writer = envelope.begin(1);
                    any_message(&mut random, &mut writer);
                    let bodies = vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")];
                    let message = Message { head: writer.finish(), bodies };
                    group.step(to, Input::Message { from: NodeId::new(from), message });
                }
                _ => {}
            }));
            assert!(run.is_ok(), "seed {seed}");
            if group.has_stopped() {
                break;
            }
        }
    }
}
