//! Nothing grows: not over reconnects, not over messages, not with a peer that is dead.
//!
//! `QUORATE_TEST_BUDGET=long` makes it 1,000 reconnects and 24,000,000 messages.

mod cluster;

use std::sync::Arc;
use std::time::Duration;

use cluster::receiver::{Receiver, connected, until};
use cluster::{Cluster, limits};
use quorate_replicator::{Bytes, Channel, NodeId, SendError, Transport};
use quorate_transport_quic::QuicTransport;

const TWO: NodeId = NodeId::new(2);

/// What may be taken up more than after the first part of a run: by the allocator, and by tables that were not full yet.
const GROWTH_BYTES_MAX: u64 = 8 << 20;

fn budget(short: u64, long: u64) -> u64 {
    match std::env::var("QUORATE_TEST_BUDGET").as_deref() {
        Ok("long") => long,
        _ => short,
    }
}

/// What the process takes up.
#[derive(Debug)]
struct Taken {
    memory_bytes: u64,
    files: usize,
    tasks: usize,
}

impl Taken {
    /// Looks once no more than `tasks` run, or they did not become that few.
    async fn now(nodes: &[Arc<QuicTransport>], tasks: usize) -> Self {
        // quinn keeps a connection that has ended for a moment.
        let running = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let waited = tokio::time::timeout(Duration::from_secs(10), async {
            while running() > tasks {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        // Judged below.
        let _ = waited.await;
        let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages = status.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
        let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        assert!(nodes.iter().all(|node| node.status().handshakes == 0), "handshakes are left");
        Self { memory_bytes: pages.unwrap_or(0) * 4096, files, tasks: running() }
    }

    /// Fails if more is taken up than there was `before`.
    async fn has_not_grown(nodes: &[Arc<QuicTransport>], before: Option<Self>) {
        let before = before.expect("a quarter was run");
        // Not the count of the beginning, which may have one in it that was about to end.
        let after = Self::now(nodes, before.tasks).await;
        println!("before {before:?}, after {after:?}");
        assert!(after.tasks <= before.tasks, "tasks grew from {} to {}", before.tasks, after.tasks);
        assert!(after.files <= before.files, "files grew from {} to {}", before.files, after.files);
        let growth = after.memory_bytes.saturating_sub(before.memory_bytes);
        assert!(growth < GROWTH_BYTES_MAX, "memory grew by {growth} bytes");
    }
}

#[tokio::test]
async fn reconnects_leave_nothing_behind() {
    let cycles = budget(60, 1_000);
    let mut limits = limits();
    (limits.backoff_min, limits.backoff_max) = (Duration::from_millis(1), Duration::from_millis(5));
    let cluster = Cluster::new(limits);
    let mut nodes = cluster.nodes(2);
    let one = Receiver::at(&nodes[0]);
    let mut two = Receiver::at(&nodes[1]);
    connected(&nodes[0], &nodes[1]).await;
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let mut before = None;
    for cycle in 0..cycles {
        if cycle % 10 == 9 {
            // The other node restarts.
            let at = nodes[1].listens_on();
            nodes[1].close().await;
            nodes[1] = cluster.node_at(2, 2 + cycle, at);
            nodes[1].add_peer(NodeId::new(1), nodes[0].listens_on().to_string());
            two = Receiver::at(&nodes[1]);
        } else {
            nodes[0].remove_peer(TWO);
            nodes[0].add_peer(TWO, nodes[1].listens_on().to_string());
        }
        connected(&nodes[0], &nodes[1]).await;
        let message = Bytes::copy_from_slice(&cycle.to_be_bytes());
        for (from, to, receiver) in [(0, 1, &two), (1, 0, &one)] {
            until("a message arrives after a reconnect", || {
                // One that is lost with the connection before is followed by the next.
                let _ = nodes[from].send(nodes[to].local_id(), Channel::Control, message.clone());
                let last = receiver.last.lock().unwrap();
                last.as_ref().is_some_and(|(_, _, last)| *last == message)
            })
            .await;
        }
        if cycle == cycles / 4 {
            before = Some(Taken::now(&nodes, tasks).await);
        }
    }
    Taken::has_not_grown(&nodes, before).await;
    for node in &nodes {
        node.close().await;
    }
}

#[tokio::test]
async fn messages_leave_nothing_behind() {
    let messages = budget(300_000, 24_000_000);
    let nodes = Cluster::new(limits()).nodes(2);
    let receivers: Vec<_> = nodes.iter().map(|node| Receiver::at(node)).collect();
    connected(&nodes[0], &nodes[1]).await;
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let message = Bytes::from(vec![7; 128]);
    let mut before = None;
    let mut sent = 0;
    while sent < messages {
        let channel = Channel::ALL[(sent % 3) as usize];
        match nodes[0].send(TWO, channel, message.clone()) {
            Ok(()) => sent += 1,
            Err(SendError::QueueFull) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
        if sent == messages / 4 && before.is_none() {
            until("what was sent arrives", || receivers[1].count() == sent).await;
            before = Some(Taken::now(&nodes, tasks).await);
        }
    }
    until("each message arrives once", || receivers[1].count() == messages).await;
    Taken::has_not_grown(&nodes, before).await;
    let status = &nodes[0].status().peers[0];
    assert_eq!((status.sent, status.lost), (messages, 0));
    for node in &nodes {
        node.close().await;
    }
}

#[tokio::test]
async fn a_dead_peer_has_a_small_backlog() {
    // The limits of a real node.
    let cluster = Cluster::new(quorate_transport_quic::Limits::default());
    let one = cluster.node(1, 1);
    let _receiver = Receiver::at(&one);
    // Somebody who never answers.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    one.add_peer(TWO, silent.local_addr().unwrap().to_string());
    let message = Bytes::from(vec![7; 1000]);
    let mut kept = 0;
    for channel in Channel::ALL {
        while one.send(TWO, channel, message.clone()).is_ok() {
            kept += message.len();
        }
        let large = Bytes::from(vec![7; 300 << 10]);
        assert_eq!(one.send(TWO, channel, large), Err(SendError::QueueFull));
    }
    assert!(kept <= 3 * (256 << 10), "{kept} bytes wait for a dead peer");
    one.close().await;
}
