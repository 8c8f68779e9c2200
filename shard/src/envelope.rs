//! What stands around an operation and around its answer.
//!
//! ```text
//! operation:  version u8 | kind u16 LE | body, MessagePack
//! answer:     version u8 | status u8   | body: the extension's if 0, a refusal if 1
//! ```
//!
//! Bodies are tuples of numbers, byte strings and lists of such tuples, so decoding never recurses; what a body
//! may hold is bounded by the frame, and each list by a limit of its own.

use bytes::Bytes;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::marker::PhantomData;

use crate::Refusal;

/// The version that is written, and the newest that is read.
pub const VERSION: u8 = 1;

const DONE: u8 = 0;
const REFUSED: u8 = 1;

/// Deeper nesting than any body has; a hostile body ends here rather than at the end of the stack.
const DEPTH_MAX: usize = 8;

/// Encodes an operation of `kind`.
pub fn encode_op(kind: u16, body: &impl Serialize) -> Bytes {
    let mut bytes = Vec::with_capacity(128);
    bytes.push(VERSION);
    bytes.extend_from_slice(&kind.to_le_bytes());
    write_body(&mut bytes, body);
    bytes.into()
}

/// The kind and the body of an operation.
///
/// # Errors
///
/// The bytes are too short, or of a later version.
pub fn open_op(payload: &[u8]) -> Result<(u16, &[u8]), Refusal> {
    match *payload {
        [] => Err(Refusal::malformed("it is empty")),
        [VERSION, a, b, ref body @ ..] => Ok((u16::from_le_bytes([a, b]), body)),
        [VERSION, ..] => Err(Refusal::malformed("it ends before its kind")),
        [version, ..] => Err(Refusal::UnknownVersion { version }),
    }
}

/// Decodes a body, borrowing byte strings from it. All bytes must be used up.
///
/// # Errors
///
/// [`Refusal::Malformed`], with words that do not depend on the decoder.
pub fn decode_body<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    decode_nested(body, DEPTH_MAX)
}

/// As [`decode_body`], of a body that nests up to `depth_max` deep.
///
/// # Errors
///
/// As [`decode_body`].
pub fn decode_nested<'a, T: Deserialize<'a>>(
    body: &'a [u8],
    depth_max: usize,
) -> Result<T, Refusal> {
    let mut decoder = rmp_serde::Deserializer::from_read_ref(body);
    decoder.set_max_depth(depth_max);
    let value = T::deserialize(&mut decoder)
        .map_err(|_| Refusal::malformed("its body does not hold what its kind says"))?;
    // The decoder does not tell how far it came, but it can only fail to read a marker at the end.
    match <()>::deserialize(&mut decoder) {
        Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(value),
        _ => Err(Refusal::malformed("bytes follow its body")),
    }
}

/// Begins the answer of an operation that was carried out; the extension appends its body.
pub fn begin_answer(bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&[VERSION, DONE]);
}

/// Encodes the answer of an operation that was refused.
pub fn encode_refusal(refusal: &Refusal) -> Bytes {
    let mut bytes = vec![VERSION, REFUSED];
    write_body(&mut bytes, refusal);
    bytes.into()
}

/// The extension's body of an answer, or the refusal in it.
///
/// # Errors
///
/// The bytes are no answer of this version.
pub fn open_answer(answer: &[u8]) -> Result<Result<&[u8], Refusal>, AnswerError> {
    match *answer {
        [VERSION, DONE, ref body @ ..] => Ok(Ok(body)),
        [VERSION, REFUSED, ref body @ ..] => {
            Ok(Err(decode_body(body).map_err(|_| AnswerError::Malformed)?))
        }
        [VERSION, ..] | [] => Err(AnswerError::Malformed),
        [version, ..] => Err(AnswerError::UnknownVersion { version }),
    }
}

/// Appends `body` as it stands in an operation or in an answer.
pub fn write_body(bytes: &mut Vec<u8>, body: &impl Serialize) {
    rmp_serde::encode::write(bytes, body).expect("a tuple of known length into memory");
}

/// Why an answer could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// Written by a later version.
    #[error("answer has version {version}, and this program knows {VERSION}; upgrade it")]
    UnknownVersion {
        /// What the answer says.
        version: u8,
    },
    /// The bytes are no answer to this operation.
    #[error("answer is malformed; was the operation of another kind?")]
    Malformed,
}

/// A list that is refused while it is decoded once it is longer than `MAX`, so that a few bytes cannot ask for
/// much memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounded<T, const MAX: usize>(pub Vec<T>);

impl<T: Serialize, const MAX: usize> Serialize for Bounded<T, MAX> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bounded<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for List<T, MAX> {
            type Value = Bounded<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX}")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = seq.next_element()? {
                    if list.len() == MAX {
                        return Err(serde::de::Error::custom("list is too long"));
                    }
                    list.push(item);
                }
                Ok(Bounded(list))
            }
        }

        deserializer.deserialize_seq(List(PhantomData))
    }
}
