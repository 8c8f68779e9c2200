//! Keeps a peer connected: dials it when there is no connection, with pauses that grow.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::codec::Kind;
use crate::explain::{self, CloseCode, close};
use crate::frame_stream::StreamError;
use crate::hello::{Hello, greet};
use crate::link::serve;
use crate::node::{Node, proved};
use crate::peer::{Link, Peer, Standing};
use crate::resolve::{fitting, lookup};
use crate::{Subject, tls};

/// How long a connection has to last for the pauses to begin anew.
const LASTING: Duration = Duration::from_secs(1);

/// Why a dial came to nothing.
enum Failure {
    /// In words, for people.
    Because(String),
    /// The peer has dialled too, and its connection is the one to be.
    Crossed,
    /// The peer has dialled too, and its connection counts already.
    Overtaken,
}

/// Dials `peer` whenever there is no connection with it, until it is a peer no more.
pub(crate) async fn keep_connected(node: Arc<Node>, peer: Arc<Peer>) {
    let (pause_min, pause_max) = (node.limits.backoff_min, node.limits.backoff_max);
    let mut pause = pause_min;
    while !peer.is_removed() {
        let began = Instant::now();
        let attempt = node.next_dial();
        let begins = peer.contact(|contact| contact.begin_dial(node.now(), attempt));
        let ended = match begins {
            true => attend(&node, &peer, attempt).await,
            false => {
                // A connection that the peer has made counts; its end is told.
                peer.lost.notified().await;
                Ok(())
            }
        };
        match ended {
            Ok(()) if began.elapsed() >= LASTING => pause = pause_min,
            Err(Failure::Because(words)) => {
                peer.failed(words);
                node.changed();
            }
            Err(Failure::Crossed) => pause = pause_min,
            Ok(()) | Err(Failure::Overtaken) => {}
        }
        // Between half of the pause and all of it, so that nodes that lost one another at once come back apart. A new
        // address is worth a try at once.
        let drawn = pause.mul_f64(0.5 + 0.5 * fastrand::f64());
        let _ = tokio::time::timeout(drawn, peer.moved.notified()).await;
        pause = (pause * 2).min(pause_max);
    }
}

/// Dials once, and serves the connection that comes of it until it ends.
async fn attend(node: &Arc<Node>, peer: &Arc<Peer>, attempt: u64) -> Result<(), Failure> {
    let within = node.limits.handshake_timeout;
    let dialled = tokio::select! {
        dialled = tokio::time::timeout(within, dial(node, peer, attempt)) => {
            dialled.unwrap_or_else(|_| {
                let (id, at) = (peer.id, peer.address());
                Err(Failure::Because(format!("{id} at {at} does not answer within {within:?}")))
            })
        }
        () = overtaken(peer) => Err(Failure::Overtaken),
    };
    peer.contact(|contact| contact.end_dial(attempt));
    serve(node, peer, dialled?).await;
    Ok(())
}

/// Waits until the peer is connected by other means, or is a peer no more.
async fn overtaken(peer: &Peer) {
    let mut standing = peer.standing();
    // The sender lives in the peer, so waiting cannot fail.
    let _ = standing.wait_for(|standing| !matches!(standing, Standing::Connecting(_))).await;
}

async fn dial(node: &Arc<Node>, peer: &Arc<Peer>, attempt: u64) -> Result<Arc<Link>, Failure> {
    let address = peer.address();
    let because = |words: String| Failure::Because(words);
    let endpoint = node.endpoint().ok_or_else(|| because("this node closes".into()))?;
    let found = lookup(&address).await;
    let at = found.and_then(|found| fitting(&found, node.listens_on)).map_err(|problem| {
        because(format!("{address:?}, where {} should be, {problem}", peer.id))
    })?;
    let who = format!("{} at {address}", peer.id);
    let client = node.credentials().client.clone();
    let connecting = endpoint
        .connect_with(client, at, tls::SERVER_NAME)
        .map_err(|error| because(format!("{who} cannot be dialled: {error}")))?;
    let connection = connecting.await.map_err(|error| because(explain::lost(&who, &error)))?;

    // The handshake is over here and not yet at the other end, which has still to judge this node's certificate: what counts is
    // its greeting.
    let certified =
        proved(&connection).map_err(|problem| because(format!("{who} is refused: {problem}")))?;
    let expected = Subject::node(node.cluster, peer.id);
    if certified.subject != expected {
        let found = certified.subject.short_name();
        let words = format!(
            "{found} is at {address}, where {} should be; check the table of peers",
            peer.id
        );
        close(&connection, CloseCode::Greeting, &words);
        return Err(because(words));
    }
    let failed = |error: StreamError| match error {
        StreamError::Lost(error) if explain::is_crossed(&error) => Failure::Crossed,
        StreamError::Lost(error) => because(explain::lost(&who, &error)),
        other => {
            let words = format!("{who} does not greet: {other}");
            close(&connection, CloseCode::Protocol, &words);
            because(words)
        }
    };
    let hello = node.hello(peer.id, attempt).encode();
    let body = greet(&connection, hello, Kind::Hello, node.limits.stall_timeout).await;
    let theirs = body.and_then(|body| Ok(Hello::decode(body)?)).map_err(&failed)?;
    if let Err(words) = theirs.check(node.cluster, peer.id, node.id) {
        close(&connection, CloseCode::Greeting, &words);
        return Err(because(words));
    }
    let generation = peer
        .link(&connection, |contact| contact.answered(attempt, &theirs), |number| *number)
        .ok_or_else(|| {
            close(&connection, CloseCode::Crossed, "the other connection of the two stays");
            Failure::Overtaken
        })?;
    node.limits.open(&connection);
    Ok(Arc::new(Link {
        connection,
        generation,
        incarnation: theirs.incarnation,
        not_after: certified.not_after,
    }))
}
