//! A13, A21 in bulk: a member in wrong hands that sends bodies, or takes them, with lies about how much and how far.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use quorate_replicator::{BulkError, BulkId, BulkOffer, BulkSource, Bytes, NodeId, Transport};
use quorate_transport_quic::Limits;

use super::attacker::Line;
use super::honest::{BAD, Honest};
use super::wire;
use crate::cluster::limits;
use crate::cluster::receiver::until;

#[tokio::test]
async fn a21_offsets_at_their_ends_are_refused() {
    let honest = Honest::open(limits());
    let papers = honest.papers(BAD);
    for (bytes, offset, length) in [
        (100, u64::MAX, 10),
        (100, u64::MAX - 5, 10),
        (100, 1, 10),
        (100, 0, 101),
        (u64::MAX, u64::MAX, 10),
        (u64::MAX, 1, 10),
        (0, 0, 1),
    ] {
        let line = honest.betrayed(&papers).await;
        let offer = wire::offer(fastrand::u128(..), bytes, b"");
        let chunk = wire::chunk(offset, &vec![1; length]);
        let _streams = line.ask(&[offer, chunk].concat()).await;
        let end = line.end().await;
        assert!(end.contains("BulkChunk cannot be read"), "{bytes} {offset} {length}: {end}");
    }
    honest.explains("A21", "n2 broke the protocol of bulk").await;
    // More than there can ever be is taken as far as it comes.
    let line = honest.betrayed(&papers).await;
    let offer = wire::offer(1, u64::MAX, b"");
    let _streams = line.ask(&[offer, wire::chunk(0, &[1; 100])].concat()).await;
    let bulk = &honest.taken.bulk;
    until("what is in order is taken", || bulk.written.load(Ordering::SeqCst) == 100).await;
    drop(line);
    assert_eq!(bulk.finished.load(Ordering::SeqCst), 0);
    honest.stands("A21 bulk").await;
}

#[tokio::test]
async fn a_body_that_is_cut_short_is_never_finished() {
    let honest = Honest::open(limits());
    let line = honest.betrayed(&honest.papers(BAD)).await;
    let bulk = &honest.taken.bulk;
    for cut in 0..4_u64 {
        let offer = wire::offer(u128::from(cut), 4, b"");
        let bytes = [offer, wire::chunk(0, &vec![1; cut as usize + 1])].concat();
        let bytes = if cut == 3 { &bytes[..bytes.len() - 12] } else { &bytes };
        let (mut send, mut recv) = line.ask(bytes).await.unwrap();
        let offers = cut as usize + 1;
        until("it was offered", || bulk.offers.load(Ordering::SeqCst) == offers).await;
        // The end of the stream in half of the cases, and its being given up in the others.
        let _ = if cut % 2 == 0 { send.finish().is_ok() } else { send.reset(7_u32.into()).is_ok() };
        let _ = recv.read_to_end(1 << 10).await;
    }
    assert_eq!(bulk.finishing_max.load(Ordering::SeqCst), 0, "nothing was whole");
    drop(line);
    honest.stands("bulk cut short").await;
}

#[tokio::test]
async fn a13_bodies_that_are_being_finished_are_bounded() {
    let limits = limits();
    let most = limits.bulk_transfers_max as usize;
    let honest = Honest::open(limits);
    let line = honest.betrayed(&honest.papers(BAD)).await;
    let bulk = &honest.taken.bulk;
    bulk.stalled.send_replace(true);
    // A sink that is whole is finished even if its sender gives it up meanwhile. Who does that again and again must not have
    // ever more of them.
    let body = |id: u128| wire::offer(id, 0, b"");
    for id in 0..20 {
        let before = bulk.finishing.load(Ordering::SeqCst);
        let (mut send, recv) = line.ask(&body(id)).await.unwrap();
        let _ = send.finish();
        // Given up when it is being finished, or does not come to that.
        let _ = tokio::time::timeout(Duration::from_millis(200), async {
            while bulk.finishing.load(Ordering::SeqCst) == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        drop(recv);
    }
    let finishing = bulk.finishing_max.load(Ordering::SeqCst);
    assert!(finishing <= most + 1, "{finishing} sinks are being finished at once for one peer");
    bulk.stalled.send_replace(false);
    until("all that began are finished", || bulk.finishing.load(Ordering::SeqCst) == 0).await;
    drop(line);
    honest.stands("bulk finishing").await;
}

/// A body of zeros.
#[derive(Debug)]
struct Zeros;

#[async_trait]
impl BulkSource for Zeros {
    async fn read(&self, _: u64, bytes_max: usize) -> Result<Bytes, String> {
        Ok(vec![0; bytes_max].into())
    }
}

/// What the node hears of a body that it sends to a member that answers every offer with these bytes.
async fn sends(honest: &Honest, line: &Line, answer: Vec<u8>) -> Result<(), BulkError> {
    let offer = BulkOffer { id: BulkId(fastrand::u128(..)), bytes: 100_000, head: Bytes::new() };
    let sending = honest.node.send_bulk(NodeId::new(BAD), offer, Arc::new(Zeros));
    tokio::pin!(sending);
    let mut streams = Vec::new();
    let patience = tokio::time::sleep(super::PATIENCE);
    tokio::pin!(patience);
    loop {
        tokio::select! {
            result = &mut sending => return result,
            Ok((mut send, recv)) = line.connection.accept_bi() => {
                let _ = send.write_all(&answer).await;
                let _ = send.finish();
                streams.push(recv);
            }
            () = &mut patience => panic!("after {} attempts it is sent still", streams.len()),
        }
    }
}

fn impatient() -> Limits {
    let mut limits = limits();
    limits.bulk_give_up_after = Duration::from_millis(500);
    limits
}

#[tokio::test]
async fn a21_a_receiver_that_lies_about_its_place_is_found_out() {
    let honest = Honest::open(impatient());
    let line = honest.betrayed(&honest.papers(BAD)).await;
    let place = wire::place;
    for offset in [100_001, u64::MAX] {
        let error = sends(&honest, &line, place(wire::ACCEPT, offset)).await.unwrap_err();
        let words = format!("it has {offset} bytes of a body of 100000");
        assert_eq!(error, BulkError::Refused(words));
    }
    // Further than it was sent, and back again: it harms nobody but the liar.
    let lies =
        [place(wire::ACCEPT, 0), place(wire::TAKEN, u64::MAX), place(wire::TAKEN, 0)].concat();
    let lies = [lies, wire::frame(wire::DONE, b"")].concat();
    assert_eq!(sends(&honest, &line, lies).await, Ok(()));
    let refusal = wire::frame(wire::REFUSE, &[0xff; 1024]);
    let error = sends(&honest, &line, refusal).await.unwrap_err();
    assert!(matches!(error, BulkError::Refused(_)), "{error}");
    drop(line);
    honest.stands("A21 receiver").await;
}

#[tokio::test]
async fn a_receiver_that_breaks_the_protocol_does_not_keep_a_sender_busy_for_ever() {
    let honest = Honest::open(impatient());
    for (case, answer) in [
        ("nothing", vec![]),
        ("half", wire::place(wire::ACCEPT, 0)[..9].into()),
        ("no frame", vec![0xff; 100]),
        ("accepts and ends", wire::place(wire::ACCEPT, 0)),
        ("accepts and breaks", [wire::place(wire::ACCEPT, 0), vec![0xff; 100]].concat()),
        ("accepts twice", wire::place(wire::ACCEPT, 0).repeat(2)),
    ] {
        let line = honest.betrayed(&honest.papers(BAD)).await;
        let error = sends(&honest, &line, answer).await.unwrap_err();
        println!("{case}: {error}");
    }
    honest.stands("bulk receiver").await;
}
