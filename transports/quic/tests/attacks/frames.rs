//! A14 to A17: a member in wrong hands that sends what is no frame, or one that is made to hurt.

use quorate_replicator::limits::MESSAGE_BYTES_MAX;

use super::attacker::{Papers, dial, tls_client};
use super::honest::{BAD, Honest};
use super::wire::{self, Hello};
use crate::cluster::limits;
use crate::cluster::receiver::until;

/// Where a frame is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Instead of the greeting.
    Greeting,
    /// First on a stream of messages.
    Channel,
    /// After that.
    Message,
    /// First on a stream of bulk.
    Offer,
    /// After an offer that was accepted.
    Chunk,
}

const PLACES: [Place; 5] =
    [Place::Greeting, Place::Channel, Place::Message, Place::Offer, Place::Chunk];

/// What of bulk is offered.
const BULK_BYTES: u64 = 64;

/// Puts bytes at a place on a new connection, with the end of the stream after them, and answers how the connection ended.
async fn put(honest: &Honest, papers: &Papers, place: Place, bytes: &[u8]) -> String {
    if place == Place::Greeting {
        let line = dial(honest.at(), tls_client(Some(papers))).await.unwrap();
        if let Some((mut send, _recv)) = line.ask(bytes).await {
            let _ = send.finish();
            return line.end().await;
        }
        return line.end().await;
    }
    let line = honest.betrayed(papers).await;
    let before = match place {
        Place::Greeting | Place::Channel | Place::Offer => Vec::new(),
        Place::Message => wire::channel(0),
        Place::Chunk => wire::offer(fastrand::u128(..), BULK_BYTES, b""),
    };
    let bytes = [&before, bytes].concat();
    if matches!(place, Place::Channel | Place::Message) {
        let mut stream = line.tell(&bytes).await;
        let _ = stream.as_mut().map(|stream| stream.finish());
        line.end().await
    } else {
        let mut streams = line.ask(&bytes).await;
        let _ = streams.as_mut().map(|(send, _)| send.finish());
        line.end().await
    }
}

/// Puts bytes at a place, and expects the words at both ends.
async fn refused(honest: &Honest, papers: &Papers, place: Place, bytes: &[u8], words: &str) {
    let end = put(honest, papers, place, bytes).await;
    assert!(end.contains(words), "{place:?}: expected {words:?} in {end:?}");
    honest.explains(&format!("{place:?}"), words).await;
}

#[tokio::test]
async fn a14_a_length_that_cannot_be_is_refused_by_the_head_alone() {
    let honest = Honest::open(limits());
    let papers = honest.papers(BAD);
    let at = |kind| match kind {
        wire::HELLO => Place::Greeting,
        wire::CHANNEL => Place::Channel,
        wire::OFFER => Place::Offer,
        wire::CHUNK => Place::Chunk,
        _ => Place::Message,
    };
    for (kind, bytes) in [
        (wire::HELLO, 0),
        (wire::HELLO, 53),
        (wire::CHANNEL, 0),
        (wire::CHANNEL, 2),
        (wire::MESSAGE, MESSAGE_BYTES_MAX as u32 + 1),
        (wire::MESSAGES, 0),
        (wire::MESSAGES, (4 << 10) + 1),
        (wire::OFFER, 0),
        (wire::OFFER, 24 + (64 << 10) + 1),
        (wire::CHUNK, 8),
        (wire::CHUNK, 8 + (1 << 20) + 1),
    ] {
        let words = format!("has {bytes} bytes, which it cannot have");
        // The checksum never comes to be looked at.
        let head = [wire::head(kind, bytes), vec![0; 4]].concat();
        refused(&honest, &papers, at(kind), &head, &words).await;
    }
    for place in PLACES {
        for kind in [0, 13, 0x7f, 0xff] {
            let head = [wire::head(kind, 0xff_ffff), vec![0xff; 4]].concat();
            refused(&honest, &papers, place, &head, "does not exist").await;
        }
        let head = [wire::head(wire::REFUSE, 0xff_ffff), vec![0xff; 4]].concat();
        refused(&honest, &papers, place, &head, "16777215 bytes, which it cannot have").await;
    }
    // Nor does anything else that is large before the greeting.
    let head = [wire::head(wire::MESSAGE, MESSAGE_BYTES_MAX as u32), vec![0; 4]].concat();
    refused(&honest, &papers, Place::Greeting, &head, "came where Hello was expected").await;
    honest.stands("A14").await;
}

#[tokio::test]
async fn a14_a_frame_where_it_does_not_belong_is_refused() {
    let honest = Honest::open(limits());
    let papers = honest.papers(BAD);
    let frames = [
        (wire::HELLO, honest.hello().frame()),
        (wire::CHANNEL, wire::channel(2)),
        (wire::MESSAGE, wire::frame(wire::MESSAGE, b"m")),
        (wire::MESSAGES, wire::frame(wire::MESSAGES, b"\x01\0m")),
        (wire::OFFER, wire::offer(7, 7, b"head")),
        (wire::ACCEPT, wire::place(wire::ACCEPT, u64::MAX)),
        (wire::CHUNK, wire::chunk(0, b"c")),
        (wire::TAKEN, wire::place(wire::TAKEN, u64::MAX)),
        (wire::DONE, wire::frame(wire::DONE, b"")),
        (wire::REFUSE, wire::frame(wire::REFUSE, b"no\x1b[2J")),
    ];
    for place in PLACES {
        for (kind, frame) in &frames {
            let belongs = match place {
                Place::Greeting => *kind == wire::HELLO,
                Place::Channel => *kind == wire::CHANNEL,
                Place::Message => [wire::MESSAGE, wire::MESSAGES].contains(kind),
                Place::Offer => *kind == wire::OFFER,
                Place::Chunk => *kind == wire::CHUNK,
            };
            if !belongs {
                refused(&honest, &papers, place, frame, "came where").await;
            }
        }
    }
    // Twice what belongs there once.
    let line = honest.betrayed(&papers).await;
    let _streams = (line.tell(&wire::channel(1)).await, line.tell(&wire::channel(1)).await);
    assert!(line.end().await.contains("two streams for Entries"));
    refused(&honest, &papers, Place::Channel, &wire::channel(3), "Channel cannot be read").await;
    honest.stands("A14 places").await;
}

/// Lists in lists in lists, of so many bytes, in the ways of several formats.
fn depth_bombs(bytes: usize) -> Vec<Vec<u8>> {
    // MessagePack arrays and maps of one, JSON, DER without lengths, and our own frames of several messages.
    let levels = [&[0x91][..], &[0x81, 0xa0], b"[", b"{\"a\":", &[0x30, 0x80], &[0xff, 0x1f]];
    levels.map(|level| level.repeat(bytes / level.len())).into()
}

#[tokio::test]
async fn a15_depth_has_no_meaning_in_a_frame() {
    let mut limits = limits();
    // Large messages take their time to be made.
    limits.idle_timeout = super::PATIENCE;
    let honest = Honest::open(limits);
    let papers = honest.papers(BAD);
    let line = honest.betrayed(&papers).await;
    let mut stream = line.tell(&wire::channel(1)).await.unwrap();
    // As a message: it is bytes, which nobody here looks into.
    for (number, bomb) in (1..).zip(depth_bombs(MESSAGE_BYTES_MAX)) {
        stream.write_all(&wire::frame(wire::MESSAGE, &bomb)).await.unwrap();
        until("a message of any depth is a message", || honest.taken.count(BAD) == number).await;
        assert_eq!(*honest.taken.last.lock().unwrap(), bomb);
    }
    drop((stream, line));
    // As anything else: it is as long as it says, and no deeper.
    for bomb in depth_bombs(4000) {
        let several = wire::frame(wire::MESSAGES, &bomb);
        refused(&honest, &papers, Place::Message, &several, "Messages cannot be read").await;
        let chunk = wire::chunk(0, &bomb);
        refused(&honest, &papers, Place::Chunk, &chunk, "BulkChunk cannot be read").await;
        refused(&honest, &papers, Place::Greeting, &bomb, "does not exist").await;
    }
    honest.serves("A15").await;
    honest.close("A15").await;
}

#[tokio::test]
async fn a15_depth_in_a_certificate_is_not_followed() {
    let honest = Honest::open(limits());
    // About what a certificate may have at most. Each level is a list with its length, from the inside out.
    let mut nested = vec![0x05, 0x00];
    while nested.len() < 12_000 {
        let length = (nested.len() as u16).to_be_bytes();
        nested.splice(..0, [&[0x30, 0x82][..], &length].concat());
    }
    let endless: Vec<u8> = [0x30, 0x80].repeat(6000);
    for content in [nested, endless, vec![0xff; 12_000]] {
        // In a place of its own, among the names, and among the uses.
        for oid in [&[1, 3, 6, 1, 4, 1, 99999][..], &[2, 5, 29, 17], &[2, 5, 29, 37]] {
            let claim = honest.claim(BAD).with(|claim| {
                claim.extensions = vec![(oid.into(), content.clone())];
                claim.uris.clear();
                claim.usages.clear();
            });
            // From a stranger, and from somebody who was certified: each is read at another place.
            for papers in [claim.signed_by_itself(), claim.signed_by(&honest.signer())] {
                let refused = honest.node.status().refused;
                if let Ok(line) = dial(honest.at(), tls_client(Some(&papers))).await {
                    let _ = line.ask(&honest.hello().frame()).await;
                    println!("A15 {oid:?}: {}", line.end().await);
                }
                until("it is refused", || honest.node.status().refused > refused).await;
            }
        }
    }
    honest.explains("A15 certificate", "the certificate").await;
    honest.stands("A15 certificate").await;
}

#[tokio::test]
async fn a16_many_messages_of_nothing_cost_what_their_frame_costs() {
    let honest = Honest::open(limits());
    let line = honest.betrayed(&honest.papers(BAD)).await;
    let mut stream = line.tell(&wire::channel(2)).await.unwrap();
    // 2,048 messages in 4 KiB. They are taken one by one, and the next frame waits.
    let frame = wire::frame(wire::MESSAGES, &[0; 4 << 10]);
    for _ in 0..25 {
        stream.write_all(&frame).await.unwrap();
    }
    until("all of them are taken", || honest.taken.count(BAD) == 25 * 2048).await;
    honest.serves("A16").await;
    honest.close("A16").await;
}

/// One frame of each kind that a member sends to who is attacked, and where it belongs.
fn samples(hello: Hello) -> Vec<(Place, Vec<u8>)> {
    vec![
        (Place::Greeting, hello.frame()),
        (Place::Channel, wire::channel(1)),
        (Place::Message, wire::frame(wire::MESSAGE, b"vote")),
        (Place::Message, wire::frame(wire::MESSAGES, b"\x03\0abc\0\0\x01\0d")),
        (Place::Offer, wire::offer(5, BULK_BYTES, b"head")),
        (Place::Chunk, wire::chunk(0, &[7; BULK_BYTES as usize / 2])),
    ]
}

/// The codec's own tests flip every bit and cut at every byte; here the same is seen from outside: all of the head, and some
/// of the rest.
#[tokio::test]
async fn a17_flipped_bits_and_truncations_end_the_connection() {
    let honest = Honest::open(limits());
    let papers = honest.papers(BAD);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for number in 0..samples(honest.hello()).len() {
        let (place, whole) = samples(honest.hello()).swap_remove(number);
        let bits = whole.len() * 8;
        let rest = (0..16).map(|_| random.usize(64..bits));
        let flips: Vec<_> = (0..64).step_by(3).chain(rest).collect();
        for bit in flips {
            let mut flipped = samples(honest.hello()).swap_remove(number).1;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let end = put(&honest, &papers, place, &flipped).await;
            let what = format!("{place:?}, bit {bit}, seed {seed}: {end}");
            assert!(
                end.contains("n2 broke the protocol") || end.contains("does not greet"),
                "{what}"
            );
        }
        for cut in [1, 3, 4, 7, 8, whole.len() - 1] {
            let end = put(&honest, &papers, place, &whole[..cut.min(whole.len() - 1)]).await;
            let words = "the stream ends in the middle of a frame";
            assert!(end.contains(words), "{place:?} cut at {cut}: {end}");
        }
        // And bytes that follow a frame are another frame, or none.
        if place != Place::Message && place != Place::Greeting {
            let longer = [&*whole, &[0; 9]].concat();
            let end = put(&honest, &papers, place, &longer).await;
            assert!(end.contains("does not exist"), "{place:?}: {end}");
        }
    }
    honest.explains("A17", "the checksum of a frame of kind").await;
    honest.stands("A17").await;
}
