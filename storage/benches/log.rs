//! The log against a raw file, in the same run: commits of 64-byte entries, and opening a log of a million.
//!
//! The raw file is filled with zeros beforehand and takes what no log can do without: each entry with its length and its
//! checksum, one write and one fdatasync for each batch. The raw scan reads the segments as a log does, one MiB at a time, with a
//! checksum for each entry. Beside each row the processor time of the thread is printed, per record.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quorate_storage::{
    Body, Disk, Entry, Group, Log, LogConfig, LogMode, MemoryDisk, Opening, RealDisk, Record, Tag,
};

const BYTES: usize = 64;
const RAW_BYTES: u64 = 64 << 20;
/// An entry with the header of its record.
const ON_DISK_BYTES: usize = BYTES + 24;
const REOPEN_RECORDS: u64 = 1_000_000;

fn open(disk: Arc<dyn Disk>) -> Log {
    let opening =
        Opening { store: [7; 16], durable_lsn: 0, floors: BTreeMap::new(), mode: LogMode::Create };
    Log::open(disk, LogConfig::default(), &opening).expect("the disk works").0
}

fn batch(first: u64, records: u64, body: &Bytes) -> Vec<(u64, bool, Record)> {
    let entry = |index| Entry {
        index,
        tag: Tag::ZERO,
        head: Bytes::new(),
        body: Body::Frames(body.clone()),
    };
    (first..first + records).map(|index| (index, true, Record::Put(entry(index)))).collect()
}

/// Time on the processor of this thread.
fn cpu() -> Duration {
    let mut text = String::new();
    let read =
        File::open("/proc/thread-self/schedstat").and_then(|mut f| f.read_to_string(&mut text));
    let nanos = read.ok().and_then(|_| text.split(' ').next()?.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

fn print_cpu(id: &str, spent: Duration, records: u64) {
    eprintln!("{id}: {:.0} ns of processor per record", spent.as_nanos() as f64 / records as f64);
}

fn commits(criterion: &mut Criterion, name: &str, disk: &dyn Fn() -> Arc<dyn Disk>) {
    let body = Bytes::from(vec![7; BYTES]);
    let mut group = criterion.benchmark_group(name);
    for records in [1, 16, 256, 4096] {
        group.throughput(Throughput::Elements(records));
        let id = format!("records={records} bytes={BYTES}");
        let mut log = open(disk());
        while log.maintain().expect("the disk works") {}
        let mut next = 1;
        group.bench_function(BenchmarkId::from_parameter(&id), |bencher| {
            bencher.iter_custom(|rounds| {
                let (mut spent, mut on_cpu) = (Duration::ZERO, Duration::ZERO);
                for _ in 0..rounds {
                    let writes = batch(next, records, &body);
                    next += records;
                    let (cpu_start, start) = (cpu(), Instant::now());
                    log.submit(Group::new(0), writes).expect("it has room");
                    black_box(log.commit().expect("the disk works"));
                    spent += start.elapsed();
                    on_cpu += cpu() - cpu_start;
                    if next % (1 << 16) < records {
                        let trim = Record::Trim { below: next };
                        log.submit(Group::new(0), vec![(next, true, trim)]).expect("it has room");
                        log.commit().expect("the disk works");
                        while log.maintain().expect("the disk works") {}
                    }
                }
                print_cpu(&id, on_cpu, rounds * records);
                spent
            });
        });
    }
}

fn raw_file(dir: &Path) -> File {
    let path = dir.join("raw");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path);
    let file = file.expect("the disk works");
    for at in 0..RAW_BYTES >> 20 {
        file.write_all_at(&[0; 1 << 20], at << 20).expect("the disk works");
    }
    file.sync_all().expect("the disk works");
    file
}

fn raw_commits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("raw::commit");
    for records in [1, 16, 256, 4096_u64] {
        group.throughput(Throughput::Elements(records));
        let id = format!("records={records} bytes={BYTES}");
        let dir = tempfile::tempdir().expect("the disk works");
        let file = raw_file(dir.path());
        let body = [7; BYTES];
        let mut bytes = Vec::new();
        let mut at = 0;
        group.bench_function(BenchmarkId::from_parameter(&id), |bencher| {
            bencher.iter_custom(|rounds| {
                let (mut spent, mut on_cpu) = (Duration::ZERO, Duration::ZERO);
                for _ in 0..rounds {
                    let (cpu_start, start) = (cpu(), Instant::now());
                    bytes.clear();
                    for _ in 0..records {
                        bytes.extend_from_slice(&(BYTES as u32).to_le_bytes());
                        bytes.extend_from_slice(&crc32fast::hash(black_box(&body)).to_le_bytes());
                        bytes.extend_from_slice(&body);
                    }
                    if at + bytes.len() as u64 > RAW_BYTES {
                        at = 0;
                    }
                    file.write_all_at(&bytes, at).expect("the disk works");
                    file.sync_data().expect("the disk works");
                    spent += start.elapsed();
                    on_cpu += cpu() - cpu_start;
                    at += bytes.len() as u64;
                }
                print_cpu(&id, on_cpu, rounds * records);
                spent
            });
        });
    }
}

fn durable_commits(criterion: &mut Criterion) {
    let dirs = std::cell::RefCell::new(Vec::new());
    commits(criterion, "log::commit", &|| {
        let dir = tempfile::tempdir().expect("the disk works");
        let disk = Arc::new(RealDisk::new(dir.path()));
        dirs.borrow_mut().push(dir);
        disk
    });
}

fn memory_commits(criterion: &mut Criterion) {
    commits(criterion, "log::commit_in_memory", &|| Arc::new(MemoryDisk::new()));
}

fn reopens(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("the disk works");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(dir.path()));
    let body = Bytes::from(vec![7; BYTES]);
    let mut log = open(Arc::clone(&disk));
    for first in (1..=REOPEN_RECORDS).step_by(250) {
        log.submit(Group::new(0), batch(first, 250, &body)).expect("it has room");
        log.commit().expect("the disk works");
    }
    log.close().expect("the disk works");
    drop(log);
    let id = format!("records={REOPEN_RECORDS} bytes={BYTES}");
    for (name, floor) in [("log::reopen", 0), ("log::reopen_above_a_checkpoint", REOPEN_RECORDS)] {
        criterion.bench_function(&format!("{name}/{id}"), |bencher| {
            bencher.iter_with_large_drop(|| {
                let floors = BTreeMap::from([(Group::new(0), floor)]);
                let mode = LogMode::Existing;
                let opening = Opening { store: [7; 16], durable_lsn: 0, floors, mode };
                let (log, found) = Log::open(Arc::clone(&disk), LogConfig::default(), &opening)
                    .expect("it is whole");
                let entries = found[&Group::new(0)].entries.len() as u64;
                assert_eq!(entries, REOPEN_RECORDS - floor);
                (log, found)
            });
        });
    }
    let mut buffer = vec![0; 1 << 20];
    criterion.bench_function(&format!("raw::scan/{id}"), |bencher| {
        bencher.iter(|| {
            let (mut left, mut all) = (REOPEN_RECORDS, 0);
            for name in disk.list("log").expect("the disk works") {
                let file = File::open(dir.path().join("log").join(name)).expect("it is there");
                let len = file.metadata().expect("the disk works").len();
                for at in (0..len).step_by(buffer.len()) {
                    let now = buffer.len().min((len - at) as usize);
                    file.read_exact_at(&mut buffer[..now], at).expect("the disk works");
                    for record in buffer[..now].chunks(ON_DISK_BYTES).take(left as usize) {
                        all ^= crc32fast::hash(record);
                        left -= 1;
                    }
                }
            }
            black_box(all)
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = raw_commits, durable_commits, memory_commits, reopens
}
criterion_main!(benches);
