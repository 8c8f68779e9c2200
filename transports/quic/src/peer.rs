//! Another node, as this node knows it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use quinn::Connection;
use quorate_replicator::{Channel, NodeId, PeerState};
use tokio::sync::{Notify, Semaphore, watch};

use crate::Limits;
use crate::contact::Contact;
use crate::explain::{CloseCode, close};
use crate::queue::Queue;
use crate::status::PeerStatus;

/// A node that this one may speak with.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    queues: [Queue; Channel::ALL.len()],
    /// How it stands; what others wait on.
    standing: watch::Sender<Standing>,
    /// The connection there was has ended.
    pub(crate) lost: Notify,
    /// The address is another one.
    pub(crate) moved: Notify,
    /// Held while a connection is served, so that the next one begins after the last has ended.
    pub(crate) serving: tokio::sync::Mutex<()>,
    /// One permit for each bulk body that it may be sending, held until the body is finished: that goes on without a stream.
    pub(crate) sinks: Arc<Semaphore>,
    // Short sections, never across an await.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    address: String,
    contact: Contact,
    /// The connection that counts.
    connection: Option<Connection>,
}

/// How this node stands with a peer.
#[derive(Clone, Debug)]
pub(crate) enum Standing {
    /// Not connected, and why.
    Connecting(Option<String>),
    /// Connected.
    Connected(Arc<Link>),
    /// No peer any more.
    Removed,
}

/// A connection on which both ends have greeted.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) connection: Connection,
    /// Its number among the connections of the pair.
    pub(crate) generation: u64,
    /// Which life of the peer.
    pub(crate) incarnation: u64,
    /// Until when the certificate holds that the peer came with.
    pub(crate) not_after: SystemTime,
}

impl Peer {
    pub(crate) fn new(me: NodeId, id: NodeId, address: String, limits: &Limits) -> Self {
        Self {
            id,
            queues: Channel::ALL.map(|_| Queue::new(limits)),
            standing: watch::Sender::new(Standing::Connecting(None)),
            lost: Notify::new(),
            moved: Notify::new(),
            serving: tokio::sync::Mutex::default(),
            sinks: Arc::new(Semaphore::new(limits.bulk_transfers_max as usize)),
            state: Mutex::new(State { address, contact: Contact::new(me, id), connection: None }),
        }
    }

    pub(crate) fn queue(&self, channel: Channel) -> &Queue {
        &self.queues[channel as usize]
    }

    pub(crate) fn queues(&self) -> impl Iterator<Item = &Queue> {
        self.queues.iter()
    }

    pub(crate) fn address(&self) -> String {
        self.state().address.clone()
    }

    pub(crate) fn set_address(&self, address: String) {
        self.state().address = address;
        self.moved.notify_one();
    }

    pub(crate) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    pub(crate) fn is_removed(&self) -> bool {
        matches!(*self.standing.borrow(), Standing::Removed)
    }

    pub(crate) fn peer_state(&self) -> PeerState {
        match &*self.standing.borrow() {
            Standing::Connected(_) => PeerState::Connected,
            Standing::Connecting(reason) => PeerState::Connecting { reason: reason.clone() },
            Standing::Removed => {
                PeerState::Connecting { reason: Some(format!("{} is no peer any more", self.id)) }
            }
        }
    }

    /// Ends what there is with the peer, for good.
    pub(crate) fn remove(&self, words: &str) {
        self.standing.send_replace(Standing::Removed);
        let connection = self.state().connection.take();
        if let Some(connection) = connection {
            close(&connection, CloseCode::NotAPeer, words);
        }
        self.lost.notify_one();
        self.moved.notify_one();
    }

    /// Asks what the rules say, see [`Contact`].
    pub(crate) fn contact<T>(&self, ask: impl FnOnce(&mut Contact) -> T) -> T {
        ask(&mut self.state().contact)
    }

    /// As [`contact`](Self::contact), and if the answer is a number, `connection` is the one that counts under it. What was
    /// there before is closed.
    pub(crate) fn link<T>(
        &self,
        connection: &Connection,
        ask: impl FnOnce(&mut Contact) -> T,
        number: impl FnOnce(&T) -> Option<u64>,
    ) -> T {
        let (answer, before) = {
            let mut state = self.state();
            let answer = ask(&mut state.contact);
            let linked = number(&answer).is_some();
            let before = if linked { state.connection.replace(connection.clone()) } else { None };
            (answer, before)
        };
        if let Some(before) = before {
            close(&before, CloseCode::Superseded, "a newer connection has taken over");
        }
        answer
    }

    /// The connection is served from now on, unless it does not count any more.
    pub(crate) fn connected(&self, link: &Arc<Link>) -> bool {
        let state = self.state();
        let counts = state.contact.counts(link.generation) && !self.is_removed();
        if counts {
            self.standing.send_replace(Standing::Connected(Arc::clone(link)));
        }
        counts
    }

    /// A dial came to nothing.
    pub(crate) fn failed(&self, words: String) {
        let state = self.state();
        // Another connection may have been made meanwhile, and its standing is the right one.
        if !state.contact.is_linked() && !self.is_removed() {
            self.standing.send_replace(Standing::Connecting(Some(words)));
        }
    }

    /// The connection of this number has ended.
    pub(crate) fn lost(&self, generation: u64, words: String) {
        {
            let mut state = self.state();
            if state.contact.counts(generation) {
                state.connection = None;
                state.contact.lost(generation);
                if !self.is_removed() {
                    self.standing.send_replace(Standing::Connecting(Some(words)));
                }
            }
        }
        self.lost.notify_one();
    }

    pub(crate) fn status(&self) -> PeerStatus {
        let link = match &*self.standing.borrow() {
            Standing::Connected(link) => Some(Arc::clone(link)),
            Standing::Connecting(_) | Standing::Removed => None,
        };
        let counters = self.queues.iter().map(Queue::counters);
        let (sent, lost) =
            counters.fold((0, 0), |(sent, lost), more| (sent + more.0, lost + more.1));
        let (dials, connections) = self.contact(|contact| (contact.dials(), contact.connections()));
        PeerStatus {
            node: self.id,
            address: self.address(),
            state: self.peer_state(),
            incarnation: link.as_ref().map(|link| link.incarnation),
            certificate_not_after: link.as_ref().map(|link| link.not_after),
            round_trip: link.as_ref().map(|link| link.connection.rtt()),
            dials,
            connections,
            sent,
            lost,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
