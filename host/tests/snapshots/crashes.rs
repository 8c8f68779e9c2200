//! Power cuts at every operation of the receiver's disk, from the first byte of a snapshot to its place.

use std::sync::Arc;

use bytes::Bytes;
use quorate_host::SnapshotsConfig;
use quorate_replicator::NodeId;
use quorate_storage::{Fault, Group, Keep, Record, SimDisk};
use quorate_transport_memory::MemoryHub;

use crate::fixture::{GROUP, Node, assert_same, hub, open, pairs};

/// The disk of a node with a checkpoint at 1, closed.
fn base() -> SimDisk {
    let disk = SimDisk::new(1);
    let mut opened = open(Arc::new(disk.clone()), NodeId::new(2), 1).unwrap();
    crate::fixture::write(&opened.stores[0], 1, pairs(1, 5, 50));
    opened.log.close().unwrap();
    drop(opened);
    disk
}

/// A sender with a checkpoint at 7, in several pieces.
fn sender(hub: &MemoryHub) -> Node {
    let from = Node::new(hub, 1);
    from.write(7, pairs(2, 20, 100));
    from
}

/// What an engine would do: wait for the snapshot, let the log begin after it, put it in force.
async fn receive(hub: &MemoryHub, from: &mut Node, disk: &SimDisk) -> Result<(), String> {
    let disk = Arc::new(disk.clone());
    let mut to =
        Node::on(hub, 2, disk, 1, SnapshotsConfig::default()).map_err(|error| error.to_string())?;
    let received = async {
        if to.store().latest().is_some_and(|meta| meta.index == 7) {
            return Ok(());
        }
        from.send(&to, 7);
        from.sent().await?;
        assert_eq!(to.staged().await, 7);
        let reset = Record::Reset { index: 7, mark: Bytes::from_static(b"mark of 7") };
        let log = &mut to.opened.log;
        log.submit(Group::new(0), vec![(1, true, reset)]).map_err(|error| error.to_string())?;
        while log.has_pending() {
            log.commit().map_err(|error| error.to_string())?;
        }
        to.snapshots.install(GROUP, 7).map(drop)
    };
    let received = received.await;
    to.close().await;
    received
}

/// What is found on a disk after the power is back: the index of its checkpoint.
fn found(disk: &SimDisk, context: &str) -> u64 {
    let opened = open(Arc::new(disk.clone()), NodeId::new(2), 1)
        .unwrap_or_else(|error| panic!("{context}: {error}"));
    let reset = opened.recovered[0].reset.as_ref().map(|(index, _)| *index);
    let index = opened.stores[0].latest().expect("there was a checkpoint").index;
    assert_eq!(index, reset.unwrap_or(1), "{context}: the log begins after the checkpoint");
    assert_eq!(opened.recovered[0].first.max(1), reset.map_or(1, |reset| reset + 1), "{context}");
    index
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_at_any_operation_leaves_the_old_state_or_the_new_one() {
    let base = base();
    for keep in [Keep::None, Keep::All, Keep::Random] {
        let hub = hub();
        let mut from = sender(&hub);
        let mut outcomes = [0, 0];
        for cut in 0.. {
            let disk = base.fork(Keep::All);
            disk.cut_at(disk.ops() + cut);
            let received = receive(&hub, &mut from, &disk).await;
            disk.reboot(keep);
            let context = format!("cut at {cut}, {keep:?}");
            let index = found(&disk, &context);
            outcomes[usize::from(index == 7)] += 1;
            assert!(received.is_err() || index == 7, "{context}: what was in force is gone");
            // Life goes on: it is sent again if need be, and stays.
            receive(&hub, &mut from, &disk)
                .await
                .unwrap_or_else(|error| panic!("{context}: {error}"));
            disk.power_cut(Keep::None);
            assert_eq!(found(&disk, &context), 7);
            let opened = open(Arc::new(disk), NodeId::new(2), 1).unwrap();
            assert_same(from.store(), &opened.stores[0]);
            if received.is_ok() {
                break;
            }
        }
        assert!(
            outcomes[0] > 10 && outcomes[1] > 2,
            "cut before and after the reset: {outcomes:?}"
        );
        from.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_whose_disk_is_full_says_so_and_goes_on() {
    let hub = hub();
    let mut from = sender(&hub);
    from.write(8, pairs(3, 300, 4000));
    let disk = base();
    let opened: Arc<dyn quorate_storage::Disk> = Arc::new(disk.clone());
    let mut to = Node::on(&hub, 2, opened, 1, SnapshotsConfig::default()).unwrap();
    disk.set_capacity(Some(disk.used() + (100 << 10)));
    from.send(&to, 8);
    let refused = from.sent().await.unwrap_err();
    assert!(refused.contains("could not stage a snapshot"), "{refused}");
    // What had come takes no room any more, and the node's own checkpoints go on.
    assert!(!disk.files().contains_key("checkpoint/g0.stage"));
    to.write(2, pairs(4, 5, 50));
    disk.set_capacity(None);
    from.send(&to, 8);
    assert_eq!(to.staged().await, 8);
    assert_eq!(from.sent().await, Ok(()));
    to.install(8);
    assert_same(from.store(), to.store());
    from.close().await;
    to.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_any_operation_of_a_stage_is_survived_without_a_restart() {
    let base = base();
    let hub = hub();
    let mut from = sender(&hub);
    for fault in [Fault::Eio, Fault::Short] {
        for at in 0.. {
            let disk = base.fork(Keep::All);
            let opened: Arc<dyn quorate_storage::Disk> = Arc::new(disk.clone());
            let mut to = Node::on(&hub, 2, opened, 1, SnapshotsConfig::default()).unwrap();
            disk.fail_at(disk.ops() + at, fault);
            let begun = disk.ops();
            from.send(&to, 7);
            let sent = from.sent().await;
            if sent.is_err() {
                from.send(&to, 7);
                assert_eq!(from.sent().await, Ok(()), "{fault:?} at {at}, first {sent:?}");
            }
            assert_eq!(to.staged().await, 7, "{fault:?} at {at}");
            let did_happen = disk.ops() > begun + at;
            if did_happen {
                to.install(7);
                assert_same(from.store(), to.store());
            }
            to.close().await;
            if !did_happen {
                break;
            }
        }
    }
    from.close().await;
}
