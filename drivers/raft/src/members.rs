//! Who the members are, which raft ids they have, and how that changes: replicated state, kept in every mark.
//!
//! A raft id is given to one directory once and never again: node ids come back, with an empty disk or after a removal, and
//! a leader that still knows the progress of the one before would take it for that of the new one.
//!
//! ```text
//!   add:      learner (intends to vote) --caught up--> voter
//!   replace:  learner (intends to replace 2) --caught up--> joint {1 2 3} and {1 3 4} --> {1 3 4}
//!   remove:   voter or learner --> gone, and remembered for a while
//! ```

use bytes::Bytes;
use quorate_replicator::{Member, MemberRole, NodeId};
use quorate_storage::Index;

use crate::codec::{ADDRESS_BYTES_MAX, Incarnation, Malformed, Reader, Writer};

/// Most members of a group: more only make every decision slower.
pub(crate) const MEMBERS_MAX: usize = 64;

/// So many removed members are remembered, to tell them.
const REMOVED_KEPT: usize = 32;

/// Raft ids, terms and indexes are smaller; so no sum of two of them overflows.
pub(crate) const NUMBER_MAX: u64 = 1 << 60;

/// The members at one index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Members {
    /// In the order of their raft ids.
    list: Vec<Seat>,
    /// Whether decisions need a majority of those before, too.
    joint: bool,
    /// The raft id that the next one gets.
    next: u64,
    /// The index of the last change; 0 at the founding.
    changed_at: Index,
    /// Who was removed last, the newest at the end.
    removed: Vec<Removed>,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) raft: u64,
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) address: String,
    /// Whether it counts in the majority from now on.
    pub(crate) votes: bool,
    /// Whether it counts in the majority from before, while both are needed.
    pub(crate) voted: bool,
    pub(crate) intent: Intent,
}

/// What becomes of a learner that has caught up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    Stay,
    Vote,
    /// To vote in place of the member with this raft id.
    Replace(u64),
}

/// A member that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) raft: u64,
    pub(crate) node: NodeId,
    pub(crate) at: Index,
}

/// One step of a change, as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    AddLearner {
        raft: u64,
        node: NodeId,
        incarnation: Incarnation,
        address: String,
        intent: Intent,
    },
    Intend {
        raft: u64,
        intent: Intent,
    },
    Promote {
        raft: u64,
    },
    Remove {
        raft: u64,
    },
    /// Enters the joint majority.
    Swap {
        new: u64,
        old: u64,
    },
    /// Leaves the joint majority.
    Leave,
}

/// A change with the change that its proposer had applied before: so that one is known to be decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChangeEntry {
    pub(crate) after: Index,
    pub(crate) change: Change,
}

impl Members {
    /// The founding members: raft ids from 1 on, in the order of the node ids.
    pub(crate) fn founding(founders: &[(NodeId, Incarnation)]) -> Self {
        let seat = |(raft, (node, incarnation)): (u64, &(NodeId, Incarnation))| Seat {
            raft,
            node: *node,
            incarnation: *incarnation,
            address: String::new(),
            votes: true,
            voted: false,
            intent: Intent::Stay,
        };
        let list: Vec<_> = (1..).zip(founders).map(seat).collect();
        let next = list.len() as u64 + 1;
        Self { list, joint: false, next, changed_at: 0, removed: Vec::new() }
    }

    pub(crate) fn seats(&self) -> &[Seat] {
        &self.list
    }

    pub(crate) const fn joint(&self) -> bool {
        self.joint
    }

    pub(crate) const fn changed_at(&self) -> Index {
        self.changed_at
    }

    /// The raft id that the next member gets; all that were ever given are smaller.
    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    pub(crate) fn by_raft(&self, raft: u64) -> Option<&Seat> {
        self.list.iter().find(|seat| seat.raft == raft)
    }

    pub(crate) fn by_node(&self, node: NodeId) -> Option<&Seat> {
        self.list.iter().find(|seat| seat.node == node)
    }

    /// The member that has this raft id no more.
    pub(crate) fn removed(&self, raft: u64) -> Option<Removed> {
        let known = self.removed.iter().rev().find(|removed| removed.raft == raft);
        known.copied()
    }

    /// Those who were removed at this index.
    pub(crate) fn removed_at(&self, at: Index) -> Vec<Removed> {
        self.removed.iter().filter(|removed| removed.at == at).copied().collect()
    }

    /// Whether this member is the only one that decides.
    pub(crate) fn decides_alone(&self, raft: u64) -> bool {
        !self.joint && self.voters().all(|seat| seat.raft == raft) && self.voters().count() == 1
    }

    /// Those whose votes count.
    pub(crate) fn voters(&self) -> impl Iterator<Item = &Seat> {
        self.list.iter().filter(|seat| self.is_voter(seat))
    }

    pub(crate) fn is_voter(&self, seat: &Seat) -> bool {
        seat.votes || self.joint && seat.voted
    }

    /// The learner that is to become something else, if there is one.
    pub(crate) fn on_its_way(&self) -> Option<&Seat> {
        self.list.iter().find(|seat| !self.is_voter(seat) && seat.intent != Intent::Stay)
    }

    /// As the contract has them.
    pub(crate) fn public(&self) -> Vec<Member> {
        let member = |seat: &Seat| Member {
            node: seat.node,
            role: if self.is_voter(seat) { MemberRole::Voter } else { MemberRole::Learner },
            address: seat.address.clone(),
        };
        self.list.iter().map(member).collect()
    }

    /// Takes in a decided change. One that does not fit is nothing, on every node alike.
    pub(crate) fn apply(&mut self, index: Index, entry: &ChangeEntry) -> bool {
        if self.try_apply(index, &entry.change).is_none() {
            return false;
        }
        self.changed_at = index;
        true
    }

    fn try_apply(&mut self, index: Index, change: &Change) -> Option<()> {
        if self.joint != matches!(change, Change::Leave) {
            return None;
        }
        match change {
            Change::AddLearner { raft, node, incarnation, address, intent } => {
                let taken = self.by_node(*node).is_some() || *raft != self.next;
                if taken || self.list.len() >= MEMBERS_MAX {
                    return None;
                }
                self.next += 1;
                self.list.push(Seat {
                    raft: *raft,
                    node: *node,
                    incarnation: *incarnation,
                    address: address.clone(),
                    votes: false,
                    voted: false,
                    intent: *intent,
                });
            }
            Change::Intend { raft, intent } => self.learner(*raft)?.intent = *intent,
            Change::Promote { raft } => {
                let seat = self.learner(*raft)?;
                seat.votes = true;
                seat.intent = Intent::Stay;
            }
            Change::Remove { raft } => {
                let voters = self.voters().count();
                if voters == usize::from(self.by_raft(*raft)?.votes) {
                    return None;
                }
                self.remove(index, |seat| seat.raft == *raft);
            }
            Change::Swap { new, old } => {
                if !self.by_raft(*old)?.votes {
                    return None;
                }
                self.learner(*new)?;
                self.joint = true;
                for seat in &mut self.list {
                    seat.voted = seat.votes;
                    if seat.raft == *new {
                        seat.votes = true;
                        seat.intent = Intent::Stay;
                    } else if seat.raft == *old {
                        seat.votes = false;
                    }
                }
            }
            Change::Leave => {
                self.joint = false;
                self.remove(index, |seat| seat.voted && !seat.votes);
                self.list.iter_mut().for_each(|seat| seat.voted = false);
            }
        }
        Some(())
    }

    fn learner(&mut self, raft: u64) -> Option<&mut Seat> {
        self.list.iter_mut().find(|seat| seat.raft == raft && !seat.votes)
    }

    fn remove(&mut self, at: Index, leaves: impl Fn(&Seat) -> bool) {
        let gone = self.list.extract_if(.., |seat| leaves(seat));
        self.removed.extend(gone.map(|seat| Removed { raft: seat.raft, node: seat.node, at }));
        let over = self.removed.len().saturating_sub(REMOVED_KEPT);
        self.removed.drain(..over);
        // Nobody is left to be replaced.
        let known: Vec<u64> = self.list.iter().map(|seat| seat.raft).collect();
        for seat in &mut self.list {
            if matches!(seat.intent, Intent::Replace(old) if !known.contains(&old)) {
                seat.intent = Intent::Vote;
            }
        }
    }

    fn write(&self, writer: &mut Writer) {
        writer.bool(self.joint).u64(self.next).u64(self.changed_at).count(self.list.len());
        for seat in &self.list {
            writer.u64(seat.raft).node(seat.node).incarnation(&seat.incarnation);
            writer.bytes(seat.address.as_bytes()).bool(seat.votes).bool(seat.voted);
            seat.intent.write(writer);
        }
        writer.count(self.removed.len());
        for removed in &self.removed {
            writer.u64(removed.raft).node(removed.node).u64(removed.at);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (joint, next) = (reader.bool()?, reader.u64(NUMBER_MAX)?);
        let changed_at = reader.u64(NUMBER_MAX)?;
        let mut list: Vec<Seat> = Vec::new();
        for _ in 0..reader.count(MEMBERS_MAX, 37)? {
            let seat = Seat {
                raft: reader.u64(NUMBER_MAX)?,
                node: reader.node()?,
                incarnation: reader.incarnation()?,
                address: reader.text(ADDRESS_BYTES_MAX)?,
                votes: reader.bool()?,
                voted: reader.bool()?,
                intent: Intent::read(reader)?,
            };
            let before = list.last().map_or(0, |before| before.raft);
            if seat.raft <= before || seat.raft >= next {
                return Err(Malformed("members are out of order"));
            }
            if list.iter().any(|other| other.node == seat.node) || seat.voted && !joint {
                return Err(Malformed("members contradict one another"));
            }
            list.push(seat);
        }
        let voters =
            |before: bool| list.iter().any(|seat| if before { seat.voted } else { seat.votes });
        if !voters(false) || joint && !voters(true) {
            return Err(Malformed("nobody votes"));
        }
        let mut removed = Vec::new();
        for _ in 0..reader.count(REMOVED_KEPT, 24)? {
            let (raft, node) = (reader.u64(NUMBER_MAX)?, reader.node()?);
            removed.push(Removed { raft, node, at: reader.u64(NUMBER_MAX)? });
        }
        Ok(Self { list, joint, next, changed_at, removed })
    }
}

impl Intent {
    fn write(self, writer: &mut Writer) {
        match self {
            Self::Stay => writer.u64(0),
            Self::Vote => writer.u64(u64::MAX),
            Self::Replace(old) => writer.u64(old),
        };
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        match reader.u64(u64::MAX)? {
            0 => Ok(Self::Stay),
            u64::MAX => Ok(Self::Vote),
            old if old < NUMBER_MAX => Ok(Self::Replace(old)),
            _ => Err(Malformed("a raft id is too large")),
        }
    }
}

const MARK_VERSION: u8 = 1;

/// What is kept in a checkpoint: the term of its last entry, and the members there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) term: u64,
    pub(crate) members: Members,
}

impl Mark {
    pub(crate) fn encode(&self) -> Bytes {
        let mut writer = Writer::default();
        writer.u8(MARK_VERSION).u64(self.term);
        self.members.write(&mut writer);
        writer.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != MARK_VERSION {
            return Err(Malformed("a mark of another version, or of another driver"));
        }
        let (term, members) = (reader.u64(NUMBER_MAX)?, Members::read(&mut reader)?);
        reader.finish()?;
        Ok(Self { term, members })
    }
}

const CHANGE_VERSION: u8 = 1;

impl ChangeEntry {
    pub(crate) fn encode(&self) -> Bytes {
        let mut writer = Writer::default();
        writer.u8(CHANGE_VERSION).u64(self.after);
        match &self.change {
            Change::AddLearner { raft, node, incarnation, address, intent } => {
                writer.u8(1).u64(*raft).node(*node).incarnation(incarnation);
                writer.bytes(address.as_bytes());
                intent.write(&mut writer);
            }
            Change::Intend { raft, intent } => {
                writer.u8(2).u64(*raft);
                intent.write(&mut writer);
            }
            Change::Promote { raft } => {
                writer.u8(3).u64(*raft);
            }
            Change::Remove { raft } => {
                writer.u8(4).u64(*raft);
            }
            Change::Swap { new, old } => {
                writer.u8(5).u64(*new).u64(*old);
            }
            Change::Leave => {
                writer.u8(6);
            }
        }
        writer.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != CHANGE_VERSION {
            return Err(Malformed("a change of members of another version"));
        }
        let after = reader.u64(NUMBER_MAX)?;
        let kind = reader.u8()?;
        let mut raft = || reader.u64(NUMBER_MAX);
        let change = match kind {
            1 => Change::AddLearner {
                raft: raft()?,
                node: reader.node()?,
                incarnation: reader.incarnation()?,
                address: reader.text(ADDRESS_BYTES_MAX)?,
                intent: Intent::read(&mut reader)?,
            },
            2 => Change::Intend { raft: raft()?, intent: Intent::read(&mut reader)? },
            3 => Change::Promote { raft: raft()? },
            4 => Change::Remove { raft: raft()? },
            5 => Change::Swap { new: raft()?, old: raft()? },
            6 => Change::Leave,
            _ => return Err(Malformed("an unknown change of members")),
        };
        reader.finish()?;
        Ok(Self { after, change })
    }
}
