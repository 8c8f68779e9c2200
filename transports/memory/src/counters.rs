//! What happened to messages, in numbers.

use std::ops::AddAssign;

/// What happened to the messages of a link or of a hub since it was made.
///
/// `sent + duplicated = delivered + lost + under_way`, at every moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Messages that were taken from a sender.
    pub sent: u64,
    /// Messages that were refused to a sender because the queue was full.
    pub refused: u64,
    /// Messages, second copies included, that a receiver has taken.
    pub delivered: u64,
    /// Messages that vanished: drawn, cut, or with nobody there to receive them.
    pub lost: u64,
    /// Second copies that were made.
    pub duplicated: u64,
    /// Messages on their way, or in a receiver's hand.
    pub under_way: u64,
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.refused += other.refused;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.under_way += other.under_way;
    }
}
