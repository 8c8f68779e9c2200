//! Lets in whoever dials and belongs here.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use quinn::{Connecting, Connection, Endpoint, SendStream};
use tokio::sync::oneshot;

use crate::Subject;
use crate::admission::Verdict;
use crate::certificate::Certified;
use crate::codec::Kind;
use crate::contact::Greeted;
use crate::explain::{self, CloseCode, close};
use crate::frame_stream::{FrameStream, StreamError};
use crate::hello::Hello;
use crate::link::serve;
use crate::node::{Node, proved};
use crate::peer::{Link, Peer};

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
        Ok(Ok(Admitted { peer, link, mut send, hello })) => {
            // From here on the connection counts. If the greeting cannot be written the connection is lost, and serving it
            // finds that out.
            node.limits.open(&link.connection);
            let _ = send.write_chunk(hello).await;
            let _ = send.finish();
            serve(&node, &peer, link).await;
        }
        Ok(Err(Some(reason))) => node.refuse(from, &reason),
        Ok(Err(None)) => {}
        // The connection was let go of, and is closed by that.
        Err(_) => node.refuse(from, &format!("it did not greet within {within:?}")),
    }
}

/// A connection that counts, and is to be greeted.
struct Admitted {
    peer: Arc<Peer>,
    link: Arc<Link>,
    send: SendStream,
    hello: Bytes,
}

/// The connection, once its greeting has come and fits; or why not, if that is worth being told.
async fn admit(node: &Arc<Node>, connecting: Connecting) -> Result<Admitted, Option<String>> {
    let lost = |error| Some(explain::lost("whoever dialled", &error));
    let connection = connecting.await.map_err(lost)?;
    let turn_away = |code, words: String| {
        close(&connection, code, &words);
        Some(words)
    };
    let certified = proved(&connection).map_err(|words| turn_away(CloseCode::Greeting, words))?;
    let peer = member(node, &certified).map_err(|(code, words)| turn_away(code, words))?;
    greet_peer(node, &connection, &peer, &certified).await
}

/// Which peer somebody is with this certificate.
fn member(node: &Node, certified: &Certified) -> Result<Arc<Peer>, (CloseCode, String)> {
    match &certified.subject {
        Subject::Node { node: id, .. } => node.peer(*id).ok_or_else(|| {
            let words = if *id == node.id {
                format!(
                    "somebody comes with this node's own certificate, {id}; is it running twice?"
                )
            } else {
                format!("{id} is not a peer of {}; add it to the members first", node.id)
            };
            (CloseCode::NotAPeer, words)
        }),
        Subject::Client { name, .. } => {
            let words =
                format!("client {name} cannot speak as a node; its certificate is a client's");
            Err((CloseCode::Client, words))
        }
    }
}

async fn greet_peer(
    node: &Arc<Node>,
    connection: &Connection,
    peer: &Arc<Peer>,
    certified: &Certified,
) -> Result<Admitted, Option<String>> {
    let id = peer.id;
    let turn_away = |code, words: String| {
        close(connection, code, &words);
        Some(words)
    };
    let failed = |error: StreamError| match error {
        StreamError::Lost(error) => Some(explain::lost(&id.to_string(), &error)),
        other => turn_away(CloseCode::Protocol, format!("{id} does not greet: {other}")),
    };
    let opened = connection.accept_bi().await;
    let (send, recv) = opened.map_err(|error| failed(StreamError::Lost(error)))?;
    let mut frames = FrameStream::greeting(recv, node.limits.stall_timeout);
    let body = frames.expect().await.and_then(|frame| Ok(frame.expect(Kind::Hello)?));
    let theirs = body.and_then(|body| Ok(Hello::decode(body)?)).map_err(failed)?;
    if let Err(words) = theirs.check(node.cluster, id, node.id) {
        return Err(turn_away(CloseCode::Greeting, words));
    }
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
        (Greeted::Stale(words), _) => return Err(turn_away(CloseCode::Stale, words)),
    };
    let link = Link {
        connection: connection.clone(),
        generation,
        incarnation: theirs.incarnation,
        not_after: certified.not_after,
    };
    let hello = node.hello(id, attempt).encode();
    Ok(Admitted { peer: Arc::clone(peer), link: Arc::new(link), send, hello })
}
