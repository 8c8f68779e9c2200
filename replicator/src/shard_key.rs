//! Where a frame belongs: an organisation and a namespace in it.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::limits::{NAMESPACE_BYTES_MAX, ORG_BYTES_MAX, SLOTS};

/// Names one shard: the state of one namespace of one organisation.
///
/// Drivers route by it and know nothing else of a frame. A clone costs one reference count.
///
/// # Names
///
/// A name is UTF-8, not empty, at most [`ORG_BYTES_MAX`] or [`NAMESPACE_BYTES_MAX`] bytes, holds no control
/// character, no `/` and no `\`, is neither `.` nor `..`, and neither begins nor ends with white space. So a
/// name can stand in a path, a log line or a URL without being mistaken for something else.
///
/// ```
/// # use quorate_replicator::ShardKey;
/// let key = ShardKey::new("acme", "orders")?;
/// assert_eq!((key.org(), key.namespace()), ("acme", "orders"));
/// assert!(ShardKey::new("acme", "../orders").is_err());
/// # Ok::<(), quorate_replicator::NameError>(())
/// ```
#[derive(Clone)]
pub struct ShardKey {
    /// `org/namespace`: neither part can hold a `/`, so the text alone tells two keys apart.
    text: Arc<str>,
    org_bytes: u16,
}

impl ShardKey {
    /// The shard of `namespace` in `org`, or why these cannot be names.
    pub fn new(org: &str, namespace: &str) -> Result<Self, NameError> {
        check("organisation", org, ORG_BYTES_MAX)?;
        check("namespace", namespace, NAMESPACE_BYTES_MAX)?;
        let org_bytes = u16::try_from(org.len()).expect("checked against ORG_BYTES_MAX");
        Ok(Self { text: format!("{org}/{namespace}").into(), org_bytes })
    }

    /// The shard written as `org/namespace`, as [`Display`](fmt::Display) writes it.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let (org, namespace) = text.split_once('/').ok_or_else(|| NameError {
            part: "shard key",
            name: text.chars().take(64).collect(),
            problem: "has no `/` between organisation and namespace".into(),
        })?;
        Self::new(org, namespace)
    }

    /// The organisation.
    pub fn org(&self) -> &str {
        &self.text[..usize::from(self.org_bytes)]
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.text[usize::from(self.org_bytes) + 1..]
    }

    /// The slot that the shard falls into, of [`SLOTS`]: CRC-32 of its text, on every node and for ever.
    pub fn slot(&self) -> u32 {
        crc32fast::hash(self.text.as_bytes()) % SLOTS
    }

    /// `org/namespace`.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Checks one name; `part` says which in the error.
fn check(part: &'static str, name: &str, bytes_max: usize) -> Result<(), NameError> {
    let problem = if name.is_empty() {
        "is empty".into()
    } else if name.len() > bytes_max {
        format!("is {} bytes long, at most {bytes_max} are allowed", name.len())
    } else if let Some(c) = name.chars().find(|c| c.is_control() || matches!(c, '/' | '\\')) {
        format!("holds the character {c:?}, which names may not")
    } else if name == "." || name == ".." {
        "would be a path".into()
    } else if name.trim() != name {
        "begins or ends with white space".into()
    } else {
        return Ok(());
    };
    Err(NameError { part, name: name.chars().take(64).collect(), problem })
}

impl PartialEq for ShardKey {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.text, &other.text) || self.text == other.text
    }
}

impl Eq for ShardKey {}

/// By organisation, then by namespace, each in byte order: all namespaces of an organisation stand together.
impl Ord for ShardKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.org(), self.namespace()).cmp(&(other.org(), other.namespace()))
    }
}

impl PartialOrd for ShardKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for ShardKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Display for ShardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ShardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for ShardKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for ShardKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = ShardKey;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a shard key, organisation/namespace")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ShardKey, E> {
                ShardKey::parse(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// A name that cannot be an organisation or a namespace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{part} {name:?} {problem}")]
pub struct NameError {
    part: &'static str,
    /// The name as given, cut to 64 characters.
    name: String,
    problem: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_mistaken_are_refused() {
        let long = "x".repeat(NAMESPACE_BYTES_MAX + 1);
        for bad in
            ["", ".", "..", "a/b", "a\\b", "a\0b", "a\nb", " a", "a ", "\u{7f}", long.as_str()]
        {
            assert!(ShardKey::new("org", bad).is_err(), "{bad:?} as a namespace");
            assert!(ShardKey::new(bad, "ns").is_err(), "{bad:?} as an organisation");
        }
        for good in ["a", "a.b", "...", "a b", "größe", "日本", &"x".repeat(ORG_BYTES_MAX)] {
            let key = ShardKey::new(good, good).unwrap();
            assert_eq!((key.org(), key.namespace()), (good, good));
            assert_eq!(ShardKey::parse(key.as_str()).unwrap(), key);
        }
    }

    #[test]
    fn order_is_by_organisation_first() {
        // As one string "a!/z" would sort before "a/b", since '!' is less than '/'.
        let mut keys: Vec<_> = [("a!", "z"), ("a", "b"), ("a", "c")]
            .map(|(org, namespace)| ShardKey::new(org, namespace).unwrap())
            .into();
        keys.sort();
        assert_eq!(keys.iter().map(ShardKey::as_str).collect::<Vec<_>>(), ["a/b", "a/c", "a!/z"]);
    }

    #[test]
    fn an_error_names_the_part_and_the_problem() {
        let error = ShardKey::new("acme", "a/b").unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"namespace "a/b" holds the character '/', which names may not"#
        );
    }
}
