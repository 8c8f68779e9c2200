//! Lets in whoever dials and belongs here.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use quinn::{Connecting, Connection, ConnectionError, Endpoint, SendStream};
use quorate_replicator::NodeId;
use tokio::sync::oneshot;

use crate::admission::Verdict;
use crate::certificate::Certified;
use crate::codec::{FrameError, Kind};
use crate::contact::Greeted;
use crate::explain::{self, CloseCode, close};
use crate::frame_stream::StreamError;
use crate::hello::{ClientHello, Hello, greeted};
use crate::link::serve;
use crate::node::{Node, proved};
use crate::peer::{Link, Peer};
use crate::serve_clients::{self, Entered};
use crate::{Clients, Subject};

/// Judges whoever dials, for as long as the node is open.
pub(crate) async fn accept(node: Arc<Node>, endpoint: Endpoint) {
    // Tells a handshake that its place is taken.
    let mut places = HashMap::<u64, oneshot::Sender<()>>::new();
    while let Some(incoming) = endpoint.accept().await {
        let from = incoming.remote_address();
        let proved = incoming.remote_address_validated();
        let verdict = node.admission().judge(node.now(), from.ip(), proved);
        match verdict {
            Verdict::Prove => {
                // Only who has proved its address cannot be asked to, and was not.
                let _ = incoming.retry();
            }
            Verdict::Refuse(reason) => {
                node.refuse(from, &reason);
                incoming.refuse();
            }
            Verdict::Accept { number, instead_of } => {
                if let Some(place) = instead_of.and_then(|number| places.remove(&number)) {
                    // One that has just ended does not mind.
                    let _ = place.send(());
                }
                places.retain(|_, place| !place.is_closed());
                let (place, displaced) = oneshot::channel();
                places.insert(number, place);
                let handshake = Handshake { node: Arc::clone(&node), from, number, displaced };
                match incoming.accept() {
                    Ok(connecting) => {
                        node.spawn(greet(Arc::clone(&node), connecting, handshake));
                    }
                    Err(error) => {
                        node.refuse(from, &explain::lost("whoever dialled", &error));
                    }
                }
            }
        }
    }
}

/// A handshake under way; it is over when this is let go.
struct Handshake {
    node: Arc<Node>,
    from: SocketAddr,
    number: u64,
    /// Its place is taken by another one.
    displaced: oneshot::Receiver<()>,
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.node.admission().ended(self.number);
    }
}

/// Sees one connection through the handshake and the greeting, and then serves it.
async fn greet(node: Arc<Node>, connecting: Connecting, mut handshake: Handshake) {
    let from = handshake.from;
    let within = node.limits.handshake_timeout;
    let greeted = tokio::select! {
        biased;
        greeted = tokio::time::timeout(within, admit(&node, connecting)) => greeted,
        Ok(()) = &mut handshake.displaced => {
            let words = "it did not greet before others needed its place (limits.handshakes_max)";
            Ok(Err(Some(words.to_owned())))
        }
    };
    drop(handshake);
    match greeted {
        Ok(Ok(Admitted { comer, mut send, hello })) => {
            // From here on the connection counts. If the greeting cannot be written the connection is lost, and serving it
            // finds that out; one that takes its time over it must not be left unserved.
            let _ = tokio::time::timeout(within, send.write_chunk(hello)).await;
            let _ = send.finish();
            match comer {
                Comer::Peer(peer, link) => serve(&node, &peer, link).await,
                Comer::Client(entered) => serve_clients::serve(entered).await,
            }
        }
        Ok(Err(Some(reason))) => node.refuse(from, &reason),
        Ok(Err(None)) => {}
        // The connection was let go of, and is closed by that.
        Err(_) => node.refuse(from, &format!("it did not greet within {within:?}")),
    }
}

/// A connection that counts, and is to be greeted.
struct Admitted {
    comer: Comer,
    send: SendStream,
    hello: Bytes,
}

/// Who has come.
enum Comer {
    Peer(Arc<Peer>, Arc<Link>),
    Client(Entered),
}

/// What is done about somebody who is turned away, with words.
fn turn_away(connection: &Connection, code: CloseCode, words: String) -> Option<String> {
    close(connection, code, &words);
    Some(words)
}

/// Why a greeting did not come.
fn silent(connection: &Connection, who: &str, error: StreamError) -> Option<String> {
    match error {
        StreamError::Lost(error) => lost(who, &error),
        other => {
            turn_away(connection, CloseCode::Protocol, format!("{who} does not greet: {other}"))
        }
    }
}

/// Why a connection ended before it counted, if that is worth being told.
fn lost(who: &str, error: &ConnectionError) -> Option<String> {
    (!explain::is_given_up(error)).then(|| explain::lost(who, error))
}

/// The connection, once its greeting has come and fits; or why not, if that is worth being told.
async fn admit(node: &Arc<Node>, connecting: Connecting) -> Result<Admitted, Option<String>> {
    let connection = connecting.await.map_err(|error| lost("whoever dialled", &error))?;
    let away = |code, words| turn_away(&connection, code, words);
    let certified = proved(&connection).map_err(|words| away(CloseCode::Greeting, words))?;
    match &certified.subject {
        Subject::Node { node: id, .. } => {
            let peer = member(node, *id).map_err(|words| away(CloseCode::NotAPeer, words))?;
            greet_peer(node, &connection, &peer, &certified).await
        }
        Subject::Client { name, .. } => {
            let clients = node.clients().ok_or_else(|| {
                let words = format!(
                    "client {name} cannot speak as a node, and {} serves no clients; dial a node that does, or have \
                     this one serve them",
                    node.id
                );
                away(CloseCode::Client, words)
            })?;
            greet_client(node, &connection, name, certified.not_after, clients).await
        }
    }
}

/// The peer of this id.
fn member(node: &Node, id: NodeId) -> Result<Arc<Peer>, String> {
    node.peer(id).ok_or_else(|| {
        if id == node.id {
            format!("somebody comes with this node's own certificate, {id}; is it running twice?")
        } else {
            format!(
                "{id} is not a peer of {}; add it to the members first, and if it was removed from them, under a new number",
                node.id
            )
        }
    })
}

async fn greet_client(
    node: &Arc<Node>,
    connection: &Connection,
    name: &str,
    not_after: SystemTime,
    clients: Arc<dyn Clients>,
) -> Result<Admitted, Option<String>> {
    let who = format!("client {name}");
    let failed = |error| match error {
        StreamError::Frame(FrameError::Unexpected { found: Kind::Hello, .. }) => {
            let words = format!("{who} cannot speak as a node; its certificate is a client's");
            turn_away(connection, CloseCode::Client, words)
        }
        other => silent(connection, &who, other),
    };
    let stall_timeout = node.limits.stall_timeout;
    let (body, send) =
        greeted(connection, Kind::ClientHello, stall_timeout).await.map_err(failed)?;
    let theirs = ClientHello::decode(body).map_err(|error| failed(error.into()))?;
    theirs
        .check(node.cluster, name)
        .map_err(|words| turn_away(connection, CloseCode::Greeting, words))?;
    let entered = serve_clients::enter(node, connection, name, not_after, clients)
        .map_err(|words| turn_away(connection, CloseCode::Full, words))?;
    node.limits.open_to_client(connection);
    Ok(Admitted { comer: Comer::Client(entered), send, hello: node.welcome().encode() })
}

async fn greet_peer(
    node: &Arc<Node>,
    connection: &Connection,
    peer: &Arc<Peer>,
    certified: &Certified,
) -> Result<Admitted, Option<String>> {
    let id = peer.id;
    let failed = |error| silent(connection, &id.to_string(), error);
    let stall_timeout = node.limits.stall_timeout;
    let (body, send) = greeted(connection, Kind::Hello, stall_timeout).await.map_err(failed)?;
    let theirs = Hello::decode(body).map_err(|error| failed(error.into()))?;
    theirs
        .check(node.cluster, id, node.id)
        .map_err(|words| turn_away(connection, CloseCode::Greeting, words))?;
    let greeted = peer.link(
        connection,
        |contact| (contact.greeted(node.now(), &theirs), contact.attempt()),
        |(greeted, _)| if let Greeted::Accept(number) = greeted { Some(*number) } else { None },
    );
    let (generation, attempt) = match greeted {
        (Greeted::Accept(number), attempt) => (number, attempt),
        (Greeted::Crossed, _) => {
            close(connection, CloseCode::Crossed, "this node dials too, and goes first");
            return Err(None);
        }
        (Greeted::Stale(words), _) => {
            return Err(turn_away(connection, CloseCode::Stale, words));
        }
    };
    let link = Link {
        connection: connection.clone(),
        generation,
        incarnation: theirs.incarnation,
        not_after: certified.not_after,
    };
    let hello = node.hello(id, attempt).encode();
    node.limits.open(connection);
    Ok(Admitted { comer: Comer::Peer(Arc::clone(peer), Arc::new(link)), send, hello })
}
