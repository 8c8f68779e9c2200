//! What a node costs from the outside: proposals through `Arc<dyn Replicator>`, each caller waiting for its answer.
//!
//! Every client is a task with a session of its own and one call in flight; it settles what was answered with its next
//! call. Beside criterion's figures a table at the end gives, for the same samples, the processor time of the whole
//! process for each frame, what other processes took of the machine meanwhile, and what the figures are measured
//! against in the same run: a bare map for the KV, and for durable nodes a file that is written and synced in pieces
//! as large as those that the node's log came to.

mod bare;
mod client;
mod counting_disk;
mod machine;
mod meter;
mod table;

use std::sync::Arc;

use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, measurement::WallTime};
use quorate_driver_local::{Local, LocalConfig};
use quorate_host::{HostConfig, Hosted};
use quorate_replicator::{Driver, Durability, Env, MonotonicClock, NodeId, Replicator};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::client::{Call, Clients};
use crate::counting_disk::CountingDisk;
use crate::machine::Kind;
use crate::meter::Meter;
use crate::table::{Row, Table};

/// Length of a payload, or of a value.
const BYTES: usize = 64;

/// Keys that the KV holds.
const KEYS: u64 = 1_000_000;

/// How calls are made: how many at once, of how many frames.
const CALLS: [(usize, Call); 5] =
    [(1, Call::One), (64, Call::One), (1024, Call::One), (1, Call::Many(64)), (16, Call::Many(64))];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("threads can be started");
    let mut table = Table::default();
    for machine in [Kind::Counter, Kind::Kv] {
        for durability in [Durability::Memory, Durability::Disk] {
            node(&mut criterion, &runtime, &mut table, machine, durability);
        }
    }
    bare_map(&mut criterion, &mut table);
    criterion.final_summary();
    table.print();
}

/// A node and what it stands on.
struct Bench {
    replicator: Arc<dyn Replicator>,
    disk: Arc<CountingDisk>,
    directory: TempDir,
}

fn open(runtime: &Runtime, machine: Kind, durability: Durability) -> Bench {
    let directory = tempfile::tempdir_in(
        std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()),
    )
    .expect("a directory for the data");
    let disk = Arc::new(CountingDisk::new(directory.path()));
    let clock = Arc::new(MonotonicClock::new());
    let mut env = Env::new(NodeId::new(1), directory.path(), clock, 1);
    env.durability = durability;
    let mut config = HostConfig::default();
    config.disk = Some(Arc::<CountingDisk>::clone(&disk));
    let hosted = Hosted::new(Local, config);
    let opened = hosted.open(LocalConfig::default(), env, machine.make());
    let replicator = runtime.block_on(opened).expect("a node opens on an empty directory");
    Bench { replicator, disk, directory }
}

/// All ways to call one node. The node is only opened when a bench of it is wanted.
fn node(
    criterion: &mut Criterion,
    runtime: &Runtime,
    table: &mut Table,
    machine: Kind,
    durability: Durability,
) {
    let mut bench = None;
    for (in_flight, call) in CALLS {
        let name = match call {
            Call::One => "local::propose",
            Call::Many(_) => "local::propose_many",
        };
        let frames = match call {
            Call::One => String::new(),
            Call::Many(frames) => format!(" frames={frames}"),
        };
        let parameters = format!(
            "durability={durability} in_flight={in_flight}{frames} bytes={BYTES} machine={machine}"
        );
        let frames = in_flight * call.frames();
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(frames as u64));
        let mut row = Row::new(format!("{name}/{parameters}"));
        group.bench_function(BenchmarkId::from_parameter(&parameters), |bencher| {
            let bench = bench.get_or_insert_with(|| {
                let bench = open(runtime, machine, durability);
                runtime.block_on(machine.fill(&bench.replicator));
                bench
            });
            let mut clients =
                runtime.block_on(Clients::open(&bench.replicator, machine, in_flight, call));
            bencher.iter_custom(|rounds| {
                let synced = bench.disk.counted();
                let meter = Meter::start();
                runtime.block_on(clients.run(rounds));
                let metered = meter.stop();
                row.add(rounds * frames as u64, &metered, bench.disk.counted().since(synced));
                metered.wall
            });
            runtime.block_on(clients.close());
        });
        group.finish();
        if let (Some(bench), Durability::Disk) = (&bench, durability)
            && let Some(bytes) = row.bytes_per_sync()
        {
            row.compare(
                "raw writer",
                bare::syncs_per_second(bench.directory.path(), bytes) * row.frames_per_sync(),
            );
        }
        table.add(row);
    }
    if let Some(bench) = bench {
        runtime.block_on(bench.replicator.close()).expect("a node closes");
    }
}

/// The same puts into a map that nobody shares.
fn bare_map(criterion: &mut Criterion, table: &mut Table) {
    let mut group: BenchmarkGroup<'_, WallTime> = criterion.benchmark_group("btreemap::insert");
    let parameters = format!("keys={KEYS} bytes={BYTES}");
    let mut row = Row::new(format!("btreemap::insert/{parameters}"));
    group.throughput(Throughput::Elements(1024));
    let mut map = None;
    group.bench_function(BenchmarkId::from_parameter(&parameters), |bencher| {
        let map = map.get_or_insert_with(bare::Map::filled);
        bencher.iter_custom(|rounds| {
            let meter = Meter::start();
            map.put(rounds * 1024);
            let metered = meter.stop();
            row.add(rounds * 1024, &metered, counting_disk::Counted::default());
            metered.wall
        });
    });
    group.finish();
    if let Some(rate) = row.rate() {
        table.compare("machine=kv", "bare map", rate);
    }
    table.add(row);
}
