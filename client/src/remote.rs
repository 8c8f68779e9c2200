//! The contract, kept by nodes in other processes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use quorate_replicator::{
    AdminError, CloseError, Consistency, Cursor, DecidedBatch, Decision, Event, EventStream, Frame,
    FrameId, GroupId, Handler, Health, MemberChange, NodeId, Pinned, Position, ProposeError,
    ReadError, Replicator, Scope, ShardKey, Signer, Status, SubscribeError, Subscription,
};
use quorate_transport_quic::QuicClient;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use crate::call::Unanswered;
use crate::link::Link;
use crate::links::{Links, NoLink, Standing};
use crate::protocol::{self, REQUEST_BYTES_MAX, Request};
use crate::subscribe;
use crate::trust::{Decisions, Trust};

/// The pause before a node is asked again that refused what passes by itself.
const PAUSE: Duration = Duration::from_millis(20);

/// How long the changes of the members are waited for, which are small and few.
const MEMBER_BATCHES_WITHIN: Duration = Duration::from_secs(5);

/// A [`Replicator`] whose node is in another process, and another one when that is lost.
#[derive(Debug)]
pub(crate) struct Remote {
    quic: Arc<QuicClient>,
    links: Arc<Links>,
    groups: u32,
    /// Without it nodes are believed.
    trust: Option<Trust>,
}

/// What came of asking.
enum Asked<T> {
    Answer(T, Arc<Link>),
    /// The time is over. Some node may have read the request.
    Deadline,
    /// The time is over, and no node was connected.
    Unreachable(String),
    TooLarge(usize),
    Closed,
}

/// One call, over all attempts.
struct Call {
    deadline: Instant,
    /// A node may have read an attempt whose answer was lost.
    may_have_been_read: bool,
}

impl Call {
    fn new(within: Duration) -> Self {
        let now = Instant::now();
        // A wait beyond what the clock can say is one without an end.
        let day = Duration::from_secs(24 * 60 * 60);
        Self { deadline: now.checked_add(within).unwrap_or(now + day), may_have_been_read: false }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn is_over(&self) -> bool {
        self.left().is_zero()
    }
}

impl Remote {
    pub(crate) fn new(
        quic: Arc<QuicClient>,
        links: Arc<Links>,
        groups: u32,
        trust: Option<Trust>,
    ) -> Self {
        Self { quic, links, groups, trust }
    }

    pub(crate) fn links(&self) -> &Arc<Links> {
        &self.links
    }

    /// Asks whichever node is connected, and the next one when it is lost, until the deadline.
    async fn ask<T: DeserializeOwned>(&self, call: &mut Call, request: &Request) -> Asked<T> {
        loop {
            let link = match self.links.current(call.deadline).await {
                Ok(link) => link,
                Err(NoLink::Closed) => return Asked::Closed,
                Err(NoLink::Unreachable(_)) if call.may_have_been_read => return Asked::Deadline,
                Err(NoLink::Unreachable(problem)) => return Asked::Unreachable(problem),
            };
            let calls = if is_long(request) { &link.pages } else { &link.calls };
            match calls.ask(request, call.left()).await {
                Ok(body) => match protocol::decode(&body) {
                    Ok(answer) => return Asked::Answer(answer, link),
                    Err(malformed) => {
                        tracing::warn!(node = %link.node, "an answer is {malformed}");
                        call.may_have_been_read = true;
                        self.links.leave(&link);
                        self.pause(call).await;
                    }
                },
                Err(Unanswered::TooLarge(size)) => return Asked::TooLarge(size),
                Err(Unanswered::Lost) => {
                    call.may_have_been_read = true;
                    if self.links.is_closed() {
                        return Asked::Closed;
                    }
                    // A link that is lost is known to be a moment later.
                    link.lost().await;
                }
                Err(Unanswered::Deadline) => return Asked::Deadline,
            }
        }
    }

    /// Verifies what a node says to have accepted, if there is somebody to believe rather than it.
    async fn verify(
        &self,
        call: &Call,
        request: &Request,
        decisions: &mut [Decision],
        link: &Link,
    ) -> Result<(), String> {
        let frames = match request {
            Request::ProposeProven(frame) => std::slice::from_ref(frame),
            Request::ProposeManyProven(frames) => frames,
            _ => return Ok(()),
        };
        let Some(trust) = &self.trust else { return Ok(()) };
        if frames.len() != decisions.len() {
            return Err(format!("{} frames have {} decisions", frames.len(), decisions.len()));
        }
        for (frame, decision) in frames.iter().zip(decisions) {
            if let Decision::Accept(commit) = decision {
                trust.verify(frame, commit, link, call.left()).await?;
            }
        }
        Ok(())
    }

    async fn pause(&self, call: &Call) {
        tokio::time::sleep(PAUSE.min(call.left())).await;
    }

    /// Proposes until there is a decision, a refusal that is certain, or no time.
    async fn submit<T: DeserializeOwned + Decisions>(
        &self,
        request: Request,
        within: Duration,
        unknown: impl Fn() -> T,
    ) -> Result<T, ProposeError> {
        let mut call = Call::new(within);
        loop {
            let asked = self.ask::<Result<T, ProposeError>>(&mut call, &request).await;
            let (error, link) = match asked {
                Asked::Answer(Ok(mut decided), link) => {
                    let verified = self.verify(&call, &request, decided.decisions(), &link).await;
                    let Err(problem) = verified else { return Ok(decided) };
                    tracing::warn!(node = %link.node, "its answer is not believed: {problem}");
                    // It may have done something with the frames all the same.
                    call.may_have_been_read = true;
                    if call.is_over() {
                        return Ok(unknown());
                    }
                    match link.is_lost() {
                        true => self.links.leave(&link),
                        false => self.links.disbelieve(&link),
                    }
                    self.pause(&call).await;
                    continue;
                }
                Asked::Answer(Err(error), link) => (error, link),
                Asked::Deadline => return Ok(unknown()),
                Asked::Unreachable(problem) => return Err(ProposeError::Unreachable { problem }),
                Asked::TooLarge(size) => {
                    let what = "request to a node in bytes".into();
                    return Err(ProposeError::TooLarge { what, size, limit: REQUEST_BYTES_MAX });
                }
                Asked::Closed => {
                    return Err(ProposeError::Closed { submitted: call.may_have_been_read });
                }
            };
            call.may_have_been_read |= error.may_commit();
            match error {
                // That node is of no use; another one may be.
                ProposeError::Closed { .. } | ProposeError::Faulted { .. } if !call.is_over() => {
                    self.links.leave(&link);
                }
                // The leader is about to be followed, and what was lost may still be decided.
                ProposeError::NotLeader { .. } if !call.is_over() => {}
                _ if !call.may_have_been_read => return Err(error),
                // An attempt before this one may have happened, and this refusal says nothing of it.
                ProposeError::Overloaded { .. } | ProposeError::StorageFull if !call.is_over() => {}
                _ => return Ok(unknown()),
            }
            self.pause(&call).await;
        }
    }

    /// Reads until there is an answer or no time.
    pub(crate) async fn read<T: DeserializeOwned, E: From<ReadError> + Refusal>(
        &self,
        request: Request,
        within: Duration,
    ) -> Result<T, E> {
        let mut call = Call::new(within);
        loop {
            match self.ask::<Result<T, E>>(&mut call, &request).await {
                Asked::Answer(Err(error), link) if error.is_of_node() && !call.is_over() => {
                    self.links.leave(&link);
                    self.pause(&call).await;
                }
                Asked::Answer(answer, _) => return answer,
                Asked::Deadline => return Err(ReadError::Timeout.into()),
                Asked::Unreachable(problem) => {
                    return Err(ReadError::Unreachable { problem }.into());
                }
                Asked::TooLarge(size) => {
                    let problem = format!(
                        "the question has {size} bytes, at most {REQUEST_BYTES_MAX} can be asked"
                    );
                    return Err(ReadError::Unreachable { problem }.into());
                }
                Asked::Closed => return Err(ReadError::Closed.into()),
            }
        }
    }

    /// Who did not answer, and how it is doing.
    fn no_answer(&self) -> String {
        match self.links.status() {
            (
                Some(Status { node, health: Health::Waiting { reason }, .. }),
                Standing::Linked(_),
            ) => {
                format!("no answer within the time from {node}, which waits: {reason}")
            }
            (_, Standing::Linked(link)) => format!("no answer within the time from {}", link.node),
            (_, Standing::Connecting(problem)) => format!("no answer within the time; {problem}"),
            (_, Standing::Closed) => "the client was closed".into(),
        }
    }

    /// Asks once for what is not repeated by itself.
    async fn administrate(&self, request: Request, within: Duration) -> Result<(), AdminError> {
        let mut call = Call::new(within);
        let unfinished = |reason: &str| AdminError::Unfinished { reason: reason.into() };
        match self.ask::<Result<(), AdminError>>(&mut call, &request).await {
            Asked::Answer(answer, _) => answer,
            Asked::Deadline => Err(unfinished(&self.no_answer())),
            Asked::Unreachable(problem) => Err(AdminError::Unreachable { problem }),
            Asked::TooLarge(size) => Err(AdminError::Refused {
                reason: format!(
                    "the request has {size} bytes, at most {REQUEST_BYTES_MAX} are sent"
                ),
            }),
            Asked::Closed if call.may_have_been_read => Err(unfinished("the client was closed")),
            Asked::Closed => Err(AdminError::Closed),
        }
    }
}

/// Whether the answer may be long.
fn is_long(request: &Request) -> bool {
    matches!(
        request,
        Request::Scan { .. }
            | Request::Changes { .. }
            | Request::Orgs { .. }
            | Request::Namespaces { .. }
            | Request::ScanOrg { .. }
            | Request::ChangeMembers(_)
            | Request::Transfer { .. }
            | Request::MemberBatches { .. }
    )
}

/// What an error of a read says about the node that answered.
pub(crate) trait Refusal: for<'de> Deserialize<'de> {
    /// Whether another node may well answer.
    fn is_of_node(&self) -> bool;
}

impl Refusal for ReadError {
    fn is_of_node(&self) -> bool {
        matches!(self, Self::Closed | Self::Faulted { .. })
    }
}

#[async_trait]
impl Replicator for Remote {
    async fn propose(&self, frame: Frame, within: Duration) -> Result<Decision, ProposeError> {
        let request = match self.trust {
            Some(_) => Request::ProposeProven(frame),
            None => Request::Propose(frame),
        };
        self.submit(request, within, || Decision::Timeout).await
    }

    async fn propose_many(
        &self,
        frames: Vec<Frame>,
        within: Duration,
    ) -> Result<Vec<Decision>, ProposeError> {
        let count = frames.len();
        let unknown = || vec![Decision::Timeout; count];
        let request = match self.trust {
            Some(_) => Request::ProposeManyProven(frames),
            None => Request::ProposeMany(frames),
        };
        self.submit(request, within, unknown).await
    }

    async fn decision(
        &self,
        shard: &ShardKey,
        id: FrameId,
        within: Duration,
    ) -> Result<Decision, ReadError> {
        self.read(Request::Decision { shard: shard.clone(), id }, within).await
    }

    async fn subscribe(
        &self,
        scope: Scope,
        from: Cursor,
        handler: Arc<dyn Handler>,
    ) -> Result<Subscription, SubscribeError> {
        subscribe::subscribe(Arc::clone(&self.links), scope, from, handler).await
    }

    async fn read_barrier(
        &self,
        shard: &ShardKey,
        level: Consistency,
        within: Duration,
    ) -> Result<Position, ReadError> {
        self.read(Request::Barrier { shard: shard.clone(), level }, within).await
    }

    /// In the words of the node that calls go to; they are verified by `quorate-certificate`.
    async fn member_batches(
        &self,
        group: GroupId,
        after: u64,
    ) -> Result<Vec<DecidedBatch>, ReadError> {
        self.read(Request::MemberBatches { group, after }, MEMBER_BATCHES_WITHIN).await
    }

    /// There is none here: checkpoints are with the nodes.
    async fn pinned(&self, _shard: &ShardKey) -> Result<Arc<dyn Pinned>, ReadError> {
        match self.links.is_closed() {
            true => Err(ReadError::Closed),
            false => Err(ReadError::NoCheckpoint),
        }
    }

    fn group(&self, shard: &ShardKey) -> GroupId {
        GroupId::of(shard, self.groups)
    }

    /// Of the node that calls go to, as it told last, a moment ago.
    fn status(&self) -> Status {
        let (last, standing) = self.links.status();
        let mut status = last.expect("a client begins with a node that has told");
        match standing {
            Standing::Linked(_) => {}
            Standing::Connecting(reason) => status.health = Health::Waiting { reason },
            Standing::Closed => status.health = Health::Closed,
        }
        status
    }

    fn signer(&self) -> io::Result<Option<Signer>> {
        self.trust.as_ref().map_or(Ok(None), |trust| trust.signer(self.groups))
    }

    async fn change_members(
        &self,
        change: MemberChange,
        within: Duration,
    ) -> Result<(), AdminError> {
        self.administrate(Request::ChangeMembers(change), within).await
    }

    async fn transfer(
        &self,
        group: GroupId,
        to: NodeId,
        within: Duration,
    ) -> Result<(), AdminError> {
        self.administrate(Request::Transfer { group, to }, within).await
    }

    /// Of the node that calls go to; another one goes on after it.
    fn events(&self) -> EventStream {
        let (links, events) = (Arc::clone(&self.links), self.links.events());
        Box::pin(stream::unfold((links, events), |(links, mut events)| async move {
            let event = tokio::select! {
                event = events.recv() => match event {
                    Ok(event) => event,
                    Err(RecvError::Lagged(events)) => Event::Missed { events },
                    Err(RecvError::Closed) => return None,
                },
                () = links.closed() => return None,
            };
            Some((event, (links, events)))
        }))
    }

    async fn close(&self) -> Result<(), CloseError> {
        self.links.close();
        self.quic.close().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_without_end_is_a_long_one() {
        let call = Call::new(Duration::MAX);
        assert!(call.left() > Duration::from_secs(60 * 60));
        assert!(Call::new(Duration::ZERO).is_over());
    }
}
