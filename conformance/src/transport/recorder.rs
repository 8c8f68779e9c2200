//! A receiver that writes down what it gets, and stalls when it is told to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use quorate_replicator::{BulkOffer, BulkSink, Channel, Inbound, NodeId, PeerState};
use tokio::sync::watch;

/// Decides about an offer of bulk.
pub(super) type OnBulk =
    Box<dyn Fn(NodeId, BulkOffer) -> Result<Box<dyn BulkSink>, String> + Send + Sync>;

/// Writes down what arrives.
#[derive(Default)]
pub(super) struct Recorder {
    state: Mutex<State>,
    /// What stalls: messages on these (sender, channel) wait.
    stalled: watch::Sender<BTreeSet<(NodeId, Channel)>>,
    on_bulk: Mutex<Option<Arc<OnBulk>>>,
}

#[derive(Default)]
struct State {
    messages: BTreeMap<(NodeId, Channel), Vec<Bytes>>,
    /// Calls of `message` that have begun, returned or not.
    calls: u64,
    /// Calls of `message` that run for a (sender, channel) now.
    running: BTreeSet<(NodeId, Channel)>,
    /// Two calls ran at once for the same sender and channel.
    overlapped: bool,
    peers: Vec<(NodeId, PeerState)>,
}

impl Recorder {
    pub(super) fn messages(&self, from: NodeId, channel: Channel) -> Vec<Bytes> {
        self.state().messages.get(&(from, channel)).cloned().unwrap_or_default()
    }

    pub(super) fn count(&self, from: NodeId, channel: Channel) -> usize {
        self.state().messages.get(&(from, channel)).map_or(0, Vec::len)
    }

    /// Everybody who has sent something.
    pub(super) fn senders(&self) -> BTreeSet<NodeId> {
        self.state().messages.keys().map(|(from, _)| *from).collect()
    }

    pub(super) fn calls(&self) -> u64 {
        self.state().calls
    }

    pub(super) fn overlapped(&self) -> bool {
        self.state().overlapped
    }

    /// What was announced of `peer`, in order.
    pub(super) fn announced(&self, peer: NodeId) -> Vec<PeerState> {
        let state = self.state();
        state.peers.iter().filter(|(id, _)| *id == peer).map(|(_, peer)| peer.clone()).collect()
    }

    /// Makes messages of `from` on `channel` wait, until [`release`](Self::release).
    pub(super) fn stall(&self, from: NodeId, channel: Channel) {
        self.stalled.send_modify(|stalled| {
            stalled.insert((from, channel));
        });
    }

    pub(super) fn release(&self) {
        self.stalled.send_modify(BTreeSet::clear);
    }

    pub(super) fn on_bulk(
        &self,
        decide: impl Fn(NodeId, BulkOffer) -> Result<Box<dyn BulkSink>, String> + Send + Sync + 'static,
    ) {
        let mut on_bulk = self.on_bulk.lock().unwrap_or_else(PoisonError::into_inner);
        *on_bulk = Some(Arc::new(Box::new(decide)));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("calls", &self.calls()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Inbound for Recorder {
    async fn message(&self, from: NodeId, channel: Channel, message: Bytes) {
        let _running = Running::begin(self, (from, channel));
        // The sender lives in this recorder, so waiting cannot fail.
        let _ =
            self.stalled.subscribe().wait_for(|stalled| !stalled.contains(&(from, channel))).await;
        self.state().messages.entry((from, channel)).or_default().push(message);
    }

    fn peer(&self, peer: NodeId, state: PeerState) {
        self.state().peers.push((peer, state));
    }

    fn bulk(&self, from: NodeId, offer: BulkOffer) -> Result<Box<dyn BulkSink>, String> {
        let decide = self.on_bulk.lock().unwrap_or_else(PoisonError::into_inner).clone();
        decide.ok_or("nothing is wanted here")?(from, offer)
    }
}

/// Notices two calls at once.
struct Running<'a>(&'a Recorder, (NodeId, Channel));

impl<'a> Running<'a> {
    fn begin(recorder: &'a Recorder, key: (NodeId, Channel)) -> Self {
        let mut state = recorder.state();
        state.calls += 1;
        if !state.running.insert(key) {
            state.overlapped = true;
        }
        Self(recorder, key)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.state().running.remove(&self.1);
    }
}
