//! Reading what others say, for `fuzz/`: what could be read, written again.

use bytes::Bytes;

use crate::codec::{Malformed, Writer};
use crate::core::{read_message, wire, write_message};
use crate::hello::{Envelope, Head};
use crate::members::{ChangeEntry, Mark};
use crate::stored::Stored;

/// The head of a message, with these bodies behind it, of which those that no message wants are left.
pub fn head(bytes: &[u8], bodies: &[Bytes]) -> Option<Bytes> {
    read_head(bytes, bodies).ok()
}

fn read_head(bytes: &[u8], bodies: &[Bytes]) -> Result<Bytes, Malformed> {
    match Head::read(bytes)? {
        Head::Hello(hello) => Ok(hello.encode()),
        Head::Sleep(envelope, term, last) => Ok(envelope.sleep(term, last)),
        Head::Snapshot(envelope, mut reader) => {
            let head = wire::SnapshotHead::read(&mut reader)?;
            reader.finish()?;
            let mut writer = envelope.begin_snapshot();
            head.write(&mut writer);
            Ok(writer.finish())
        }
        Head::Raft(envelope, count, mut reader) => {
            let Envelope { from_raft, to_raft, .. } = envelope;
            let mut bodies = bodies.iter().cloned();
            let mut writer: Writer = envelope.begin(count);
            for _ in 0..count {
                let message = read_message(&mut reader, &mut bodies, from_raft, to_raft)?;
                assert!(write_message(&message, &mut writer, &mut Vec::new()), "{message:?}");
            }
            reader.finish()?;
            Ok(writer.finish())
        }
    }
}

/// A mark: the members at an index, as they stand in checkpoints and with snapshots.
pub fn mark(bytes: &[u8]) -> Option<Bytes> {
    Mark::decode(bytes).ok().map(|mark| mark.encode())
}

/// An entry that changes members.
pub fn change(bytes: &[u8]) -> Option<Bytes> {
    ChangeEntry::decode(bytes).ok().map(|change| change.encode())
}

/// Term, vote and identity, as they stand in the log.
pub fn stored(bytes: &[u8]) -> Option<Bytes> {
    Stored::decode(bytes).ok().map(|stored| stored.encode())
}
