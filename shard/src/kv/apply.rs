//! What operations on keys do to a shard.

use std::ops::RangeInclusive;

use bytes::Bytes;
use quorate_replicator::LogTime;

use crate::kv::op::{Compare, Condition, Op, Transaction, TransactionOp, check_key};
use crate::kv::reply::{self, StepResult};
use crate::kv::row::KvRow;
use crate::kv::{TABLE, kind};
use crate::limits::REPLY_BYTES_MAX;
use crate::{Extension, Refusal, ShardContext, Table, Update};

/// The KV as an extension. [`Shards::builder`](crate::Shards::builder) plugs it in.
#[derive(Clone, Copy, Debug, Default)]
pub struct KvExtension;

impl Extension for KvExtension {
    fn name(&self) -> &'static str {
        "kv"
    }

    fn kinds(&self) -> RangeInclusive<u16> {
        kind::ALL
    }

    fn tables(&self) -> &'static [Table] {
        const { &[Table::watched(TABLE)] }
    }

    fn apply(
        &self,
        kind: u16,
        body: &[u8],
        context: &mut ShardContext<'_>,
        answer: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        match Op::decode_body(kind, body)? {
            Op::Put { key, value, ttl_ms, condition } => {
                match put(context, key, value, ttl_ms, condition)? {
                    Ok(created) => reply::write_put(answer, context.revision_reached(), created),
                    Err(actual) => {
                        reply::write_compare_failed(answer, context.revision_reached(), actual);
                    }
                }
            }
            Op::Delete { key, condition } => match delete(context, key, condition) {
                Ok(existed) => reply::write_deleted(answer, context.revision_reached(), existed),
                Err(actual) => {
                    reply::write_compare_failed(answer, context.revision_reached(), actual);
                }
            },
            Op::Transaction(transaction) => carry_out(context, &transaction, answer)?,
            Op::DeletePrefix { prefix, keys_max } => {
                let (removed, more) = context.remove_prefix(TABLE, prefix, keys_max as usize);
                let removed = u32::try_from(removed).expect("at most keys_max, which is a u32");
                reply::write_prefix_deleted(answer, context.revision_reached(), removed, more);
            }
        }
        Ok(())
    }

    fn check_row(&self, _: u8, key: &[u8], row: &[u8]) -> Result<(), String> {
        check_key(key).map_err(|refusal| refusal.to_string())?;
        if KvRow::fits(row) { Ok(()) } else { Err("its value has no head".into()) }
    }
}

/// Sets a key and tells what created it, or at which revision the key was modified if the condition does not hold.
fn put(
    context: &mut ShardContext<'_>,
    key: &[u8],
    value: &[u8],
    ttl_ms: Option<u64>,
    condition: Option<Condition<'_>>,
) -> Result<Result<u64, u64>, Refusal> {
    let revision = context.revision();
    let deadline: Option<LogTime> = ttl_ms.map(|ttl_ms| context.log_time().plus_ms(ttl_ms));
    let mut outcome = Err(0);
    context.update(TABLE, key, |row, new| {
        #[cfg(quorate_planted)]
        let deadline = match row.and_then(|row| row.deadline()) {
            Some(first) if quorate_planted::Bug::DeadlineKept.is_planted() => Some(first),
            _ => deadline,
        };
        let row = row.map(KvRow::of);
        if !condition.is_none_or(|condition| holds(condition, row)) {
            outcome = Err(row.map_or(0, |row| row.modified));
            return Ok(Update::Keep);
        }
        let created = row.map_or(revision, |row| row.created);
        outcome = Ok(created);
        new.set_deadline(deadline);
        new.append(&KvRow::head(created, revision));
        new.append(value);
        Ok(Update::Put)
    })?;
    Ok(outcome)
}

/// Removes a key and tells whether it was there, or at which revision it was modified if the condition does not
/// hold.
fn delete(
    context: &mut ShardContext<'_>,
    key: &[u8],
    condition: Option<Condition<'_>>,
) -> Result<bool, u64> {
    if let Some(condition) = condition {
        let row = context.get(TABLE, key).map(KvRow::of);
        if !holds(condition, row) {
            return Err(row.map_or(0, |row| row.modified));
        }
    }
    Ok(context.remove(TABLE, key))
}

fn holds(condition: Condition<'_>, row: Option<KvRow<'_>>) -> bool {
    #[cfg(quorate_planted)]
    if quorate_planted::Bug::CompareIgnored.is_planted() {
        return true;
    }
    match (condition, row) {
        (Condition::Missing | Condition::Revision(0), row) => row.is_none(),
        (Condition::Exists, row) => row.is_some(),
        (Condition::Revision(revision), Some(row)) => row.modified == revision,
        (Condition::Value(value), Some(row)) => row.value() == value,
        (Condition::Revision(_) | Condition::Value(_), None) => false,
    }
}

/// What one step did, before it is encoded: what was read has to be kept over the writes that follow.
enum Done<'a> {
    Put { created: u64 },
    Deleted { existed: bool },
    Got { key: &'a [u8], created: u64, modified: u64, value: Bytes },
    Missing,
}

fn carry_out(
    context: &mut ShardContext<'_>,
    transaction: &Transaction<'_>,
    answer: &mut Vec<u8>,
) -> Result<(), Refusal> {
    let succeeded = transaction.compare.iter().all(|Compare { key, condition }| {
        holds(*condition, context.get(TABLE, key).map(KvRow::of))
    });
    let steps = if succeeded { &transaction.then } else { &transaction.otherwise };
    let mut done = Vec::with_capacity(steps.len());
    let mut reply_bytes = 0;
    for step in steps {
        done.push(match *step {
            TransactionOp::Put { key, value, ttl_ms } => {
                let created = put(context, key, value, ttl_ms, None)?;
                Done::Put { created: created.expect("there is no condition") }
            }
            TransactionOp::Delete { key } => Done::Deleted { existed: context.remove(TABLE, key) },
            TransactionOp::Get { key } => match context.get(TABLE, key).map(KvRow::of) {
                None => Done::Missing,
                Some(row) => {
                    reply_bytes += key.len() + row.value().len();
                    if reply_bytes > REPLY_BYTES_MAX {
                        return Err(Refusal::ReplyTooLarge { limit: REPLY_BYTES_MAX as u64 });
                    }
                    let KvRow { created, modified, .. } = row;
                    Done::Got { key, created, modified, value: row.to_value() }
                }
            },
        });
    }
    let results: Vec<_> = done
        .iter()
        .map(|done| match done {
            Done::Put { created } => StepResult::put(*created),
            Done::Deleted { existed } => StepResult::deleted(*existed),
            Done::Got { key, created, modified, value } => {
                StepResult::got(key, *created, *modified, value)
            }
            Done::Missing => StepResult::missing(),
        })
        .collect();
    reply::write_transaction(answer, context.revision_reached(), succeeded, &results);
    Ok(())
}
