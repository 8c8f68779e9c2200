//! Reading what the other end of a lane says, for `fuzz/`: what could be read, written again.

use bytes::Bytes;
use quorate_replicator::{Cursor, Decision, ProposeError, SubscribeError};
use quorate_shard::envelope;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::protocol::{Given, Heard, Notice, Parts, decode, read_request, request};

/// A request of a client.
pub fn asked(message: &[u8]) -> Option<Bytes> {
    let (number, within, asked) = read_request(Bytes::copy_from_slice(message)).ok()?;
    request(number, within, &asked).ok()
}

/// The answers that messages of a node come to, one after the other, up to the first that is wrong. Of a height its index and its head.
pub fn answers<'a>(messages: impl Iterator<Item = &'a [u8]>) -> Vec<(u64, Bytes)> {
    let mut parts = Parts::default();
    let pushed = messages.map_while(|message| parts.push(Bytes::copy_from_slice(message)).ok());
    let answers = pushed.filter_map(|heard| match heard {
        Heard::Part => None,
        Heard::Answer(number, answer) => Some((number, answer)),
        Heard::Height(told) => Some((told.index, told.head)),
    });
    answers.collect()
}

/// The body of an answer: to a proposal, to a subscription, on a lane of accepted frames, or on one of notices.
pub fn answer(what: u8, body: &[u8]) -> Option<Bytes> {
    match what % 4 {
        0 => again::<Result<Decision, ProposeError>>(body),
        1 => again::<Result<Cursor, SubscribeError>>(body),
        2 => again::<Given>(body),
        _ => again::<Notice>(body),
    }
}

fn again<T: Serialize + DeserializeOwned>(body: &[u8]) -> Option<Bytes> {
    let value: T = decode(body).ok()?;
    let mut again = Vec::new();
    envelope::write_body(&mut again, &value);
    Some(again.into())
}
