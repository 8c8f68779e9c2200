//! Entries of the log as the core has them, and back; and how far a log is known to be decided.

use bytes::Bytes;
use quorate_storage::{Entry, Index, Tag};
use raft::eraftpb::{Entry as CoreEntry, EntryType};

use super::wire;
use crate::members::{ChangeEntry, Members};
use crate::stored::Stored;

/// The tag of entries of a term.
pub(crate) fn tag(term: u64) -> Tag {
    let mut tag = Tag::ZERO;
    tag.0[..8].copy_from_slice(&term.to_be_bytes());
    tag
}

pub(super) fn term_of_tag(found: Tag) -> Option<u64> {
    let (term, _) = found.0.split_first_chunk().expect("a tag has 32 bytes");
    let term = u64::from_be_bytes(*term);
    (tag(term) == found && term > 0).then_some(term)
}

pub(super) fn public_entry(entry: &CoreEntry) -> Entry {
    Entry { index: entry.index, tag: tag(entry.term), head: Bytes::new(), body: wire::body(entry) }
}

pub(super) fn core_entry(entry: Entry, term: u64) -> CoreEntry {
    let mut core = wire::entry(entry.body);
    (core.index, core.term) = (entry.index, term);
    core
}

pub(super) fn core_entries(
    base: Index,
    base_term: u64,
    found: Vec<Entry>,
) -> Result<Vec<CoreEntry>, String> {
    let mut entries: Vec<CoreEntry> = Vec::with_capacity(found.len());
    for entry in found.into_iter().filter(|entry| entry.index > base) {
        let before = entries.last().map_or(base_term, |before| before.term);
        let next = base + entries.len() as u64 + 1;
        let term = term_of_tag(entry.tag).filter(|term| *term >= before && entry.index == next);
        let Some(term) = term else {
            return Err(format!(
                "the log goes from index {} to {} {:?}, which this driver never writes; it is another driver's, or an entry is lost: run `quorate verify`",
                next - 1,
                entry.index,
                entry.tag
            ));
        };
        entries.push(core_entry(entry, term));
    }
    Ok(entries)
}

/// Whether it is a change of members.
pub(super) fn is_change(entry: &CoreEntry) -> bool {
    entry.get_entry_type() != EntryType::EntryNormal
}

/// How far the log on the disk is known to be decided, without asking anyone.
pub(super) fn decided_on_disk(
    id: u64,
    stored: &Stored,
    base: Index,
    members: &Members,
    entries: &[CoreEntry],
) -> Index {
    let change = |entry: &CoreEntry| {
        if is_change(entry) { ChangeEntry::decode(&entry.data).ok() } else { None }
    };
    let mut decided = stored.commit.max(base);
    for entry in entries {
        // A change is proposed only when the one before is applied, and so decided.
        if let Some(change) = change(entry)
            && change.after < entry.index
        {
            decided = decided.max(change.after);
        }
    }
    let mut members = members.clone();
    for entry in entries {
        // Who decides alone and led in its newest term has decided all that it wrote.
        let alone = stored.vote == id && id != 0 && members.decides_alone(id);
        if entry.index > decided && !alone {
            break;
        }
        decided = decided.max(entry.index);
        if let Some(change) = change(entry) {
            members.apply(entry.index, &change);
        }
    }
    decided
}
