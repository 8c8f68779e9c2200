//! Peers, cuts and the end.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use quorate_replicator::{Channel, PeerState, SendError};

use super::{Fixture, TransportFactory, number, numbered};
use crate::eventually::{eventually, within};

/// `peers` lists the others in order with their standing; changes of it are announced.
pub async fn peers_are_listed_and_announced<F: TransportFactory>(factory: &F) {
    let fixture = Fixture::open("peers_are_listed_and_announced", factory, 3).await;
    for node in 0..3 {
        let listed: Vec<_> =
            fixture.transports[node].peers().into_iter().map(|(peer, _)| peer).collect();
        let mut others: Vec<_> =
            (0..3).filter(|other| *other != node).map(|other| fixture.id(other)).collect();
        others.sort();
        assert_eq!(
            listed, others,
            "{}: peers() lists the other nodes, in the order of their ids, without oneself",
            fixture.case
        );
    }
    let lost = fixture.clause("a peer that cannot be reached is announced as Connecting");
    let back = fixture.clause("a peer that can be reached again is announced as Connected");
    // An announcement comes in its own time; changes that follow one another at once may become one.
    for (node, peer) in [(0, 1), (1, 0)] {
        let last = || fixture.recorders[node].announced(fixture.id(peer)).pop();
        eventually(&back, || last() == Some(PeerState::Connected)).await;
    }
    fixture.network.cut(fixture.id(0), fixture.id(1)).await;
    for (node, peer) in [(0, 1), (1, 0)] {
        let last = || fixture.recorders[node].announced(fixture.id(peer)).pop();
        eventually(&lost, || matches!(last(), Some(PeerState::Connecting { .. }))).await;
        assert!(
            matches!(fixture.state(node, peer), Some(PeerState::Connecting { .. })),
            "{}: peers() agrees with what was announced",
            fixture.case
        );
        assert_eq!(
            fixture.state(node, 2),
            Some(PeerState::Connected),
            "{}: a cut changes the standing of no other peer",
            fixture.case
        );
    }
    fixture.network.heal(fixture.id(0), fixture.id(1)).await;
    for (node, peer) in [(0, 1), (1, 0)] {
        let last = || fixture.recorders[node].announced(fixture.id(peer)).pop();
        eventually(&back, || last() == Some(PeerState::Connected)).await;
        fixture.connected(node, peer).await;
    }
    fixture.close().await;
}

/// Nothing passes a cut, and a healed link carries again without anybody asking for it.
pub async fn a_cut_link_comes_back<F: TransportFactory>(factory: &F) {
    let fixture = Fixture::open("a_cut_link_comes_back", factory, 3).await;
    let (a, b) = (fixture.id(0), fixture.id(1));
    for _ in 0..3 {
        fixture.network.cut(a, b).await;
        // A message that had arrived before the cut may still be on its way through the receiver.
        let lost = fixture.clause("a cut link is noticed");
        eventually(&lost, || fixture.state(0, 1) != Some(PeerState::Connected)).await;
        eventually(&lost, || fixture.state(1, 0) != Some(PeerState::Connected)).await;
        let before = fixture.recorders[1].calls();
        for channel in Channel::ALL {
            match fixture.transports[0].send(b, channel, Bytes::from_static(b"into the cut")) {
                Ok(()) | Err(SendError::QueueFull) => {}
                Err(error) => {
                    panic!("{}: a cut peer is still a peer, not: {error}", fixture.case)
                }
            }
        }
        // Another link shows that time has passed.
        let count = fixture.recorders[2].count(a, Channel::Control);
        fixture.send(0, 2, Channel::Control, numbered(0, 8)).await;
        fixture.arrived(2, 0, Channel::Control, count + 1).await;
        assert_eq!(fixture.recorders[1].calls(), before, "{}: nothing passes a cut", fixture.case);

        fixture.network.heal(a, b).await;
        for channel in Channel::ALL {
            fixture.carries(0, 1, channel).await;
            fixture.carries(1, 0, channel).await;
        }
    }
    fixture.close().await;
}

/// Messages around a cut may be lost; none arrives twice, and none arrives after a later one.
pub async fn nothing_arrives_twice_over_a_cut<F: TransportFactory>(factory: &F) {
    const ROUNDS: u64 = 10;
    const IN_ROUND: u64 = 200;
    let fixture = Fixture::open("nothing_arrives_twice_over_a_cut", factory, 2).await;
    let (a, b) = (fixture.id(0), fixture.id(1));
    for round in 0..ROUNDS {
        for i in 0..IN_ROUND {
            let message = numbered(round * IN_ROUND + i, 500);
            // What does not fit is lost, which a cut may do as well.
            let _ = fixture.transports[0].send(b, Channel::Entries, message);
            if i == IN_ROUND / 4 {
                // Some have arrived when the link is cut, others are under way.
                fixture.carries(0, 1, Channel::Entries).await;
            }
            if i == IN_ROUND / 2 {
                fixture.network.cut(a, b).await;
            }
        }
        fixture.network.heal(a, b).await;
        fixture.carries(0, 1, Channel::Entries).await;
    }
    let got = fixture.recorders[1].messages(a, Channel::Entries);
    let numbers: Vec<_> = got.iter().filter(|m| *m != "marker").map(number).collect();
    let whole: Option<Vec<_>> = numbers.into_iter().collect();
    let Some(numbers) = whole else {
        panic!("{}: a message arrives whole or not at all", fixture.case)
    };
    let once: BTreeSet<_> = numbers.iter().collect();
    assert_eq!(
        once.len(),
        numbers.len(),
        "{}: a message arrives at most once, over reconnects too",
        fixture.case
    );
    assert!(
        numbers.is_sorted(),
        "{}: messages of a channel keep their order over reconnects",
        fixture.case
    );
    fixture.close().await;
}

/// Closing ends everything, may be repeated, and later calls say so.
pub async fn a_closed_transport_is_closed<F: TransportFactory>(factory: &F) {
    let fixture = Fixture::open("a_closed_transport_is_closed", factory, 3).await;
    let (a, b) = (fixture.id(0), fixture.id(1));
    // One receiver is in the middle of a message, which must not hold up the end.
    fixture.recorders[1].stall(a, Channel::Entries);
    fixture.send(0, 1, Channel::Entries, numbered(0, 100)).await;
    let begun = fixture.clause("a message reaches its receiver");
    eventually(&begun, || fixture.recorders[1].calls() > 0).await;

    let clause = fixture.clause("close returns, also when called twice at once");
    let closing = &fixture.transports[1];
    within(&clause, async { tokio::join!(closing.close(), closing.close()) }).await;
    within(&fixture.clause("close may be called again"), closing.close()).await;
    for channel in Channel::ALL {
        assert_eq!(
            closing.send(a, channel, Bytes::from_static(b"late")),
            Err(SendError::Closed),
            "{}: a send after close is refused as Closed",
            fixture.case
        );
    }
    assert_eq!(
        Arc::strong_count(&fixture.recorders[1]),
        1,
        "{}: after close nothing holds the receiver any more",
        fixture.case
    );

    let calls = fixture.recorders[1].calls();
    let lost = fixture.clause("the peers of a closed transport notice that it is gone");
    eventually(&lost, || fixture.state(0, 1) != Some(PeerState::Connected)).await;
    match fixture.transports[0].send(b, Channel::Control, Bytes::from_static(b"anyone?")) {
        Ok(()) | Err(SendError::QueueFull) => {}
        Err(error) => panic!("{}: a peer that is gone is still a peer, not: {error}", fixture.case),
    }
    // The others go on.
    fixture.send(0, 2, Channel::Control, numbered(0, 8)).await;
    fixture.arrived(2, 0, Channel::Control, 1).await;
    assert_eq!(
        fixture.recorders[1].calls(),
        calls,
        "{}: nothing is received after close returned",
        fixture.case
    );
    fixture.close().await;
}
