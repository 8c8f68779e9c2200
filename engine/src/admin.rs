//! Operators' wishes, on their way to the engine that can do them.
//!
//! A wish about the group is done by whoever leads it. One that came to another node is sent there, and sent again when
//! the leader changes or nothing is heard; the leader knows a repeated wish by its sender and ticket. An approval is the word of one
//! operator at one node, and stays there.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_replicator::{AdminError, MemberChange, NodeId};

use crate::callers::{Answer, Callers, sooner};
use crate::engine::{Admin, Now};

/// Most wishes that wait on a node, its own and those of others: they are rare and come from people.
const WISHES_MAX: usize = 64;

/// How long to wait for an answer before a wish is sent again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How long to wait when nobody leads, or the one who was asked does not lead.
const RETRY_AFTER: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct Wishes<C: Callers> {
    next_ticket: u64,
    /// Of this node's own callers.
    own: BTreeMap<u64, Own<C>>,
    /// Of other nodes, by the ticket that this node's engine knows.
    foreign: BTreeMap<u64, Foreign>,
}

#[derive(Debug)]
struct Own<C: Callers> {
    admin: Admin,
    deadline: Now,
    who: C::Admin,
    /// To whom it went; `None` of a node: to this node's own engine.
    asked: Option<Option<NodeId>>,
    again_at: Now,
}

#[derive(Debug)]
struct Foreign {
    from: NodeId,
    ticket: u64,
    deadline: Now,
}

/// Where a wish goes now.
#[derive(Debug)]
pub(crate) enum Ask {
    /// To this node's engine.
    Here(u64, Admin),
    /// To another node, with the time that is left.
    There(NodeId, u64, Duration, Admin),
}

impl<C: Callers> Wishes<C> {
    pub(crate) const fn new() -> Self {
        Self { next_ticket: 1, own: BTreeMap::new(), foreign: BTreeMap::new() }
    }

    const fn ticket(&mut self) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        ticket
    }

    /// Takes a wish of this node's own caller; gives it back when there are too many.
    pub(crate) fn add(
        &mut self,
        admin: Admin,
        deadline: Now,
        who: C::Admin,
    ) -> Result<(), (C::Admin, AdminError)> {
        if self.own.len() >= WISHES_MAX {
            let reason = format!("{WISHES_MAX} operations wait already; wait for them");
            return Err((who, AdminError::Refused { reason }));
        }
        let ticket = self.ticket();
        let own = Own { admin, deadline, who, asked: None, again_at: Duration::ZERO };
        self.own.insert(ticket, own);
        Ok(())
    }

    /// Takes a wish that another node sent, for this node's engine; none if it is known already.
    pub(crate) fn add_foreign(
        &mut self,
        from: NodeId,
        ticket: u64,
        deadline: Now,
    ) -> Result<Option<u64>, AdminError> {
        if self.foreign.values().any(|it| (it.from, it.ticket) == (from, ticket)) {
            return Ok(None);
        }
        if self.foreign.len() >= WISHES_MAX {
            let reason = format!("the leader has {WISHES_MAX} operations waiting; try again");
            return Err(AdminError::Refused { reason });
        }
        let here = self.ticket();
        self.foreign.insert(here, Foreign { from, ticket, deadline });
        Ok(Some(here))
    }

    /// The wishes that must be put to someone now.
    pub(crate) fn ask(&mut self, now: Now, node: NodeId, leader: Option<NodeId>) -> Vec<Ask> {
        let mut asks = Vec::new();
        for (ticket, own) in &mut self.own {
            let to = match &own.admin {
                Admin::StepDown | Admin::Campaign | Admin::Change(MemberChange::Approve { .. }) => {
                    Some(None)
                }
                Admin::Transfer(_) | Admin::Change(_) => {
                    leader.map(|leader| Some(leader).filter(|leader| *leader != node))
                }
            };
            let Some(to) = to else {
                own.again_at = now + RETRY_AFTER;
                continue;
            };
            // An engine of this node answers each ticket; another node may never have had it.
            let is_due = if own.asked == Some(to) {
                to.is_some() && now >= own.again_at
            } else {
                own.asked.is_some() || now >= own.again_at
            };
            if !is_due {
                continue;
            }
            own.asked = Some(to);
            own.again_at = now + AGAIN_AFTER;
            let admin = own.admin.clone();
            asks.push(match to {
                None => Ask::Here(*ticket, admin),
                Some(to) => Ask::There(to, *ticket, own.deadline.saturating_sub(now), admin),
            });
        }
        asks
    }

    /// This node's engine answered. Of another node's wish: to whom the answer goes, and under which ticket.
    pub(crate) fn answered_here(
        &mut self,
        now: Now,
        ticket: u64,
        answer: Result<(), AdminError>,
        answers: &mut Vec<Answer<C>>,
    ) -> Option<(NodeId, u64, Result<(), AdminError>)> {
        if let Some(Foreign { from, ticket, .. }) = self.foreign.remove(&ticket) {
            return Some((from, ticket, answer));
        }
        self.answered(now, ticket, None, answer, answers);
        None
    }

    /// Whoever was asked answered; `from` is none if it was this node.
    pub(crate) fn answered(
        &mut self,
        now: Now,
        ticket: u64,
        from: Option<NodeId>,
        answer: Result<(), AdminError>,
        answers: &mut Vec<Answer<C>>,
    ) {
        let Some(own) = self.own.get_mut(&ticket).filter(|own| own.asked == Some(from)) else {
            return;
        };
        if matches!(answer, Err(AdminError::NotLeader { .. })) {
            // Asked again once it is known who leads.
            own.asked = None;
            own.again_at = now + RETRY_AFTER;
            return;
        }
        let own = self.own.remove(&ticket).expect("it was found");
        answers.push(Answer::Admin(own.who, answer));
    }

    /// Ends what nobody waits for any more.
    pub(crate) fn expire(&mut self, now: Now, answers: &mut Vec<Answer<C>>) {
        self.foreign.retain(|_, foreign| foreign.deadline > now);
        for (_, own) in self.own.extract_if(.., |_, own| own.deadline <= now) {
            let error = match own.asked {
                None => AdminError::NotLeader { leader: None },
                Some(to) => AdminError::Unfinished {
                    reason: match to {
                        None if matches!(own.admin, Admin::Change(MemberChange::Approve { .. })) => {
                            "this node has approved it, and waits until enough others have and it is in force".into()
                        }
                        None => "this node is still at it".into(),
                        Some(to) => format!("{to}, which leads, has not answered"),
                    },
                },
            };
            answers.push(Answer::Admin(own.who, Err(error)));
        }
    }

    /// Ends everything.
    pub(crate) fn end(&mut self, error: &AdminError, answers: &mut Vec<Answer<C>>) {
        self.foreign.clear();
        for (_, own) in std::mem::take(&mut self.own) {
            answers.push(Answer::Admin(own.who, Err(error.clone())));
        }
    }

    /// When to look again by itself.
    pub(crate) fn wake_at(&self) -> Option<Now> {
        let own = self.own.values().map(|own| {
            let asked_here = own.asked == Some(None);
            if asked_here { own.deadline } else { own.again_at.min(own.deadline) }
        });
        sooner(own.min(), self.foreign.values().map(|foreign| foreign.deadline).min())
    }
}
