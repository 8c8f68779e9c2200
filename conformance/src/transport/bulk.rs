//! Bulk bodies: whole, refused, broken on either side, cut.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use quorate_replicator::{
    BulkError, BulkId, BulkOffer, BulkSink, BulkSource, Channel, NodeId, PeerState, Transport,
};
use tokio::sync::{Semaphore, mpsc};

use super::{Fixture, TransportFactory, numbered};
use crate::eventually::{eventually, within};

/// Large enough that ten cuts may each cost a third of a MiB of read-ahead.
const BODY_BYTES: u64 = 64 << 20;

/// Most bytes, in percent of the body, that may be sent again after ten cuts.
const AGAIN_PERCENT: u64 = 5;

/// A body arrives whole, in order, with its head, and is finished before the sender is answered.
pub async fn bulk_body_arrives_whole<F: TransportFactory>(factory: &F) {
    let fixture = Fixture::open("bulk_body_arrives_whole", factory, 2).await;
    for bytes in [1, 100, 65_536, 5_000_001] {
        let store = Store::new(bytes);
        store.accept_at(&fixture, 1);
        let source = Source::of(bytes);
        let result = send(&fixture, store.offer(), Arc::clone(&source)).await;
        assert_eq!(result, Ok(()), "{}: a bulk body is taken", fixture.case);
        store.check_whole(&fixture);
    }
    fixture.close().await;
}

/// A body of no bytes is a body too.
pub async fn bulk_body_without_bytes_is_finished<F: TransportFactory>(factory: &F) {
    let fixture = Fixture::open("bulk_body_without_bytes_is_finished", factory, 2).await;
    let store = Store::new(0);
    store.accept_at(&fixture, 1);
    let result = send(&fixture, store.offer(), Source::of(0)).await;
    assert_eq!(result, Ok(()), "{}: a body of no bytes is taken", fixture.case);
    store.check_whole(&fixture);
    fixture.close().await;
}

/// The words of a refusal reach the sender, and nothing is read.
pub async fn bulk_that_is_refused_says_why<F: TransportFactory>(factory: &F) {
    let fixture = Fixture::open("bulk_that_is_refused_says_why", factory, 2).await;
    fixture.recorders[1].on_bulk(|_, _| Err("too old for me".into()));
    let source = Source::of(1000);
    let result = send(&fixture, Store::new(1000).offer(), Arc::clone(&source)).await;
    assert_eq!(
        result,
        Err(BulkError::Refused("too old for me".into())),
        "{}: the receiver's refusal reaches the sender in its words",
        fixture.case
    );
    fixture.close().await;
}

/// What a sink says, in the middle or at the end, reaches the sender.
pub async fn bulk_sink_failure_reaches_the_sender<F: TransportFactory>(factory: &F) {
    let fixture = Fixture::open("bulk_sink_failure_reaches_the_sender", factory, 2).await;
    for (fail, words) in [(Fail::AtHalf, "disk full here"), (Fail::AtEnd, "wrong digest")] {
        let store = Store::failing(1_000_000, fail, words);
        store.accept_at(&fixture, 1);
        let result = send(&fixture, store.offer(), Source::of(1_000_000)).await;
        assert_eq!(
            result,
            Err(BulkError::Refused(words.into())),
            "{}: the words of a sink that fails reach the sender",
            fixture.case
        );
    }
    fixture.close().await;
}

/// A source that fails ends the transfer with its words, and the receiver does not take the part for the whole.
pub async fn bulk_source_failure_reaches_the_sender<F: TransportFactory>(factory: &F) {
    let fixture = Fixture::open("bulk_source_failure_reaches_the_sender", factory, 2).await;
    let store = Store::new(1_000_000);
    store.accept_at(&fixture, 1);
    let result = send(&fixture, store.offer(), Source::failing(1_000_000, "file is gone")).await;
    assert_eq!(
        result,
        Err(BulkError::Source("file is gone".into())),
        "{}: the words of a source that fails reach the sender",
        fixture.case
    );
    // A second body passes, and the first was not finished meanwhile.
    let other = Store::new(1000);
    other.accept_at(&fixture, 1);
    assert_eq!(send(&fixture, other.offer(), Source::of(1000)).await, Ok(()));
    assert_eq!(
        store.finished.load(Ordering::Acquire),
        0,
        "{}: a body that was not read whole is never finished",
        fixture.case
    );
    fixture.close().await;
}

/// A bulk body to nobody is refused.
pub async fn bulk_to_an_unknown_peer_is_refused<F: TransportFactory>(factory: &F) {
    let fixture = Fixture::open("bulk_to_an_unknown_peer_is_refused", factory, 2).await;
    let stranger = NodeId::new(u64::MAX);
    let sending = fixture.transports[0].send_bulk(stranger, Store::new(10).offer(), Source::of(10));
    let result = within(&fixture.clause("send_bulk to a stranger returns"), sending).await;
    assert_eq!(
        result,
        Err(BulkError::UnknownPeer(stranger)),
        "{}: a node that is not in peers() is refused as UnknownPeer",
        fixture.case
    );
    fixture.close().await;
}

/// A sink that stalls holds up its own transfer and nothing else.
pub async fn bulk_stalled_delays_no_message<F: TransportFactory>(factory: &F) {
    const COUNT: u64 = 100;
    let fixture = Fixture::open("bulk_stalled_delays_no_message", factory, 2).await;
    let store = Store::pausing(BODY_BYTES, &[BODY_BYTES / 4]);
    store.accept_at(&fixture, 1);
    let source = Source::of(BODY_BYTES);
    let sending = tokio::spawn(sending(&fixture, store.offer(), Arc::clone(&source)));
    within(&fixture.clause("a bulk body reaches its sink"), store.paused()).await;
    for i in 0..COUNT {
        for channel in Channel::ALL {
            fixture.send(0, 1, channel, numbered(i, 1000)).await;
            fixture.send(1, 0, channel, numbered(i, 1000)).await;
        }
    }
    let clause = fixture.clause("a bulk transfer that stalls delays no channel");
    for channel in Channel::ALL {
        for (from, to) in [(0, 1), (1, 0)] {
            let count = || fixture.recorders[to].count(fixture.id(from), channel);
            eventually(&clause, || count() == COUNT as usize).await;
        }
    }
    assert!(
        source.read.load(Ordering::Acquire) < BODY_BYTES / 2,
        "{}: the sender waits while the sink does; it has read {} of {BODY_BYTES} bytes for a sink that stopped \
         at a quarter",
        fixture.case,
        source.read.load(Ordering::Acquire)
    );
    store.go_on();
    let ended =
        within(&fixture.clause("a bulk transfer goes on when its sink does"), sending).await;
    assert_eq!(ended.expect("the sender does not panic"), Ok(()), "{}", fixture.case);
    store.check_whole(&fixture);
    fixture.close().await;
}

/// Cut at ten places drawn at random, a body arrives whole with less than 5 % of it sent twice.
pub async fn bulk_cut_at_ten_places_resumes<F: TransportFactory>(factory: &F) {
    let seed = fastrand::u64(..);
    let fixture = Fixture::open("bulk_cut_at_ten_places_resumes", factory, 2).await;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut places: Vec<_> = (0..10).map(|_| random.u64(1..BODY_BYTES)).collect();
    places.sort_unstable();
    let store = Store::pausing(BODY_BYTES, &places);
    store.accept_at(&fixture, 1);
    let source = Source::of(BODY_BYTES);
    let mut sending = tokio::spawn(sending(&fixture, store.offer(), Arc::clone(&source)));
    let clause = fixture.clause("a bulk transfer that was cut goes on by itself");
    let noticed = fixture.clause("a cut link is noticed");
    let mut cuts = 0;
    let ended = loop {
        tokio::select! {
            ended = &mut sending => break ended.expect("the sender does not panic"),
            () = within(&clause, store.paused()) => {
                fixture.network.cut(fixture.id(0), fixture.id(1)).await;
                cuts += 1;
                // A cut that is over before anybody notices it would cost nothing.
                for (node, peer) in [(0, 1), (1, 0)] {
                    let lost = || fixture.state(node, peer) != Some(PeerState::Connected);
                    eventually(&noticed, lost).await;
                }
                store.go_on();
                fixture.network.heal(fixture.id(0), fixture.id(1)).await;
            }
        }
    };
    assert_eq!(ended, Ok(()), "{clause} (seed {seed})");
    store.check_whole(&fixture);
    let read = source.read.load(Ordering::Acquire);
    let again = read.saturating_sub(BODY_BYTES);
    assert!(
        again < BODY_BYTES * AGAIN_PERCENT / 100,
        "{}: a transfer goes on where resume_at says; {again} of {BODY_BYTES} bytes were sent twice over {cuts} cuts \
         (seed {seed})",
        fixture.case
    );
    fixture.close().await;
}

/// Closing ends a transfer that waits, and later ones are refused.
pub async fn bulk_sender_learns_of_a_closed_transport<F: TransportFactory>(factory: &F) {
    let fixture = Fixture::open("bulk_sender_learns_of_a_closed_transport", factory, 2).await;
    let store = Store::pausing(BODY_BYTES, &[BODY_BYTES / 4]);
    store.accept_at(&fixture, 1);
    let sending = tokio::spawn(sending(&fixture, store.offer(), Source::of(BODY_BYTES)));
    within(&fixture.clause("a bulk body reaches its sink"), store.paused()).await;
    within(&fixture.clause("close returns"), fixture.transports[0].close()).await;
    let ended = within(&fixture.clause("close ends a transfer that waits"), sending).await;
    assert_eq!(
        ended.expect("the sender does not panic"),
        Err(BulkError::Closed),
        "{}: a transfer that close ends is answered Closed",
        fixture.case
    );
    let late = send(&fixture, store.offer(), Source::of(BODY_BYTES)).await;
    assert_eq!(
        late,
        Err(BulkError::Closed),
        "{}: a transfer after close is refused as Closed",
        fixture.case
    );
    fixture.close().await;
}

async fn send(fixture: &Fixture, offer: BulkOffer, source: Arc<Source>) -> Result<(), BulkError> {
    within(&fixture.clause("send_bulk returns"), sending(fixture, offer, source)).await
}

/// The transfer from the first node to the second, as a future that owns what it needs.
fn sending(
    fixture: &Fixture,
    offer: BulkOffer,
    source: Arc<Source>,
) -> impl Future<Output = Result<(), BulkError>> + Send + 'static {
    let transport: Arc<dyn Transport> = Arc::clone(&fixture.transports[0]);
    let to = fixture.id(1);
    async move { transport.send_bulk(to, offer, source).await }
}

/// The bytes of all bodies: those at `offset`, at most `bytes_max` of them. The period is a prime, so that a chunk that is
/// missing or out of place shows.
fn body(offset: u64, bytes_max: usize) -> &'static [u8] {
    const PERIOD: usize = 1_048_573;
    static PATTERN: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
        let mut pattern = vec![0; PERIOD];
        fastrand::Rng::with_seed(1).fill(&mut pattern);
        pattern
    });
    let start = (offset % PERIOD as u64) as usize;
    &PATTERN[start..PERIOD.min(start + bytes_max)]
}

/// Reads the body, and counts what was read.
#[derive(Debug)]
struct Source {
    bytes: u64,
    fail_at_half: Option<&'static str>,
    read: AtomicU64,
}

impl Source {
    fn of(bytes: u64) -> Arc<Self> {
        Arc::new(Self { bytes, fail_at_half: None, read: AtomicU64::new(0) })
    }

    fn failing(bytes: u64, words: &'static str) -> Arc<Self> {
        Arc::new(Self { bytes, fail_at_half: Some(words), read: AtomicU64::new(0) })
    }
}

#[async_trait]
impl BulkSource for Source {
    async fn read(&self, offset: u64, bytes_max: usize) -> Result<Bytes, String> {
        if let Some(words) = self.fail_at_half.filter(|_| offset >= self.bytes / 2) {
            return Err(words.into());
        }
        if offset >= self.bytes || bytes_max == 0 {
            return Err(format!("{bytes_max} bytes at {offset} of {} were asked for", self.bytes));
        }
        let left = usize::try_from(self.bytes - offset).unwrap_or(usize::MAX);
        let chunk = body(offset, bytes_max.min(left));
        self.read.fetch_add(chunk.len() as u64, Ordering::AcqRel);
        Ok(Bytes::from_static(chunk))
    }
}

/// Where a sink fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fail {
    Never,
    AtHalf,
    AtEnd,
}

/// What the receiver keeps of one body over all attempts.
#[derive(Debug)]
struct Store {
    id: BulkId,
    bytes: u64,
    fail: Fail,
    words: &'static str,
    kept: AtomicU64,
    finished: AtomicU64,
    /// The first clause that a chunk broke.
    broken: Mutex<Option<String>>,
    /// Places where the sink stops, the next one last.
    pauses: Mutex<Vec<u64>>,
    stopped: mpsc::Sender<()>,
    stops: tokio::sync::Mutex<mpsc::Receiver<()>>,
    proceed: Semaphore,
}

impl Store {
    fn new(bytes: u64) -> Arc<Self> {
        Self::build(bytes, Fail::Never, "", &[])
    }

    fn failing(bytes: u64, fail: Fail, words: &'static str) -> Arc<Self> {
        Self::build(bytes, fail, words, &[])
    }

    fn pausing(bytes: u64, places: &[u64]) -> Arc<Self> {
        Self::build(bytes, Fail::Never, "", places)
    }

    fn build(bytes: u64, fail: Fail, words: &'static str, places: &[u64]) -> Arc<Self> {
        let (stopped, stops) = mpsc::channel(16);
        Arc::new(Self {
            id: BulkId(fastrand::u128(..)),
            bytes,
            fail,
            words,
            kept: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            broken: Mutex::new(None),
            pauses: Mutex::new(places.iter().rev().copied().collect()),
            stopped,
            stops: tokio::sync::Mutex::new(stops),
            proceed: Semaphore::new(0),
        })
    }

    fn offer(&self) -> BulkOffer {
        BulkOffer { id: self.id, bytes: self.bytes, head: Bytes::from_static(b"head of the body") }
    }

    /// Makes a node take this body, and check what it is told about it.
    fn accept_at(self: &Arc<Self>, fixture: &Fixture, node: usize) {
        let (store, sender) = (Arc::clone(self), fixture.id(0));
        fixture.recorders[node].on_bulk(move |from, offer| {
            if from != sender {
                store.note("`from` of an offer is the real sender");
            }
            if offer != store.offer() {
                store.note("an offer arrives as it was made, and the same at each attempt");
            }
            Ok(Box::new(Sink { store: Arc::clone(&store) }))
        });
    }

    /// Waits until the sink stops at one of its places.
    async fn paused(&self) {
        self.stops.lock().await.recv().await.expect("the store holds a sender");
    }

    fn go_on(&self) {
        self.proceed.add_permits(1);
    }

    fn check_whole(&self, fixture: &Fixture) {
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert_eq!(broken, None, "{}: a clause about bulk is broken", fixture.case);
        assert_eq!(
            self.kept.load(Ordering::Acquire),
            self.bytes,
            "{}: a body arrives whole before the sender is answered",
            fixture.case
        );
        assert_eq!(
            self.finished.load(Ordering::Acquire),
            1,
            "{}: a whole body is finished once",
            fixture.case
        );
    }

    fn note(&self, clause: &str) {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.get_or_insert_with(|| clause.into());
    }
}

/// One attempt at a store.
#[derive(Debug)]
struct Sink {
    store: Arc<Store>,
}

#[async_trait]
impl BulkSink for Sink {
    fn resume_at(&self) -> u64 {
        self.store.kept.load(Ordering::Acquire)
    }

    async fn write(&mut self, chunk: Bytes) -> Result<(), String> {
        let store = &*self.store;
        let offset = store.kept.load(Ordering::Acquire);
        let end = offset + chunk.len() as u64;
        let pause = {
            let mut pauses = store.pauses.lock().unwrap_or_else(PoisonError::into_inner);
            pauses.pop_if(|place| *place < end)
        };
        if pause.is_some() {
            store.stopped.send(()).await.map_err(|error| error.to_string())?;
            // The future may be dropped here, by a transport that notices the cut at once.
            store.proceed.acquire().await.map_err(|error| error.to_string())?.forget();
        }
        let mut compared = 0;
        while compared < chunk.len() {
            let expected = body(offset + compared as u64, chunk.len() - compared);
            if &chunk[compared..compared + expected.len()] != expected {
                store.note("chunks are whole, in order, and without gaps from resume_at on");
                break;
            }
            compared += expected.len();
        }
        if chunk.is_empty() || end > store.bytes {
            store.note("chunks are not empty and end with the body");
        }
        if store.fail == Fail::AtHalf && end > store.bytes / 2 {
            return Err(store.words.into());
        }
        store.kept.store(end, Ordering::Release);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), String> {
        if self.store.kept.load(Ordering::Acquire) != self.store.bytes {
            self.store.note("a body is finished after all of its bytes were written");
        }
        if self.store.fail == Fail::AtEnd {
            return Err(self.store.words.into());
        }
        self.store.finished.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
}
