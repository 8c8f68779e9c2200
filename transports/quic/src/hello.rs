//! The greeting: what both ends say before they count as connected.

use std::fmt::Display;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use quinn::{Connection, SendStream};
use quorate_replicator::{ClusterId, NodeId};

use crate::Subject;
use crate::codec::{FrameError, Kind, frame};
use crate::frame_stream::{FrameStream, StreamError};

/// The version of what is said on the streams, beside the one in the handshake, which says how to greet.
pub(crate) const PROTOCOL: u32 = 1;

/// What one end says of itself.
///
/// The certificate proves node and cluster; they stand here so that both ends notice when they mean different things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) protocol: u32,
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    /// Which life of the node; rises with each start.
    pub(crate) incarnation: u64,
    /// The number of the last dial to the other end, this one if it is one. Numbers rise within a life, so that a greeting can
    /// be told from an older one.
    pub(crate) attempt: u64,
    /// Who is meant.
    pub(crate) to: NodeId,
}

impl Hello {
    pub(crate) fn encode(&self) -> Bytes {
        let mut body = begin(self.protocol, self.cluster);
        for number in [self.node.number(), self.incarnation, self.attempt, self.to.number()] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        frame(Kind::Hello, &body)
    }

    /// Reads the body of a frame. Any bytes of the right length are a greeting; whether it fits is another question.
    pub(crate) fn decode(body: Bytes) -> Result<Self, FrameError> {
        decode(Kind::Hello, body, |protocol, cluster, body| {
            let mut number = || body.try_get_u64_le().ok();
            Some(Self {
                protocol,
                cluster,
                node: NodeId::new(number()?),
                incarnation: number()?,
                attempt: number()?,
                to: NodeId::new(number()?),
            })
        })
    }

    /// Whether this is what the holder of the certificate of `node` may say to `me`; the words say what is not.
    pub(crate) fn check(&self, cluster: ClusterId, node: NodeId, me: NodeId) -> Result<(), String> {
        check(&node, self.protocol, self.cluster, cluster)?;
        check_name(&node, &self.node)?;
        if self.to != me {
            let to = self.to;
            return Err(format!(
                "{node} means to speak to {to}, this is {me}; check its table of peers"
            ));
        }
        Ok(())
    }
}

/// What a client says of itself. It need not know which node it has dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientHello {
    pub(crate) protocol: u32,
    pub(crate) cluster: ClusterId,
    pub(crate) name: String,
}

impl ClientHello {
    pub(crate) fn encode(&self) -> Bytes {
        let mut body = begin(self.protocol, self.cluster);
        body.extend_from_slice(self.name.as_bytes());
        frame(Kind::ClientHello, &body)
    }

    /// Reads the body of a frame. The name is one that could stand in a certificate.
    pub(crate) fn decode(body: Bytes) -> Result<Self, FrameError> {
        decode(Kind::ClientHello, body, |protocol, cluster, body| {
            let name = body.split_off(0);
            match Subject::client(cluster, std::str::from_utf8(&name).ok()?).ok()? {
                Subject::Client { name, .. } => Some(Self { protocol, cluster, name }),
                Subject::Node { .. } => None,
            }
        })
    }

    /// Whether this is what the holder of the certificate of `name` may say; the words say what is not.
    pub(crate) fn check(&self, cluster: ClusterId, name: &str) -> Result<(), String> {
        let who = format!("client {name}");
        check(&who, self.protocol, self.cluster, cluster)?;
        check_name(&who, &format!("client {}", self.name))
    }
}

/// What a node says of itself to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Welcome {
    pub(crate) protocol: u32,
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    /// Which life of the node; rises with each start.
    pub(crate) incarnation: u64,
    /// How many lanes the client may have at once.
    pub(crate) lanes_max: u32,
}

impl Welcome {
    pub(crate) fn encode(&self) -> Bytes {
        let mut body = begin(self.protocol, self.cluster);
        body.extend_from_slice(&self.node.number().to_le_bytes());
        body.extend_from_slice(&self.incarnation.to_le_bytes());
        body.extend_from_slice(&self.lanes_max.to_le_bytes());
        frame(Kind::Welcome, &body)
    }

    /// Reads the body of a frame. Any bytes of the right length are a welcome; whether it fits is another question.
    pub(crate) fn decode(body: Bytes) -> Result<Self, FrameError> {
        decode(Kind::Welcome, body, |protocol, cluster, body| {
            Some(Self {
                protocol,
                cluster,
                node: NodeId::new(body.try_get_u64_le().ok()?),
                incarnation: body.try_get_u64_le().ok()?,
                lanes_max: body.try_get_u32_le().ok()?,
            })
        })
    }

    /// Whether this is what the holder of the certificate of `node` may say; the words say what is not.
    pub(crate) fn check(&self, cluster: ClusterId, node: NodeId) -> Result<(), String> {
        check(&node, self.protocol, self.cluster, cluster)?;
        check_name(&node, &self.node)
    }
}

/// Greets on a connection that this end has dialled, and answers the body of what the other end says.
pub(crate) async fn greet(
    connection: &Connection,
    hello: Bytes,
    answer: Kind,
    stall_timeout: Duration,
) -> Result<Bytes, StreamError> {
    let (mut send, recv) = connection.open_bi().await.map_err(StreamError::Lost)?;
    // If it cannot be written, reading says why.
    let _ = send.write_chunk(hello).await;
    let _ = send.finish();
    FrameStream::greeting(recv, answer, stall_timeout).expect_kind(answer).await
}

/// Waits for the greeting on a connection that the other end has dialled, and answers its body, and where the answer to it goes.
pub(crate) async fn greeted(
    connection: &Connection,
    greeting: Kind,
    stall_timeout: Duration,
) -> Result<(Bytes, SendStream), StreamError> {
    let (send, recv) = connection.accept_bi().await.map_err(StreamError::Lost)?;
    let body = FrameStream::greeting(recv, greeting, stall_timeout).expect_kind(greeting).await?;
    Ok((body, send))
}

/// What every greeting begins with.
fn begin(protocol: u32, cluster: ClusterId) -> Vec<u8> {
    let mut body = protocol.to_le_bytes().to_vec();
    body.extend_from_slice(&cluster.bytes());
    body
}

/// Reads what every greeting begins with, and then the rest, of which nothing may be left.
fn decode<T>(
    kind: Kind,
    mut body: Bytes,
    rest: impl FnOnce(u32, ClusterId, &mut Bytes) -> Option<T>,
) -> Result<T, FrameError> {
    let wrong = |_| FrameError::Body(kind);
    let protocol = body.try_get_u32_le().map_err(wrong)?;
    let cluster = ClusterId::new(body.try_get_u128().map_err(wrong)?.to_be_bytes());
    let read = rest(protocol, cluster, &mut body);
    read.filter(|_| body.is_empty()).ok_or(FrameError::Body(kind))
}

fn check(
    who: &dyn Display,
    protocol: u32,
    theirs: ClusterId,
    cluster: ClusterId,
) -> Result<(), String> {
    if protocol != PROTOCOL {
        return Err(format!(
            "{who} speaks version {protocol} of the protocol, the other end speaks {PROTOCOL}; upgrade the older one"
        ));
    }
    if theirs != cluster {
        return Err(format!(
            "{who} says it is of cluster {theirs}, its certificate is of {cluster}"
        ));
    }
    Ok(())
}

fn check_name<T: Display + PartialEq>(certified: &T, said: &T) -> Result<(), String> {
    if said == certified {
        Ok(())
    } else {
        Err(format!("the certificate is of {certified}, and it calls itself {said}"))
    }
}
