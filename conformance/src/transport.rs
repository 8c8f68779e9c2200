//! What every transport must do.
//!
//! [`transport`] runs all cases. It needs a network that loses nothing while no link is cut: the contract lets messages
//! be lost, but a transport that loses them for no reason is of no use, and this suite would call it broken.

mod bulk;
mod channels;
mod life;
mod recorder;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use quorate_replicator::{Channel, NodeId, PeerState, SendError, Transport};

pub use bulk::{
    bulk_body_arrives_whole, bulk_body_without_bytes_is_finished, bulk_cut_at_ten_places_resumes,
    bulk_sender_learns_of_a_closed_transport, bulk_sink_failure_reaches_the_sender,
    bulk_source_failure_reaches_the_sender, bulk_stalled_delays_no_message,
    bulk_that_is_refused_says_why, bulk_to_an_unknown_peer_is_refused,
};
pub use channels::{
    a_full_queue_refuses_and_loses_nothing, a_message_too_large_is_refused,
    a_stalled_channel_stops_no_other, an_unknown_peer_is_refused, messages_arrive_on_every_channel,
    order_holds_within_a_channel, the_sender_is_who_it_is,
};
pub use life::{
    a_closed_transport_is_closed, a_cut_link_comes_back, nothing_arrives_twice_over_a_cut,
    peers_are_listed_and_announced,
};

use crate::eventually::{eventually, within};
use recorder::Recorder;

/// Makes the networks that the cases run on.
#[async_trait]
pub trait TransportFactory: fmt::Debug + Send + Sync {
    /// A new network of `nodes` transports that can reach one another, each listing the others as peers. It has nothing
    /// to do with earlier ones.
    async fn open(&self, nodes: usize) -> Box<dyn Network>;
}

/// Connected transports, and the means to cut them apart.
#[async_trait]
pub trait Network: fmt::Debug + Send + Sync {
    /// The transports; [`Transport::receive`] has not been called on them.
    fn transports(&self) -> Vec<Arc<dyn Transport>>;

    /// Cuts the link between two nodes, in both directions. When this returns, nothing more passes.
    async fn cut(&self, a: NodeId, b: NodeId);

    /// Lets the link carry again; the transports find out by themselves.
    async fn heal(&self, a: NodeId, b: NodeId);

    /// Ends what the factory made around the transports. The transports have been closed before.
    async fn shutdown(&self);
}

macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        /// The names of all cases, in the order in which [`transport`] runs them.
        pub const CASES: &[&str] = &[$(stringify!($case)),*];

        /// Runs all cases, and answers the names of those that passed: all of them, or it panics.
        ///
        /// # Panics
        ///
        /// At the first clause of the contract that does not hold, naming it.
        ///
        /// # Cancel safety
        ///
        /// A dropped future leaves the network of the running case open.
        pub async fn transport<F: TransportFactory>(factory: F) -> &'static [&'static str] {
            $($case(&factory).await;)*
            CASES
        }
    };
}

cases![
    messages_arrive_on_every_channel,
    order_holds_within_a_channel,
    the_sender_is_who_it_is,
    a_message_too_large_is_refused,
    an_unknown_peer_is_refused,
    a_full_queue_refuses_and_loses_nothing,
    a_stalled_channel_stops_no_other,
    peers_are_listed_and_announced,
    a_cut_link_comes_back,
    nothing_arrives_twice_over_a_cut,
    bulk_body_arrives_whole,
    bulk_body_without_bytes_is_finished,
    bulk_that_is_refused_says_why,
    bulk_sink_failure_reaches_the_sender,
    bulk_source_failure_reaches_the_sender,
    bulk_to_an_unknown_peer_is_refused,
    bulk_stalled_delays_no_message,
    bulk_cut_at_ten_places_resumes,
    bulk_sender_learns_of_a_closed_transport,
    a_closed_transport_is_closed,
];

/// One network with a recorder behind each transport.
struct Fixture {
    case: &'static str,
    network: Box<dyn Network>,
    transports: Vec<Arc<dyn Transport>>,
    recorders: Vec<Arc<Recorder>>,
}

impl Fixture {
    /// Opens a network and waits until all are connected with all.
    async fn open<F: TransportFactory>(case: &'static str, factory: &F, nodes: usize) -> Self {
        let network = factory.open(nodes).await;
        let transports = network.transports();
        assert_eq!(
            transports.len(),
            nodes,
            "{case}: the factory made another number of transports"
        );
        let recorders: Vec<_> = transports.iter().map(|_| Arc::new(Recorder::default())).collect();
        for (transport, recorder) in transports.iter().zip(&recorders) {
            transport.receive(Arc::clone(recorder) as _);
        }
        let fixture = Self { case, network, transports, recorders };
        for node in 0..nodes {
            for peer in (0..nodes).filter(|peer| *peer != node) {
                fixture.connected(node, peer).await;
            }
        }
        fixture
    }

    fn id(&self, node: usize) -> NodeId {
        self.transports[node].local_id()
    }

    /// How `node` says that it stands with `peer`.
    fn state(&self, node: usize, peer: usize) -> Option<PeerState> {
        let peer = self.id(peer);
        let peers = self.transports[node].peers();
        peers.into_iter().find(|(id, _)| *id == peer).map(|(_, state)| state)
    }

    async fn connected(&self, node: usize, peer: usize) {
        let clause = self.clause("nodes that can reach one another become Connected");
        eventually(&clause, || self.state(node, peer) == Some(PeerState::Connected)).await;
    }

    /// Queues a message, waiting while the queue is full.
    async fn send(&self, from: usize, to: usize, channel: Channel, message: Bytes) {
        let clause = self.clause("a full queue empties when the receiver takes messages");
        let to = self.id(to);
        eventually(&clause, || match self.transports[from].send(to, channel, message.clone()) {
            Ok(()) => true,
            Err(SendError::QueueFull) => false,
            Err(error) => panic!("{}: a message to a peer was refused: {error}", self.case),
        })
        .await;
    }

    /// Waits until `node` has got `count` messages of `from` on `channel`.
    async fn arrived(
        &self,
        node: usize,
        from: usize,
        channel: Channel,
        count: usize,
    ) -> Vec<Bytes> {
        let (recorder, from) = (&self.recorders[node], self.id(from));
        let clause = self.clause("what is sent on a whole link arrives");
        eventually(&clause, || recorder.count(from, channel) >= count).await;
        recorder.messages(from, channel)
    }

    /// Sends markers until one arrives, so that the link is known to carry. Answers how many messages there were.
    async fn carries(&self, from: usize, to: usize, channel: Channel) -> usize {
        let before = self.recorders[to].count(self.id(from), channel);
        let clause = self.clause("a link that was healed carries messages again");
        eventually(&clause, || {
            // A refusal is as good as a loss here: the next marker follows.
            let _ = self.transports[from].send(self.id(to), channel, Bytes::from_static(b"marker"));
            self.recorders[to].count(self.id(from), channel) > before
        })
        .await;
        before
    }

    fn clause(&self, clause: &str) -> String {
        format!("{}: {clause}", self.case)
    }

    /// Closes everything; each transport must end.
    async fn close(self) {
        self.recorders.iter().for_each(|recorder| recorder.release());
        for transport in &self.transports {
            within(&self.clause("close returns"), transport.close()).await;
        }
        within(&self.clause("the factory's shutdown returns"), self.network.shutdown()).await;
    }
}

/// A message that says which it is, of `bytes` bytes or a few more.
fn numbered(number: u64, bytes: usize) -> Bytes {
    let mut message = number.to_be_bytes().to_vec();
    message.resize(bytes.max(8), (number % 251) as u8);
    message.into()
}

/// The number in a message of [`numbered`], if the message is whole.
fn number(message: &Bytes) -> Option<u64> {
    let (head, rest) = message.split_first_chunk::<8>()?;
    let number = u64::from_be_bytes(*head);
    rest.iter().all(|byte| *byte == (number % 251) as u8).then_some(number)
}
