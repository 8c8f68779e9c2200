//! What the cores of two nodes say to one another, and how it stands on the wire.
//!
//! ```text
//!   version u8 | kind u8 | group u32 | what the kind says          all numbers little-endian
//! ```
//!
//! Bytes that come from another node are read within bounds: no more than a megabyte is allocated on the word of the length of a
//! list, bodies share the memory of the packet, and all bytes must be used.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_replicator::{AdminError, Channel, GroupId, NodeId, Resource};
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::engine::{Admin, Message};
use crate::reach::MemberList;

/// The version of this encoding.
const VERSION: u8 = 1;

/// Version, kind and group.
const HEAD_BYTES: usize = 6;

const ALIVE: u8 = 0;
const ENGINE: u8 = 1;
const FORWARD: u8 = 2;
const REFUSED: u8 = 3;
const ADMIN: u8 = 4;
const ADMIN_ANSWER: u8 = 5;

/// What one node says to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// The process is there, whatever its groups do; and who the members are, as far as it knows.
    Alive(MemberList),
    /// Of an engine to its counterpart.
    Engine(Message),
    /// Frames to be proposed by the receiver.
    Forward(Forward),
    /// Frames that the receiver of a [`Packet::Forward`] does not take.
    Refused(Refused),
    /// An operator's wish for the one who leads.
    Admin {
        /// Names the wish at its sender.
        ticket: u64,
        /// How long the caller is still willing to wait.
        within: Duration,
        /// What is wanted.
        admin: Admin,
    },
    /// What came of an operator's wish.
    AdminAnswer {
        /// Which.
        ticket: u64,
        /// What came of it.
        answer: Result<(), AdminError>,
    },
}

/// Frames to be proposed by the receiver. They belong to a stream, and only the next one of a stream is taken: frames that were
/// forwarded in an order are proposed in that order or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Which stream, unique at its sender.
    pub stream: u64,
    /// Its place in the stream, from 0.
    pub number: u64,
    /// How long the callers are still willing to wait.
    pub within: Duration,
    /// The frames, encoded as a batch.
    pub batch: Bytes,
}

/// Why forwarded frames were not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Of which stream.
    pub stream: u64,
    /// Which of it.
    pub number: u64,
    /// Why.
    pub why: Refusal,
}

/// Why forwarded frames were not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The receiver does not propose; who does, if it knows.
    NotLeader(Option<NodeId>),
    /// Something of the stream before this did not arrive.
    Gap,
    /// The receiver holds as much as it may.
    Overloaded(Resource, u64),
    /// The receiver's disk has no room.
    StorageFull,
}

/// Bytes that are not a packet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a packet of this version: {0}")]
pub struct PacketError(&'static str);

impl Packet {
    /// The channel that it travels on.
    pub const fn channel(&self, urgent: bool) -> Channel {
        match self {
            Self::Alive(_) => Channel::Control,
            Self::Engine(_) if urgent => Channel::Control,
            Self::Engine(_) => Channel::Entries,
            Self::Forward(_) | Self::Refused(_) | Self::Admin { .. } | Self::AdminAnswer { .. } => {
                Channel::Requests
            }
        }
    }

    /// As it goes to another node.
    pub fn encode(&self, group: GroupId) -> Bytes {
        let mut bytes = BytesMut::with_capacity(HEAD_BYTES + self.size_hint());
        bytes.put_u8(VERSION);
        bytes.put_u8(self.kind());
        bytes.put_u32_le(group.number());
        match self {
            Self::Alive(members) => bytes.put_slice(&codec::encode(members)),
            Self::Engine(Message { head, bodies }) => {
                put_sized(&mut bytes, head);
                for body in bodies {
                    put_sized(&mut bytes, body);
                }
            }
            Self::Forward(Forward { stream, number, within, batch }) => {
                bytes.put_u64_le(*stream);
                bytes.put_u64_le(*number);
                bytes.put_u32_le(millis(*within));
                bytes.put_slice(batch);
            }
            Self::Refused(Refused { stream, number, why }) => {
                bytes.put_u64_le(*stream);
                bytes.put_u64_le(*number);
                bytes.put_slice(&codec::encode(why));
            }
            Self::Admin { ticket, within, admin } => {
                bytes.put_u64_le(*ticket);
                bytes.put_u32_le(millis(*within));
                bytes.put_slice(&codec::encode(admin));
            }
            Self::AdminAnswer { ticket, answer } => {
                bytes.put_u64_le(*ticket);
                bytes.put_slice(&codec::encode(answer));
            }
        }
        bytes.freeze()
    }

    /// Reads what came from another node.
    ///
    /// # Errors
    ///
    /// The bytes are not a packet of this version.
    pub fn decode(bytes: &Bytes) -> Result<(GroupId, Self), PacketError> {
        let mut rest = Rest { bytes, at: 0 };
        if rest.u8()? != VERSION {
            return Err(PacketError("another version"));
        }
        let kind = rest.u8()?;
        let group = GroupId::new(rest.u32()?);
        let packet = match kind {
            ALIVE => Self::Alive(rest.value()?),
            ENGINE => {
                let head = rest.sized()?;
                let mut bodies = Vec::new();
                // Each takes four bytes of the packet at least, so its length bounds their number.
                while rest.at < bytes.len() {
                    bodies.push(rest.sized()?);
                }
                Self::Engine(Message { head, bodies })
            }
            FORWARD => Self::Forward(Forward {
                stream: rest.u64()?,
                number: rest.u64()?,
                within: Duration::from_millis(rest.u32()?.into()),
                batch: rest.all(),
            }),
            REFUSED => Self::Refused(Refused {
                stream: rest.u64()?,
                number: rest.u64()?,
                why: rest.value()?,
            }),
            ADMIN => Self::Admin {
                ticket: rest.u64()?,
                within: Duration::from_millis(rest.u32()?.into()),
                admin: rest.value()?,
            },
            ADMIN_ANSWER => Self::AdminAnswer { ticket: rest.u64()?, answer: rest.value()? },
            _ => return Err(PacketError("unknown kind")),
        };
        if rest.at != bytes.len() {
            return Err(PacketError("bytes follow it"));
        }
        Ok((group, packet))
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Alive(_) => ALIVE,
            Self::Engine(_) => ENGINE,
            Self::Forward(_) => FORWARD,
            Self::Refused(_) => REFUSED,
            Self::Admin { .. } => ADMIN,
            Self::AdminAnswer { .. } => ADMIN_ANSWER,
        }
    }

    fn size_hint(&self) -> usize {
        match self {
            Self::Engine(Message { head, bodies }) => {
                head.len() + bodies.iter().map(|body| body.len() + 4).sum::<usize>() + 4
            }
            Self::Forward(forward) => forward.batch.len() + 20,
            _ => 64,
        }
    }
}

/// Milliseconds, rounded up: what is left of a wait must not become nothing.
fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

fn put_sized(bytes: &mut BytesMut, part: &Bytes) {
    bytes.put_u32_le(u32::try_from(part.len()).expect("a message is far smaller"));
    bytes.put_slice(part);
}

/// What is not yet read of a packet.
struct Rest<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Rest<'_> {
    fn take(&mut self, length: usize) -> Result<Bytes, PacketError> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(PacketError("it is cut short"))?;
        let part = self.bytes.slice(self.at..end);
        self.at = end;
        Ok(part)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PacketError> {
        let part = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>());
        let part = *part.ok_or(PacketError("it is cut short"))?;
        self.at += N;
        Ok(part)
    }

    fn u8(&mut self) -> Result<u8, PacketError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, PacketError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, PacketError> {
        self.array().map(u64::from_le_bytes)
    }

    fn sized(&mut self) -> Result<Bytes, PacketError> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    fn all(&mut self) -> Bytes {
        let rest = self.bytes.slice(self.at..);
        self.at = self.bytes.len();
        rest
    }

    fn value<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, PacketError> {
        codec::decode_all(&self.all()).map_err(|_| PacketError("its words cannot be read"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quorate_replicator::{Member, MemberChange, MemberRole};

    use super::*;

    fn packets() -> Vec<Packet> {
        let change = MemberChange::Add {
            node: NodeId::new(4),
            address: "host:7000".into(),
            role: MemberRole::Voter,
        };
        let (node, role, address) = (NodeId::new(1), MemberRole::Voter, "host:7001".into());
        let member = Member { node, role, address };
        vec![
            Packet::Alive(MemberList { since: 9, members: vec![member] }),
            Packet::Engine(Message::default()),
            Packet::Engine(Message {
                head: Bytes::from_static(b"head"),
                bodies: vec![Bytes::new(), Bytes::from_static(b"body"), Bytes::from(vec![7; 300])],
            }),
            Packet::Forward(Forward {
                stream: 1,
                number: 2,
                within: Duration::from_millis(1500),
                batch: Bytes::from_static(b"frames"),
            }),
            Packet::Refused(Refused {
                stream: 1,
                number: 2,
                why: Refusal::Overloaded(Resource::Frames, 9),
            }),
            Packet::Admin {
                ticket: 5,
                within: Duration::from_secs(3),
                admin: Admin::Change(change),
            },
            Packet::AdminAnswer { ticket: 5, answer: Ok(()) },
            Packet::AdminAnswer {
                ticket: 5,
                answer: Err(AdminError::Refused { reason: "no".into() }),
            },
        ]
    }

    #[test]
    fn packets_come_back_as_they_were() {
        for packet in packets() {
            let group = GroupId::new(77);
            assert_eq!(Packet::decode(&packet.encode(group)), Ok((group, packet)));
        }
    }

    /// A peer that lags is sent as many small entries as fit.
    #[test]
    fn a_message_has_any_number_of_bodies() {
        let message = Message { head: Bytes::new(), bodies: vec![Bytes::new(); 100_000] };
        let packet = Packet::Engine(message);
        let group = GroupId::new(1);
        assert_eq!(Packet::decode(&packet.encode(group)), Ok((group, packet)));
    }

    #[test]
    fn what_is_cut_short_is_refused_or_another_packet_of_its_kind() {
        for packet in packets() {
            let bytes = packet.encode(GroupId::new(1));
            for length in 0..bytes.len() {
                let cut = Packet::decode(&bytes.slice(..length));
                // A list of bodies and a batch end where the packet ends; whoever reads them checks what they hold.
                let open = matches!(packet, Packet::Engine(_) | Packet::Forward(_));
                assert!(open || cut.is_err(), "{packet:?} cut at {length}");
                assert_ne!(cut.ok().map(|(_, cut)| cut), Some(packet.clone()));
            }
        }
    }

    #[test]
    fn time_that_is_left_is_not_rounded_to_nothing() {
        assert_eq!(millis(Duration::from_micros(1)), 1);
        assert_eq!(millis(Duration::from_secs(1 << 40)), u32::MAX);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = Packet::decode(&bytes.into());
        }

        #[test]
        fn no_damage_panics(which in 0usize..8, place in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = packets()[which].encode(GroupId::new(1)).to_vec();
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
            let _ = Packet::decode(&bytes.into());
        }
    }
}
