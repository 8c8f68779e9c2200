//! Who may speak changes while nodes run, and a node is the same one over restarts.

mod cluster;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use cluster::receiver::{Receiver, connected, explained, refused, until};
use cluster::{Cluster, Relay, limits};
use quorate_replicator::{
    BulkError, BulkId, BulkOffer, BulkSink, BulkSource, Bytes, Channel, Inbound, NodeId, PeerState,
    SendError, Transport,
};
use quorate_transport_quic::{Direction, QuicTransport};
use tokio::sync::watch;

const TWO: NodeId = NodeId::new(2);

fn hello() -> Bytes {
    Bytes::from_static(b"hello")
}

async fn close(nodes: &[Arc<QuicTransport>]) {
    for node in nodes {
        node.close().await;
        assert_eq!(node.status().tasks, 0, "tasks of {} are left", node.local_id());
    }
}

#[tokio::test]
async fn who_is_removed_is_cut_off_and_who_is_added_is_reached() {
    let cluster = Cluster::new(limits());
    let nodes = cluster.nodes(3);
    let receivers: Vec<_> = nodes.iter().map(|node| Receiver::at(node)).collect();
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        connected(&nodes[a], &nodes[b]).await;
    }
    nodes[0].remove_peer(TWO);
    assert_eq!(nodes[0].send(TWO, Channel::Control, hello()), Err(SendError::UnknownPeer(TWO)));
    assert_eq!(nodes[0].peers().len(), 1);
    explained(&nodes[1], 1, "n2 is not a peer of n1").await;
    refused(&nodes[0], "n2 is not a peer of n1; add it to the members first").await;
    // The others go on.
    assert_eq!(cluster::receiver::state(&nodes[0], 3), Some(PeerState::Connected));
    assert_eq!(cluster::receiver::state(&nodes[1], 3), Some(PeerState::Connected));

    let all: BTreeMap<_, _> =
        nodes.iter().map(|node| (node.local_id(), node.listens_on().to_string())).collect();
    nodes[0].set_peers(all);
    assert_eq!(nodes[0].peers().len(), 2, "oneself is passed over");
    connected(&nodes[0], &nodes[1]).await;
    let before = receivers[1].count();
    nodes[0].send(TWO, Channel::Control, hello()).unwrap();
    until("a message arrives", || receivers[1].count() == before + 1).await;
    let last = receivers[1].last.lock().unwrap().clone();
    assert_eq!(last, Some((NodeId::new(1), Channel::Control, hello())));
    close(&nodes).await;
}

#[tokio::test]
async fn a_node_that_restarts_replaces_its_former_life() {
    let cluster = Cluster::new(limits());
    let nodes = cluster.nodes(2);
    let _one = Receiver::at(&nodes[0]);
    let first = Receiver::at(&nodes[1]);
    connected(&nodes[0], &nodes[1]).await;
    let at = nodes[1].listens_on();
    nodes[1].close().await;
    drop(first);
    // The same address at once: closing has let go of it.
    let again = cluster.node_at(2, 2, at);
    again.add_peer(NodeId::new(1), nodes[0].listens_on().to_string());
    let receiver = Receiver::at(&again);
    connected(&nodes[0], &again).await;
    assert_eq!(nodes[0].status().peers[0].incarnation, Some(2));
    nodes[0].send(TWO, Channel::Entries, hello()).unwrap();
    until("a message arrives", || receiver.count() == 1).await;
    close(&[Arc::clone(&nodes[0]), again]).await;
}

#[tokio::test]
async fn a_node_that_runs_twice_is_noticed() {
    let cluster = Cluster::new(limits());
    let one = cluster.node(1, 1);
    let lives = [cluster.node(2, 5), cluster.node(2, 6)];
    one.add_peer(TWO, lives[1].listens_on().to_string());
    let _one = Receiver::at(&one);
    let _newer = Receiver::at(&lives[1]);
    lives[1].add_peer(NodeId::new(1), one.listens_on().to_string());
    connected(&one, &lives[1]).await;
    lives[0].add_peer(NodeId::new(1), one.listens_on().to_string());
    let _older = Receiver::at(&lives[0]);
    explained(&lives[0], 1, "is it running twice?").await;
    refused(&one, "a newer life of n2 is connected (incarnation 6, this is 5)").await;
    assert_eq!(one.status().peers[0].incarnation, Some(6));
    close(&[one]).await;
    close(&lives).await;
}

/// Holds on to its thread with the first message until the second one comes, or for a while.
#[derive(Debug)]
struct Holding {
    second: Mutex<mpsc::Receiver<()>>,
    came: mpsc::Sender<()>,
    overlapped: watch::Sender<Option<bool>>,
    messages: AtomicU64,
}

#[async_trait::async_trait]
impl Inbound for Holding {
    async fn message(&self, _: NodeId, _: Channel, _: Bytes) {
        if self.messages.fetch_add(1, Ordering::SeqCst) == 0 {
            let waited = self.second.lock().unwrap().recv_timeout(Duration::from_millis(700));
            self.overlapped.send_replace(Some(waited.is_ok()));
        } else {
            let _ = self.came.send(());
        }
    }

    fn peer(&self, _: NodeId, _: PeerState) {}

    fn bulk(&self, _: NodeId, _: BulkOffer) -> Result<Box<dyn BulkSink>, String> {
        Err("nothing is wanted here".into())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_connection_delivers_after_the_old_one_has_ended() {
    let cluster = Cluster::new(limits());
    let (two, lives) = (cluster.node(2, 1), [cluster.node(1, 1), cluster.node(1, 2)]);
    let (came, second) = mpsc::channel();
    let overlapped = watch::Sender::new(None);
    two.receive(Arc::new(Holding {
        second: Mutex::new(second),
        came,
        overlapped: overlapped.clone(),
        messages: AtomicU64::new(0),
    }));
    two.add_peer(NodeId::new(1), lives[0].listens_on().to_string());
    let mut receivers = Vec::new();
    for life in &lives {
        life.add_peer(TWO, two.listens_on().to_string());
        receivers.push(Receiver::at(life));
        until("a life connects", || {
            cluster::receiver::state(life, 2) == Some(PeerState::Connected)
        })
        .await;
        life.send(TWO, Channel::Control, hello()).unwrap();
        if life.status().incarnation == 1 {
            until("the first message is sent", || life.status().peers[0].sent == 1).await;
        }
    }
    let mut told = overlapped.subscribe();
    let told = *told.wait_for(Option::is_some).await.unwrap();
    assert_eq!(
        told,
        Some(false),
        "a message came while one of the connection before was with the receiver"
    );
    close(&[two]).await;
    close(&lives).await;
}

#[tokio::test]
async fn the_wrong_node_at_an_address_is_named() {
    let cluster = Cluster::new(limits());
    let (one, three) = (cluster.node(1, 1), cluster.node(3, 1));
    one.add_peer(TWO, three.listens_on().to_string());
    three.add_peer(NodeId::new(1), one.listens_on().to_string());
    let _receivers = (Receiver::at(&one), Receiver::at(&three));
    explained(&one, 2, "where n2 should be; check the table of peers").await;
    explained(&three, 1, "n3 is not a peer of n1").await;
    one.add_peer(TWO, "no such host:1");
    explained(&one, 2, "\"no such host:1\", where n2 should be, cannot be found").await;
    close(&[one, three]).await;
}

#[tokio::test]
async fn a_peer_that_only_one_side_can_dial_is_connected() {
    let cluster = Cluster::new(limits());
    // The lower id, whose dials go first, cannot reach the other.
    let (one, two) = (cluster.node(1, 1), cluster.node(2, 1));
    let nowhere = Relay::to(two.listens_on()).await;
    nowhere.set_open(false);
    one.add_peer(TWO, nowhere.at.to_string());
    two.add_peer(NodeId::new(1), one.listens_on().to_string());
    let _receivers = (Receiver::at(&one), Receiver::at(&two));
    connected(&one, &two).await;
    close(&[one, two]).await;
}

/// A body whose bytes do not matter.
#[derive(Debug)]
struct Zeros;

#[async_trait::async_trait]
impl BulkSource for Zeros {
    async fn read(&self, _: u64, bytes_max: usize) -> Result<Bytes, String> {
        Ok(Bytes::from(vec![0; bytes_max]))
    }
}

fn offer(bytes: u64) -> BulkOffer {
    BulkOffer { id: BulkId(9), bytes, head: Bytes::new() }
}

#[tokio::test]
async fn a_transfer_is_shown_while_it_runs_at_its_rate() {
    let mut limits = limits();
    limits.bulk_bytes_per_second = 4 << 20;
    let nodes = Cluster::new(limits).nodes(2);
    let _receivers: Vec<_> = nodes.iter().map(|node| Receiver::at(node)).collect();
    connected(&nodes[0], &nodes[1]).await;
    let began = std::time::Instant::now();
    let sending = {
        let node = Arc::clone(&nodes[0]);
        tokio::spawn(async move { node.send_bulk(TWO, offer(2 << 20), Arc::new(Zeros)).await })
    };
    for (node, direction) in [(0, Direction::Sending), (1, Direction::Receiving)] {
        until("the transfer is shown, and moves", || {
            nodes[node].status().transfers.iter().any(|transfer| {
                transfer.direction == direction
                    && transfer.bytes == 2 << 20
                    && transfer.id == BulkId(9)
                    && (1..2 << 20).contains(&transfer.done)
            })
        })
        .await;
    }
    sending.await.unwrap().unwrap();
    // Not sooner than the rate allows, but for its burst: later is what a busy machine does.
    let least = (2.0 - 0.5) / 4.0;
    assert!(began.elapsed().as_secs_f64() > least, "2 MiB at 4 MiB/s took {:?}", began.elapsed());
    until("a transfer that is over is not shown", || {
        nodes.iter().all(|node| node.status().transfers.is_empty())
    })
    .await;
    close(&nodes).await;
}

#[tokio::test]
async fn a_transfer_to_a_peer_that_is_gone_ends_with_the_reason() {
    let mut limits = limits();
    limits.bulk_give_up_after = Duration::from_millis(300);
    let cluster = Cluster::new(limits);
    let nodes = cluster.nodes(2);
    let _receivers: Vec<_> = nodes.iter().map(|node| Receiver::at(node)).collect();
    connected(&nodes[0], &nodes[1]).await;
    nodes[1].close().await;
    let result = nodes[0].send_bulk(TWO, offer(10), Arc::new(Zeros)).await;
    assert!(matches!(result, Err(BulkError::Unreachable(_))), "{result:?}");
    let removed = {
        let node = Arc::clone(&nodes[0]);
        tokio::spawn(async move { node.send_bulk(TWO, offer(10), Arc::new(Zeros)).await })
    };
    until("the transfer waits", || !nodes[0].status().transfers.is_empty()).await;
    nodes[0].remove_peer(TWO);
    let result = removed.await.unwrap();
    assert!(
        matches!(result, Err(BulkError::UnknownPeer(TWO) | BulkError::Unreachable(_))),
        "{result:?}"
    );
    close(&nodes).await;
}
