//! What the engines of two nodes say to one another.
//!
//! ```text
//!   version u8 | chain [8] | kind u8 | what the kind says         bodies stand beside it
//! ```
//!
//! Everything is read within bounds. Votes, proposals and certificates are signed; the rest is a hint that makes a node ask.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_certificate::{
    BodyKind, ChainId, HEADER_BYTES, Header, Motion, Signature, VALIDATORS_MAX,
};
use quorate_engine::engine::Message;
use quorate_storage::Body;

use crate::codec::{Malformed, Reader, Writer};
use crate::mark::PROOF_BYTES_MAX;
use crate::tendermint::Words;

const VERSION: u8 = 1;

const WORDS: u8 = 1;
const STATUS: u8 = 2;
const WAKE: u8 = 3;
const ASK: u8 = 4;
const HEIGHTS: u8 = 5;
const READ: u8 = 6;
const CLAIM: u8 = 7;
const HELLO: u8 = 8;
const WELCOME: u8 = 9;
const VOUCH: u8 = 11;
const APPROVALS: u8 = 10;

/// Most heights in one message.
pub(crate) const HEIGHTS_MAX: usize = 64;

/// What one engine says to another.
#[derive(Clone, Debug)]
pub(crate) enum Said {
    /// About a height, with what a proposal proposes.
    Words(Box<Words>, Option<Box<Carried>>),
    /// The last height that the sender knows to be decided, and whether it wants to know the same of the receiver.
    Status { height: u64, asks: bool },
    /// Something waits to be decided at this height.
    Wake { height: u64 },
    /// The sender lacks this height and what follows.
    Ask { from: u64 },
    /// Decided heights, in order.
    Heights(Vec<Proved>),
    /// A read begins at the sender: which height may be decided?
    Read { nonce: u64 },
    /// The answer: the last height that the sender has precommitted to, or knows to be decided.
    Claim { nonce: u64, height: u64 },
    /// The sender has a new directory.
    Hello { incarnation: [u8; 16] },
    /// Whether the receiver of a hello knows its sender under that directory, and its claim.
    Welcome { incarnation: [u8; 16], is_that: bool, claim: u64 },
    /// The hash of the sender's history up to an index.
    Vouch { index: u64, state: [u8; 32] },
    /// A change of the validators that operators want, and which of the validators of this epoch approve it.
    Approvals { epoch: u64, motion: Bytes, approvals: Vec<(u64, Signature)> },
}

/// A header and what it is about.
#[derive(Clone, Debug)]
pub(crate) struct Carried {
    pub(crate) head: Bytes,
    pub(crate) header: Header,
    pub(crate) body: Body,
}

/// A height with its certificate.
#[derive(Clone, Debug)]
pub(crate) struct Proved {
    pub(crate) carried: Carried,
    pub(crate) proof: Bytes,
}

/// Which words of which chain these are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// Nothing that this version writes.
    Malformed(Malformed),
    /// Of another cluster, or another genesis.
    Foreign,
}

impl From<Malformed> for Unread {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// The kind and the bytes of a body.
pub(crate) fn body_parts(body: &Body) -> (BodyKind, Bytes) {
    match body {
        Body::Empty => (BodyKind::Empty, Bytes::new()),
        Body::Frames(bytes) => (BodyKind::Frames, bytes.clone()),
        Body::Members(bytes) => (BodyKind::Members, bytes.clone()),
    }
}

fn body_of(kind: BodyKind, bytes: Bytes) -> Result<Body, Malformed> {
    match kind {
        BodyKind::Empty if bytes.is_empty() => Ok(Body::Empty),
        BodyKind::Empty => Err(Malformed("an empty body has bytes")),
        BodyKind::Frames => Ok(Body::Frames(bytes)),
        BodyKind::Members => Ok(Body::Members(bytes)),
    }
}

fn begin(chain: &ChainId, kind: u8) -> Writer {
    let mut to = Writer::default();
    to.u8(VERSION).array(&mark_of(chain)).u8(kind);
    to
}

fn mark_of(chain: &ChainId) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = *chain.as_bytes();
    [a, b, c, d, e, f, g, h]
}

/// Words of the core, already encoded, with what they propose.
pub(crate) fn words(chain: &ChainId, words: &[u8], carried: Option<(&Bytes, &Body)>) -> Message {
    let mut to = begin(chain, WORDS);
    to.bytes(words).bool(carried.is_some());
    let bodies = match carried {
        Some((head, body)) => {
            to.bytes(head);
            vec![body_parts(body).1]
        }
        None => Vec::new(),
    };
    Message { head: to.finish(), bodies }
}

/// Decided heights, each with its head, proof and body.
pub(crate) fn heights<'a>(
    chain: &ChainId,
    heights: impl ExactSizeIterator<Item = (&'a Bytes, &'a Bytes, &'a Body)>,
) -> Message {
    let mut to = begin(chain, HEIGHTS);
    to.count(heights.len());
    let mut bodies = Vec::with_capacity(heights.len());
    for (head, proof, body) in heights {
        to.bytes(head).bytes(proof);
        bodies.push(body_parts(body).1);
    }
    Message { head: to.finish(), bodies }
}

fn plain(mut to: Writer) -> Message {
    Message { head: to.finish(), bodies: Vec::new() }
}

pub(crate) fn status(chain: &ChainId, height: u64, asks: bool) -> Message {
    let mut to = begin(chain, STATUS);
    to.u64(height).bool(asks);
    plain(to)
}

pub(crate) fn wake(chain: &ChainId, height: u64) -> Message {
    let mut to = begin(chain, WAKE);
    to.u64(height);
    plain(to)
}

pub(crate) fn ask(chain: &ChainId, from: u64) -> Message {
    let mut to = begin(chain, ASK);
    to.u64(from);
    plain(to)
}

pub(crate) fn read(chain: &ChainId, nonce: u64) -> Message {
    let mut to = begin(chain, READ);
    to.u64(nonce);
    plain(to)
}

pub(crate) fn claim(chain: &ChainId, nonce: u64, height: u64) -> Message {
    let mut to = begin(chain, CLAIM);
    to.u64(nonce).u64(height);
    plain(to)
}

pub(crate) fn vouch(chain: &ChainId, index: u64, state: &[u8; 32]) -> Message {
    let mut to = begin(chain, VOUCH);
    to.u64(index).array(state);
    plain(to)
}

pub(crate) fn hello(chain: &ChainId, incarnation: &[u8; 16]) -> Message {
    let mut to = begin(chain, HELLO);
    to.array(incarnation);
    plain(to)
}

pub(crate) fn welcome(
    chain: &ChainId,
    incarnation: &[u8; 16],
    is_that: bool,
    claim: u64,
) -> Message {
    let mut to = begin(chain, WELCOME);
    to.array(incarnation).bool(is_that).u64(claim);
    plain(to)
}

pub(crate) fn approvals(
    chain: &ChainId,
    epoch: u64,
    motion: &Motion,
    approvals: &BTreeMap<u64, Signature>,
) -> Message {
    let mut to = begin(chain, APPROVALS);
    to.u64(epoch).count(approvals.len());
    for (node, approval) in approvals {
        to.u64(*node).signature(approval);
    }
    Message { head: to.finish(), bodies: vec![motion.encode().into()] }
}

impl Said {
    pub(crate) fn decode(chain: &ChainId, message: &Message) -> Result<Self, Unread> {
        let mut from = Reader::new(&message.head);
        if from.u8()? != VERSION {
            return Err(Unread::Malformed(Malformed("its version is another one")));
        }
        if from.array()? != mark_of(chain) {
            return Err(Unread::Foreign);
        }
        let mut bodies = message.bodies.iter().cloned();
        let said = match from.u8()? {
            WORDS => {
                let mut inner = Reader::new(from.bytes(message.head.len())?);
                let words = Words::decode(&mut inner)?;
                inner.finish()?;
                let carried = match from.bool()? {
                    true => Some(Box::new(carried(&mut from, &mut bodies)?)),
                    false => None,
                };
                Self::Words(Box::new(words), carried)
            }
            STATUS => Self::Status { height: from.u64()?, asks: from.bool()? },
            WAKE => Self::Wake { height: from.u64()? },
            ASK => Self::Ask { from: from.u64()? },
            HEIGHTS => {
                let count = from.count(HEIGHTS_MAX, HEADER_BYTES)?;
                let mut heights = Vec::with_capacity(count);
                for _ in 0..count {
                    let head = from.bytes(HEADER_BYTES)?;
                    let proof = Bytes::copy_from_slice(from.bytes(PROOF_BYTES_MAX)?);
                    heights.push(Proved { carried: pair(head, &mut bodies)?, proof });
                }
                Self::Heights(heights)
            }
            READ => Self::Read { nonce: from.u64()? },
            CLAIM => Self::Claim { nonce: from.u64()?, height: from.u64()? },
            HELLO => Self::Hello { incarnation: from.array()? },
            VOUCH => Self::Vouch { index: from.u64()?, state: from.array()? },
            WELCOME => Self::Welcome {
                incarnation: from.array()?,
                is_that: from.bool()?,
                claim: from.u64()?,
            },
            APPROVALS => {
                let epoch = from.u64()?;
                let count = from.count(VALIDATORS_MAX, 8 + 4)?;
                let mut approvals = Vec::with_capacity(count);
                for _ in 0..count {
                    approvals.push((from.u64()?, from.signature()?));
                }
                let motion = bodies.next().ok_or(Malformed("a body is missing"))?;
                Self::Approvals { epoch, motion, approvals }
            }
            _ => return Err(Unread::Malformed(Malformed("it is of no kind that is known"))),
        };
        from.finish()?;
        match bodies.next() {
            None => Ok(said),
            Some(_) => Err(Unread::Malformed(Malformed("a body belongs to nothing"))),
        }
    }
}

fn carried(
    from: &mut Reader<'_>,
    bodies: &mut impl Iterator<Item = Bytes>,
) -> Result<Carried, Malformed> {
    pair(from.bytes(HEADER_BYTES)?, bodies)
}

fn pair(head: &[u8], bodies: &mut impl Iterator<Item = Bytes>) -> Result<Carried, Malformed> {
    let header = Header::decode(head).map_err(|_| Malformed("a header is none"))?;
    let bytes = bodies.next().ok_or(Malformed("a body is missing"))?;
    let body = body_of(header.kind, bytes)?;
    Ok(Carried { head: Bytes::copy_from_slice(head), header, body })
}
