//! The network between the nodes of a cluster.

use std::time::Duration;

use quorate_replicator::{Channel, NodeId};
use quorate_transport_memory::{Fate, Link, LinkFaults};

const CHANNELS: usize = 3;
const REQUESTS: usize = 2;

/// Every directed link with its channels.
#[derive(Debug)]
pub(super) struct Network {
    nodes: usize,
    links: Vec<Link>,
    /// How many faults cut each directed link.
    cuts: Vec<u8>,
    stormy: Vec<bool>,
    calm: LinkFaults,
    storm: LinkFaults,
    /// Requests arrive at most once, as the contract of transports says.
    keeps_contract: bool,
    /// Messages that did not arrive.
    pub(super) lost: u64,
    pub(super) sent: u64,
}

impl Network {
    pub(super) fn new(
        seed: u64,
        nodes: usize,
        (calm, storm): (LinkFaults, LinkFaults),
        keeps_contract: bool,
    ) -> Self {
        let id = |place: usize| NodeId::new(place as u64 + 1);
        let mut links = Vec::with_capacity(nodes * nodes * CHANNELS);
        for from in 0..nodes {
            for to in 0..nodes {
                for channel in [Channel::Control, Channel::Entries, Channel::Requests] {
                    links.push(Link::new(seed, id(from), id(to), channel));
                }
            }
        }
        Self {
            nodes,
            links,
            cuts: vec![0; nodes * nodes],
            stormy: vec![false; nodes * nodes],
            calm,
            storm,
            keeps_contract,
            lost: 0,
            sent: 0,
        }
    }

    /// When a message arrives that is sent now.
    pub(super) fn send(
        &mut self,
        from: usize,
        to: usize,
        channel: Channel,
        now: Duration,
    ) -> [Option<Duration>; 2] {
        self.sent += 1;
        let link = from * self.nodes + to;
        if self.cuts[link] > 0 {
            self.lost += 1;
            return [None, None];
        }
        let faults = if self.stormy[link] { &self.storm } else { &self.calm };
        let channel = match channel {
            Channel::Control => 0,
            Channel::Entries => 1,
            Channel::Requests => REQUESTS,
        };
        match self.links[link * CHANNELS + channel].fate(faults, now) {
            Fate::Lost => {
                self.lost += 1;
                [None, None]
            }
            Fate::Once(at) => [Some(at), None],
            Fate::Twice(at, _) if self.keeps_contract && channel == REQUESTS => [Some(at), None],
            Fate::Twice(at, again) => [Some(at), Some(again)],
        }
    }

    /// Whether anything passes from one node to another.
    pub(super) fn passes(&self, from: usize, to: usize) -> bool {
        self.cuts[from * self.nodes + to] == 0
    }

    /// Cuts directed links, or takes such cuts back.
    pub(super) fn cut(&mut self, links: &[(usize, usize)], cut: bool) {
        for (from, to) in links {
            let cuts = &mut self.cuts[from * self.nodes + to];
            *cuts = if cut { cuts.saturating_add(1) } else { cuts.saturating_sub(1) };
        }
    }

    /// Whether a directed link is in bad weather.
    pub(super) fn storm(&mut self, from: usize, to: usize, stormy: bool) {
        self.stormy[from * self.nodes + to] = stormy;
    }

    /// Everything passes, late by a little only.
    pub(super) fn heal(&mut self) {
        self.cuts.fill(0);
        self.stormy.fill(false);
        self.calm = LinkFaults::none().delay(Duration::from_micros(100)..=Duration::from_millis(2));
    }
}
