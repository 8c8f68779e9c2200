//! Which node the calls go to: keeps one connected, follows the leader, goes on with another one.
//!
//! ```text
//!   connecting --one answers--> linked --lost, left--> connecting (another node first)
//!                                  |
//!                                  +--another node leads, and answers--> linked with that one
//! ```

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_replicator::{Event, NodeId, Status};
use quorate_transport_quic::QuicClient;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::link::Link;

/// How long a node may take to answer before the next one is tried beside it.
const STAGGER: Duration = Duration::from_millis(250);

/// The pause after all nodes have failed; doubles up to [`PAUSE_MAX`]. The real one is drawn between its half and all of it.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long a leader that was lost or could not be reached is not tried again, while another node answers.
const LEADER_PAUSE: Duration = Duration::from_secs(1);

/// Events that wait for a slow listener; older ones are missed, which is told.
const EVENTS_MAX: usize = 1024;

/// How it stands with the cluster.
#[derive(Clone, Debug)]
pub(crate) enum Standing {
    /// No node is connected; what became of the last attempts.
    Connecting(String),
    Linked(Arc<Link>),
    Closed,
}

/// The connection of a client, and what keeps it.
#[derive(Debug)]
pub(crate) struct Links {
    standing: watch::Sender<Standing>,
    /// What a node told last.
    told: watch::Sender<Option<Status>>,
    events: broadcast::Sender<Event>,
    /// Links that somebody found to be of no use.
    left: mpsc::UnboundedSender<NodeId>,
    task: Mutex<JoinSet<()>>,
}

impl Links {
    /// Connects from now on, and stays connected.
    pub(crate) fn start(quic: Arc<QuicClient>, nodes: BTreeMap<NodeId, String>) -> Arc<Self> {
        let (left, leaving) = mpsc::unbounded_channel();
        let links = Arc::new(Self {
            standing: watch::Sender::new(Standing::Connecting("no node has answered yet".into())),
            told: watch::Sender::new(None),
            events: broadcast::Sender::new(EVENTS_MAX),
            left,
            task: Mutex::default(),
        });
        let keeper = Keeper {
            quic,
            nodes,
            standing: links.standing.clone(),
            told: links.told.clone(),
            events: links.events.clone(),
            leaving,
            leader: None,
            shunned: None,
        };
        links.task().spawn(keeper.keep());
        links
    }

    fn task(&self) -> MutexGuard<'_, JoinSet<()>> {
        // Each change is one step.
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node that is connected.
    ///
    /// # Errors
    ///
    /// None was, up to the deadline; or the client is closed. In words.
    pub(crate) async fn current(&self, deadline: Instant) -> Result<Arc<Link>, NoLink> {
        let mut standing = self.standing.subscribe();
        let linked = standing.wait_for(|standing| match standing {
            Standing::Connecting(_) => false,
            Standing::Linked(link) => !link.is_lost(),
            Standing::Closed => true,
        });
        // The sender lives in this value, so waiting cannot fail.
        if let Ok(Ok(standing)) = tokio::time::timeout_at(deadline, linked).await {
            match &*standing {
                Standing::Linked(link) => return Ok(Arc::clone(link)),
                _ => return Err(NoLink::Closed),
            }
        }
        Err(match &*self.standing.borrow() {
            Standing::Connecting(problem) => NoLink::Unreachable(problem.clone()),
            Standing::Linked(link) => NoLink::Unreachable(format!("{} was just lost", link.node)),
            Standing::Closed => NoLink::Closed,
        })
    }

    /// Goes to another node, because this one does not serve.
    pub(crate) fn leave(&self, link: &Link) {
        // The keeper is gone only when the client is closed.
        let _ = self.left.send(link.node);
    }

    /// How the node was doing when it told last; none if no node ever answered.
    pub(crate) fn status(&self) -> (Option<Status>, Standing) {
        (self.told.borrow().clone(), self.standing.borrow().clone())
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Waits until the client is closed.
    pub(crate) async fn closed(&self) {
        let mut standing = self.standing.subscribe();
        // The sender lives in this value, so waiting cannot fail.
        let _ = standing.wait_for(|standing| matches!(standing, Standing::Closed)).await;
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(*self.standing.borrow(), Standing::Closed)
    }

    /// Ends the connection. Calls that wait for one end, too.
    pub(crate) fn close(&self) {
        self.task().abort_all();
        self.standing.send_replace(Standing::Closed);
    }
}

/// Why there is no node to call.
#[derive(Debug)]
pub(crate) enum NoLink {
    Unreachable(String),
    Closed,
}

struct Keeper {
    quic: Arc<QuicClient>,
    nodes: BTreeMap<NodeId, String>,
    standing: watch::Sender<Standing>,
    told: watch::Sender<Option<Status>>,
    events: broadcast::Sender<Event>,
    leaving: mpsc::UnboundedReceiver<NodeId>,
    /// Who led when a node told last.
    leader: Option<NodeId>,
    /// A node that is not followed until then, though it may lead.
    shunned: Option<(NodeId, Instant)>,
}

impl Keeper {
    async fn keep(mut self) {
        let mut lost = None;
        let mut pause = PAUSE_MIN;
        loop {
            match self.connect(lost.take()).await {
                Ok(link) => {
                    pause = PAUSE_MIN;
                    lost = Some(self.stay(link).await);
                }
                Err(problem) => {
                    self.standing.send_replace(Standing::Connecting(problem));
                    tokio::time::sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Connects with whichever node answers first; each has a start before the next, and `last` comes last.
    async fn connect(&self, last: Option<NodeId>) -> Result<Arc<Link>, String> {
        let mut order: Vec<_> = self.nodes.iter().collect();
        fastrand::shuffle(&mut order);
        order.sort_by_key(|(node, _)| (Some(**node) == last, Some(**node) != self.leader));
        let mut order = order.into_iter();
        let mut attempts = JoinSet::new();
        let mut problems = Vec::new();
        loop {
            if let Some((node, address)) = order.next() {
                let (quic, events) = (Arc::clone(&self.quic), self.events.clone());
                let (node, address) = (*node, address.clone());
                attempts.spawn(async move { Link::open(&quic, node, &address, events).await });
            }
            // The next one is tried when its time has come, or all before it have failed.
            loop {
                let answered = match order.len() {
                    0 => attempts.join_next().await,
                    _ => match tokio::time::timeout(STAGGER, attempts.join_next()).await {
                        Ok(answered) => answered,
                        Err(_) => break,
                    },
                };
                match answered {
                    Some(Ok(Ok(link))) => return Ok(link),
                    Some(Ok(Err(problem))) => problems.push(problem),
                    Some(Err(error)) => problems.push(error.to_string()),
                    None if order.len() == 0 => {
                        problems.sort();
                        return Err(problems.join("; "));
                    }
                    None => break,
                }
            }
        }
    }

    /// Serves calls through `link`, or through the leader once there is one, until that is lost; which node that was.
    async fn stay(&mut self, mut link: Arc<Link>) -> NodeId {
        let mut status = link.watch();
        // Whoever finds the node connected finds what it told.
        self.told.send_replace(Some(link.status()));
        self.standing.send_replace(Standing::Linked(Arc::clone(&link)));
        let mut following: Option<(NodeId, Opening)> = None;
        loop {
            let told = status.borrow_and_update().clone();
            let leader = leader(&told);
            self.leader = leader.or(self.leader);
            self.told.send_replace(Some(told));
            let target =
                leader.filter(|leader| *leader != link.node && self.nodes.contains_key(leader));
            if following.as_ref().map(|(leader, _)| *leader) != target {
                following = target.map(|leader| (leader, self.follow(leader)));
            }
            tokio::select! {
                words = link.lost() => return self.lost(&link, words),
                Some(left) = self.leaving.recv() => {
                    if left == link.node {
                        return self.lost(&link, "it does not serve".into());
                    }
                }
                Ok(()) = status.changed() => {}
                Some(opened) = followed(&mut following) => {
                    following = None;
                    match opened {
                        Ok(opened) => {
                            link = opened;
                            status = link.watch();
                            self.standing.send_replace(Standing::Linked(Arc::clone(&link)));
                        }
                        Err(problem) => {
                            tracing::debug!("the leader is not reached: {problem}");
                            self.shunned = leader.map(|leader| (leader, Instant::now() + LEADER_PAUSE));
                        }
                    }
                }
            }
        }
    }

    /// Connects with the leader, once it is time to.
    fn follow(&self, leader: NodeId) -> Opening {
        let not_before = self.not_before(leader);
        let (quic, events) = (Arc::clone(&self.quic), self.events.clone());
        let address = self.nodes[&leader].clone();
        Box::pin(async move {
            tokio::time::sleep_until(not_before).await;
            Link::open(&quic, leader, &address, events).await
        })
    }

    /// When a leader may be gone to.
    fn not_before(&self, leader: NodeId) -> Instant {
        match self.shunned {
            Some((shunned, until)) if shunned == leader => until,
            _ => Instant::now(),
        }
    }

    fn lost(&mut self, link: &Link, words: String) -> NodeId {
        // Others may take a while to notice that it does not lead any more.
        self.shunned = Some((link.node, Instant::now() + LEADER_PAUSE));
        tracing::info!(node = %link.node, "left: {words}");
        let standing = Standing::Connecting(format!("{}: {words}", link.node));
        self.standing.send_replace(standing);
        link.node
    }
}

/// A connection with the leader on its way.
type Opening = Pin<Box<dyn Future<Output = Result<Arc<Link>, String>> + Send>>;

/// What came of it; none if there is none.
async fn followed(following: &mut Option<(NodeId, Opening)>) -> Option<Result<Arc<Link>, String>> {
    match following {
        Some((_, opening)) => Some(opening.await),
        None => None,
    }
}

/// Who leads the first group, which is the only one of most clusters.
fn leader(status: &Status) -> Option<NodeId> {
    status.groups.first()?.leader
}
