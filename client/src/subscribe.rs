//! Subscriptions of a client: they go on with another node where the one before ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use quorate_replicator::{
    Accepted, Cursor, Handler, HandlerError, Scope, SubscribeError, Subscription,
    SubscriptionControl, SubscriptionEnd,
};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::feed::Feed;
use crate::link::Link;
use crate::links::{Links, NoLink};
use crate::protocol::{Given, Request};

/// How long the first node is waited for. A subscription that has begun waits for the next one for as long as it is wanted.
const BEGIN_WITHIN: Duration = Duration::from_secs(5);

/// The pause before the next node is asked, when one has closed.
const PAUSE: Duration = Duration::from_millis(50);

/// Begins a subscription, which runs by itself from then on.
pub(crate) async fn subscribe(
    links: Arc<Links>,
    scope: Scope,
    from: Cursor,
    handler: Arc<dyn Handler>,
) -> Result<Subscription, SubscribeError> {
    let deadline = Instant::now() + BEGIN_WITHIN;
    let given = loop {
        let link = links.current(deadline).await.map_err(|no_link| match no_link {
            NoLink::Closed => SubscribeError::Closed,
            NoLink::Unreachable(problem) => SubscribeError::Unreachable { problem },
        })?;
        match Giving::begin(&link, &scope, &from).await {
            Ok(Ok(begun)) => break begun,
            Ok(Err(error)) if is_of_node(&error) && Instant::now() < deadline => {
                links.leave(&link);
                tokio::time::sleep(PAUSE).await;
            }
            Ok(Err(error)) => return Err(error),
            Err(problem) if Instant::now() >= deadline => {
                return Err(SubscribeError::Unreachable { problem });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    };
    let control = Arc::new(Control {
        cursor: Mutex::new(given.cursor.clone()),
        cancelled: watch::Sender::new(false),
        ended: watch::Sender::new(None),
    });
    let runner = Runner { links, scope, handler, control: Arc::clone(&control) };
    tokio::spawn(runner.run(given));
    Ok(Subscription::new(control))
}

/// Whether another node may well serve the subscription.
fn is_of_node(error: &SubscribeError) -> bool {
    matches!(error, SubscribeError::Closed | SubscribeError::Faulted { .. })
}

#[derive(Debug)]
struct Control {
    cursor: Mutex<Cursor>,
    cancelled: watch::Sender<bool>,
    ended: watch::Sender<Option<SubscriptionEnd>>,
}

impl Control {
    fn lock(&self) -> MutexGuard<'_, Cursor> {
        // Each change is one step.
        self.cursor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything in the batch was handled.
    fn handled(&self, batch: &[Accepted]) {
        let mut cursor = self.lock();
        batch.iter().for_each(|accepted| cursor.advance(accepted.position));
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
        let mut ended = self.ended.subscribe();
        // The sender lives in this value, so waiting cannot fail.
        match ended.wait_for(Option::is_some).await.ok().and_then(|end| end.clone()) {
            Some(end) => end,
            None => SubscriptionEnd::Cancelled { cursor: self.cursor() },
        }
    }
}

/// Frames on their way from a node.
struct Giving {
    feed: Feed,
    /// Where it begins.
    cursor: Cursor,
}

impl Giving {
    /// Asks a node to give. The outer error is of the connection.
    async fn begin(
        link: &Link,
        scope: &Scope,
        from: &Cursor,
    ) -> Result<Result<Self, SubscribeError>, String> {
        let request = Request::Subscribe { scope: scope.clone(), from: from.clone() };
        let mut feed = Feed::open(link.lane().await?, &request).await?;
        let answer: Result<Cursor, SubscribeError> = feed.next().await?;
        Ok(answer.map(|cursor| Self { feed, cursor }))
    }
}

struct Runner {
    links: Arc<Links>,
    scope: Scope,
    handler: Arc<dyn Handler>,
    control: Arc<Control>,
}

impl Runner {
    async fn run(self, first: Giving) {
        let mut cancelled = self.control.cancelled.subscribe();
        let end = tokio::select! {
            end = self.follow(first) => end,
            () = self.links.closed() => SubscriptionEnd::Cancelled { cursor: self.control.cursor() },
            // The sender lives in the control, so waiting cannot fail.
            _ = cancelled.wait_for(|cancelled| *cancelled) => {
                SubscriptionEnd::Cancelled { cursor: self.control.cursor() }
            }
        };
        self.control.ended.send_replace(Some(end));
    }

    /// Takes what is given, by one node after the other, until the subscription ends.
    async fn follow(&self, first: Giving) -> SubscriptionEnd {
        let mut giving = first;
        loop {
            match self.take(&mut giving).await {
                // Another node goes on where this one ended.
                Ok(SubscriptionEnd::Cancelled { .. } | SubscriptionEnd::Faulted { .. })
                | Err(_) => {}
                Ok(end) => return end,
            }
            giving = match self.again().await {
                Ok(giving) => giving,
                Err(end) => return end,
            };
        }
    }

    async fn take(&self, giving: &mut Giving) -> Result<SubscriptionEnd, String> {
        loop {
            match giving.feed.next().await? {
                Given::Batch(batch) => {
                    if let Err(error) = self.handle(&batch).await {
                        let (cursor, error) = (self.control.cursor(), error.to_string());
                        return Ok(SubscriptionEnd::Failed { cursor, error });
                    }
                    giving.feed.say(&Request::Taken).await?;
                }
                Given::Progress(cursor) => *self.control.lock() = cursor,
                Given::End(end) => return Ok(end),
            }
        }
    }

    async fn handle(&self, batch: &[Accepted]) -> Result<(), HandlerError> {
        self.handler.handle(batch).await?;
        self.control.handled(batch);
        Ok(())
    }

    /// Begins again, at the cursor.
    async fn again(&self) -> Result<Giving, SubscriptionEnd> {
        loop {
            let cursor = self.control.cursor();
            // A day is as good as for ever, and the next one follows.
            let deadline = Instant::now() + Duration::from_secs(24 * 60 * 60);
            let link = match self.links.current(deadline).await {
                Ok(link) => link,
                Err(NoLink::Closed) => return Err(SubscriptionEnd::Cancelled { cursor }),
                Err(NoLink::Unreachable(_)) => continue,
            };
            match Giving::begin(&link, &self.scope, &cursor).await {
                Ok(Ok(giving)) => return Ok(giving),
                Ok(Err(SubscribeError::Compacted { oldest, snapshot })) => {
                    return Err(SubscriptionEnd::Compacted { cursor, oldest, snapshot });
                }
                // A node that lags has yet to reach the cursor; one that is closed is left.
                Ok(Err(error)) => {
                    if is_of_node(&error) {
                        self.links.leave(&link);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}
