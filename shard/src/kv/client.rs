//! What an application calls: writes through a session, reads behind a barrier.

use std::sync::Arc;
use std::time::Duration;

use quorate_replicator::{Commit, Position, Session, SessionError, ShardKey};

use crate::envelope::{self, AnswerError};
use crate::kv::reads::{Applied, KvReadError, OrgReadOptions, ReadOptions, Reads, WITHIN};
use crate::kv::{
    Changes, Condition, Got, NamespacePage, Op, OrgPage, Page, PinnedKv, Reply, Scan, Transaction,
    TransactionReply,
};
use crate::limits::DELETE_PREFIX_MAX;
use crate::{Refusal, Shards, rules};

/// Keys and values of all namespaces, through one session. A clone shares the session.
///
/// Every method may be called from many tasks at once.
#[derive(Clone, Debug)]
pub struct Kv {
    session: Arc<Session>,
    reads: Arc<dyn Reads>,
}

/// How a put is done.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PutOptions<'a> {
    /// How long the key is there, in milliseconds of log time; for ever if none.
    pub ttl_ms: Option<u64>,
    /// What must hold, else [`KvError::CompareFailed`].
    pub condition: Option<Condition<'a>>,
    /// How long to wait for the decision; two seconds unless set.
    pub within: Duration,
}

impl Default for PutOptions<'_> {
    fn default() -> Self {
        Self { ttl_ms: None, condition: None, within: WITHIN }
    }
}

impl<'a> PutOptions<'a> {
    /// Sets the time to live.
    #[must_use]
    pub fn ttl_ms(mut self, ttl_ms: u64) -> Self {
        self.ttl_ms = Some(ttl_ms);
        self
    }

    /// Sets the condition.
    #[must_use]
    pub fn only_if(mut self, condition: Condition<'a>) -> Self {
        self.condition = Some(condition);
        self
    }

    /// Sets how long to wait.
    #[must_use]
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }
}

/// How a delete is done.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeleteOptions<'a> {
    /// What must hold, else [`KvError::CompareFailed`].
    pub condition: Option<Condition<'a>>,
    /// How long to wait for the decision; two seconds unless set.
    pub within: Duration,
}

impl Default for DeleteOptions<'_> {
    fn default() -> Self {
        Self { condition: None, within: WITHIN }
    }
}

impl<'a> DeleteOptions<'a> {
    /// Sets the condition.
    #[must_use]
    pub fn only_if(mut self, condition: Condition<'a>) -> Self {
        self.condition = Some(condition);
        self
    }

    /// Sets how long to wait.
    #[must_use]
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }
}

/// A key was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PutDone {
    /// Where in the log.
    pub position: Position,
    /// The namespace's revision, at which the key is modified.
    pub revision: u64,
    /// The revision that created the key.
    pub created: u64,
}

/// A key is not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeleteDone {
    /// Where in the log.
    pub position: Position,
    /// The namespace's revision.
    pub revision: u64,
    /// Whether the key was there.
    pub existed: bool,
}

/// Keys were deleted by prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeletePrefixDone {
    /// Where in the log.
    pub position: Position,
    /// The namespace's revision.
    pub revision: u64,
    /// How many keys.
    pub removed: u32,
    /// Whether keys with the prefix are left: call again.
    pub more: bool,
}

/// Rules are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RulesDone {
    /// Where in the log.
    pub position: Position,
    /// The namespace's revision.
    pub revision: u64,
}

/// A transaction was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionDone {
    /// Where in the log.
    pub position: Position,
    /// What it did.
    pub reply: TransactionReply,
}

/// An operation was accepted and answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Committed {
    /// Where in the log.
    pub position: Position,
    /// What it did.
    pub reply: Reply,
}

/// Why a write was not done, or may have been.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    /// The condition did not hold; nothing was changed.
    #[error("condition does not hold: {}", actual_text(.actual))]
    CompareFailed {
        /// The namespace's revision.
        revision: u64,
        /// At which revision the key was modified last; 0 if it is not there.
        actual: u64,
    },
    /// The shard refused the operation, or would have; nothing was changed.
    #[error(transparent)]
    Refused(Refusal),
    /// It was not accepted, or the outcome is unknown: then the error holds an attempt that can be
    /// [resumed](Kv::resume).
    #[error(transparent)]
    Session(#[from] SessionError),
    /// It was accepted earlier, and what it did is not kept any more.
    #[error("accepted at {position}, but its answer was long and is not kept; read the state")]
    ReplyForgotten {
        /// Where in the log.
        position: Position,
    },
    /// It was accepted, and this program cannot read the answer.
    #[error("accepted at {position}, but its answer cannot be read: {error}")]
    Answer {
        /// Where in the log.
        position: Position,
        /// Why.
        error: AnswerError,
    },
}

impl KvError {
    /// Whether the operation may still be done, or was.
    pub fn may_commit(&self) -> bool {
        match self {
            Self::CompareFailed { .. } | Self::Refused(_) => false,
            Self::Session(error) => matches!(error, SessionError::Unknown { .. }),
            Self::ReplyForgotten { .. } | Self::Answer { .. } => true,
        }
    }
}

fn actual_text(actual: &u64) -> String {
    match actual {
        0 => "the key is not there".into(),
        actual => format!("the key was modified at revision {actual}"),
    }
}

impl Kv {
    /// Keys and values, written through `session` and read from `shards`, which belong to the machine that the
    /// session's replicator was opened with.
    pub fn new(session: Arc<Session>, shards: &Shards) -> Self {
        let reads = Applied::new(Arc::clone(session.replicator()), shards);
        Self::with_reads(session, Arc::new(reads))
    }

    /// Keys and values, written through `session` and read through `reads`, of the same cluster.
    pub fn with_reads(session: Arc<Session>, reads: Arc<dyn Reads>) -> Self {
        Self { session, reads }
    }

    /// The session behind it.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The reads alone.
    pub fn reads(&self) -> &Arc<dyn Reads> {
        &self.reads
    }

    /// Sets a key.
    ///
    /// # Errors
    ///
    /// [`KvError::CompareFailed`] if the condition does not hold; [`KvError::may_commit`] says of every other error
    /// whether the key may have been set.
    ///
    /// # Cancel safety
    ///
    /// As [`propose`](Self::propose).
    pub async fn put(
        &self,
        shard: &ShardKey,
        key: &[u8],
        value: &[u8],
        options: PutOptions<'_>,
    ) -> Result<PutDone, KvError> {
        let PutOptions { ttl_ms, condition, within } = options;
        let done = self.propose(shard, &Op::Put { key, value, ttl_ms, condition }, within).await?;
        let position = done.position;
        match done.reply {
            Reply::Put { revision, created } => Ok(PutDone { position, revision, created }),
            reply => Err(refused(position, reply)),
        }
    }

    /// Sets a key if it was modified last at `expected`; 0 means that it is not there.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    ///
    /// # Cancel safety
    ///
    /// As [`propose`](Self::propose).
    pub async fn compare_and_swap(
        &self,
        shard: &ShardKey,
        key: &[u8],
        expected: u64,
        value: &[u8],
    ) -> Result<PutDone, KvError> {
        let options = PutOptions::default().only_if(Condition::Revision(expected));
        self.put(shard, key, value, options).await
    }

    /// Removes a key. That it was not there is no error.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    ///
    /// # Cancel safety
    ///
    /// As [`propose`](Self::propose).
    pub async fn delete(
        &self,
        shard: &ShardKey,
        key: &[u8],
        options: DeleteOptions<'_>,
    ) -> Result<DeleteDone, KvError> {
        let DeleteOptions { condition, within } = options;
        let done = self.propose(shard, &Op::Delete { key, condition }, within).await?;
        let position = done.position;
        match done.reply {
            Reply::Deleted { revision, existed } => Ok(DeleteDone { position, revision, existed }),
            reply => Err(refused(position, reply)),
        }
    }

    /// Removes keys that begin with `prefix`, as many as one frame may; the answer says whether some are left.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    ///
    /// # Cancel safety
    ///
    /// As [`propose`](Self::propose).
    pub async fn delete_prefix(
        &self,
        shard: &ShardKey,
        prefix: &[u8],
        within: Duration,
    ) -> Result<DeletePrefixDone, KvError> {
        let op = Op::DeletePrefix { prefix, keys_max: DELETE_PREFIX_MAX };
        let done = self.propose(shard, &op, within).await?;
        let position = done.position;
        match done.reply {
            Reply::PrefixDeleted { revision, removed, more } => {
                Ok(DeletePrefixDone { position, revision, removed, more })
            }
            reply => Err(refused(position, reply)),
        }
    }

    /// Carries out a transaction; that its compares did not hold is no error.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    ///
    /// # Cancel safety
    ///
    /// As [`propose`](Self::propose).
    pub async fn transaction(
        &self,
        shard: &ShardKey,
        transaction: Transaction<'_>,
        within: Duration,
    ) -> Result<TransactionDone, KvError> {
        let done = self.propose(shard, &Op::Transaction(transaction), within).await?;
        let position = done.position;
        match done.reply {
            Reply::Transaction(reply) => Ok(TransactionDone { position, reply }),
            reply => Err(refused(position, reply)),
        }
    }

    /// Puts a registered version of the application's [rules](crate::Rules) in force in a namespace; 0: no rules. They judge the frames of
    /// the batches after this one.
    ///
    /// # Errors
    ///
    /// [`KvError::Session`] with [`Rejection::Refused`](quorate_replicator::Rejection::Refused) if the nodes have no such version.
    ///
    /// # Cancel safety
    ///
    /// As [`propose`](Self::propose).
    pub async fn set_rules(
        &self,
        shard: &ShardKey,
        version: u32,
        within: Duration,
    ) -> Result<RulesDone, KvError> {
        let commit = self.session.propose(shard, rules::encode(version), within).await?;
        let position = commit.position;
        let answer = commit.reply.bytes().ok_or(KvError::ReplyForgotten { position })?;
        let malformed = |error| KvError::Answer { position, error };
        let body = envelope::open_answer(answer).map_err(malformed)?.map_err(KvError::Refused)?;
        let revision = rules::read_answer(body).ok_or_else(|| malformed(AnswerError::Malformed))?;
        Ok(RulesDone { position, revision })
    }

    /// Proposes any operation and reads its answer, refusals of the shard among them.
    ///
    /// # Errors
    ///
    /// [`KvError::Refused`] here means that the operation was not even proposed.
    ///
    /// # Cancel safety
    ///
    /// As [`Session::propose`]: a dropped future leaves the outcome unknown.
    pub async fn propose(
        &self,
        shard: &ShardKey,
        op: &Op<'_>,
        within: Duration,
    ) -> Result<Committed, KvError> {
        op.check().map_err(KvError::Refused)?;
        read_commit(self.session.propose(shard, op.encode(), within).await?)
    }

    /// Learns what became of an operation whose outcome was unknown, and carries it out if nothing did.
    ///
    /// # Errors
    ///
    /// As [`propose`](Self::propose).
    ///
    /// # Cancel safety
    ///
    /// As [`Session::resume`].
    pub async fn resume(
        &self,
        attempt: quorate_replicator::Attempt,
        within: Duration,
    ) -> Result<Committed, KvError> {
        read_commit(self.session.resume(attempt, within).await?)
    }

    /// One key.
    ///
    /// # Errors
    ///
    /// Freshness could not be shown in time; here and below.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe, as all reads: it has no effect.
    pub async fn get(
        &self,
        shard: &ShardKey,
        key: &[u8],
        options: ReadOptions,
    ) -> Result<Got, KvReadError> {
        self.reads.get(shard, key, options).await
    }

    /// A page of keys, atomic and naming its revision.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn scan(
        &self,
        shard: &ShardKey,
        scan: &Scan,
        options: ReadOptions,
    ) -> Result<Page, KvReadError> {
        self.reads.scan(shard, scan, options).await
    }

    /// Changes of a namespace since a revision; see [`Local::changes`](crate::kv::Local::changes).
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn changes(
        &self,
        shard: &ShardKey,
        from: u64,
        prefix: &[u8],
        max: usize,
        options: ReadOptions,
    ) -> Result<Changes, KvReadError> {
        self.reads.changes(shard, from, prefix, max, options).await
    }

    /// Organisations after `after` in byte order, at most `max` and at most
    /// [`PAGE_KEYS_MAX`](crate::limits::PAGE_KEYS_MAX): those that have a namespace. There are more if it is so many.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn orgs(
        &self,
        after: Option<&str>,
        max: usize,
        options: OrgReadOptions,
    ) -> Result<Vec<String>, KvReadError> {
        self.reads.orgs(after, max, options).await
    }

    /// Namespaces of an organisation after `after` in byte order.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn namespaces(
        &self,
        org: &str,
        after: Option<&str>,
        max: usize,
        options: OrgReadOptions,
    ) -> Result<NamespacePage, KvReadError> {
        self.reads.namespaces(org, after, max, options).await
    }

    /// A page of keys over all namespaces of an organisation; see [`Local::scan_org`](crate::kv::Local::scan_org).
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn scan_org(
        &self,
        org: &str,
        scan: &Scan,
        options: OrgReadOptions,
    ) -> Result<OrgPage, KvReadError> {
        self.reads.scan_org(org, scan, options).await
    }

    /// The newest durable checkpoint of the group of `shard`, to read many pages of one moment.
    ///
    /// # Errors
    ///
    /// [`ReadError::NoCheckpoint`](quorate_replicator::ReadError::NoCheckpoint) if there is none.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn pinned(&self, shard: &ShardKey) -> Result<PinnedKv, KvReadError> {
        Ok(PinnedKv::new(self.session.replicator().pinned(shard).await?))
    }
}

fn read_commit(commit: Commit) -> Result<Committed, KvError> {
    let Commit { position, reply, .. } = commit;
    let answer = reply.bytes().ok_or(KvError::ReplyForgotten { position })?;
    let reply = Reply::decode(answer).map_err(|error| KvError::Answer { position, error })?;
    Ok(Committed { position, reply })
}

/// What a reply means that is not the one hoped for.
fn refused(position: Position, reply: Reply) -> KvError {
    match reply {
        Reply::CompareFailed { revision, actual } => KvError::CompareFailed { revision, actual },
        Reply::Refused(refusal) => KvError::Refused(refusal),
        _ => KvError::Answer { position, error: AnswerError::Malformed },
    }
}
