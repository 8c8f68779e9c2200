//! The task of one subscription: it calls the handler and keeps the cursor.

use std::sync::Arc;

use async_trait::async_trait;
use quorate_engine::{SubscriptionId, SubscriptionOver};
use quorate_replicator::{Cursor, Handler, SubscriptionControl, SubscriptionEnd};
use tokio::sync::{mpsc, watch};

use crate::engine_thread::{Command, ForGroup};
use crate::inbox::Inbox;
use crate::sync::{Mutex, MutexGuard, PoisonError};
use crate::waiters::News;

/// What a subscription's owner holds.
#[derive(Debug)]
pub(crate) struct Control {
    cursor: Mutex<Cursor>,
    cancelled: watch::Sender<bool>,
    end: watch::Sender<Option<SubscriptionEnd>>,
}

impl Control {
    pub(crate) fn new(from: Cursor) -> Self {
        Self {
            cursor: Mutex::new(from),
            cancelled: watch::Sender::new(false),
            end: watch::Sender::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Cursor> {
        // A cursor is advanced in one step.
        self.cursor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl SubscriptionControl for Control {
    fn cursor(&self) -> Cursor {
        self.lock().clone()
    }

    fn cancel(&self) {
        self.cancelled.send_replace(true);
    }

    async fn ended(&self) -> SubscriptionEnd {
        let mut end = self.end.subscribe();
        let ended = end.wait_for(Option::is_some).await;
        ended.expect("the sender is in self").clone().expect("waited for it")
    }
}

/// Handles chunks until the subscription is over. The handler is dropped at the end.
pub(crate) async fn run(
    ids: Vec<(usize, SubscriptionId)>,
    control: Arc<Control>,
    handler: Arc<dyn Handler>,
    mut news: mpsc::UnboundedReceiver<News>,
    inbox: Arc<Inbox<Command>>,
    mut closing: watch::Receiver<bool>,
) {
    let mut cancelled = control.cancelled.subscribe();
    let end = loop {
        let next = tokio::select! {
            biased;
            _ = cancelled.wait_for(|cancelled| *cancelled) => None,
            next = news.recv() => next,
        };
        let cursor = || control.lock().clone();
        match next {
            // Cancelled, or the node closed.
            None => break SubscriptionEnd::Cancelled { cursor: cursor() },
            Some(News::Chunk(chunk)) => {
                if !chunk.frames.is_empty() {
                    let handled = tokio::select! {
                        biased;
                        _ = cancelled.wait_for(|cancelled| *cancelled) => None,
                        _ = closing.wait_for(|closing| *closing) => None,
                        handled = handler.handle(&chunk.frames) => Some(handled),
                    };
                    let Some(handled) = handled else {
                        break SubscriptionEnd::Cancelled { cursor: cursor() };
                    };
                    if let Err(error) = handled {
                        break SubscriptionEnd::Failed {
                            cursor: cursor(),
                            error: error.to_string(),
                        };
                    }
                }
                control.lock().advance(chunk.reached);
                if !chunk.frames.is_empty() {
                    let group = chunk.reached.group.number() as usize;
                    inbox.report(Command::Group(group, ForGroup::Handled(chunk.subscription)));
                }
            }
            Some(News::Over(SubscriptionOver::Compacted { oldest, snapshot })) => {
                break SubscriptionEnd::Compacted { cursor: cursor(), oldest, snapshot };
            }
            Some(News::Over(SubscriptionOver::Faulted { cause })) => {
                break SubscriptionEnd::Faulted { cursor: cursor(), cause };
            }
        }
    };
    for (group, id) in ids {
        inbox.report(Command::Group(group, ForGroup::Unsubscribe(id)));
    }
    // Whoever learns of the end may rely on the handler being gone.
    drop(handler);
    control.end.send_replace(Some(end));
}
