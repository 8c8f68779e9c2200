//! Clients: served over lanes, in order, within limits, and refused in words.

mod cluster;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use cluster::guests::{Echo, joined, take};
use cluster::receiver::{Receiver, connected, refused, until};
use cluster::{Cluster, limits};
use quorate_replicator::limits::MESSAGE_BYTES_MAX;
use quorate_replicator::{Bytes, Channel, ClusterId, NodeId, PeerState, Transport};
use quorate_transport_quic::{
    Authority, ConnectError, Identity, LaneError, LaneSender, Limits, QuicClient, QuicConfig,
    QuicTransport, Subject, Validity,
};
use tokio::task::JoinHandle;

#[tokio::test]
async fn many_messages_of_all_sizes_go_both_ways_in_order_over_several_lanes() {
    let cluster = Cluster::new(limits());
    let node = cluster.node(1, 7);
    let _receiver = Receiver::at(&node);
    let echo = Echo::at(&node);
    let (client, link) = joined(&cluster, "ops", &node).await;
    assert_eq!((link.node(), link.incarnation()), (NodeId::new(1), 7));
    let sizes = [0, 1, 100, 2047, 2048, 2049, 4096, 70_000, MESSAGE_BYTES_MAX];
    let message = |lane: usize, number: usize| {
        let mut bytes = format!("{lane} {number} ").into_bytes();
        bytes.resize(sizes[(lane + number) % sizes.len()].max(bytes.len()), number as u8);
        bytes.truncate(MESSAGE_BYTES_MAX);
        Bytes::from(bytes)
    };
    let mut lanes = Vec::new();
    for lane in 0..8 {
        let (mut sender, mut receiver) = link.open_lane().await.unwrap().split();
        let sent: Vec<_> = (0..60).map(|number| message(lane, number)).collect();
        let expected = sent.clone();
        lanes.push(tokio::spawn(async move {
            let sending = async {
                // In calls of one, two, three and more.
                let mut sent = sent.into_iter().peekable();
                for count in 1.. {
                    sender.send(sent.by_ref().take(count).collect()).await.unwrap();
                    if sent.peek().is_none() {
                        break;
                    }
                }
                sender.finish().await.unwrap();
            };
            let receiving = async {
                let taken = take(&mut receiver, expected.len()).await;
                assert!(taken == expected, "lane {lane} comes back as it went, in order");
                assert_eq!(receiver.next().await, Ok(None), "and ends as it was ended");
            };
            tokio::join!(sending, receiving);
        }));
    }
    for lane in lanes {
        lane.await.unwrap();
    }
    until("lanes that have ended are let go", || echo.serving() == 0).await;
    assert!(echo.failures.lock().unwrap().is_empty(), "{:?}", echo.failures);
    let status = node.status();
    assert_eq!(status.clients.len(), 1, "{status:?}");
    assert_eq!((status.clients[0].name.as_str(), status.refused), ("ops", 0));
    client.close().await;
    until("a client that is gone is let go", || node.status().clients.is_empty()).await;
    node.close().await;
    assert_eq!(node.status().tasks, 0, "tasks are left");
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_before_anything_is_sent() {
    let cluster = Cluster::new(limits());
    let node = cluster.node(1, 1);
    let _receiver = Receiver::at(&node);
    let _echo = Echo::at(&node);
    let (client, link) = joined(&cluster, "ops", &node).await;
    let (mut sender, mut receiver) = link.open_lane().await.unwrap().split();
    let bytes = MESSAGE_BYTES_MAX + 1;
    let large = Bytes::from(vec![0; bytes]);
    let error = sender.send(vec![Bytes::from("first"), large]).await.unwrap_err();
    assert_eq!(error, LaneError::TooLarge { bytes });
    sender.send(vec![Bytes::from("second")]).await.unwrap();
    assert_eq!(take(&mut receiver, 1).await, ["second"]);
    client.close().await;
    node.close().await;
}

/// Sends messages of 4 KiB on a lane for ever, counting those that were taken.
fn flood(mut sender: LaneSender, taken: &Arc<AtomicUsize>) -> JoinHandle<LaneError> {
    let taken = Arc::clone(taken);
    tokio::spawn(async move {
        loop {
            let number = taken.load(Ordering::SeqCst) as u32;
            let mut message = vec![7; FLOOD_BYTES];
            message[..4].copy_from_slice(&number.to_le_bytes());
            if let Err(error) = sender.send(vec![message.into()]).await {
                return error;
            }
            taken.fetch_add(1, Ordering::SeqCst);
        }
    })
}

const FLOOD_BYTES: usize = 4 << 10;

/// What is taken from a stream at once, at most.
const PACKETS_BYTES: usize = 64 << 10;

/// Limits with small windows, in which a client fits several lanes.
fn narrow() -> Limits {
    let mut limits = limits();
    limits.stream_window_bytes = 64 << 10;
    limits.client_window_bytes = 256 << 10;
    limits
}

#[tokio::test]
async fn a_lane_that_the_node_does_not_read_stops_its_sender_and_no_other_lane() {
    let cluster = Cluster::new(narrow());
    let node = cluster.node(1, 1);
    let _receiver = Receiver::at(&node);
    let echo = Echo::at(&node);
    echo.held.send_replace(true);
    let (client, link) = joined(&cluster, "ops", &node).await;
    let (mut sender, mut receiver) = link.open_lane().await.unwrap().split();
    sender.send(vec![Bytes::from("held")]).await.unwrap();
    assert_eq!(take(&mut receiver, 1).await, ["held"]);
    let taken = Arc::new(AtomicUsize::new(0));
    let flooding = flood(sender, &taken);
    let window = cluster.limits.stream_window_bytes as usize;
    // The frames take some of it, and the last message is taken in part.
    let fills = window / FLOOD_BYTES - 1;
    until("the window is used", || taken.load(Ordering::SeqCst) >= fills).await;

    let (mut other, mut back) = link.open_lane().await.unwrap().split();
    for number in 0..200 {
        let message = Bytes::from(format!("{number}"));
        other.send(vec![message.clone()]).await.unwrap();
        assert_eq!(take(&mut back, 1).await, [message]);
    }
    let stopped = taken.load(Ordering::SeqCst);
    assert!(stopped * FLOOD_BYTES <= window, "{stopped} messages were taken beyond the window");
    assert_eq!(node.status().clients[0].lanes, 2);

    // What waited goes on where it stopped.
    echo.held.send_replace(false);
    for number in 0..4 * fills as u32 {
        let message = receiver.next().await.unwrap().unwrap();
        assert_eq!((&message[..4], message.len()), (&number.to_le_bytes()[..], FLOOD_BYTES));
    }
    client.close().await;
    let error = flooding.await.unwrap();
    assert!(matches!(error, LaneError::Closed { .. }), "{error}");
    node.close().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_lane_and_no_other() {
    let cluster = Cluster::new(narrow());
    let node = cluster.node(1, 1);
    let _receiver = Receiver::at(&node);
    let _echo = Echo::at(&node);
    let (client, link) = joined(&cluster, "ops", &node).await;
    let (sender, mut receiver) = link.open_lane().await.unwrap().split();
    let taken = Arc::new(AtomicUsize::new(0));
    let flooding = flood(sender, &taken);
    let window = cluster.limits.stream_window_bytes as usize;
    let fills = 2 * (window / FLOOD_BYTES - 1);
    until("both windows are used", || taken.load(Ordering::SeqCst) >= fills).await;
    let (mut other, mut back) = link.open_lane().await.unwrap().split();
    for number in 0..200 {
        let message = Bytes::from(format!("{number}"));
        other.send(vec![message.clone()]).await.unwrap();
        assert_eq!(take(&mut back, 1).await, [message]);
    }
    // Some more is at the node, which takes several packets at once, on its way back.
    let bound = 2 * window + PACKETS_BYTES + 2 * FLOOD_BYTES;
    let stopped = taken.load(Ordering::SeqCst);
    assert!(stopped * FLOOD_BYTES <= bound, "{stopped} messages were taken beyond both windows");
    for number in 0..4 * fills as u32 {
        let message = receiver.next().await.unwrap().unwrap();
        assert_eq!(message[..4], number.to_le_bytes());
    }
    client.close().await;
    flooding.await.unwrap();
    node.close().await;
}

#[tokio::test]
async fn what_a_dropped_send_left_goes_before_the_next() {
    let cluster = Cluster::new(narrow());
    let node = cluster.node(1, 1);
    let _receiver = Receiver::at(&node);
    let echo = Echo::at(&node);
    let (client, link) = joined(&cluster, "ops", &node).await;
    let (mut sender, mut receiver) = link.open_lane().await.unwrap().split();
    let large: Vec<_> = (0..5).map(|number| Bytes::from(vec![number; MESSAGE_BYTES_MAX])).collect();
    for message in &large {
        // It does not fit into the window, so that it is polled once and dropped in the middle.
        tokio::select! {
            biased;
            sent = sender.send(vec![message.clone()]) => panic!("{sent:?}"),
            () = std::future::ready(()) => {}
        }
    }
    let sending = async {
        sender.send(vec![Bytes::from("last")]).await.unwrap();
    };
    let (taken, ()) = tokio::join!(take(&mut receiver, 6), sending);
    assert!(taken[..5] == large, "messages come whole, once, and in order");
    assert_eq!(taken[5], "last");

    // One that is dropped in the middle gives up its lane, and not the connection.
    tokio::select! {
        biased;
        sent = sender.send(vec![large[0].clone()]) => panic!("{sent:?}"),
        () = std::future::ready(()) => {}
    }
    drop(sender);
    until("the node notices", || !echo.failures.lock().unwrap().is_empty()).await;
    let failures = std::mem::take(&mut *echo.failures.lock().unwrap());
    assert_eq!(failures, [("ops".to_owned(), LaneError::GivenUp)]);
    let (mut sender, mut receiver) = link.open_lane().await.unwrap().split();
    sender.send(vec![Bytes::from("again")]).await.unwrap();
    assert_eq!(take(&mut receiver, 1).await, ["again"]);
    client.close().await;
    node.close().await;
}

#[tokio::test]
async fn a_lane_that_the_node_leaves_ends_and_the_others_go_on() {
    let cluster = Cluster::new(limits());
    let node = cluster.node(1, 1);
    let _receiver = Receiver::at(&node);
    let echo = Echo::at(&node);
    let (client, link) = joined(&cluster, "ops", &node).await;
    let (mut other, mut back) = link.open_lane().await.unwrap().split();
    other.send(vec![Bytes::from("one")]).await.unwrap();
    let (mut sender, mut receiver) = link.open_lane().await.unwrap().split();
    sender.send(vec![Bytes::from("two"), Bytes::from("leave")]).await.unwrap();
    assert_eq!(take(&mut receiver, 1).await, ["two"]);
    assert_eq!(receiver.next().await, Ok(None));
    assert_eq!(flood(sender, &Arc::default()).await.unwrap(), LaneError::GivenUp);
    assert_eq!(take(&mut back, 1).await, ["one"]);
    assert!(!link.is_closed());
    assert_eq!(echo.serving(), 1);
    client.close().await;
    node.close().await;
}

/// Connects where that must fail, and answers the words.
async fn turned_away(client: &QuicClient, node: &QuicTransport) -> String {
    let error = client.connect(&node.listens_on().to_string()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    error.to_string()
}

#[tokio::test]
async fn a_node_that_serves_no_clients_says_so() {
    let cluster = Cluster::new(limits());
    let node = cluster.node(1, 1);
    let _receiver = Receiver::at(&node);
    let client = cluster.client("ops");
    let words = turned_away(&client, &node).await;
    assert!(words.contains("n1 serves no clients; dial a node that does"), "{words}");
    assert!(words.starts_with(&format!("n1 at {}", node.listens_on())), "{words}");
    refused(&node, "client ops cannot speak as a node, and n1 serves no clients").await;
    let _echo = Echo::at(&node);
    client.connect(&node.listens_on().to_string()).await.unwrap();
    client.close().await;
    let error = client.connect(&node.listens_on().to_string()).await.unwrap_err();
    assert_eq!(error, ConnectError::Closed);
    node.close().await;
}

#[tokio::test]
async fn a_client_needs_a_clients_certificate() {
    let cluster = Cluster::new(limits());
    let error = QuicClient::new(cluster.identity(1), limits()).unwrap_err();
    assert!(error.to_string().contains("is of node n1; a client needs one of a client"), "{error}");
    let mut limits = limits();
    limits.client_lanes_max = 0;
    let error = QuicClient::new(cluster.client_identity("ops"), limits).unwrap_err();
    assert!(error.to_string().contains("limits.client_lanes_max"), "{error}");
}

#[tokio::test]
async fn a_client_of_another_authority_or_cluster_is_refused_in_words() {
    let cluster = Cluster::new(limits());
    let node = cluster.node(1, 1);
    let _receiver = Receiver::at(&node);
    let _echo = Echo::at(&node);
    let subject = Subject::client(cluster.id, "ops").unwrap();
    let foreign = Authority::create("foreign", Validity::days(1)).unwrap();
    let issued = foreign.issue(&subject, Validity::days(1)).unwrap();
    // One that trusts this cluster, so that the node judges; and one that does not.
    let both = format!("{}{}", foreign.certificate_pem(), cluster.authority.certificate_pem());
    let identity = Identity::from_pem(&both, issued.certificate_pem(), issued.key_pem()).unwrap();
    let client = QuicClient::new(identity, limits()).unwrap();
    let words = turned_away(&client, &node).await;
    let expected =
        "ops's certificate is signed by another CA: its issuer is CN=quorate authority foreign";
    assert!(words.contains("refused this client's certificate"), "{words}");
    assert!(words.contains(expected), "{words}");
    refused(&node, expected).await;
    client.close().await;

    let client = QuicClient::new(issued.identity().unwrap(), limits()).unwrap();
    let words = turned_away(&client, &node).await;
    assert!(words.contains("n1's certificate is signed by another CA"), "{words}");
    client.close().await;

    let elsewhere = ClusterId::new([0xee; 16]);
    let subject = Subject::client(elsewhere, "ops").unwrap();
    let issued = cluster.authority.issue(&subject, Validity::days(1)).unwrap();
    let client = QuicClient::new(issued.identity().unwrap(), limits()).unwrap();
    let words = turned_away(&client, &node).await;
    let expected =
        format!("the certificate of n1 is for cluster {}, this is cluster {elsewhere}", cluster.id);
    assert!(words.contains(&expected), "{words}");
    client.close().await;
    node.close().await;
}

/// Dials until that is refused, and answers the words: a certificate is taken until its last second is over.
async fn refused_at_last(client: &QuicClient, node: &QuicTransport) -> String {
    loop {
        if let Err(error) = client.connect(&node.listens_on().to_string()).await {
            return error.to_string();
        }
    }
}

#[tokio::test]
async fn a_connection_ends_when_the_clients_certificate_expires() {
    let cluster = Cluster::new(limits());
    let node = cluster.node(1, 1);
    let _receiver = Receiver::at(&node);
    let echo = Echo::at(&node);
    let now = SystemTime::now();
    let (before, after) = (now - Duration::from_secs(10), now + Duration::from_secs(3));
    let subject = Subject::client(cluster.id, "ops").unwrap();
    // Certificates count whole seconds.
    let validity = Validity { not_before: before, not_after: after };
    let issued = cluster.authority.issue(&subject, validity).unwrap();
    let client = QuicClient::new(issued.identity().unwrap(), limits()).unwrap();
    let link = client.connect(&node.listens_on().to_string()).await.unwrap();
    let (mut sender, mut receiver) = link.open_lane().await.unwrap().split();
    sender.send(vec![Bytes::from("hello")]).await.unwrap();
    assert_eq!(take(&mut receiver, 1).await, ["hello"]);
    assert!(node.status().clients[0].certificate_not_after <= after);
    let words = link.closed().await;
    let expected = "the certificate that client ops came with has expired";
    assert!(words.contains(expected), "{words}");
    assert!(matches!(receiver.next().await, Err(LaneError::Closed { reason }) if reason == words));
    refused(&node, expected).await;
    until("nothing of it is served", || echo.serving() == 0).await;
    let again = refused_at_last(&client, &node).await;
    assert!(again.contains("expired"), "{again}");
    client.close().await;
    node.close().await;
}

#[tokio::test]
async fn a_connection_ends_when_the_nodes_certificate_expires() {
    let cluster = Cluster::new(limits());
    let now = SystemTime::now();
    let validity = Validity {
        not_before: now - Duration::from_secs(10),
        not_after: now + Duration::from_secs(2),
    };
    let subject = Subject::node(cluster.id, NodeId::new(1));
    let issued = cluster.authority.issue(&subject, validity).unwrap();
    let mut config = QuicConfig::listening("127.0.0.1:0".parse().unwrap());
    config.limits = limits();
    let node = QuicTransport::bind(issued.identity().unwrap(), 1, config).unwrap();
    let _receiver = Receiver::at(&node);
    let _echo = Echo::at(&node);
    let (client, link) = joined(&cluster, "ops", &node).await;
    assert_eq!(link.closed().await, "the certificate that n1 came with has expired");
    let words = refused_at_last(&client, &node).await;
    assert!(words.contains("n1's certificate expired"), "{words}");
    client.close().await;
    node.close().await;
}

#[tokio::test]
async fn more_clients_than_may_be_are_told_to_go_elsewhere() {
    let mut limits = limits();
    limits.clients_max = 2;
    let cluster = Cluster::new(limits);
    let node = cluster.node(1, 1);
    let _receiver = Receiver::at(&node);
    let _echo = Echo::at(&node);
    let (first, link) = joined(&cluster, "first", &node).await;
    let (second, _link) = joined(&cluster, "second", &node).await;
    let third = cluster.client("third");
    let words = turned_away(&third, &node).await;
    let expected = "n1 serves 2 clients already (limits.clients_max); dial another node";
    assert!(words.contains(expected), "{words}");
    refused(&node, expected).await;
    let names: Vec<_> =
        node.status().clients.iter().map(|client| client.name.to_string()).collect();
    assert_eq!(names, ["first", "second"]);
    link.close();
    assert_eq!(link.closed().await, "the client has ended the connection");
    until("the place is free", || node.status().clients.len() == 1).await;
    third.connect(&node.listens_on().to_string()).await.unwrap();
    for client in [first, second, third] {
        client.close().await;
    }
    node.close().await;
}

#[tokio::test]
async fn more_lanes_than_may_be_are_refused_until_one_is_let_go() {
    let mut limits = limits();
    limits.client_lanes_max = 2;
    let cluster = Cluster::new(limits);
    let node = cluster.node(1, 1);
    let _receiver = Receiver::at(&node);
    let echo = Echo::at(&node);
    // The client would have more.
    let client = QuicClient::new(cluster.client_identity("ops"), cluster::limits()).unwrap();
    let link = client.connect(&node.listens_on().to_string()).await.unwrap();
    assert_eq!(link.lanes_max(), 2);
    let lane = link.open_lane().await.unwrap();
    for number in 0..20 {
        let (mut sender, mut receiver) = link.open_lane().await.unwrap().split();
        let error = link.open_lane().await.unwrap_err();
        assert_eq!(error, LaneError::TooMany { max: 2 });
        let message = Bytes::from(format!("{number}"));
        sender.send(vec![message.clone()]).await.unwrap();
        assert_eq!(take(&mut receiver, 1).await, [message]);
        drop(sender);
        assert!(matches!(link.open_lane().await, Err(LaneError::TooMany { .. })), "half is left");
    }
    drop(lane);
    until("all lanes are let go", || echo.serving() == 0).await;
    client.close().await;
    node.close().await;
}

#[tokio::test]
async fn clients_that_flood_disturb_no_peer() {
    let cluster = Cluster::new(narrow());
    let nodes = cluster.nodes(2);
    let receivers: Vec<_> = nodes.iter().map(|node| Receiver::at(node)).collect();
    let echo = Echo::at(&nodes[0]);
    echo.held.send_replace(true);
    connected(&nodes[0], &nodes[1]).await;
    let connections = nodes[0].status().peers[0].connections;
    let mut clients = Vec::new();
    for number in 0..3 {
        let (client, link) = joined(&cluster, &format!("flood-{number}"), &nodes[0]).await;
        let taken = Arc::new(AtomicUsize::new(0));
        let mut held = Vec::new();
        for _ in 0..link.lanes_max() {
            let (mut sender, mut receiver) = link.open_lane().await.unwrap().split();
            sender.send(vec![Bytes::from("held")]).await.unwrap();
            assert_eq!(take(&mut receiver, 1).await, ["held"]);
            held.push((sender, receiver));
        }
        let lanes: Vec<_> =
            held.into_iter().map(|(sender, receiver)| (flood(sender, &taken), receiver)).collect();
        // All of the connection's window, less what every lane's last message lacks.
        let window = cluster.limits.client_window_bytes as usize;
        let fills = window / FLOOD_BYTES - link.lanes_max();
        until("the window is used", || taken.load(Ordering::SeqCst) >= fills).await;
        let took = taken.load(Ordering::SeqCst) * FLOOD_BYTES;
        assert!(took <= window, "{took} bytes were taken with a window of {window}");
        clients.push((client, lanes));
    }
    let two = NodeId::new(2);
    assert_eq!(nodes[0].peers(), [(two, PeerState::Connected)], "a client is no peer");
    let rounds = 200;
    for number in 1..=rounds {
        for (node, to) in [(&nodes[0], two), (&nodes[1], NodeId::new(1))] {
            node.send(to, Channel::Entries, Bytes::from(vec![3; 10_000])).unwrap();
        }
        until("peers hear one another", || receivers.iter().all(|at| at.count() == number)).await;
    }
    assert_eq!(nodes[0].status().peers[0].connections, connections, "and stay connected");
    for (client, _) in clients {
        client.close().await;
    }
    for node in nodes {
        node.close().await;
        assert_eq!(node.status().tasks, 0, "tasks are left");
    }
}

#[tokio::test]
async fn a_node_that_closes_tells_its_clients() {
    let cluster = Cluster::new(limits());
    let node = cluster.node(1, 1);
    let _receiver = Receiver::at(&node);
    let echo = Echo::at(&node);
    let (client, link) = joined(&cluster, "ops", &node).await;
    let (mut sender, mut receiver) = link.open_lane().await.unwrap().split();
    sender.send(vec![Bytes::from("hello")]).await.unwrap();
    assert_eq!(take(&mut receiver, 1).await, ["hello"]);
    // One that is served without looking at its lane.
    echo.held.send_replace(true);
    let (mut other, mut back) = link.open_lane().await.unwrap().split();
    other.send(vec![Bytes::from("held")]).await.unwrap();
    assert_eq!(take(&mut back, 1).await, ["held"]);
    let at = node.listens_on();
    node.close().await;
    assert_eq!((echo.serving(), node.status().tasks), (0, 0), "nothing is served any more");
    let expected = format!("n1 at {at} closed the connection: n1 is shutting down");
    assert_eq!(link.closed().await, expected);
    assert!(link.is_closed());
    let closed = LaneError::Closed { reason: expected };
    assert_eq!(receiver.next().await, Err(closed.clone()));
    assert_eq!(receiver.next().await, Err(closed.clone()), "however often it is asked");
    assert_eq!(sender.send(vec![Bytes::from("late")]).await, Err(closed.clone()));
    assert_eq!(link.open_lane().await.unwrap_err(), closed);
    client.close().await;
}

#[tokio::test]
async fn a_node_that_is_gone_is_noticed_at_both_ends() {
    let cluster = Cluster::new(limits());
    let node = cluster.node(1, 1);
    let _receiver = Receiver::at(&node);
    let echo = Echo::at(&node);
    let relay = cluster::Relay::to(node.listens_on()).await;
    let client = cluster.client("ops");
    let link = client.connect(&relay.at.to_string()).await.unwrap();
    let (mut sender, mut receiver) = link.open_lane().await.unwrap().split();
    sender.send(vec![Bytes::from("hello")]).await.unwrap();
    assert_eq!(take(&mut receiver, 1).await, ["hello"]);
    relay.set_open(false);
    assert_eq!(link.closed().await, format!("n1 at {} does not answer", relay.at));
    until("the node lets go too", || node.status().clients.is_empty()).await;
    until("and serves nothing", || echo.serving() == 0).await;
    let error = client.connect(&relay.at.to_string()).await.unwrap_err();
    let words = error.to_string();
    assert!(matches!(error, ConnectError::NoAnswer { .. }), "{words}");
    assert!(words.contains("check that it runs"), "{words}");
    let error = client.connect("nowhere").await.unwrap_err();
    assert!(error.to_string().contains("write it as host:port"), "{error}");
    relay.set_open(true);
    client.connect(&relay.at.to_string()).await.unwrap();
    client.close().await;
    node.close().await;
}

#[tokio::test]
async fn a_connection_that_nobody_holds_is_ended() {
    let cluster = Cluster::new(limits());
    let node = cluster.node(1, 1);
    let _receiver = Receiver::at(&node);
    let _echo = Echo::at(&node);
    let (client, link) = joined(&cluster, "ops", &node).await;
    let (mut sender, mut receiver) = link.open_lane().await.unwrap().split();
    drop(link);
    sender.send(vec![Bytes::from("hello")]).await.unwrap();
    assert_eq!(take(&mut receiver, 1).await, ["hello"], "a lane holds it");
    drop((sender, receiver));
    until("the node lets go", || node.status().clients.is_empty()).await;
    let link = client.connect(&node.listens_on().to_string()).await.unwrap();
    drop(client);
    assert!(link.closed().await.contains("this client closed the connection"));
    node.close().await;
}
