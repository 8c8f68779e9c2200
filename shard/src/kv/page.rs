//! What reads answer: entries, pages, namespaces and changes.

use std::ops::Bound;

use bytes::Bytes;
use quorate_replicator::{LogTime, ShardKey};
use serde::{Deserialize, Serialize};

use crate::context::prefix_end;
use crate::kv::row::KvRow;
use crate::limits::PAGE_KEYS_MAX;
use crate::row::RowView;

/// One key with its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// The revision that created it.
    pub created: u64,
    /// The revision that modified it last.
    pub modified: u64,
    /// The log time at which it goes, if ever.
    pub expires: Option<LogTime>,
}

impl Entry {
    pub(crate) fn of(key: Bytes, row: RowView<'_>) -> Self {
        let expires = row.deadline();
        let row = KvRow::of(row);
        let KvRow { created, modified, .. } = row;
        Self { key, value: row.to_value(), created, modified, expires }
    }
}

/// The answer to a get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Got {
    /// The namespace's revision at the moment of the read.
    pub revision: u64,
    /// The key, if it is there.
    pub entry: Option<Entry>,
}

/// What to read in the order of the keys, a page at a time.
///
/// ```
/// use quorate_shard::kv::Scan;
///
/// let scan = Scan::prefix(b"user/").limit(10);
/// let later = Scan::range(b"a", b"m");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    from: Bytes,
    /// Up to this key and not with it; none is to the end.
    to: Option<Bytes>,
    limit: usize,
    after: Option<PageToken>,
}

impl Scan {
    /// All keys.
    pub fn all() -> Self {
        Self::prefix(b"")
    }

    /// Keys that begin with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        Self {
            from: Bytes::copy_from_slice(prefix),
            to: prefix_end(prefix).map(Bytes::from),
            limit: PAGE_KEYS_MAX,
            after: None,
        }
    }

    /// Keys from `from` on, up to `to` and not with it; none if `to` is not after `from`.
    pub fn range(from: &[u8], to: &[u8]) -> Self {
        Self {
            from: Bytes::copy_from_slice(from),
            to: Some(Bytes::copy_from_slice(to)),
            limit: PAGE_KEYS_MAX,
            after: None,
        }
    }

    /// Keys from `from` on.
    pub fn from(from: &[u8]) -> Self {
        Self { from: Bytes::copy_from_slice(from), to: None, limit: PAGE_KEYS_MAX, after: None }
    }

    /// At most this many keys in the page; never more than [`PAGE_KEYS_MAX`], and at least one.
    #[must_use]
    pub fn limit(mut self, keys_max: usize) -> Self {
        self.limit = keys_max.clamp(1, PAGE_KEYS_MAX);
        self
    }

    /// Goes on where the page ended that gave the token.
    #[must_use]
    pub fn after(mut self, token: PageToken) -> Self {
        self.after = Some(token);
        self
    }

    pub(crate) fn keys_max(&self) -> usize {
        // One that came over a network may say anything.
        self.limit.clamp(1, PAGE_KEYS_MAX)
    }

    pub(crate) fn token(&self) -> Option<&PageToken> {
        self.after.as_ref()
    }

    /// The bounds of the keys that are left, given the last key of the page before.
    pub(crate) fn bounds<'a>(
        &'a self,
        last: Option<&'a [u8]>,
    ) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
        let from = match last {
            Some(last) if last >= &self.from[..] => Bound::Excluded(last),
            _ => Bound::Included(&self.from[..]),
        };
        let to = self.to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        (from, to)
    }
}

/// Where a page ended. It holds for the same scan on every node, and stays good when keys come and go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageToken(Bytes);

impl PageToken {
    /// The token with these bytes, which came from [`as_bytes`](Self::as_bytes).
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, to be handed to a client.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// After this key of this namespace.
    pub(crate) fn in_org(shard: &ShardKey, key: &[u8]) -> Self {
        // A name holds no zero byte.
        Self([shard.namespace().as_bytes(), &[0], key].concat().into())
    }

    /// Namespace and key of a token that [`in_org`](Self::in_org) made.
    pub(crate) fn split_org(&self) -> Option<(&str, &[u8])> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        Some((str::from_utf8(&self.0[..end]).ok()?, &self.0[end + 1..]))
    }
}

/// Keys in order, as they all were at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Page {
    /// The namespace's revision at that moment.
    pub revision: u64,
    /// The keys.
    pub entries: Vec<Entry>,
    /// Where to go on, if there may be more.
    pub next: Option<PageToken>,
}

/// Keys of several namespaces, by namespace and key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OrgPage {
    /// Namespaces in order, each as it was at one moment; not all of them at the same one.
    pub parts: Vec<OrgPart>,
    /// Where to go on, if there may be more.
    pub next: Option<PageToken>,
}

/// The part of a page that is in one namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OrgPart {
    /// The namespace.
    pub shard: ShardKey,
    /// Its revision at the moment of the read.
    pub revision: u64,
    /// Its keys; never empty.
    pub entries: Vec<Entry>,
}

/// A namespace of an organisation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Namespace {
    /// Its name.
    pub shard: ShardKey,
    /// Its revision.
    pub revision: u64,
    /// How many keys it has; none in a pinned read, which would have to count them.
    pub keys: Option<u64>,
    /// What it is charged, in bytes.
    pub state_bytes: u64,
}

/// Namespaces in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NamespacePage {
    /// The namespaces.
    pub namespaces: Vec<Namespace>,
    /// The last of them, if there may be more: the `after` of the next call.
    pub next: Option<String>,
}

/// One change of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Change {
    /// The revision that made it; all changes of a transaction have the same.
    pub revision: u64,
    /// The key.
    pub key: Bytes,
    /// The entry as it was written, none if the key was deleted or expired.
    pub entry: Option<Entry>,
}

/// Changes of a namespace since a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Changes {
    /// All changes asked for, in order.
    Changes {
        /// The namespace's revision at the moment of the read.
        revision: u64,
        /// The changes; never only some of one revision.
        changes: Vec<Change>,
        /// The revision to ask for next: nothing before it is missing.
        next: u64,
    },
    /// Some are not on the list any more: read the state, then ask from the revision after it.
    Compacted {
        /// The oldest revision that can be asked for.
        oldest: u64,
    },
}
