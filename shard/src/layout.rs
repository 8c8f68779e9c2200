//! How the state stands in a checkpoint.
//!
//! ```text
//! key                                                          value
//! 0x00                                                         format version, u32 LE
//! 0x01 | org | 0x00 | namespace | 0x00 | 0x00                  head: revision, first change, dropped revision, bytes
//! 0x01 | org | 0x00 | namespace | 0x00 | table | key           row: deadline u64 LE, what the extension wrote
//! 0x01 | org | 0x00 | namespace | 0x00 | 0xff | number BE      change: revision, table, key, row
//! ```
//!
//! Names hold no control character, so a zero byte ends them and nothing has to be escaped, and pairs are in the
//! order of organisation, namespace, table and key: what a scan of a pinned checkpoint needs.

use quorate_replicator::{Pair, RestoreError, ShardKey};

use crate::changes::Change;
use crate::journal::Mark;
use crate::key::Key;
use crate::row::{HEADER_BYTES, Row};
use crate::shard::Head;

/// The format that is written, and the newest that is read.
const FORMAT: u32 = 1;

const FORMAT_KEY: [u8; 1] = [0];
const SHARDS: u8 = 1;
const END: u8 = 0;

/// Table numbers that no extension has.
const HEAD: u8 = 0;
const CHANGES: u8 = 255;

/// The largest number of an extension's table.
pub(crate) const TABLE_MAX: u8 = 250;

pub(crate) fn format_pair() -> Pair {
    Pair::put(FORMAT_KEY.to_vec(), FORMAT.to_le_bytes().to_vec())
}

/// Before all pairs of an organisation.
pub(crate) fn org_start(org: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(org.len() + 2);
    bytes.push(SHARDS);
    bytes.extend_from_slice(org.as_bytes());
    bytes.push(END);
    bytes
}

/// Before all pairs of the shard.
fn shard_start(shard: &ShardKey, more: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(shard.as_str().len() + 3 + more);
    bytes.push(SHARDS);
    bytes.extend_from_slice(shard.org().as_bytes());
    bytes.push(END);
    bytes.extend_from_slice(shard.namespace().as_bytes());
    bytes.push(END);
    bytes
}

pub(crate) fn head_key(shard: &ShardKey) -> Vec<u8> {
    let mut bytes = shard_start(shard, 1);
    bytes.push(HEAD);
    bytes
}

/// After all rows of the table.
pub(crate) fn table_end(shard: &ShardKey, table: u8) -> Vec<u8> {
    row_key(shard, table + 1, &[])
}

/// After all pairs of the shard.
pub(crate) fn shard_end(shard: &ShardKey) -> Vec<u8> {
    let mut bytes = shard_start(shard, 0);
    *bytes.last_mut().expect("it ends with a zero") = END + 1;
    bytes
}

pub(crate) fn row_key(shard: &ShardKey, table: u8, key: &[u8]) -> Vec<u8> {
    let mut bytes = shard_start(shard, 1 + key.len());
    bytes.push(table);
    bytes.extend_from_slice(key);
    bytes
}

pub(crate) fn change_key(shard: &ShardKey, number: u64) -> Vec<u8> {
    row_key(shard, CHANGES, &number.to_be_bytes())
}

/// What a pair of a checkpoint is, told by its key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    Format,
    Head { shard: ShardKey },
    Row { shard: ShardKey, table: u8, key: &'a [u8] },
    Change { shard: ShardKey, number: u64 },
}

pub(crate) fn read_key(key: &[u8]) -> Result<Place<'_>, RestoreError> {
    parse_key(key).ok_or_else(|| {
        RestoreError::new(format!("it holds the key \"{}\", which is none of a shard; was it made by another state machine, or is it damaged?", key.escape_ascii()))
    })
}

fn parse_key(key: &[u8]) -> Option<Place<'_>> {
    if *key == FORMAT_KEY {
        return Some(Place::Format);
    }
    let rest = key.strip_prefix(&[SHARDS])?;
    let (org, rest) = split_name(rest)?;
    let (namespace, rest) = split_name(rest)?;
    let shard = ShardKey::new(org, namespace).ok()?;
    match rest {
        [HEAD] => Some(Place::Head { shard }),
        [CHANGES, number @ ..] => {
            Some(Place::Change { shard, number: u64::from_be_bytes(number.try_into().ok()?) })
        }
        [table @ 1..=TABLE_MAX, key @ ..] => Some(Place::Row { shard, table: *table, key }),
        _ => None,
    }
}

fn split_name(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == END)?;
    Some((str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}

pub(crate) fn check_format(value: &[u8]) -> Result<(), RestoreError> {
    let format = value.try_into().map(u32::from_le_bytes);
    match format {
        Ok(FORMAT) => Ok(()),
        Ok(format) => Err(RestoreError::new(format!(
            "it has format {format}, and this program knows {FORMAT}; start it with a newer program"
        ))),
        Err(_) => Err(RestoreError::new("its format version is not four bytes")),
    }
}

pub(crate) fn encode_head(head: &Head) -> Vec<u8> {
    let numbers = [head.revision, head.first_change, head.compacted, head.bytes];
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

pub(crate) fn decode_head(value: &[u8]) -> Option<Head> {
    let (numbers, []) = value.as_chunks::<8>() else {
        return None;
    };
    let [revision, first_change, compacted, bytes] = *<&[[u8; 8]; 4]>::try_from(numbers).ok()?;
    Some(Head {
        revision: u64::from_le_bytes(revision),
        first_change: u64::from_le_bytes(first_change),
        compacted: u64::from_le_bytes(compacted),
        bytes: u64::from_le_bytes(bytes),
    })
}

/// revision u64 | table u8 | key length u16 | key | row, empty if it was removed.
pub(crate) fn encode_change(change: &Change) -> Vec<u8> {
    let key = change.key.as_slice();
    let row = change.row.as_ref().map_or(&[][..], Row::stored_slice);
    let length = u16::try_from(key.len()).expect("checked when the row was written");
    let mut bytes = Vec::with_capacity(11 + key.len() + row.len());
    bytes.extend_from_slice(&change.revision.to_le_bytes());
    bytes.push(change.table);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(row);
    bytes
}

pub(crate) fn decode_change(value: &[u8]) -> Option<Change> {
    let (revision, rest) = value.split_first_chunk::<8>()?;
    let (table, rest) = rest.split_first()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (key, row) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    let row = match row {
        [] => None,
        row if row.len() >= HEADER_BYTES => Some(Row::new(row)),
        _ => return None,
    };
    let revision = u64::from_le_bytes(*revision);
    Some(Change { revision, table: *table, key: Key::from(key), row, mark: Mark::RESTORED })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back_and_ordered_as_shards_tables_and_keys() {
        let mut keys = Vec::new();
        for (org, namespace) in [("a", "b"), ("a", "b!"), ("a!", "a"), ("b", "a")] {
            let shard = ShardKey::new(org, namespace).unwrap();
            keys.push((head_key(&shard), Place::Head { shard: shard.clone() }));
            for key in [&b""[..], b"\0", b"\0\xff", b"a", b"\xff"] {
                let place = Place::Row { shard: shard.clone(), table: 1, key };
                keys.push((row_key(&shard, 1, key), place));
            }
            keys.push((
                change_key(&shard, 255),
                Place::Change { shard: shard.clone(), number: 255 },
            ));
            keys.push((
                change_key(&shard, 256),
                Place::Change { shard: shard.clone(), number: 256 },
            ));
            keys.iter().for_each(|(key, _)| assert!(*key < shard_end(&shard)));
        }
        assert!(keys.is_sorted_by_key(|(key, _)| key.clone()));
        for (key, place) in &keys {
            assert_eq!(parse_key(key).as_ref(), Some(place));
        }
        for bad in [
            &b""[..],
            b"\x02",
            b"\x01a\0b",
            b"\x01a\0b\0",
            b"\x01a\0b\0\0x",
            b"\x01a\0b\0\xfe",
            b"\x01\0b\0\x01",
        ] {
            assert_eq!(parse_key(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn changes_and_heads_are_read_back_whole_or_not_at_all() {
        let row = Row::new(b"\x07\0\0\0\0\0\0\0value");
        for row in [None, Some(row)] {
            let key = Key::from(&b"key"[..]);
            let change = Change { revision: 9, table: 3, key, row, mark: Mark::NEW };
            let bytes = encode_change(&change);
            let read = decode_change(&bytes).unwrap();
            assert_eq!(
                (read.revision, read.table, &read.key, &read.row),
                (change.revision, change.table, &change.key, &change.row)
            );
            assert!((0..14).all(|end| decode_change(&bytes[..end]).is_none()));
        }
        let head = Head { revision: 1, first_change: 2, compacted: 3, bytes: 4 };
        let bytes = encode_head(&head);
        assert_eq!(decode_head(&bytes), Some(head));
        assert!((0..bytes.len()).all(|end| decode_head(&bytes[..end]).is_none()));
    }
}
