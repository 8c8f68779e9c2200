//! Messages of the core as bytes: an encoding of our own, of which every field is checked before the core sees it.
//!
//! Entries' bodies are not in the head: they are the same bytes that are in the log, and are shared.

use bytes::Bytes;
use quorate_storage::Index;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use crate::codec::{Malformed, Reader, Writer};
use crate::members::{Mark, NUMBER_MAX};

/// Most entries of one append.
const ENTRIES_MAX: usize = 16_384;

/// Most bytes of a read's name.
const CONTEXT_BYTES_MAX: usize = 32;

/// Marks an entry of frames, so that a batch of no bytes stays a batch.
const FRAMES: &[u8] = b"f";

/// What the core reads from a vote request of a member that was told to take over.
const TRANSFER: &[u8] = b"CampaignTransfer";

const APPEND: u8 = 1;
const APPEND_REPLY: u8 = 2;
const VOTE: u8 = 3;
const VOTE_REPLY: u8 = 4;
const PRE_VOTE: u8 = 5;
const PRE_VOTE_REPLY: u8 = 6;
const HEARTBEAT: u8 = 7;
const HEARTBEAT_REPLY: u8 = 8;
const READ: u8 = 9;
const READ_REPLY: u8 = 10;
const TIMEOUT_NOW: u8 = 11;

/// An entry without its place.
pub(crate) fn entry(body: quorate_storage::Body) -> Entry {
    let mut entry = Entry::default();
    match body {
        quorate_storage::Body::Empty => {}
        quorate_storage::Body::Frames(frames) => {
            entry.data = frames;
            entry.context = Bytes::from_static(FRAMES);
        }
        quorate_storage::Body::Members(members) => {
            entry.data = members;
            entry.set_entry_type(EntryType::EntryConfChangeV2);
        }
    }
    entry
}

/// What an entry carries.
pub(crate) fn body(entry: &Entry) -> quorate_storage::Body {
    match entry.get_entry_type() {
        EntryType::EntryNormal if entry.context.is_empty() => quorate_storage::Body::Empty,
        EntryType::EntryNormal => quorate_storage::Body::Frames(entry.data.clone()),
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
            quorate_storage::Body::Members(entry.data.clone())
        }
    }
}

/// Adds a message to a head, and its bodies to those of the head. `false` if it is of a kind that is not sent.
pub(super) fn write(message: &Message, writer: &mut Writer, bodies: &mut Vec<Bytes>) -> bool {
    let m = message;
    match m.get_msg_type() {
        MessageType::MsgAppend => {
            writer.u8(APPEND).u64(m.term).u64(m.log_term).u64(m.index).u64(m.commit);
            writer.count(m.entries.len());
            for entry in m.entries.iter() {
                let kind = match body(entry) {
                    quorate_storage::Body::Empty => 0,
                    quorate_storage::Body::Frames(_) => 1,
                    quorate_storage::Body::Members(_) => 2,
                };
                writer.u64(entry.term).u8(kind);
                if kind != 0 {
                    bodies.push(entry.data.clone());
                }
            }
        }
        MessageType::MsgAppendResponse => {
            writer.u8(APPEND_REPLY).u64(m.term).u64(m.index).u64(m.commit);
            writer.bool(m.reject).u64(m.reject_hint).u64(m.log_term);
        }
        MessageType::MsgRequestVote => write_vote(VOTE, m, writer),
        MessageType::MsgRequestPreVote => write_vote(PRE_VOTE, m, writer),
        MessageType::MsgRequestVoteResponse => write_vote_reply(VOTE_REPLY, m, writer),
        MessageType::MsgRequestPreVoteResponse => write_vote_reply(PRE_VOTE_REPLY, m, writer),
        MessageType::MsgHeartbeat => {
            writer.u8(HEARTBEAT).u64(m.term).u64(m.commit).bytes(&m.context);
        }
        MessageType::MsgHeartbeatResponse => {
            writer.u8(HEARTBEAT_REPLY).u64(m.term).u64(m.commit).bytes(&m.context);
        }
        MessageType::MsgReadIndex => {
            writer.u8(READ).bytes(&m.entries[0].data);
        }
        MessageType::MsgReadIndexResp => {
            writer.u8(READ_REPLY).u64(m.term).u64(m.index).bytes(&m.entries[0].data);
        }
        MessageType::MsgTimeoutNow => {
            writer.u8(TIMEOUT_NOW).u64(m.term);
        }
        // Snapshots travel as streams, proposals are forwarded as frames, and the rest never leaves a node.
        _ => return false,
    }
    true
}

fn write_vote(kind: u8, m: &Message, writer: &mut Writer) {
    writer.u8(kind).u64(m.term).u64(m.log_term).u64(m.index).u64(m.commit).u64(m.commit_term);
    writer.bool(&m.context[..] == TRANSFER);
}

fn write_vote_reply(kind: u8, m: &Message, writer: &mut Writer) {
    writer.u8(kind).u64(m.term).bool(m.reject).u64(m.commit).u64(m.commit_term);
}

/// Reads one message. Addresses are the caller's to fill in.
pub(super) fn read(
    reader: &mut Reader<'_>,
    bodies: &mut impl Iterator<Item = Bytes>,
) -> Result<Message, Malformed> {
    let mut m = Message::default();
    let kind = reader.u8()?;
    match kind {
        APPEND => {
            m.set_msg_type(MessageType::MsgAppend);
            m.term = term(reader)?;
            (m.log_term, m.index) = (number(reader)?, number(reader)?);
            m.commit = number(reader)?;
            check_last(m.index, m.log_term, m.term)?;
            m.set_entries(read_entries(reader, &m, bodies)?.into());
        }
        APPEND_REPLY => {
            m.set_msg_type(MessageType::MsgAppendResponse);
            m.term = term(reader)?;
            (m.index, m.commit) = (number(reader)?, number(reader)?);
            m.reject = reader.bool()?;
            (m.reject_hint, m.log_term) = (number(reader)?, number(reader)?);
            if m.reject && m.reject_hint > m.index || m.log_term > m.term {
                return Err(Malformed("a reply hints beyond what it refuses"));
            }
        }
        VOTE | PRE_VOTE => {
            m.set_msg_type(match kind {
                VOTE => MessageType::MsgRequestVote,
                _ => MessageType::MsgRequestPreVote,
            });
            m.term = term(reader)?;
            (m.log_term, m.index) = (number(reader)?, number(reader)?);
            (m.commit, m.commit_term) = (number(reader)?, number(reader)?);
            check_last(m.index, m.log_term, m.term - 1)?;
            if m.commit > m.index || m.commit_term > m.log_term {
                return Err(Malformed("a candidate knows more to be decided than it has"));
            }
            if reader.bool()? {
                m.context = Bytes::from_static(TRANSFER);
            }
        }
        VOTE_REPLY | PRE_VOTE_REPLY => {
            m.set_msg_type(match kind {
                VOTE_REPLY => MessageType::MsgRequestVoteResponse,
                _ => MessageType::MsgRequestPreVoteResponse,
            });
            (m.term, m.reject) = (term(reader)?, reader.bool()?);
            (m.commit, m.commit_term) = (number(reader)?, number(reader)?);
        }
        HEARTBEAT | HEARTBEAT_REPLY => {
            m.set_msg_type(match kind {
                HEARTBEAT => MessageType::MsgHeartbeat,
                _ => MessageType::MsgHeartbeatResponse,
            });
            (m.term, m.commit) = (term(reader)?, number(reader)?);
            m.context = Bytes::copy_from_slice(reader.bytes(CONTEXT_BYTES_MAX)?);
        }
        READ | READ_REPLY => {
            m.set_msg_type(match kind {
                READ => MessageType::MsgReadIndex,
                _ => MessageType::MsgReadIndexResp,
            });
            if kind == READ_REPLY {
                (m.term, m.index) = (term(reader)?, number(reader)?);
            }
            let data = Bytes::copy_from_slice(reader.bytes(CONTEXT_BYTES_MAX)?);
            let named = Entry { data, ..Entry::default() };
            m.set_entries(vec![named].into());
        }
        TIMEOUT_NOW => {
            m.set_msg_type(MessageType::MsgTimeoutNow);
            m.term = term(reader)?;
        }
        _ => return Err(Malformed("an unknown kind of message")),
    }
    Ok(m)
}

fn read_entries(
    reader: &mut Reader<'_>,
    m: &Message,
    bodies: &mut impl Iterator<Item = Bytes>,
) -> Result<Vec<Entry>, Malformed> {
    let count = reader.count(ENTRIES_MAX, 9)?;
    let mut entries = Vec::with_capacity(count);
    let (mut index, mut before) = (m.index, m.log_term);
    for _ in 0..count {
        let entry_term = term(reader)?;
        if entry_term < before || entry_term > m.term {
            return Err(Malformed("terms of entries fall, or are ahead of their leader"));
        }
        (index, before) = (index + 1, entry_term);
        let mut body = || bodies.next().ok_or(Malformed("a body is missing"));
        let mut entry = entry(match reader.u8()? {
            0 => quorate_storage::Body::Empty,
            1 => quorate_storage::Body::Frames(body()?),
            2 => quorate_storage::Body::Members(body()?),
            _ => return Err(Malformed("an unknown kind of entry")),
        });
        (entry.index, entry.term) = (index, entry_term);
        entries.push(entry);
    }
    Ok(entries)
}

fn number(reader: &mut Reader<'_>) -> Result<u64, Malformed> {
    reader.u64(NUMBER_MAX)
}

/// A term that somebody leads or asks to lead.
fn term(reader: &mut Reader<'_>) -> Result<u64, Malformed> {
    match number(reader)? {
        0 => Err(Malformed("term 0 has no leader")),
        term => Ok(term),
    }
}

/// The first place has no entry and no term, every other one has both.
fn check_last(index: Index, log_term: u64, term_max: u64) -> Result<(), Malformed> {
    if (index == 0) != (log_term == 0) || log_term > term_max {
        return Err(Malformed("an entry and its term do not fit"));
    }
    Ok(())
}

/// What goes with a snapshot: the sender's term, and the term of the snapshot's last entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotHead {
    pub(crate) term: u64,
    pub(crate) snapshot_term: u64,
}

impl SnapshotHead {
    pub(crate) fn write(self, writer: &mut Writer) {
        writer.u64(self.term).u64(self.snapshot_term);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { term: term(reader)?, snapshot_term: term(reader)? })
    }

    /// Whether the mark that came with a snapshot is the one its sender meant.
    pub(crate) fn fits(self, index: Index, mark: &Mark) -> bool {
        mark.term == self.snapshot_term
            && self.snapshot_term <= self.term
            && (1..=NUMBER_MAX).contains(&index)
            && mark.members.changed_at() <= index
    }
}
