//! How a directory becomes a member: by founding the group with the others, or by being added to it. Never both, and never
//! twice.
//!
//! ```text
//!                     all directories known            all have stored the same
//!   fresh founder  ----------------------->  stored  -------------------------->  member
//!        |
//!        | the group goes on without it        an entry added it
//!        '-------------------> waits  ---------------------------->  member
//! ```
//!
//! 1. A node votes only when it knows that every founding member has durably stored the same founding.
//! 2. What a directory has stored it never stores differently.
//!
//! So once anybody has voted, a directory that replaces a founding member's can never vote in its place: every other founding
//! member has stored the one before, and none will confirm another. See `docs/decisions/0012`.

use std::collections::{BTreeMap, BTreeSet};

use quorate_replicator::NodeId;

use crate::codec::Incarnation;
use crate::hello::{Envelope, Hello, You};
use crate::stored::Identity;

/// A node that is no member yet.
#[derive(Debug)]
pub(crate) struct Outside {
    node: NodeId,
    incarnation: Incarnation,
    /// The founding members in the configuration, in order.
    founders: Vec<NodeId>,
    /// What it has stored, until all others have, too.
    stored: Option<Identity>,
    /// The directories of the founding members, as they told.
    heard: BTreeMap<NodeId, Incarnation>,
    /// Who has stored the same.
    confirmed: BTreeSet<NodeId>,
    /// It is not among the founding members, or not any more.
    waits: bool,
    /// The founding of the group that it waits for.
    known: Option<Vec<(NodeId, Incarnation)>>,
    problem: Option<String>,
}

/// What follows from what was heard.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Nothing,
    /// Store this, and go on telling.
    Store(Identity),
    /// Store this, and be a member.
    Join(Identity),
    Fault(String),
}

impl Outside {
    pub(crate) fn new(
        node: NodeId,
        incarnation: Incarnation,
        founders: Vec<NodeId>,
        stored: Option<Identity>,
    ) -> Self {
        let waits = stored.is_none() && !founders.contains(&node);
        Self {
            node,
            incarnation,
            founders,
            stored,
            heard: BTreeMap::new(),
            confirmed: BTreeSet::new(),
            waits,
            known: None,
            problem: None,
        }
    }

    /// What can be done at once: one node founds its group alone.
    pub(crate) fn begin(&mut self) -> Step {
        match (&self.stored, &self.founders[..]) {
            (None, [alone]) if *alone == self.node => {
                let founding = vec![(self.node, self.incarnation)];
                Step::Join(Identity { raft: 1, active: true, founding })
            }
            _ => Step::Nothing,
        }
    }

    /// Whom to tell, and to ask.
    pub(crate) fn others(&self) -> Vec<NodeId> {
        self.founders.iter().copied().filter(|node| *node != self.node).collect()
    }

    pub(crate) fn stored(&self) -> &[(NodeId, Incarnation)] {
        self.stored.as_ref().map_or(&[], |identity| &identity.founding)
    }

    pub(crate) fn hear(&mut self, from: NodeId, hello: &Hello) -> Step {
        if self.waits {
            return self.hear_waiting(hello);
        }
        match self.stored.clone() {
            Some(identity) => self.hear_stored(from, hello, identity),
            None => self.hear_fresh(from, hello),
        }
    }

    fn hear_waiting(&mut self, hello: &Hello) -> Step {
        if hello.active {
            self.known = Some(hello.stored.clone());
            self.problem = None;
        }
        Step::Nothing
    }

    fn hear_fresh(&mut self, from: NodeId, hello: &Hello) -> Step {
        if hello.stored.is_empty() {
            if hello.founders == self.founders {
                self.heard.insert(from, hello.incarnation);
                self.problem = None;
                return self.found();
            }
            if !hello.founders.is_empty() && hello.founders.contains(&from) {
                self.problem = Some(format!(
                    "{from} is configured with the founding members {}, and this node with {}: give all of them the same `members`",
                    names(&hello.founders),
                    names(&self.founders)
                ));
            }
            return Step::Nothing;
        }
        let here = hello.stored.iter().position(|(node, _)| *node == self.node);
        let founded = here.map(|place| hello.stored[place].1);
        match (hello.you, founded) {
            // Its place in the group is free, or it was given to this directory: it is added, or has been.
            (You::Stranger | You::Removed(_), _) | (_, None) => {
                self.waits = true;
                self.hear_waiting(hello)
            }
            (You::Member(member), Some(founded))
                if member == self.incarnation && founded != self.incarnation =>
            {
                self.waits = true;
                self.hear_waiting(hello)
            }
            (_, Some(founded)) if founded == self.incarnation => {
                let raft = here.map_or(0, |place| place as u64 + 1);
                self.store(Identity { raft, active: hello.active, founding: hello.stored.clone() })
            }
            // Only a member that lags says so of a node that was removed: another one may know better.
            _ => {
                self.problem = Some(format!(
                    "this directory is not the one that {node} was founded with, as {from} knows, and may not vote in the place of what it has forgotten. If the disk of {node} was lost, remove {node} from the group and add it again; otherwise start it with the directory that it had",
                    node = self.node
                ));
                Step::Nothing
            }
        }
    }

    fn found(&mut self) -> Step {
        let known = |node: &NodeId| match *node == self.node {
            true => Some((*node, self.incarnation)),
            false => self.heard.get(node).map(|incarnation| (*node, *incarnation)),
        };
        let Some(founding) = self.founders.iter().map(known).collect::<Option<Vec<_>>>() else {
            return Step::Nothing;
        };
        let place = founding.iter().position(|(node, _)| *node == self.node);
        let raft = place.map_or(0, |place| place as u64 + 1);
        self.store(Identity { raft, active: false, founding })
    }

    fn store(&mut self, identity: Identity) -> Step {
        self.stored = Some(identity.clone());
        if identity.active { Step::Join(identity) } else { Step::Store(identity) }
    }

    fn hear_stored(&mut self, from: NodeId, hello: &Hello, identity: Identity) -> Step {
        let founder = identity.founding.iter().find(|(node, _)| *node == from);
        if hello.stored.is_empty() {
            if founder.is_some_and(|(_, incarnation)| *incarnation != hello.incarnation) {
                self.problem = Some(format!(
                    "{from} began to found this group and came back with another directory. Nothing is decided yet: stop all of {}, empty their directories and start them again",
                    names(&self.founders)
                ));
            }
            return Step::Nothing;
        }
        if hello.stored != identity.founding {
            return Step::Fault(format!(
                "{from} has founded the group with other directories than this node: they are of two groups, or one was lost while they were founded. Start this node with an empty directory, and add it if the other group is the right one"
            ));
        }
        if founder.is_some_and(|(_, incarnation)| *incarnation == hello.incarnation) {
            self.confirmed.insert(from);
        }
        let others = identity.founding.iter().map(|(node, _)| *node);
        let mut others = others.filter(|node| *node != self.node);
        if hello.active || others.all(|node| self.confirmed.contains(&node)) {
            return self.store(Identity { active: true, ..identity });
        }
        Step::Nothing
    }

    /// Takes the raft id under which the group addresses this directory.
    pub(crate) fn adopt(&mut self, envelope: &Envelope) -> Option<Identity> {
        let ours = self.waits && envelope.to == self.incarnation;
        let founding = self.known.clone().filter(|_| ours)?;
        Some(Identity { raft: envelope.to_raft, active: true, founding })
    }

    /// Why it does not take part.
    pub(crate) fn reason(&self) -> String {
        if let Some(problem) = &self.problem {
            return problem.clone();
        }
        if self.waits {
            return format!(
                "{node} is no member of the group; it waits to be added: `quorate member add {node}=HOST:PORT`",
                node = self.node
            );
        }
        let missing = |known: &dyn Fn(&NodeId) -> bool| {
            let others = self.others();
            names(&others.into_iter().filter(|node| !known(node)).collect::<Vec<_>>())
        };
        if self.stored.is_some() {
            let missing = missing(&|node| self.confirmed.contains(node));
            format!("the group is being founded; {missing} have not told yet that they stored it")
        } else {
            let missing = missing(&|node| self.heard.contains_key(node));
            format!(
                "the group is being founded, for which all founding members are needed; nothing is heard of {missing} yet"
            )
        }
    }
}

/// Nodes in words.
pub(crate) fn names(nodes: &[NodeId]) -> String {
    match nodes {
        [] => "nobody".into(),
        [one] => one.to_string(),
        [all @ .., last] => {
            let all: Vec<_> = all.iter().map(NodeId::to_string).collect();
            format!("{} and {last}", all.join(", "))
        }
    }
}
