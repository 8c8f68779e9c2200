//! Streams of the QUIC transport, and what stands in their frames.

use quorate_transport_quic::fuzzing;

use crate::input::{Input, Written, settles};

/// How a stream is made, and in pieces of how many bytes it comes; then the stream as it is, or frames to be sealed.
pub(crate) fn judge(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (how, piece) = (input.u8(), usize::from(input.u8()));
    if how.is_multiple_of(2) {
        let whole = fuzzing::stream(input.0, input.0.len());
        assert_eq!(whole, fuzzing::stream(input.0, piece), "pieces change what is read");
        assert!(input.0.starts_with(&whole.0), "frames that were not sent");
        return;
    }
    let mut stream = Vec::new();
    while !input.is_empty() {
        let (kind, body) = (input.u8() % 14, input.piece());
        let Some(frame) = fuzzing::seal(kind, body) else {
            assert_eq!(fuzzing::body(kind, body), None, "a body that no frame has");
            continue;
        };
        if let Some(written) = fuzzing::body(kind, body) {
            // Words that are no UTF-8 are told as well as they can be; everything else has one form.
            if written != frame {
                settles(body, |body| fuzzing::body(kind, body).map(|frame| frame.slice(8..)));
                assert!(String::from_utf8(body.to_vec()).is_err(), "two forms of a frame {kind}");
            }
        }
        stream.extend_from_slice(&frame);
    }
    let (read, whole) = fuzzing::stream(&stream, piece);
    assert!(whole && read == stream, "a frame that was sealed is not read");
    // One bit of it is found.
    if !stream.is_empty() {
        let at = (stream.len() - 1).min(usize::from(how) * piece);
        stream[at] ^= 1 << (how % 8);
        let (read, whole) = fuzzing::stream(&stream, piece);
        assert!(!whole && read.len() <= at, "a changed bit is not found");
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let hello = [&1_u32.to_le_bytes()[..], &[0xa5; 16], &[2; 32]].concat();
    let client = [&1_u32.to_le_bytes()[..], &[0xa5; 16], b"ops"].concat();
    let welcome = [&1_u32.to_le_bytes()[..], &[0xa5; 16], &[3; 20]].concat();
    let bodies: [(u8, &[u8]); 13] = [
        (1, &hello),
        (2, &[1]),
        (3, b"a message"),
        (4, &[3, 0, b'a', b'b', b'c', 0, 0]),
        (5, &[9; 28]),
        (6, &[1; 8]),
        (7, &[1; 40]),
        (8, &[1; 8]),
        (9, &[]),
        (10, b"no room"),
        (11, &client),
        (12, &welcome),
        (13, &[]),
    ];
    let mut seeds: Vec<_> = bodies
        .iter()
        .map(|(kind, body)| Written::default().u8(1).u8(3).u8(*kind).piece(body).0)
        .collect();
    let frames = bodies.iter().filter_map(|(kind, body)| fuzzing::seal(*kind, body));
    seeds.push([&[0, 5][..], &frames.collect::<Vec<_>>().concat()].concat());
    seeds
}
