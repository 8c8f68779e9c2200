//! Segments whose checksums are right and whose records are anything: what `fuzz/` gives to recovery.

use super::format::{
    BLOCK_HEADER, BlockHeader, BlockKind, RUN_HEADER, SECTOR, SegmentHeader, run_seal, seed,
};
use crate::Group;

/// A block to be sealed.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// 0 is a commit, 1 the head of a segment, anything else the end of a log that was closed.
    pub kind: u8,
    /// How many records it says it has.
    pub records: u32,
    /// What stands where records do.
    pub run: &'a [u8],
}

/// The first segment of a store, with as many of the blocks as fit.
pub fn segment(store: [u8; 16], segment_bytes: usize, blocks: &[Block<'_>]) -> Vec<u8> {
    let number = 1;
    let seed = seed(&store, number);
    let (mut lsn, mut chain) = (1, 0);
    let header = SegmentHeader {
        store,
        segment: number,
        first_lsn: lsn,
        chain,
        segment_bytes: segment_bytes as u64,
    };
    let mut bytes = header.encode().to_vec();
    for Block { kind, records, run } in blocks {
        let (run_head, runs_crc) = run_seal(seed, run);
        let mut header = BlockHeader {
            kind: match kind {
                0 => BlockKind::Data,
                1 => BlockKind::Head,
                _ => BlockKind::Close,
            },
            len: (RUN_HEADER + run.len()) as u32,
            records: *records,
            offset: bytes.len() as u32,
            runs_crc,
            lsn,
            oldest: number,
            chain,
            crc: 0,
        };
        let mut block = vec![0; BLOCK_HEADER];
        header.encode(seed, &mut block);
        block.extend_from_slice(&run_head);
        block.extend_from_slice(run);
        block.resize(block.len().next_multiple_of(SECTOR), 0);
        if bytes.len() + block.len() > segment_bytes {
            break;
        }
        bytes.extend_from_slice(&block);
        (lsn, chain) = (lsn + 1, header.crc);
    }
    bytes.resize(segment_bytes, 0);
    bytes
}

/// The group of every record that is whole, as far as records can be read: by their heads alone, and by decoding them. Both must
/// be the same.
pub fn groups(run: &[u8]) -> (Vec<Group>, Vec<Group>) {
    let mut heads = super::format::Records::new(run.to_vec().into(), 0);
    let mut seen = Vec::new();
    while let Some((_, head)) = heads.peek() {
        seen.push(head.group);
        heads.skip_seen();
    }
    let decoded = super::format::Records::new(run.to_vec().into(), 0);
    (seen, decoded.map_while(Result::ok).map(|(_, group, _)| group).collect())
}
