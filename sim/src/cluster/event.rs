//! What happens next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::SubscriptionId;
use quorate_replicator::NodeId;

/// Something that happens at a moment. What names a life happens in that life only.
#[derive(Debug)]
pub(super) enum Event {
    Packet {
        to: usize,
        from: NodeId,
        bytes: Bytes,
    },
    Wake {
        place: usize,
        life: u32,
    },
    Alive {
        place: usize,
        life: u32,
    },
    Synced {
        place: usize,
        life: u32,
    },
    LogRetry {
        place: usize,
        life: u32,
    },
    Stored {
        place: usize,
        life: u32,
    },
    Fetched {
        place: usize,
        life: u32,
    },
    Installed {
        place: usize,
        life: u32,
    },
    Subscribe {
        place: usize,
        life: u32,
    },
    /// A subscriber that took its time is ready for more.
    Handled {
        place: usize,
        life: u32,
        id: SubscriptionId,
    },
    Start {
        place: usize,
        life: u32,
    },
    Stream(u64),
    StreamOver {
        place: usize,
        life: u32,
        to: NodeId,
        arrived: bool,
    },
    Client(usize),
    Fault,
    /// A fault that lasts has ended.
    Over(Lasting),
    Roll(usize),
    /// A node is told to try to lead.
    Campaign {
        place: usize,
        life: u32,
    },
    /// A process is killed and comes back at once.
    Blink {
        place: usize,
        life: u32,
    },
    Operator,
    Look,
}

impl Event {
    /// On which machine it happens.
    pub(super) const fn place(&self) -> Option<usize> {
        match self {
            Self::Packet { to, .. } => Some(*to),
            Self::Wake { place, .. }
            | Self::Alive { place, .. }
            | Self::Synced { place, .. }
            | Self::LogRetry { place, .. }
            | Self::Stored { place, .. }
            | Self::Fetched { place, .. }
            | Self::Installed { place, .. }
            | Self::Subscribe { place, .. }
            | Self::Handled { place, .. }
            | Self::StreamOver { place, .. } => Some(*place),
            _ => None,
        }
    }

    /// A number for each kind.
    pub(super) const fn kind(&self) -> u8 {
        match self {
            Self::Packet { .. } => 0,
            Self::Wake { .. } => 1,
            Self::Alive { .. } => 2,
            Self::Synced { .. } => 3,
            Self::LogRetry { .. } => 4,
            Self::Stored { .. } => 5,
            Self::Fetched { .. } => 6,
            Self::Installed { .. } => 7,
            Self::Subscribe { .. } => 8,
            Self::Start { .. } => 9,
            Self::Stream(_) => 10,
            Self::StreamOver { .. } => 11,
            Self::Client(_) => 12,
            Self::Fault => 13,
            Self::Over(_) => 14,
            Self::Roll(_) => 15,
            Self::Operator => 16,
            Self::Look => 17,
            Self::Campaign { .. } => 18,
            Self::Blink { .. } => 19,
            Self::Handled { .. } => 20,
        }
    }
}

/// A fault that lasts for a while.
#[derive(Debug)]
pub(super) enum Lasting {
    Cut(Vec<(usize, usize)>),
    Storm(Vec<(usize, usize)>),
    FullDisk(usize),
}

/// Everything that is to happen, in the order of the moments and, at one moment, in that of the planning.
#[derive(Debug, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    planned: u64,
}

impl Queue {
    pub(super) fn push(&mut self, at: Duration, event: Event) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.events[slot] = Some(event);
                slot
            }
            None => {
                self.events.push(Some(event));
                self.events.len() - 1
            }
        };
        self.planned += 1;
        self.heap.push(Reverse((at, self.planned, slot)));
    }

    pub(super) fn pop(&mut self) -> Option<(Duration, Event)> {
        let Reverse((at, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        Some((at, self.events[slot].take().expect("what is planned is kept")))
    }
}
