//! Clients: served over lanes, in order, within limits, and refused in words.

mod cluster;

use cluster::guests::{Echo, joined, take};
use cluster::receiver::{Receiver, until};
use cluster::{Cluster, limits};
use quorate_replicator::limits::MESSAGE_BYTES_MAX;
use quorate_replicator::{Bytes, NodeId, Transport};
use quorate_transport_quic::LaneError;

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
