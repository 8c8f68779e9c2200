//! Members, wishes that change them, and disks that are lost.

use std::time::Duration;

use quorate_engine::engine::{Admin, Input};
use quorate_replicator::{AdminError, Member, MemberChange, MemberRole, NodeId};
use quorate_storage::Index;

use super::World;
use super::node::Node;
use crate::engine::EngineFactory;
use crate::engine::log_model::LogModel;

/// What was asked of an engine.
pub(super) struct Wish {
    pub(super) node: usize,
    life: u32,
    pub(super) admin: Admin,
    answer: Option<Result<(), AdminError>>,
}

/// How long a wish that is refused for the moment is repeated.
const WISHED_AGAIN: u32 = 200;

impl<F: EngineFactory> World<'_, F> {
    /// A further node, with an empty disk and the configuration of the others, that waits to be added.
    pub(in crate::engine) fn newcomer(&mut self) -> usize {
        let node = self.nodes.len();
        let number = node as u64 + 1;
        self.nodes.push(Node {
            id: NodeId::new(number),
            incarnation: [u8::try_from(number).expect("there are few nodes"); 16],
            lost: None,
            log: LogModel::new(),
            checkpoints: Default::default(),
            staged: Default::default(),
            life: 0,
            disk_stalled: false,
            running: None,
        });
        self.start(node);
        node
    }

    /// The id of a node.
    pub(in crate::engine) fn id(&self, node: usize) -> NodeId {
        self.nodes[node].id
    }

    /// A node's disk is lost, and it begins with an empty one.
    pub(in crate::engine) fn lose_disk(&mut self, node: usize) {
        self.crash_keeping(node, 0);
        self.disks_lost = true;
        let member = self.is_member(node);
        let at = &mut self.nodes[node];
        at.log = LogModel::new();
        at.checkpoints.clear();
        at.staged.clear();
        at.incarnation[15] ^= 0x80;
        at.incarnation[0] = at.incarnation[0].wrapping_add(16);
        at.lost = member.then(String::new);
        self.start(node);
    }

    /// Starts a node that refused to serve.
    pub(in crate::engine) fn start_anew(&mut self, node: usize) {
        self.nodes[node].lost = None;
        self.crash_keeping(node, 0);
        self.start(node);
    }

    /// With which words a node whose disk was lost refused to serve: from its fault, or from its status.
    pub(in crate::engine) fn refusal(&mut self, node: usize) -> Option<String> {
        let told = self.nodes[node].lost.clone().filter(|words| !words.is_empty());
        let status = self.call(node, |running| running.engine.status());
        told.or_else(|| status.and_then(|status| status.reason))
    }

    /// What a node knows of its group.
    pub(in crate::engine) fn proposer(&mut self, node: usize) -> Option<NodeId> {
        self.call(node, |running| running.engine.proposer())?
    }

    /// Asks one engine for something, and names the wish.
    pub(in crate::engine) fn wish(&mut self, node: usize, admin: Admin) -> u64 {
        let ticket = self.random.u64(..1 << 62);
        self.tell(node, Input::Admin { ticket, admin });
        ticket
    }

    /// What came of a wish so far.
    pub(in crate::engine) fn answer(&self, ticket: u64) -> Option<&Result<(), AdminError>> {
        self.wishes.get(&ticket)?.answer.as_ref()
    }

    /// The wish, in the words of the driver; none if its engines do not do it.
    pub(in crate::engine) fn worded(&self, admin: Admin) -> Option<Admin> {
        match admin {
            Admin::Change(change) => self.factory.change(change).map(Admin::Change),
            admin => Some(admin),
        }
    }

    /// Asks all nodes that run: those whose operators have to approve a change.
    pub(in crate::engine) fn wish_everywhere(&mut self, admin: &Admin) -> Vec<u64> {
        let serving = (0..self.nodes.len()).filter(|node| self.nodes[*node].running.is_some());
        serving.collect::<Vec<_>>().into_iter().map(|node| self.wish(node, admin.clone())).collect()
    }

    /// Has a change approved everywhere until it is in force.
    fn insist_everywhere(&mut self, admin: &Admin) -> Result<(), AdminError> {
        let mut last = AdminError::Unfinished { reason: "nobody has answered".into() };
        for _ in 0..WISHED_AGAIN / 10 {
            let tickets = self.wish_everywhere(admin);
            for _ in 0..WISHED_AGAIN {
                self.pass(Duration::from_millis(20));
                let mut answers = tickets.iter().map(|ticket| self.answer(*ticket));
                if answers.any(|answer| answer == Some(&Ok(()))) {
                    return Ok(());
                }
            }
            let answers = tickets.iter().filter_map(|ticket| self.answer(*ticket));
            last = answers.filter_map(|answer| answer.clone().err()).next().unwrap_or(last);
        }
        Err(last)
    }

    /// Asks whoever leads until it is done, or refused for good; or everybody who has to approve it.
    pub(in crate::engine) fn insist(&mut self, admin: &Admin) -> Result<(), AdminError> {
        if matches!(admin, Admin::Change(MemberChange::Approve { .. })) {
            return self.insist_everywhere(admin);
        }
        let mut last = AdminError::NotLeader { leader: None };
        for _ in 0..WISHED_AGAIN {
            let serving = (0..self.nodes.len()).filter(|node| self.nodes[*node].running.is_some());
            let leads =
                |world: &mut Self, node: usize| world.proposer(node) == Some(world.id(node));
            let all: Vec<_> = serving.collect();
            let Some(leader) = all.into_iter().find(|node| leads(self, *node)) else {
                self.pass(Duration::from_millis(100));
                continue;
            };
            let ticket = self.wish(leader, admin.clone());
            for _ in 0..WISHED_AGAIN {
                if self.answer(ticket).is_some() || self.nodes[leader].running.is_none() {
                    break;
                }
                self.pass(Duration::from_millis(20));
            }
            match self.answer(ticket) {
                Some(Ok(())) => return Ok(()),
                Some(Err(error)) => last = error.clone(),
                None => {}
            }
            self.pass(Duration::from_millis(50));
        }
        Err(last)
    }

    /// The members as they were told last, by any node; before that, those of the configuration.
    pub(in crate::engine) fn members_now(&self) -> Vec<Member> {
        let configured = || {
            let role = MemberRole::Voter;
            let member = |node: &NodeId| Member { node: *node, role, address: String::new() };
            self.members.iter().map(member).collect()
        };
        self.agreed_members.last_key_value().map_or_else(configured, |(_, now)| now.clone())
    }

    pub(in crate::engine) fn is_member(&self, node: usize) -> bool {
        self.members_now().iter().any(|member| member.node == self.nodes[node].id)
    }

    /// Whether a node may have been added with the disk that it has, without anyone knowing yet.
    pub(in crate::engine) fn may_be_added(&self, node: usize) -> bool {
        let id = self.nodes[node].id;
        self.wishes.values().any(|wish| {
            let named = match &wish.admin {
                Admin::Change(MemberChange::Add { node, .. }) => *node == id,
                Admin::Change(MemberChange::Replace { new, .. }) => *new == id,
                Admin::Change(MemberChange::Approve { new, .. }) => {
                    new.iter().any(|(node, _)| *node == id)
                }
                _ => false,
            };
            named && !matches!(wish.answer, Some(Ok(()) | Err(AdminError::Refused { .. })))
        })
    }

    /// Whether a node is a member with a disk that was not lost.
    pub(super) fn serves(&self, node: usize) -> bool {
        self.nodes[node].lost.is_none() && self.is_member(node)
    }

    pub(super) fn note_wish(&mut self, node: usize, input: &Input) {
        let Input::Admin { ticket, admin } = input else { return };
        let life = self.nodes[node].life;
        let wish = Wish { node, life, admin: admin.clone(), answer: None };
        if self.nodes[node].running.is_some() {
            self.wishes.insert(*ticket, wish);
        }
    }

    /// Whether an engine that lives has not answered. An approval waits for others, for as long as they like.
    pub(super) fn is_owed(&self, wish: &Wish) -> bool {
        let waits = matches!(wish.admin, Admin::Change(MemberChange::Approve { .. }));
        !waits && wish.answer.is_none() && self.lives(wish.node, wish.life)
    }

    pub(super) fn wish_answered(
        &mut self,
        node: usize,
        ticket: u64,
        answer: Result<(), AdminError>,
    ) {
        let life = self.nodes[node].life;
        let asked = |wish: &&mut Wish| (wish.node, wish.life) == (node, life);
        match self.wishes.get_mut(&ticket).filter(asked) {
            Some(wish) if wish.answer.is_none() => wish.answer = Some(answer),
            Some(_) => self.broken(node, "a wish is answered once, and one is answered twice"),
            None => self.broken(
                node,
                format_args!("only a wish is answered, and {ticket} is none of this node"),
            ),
        }
    }

    pub(super) fn members_told(&mut self, node: usize, from: Index, members: Vec<Member>) {
        let before = self.agreed_members.range(..=from).next_back();
        match before {
            Some((_, known)) if *known == members => {}
            Some((at, known)) if *at == from => {
                let known = known.clone();
                self.broken(
                    node,
                    format_args!("the members from an index on are the same at all nodes, and from {from} on they are {members:?}, after {known:?}"),
                );
            }
            _ => {
                self.agreed_members.insert(from, members);
            }
        }
    }

    /// An engine stops for good, which only one may whose disk was lost.
    pub(super) fn faulted(&mut self, node: usize, cause: String) {
        if self.nodes[node].lost.is_none() {
            self.broken(
                node,
                format_args!("an engine does not fault when nothing is wrong: {cause}"),
            );
        }
        self.crash_keeping(node, 0);
        self.nodes[node].lost = Some(cause);
    }
}
