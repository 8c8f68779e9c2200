//! Operations on keys, and how they stand in a frame.

use std::fmt;

use bytes::Bytes;
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_bytes::Bytes as ByteString;

use crate::envelope::{self, Bounded};
use crate::limits::{DELETE_PREFIX_MAX, KEY_BYTES_MAX, TRANSACTION_OPS_MAX};
use crate::{Refusal, kv::kind};

/// One operation, as the payload of a frame.
///
/// ```
/// use quorate_shard::kv::{Condition, Op};
///
/// let payload = Op::put(b"colour", b"green").encode();
/// assert_eq!(Op::decode(&payload)?, Op::put(b"colour", b"green"));
///
/// // Gone after a minute of log time, and only if nobody has put it before.
/// let op = Op::Put { key: b"lease", value: b"me", ttl_ms: Some(60_000), condition: Some(Condition::Missing) };
/// assert!(op.check().is_ok());
/// # Ok::<(), quorate_shard::Refusal>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Op<'a> {
    /// Sets a key.
    Put {
        /// The key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
        /// How long it is there, in milliseconds of log time; for ever if none. A key that is put again takes the
        /// time to live of the later put.
        ttl_ms: Option<u64>,
        /// What must hold, else nothing is done.
        condition: Option<Condition<'a>>,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: &'a [u8],
        /// What must hold, else nothing is done.
        condition: Option<Condition<'a>>,
    },
    /// Several compares, reads and writes in one.
    Transaction(Transaction<'a>),
    /// Removes the first keys that begin with a prefix.
    DeletePrefix {
        /// The prefix; an empty one means all keys of the namespace.
        prefix: &'a [u8],
        /// At most this many, 1 to [`DELETE_PREFIX_MAX`].
        keys_max: u32,
    },
}

/// What must hold of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition<'a> {
    /// It is not there.
    Missing,
    /// It is there.
    Exists,
    /// It was modified last at this revision; 0 means that it is not there.
    Revision(u64),
    /// It has this value.
    Value(&'a [u8]),
}

/// Compares, and what to do if all hold or if one does not; all or nothing, under one revision.
///
/// Reads see the writes before them. A key that is written twice has both writes on the change list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction<'a> {
    /// All must hold for `then`; none at all always hold.
    pub compare: Vec<Compare<'a>>,
    /// What is done if they do.
    pub then: Vec<TransactionOp<'a>>,
    /// What is done if they do not.
    pub otherwise: Vec<TransactionOp<'a>>,
}

/// One compare of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "a compare is a key and a condition")]
pub struct Compare<'a> {
    /// The key.
    pub key: &'a [u8],
    /// What must hold of it.
    pub condition: Condition<'a>,
}

/// One step of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransactionOp<'a> {
    /// Sets a key.
    Put {
        /// The key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
        /// As in [`Op::Put`].
        ttl_ms: Option<u64>,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// Reads a key.
    Get {
        /// The key.
        key: &'a [u8],
    },
}

impl<'a> Op<'a> {
    /// Sets a key for ever.
    pub fn put(key: &'a [u8], value: &'a [u8]) -> Self {
        Self::Put { key, value, ttl_ms: None, condition: None }
    }

    /// Removes a key.
    pub fn delete(key: &'a [u8]) -> Self {
        Self::Delete { key, condition: None }
    }

    /// Sets a key if it was modified last at `revision`; 0 means that it is not there.
    pub fn compare_and_swap(key: &'a [u8], revision: u64, value: &'a [u8]) -> Self {
        let condition = Some(Condition::Revision(revision));
        Self::Put { key, value, ttl_ms: None, condition }
    }

    /// Removes the first keys that begin with `prefix`, as many as one frame may.
    pub fn delete_prefix(prefix: &'a [u8]) -> Self {
        Self::DeletePrefix { prefix, keys_max: DELETE_PREFIX_MAX }
    }

    /// The payload of a frame.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Put { key, value, ttl_ms, condition } => {
                envelope::encode_op(kind::PUT, &(bytes(key), bytes(value), ttl_ms, condition))
            }
            Self::Delete { key, condition } => {
                envelope::encode_op(kind::DELETE, &(bytes(key), condition))
            }
            Self::Transaction(Transaction { compare, then, otherwise }) => {
                let compare: Vec<_> =
                    compare.iter().map(|compare| (bytes(compare.key), compare.condition)).collect();
                let steps = |ops: &[TransactionOp<'a>]| -> Vec<Step<'a>> {
                    ops.iter().map(|op| Step::from(*op)).collect()
                };
                envelope::encode_op(kind::TRANSACTION, &(compare, steps(then), steps(otherwise)))
            }
            Self::DeletePrefix { prefix, keys_max } => {
                envelope::encode_op(kind::DELETE_PREFIX, &(bytes(prefix), keys_max))
            }
        }
    }

    /// Reads the payload of a frame, borrowing keys and values from it.
    ///
    /// # Errors
    ///
    /// Exactly those with which a shard refuses the payload for what it is, whatever is in the shard.
    pub fn decode(payload: &'a [u8]) -> Result<Self, Refusal> {
        let (kind, body) = envelope::open_op(payload)?;
        Self::decode_body(kind, body)
    }

    pub(crate) fn decode_body(kind: u16, body: &'a [u8]) -> Result<Self, Refusal> {
        let op = match kind {
            kind::PUT => {
                let (key, value, ttl_ms, condition): (Borrowed<'a>, Borrowed<'a>, _, _) =
                    envelope::decode_body(body)?;
                Self::Put { key: key.0, value: value.0, ttl_ms, condition }
            }
            kind::DELETE => {
                let (key, condition): (Borrowed<'a>, _) = envelope::decode_body(body)?;
                Self::Delete { key: key.0, condition }
            }
            kind::TRANSACTION => {
                type Compares<'a> = Bounded<(Borrowed<'a>, Condition<'a>), TRANSACTION_OPS_MAX>;
                type Steps<'a> = Bounded<Step<'a>, TRANSACTION_OPS_MAX>;
                let (compare, then, otherwise): (Compares<'a>, Steps<'a>, Steps<'a>) =
                    envelope::decode_body(body)?;
                let compare = compare.0.into_iter();
                let ops = |steps: Steps<'a>| {
                    steps.0.into_iter().map(TransactionOp::try_from).collect::<Result<_, _>>()
                };
                Self::Transaction(Transaction {
                    compare: compare
                        .map(|(key, condition)| Compare { key: key.0, condition })
                        .collect(),
                    then: ops(then)?,
                    otherwise: ops(otherwise)?,
                })
            }
            kind::DELETE_PREFIX => {
                let (prefix, keys_max): (Borrowed<'a>, _) = envelope::decode_body(body)?;
                Self::DeletePrefix { prefix: prefix.0, keys_max }
            }
            kind => return Err(Refusal::UnknownKind { kind }),
        };
        op.check()?;
        Ok(op)
    }

    /// Whether a shard would refuse the operation for what it is, so that it need not be proposed.
    ///
    /// # Errors
    ///
    /// As [`decode`](Self::decode).
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Put { key, ttl_ms, .. } => {
                check_key(key)?;
                check_ttl(*ttl_ms)
            }
            Self::Delete { key, .. } => check_key(key),
            Self::Transaction(transaction) => transaction.check(),
            Self::DeletePrefix { prefix, keys_max } => {
                check_length(prefix)?;
                match keys_max {
                    0 => Err(Refusal::malformed("it would delete no key by prefix")),
                    1..=DELETE_PREFIX_MAX => Ok(()),
                    _ => Err(Refusal::TooMany {
                        what: "number of keys to delete by prefix".into(),
                        count: u64::from(*keys_max),
                        limit: u64::from(DELETE_PREFIX_MAX),
                    }),
                }
            }
        }
    }
}

impl Transaction<'_> {
    fn check(&self) -> Result<(), Refusal> {
        let lists = [
            ("number of compares", self.compare.len()),
            ("number of operations if all hold", self.then.len()),
            ("number of operations otherwise", self.otherwise.len()),
        ];
        for (what, count) in lists {
            if count > TRANSACTION_OPS_MAX {
                return Err(Refusal::TooMany {
                    what: what.into(),
                    count: count as u64,
                    limit: TRANSACTION_OPS_MAX as u64,
                });
            }
        }
        self.compare.iter().try_for_each(|compare| check_key(compare.key))?;
        self.then.iter().chain(&self.otherwise).try_for_each(|op| match op {
            TransactionOp::Put { key, ttl_ms, .. } => {
                check_key(key)?;
                check_ttl(*ttl_ms)
            }
            TransactionOp::Delete { key } | TransactionOp::Get { key } => check_key(key),
        })
    }
}

/// Whether `key` can be a key.
pub(crate) fn check_key(key: &[u8]) -> Result<(), Refusal> {
    if key.is_empty() {
        return Err(Refusal::KeyEmpty);
    }
    check_length(key)
}

fn check_length(key: &[u8]) -> Result<(), Refusal> {
    if key.len() > KEY_BYTES_MAX {
        return Err(Refusal::KeyTooLarge { bytes: key.len() as u64 });
    }
    Ok(())
}

fn check_ttl(ttl_ms: Option<u64>) -> Result<(), Refusal> {
    if ttl_ms == Some(0) {
        return Err(Refusal::malformed("a time to live is at least one millisecond"));
    }
    Ok(())
}

fn bytes(bytes: &[u8]) -> &ByteString {
    ByteString::new(bytes)
}

/// A byte string that is read without being copied.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(transparent)]
struct Borrowed<'a>(#[serde(borrow, with = "serde_bytes")] &'a [u8]);

/// A step of a transaction as it stands in a body: 0 put, 1 delete, 2 get.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Step<'a>(
    u8,
    #[serde(borrow, with = "serde_bytes")] &'a [u8],
    #[serde(borrow, with = "serde_bytes")] Option<&'a [u8]>,
    Option<u64>,
);

impl<'a> From<TransactionOp<'a>> for Step<'a> {
    fn from(op: TransactionOp<'a>) -> Self {
        match op {
            TransactionOp::Put { key, value, ttl_ms } => Self(0, key, Some(value), ttl_ms),
            TransactionOp::Delete { key } => Self(1, key, None, None),
            TransactionOp::Get { key } => Self(2, key, None, None),
        }
    }
}

impl<'a> TryFrom<Step<'a>> for TransactionOp<'a> {
    type Error = Refusal;

    fn try_from(step: Step<'a>) -> Result<Self, Refusal> {
        match step {
            Step(0, key, Some(value), ttl_ms) => Ok(Self::Put { key, value, ttl_ms }),
            Step(1, key, None, None) => Ok(Self::Delete { key }),
            Step(2, key, None, None) => Ok(Self::Get { key }),
            _ => Err(Refusal::malformed("a step of its transaction is none that is known")),
        }
    }
}

/// A condition is a single value whose type tells which it is: a truth for there or not, a number for a revision,
/// bytes for a value.
impl Serialize for Condition<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Missing => serializer.serialize_bool(false),
            Self::Exists => serializer.serialize_bool(true),
            Self::Revision(revision) => serializer.serialize_u64(*revision),
            Self::Value(value) => serializer.serialize_bytes(value),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Condition<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Scalar;

        impl<'de> Visitor<'de> for Scalar {
            type Value = Condition<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a truth, a revision or bytes")
            }

            fn visit_bool<E>(self, exists: bool) -> Result<Self::Value, E> {
                Ok(if exists { Condition::Exists } else { Condition::Missing })
            }

            fn visit_u64<E>(self, revision: u64) -> Result<Self::Value, E> {
                Ok(Condition::Revision(revision))
            }

            fn visit_borrowed_bytes<E>(self, value: &'de [u8]) -> Result<Self::Value, E> {
                Ok(Condition::Value(value))
            }
        }

        deserializer.deserialize_any(Scalar)
    }
}
