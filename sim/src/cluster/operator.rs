//! An operator: changes members, moves leadership, replaces what was lost.

use quorate_engine::engine::Admin;
use quorate_replicator::{AdminError, MemberChange, MemberRole, NodeId, Role};
use quorate_storage::Index;

use super::event::Event;
use super::{Cluster, MS};
use crate::oracle::Checked;

/// Most voters that an operator makes.
const VOTERS_MAX: usize = 5;

/// What the operator has under way.
#[derive(Debug, Default)]
pub(super) struct Operator {
    /// The call of a change that is not answered.
    change: Option<u64>,
    /// A change ended without an answer: it may still be done, and is asked for until it is.
    unsettled: Option<MemberChange>,
    asked: Option<MemberChange>,
    /// The newest members that any node spoke of, and from which index on.
    members: (Index, Vec<NodeId>, Vec<NodeId>),
}

impl Operator {
    /// A node says who the members are.
    pub(super) fn learns(&mut self, index: Index, voters: &[NodeId], learners: Vec<NodeId>) {
        if self.members.1.is_empty() || index > self.members.0 {
            self.members = (index, voters.to_vec(), learners);
        }
    }
}

impl Cluster<'_> {
    /// The newest voters and learners.
    pub(super) fn view(&self) -> (Vec<NodeId>, Vec<NodeId>) {
        let (_, voters, learners) = &self.operator.members;
        (voters.clone(), learners.clone())
    }

    /// Who leads, as far as the one itself knows.
    pub(super) fn leader(&self) -> Option<NodeId> {
        if self.votes.is_some() {
            let all = self.machines.iter().filter(|machine| machine.lies.is_none());
            return all.filter_map(|machine| machine.node.as_ref()?.status().leader).next();
        }
        let leads = |machine: &&super::Machine| {
            machine.node.as_ref().is_some_and(|node| node.status().role == Role::Leader)
        };
        let leaders = self.machines.iter().filter(leads);
        leaders
            .max_by_key(|machine| machine.node.as_ref().map(|it| it.status().term))
            .map(|it| it.id)
    }

    /// Whether the cluster can do without the disk of this voter for good.
    pub(super) fn may_wipe(&self, node: NodeId) -> bool {
        if let Some(votes) = &self.votes {
            return votes.may_lose(node) && self.machines.iter().all(|machine| !machine.rotten);
        }
        let (voters, learners) = self.view();
        self.swarm.operator_every.is_some()
            && self.operator.change.is_none()
            && self.operator.unsettled.is_none()
            && voters.len() >= 3
            && voters.contains(&node)
            && learners.is_empty()
            && self.laws.newest > 0
            && self.machines.iter().all(|machine| !machine.wiped && !machine.rotten)
    }

    /// The operator does something.
    pub(super) fn operate(&mut self) -> Checked {
        let (Some(every), true) = (self.swarm.operator_every, self.faults_on) else {
            return Ok(());
        };
        let next = self.draw(every / 2, every * 3 / 2);
        self.plan(next, Event::Operator);
        if self.votes.is_some() {
            return self.approve();
        }
        let (voters, learners) = self.view();
        let admin = match self.rng.u8(..10) {
            0 => Some(Admin::StepDown),
            1 => Some(Admin::Campaign),
            2..4 => {
                let target = voters.get(self.rng.usize(..voters.len().max(1)));
                target.map(|target| Admin::Transfer(*target))
            }
            _ => self.next_change(&voters, &learners)?.map(Admin::Change),
        };
        let Some(admin) = admin else { return Ok(()) };
        let leader = self.leader().and_then(|leader| self.place_of(leader));
        let up: Vec<_> = (0..self.machines.len())
            .filter(|place| self.machines[*place].runs(self.now) && !self.machines[*place].wiped)
            .collect();
        let Some(any) = up.get(self.rng.usize(..up.len().max(1))).copied() else { return Ok(()) };
        let leader = leader.filter(|place| self.machines[*place].runs(self.now));
        let place = if admin == Admin::StepDown { leader.unwrap_or(any) } else { any };
        let call = self.call();
        let is_change = matches!(admin, Admin::Change(_));
        if is_change {
            self.operator.change = Some(call);
            if let Admin::Change(change) = &admin {
                self.operator.asked = Some(change.clone());
            }
        }
        self.tell(|it| format!("operator at {}: {admin:?}", it.machines[place].id));
        let within = self.swarm.patience * 4;
        let machine = &mut self.machines[place];
        machine.calls.insert(call);
        let life = machine.life;
        self.with(place, life, |node, now| node.admin(admin, now + within, call))
    }

    /// A change that makes sense; a machine that joins is started for it.
    fn next_change(
        &mut self,
        voters: &[NodeId],
        learners: &[NodeId],
    ) -> Checked<Option<MemberChange>> {
        let rotten = self.machines.iter().any(|machine| machine.rotten);
        if self.operator.change.is_some() || voters.is_empty() || rotten {
            return Ok(None);
        }
        if self.operator.unsettled.is_some() {
            return Ok(self.operator.unsettled.clone());
        }
        let members: Vec<NodeId> = voters.iter().chain(learners).copied().collect();
        // What was lost is removed before anything else.
        if let Some(lost) = self.machines.iter_mut().find(|machine| machine.wiped) {
            if members.contains(&lost.id) {
                return Ok(Some(MemberChange::Remove { node: lost.id }));
            }
            lost.wiped = false;
        }
        let spare = (0..self.machines.len())
            .filter(|place| !members.contains(&self.machines[*place].id))
            .collect::<Vec<_>>();
        let any = voters.get(self.rng.usize(..voters.len().max(1))).copied();
        let change = match self.rng.u8(..10) {
            0..4 if !spare.is_empty() && voters.len() < VOTERS_MAX => {
                let place = spare[self.rng.usize(..spare.len())];
                self.prepare(place)?;
                let node = self.machines[place].id;
                let role =
                    if self.rng.u8(..3) > 0 { MemberRole::Voter } else { MemberRole::Learner };
                Some(MemberChange::Add { node, address: format!("{node}"), role })
            }
            4..6 if !learners.is_empty() => {
                let node = learners[self.rng.usize(..learners.len())];
                Some(MemberChange::Promote { node })
            }
            6..8 if voters.len() > 1 => any.map(|node| MemberChange::Remove { node }),
            8..10 if !spare.is_empty() => {
                let place = spare[self.rng.usize(..spare.len())];
                self.prepare(place)?;
                let new = self.machines[place].id;
                any.map(|old| MemberChange::Replace { old, new, address: format!("{new}") })
            }
            _ => None,
        };
        Ok(change)
    }

    /// Makes a machine that is no member ready to be added, with an empty disk.
    fn prepare(&mut self, place: usize) -> Checked {
        if self.machines[place].is_up() && self.machines[place].copies_nothing() {
            return Ok(());
        }
        self.die(place, None)?;
        self.machines[place].replace_disk(&mut self.rng);
        // If all founders came back with nothing they would begin a group of their own. Who comes back is told to join.
        self.machines[place].founders = self.view().0;
        self.tell(|it| format!("{} gets an empty disk", it.machines[place].id));
        self.start(place)
    }

    /// What came of an operator's wish.
    pub(super) fn operated(&mut self, place: usize, call: u64, answer: &Result<(), AdminError>) {
        self.tell(|it| format!("operator at {}: {answer:?}", it.machines[place].id));
        if self.operator.change != Some(call) {
            return;
        }
        self.operator.change = None;
        match answer {
            Ok(()) => {
                self.report.changes += 1;
                self.operator.unsettled = None;
            }
            Err(
                AdminError::Unfinished { .. } | AdminError::Faulted { .. } | AdminError::Closed,
            ) => {
                self.operator.unsettled = self.operator.asked.take();
            }
            Err(_) => {}
        }
    }

    /// Nobody will answer an operator's wish.
    pub(super) fn operator_lost(&mut self, call: u64) {
        if self.operator.change == Some(call) {
            self.operator.change = None;
            self.operator.unsettled = self.operator.asked.take();
        }
    }

    /// How often an operator looks again, at least.
    pub(super) const fn look_every() -> std::time::Duration {
        MS.saturating_mul(20)
    }
}
