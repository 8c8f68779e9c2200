//! `quorate serve`: runs a node until it is told to end.
//!
//! ```text
//! open --> serve --+-- an event, or a second has passed: say what changed
//!                  +-- SIGHUP: read the certificates anew
//!                  +-- SIGTERM, SIGINT: hand over what it leads --> close --> end
//!                                             +-- a second signal: end at once
//! ```
//!
//! Lines go to standard error, one for each change, so that whoever reads them tomorrow sees what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io::Read as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use quorate::certificates::CertificateInfo;
use quorate::{
    Config, EventStream, GroupId, GroupStatus, Health, Node, NodeId, PeerState, PeerStatus,
    QuicConfig, Replicator, Role, Status, builtin,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::certs;
use crate::cli::ServeArgs;
use crate::exit::{Exit, Failure};
use crate::{open, tell};

/// How often it is looked at what no event tells, such as why the node waits.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often the certificates' ends are looked at.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(60 * 60);

/// How long handing over may take before the node closes all the same. A follower that has everything takes over in a few
/// round trips.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(3);

pub(crate) async fn run(mut config: Config, arguments: &ServeArgs) -> Result<Exit, Failure> {
    let mut ending = Ending::new(arguments.until_stdin_ends)?;
    let mut reload = signal(SignalKind::hangup()).map_err(Failure::service)?;
    let quic = match config.transport.kind.as_str() {
        "quic" => builtin::quic(&config).map_err(Failure::usage)?,
        other => {
            return Err(Failure::usage(format!(
                "transport.kind is {other}, and nobody could reach the node; `quorate init-cluster` writes a \
                 configuration for `quorate serve`, or set transport.kind to \"quic\""
            )));
        }
    };
    // Others are let in while it replays; the lines say when it serves.
    config.node.open_within = Duration::ZERO;
    let about = format!(
        "driver {}, durability {}, data in {}",
        config.driver.kind,
        config.node.durability,
        config.node.data_dir.display()
    );
    let node = tokio::select! {
        opened = Node::open(config) => opened.map_err(open::failure)?,
        _ = ending.next() => return Ok(Exit::Done),
    };
    let network = node.serve_clients().and_then(|()| node.quic_status());
    let network = match network {
        Ok(network) => network,
        Err(error) => return open::close(&node, Err(open::failure(error))).await,
    };
    let mut lines = Lines::new(node.status().node);
    lines.say(&format!("listens on {}, {about}", network.listens_on));
    lines.changed(&node);
    check_certificates(&lines, &quic);

    let mut events = Some(node.events());
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut certificates_at = Instant::now();
    let why = loop {
        tokio::select! {
            why = ending.next() => break why,
            _ = reload.recv() => match node.reload_certificates() {
                Ok(()) => {
                    lines.say("reads its certificates anew; connections from now on use them");
                    check_certificates(&lines, &quic);
                }
                Err(problem) => lines.say(&format!("goes on with the certificates it has: {problem}")),
            },
            () = happened(&mut events) => {}
            _ = look.tick() => {}
        }
        if let Health::Faulted { cause } = lines.changed(&node).health {
            return open::close(&node, Err(Failure::service(cause))).await;
        }
        if certificates_at.elapsed() >= CERTIFICATES_EVERY {
            certificates_at = Instant::now();
            check_certificates(&lines, &quic);
        }
    };
    lines.say(&format!("ends, because of {why}; the next signal ends it at once"));
    tokio::select! {
        exit = end(&node, &lines) => exit,
        why = ending.next() => Err(Failure::service(format!(
            "ended at once, because of {why}; nothing that was accepted is lost"
        ))),
    }
}

/// Hands over what the node leads, and closes it.
async fn end(node: &Node, lines: &Lines) -> Result<Exit, Failure> {
    let status = node.status();
    let peers = node.transport().map(|transport| transport.peers()).unwrap_or_default();
    let connected: BTreeSet<NodeId> = peers
        .into_iter()
        .filter(|(_, state)| *state == PeerState::Connected)
        .map(|(peer, _)| peer)
        .collect();
    let mut handing_over = JoinSet::new();
    for group in status.groups.into_iter().filter(|group| group.role == Role::Leader) {
        let replicator = Arc::clone(node.replicator());
        let successors = successors(&group, &connected);
        handing_over.spawn(async move { hand_over(&*replicator, group.group, successors).await });
    }
    let led = handing_over.len();
    let mut problem = None;
    let mut to = None;
    while let Some(handed) = handing_over.join_next().await {
        match handed.map_err(Failure::service)? {
            Ok(successor) => to = successor.or(to),
            Err(reason) => problem = Some(reason),
        }
    }
    match (problem, to, led) {
        (Some(reason), ..) => {
            lines.say(&format!("could not hand over: {reason}; the others elect"))
        }
        (None, Some(to), 1) => lines.say(&format!("handed over to {to}")),
        (None, Some(_), _) => lines.say(&format!("handed over {led} groups")),
        (None, None, _) => {}
    }
    let closed = open::close(node, Ok(Exit::Done)).await;
    if closed.is_ok() {
        lines.say("is closed");
    }
    closed
}

/// Makes the first of these lead that can; none if there are none.
async fn hand_over(
    replicator: &dyn Replicator,
    group: GroupId,
    successors: Vec<NodeId>,
) -> Result<Option<NodeId>, String> {
    let until = Instant::now() + HAND_OVER_WITHIN;
    let mut problem = None;
    for to in successors {
        let left = until.saturating_duration_since(Instant::now());
        match replicator.transfer(group, to, left).await {
            Ok(()) => return Ok(Some(to)),
            Err(error) => problem = Some(format!("{to}: {error}")),
        }
    }
    problem.map_or(Ok(None), Err)
}

/// The other voters that can be reached, the one that lacks least first; of equals, the one that was heard of last.
fn successors(group: &GroupStatus, connected: &BTreeSet<NodeId>) -> Vec<NodeId> {
    let able =
        |peer: &&PeerStatus| group.members.contains(&peer.node) && connected.contains(&peer.node);
    let mut voters: Vec<_> = group.peers.iter().filter(able).collect();
    voters.sort_by_key(|peer| {
        (peer.lag.unwrap_or(u64::MAX), peer.last_contact.unwrap_or(Duration::MAX), peer.node)
    });
    voters.into_iter().map(|peer| peer.node).collect()
}

/// Says what changed, and nothing twice.
#[derive(Debug)]
struct Lines {
    node: NodeId,
    health: Option<String>,
    leaders: Option<String>,
    /// Why peers are not reached, as far as it was said.
    unreached: BTreeMap<NodeId, String>,
}

impl Lines {
    fn new(node: NodeId) -> Self {
        Self { node, health: None, leaders: None, unreached: BTreeMap::new() }
    }

    fn say(&self, what: &str) {
        tell(&format!("{} {what}\n", self.node));
    }

    fn changed(&mut self, node: &Node) -> Status {
        let status = node.status();
        let (health, leaders) = (health(&status), leaders(&status));
        if self.health.as_ref() != Some(&health) {
            self.say(&health);
        }
        if let Some(leaders) = &leaders
            && self.leaders.as_ref() != Some(leaders)
        {
            self.say(leaders);
        }
        self.health = Some(health);
        // Who led last goes on being known while nobody leads: the same again is no news then.
        self.leaders = leaders.or_else(|| self.leaders.take());
        match &status.health {
            Health::Waiting { .. } => self.reached(node),
            // Who serves can do without those.
            _ => self.unreached.clear(),
        }
        status
    }

    /// Says why peers are not reached, who may be what the node waits for.
    fn reached(&mut self, node: &Node) {
        for (peer, state) in node.transport().map(|network| network.peers()).unwrap_or_default() {
            match state {
                PeerState::Connecting { reason: Some(reason) }
                    if self.unreached.get(&peer) != Some(&reason) =>
                {
                    self.say(&format!("does not reach {peer}: {reason}"));
                    self.unreached.insert(peer, reason);
                }
                PeerState::Connected => drop(self.unreached.remove(&peer)),
                _ => {}
            }
        }
    }
}

fn health(status: &Status) -> String {
    match &status.health {
        Health::Ready => "is ready".into(),
        Health::Waiting { reason } => format!("waits: {reason}"),
        Health::StorageFull => {
            "has no room on its disk: it serves reads and refuses proposals until there is".into()
        }
        Health::Faulted { cause } => format!("stopped: {cause}"),
        other => format!("is {other:?}").to_lowercase(),
    }
}

/// Who leads, as this node sees it; none if nobody is known to.
fn leaders(status: &Status) -> Option<String> {
    let mut led = BTreeMap::new();
    for leader in status.groups.iter().filter_map(|group| group.leader) {
        *led.entry(leader).or_insert(0_usize) += 1;
    }
    match (led.first_key_value(), led.len(), status.groups.len()) {
        (None, ..) => None,
        (Some((leader, groups)), 1, all) if *groups == all => Some(match *leader == status.node {
            true => "leads".into(),
            false => format!("follows {leader}"),
        }),
        (Some(_), _, all) => {
            let words = led.iter().map(|(leader, groups)| format!("{groups} by {leader}"));
            let words = words.collect::<Vec<_>>().join(", ");
            Some(format!("has {all} groups, led: {words}"))
        }
    }
}

/// Warns when a certificate should be renewed.
fn check_certificates(lines: &Lines, quic: &QuicConfig) {
    let now = SystemTime::now();
    for file in [&quic.certificate_file, &quic.authority_file] {
        // Files that cannot be read any more are told when they are read anew.
        for info in CertificateInfo::read(file).into_iter().flatten() {
            if info.is_late(now) {
                lines.say(&format!(
                    "warns: {} in {} has {}, then kill -HUP this process",
                    info.common_name,
                    file.display(),
                    certs::left(&info, now)
                ));
            }
        }
    }
}

/// What makes the node end.
#[derive(Debug)]
struct Ending {
    terminate: Signal,
    interrupt: Signal,
    stdin: Option<oneshot::Receiver<()>>,
}

impl Ending {
    fn new(until_stdin_ends: bool) -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(Failure::service);
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            stdin: until_stdin_ends.then(stdin_end),
        })
    }

    /// Waits for the next one.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = ended(&mut self.stdin) => "the end of its standard input",
        }
    }
}

/// Waits for the end of standard input, once.
async fn ended(stdin: &mut Option<oneshot::Receiver<()>>) {
    match stdin {
        None => std::future::pending().await,
        Some(end) => {
            // Whether it was told or dropped, nobody reads any more.
            let _ = end.await;
            *stdin = None;
        }
    }
}

/// Reads standard input to its end, on a thread that nothing waits for.
fn stdin_end() -> oneshot::Receiver<()> {
    let (tell, told) = oneshot::channel();
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        let mut bytes = [0; 512];
        while input.read(&mut bytes).is_ok_and(|read| read > 0) {}
        // Nobody listens once the node has ended for another reason.
        let _ = tell.send(());
    });
    told
}

/// Waits until something happens to the node, or for ever once it has closed.
async fn happened(events: &mut Option<EventStream>) {
    match events {
        None => std::future::pending().await,
        Some(stream) => {
            if poll_fn(|context| stream.as_mut().poll_next(context)).await.is_none() {
                *events = None;
            }
        }
    }
}
