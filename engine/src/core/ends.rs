//! The end of a group, in order or by a fault.

use quorate_replicator::{Event, ProposeError, ReadError};

use crate::callers::{Answer, Callers};
use crate::effects::Effects;
use crate::reads::Wants;
use crate::subscriptions::SubscriptionOver;

use super::{HostCore, Stopped};

impl<C: Callers> HostCore<C> {
    /// The world failed under this group: a write, a sync, a thread. It stops for good.
    pub fn fail(&mut self, cause: impl Into<String>, effects: &mut Effects<C>) {
        self.fault(cause.into(), effects);
    }

    /// Ends the group in order: everyone who waits is told. Durable state is whole at any time, so nothing else is to
    /// be done.
    pub fn close(&mut self, effects: &mut Effects<C>) {
        if self.stopped.is_none() {
            self.stop(Stopped::Closed, effects);
        }
    }

    pub(super) fn fault(&mut self, cause: String, effects: &mut Effects<C>) {
        if self.stopped.is_some() {
            return;
        }
        effects.events.push(Event::Faulted { group: self.config.group, cause: cause.clone() });
        self.stop(Stopped::Faulted(cause), effects);
    }

    pub(super) fn stop(&mut self, stopped: Stopped, effects: &mut Effects<C>) {
        // What the engine wanted in this turn must not happen any more.
        effects.writes.clear();
        effects.sends.clear();
        effects.checkpoint = None;
        effects.install = None;
        self.sends.clear();
        self.deliveries.clear();
        self.timers.clear();
        self.inputs.clear();
        self.pool.end(
            |submitted| match &stopped {
                Stopped::Closed => ProposeError::Closed { submitted },
                Stopped::Faulted(cause) => {
                    ProposeError::Faulted { cause: cause.clone(), submitted }
                }
            },
            &mut effects.answers,
        );
        let error = match &stopped {
            Stopped::Closed => ReadError::Closed,
            Stopped::Faulted(cause) => ReadError::Faulted { cause: cause.clone() },
        };
        for waiting in self.reads.end() {
            effects.answers.push(match waiting.what {
                Wants::Barrier(who) => Answer::Read(who, Err(error.clone())),
                Wants::Decision(_, who) => Answer::Decision(who, Err(error.clone())),
            });
        }
        self.wishes.end(&stopped.as_admin_error(), &mut effects.answers);
        let subscriptions = self.subscriptions.end();
        if let Stopped::Faulted(cause) = &stopped {
            let over = SubscriptionOver::Faulted { cause: cause.clone() };
            effects.over.extend(subscriptions.into_iter().map(|id| (id, over.clone())));
        }
        self.stopped = Some(stopped);
    }

    /// Why the group stopped for good, if it did.
    pub fn faulted(&self) -> Option<&str> {
        match &self.stopped {
            Some(Stopped::Faulted(cause)) => Some(cause),
            Some(Stopped::Closed) | None => None,
        }
    }
}
