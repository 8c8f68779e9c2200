//! A large state reaches another node that is killed on the way, again and again. In a process of its own, so that its memory is
//! its own.
//!
//! 16 MiB by default; `QUORATE_TEST_BUDGET=long` takes 1 GiB, 262,144 values of 4 KiB, and 20 kills.

#[path = "snapshots/fixture.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod fixture;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use quorate_host::{SnapshotReport, SnapshotWay, SnapshotsConfig};
use quorate_replicator::NodeId;
use quorate_storage::{Disk, Group, RealDisk, Record};
use quorate_transport_memory::{HubConfig, MemoryHub};

use fixture::{GROUP, Node, assert_same, open, pairs, write};

const VALUE_BYTES: usize = 4 << 10;

/// How many values are written with one checkpoint.
const WRITE_PAIRS: u64 = 2048;

/// What sending and receiving together may add to memory, whatever the state: three caches of checkpoint files, what waits for the
/// disk, a piece at each end, the plan, what redb keeps beside its cache, and what an allocator does not give back after 20 lives.
const GROWTH_MAX: u64 = 96 << 20;

fn is_long() -> bool {
    std::env::var("QUORATE_TEST_BUDGET").is_ok_and(|budget| budget == "long")
}

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

fn received(node: &Node) -> u64 {
    let progress = node.snapshots.progress(GROUP);
    progress.iter().find(|it| it.way == SnapshotWay::In).map_or(0, |it| it.done)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_state_arrives_although_the_receiver_is_killed() {
    let (values, kills) = if is_long() { (262_144, 20) } else { (4096, 6) };
    let seed = std::env::var("QUORATE_SEED").ok().and_then(|it| it.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("QUORATE_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let disk =
        |which: usize| -> Arc<dyn Disk> { Arc::new(RealDisk::new(directories[which].path())) };
    let mut hub = HubConfig::seeded(1);
    hub.bulk_chunk_bytes = 256 << 10;
    let hub = MemoryHub::with_config(hub).unwrap();
    let mut config = SnapshotsConfig::default();
    config.bytes_per_second = None;

    let mut from = Node::on(&hub, 1, disk(0), 1, config.clone()).unwrap();
    let begun = Instant::now();
    let mut index = 0;
    for first in (0..values).step_by(WRITE_PAIRS as usize) {
        index += 1;
        let mut some = pairs(first, WRITE_PAIRS, VALUE_BYTES);
        for (number, (key, _)) in (first..).zip(&mut some) {
            *key = Bytes::from(format!("key {number:08}"));
        }
        write(from.store(), index, some);
    }
    println!("{values} values of {VALUE_BYTES} bytes were stored in {:.1?}", begun.elapsed());
    let before = resident();
    let mut most = before;

    for kill in 0..kills {
        let mut to = Node::on(&hub, 2, disk(1), 1, config.clone()).unwrap();
        assert_eq!(to.store().latest(), None);
        from.send(&to, index);
        // Anywhere on the way; the last one when all has come and the log does not begin after it yet.
        let until = random.f64() * if kill + 1 == kills { f64::INFINITY } else { 1.0 };
        loop {
            most = most.max(resident());
            let bytes = from.offers().last().map_or(u64::MAX, |offer| offer.bytes);
            if received(&to) as f64 > until * bytes as f64 || to.reports.try_recv().is_ok() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        // Nobody of this life tells anybody anything any more.
        hub.disconnect(to.id);
        to.close().await;
        hub.reconnect(NodeId::new(2));
        // The sender tries on or has been told.
        drop(hub.connect(NodeId::new(2)));
        from.snapshots.send(GROUP, NodeId::new(77), index, Bytes::new());
        while !matches!(from.report().await, SnapshotReport::Sent { to, .. } if to.number() == 77) {
        }
    }

    let mut to = Node::on(&hub, 2, disk(1), 1, config.clone()).unwrap();
    let read = from.bytes_read();
    let begun = Instant::now();
    from.send(&to, index);
    loop {
        most = most.max(resident());
        match tokio::time::timeout(std::time::Duration::from_millis(5), to.reports.recv()).await {
            Err(_) => {}
            Ok(Some((_, SnapshotReport::Staged { index: staged, .. }))) => {
                assert_eq!(staged, index);
                break;
            }
            Ok(other) => panic!("{other:?}"),
        }
    }
    let took = begun.elapsed();
    let bytes = from.bytes_read() - read;
    println!(
        "{} MiB arrived and were durable in {took:.2?}, {:.0} MiB/s; memory grew by {} MiB",
        bytes >> 20,
        bytes as f64 / f64::from(1 << 20) / took.as_secs_f64(),
        most.saturating_sub(before) >> 20
    );
    // Killed once more, between the reset and the install.
    let reset = Record::Reset { index, mark: Bytes::from(format!("mark of {index}")) };
    to.opened.log.submit(Group::new(0), vec![(1, true, reset)]).unwrap();
    to.opened.log.commit().unwrap();
    to.close().await;
    let begun = Instant::now();
    let opened = open(disk(1), NodeId::new(2), 1).unwrap();
    println!("put in force at the next start in {:.2?}", begun.elapsed());
    assert_same(from.store(), &opened.stores[0]);
    from.close().await;
    assert!(most - before < GROWTH_MAX, "{} bytes more in memory", most - before);
}
