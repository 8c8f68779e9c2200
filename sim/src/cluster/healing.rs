//! After everything is healed: the cluster must converge, and the accounts must be right.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use quorate_replicator::{Frame, NodeId, Role, SessionId, ShardKey};

use super::event::Event;
use super::quorum::Votes;
use super::workload::Probe;
use super::{CONVERGES_WITHIN, Cluster, MS};
use crate::node::Node;
use crate::oracle::{Checked, violation};
use crate::scenario::everything;

impl Cluster<'_> {
    /// Heals everything, or all but a minority for ever, and waits until the cluster has converged.
    pub(super) fn heal(&mut self) -> Checked {
        self.faults_on = false;
        if self.swarm.heals_majority_only && self.all_are_founded() {
            let few = self.swarm.stays_broken;
            let mut places = self.members();
            self.rng.shuffle(&mut places);
            let mut gone = BTreeSet::new();
            for place in places.into_iter().take(1 + self.rng.usize(..few)) {
                gone.insert(self.machines[place].id);
                if self.votes.as_ref().is_some_and(|votes| !votes.bears(&gone)) {
                    break;
                }
                self.tell(|it| format!("{} stays broken", it.machines[place].id));
                self.die(place, None)?;
                self.machines[place].gone = true;
            }
        }
        self.tell(|_| "healing".to_owned());
        self.network.heal();
        for place in 0..self.machines.len() {
            let machine = &mut self.machines[place];
            machine.disk.set_capacity(None);
            machine.paused_until = self.now;
            machine.slow_until = self.now;
            let life = machine.life;
            // What was armed goes with the power.
            let used = machine.is_up() || life > 0;
            if used && !machine.gone {
                let keep = self.keep();
                self.machines[place].disk.cut_at(u64::MAX);
                if self.machines[place].armed || !self.machines[place].is_up() {
                    self.die(place, Some(keep))?;
                    self.restart_after(place, MS, MS * 20);
                }
            }
        }
        self.converge()
    }

    /// Whether no node needs one that may stay broken to begin at all.
    fn all_are_founded(&self) -> bool {
        self.votes.as_ref().is_none_or(Votes::founds_without_some)
            || self.machines.iter().all(|machine| machine.is_founded)
    }

    /// Runs until all that must be true of a healed cluster is.
    fn converge(&mut self) -> Checked {
        let begun = self.now;
        let patience = self.swarm.patience;
        let votes = self.votes.as_ref();
        let within = votes.map_or(CONVERGES_WITHIN, Votes::converges_within);
        let until = begun + patience * within;
        self.probes.clear();
        for place in 0..self.machines.len() {
            let mut session = [0xfe; 16];
            session[0] = place as u8;
            session[1] = u8::from(self.report.converged_permille > 0);
            let shard = ShardKey::new("sim", "ns0").expect("a name");
            let keys = self.call_keys.as_ref();
            let session =
                keys.map_or_else(|| SessionId::new(session), |keys| keys.session(session));
            let frame = Frame::open_session(session, shard);
            self.probes.insert(place, Probe { frame, under_way: false, done: false });
        }
        while let Err(why) = self.has_converged() {
            if self.now >= until {
                for place in self.members() {
                    self.tell(|it| {
                        let machine = &it.machines[place];
                        let status = machine.node.as_ref().map(Node::status);
                        format!("{} is at the end: {status:?}", machine.id)
                    });
                }
                return violation(format!(
                    "not converged {:?} after healing, which is {within} times {patience:?}: {why}",
                    self.now - begun
                ));
            }
            self.healed = self.members();
            self.probe()?;
            let look = self.now + Self::look_every();
            self.queue.push(look, Event::Look);
            while self.now < look {
                self.step()?;
            }
        }
        let took = (self.now - begun).as_micros() * 1000 / patience.as_micros();
        self.report.converged_permille = self.report.converged_permille.max(took as u64).max(1);
        self.tell(|_| format!("converged after {took} permille of ten election timeouts"));
        Ok(())
    }

    /// The machines that must converge: all members that are not lost or broken for ever.
    fn members(&self) -> Vec<usize> {
        let (voters, learners) = self.view();
        let members = voters.iter().chain(&learners);
        members
            .filter_map(|node| self.place_of(*node))
            .filter(|place| !self.machines[*place].gone && !self.machines[*place].wiped)
            .filter(|place| !self.is_liar(*place))
            .collect()
    }

    /// Why the cluster has not converged.
    fn has_converged(&self) -> Result<(), String> {
        let members = self.members();
        if members.is_empty() {
            return Err("nobody runs".to_owned());
        }
        let mut leader: Option<NodeId> = None;
        let mut applied = None;
        for place in &members {
            let machine = &self.machines[*place];
            let id = machine.id;
            let Some(node) = &machine.node else { return Err(format!("{id} is down")) };
            let status = node.status();
            let about =
                || format!("{:?}", (status.role, status.term, status.committed, &status.reason));
            let Some(known) = status.leader else {
                return Err(format!("{id} knows no leader: {}", about()));
            };
            let has_leaders = self.votes.is_none();
            if has_leaders && *leader.get_or_insert(known) != known {
                return Err(format!("{id} follows {known}, others {leader:?}"));
            }
            if has_leaders && (status.role == Role::Leader) != (known == id) {
                return Err(format!("{id} is {:?}, and {known} leads", status.role));
            }
            if *applied.get_or_insert(status.applied) != status.applied {
                return Err(format!("{id} has applied {}, others {applied:?}", status.applied));
            }
            if self.given(*place) != status.applied {
                return Err(format!(
                    "the subscriber at {id} has {} of {}",
                    self.given(*place),
                    status.applied
                ));
            }
            let may_commit = self.swarm.settings.forward || status.role == Role::Leader;
            if may_commit && !self.probes.get(place).is_some_and(|probe| probe.done) {
                return Err(format!("{id} has not committed a fresh write: {}", about()));
            }
        }
        match self.clients.iter().find(|client| !client.is_done()) {
            Some(client) => Err(format!("no answer for {}", client.waiting())),
            None => Ok(()),
        }
    }

    /// The last accounts.
    pub(super) fn account(&mut self) -> Checked {
        self.report.frames = self.oracle.finish()?;
        let before = self.same_everywhere()?;
        self.audited()?;
        if self.swarm.last_blackout {
            self.tell(|_| "the last blackout".to_owned());
            for place in 0..self.machines.len() {
                if self.machines[place].is_up() {
                    let keep = self.keep();
                    self.die(place, Some(keep))?;
                    self.restart_after(place, MS, MS * 20);
                }
            }
            self.converge()?;
            // What had a time to live may have ended it meanwhile, everywhere.
            self.same_everywhere()?;
            self.oracle.finish()?;
        }
        let oracle = &self.oracle;
        let judged =
            std::mem::take(&mut self.registers).judge(|id| oracle.may_have_happened(id))?;
        self.report.judged = judged;
        self.report.answers = self.clients.iter().map(|client| client.answered).sum();
        self.report.orphans = self.clients.iter().map(|client| client.orphans).sum();
        self.report.terms = self.laws.terms();
        if let Some(votes) = &self.votes {
            self.report.evidence = votes.evidence;
            self.report.latest_round = votes.latest_round;
            self.report.refused = votes.refused;
            self.report.changed = votes.changed;
            self.report.is_random = votes.changes_schemes();
            self.report.changes = votes.changed.all();
        }
        (self.report.messages, self.report.lost) = (self.network.sent, self.network.lost);
        self.report.virtual_ms = self.now.as_millis() as u64;
        let mut hasher = self.hasher.clone();
        before.hash(&mut hasher);
        self.report.events = hasher.finish();
        Ok(())
    }

    /// The log of each validator, as an auditor sees it.
    fn audited(&self) -> Checked {
        let Some(votes) = &self.votes else { return Ok(()) };
        for place in self.members() {
            let machine = &self.machines[place];
            let node = machine.node.as_ref().expect("the cluster has converged");
            match node.history() {
                Ok((mark, log)) => votes.audits(machine.id, mark.as_deref(), &log)?,
                Err(error) => {
                    let id = machine.id;
                    return violation(format!("the log of {id} cannot be read: {error}"));
                }
            }
        }
        Ok(())
    }

    /// All keys and values, which all members must have alike.
    fn same_everywhere(&self) -> Checked<Vec<String>> {
        let mut first: Option<Vec<String>> = None;
        for place in self.members() {
            let machine = &self.machines[place];
            let node: &Node = machine.node.as_ref().expect("the cluster has converged");
            let here = everything(node);
            if first.get_or_insert_with(|| here.clone()) != &here {
                return violation(format!(
                    "the state of {} differs from that of others",
                    machine.id
                ));
            }
        }
        Ok(first.unwrap_or_default())
    }
}
