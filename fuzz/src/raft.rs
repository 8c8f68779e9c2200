//! What engines of the Raft driver say to one another and keep.

use bytes::Bytes;
use quorate_driver_raft::fuzzing;

use crate::input::{Input, Written, is_canonical};

/// Which of them, and the bytes; of a head, bodies that follow it.
pub(crate) fn judge(bytes: &[u8]) {
    let mut input = Input(bytes);
    match input.u8() % 4 {
        0 => {
            let head = input.piece();
            let bodies: Vec<_> = input.pieces().into_iter().map(Bytes::copy_from_slice).collect();
            is_canonical(head, |bytes| fuzzing::head(bytes, &bodies));
        }
        1 => is_canonical(input.0, fuzzing::mark),
        2 => is_canonical(input.0, fuzzing::change),
        _ => is_canonical(input.0, fuzzing::stored),
    }
}

/// Shapes whose numbers are all small, so that they often fit together.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let small = |bytes: usize| (0..bytes).map(|at| u8::from(at % 8 == 0)).collect::<Vec<_>>();
    let head = |kind: u8, rest: &[u8]| {
        let between = [&small(8)[..], &[1; 16], &[2, 0, 0, 0, 0, 0, 0, 0], &[2; 16]].concat();
        let head = [&[0x71, kind][..], &between, rest].concat();
        Written::default().u8(0).piece(&head).piece(b"body").0
    };
    let mut seeds: Vec<_> =
        (1..=11).map(|kind| head(2, &[&[1, 0, 0, 0, kind][..], &small(48)].concat())).collect();
    seeds.extend([head(3, &small(16)), head(4, &small(16))]);
    let plain = |kind: u8, words: &[u8]| {
        Written::default().u8(kind).0.into_iter().chain(words.iter().copied()).collect()
    };
    seeds.push(plain(1, &[&[1][..], &small(64)].concat()));
    seeds
        .extend((1..=6).map(|kind| plain(2, &[&[1][..], &small(8), &[kind], &small(40)].concat())));
    seeds.push(plain(3, &[&[1][..], &small(64)].concat()));
    seeds
}
