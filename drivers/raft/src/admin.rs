//! Wishes of an operator: who leads, and who is a member.
//!
//! One change is done at a time, and each is begun only if the group can go on with what it leads to. A wish is answered when
//! it is fulfilled, when it is refused, or when another node leads: whoever leads then goes on, as what is to become of a
//! learner stands in the log.
//!
//! A change is fulfilled when nobody needs those who are out any more: a majority of the voters has stored that it is decided. A
//! leader that is out itself leads no more, and asks them.

use std::collections::BTreeSet;

use quorate_engine::engine::{Admin, Engine, Output};
use quorate_replicator::{AdminError, MemberChange, MemberRole, NodeId};

use crate::codec::ADDRESS_BYTES_MAX;
use crate::core::Core;
use crate::engine::{Part, RaftEngine};
use crate::founding::names;
use crate::hello::{Hello, You};
use crate::members::{Change, Intent, MEMBERS_MAX, Seat};

/// Most wishes that are under way.
const WISHES_MAX: usize = 64;

/// What is under way.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    waiting: Vec<(u64, Goal)>,
    probe: Option<Probe>,
    /// Voters that have told this node, which led and is out, that they have stored so.
    settled: BTreeSet<u64>,
    /// Ticks for which it has asked.
    asked: usize,
}

/// When a wish is fulfilled.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Goal {
    /// This node is a voter.
    Voter(NodeId),
    Learner(NodeId),
    Gone(NodeId),
    Replaced {
        old: NodeId,
        new: NodeId,
    },
    /// This node leads, or a term after this one has begun.
    Leader {
        node: NodeId,
        term: u64,
        ticks: usize,
    },
}

/// A node that is to be added is asked who it is.
#[derive(Debug)]
struct Probe {
    ticket: u64,
    node: NodeId,
    address: String,
    goal: Goal,
    intent: Intent,
    ticks: usize,
}

type Answer = Result<(), AdminError>;

fn refused(reason: impl Into<String>) -> AdminError {
    AdminError::Refused { reason: reason.into() }
}

fn unfinished(reason: impl Into<String>) -> AdminError {
    AdminError::Unfinished { reason: reason.into() }
}

/// What a wish comes to at once.
enum Begun {
    Answered(Answer),
    Waits(Goal),
    Probes(NodeId, String, Goal, Intent),
}

impl Wishes {
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.probe.is_none()
    }
}

impl RaftEngine {
    pub(crate) fn wish(&mut self, ticket: u64, wish: Admin, out: &mut Output) {
        let begun = match &mut self.part {
            Part::Outside(outside, _) => Begun::Answered(Err(refused(outside.reason()))),
            _ if self.wishes.waiting.len() >= WISHES_MAX => {
                Begun::Answered(Err(refused("too many changes are under way; wait for them")))
            }
            Part::Member(_) => self.begin(wish),
        };
        match begun {
            Begun::Answered(answer) => out.admin.push((ticket, answer)),
            Begun::Waits(goal) => self.wishes.waiting.push((ticket, goal)),
            Begun::Probes(node, address, goal, intent) => {
                self.hello(node, true, out);
                self.wishes.probe = Some(Probe { ticket, node, address, goal, intent, ticks: 0 });
            }
        }
    }

    fn begin(&mut self, wish: Admin) -> Begun {
        let (node, leader) = (self.node, self.proposer());
        let probing = self.wishes.probe.is_some();
        let lately = self.heard_lately();
        let foreign = self.foreign.clone();
        let Part::Member(core) = &mut self.part else { unreachable!("it is a member") };
        let not_leader = Begun::Answered(Err(AdminError::NotLeader { leader }));
        match wish {
            Admin::Transfer(to) if core.leads() && to == node => Begun::Answered(Ok(())),
            Admin::Campaign if core.leads() => Begun::Answered(Ok(())),
            Admin::Campaign => {
                let voter = core.members().by_raft(core.id()).is_some_and(|seat| seat.votes);
                if !voter {
                    let reason = "this node does not vote, and may not lead; promote it first";
                    return Begun::Answered(Err(refused(reason)));
                }
                let term = core.term();
                core.campaign(true);
                Begun::Waits(Goal::Leader { node, term: term + 1, ticks: 0 })
            }
            Admin::Change(MemberChange::Approve { .. }) => Begun::Answered(Err(refused(
                "nobody has to approve a change of driver raft: ask for it by `quorate member add`, `remove` or `replace`",
            ))),
            _ if !core.leads() => not_leader,
            Admin::StepDown => {
                core.step_down();
                Begun::Answered(Ok(()))
            }
            Admin::Transfer(to) => {
                let seat = core.members().by_node(to);
                let Some(raft) = seat.filter(|seat| seat.votes).map(|seat| seat.raft) else {
                    return Begun::Answered(Err(refused(format!(
                        "{to} is not a voter; the voters are {}",
                        voters(core)
                    ))));
                };
                let term = core.term();
                core.transfer(raft);
                Begun::Waits(Goal::Leader { node: to, term, ticks: 0 })
            }
            Admin::Change(change) if probing => Begun::Answered(Err(refused(format!(
                "another node is being asked whether it can be added; ask again for: {change}"
            )))),
            // It leads soon, if it still leads then: whoever asks is to ask again.
            Admin::Change(_) if !core.knows_what_is_decided() => {
                Begun::Answered(Err(AdminError::NotLeader { leader: None }))
            }
            Admin::Change(MemberChange::Add { node, .. }) if foreign.contains(&node) => {
                Begun::Answered(Err(refused(format!(
                    "{node} is a member with another directory than the one it runs on; remove {node} first"
                ))))
            }
            Admin::Change(change) => begin_change(core, &change, &lately),
        }
    }

    /// Raft ids that were heard of within an election timeout, and this node's own.
    fn heard_lately(&self) -> Vec<u64> {
        let (now, timeout) = (self.now, self.config.election_timeout);
        let heard = self.heard.iter().filter(|(_, at)| now.saturating_sub(**at) <= timeout);
        heard.map(|(raft, _)| *raft).chain(self.core().map(Core::id)).collect()
    }

    /// A node has told who it is; if it is to be added, it is now.
    pub(crate) fn probed(&mut self, from: NodeId, hello: &Hello, out: &mut Output) {
        let Some(probe) = self.wishes.probe.take_if(|probe| probe.node == from) else { return };
        let Probe { ticket, node, address, goal, intent, .. } = probe;
        let Part::Member(core) = &mut self.part else { return };
        if hello.raft != 0 || !hello.stored.is_empty() {
            let reason = format!(
                "the directory of {node} belongs to a member of a group already{}; start {node} with an empty one",
                if hello.raft == 0 {
                    String::new()
                } else {
                    format!(", with the raft id {}", hello.raft)
                }
            );
            return out.admin.push((ticket, Err(refused(reason))));
        }
        let change = Change::AddLearner {
            raft: core.members().next(),
            node,
            incarnation: hello.incarnation,
            address,
            intent,
        };
        if core.propose_change(change) {
            self.wishes.waiting.push((ticket, goal));
        } else {
            let leader = self.proposer();
            out.admin.push((ticket, Err(AdminError::NotLeader { leader })));
        }
    }

    pub(crate) fn tick_wishes(&mut self, out: &mut Output) {
        let patience = 2 * self.timing.election;
        let over = |probe: &mut Probe| {
            probe.ticks += 1;
            probe.ticks > patience
        };
        if let Some(probe) = self.wishes.probe.take_if(over) {
            let reason = format!(
                "{} did not answer at {:?}; start it with an empty directory and the group's founding members in its configuration, and ask again",
                probe.node, probe.address
            );
            out.admin.push((probe.ticket, Err(refused(reason))));
        } else if let Some(probe) = &self.wishes.probe
            && probe.ticks.is_multiple_of(4)
        {
            self.hello(probe.node, true, out);
        }
        for (_, goal) in &mut self.wishes.waiting {
            if let Goal::Leader { ticks, .. } = goal {
                *ticks += 1;
            }
        }
    }

    /// A node that led, and is out, asks the voters whether they can do without it.
    pub(crate) fn ask_whether_settled(&mut self, out: &mut Output) {
        let Part::Member(core) = &self.part else { return };
        if self.removed_at.is_none() || self.wishes.waiting.is_empty() {
            return;
        }
        let voters: Vec<NodeId> = core.members().voters().map(|seat| seat.node).collect();
        let due = self.wishes.asked.is_multiple_of(4);
        self.wishes.asked += 1;
        for node in voters.into_iter().filter(|_| due) {
            self.hello(node, true, out);
        }
    }

    /// A voter has stored that this node is out.
    pub(crate) fn settled_there(&mut self, from: NodeId, hello: &Hello) {
        let Part::Member(core) = &self.part else { return };
        let members = core.members();
        let voter = members.by_node(from).filter(|seat| {
            (seat.raft, seat.incarnation) == (hello.raft, hello.incarnation) && seat.votes
        });
        if let (Some(voter), You::Removed(at)) = (voter, hello.you)
            && at >= members.changed_at()
        {
            self.wishes.settled.insert(voter.raft);
        }
    }

    /// Answers the wishes of which it is known what became.
    pub(crate) fn settle_wishes(&mut self, out: &mut Output) {
        if self.wishes.waiting.is_empty() && self.wishes.probe.is_none() {
            return;
        }
        let leader = self.proposer();
        let patience = 2 * self.timing.election;
        let Part::Member(core) = &self.part else { return };
        if !core.leads()
            && let Some(probe) = self.wishes.probe.take()
        {
            out.admin.push((probe.ticket, Err(AdminError::NotLeader { leader })));
        }
        let settled = core.change_is_settled(|raft| self.wishes.settled.contains(&raft));
        let out_itself = self.removed_at.is_some() && self.wishes.asked <= patience;
        let stage = match settled {
            true => Stage::Settled,
            false if core.leads() || out_itself => Stage::Waits,
            false => Stage::Unknown,
        };
        self.wishes.waiting.retain(|(ticket, goal)| {
            match judge(core, goal, stage, leader, patience) {
                Some(answer) => {
                    out.admin.push((*ticket, answer));
                    false
                }
                None => true,
            }
        });
    }
}

/// Whether the members can do without those who are out.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Settled,
    /// It is to be heard.
    Waits,
    /// It is not heard here.
    Unknown,
}

/// What became of a wish, if that is known.
fn judge(
    core: &Core,
    goal: &Goal,
    stage: Stage,
    leader: Option<NodeId>,
    patience: usize,
) -> Option<Answer> {
    let members = core.members();
    let votes = |node: NodeId| members.by_node(node).is_some_and(|seat| seat.votes);
    let fulfilled = match goal {
        Goal::Voter(node) => votes(*node) && !members.joint(),
        Goal::Learner(node) => members.by_node(*node).is_some_and(|seat| !members.is_voter(seat)),
        Goal::Gone(node) => members.by_node(*node).is_none(),
        Goal::Replaced { old, new } => votes(*new) && members.by_node(*old).is_none(),
        Goal::Leader { node, term, ticks } => {
            if leader == Some(*node) && core.term() >= *term {
                return Some(Ok(()));
            }
            let other = leader.filter(|_| core.term() > *term);
            if let Some(other) = other {
                return Some(Err(refused(format!("{other} has become the leader instead"))));
            }
            return (*ticks > patience).then(|| {
                Err(unfinished(format!(
                    "{node} has not become the leader within two election timeouts"
                )))
            });
        }
    };
    if fulfilled {
        return match stage {
            Stage::Settled => Some(Ok(())),
            Stage::Waits => None,
            Stage::Unknown => Some(Err(unfinished(
                "the change is decided, and it is not known whether a majority of the voters knows so: leave whoever is out running, and ask the leader again",
            ))),
        };
    }
    if !core.leads() {
        let who = leader
            .map_or_else(|| "no other is known yet".into(), |leader| format!("{leader} does"));
        return Some(Err(unfinished(format!("this node leads no more; {who}"))));
    }
    // Nothing is under way that would still make it so: whoever was out is a member again.
    let decided = !members.joint() && !core.change_is_pending();
    let was_out = match goal {
        Goal::Gone(_) => decided,
        Goal::Replaced { old, new } => decided && votes(*new) && members.by_node(*old).is_some(),
        _ => false,
    };
    if was_out {
        return Some(Err(unfinished("who was to go was added again meanwhile")));
    }
    // A learner that was to become more was removed.
    let (Goal::Voter(node) | Goal::Replaced { new: node, .. }) = goal else { return None };
    let gone = members.by_node(*node).is_none() && !core.change_is_pending();
    gone.then(|| Err(refused(format!("{node} was removed meanwhile"))))
}

fn voters(core: &Core) -> String {
    names(&core.members().voters().map(|seat| seat.node).collect::<Vec<_>>())
}

fn begin_change(core: &mut Core, change: &MemberChange, lately: &[u64]) -> Begun {
    let refuse = |reason: String| Begun::Answered(Err(refused(reason)));
    let members = core.members().clone();
    let seat = |node: &NodeId| members.by_node(*node);
    let votes = |seat: &Seat| members.is_voter(seat);
    if let Some(busy) = under_way(core, change) {
        return refuse(busy);
    }
    match change {
        MemberChange::Add { node, address, role } => match (seat(node), role) {
            (Some(seat), MemberRole::Voter) if votes(seat) => Begun::Waits(Goal::Voter(*node)),
            (Some(seat), MemberRole::Learner) if !votes(seat) => Begun::Waits(Goal::Learner(*node)),
            (Some(seat), MemberRole::Voter) => {
                intend(core, seat.raft, Intent::Vote, Goal::Voter(*node))
            }
            (Some(_), MemberRole::Learner) => refuse(format!(
                "{node} votes already; a voter does not become a learner: remove it and add it with an empty directory"
            )),
            (None, role) => {
                let (goal, intent) = match role {
                    MemberRole::Voter => (Goal::Voter(*node), Intent::Vote),
                    MemberRole::Learner => (Goal::Learner(*node), Intent::Stay),
                };
                probe(&members, *node, address, goal, intent)
            }
        },
        MemberChange::Promote { node } => match seat(node) {
            Some(seat) if votes(seat) => Begun::Waits(Goal::Voter(*node)),
            Some(seat) => intend(core, seat.raft, Intent::Vote, Goal::Voter(*node)),
            None => refuse(format!("{node} is no member; add it")),
        },
        MemberChange::Remove { node: gone } => {
            let Some(seat) = seat(gone) else { return Begun::Waits(Goal::Gone(*gone)) };
            if votes(seat)
                && let Some(reason) = loses_quorum(core, seat, lately)
            {
                return refuse(reason);
            }
            propose(core, Change::Remove { raft: seat.raft }, Goal::Gone(*gone))
        }
        MemberChange::Replace { old, new, address } => match (seat(old), seat(new)) {
            (None, Some(seat)) if votes(seat) => {
                Begun::Waits(Goal::Replaced { old: *old, new: *new })
            }
            (None, _) => refuse(format!("{old} is no member; add {new} instead")),
            (Some(seat), _) if !votes(seat) => {
                refuse(format!("{old} is a learner; remove it and add {new}"))
            }
            (Some(_), Some(seat)) if votes(seat) => {
                refuse(format!("{new} votes already; remove {old} if it is not wanted"))
            }
            (Some(was), now) => {
                let goal = Goal::Replaced { old: *old, new: *new };
                let intent = Intent::Replace(was.raft);
                match now {
                    Some(seat) => intend(core, seat.raft, intent, goal),
                    None => probe(&members, *new, address, goal, intent),
                }
            }
        },
        _ => Begun::Answered(Err(AdminError::Unsupported { driver: "raft".into() })),
    }
}

/// Another change that has to end first, in words. What is asked for again, and to give it up, is not held up by it.
fn under_way(core: &Core, change: &MemberChange) -> Option<String> {
    let members = core.members();
    if members.joint() || core.change_is_pending() {
        return Some(format!(
            "another change of the members is being decided; ask again for: {change}"
        ));
    }
    let busy = members.on_its_way()?;
    let same = match change {
        MemberChange::Add { node, .. } | MemberChange::Promote { node } => *node == busy.node,
        MemberChange::Remove { node } => *node == busy.node,
        MemberChange::Replace { new, .. } => *new == busy.node,
        _ => false,
    };
    (!same).then(|| {
        format!(
            "{} has been added and is catching up; wait until it votes, or remove it, and ask again for: {change}",
            busy.node
        )
    })
}

fn probe(
    members: &crate::members::Members,
    node: NodeId,
    address: &str,
    goal: Goal,
    intent: Intent,
) -> Begun {
    if address.len() > ADDRESS_BYTES_MAX {
        return Begun::Answered(Err(refused(format!(
            "an address has at most {ADDRESS_BYTES_MAX} bytes"
        ))));
    }
    if members.seats().len() >= MEMBERS_MAX {
        return Begun::Answered(Err(refused(format!("a group has at most {MEMBERS_MAX} members"))));
    }
    Begun::Probes(node, address.to_owned(), goal, intent)
}

fn intend(core: &mut Core, raft: u64, intent: Intent, goal: Goal) -> Begun {
    if core.members().by_raft(raft).is_some_and(|seat| seat.intent == intent) {
        return Begun::Waits(goal);
    }
    if core.propose_change(Change::Intend { raft, intent }) {
        return Begun::Waits(goal);
    }
    Begun::Answered(Err(refused("a change of the leader is under way; ask again")))
}

fn propose(core: &mut Core, change: Change, goal: Goal) -> Begun {
    if core.propose_change(change) {
        return Begun::Waits(goal);
    }
    Begun::Answered(Err(refused("a change of the leader is under way; ask again")))
}

/// Why the group could decide nothing any more without this voter, if that is so.
fn loses_quorum(core: &Core, leaving: &Seat, lately: &[u64]) -> Option<String> {
    let stay = core.members().voters().filter(|seat| seat.raft != leaving.raft);
    let (up, down): (Vec<&Seat>, Vec<&Seat>) = stay.partition(|seat| lately.contains(&seat.raft));
    let (left, needed) = (up.len() + down.len(), (up.len() + down.len()) / 2 + 1);
    if left == 0 {
        return Some(format!("{} is the only voter", leaving.node));
    }
    let down: Vec<NodeId> = down.iter().map(|seat| seat.node).collect();
    (up.len() < needed).then(|| {
        format!(
            "without {} there are {left} voters, of which {needed} are needed, and {} of them can be reached: bring back {} first, or replace one that is lost",
            leaving.node,
            up.len(),
            names(&down)
        )
    })
}
