//! A6, A8, A9, A21: a member in wrong hands that greets as somebody else, or with numbers at their ends.

use quorate_replicator::{ClusterId, PeerState};

use super::attacker::{dial, tls_client};
use super::honest::{BAD, GOOD, HONEST, Honest, STRANGER};
use super::wire::{self, Hello};
use crate::cluster::limits;
use crate::cluster::receiver::{state, until};

#[tokio::test]
async fn a6_nobody_speaks_for_another() {
    let honest = Honest::open(limits());
    let papers = honest.papers(BAD);
    let right = honest.hello();
    let with = |change: fn(&mut Hello)| {
        let mut hello = right;
        change(&mut hello);
        hello
    };
    for (case, hello, words) in [
        ("A6", with(|hello| hello.node = GOOD), "the certificate is of n2, and it calls itself n3"),
        ("A6 itself", with(|hello| hello.node = HONEST), "is of n2, and it calls itself n9"),
        ("A6 stranger", with(|hello| hello.node = STRANGER), "is of n2, and it calls itself n77"),
        ("A6 largest", with(|hello| hello.node = u64::MAX), "and it calls itself n1844674407"),
        ("A6 zero", with(|hello| hello.node = 0), "and it calls itself n0"),
        ("A6 to another", with(|hello| hello.to = GOOD), "n2 means to speak to n3, this is n9"),
        (
            "A8",
            with(|hello| hello.cluster = ClusterId::new([0xee; 16])),
            "n2 says it is of cluster ee",
        ),
        ("A9 newer", with(|hello| hello.protocol = 2), "n2 speaks version 2 of the protocol"),
        ("A9 zero", with(|hello| hello.protocol = 0), "n2 speaks version 0 of the protocol"),
        ("A9 largest", with(|hello| hello.protocol = u32::MAX), "n2 speaks version 4294967295"),
    ] {
        let line = dial(honest.at(), tls_client(Some(&papers))).await.unwrap();
        let message = [wire::channel(0), wire::frame(wire::MESSAGE, b"vote for me")].concat();
        let _ = line.tell(&message).await;
        let _ = line.ask(&hello.frame()).await;
        let end = line.end().await;
        assert!(end.contains(words), "{case}: the attacker is told too: {end}");
        honest.explains(case, words).await;
    }
    honest.stands("A6").await;
}

#[tokio::test]
async fn a6_what_a_member_sends_is_its_own_whatever_it_says() {
    let honest = Honest::open(limits());
    let line = honest.betrayed(&honest.papers(BAD)).await;
    // There is no sender in a message that could be another one: a greeting in the middle is no message.
    let _stream = line
        .tell(&[wire::channel(0), Hello { node: GOOD, ..honest.hello() }.frame()].concat())
        .await;
    honest.explains("A6 later", "n2 broke the protocol: a frame of kind Hello came where").await;
    honest.stands("A6 later").await;
}

#[tokio::test]
async fn a21_numbers_at_their_ends_break_nothing_and_hold_up_nobody() {
    let honest = Honest::open(limits());
    let papers = honest.papers(BAD);
    let mut lines = Vec::new();
    for (incarnation, attempt) in [
        (0, 0),
        (0, u64::MAX),
        (1, 0),
        (u64::MAX - 1, u64::MAX),
        (u64::MAX, 0),
        (u64::MAX, u64::MAX),
    ] {
        let line = dial(honest.at(), tls_client(Some(&papers))).await.unwrap();
        let hello = Hello { incarnation, attempt, ..honest.hello() };
        let (_, mut recv) = line.ask(&hello.frame()).await.unwrap();
        let reply = recv.read_to_end(1 << 10).await.unwrap();
        assert_eq!(reply.len(), 60, "a newer greeting counts: {hello:?}");
        lines.push(line);
    }
    for (incarnation, attempt) in [(0, 1), (u64::MAX, u64::MAX), (u64::MAX - 1, u64::MAX)] {
        let line = dial(honest.at(), tls_client(Some(&papers))).await.unwrap();
        let hello = Hello { incarnation, attempt, ..honest.hello() };
        let _ = line.ask(&hello.frame()).await;
        let end = line.end().await;
        println!("A21 {hello:?}: {end}");
    }
    honest.explains("A21", "a newer life of n2 is connected").await;
    // What was said at the ends of the numbers is gone with the connection: the member comes back with its own.
    lines.clear();
    until("the end is noticed", || state(&honest.node, BAD) != Some(PeerState::Connected)).await;
    let again = honest.betrayed(&papers).await;
    let _stream = again.tell(&wire::channel(1)).await;
    honest.stands("A21").await;
}
