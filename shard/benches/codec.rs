//! Encoding and decoding operations and answers.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate_shard::kv::{Compare, Condition, Op, Transaction, TransactionOp};

fn op_codec(criterion: &mut Criterion) {
    let value = [7; 64];
    let key = [1; 16];
    let compare = vec![Compare { key: &key, condition: Condition::Revision(7) }];
    let steps = vec![TransactionOp::Put { key: &key, value: &value, ttl_ms: None }; 8];
    let transaction = Transaction { compare, then: steps, otherwise: Vec::new() };
    let ops = [
        ("put bytes=64", Op::put(&key, &value)),
        ("cas bytes=64", Op::compare_and_swap(&key, 7, &value)),
        ("transaction ops=8 bytes=64", Op::Transaction(transaction)),
    ];
    for (name, op) in ops {
        let payload = op.encode();
        let mut group = criterion.benchmark_group("op_codec");
        group.throughput(Throughput::Bytes(payload.len() as u64));
        group.bench_function(format!("encode/{name}"), |bencher| {
            bencher.iter(|| black_box(&op).encode());
        });
        group.bench_function(format!("decode/{name}"), |bencher| {
            bencher.iter(|| Op::decode(black_box(&payload)).map(drop));
        });
        group.finish();
    }
}

criterion_group!(benches, op_codec);
criterion_main!(benches);
