//! A service beside the keys, with tables, deadlines and refusals of its own: counters that go back by one when nobody uses them.

use std::ops::{Bound, RangeInclusive};

use bytes::Bytes;
use quorate_shard::{Extension, Refusal, ShardContext, Table, envelope};

/// How long a counter stays as it is, in milliseconds of log time.
pub(crate) const IDLE_MS: u64 = 200;

/// A counter that would stand at a multiple of this stays where it is, and whoever adds to it is refused.
pub(crate) const REFUSED: u64 = 13;

/// By name.
pub(crate) const COUNTERS: u8 = 40;
/// By value, and then by name.
const BY_VALUE: u8 = 41;

const ADD: u16 = 500;
const LARGEST: u16 = 501;

/// An operation on counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CounterOp {
    Add {
        name: String,
        by: u64,
    },
    /// Asks for the largest one.
    Largest,
}

impl CounterOp {
    pub(crate) fn encode(&self) -> Bytes {
        match self {
            Self::Add { name, by } => envelope::encode_op(ADD, &(name, by)),
            Self::Largest => envelope::encode_op(LARGEST, &()),
        }
    }

    /// The operation that a payload carries, if it is one on counters.
    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        match envelope::open_op(payload).ok()? {
            (ADD, body) => {
                let (name, by) = envelope::decode_body(body).ok()?;
                Some(Self::Add { name, by })
            }
            (LARGEST, _) => Some(Self::Largest),
            _ => None,
        }
    }
}

/// The extension.
#[derive(Debug)]
pub(crate) struct Counters;

/// The place in the table by value.
pub(crate) fn place(count: u64, name: &[u8]) -> Vec<u8> {
    [&count.to_be_bytes()[..], name].concat()
}

/// What a row of the counters says.
pub(crate) fn count(row: &[u8]) -> u64 {
    row.try_into().map_or(0, u64::from_le_bytes)
}

fn set(
    context: &mut ShardContext<'_>,
    name: &[u8],
    before: u64,
    after: u64,
) -> Result<(), Refusal> {
    context.remove(BY_VALUE, &place(before, name));
    if after == 0 {
        context.remove(COUNTERS, name);
        return Ok(());
    }
    let deadline = context.log_time().plus_ms(IDLE_MS);
    context.put(COUNTERS, name, Some(deadline), &[&after.to_le_bytes()])?;
    context.put(BY_VALUE, &place(after, name), None, &[])
}

impl Extension for Counters {
    fn name(&self) -> &'static str {
        "counters"
    }

    fn kinds(&self) -> RangeInclusive<u16> {
        ADD..=LARGEST
    }

    fn tables(&self) -> &'static [Table] {
        const { &[Table::watched(COUNTERS), Table::new(BY_VALUE)] }
    }

    fn apply(
        &self,
        kind: u16,
        body: &[u8],
        context: &mut ShardContext<'_>,
        answer: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        if kind == LARGEST {
            let all = context.range(BY_VALUE, Bound::Unbounded, Bound::Unbounded);
            answer.extend_from_slice(all.last().map_or(&[][..], |(place, _)| place));
            return Ok(());
        }
        let (name, by): (String, u64) = envelope::decode_body(body)?;
        let before = context.get(COUNTERS, name.as_bytes()).map_or(0, |row| count(row.bytes()));
        let after = before.saturating_add(by);
        set(context, name.as_bytes(), before, after)?;
        if after.is_multiple_of(REFUSED) {
            // After the writes: they have to be undone.
            let detail = format!("no counter stands at {after}");
            return Err(Refusal::Other { code: 13, detail });
        }
        answer.extend_from_slice(&after.to_le_bytes());
        Ok(())
    }

    fn due(&self, _table: u8, key: &[u8], context: &mut ShardContext<'_>) {
        let before = context.get(COUNTERS, key).map_or(0, |row| count(row.bytes()));
        let _ = set(context, key, before, before.saturating_sub(1));
    }
}
