//! Frames, written from the description of the format and not by the code that is attacked.

use quorate_replicator::ClusterId;

pub(crate) const HELLO: u8 = 1;
pub(crate) const CHANNEL: u8 = 2;
pub(crate) const MESSAGE: u8 = 3;
pub(crate) const MESSAGES: u8 = 4;
pub(crate) const OFFER: u8 = 5;
pub(crate) const ACCEPT: u8 = 6;
pub(crate) const CHUNK: u8 = 7;
pub(crate) const TAKEN: u8 = 8;
pub(crate) const DONE: u8 = 9;
pub(crate) const REFUSE: u8 = 10;
pub(crate) const CLIENT_HELLO: u8 = 11;
pub(crate) const WELCOME: u8 = 12;

/// A frame with a length and a checksum that are right.
pub(crate) fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = head(kind, body.len() as u32);
    let crc = crc32fast::hash(&[&frame, body].concat());
    frame.extend_from_slice(&crc.to_le_bytes());
    frame.extend_from_slice(body);
    frame
}

/// Length and kind, whatever they are.
pub(crate) fn head(kind: u8, bytes: u32) -> Vec<u8> {
    let [low, middle, high, _] = bytes.to_le_bytes();
    vec![low, middle, high, kind]
}

/// A greeting; any of it may be a lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hello {
    pub(crate) protocol: u32,
    pub(crate) cluster: ClusterId,
    pub(crate) node: u64,
    pub(crate) incarnation: u64,
    pub(crate) attempt: u64,
    pub(crate) to: u64,
}

impl Hello {
    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut body = self.protocol.to_le_bytes().to_vec();
        body.extend_from_slice(&self.cluster.bytes());
        for number in [self.node, self.incarnation, self.attempt, self.to] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        frame(HELLO, &body)
    }
}

/// What a client says first; any of it may be a lie.
pub(crate) fn client_hello(protocol: u32, cluster: ClusterId, name: &[u8]) -> Vec<u8> {
    frame(CLIENT_HELLO, &[&protocol.to_le_bytes()[..], &cluster.bytes(), name].concat())
}

/// What a node answers to that; any of it may be a lie.
pub(crate) fn welcome(
    protocol: u32,
    cluster: ClusterId,
    node: u64,
    incarnation: u64,
    lanes_max: u32,
) -> Vec<u8> {
    let mut body = [&protocol.to_le_bytes()[..], &cluster.bytes()].concat();
    body.extend_from_slice(&node.to_le_bytes());
    body.extend_from_slice(&incarnation.to_le_bytes());
    body.extend_from_slice(&lanes_max.to_le_bytes());
    frame(WELCOME, &body)
}

/// The first frame of a stream of messages.
pub(crate) fn channel(number: u8) -> Vec<u8> {
    frame(CHANNEL, &[number])
}

pub(crate) fn offer(id: u128, bytes: u64, head: &[u8]) -> Vec<u8> {
    frame(OFFER, &[&id.to_le_bytes()[..], &bytes.to_le_bytes(), head].concat())
}

pub(crate) fn place(kind: u8, offset: u64) -> Vec<u8> {
    frame(kind, &offset.to_le_bytes())
}

pub(crate) fn chunk(offset: u64, bytes: &[u8]) -> Vec<u8> {
    frame(CHUNK, &[&offset.to_le_bytes()[..], bytes].concat())
}
