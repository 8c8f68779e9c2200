//! Answers to operations on keys.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::envelope::{self, AnswerError, Bounded};
use crate::kv::Entry;
use crate::limits::TRANSACTION_OPS_MAX;

/// What an accepted operation did, equal on all nodes.
///
/// `revision` is the namespace's revision after the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// The key was set.
    Put {
        /// The namespace's revision, at which the key is modified.
        revision: u64,
        /// The revision that created the key: the same one if it was not there before.
        created: u64,
    },
    /// The key is not there any more.
    Deleted {
        /// The namespace's revision.
        revision: u64,
        /// Whether it was there.
        existed: bool,
    },
    /// The condition did not hold; nothing was changed.
    CompareFailed {
        /// The namespace's revision.
        revision: u64,
        /// At which revision the key was modified last; 0 if it is not there.
        actual: u64,
    },
    /// Keys were deleted by prefix.
    PrefixDeleted {
        /// The namespace's revision.
        revision: u64,
        /// How many.
        removed: u32,
        /// Whether keys with the prefix are left.
        more: bool,
    },
    /// The transaction was carried out.
    Transaction(TransactionReply),
    /// Nothing was changed.
    Refused(Refusal),
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "what a transaction can say")]
pub struct TransactionReply {
    /// The namespace's revision.
    pub revision: u64,
    /// Whether all compares held.
    pub succeeded: bool,
    /// One for each operation of the list that was carried out.
    pub results: Vec<TransactionResult>,
}

/// What one step of a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransactionResult {
    /// The key was set.
    Put {
        /// The revision that created it.
        created: u64,
    },
    /// The key is not there any more.
    Deleted {
        /// Whether it was there.
        existed: bool,
    },
    /// What the key had, with the writes before it; none if it was not there. `expires` is not told here.
    Got(Option<Entry>),
}

mod tag {
    pub(super) const PUT: u8 = 0;
    pub(super) const DELETED: u8 = 1;
    pub(super) const COMPARE_FAILED: u8 = 2;
    pub(super) const PREFIX_DELETED: u8 = 3;
    pub(super) const TRANSACTION: u8 = 4;
}

/// A result as it stands in an answer: 0 put, 1 deleted, 2 got, 3 not found; two numbers; key and value.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StepResult<'a>(
    u8,
    u64,
    u64,
    #[serde(borrow, with = "serde_bytes")] &'a [u8],
    #[serde(borrow, with = "serde_bytes")] &'a [u8],
);

impl<'a> StepResult<'a> {
    pub(crate) fn put(created: u64) -> Self {
        Self(0, created, 0, &[], &[])
    }

    pub(crate) fn deleted(existed: bool) -> Self {
        Self(1, u64::from(existed), 0, &[], &[])
    }

    pub(crate) fn got(key: &'a [u8], created: u64, modified: u64, value: &'a [u8]) -> Self {
        Self(2, created, modified, key, value)
    }

    pub(crate) fn missing() -> Self {
        Self(3, 0, 0, &[], &[])
    }
}

/// Appends the answers that the shard gives; the head is there already.
pub(crate) fn write_put(answer: &mut Vec<u8>, revision: u64, created: u64) {
    answer.push(tag::PUT);
    envelope::write_body(answer, &(revision, created));
}

pub(crate) fn write_deleted(answer: &mut Vec<u8>, revision: u64, existed: bool) {
    answer.push(tag::DELETED);
    envelope::write_body(answer, &(revision, existed));
}

pub(crate) fn write_compare_failed(answer: &mut Vec<u8>, revision: u64, actual: u64) {
    answer.push(tag::COMPARE_FAILED);
    envelope::write_body(answer, &(revision, actual));
}

pub(crate) fn write_prefix_deleted(answer: &mut Vec<u8>, revision: u64, removed: u32, more: bool) {
    answer.push(tag::PREFIX_DELETED);
    envelope::write_body(answer, &(revision, removed, more));
}

impl Reply {
    /// Reads the answer to an operation on keys.
    ///
    /// # Errors
    ///
    /// The bytes are no such answer, or one of a later version.
    pub fn decode(answer: &Bytes) -> Result<Self, AnswerError> {
        let body = match envelope::open_answer(answer)? {
            Ok(body) => body,
            Err(refusal) => return Ok(Self::Refused(refusal)),
        };
        let (tag, body) = body.split_first().ok_or(AnswerError::Malformed)?;
        let reply = match *tag {
            tag::PUT => {
                let (revision, created) = decode(body)?;
                Self::Put { revision, created }
            }
            tag::DELETED => {
                let (revision, existed) = decode(body)?;
                Self::Deleted { revision, existed }
            }
            tag::COMPARE_FAILED => {
                let (revision, actual) = decode(body)?;
                Self::CompareFailed { revision, actual }
            }
            tag::PREFIX_DELETED => {
                let (revision, removed, more) = decode(body)?;
                Self::PrefixDeleted { revision, removed, more }
            }
            tag::TRANSACTION => {
                type Results<'a> = Bounded<StepResult<'a>, TRANSACTION_OPS_MAX>;
                let (revision, succeeded, results): (_, _, Results<'_>) = decode(body)?;
                let read = results.0.iter().map(|result| read_result(answer, result));
                let results = read.collect::<Result<_, _>>()?;
                Self::Transaction(TransactionReply { revision, succeeded, results })
            }
            _ => return Err(AnswerError::Malformed),
        };
        Ok(reply)
    }
}

fn decode<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, AnswerError> {
    envelope::decode_body(body).map_err(|_| AnswerError::Malformed)
}

fn read_result(answer: &Bytes, result: &StepResult<'_>) -> Result<TransactionResult, AnswerError> {
    Ok(match *result {
        StepResult(0, created, 0, [], []) => TransactionResult::Put { created },
        StepResult(1, existed @ 0..=1, 0, [], []) => {
            TransactionResult::Deleted { existed: existed == 1 }
        }
        StepResult(2, created, modified, key, value) => TransactionResult::Got(Some(Entry {
            key: answer.slice_ref(key),
            value: answer.slice_ref(value),
            created,
            modified,
            expires: None,
        })),
        StepResult(3, 0, 0, [], []) => TransactionResult::Got(None),
        _ => return Err(AnswerError::Malformed),
    })
}

/// Appends the answer to a transaction.
pub(crate) fn write_transaction(
    answer: &mut Vec<u8>,
    revision: u64,
    succeeded: bool,
    results: &[StepResult<'_>],
) {
    answer.push(tag::TRANSACTION);
    envelope::write_body(answer, &(revision, succeeded, results));
}
