//! Layouts are for ever: what was signed once must be verified in ten years.

mod common;

use std::fmt::Write;

use common::Cluster;
use quorate_certificate::{
    BodyKind, CallFrame, FaultModel, Scheme, VoteType, call_bytes, proposal_bytes, session_of,
    vote_bytes,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[test]
fn layouts_are_as_they_were() {
    let cluster = Cluster::new(7, Scheme::Ed25519, FaultModel::Byzantine, 4);
    let chain = cluster.chain();
    let header = cluster.first(BodyKind::Frames, b"the batch");
    let id = header.id();
    let [crash, long] = [Scheme::MlDsa65, Scheme::Hybrid]
        .map(|scheme| Cluster::new(7, scheme, FaultModel::Crash, 3).genesis.hash());
    let prevote = vote_bytes(&chain, 5, VoteType::Prevote, 6, 7, Some(&id), 8);
    let nil = vote_bytes(&chain, 5, VoteType::Precommit, 6, 7, None, 8);
    let frame = |serial, valid_until_ms| {
        let (shard, payload, settled) = ("org/ns", &b"payload"[..], serial - 1);
        CallFrame { session: &[9; 16], serial, settled, shard, payload, valid_until_ms }
    };
    let frames = [frame(1, None), frame(2, Some(77))];
    let lines = [
        ("genesis", cluster.genesis.encode()),
        ("genesis hash", cluster.genesis.hash().into()),
        ("genesis hash, ml-dsa-65", crash.into()),
        ("genesis hash, hybrid", long.into()),
        ("chain 0", chain.as_bytes().into()),
        ("chain 1", cluster.genesis.chain(1).as_bytes().into()),
        ("origin", chain.origin(6, &[7; 32]).into()),
        ("validators", cluster.set().encode()),
        ("validators digest", cluster.set().digest().into()),
        ("header", header.encode()),
        ("header id", id.into()),
        ("prevote", prevote),
        ("precommit for nothing", nil),
        ("proposal", proposal_bytes(&chain, 5, 6, 7, Some(3), &id, 8)),
        ("first proposal", proposal_bytes(&chain, 5, 6, 7, None, &id, 8)),
        ("certificate", cluster.certificate(&header, 2, &[1, 3, 4]).encode()),
        ("genesis, signed frames", cluster.genesis.clone().with_signed_frames().encode()),
        ("session", session_of(cluster.keys[0].1.public()).into()),
        ("call", call_bytes(&chain, &[9; 16], frames)),
    ];
    let found: String =
        lines.iter().map(|(name, bytes)| format!("{name}: {}\n", hex(bytes))).collect();
    assert_eq!(found, include_str!("golden.txt"), "found:\n{found}");
}
