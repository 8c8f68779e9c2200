//! What a host core costs without any thread: propose, batch, decide, apply, answer.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quorate_driver_local::{Local, LocalConfig};
use quorate_engine::{
    BatchEncoder, BatchHead, Callers, CheckpointPolicy, CoreConfig, DecodedBatch, Effects,
    HashedFrame, HostCore, Start, Witness,
};
use quorate_replicator::*;
use quorate_storage::Recovered;

#[derive(Debug)]
enum Numbers {}

impl Callers for Numbers {
    type Propose = u64;
    type ProposeMany = u64;
    type Read = u64;
    type Decision = u64;
    type Subscribe = u64;
    type Admin = u64;
}

/// Counts the frames and answers with the count.
#[derive(Debug, Default)]
struct Counter(u64);

impl StateMachine for Counter {
    fn apply(&mut self, batch: &Batch<'_>, outcomes: &mut Outcomes) {
        for _ in batch.frames {
            self.0 += 1;
            outcomes.answer(self.0.to_le_bytes().to_vec());
        }
    }

    fn begin_checkpoint(&mut self) -> CheckpointPairs {
        Box::new(std::iter::empty())
    }

    fn restore(&mut self, _: &mut dyn CheckpointReader) -> Result<(), RestoreError> {
        Ok(())
    }
}

fn open() -> HostCore<Numbers> {
    let mut config = CoreConfig::new(GroupId::new(0), NodeId::new(1));
    config.volatile = true;
    config.checkpoint = CheckpointPolicy { stored: false, ..config.checkpoint };
    let start = Start {
        members: vec![NodeId::new(1)],
        incarnation: [1; 16],
        seed: 1,
        machine: Box::new(Counter::default()),
        checkpoint: None,
        log: Recovered::default(),
    };
    HostCore::open(config, &Local, &LocalConfig::default(), start, Duration::ZERO).unwrap()
}

fn frames(first: u64, count: u64, payload: &Bytes) -> Vec<HashedFrame> {
    let shard = ShardKey::new("org", "ns").unwrap();
    let session = SessionId::new([1; 16]);
    (first..first + count)
        .map(|serial| {
            let id = FrameId { session, serial };
            let frame = Frame { settled: first, ..Frame::new(id, shard.clone(), payload.clone()) };
            HashedFrame::from(frame)
        })
        .collect()
}

fn turns(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core::propose");
    for count in [1, 64, 1024] {
        let mut core = open();
        let mut effects = Effects::default();
        let session = SessionId::new([1; 16]);
        let open = Frame::open_session(session, ShardKey::new("org", "ns").unwrap());
        core.propose(open.into(), Duration::MAX, 0, &mut effects);
        core.turn(Duration::ZERO, &mut effects);
        effects = Effects::default();
        let payload = Bytes::from(vec![7; 64]);
        let mut first = 1;
        group.throughput(Throughput::Elements(count));
        group.bench_function(
            BenchmarkId::from_parameter(format!("frames={count} bytes=64")),
            |b| {
                b.iter_batched(
                    || {
                        let frames = frames(first, count, &payload);
                        first += count;
                        frames
                    },
                    |frames| {
                        for frame in frames {
                            core.propose(frame, Duration::MAX, 0, &mut effects);
                        }
                        core.turn(Duration::ZERO, &mut effects);
                        assert_eq!(effects.answers.len() as u64, count);
                        effects.answers.clear();
                        effects.writes.clear();
                        effects.events.clear();
                    },
                    criterion::BatchSize::SmallInput,
                );
            },
        );
    }
    group.finish();
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    let head =
        BatchHead { log_time: LogTime::ZERO, witness: Witness { index: 1, history: [0; 32] } };
    for bytes in [64, 1024] {
        let payload = Bytes::from(vec![7; bytes]);
        let frames: Vec<_> =
            frames(1, 1024, &payload).into_iter().map(|hashed| hashed.frame).collect();
        let mut encoder = BatchEncoder::default();
        let encoded = encoder.encode(&head, frames.iter());
        let id = |name: &str| BenchmarkId::new(name, format!("frames=1024 bytes={bytes}"));
        group.throughput(Throughput::Elements(1024));
        group.bench_function(id("encode"), |b| {
            b.iter(|| encoder.encode(&head, black_box(&frames).iter()));
        });
        group.bench_function(id("decode"), |b| {
            b.iter(|| DecodedBatch::decode(black_box(&encoded)).unwrap());
        });
        group.bench_function(id("hash"), |b| {
            b.iter(|| {
                for frame in &frames {
                    black_box(quorate_engine::PayloadHash::of(black_box(frame)));
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, turns, codec);
criterion_main!(benches);
