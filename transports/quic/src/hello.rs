//! The greeting: what both ends say before they count as connected.

use bytes::{Buf as _, Bytes};
use quorate_replicator::{ClusterId, NodeId};

use crate::codec::{FrameError, Kind, frame};

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
        let mut body = Vec::with_capacity(52);
        body.extend_from_slice(&self.protocol.to_le_bytes());
        body.extend_from_slice(&self.cluster.bytes());
        for number in [self.node.number(), self.incarnation, self.attempt, self.to.number()] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        frame(Kind::Hello, &body)
    }

    /// Reads the body of a frame. Any bytes of the right length are a greeting; whether it fits is another question.
    pub(crate) fn decode(mut body: Bytes) -> Result<Self, FrameError> {
        let wrong = |_| FrameError::Body(Kind::Hello);
        let protocol = body.try_get_u32_le().map_err(wrong)?;
        let cluster = ClusterId::new(body.try_get_u128().map_err(wrong)?.to_be_bytes());
        let mut number = || body.try_get_u64_le().map_err(wrong);
        let (node, incarnation) = (NodeId::new(number()?), number()?);
        let (attempt, to) = (number()?, NodeId::new(number()?));
        if !body.is_empty() {
            return Err(FrameError::Body(Kind::Hello));
        }
        Ok(Self { protocol, cluster, node, incarnation, attempt, to })
    }

    /// Whether this is what the holder of the certificate of `node` may say to `me`; the words say what is not.
    pub(crate) fn check(&self, cluster: ClusterId, node: NodeId, me: NodeId) -> Result<(), String> {
        if self.protocol != PROTOCOL {
            let theirs = self.protocol;
            return Err(format!(
                "{node} speaks version {theirs} of the protocol, this node speaks {PROTOCOL}; upgrade the older one"
            ));
        }
        if self.cluster != cluster {
            let theirs = self.cluster;
            return Err(format!(
                "{node} says it is of cluster {theirs}, its certificate is of {cluster}"
            ));
        }
        if self.node != node {
            return Err(format!("the certificate is of {node}, and it calls itself {}", self.node));
        }
        if self.to != me {
            let to = self.to;
            return Err(format!(
                "{node} means to speak to {to}, this is {me}; check its table of peers"
            ));
        }
        Ok(())
    }
}
