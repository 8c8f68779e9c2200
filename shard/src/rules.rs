//! What an application allows in a namespace, over what its operations refuse by themselves.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use quorate_replicator::Frame;

use crate::extension::{Extension, Table};
use crate::{Refusal, ShardContext, ShardView, envelope};

/// Rules for the frames of a namespace: a schema, a policy, a quota.
///
/// A program registers its rules under versions ([`ShardsBuilder::rules`](crate::ShardsBuilder::rules)), and a decided operation
/// ([`Kv::set_rules`](crate::Kv::set_rules)) says which version is in force in a namespace, so that all nodes judge a frame by the same
/// one. A frame that they do not allow is decided as [`Rejection::Refused`](quorate_replicator::Rejection::Refused): it is never
/// applied, under no driver, and the other frames of its batch are.
///
/// # Contract
///
/// - **Deterministic**: the answer follows from the frame and the shard alone. No clock, no random source, no configuration.
/// - **For ever**: what is registered under a version never changes; other rules are another version, and those in force stay registered.
/// - **Everywhere**: all nodes have a version before it is put in force. Where none has it, that is refused. Where some have it, those that
///   differ from what was decided stop, as after every divergence.
///
/// ```
/// use quorate_replicator::Frame;
/// use quorate_shard::kv::Op;
/// use quorate_shard::{Rules, ShardView, Shards};
///
/// /// No value is longer than a hundred bytes.
/// #[derive(Debug)]
/// struct ShortValues;
///
/// impl Rules for ShortValues {
///     fn check(&self, frame: &Frame, _shard: ShardView<'_>) -> Result<(), String> {
///         match Op::decode(&frame.payload) {
///             Ok(Op::Put { value, .. }) if value.len() > 100 => {
///                 Err(format!("the value has {} bytes, at most 100 are allowed here", value.len()))
///             }
///             _ => Ok(()),
///         }
///     }
/// }
///
/// let (machine, shards) = Shards::builder().rules(1, ShortValues).build();
/// ```
pub trait Rules: fmt::Debug + Send + Sync + 'static {
    /// Whether `frame` is allowed in the state before its batch. Asked of every operation but the one that sets the rules.
    ///
    /// # Errors
    ///
    /// Why not, in words for whoever proposed it.
    fn check(&self, frame: &Frame, shard: ShardView<'_>) -> Result<(), String>;
}

/// The table in which a namespace keeps which version is in force.
const TABLE: u8 = 2;
const KEY: &[u8] = b"version";
/// The kind of the operation that puts a version in force.
const KIND: u16 = 100;

/// The operation that puts `version` in force; 0: no rules.
pub(crate) fn encode(version: u32) -> Bytes {
    envelope::encode_op(KIND, &(version,))
}

/// The namespace's revision in the answer to [`encode`].
pub(crate) fn read_answer(answer: &[u8]) -> Option<u64> {
    answer.try_into().ok().map(u64::from_le_bytes)
}

/// Which version is in force in a shard; 0: none.
pub(crate) fn in_force(shard: ShardView<'_>) -> u32 {
    shard.get(TABLE, KEY).and_then(|row| read_row(row.bytes())).unwrap_or(0)
}

fn read_row(row: &[u8]) -> Option<u32> {
    row.try_into().ok().map(u32::from_le_bytes)
}

/// The rules that a program has, and the extension that keeps which are in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct RuleBook {
    versions: BTreeMap<u32, Arc<dyn Rules>>,
}

impl RuleBook {
    pub(crate) fn add(&mut self, version: u32, rules: impl Rules) {
        assert!(version > 0, "rules version 0 means that there are no rules");
        let before = self.versions.insert(version, Arc::new(rules));
        assert!(before.is_none(), "two rules have version {version}");
    }

    /// Whether no frame needs to be asked of its shard: what is not registered is not in force.
    pub(crate) fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    /// The version that a frame puts in force, if that is what it does.
    pub(crate) fn version_of(frame: &Frame) -> Option<Result<u32, Refusal>> {
        match envelope::open_op(&frame.payload) {
            Ok((KIND, body)) => Some(envelope::decode_body(body).map(|(version,)| version)),
            _ => None,
        }
    }

    /// Whether a version may be put in force. A node that does not know it judges otherwise than one that does, and one of them stops.
    pub(crate) fn check_version(&self, version: u32) -> Result<(), String> {
        if version == 0 || self.versions.contains_key(&version) {
            return Ok(());
        }
        let known: Vec<_> = self.versions.keys().map(u32::to_string).collect();
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        Err(format!(
            "rules version {version} is not registered in this program, which has: {known}; register it on all nodes first"
        ))
    }

    /// Whether the rules in force allow a frame.
    pub(crate) fn check(&self, frame: &Frame, shard: ShardView<'_>) -> Result<(), String> {
        match in_force(shard) {
            0 => Ok(()),
            version => self
                .versions
                .get(&version)
                .expect("checked when it was put in force")
                .check(frame, shard),
        }
    }
}

impl Extension for RuleBook {
    fn name(&self) -> &'static str {
        "rules"
    }

    fn kinds(&self) -> RangeInclusive<u16> {
        KIND..=KIND
    }

    fn tables(&self) -> &'static [Table] {
        const { &[Table::watched(TABLE)] }
    }

    fn apply(
        &self,
        _kind: u16,
        body: &[u8],
        context: &mut ShardContext<'_>,
        answer: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let (version,): (u32,) = envelope::decode_body(body)?;
        let before = context.get(TABLE, KEY).and_then(|row| read_row(row.bytes())).unwrap_or(0);
        if version == 0 {
            context.remove(TABLE, KEY);
        } else if version != before {
            context.put(TABLE, KEY, None, &[&version.to_le_bytes()])?;
        }
        answer.extend_from_slice(&context.revision_reached().to_le_bytes());
        Ok(())
    }

    fn check_row(&self, _table: u8, key: &[u8], row: &[u8]) -> Result<(), String> {
        match read_row(row) {
            Some(version) if version > 0 && key == KEY => self.check_version(version),
            _ => Err("it is not a version of rules".into()),
        }
    }
}
