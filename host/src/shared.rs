//! What the engine thread shows to everyone else.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_replicator::{GroupStatus, Health};
use tokio::sync::watch;

use crate::engine_thread::Command;
use crate::inbox::Inbox;
use crate::listeners::Listeners;

/// What other threads may look at.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) inbox: Arc<Inbox<Command>>,
    pub(crate) listeners: Listeners,
    pub(crate) closing: watch::Sender<bool>,
    /// How the node ended, once nothing of it runs any more.
    pub(crate) closed: watch::Sender<Option<Result<(), String>>>,
    seen: Mutex<Seen>,
}

/// What the cores knew at the end of their last turns.
#[derive(Debug)]
pub(crate) struct Seen {
    groups: Vec<GroupStatus>,
    /// Groups that cannot decide yet.
    waiting: Vec<bool>,
    /// The first fault of a group or of the host.
    pub(crate) fault: Option<String>,
    pub(crate) closing: bool,
    pub(crate) full: bool,
}

impl Shared {
    pub(crate) fn new(inbox: Arc<Inbox<Command>>, groups: Vec<GroupStatus>) -> Self {
        let waiting = vec![true; groups.len()];
        let seen = Seen { groups, waiting, fault: None, closing: false, full: false };
        Self {
            inbox,
            listeners: Listeners::default(),
            closing: watch::Sender::new(false),
            closed: watch::Sender::new(None),
            seen: Mutex::new(seen),
        }
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        // Each change is one step.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// A group has turned.
    pub(crate) fn show(
        &mut self,
        group: usize,
        status: GroupStatus,
        is_ready: bool,
        fault: Option<&str>,
    ) {
        self.groups[group] = status;
        self.waiting[group] = !is_ready;
        if let (None, Some(cause)) = (&self.fault, fault) {
            self.fault = Some(cause.into());
        }
    }

    /// Each group.
    pub(crate) fn groups(&self) -> Vec<GroupStatus> {
        self.groups.clone()
    }

    /// The worst of the groups.
    pub(crate) fn health(&self) -> Health {
        if let Some(cause) = &self.fault {
            return Health::Faulted { cause: cause.clone() };
        }
        if self.closing {
            return Health::Closed;
        }
        if self.full {
            return Health::StorageFull;
        }
        // One that was ready may have lost its leader since, or its place in the group.
        let waits = |(group, waiting): (&GroupStatus, &bool)| match &group.reason {
            Some(reason) => Some(reason.clone()),
            None if *waiting => {
                Some("the log is being replayed, or nobody proposes yet".to_owned())
            }
            None => None,
        };
        match self.groups.iter().zip(&self.waiting).find_map(waits) {
            None => Health::Ready,
            Some(reason) => Health::Waiting { reason },
        }
    }
}
