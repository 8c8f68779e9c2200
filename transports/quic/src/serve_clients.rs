//! Serves one connection of a client, from when both ends have greeted to its end.
//!
//! ```text
//!   LaneSender, LaneReceiver <--- one bidi stream for each lane ---> Lane --task--> Clients::serve
//! ```
//!
//! 1. A client is no peer: it has lanes and nothing else, whatever it sends.
//! 2. Everything of a connection runs in tasks that end with it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use quinn::Connection;
use tokio::task::JoinSet;

use crate::explain::{CloseCode, THIS_NODE};
use crate::lane::{Carrier, Lane};
use crate::node::Node;
use crate::status::ClientStatus;
use crate::subject::ClientName;

/// What serves the clients of a node.
#[async_trait]
pub trait Clients: fmt::Debug + Send + Sync + 'static {
    /// Serves one lane of a client to its end. `client` is the name in the certificate; a client may have several connections, and
    /// each has several lanes, which are served at once.
    ///
    /// Reading from the lane is what gives the client room for more: who stops reading stops the client, and keeps what it
    /// has sent within the limits.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped when the connection ends, or the node closes.
    async fn serve(&self, client: &ClientName, lane: Lane);
}

/// The clients that are connected.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    came: u64,
    present: BTreeMap<u64, Arc<Guest>>,
}

impl Guests {
    pub(crate) fn status(&self) -> Vec<ClientStatus> {
        self.present.values().map(|guest| guest.status()).collect()
    }
}

/// A client that is connected.
#[derive(Debug)]
struct Guest {
    name: ClientName,
    carrier: Arc<Carrier>,
    not_after: SystemTime,
    lanes: AtomicUsize,
}

impl Guest {
    fn status(&self) -> ClientStatus {
        let connection = &self.carrier.connection;
        ClientStatus {
            name: self.name.clone(),
            address: connection.remote_address(),
            lanes: self.lanes.load(Ordering::Relaxed),
            certificate_not_after: self.not_after,
            round_trip: connection.rtt(),
        }
    }
}

/// A client's place among those that are connected, for as long as it is held.
#[derive(Debug)]
pub(crate) struct Entered {
    node: Arc<Node>,
    number: u64,
    guest: Arc<Guest>,
    clients: Arc<dyn Clients>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.node.guests().present.remove(&self.number);
    }
}

/// Gives a client a place; or says in words that there is none.
pub(crate) fn enter(
    node: &Arc<Node>,
    connection: &Connection,
    name: &str,
    not_after: SystemTime,
    clients: Arc<dyn Clients>,
) -> Result<Entered, String> {
    let who = format!("client {name}");
    let carrier = Carrier::new(connection.clone(), THIS_NODE, who, node.limits.stall_timeout, None);
    let guest = Arc::new(Guest {
        name: ClientName::new(name),
        carrier: Arc::new(carrier),
        not_after,
        lanes: AtomicUsize::new(0),
    });
    let mut guests = node.guests();
    let max = node.limits.clients_max;
    if guests.present.len() >= max {
        return Err(format!(
            "{} serves {max} clients already (limits.clients_max); dial another node",
            node.id
        ));
    }
    guests.came += 1;
    let number = guests.came;
    guests.present.insert(number, Arc::clone(&guest));
    Ok(Entered { node: Arc::clone(node), number, guest, clients })
}

/// Serves a client; returns when nothing of its connection runs any more.
pub(crate) async fn serve(entered: Entered) {
    let Entered { node, guest, clients, .. } = &entered;
    let _counted = node.serving();
    let Guest { name, carrier, not_after, .. } = &**guest;
    let connection = &carrier.connection;
    let from = connection.remote_address();
    tracing::info!(node = %node.id, client = %name, %from, "a client is connected");
    let lanes_max = node.limits.client_lanes_max as usize;
    let mut lanes = JoinSet::new();
    let left = not_after.duration_since(SystemTime::now()).unwrap_or_default();
    let expired = tokio::time::sleep(left);
    tokio::pin!(expired);
    let words = loop {
        guest.lanes.store(lanes.len(), Ordering::Relaxed);
        tokio::select! {
            words = carrier.closed() => break words,
            // Streams beyond the limit wait here if the client could open them: it was given some for the greeting.
            streams = connection.accept_bi(), if lanes.len() < lanes_max => {
                let Ok((send, recv)) = streams else { continue };
                let lane = Lane::new(carrier, send, recv, None);
                let (clients, name) = (Arc::clone(clients), name.clone());
                lanes.spawn(async move { clients.serve(&name, lane).await });
            }
            stream = connection.accept_uni() => {
                if stream.is_ok() {
                    let words = format!("client {name} broke the protocol: it opened a stream in one direction");
                    carrier.end(CloseCode::Protocol, &words);
                }
            }
            Some(_) = lanes.join_next() => {}
            () = &mut expired, if !carrier.has_ended() => {
                let words = format!("the certificate that client {name} came with has expired");
                carrier.end(CloseCode::Expired, &words);
            }
        }
    };
    if carrier.has_ended() {
        node.refuse(from, &words);
    }
    tracing::info!(node = %node.id, client = %name, %from, "a client is gone: {words}");
    // Aborts what is left and waits for it.
    lanes.shutdown().await;
}
