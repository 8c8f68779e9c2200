//! Which node the calls go to: keeps one connected, follows the leader, goes on with another one.
//!
//! ```text
//!   connecting --one answers--> linked --lost, left--> connecting (another node first)
//!                                  |
//!                                  +--another node leads, or serves while this one does not--> linked with that one
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_replicator::{Event, Health, NodeId, Status};
use quorate_transport_quic::QuicClient;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::link::Link;

/// How long a node may take to answer before the next one is tried beside it, or one is taken that does not serve yet.
const STAGGER: Duration = Duration::from_millis(250);

/// The pause after all nodes have failed; doubles up to [`PAUSE_MAX`]. The real one is drawn between its half and all of it.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long a leader that was lost or could not be reached is not tried again, while another node answers.
const LEADER_PAUSE: Duration = Duration::from_secs(1);

/// How long a node may be connected that does not serve, before another one is looked for.
const LOOK_AROUND: Duration = Duration::from_secs(1);

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
    left: mpsc::UnboundedSender<(NodeId, Left)>,
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
            dialler: Dialler {
                quic,
                nodes,
                disbelieved: BTreeSet::new(),
                events: links.events.clone(),
            },
            standing: links.standing.clone(),
            told: links.told.clone(),
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
        let _ = self.left.send((link.node, Left::ServesNot));
    }

    /// Goes to another node, because what this one said does not hold. It is not followed any more, and asked when no other answers.
    pub(crate) fn disbelieve(&self, link: &Link) {
        let _ = self.left.send((link.node, Left::Disbelieved));
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

/// Why a node is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    ServesNot,
    Disbelieved,
}

/// Why there is no node to call.
#[derive(Debug)]
pub(crate) enum NoLink {
    Unreachable(String),
    Closed,
}

struct Keeper {
    dialler: Dialler,
    standing: watch::Sender<Standing>,
    told: watch::Sender<Option<Status>>,
    leaving: mpsc::UnboundedReceiver<(NodeId, Left)>,
    /// Who led when a node told last.
    leader: Option<NodeId>,
    /// A node that is not followed until then, though it may lead.
    shunned: Option<(NodeId, Instant)>,
}

/// What would be better than the node that is connected.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Better {
    Leader(NodeId),
    /// Any that serves, since this one does not.
    Serving,
}

/// A connection on its way.
type Opening = Pin<Box<dyn Future<Output = Result<Arc<Link>, String>> + Send>>;

impl Keeper {
    async fn keep(mut self) {
        let mut lost = None;
        let mut pause = PAUSE_MIN;
        loop {
            let opened = self.dialler.any(self.leader, lost.take()).await;
            match opened {
                Ok(link) => {
                    pause = PAUSE_MIN;
                    lost = Some(self.stay(link).await);
                }
                Err(problem) => {
                    self.stands(Standing::Connecting(problem));
                    tokio::time::sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Serves calls through `link`, or a better one once there is one, until that is lost; which node that was.
    async fn stay(&mut self, mut link: Arc<Link>) -> NodeId {
        let mut status = link.watch();
        // Whoever finds the node connected finds what it told.
        self.told.send_replace(Some(link.status()));
        self.stands(Standing::Linked(Arc::clone(&link)));
        let mut under_way: Option<(Better, Opening)> = None;
        loop {
            let told = status.borrow_and_update().clone();
            let better = self.better(&told);
            self.told.send_replace(Some(told));
            if under_way.as_ref().map(|(better, _)| *better) != better {
                under_way = better.map(|better| (better, self.open(better, link.node)));
            }
            tokio::select! {
                words = link.lost() => return self.lost(&link, &words),
                Some((left, why)) = self.leaving.recv() => {
                    if why == Left::Disbelieved {
                        self.dialler.disbelieved.insert(left);
                    }
                    if left == link.node {
                        let words = match why {
                            Left::ServesNot => "it does not serve",
                            Left::Disbelieved => "what it says was decided does not hold",
                        };
                        return self.lost(&link, words);
                    }
                }
                Ok(()) = status.changed() => {}
                Some((better, opened)) = outcome(&mut under_way) => {
                    under_way = None;
                    match opened {
                        Ok(opened) if better != Better::Serving || serves(&opened.status()) => {
                            leave_behind(&link);
                            link = opened;
                            status = link.watch();
                            self.stands(Standing::Linked(Arc::clone(&link)));
                        }
                        Ok(_) => {}
                        Err(problem) => {
                            tracing::debug!("no better node is reached: {problem}");
                            if let Better::Leader(leader) = better {
                                self.shunned = Some((leader, Instant::now() + LEADER_PAUSE));
                            }
                        }
                    }
                }
            }
        }
    }

    /// How it stands from now on; once the client is closed that stays.
    fn stands(&self, now: Standing) {
        self.standing.send_if_modified(|standing| {
            let open = !matches!(standing, Standing::Closed);
            if open {
                *standing = now;
            }
            open
        });
    }

    /// What would be better than the node that told this.
    fn better(&mut self, told: &Status) -> Option<Better> {
        let leader = leader(told);
        self.leader = leader.or(self.leader);
        let known = |leader: &NodeId| {
            let Dialler { nodes, disbelieved, .. } = &self.dialler;
            *leader != told.node && nodes.contains_key(leader) && !disbelieved.contains(leader)
        };
        let serving = (!serves(told)).then_some(Better::Serving);
        leader.filter(known).map(Better::Leader).or(serving)
    }

    /// Connects with what is better, once it is time to.
    fn open(&self, better: Better, than: NodeId) -> Opening {
        let dialler = self.dialler.clone();
        let not_before = match (better, self.shunned) {
            (Better::Leader(leader), Some((shunned, until))) if shunned == leader => until,
            (Better::Leader(_), _) => Instant::now(),
            // It may serve soon, as all do after an election.
            (Better::Serving, _) => Instant::now() + LOOK_AROUND,
        };
        Box::pin(async move {
            tokio::time::sleep_until(not_before).await;
            match better {
                Better::Leader(leader) => dialler.one(leader).await,
                Better::Serving => dialler.any(None, Some(than)).await,
            }
        })
    }

    fn lost(&mut self, link: &Link, words: &str) -> NodeId {
        // Others may take a while to notice that it does not lead any more.
        self.shunned = Some((link.node, Instant::now() + LEADER_PAUSE));
        tracing::info!(node = %link.node, "left: {words}");
        let standing = Standing::Connecting(format!("{}: {words}", link.node));
        self.stands(standing);
        link.node
    }
}

/// Lets the calls that wait at a node come to their ends there, unless it does not serve: then they are asked elsewhere. A node that was
/// removed may learn that later than its leader was followed.
fn leave_behind(link: &Arc<Link>) {
    let (mut status, link) = (link.watch(), Arc::downgrade(link));
    tokio::spawn(async move {
        while serves(&status.borrow_and_update()) {
            if status.changed().await.is_err() {
                // The link is not used any more.
                return;
            }
        }
        if let Some(link) = link.upgrade() {
            link.close();
        }
    });
}

/// What came of a connection on its way; none if there is none.
async fn outcome(
    under_way: &mut Option<(Better, Opening)>,
) -> Option<(Better, Result<Arc<Link>, String>)> {
    match under_way {
        Some((better, opening)) => Some((*better, opening.await)),
        None => None,
    }
}

/// Makes connections with nodes.
#[derive(Clone, Debug)]
struct Dialler {
    quic: Arc<QuicClient>,
    nodes: BTreeMap<NodeId, String>,
    /// Nodes that said to have accepted what they could not prove.
    disbelieved: BTreeSet<NodeId>,
    events: broadcast::Sender<Event>,
}

impl Dialler {
    async fn one(self, node: NodeId) -> Result<Arc<Link>, String> {
        Link::open(&self.quic, node, &self.nodes[&node], self.events).await
    }

    /// Connects with whichever node answers first and serves, or else with one that answers. Each has a start before the next, `first`
    /// comes first and `last` last.
    async fn any(&self, first: Option<NodeId>, last: Option<NodeId>) -> Result<Arc<Link>, String> {
        let mut order: Vec<_> = self.nodes.keys().copied().collect();
        fastrand::shuffle(&mut order);
        let is_last = |node: &NodeId| Some(*node) == last || self.disbelieved.contains(node);
        order.sort_by_key(|node| (is_last(node), Some(*node) != first));
        let mut order = order.into_iter();
        let mut attempts = JoinSet::new();
        let mut waiting: Option<Arc<Link>> = None;
        let mut problems = Vec::new();
        loop {
            match (order.next(), &waiting) {
                // There is little hope for the one that was just lost.
                (Some(node), Some(link)) if Some(node) == last => return Ok(Arc::clone(link)),
                (Some(node), _) => {
                    attempts.spawn(self.clone().one(node));
                }
                (None, _) => {}
            }
            // The next one is tried when its time has come, or all before it have failed.
            loop {
                let Ok(answered) = tokio::time::timeout(STAGGER, attempts.join_next()).await else {
                    match &waiting {
                        _ if order.len() > 0 => break,
                        Some(link) => return Ok(Arc::clone(link)),
                        None => continue,
                    }
                };
                match answered {
                    Some(Ok(Ok(link))) if serves(&link.status()) => return Ok(link),
                    Some(Ok(Ok(link))) => waiting = Some(link),
                    Some(Ok(Err(problem))) => problems.push(problem),
                    Some(Err(error)) => problems.push(error.to_string()),
                    None if order.len() == 0 => {
                        problems.sort();
                        return waiting.ok_or_else(|| problems.join("; "));
                    }
                    None => break,
                }
            }
        }
    }
}

/// Whether a node answers reads, and proposals if it has room.
fn serves(status: &Status) -> bool {
    let is_member = status.groups.iter().all(|group| group.reason.is_none());
    is_member && matches!(status.health, Health::Ready | Health::StorageFull)
}

/// Who leads the first group, which is the only one of most clusters.
fn leader(status: &Status) -> Option<NodeId> {
    status.groups.first()?.leader
}
