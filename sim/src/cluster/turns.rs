//! A turn of a node, and all that comes of it: what is looked at, sent, planned and judged.

use std::hash::Hash;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use quorate_engine::engine::Input;
use quorate_engine::{Packet, Sent};
use quorate_replicator::{Channel, NodeId};
use quorate_storage::Tag;

use super::event::Event;
use super::machine::Machine;
use super::quorum::{FAR_AHEAD_MS, Votes};
use super::watched::Seen;
use super::{Cluster, MS};
use crate::node::GROUP;
use crate::oracle::{Checked, violation};

impl Cluster<'_> {
    /// A turn of a node, and all that comes of it.
    pub(super) fn after(&mut self, place: usize) -> Checked {
        loop {
            let machine = &mut self.machines[place];
            let local = machine.local(self.now);
            let Some(node) = &mut machine.node else { return Ok(()) };
            node.turn(local);
            let news = std::mem::take(&mut node.news);
            self.look(place)?;
            self.applied(place)?;
            let mut again = false;
            for news in news {
                again |= self.news(place, news)?;
            }
            if !again {
                break;
            }
        }
        self.ship(place)?;
        self.arm(place)?;
        self.judge(place)
    }

    /// What the engine did in its turn.
    pub(super) fn look(&mut self, place: usize) -> Checked {
        let sight = Arc::clone(&self.machines[place].sight);
        let mut sight = sight.lock().unwrap_or_else(PoisonError::into_inner);
        let id = self.machines[place].id;
        for seen in sight.drain(..) {
            match seen {
                Seen::Leads { term } => {
                    self.tell(|_| format!("{id} leads in term {term}"));
                    self.laws.leads(id, term)?;
                    if let Some(node) = &self.machines[place].node {
                        self.laws.is_complete(id, term, &node.copies.written_out())?;
                    }
                    // Whoever leads others has stored its own vote before they could give theirs.
                    let machine = &mut self.machines[place];
                    if machine.voters[0].len() > 1 {
                        machine.led = machine.led.max(term);
                    }
                }
                Seen::Delivered { entry, mark, .. } if self.votes.is_some() => {
                    // It may wait for the own vote to be durable: until it is applied it is not said to be decided.
                    self.machines[place].delivered.push_back((entry, mark));
                }
                Seen::Delivered { entry, leads, .. } => {
                    let (index, tag) = (entry.index, entry.tag);
                    if self.laws.delivered(id, index, tag, leads)? {
                        self.is_on_a_quorum(place, index, tag)?;
                    }
                }
                Seen::Evidence(evidence) => {
                    if let Some(votes) = &mut self.votes {
                        votes.found(id, &evidence)?;
                    }
                }
                Seen::Counted { index, term } => self.counts_its_own(place, index, term)?,
                Seen::SpeaksTooEarly { term } => {
                    return violation(format!(
                        "{id} sends a message of term {term} that does not wait for its vote to be durable"
                    ));
                }
                Seen::Installed { index, mark } => {
                    self.tell(|_| format!("{id} puts a snapshot at {index} in force"));
                    if let Some(votes) = self.votes.as_ref().filter(|_| index <= self.laws.newest) {
                        votes.stands(id, index, &mark)?;
                    }
                }
                Seen::Members { index, voters, learners } => {
                    self.operator.learns(index, &voters, learners);
                    let known = &mut self.machines[place].voters;
                    if known[0] != voters {
                        known[1] = std::mem::replace(&mut known[0], voters.clone());
                        self.tell(|_| format!("{id} says that {voters:?} vote"));
                    }
                }
            }
        }
        Ok(())
    }

    /// What validators decided and a node has applied.
    fn applied(&mut self, place: usize) -> Checked {
        let machine = &mut self.machines[place];
        let (id, applied) = match &machine.node {
            Some(node) => (machine.id, node.status().applied),
            None => return Ok(()),
        };
        while let Some((entry, mark)) =
            self.machines[place].delivered.pop_front_if(|(entry, _)| entry.index <= applied)
        {
            if self.laws.delivered(id, entry.index, entry.tag, None)? {
                self.is_on_a_quorum(place, entry.index, entry.tag)?;
                let pick = self.rng.u64(..);
                if let Some(votes) = &mut self.votes {
                    votes.delivered(&entry, &mark, pick)?;
                }
            }
            if let Some(votes) = &self.votes {
                votes.stands(id, entry.index, &mark)?;
            }
        }
        Ok(())
    }

    /// Raft 5.4.2: a leader counts copies of entries of its own term only, and decides all before with them.
    fn counts_its_own(&self, place: usize, index: u64, term: u64) -> Checked {
        let machine = &self.machines[place];
        let tag = machine.node.as_ref().and_then(|node| node.copies.tag(index));
        match tag.zip(self.term_of).and_then(|(tag, term_of)| term_of(tag)) {
            Some(earlier) if earlier < term && machine.voters[0].len() > 1 => violation(format!(
                "{} leads in term {term} and takes {index} for decided, which is of term {earlier}",
                machine.id
            )),
            _ => Ok(()),
        }
    }

    /// A decided entry is durable on a majority. While voters change, those of before or of after count.
    pub(super) fn is_on_a_quorum(&self, place: usize, index: u64, tag: Tag) -> Checked {
        if let Some(votes) = &self.votes {
            let has = |machine: &&Machine| machine.lies.is_none() && machine.has(index, tag);
            let holders = self.machines.iter().filter(has).map(|machine| machine.id);
            if votes.is_quorum(index, holders) {
                return Ok(());
            }
            let id = self.machines[place].id;
            return violation(format!(
                "{id} says that {index} is decided, and it is durable at no quorum"
            ));
        }
        let is_majority = |voters: &Vec<NodeId>| {
            let has =
                |voter: &&NodeId| self.machine_of(**voter).is_some_and(|it| it.has(index, tag));
            !voters.is_empty() && 2 * voters.iter().filter(has).count() > voters.len()
        };
        if self.machines[place].voters.iter().any(is_majority) {
            return Ok(());
        }
        let [voters, before] = &self.machines[place].voters;
        violation(format!(
            "{} says that {index} is decided, and it is durable on no majority of {voters:?} or {before:?}",
            self.machines[place].id
        ))
    }

    pub(super) fn machine_of(&self, node: NodeId) -> Option<&Machine> {
        self.machines.get(self.place_of(node)?)
    }

    pub(super) fn place_of(&self, node: NodeId) -> Option<usize> {
        usize::try_from(node.number()).ok()?.checked_sub(1).filter(|it| *it < self.machines.len())
    }

    /// Sends what a node wants sent.
    pub(super) fn ship(&mut self, place: usize) -> Checked {
        let lies = self.is_liar(place);
        let machine = &mut self.machines[place];
        let id = machine.id;
        let Some(node) = &mut machine.node else { return Ok(()) };
        let outbox = std::mem::take(&mut node.outbox);
        let snapshots = std::mem::take(&mut node.snapshots);
        let members = node.members.take();
        if let (Some(votes), false) = (&mut self.votes, lies) {
            let messages = outbox.iter().filter_map(|sent| match &sent.packet {
                Packet::Engine(message) => Some(message),
                _ => None,
            });
            votes.speaks(id, &node.copies, messages)?;
            for (.., words) in &snapshots {
                Votes::sends_snapshot(id, &node.copies, words)?;
            }
        }
        for Sent { to, urgent, packet } in outbox {
            let channel = packet.channel(urgent);
            let bytes = packet.encode(GROUP);
            for to in to {
                self.send(place, to, channel, &bytes);
            }
            if self.effect(place)? {
                return Ok(());
            }
        }
        for (to, index, head) in snapshots {
            self.begin_stream(place, to, index, head);
        }
        let machine = &mut self.machines[place];
        let local = machine.local(self.now);
        if let Some(members) = members {
            let reached = machine.reach.members(local, members, machine.peers.clone());
            machine.reaches(&reached);
        }
        Ok(())
    }

    pub(super) fn send(&mut self, place: usize, to: NodeId, channel: Channel, bytes: &Bytes) {
        let from = self.machines[place].id;
        // One who runs twice hears everything twice.
        for there in 0..self.machines.len() {
            if self.machines[there].id != to || to == from || !self.are_peers(place, there) {
                continue;
            }
            let arrivals = self.network.send(place, there, channel, self.now);
            for at in arrivals.into_iter().flatten() {
                self.queue.push(at, Event::Packet { to: there, from, bytes: bytes.clone() });
            }
        }
    }

    /// Whether each of two nodes takes the other for a peer: one alone makes no connection.
    pub(super) fn are_peers(&self, one: usize, other: usize) -> bool {
        let knows =
            |of: usize, whom: usize| self.machines[of].peers.contains(&self.machines[whom].id);
        knows(one, other) && knows(other, one)
    }

    pub(super) fn arrived(&mut self, to: usize, from: NodeId, bytes: &Bytes) -> Checked {
        bytes.len().hash(&mut self.hasher);
        let censor = self.votes.as_ref().and_then(Votes::censor);
        let machine = &mut self.machines[to];
        let local = machine.local(self.now);
        let censors = censor == Some(machine.id);
        let Some(node) = &mut machine.node else { return Ok(()) };
        let packet = match Packet::decode(bytes) {
            Ok((_, packet)) => packet,
            Err(error) => {
                let (to, bytes) = (machine.id, bytes.len());
                return violation(format!("{to} cannot read {bytes} bytes of {from}: {error}"));
            }
        };
        let returned = machine.liveness.heard(from, local);
        if returned {
            node.input(Input::Peer { node: from, alive: true });
        }
        let silent = matches!(packet, Packet::Alive(_)) && !returned;
        match packet {
            Packet::Alive(members) => {
                if let Some(reached) = machine.reach.told(local, from, members) {
                    machine.reaches(&reached);
                }
            }
            Packet::Forward(_) if censors => {}
            packet => node.packet(local, from, packet),
        }
        if silent { Ok(()) } else { self.after(to) }
    }

    /// A node says that it is there, and looks who is not.
    pub(super) fn say_alive(&mut self, place: usize, life: u32) -> Checked {
        if !self.is_of(place, life) {
            return Ok(());
        }
        let machine = &mut self.machines[place];
        let local = machine.local(self.now);
        let (says, gone) = machine.liveness.look(local);
        let wake = machine.when(machine.liveness.wake_at());
        if says {
            if let Some(reached) = machine.reach.look(local) {
                machine.reaches(&reached);
            }
            let mut peers = machine.peers.clone();
            peers.retain(|peer| machine.reach.is_member(*peer));
            let bytes = Packet::Alive(machine.reach.known().clone()).encode(GROUP);
            for peer in peers {
                self.send(place, peer, Channel::Control, &bytes);
            }
        }
        self.queue.push(wake.max(self.now + MS), Event::Alive { place, life });
        if gone.is_empty() {
            return Ok(());
        }
        self.with(place, life, |node, _| {
            for peer in gone {
                node.input(Input::Peer { node: peer, alive: false });
            }
        })
    }

    /// Plans what the disk and the clock owe a node.
    pub(super) fn arm(&mut self, place: usize) -> Checked {
        let (now, life) = (self.now, self.machines[place].life);
        let local = self.machines[place].local(now);
        let Some(node) = &mut self.machines[place].node else { return Ok(()) };
        let begun = node.begin_commit();
        let full = node.is_full();
        let (job, fetch) = (node.has_job(), node.has_fetch());
        let (install, wake) = (node.wants_install(), node.wake_at(local));
        if begun && !self.machines[place].syncing {
            self.machines[place].syncing = true;
            let time = self.disk_time(place);
            self.plan(time, Event::Synced { place, life });
            if self.effect(place)? {
                return Ok(());
            }
        } else if full && !std::mem::replace(&mut self.machines[place].retrying, true) {
            self.plan(MS * 20, Event::LogRetry { place, life });
        }
        if job && !self.machines[place].storing {
            self.machines[place].storing = true;
            let time = self.disk_time(place) * 4;
            self.plan(time, Event::Stored { place, life });
        }
        if fetch && !self.machines[place].fetching {
            self.machines[place].fetching = true;
            let time = self.disk_time(place) / 2;
            self.plan(time, Event::Fetched { place, life });
        }
        if install && !self.machines[place].installing {
            self.machines[place].installing = true;
            let time = self.disk_time(place) * 2;
            self.plan(time, Event::Installed { place, life });
        }
        if let Some(wake) = wake {
            // A shell never wakes earlier, and a little later.
            let at = self.machines[place].when(wake).max(now + MS / 20);
            if self.machines[place].wake.is_none_or(|planned| at < planned) {
                self.machines[place].wake = Some(at);
                self.queue.push(at, Event::Wake { place, life });
            }
        }
        Ok(())
    }

    pub(super) fn synced(&mut self, place: usize, life: u32) -> Checked {
        if self.is_of(place, life) {
            self.machines[place].syncing = false;
            if self.effect(place)? {
                return Ok(());
            }
        }
        self.with(place, life, |node, _| {
            node.end_commit();
            node.maintain();
        })
    }

    /// What a node shows after its turn; one that stopped is started again after a while.
    pub(super) fn judge(&mut self, place: usize) -> Checked {
        let machine = &mut self.machines[place];
        let lies = machine.lies.is_some();
        let Some(node) = &machine.node else { return Ok(()) };
        if let Some(cause) = node.faulted() {
            let cause = cause.to_owned();
            if !lies && (cause.contains("panic") || cause.contains("differs")) {
                return violation(format!("{} stopped: {cause}", machine.id));
            }
            self.tell(|it| format!("{} stopped: {cause}", it.machines[place].id));
            let keep = if self.rng.bool() { Some(self.keep()) } else { None };
            self.die(place, keep)?;
            // Whoever starts what may not take part does not do so all the time.
            let soon = if self.machines[place].wiped { self.swarm.patience } else { MS * 5 };
            self.restart_after(place, soon, soon + MS * 200);
            return Ok(());
        }
        if lies {
            return Ok(());
        }
        let status = node.status();
        // What a node says while it waits until others have noted its directory.
        let waits = status.reason.as_deref().is_some_and(|it| it.contains("new directory"));
        machine.is_founded |= !waits;
        self.oracle.seen(&status)?;
        if self.votes.is_some() && status.log_time.as_ms() >= FAR_AHEAD_MS {
            let (id, at) = (machine.id, status.log_time);
            return violation(format!("log time at {id} is {at:?}, and no clock shows that"));
        }
        self.laws.shows(machine.id, &mut machine.shown, &status)
    }
}
