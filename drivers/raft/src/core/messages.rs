//! Messages of the core for those who carry them.

use bytes::Bytes;
#[cfg(test)]
use quorate_storage::Body;
use quorate_storage::Index;
use raft::eraftpb::{Message, MessageType};

use super::wire;
use crate::codec::{Malformed, Reader, Writer};
#[cfg(test)]
use crate::members::{Change, ChangeEntry};

/// Reads a message and addresses it.
pub(crate) fn read_message(
    reader: &mut Reader<'_>,
    bodies: &mut impl Iterator<Item = Bytes>,
    from: u64,
    to: u64,
) -> Result<Message, Malformed> {
    let mut message = wire::read(reader, bodies)?;
    (message.from, message.to) = (from, to);
    Ok(message)
}

/// Writes a message; `false` if it is of a kind that stays here.
pub(crate) fn write_message(m: &Message, writer: &mut Writer, bodies: &mut Vec<Bytes>) -> bool {
    wire::write(m, writer, bodies)
}

/// What matters of a message to who packs it.
pub(crate) fn describe(m: &Message) -> Kind {
    match m.get_msg_type() {
        MessageType::MsgAppend => Kind::Append {
            entries: m.entries.len(),
            bytes: m.entries.iter().map(|e| e.data.len()).sum(),
        },
        MessageType::MsgAppendResponse if !m.reject => Kind::Ack { term: m.term, index: m.index },
        MessageType::MsgHeartbeatResponse => Kind::Alive { term: m.term },
        _ => Kind::Other,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Append { entries: usize, bytes: usize },
    Ack { term: u64, index: Index },
    Alive { term: u64 },
    Other,
}

/// A message in words, for transcripts.
#[cfg(test)]
pub(crate) fn tell(m: &Message) -> String {
    let kind = format!("{:?}", m.get_msg_type());
    let mut words = kind.trim_start_matches("Msg").to_lowercase();
    let mut add = |name: &str, value: u64| words += &format!(" {name}={value}");
    if m.term > 0 {
        add("term", m.term);
    }
    match m.get_msg_type() {
        MessageType::MsgAppend => {
            words += &format!(" after={}/{} decided={}", m.log_term, m.index, m.commit);
            for entry in m.entries.iter() {
                let body = match wire::body(entry) {
                    Body::Empty => "empty".to_owned(),
                    Body::Frames(frames) => String::from_utf8_lossy(&frames).into_owned(),
                    Body::Members(change) => tell_change(&change),
                };
                words += &format!(" [{}/{} {body}]", entry.term, entry.index);
            }
        }
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
            words += &format!(" last={}/{}", m.log_term, m.index);
        }
        MessageType::MsgAppendResponse if m.reject => {
            words += &format!(" refused={} hint={}/{}", m.index, m.log_term, m.reject_hint);
        }
        MessageType::MsgAppendResponse | MessageType::MsgReadIndexResp => add("index", m.index),
        MessageType::MsgHeartbeat => add("decided", m.commit),
        _ if m.reject => words += " refused",
        _ => {}
    }
    words
}

/// A change of members in words, for transcripts.
#[cfg(test)]
pub(crate) fn tell_change(bytes: &[u8]) -> String {
    match ChangeEntry::decode(bytes).expect("it was encoded here").change {
        Change::AddLearner { raft, node, intent, .. } => {
            format!("add {node} as {raft}, to {intent:?}").to_lowercase()
        }
        change => format!("{change:?}").to_lowercase(),
    }
}
