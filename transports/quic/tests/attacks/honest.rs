//! The node that is attacked, what it took, and a good peer that is served all the same.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};

use async_trait::async_trait;
use quorate_replicator::{
    BulkOffer, BulkSink, Bytes, Channel, Inbound, NodeId, PeerState, Transport,
};
use quorate_transport_quic::{Limits, QuicTransport};
use tokio::sync::watch;
use tokio::time::Instant;

use super::PATIENCE;
use super::attacker::{Claim, Line, Papers, Signer, dial, tls_client};
use super::wire::Hello;
use crate::cluster::Cluster;
use crate::cluster::receiver::{Receiver, state, until};

/// The node that is attacked. Its id is the highest, so that it never goes first when both dial.
pub(crate) const HONEST: u64 = 9;

/// A member that is in the attacker's hands.
pub(crate) const BAD: u64 = 2;

/// A member that is not.
pub(crate) const GOOD: u64 = 3;

/// No member of anything.
pub(crate) const STRANGER: u64 = 77;

pub(crate) struct Honest {
    pub(crate) cluster: Cluster,
    pub(crate) node: Arc<QuicTransport>,
    pub(crate) taken: Arc<Taken>,
    lives: AtomicU64,
    /// Where the members are said to be: nobody answers there, so that they come only by dialling.
    silent: UdpSocket,
}

impl Honest {
    pub(crate) fn open(limits: Limits) -> Self {
        watch_for_panics();
        let cluster = Cluster::new(limits);
        let node = cluster.node(HONEST, 1);
        let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for member in [BAD, GOOD] {
            node.add_peer(NodeId::new(member), silent.local_addr().unwrap().to_string());
        }
        let taken = Arc::new(Taken::default());
        node.receive(Arc::clone(&taken) as _);
        Self { cluster, node, taken, lives: AtomicU64::new(1), silent }
    }

    pub(crate) fn at(&self) -> SocketAddr {
        self.node.listens_on()
    }

    /// Where nobody answers.
    pub(crate) fn nowhere(&self) -> String {
        self.silent.local_addr().unwrap().to_string()
    }

    pub(crate) fn claim(&self, node: u64) -> Claim {
        Claim::node(self.cluster.id, node)
    }

    pub(crate) fn signer(&self) -> Signer {
        Signer::of(&self.cluster.authority)
    }

    /// The papers of a node as the authority makes them.
    pub(crate) fn papers(&self, node: u64) -> Papers {
        self.claim(node).signed_by(&self.signer())
    }

    /// What the bad member says when it behaves.
    pub(crate) fn hello(&self) -> Hello {
        Hello {
            protocol: 1,
            cluster: self.cluster.id,
            node: BAD,
            incarnation: self.lives.fetch_add(1, Ordering::SeqCst),
            attempt: 1,
            to: HONEST,
        }
    }

    /// A connection of the bad member, on which both ends have greeted.
    pub(crate) async fn betrayed(&self, papers: &Papers) -> Line {
        let line = dial(self.at(), tls_client(Some(papers))).await.unwrap();
        let (mut send, mut recv) = line.ask(&self.hello().frame()).await.unwrap();
        send.finish().unwrap();
        let reply = tokio::time::timeout(PATIENCE, recv.read_to_end(1 << 10)).await.unwrap();
        assert_eq!(reply.unwrap().len(), 60, "the bad member is greeted before it does anything");
        line
    }

    /// Waits until somebody was refused with these words.
    pub(crate) async fn explains(&self, case: &str, words: &str) {
        let start = Instant::now();
        loop {
            let refusals = self.node.status().refusals;
            if refusals.iter().any(|refusal| refusal.reason.contains(words)) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{case}: expected {words:?} among {refusals:#?}");
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    /// A good peer comes, is heard and hears. Answers how often it had to dial; how long it took is printed.
    pub(crate) async fn serves(&self, meanwhile: &str) -> u64 {
        let life = self.lives.fetch_add(1, Ordering::SeqCst);
        let good = self.cluster.node(GOOD, life);
        let heard = Receiver::at(&good);
        let before = self.taken.count(GOOD);
        let start = Instant::now();
        good.add_peer(NodeId::new(HONEST), self.at().to_string());
        let message = Bytes::from("I am good");
        good.send(NodeId::new(HONEST), Channel::Control, message.clone()).unwrap();
        until(&format!("a good peer is heard: {meanwhile}"), || self.taken.count(GOOD) > before)
            .await;
        self.node.send(NodeId::new(GOOD), Channel::Control, message).unwrap();
        until(&format!("a good peer hears: {meanwhile}"), || heard.count() > 0).await;
        let dials = good.status().peers[0].dials;
        println!("{meanwhile}: a good peer was served after {:?}, {dials} dials", start.elapsed());
        good.close().await;
        until("the end of the good peer is noticed", || {
            state(&self.node, GOOD) != Some(PeerState::Connected)
        })
        .await;
        dials
    }

    /// Nothing of an attack came through, nothing broke, and a good peer is served.
    pub(crate) async fn stands(&self, after: &str) {
        assert_eq!(self.taken.of_others(), 0, "{after}: nothing came through");
        self.serves(after).await;
        self.close(after).await;
    }

    pub(crate) async fn close(&self, after: &str) {
        self.node.close().await;
        assert_eq!(self.node.status().tasks, 0, "{after}: tasks are left");
        no_panics(after);
    }
}

/// What came through to the node.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    counts: Mutex<BTreeMap<u64, u64>>,
    pub(crate) last: Mutex<Bytes>,
    /// Messages of the bad member wait while this holds.
    pub(crate) stalled: watch::Sender<bool>,
    pub(crate) bulk: Arc<Bulk>,
}

/// What came through of bulk.
#[derive(Debug, Default)]
pub(crate) struct Bulk {
    pub(crate) offers: AtomicUsize,
    pub(crate) written: AtomicU64,
    /// Sinks that are being finished, and the most there were at once.
    pub(crate) finishing: AtomicUsize,
    pub(crate) finishing_max: AtomicUsize,
    pub(crate) finished: AtomicUsize,
    /// Writing and finishing wait while this holds.
    pub(crate) stalled: watch::Sender<bool>,
}

impl Taken {
    pub(crate) fn count(&self, from: u64) -> u64 {
        self.counts.lock().unwrap().get(&from).copied().unwrap_or(0)
    }

    fn of_others(&self) -> u64 {
        let counts = self.counts.lock().unwrap();
        counts.iter().filter(|(from, _)| **from != GOOD).map(|(_, count)| count).sum()
    }
}

async fn released(stalled: &watch::Sender<bool>) {
    // The sender lives as long as whoever waits.
    let _ = stalled.subscribe().wait_for(|stalled| !stalled).await;
}

#[async_trait]
impl Inbound for Taken {
    async fn message(&self, from: NodeId, _: Channel, message: Bytes) {
        *self.counts.lock().unwrap().entry(from.number()).or_default() += 1;
        *self.last.lock().unwrap() = message;
        if from.number() == BAD {
            released(&self.stalled).await;
        }
    }

    fn peer(&self, _: NodeId, _: PeerState) {}

    fn bulk(&self, _: NodeId, _: BulkOffer) -> Result<Box<dyn BulkSink>, String> {
        self.bulk.offers.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Sink(Arc::clone(&self.bulk))))
    }
}

#[derive(Debug)]
struct Sink(Arc<Bulk>);

#[async_trait]
impl BulkSink for Sink {
    fn resume_at(&self) -> u64 {
        0
    }

    async fn write(&mut self, chunk: Bytes) -> Result<(), String> {
        self.0.written.fetch_add(chunk.len() as u64, Ordering::SeqCst);
        released(&self.0.stalled).await;
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), String> {
        let now = self.0.finishing.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.finishing_max.fetch_max(now, Ordering::SeqCst);
        released(&self.0.stalled).await;
        self.0.finishing.fetch_sub(1, Ordering::SeqCst);
        self.0.finished.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// Panics in anything but the tests. A task that panics ends quietly, and this is how it is noticed.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn watch_for_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let at = panic.location().map(ToString::to_string).unwrap_or_default();
            if !at.contains("tests/") {
                PANICS.lock().unwrap().push(at);
            }
            before(panic);
        }));
    });
}

fn no_panics(after: &str) {
    let panics = PANICS.lock().unwrap();
    assert!(panics.is_empty(), "{after}: panics at {panics:?}");
}
