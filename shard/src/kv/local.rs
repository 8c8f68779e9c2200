//! Reads of what this node has applied.

use bytes::Bytes;
use quorate_replicator::{ReadError, ShardKey};

use crate::kv::TABLE;
use crate::kv::page::{
    Change, Changes, Entry, Got, Namespace, NamespacePage, OrgPage, OrgPart, Page, PageToken, Scan,
};
use crate::limits::{PAGE_BYTES_MAX, PAGE_KEYS_MAX, PAGE_NAMESPACES_MAX};
use crate::{ShardView, Shards};

/// Reads of what this node has applied, however old; nothing here waits for another node.
/// [`Kv`](crate::Kv) has the same reads behind a barrier.
#[derive(Clone, Debug)]
pub struct Local {
    shards: Shards,
}

impl Shards {
    /// Reads of keys.
    pub fn kv(&self) -> Local {
        Local { shards: self.clone() }
    }
}

impl Local {
    /// The namespace's revision; 0 if nothing ever changed it.
    ///
    /// # Errors
    ///
    /// As [`Shards::read`], here and below.
    pub fn revision(&self, shard: &ShardKey) -> Result<u64, ReadError> {
        Ok(self.shards.read(shard, |view| view.revision())?.unwrap_or(0))
    }

    /// One key.
    pub fn get(&self, shard: &ShardKey, key: &[u8]) -> Result<Got, ReadError> {
        let got = self.shards.read(shard, |view| {
            let entry = view.get(TABLE, key).map(|row| Entry::of(Bytes::copy_from_slice(key), row));
            Got { revision: view.revision(), entry }
        })?;
        Ok(got.unwrap_or(Got { revision: 0, entry: None }))
    }

    /// A page of keys: at most [`PAGE_KEYS_MAX`], ending with the one that reaches [`PAGE_BYTES_MAX`].
    pub fn scan(&self, shard: &ShardKey, scan: &Scan) -> Result<Page, ReadError> {
        let last = scan.token().map(|token| &token.as_bytes()[..]);
        let read = self.shards.read(shard, |view| {
            let mut budget = Budget::new(scan.keys_max());
            let entries = entries(view, scan, last, &mut budget);
            Page { revision: view.revision(), next: budget.token(&entries), entries }
        })?;
        Ok(read.unwrap_or(Page { revision: 0, entries: Vec::new(), next: None }))
    }

    /// Organisations after `after` in byte order, at most `max`; see [`Shards::orgs`].
    pub fn orgs(&self, after: Option<&str>, max: usize) -> Vec<String> {
        self.shards.orgs(after, max)
    }

    /// Namespaces of an organisation after `after` in byte order, at most `max` and at most [`PAGE_KEYS_MAX`].
    pub fn namespaces(
        &self,
        org: &str,
        after: Option<&str>,
        max: usize,
    ) -> Result<NamespacePage, ReadError> {
        let max = max.clamp(1, PAGE_KEYS_MAX);
        let names = self.shards.namespaces(org, after, max);
        let next = (names.len() == max)
            .then(|| names.last().map(|shard| shard.namespace().to_owned()))
            .flatten();
        let mut namespaces = Vec::with_capacity(names.len());
        for shard in names {
            let namespace = self.shards.read(&shard, |view| Namespace {
                shard: shard.clone(),
                revision: view.revision(),
                keys: Some(view.len(TABLE) as u64),
                state_bytes: view.state_bytes(),
            })?;
            namespaces.extend(namespace);
        }
        Ok(NamespacePage { namespaces, next })
    }

    /// A page of keys over all namespaces of an organisation, by namespace and key. The part of each namespace is of
    /// one moment, and names its revision.
    pub fn scan_org(&self, org: &str, scan: &Scan) -> Result<OrgPage, ReadError> {
        let resume = scan.token().and_then(PageToken::split_org);
        let mut budget = Budget::new(scan.keys_max());
        let mut parts: Vec<OrgPart> = Vec::new();
        // The namespace in which the page before ended is read on, then those after it.
        let mut last_key = resume.map(|(_, key)| key);
        let mut names: Vec<ShardKey> =
            resume.and_then(|(name, _)| ShardKey::new(org, name).ok()).into_iter().collect();
        let mut after = resume.map(|(name, _)| name.to_owned());
        let mut looked_at = 0;
        loop {
            for shard in names {
                looked_at += 1;
                let part = self.shards.read(&shard, |view| OrgPart {
                    shard: shard.clone(),
                    revision: view.revision(),
                    entries: entries(view, scan, last_key.take(), &mut budget),
                })?;
                parts.extend(part.filter(|part| !part.entries.is_empty()));
                if budget.is_spent() || looked_at == PAGE_NAMESPACES_MAX {
                    let read = parts.last().filter(|part| part.shard == shard);
                    let last = read.and_then(|part| part.entries.last());
                    let key = last.map_or(&[][..], |entry| &entry.key);
                    let next = Some(PageToken::in_org(&shard, key));
                    return Ok(OrgPage { parts, next });
                }
                after = Some(shard.namespace().to_owned());
            }
            names = self.shards.namespaces(org, after.as_deref(), PAGE_KEYS_MAX);
            if names.is_empty() {
                return Ok(OrgPage { parts, next: None });
            }
        }
    }

    /// Changes of keys that begin with `prefix`, made by revision `from` and later ones: at most `max` of them and
    /// at most [`PAGE_KEYS_MAX`], but all of one revision however many.
    pub fn changes(
        &self,
        shard: &ShardKey,
        from: u64,
        prefix: &[u8],
        max: usize,
    ) -> Result<Changes, ReadError> {
        let max = max.clamp(1, PAGE_KEYS_MAX);
        let read = self.shards.read(shard, |view| {
            // Revision 0 changed nothing, so asking from it is asking for everything.
            let Some(list) = view.changes(TABLE, from.max(1)) else {
                return Changes::Compacted { oldest: view.changes_oldest() };
            };
            let mut changes: Vec<Change> = Vec::new();
            for change in list.filter(|change| change.key.starts_with(prefix)) {
                if changes.len() >= max
                    && changes.last().is_some_and(|last| last.revision < change.revision)
                {
                    let next = change.revision;
                    return Changes::Changes { revision: view.revision(), changes, next };
                }
                let key = Bytes::copy_from_slice(change.key);
                let entry = change.row.map(|row| Entry::of(key.clone(), row));
                changes.push(Change { revision: change.revision, key, entry });
            }
            let next = from.max(view.revision() + 1);
            Changes::Changes { revision: view.revision(), changes, next }
        })?;
        let nothing = Changes::Changes { revision: 0, changes: Vec::new(), next: from.max(1) };
        Ok(read.unwrap_or(nothing))
    }
}

fn entries(
    view: ShardView<'_>,
    scan: &Scan,
    last: Option<&[u8]>,
    budget: &mut Budget,
) -> Vec<Entry> {
    let (from, to) = scan.bounds(last);
    let mut entries = Vec::new();
    for (key, row) in view.range(TABLE, from, to) {
        if budget.is_spent() {
            break;
        }
        let entry = Entry::of(Bytes::copy_from_slice(key), row);
        budget.take(&entry);
        entries.push(entry);
    }
    entries
}

/// What a page may still hold.
#[derive(Debug)]
pub(crate) struct Budget {
    keys: usize,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(keys: usize) -> Self {
        Self { keys, bytes: PAGE_BYTES_MAX }
    }

    pub(crate) fn keys(&self) -> usize {
        self.keys
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_spent(&self) -> bool {
        self.keys == 0 || self.bytes == 0
    }

    pub(crate) fn take(&mut self, entry: &Entry) {
        self.keys -= 1;
        self.bytes = self.bytes.saturating_sub(entry.key.len() + entry.value.len());
    }

    /// The token of a page that ends here; a page that is not full is the last one.
    pub(crate) fn token(&self, entries: &[Entry]) -> Option<PageToken> {
        let last = entries.last().filter(|_| self.is_spent())?;
        Some(PageToken::new(last.key.clone()))
    }
}
