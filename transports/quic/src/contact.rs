//! Which connection of a pair of nodes is the one that counts: decided here, without sockets or clocks.
//!
//! Both nodes dial, so that either finds the other after a restart, and two connections may be made at once. The rules
//! are such that both ends choose the same one:
//!
//! 1. A greeting of a newer life of the peer replaces what there was with an older one, and never the other way round.
//! 2. Within a life, a greeting counts if the peer has dialled again since the connection there is was made: then it has
//!    lost that one. A greeting that was under way before is stale.
//! 3. With no connection yet and both dialling, the dial of the lower node id goes on, and the other is turned away as
//!    crossed; but only for [`CROSSING`], in case it leads nowhere.

use std::time::Duration;

use quorate_replicator::NodeId;

use crate::hello::Hello;

/// For how long the lower node id has the right of way with its dial.
pub(crate) const CROSSING: Duration = Duration::from_secs(2);

/// What one node knows of its connections with one peer.
#[derive(Debug)]
pub(crate) struct Contact {
    me: NodeId,
    peer: NodeId,
    /// The number of this node's last dial to the peer; numbers rise over all peers.
    attempt: u64,
    /// How often this node has dialled the peer.
    dials: u64,
    /// The dial under way, and since when.
    dialling: Option<(u64, Duration)>,
    linked: Option<Linked>,
    /// How many connections there were.
    generation: u64,
}

/// The connection that counts.
#[derive(Clone, Copy, Debug)]
struct Linked {
    generation: u64,
    incarnation: u64,
    /// The number of the peer's last dial when the connection was made.
    attempt: u64,
}

/// What becomes of a greeting of somebody who has dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Greeted {
    /// The connection counts from now on, under this number; what was there before does not.
    Accept(u64),
    /// Both have dialled, and the other connection is the one to be.
    Crossed,
    /// The greeting is older than what there is, in words.
    Stale(String),
}

impl Contact {
    pub(crate) fn new(me: NodeId, peer: NodeId) -> Self {
        Self { me, peer, attempt: 0, dials: 0, dialling: None, linked: None, generation: 0 }
    }

    /// The number of this node's last dial.
    pub(crate) fn attempt(&self) -> u64 {
        self.attempt
    }

    /// How often this node has dialled.
    pub(crate) fn dials(&self) -> u64 {
        self.dials
    }

    /// How many connections there were.
    pub(crate) fn connections(&self) -> u64 {
        self.generation
    }

    /// Begins the dial of this number, unless there is a connection.
    pub(crate) fn begin_dial(&mut self, now: Duration, attempt: u64) -> bool {
        let begins = self.linked.is_none();
        if begins {
            self.attempt = attempt;
            self.dials += 1;
            self.dialling = Some((attempt, now));
        }
        begins
    }

    /// A dial was answered with this greeting. Its connection counts under the number, or not, if another one came
    /// first.
    pub(crate) fn answered(&mut self, attempt: u64, theirs: &Hello) -> Option<u64> {
        let current = self.dialling.is_some_and(|(dialling, _)| dialling == attempt);
        if !current || self.linked.is_some() {
            return None;
        }
        Some(self.link(theirs))
    }

    /// A dial has ended, one way or the other.
    pub(crate) fn end_dial(&mut self, attempt: u64) {
        self.dialling = self.dialling.filter(|(dialling, _)| *dialling != attempt);
    }

    /// The peer has dialled and greets.
    pub(crate) fn greeted(&mut self, now: Duration, theirs: &Hello) -> Greeted {
        let peer = self.peer;
        if let Some(linked) = self.linked {
            if theirs.incarnation < linked.incarnation {
                return Greeted::Stale(format!(
                    "a newer life of {peer} is connected (incarnation {}, this is {}); is it running twice?",
                    linked.incarnation, theirs.incarnation
                ));
            }
            if theirs.incarnation == linked.incarnation && theirs.attempt <= linked.attempt {
                return Greeted::Stale(format!("{peer} is connected already"));
            }
        } else if let Some((_, since)) = self.dialling
            && self.me < peer
            && now.saturating_sub(since) < CROSSING
        {
            return Greeted::Crossed;
        }
        self.dialling = None;
        Greeted::Accept(self.link(theirs))
    }

    /// The connection of this number is lost.
    pub(crate) fn lost(&mut self, generation: u64) {
        self.linked = self.linked.filter(|linked| linked.generation != generation);
    }

    /// Whether the connection of this number is the one that counts.
    pub(crate) fn counts(&self, generation: u64) -> bool {
        self.linked.is_some_and(|linked| linked.generation == generation)
    }

    /// Whether there is a connection that counts.
    pub(crate) fn is_linked(&self) -> bool {
        self.linked.is_some()
    }

    fn link(&mut self, theirs: &Hello) -> u64 {
        self.generation += 1;
        self.linked = Some(Linked {
            generation: self.generation,
            incarnation: theirs.incarnation,
            attempt: theirs.attempt,
        });
        self.generation
    }
}

#[cfg(test)]
mod tests {
    use quorate_replicator::ClusterId;

    use super::*;
    use crate::hello::PROTOCOL;

    const NOW: Duration = Duration::from_secs(100);

    fn hello(from: u64, to: u64, incarnation: u64, attempt: u64) -> Hello {
        Hello {
            protocol: PROTOCOL,
            cluster: ClusterId::new([0; 16]),
            node: NodeId::new(from),
            incarnation,
            attempt,
            to: NodeId::new(to),
        }
    }

    fn contact(me: u64, peer: u64) -> Contact {
        Contact::new(NodeId::new(me), NodeId::new(peer))
    }

    #[test]
    fn of_two_dials_that_cross_the_lower_ids_one_stays() {
        let (mut one, mut two) = (contact(1, 2), contact(2, 1));
        let (of_one, of_two) = (11, 22);
        assert!(one.begin_dial(NOW, of_one) && two.begin_dial(NOW, of_two));
        assert_eq!(one.greeted(NOW, &hello(2, 1, 5, of_two)), Greeted::Crossed);
        assert_eq!(two.greeted(NOW, &hello(1, 2, 7, of_one)), Greeted::Accept(1));
        assert_eq!(one.answered(of_one, &hello(2, 1, 5, of_two)), Some(1));
        assert_eq!(two.answered(of_two, &hello(1, 2, 7, of_one)), None);
        // The greeting of the second, late: it was sent before the connection was made.
        assert!(matches!(one.greeted(NOW, &hello(2, 1, 5, of_two)), Greeted::Stale(_)));
        assert!(one.counts(1) && two.counts(1));
    }

    #[test]
    fn a_dial_that_leads_nowhere_does_not_hold_up_the_other() {
        let mut one = contact(1, 2);
        let attempt = 7;
        assert!(one.begin_dial(NOW, attempt));
        assert_eq!(one.greeted(NOW + CROSSING, &hello(2, 1, 5, 1)), Greeted::Accept(1));
        assert_eq!(one.answered(attempt, &hello(2, 1, 5, 1)), None);
        assert!(!one.begin_dial(NOW, 8));
    }

    #[test]
    fn a_peer_that_dials_again_has_lost_its_connection() {
        let mut one = contact(1, 2);
        assert_eq!(one.greeted(NOW, &hello(2, 1, 5, 1)), Greeted::Accept(1));
        assert_eq!(one.greeted(NOW, &hello(2, 1, 5, 2)), Greeted::Accept(2));
        assert!(!one.counts(1) && one.counts(2));
        // The end of the first is nothing to the second.
        one.lost(1);
        assert!(one.counts(2));
        one.lost(2);
        assert!(one.begin_dial(NOW, 1));
    }

    #[test]
    fn a_newer_life_replaces_an_older_one_and_not_the_other_way_round() {
        let mut one = contact(1, 2);
        assert_eq!(one.greeted(NOW, &hello(2, 1, 5, 9)), Greeted::Accept(1));
        assert_eq!(one.greeted(NOW, &hello(2, 1, 6, 1)), Greeted::Accept(2));
        let Greeted::Stale(words) = one.greeted(NOW, &hello(2, 1, 5, u64::MAX)) else {
            panic!("an older life took over");
        };
        assert!(words.contains("running twice"), "{words}");
        assert_eq!(one.greeted(NOW, &hello(2, 1, u64::MAX, 1)), Greeted::Accept(3));
    }
}
