//! The machine against a model that is too simple to be wrong, over restarts from incremental checkpoints.

use std::collections::BTreeMap;

use proptest::prelude::*;
use quorate_replicator::{Bytes, LogTime, ShardKey, StateMachine};
use quorate_shard::kv::{
    Changes, Compare, Condition, Op, Reply, Scan, Transaction, TransactionOp, TransactionReply,
    TransactionResult,
};
use quorate_shard::limits::{CHANGE_BYTES, DEADLINE_BYTES, NAMESPACE_BYTES, ROW_BYTES};
use quorate_shard::{Refusal, Shards, ShardsBuilder};

use crate::support::{Bench, Written, cases, shard};

const CHANGES_MAX: usize = 6;
const CHANGES_BYTES_MAX: u64 = 1000;
const STATE_BYTES_MAX: u64 = 6000;

fn builder() -> ShardsBuilder {
    Shards::builder().limit(|limits| {
        limits.changes_max = CHANGES_MAX as u32;
        limits.changes_bytes_max = CHANGES_BYTES_MAX;
        limits.state_bytes_max = STATE_BYTES_MAX;
    })
}

#[derive(Clone, Debug, PartialEq)]
struct Key {
    value: Vec<u8>,
    created: u64,
    modified: u64,
    expires: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Space {
    revision: u64,
    keys: BTreeMap<Vec<u8>, Key>,
    /// All changes that ever were.
    changes: Vec<(u64, Vec<u8>, Option<Key>)>,
    /// How many of them are dropped.
    dropped: usize,
}

fn row_bytes(key: &[u8], row: &Key) -> u64 {
    (key.len() + 8 + 16 + row.value.len()) as u64
}

impl Space {
    fn changes_bytes(&self) -> u64 {
        let cost = |(_, key, row): &(u64, Vec<u8>, Option<Key>)| {
            CHANGE_BYTES + row.as_ref().map_or(key.len() as u64, |row| row_bytes(key, row))
        };
        self.changes[self.dropped..].iter().map(cost).sum()
    }

    fn bytes(&self) -> u64 {
        let cost = |(key, row): (&Vec<u8>, &Key)| {
            let deadline = if row.expires.is_some() { DEADLINE_BYTES } else { 0 };
            ROW_BYTES + deadline + row_bytes(key, row)
        };
        NAMESPACE_BYTES + self.keys.iter().map(cost).sum::<u64>() + self.changes_bytes()
    }

    fn holds(&self, key: &[u8], condition: Condition<'_>) -> bool {
        let row = self.keys.get(key);
        match condition {
            Condition::Missing => row.is_none(),
            Condition::Exists => row.is_some(),
            Condition::Revision(revision) => row.map_or(0, |row| row.modified) == revision,
            Condition::Value(value) => row.is_some_and(|row| row.value == value),
            _ => unreachable!("no other condition is drawn"),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Model {
    spaces: BTreeMap<ShardKey, Space>,
}

/// The writes of one operation, in order.
type Writes = Vec<(Vec<u8>, Option<Key>)>;

impl Model {
    fn bytes(&self) -> u64 {
        self.spaces.values().map(Space::bytes).sum()
    }

    fn next_deadline(&self) -> Option<u64> {
        self.spaces
            .values()
            .flat_map(|space| space.keys.values())
            .filter_map(|key| key.expires)
            .min()
    }

    fn expire(&mut self, now: u64) {
        loop {
            let keys = self.spaces.iter().flat_map(|(name, space)| {
                space.keys.iter().map(move |(key, row)| (row.expires, name, key))
            });
            let due = keys.filter(|(at, ..)| at.is_some_and(|at| at <= now)).min();
            let Some((_, name, key)) = due else {
                return;
            };
            let (name, key) = (name.clone(), key.clone());
            self.spaces.get_mut(&name).unwrap().keys.remove(&key);
            self.commit(&name, vec![(key, None)]);
        }
    }

    /// Gives the writes, which are in the space already, a revision.
    fn commit(&mut self, name: &ShardKey, writes: Writes) {
        let space = self.spaces.get_mut(name).unwrap();
        if writes.is_empty() {
            return;
        }
        space.revision += 1;
        for (key, row) in writes {
            let space = self.spaces.get_mut(name).unwrap();
            space.changes.push((space.revision, key, row));
            loop {
                let full = self.bytes() > STATE_BYTES_MAX;
                let space = self.spaces.get_mut(name).unwrap();
                let count = space.changes.len() - space.dropped;
                let drop = count > CHANGES_MAX
                    || space.changes_bytes() > CHANGES_BYTES_MAX
                    || (full && count > 0);
                if !drop {
                    break;
                }
                space.dropped += 1;
            }
        }
    }

    fn put(
        &mut self,
        name: &ShardKey,
        now: u64,
        writes: &mut Writes,
        (key, value, ttl_ms): (&[u8], &[u8], Option<u64>),
    ) -> Result<u64, Refusal> {
        let total = self.bytes();
        let space = self.spaces.get_mut(name).unwrap();
        let revision = space.revision + 1;
        let created = space.keys.get(key).map_or(revision, |row| row.created);
        let expires = ttl_ms.map(|ttl_ms| now.saturating_add(ttl_ms));
        let row = Key { value: value.to_vec(), created, modified: revision, expires };
        let before = space.bytes();
        let old = space.keys.insert(key.to_vec(), row.clone());
        let after = space.bytes();
        let history = space.changes_bytes();
        if after > before && total - before + after > STATE_BYTES_MAX + history {
            match old {
                Some(old) => drop(space.keys.insert(key.to_vec(), old)),
                None => drop(space.keys.remove(key)),
            }
            return Err(Refusal::StateFull { limit: STATE_BYTES_MAX });
        }
        writes.push((key.to_vec(), Some(row)));
        Ok(created)
    }

    fn delete(&mut self, name: &ShardKey, writes: &mut Writes, key: &[u8]) -> bool {
        let existed = self.spaces.get_mut(name).unwrap().keys.remove(key).is_some();
        if existed {
            writes.push((key.to_vec(), None));
        }
        existed
    }

    fn apply(&mut self, name: &ShardKey, now: u64, op: &Op<'_>) -> Reply {
        let before = self.clone();
        self.spaces.entry(name.clone()).or_default();
        let mut writes = Writes::new();
        let reply = self.try_apply(name, now, op, &mut writes);
        match reply {
            Ok(reply) => {
                self.commit(name, writes);
                if self.spaces[name].revision == 0 {
                    *self = before;
                }
                reply
            }
            Err(refusal) => {
                *self = before;
                Reply::Refused(refusal)
            }
        }
    }

    fn try_apply(
        &mut self,
        name: &ShardKey,
        now: u64,
        op: &Op<'_>,
        writes: &mut Writes,
    ) -> Result<Reply, Refusal> {
        let revision = self.spaces[name].revision;
        let failed = |model: &Self, key: &[u8], condition: &Option<Condition<'_>>| {
            let space = &model.spaces[name];
            let holds = condition.is_none_or(|condition| space.holds(key, condition));
            let actual = space.keys.get(key).map_or(0, |row| row.modified);
            (!holds).then_some(Reply::CompareFailed { revision, actual })
        };
        match op {
            Op::Put { key, value, ttl_ms, condition } => {
                if let Some(failed) = failed(self, key, condition) {
                    return Ok(failed);
                }
                let created = self.put(name, now, writes, (key, value, *ttl_ms))?;
                Ok(Reply::Put { revision: revision + 1, created })
            }
            Op::Delete { key, condition } => {
                if let Some(failed) = failed(self, key, condition) {
                    return Ok(failed);
                }
                let existed = self.delete(name, writes, key);
                Ok(Reply::Deleted { revision: revision + u64::from(existed), existed })
            }
            Op::DeletePrefix { prefix, keys_max } => {
                let keys = self.spaces[name].keys.keys();
                let all: Vec<_> = keys.filter(|key| key.starts_with(prefix)).cloned().collect();
                let some = &all[..all.len().min(*keys_max as usize)];
                some.iter().for_each(|key| assert!(self.delete(name, writes, key)));
                let revision = revision + u64::from(!some.is_empty());
                let (removed, more) = (some.len() as u32, some.len() < all.len());
                Ok(Reply::PrefixDeleted { revision, removed, more })
            }
            Op::Transaction(Transaction { compare, then, otherwise }) => {
                let space = &self.spaces[name];
                let succeeded = compare.iter().all(|c| space.holds(c.key, c.condition));
                let mut results = Vec::new();
                for step in if succeeded { then } else { otherwise } {
                    results.push(match *step {
                        TransactionOp::Put { key, value, ttl_ms } => TransactionResult::Put {
                            created: self.put(name, now, writes, (key, value, ttl_ms))?,
                        },
                        TransactionOp::Delete { key } => {
                            TransactionResult::Deleted { existed: self.delete(name, writes, key) }
                        }
                        TransactionOp::Get { .. } => unreachable!("reads are tested elsewhere"),
                        _ => unreachable!("no other step is drawn"),
                    });
                }
                let revision = revision + u64::from(!writes.is_empty());
                Ok(Reply::Transaction(TransactionReply { revision, succeeded, results }))
            }
            _ => unreachable!("no other operation is drawn"),
        }
    }

    /// Whether the machine shows the same.
    fn check(&self, bench: &Bench) {
        let kv = bench.shards.kv();
        assert_eq!(bench.shards.state_bytes(), self.bytes());
        assert!(self.bytes() <= STATE_BYTES_MAX);
        assert_eq!(bench.shards.count(), self.spaces.len());
        assert_eq!(bench.machine.next_deadline().map(LogTime::as_ms), self.next_deadline());
        for (name, space) in &self.spaces {
            let page = kv.scan(name, &Scan::all()).unwrap();
            assert_eq!(page.revision, space.revision);
            let read: BTreeMap<_, _> = page
                .entries
                .into_iter()
                .map(|entry| {
                    let expires = entry.expires.map(LogTime::as_ms);
                    let (created, modified) = (entry.created, entry.modified);
                    let key = Key { value: entry.value.to_vec(), created, modified, expires };
                    (entry.key.to_vec(), key)
                })
                .collect();
            assert_eq!(read, space.keys, "{name}");
            self.check_changes(bench, name, space);
        }
    }

    fn check_changes(&self, bench: &Bench, name: &ShardKey, space: &Space) {
        let compacted = space.changes[..space.dropped].last().map_or(0, |change| change.0);
        for from in 1..=space.revision + 1 {
            match bench.shards.kv().changes(name, from, b"", 1000).unwrap() {
                Changes::Compacted { oldest } => {
                    assert!(from <= compacted);
                    assert_eq!(oldest, compacted + 1);
                }
                Changes::Changes { revision, changes, next } => {
                    assert!(from > compacted);
                    assert_eq!((revision, next), (space.revision, space.revision + 1));
                    let wanted = space.changes.iter().filter(|change| change.0 >= from);
                    let wanted: Vec<_> = wanted
                        .map(|(revision, key, row)| {
                            (*revision, key.clone(), row.as_ref().map(|row| row.value.clone()))
                        })
                        .collect();
                    let read: Vec<_> = changes
                        .into_iter()
                        .map(|change| {
                            let value = change.entry.map(|entry| entry.value.to_vec());
                            (change.revision, change.key.to_vec(), value)
                        })
                        .collect();
                    assert_eq!(read, wanted);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Batch {
        ms: u64,
        ops: Vec<(usize, Op<'static>)>,
    },
    Checkpoint,
    /// The node loses what it has in memory, restores its last checkpoint and applies what came after it again.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Few keys, so that operations meet; one is too long to stand in the tree itself.
    let key = || {
        prop::sample::select(vec![
            &b"a"[..],
            b"a/1",
            b"a/2",
            b"b",
            b"a key of many bytes, 32 of them",
        ])
    };
    let value =
        || (0..4_usize, any::<u8>()).prop_map(|(size, byte)| &*vec![byte % 3; size * 150].leak());
    let ttl = || prop::option::weighted(0.3, 1..30_u64);
    let condition = || {
        prop_oneof![
            Just(Condition::Missing),
            Just(Condition::Exists),
            (0..20_u64).prop_map(Condition::Revision),
            value().prop_map(Condition::Value),
        ]
    };
    let step = prop_oneof![
        3 => (key(), value(), ttl()).prop_map(|(key, value, ttl_ms)| TransactionOp::Put { key, value, ttl_ms }),
        2 => key().prop_map(|key| TransactionOp::Delete { key }),
    ];
    let compare = (key(), condition()).prop_map(|(key, condition)| Compare { key, condition });
    let list = prop::collection::vec(step, 0..5);
    let op = prop_oneof![
        6 => (key(), value(), ttl(), prop::option::weighted(0.3, condition()))
            .prop_map(|(key, value, ttl_ms, condition)| Op::Put { key, value, ttl_ms, condition }),
        2 => (key(), prop::option::weighted(0.3, condition()))
            .prop_map(|(key, condition)| Op::Delete { key, condition }),
        2 => (prop::collection::vec(compare, 0..3), list.clone(), list)
            .prop_map(|(compare, then, otherwise)| Op::Transaction(Transaction { compare, then, otherwise })),
        1 => (prop::sample::select(vec![&b""[..], b"a", b"a/"]), 1..4_u32)
            .prop_map(|(prefix, keys_max)| Op::DeletePrefix { prefix, keys_max }),
    ];
    let batch = (0..12_u64, prop::collection::vec((0..3_usize, op), 0..6))
        .prop_map(|(ms, ops)| Step::Batch { ms, ops });
    prop::collection::vec(
        prop_oneof![6 => batch, 2 => Just(Step::Checkpoint), 1 => Just(Step::Restart)],
        1..40,
    )
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn the_machine_does_what_the_model_does(steps in steps()) {
        let names = ["acme/a", "acme/b", "other/a"].map(shard);
        let mut model = Model::default();
        // One node never restarts and makes one checkpoint at the end; the other does as it is told.
        let mut steady = Bench::new(builder());
        let mut node = Bench::new(builder());
        let mut since: Vec<Written> = Vec::new();
        for step in steps {
            match step {
                Step::Batch { ms, ops } => {
                    let log_time = node.log_time.plus_ms(ms);
                    let now = log_time.as_ms();
                    model.expire(now);
                    let expected: Vec<Reply> =
                        ops.iter().map(|(name, op)| model.apply(&names[*name], now, op)).collect();
                    let frames = ops.iter().map(|(name, op)| (names[*name].clone(), op.encode()));
                    let written = Written { log_time, ops: frames.collect() };
                    let answers: Vec<Bytes> = node.apply(&written);
                    let replies = answers.iter().map(|answer| Reply::decode(answer).unwrap());
                    prop_assert_eq!(replies.collect::<Vec<_>>(), expected);
                    prop_assert_eq!(steady.apply(&written), answers);
                    prop_assert_eq!(steady.changes(), node.changes());
                    since.push(written);
                }
                Step::Checkpoint => {
                    node.checkpoint();
                    since.clear();
                }
                Step::Restart => {
                    if node.store.0.is_empty() {
                        // A node without a checkpoint begins with the first batch.
                        let (index, log_time) = (node.index, node.log_time);
                        node = Bench::new(builder());
                        (node.index, node.log_time) = (index, log_time);
                    } else {
                        node = node.restored(builder());
                    }
                    for written in &since {
                        node.apply(written);
                    }
                }
            }
            model.check(&node);
        }
        steady.checkpoint();
        node.checkpoint();
        // Byte for byte, however often and when each was made.
        prop_assert_eq!(&steady.store, &node.store);
    }
}
