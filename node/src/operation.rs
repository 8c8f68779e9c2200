//! Lines as operations of the key-value state, and its answers.

use quorate::kv::Op;
use quorate::limits::FRAME_BYTES_MAX;
use quorate::{Bytes, Reply, kv};

use crate::ndjson::Line;

/// The payload of a line's frame.
///
/// # Errors
///
/// The state would refuse it whatever it holds, or it does not fit into a frame.
pub(crate) fn encode(line: &Line) -> Result<Bytes, String> {
    let key = line.key.as_bytes();
    let op = match &line.value {
        Some(value) => Op::put(key, value),
        None => Op::delete(key),
    };
    op.check().map_err(|refusal| refusal.to_string())?;
    let payload = op.encode();
    if payload.len() > FRAME_BYTES_MAX {
        return Err(format!(
            "its frame would have {} bytes, at most {FRAME_BYTES_MAX} are allowed",
            payload.len()
        ));
    }
    Ok(payload)
}

/// Why the state refused an accepted frame, if it did.
pub(crate) fn refusal(reply: &Reply) -> Option<String> {
    // A forgotten reply belongs to an earlier run, which reported it.
    match kv::Reply::decode(reply.bytes()?) {
        Ok(kv::Reply::Refused(refusal)) => Some(refusal.to_string()),
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}
