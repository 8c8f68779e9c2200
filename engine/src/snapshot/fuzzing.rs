//! Streams of snapshots whose checksums are right and whose words are anything: what `fuzz/` gives to a sink.

use bytes::Bytes;
use quorate_replicator::NodeId;

use super::SnapshotHead;
use super::format::{PieceHead, Table, snapshot_id};

/// A stream of pieces, each of the host's table or of the machine's, with so many pairs as it says, and its id as `sender` would
/// have named it.
pub fn stream(
    sender: NodeId,
    head: SnapshotHead,
    pieces: &[(bool, u32, &[u8])],
) -> Option<(u128, Bytes)> {
    let mut body = Vec::new();
    for (of_host, pairs, piece) in pieces {
        let table = if *of_host { Table::Host } else { Table::Machine };
        body.extend_from_slice(&PieceHead::of(table, *pairs, piece).encode());
        body.extend_from_slice(piece);
    }
    let bytes = (head.encoded_bytes() + body.len()) as u64;
    let head = SnapshotHead { bytes, ..head }.encode().ok()?;
    Some((snapshot_id(sender, &head), [&head[..], &body].concat().into()))
}
