//! What a node keeps beside its log: its ballots, how far it knows the log to be decided, and who it is.

use bytes::Bytes;
use quorate_replicator::NodeId;
use quorate_storage::Index;

use crate::codec::{Incarnation, Malformed, Reader, Writer};
use crate::members::{MEMBERS_MAX, NUMBER_MAX};

const VERSION: u8 = 1;

/// The durable state: the last one counts.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Stored {
    /// The newest term this node has seen.
    pub(crate) term: u64,
    /// The raft id that has its vote in that term; 0 if nobody has.
    pub(crate) vote: u64,
    /// Up to here the log is known to be decided. Always written after the entries it speaks of.
    pub(crate) commit: Index,
    pub(crate) identity: Option<Identity>,
}

/// Which member this directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Its raft id.
    pub(crate) raft: u64,
    /// Whether every founding member is known to have stored the same founding, so that this node may vote.
    pub(crate) active: bool,
    /// The founding members with their directories, in the order of the node ids.
    pub(crate) founding: Vec<(NodeId, Incarnation)>,
}

impl Stored {
    pub(crate) fn encode(&self) -> Bytes {
        let mut writer = Writer::default();
        writer.u8(VERSION).u64(self.term).u64(self.vote).u64(self.commit);
        writer.bool(self.identity.is_some());
        if let Some(Identity { raft, active, founding }) = &self.identity {
            writer.u64(*raft).bool(*active);
            write_founding(&mut writer, founding);
        }
        writer.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return Err(Malformed("a state of another version, or of another driver"));
        }
        let mut number = || reader.u64(NUMBER_MAX);
        let (term, vote, commit) = (number()?, number()?, number()?);
        let identity = match reader.bool()? {
            false => None,
            true => Some(Identity {
                raft: reader.u64(NUMBER_MAX)?,
                active: reader.bool()?,
                founding: read_founding(&mut reader)?,
            }),
        };
        reader.finish()?;
        Ok(Self { term, vote, commit, identity })
    }
}

pub(crate) fn write_founding(writer: &mut Writer, founding: &[(NodeId, Incarnation)]) {
    writer.count(founding.len());
    for (node, incarnation) in founding {
        writer.node(*node).incarnation(incarnation);
    }
}

pub(crate) fn read_founding(
    reader: &mut Reader<'_>,
) -> Result<Vec<(NodeId, Incarnation)>, Malformed> {
    let mut founding: Vec<(NodeId, Incarnation)> = Vec::new();
    for _ in 0..reader.count(MEMBERS_MAX, 24)? {
        let founder = (reader.node()?, reader.incarnation()?);
        if founding.last().is_some_and(|before| before.0 >= founder.0) {
            return Err(Malformed("founding members are out of order"));
        }
        founding.push(founder);
    }
    Ok(founding)
}
