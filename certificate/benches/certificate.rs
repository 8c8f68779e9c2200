//! What signatures, certificates and the hashes of batches cost.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quorate_certificate::{
    BodyKind, Certificate, FaultModel, FrameProof, Genesis, Header, Scheme, SigningKey, Validator,
    VoteType, body_hash, verify_certificate, vote_bytes,
};
use quorate_engine::{BatchEncoder, BatchHead, Witness};
use quorate_replicator::{Frame, FrameId, LogTime, SessionId, ShardKey};

fn signatures(criterion: &mut Criterion) {
    for scheme in Scheme::ALL {
        let key = SigningKey::generate(scheme).expect("a key");
        let message = [7; 110];
        let signature = key.sign(&message).expect("a signature");
        criterion.bench_function(&format!("certificate::sign/scheme={scheme}"), |bench| {
            bench.iter(|| key.sign(black_box(&message)));
        });
        criterion.bench_function(&format!("certificate::verify/scheme={scheme}"), |bench| {
            bench.iter(|| key.public().verify(black_box(&message), &signature));
        });
    }
}

fn certificates(criterion: &mut Criterion) {
    for scheme in Scheme::ALL {
        let keys: Vec<_> = (0..4).map(|_| SigningKey::generate(scheme).expect("a key")).collect();
        let validators = (1..).zip(&keys).map(|(node, key)| Validator {
            node,
            power: 1,
            key: key.public().clone(),
        });
        let model = FaultModel::Byzantine;
        let genesis = Genesis::new([7; 16], model, scheme, 500, validators.collect()).expect("one");
        let (chain, set) = (genesis.chain(0), genesis.validators());
        let body = batch(1);
        let header = Header {
            height: 1,
            previous: *chain.as_bytes(),
            proposer: 1,
            validators: set.digest(),
            next_validators: set.digest(),
            state_index: 0,
            state: [0; 32],
            kind: BodyKind::Frames,
            body: body_hash(BodyKind::Frames, &body),
        };
        let id = header.id();
        let signatures = (1..).zip(&keys).take(3).map(|(node, key)| {
            let vote = vote_bytes(&chain, 0, VoteType::Precommit, 1, 0, Some(&id), node);
            (node, key.sign(&vote).expect("a signature"))
        });
        let certificate = Certificate::new(1, 0, id, signatures.collect()).expect("one");
        let (encoded, header) = (certificate.encode(), header.encode());
        let bytes = encoded.len();
        let name = format!("certificate::verify_certificate/nodes=4 scheme={scheme} bytes={bytes}");
        criterion.bench_function(&name, |bench| {
            bench.iter(|| {
                let certificate = Certificate::decode(black_box(&encoded)).expect("one");
                verify_certificate(&chain, model, set, &certificate, &header, &body)
            });
        });
    }
}

fn batch(count: u64) -> Bytes {
    let shard = ShardKey::new("org", "namespace").expect("a shard");
    let frames: Vec<_> = (0..count)
        .map(|serial| {
            let id = FrameId { session: SessionId::new([7; 16]), serial };
            Frame::new(id, shard.clone(), vec![7; 256])
        })
        .collect();
    let witness = Witness { index: 1, history: [9; 32] };
    let head = BatchHead { log_time: LogTime::from_ms(1), witness };
    BatchEncoder::default().encode(&head, frames.iter())
}

fn bodies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("certificate::body");
    for count in [1, 1000] {
        let body = batch(count);
        group.throughput(Throughput::Elements(count));
        group.bench_function(
            BenchmarkId::new("hash", format!("frames={count} bytes=256")),
            |bench| {
                bench.iter(|| body_hash(BodyKind::Frames, black_box(&body)));
            },
        );
    }
    let body = batch(1000);
    let hash = body_hash(BodyKind::Frames, &body);
    let proof = FrameProof::new(&body, 500).expect("a frame");
    group.throughput(Throughput::Elements(1));
    group.bench_function(BenchmarkId::new("verify_frame", "frames=1000 bytes=256"), |bench| {
        bench.iter(|| black_box(&proof).verify(&hash));
    });
    group.finish();
}

criterion_group!(benches, signatures, certificates, bodies);
criterion_main!(benches);
