//! What a message and a bulk body cost, beside quinn alone and TCP alone in the same run.
//!
//! Everything runs on one thread, both ends of it, so that a rate is CPU time turned round: a wakeup of a second core is
//! not measured. They take turns, and the median of the rounds is shown. `round_trip` has `in_flight` messages of 128 bytes go
//! there and back at once; `one_way` sends them as fast as they are taken; `bulk` sends one large body.
//!
//! - `messages`: quinn alone as one would use it for messages: a task takes them from a channel and writes all that wait with
//!   their lengths, on one stream that lasts; the other end hands out each by itself.
//! - `bytes`: quinn alone with bytes: one write of all that is in flight, and reads of whatever has come. Nothing knows of messages.
//! - `tcp`: the same over TCP, without a cipher.
//!
//! `cargo bench -p quorate-transport-quic -- round_trip` runs what has the words in its name.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Buf as _, BytesMut};
use quinn::{ClientConfig, Endpoint, ServerConfig};
use quorate_replicator::{
    BulkId, BulkOffer, BulkSink, BulkSource, Bytes, Channel, ClusterId, Inbound, NodeId, PeerState,
    SendError, Transport,
};
use quorate_transport_quic::{Authority, QuicConfig, QuicTransport, Subject, Validity};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};

const BYTES: usize = 128;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(600);
const BULK_BYTES: u64 = 192 << 20;

fn main() {
    let words: Vec<_> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let wanted = |id: &str| words.iter().all(|word| id.contains(word.as_str()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    runtime.block_on(async {
        for channel in Channel::ALL {
            for in_flight in [1, 16, 256] {
                let id = format!(
                    "quic::round_trip/channel={channel:?} in_flight={in_flight} bytes={BYTES}"
                );
                if wanted(&id) {
                    compare(&id, Shape::RoundTrip { channel, in_flight }).await;
                }
            }
        }
        for bytes in [BYTES, 4096, 64 << 10] {
            let id = format!("quic::one_way/channel={:?} bytes={bytes}", Channel::Entries);
            if wanted(&id) {
                compare(&id, Shape::OneWay { bytes }).await;
            }
        }
        let id = format!("quic::bulk/bytes={BULK_BYTES}");
        if wanted(&id) {
            compare(&id, Shape::Bulk).await;
        }
    });
}

/// What is measured.
#[derive(Clone, Copy)]
enum Shape {
    RoundTrip { channel: Channel, in_flight: u64 },
    OneWay { bytes: usize },
    Bulk,
}

/// What one round gave.
#[derive(Clone, Copy)]
struct Figures {
    /// Messages, or bytes of bulk.
    count: u64,
    took: Duration,
    cpu: Duration,
}

impl Figures {
    fn rate(self) -> f64 {
        self.count as f64 / self.took.as_secs_f64()
    }

    fn cpu_micros(self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.count as f64
    }
}

async fn compare(id: &str, shape: Shape) {
    let mut rounds: [Vec<Figures>; 4] = Default::default();
    // The first round warms up and does not count.
    for round in 0..=ROUNDS {
        let figures = [
            ours(shape).await,
            quinn_messages(shape).await,
            quinn_bytes(shape).await,
            tcp_bytes(shape).await,
        ];
        if round > 0 {
            rounds.iter_mut().zip(figures).for_each(|(rounds, figures)| rounds.push(figures));
        }
    }
    let medians = rounds.map(|mut figures| {
        figures.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
        figures[figures.len() / 2]
    });
    println!("{id}");
    let [ours, ..] = medians;
    for (name, figures) in ["quorate", "messages", "bytes", "tcp"].into_iter().zip(medians) {
        let (rate, cpu) = (ours.rate() / figures.rate(), figures.cpu_micros() / ours.cpu_micros());
        let shown = Shown(shape, figures);
        println!("    {name:8} {shown:>24}  quorate has {rate:.2} of the rate, {cpu:.2} by CPU");
    }
}

struct Shown(Shape, Figures);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(shape, figures) = self;
        let text = match shape {
            Shape::Bulk => {
                let cpu = figures.cpu_micros() * f64::from(64 << 10);
                format!("{:.0} MB/s, {cpu:.0} us CPU for 64 KiB", figures.rate() / 1e6)
            }
            Shape::RoundTrip { .. } | Shape::OneWay { .. } => {
                format!("{:.0}/s, {:.2} us CPU each", figures.rate(), figures.cpu_micros())
            }
        };
        f.pad(&text)
    }
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// Measures `step` again and again, which answers how much it moved.
async fn measure(mut step: impl AsyncFnMut() -> u64) -> Figures {
    let (start, cpu_start) = (Instant::now(), cpu());
    let mut count = 0;
    while start.elapsed() < ROUND {
        count += step().await;
    }
    Figures { count, took: start.elapsed(), cpu: cpu() - cpu_start }
}

/// Counts what arrives, and wakes whoever waits for a count.
#[derive(Debug, Default)]
struct Arrivals {
    count: AtomicU64,
    wanted: AtomicU64,
    there: Notify,
}

impl Arrivals {
    fn add(&self, count: u64) {
        let count = self.count.fetch_add(count, Ordering::Relaxed) + count;
        if count >= self.wanted.load(Ordering::Relaxed) {
            self.there.notify_one();
        }
    }

    async fn reach(&self, count: u64) {
        self.wanted.store(count, Ordering::Relaxed);
        while self.count.load(Ordering::Relaxed) < count {
            self.there.notified().await;
        }
    }
}

/// Counts messages, and sends them back if there is somebody to send them to.
#[derive(Debug)]
struct Counter {
    arrivals: Arc<Arrivals>,
    echo: Option<std::sync::Weak<QuicTransport>>,
}

#[async_trait]
impl Inbound for Counter {
    async fn message(&self, from: NodeId, channel: Channel, message: Bytes) {
        match &self.echo {
            Some(transport) => {
                let transport = transport.upgrade().expect("the node is open");
                transport.send(from, channel, message).expect("the queue holds what is in flight");
            }
            None => self.arrivals.add(1),
        }
    }

    fn peer(&self, _: NodeId, _: PeerState) {}

    fn bulk(&self, _: NodeId, offer: BulkOffer) -> Result<Box<dyn BulkSink>, String> {
        assert_eq!(offer.bytes, BULK_BYTES);
        Ok(Box::new(Nowhere))
    }
}

#[derive(Debug)]
struct Nowhere;

#[async_trait]
impl BulkSink for Nowhere {
    fn resume_at(&self) -> u64 {
        0
    }

    async fn write(&mut self, _: Bytes) -> Result<(), String> {
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), String> {
        Ok(())
    }
}

#[derive(Debug)]
struct Zeros(Bytes);

#[async_trait]
impl BulkSource for Zeros {
    async fn read(&self, _: u64, bytes_max: usize) -> Result<Bytes, String> {
        Ok(self.0.slice(..bytes_max.min(self.0.len())))
    }
}

async fn ours(shape: Shape) -> Figures {
    let authority = Authority::create("bench", Validity::days(1)).expect("an authority");
    let cluster = ClusterId::new([1; 16]);
    let nodes = [1, 2].map(|node| {
        let subject = Subject::node(cluster, NodeId::new(node));
        let issued = authority.issue(&subject, Validity::days(1)).expect("a certificate");
        let mut config = QuicConfig::listening(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        config.limits.bulk_bytes_per_second = 0;
        let identity = issued.identity().expect("an identity");
        Arc::new(QuicTransport::bind(identity, 1, config).expect("a transport"))
    });
    let arrivals = Arc::new(Arrivals::default());
    let there = NodeId::new(2);
    for (node, other) in [(0, 1), (1, 0)] {
        let address = nodes[other].listens_on().to_string();
        nodes[node].add_peer(nodes[other].local_id(), address);
        let echo = matches!(shape, Shape::RoundTrip { .. }) && node == 1;
        nodes[node].receive(Arc::new(Counter {
            arrivals: Arc::clone(&arrivals),
            echo: echo.then(|| Arc::downgrade(&nodes[1])),
        }));
    }
    let connected = || nodes.iter().all(|node| node.peers()[0].1 == PeerState::Connected);
    while !connected() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let figures = match shape {
        Shape::RoundTrip { channel, in_flight } => {
            let message = Bytes::from(vec![7; BYTES]);
            let mut sent = 0;
            measure(async || {
                for _ in 0..in_flight {
                    nodes[0].send(there, channel, message.clone()).expect("the queue holds them");
                }
                sent += in_flight;
                arrivals.reach(sent).await;
                in_flight
            })
            .await
        }
        Shape::OneWay { bytes } => {
            let message = Bytes::from(vec![7; bytes]);
            let mut sent = 0_u64;
            // Half of what is under way has arrived when more is sent.
            let window = ((256 << 10) / bytes as u64).clamp(8, 2048);
            measure(async || {
                for _ in 0..window / 2 {
                    match nodes[0].send(there, Channel::Entries, message.clone()) {
                        Ok(()) => sent += 1,
                        Err(SendError::QueueFull) => break,
                        Err(error) => panic!("{error}"),
                    }
                }
                arrivals.reach(sent.saturating_sub(window / 2)).await;
                window / 2
            })
            .await
        }
        Shape::Bulk => {
            let source: Arc<dyn BulkSource> = Arc::new(Zeros(Bytes::from(vec![0; 1 << 20])));
            let mut id = 0;
            let (start, cpu_start) = (Instant::now(), cpu());
            id += 1;
            let offer = BulkOffer { id: BulkId(id), bytes: BULK_BYTES, head: Bytes::new() };
            nodes[0].send_bulk(there, offer, source).await.expect("the body arrives");
            Figures { count: BULK_BYTES, took: start.elapsed(), cpu: cpu() - cpu_start }
        }
    };
    for node in &nodes {
        node.close().await;
    }
    figures
}

/// Two ends of a connection, and what must not be dropped before it.
async fn quinn_pair() -> (quinn::Connection, quinn::Connection, [Endpoint; 2]) {
    let key = rcgen_key();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server =
        ServerConfig::with_single_cert(vec![key.0.clone()], key.1).expect("a configuration");
    let server = Endpoint::server(server, address).expect("an endpoint");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(key.0).expect("a root");
    let client = ClientConfig::with_root_certificates(Arc::new(roots)).expect("a configuration");
    let dialler = Endpoint::client(address).expect("an endpoint");
    let at = server.local_addr().expect("an address");
    let connecting = dialler.connect_with(client, at, "localhost").expect("a dial");
    let (there, here) = tokio::join!(
        async { server.accept().await.expect("a dial").await.expect("a connection") },
        async { connecting.await.expect("a connection") }
    );
    (here, there, [server, dialler])
}

/// Writes messages with their lengths, all that wait at once.
async fn write_messages(mut messages: mpsc::Receiver<Bytes>, mut stream: quinn::SendStream) {
    let (mut waiting, mut buffer) = (Vec::new(), Vec::new());
    while messages.recv_many(&mut waiting, 1024).await > 0 {
        buffer.clear();
        for message in waiting.drain(..) {
            buffer.extend_from_slice(&(message.len() as u32).to_le_bytes());
            buffer.extend_from_slice(&message);
        }
        if stream.write_all(&buffer).await.is_err() {
            return;
        }
    }
}

/// Hands out each message by itself.
async fn read_messages(mut stream: quinn::RecvStream, inbound: Arc<dyn Inbound>) {
    let mut buffer = BytesMut::new();
    loop {
        while let Some(length) = buffer.first_chunk().map(|head| u32::from_le_bytes(*head) as usize)
            && buffer.len() >= 4 + length
        {
            buffer.advance(4);
            let message = buffer.split_to(length).freeze();
            inbound.message(NodeId::new(1), Channel::Entries, message).await;
        }
        match stream.read_chunk(usize::MAX, true).await {
            Ok(Some(chunk)) => buffer.extend_from_slice(&chunk.bytes),
            _ => return,
        }
    }
}

/// Sends messages back.
#[derive(Debug)]
struct Echo(mpsc::Sender<Bytes>);

#[async_trait]
impl Inbound for Echo {
    async fn message(&self, _: NodeId, _: Channel, message: Bytes) {
        self.0.try_send(message).expect("the channel holds what is in flight");
    }

    fn peer(&self, _: NodeId, _: PeerState) {}

    fn bulk(&self, _: NodeId, _: BulkOffer) -> Result<Box<dyn BulkSink>, String> {
        Err("nothing is wanted here".into())
    }
}

async fn quinn_messages(shape: Shape) -> Figures {
    if matches!(shape, Shape::Bulk) {
        return quinn_bytes(shape).await;
    }
    let (here, there, endpoints) = quinn_pair().await;
    let (mut send, recv) = here.open_bi().await.expect("a stream");
    send.write_all(&[0; 4]).await.expect("written");
    let (back, forth) = there.accept_bi().await.expect("a stream");
    let arrivals = Arc::new(Arrivals::default());
    let counter = || Arc::new(Counter { arrivals: Arc::clone(&arrivals), echo: None });
    let (messages, waiting) = mpsc::channel(4096);
    let (echoes, echoed) = mpsc::channel(4096);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(write_messages(waiting, send));
    tasks.spawn(write_messages(echoed, back));
    let echo = matches!(shape, Shape::RoundTrip { .. });
    tasks.spawn(read_messages(forth, if echo { Arc::new(Echo(echoes)) } else { counter() }));
    tasks.spawn(read_messages(recv, counter()));
    // The empty message that opened the stream.
    arrivals.reach(1).await;
    let mut sent = 1;
    let (bytes, window, kept) = match shape {
        Shape::RoundTrip { in_flight, .. } => (BYTES, in_flight, 0),
        Shape::OneWay { bytes } => {
            let half = ((256 << 10) / bytes as u64).clamp(8, 2048) / 2;
            (bytes, half, half)
        }
        Shape::Bulk => unreachable!("bulk has no messages"),
    };
    let message = Bytes::from(vec![7; bytes]);
    let figures = measure(async || {
        for _ in 0..window {
            messages.try_send(message.clone()).expect("the channel holds what is in flight");
        }
        sent += window;
        arrivals.reach(sent.saturating_sub(kept)).await;
        window
    })
    .await;
    tasks.shutdown().await;
    endpoints.iter().for_each(|endpoint| endpoint.close(0_u32.into(), b""));
    figures
}

async fn quinn_bytes(shape: Shape) -> Figures {
    let (here, there, endpoints) = quinn_pair().await;
    let (mut send, mut recv) = here.open_bi().await.expect("a stream");
    send.write_all(b"!").await.expect("written");
    let (mut back, mut forth) = there.accept_bi().await.expect("a stream");
    forth.read_exact(&mut [0]).await.expect("read");
    let (taken, mut took) = mpsc::unbounded_channel();
    let echo = matches!(shape, Shape::RoundTrip { .. });
    let other = tokio::spawn(async move {
        let mut buffer = vec![0; 256 << 10];
        while let Ok(Some(bytes)) = forth.read(&mut buffer).await {
            if echo {
                back.write_all(&buffer[..bytes]).await.expect("written");
            } else if taken.send(bytes).is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 256 << 10];
    let figures = match shape {
        Shape::RoundTrip { in_flight, .. } => {
            let batch = vec![7; BYTES * in_flight as usize];
            measure(async || {
                send.write_all(&batch).await.expect("written");
                let mut bytes = 0;
                while bytes < batch.len() {
                    bytes += recv.read(&mut buffer).await.expect("read").expect("more");
                }
                in_flight
            })
            .await
        }
        Shape::OneWay { bytes } => {
            let window = ((256 << 10) / bytes).clamp(8, 2048);
            let batch = vec![7; bytes * window / 2];
            let (mut sent, mut arrived) = (0, 0);
            measure(async || {
                send.write_all(&batch).await.expect("written");
                sent += batch.len();
                while arrived + batch.len() < sent {
                    arrived += took.recv().await.expect("more");
                }
                (window / 2) as u64
            })
            .await
        }
        Shape::Bulk => {
            let chunk = vec![0; 64 << 10];
            let (start, cpu_start) = (Instant::now(), cpu());
            let sending = async {
                for _ in 0..BULK_BYTES / chunk.len() as u64 {
                    send.write_all(&chunk).await.expect("written");
                }
            };
            let receiving = async {
                let mut arrived = 0;
                while arrived < BULK_BYTES {
                    arrived += took.recv().await.expect("more") as u64;
                }
            };
            tokio::join!(sending, receiving);
            Figures { count: BULK_BYTES, took: start.elapsed(), cpu: cpu() - cpu_start }
        }
    };
    other.abort();
    drop((here, there));
    endpoints.iter().for_each(|endpoint| endpoint.close(0_u32.into(), b""));
    figures
}

fn rcgen_key()
-> (rustls::pki_types::CertificateDer<'static>, rustls::pki_types::PrivateKeyDer<'static>) {
    let issued =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = issued.signing_key.serialize_der();
    (issued.cert.der().clone(), key.try_into().expect("a key"))
}

async fn tcp_bytes(shape: Shape) -> Figures {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a listener");
    let at = listener.local_addr().expect("an address");
    let (here, there) = tokio::join!(TcpStream::connect(at), listener.accept());
    let (mut here, mut there) = (here.expect("a connection"), there.expect("a connection").0);
    here.set_nodelay(true).expect("an option");
    there.set_nodelay(true).expect("an option");
    let (taken, mut took) = mpsc::unbounded_channel();
    let echo = matches!(shape, Shape::RoundTrip { .. });
    let other = tokio::spawn(async move {
        let mut buffer = vec![0; 256 << 10];
        loop {
            let bytes = there.read(&mut buffer).await.expect("read");
            if echo {
                there.write_all(&buffer[..bytes]).await.expect("written");
            } else if bytes == 0 || taken.send(bytes).is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 256 << 10];
    let figures = match shape {
        Shape::RoundTrip { in_flight, .. } => {
            let batch = vec![7; BYTES * in_flight as usize];
            measure(async || {
                here.write_all(&batch).await.expect("written");
                let mut bytes = 0;
                while bytes < batch.len() {
                    bytes += here.read(&mut buffer).await.expect("read");
                }
                in_flight
            })
            .await
        }
        Shape::OneWay { bytes } => {
            let window = ((256 << 10) / bytes).clamp(8, 2048);
            let batch = vec![7; bytes * window / 2];
            let (mut sent, mut arrived) = (0, 0);
            measure(async || {
                here.write_all(&batch).await.expect("written");
                sent += batch.len();
                while arrived + batch.len() < sent {
                    arrived += took.recv().await.expect("more");
                }
                (window / 2) as u64
            })
            .await
        }
        Shape::Bulk => {
            let chunk = vec![0; 64 << 10];
            let (start, cpu_start) = (Instant::now(), cpu());
            let sending = async {
                for _ in 0..BULK_BYTES / chunk.len() as u64 {
                    here.write_all(&chunk).await.expect("written");
                }
            };
            let receiving = async {
                let mut arrived = 0;
                while arrived < BULK_BYTES {
                    arrived += took.recv().await.expect("more") as u64;
                }
            };
            tokio::join!(sending, receiving);
            Figures { count: BULK_BYTES, took: start.elapsed(), cpu: cpu() - cpu_start }
        }
    };
    other.abort();
    figures
}
