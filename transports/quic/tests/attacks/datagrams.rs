//! A10 and A11: packets from nowhere, and from the past.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quorate_replicator::{Bytes, Channel, NodeId, PeerState, Transport};
use rustls::server::ProducesTickets;

use super::attacker::{Line, dialler, dials, listener, tls_client, tls_server};
use super::honest::{BAD, GOOD, HONEST, Honest};
use super::initial::{Initial, client_hello, crypto, drain};
use super::wire::Hello;
use crate::cluster::limits;
use crate::cluster::receiver::{Receiver, connected, state, until};

/// Datagrams between two looks at what came back, so that neither end's buffers overflow.
const AT_ONCE: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a10_what_is_no_quic_is_answered_with_less_than_it_was() {
    let honest = Honest::open(limits());
    let to = honest.at();
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let counted = tokio::task::spawn_blocking(move || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut random = fastrand::Rng::with_seed(seed);
        let plain = [
            &b"GET / HTTP/1.1\r\nHost: quorate\r\n\r\n"[..],
            b"SSH-2.0-OpenSSH_9.9\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"",
        ];
        let (mut sent, mut came) = (0, 0);
        for number in 0..20_000 {
            let mut datagram: Vec<u8> = match number % 8 {
                0 => plain[number / 8 % plain.len()].into(),
                _ => (0..random.usize(0..1400)).map(|_| random.u8(..)).collect(),
            };
            match number % 8 {
                // Heads that look right: of a first packet, of a version that is unknown, of a connection that never was.
                1..=3 if datagram.len() > 30 => {
                    datagram[0] |= 0xc0;
                    datagram[1..5].copy_from_slice(&1_u32.to_be_bytes());
                    datagram[5] = 8;
                }
                4 if datagram.len() > 30 => (datagram[0], datagram[5]) = (0xc0, 8),
                5 if datagram.len() > 30 => datagram[0] = 0x40 | datagram[0] & 0x3f,
                _ => {}
            }
            sent += datagram.len();
            socket.send_to(&datagram, to).unwrap();
            if number % AT_ONCE == 0 {
                std::thread::yield_now();
                came += drain(&socket);
            }
        }
        (sent, came)
    });
    let (sent, came) = counted.await.unwrap();
    println!("A10: {sent} bytes were sent, {came} came back");
    assert!(came < sent / 2, "{came} bytes for {sent}");
    honest.stands("A10").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a10_first_packets_with_anything_in_them_break_nothing() {
    let mut limits = limits();
    limits.handshakes_per_address_max = 1000;
    (limits.handshakes_max, limits.handshakes_unproved_max) = (1000, 1000);
    let honest = Honest::open(limits);
    let to = honest.at();
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let counted = tokio::task::spawn_blocking(move || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut random = fastrand::Rng::with_seed(seed);
        let hello = client_hello();
        let (mut sent, mut came) = (0, 0);
        for number in 0..2_000 {
            let mut initial = Initial::new();
            for _ in 0..random.usize(1..4) {
                let frames = match random.u8(0..4) {
                    0 => (0..random.usize(1..900)).map(|_| random.u8(..)).collect(),
                    1 => crypto(0, &hello[..random.usize(0..=hello.len())]),
                    2 => crypto(random.u64(0..1 << 30), &hello),
                    _ => {
                        let mut flipped = crypto(0, &hello);
                        let bit = random.usize(0..flipped.len() * 8);
                        flipped[bit / 8] ^= 1 << (bit % 8);
                        flipped
                    }
                };
                let packet = initial.packet(&frames);
                sent += packet.len();
                socket.send_to(&packet, to).unwrap();
            }
            if number % AT_ONCE == 0 {
                came += drain(&socket);
            }
        }
        (sent, came)
    });
    let (sent, came) = counted.await.unwrap();
    println!("A10: {sent} bytes in first packets, {came} came back");
    assert!(came <= 3 * sent, "an address that was not proved is sent at most three times as much");
    honest.stands("A10 first packets").await;
}

#[tokio::test]
async fn a10_an_address_that_was_not_proved_is_not_flooded() {
    let honest = Honest::open(limits());
    let to = honest.at();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut initial = Initial::new();
    let packet = initial.packet(&crypto(0, &client_hello()));
    socket.send_to(&packet, to).unwrap();
    // All that is ever sent on this connection has been sent when it is over.
    until("it is refused", || honest.node.status().refused == 1).await;
    let came = drain(&socket);
    println!("A10: {} bytes were sent, {came} came back", packet.len());
    // Three times as much (RFC 9000, 8.1), and the words that end it.
    let most = 3 * packet.len() + 100;
    assert!((1..=most).contains(&came), "{came} bytes for {}", packet.len());
    honest.stands("A10 amplification").await;
}

#[tokio::test]
async fn a11_there_is_nothing_to_resume_from() {
    let honest = Honest::open(limits());
    let mut tls = tls_client(Some(&honest.papers(BAD)));
    tls.enable_early_data = true;
    let config = dials(tls);
    let endpoint = dialler(Ipv4Addr::LOCALHOST);
    let bad = NodeId::new(BAD);
    for _ in 0..3 {
        let connecting = endpoint.connect_with(config.clone(), honest.at(), "quorate").unwrap();
        let connection = match connecting.into_0rtt() {
            Ok(_) => panic!("a ticket was given, and early data may be sent with it"),
            Err(connecting) => connecting.await.unwrap(),
        };
        let line = Line { connection, _endpoint: endpoint.clone() };
        let (_, mut recv) = line.ask(&honest.hello().frame()).await.unwrap();
        recv.read_to_end(1 << 10).await.unwrap();
        // An answer to this came after whatever came with the handshake.
        honest.node.send(bad, Channel::Control, Bytes::from("hello")).unwrap();
        let mut stream = line.connection.accept_uni().await.unwrap();
        let mut bytes = [0; 16];
        stream.read_exact(&mut bytes).await.unwrap();
    }
    drop(endpoint);
    honest.stands("A11").await;
}

/// Counts tickets that are given and those that are shown.
#[derive(Debug, Default)]
struct Tickets {
    given: AtomicUsize,
    shown: AtomicUsize,
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        3600
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.given.fetch_add(1, Ordering::SeqCst);
        Some(plain.to_vec())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.shown.fetch_add(1, Ordering::SeqCst);
        Some(cipher.to_vec())
    }
}

#[tokio::test]
async fn a11_a_ticket_that_is_given_is_never_used() {
    let honest = Honest::open(limits());
    let tickets = Arc::new(Tickets::default());
    let mut tls = tls_server(&honest.papers(BAD));
    tls.ticketer = Arc::clone(&tickets) as _;
    tls.max_early_data_size = u32::MAX;
    tls.send_tls13_tickets = 2;
    let attacker = listener(tls);
    honest.node.add_peer(NodeId::new(BAD), attacker.local_addr().unwrap().to_string());
    for _ in 0..4 {
        let connection = attacker.accept().await.unwrap().await.unwrap();
        let line = Line { connection, _endpoint: attacker.clone() };
        let (mut send, mut recv) = line.connection.accept_bi().await.unwrap();
        recv.read_to_end(1 << 10).await.unwrap();
        send.write_all(&Hello { to: HONEST, ..honest.hello() }.frame()).await.unwrap();
        until("it is connected", || state(&honest.node, BAD) == Some(PeerState::Connected)).await;
        line.connection.close(0_u32.into(), b"once more");
    }
    let (given, shown) = (&tickets.given, &tickets.shown);
    assert!(given.load(Ordering::SeqCst) > 0, "tickets were given");
    assert_eq!(shown.load(Ordering::SeqCst), 0, "tickets were used");
    honest.node.remove_peer(NodeId::new(BAD));
    honest.stands("A11 tickets").await;
}

/// Passes datagrams on both ways, and keeps those of the first who came.
async fn record(
    socket: Arc<tokio::net::UdpSocket>,
    beyond: Arc<tokio::net::UdpSocket>,
    kept: Arc<Mutex<Vec<Vec<u8>>>>,
) {
    let mut from = None::<SocketAddr>;
    let (mut out, mut back) = (vec![0; 65_535], vec![0; 65_535]);
    loop {
        tokio::select! {
            Ok((bytes, at)) = socket.recv_from(&mut out) => {
                from = Some(at);
                kept.lock().unwrap().push(out[..bytes].into());
                let _ = beyond.send(&out[..bytes]).await;
            }
            Ok(bytes) = beyond.recv(&mut back) => {
                if let Some(from) = from {
                    let _ = socket.send_to(&back[..bytes], from).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn a11_what_was_recorded_and_is_sent_again_has_no_effect() {
    let honest = Honest::open(limits());
    let local = (Ipv4Addr::LOCALHOST, 0);
    let socket = Arc::new(tokio::net::UdpSocket::bind(local).await.unwrap());
    let beyond = Arc::new(tokio::net::UdpSocket::bind(local).await.unwrap());
    beyond.connect(honest.at()).await.unwrap();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let relay = tokio::spawn(record(Arc::clone(&socket), Arc::clone(&beyond), Arc::clone(&kept)));
    let good = honest.cluster.node(GOOD, 1);
    let _heard = Receiver::at(&good);
    good.add_peer(NodeId::new(HONEST), socket.local_addr().unwrap().to_string());
    connected(&good, &honest.node).await;
    let send = |count: u64| {
        for number in 0..count {
            let message = Bytes::from(number.to_le_bytes().to_vec());
            good.send(NodeId::new(HONEST), Channel::Requests, message).unwrap();
        }
    };
    send(200);
    until("all arrive", || honest.taken.count(GOOD) == 200).await;
    let recorded = kept.lock().unwrap().clone();

    // From the same address into the connection that goes on, and from another one.
    let other = tokio::net::UdpSocket::bind(local).await.unwrap();
    for _ in 0..3 {
        for datagram in &recorded {
            beyond.send(datagram).await.unwrap();
            other.send_to(datagram, honest.at()).await.unwrap();
        }
    }
    // What is sent after them is behind them.
    send(1);
    until("the connection goes on", || honest.taken.count(GOOD) >= 201).await;
    good.close().await;
    relay.abort();
    until("the end is noticed", || state(&honest.node, GOOD) != Some(PeerState::Connected)).await;
    // As long as the old connection is remembered they are taken for packets of it.
    let began = Instant::now();
    while honest.node.status().handshakes == 0 {
        assert!(began.elapsed() < super::PATIENCE, "a recorded first packet is a first packet");
        for datagram in &recorded {
            other.send_to(datagram, honest.at()).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Whoever sends what was recorded cannot answer what it is asked.
    until("it is refused", || honest.node.status().refused > 0).await;
    assert_eq!(honest.taken.count(GOOD), 201, "nothing came twice");
    let connections = |node: u64| {
        let peers = honest.node.status().peers;
        peers.iter().find(|peer| peer.node == NodeId::new(node)).unwrap().connections
    };
    assert_eq!(connections(GOOD), 1, "nothing was made of it");
    println!("A11: {} datagrams were sent again", recorded.len());
    honest.serves("A11 recorded").await;
    honest.close("A11 recorded").await;
}
