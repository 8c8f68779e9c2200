//! What the transport says about itself.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use quorate_replicator::{BulkId, NodeId, PeerState};

use crate::{ClientName, Expiry, Subject};

/// Most refusals that are remembered.
const REFUSALS_MAX: usize = 64;

/// How the transport stands, at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QuicStatus {
    /// Who this node is to others.
    pub subject: Subject,
    /// Which life of it.
    pub incarnation: u64,
    /// Until when it may be that.
    pub expiry: Expiry,
    /// Where it listens.
    pub listens_on: SocketAddr,
    /// The peers in the order of their ids.
    pub peers: Vec<PeerStatus>,
    /// The clients that are connected, in the order of their coming.
    pub clients: Vec<ClientStatus>,
    /// Bulk bodies under way.
    pub transfers: Vec<TransferStatus>,
    /// Who was refused lately and why, the newest last. What came from one host for one reason stands there once.
    pub refusals: Vec<Refusal>,
    /// How many were refused since the start.
    pub refused: u64,
    /// Connections whose other end has not proved yet who it is.
    pub handshakes: usize,
    /// Tasks that the transport runs.
    pub tasks: usize,
}

/// How the transport stands with one peer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PeerStatus {
    /// The peer.
    pub node: NodeId,
    /// Where it is dialled.
    pub address: String,
    /// Whether it is connected, or why not.
    pub state: PeerState,
    /// Which life of it is connected.
    pub incarnation: Option<u64>,
    /// Until when the certificate holds that it is connected with.
    pub certificate_not_after: Option<SystemTime>,
    /// The round trip, as the connection estimates it.
    pub round_trip: Option<Duration>,
    /// How often it was dialled.
    pub dials: u64,
    /// How often it was connected.
    pub connections: u64,
    /// Messages that were given to a connection.
    pub sent: u64,
    /// Messages that were queued and lost with a connection.
    pub lost: u64,
}

/// How the transport stands with one client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientStatus {
    /// What its certificate calls it.
    pub name: ClientName,
    /// Where it comes from.
    pub address: SocketAddr,
    /// Lanes that are being served.
    pub lanes: usize,
    /// Until when the certificate holds that it is connected with.
    pub certificate_not_after: SystemTime,
    /// The round trip, as the connection estimates it.
    pub round_trip: Duration,
}

/// Somebody who was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// Where it came from the last time.
    pub from: SocketAddr,
    /// Why.
    pub reason: String,
    /// When, the last time.
    pub at: SystemTime,
    /// How often.
    pub count: u64,
}

/// Which way a bulk body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "there are no other ways")]
pub enum Direction {
    /// From this node.
    Sending,
    /// To this node.
    Receiving,
}

/// How far a bulk body has come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransferStatus {
    /// The node at the other end.
    pub peer: NodeId,
    /// Which way it goes.
    pub direction: Direction,
    /// Which body.
    pub id: BulkId,
    /// Its length in bytes.
    pub bytes: u64,
    /// How much of it the receiver has taken, counted from the beginning of the body.
    pub done: u64,
    /// How many bytes were sent or received here in all attempts; what is beyond `bytes` came twice.
    pub moved: u64,
    /// How often it was begun or resumed.
    pub attempts: u32,
}

/// Who was refused lately.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    latest: VecDeque<Refusal>,
    total: u64,
}

impl Refusals {
    /// Notes a refusal. Answers whether it is the first of its sort, and so worth a line in the log.
    pub(crate) fn note(&mut self, from: SocketAddr, reason: &str) -> bool {
        self.total += 1;
        let same = |refusal: &Refusal| refusal.from.ip() == from.ip() && refusal.reason == reason;
        let found = self.latest.iter().position(same).and_then(|at| self.latest.remove(at));
        let count = found.map_or(1, |refusal| refusal.count + 1);
        if self.latest.len() >= REFUSALS_MAX {
            self.latest.pop_front();
        }
        let refusal = Refusal { from, reason: reason.into(), at: SystemTime::now(), count };
        self.latest.push_back(refusal);
        count == 1
    }

    pub(crate) fn latest(&self) -> Vec<Refusal> {
        self.latest.iter().cloned().collect()
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }
}

/// How far one bulk body has come, told by who moves it.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) peer: NodeId,
    pub(crate) direction: Direction,
    pub(crate) id: BulkId,
    pub(crate) bytes: u64,
    pub(crate) done: AtomicU64,
    pub(crate) moved: AtomicU64,
    pub(crate) attempts: AtomicU32,
}

impl Progress {
    pub(crate) fn new(peer: NodeId, direction: Direction, id: BulkId, bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            peer,
            direction,
            id,
            bytes,
            done: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            attempts: AtomicU32::new(0),
        })
    }

    pub(crate) fn status(&self) -> TransferStatus {
        let Self { peer, direction, id, bytes, .. } = *self;
        TransferStatus {
            peer,
            direction,
            id,
            bytes,
            done: self.done.load(Ordering::Relaxed),
            moved: self.moved.load(Ordering::Relaxed),
            attempts: self.attempts.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_one_sort_are_one_and_the_oldest_goes() {
        let mut refusals = Refusals::default();
        let from = |port| SocketAddr::from(([127, 0, 0, 1], port));
        assert!(refusals.note(from(1), "no certificate"));
        assert!(!refusals.note(from(2), "no certificate"));
        assert!(refusals.note(from(2), "expired"));
        let latest = refusals.latest();
        assert_eq!(latest.len(), 2);
        assert_eq!((latest[0].count, latest[0].from), (2, from(2)));
        for number in 0..1000 {
            refusals.note(from(1), &number.to_string());
        }
        assert_eq!((refusals.latest().len(), refusals.total()), (REFUSALS_MAX, 1003));
    }
}
