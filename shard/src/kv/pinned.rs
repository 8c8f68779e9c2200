//! Reads of one checkpoint, which stay the same while newer frames are applied.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use quorate_replicator::{Pinned, Position, ReadError, ShardKey};

use crate::kv::TABLE;
use crate::kv::local::Budget;
use crate::kv::page::{
    Entry, Got, Namespace, NamespacePage, OrgPage, OrgPart, Page, PageToken, Scan,
};
use crate::kv::row::KvRow;
use crate::layout::{self, Place};
use crate::limits::{PAGE_KEYS_MAX, PAGE_NAMESPACES_MAX};
use crate::row::{HEADER_BYTES, Row};
use crate::shard::Head;

/// The keys of one checkpoint. All pages read the same moment, over all namespaces of the group.
///
/// Its methods read the disk: call them where blocking is allowed.
#[derive(Clone)]
pub struct PinnedKv {
    pinned: Arc<dyn Pinned>,
}

impl PinnedKv {
    /// The keys of this checkpoint.
    pub fn new(pinned: Arc<dyn Pinned>) -> Self {
        Self { pinned }
    }

    /// The last batch whose effects are in it.
    pub fn position(&self) -> Position {
        self.pinned.position()
    }

    /// One key, and the namespace's revision in the checkpoint.
    ///
    /// # Errors
    ///
    /// The checkpoint cannot be read, here and below.
    pub fn get(&self, shard: &ShardKey, key: &[u8]) -> Result<Got, ReadError> {
        let Some(head) = self.head(shard)? else {
            return Ok(Got { revision: 0, entry: None });
        };
        let place = layout::row_key(shard, TABLE, key);
        let entry = match self.first(Bound::Included(&place))? {
            Some((found, value)) if found == place => {
                Some(entry(Bytes::copy_from_slice(key), &value)?)
            }
            _ => None,
        };
        Ok(Got { revision: head.revision, entry })
    }

    /// A page of keys, as [`Local::scan`](crate::kv::Local::scan).
    pub fn scan(&self, shard: &ShardKey, scan: &Scan) -> Result<Page, ReadError> {
        let Some(head) = self.head(shard)? else {
            return Ok(Page { revision: 0, entries: Vec::new(), next: None });
        };
        let last = scan.token().map(|token| &token.as_bytes()[..]);
        let mut budget = Budget::new(scan.keys_max());
        let entries = self.entries(shard, scan, last, &mut budget)?;
        Ok(Page { revision: head.revision, next: budget.token(&entries), entries })
    }

    /// Namespaces of an organisation, as [`Local::namespaces`](crate::kv::Local::namespaces).
    pub fn namespaces(
        &self,
        org: &str,
        after: Option<&str>,
        max: usize,
    ) -> Result<NamespacePage, ReadError> {
        let max = max.clamp(1, PAGE_KEYS_MAX);
        let mut namespaces: Vec<Namespace> = Vec::new();
        let mut place = match after.and_then(|after| ShardKey::new(org, after).ok()) {
            Some(after) => layout::shard_end(&after),
            None => layout::org_start(org),
        };
        while let Some((shard, head)) = self.next_shard(org, &place)? {
            if namespaces.len() == max {
                let next = namespaces.last().map(|last| last.shard.namespace().to_owned());
                return Ok(NamespacePage { namespaces, next });
            }
            place = layout::shard_end(&shard);
            let Head { revision, bytes, .. } = head;
            namespaces.push(Namespace { shard, revision, keys: None, state_bytes: bytes });
        }
        Ok(NamespacePage { namespaces, next: None })
    }

    /// A page of keys over all namespaces of an organisation, as
    /// [`Local::scan_org`](crate::kv::Local::scan_org); here all of them are of one moment.
    pub fn scan_org(&self, org: &str, scan: &Scan) -> Result<OrgPage, ReadError> {
        let resume = scan.token().and_then(PageToken::split_org);
        let mut last_key = resume.map(|(_, key)| key);
        let resumed = resume.and_then(|(name, _)| ShardKey::new(org, name).ok());
        // The token's namespace is read on, so the search begins at its head.
        let mut place =
            resumed.map_or_else(|| layout::org_start(org), |shard| layout::head_key(&shard));
        let mut budget = Budget::new(scan.keys_max());
        let mut parts = Vec::new();
        let mut looked_at = 0;
        while let Some((shard, head)) = self.next_shard(org, &place)? {
            looked_at += 1;
            let entries = self.entries(&shard, scan, last_key.take(), &mut budget)?;
            if budget.is_spent() || looked_at == PAGE_NAMESPACES_MAX {
                let key = entries.last().map_or(&[][..], |entry: &Entry| &entry.key);
                let next = Some(PageToken::in_org(&shard, key));
                if !entries.is_empty() {
                    parts.push(OrgPart { shard, revision: head.revision, entries });
                }
                return Ok(OrgPage { parts, next });
            }
            place = layout::shard_end(&shard);
            if !entries.is_empty() {
                parts.push(OrgPart { shard, revision: head.revision, entries });
            }
        }
        Ok(OrgPage { parts, next: None })
    }

    fn entries(
        &self,
        shard: &ShardKey,
        scan: &Scan,
        last: Option<&[u8]>,
        budget: &mut Budget,
    ) -> Result<Vec<Entry>, ReadError> {
        let in_table = |key: &[u8]| layout::row_key(shard, TABLE, key);
        let (from, to) = scan.bounds(last);
        let mut from = from.map(in_table);
        let to = match to {
            Bound::Unbounded => layout::table_end(shard, TABLE),
            Bound::Included(to) | Bound::Excluded(to) => in_table(to),
        };
        let head_bytes = in_table(&[]).len();
        let mut entries = Vec::new();
        while !budget.is_spent() {
            let from_slice = from.as_ref().map(|from| &from[..]);
            let pairs = self.pinned.read(from_slice, budget.keys(), budget.bytes())?;
            let Some((last, _)) = pairs.last() else {
                break;
            };
            from = Bound::Excluded(last.to_vec());
            for (key, value) in pairs {
                if key[..] >= to[..] {
                    return Ok(entries);
                }
                if budget.is_spent() {
                    break;
                }
                let entry = entry(key.slice(head_bytes..), &value)?;
                budget.take(&entry);
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    fn head(&self, shard: &ShardKey) -> Result<Option<Head>, ReadError> {
        let place = layout::head_key(shard);
        match self.first(Bound::Included(&place))? {
            Some((key, value)) if key == place => Ok(Some(decode_head(&value)?)),
            _ => Ok(None),
        }
    }

    /// The first shard of the organisation whose head is at `place` or after it.
    fn next_shard(&self, org: &str, place: &[u8]) -> Result<Option<(ShardKey, Head)>, ReadError> {
        let Some((key, value)) = self.first(Bound::Included(place))? else {
            return Ok(None);
        };
        if !key.starts_with(&layout::org_start(org)) {
            return Ok(None);
        }
        match layout::read_key(&key) {
            Ok(Place::Head { shard }) => Ok(Some((shard, decode_head(&value)?))),
            _ => Err(damaged()),
        }
    }

    fn first(&self, from: Bound<&[u8]>) -> Result<Option<(Bytes, Bytes)>, ReadError> {
        Ok(self.pinned.read(from, 1, 1)?.into_iter().next())
    }
}

impl fmt::Debug for PinnedKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedKv").field("position", &self.position()).finish()
    }
}

fn entry(key: Bytes, value: &[u8]) -> Result<Entry, ReadError> {
    if !value.get(HEADER_BYTES..).is_some_and(KvRow::fits) {
        return Err(damaged());
    }
    Ok(Entry::of(key, Row::new(value).view()))
}

fn decode_head(value: &[u8]) -> Result<Head, ReadError> {
    layout::decode_head(value).ok_or_else(damaged)
}

fn damaged() -> ReadError {
    ReadError::Checkpoint {
        problem: "it does not hold what a shard wrote; check it with `quorate verify`".into(),
    }
}
