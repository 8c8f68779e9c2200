//! Applying puts, beside a bare map doing the same.

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use quorate_replicator::{
    Batch, BatchFrame, Frame, FrameId, GroupId, LogTime, Outcomes, SessionId, ShardKey,
    StateMachine,
};
use quorate_shard::kv::Op;
use quorate_shard::{ShardMachine, Shards};

const KEYS: u64 = 1_000_000;
const VALUE_BYTES: usize = 64;
const BATCH: usize = 1024;

/// The key with this number: 16 bytes, spread so that neighbours in number are far apart in order.
fn key(number: u64) -> [u8; 16] {
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut key = [0; 16];
    key[..8].copy_from_slice(&spread.to_be_bytes());
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

/// Numbers of keys without pattern; both sides draw the same ones.
fn numbers() -> impl FnMut() -> u64 {
    let mut state = 1_u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % KEYS
    }
}

/// Puts of these keys, dealt out to so many namespaces one by one.
fn frames(count: usize, namespaces: u64, mut number: impl FnMut() -> u64) -> Vec<BatchFrame> {
    let shard = |number: u64| ShardKey::new("bench", &format!("{number}")).expect("two names");
    let shards: Vec<_> = (0..namespaces).map(shard).collect();
    let value = [7; VALUE_BYTES];
    (0..count)
        .map(|slot| {
            let id = FrameId { session: SessionId::new([0; 16]), serial: slot as u64 + 1 };
            let number = number();
            let payload = Op::put(&key(number), &value).encode();
            let shard = shards[(number % namespaces) as usize].clone();
            let frame = Frame::new(id, shard, payload);
            BatchFrame { slot: slot as u32, frame }
        })
        .collect()
}

fn apply(
    machine: &mut ShardMachine,
    outcomes: &mut Outcomes,
    index: &mut u64,
    frames: &[BatchFrame],
) {
    *index += 1;
    let batch = Batch {
        group: GroupId::new(0),
        epoch: 0,
        index: *index,
        log_time: LogTime::from_ms(*index),
        frames,
    };
    // With the words that nodes compare, as hosts ask for them.
    outcomes.reset(true);
    machine.apply(&batch, outcomes);
    black_box(outcomes.replies());
}

fn puts(criterion: &mut Criterion) {
    for namespaces in [1, 1000] {
        kv(criterion, namespaces);
    }
    bare_map(criterion);
}

fn parameters() -> String {
    format!("keys={KEYS} bytes={VALUE_BYTES}")
}

fn kv(criterion: &mut Criterion, namespaces: u64) {
    let (mut machine, _shards) = Shards::builder().build();
    let (mut outcomes, mut index) = (Outcomes::default(), 0);
    for start in (0..KEYS).step_by(BATCH) {
        let mut rest = start..KEYS.min(start + BATCH as u64);
        let count = rest.clone().count();
        let batch = frames(count, namespaces, || rest.next().expect("as many as counted"));
        apply(&mut machine, &mut outcomes, &mut index, &batch);
    }
    // As after a checkpoint: the journal begins anew and fills while the bench runs.
    drop(machine.begin_checkpoint());

    let parameters = match namespaces {
        1 => parameters(),
        _ => format!("{} namespaces={namespaces}", parameters()),
    };
    let mut group = criterion.benchmark_group("kv::apply");
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut number = numbers();
    group.bench_function(&parameters, |bencher| {
        bencher.iter_batched(
            || frames(BATCH, namespaces, &mut number),
            |batch| {
                apply(&mut machine, &mut outcomes, &mut index, &batch);
                batch
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn bare_map(criterion: &mut Criterion) {
    let mut map: BTreeMap<Vec<u8>, Vec<u8>> =
        (0..KEYS).map(|number| (key(number).to_vec(), vec![7; VALUE_BYTES])).collect();
    let mut group = criterion.benchmark_group("btreemap::insert");
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut number = numbers();
    group.bench_function(parameters(), |bencher| {
        bencher.iter_batched(
            || (0..BATCH).map(|_| key(number())).collect::<Vec<_>>(),
            |keys| {
                for key in &keys {
                    map.insert(key.to_vec(), vec![7; VALUE_BYTES]);
                }
                keys
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, puts);
criterion_main!(benches);
