//! One connection with a node, from greeting to its end.

use std::sync::Arc;

use quorate_replicator::{Event, NodeId, Status};
use quorate_transport_quic::{ClientLink, Lane, QuicClient};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;

use crate::call::Calls;
use crate::feed::Feed;
use crate::protocol::{Notice, Request};

/// A node that is connected.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) node: NodeId,
    /// Short questions and answers.
    pub(crate) calls: Calls,
    /// Questions with long answers, which short ones need not wait behind.
    pub(crate) pages: Calls,
    quic: ClientLink,
    status: watch::Receiver<Status>,
    /// Set when a task of the link has ended, with why.
    lost: watch::Receiver<Option<String>>,
}

impl Link {
    /// Connects with the node at `address`, which has to be `node`. What happens there is told to `events`.
    ///
    /// # Errors
    ///
    /// What went wrong, where, and what to do.
    pub(crate) async fn open(
        quic: &QuicClient,
        node: NodeId,
        address: &str,
        events: broadcast::Sender<Event>,
    ) -> Result<Arc<Self>, String> {
        let link = quic.connect(address).await.map_err(|error| format!("{node}: {error}"))?;
        if link.node() != node {
            let found = link.node();
            link.close();
            return Err(format!(
                "{found} is at {address}, where {node} should be; correct the table of nodes"
            ));
        }
        let mut tasks = JoinSet::new();
        let lane = async || link.open_lane().await.map_err(|error| format!("{node}: {error}"));
        let calls = Calls::start(lane().await?, &mut tasks);
        let pages = Calls::start(lane().await?, &mut tasks);
        let mut notices = Feed::open(lane().await?, &Request::Watch).await?;
        let status = loop {
            match notices.next().await? {
                Notice::Status(status) => break *status,
                Notice::Event(_) => {}
            }
        };
        let (shown, status) = watch::channel(status);
        tasks.spawn(async move {
            loop {
                match notices.next().await {
                    Ok(Notice::Status(status)) => {
                        shown.send_replace(*status);
                    }
                    Ok(Notice::Event(event)) => {
                        // Without a listener there is nobody to tell.
                        let _ = events.send(event);
                    }
                    Err(problem) => break problem,
                }
            }
        });
        let (ended, lost) = watch::channel(None);
        let connection = link.clone();
        tokio::spawn(async move {
            let words = tokio::select! {
                words = connection.closed() => words,
                Some(words) = tasks.join_next() => words.unwrap_or_else(|error| error.to_string()),
                // Nobody holds the link any more.
                () = ended.closed() => "not used any more".into(),
            };
            connection.close();
            tasks.shutdown().await;
            ended.send_replace(Some(words));
        });
        Ok(Arc::new(Self { node, calls, pages, quic: link, status, lost }))
    }

    /// How the node was doing when it told last.
    pub(crate) fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// The same, to wait for what it tells next.
    pub(crate) fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Waits until the link is lost, and says why.
    pub(crate) async fn lost(&self) -> String {
        let mut lost = self.lost.clone();
        match lost.wait_for(Option::is_some).await {
            Ok(words) => words.clone().unwrap_or_default(),
            Err(_) => "the client is closed".into(),
        }
    }

    /// Whether the link is lost.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.borrow().is_some()
    }

    /// Ends the link, and the calls on it.
    pub(crate) fn close(&self) {
        self.quic.close();
    }

    /// One more lane, for a subscription.
    pub(crate) async fn lane(&self) -> Result<Lane, String> {
        self.quic.open_lane().await.map_err(|error| error.to_string())
    }
}
