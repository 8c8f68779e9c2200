//! All rows, in the order in which they are measured.

use std::sync::Arc;

use quorate_certificate::Scheme;
use quorate_replicator::Durability;
use tokio::runtime::Runtime;

use crate::clients::{BYTES, Call, Clients};
use crate::cluster::{Cluster, Kind};
use crate::contest::{self, Entrant};
use crate::idle;

/// Work that is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub(crate) call: Call,
    /// Clients, each with one call in flight.
    pub(crate) clients: usize,
    pub(crate) durability: Durability,
    pub(crate) place: Place,
}

/// Where it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Leader,
    Follower,
    /// At the leaders of so many groups.
    Groups(u32),
}

/// The rows.
const ROWS: [(Call, usize, Durability, Place); 23] = {
    use Call::{Many, One, Read};
    use Durability::{Disk, Memory};
    use Place::{Follower, Groups, Leader};
    [
        (One, 1, Memory, Leader),
        (One, 16, Memory, Leader),
        (One, 64, Memory, Leader),
        (One, 1024, Memory, Leader),
        (One, 4096, Memory, Leader),
        (Many(64), 1, Memory, Leader),
        (Many(64), 16, Memory, Leader),
        (Many(1000), 1, Memory, Leader),
        (Many(1000), 4, Memory, Leader),
        (One, 1, Memory, Follower),
        (One, 64, Memory, Follower),
        (One, 1024, Memory, Follower),
        (Many(64), 16, Memory, Follower),
        (Read, 1, Memory, Leader),
        (Read, 1024, Memory, Leader),
        (Read, 1, Memory, Follower),
        (Read, 1024, Memory, Follower),
        (One, 1024, Memory, Groups(8)),
        (One, 1, Disk, Leader),
        (One, 64, Disk, Leader),
        (One, 1024, Disk, Leader),
        (Many(64), 16, Disk, Leader),
        (Many(1000), 4, Disk, Leader),
    ]
};

/// Measures the rows whose names contain the first argument, each beside what `peer` opens for it; of those, if there is a
/// second argument, only the one of that name.
pub(crate) fn run(mut peer: impl FnMut(&Runtime, Work) -> Option<Entrant>) {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    let (only, alone) = (arguments.next(), arguments.next());
    let wanted = |id: &str| only.as_deref().is_none_or(|only| id.contains(only));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("threads can be started");
    contest::print_head();
    for (call, clients, durability, place) in ROWS {
        let work = Work { call, clients, durability, place };
        let at = match place {
            Place::Leader => "leader".to_owned(),
            Place::Follower => "follower".to_owned(),
            Place::Groups(groups) => format!("leaders groups={groups}"),
        };
        let id =
            format!("{call} at={at} in_flight={clients} durability={durability} bytes={BYTES}");
        if wanted(&id) {
            row(&runtime, &id, work, alone.as_deref(), &mut peer);
        }
    }
    for groups in idle::GROUPS {
        let id = format!("idle groups={groups}");
        if wanted(&id) {
            idle::measure(&runtime, &id, groups);
        }
    }
}

fn row(
    runtime: &Runtime,
    id: &str,
    work: Work,
    alone: Option<&str>,
    peer: impl FnOnce(&Runtime, Work) -> Option<Entrant>,
) {
    let wanted = |name: &str| alone.is_none_or(|alone| alone == name);
    let Work { call, clients, durability, place } = work;
    let groups = if let Place::Groups(groups) = place { groups } else { 1 };
    let mut opened = vec![("raft", Kind::Raft, groups)];
    // What several groups gain shows beside one; the local driver has neither followers nor others to ask for a read.
    match place {
        Place::Groups(_) => opened.push(("raft groups=1", Kind::Raft, 1)),
        Place::Leader if !matches!(call, Call::Read) => opened.push(("local", Kind::Local, 1)),
        Place::Leader | Place::Follower => {}
    }
    if !matches!(place, Place::Groups(_)) {
        opened.push(("quorum ed25519", Kind::Quorum(Scheme::Ed25519), 1));
    }
    // What signatures cost shows without followers and disks in the way.
    if place == Place::Leader && durability == Durability::Memory {
        opened.push(("quorum ml-dsa-65", Kind::Quorum(Scheme::MlDsa65), 1));
        opened.push(("quorum hybrid", Kind::Quorum(Scheme::Hybrid), 1));
        opened.push(("quorum signed frames", Kind::SignedFrames, 1));
    }
    let (mut entrants, mut clusters) = (Vec::new(), Vec::new());
    for (name, kind, groups) in opened.into_iter().filter(|(name, ..)| wanted(name)) {
        let cluster = runtime.block_on(Cluster::open(kind, durability, groups));
        let places = cluster.places(usize::from(place == Place::Follower));
        let load = Box::new(runtime.block_on(Clients::open(&places, clients, call)));
        let disk = (durability == Durability::Disk).then(|| Arc::clone(&cluster.disks[0]));
        let per_round = (clients * call.count()) as u64;
        let decided = Some(Box::new(cluster.decided()) as Box<dyn Fn() -> u64>);
        entrants.push(Entrant { name, per_round, load, disk, decided });
        clusters.push(cluster);
    }
    if wanted("openraft") {
        entrants.extend(peer(runtime, work));
    }
    contest::measure(runtime, id, entrants);
    for cluster in clusters {
        runtime.block_on(cluster.close());
    }
}
