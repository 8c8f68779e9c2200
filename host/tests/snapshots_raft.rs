//! A node joins a Raft cluster whose log does not reach back: by a snapshot, while writes go on, and killed on the way.
//!
//! 4 MiB of state by default; `QUORATE_TEST_BUDGET=long` takes 1 GiB, 262,144 values of 4 KiB, and 20 kills.

#[path = "support/raft_cluster.rs"]
mod raft_cluster;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quorate_conformance::until;
use quorate_host::Retain;
use quorate_replicator::{
    Durability, GroupStatus, MemberChange, MemberRole, NodeId, Replicator, Session, ShardKey,
};
use quorate_shard::kv::{PutOptions, ReadOptions};
use quorate_shard::{Kv, Shards};
use quorate_storage::LogConfig;

use raft_cluster::RaftCluster;

/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(600);

const JOINS: NodeId = NodeId::new(4);

const VALUE_BYTES: usize = 4 << 10;

/// Writes that wait for their decision at a time.
const WRITERS: u64 = 32;

struct Scale {
    values: u64,
    kills: u32,
    /// How long rates are looked at.
    window: Duration,
    checkpoint_bytes: u64,
}

impl Scale {
    fn of_budget() -> Self {
        let mib = 1 << 20;
        if std::env::var("QUORATE_TEST_BUDGET").is_ok_and(|budget| budget == "long") {
            let window = Duration::from_secs(10);
            Self { values: 262_144, kills: 20, window, checkpoint_bytes: 64 * mib }
        } else {
            let window = Duration::from_millis(500);
            Self { values: 1024, kills: 3, window, checkpoint_bytes: mib }
        }
    }
}

fn value(key: u64) -> Vec<u8> {
    let mut value = vec![0; VALUE_BYTES];
    fastrand::Rng::with_seed(key).fill(&mut value);
    value
}

fn shard() -> ShardKey {
    ShardKey::parse("acme/large").unwrap()
}

fn group(node: &Arc<dyn Replicator>) -> GroupStatus {
    node.status().groups.remove(0)
}

/// The shards of each machine that was made, in order.
type Made = Arc<Mutex<Vec<Shards>>>;

fn cluster(scale: &Scale, made: &Made) -> RaftCluster {
    let made = Arc::clone(made);
    let machine = move || -> Box<dyn quorate_replicator::StateMachine> {
        let (machine, shards) = Shards::builder().build();
        made.lock().unwrap().push(shards);
        Box::new(machine)
    };
    let mut cluster = RaftCluster::new(3, Durability::Disk, Box::new(machine));
    cluster.config.checkpoint.log_bytes = scale.checkpoint_bytes;
    cluster.config.retain = Retain { bytes: 0, age: Duration::ZERO };
    let mut log = LogConfig::default();
    log.segment_bytes = 16 << 20;
    cluster.config.log = log;
    cluster
}

/// Writes keys from 0 to `values`, again and again, and counts.
async fn write(kv: Kv, from: u64, values: u64, done: Arc<AtomicBool>, count: Arc<AtomicU64>) {
    let shard = shard();
    for key in (0..values).cycle().skip(from as usize).step_by(WRITERS as usize) {
        if done.load(Ordering::Acquire) {
            return;
        }
        let name = format!("key {key:08}");
        let options = PutOptions::default().within(LONG);
        kv.put(&shard, name.as_bytes(), &value(key), options).await.unwrap();
        count.fetch_add(1, Ordering::AcqRel);
    }
}

/// How far the snapshot to the node that joins has got, as the one who sends it says: 0 to 1. Whoever leads by now.
fn fraction(founders: &[Arc<dyn Replicator>]) -> Option<f64> {
    founders.iter().find_map(sent)
}

fn sent(node: &Arc<dyn Replicator>) -> Option<f64> {
    let peers = group(node).peers;
    let note = &peers.iter().find(|peer| peer.node == JOINS)?.note;
    let words: Vec<_> = note.split(": ").last()?.split(' ').collect();
    match words[..] {
        [done, "of", all, _, "sent"] => Some(done.parse::<f64>().ok()? / all.parse::<f64>().ok()?),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_by_snapshot_while_writes_go_on_although_it_is_killed() {
    let scale = Scale::of_budget();
    let seed = std::env::var("QUORATE_SEED").ok().and_then(|it| it.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("QUORATE_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let made = Made::default();
    let cluster = cluster(&scale, &made);
    let nodes = [1, 2, 3].map(NodeId::new);
    let (one, two, three) =
        tokio::try_join!(cluster.start(nodes[0]), cluster.start(nodes[1]), cluster.start(nodes[2]))
            .unwrap();
    let founders = [one, two, three];
    let leader = || founders.iter().find_map(|node| group(node).leader);
    let led = until("a leader", LONG, leader, Option::is_some).await.unwrap();
    let leader = Arc::clone(&founders[led.number() as usize - 1]);

    let session = Arc::new(Session::new(Arc::clone(&leader)).unwrap());
    let shards = made.lock().unwrap()[0].clone();
    let kv = Kv::new(session, &shards);
    let (done, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let begun = Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|from| {
            let (done, count) = (Arc::clone(&done), Arc::clone(&count));
            tokio::spawn(write(kv.clone(), from, scale.values, done, count))
        })
        .collect();
    let written = || count.load(Ordering::Acquire);
    until("all values", LONG, &written, |it| *it >= scale.values + WRITERS).await;
    println!(
        "{} values of {VALUE_BYTES} bytes were written in {:.1?}",
        scale.values,
        begun.elapsed()
    );
    until("a trimmed log", LONG, || group(&leader).log_first, |it| *it > 1).await;
    let rate = |writes: u64, took: Duration| writes as f64 / took.as_secs_f64();
    let (writes, begun) = (written(), Instant::now());
    tokio::time::sleep(scale.window).await;
    let alone = rate(written() - writes, begun.elapsed());
    println!("{alone:.0} writes/s before");

    let mut joining = cluster.start(JOINS).await.unwrap();
    let address = String::new();
    let add = MemberChange::Add { node: JOINS, address, role: MemberRole::Voter };
    let asked = Arc::clone(&leader);
    let added = tokio::spawn(async move {
        // Whoever led may lead no more; to ask again for what is so already succeeds.
        while let Err(error) = asked.change_members(add.clone(), LONG).await {
            println!("asked again: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    for kill in 0..scale.kills {
        let at = random.f64();
        // What the sender says stays as it was until it has reached the new life of the receiver.
        let before = fraction(&founders);
        until(
            "a snapshot on its way",
            LONG,
            || (fraction(&founders), group(&joining).applied),
            |(now, applied)| *now != before && now.is_some_and(|now| now >= at) || *applied > 0,
        )
        .await;
        println!("kill {kill} at {:?}, wanted at {at:.2}", fraction(&founders));
        cluster.stop(JOINS).await;
        joining = cluster.start(JOINS).await.unwrap();
    }
    let (writes, begun) = (written(), Instant::now());
    let reached = group(&leader).applied;
    until("an installed snapshot", LONG, || group(&joining).applied, |it| *it > 0).await;
    let installed = begun.elapsed();
    let during = rate(written() - writes, installed);
    until("the newest batch", LONG, || group(&joining).applied, |it| *it >= reached).await;
    println!(
        "{during:.0} writes/s ({:.0} %) for {installed:.1?} while it was sent and installed, caught up after {:.1?}",
        100.0 * during / alone,
        begun.elapsed()
    );
    assert!(written() > writes, "writes go on meanwhile");
    added.await.unwrap();
    until("a voter", LONG, || group(&leader).members, |it| it.contains(&JOINS)).await;
    let first = group(&joining).log_first;
    assert!(first > 1, "its log begins after a snapshot, at {first}");

    // All are the same, and reads at the new node are those of everyone.
    done.store(true, Ordering::Release);
    for writer in writers {
        writer.await.unwrap();
    }
    let last = group(&leader).applied;
    let all = || {
        let groups = cluster.nodes().iter().map(group).collect::<Vec<_>>();
        groups.iter().map(|group| (group.applied, group.history)).collect::<Vec<_>>()
    };
    until("the same history everywhere", LONG, all, |all| {
        all.iter().all(|it| it.0 >= last && *it == all[0])
    })
    .await;
    let session = Arc::new(Session::new(Arc::clone(&joining)).unwrap());
    let shards = made.lock().unwrap().last().unwrap().clone();
    let kv = Kv::new(session, &shards);
    for _ in 0..100 {
        let key = random.u64(..scale.values);
        let name = format!("key {key:08}");
        let got = kv.get(&shard(), name.as_bytes(), ReadOptions::default().within(LONG)).await;
        assert_eq!(got.unwrap().entry.unwrap().value, value(key));
    }
    cluster.close().await;
}
