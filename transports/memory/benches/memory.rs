//! Messages per second on one channel between two nodes, on one thread, without delay or faults.
//!
//! `in_flight` messages are sent and not yet received at any time. One message of the figures is sent, queued, handed to
//! the receiver, and answered by a permit.
#![allow(missing_docs, reason = "criterion_group makes a function that cannot be documented")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quorate_replicator::{
    BulkOffer, BulkSink, Bytes, Channel, Inbound, NodeId, PeerState, Transport,
};
use quorate_transport_memory::MemoryHub;
use tokio::sync::Semaphore;

const BYTES: usize = 128;

#[derive(Debug)]
struct Permit(Arc<Semaphore>);

#[async_trait]
impl Inbound for Permit {
    async fn message(&self, _: NodeId, _: Channel, _: Bytes) {
        self.0.add_permits(1);
    }

    fn peer(&self, _: NodeId, _: PeerState) {}

    fn bulk(&self, _: NodeId, _: BulkOffer) -> Result<Box<dyn BulkSink>, String> {
        Err("nothing is wanted here".into())
    }
}

/// Sends `count` messages with at most `in_flight` under way, and answers how long that took.
async fn run(in_flight: usize, channel: Channel, count: u64) -> Duration {
    let hub = MemoryHub::new(1);
    let nodes = [1, 2].map(|id| hub.connect(NodeId::new(id)));
    let free = Arc::new(Semaphore::new(in_flight));
    for node in &nodes {
        node.receive(Arc::new(Permit(Arc::clone(&free))));
    }
    let message = Bytes::from(vec![7; BYTES]);
    let start = Instant::now();
    for _ in 0..count {
        free.acquire().await.expect("the semaphore stays open").forget();
        nodes[0]
            .send(NodeId::new(2), channel, message.clone())
            .expect("the queue holds what is in flight");
    }
    let all = u32::try_from(in_flight).expect("a small number");
    free.acquire_many(all).await.expect("the semaphore stays open").forget();
    let took = start.elapsed();
    for node in &nodes {
        node.close().await;
    }
    took
}

fn memory_transport(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime can be made");
    let mut group = criterion.benchmark_group("memory_transport::send");
    group.throughput(Throughput::Elements(1));
    for channel in Channel::ALL {
        for in_flight in [1, 16, 256] {
            let parameters = format!("channel={channel:?} in_flight={in_flight} bytes={BYTES}");
            group.bench_function(BenchmarkId::from_parameter(parameters), |bencher| {
                bencher.iter_custom(|count| runtime.block_on(run(in_flight, channel, count)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, memory_transport);
criterion_main!(benches);
