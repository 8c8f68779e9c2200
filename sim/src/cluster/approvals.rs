//! Operators of validators: they change them, each at its own node, while anything may fail.
//!
//! ```text
//!   a wish, and at times another one ---> each operator asks its own node, again after restarts ---> decided, in force at h + 2
//! ```
//!
//! One change is wanted at a time, or two of which one is decided first. Nobody wants what those who lie, or have lost their disks, would be
//! too many for.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_certificate::{Motion, NewKey, Scheme, ValidatorChange, ValidatorSet};
use quorate_engine::engine::Admin;
use quorate_replicator::{AdminError, MemberChange, NodeId};

use super::quorum::Votes;
use super::{Cluster, MS};
use crate::oracle::{Checked, violation};

/// Most validators that operators make.
const VALIDATORS_MAX: usize = 7;

/// Most power of one validator.
const POWER_MAX: u64 = 3;

/// After how many times its patience an operator wants something else.
const WANTS_FOR: u32 = 12;

/// What operators have under way.
#[derive(Debug, Default)]
pub(super) struct Motions {
    wanted: Vec<Wanted>,
    /// Calls that are not answered: at whose node, and for which motion.
    calls: BTreeMap<u64, (NodeId, Motion)>,
}

#[derive(Debug)]
struct Wanted {
    motion: Motion,
    epoch: u64,
    until: Duration,
}

impl Cluster<'_> {
    /// Operators of validators look at what they want, and ask their nodes for it.
    pub(super) fn approve(&mut self) -> Checked {
        let Some(base) = self.votes.as_ref().and_then(Votes::base).cloned() else { return Ok(()) };
        let now = self.now;
        let wanted = &mut self.motions.wanted;
        let epoch = wanted.first().map(|wanted| wanted.epoch);
        if epoch.is_some_and(|epoch| epoch != base.epoch())
            && let Some(votes) = &self.votes
        {
            votes.keyring().forget_unused(&base);
        }
        wanted.retain(|wanted| wanted.epoch == base.epoch() && now < wanted.until);
        let is_contested = self.rng.u8(..8) == 0 && self.motions.wanted.len() == 1;
        if self.motions.wanted.is_empty() || is_contested {
            self.want(&base)?;
        }
        for validator in base.validators() {
            if self.rng.u8(..3) > 0 {
                self.ask_for_approval(NodeId::new(validator.node))?;
            }
        }
        // Whose node is none asks too, at times.
        let anybody = self.rng.usize(..self.machines.len());
        if self.rng.u8(..8) == 0 {
            self.ask_for_approval(self.machines[anybody].id)
        } else {
            Ok(())
        }
    }

    /// The operator of a node asks it for what is wanted.
    fn ask_for_approval(&mut self, node: NodeId) -> Checked {
        let count = self.motions.wanted.len();
        let wanted = self.motions.wanted.get(self.rng.usize(..count.max(1)));
        let Some(motion) = wanted.map(|wanted| wanted.motion.clone()) else { return Ok(()) };
        let is_asked = |(at, known): &(NodeId, Motion)| *at == node && *known == motion;
        let Some(place) = self.place_of(node) else { return Ok(()) };
        if !self.machines[place].runs(self.now) || self.motions.calls.values().any(is_asked) {
            return Ok(());
        }
        if let Some(votes) = &mut self.votes {
            votes.asks(node, &motion);
        }
        let call = self.call();
        self.tell(|_| format!("the operator of {node} approves: {motion}"));
        let new = motion.addresses().iter().map(|(node, at)| (NodeId::new(*node), at.clone()));
        let change = MemberChange::Approve { change: motion.encode(), new: new.collect() };
        self.motions.calls.insert(call, (node, motion));
        let within = self.swarm.patience * (1 + self.rng.u32(..6));
        let machine = &mut self.machines[place];
        machine.calls.insert(call);
        let life = machine.life;
        self.with(place, life, |node, now| node.admin(Admin::Change(change), now + within, call))
    }

    /// What became of an operator's wish.
    pub(super) fn approved(
        &mut self,
        place: usize,
        call: u64,
        answer: &Result<(), AdminError>,
    ) -> Checked {
        let Some((node, motion)) = self.motions.calls.remove(&call) else { return Ok(()) };
        let is_said = answer.is_ok() && !self.is_liar(place);
        match &self.votes {
            Some(votes) if is_said && !votes.was_in_force(&motion) => {
                violation(format!("{node} says that this is in force, and it is not: {motion}"))
            }
            _ => Ok(()),
        }
    }

    /// Nobody will answer an operator's wish.
    pub(super) fn approval_lost(&mut self, call: u64) {
        self.motions.calls.remove(&call);
    }

    /// Something that operators may want; what it takes is made ready.
    fn want(&mut self, base: &ValidatorSet) -> Checked {
        let Some(motion) = self.next_motion(base)? else { return Ok(()) };
        if !self.votes.as_mut().is_some_and(|votes| votes.may_want(&motion)) {
            return Ok(());
        }
        self.tell(|_| format!("operators want: {motion}"));
        let until = self.now + self.swarm.patience * WANTS_FOR;
        self.motions.wanted.push(Wanted { motion, epoch: base.epoch(), until });
        Ok(())
    }

    fn next_motion(&mut self, base: &ValidatorSet) -> Checked<Option<Motion>> {
        let known: Vec<_> = base.validators().iter().map(|known| known.node).collect();
        let any = known[self.rng.usize(..known.len())];
        let is_few = known.len() < VALIDATORS_MAX;
        let change = match self.rng.u8(..12) {
            0..4 if is_few => return self.add(base),
            4..6 if known.len() > 1 => Some(ValidatorChange::Remove { node: any }),
            6..8 => {
                let power = self.rng.u64(1..=POWER_MAX);
                Some(ValidatorChange::Power { node: any, power })
            }
            8..11 => self.rekey(base, any, base.scheme())?.map(ValidatorChange::RotateKey),
            11 if self.votes.as_ref().is_some_and(Votes::changes_schemes) => self.rescheme(base)?,
            _ => None,
        };
        Ok(change.and_then(|change| Motion::new(vec![change], Vec::new()).ok()))
    }

    /// A node that is no validator is started, if it is not, and is to become one.
    fn add(&mut self, base: &ValidatorSet) -> Checked<Option<Motion>> {
        let Some(votes) = &self.votes else { return Ok(None) };
        let twins = votes.twins();
        let comes = |node: &NodeId| base.get(node.number()).is_none() && !twins.contains(node);
        let spare: Vec<_> = votes.nodes().iter().copied().filter(comes).collect();
        let Some(node) = spare.get(self.rng.usize(..spare.len().max(1))).copied() else {
            return Ok(None);
        };
        let Some(place) = self.place_of(node) else { return Ok(None) };
        let Some(votes) = &self.votes else { return Ok(None) };
        let (key_chain, keyring) = (votes.genesis().key_chain(), votes.keyring());
        let begins = self.machines[place].life == 0;
        if !begins && !self.has_followed(place) {
            return Ok(None);
        }
        let Some((key, is_changed)) = keyring.fresh(node, base.scheme()) else { return Ok(None) };
        if begins || is_changed || self.rng.bool() {
            // One that was a validator once comes back with what it has. What it signs with it reads when it starts.
            self.die(place, None)?;
            self.machines[place].founders = self.view().0;
            if begins {
                self.machines[place].replace_disk(&mut self.rng);
            }
            self.start(place)?;
        }
        let power = if self.rng.u8(..4) == 0 { 2 } else { 1 };
        let change = ValidatorChange::add(&key_chain, node.number(), power, &key);
        let change = change.expect("keys sign");
        Ok(Motion::new(vec![change], vec![(node.number(), node.to_string())]).ok())
    }

    /// Whether a node is where no validators but those in force sign. Before that it may still have to sign for a height with another key, also after
    /// a power cut.
    fn has_followed(&self, place: usize) -> bool {
        let in_force = self.votes.as_ref().map(|votes| votes.validators().changed() + 2);
        let decided = self.machines[place].node.as_ref().map(|node| node.copies.decided());
        decided.is_some() && decided >= in_force
    }

    /// A validator's next key lies beside the one that it has, and it begins a life with both.
    fn rekey(&mut self, base: &ValidatorSet, node: u64, scheme: Scheme) -> Checked<Option<NewKey>> {
        let Some(votes) = &self.votes else { return Ok(None) };
        let id = NodeId::new(node);
        let places: Vec<_> =
            (0..self.machines.len()).filter(|place| self.machines[*place].id == id).collect();
        let has_followed = places.iter().all(|place| self.has_followed(*place));
        let keys = votes.keyring().next(id, base, scheme, has_followed);
        let Some((old, new)) = keys else { return Ok(None) };
        let new = NewKey::new(&votes.genesis().key_chain(), node, &old, &new);
        for place in places {
            if self.machines[place].is_up() {
                self.die(place, None)?;
                self.restart_after(place, MS * 5, self.swarm.patience / 2);
            }
        }
        Ok(Some(new.expect("keys sign")))
    }

    /// All validators sign with another scheme.
    fn rescheme(&mut self, base: &ValidatorSet) -> Checked<Option<ValidatorChange>> {
        let others = [Scheme::Ed25519, Scheme::MlDsa65, Scheme::Hybrid];
        let others: Vec<_> = others.into_iter().filter(|other| *other != base.scheme()).collect();
        let scheme = others[self.rng.usize(..others.len())];
        let mut keys = Vec::new();
        for validator in base.validators() {
            match self.rekey(base, validator.node, scheme)? {
                Some(key) => keys.push(key),
                None => return Ok(None),
            }
        }
        Ok(Some(ValidatorChange::Scheme { scheme, keys }))
    }
}
