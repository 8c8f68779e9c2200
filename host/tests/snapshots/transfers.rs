//! One snapshot from one node to another.

use std::sync::Arc;

use bytes::Bytes;
use quorate_conformance::until;
use quorate_engine::SnapshotOffer;
use quorate_engine::engine::Input;
use quorate_host::{SnapshotReport, SnapshotWay};
use quorate_replicator::{BulkId, BulkOffer, NodeId};

use crate::fixture::{GROUP, LONG, Node, assert_same, hub, pairs};

/// How much of what comes to a node has come.
fn received(node: &Node) -> u64 {
    let progress = node.snapshots.progress(GROUP);
    progress.iter().find(|it| it.way == SnapshotWay::In).map_or(0, |it| it.done)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_reaches_another_node() {
    let hub = hub();
    let (mut from, mut to) = (Node::new(&hub, 1), Node::new(&hub, 2));
    from.write(7, pairs(1, 300, 4000));
    from.send(&to, 7);
    let staged = to.report().await;
    let expected = SnapshotReport::Staged {
        from: from.id,
        index: 7,
        mark: Bytes::from_static(b"mark of 7"),
        state: [7; 32],
        head: Bytes::from_static(b"head"),
    };
    assert_eq!(staged, expected);
    assert!(matches!(staged.into_input(), Input::SnapshotStaged { index: 7, .. }));
    assert_eq!(from.sent().await, Ok(()));
    assert_eq!(to.store().latest(), None, "not in force before it is installed");
    let mut installed = to.snapshots.install(GROUP, 7).unwrap();
    assert_eq!(installed.stored().index, 7);
    assert_eq!(installed.stored().words, Bytes::from_static(b"words of 7"));
    drop(installed);
    assert_same(from.store(), to.store());
    assert_eq!((from.snapshots.progress(GROUP), to.snapshots.progress(GROUP)), (vec![], vec![]));
    from.close().await;
    to.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_newest_checkpoint_is_sent() {
    let hub = hub();
    let (mut from, to) = (Node::new(&hub, 1), Node::new(&hub, 2));
    from.send(&to, 7);
    assert_eq!(from.sent().await, Err("there is no checkpoint".to_owned()));
    from.write(8, pairs(1, 3, 10));
    from.send(&to, 7);
    assert!(from.sent().await.unwrap_err().contains("at index 8 by now"));
    from.snapshots.send(quorate_replicator::GroupId::new(5), to.id, 7, Bytes::new());
    assert!(from.sent().await.unwrap_err().contains("g5 is not a group"));
    from.snapshots.send(GROUP, NodeId::new(99), 8, Bytes::new());
    assert!(from.sent().await.unwrap_err().contains("n99 is not a peer"));
    from.snapshots.send(GROUP, to.id, 8, vec![0; 64 << 10].into());
    assert!(from.sent().await.unwrap_err().contains("at most"));
    from.close().await;
    to.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_off_goes_on_where_it_stopped() {
    let hub = hub();
    let (mut from, mut to) = (Node::new(&hub, 1), Node::new(&hub, 2));
    from.write(7, pairs(1, 2000, 4000));
    from.send(&to, 7);
    for cut in 1..=8_u64 {
        until("progress", LONG, || received(&to), |it| *it > cut * 800_000).await;
        if cut % 2 == 0 {
            hub.cut_bulk(from.id, to.id);
        } else {
            hub.cut(from.id, to.id);
            hub.restore(from.id, to.id);
        }
    }
    assert_eq!(to.staged().await, 7);
    assert_eq!(from.sent().await, Ok(()));
    let bytes = from.offers()[0].bytes;
    let again = from.bytes_read() - bytes;
    // A cut costs what was read and had not been taken: two chunks.
    assert!(again <= 8 * 2 * (16 << 10), "{again} of {bytes} bytes were read again after 8 cuts");
    to.install(7);
    assert_same(from.store(), to.store());
    from.close().await;
    to.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_sender_gave_up_goes_on_when_it_is_sent_again() {
    let hub = hub();
    let (mut from, mut to) = (Node::new(&hub, 1), Node::new(&hub, 2));
    from.write(7, pairs(1, 2000, 4000));
    from.send(&to, 7);
    until("progress", LONG, || received(&to), |it| *it > 2_000_000).await;
    hub.cut(from.id, to.id);
    assert!(from.sent().await.unwrap_err().contains("cannot be reached"));
    hub.restore(from.id, to.id);
    let (kept, read) = (received(&to), from.bytes_read());
    assert!(kept > 2_000_000);
    from.snapshots.send(GROUP, to.id, 7, Bytes::from_static(b"newer head"));
    match to.report().await {
        SnapshotReport::Staged { head, .. } => assert_eq!(head, "newer head"),
        other => panic!("{other:?}"),
    }
    assert_eq!(from.sent().await, Ok(()));
    let bytes = from.offers()[0].bytes;
    assert_eq!(from.bytes_read() - read, bytes - kept, "only what was missing is read");
    to.install(7);
    assert_same(from.store(), to.store());
    from.close().await;
    to.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_send_to_the_same_node_takes_the_place_of_the_first() {
    let hub = hub();
    let (mut from, mut to) = (Node::new(&hub, 1), Node::new(&hub, 2));
    from.write(7, pairs(1, 2000, 4000));
    from.send(&to, 7);
    until("progress", LONG, || received(&to), |it| *it > 1_000_000).await;
    from.write(8, pairs(2, 10, 10));
    from.send(&to, 8);
    assert!(from.sent().await.unwrap_err().contains("another snapshot"));
    assert_eq!(to.staged().await, 8);
    assert_eq!(from.sent().await, Ok(()));
    to.install(8);
    assert_same(from.store(), to.store());
    from.close().await;
    to.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_staged_waits_and_nothing_else_is_received_meanwhile() {
    let hub = hub();
    let (mut from, mut to) = (Node::new(&hub, 1), Node::new(&hub, 2));
    let mut other = Node::new(&hub, 3);
    from.write(7, pairs(1, 30, 400));
    other.write(9, pairs(2, 30, 400));
    from.send(&to, 7);
    assert_eq!(to.staged().await, 7);
    assert_eq!(from.sent().await, Ok(()));
    other.send(&to, 9);
    let refused = other.sent().await.unwrap_err();
    assert!(refused.contains("at index 7 waits to be put in force"), "{refused}");
    // Sent once more, it is reported once more, with the words of the new attempt, and nothing is transferred.
    let read = from.bytes_read();
    from.snapshots.send(GROUP, to.id, 7, Bytes::from_static(b"newer head"));
    match to.report().await {
        SnapshotReport::Staged { index: 7, head, .. } => assert_eq!(head, "newer head"),
        other => panic!("{other:?}"),
    }
    assert_eq!(from.sent().await, Ok(()));
    assert_eq!(from.bytes_read(), read);
    // Not wanted after all: the next one is taken.
    to.snapshots.discard(GROUP, 6);
    assert!(to.snapshots.install(GROUP, 6).unwrap_err().contains("index 6 is staged"));
    to.snapshots.discard(GROUP, 7);
    assert!(to.snapshots.install(GROUP, 7).is_err());
    other.send(&to, 9);
    assert_eq!(to.staged().await, 9);
    assert_eq!(other.sent().await, Ok(()));
    to.install(9);
    assert_same(other.store(), to.store());
    // What a node has already is not sent to it.
    from.send(&to, 7);
    assert_eq!(from.sent().await, Ok(()));
    assert_eq!(from.bytes_read(), read);
    assert!(to.reports.try_recv().is_err());
    for node in [from, to, other] {
        node.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_goes_past_what_is_staged_lets_go_of_it() {
    let hub = hub();
    let (mut from, mut to) = (Node::new(&hub, 1), Node::new(&hub, 2));
    from.write(7, pairs(1, 30, 400));
    from.send(&to, 7);
    assert_eq!(to.staged().await, 7);
    assert_eq!(from.sent().await, Ok(()));
    to.write(8, pairs(3, 3, 30));
    from.write(9, pairs(2, 40, 400));
    from.send(&to, 9);
    assert_eq!(to.staged().await, 9);
    assert_eq!(from.sent().await, Ok(()));
    to.install(9);
    assert_same(from.store(), to.store());
    from.close().await;
    to.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_snapshot_takes_the_place_of_an_older_one_and_no_other_way_round() {
    let hub = hub();
    let (mut from, mut to) = (Node::new(&hub, 1), Node::new(&hub, 2));
    let (mut older, mut newer) = (Node::new(&hub, 3), Node::new(&hub, 4));
    older.write(5, pairs(1, 30, 400));
    from.write(7, pairs(2, 2000, 4000));
    newer.write(9, pairs(3, 30, 400));
    from.send(&to, 7);
    until("progress", LONG, || received(&to), |it| *it > 1_000_000).await;
    older.send(&to, 5);
    let refused = older.sent().await.unwrap_err();
    assert!(
        refused.contains("the snapshot at index 7 comes from n1")
            || refused.contains("a snapshot at index 7 comes from n1"),
        "{refused}"
    );
    newer.send(&to, 9);
    assert_eq!(to.staged().await, 9);
    assert_eq!(newer.sent().await, Ok(()));
    let refused = from.sent().await.unwrap_err();
    assert!(refused.contains("takes its place") || refused.contains("waits"), "{refused}");
    to.install(9);
    assert_same(newer.store(), to.store());
    for node in [from, to, older, newer] {
        node.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_cut_off_for_good_does_not_keep_an_older_one_out() {
    let hub = hub();
    let (mut from, mut to) = (Node::new(&hub, 1), Node::new(&hub, 2));
    let mut other = Node::new(&hub, 3);
    from.write(7, pairs(2, 2000, 4000));
    other.write(5, pairs(1, 30, 400));
    from.send(&to, 7);
    until("progress", LONG, || received(&to), |it| *it > 1_000_000).await;
    hub.disconnect(from.id);
    assert!(from.sent().await.is_err());
    other.send(&to, 5);
    assert_eq!(to.staged().await, 5);
    assert_eq!(other.sent().await, Ok(()));
    to.install(5);
    assert_same(other.store(), to.store());
    for node in [from, to, other] {
        node.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_not_the_offered_one_is_refused_and_forgotten() {
    let hub = hub();
    let (mut from, mut to) = (Node::new(&hub, 1), Node::new(&hub, 2));
    from.write(7, pairs(1, 30, 400));
    let head = SnapshotOffer { group: GROUP, index: 7, head: Bytes::new() }.encode().unwrap();
    let offer = BulkOffer { id: BulkId(5), bytes: 4000, head: head.clone() };
    let mut sink = to.snapshots.offer(from.id, offer.clone()).unwrap();
    assert_eq!(sink.resume_at(), 0);
    sink.write(vec![1; 4000].into()).await.unwrap();
    let refused = sink.finish().await.unwrap_err();
    assert!(refused.contains("not a snapshot"), "{refused}");
    // It begins anew, and a sink that does not give all of it is told so.
    let mut sink = to.snapshots.offer(from.id, offer.clone()).unwrap();
    assert_eq!(sink.resume_at(), 0);
    sink.write(vec![1; 10].into()).await.unwrap();
    assert!(sink.finish().await.unwrap_err().contains("10 bytes of 4000"));
    // An earlier attempt does nothing any more once there is a later one.
    let mut early = to.snapshots.offer(from.id, offer.clone()).unwrap();
    let late = to.snapshots.offer(from.id, offer).unwrap();
    assert!(early.write(vec![1; 10].into()).await.unwrap_err().contains("once more"));
    drop((early, late));
    for words in [Bytes::new(), head.slice(..5), Bytes::from(vec![9; 20])] {
        let offer = BulkOffer { id: BulkId(5), bytes: 4000, head: words };
        assert!(to.snapshots.offer(from.id, offer).is_err());
    }
    from.send(&to, 7);
    assert_eq!(to.staged().await, 7);
    assert_eq!(from.sent().await, Ok(()));
    to.install(7);
    assert_same(from.store(), to.store());
    from.close().await;
    to.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_ends_what_is_sent_and_what_is_received() {
    for closes_first in 0..2 {
        let hub = hub();
        let (from, to) = (Node::new(&hub, 1), Node::new(&hub, 2));
        from.write(7, pairs(1, 2000, 4000));
        from.send(&to, 7);
        until("progress", LONG, || received(&to), |it| *it > 1_000_000).await;
        let mut nodes = [from, to];
        nodes.rotate_left(closes_first);
        for mut node in nodes {
            let snapshots = Arc::clone(&node.snapshots);
            snapshots.close().await;
            let progress = snapshots.progress(GROUP);
            assert!(progress.is_empty(), "{progress:?}");
            // What was reported before is there; from now on nothing is.
            while node.reports.try_recv().is_ok() {}
            snapshots.send(GROUP, NodeId::new(1), 7, Bytes::new());
            let head = SnapshotOffer { group: GROUP, index: 9, head: Bytes::new() };
            let (id, bytes, head) = (BulkId(5), 4000, head.encode().unwrap());
            let refused = snapshots.offer(NodeId::new(1), BulkOffer { id, bytes, head });
            assert!(refused.unwrap_err().contains("closing"));
            assert!(node.reports.try_recv().is_err());
            drop(snapshots);
            node.close().await;
        }
    }
}
