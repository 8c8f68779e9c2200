//! The network between processes: datagrams that are lost, doubled, late, out of order, damaged or cut off, as a seed says.
//!
//! ```text
//!   n1 --> 127.0.0.1:a (n1 means n2) ==weather of 1>2==> n2
//!      <--                          <==weather of 2>1==
//! ```
//!
//! Whoever dials another does so through a socket of the relay, by its table of peers; so both directions of every connection, whoever
//! dialled it, have the weather of their sender and their receiver. Needs no rights.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fastrand::Rng;

/// Longer than any datagram.
const DATAGRAM_BYTES_MAX: usize = 65_536;

/// What happens to datagrams on a directed link. Shares are from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Weather {
    pub(crate) lost: f64,
    pub(crate) doubled: f64,
    /// One bit of them is another one.
    pub(crate) damaged: f64,
    /// These take up to `later` longer, so that others overtake them.
    pub(crate) late: f64,
    pub(crate) later: Duration,
    /// How long each takes at least.
    pub(crate) delay: Duration,
}

impl Weather {
    /// Nothing comes through.
    pub(crate) const CUT: Self = Self {
        lost: 1.0,
        doubled: 0.0,
        damaged: 0.0,
        late: 0.0,
        later: Duration::ZERO,
        delay: Duration::ZERO,
    };
}

/// How many datagrams met which fate.
#[derive(Debug, Default)]
pub(crate) struct Fates {
    pub(crate) passed: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) doubled: AtomicU64,
    pub(crate) damaged: AtomicU64,
    pub(crate) late: AtomicU64,
}

/// Sockets between nodes, and the weather there.
pub(crate) struct Relay {
    shared: Arc<Shared>,
    /// Where `from` finds `to`.
    doors: BTreeMap<(u64, u64), SocketAddr>,
    sockets: Vec<Arc<UdpSocket>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    weather: Mutex<BTreeMap<(u64, u64), Weather>>,
    fates: Fates,
    under_way: Mutex<BinaryHeap<Reverse<UnderWay>>>,
    sooner: Condvar,
    over: AtomicBool,
}

/// A datagram that is delivered at its time.
struct UnderWay {
    at: Instant,
    number: u64,
    through: Arc<UdpSocket>,
    to: SocketAddr,
    bytes: Vec<u8>,
}

impl PartialEq for UnderWay {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for UnderWay {}

impl PartialOrd for UnderWay {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for UnderWay {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl Relay {
    /// Doors from each of `from` to each of the nodes at these addresses, which are numbered from 1. The weather is fair.
    pub(crate) fn new(seed: u64, from: impl Iterator<Item = u64>, nodes: &[SocketAddr]) -> Self {
        let shared: Arc<Shared> = Arc::default();
        let mut relay = Self {
            shared: Arc::clone(&shared),
            doors: BTreeMap::new(),
            sockets: Vec::new(),
            threads: vec![std::thread::spawn(move || deliver(&shared))],
        };
        for from in from {
            for (to, address) in (1..).zip(nodes).filter(|(to, _)| *to != from) {
                relay.open(seed, from, to, *address);
            }
        }
        relay
    }

    fn open(&mut self, seed: u64, from: u64, to: u64, address: SocketAddr) {
        let bind = || Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        let (near, far) = (bind(), bind());
        self.doors.insert((from, to), near.local_addr().unwrap());
        // Who dialled; learned from what comes.
        let dialler: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
        for (socket, through, link, is_near) in
            [(&near, &far, (from, to), true), (&far, &near, (to, from), false)]
        {
            let (socket, through) = (Arc::clone(socket), Arc::clone(through));
            let (shared, dialler) = (Arc::clone(&self.shared), Arc::clone(&dialler));
            let random =
                Rng::with_seed(seed << 16 | link.0 << 8 | link.1 << 1 | u64::from(is_near));
            self.sockets.push(Arc::clone(&socket));
            self.threads.push(std::thread::spawn(move || {
                let mut link = Link { shared, link, through, random, number: 0 };
                let mut bytes = vec![0; DATAGRAM_BYTES_MAX];
                while let Ok((length, source)) = socket.recv_from(&mut bytes) {
                    if link.shared.over.load(Ordering::Relaxed) {
                        break;
                    }
                    let to = if is_near {
                        *dialler.lock().unwrap() = Some(source);
                        Some(address)
                    } else {
                        *dialler.lock().unwrap()
                    };
                    if let Some(to) = to {
                        link.pass(&bytes[..length], to);
                    }
                }
            }));
        }
    }

    /// Where `from` finds `to`.
    pub(crate) fn door(&self, from: u64, to: u64) -> SocketAddr {
        self.doors[&(from, to)]
    }

    /// The weather from now on, of all links that are named; fair on all others.
    pub(crate) fn set(&self, weather: impl IntoIterator<Item = ((u64, u64), Weather)>) {
        *self.shared.weather.lock().unwrap() = weather.into_iter().collect();
    }

    pub(crate) fn fates(&self) -> &Fates {
        &self.shared.fates
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        {
            let _under_way = self.shared.under_way.lock().unwrap();
            self.shared.sooner.notify_one();
        }
        // Wakes those who wait for a datagram.
        for socket in &self.sockets {
            let _ = socket.send_to(&[], socket.local_addr().unwrap());
        }
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

/// One direction.
struct Link {
    shared: Arc<Shared>,
    link: (u64, u64),
    through: Arc<UdpSocket>,
    random: Rng,
    number: u64,
}

impl Link {
    fn pass(&mut self, bytes: &[u8], to: SocketAddr) {
        let weather = self.shared.weather.lock().unwrap().get(&self.link).copied();
        let weather = weather.unwrap_or_default();
        let shared = Arc::clone(&self.shared);
        let count = |fate: &AtomicU64| _ = fate.fetch_add(1, Ordering::Relaxed);
        if self.random.f64() < weather.lost {
            return count(&shared.fates.lost);
        }
        count(&shared.fates.passed);
        let mut copies = 1;
        if self.random.f64() < weather.doubled {
            count(&shared.fates.doubled);
            copies = 2;
        }
        for _ in 0..copies {
            let mut bytes = bytes.to_vec();
            if !bytes.is_empty() && self.random.f64() < weather.damaged {
                count(&shared.fates.damaged);
                let at = self.random.usize(..bytes.len());
                bytes[at] ^= 1 << self.random.u32(..8);
            }
            let mut delay = weather.delay;
            if self.random.f64() < weather.late {
                count(&shared.fates.late);
                delay += weather.later.mul_f64(self.random.f64());
            }
            if delay.is_zero() {
                // A receiver that is gone loses it.
                let _ = self.through.send_to(&bytes, to);
                continue;
            }
            self.number += 1;
            let (at, number, through) =
                (Instant::now() + delay, self.number, Arc::clone(&self.through));
            let mut under_way = shared.under_way.lock().unwrap();
            under_way.push(Reverse(UnderWay { at, number, through, to, bytes }));
            shared.sooner.notify_one();
        }
    }
}

/// Delivers what is under way at its time.
fn deliver(shared: &Shared) {
    let mut under_way = shared.under_way.lock().unwrap();
    while !shared.over.load(Ordering::Relaxed) {
        let now = Instant::now();
        match under_way.peek().map(|Reverse(next)| next.at) {
            Some(at) if at <= now => {
                let Reverse(UnderWay { through, to, bytes, .. }) =
                    under_way.pop().expect("it was seen");
                let _ = through.send_to(&bytes, to);
            }
            Some(at) => under_way = shared.sooner.wait_timeout(under_way, at - now).unwrap().0,
            None => under_way = shared.sooner.wait(under_way).unwrap(),
        }
    }
}
