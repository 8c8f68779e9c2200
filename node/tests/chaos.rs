//! Three nodes as processes under clients that share sixteen keys, while nodes are killed and stopped, and while the network between
//! all of them does what networks do. What the clients were told is judged as a whole: it has an order in which each call happens at one
//! moment between call and answer, nothing that was answered is lost, and nothing is done twice.
//!
//! `QUORATE_TEST_BUDGET=long` takes a hundred cycles of kills, and each weather ten times. `QUORATE_TEST_SEED` chooses others.

mod common;

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::budget;
use common::load::Load;
use common::process::{Cluster, Process};
use common::relay::{Relay, Weather};
use common::writer::{Observer, Writer};
use fastrand::Rng;
use rustix::process::Signal;

const NODES: usize = 3;

/// The links of clients are those of node 0.
const CLIENTS: u64 = 0;

/// Calls that are answered before something happens, and while it goes on.
const CALLS: usize = 60;

fn seed() -> u64 {
    std::env::var("QUORATE_TEST_SEED").map_or(1, |seed| seed.parse().expect("a number"))
}

/// Three nodes under load.
struct Scene {
    cluster: Cluster,
    nodes: Vec<Process>,
    observer: Observer,
    /// Writes each key once, through each of which must be there at its revision.
    writer: Writer,
    load: Load,
    random: Rng,
}

impl Scene {
    fn new(cluster: Cluster, name: &str) -> Self {
        let seed = seed();
        println!("{name}: seed {seed}");
        let nodes = cluster.serve_all();
        let observer = Observer::new(&cluster.client_toml());
        let writer = Writer::start(&cluster.client_toml(), "chaos");
        // One is at each node whatever happens, and one is where it is served best.
        let mut clients: Vec<_> =
            (1..=NODES as u64).map(|node| cluster.client_of(&[node])).collect();
        clients.push(cluster.client_toml());
        let load = Load::start(&clients, seed);
        load.wait_for(CALLS);
        Self { cluster, nodes, observer, writer, load, random: Rng::with_seed(seed) }
    }

    fn node(&mut self, node: u64) -> &mut Process {
        &mut self.nodes[usize::try_from(node - 1).unwrap()]
    }

    /// Kills these at one moment, and starts them again in this order.
    fn kill(&mut self, victims: &[u64]) {
        for victim in victims {
            self.node(*victim).signal(Signal::KILL);
        }
        let reap = |victim: &u64| self.node(*victim).kill();
        victims.iter().for_each(reap);
        if victims.len() == 1 {
            self.load.wait_for(CALLS / 2);
        }
        for victim in victims {
            *self.node(*victim) = self.cluster.serve(*victim);
        }
    }

    /// Waits until everything is well, and judges everything.
    fn end(self) {
        let Self { cluster, nodes, observer, writer, load, .. } = self;
        load.wait_for(CALLS);
        observer.whole(NODES);
        let (calls, unknown) = load.finish(|shard| observer.read(shard).1);
        let each = (1..=NODES as u64).map(|node| Observer::new(&cluster.client_of(&[node])));
        let writes = writer.finish(&each.collect::<Vec<_>>());
        observer.same_history(NODES);
        cluster.close(nodes);
        println!("{calls} calls, of which {unknown} are unknown, and {writes} single writes");
    }
}

#[test]
fn kills_and_pauses_lose_nothing_and_do_nothing_twice() {
    let mut scene = Scene::new(Cluster::new(NODES, "raft"), "kills");
    let cycles = budget(6, 100);
    for cycle in 0..cycles {
        let leader = scene.observer.whole(NODES);
        let mut all: Vec<_> = (1..=NODES as u64).collect();
        scene.random.shuffle(&mut all);
        // The leader is hit as often as both others together.
        let victim = if scene.random.bool() { leader } else { all[0] };
        match cycle % 4 {
            0 | 2 => scene.kill(&[victim]),
            1 => {
                scene.node(victim).signal(Signal::STOP);
                scene.load.wait_for(CALLS);
                scene.node(victim).signal(Signal::CONT);
            }
            _ => scene.kill(&all),
        }
        scene.load.wait_for(CALLS);
    }
    println!("{cycles} cycles");
    scene.end();
}

/// Puts doors of the relay in the place of addresses.
fn behind(relay: &Relay, cluster: &Cluster) {
    let files = (1..=NODES as u64).map(|node| (node, cluster.node_toml(node)));
    for (from, file) in files.chain([(CLIENTS, cluster.client_toml())]) {
        let mut text = fs::read_to_string(&file).unwrap();
        for (to, address) in (1..).zip(&cluster.addresses).filter(|(to, _)| *to != from) {
            assert!(text.contains(address), "{text}");
            text = text.replace(address, &relay.door(from, to).to_string());
        }
        fs::write(file, text).unwrap();
    }
}

/// Every directed link.
fn links() -> impl Iterator<Item = (u64, u64)> {
    let all = 0..=NODES as u64;
    all.clone().flat_map(move |from| all.clone().map(move |to| (from, to))).filter(|(a, b)| a != b)
}

#[test]
fn a_bad_network_loses_nothing_and_does_nothing_twice() {
    let cluster = Cluster::new(NODES, "raft");
    let addresses: Vec<SocketAddr> =
        cluster.addresses.iter().map(|address| address.parse().unwrap()).collect();
    let relay = Relay::new(seed(), CLIENTS..=NODES as u64, &addresses);
    behind(&relay, &cluster);
    let scene = Scene::new(cluster, "network");

    let ms = Duration::from_millis;
    let everywhere = |weather: Weather| links().map(|link| (link, weather)).collect::<Vec<_>>();
    let fair = Weather::default();
    for _ in 0..budget(1, 10) {
        let slow = Weather { delay: ms(30), ..fair };
        let lossy = Weather { lost: 0.3, ..fair };
        let doubled = Weather { doubled: 0.5, late: 0.2, later: ms(20), ..fair };
        let mixed = Weather { late: 0.5, later: ms(80), ..fair };
        let damaged = Weather { damaged: 0.1, ..fair };
        for (name, weather) in [
            ("slow", slow),
            ("lossy", lossy),
            ("doubled", doubled),
            ("out of order", mixed),
            ("damaged", damaged),
        ] {
            relay.set(everywhere(weather));
            scene.load.wait_for(CALLS);
            println!("{name}: {:?}", relay.fates());
            relay.set([]);
            scene.observer.whole(NODES);
        }
        // The leader is alone; it is not heard, but hears; two followers do not reach one another.
        let is_node = |node: u64| node != CLIENTS;
        for cut in ["alone", "not heard", "apart"] {
            let leader = scene.observer.whole(NODES);
            let cuts =
                links().filter(|(from, to)| is_node(*from) && is_node(*to)).filter(|(from, to)| {
                    match cut {
                        "alone" => *from == leader || *to == leader,
                        "not heard" => *from == leader,
                        _ => *from != leader && *to != leader,
                    }
                });
            relay.set(cuts.map(|link| (link, Weather::CUT)));
            scene.load.wait_for(CALLS);
            if cut != "apart" {
                scene.observer.wait_for("led by another one", |told| {
                    let others = told.iter().filter(|status| status.node.number() != leader);
                    let mut leaders = others.filter_map(|status| status.groups.first()?.leader);
                    leaders.find(|led| led.number() != leader)
                });
            }
            relay.set([]);
            scene.load.wait_for(CALLS);
        }
    }
    let fates = relay.fates();
    for fate in [&fates.passed, &fates.lost, &fates.doubled, &fates.damaged, &fates.late] {
        assert!(fate.load(Ordering::Relaxed) > 20, "it was no bad network: {fates:?}");
    }
    scene.end();
}
