//! What clients are served by, and clients themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use quorate_replicator::Bytes;
use quorate_transport_quic::{
    ClientLink, ClientName, Clients, Lane, LaneError, LaneReceiver, QuicClient, QuicTransport,
};
use tokio::sync::watch;

use super::Cluster;

/// Sends back what comes, as soon as it may. Lanes on which `leave` comes are left at once.
#[derive(Debug, Default)]
pub(crate) struct Echo {
    /// A lane on which `held` came is not read any further while this holds.
    pub(crate) held: watch::Sender<bool>,
    /// Lanes that are served now, and all that were.
    pub(crate) serving: AtomicUsize,
    pub(crate) served: AtomicUsize,
    /// How lanes ended that did not end as they should.
    pub(crate) failures: std::sync::Mutex<Vec<(String, LaneError)>>,
}

/// Counts a lane, for as long as it is served.
struct Serving<'a>(&'a Echo);

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.serving.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Echo {
    /// Serves the clients of a node.
    pub(crate) fn at(node: &QuicTransport) -> Arc<Self> {
        let echo = Arc::new(Self::default());
        node.serve_clients(Arc::clone(&echo) as _);
        echo
    }

    pub(crate) fn serving(&self) -> usize {
        self.serving.load(Ordering::SeqCst)
    }

    async fn echo(&self, lane: Lane) -> Result<(), LaneError> {
        let (mut sender, mut receiver) = lane.split();
        while let Some(message) = receiver.next().await? {
            if message == "leave" {
                return Ok(());
            }
            let holds = message == "held";
            sender.send(vec![message]).await?;
            if holds {
                // The sender lives in this.
                let _ = self.held.subscribe().wait_for(|held| !held).await;
            }
        }
        sender.finish().await
    }
}

#[async_trait]
impl Clients for Echo {
    async fn serve(&self, client: &ClientName, lane: Lane) {
        self.serving.fetch_add(1, Ordering::SeqCst);
        self.served.fetch_add(1, Ordering::SeqCst);
        let _serving = Serving(self);
        if let Err(error) = self.echo(lane).await {
            self.failures.lock().unwrap().push((client.as_str().to_owned(), error));
        }
    }
}

/// A client of the cluster, and its connection with a node.
pub(crate) async fn joined(
    cluster: &Cluster,
    name: &str,
    node: &QuicTransport,
) -> (QuicClient, ClientLink) {
    let client = cluster.client(name);
    let link = client.connect(&node.listens_on().to_string()).await.unwrap();
    (client, link)
}

/// Waits for so many messages.
pub(crate) async fn take(receiver: &mut LaneReceiver, count: usize) -> Vec<Bytes> {
    let mut messages = Vec::new();
    while messages.len() < count {
        messages.push(receiver.next().await.unwrap().expect("the lane goes on"));
    }
    messages
}
