//! A client in wrong hands: it greets as somebody else, sends what is no frame, or takes what clients do not have.

use quorate_replicator::ClusterId;
use quorate_replicator::limits::MESSAGE_BYTES_MAX;
use quorate_transport_quic::LaneError;
use rcgen::ExtendedKeyUsagePurpose as Usage;

use super::attacker::{Line, Papers, dial, listener, tls_client, tls_server};
use super::honest::{BAD, Honest};
use super::wire;
use crate::cluster::guests::Echo;
use crate::cluster::receiver::until;
use crate::cluster::{Cluster, limits};

/// The papers of the client `ops`, as the authority makes them.
fn papers(honest: &Honest, cluster: ClusterId) -> Papers {
    let claim = honest.claim(BAD).with(|claim| {
        claim.uris = vec![format!("quorate://{cluster}/client/ops")];
        claim.usages = vec![Usage::ClientAuth];
    });
    claim.signed_by(&honest.signer())
}

/// Dials and says this first, and answers how the connection ended.
async fn greets(honest: &Honest, papers: &Papers, greeting: &[u8]) -> String {
    let line = dial(honest.at(), tls_client(Some(papers))).await.unwrap();
    if let Some((mut send, _recv)) = line.ask(greeting).await {
        let _ = send.finish();
        return line.end().await;
    }
    line.end().await
}

/// A connection of the client, on which both ends have greeted.
async fn joined(honest: &Honest, papers: &Papers) -> Line {
    let line = dial(honest.at(), tls_client(Some(papers))).await.unwrap();
    let hello = wire::client_hello(1, honest.cluster.id, b"ops");
    let (mut send, mut recv) = line.ask(&hello).await.unwrap();
    send.finish().unwrap();
    let reply = tokio::time::timeout(super::PATIENCE, recv.read_to_end(1 << 10)).await.unwrap();
    assert_eq!(reply.unwrap().len(), 48, "the client is greeted before it does anything");
    line
}

#[tokio::test]
async fn a_client_that_greets_as_somebody_else_is_refused() {
    let honest = Honest::open(limits());
    let echo = Echo::at(&honest.node);
    let cluster = honest.cluster.id;
    let papers = papers(&honest, cluster);
    let hello = |name: &[u8]| wire::client_hello(1, cluster, name);
    let unreadable = "client ops does not greet: a frame of kind ClientHello cannot be read";
    for (greeting, words) in [
        (honest.hello().frame(), "client ops cannot speak as a node"),
        (hello(b"root"), "the certificate is of client ops, and it calls itself client root"),
        (hello(b"OPS"), "is of client ops, and it calls itself client OPS"),
        (hello(b"a b"), unreadable),
        (hello(b"\x1b[2J"), unreadable),
        (hello(b"\xff\xfe"), unreadable),
        (hello(&[]), "has 20 bytes, which it cannot have"),
        (hello(&[b'a'; 65]), "has 85 bytes, which it cannot have"),
        (
            wire::client_hello(1, ClusterId::new([0xee; 16]), b"ops"),
            "client ops says it is of cluster ee",
        ),
        (wire::client_hello(2, cluster, b"ops"), "client ops speaks version 2 of the protocol"),
        (wire::client_hello(u32::MAX, cluster, b"ops"), "speaks version 4294967295"),
        (wire::frame(wire::MESSAGE, b"m"), "a frame of kind Message came where ClientHello"),
        (wire::frame(wire::WELCOME, &[0; 40]), "a frame of kind Welcome came where ClientHello"),
        // By the head alone: nothing large is waited for.
        (
            [wire::head(wire::MESSAGE, MESSAGE_BYTES_MAX as u32), vec![0; 4]].concat(),
            "a frame of kind Message came where ClientHello",
        ),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "does not exist"),
        (hello(b"ops")[..20].to_vec(), "the stream ends in the middle of a frame"),
    ] {
        let end = greets(&honest, &papers, &greeting).await;
        assert!(end.contains(words), "expected {words:?} in {end:?}");
        honest.explains("greeting", words).await;
    }
    // A node cannot come as a client either, nor a client of another cluster.
    let end = greets(&honest, &honest.papers(BAD), &hello(b"n2")).await;
    assert!(end.contains("a frame of kind ClientHello came where Hello was expected"), "{end}");
    let elsewhere = ClusterId::new([0xee; 16]);
    let end = greets(&honest, &self::papers(&honest, elsewhere), &hello(b"ops")).await;
    let words = format!("the certificate of ops is for cluster {elsewhere}, this is cluster");
    assert!(end.contains(&words), "{end}");
    honest.explains("another cluster", &words).await;
    assert_eq!(echo.served.load(std::sync::atomic::Ordering::SeqCst), 0);
    assert!(honest.node.status().clients.is_empty());
    honest.stands("greetings of clients").await;
}

#[tokio::test]
async fn what_is_no_message_on_a_lane_ends_the_connection() {
    let honest = Honest::open(limits());
    let echo = Echo::at(&honest.node);
    let papers = papers(&honest, honest.cluster.id);
    let head = |kind, bytes| [wire::head(kind, bytes), vec![0; 4]].concat();
    let whole = wire::frame(wire::MESSAGES, b"\x03\0abc\0\0\x01\0d");
    let mut cases = vec![
        (head(wire::MESSAGE, MESSAGE_BYTES_MAX as u32 + 1), "bytes, which it cannot have"),
        (head(wire::MESSAGE, 0xff_ffff), "has 16777215 bytes, which it cannot have"),
        (head(wire::MESSAGES, (4 << 10) + 1), "has 4097 bytes, which it cannot have"),
        (head(0, 1), "a frame of kind 0 does not exist"),
        (wire::frame(wire::MESSAGES, b"\xff\xffabc"), "Messages cannot be read"),
        (wire::frame(wire::MESSAGES, b"\x01\0a\x09"), "Messages cannot be read"),
        (wire::offer(7, 7, b"head"), "a frame of kind BulkOffer came where Message"),
        (wire::channel(0), "a frame of kind Channel came where Message"),
        (honest.hello().frame(), "a frame of kind Hello came where Message"),
        (wire::client_hello(1, honest.cluster.id, b"ops"), "ClientHello came where Message"),
        (head(wire::MESSAGE, 100), "the stream ends in the middle of a frame"),
    ];
    for cut in [1, 7, 8, whole.len() - 1] {
        cases.push((whole[..cut].to_vec(), "the stream ends in the middle of a frame"));
    }
    for bit in [64, 80, whole.len() * 8 - 1] {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        cases.push((flipped, "the checksum of a frame of kind Messages is wrong"));
    }
    for (bytes, words) in cases {
        let line = joined(&honest, &papers).await;
        // What came before is taken.
        let (mut send, mut recv) = line.ask(&whole).await.unwrap();
        recv.read_chunk(1 << 10, true).await.unwrap().unwrap();
        let _ = send.write_all(&bytes).await;
        let _ = send.finish();
        let end = line.end().await;
        assert!(end.contains("client ops broke the protocol"), "{end}");
        assert!(end.contains(words), "expected {words:?} in {end:?}");
        honest.explains("lane", words).await;
    }
    until("nothing is served any more", || echo.serving() == 0).await;
    until("and nobody is left", || honest.node.status().clients.is_empty()).await;
    honest.stands("lanes").await;
}

#[tokio::test]
async fn a_client_has_no_channel() {
    let honest = Honest::open(limits());
    let _echo = Echo::at(&honest.node);
    let papers = papers(&honest, honest.cluster.id);
    for channel in 0..3 {
        let line = joined(&honest, &papers).await;
        let message = [wire::channel(channel), wire::frame(wire::MESSAGE, b"vote")].concat();
        let _stream = line.tell(&message).await;
        let end = line.end().await;
        let words = "client ops broke the protocol: it opened a stream in one direction";
        assert!(end.contains(words), "{end}");
        honest.explains("channel", words).await;
    }
    honest.stands("channels").await;
}

#[tokio::test]
async fn a_client_is_served_no_more_lanes_than_it_may_have() {
    let mut limits = limits();
    limits.client_lanes_max = 2;
    let honest = Honest::open(limits);
    let echo = Echo::at(&honest.node);
    let line = joined(&honest, &papers(&honest, honest.cluster.id)).await;
    // Before it was known to be a client it was given as many streams as a peer.
    let message = wire::frame(wire::MESSAGE, b"m");
    let mut lanes = Vec::new();
    for _ in 0..4 {
        lanes.push(line.ask(&message).await.unwrap());
    }
    for served in 0..4 {
        let (mut send, mut recv) = lanes.remove(0);
        recv.read_chunk(1 << 10, true).await.unwrap().unwrap();
        assert!(echo.serving() <= 2, "{} lanes are served at once", echo.serving());
        send.finish().unwrap();
        recv.read_to_end(1 << 10).await.unwrap();
        let all = echo.served.load(std::sync::atomic::Ordering::SeqCst);
        assert!(all <= served + 3, "{all} lanes were served when {served} had ended");
    }
    drop(line);
    until("nobody is left", || honest.node.status().clients.is_empty()).await;
    honest.stands("too many lanes").await;
}

#[tokio::test]
async fn a_client_that_stops_in_the_middle_of_a_message_is_cut_off() {
    let mut limits = limits();
    limits.stall_timeout = std::time::Duration::from_millis(300);
    let honest = Honest::open(limits);
    let _echo = Echo::at(&honest.node);
    let line = joined(&honest, &papers(&honest, honest.cluster.id)).await;
    let mut message = wire::frame(wire::MESSAGE, &[7; 1000]);
    message.truncate(500);
    let _streams = line.ask(&message).await;
    let end = line.end().await;
    assert!(end.contains("nothing came for 300ms in the middle of a frame"), "{end}");
    honest.explains("stall", "limits.stall_timeout").await;
    honest.stands("stall").await;
}

/// Whoever answers where a node should be, and what a client says of it.
async fn answered(cluster: &Cluster, papers: &Papers, answer: Vec<u8>) -> String {
    let attacker = listener(tls_server(papers));
    let at = attacker.local_addr().unwrap().to_string();
    let serving = tokio::spawn(async move {
        while let Some(incoming) = attacker.accept().await {
            let Ok(connection) = incoming.await else { continue };
            if let Ok((mut send, _recv)) = connection.accept_bi().await {
                let _ = send.write_all(&answer).await;
                let _ = send.finish();
                connection.closed().await;
            }
        }
    });
    let client = cluster.client("ops");
    let words = client.connect(&at).await.unwrap_err().to_string();
    client.close().await;
    serving.abort();
    words
}

#[tokio::test]
async fn a_client_speaks_with_nodes_alone() {
    let honest = Honest::open(limits());
    let cluster = &honest.cluster;
    let welcome = |node| wire::welcome(1, cluster.id, node, 5, 16);
    let node = honest.papers(BAD);
    for (answer, expected) in [
        (welcome(3), "the certificate is of n2, and it calls itself n3"),
        (wire::welcome(9, cluster.id, BAD, 5, 16), "n2 speaks version 9 of the protocol"),
        (
            wire::welcome(1, ClusterId::new([0xee; 16]), BAD, 5, 16),
            "n2 says it is of cluster eeeeee",
        ),
        (honest.hello().frame(), "does not greet: a frame of kind Hello came where Welcome"),
        (welcome(BAD)[..30].to_vec(), "does not greet: the stream ends in the middle of a frame"),
        (vec![0xff; 100], "does not greet: a frame of kind 255 does not exist"),
    ] {
        let words = answered(cluster, &node, answer).await;
        assert!(words.contains(expected), "expected {expected:?} in {words:?}");
    }
    // Somebody with a client's certificate where a node should be, even one that may be dialled.
    let claim = honest.claim(BAD).with(|claim| {
        claim.uris = vec![format!("quorate://{}/client/eve", cluster.id)];
    });
    let eve = claim.signed_by(&honest.signer());
    let words = answered(cluster, &eve, welcome(BAD)).await;
    assert!(words.contains("a node was dialled, and the client eve answered"), "{words}");
    // And somebody who is no node of this authority, or only was one.
    let words = answered(cluster, &honest.claim(BAD).signed_by_itself(), welcome(BAD)).await;
    assert!(words.contains("signed by another CA"), "{words}");
    let expired = honest.claim(BAD).with(|claim| claim.holds = (-600, -60));
    let words = answered(cluster, &expired.signed_by(&honest.signer()), welcome(BAD)).await;
    assert!(words.contains("n2's certificate expired"), "{words}");
    honest.stands("answers").await;
}

#[tokio::test]
async fn what_is_no_message_from_a_node_ends_the_lane_for_good() {
    let honest = Honest::open(limits());
    let welcome = wire::welcome(1, honest.cluster.id, BAD, 5, 16);
    let attacker = listener(tls_server(&honest.papers(BAD)));
    let at = attacker.local_addr().unwrap().to_string();
    // What is left after the first length would be a message.
    let frames = wire::frame(wire::MESSAGES, b"\xff\xff\x01\0a");
    let serving = tokio::spawn(async move {
        let connection = attacker.accept().await.unwrap().await.unwrap();
        for answer in [welcome, frames] {
            let (mut send, _recv) = connection.accept_bi().await.unwrap();
            send.write_all(&answer).await.unwrap();
            let _ = send.finish();
        }
        connection.closed().await.to_string()
    });
    let client = honest.cluster.client("ops");
    let link = client.connect(&at).await.unwrap();
    let (mut sender, mut receiver) = link.open_lane().await.unwrap().split();
    sender.send(vec!["m".into()]).await.unwrap();
    let error = receiver.next().await.unwrap_err();
    let words = format!("n2 at {at} broke the protocol: a frame of kind Messages cannot be read");
    assert_eq!(error, LaneError::Protocol { problem: words.clone() });
    assert_eq!(receiver.next().await, Err(error), "however often it is asked");
    assert_eq!(link.closed().await, words);
    let told = serving.await.unwrap();
    assert!(told.contains(&words), "the node is told: {told}");
    client.close().await;
    honest.stands("lanes of a node").await;
}
