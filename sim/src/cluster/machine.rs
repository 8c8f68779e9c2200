//! A machine of the cluster: what stays of a node when it dies, and the node while it lives.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::{Liveness, Reach, SubscriptionId};
use quorate_replicator::{Cursor, Member, NodeId};
use quorate_storage::{Entry, Index, SimDisk, Tag};

use super::laws::Shown;
use super::watched::Sight;
use crate::copies::Copies;
use crate::node::Node;
use crate::oracle::Witness;

/// A machine of the cluster.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) id: NodeId,
    pub(super) disk: SimDisk,
    /// Names the store that is made on an empty disk.
    pub(super) store: [u8; 16],
    /// Who founded the group, as its configuration says.
    pub(super) founders: Vec<NodeId>,
    /// Rises whenever a node is started or dies: what was meant for an earlier life means nothing.
    pub(super) life: u32,
    pub(super) node: Option<Node>,
    pub(super) sight: Sight,
    pub(super) liveness: Liveness,
    pub(super) reach: Reach,
    /// What the disk holds while no node runs.
    pub(super) copies: Copies,
    /// What a disk held that was lost: it was there when others counted it.
    pub(super) lost: Copies,
    /// How far the clock is from the right rate, and what it showed at the beginning.
    ppm: i64,
    base: Duration,
    /// Nothing runs before this.
    pub(super) paused_until: Duration,
    pub(super) slow_until: Duration,
    pub(super) syncing: bool,
    pub(super) fetching: bool,
    pub(super) storing: bool,
    pub(super) installing: bool,
    /// A log that found no room is tried again.
    pub(super) retrying: bool,
    /// One of the next operations of its disk fails.
    pub(super) armed: bool,
    /// When it is woken up next.
    pub(super) wake: Option<Duration>,
    /// What its subscriber has handled, and its subscription.
    pub(super) cursor: Cursor,
    pub(super) witness: Witness,
    pub(super) subscription: Option<SubscriptionId>,
    /// Calls that wait for an answer of this life.
    pub(super) calls: BTreeSet<u64>,
    /// Whom its transport reaches and hears; at first those in its configuration.
    pub(super) peers: Vec<NodeId>,
    /// Who votes, as the engine said last and before that.
    pub(super) voters: [Vec<NodeId>; 2],
    pub(super) shown: Shown,
    /// What its engine says is decided, and it has not applied.
    pub(super) delivered: VecDeque<(Entry, Bytes)>,
    /// The last term in which it led others.
    pub(super) led: u64,
    /// Which of the processes of its id it is, if it lies.
    pub(super) lies: Option<usize>,
    /// It has said once that it may take part.
    pub(super) is_founded: bool,
    /// Its disk was lost while it was a member, and it has not been removed since.
    pub(super) wiped: bool,
    /// Its disk was damaged, and it has not been started since.
    pub(super) rotten: bool,
    /// It was broken for ever.
    pub(super) gone: bool,
    /// How much it has done that others may see, or its disk.
    pub(super) effects: u64,
    /// A start failed so often in a row.
    pub(super) failed_starts: u32,
}

impl Machine {
    pub(super) fn new(id: NodeId, rng: &mut fastrand::Rng, ppm_max: i64, peers: &[NodeId]) -> Self {
        Self {
            id,
            disk: SimDisk::new(rng.u64(..)),
            store: rng.u128(..).to_le_bytes(),
            founders: peers.to_vec(),
            life: 0,
            node: None,
            sight: Sight::default(),
            liveness: Liveness::new(Duration::ZERO),
            reach: Reach::new(id),
            copies: Copies::default(),
            lost: Copies::default(),
            ppm: rng.i64(-ppm_max..=ppm_max),
            base: Duration::from_millis(rng.u64(..100_000)),
            paused_until: Duration::ZERO,
            slow_until: Duration::ZERO,
            syncing: false,
            fetching: false,
            storing: false,
            installing: false,
            retrying: false,
            armed: false,
            wake: None,
            cursor: Cursor::beginning(),
            witness: Witness::new(),
            subscription: None,
            calls: BTreeSet::new(),
            peers: peers.to_vec(),
            voters: [peers.to_vec(), Vec::new()],
            shown: Shown::default(),
            delivered: VecDeque::new(),
            led: 0,
            lies: None,
            is_founded: false,
            wiped: false,
            rotten: false,
            gone: false,
            effects: 0,
            failed_starts: 0,
        }
    }

    /// Its transport begins anew, with those in the configuration.
    pub(super) fn connect(&mut self) {
        self.reach = Reach::new(self.id);
        self.peers = self.others(&self.founders);
    }

    /// Its transport reaches these from now on.
    pub(super) fn reaches(&mut self, members: &[Member]) {
        let nodes: Vec<_> = members.iter().map(|member| member.node).collect();
        self.peers = self.others(&nodes);
    }

    fn others(&self, nodes: &[NodeId]) -> Vec<NodeId> {
        nodes.iter().copied().filter(|node| *node != self.id).collect()
    }

    /// What its clock shows.
    pub(super) fn local(&self, now: Duration) -> Duration {
        self.base + scale(now, 1_000_000 + self.ppm, 1_000_000)
    }

    /// Its clock jumps.
    pub(super) fn jump(&mut self, forward: Duration) {
        self.base += forward;
    }

    /// When its clock shows this, or a little later.
    pub(super) fn when(&self, local: Duration) -> Duration {
        let passed = local.saturating_sub(self.base);
        scale(passed, 1_000_000, 1_000_000 + self.ppm) + Duration::from_micros(1)
    }

    pub(super) fn is_up(&self) -> bool {
        self.node.is_some()
    }

    /// Whether it is up and does not stand still.
    pub(super) fn runs(&self, now: Duration) -> bool {
        self.is_up() && self.paused_until <= now
    }

    /// Whether this entry is on its disk for good, or was before the disk was lost.
    pub(super) fn has(&self, index: Index, tag: Tag) -> bool {
        let copies = self.node.as_ref().map_or(&self.copies, |node| &node.copies);
        copies.has(index, tag) || self.lost.has(index, tag)
    }

    /// Whether its disk holds no entry.
    pub(super) fn copies_nothing(&self) -> bool {
        self.node.as_ref().map_or(&self.copies, |node| &node.copies).is_empty()
    }

    /// An empty disk, as of a new machine of the same name.
    pub(super) fn replace_disk(&mut self, rng: &mut fastrand::Rng) {
        assert!(self.node.is_none(), "a disk is lost while nobody uses it");
        self.disk = SimDisk::new(rng.u64(..));
        self.store = rng.u128(..).to_le_bytes();
        self.copies = Copies::default();
        (self.armed, self.rotten) = (false, false);
        self.shown = Shown::default();
        self.led = 0;
        // Whoever subscribes to a new machine begins where the log begins.
        self.cursor = Cursor::beginning();
        self.witness = Witness::new();
    }
}

fn scale(duration: Duration, times: i64, of: i64) -> Duration {
    let nanos = duration.as_nanos() as i128 * i128::from(times) / i128::from(of);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}
