//! Snapshots that another node sends.

use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::{SnapshotHead, SnapshotOffer, SnapshotSink, fuzzing};
use quorate_replicator::{GroupId, NodeId};
use quorate_storage::{MemoryDisk, Summary, Tally};

use crate::checkpoint;
use crate::input::{Input, Written, comes_back};

const SENDER: NodeId = NodeId::new(1);
const GROUP: GroupId = GroupId::new(0);
const INDEX: u64 = 42;

/// A stream as it is, or words and pieces to be sealed; and in pieces of how many bytes it comes.
pub(crate) fn judge(bytes: &[u8]) {
    comes_back(bytes, SnapshotOffer::decode, |offer| offer.encode().expect("it came so"));
    let mut input = Input(bytes);
    let (how, chunk) = (input.u8(), usize::from(input.u16()).max(1));
    let (id, stream) = match how % 2 {
        0 => (u128::from(input.u64()), Bytes::copy_from_slice(input.0)),
        _ => match sealed(input) {
            Some(sealed) => sealed,
            None => return,
        },
    };
    let mut store = checkpoint::open(Arc::new(MemoryDisk::new())).expect("an empty directory");
    let sink = SnapshotSink::new(&store, SENDER, id, GROUP, INDEX, stream.len() as u64);
    let mut sink = sink.expect("memory does not fail");
    for piece in stream.chunks(chunk) {
        if sink.write(piece).is_err() {
            assert!(sink.finish(0).is_err(), "what was refused is put in force");
            return;
        }
    }
    if let Ok(staged) = sink.finish(0) {
        store.install(staged).expect("it was staged whole");
        store.verify().expect("it is what its head says");
    }
}

/// A head with words of the input, and pieces of the input.
fn sealed(mut input: Input<'_>) -> Option<(u128, Bytes)> {
    let tally = |input: &mut Input<'_>| {
        let (pairs, of) = (input.u64(), input.piece());
        // The digest of no pairs, or of nobody.
        let mut digest = Tally::default().digest;
        for (byte, with) in digest.iter_mut().zip(of) {
            *byte = *with;
        }
        Tally { pairs, digest }
    };
    let summary = Summary { machine: tally(&mut input), host: tally(&mut input) };
    let (position, mark) = (input.piece(), input.piece());
    let head = SnapshotHead {
        group: GROUP,
        index: INDEX,
        state: [7; 32],
        summary,
        bytes: 0,
        position: Bytes::copy_from_slice(position),
        mark: Bytes::copy_from_slice(mark),
    };
    let mut pieces = Vec::new();
    while !input.is_empty() {
        let (of_host, pairs) = (input.u8() % 2 == 1, input.u32());
        pieces.push((of_host, pairs, input.piece()));
    }
    fuzzing::stream(SENDER, head, &pieces)
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let pair = |key: &[u8], value: &[u8]| {
        let lengths = [(key.len() as u32).to_le_bytes(), (value.len() as u32).to_le_bytes()];
        [&lengths.concat()[..], key, value].concat()
    };
    let begun = |pairs: u64| {
        let begun = Written::default().u8(1).u8(7).u8(0);
        begun.u64(pairs).piece(&[]).u64(0).piece(&[]).piece(b"position").piece(b"mark")
    };
    let two = [pair(b"a", b"1"), pair(b"b", b"2")].concat();
    vec![
        begun(0).0,
        begun(2).u8(0).u32(2).piece(&two).0,
        begun(2).u8(0).u32(2).piece(&two).u8(1).u32(1).piece(&pair(b"s", b"x")).0,
        begun(1).u8(1).u32(1).piece(&pair(b"s", b"x")).u8(0).u32(2).piece(&two).0,
        SnapshotOffer { group: GROUP, index: 9, head: Bytes::from_static(b"words") }
            .encode()
            .expect("it is short")
            .to_vec(),
    ]
}
