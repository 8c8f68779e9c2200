//! What the machines of all nodes do, compared with a model that is too simple to be wrong: every answer, when it is made, and the state
//! whenever somebody looks.
//!
//! ```text
//!   HostCore --apply--> JudgedMachine --apply--> ShardMachine
//!                             |                       | replies
//!                             v                       v
//!                           Judge: the first to apply an index tells the model; all have to answer as it does
//! ```

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use quorate_replicator::{
    Batch, CheckpointPairs, CheckpointReader, Frame, GroupId, LogTime, Outcomes, RestoreError,
    ShardKey, StateMachine,
};
use quorate_shard::envelope;
use quorate_shard::kv::{
    Condition, Op, Reply, Transaction, TransactionOp, TransactionReply, TransactionResult,
};

use crate::counters::{CounterOp, IDLE_MS, REFUSED, place};
use crate::oracle::{Checked, violation};

/// Shared by the machines of all lives of all nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Judge(Arc<Mutex<Judged>>);

#[derive(Debug, Default)]
struct Judged {
    model: Model,
    /// What was applied at each index, and how it was answered, as digests.
    applied: BTreeMap<u64, (u64, u64)>,
    /// The first thing that was wrong.
    wrong: Option<String>,
}

impl Judge {
    fn judged(&self) -> MutexGuard<'_, Judged> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One for machines of which it is not known yet whether they are of this group: what is left to another driver may come to nothing.
    pub(crate) fn fork(&self) -> Self {
        let Judged { model, applied, wrong } = &*self.judged();
        let (model, applied, wrong) = (model.clone(), applied.clone(), wrong.clone());
        Self(Arc::new(Mutex::new(Judged { model, applied, wrong })))
    }

    /// Whether all was answered as it should be.
    pub(crate) fn verdict(&self) -> Checked {
        match &self.judged().wrong {
            Some(wrong) => violation(wrong.clone()),
            None => Ok(()),
        }
    }

    /// What a node has to show that has applied everything up to `index`, if the model stands there.
    pub(crate) fn state_at(&self, index: u64) -> Option<Vec<String>> {
        let judged = self.judged();
        let (last, _) = judged.applied.last_key_value()?;
        (*last <= index).then(|| judged.model.lines())
    }
}

impl Judged {
    fn applied(&mut self, batch: &Batch<'_>, replies: &[Bytes]) {
        let mut what = DefaultHasher::new();
        batch.log_time.hash(&mut what);
        for it in batch.frames {
            (it.slot, &it.frame.id, &it.frame.shard, &it.frame.payload).hash(&mut what);
        }
        let mut how = DefaultHasher::new();
        replies.hash(&mut how);
        let now = (what.finish(), how.finish());
        if let Some(before) = self.applied.get(&batch.index) {
            if before.0 != now.0 {
                self.say(format!("two things were applied at index {}", batch.index));
            } else if before.1 != now.1 {
                self.say(format!("index {} was answered in two ways", batch.index));
            }
            return;
        }
        self.applied.insert(batch.index, now);
        self.model.expire(batch.log_time.as_ms());
        if replies.len() != batch.frames.len() {
            self.say(format!("index {} has {} answers", batch.index, replies.len()));
        }
        for (it, reply) in batch.frames.iter().zip(replies) {
            if let Err(words) = self.model.judge(&it.frame, batch.log_time, reply) {
                let (index, slot, id) = (batch.index, it.slot, it.frame.id);
                self.say(format!("{id} at {index}.{slot}: {words}"));
            }
        }
    }

    fn say(&mut self, words: String) {
        self.wrong.get_or_insert(words);
    }
}

/// A machine whose answers are judged.
#[derive(Debug)]
pub(crate) struct JudgedMachine {
    pub(crate) machine: Box<dyn StateMachine>,
    pub(crate) judge: Judge,
}

#[deny(clippy::missing_trait_methods)]
impl StateMachine for JudgedMachine {
    fn apply(&mut self, batch: &Batch<'_>, outcomes: &mut Outcomes) {
        self.machine.apply(batch, outcomes);
        self.judge.judged().applied(batch, outcomes.replies());
    }

    fn validate(&self, frame: &Frame) -> Result<(), String> {
        self.machine.validate(frame)
    }

    fn next_deadline(&self) -> Option<LogTime> {
        self.machine.next_deadline()
    }

    fn begin_checkpoint(&mut self) -> CheckpointPairs {
        self.machine.begin_checkpoint()
    }

    fn restore(&mut self, reader: &mut dyn CheckpointReader) -> Result<(), RestoreError> {
        self.machine.restore(reader)
    }

    fn sibling(&mut self, group: GroupId) -> Option<Box<dyn StateMachine>> {
        self.machine.sibling(group)
    }
}

#[derive(Clone, Debug)]
struct Key {
    value: Vec<u8>,
    created: u64,
    modified: u64,
    expires: Option<u64>,
}

/// One namespace.
#[derive(Clone, Debug, Default)]
struct Space {
    revision: u64,
    keys: BTreeMap<Vec<u8>, Key>,
    /// Each with when it goes back.
    counters: BTreeMap<String, (u64, u64)>,
}

#[derive(Clone, Debug, Default)]
struct Model {
    spaces: BTreeMap<ShardKey, Space>,
}

impl Model {
    /// Everything that is due by `now` happens, each thing under a revision of its own.
    fn expire(&mut self, now: u64) {
        for space in self.spaces.values_mut() {
            let Space { revision, keys, counters } = space;
            let before = keys.len();
            keys.retain(|_, key| key.expires.is_none_or(|at| at > now));
            *revision += (before - keys.len()) as u64;
            counters.retain(|_, (count, due)| {
                if *due <= now {
                    *revision += 1;
                    (*count, *due) = (*count - 1, now + IDLE_MS);
                }
                *count > 0
            });
        }
    }

    fn judge(&mut self, frame: &Frame, log_time: LogTime, reply: &Bytes) -> Result<(), String> {
        let now = log_time.as_ms();
        let known = self.spaces.get(&frame.shard).cloned();
        let mut space = known.unwrap_or_default();
        if let Some(op) = CounterOp::decode(&frame.payload) {
            let wanted = space.count(&op, now);
            let found = match envelope::open_answer(reply) {
                Ok(found) => found.map(<[u8]>::to_vec).map_err(drop),
                Err(error) => return Err(error.to_string()),
            };
            if found != wanted {
                return Err(format!("{op:?} is answered with {found:?}, and should be {wanted:?}"));
            }
        } else {
            // What is no operation is refused for what it is, and changes nothing.
            let Ok(op) = Op::decode(&frame.payload) else { return Ok(()) };
            let wanted = space.apply(&op, now);
            let found = Reply::decode(reply).map_err(|error| error.to_string())?;
            if found != wanted {
                return Err(format!("it is answered with {found:?}, and should be {wanted:?}"));
            }
        }
        if space.revision > 0 {
            self.spaces.insert(frame.shard.clone(), space);
        }
        Ok(())
    }

    /// As `everything` shows a node.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (shard, space) in &self.spaces {
            lines.push(format!("{shard} {}", space.revision));
            for (key, it) in &space.keys {
                let Key { value, created, modified, expires } = it;
                lines.push(line(shard, key, value, (*created, *modified), *expires));
            }
            for (name, (count, due)) in &space.counters {
                lines.push(counter_line(shard, name, *count, *due));
            }
        }
        lines
    }
}

/// A key, as it is compared.
pub(crate) fn line(
    shard: &ShardKey,
    key: &[u8],
    value: &[u8],
    (created, modified): (u64, u64),
    expires: Option<u64>,
) -> String {
    let (key, value) = (key.escape_ascii(), value.escape_ascii());
    format!("{shard} {key} = {value}, created {created}, modified {modified}, expires {expires:?}")
}

/// A counter, as it is compared.
pub(crate) fn counter_line(shard: &ShardKey, name: &str, count: u64, due: u64) -> String {
    format!("{shard} counter {name} at {count} until {due}")
}

impl Space {
    fn holds(&self, key: &[u8], condition: Condition<'_>) -> bool {
        let known = self.keys.get(key);
        match condition {
            Condition::Missing => known.is_none(),
            Condition::Exists => known.is_some(),
            Condition::Revision(revision) => known.map_or(0, |known| known.modified) == revision,
            Condition::Value(value) => known.is_some_and(|known| known.value == value),
            _ => unreachable!("clients draw no other condition"),
        }
    }

    fn put(&mut self, key: &[u8], value: &[u8], expires: Option<u64>) -> u64 {
        let modified = self.revision + 1;
        let created = self.keys.get(key).map_or(modified, |known| known.created);
        self.keys.insert(key.into(), Key { value: value.into(), created, modified, expires });
        created
    }

    /// The answer, or that it is refused.
    fn count(&mut self, op: &CounterOp, now: u64) -> Result<Vec<u8>, ()> {
        match op {
            CounterOp::Largest => {
                let all = self.counters.iter();
                let largest = all.map(|(name, (count, _))| place(*count, name.as_bytes())).max();
                Ok(largest.unwrap_or_default())
            }
            CounterOp::Add { name, by } => {
                let after = self.counters.get(name).map_or(0, |(count, _)| *count) + by;
                if after.is_multiple_of(REFUSED) {
                    return Err(());
                }
                self.revision += 1;
                self.counters.insert(name.clone(), (after, now + IDLE_MS));
                Ok(after.to_le_bytes().into())
            }
        }
    }

    fn apply(&mut self, op: &Op<'_>, now: u64) -> Reply {
        let revision = self.revision;
        let until = |ttl_ms: &Option<u64>| ttl_ms.map(|ttl_ms| now + ttl_ms);
        let (Op::Put { key, condition, .. } | Op::Delete { key, condition }) = op else {
            return match op {
                Op::DeletePrefix { prefix, keys_max } => self.delete_prefix(prefix, *keys_max),
                Op::Transaction(transaction) => self.transact(transaction, &until),
                _ => unreachable!("clients draw no other operation"),
            };
        };
        if let Some(condition) = condition
            && !self.holds(key, *condition)
        {
            let actual = self.keys.get(*key).map_or(0, |known| known.modified);
            return Reply::CompareFailed { revision, actual };
        }
        if let Op::Put { key, value, ttl_ms, .. } = op {
            let created = self.put(key, value, until(ttl_ms));
            self.revision += 1;
            return Reply::Put { revision: self.revision, created };
        }
        let existed = self.keys.remove(*key).is_some();
        self.revision += u64::from(existed);
        Reply::Deleted { revision: self.revision, existed }
    }

    fn delete_prefix(&mut self, prefix: &[u8], keys_max: u32) -> Reply {
        let all = self.keys.keys().filter(|key| key.starts_with(prefix));
        let mut all: Vec<_> = all.cloned().collect();
        let more = all.len() > keys_max as usize;
        all.truncate(keys_max as usize);
        for key in &all {
            self.keys.remove(key);
        }
        self.revision += u64::from(!all.is_empty());
        Reply::PrefixDeleted { revision: self.revision, removed: all.len() as u32, more }
    }

    fn transact(
        &mut self,
        transaction: &Transaction<'_>,
        until: &dyn Fn(&Option<u64>) -> Option<u64>,
    ) -> Reply {
        let Transaction { compare, then, otherwise } = transaction;
        let succeeded = compare.iter().all(|it| self.holds(it.key, it.condition));
        let mut changed = false;
        let mut results = Vec::new();
        for step in if succeeded { then } else { otherwise } {
            results.push(match step {
                TransactionOp::Put { key, value, ttl_ms } => {
                    changed = true;
                    TransactionResult::Put { created: self.put(key, value, until(ttl_ms)) }
                }
                TransactionOp::Delete { key } => {
                    let existed = self.keys.remove(*key).is_some();
                    changed |= existed;
                    TransactionResult::Deleted { existed }
                }
                _ => unreachable!("clients draw no other step"),
            });
        }
        self.revision += u64::from(changed);
        Reply::Transaction(TransactionReply { revision: self.revision, succeeded, results })
    }
}
