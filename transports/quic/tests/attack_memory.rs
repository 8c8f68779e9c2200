//! A12, A13 and A16: attackers who want memory, or the place of others. They keep next to nothing themselves, and what this
//! process takes up is measured: so the tests go one after the other.

mod cluster;

#[allow(dead_code, reason = "shared with `attacks.rs`, which needs the rest")]
mod attacks {
    pub(crate) use crate::cluster::receiver::PATIENCE;

    pub(crate) mod attacker;
    pub(crate) mod honest;
    pub(crate) mod initial;
    pub(crate) mod memory;
    pub(crate) mod wire;
}

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use attacks::attacker::{Line, dial, tls_client};
use attacks::honest::{BAD, Honest};
use attacks::initial::{FRAME_BYTES_MAX, Initial, begin, client_hello, crypto, drain, socket};
use attacks::memory::Growth;
use attacks::wire;
use cluster::receiver::until;
use quorate_replicator::limits::MESSAGE_BYTES_MAX;
use quorate_transport_quic::Limits;

/// Most that the memory may grow under any of these attacks.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

/// Most that a connection may cost whose other end has not said yet who it is.
const STRANGER_BYTES_MAX: u64 = 64 << 10;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs one attack while no other one runs.
fn alone(attack: impl Future<Output = ()>) {
    let _alone = ONE_AT_A_TIME.lock();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap().block_on(attack);
}

/// The sockets of attackers with as many addresses; none where the system gives the loopback a single one.
fn sockets(count: u32) -> Option<Vec<UdpSocket>> {
    let sockets: Option<Vec<_>> = (0..count).map(socket).collect();
    if sockets.is_none() {
        println!("SKIP: the loopback has one address here");
    }
    sockets
}

#[test]
fn a12_ten_thousand_first_packets_leave_room_for_a_good_peer() {
    alone(async {
        let honest = Honest::open(Limits::default());
        let to = honest.at();
        honest.serves("A12, before").await;
        let Some(sockets) = sockets(250) else { return };
        let growth = Growth::from_here();
        let flood = tokio::task::spawn_blocking(move || {
            let frames = crypto(0, &client_hello());
            for number in 0..10_000 {
                let socket = &sockets[number % sockets.len()];
                socket.send_to(&Initial::new().packet(&frames), to).unwrap();
                if number % 100 == 0 {
                    std::thread::yield_now();
                }
            }
            // What would have come back to an address that was forged is not even looked at.
            sockets.iter().map(drain).sum::<usize>()
        });
        let dials = honest.serves("A12, under ten thousand first packets").await;
        let came = flood.await.unwrap();
        let handshakes = honest.node.status().handshakes;
        println!("A12: {came} bytes came back, {handshakes} handshakes are under way");
        assert!(handshakes <= Limits::default().handshakes_max);
        assert!(growth.bytes("A12") < GROWTH_BYTES_MAX);
        assert!(dials <= 2, "a good peer had to dial {dials} times");
        honest.explains("A12", "it did not greet within").await;
        honest.stands("A12").await;
    });
}

/// Keeps as many handshakes half open as it can, from all of its addresses, for as long as `until` is held.
fn hold(to: SocketAddr, sockets: &[UdpSocket], until: &Weak<()>) -> usize {
    let frames = crypto(0, &client_hello());
    let mut held = 0;
    for socket in sockets.iter().cycle().take_while(|_| until.strong_count() > 0) {
        drain(socket);
        held += usize::from(begin(socket, to, &frames).is_some());
    }
    held
}

#[test]
fn a12_handshakes_that_are_held_open_leave_room_for_a_good_peer() {
    alone(async {
        let honest = Honest::open(Limits::default());
        let to = honest.at();
        honest.serves("A12 held, before").await;
        let Some(sockets) = sockets(40) else { return };
        let growth = Growth::from_here();
        let attack = Arc::new(());
        let until_then = Arc::downgrade(&attack);
        let holding = tokio::task::spawn_blocking(move || hold(to, &sockets, &until_then));
        let max = Limits::default().handshakes_max;
        until("all places are taken", || honest.node.status().handshakes >= max - 2).await;
        let mut dials = Vec::new();
        for number in 1..=5 {
            dials.push(honest.serves(&format!("A12 held, good peer {number}")).await);
        }
        drop(attack);
        let held = holding.await.unwrap();
        println!("A12: {held} handshakes were held open, good peers dialled {dials:?} times");
        assert!(growth.bytes("A12 held") < GROWTH_BYTES_MAX);
        assert!(honest.node.status().handshakes <= max);
        assert!(dials.iter().all(|dials| *dials <= 2), "good peers had to dial {dials:?} times");
        honest.stands("A12 held").await;
    });
}

/// Limits that let so many strangers in at once, and have patience with them.
fn crowded(count: usize) -> Limits {
    let mut limits = cluster::limits();
    (limits.handshakes_max, limits.handshakes_unproved_max) = (count + 10, count + 10);
    (limits.handshakes_per_address_max, limits.incoming_max) = (count + 10, count + 10);
    limits.accepts_per_second = 1_000_000;
    limits.handshake_timeout = Duration::from_secs(60);
    limits.idle_timeout = Duration::from_secs(60);
    limits
}

/// What strangers cost that send these frames, each in a packet, and then nothing.
async fn strangers(case: &str, count: usize, frames: Vec<Vec<u8>>) -> u64 {
    let honest = Honest::open(crowded(count));
    let to = honest.at();
    honest.serves(&format!("{case}, before")).await;
    let growth = Growth::from_here();
    let sending = tokio::task::spawn_blocking(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        for _ in 0..count {
            let mut initial = Initial::new();
            for frame in &frames {
                socket.send_to(&initial.packet(frame), to).unwrap();
                // Each is acknowledged, so that none is lost on the way.
                let _ = socket.recv_from(&mut [0; 2048]);
            }
            drain(&socket);
        }
    });
    sending.await.unwrap();
    let under_way = honest.node.status().handshakes;
    let each = growth.bytes(case) / under_way.max(1) as u64;
    println!("{case}: {under_way} connections of strangers, {} KiB each", each >> 10);
    let refusals = honest.node.status().refusals;
    // Some packets are lost all the same; what one costs can be told from the others.
    assert!(under_way >= count / 2, "{case}: {under_way} of {count}; {refusals:#?}");
    honest.serves(&format!("{case}, with {under_way} strangers")).await;
    honest.close(case).await;
    each
}

#[test]
fn a12_a_stranger_costs_less_than_64_kib() {
    alone(async {
        let hello = client_hello();
        let whole = vec![crypto(0, &hello)];
        let each = strangers("A12 greeted by TLS", 800, whole).await;
        assert!(each < STRANGER_BYTES_MAX, "{each} bytes for each");
    });
}

#[test]
fn a13_a_stranger_who_speaks_slowly_costs_less_than_64_kib() {
    alone(async {
        // The largest first words that rustls would take, all but the last byte, in order.
        let words = [&[1, 0, 0xff, 0xff][..], &[0; 0xffff - 1]].concat();
        let pieces: Vec<_> = words.chunks(FRAME_BYTES_MAX).collect();
        let slow = pieces.iter().enumerate();
        let slow: Vec<_> =
            slow.map(|(at, piece)| crypto((at * FRAME_BYTES_MAX) as u64, piece)).collect();
        // As much as is taken is held for as long as a handshake may take.
        let each = strangers("A13 half a greeting of TLS", 200, slow[..20].into()).await;
        assert!(each < STRANGER_BYTES_MAX, "{each} bytes for each");
        // Whoever says more is refused.
        let honest = Honest::open(crowded(10));
        let to = honest.at();
        tokio::task::spawn_blocking(move || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let mut initial = Initial::new();
            for frame in &slow {
                socket.send_to(&initial.packet(frame), to).unwrap();
                let _ = socket.recv_from(&mut [0; 2048]);
            }
        })
        .await
        .unwrap();
        honest.explains("A13", "come with one certificate").await;
        honest.stands("A13 a long greeting of TLS").await;
    });
}

#[test]
fn a13_a_stranger_who_speaks_in_pieces_costs_less_than_64_kib() {
    alone(async {
        // Single bytes with gaps, each in a packet of its own that is full of nothing else.
        let gaps = (0..30).map(|at| crypto(1000 + at * 80, &[0])).collect();
        let each = strangers("A13 pieces of a greeting of TLS", 100, gaps).await;
        assert!(each < STRANGER_BYTES_MAX, "{each} bytes for each");
    });
}

/// Writes on every stream that it may open until nothing more is taken; on the first of both directions, the one of the greeting,
/// only what is given.
async fn fill(line: &Line, greeting: &[u8]) -> u64 {
    let soon = Duration::from_millis(30);
    let mut streams = Vec::new();
    let mut answers = Vec::new();
    while let Ok(Ok((stream, answer))) = tokio::time::timeout(soon, line.connection.open_bi()).await
    {
        streams.push(stream);
        answers.push(answer);
    }
    while let Ok(Ok(stream)) = tokio::time::timeout(soon, line.connection.open_uni()).await {
        streams.push(stream);
    }
    // A message as long as there may be, of which the last part never comes.
    let begin = [wire::head(wire::MESSAGE, MESSAGE_BYTES_MAX as u32), vec![0; 4]].concat();
    let zeros = vec![0; 64 << 10];
    let mut written = 0;
    for (number, stream) in streams.iter_mut().enumerate() {
        let first = if number == 0 { greeting } else { &begin };
        let _ = tokio::time::timeout(soon, stream.write_all(first)).await;
        if number == 0 {
            continue;
        }
        while let Ok(Ok(count)) = tokio::time::timeout(soon, stream.write(&zeros)).await {
            written += count as u64;
        }
    }
    // They stay open with the connection.
    streams.into_iter().for_each(std::mem::forget);
    answers.into_iter().for_each(std::mem::forget);
    written
}

/// What members that do not greet make this process take up, each with these bytes instead.
async fn unfriendly(case: &str, greeting: &[u8]) {
    let mut limits = crowded(100);
    limits.stall_timeout = Duration::from_secs(60);
    let honest = Honest::open(limits);
    let papers = honest.papers(BAD);
    honest.serves(&format!("{case}, before")).await;
    let growth = Growth::from_here();
    let mut lines = Vec::new();
    let mut written = 0;
    for _ in 0..24 {
        let line = dial(honest.at(), tls_client(Some(&papers))).await.unwrap();
        written += fill(&line, greeting).await;
        lines.push(line);
    }
    println!("{case}: {} KiB were written on {} connections", written >> 10, lines.len());
    let growth = growth.bytes(case);
    // Both ends are in this process, and the one that is attacked is not the larger.
    assert!(growth < GROWTH_BYTES_MAX / 2, "{case}: {growth} bytes");
    honest.serves(case).await;
    drop(lines);
    honest.close(case).await;
}

#[test]
fn a13_a_member_that_never_greets_gets_no_room_to_fill() {
    alone(async {
        unfriendly("A13 half a greeting", &[1]).await;
    });
}

#[test]
fn a13_a_thousand_idle_streams_are_not_to_be_had() {
    alone(async {
        let honest = Honest::open(cluster::limits());
        let growth = Growth::from_here();
        let line = honest.betrayed(&honest.papers(BAD)).await;
        let mut streams = Vec::new();
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..1000 {
            let connection = line.connection.clone();
            tasks.spawn(async move {
                let opening = async {
                    match number % 2 {
                        0 => connection.open_uni().await.map(|stream| (stream, None)),
                        _ => connection.open_bi().await.map(|(send, recv)| (send, Some(recv))),
                    }
                };
                tokio::time::timeout(Duration::from_millis(500), opening).await
            });
        }
        while let Some(opened) = tasks.join_next().await {
            if let Ok(Ok(Ok((mut stream, answer)))) = opened {
                // The stream exists for the other end with its first bytes: those of half a head.
                let _ = stream.write_all(&[1, 0]).await;
                streams.push((stream, answer));
            }
        }
        println!("A13: {} of 1000 streams were opened", streams.len());
        let most = 3 + 1 + Limits::default().bulk_transfers_max as usize;
        assert!((1..=most).contains(&streams.len()), "{} streams", streams.len());
        assert!(growth.bytes("A13 idle streams") < GROWTH_BYTES_MAX);
        honest.serves("A13 idle streams").await;
        let end = line.end().await;
        assert!(
            end.contains("nothing came for") && end.contains("in the middle of a frame"),
            "{end}"
        );
        honest
            .explains("A13 idle streams", "in the middle of a frame (limits.stall_timeout)")
            .await;
        honest.stands("A13 idle streams").await;
    });
}

#[test]
fn a13_connections_that_say_nothing_are_let_go() {
    alone(async {
        let mut limits = cluster::limits();
        limits.handshakes_per_address_max = 20;
        let honest = Honest::open(limits);
        let papers = honest.papers(BAD);
        let growth = Growth::from_here();
        let mut lines = Vec::new();
        // In the middle of a greeting, before it, and after a frame of it that is cut.
        for half in [&honest.hello().frame()[..30], &[], &[1]] {
            let line = dial(honest.at(), tls_client(Some(&papers))).await.unwrap();
            let stream = line.ask(half).await.unwrap();
            lines.push((line, stream));
        }
        honest.serves("A13 silence").await;
        for (line, _) in &lines {
            println!("A13 silence: {}", line.end().await);
        }
        honest.explains("A13 silence", "it did not greet within 2s").await;
        until("all are let go", || honest.node.status().handshakes == 0).await;
        assert!(growth.bytes("A13 silence") < GROWTH_BYTES_MAX);
        honest.stands("A13 silence").await;
    });
}

#[test]
fn a16_what_is_not_taken_waits_at_the_sender() {
    alone(async {
        let mut limits = cluster::limits();
        limits.stall_timeout = Duration::from_secs(60);
        let honest = Honest::open(limits);
        honest.taken.stalled.send_replace(true);
        honest.taken.bulk.stalled.send_replace(true);
        let papers = honest.papers(BAD);
        let growth = Growth::from_here();
        let line = honest.betrayed(&papers).await;
        let soon = Duration::from_millis(200);
        let mut streams = Vec::new();
        let mut written = 0;
        // Frames of messages of nothing, which become fifty times as much if they are all taken apart.
        let frame = wire::frame(wire::MESSAGES, &[0; 4 << 10]);
        for channel in 0..3 {
            let mut stream = line.tell(&wire::channel(channel)).await.unwrap();
            while let Ok(Ok(())) = tokio::time::timeout(soon, stream.write_all(&frame)).await {
                written += frame.len();
            }
            streams.push((stream, None));
        }
        for id in 0..4 {
            let offer = wire::offer(id, 1 << 40, &[7; 64 << 10]);
            let (mut stream, answer) = line.ask(&offer).await.unwrap();
            let mut offset = 0;
            let chunk = vec![0; 256 << 10];
            loop {
                let chunk = wire::chunk(offset, &chunk);
                let Ok(Ok(())) = tokio::time::timeout(soon, stream.write_all(&chunk)).await else {
                    break;
                };
                written += chunk.len();
                offset += (chunk.len() - 16) as u64;
            }
            streams.push((stream, Some(answer)));
        }
        println!("A16: {} KiB were written", written >> 10);
        let held = growth.bytes("A16");
        assert!(written as u64 > 2 << 20, "the windows were filled");
        assert!(held < GROWTH_BYTES_MAX, "{held} bytes");
        honest.serves("A16, with a member that fills every window").await;
        honest.taken.stalled.send_replace(false);
        honest.taken.bulk.stalled.send_replace(false);
        drop((streams, line));
        honest.close("A16").await;
    });
}

#[test]
fn a16_connections_that_replace_one_another_do_not_add_up() {
    alone(async {
        let mut limits = cluster::limits();
        limits.stall_timeout = Duration::from_secs(60);
        let honest = Honest::open(limits);
        honest.taken.stalled.send_replace(true);
        let papers = honest.papers(BAD);
        honest.serves("A16 replaced, before").await;
        let growth = Growth::from_here();
        let mut written = 0;
        for _ in 0..24 {
            let line = honest.betrayed(&papers).await;
            written += fill(&line, &[1]).await;
        }
        println!("A16: {} MiB were written", written >> 20);
        let held = growth.bytes("A16 replaced");
        assert!(held < GROWTH_BYTES_MAX, "{held} bytes");
        honest.taken.stalled.send_replace(false);
        honest.serves("A16 replaced").await;
        honest.close("A16 replaced").await;
    });
}
