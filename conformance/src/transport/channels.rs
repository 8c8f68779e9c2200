//! Messages: delivery, order, backpressure, isolation, identity, refusals.

use std::collections::BTreeSet;

use bytes::Bytes;
use quorate_replicator::limits::MESSAGE_BYTES_MAX;
use quorate_replicator::{Channel, NodeId, SendError, TransportExt};

use super::{Fixture, TransportFactory, number, numbered};
use crate::eventually::eventually;

/// Bytes that a queue may take in before it must refuse, far above any sensible limit.
const QUEUE_BYTES_BEYOND_REASON: usize = 256 << 20;

/// Every node reaches every other on every channel, with messages of no byte up to the largest.
pub async fn messages_arrive_on_every_channel<F: TransportFactory>(factory: &F) {
    let fixture = Fixture::open("messages_arrive_on_every_channel", factory, 3).await;
    let sizes = [0, 1, 1000, 70_000, MESSAGE_BYTES_MAX];
    for channel in Channel::ALL {
        for (from, to) in [(0, 1), (1, 0), (1, 2), (2, 1), (0, 2), (2, 0)] {
            let sent: Vec<_> = sizes.map(|size| Bytes::from(vec![size as u8; size])).into();
            for message in &sent {
                fixture.send(from, to, channel, message.clone()).await;
            }
            let got = fixture.arrived(to, from, channel, sent.len()).await;
            assert!(
                got == sent,
                "{}: messages arrive as they were sent; on {channel:?} sizes {:?} arrived for {sizes:?}",
                fixture.case,
                got.iter().map(Bytes::len).collect::<Vec<_>>(),
            );
        }
    }
    let refused = fixture.transports[0].broadcast(Channel::Control, &Bytes::from_static(b"all"));
    assert_eq!(refused, [], "{}: a broadcast is queued for every peer", fixture.case);
    for to in [1, 2] {
        fixture.arrived(to, 0, Channel::Control, sizes.len() + 1).await;
    }
    fixture.close().await;
}

/// Messages of one sender on one channel arrive in order, each once, while others send at the same time.
pub async fn order_holds_within_a_channel<F: TransportFactory>(factory: &F) {
    const COUNT: u64 = 2_000;
    let fixture = Fixture::open("order_holds_within_a_channel", factory, 3).await;
    for i in 0..COUNT {
        for from in [0, 1] {
            for channel in Channel::ALL {
                // Sizes differ, so that a transport that sends small ones first is found out.
                fixture.send(from, 2, channel, numbered(i, (i as usize * 37) % 3000)).await;
            }
        }
        // On one thread the transports would stand still until all is sent, and lose one another on a busy machine.
        tokio::task::yield_now().await;
    }
    for from in [0, 1] {
        for channel in Channel::ALL {
            let got = fixture.arrived(2, from, channel, COUNT as usize).await;
            in_order(&fixture, channel, &got, COUNT);
        }
    }
    one_call_at_a_time(&fixture);
    fixture.close().await;
}

/// `from` is who the sender is, whatever the message says.
pub async fn the_sender_is_who_it_is<F: TransportFactory>(factory: &F) {
    let fixture = Fixture::open("the_sender_is_who_it_is", factory, 3).await;
    let ids: BTreeSet<_> = (0..3).map(|node| fixture.id(node)).collect();
    assert_eq!(ids.len(), 3, "{}: each transport has a local_id of its own", fixture.case);
    for from in 0..3 {
        for to in (0..3).filter(|to| *to != from) {
            // The message claims to be of the third node.
            let claimed = fixture.id(3 - from - to).number();
            fixture.send(from, to, Channel::Requests, numbered(claimed, 16)).await;
        }
    }
    for to in 0..3 {
        for from in (0..3).filter(|from| *from != to) {
            let got = fixture.arrived(to, from, Channel::Requests, 1).await;
            let claimed = fixture.id(3 - from - to).number();
            assert_eq!(
                got.iter().map(number).collect::<Vec<_>>(),
                [Some(claimed)],
                "{}: `from` is the real sender of a message",
                fixture.case
            );
        }
        let senders = fixture.recorders[to].senders();
        let others: BTreeSet<_> = ids.iter().copied().filter(|id| *id != fixture.id(to)).collect();
        assert_eq!(senders, others, "{}: `from` is the real sender of a message", fixture.case);
    }
    fixture.close().await;
}

/// A message over the limit is refused as a whole, and the link goes on.
pub async fn a_message_too_large_is_refused<F: TransportFactory>(factory: &F) {
    let fixture = Fixture::open("a_message_too_large_is_refused", factory, 2).await;
    let size = MESSAGE_BYTES_MAX + 1;
    for channel in Channel::ALL {
        let result = fixture.transports[0].send(fixture.id(1), channel, Bytes::from(vec![7; size]));
        assert_eq!(
            result,
            Err(SendError::TooLarge(size)),
            "{}: a message over MESSAGE_BYTES_MAX is refused as TooLarge with its size",
            fixture.case
        );
        fixture.send(0, 1, channel, Bytes::from_static(b"after")).await;
        let got = fixture.arrived(1, 0, channel, 1).await;
        assert_eq!(got, ["after"], "{}: nothing of a refused message is sent", fixture.case);
    }
    fixture.close().await;
}

/// A node that is no peer cannot be sent to.
pub async fn an_unknown_peer_is_refused<F: TransportFactory>(factory: &F) {
    let fixture = Fixture::open("an_unknown_peer_is_refused", factory, 2).await;
    let stranger = NodeId::new(u64::MAX);
    for peer in [stranger, fixture.id(0)] {
        assert_eq!(
            fixture.transports[0].send(peer, Channel::Control, Bytes::from_static(b"hello")),
            Err(SendError::UnknownPeer(peer)),
            "{}: a node that is not in peers(), oneself included, is refused as UnknownPeer",
            fixture.case
        );
    }
    fixture.close().await;
}

/// A receiver that stalls makes the sender's queue refuse; what was accepted arrives once the receiver goes on.
pub async fn a_full_queue_refuses_and_loses_nothing<F: TransportFactory>(factory: &F) {
    const BYTES: usize = 16 << 10;
    let fixture = Fixture::open("a_full_queue_refuses_and_loses_nothing", factory, 2).await;
    let (channel, to) = (Channel::Entries, fixture.id(1));
    fixture.recorders[1].stall(fixture.id(0), channel);
    let mut accepted = 0;
    let mut refused_in_a_row = 0;
    // The network may take in more after a refusal, so it counts as full when it keeps refusing.
    while refused_in_a_row < 50 {
        match fixture.transports[0].send(to, channel, numbered(accepted, BYTES)) {
            Ok(()) => (accepted, refused_in_a_row) = (accepted + 1, 0),
            Err(SendError::QueueFull) => {
                refused_in_a_row += 1;
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            Err(error) => {
                panic!("{}: a full queue is refused as QueueFull, not: {error}", fixture.case)
            }
        }
        assert!(
            accepted as usize * BYTES < QUEUE_BYTES_BEYOND_REASON,
            "{}: queues are bounded; {accepted} messages of {BYTES} bytes were accepted for a receiver that \
             takes none",
            fixture.case
        );
    }
    assert!(accepted > 0, "{}: an empty queue accepts a message", fixture.case);
    fixture.recorders[1].release();
    let got = fixture.arrived(1, 0, channel, accepted as usize).await;
    in_order(&fixture, channel, &got, accepted);
    fixture.send(0, 1, channel, numbered(accepted, BYTES)).await;
    let got = fixture.arrived(1, 0, channel, accepted as usize + 1).await;
    in_order(&fixture, channel, &got, accepted + 1);
    one_call_at_a_time(&fixture);
    fixture.close().await;
}

/// A channel whose receiver stalls, and whose queue is full, holds up no other channel and no other sender.
pub async fn a_stalled_channel_stops_no_other<F: TransportFactory>(factory: &F) {
    const COUNT: u64 = 200;
    for stalled in Channel::ALL {
        let fixture = Fixture::open("a_stalled_channel_stops_no_other", factory, 3).await;
        fixture.recorders[1].stall(fixture.id(0), stalled);
        let mut accepted = 0_usize;
        while fixture.transports[0].send(fixture.id(1), stalled, numbered(0, 64 << 10)).is_ok() {
            accepted += 64 << 10;
            assert!(
                accepted < QUEUE_BYTES_BEYOND_REASON,
                "{}: queues are bounded for a receiver that takes nothing",
                fixture.case
            );
        }
        for i in 0..COUNT {
            for channel in Channel::ALL {
                if channel != stalled {
                    fixture.send(0, 1, channel, numbered(i, 100)).await;
                }
                fixture.send(2, 1, channel, numbered(i, 100)).await;
                fixture.send(0, 2, channel, numbered(i, 100)).await;
            }
        }
        let clause = fixture.clause("a stalled channel delays no other channel and no other peer");
        for channel in Channel::ALL {
            let (node, recorder) = (|node| fixture.id(node), &fixture.recorders);
            eventually(&clause, || {
                (channel == stalled || recorder[1].count(node(0), channel) == COUNT as usize)
                    && recorder[1].count(node(2), channel) == COUNT as usize
                    && recorder[2].count(node(0), channel) == COUNT as usize
            })
            .await;
        }
        assert_eq!(
            fixture.recorders[1].count(fixture.id(0), stalled),
            0,
            "{}: while `message` waits, further messages of that peer and channel wait too",
            fixture.case
        );
        one_call_at_a_time(&fixture);
        fixture.close().await;
    }
}

fn in_order(fixture: &Fixture, channel: Channel, got: &[Bytes], count: u64) {
    for (expected, message) in (0..).zip(got) {
        assert_eq!(
            number(message),
            Some(expected),
            "{}: messages on {channel:?} arrive whole, in the order of sending, each once",
            fixture.case
        );
    }
    assert_eq!(
        got.len() as u64,
        count,
        "{}: each message on {channel:?} arrives at most once",
        fixture.case
    );
}

fn one_call_at_a_time(fixture: &Fixture) {
    assert!(
        !fixture.recorders.iter().any(|recorder| recorder.overlapped()),
        "{}: `message` is called for one message of a peer and channel at a time",
        fixture.case
    );
}
