//! How the validators change: operators approve a motion, each at its own node, and one that a quorum approves is proposed.
//!
//! ```text
//!   wish at a node ---> its approval, signed ---> all others
//!                            '--- approvals of a quorum ---> batch of the change at h ---> in force at h + 2
//! ```
//!
//! A node that is to be added has to be there, and near to what is decided, before this one approves it: where all validators are needed, one that
//! never comes would end everything.
//!
//! Approvals count in one epoch and are kept in memory alone: whoever lost them is asked again. Nobody votes for a change that does not carry those of
//! a quorum, or while another one is decided and not in force.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quorate_certificate::{MembersBody, Motion, Signature, ValidatorChange, ValidatorSet};
use quorate_engine::engine::{Admin, Now, Output, TimerId};
use quorate_replicator::{AdminError, Member, MemberChange, MemberRole, NodeId};
use quorate_storage::Body;

use super::QuorumEngine;
use crate::codec::Malformed;
use crate::message;

/// When open motions are told again.
pub(super) const APPROVE: TimerId = TimerId(super::OWN + 4);

/// How long to wait until they are told again; twice as long each time.
const TELL_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// The longest pause between two times.
const TELL_AGAIN_AFTER_MAX: Duration = Duration::from_secs(30);

/// How long a node that is to be added may take to be heard of, and to catch up.
const JOIN_WITHIN: Duration = Duration::from_secs(60);

/// How old may be what was heard of it: it asks once a second.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

/// By how many heights it may be behind.
const NEAR: u64 = 256;

/// Most motions that one validator approves at a time: a person thinks of one.
const MOTIONS_EACH: usize = 4;

/// Most wishes that wait: they come from people.
const WISHES_MAX: usize = 64;

type Digest = [u8; 32];

/// What operators want, and who has approved it in this epoch.
#[derive(Debug, Default)]
pub(super) struct Motions {
    open: BTreeMap<Digest, Open>,
    wishes: Vec<Wish>,
    tell_after: Duration,
    /// When nodes that are no validators were heard of last, and how far they were.
    followers: BTreeMap<NodeId, (Now, u64)>,
}

#[derive(Debug)]
struct Open {
    motion: Arc<Motion>,
    approvals: BTreeMap<u64, Signature>,
}

#[derive(Debug)]
struct Wish {
    ticket: u64,
    motion: Arc<Motion>,
    /// Until when a node that it adds is waited for; none once it is approved.
    joins_until: Option<Now>,
}

fn refused(reason: impl Into<String>) -> AdminError {
    AdminError::Refused { reason: reason.into() }
}

impl QuorumEngine {
    /// An operator wants something of this node.
    pub(super) fn wish(&mut self, ticket: u64, admin: &Admin, out: &mut Output) {
        let answer = match admin {
            Admin::Change(MemberChange::Approve { change, .. }) => {
                match self.approve(ticket, change, out) {
                    Ok(()) => return,
                    Err(reason) => reason,
                }
            }
            Admin::Change(_) => {
                "validators change when the operators of a quorum of them approve it, each at its own node: `quorate member approve` does that at all nodes of client.toml, with a change that `quorate validator` has made".into()
            }
            Admin::Transfer(_) | Admin::StepDown | Admin::Campaign => {
                "nobody leads validators: another one proposes when this one fails, and after `rotate_every` heights".into()
            }
        };
        out.admin.push((ticket, Err(refused(answer))));
    }

    /// Approves a motion, and waits until it is in force.
    fn approve(&mut self, ticket: u64, change: &[u8], out: &mut Output) -> Result<(), String> {
        let motion = Arc::new(Motion::decode(change).map_err(|error| error.to_string())?);
        if motion.is_done(self.validators()) {
            out.admin.push((ticket, Ok(())));
            return Ok(());
        }
        let base = &self.mark.next_validators;
        let is_decided = motion.is_done(base);
        if !is_decided {
            if self.mark.is_changing() {
                return Err("another change is decided, and not in force yet; ask again".into());
            }
            base.change(&self.genesis.key_chain(), motion.changes())
                .map_err(|error| error.to_string())?;
            let node = self.node.number();
            let known = base.get(node).ok_or_else(|| {
                format!("{} is no validator: those who are approve a change of them", self.node)
            })?;
            self.keys.of(&known.key).ok_or_else(|| self.lacks_key())?;
        }
        if self.motions.wishes.len() >= WISHES_MAX {
            // Whoever asked first has given up by now; what was approved goes on.
            let Wish { ticket, .. } = self.motions.wishes.remove(0);
            let reason = "others have asked since, and it waits for approvals".into();
            out.admin.push((ticket, Err(AdminError::Unfinished { reason })));
        }
        let joins_until = (!is_decided).then(|| self.now + JOIN_WITHIN);
        self.motions.wishes.push(Wish { ticket, motion, joins_until });
        self.look_at_wishes(out);
        Ok(())
    }

    /// A node that is no validator says how far it is.
    pub(super) fn heard_of_follower(&mut self, node: NodeId, height: u64, out: &mut Output) {
        self.motions.followers.insert(node, (self.now, height));
        self.look_at_wishes(out);
    }

    /// The first node that a motion adds, and that is not there yet; with what is known of it.
    fn awaited(&self, motion: &Motion) -> Option<String> {
        let mut added = motion.changes().iter().filter_map(|change| match change {
            ValidatorChange::Add { validator, .. } => Some(NodeId::new(validator.node)),
            _ => None,
        });
        added.find_map(|node| match self.motions.followers.get(&node) {
            Some((at, height)) if self.now < *at + HEARD_WITHIN => {
                (height + NEAR < self.mark.height).then(|| {
                    format!("{node} has height {height} of {}, and has to catch up first", self.mark.height)
                })
            }
            _ => Some(format!(
                "nothing is heard of {node}, which is to be added: start it, and look at its address and its lines"
            )),
        })
    }

    /// Approves what operators of this node want, as soon as the nodes that it adds are there.
    fn look_at_wishes(&mut self, out: &mut Output) {
        let mut waits = false;
        for mut wish in std::mem::take(&mut self.motions.wishes) {
            let Some(until) = wish.joins_until else {
                self.motions.wishes.push(wish);
                continue;
            };
            let problem = match self.awaited(&wish.motion) {
                Some(_) if self.now < until => {
                    waits = true;
                    self.motions.wishes.push(wish);
                    continue;
                }
                Some(problem) => Err(problem),
                None => self.sign(&wish.motion, out),
            };
            match problem {
                Ok(()) => {
                    wish.joins_until = None;
                    self.motions.wishes.push(wish);
                }
                Err(problem) => out.admin.push((wish.ticket, Err(refused(problem)))),
            }
        }
        if waits {
            self.motions.tell_after = TELL_AGAIN_AFTER;
            out.timers.push((APPROVE, Some(TELL_AGAIN_AFTER)));
        }
    }

    /// Approves a motion, and tells the others.
    fn sign(&mut self, motion: &Arc<Motion>, out: &mut Output) -> Result<(), String> {
        let (base, node) = (&self.mark.next_validators, self.node.number());
        let key = base.get(node).and_then(|known| self.keys.of(&known.key));
        let key = key.ok_or_else(|| self.lacks_key())?;
        let approval = motion.approve(&self.chain, base.epoch(), node, key);
        let approval = approval.map_err(|error| error.to_string())?;
        if !self.add_approvals(motion, vec![(node, approval)]) {
            return Err(format!(
                "{MOTIONS_EACH} changes that are approved here wait for others; one has to be decided first, or this node restarted, which forgets them"
            ));
        }
        self.motions.tell_after = TELL_AGAIN_AFTER;
        self.tell_motions(out);
        Ok(())
    }

    /// Keeps those approvals that hold; false if none of them is kept.
    fn add_approvals(&mut self, motion: &Arc<Motion>, approvals: Vec<(u64, Signature)>) -> bool {
        let digest = motion.digest();
        let mut is_kept = false;
        for (node, approval) in approvals {
            let approved = |open: &&Open| open.approvals.contains_key(&node);
            if self.motions.open.get(&digest).as_ref().is_some_and(approved) {
                is_kept = true;
                continue;
            }
            let is_full = self.motions.open.values().filter(approved).count() >= MOTIONS_EACH;
            let validators = &self.mark.next_validators;
            let holds = motion.verify_approval(&self.chain, validators, node, &approval);
            if is_full || holds.is_err() {
                continue;
            }
            let open = self.motions.open.entry(digest);
            let new = || Open { motion: Arc::clone(motion), approvals: BTreeMap::new() };
            open.or_insert_with(new).approvals.insert(node, approval);
            is_kept = true;
        }
        is_kept
    }

    /// A validator tells of a motion, and who approves it.
    pub(super) fn approved(
        &mut self,
        epoch: u64,
        motion: &[u8],
        approvals: Vec<(u64, Signature)>,
        out: &mut Output,
    ) {
        let base = &self.mark.next_validators;
        if epoch != base.epoch() || self.mark.is_changing() {
            return;
        }
        let Ok(motion) = Motion::decode(motion).map(Arc::new) else { return };
        let is_new = !self.motions.open.contains_key(&motion.digest());
        if is_new && base.change(&self.genesis.key_chain(), motion.changes()).is_err() {
            return;
        }
        let had = self.ready().is_some();
        if self.add_approvals(&motion, approvals) && !had && self.ready().is_some() {
            self.motions.tell_after = TELL_AGAIN_AFTER;
            self.tell_motions(out);
        }
    }

    /// It is time to look after motions and wishes.
    pub(super) fn look_at_motions(&mut self, out: &mut Output) {
        self.tell_motions(out);
        self.look_at_wishes(out);
    }

    /// Tells the others of open motions, and wakes them if one is to be decided.
    fn tell_motions(&mut self, out: &mut Output) {
        let epoch = self.mark.next_validators.epoch();
        for Open { motion, approvals } in self.motions.open.values() {
            let told = message::approvals(&self.chain, epoch, motion, approvals);
            self.answer(self.others(), told, out);
        }
        if self.motions.open.is_empty() {
            return;
        }
        out.timers.push((APPROVE, Some(self.motions.tell_after)));
        self.motions.tell_after = (self.motions.tell_after * 2).min(TELL_AGAIN_AFTER_MAX);
        if self.ready().is_some() {
            self.wake(out);
        }
    }

    /// What a validator has approved that is not decided.
    pub(super) fn approved_by(&self, node: NodeId) -> Option<&Motion> {
        let mut open = self.motions.open.values();
        let open = open.find(|open| open.approvals.contains_key(&node.number()))?;
        Some(&open.motion)
    }

    /// A motion that a quorum approves, and that may be decided now.
    fn ready(&self) -> Option<&Open> {
        let validators = &self.mark.next_validators;
        let power = |node: &u64| validators.get(*node).map_or(0, |known| known.power);
        let mut open = self.motions.open.values().filter(|_| !self.mark.is_changing());
        open.find(|open| {
            validators.is_quorum(open.approvals.keys().map(power).sum(), self.fault_model)
        })
    }

    /// Proposes an approved motion, if it is this node's turn and it has not proposed anything else.
    pub(super) fn propose_change(&mut self, out: &mut Output) {
        if self.own.is_some() || !self.may_place() {
            return;
        }
        let Some(Open { motion, approvals }) = self.ready() else { return };
        let approvals: Vec<_> = approvals.iter().map(|(node, it)| (*node, it.clone())).collect();
        let body = motion.body(&approvals).encode();
        // What is not wanted now is proposed at another height.
        let _ = self.place(Body::Members(body.into()), out);
    }

    /// Whether a change is one to vote for.
    pub(super) fn may_change(&self, body: &[u8]) -> bool {
        let validators = &self.mark.next_validators;
        !self.mark.is_changing()
            && Motion::decide(
                (&self.chain, &self.genesis.key_chain()),
                self.fault_model,
                validators,
                body,
            )
            .is_ok()
    }

    /// The validators that a decided batch makes, if it changes them.
    pub(super) fn changed_by(&self, body: &Body) -> Result<Option<ValidatorSet>, String> {
        let Body::Members(bytes) = body else { return Ok(None) };
        let body = MembersBody::decode(bytes).map_err(|error| error.to_string())?;
        let changed = self.mark.next_validators.change(&self.genesis.key_chain(), &body.changes);
        changed.map(Some).map_err(|error| error.to_string())
    }

    /// The validators are others, or will be: `before` is the epoch that was to be in force next.
    pub(super) fn members_changed(&mut self, before: u64, out: &mut Output) {
        if self.mark.next_validators.epoch() != before {
            self.motions.open.clear();
            out.timers.push((APPROVE, None));
        }
        if let Some(known) = self.validators().get(self.node.number()) {
            let key = known.key.clone();
            self.keys.sign_as(&key);
        }
        self.found(out);
        self.tell_members(out);
        for wish in std::mem::take(&mut self.motions.wishes) {
            if wish.motion.is_done(self.validators()) {
                out.admin.push((wish.ticket, Ok(())));
            } else if wish.motion.is_done(&self.mark.next_validators) {
                self.motions.wishes.push(wish);
            } else {
                let reason = "another change was decided first; look at the members, and have it approved again if it is still wanted";
                out.admin.push((wish.ticket, Err(refused(reason))));
            }
        }
    }

    /// Tells the host whom to reach: who validates the next two heights.
    pub(super) fn tell_members(&self, out: &mut Output) {
        let mut addresses: BTreeMap<u64, String> = BTreeMap::new();
        let read: Result<(), Malformed> = self.mark.changes.each(|decided| {
            let motion = MembersBody::decode(decided.body).and_then(|body| Motion::of(&body));
            // A change that is no motion says nothing of addresses.
            addresses
                .extend(motion.into_iter().flat_map(|(motion, _)| motion.addresses().to_vec()));
            Ok(())
        });
        assert!(read.is_ok(), "changes are read before they are kept");
        let member = |node: NodeId| Member {
            node,
            role: MemberRole::Voter,
            address: addresses.get(&node.number()).cloned().unwrap_or_default(),
        };
        let members = self.everybody().into_iter().map(member).collect();
        out.members.push((self.mark.height, members));
    }

    /// Why this node cannot sign.
    pub(super) fn lacks_key(&self) -> String {
        format!(
            "{} has not the key by which the validators know it at height {}: keep the one before as key_file and the next one as next_key_file until this says nothing, and restart",
            self.node,
            self.next()
        )
    }
}
