//! Clients of a cluster whose nodes come and go.

#[path = "support/nobody.rs"]
mod nobody;
#[path = "../../host/tests/support/raft_cluster.rs"]
mod raft_cluster;
#[path = "support/served.rs"]
mod served;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use quorate_client::Client;
use quorate_conformance::until;
use quorate_replicator::{
    Accepted, Cursor, Durability, GroupId, Handler, HandlerError, Health, MemberChange, NodeId,
    Position, ReadError, Scope, ShardKey,
};
use quorate_shard::kv::{Changes, OrgReadOptions, PutOptions, ReadOptions, Scan};
use raft_cluster::{Maker, RaftCluster as Founded};
use served::Served;

fn found(nodes: u64, durability: Durability, maker: Maker) -> Founded {
    Founded::new(nodes, durability, maker)
}

/// Longer than anything here takes on a machine with other work.
const WITHIN: Duration = Duration::from_secs(60);

fn shard() -> ShardKey {
    ShardKey::new("acme", "orders").unwrap()
}

fn put() -> PutOptions<'static> {
    PutOptions::default().within(WITHIN)
}

fn node_of(client: &Client) -> NodeId {
    client.replicator().status().node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_values_are_those_of_an_embedded_node() {
    let served = Served::open_kv(3).await;
    let client = served.client(&[0, 1, 2]).await;
    let kv = client.kv();
    let orders = shard();
    let first = kv.put(&orders, b"a", b"1", put()).await.unwrap();
    assert_eq!((first.revision, first.created), (1, 1));
    let swapped = kv.compare_and_swap(&orders, b"a", 1, b"2").await.unwrap();
    assert_eq!(swapped.revision, 2);
    let error = kv.compare_and_swap(&orders, b"a", 1, b"3").await.unwrap_err();
    assert_eq!(error.to_string(), "condition does not hold: the key was modified at revision 2");
    assert!(!error.may_commit());
    let options = ReadOptions::default().within(WITHIN);
    let changes = kv.changes(&orders, 1, b"a", 9, options).await.unwrap();
    assert!(matches!(changes, Changes::Changes { next: 3, .. }), "{changes:?}");
    // A page that travels in several parts.
    let large = vec![7; 900_000];
    for key in [b"x", b"y"] {
        kv.put(&orders, key, &large, put()).await.unwrap();
    }
    let page = kv.scan(&orders, &Scan::all(), options).await.unwrap();
    assert_eq!(page.entries.len(), 3);
    assert!(page.entries[2].value == large && page.next.is_some());
    let got = kv.get(&orders, b"a", options).await.unwrap();
    assert_eq!((got.revision, got.entry.unwrap().value), (4, "2".into()));
    let orgs = OrgReadOptions::default().within(WITHIN);
    assert_eq!(kv.orgs(None, 9, orgs.clone()).await.unwrap(), ["acme"]);
    let names = kv.namespaces("acme", None, 9, orgs.clone()).await.unwrap();
    assert_eq!(names.namespaces[0].keys, Some(3));
    let page = kv.scan_org("acme", &Scan::prefix(b"a"), orgs).await.unwrap();
    assert_eq!(page.parts[0].entries.len(), 1);
    client.close().await;
    let closed = kv.get(&orders, b"a", options).await.unwrap_err();
    assert_eq!(closed, ReadError::Closed.into());
    served.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_for_room_do_not_hold_up_those_that_have_it() {
    let served = Served::open_kv(1).await;
    let client = Arc::new(served.client(&[0]).await);
    let mut puts = tokio::task::JoinSet::new();
    for number in 0..12 {
        let client = Arc::clone(&client);
        puts.spawn(async move {
            let (key, value) = (format!("{number}"), vec![7; 900_000]);
            let done = client.kv().put(&shard(), key.as_bytes(), &value, put()).await;
            done.map(|done| done.revision).map_err(|error| error.to_string())
        });
    }
    let mut revisions = puts.join_all().await.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=12).collect::<Vec<_>>());
    client.close().await;
    served.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_followed() {
    let served = Served::open_kv(3).await;
    let leader = served.cluster.leader().await;
    let client = served.client(&[0, 1, 2]).await;
    until("the client is with the leader", WITHIN, || node_of(&client), |it| *it == leader).await;
    let next = NodeId::new(leader.number() % 3 + 1);
    client.replicator().transfer(GroupId::new(0), next, WITHIN).await.unwrap();
    until("the client is with the new leader", WITHIN, || node_of(&client), |it| *it == next).await;
    client.kv().put(&shard(), b"a", b"1", put()).await.unwrap();
    // One that knows only a follower stays with that, and its frames are forwarded.
    let follower = (next.number() % 3) as usize;
    let other = served.client(&[follower]).await;
    other.kv().put(&shard(), b"b", b"1", put()).await.unwrap();
    assert_eq!(node_of(&other), NodeId::new(follower as u64 + 1));
    for client in [client, other] {
        client.close().await;
    }
    served.close().await;
}

/// Eight writers count while each node in turn is cut off without a word, or stopped: each accepted put has its own revision,
/// and there are as many revisions as puts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_done_twice_when_nodes_go() {
    const WRITERS: usize = 8;
    let served = Arc::new(Served::open_kv(3).await);
    let client = Arc::new(served.client(&[0, 1, 2]).await);
    let done = Arc::new(tokio::sync::watch::Sender::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (client, done) = (Arc::clone(&client), done.subscribe());
        writers.spawn(async move {
            let mut revisions = Vec::new();
            let key = format!("writer {writer}");
            while !*done.borrow() {
                let value = revisions.len().to_string();
                let put = client.kv().put(&shard(), key.as_bytes(), value.as_bytes(), put()).await;
                revisions.push(put.unwrap().revision);
            }
            revisions
        });
    }
    let revision = async || {
        let options = ReadOptions::default().within(WITHIN);
        client.kv().get(&shard(), b"none", options).await.unwrap().revision
    };
    for round in 0..6 {
        let before = revision().await;
        let node = round % 3;
        match round < 3 {
            true => served.close_door(node).await,
            false => served.stop(node).await,
        }
        while revision().await < before + 20 {
            tokio::task::yield_now().await;
        }
        match round < 3 {
            true => served.serve(node),
            false => served.start(node).await,
        }
    }
    done.send_replace(true);
    let mut all = BTreeSet::new();
    let mut puts = 0;
    while let Some(revisions) = writers.join_next().await {
        let revisions = revisions.unwrap();
        assert!(revisions.is_sorted_by(|a, b| a < b), "puts of one writer come in their order");
        puts += revisions.len();
        all.extend(revisions);
    }
    assert_eq!(all.len(), puts, "each put has a revision of its own");
    assert_eq!(all.last().copied(), Some(puts as u64), "nothing was done twice");
    assert_eq!(revision().await, puts as u64);
    client.close().await;
    served.close().await;
}

#[derive(Debug, Default)]
struct Collector(Mutex<Vec<Position>>);

#[async_trait]
impl Handler for Collector {
    async fn handle(&self, batch: &[Accepted]) -> Result<(), HandlerError> {
        self.0.lock().unwrap().extend(batch.iter().map(|accepted| accepted.position));
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_goes_on_with_another_node() {
    let served = Served::open_kv(3).await;
    let client = served.client(&[0, 1, 2]).await;
    client.kv().put(&shard(), b"before", b"", put()).await.unwrap();
    let collector = Arc::new(Collector::default());
    let replicator = client.replicator();
    let handler = Arc::clone(&collector) as _;
    let subscription =
        replicator.subscribe(Scope::Shard(shard()), Cursor::now(), handler).await.unwrap();
    let mut expected = Vec::new();
    for round in 0..3 {
        for number in 0..50 {
            let key = format!("{round} {number}");
            let done = client.kv().put(&shard(), key.as_bytes(), b"", put()).await.unwrap();
            expected.push(done.position);
        }
        let node = node_of(&client).number() as usize - 1;
        served.close_door(node).await;
        until(
            "the client is with another node",
            WITHIN,
            || client.replicator().status(),
            |status| status.health == Health::Ready && status.node.number() as usize - 1 != node,
        )
        .await;
        served.serve(node);
    }
    until(
        "everything is given",
        WITHIN,
        || collector.0.lock().unwrap().len(),
        |it| *it >= expected.len(),
    )
    .await;
    assert_eq!(*collector.0.lock().unwrap(), expected, "each frame once, in order, and no other");
    let last = expected.last().map(|last| last.index);
    let reached = |cursor: &Cursor| cursor.position(GroupId::new(0)).map(|place| place.index);
    assert_eq!(reached(&subscription.cursor()), last);
    client.close().await;
    assert_eq!(reached(subscription.ended().await.cursor()), last);
    served.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_does_not_answer_is_told_with_each_reason() {
    let served = Served::open_kv(1).await;
    let client = served.client(&[0]).await;
    served.close_door(0).await;
    until(
        "the loss is noticed",
        WITHIN,
        || client.replicator().status().health,
        |it| *it != Health::Ready,
    )
    .await;
    let short = Duration::from_millis(50);
    let error = client.kv().put(&shard(), b"a", b"", put().within(short)).await.unwrap_err();
    assert!(error.to_string().contains("n1"), "{error}");
    let statuses = client.statuses(short).await;
    assert_eq!(statuses.len(), 1);
    assert!(statuses[0].1.as_ref().unwrap_err().contains("n1 at 127.0.0.1:"), "{statuses:?}");
    served.serve(0);
    client.kv().put(&shard(), b"a", b"", put()).await.unwrap();
    assert!(client.statuses(WITHIN).await[0].1.is_ok());
    client.close().await;
    served.close().await;
}

/// A node that is no member answers, and serves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_serve_is_left_for_one_that_does() {
    let served = Served::open_kv(3).await;
    let [one, two, three] = [1, 2, 3].map(NodeId::new);
    let client = served.client(&[0, 1, 2]).await;
    let replicator = client.replicator();
    // Whoever was removed waits for ever.
    replicator.transfer(GroupId::new(0), one, WITHIN).await.unwrap();
    for node in [two, three] {
        replicator.change_members(MemberChange::Remove { node }, WITHIN).await.unwrap();
    }
    for _ in 0..4 {
        let client = served.client(&[0, 1, 2]).await;
        client.kv().put(&shard(), b"a", b"1", put()).await.unwrap();
        assert_eq!(node_of(&client), one);
        client.close().await;
    }
    // One that was with the wrong node moves, and what waits there moves with it.
    let wrong = served.client(&[1, 0]).await;
    served.close_door(0).await;
    until(
        "the client is with a node that does not serve",
        WITHIN,
        || node_of(&wrong),
        |it| *it == two,
    )
    .await;
    let waiting = tokio::spawn(async move {
        let done = wrong.kv().put(&shard(), b"b", b"1", put()).await;
        wrong.close().await;
        done
    });
    served.serve(0);
    waiting.await.unwrap().unwrap();
    client.close().await;
    served.close().await;
}
