//! What is bounded: how much at once, how fast, how large, and for how long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_engine::SnapshotOffer;
use quorate_host::SnapshotsConfig;
use quorate_replicator::{BulkId, BulkOffer, BulkSink, GroupId, NodeId};
use quorate_storage::{MemoryDisk, SimDisk};

use crate::fixture::{GROUP, Node, assert_same, hub, pairs, write};

fn config(change: impl FnOnce(&mut SnapshotsConfig)) -> SnapshotsConfig {
    let mut config = SnapshotsConfig::default();
    change(&mut config);
    config
}

fn offer(group: u32, id: u128, bytes: u64) -> BulkOffer {
    let head = SnapshotOffer { group: GroupId::new(group), index: 7, head: Bytes::new() };
    BulkOffer { id: BulkId(id), bytes, head: head.encode().unwrap() }
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_are_received_at_once_and_one_that_was_cut_off_gives_way() {
    let hub = hub();
    let disk = Arc::new(MemoryDisk::new());
    let node = Node::on(&hub, 1, disk, 4, config(|it| it.receives_max = 2)).unwrap();
    let peer = NodeId::new(2);
    let mut first = node.snapshots.offer(peer, offer(0, 1, 1000)).unwrap();
    first.write(vec![b'q'; 5].into()).await.unwrap();
    let second = node.snapshots.offer(peer, offer(1, 2, 1000)).unwrap();
    let refused = node.snapshots.offer(peer, offer(2, 3, 1000)).unwrap_err();
    assert!(refused.contains("receives 2 snapshots already"), "{refused}");
    // Another attempt at one that is known needs no place of its own.
    drop(first);
    let first = node.snapshots.offer(peer, offer(0, 1, 1000)).unwrap();
    assert_eq!(first.resume_at(), 5);
    drop(second);
    let third = node.snapshots.offer(peer, offer(2, 3, 1000)).unwrap();
    assert_eq!(node.snapshots.progress(GroupId::new(1)), []);
    assert_eq!(node.snapshots.progress(GROUP)[0].done, 5);
    let display = node.snapshots.progress(GROUP)[0].to_string();
    assert_eq!(display, "snapshot at index 7: 0 of 1 KiB received");
    drop((first, third));
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_off_and_does_not_go_on_is_forgotten() {
    let hub = hub();
    let disk = SimDisk::new(1);
    let hasty = config(|it| it.kept_for = Duration::from_millis(20));
    let node = Node::on(&hub, 1, Arc::new(disk.clone()), 1, hasty).unwrap();
    let peer = NodeId::new(2);
    let first = node.snapshots.offer(peer, offer(0, 1, 1000)).unwrap();
    drop(first);
    let second = node.snapshots.offer(peer, offer(0, 1, 1000)).unwrap();
    tokio::time::sleep(Duration::from_millis(40)).await;
    assert_eq!(node.snapshots.progress(GROUP).len(), 1, "the second attempt is under way");
    drop(second);
    let forgotten = async {
        let is_there = || disk.files().contains_key("checkpoint/g0.stage");
        while is_there() || !node.snapshots.progress(GROUP).is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), forgotten).await.unwrap();
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_before_it_comes() {
    let hub = hub();
    let disk = Arc::new(MemoryDisk::new());
    let node = Node::on(&hub, 1, disk, 1, config(|it| it.bytes_max = 1000)).unwrap();
    let peer = NodeId::new(2);
    let refused = node.snapshots.offer(peer, offer(0, 1, 1001)).unwrap_err();
    assert!(refused.contains("1001 bytes, this node takes at most 1000"), "{refused}");
    let refused = node.snapshots.offer(peer, offer(1, 1, 1000)).unwrap_err();
    assert!(refused.contains("g1 is not a group"), "{refused}");
    assert!(node.snapshots.offer(peer, offer(0, 1, 1000)).is_ok());
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_take_turns_to_the_same_node() {
    let hub = hub();
    let mut nodes = Vec::new();
    for number in 1..=2 {
        let disk = Arc::new(MemoryDisk::new());
        nodes.push(Node::on(&hub, number, disk, 6, SnapshotsConfig::default()).unwrap());
    }
    let [from, to] = &mut nodes[..] else { unreachable!("there are two") };
    for (group, store) in (0..).zip(&from.opened.stores) {
        write(store, 7, pairs(group, 50, 1000));
        from.snapshots.send(GroupId::new(group as u32), to.id, 7, Bytes::new());
    }
    for _ in 0..6 {
        assert_eq!(to.staged().await, 7);
        assert_eq!(from.sent().await, Ok(()));
    }
    for (group, store) in (0..).zip(&to.opened.stores) {
        drop(to.snapshots.install(GroupId::new(group), 7).unwrap());
        assert_same(&from.opened.stores[group as usize], store);
    }
    for node in nodes {
        node.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pace_is_kept() {
    let hub = hub();
    let disk = Arc::new(MemoryDisk::new());
    let slow = config(|it| it.bytes_per_second = Some(2 << 20));
    let mut from = Node::on(&hub, 1, disk, 1, slow).unwrap();
    let mut to = Node::new(&hub, 2);
    from.write(7, pairs(1, 1000, 1000));
    let begun = Instant::now();
    from.send(&to, 7);
    assert_eq!(to.staged().await, 7);
    assert_eq!(from.sent().await, Ok(()));
    // A lower bound only: a machine with other work is slower, and never faster.
    let at_least =
        Duration::from_secs_f64(1_000_000.0 / f64::from(2 << 20)) - Duration::from_millis(50);
    assert!(begun.elapsed() >= at_least, "{:?}", begun.elapsed());
    from.close().await;
    to.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_takes_nothing_is_given_up() {
    let hub = hub();
    let disk = Arc::new(MemoryDisk::new());
    let hasty = config(|it| it.stalled_after = Duration::from_millis(100));
    let mut from = Node::on(&hub, 1, disk, 1, hasty).unwrap();
    let to = hub.connect(NodeId::new(2));
    quorate_replicator::Transport::receive(&*to, Arc::new(Takes));
    from.write(7, pairs(1, 1000, 1000));
    from.snapshots.send(GROUP, NodeId::new(2), 7, Bytes::new());
    let given_up = from.sent().await.unwrap_err();
    assert!(given_up.contains("nothing of it was taken for 100ms"), "{given_up}");
    from.close().await;
}

/// Takes offers, and nothing else.
#[derive(Debug)]
struct Takes;

#[async_trait::async_trait]
impl quorate_replicator::Inbound for Takes {
    async fn message(&self, _: NodeId, _: quorate_replicator::Channel, _: Bytes) {}

    fn peer(&self, _: NodeId, _: quorate_replicator::PeerState) {}

    fn bulk(&self, _: NodeId, _: BulkOffer) -> Result<Box<dyn BulkSink>, String> {
        Ok(Box::new(Self))
    }
}

#[async_trait::async_trait]
impl BulkSink for Takes {
    fn resume_at(&self) -> u64 {
        0
    }

    async fn write(&mut self, _: Bytes) -> Result<(), String> {
        std::future::pending().await
    }

    async fn finish(self: Box<Self>) -> Result<(), String> {
        Ok(())
    }
}
