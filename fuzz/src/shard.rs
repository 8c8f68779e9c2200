//! Payloads that a state machine applies, and stores that it is restored from.

use std::collections::BTreeMap;
use std::collections::btree_map::IntoIter;

use bytes::Bytes;
use quorate_replicator::{
    Batch, BatchFrame, CheckpointReader, Frame, FrameId, GroupId, LogTime, Outcomes, Pair,
    RestoreError, SessionId, ShardKey, StateMachine as _,
};
use quorate_shard::kv::{Compare, Condition, Op, PutOptions, Reply, Transaction, TransactionOp};
use quorate_shard::{ShardMachine, Shards};

use crate::input::{Input, Written, comes_back};

type Store = BTreeMap<Bytes, Bytes>;

struct Reader(IntoIter<Bytes, Bytes>);

impl CheckpointReader for Reader {
    fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, RestoreError> {
        Ok(self.0.next())
    }
}

fn machine() -> ShardMachine {
    Shards::builder().build().0
}

fn shards() -> [ShardKey; 2] {
    ["acme/orders", "acme/users"].map(|name| ShardKey::parse(name).expect("it is a good name"))
}

fn step(
    machine: &mut ShardMachine,
    index: u64,
    log_time: u64,
    shard: &ShardKey,
    payload: &[u8],
) -> Bytes {
    let id = FrameId { session: SessionId::new([1; 16]), serial: index };
    let frame = Frame::new(id, shard.clone(), payload.to_vec());
    let frames = [BatchFrame { slot: 0, frame }];
    let log_time = LogTime::from_ms(log_time);
    let mut outcomes = Outcomes::default();
    outcomes.reset(true);
    let batch = Batch { group: GroupId::new(0), epoch: 0, index, log_time, frames: &frames };
    machine.apply(&batch, &mut outcomes);
    let [reply] = outcomes.replies() else {
        panic!("{} replies to one frame", outcomes.replies().len())
    };
    reply.clone()
}

fn checkpoint(machine: &mut ShardMachine, store: &mut Store) {
    for Pair { key, value } in machine.begin_checkpoint() {
        match value {
            Some(value) => drop(store.insert(key, value)),
            None => drop(store.remove(&key)),
        }
    }
}

/// Payloads are applied, with log times that rise by a byte each; what was stored on the way is restored to the same answers.
pub(crate) fn apply(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (mut machine, mut store, shards) = (machine(), Store::new(), shards());
    let (mut index, mut log_time) = (0, 0);
    while !input.is_empty() {
        let (what, later, payload) = (input.u8(), input.u8(), input.piece());
        (index, log_time) = (index + 1, log_time + u64::from(later));
        comes_back(payload, |bytes| Op::decode(bytes).map(|op| op.encode()), Clone::clone);
        let shard = &shards[usize::from(what % 2)];
        if what & 2 != 0 {
            checkpoint(&mut machine, &mut store);
            let mut restored = self::machine();
            restored.restore(&mut Reader(store.clone().into_iter())).expect("it was stored so");
            let reply = step(&mut machine, index, log_time, shard, payload);
            assert_eq!(step(&mut restored, index, log_time, shard, payload), reply);
            continue;
        }
        let reply = step(&mut machine, index, log_time, shard, payload);
        Reply::decode(&reply).expect("a client can read every answer");
    }
    let _ = Reply::decode(&Bytes::copy_from_slice(bytes));
}

/// Pairs of nobody: refused, or a state that goes on.
pub(crate) fn restore(bytes: &[u8]) {
    let mut store = Store::new();
    for pair in Input(bytes).pieces() {
        let mut pair = Input(pair);
        let key = Bytes::copy_from_slice(pair.piece());
        store.insert(key, Bytes::copy_from_slice(pair.0));
    }
    let mut machine = machine();
    if machine.restore(&mut Reader(store.into_iter())).is_ok() {
        for shard in &shards() {
            for (index, payload) in (1..).zip(ops()) {
                step(&mut machine, index, 1 << 40, shard, &payload);
            }
        }
        checkpoint(&mut machine, &mut Store::new());
    }
}

fn ops() -> Vec<Bytes> {
    let (key, value) = (&b"a"[..], &b"1"[..]);
    let transaction = Transaction {
        compare: vec![Compare { key, condition: Condition::Revision(1) }],
        then: vec![
            TransactionOp::Put { key: b"b", value, ttl_ms: Some(5) },
            TransactionOp::Get { key },
        ],
        otherwise: vec![TransactionOp::Delete { key }],
    };
    let missing = PutOptions::default().only_if(Condition::Missing).ttl_ms(9);
    let ops = [
        Op::put(key, value),
        Op::Put { key, value, ttl_ms: missing.ttl_ms, condition: missing.condition },
        Op::delete(key),
        Op::Transaction(transaction),
        Op::DeletePrefix { prefix: key, keys_max: 3 },
    ];
    ops.iter().map(Op::encode).collect()
}

pub(crate) fn payloads() -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> =
        ops().iter().map(|op| Written::default().u8(0).u8(1).piece(op).0).collect();
    let all =
        |what: u8| ops().iter().fold(Written::default(), |all, op| all.u8(what).u8(9).piece(op)).0;
    seeds.extend([all(0), all(3)]);
    seeds
}

pub(crate) fn stores() -> Vec<Vec<u8>> {
    let (mut machine, mut store, mut seeds) = (machine(), Store::new(), Vec::new());
    let shards = shards();
    for (index, op) in (1..).zip(ops()) {
        step(&mut machine, index, index, &shards[index as usize % 2], &op);
        checkpoint(&mut machine, &mut store);
        let written = store.iter().fold(Written::default(), |all, (key, value)| {
            let pair = Written::default().piece(key).0;
            all.piece(&[&pair[..], value].concat())
        });
        seeds.push(written.0);
    }
    seeds
}
