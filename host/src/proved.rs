//! Decided batches that are read back from the log, for callers who do not believe this node.

use quorate_replicator::{DecidedBatch, GroupId, ReadError};
use quorate_storage::{Body, Group, Index, LogReader};

/// The batch at `index` with its proof.
pub(crate) fn read(
    reader: &LogReader,
    group: GroupId,
    index: Index,
) -> Result<DecidedBatch, ReadError> {
    let no_proof = |reason| ReadError::NoProof { reason };
    let read = reader.read(Group::new(group.number()), index..index + 1, usize::MAX);
    let found = read.map_err(|error| no_proof(error.to_string()))?.pop();
    let (entry, proof) = found.filter(|(_, proof)| !proof.is_empty()).ok_or_else(|| {
        no_proof(format!("the log has none for index {index}; ask another node for it"))
    })?;
    let body = match entry.body {
        Body::Empty => bytes::Bytes::new(),
        Body::Frames(body) | Body::Members(body) => body,
    };
    Ok(DecidedBatch { head: entry.head, body, proof })
}
