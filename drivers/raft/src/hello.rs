//! What nodes tell of themselves before they are members, and to those who are none.

use bytes::Bytes;
use quorate_replicator::NodeId;
use quorate_storage::Index;

use crate::codec::{Incarnation, Malformed, Reader, Writer};
use crate::members::{MEMBERS_MAX, NUMBER_MAX};
use crate::stored::{read_founding, write_founding};

/// Who somebody is, as far as it is durable there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Its directory.
    pub(crate) incarnation: Incarnation,
    /// The founding members in its configuration.
    pub(crate) founders: Vec<NodeId>,
    /// The founding members with their directories, as it has stored them; empty before.
    pub(crate) stored: Vec<(NodeId, Incarnation)>,
    /// Whether all founding members are known to have stored that.
    pub(crate) active: bool,
    /// Its raft id; 0 if it has none.
    pub(crate) raft: u64,
    /// Whether it wants an answer.
    pub(crate) asks: bool,
    /// What it knows of the receiver.
    pub(crate) you: You,
}

/// What somebody knows of the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum You {
    /// Nothing: it is no member itself.
    Unknown,
    /// That it is a member, with this directory.
    Member(Incarnation),
    /// That it is no member.
    Stranger,
    /// That it was a member until this index.
    Removed(Index),
}

impl Hello {
    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.incarnation(&self.incarnation).count(self.founders.len());
        for node in &self.founders {
            writer.node(*node);
        }
        write_founding(writer, &self.stored);
        writer.bool(self.active).u64(self.raft).bool(self.asks);
        match self.you {
            You::Unknown => writer.u8(0),
            You::Member(incarnation) => writer.u8(1).incarnation(&incarnation),
            You::Stranger => writer.u8(2),
            You::Removed(at) => writer.u8(3).u64(at),
        };
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let incarnation = reader.incarnation()?;
        let mut founders: Vec<NodeId> = Vec::new();
        for _ in 0..reader.count(MEMBERS_MAX, 8)? {
            founders.push(reader.node()?);
        }
        if !founders.is_sorted_by(|a, b| a < b) {
            return Err(Malformed("founding members are out of order"));
        }
        Ok(Self {
            incarnation,
            founders,
            stored: read_founding(reader)?,
            active: reader.bool()?,
            raft: reader.u64(NUMBER_MAX)?,
            asks: reader.bool()?,
            you: match reader.u8()? {
                0 => You::Unknown,
                1 => You::Member(reader.incarnation()?),
                2 => You::Stranger,
                3 => You::Removed(reader.u64(NUMBER_MAX)?),
                _ => return Err(Malformed("an unknown word about the receiver")),
            },
        })
    }
}

/// The first byte of every message and of what goes with a snapshot.
const VERSION: u8 = 0x71;

const HELLO: u8 = 1;
const RAFT: u8 = 2;
const SNAPSHOT: u8 = 3;
const SLEEP: u8 = 4;

/// Between which directories messages of the core are exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) from_raft: u64,
    pub(crate) from: Incarnation,
    pub(crate) to_raft: u64,
    pub(crate) to: Incarnation,
}

/// What a head says before its contents.
#[derive(Debug)]
pub(crate) enum Head<'a> {
    Hello(Hello),
    /// Messages of the core follow, this many.
    Raft(Envelope, usize, Reader<'a>),
    /// The leader of a term has nothing to do, with the log up to an index.
    Sleep(Envelope, u64, Index),
    /// Words for the core about a snapshot follow.
    Snapshot(Envelope, Reader<'a>),
}

/// Most messages of the core in one.
pub(crate) const MESSAGES_MAX: usize = 1024;

impl Envelope {
    fn write(&self, writer: &mut Writer) {
        writer.u64(self.from_raft).incarnation(&self.from);
        writer.u64(self.to_raft).incarnation(&self.to);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (from_raft, from) = (reader.u64(NUMBER_MAX)?, reader.incarnation()?);
        let (to_raft, to) = (reader.u64(NUMBER_MAX)?, reader.incarnation()?);
        if from_raft == 0 || to_raft == 0 || from_raft == to_raft {
            return Err(Malformed("a message is between nobody"));
        }
        Ok(Self { from_raft, from, to_raft, to })
    }

    /// The head of a message of `count` messages of the core, which are written behind it.
    pub(crate) fn begin(&self, count: usize) -> Writer {
        let mut writer = Writer::default();
        writer.u8(VERSION).u8(RAFT);
        self.write(&mut writer);
        writer.count(count);
        writer
    }

    /// Tells that there is nothing to do.
    pub(crate) fn sleep(&self, term: u64, last: Index) -> Bytes {
        let mut writer = Writer::default();
        writer.u8(VERSION).u8(SLEEP);
        self.write(&mut writer);
        writer.u64(term).u64(last);
        writer.finish()
    }

    /// What goes with a snapshot, to be written behind it.
    pub(crate) fn begin_snapshot(&self) -> Writer {
        let mut writer = Writer::default();
        writer.u8(VERSION).u8(SNAPSHOT);
        self.write(&mut writer);
        writer
    }
}

impl Hello {
    pub(crate) fn encode(&self) -> Bytes {
        let mut writer = Writer::default();
        writer.u8(VERSION).u8(HELLO);
        self.write(&mut writer);
        writer.finish()
    }
}

impl<'a> Head<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return Err(Malformed("a message of another version, or of another driver"));
        }
        match reader.u8()? {
            HELLO => {
                let hello = Hello::read(&mut reader)?;
                reader.finish()?;
                Ok(Self::Hello(hello))
            }
            RAFT => {
                let envelope = Envelope::read(&mut reader)?;
                let count = reader.count(MESSAGES_MAX, 2)?;
                Ok(Self::Raft(envelope, count, reader))
            }
            SLEEP => {
                let envelope = Envelope::read(&mut reader)?;
                let (term, last) = (reader.u64(NUMBER_MAX)?, reader.u64(NUMBER_MAX)?);
                reader.finish()?;
                Ok(Self::Sleep(envelope, term, last))
            }
            SNAPSHOT => Ok(Self::Snapshot(Envelope::read(&mut reader)?, reader)),
            _ => Err(Malformed("an unknown kind of message")),
        }
    }
}
