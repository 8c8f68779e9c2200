//! What goes wrong, and the limits within which it does.
//!
//! The atlas: any number of nodes may stop, lose what they had not synced, or be cut off, at any time. Of what is synced, only
//! the disk of one voter is lost or damaged at a time, of a minority, and only while nobody changes the members; that node may not vote
//! again before it was removed and added anew. What is damaged is the log, but for its last block, which cannot be told from one that
//! was being written.

use quorate_storage::Fault;

use super::event::{Event, Lasting};
use super::swarm::Kind;
use super::{Cluster, MS};
use crate::oracle::Checked;

/// Bytes of a sector.
const SECTOR: usize = quorate_storage::SECTOR_BYTES;

/// Most operations of a disk before an armed fault comes.
const ARMED_OPS: u64 = 60;

impl Cluster<'_> {
    /// Something goes wrong.
    pub(super) fn fault(&mut self) -> Checked {
        if !self.faults_on {
            return Ok(());
        }
        let every = self.swarm.fault_every;
        let next = self.draw(every / 4, every * 2);
        self.plan(next, Event::Fault);
        let kind = self.swarm.kinds[self.rng.usize(..self.swarm.kinds.len())];
        let Some(place) = self.victim() else { return Ok(()) };
        self.report.faults += 1;
        let id = self.machines[place].id;
        let election = self.swarm.patience;
        let lasts = self.draw(election / 4, election * 3);
        match kind {
            Kind::Kill => {
                self.tell(|_| format!("{id} is killed"));
                self.die(place, None)?;
                self.restart_after(place, MS * 5, election * 2);
            }
            Kind::Close => {
                self.close(place)?;
                self.restart_after(place, MS * 5, election);
            }
            Kind::PowerCut => {
                let keep = self.keep();
                self.tell(|_| format!("{id} loses its power, keeping {keep:?}"));
                self.die(place, Some(keep))?;
                self.restart_after(place, MS * 5, election * 2);
            }
            Kind::Blackout => self.blackout()?,
            Kind::ArmedPowerCut => {
                let disk = &self.machines[place].disk;
                disk.cut_at(disk.ops() + self.rng.u64(..ARMED_OPS));
                self.machines[place].armed = true;
            }
            Kind::DiskFault => {
                let fault = [Fault::Eio, Fault::Short][self.rng.usize(..2)];
                let disk = &self.machines[place].disk;
                disk.fail_at(disk.ops() + self.rng.u64(..ARMED_OPS), fault);
                self.machines[place].armed = true;
            }
            Kind::FullDisk => {
                let disk = &self.machines[place].disk;
                let room = self.rng.u64(..64 << 10);
                disk.set_capacity(Some(disk.used() + room));
                self.tell(|_| format!("the disk of {id} has {room} bytes left"));
                self.plan(lasts, Event::Over(Lasting::FullDisk(place)));
            }
            Kind::SlowDisk => {
                self.tell(|_| format!("the disk of {id} is slow for {lasts:?}"));
                self.machines[place].slow_until = self.now + lasts;
            }
            Kind::Pause => {
                self.tell(|_| format!("{id} stands still for {lasts:?}"));
                self.machines[place].paused_until = self.now + lasts;
            }
            Kind::Storm => self.storm(lasts),
            Kind::Partition | Kind::Isolation | Kind::OneWay | Kind::Partial | Kind::Swizzle => {
                self.cut(kind, place, lasts);
            }
            Kind::Rolling => return self.roll(0),
            Kind::Duel => self.duel(),
            Kind::Wipe => self.wipe(place)?,
            Kind::Rot => self.rot(place)?,
            Kind::ClockJump => {
                self.tell(|_| format!("the clock of {id} jumps forward by {lasts:?}"));
                self.machines[place].jump(lasts);
                return self.after(place);
            }
        }
        Ok(())
    }

    /// Someone who is up; the leader more often than others.
    fn victim(&mut self) -> Option<usize> {
        let up: Vec<_> =
            (0..self.machines.len()).filter(|place| self.machines[*place].is_up()).collect();
        let any = *up.get(self.rng.usize(..up.len().max(1)))?;
        let leader = self.leader().and_then(|leader| self.place_of(leader));
        if self.rng.bool() { leader.or(Some(any)) } else { Some(any) }
    }

    fn close(&mut self, place: usize) -> Checked {
        self.tell(|it| format!("{} is closed", it.machines[place].id));
        self.streams_die(place);
        if let Some(mut node) = self.machines[place].node.take() {
            if !self.is_liar(place) {
                self.oracle.looked_at(&node)?;
            }
            self.machines[place].copies = std::mem::take(&mut node.copies);
            // A clean end may fail on a disk that fails; the next start shows what is left.
            drop(node.close());
        }
        self.die(place, None)
    }

    fn blackout(&mut self) -> Checked {
        self.tell(|_| "all nodes lose their power".to_owned());
        let election = self.swarm.patience;
        for place in 0..self.machines.len() {
            if self.machines[place].is_up() {
                let keep = self.keep();
                self.die(place, Some(keep))?;
                self.restart_after(place, MS * 5, election);
            }
        }
        Ok(())
    }

    /// Ends and starts one node after the other.
    pub(super) fn roll(&mut self, place: usize) -> Checked {
        if !self.faults_on || place >= self.machines.len() {
            return Ok(());
        }
        let election = self.swarm.patience;
        if self.machines[place].is_up() {
            self.close(place)?;
            self.restart_after(place, MS * 5, MS * 50);
        }
        self.plan(election / 2, Event::Roll(place + 1));
        Ok(())
    }

    fn storm(&mut self, lasts: std::time::Duration) {
        let nodes = self.machines.len();
        let all = self.rng.bool();
        let mut links = Vec::new();
        for from in 0..nodes {
            for to in 0..nodes {
                if all || self.rng.bool() {
                    links.push((from, to));
                }
            }
        }
        self.tell(|_| format!("bad weather on {} links for {lasts:?}", links.len()));
        links.iter().for_each(|(from, to)| self.network.storm(*from, *to, true));
        self.plan(lasts, Event::Over(Lasting::Storm(links)));
    }

    fn cut(&mut self, kind: Kind, place: usize, lasts: std::time::Duration) {
        let nodes = self.machines.len();
        let other = self.rng.usize(..nodes);
        let mut links = Vec::new();
        match kind {
            Kind::Partition => {
                let side: Vec<bool> = (0..nodes).map(|_| self.rng.bool()).collect();
                for from in 0..nodes {
                    for to in 0..nodes {
                        if side[from] != side[to] {
                            links.push((from, to));
                        }
                    }
                }
            }
            Kind::Isolation => {
                let (hears, speaks) =
                    [(false, false), (true, false), (false, true)][self.rng.usize(..3)];
                for peer in 0..nodes {
                    if !speaks {
                        links.push((place, peer));
                    }
                    if !hears {
                        links.push((peer, place));
                    }
                }
            }
            Kind::OneWay => links.push((place, other)),
            Kind::Partial => links.extend([(place, other), (other, place)]),
            _ => {
                // Links go one after the other, and each comes back at a time of its own.
                for peer in (0..nodes).filter(|peer| *peer != place) {
                    let link = vec![(place, peer), (peer, place)];
                    self.network.cut(&link, true);
                    let over = self.draw(lasts / 2, lasts * 2);
                    self.plan(over, Event::Over(Lasting::Cut(link)));
                }
                let id = self.machines[place].id;
                return self.tell(|_| format!("{id} loses its links one by one"));
            }
        }
        self.tell(|_| format!("{kind:?} for {lasts:?}: {links:?}"));
        self.network.cut(&links, true);
        self.plan(lasts, Event::Over(Lasting::Cut(links)));
    }

    /// Two nodes try to lead at about the same moment, while others restart: nobody may vote twice.
    fn duel(&mut self) {
        self.tell(|_| "a duel".to_owned());
        let mut places: Vec<_> = (0..self.machines.len()).collect();
        self.rng.shuffle(&mut places);
        for (rank, place) in places.into_iter().enumerate() {
            let life = self.machines[place].life;
            let after = self.draw(std::time::Duration::ZERO, MS * 20);
            let event = if rank < 2 {
                Event::Campaign { place, life }
            } else {
                Event::Blink { place, life }
            };
            self.plan(after, event);
        }
    }

    /// A process is killed and comes back at once.
    pub(super) fn blink(&mut self, place: usize, life: u32) -> Checked {
        if self.faults_on && self.is_of(place, life) {
            self.tell(|it| format!("{} is killed", it.machines[place].id));
            self.die(place, None)?;
            self.restart_after(place, MS, MS * 10);
        }
        Ok(())
    }

    /// A fault that lasted is over.
    pub(super) fn fault_over(&mut self, lasting: Lasting) {
        if !self.faults_on {
            return;
        }
        match lasting {
            Lasting::Cut(links) => self.network.cut(&links, false),
            Lasting::Storm(links) => {
                links.iter().for_each(|(from, to)| self.network.storm(*from, *to, false));
            }
            Lasting::FullDisk(place) => self.machines[place].disk.set_capacity(None),
        }
    }

    /// The disk of a voter is lost, if the others can do without it.
    fn wipe(&mut self, place: usize) -> Checked {
        let id = self.machines[place].id;
        if !self.may_wipe(id) {
            return Ok(());
        }
        self.tell(|_| format!("the disk of {id} is lost"));
        self.die(place, None)?;
        self.lose(place);
        Ok(())
    }

    /// What a disk held is gone for good; its node comes back with an empty one, and may not vote before it was added anew.
    pub(super) fn lose(&mut self, place: usize) {
        self.report.wipes += 1;
        let machine = &mut self.machines[place];
        let copies = std::mem::take(&mut machine.copies);
        machine.lost.absorb(copies);
        match &mut self.votes {
            Some(votes) => votes.loses(machine.id),
            // It is of no use before it was removed.
            None => machine.wiped = true,
        }
        machine.replace_disk(&mut self.rng);
        if self.machines[place].founders.len() == 1 {
            // It would found a group of its own at once, not knowing that others joined it since: it is told who they are.
            self.machines[place].founders = self.view().0;
        }
        let election = self.swarm.patience;
        self.restart_after(place, MS * 5, election);
    }

    /// The disk of a voter damages what it holds, if the others can do without it: a bit flips, or a sector holds what was
    /// meant for another place. The node names it and does not start, or has lost nothing.
    fn rot(&mut self, place: usize) -> Checked {
        let id = self.machines[place].id;
        if !self.may_wipe(id) {
            return Ok(());
        }
        self.die(place, None)?;
        let files = self.machines[place].disk.files();
        let mut segments: Vec<_> =
            files.iter().filter(|(path, _)| path.contains("/segment-")).collect();
        // The last block of all cannot be told from one that was being written: its damage is beyond what a log can know.
        // It may be anywhere in the newest segment but in its header.
        let newest = segments.pop();
        let spots = segments.iter().map(|(path, bytes)| (*path, bytes.len()));
        let spots: Vec<_> = spots.chain(newest.map(|(path, _)| (path, SECTOR))).collect();
        if !spots.is_empty() {
            let (path, length) = spots[self.rng.usize(..spots.len())];
            let at = self.rng.usize(..length);
            self.machines[place].rotten = true;
            let disk = &self.machines[place].disk;
            if self.rng.bool() {
                disk.rot(path, at as u64, 1 << self.rng.u8(..8));
                self.tell(|_| format!("a bit of {path} at {id} flips, at byte {at}"));
            } else {
                let bytes = &files[path];
                let from = self.rng.usize(..bytes.len()) / SECTOR * SECTOR;
                let to = at / SECTOR * SECTOR;
                disk.overwrite(path, to as u64, &bytes[from..from + SECTOR]);
                self.tell(|_| format!("a write to byte {from} of {path} at {id} went to {to}"));
            }
        }
        self.start(place)
    }
}
