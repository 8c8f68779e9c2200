//! What an application calls: writes through a session, reads behind a barrier.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_replicator::{
    Commit, Consistency, Position, ReadError, Session, SessionError, ShardKey,
};

use crate::envelope::AnswerError;
use crate::kv::{
    Changes, Condition, Got, Local, NamespacePage, Op, OrgPage, Page, PinnedKv, Reply, Scan,
    Transaction, TransactionReply,
};
use crate::limits::DELETE_PREFIX_MAX;
use crate::{Refusal, Shards};

/// How long calls wait unless told otherwise.
const WITHIN: Duration = Duration::from_secs(2);

/// Keys and values of all namespaces, through one session. A clone shares the session.
///
/// Every method may be called from many tasks at once.
#[derive(Clone, Debug)]
pub struct Kv {
    session: Arc<Session>,
    local: Local,
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

/// How fresh a read of one namespace must be.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ReadOptions {
    /// Linearizable unless set.
    pub consistency: Consistency,
    /// The namespace must have reached this revision: read what another node was told. 0 asks for nothing.
    pub at_least: u64,
    /// How long to wait; two seconds unless set.
    pub within: Duration,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { consistency: Consistency::Linearizable, at_least: 0, within: WITHIN }
    }
}

impl ReadOptions {
    /// What this node has applied, at once.
    pub fn local() -> Self {
        Self::default().consistency(Consistency::Local)
    }

    /// Sets the consistency.
    #[must_use]
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    /// Sets the revision that must be reached.
    #[must_use]
    pub fn at_least(mut self, revision: u64) -> Self {
        self.at_least = revision;
        self
    }

    /// Sets how long to wait.
    #[must_use]
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }
}

/// How fresh a read over the namespaces of an organisation must be.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OrgReadOptions {
    /// Linearizable unless set: of every group.
    pub consistency: Consistency,
    /// These namespaces must have reached these revisions.
    pub at_least: Vec<(ShardKey, u64)>,
    /// How long to wait; two seconds unless set.
    pub within: Duration,
}

impl Default for OrgReadOptions {
    fn default() -> Self {
        Self { consistency: Consistency::Linearizable, at_least: Vec::new(), within: WITHIN }
    }
}

impl OrgReadOptions {
    /// What this node has applied, at once.
    pub fn local() -> Self {
        Self::default().consistency(Consistency::Local)
    }

    /// Sets the consistency.
    #[must_use]
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    /// Names a revision that a namespace must have reached.
    #[must_use]
    pub fn at_least(mut self, shard: ShardKey, revision: u64) -> Self {
        self.at_least.push((shard, revision));
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

/// Why a read was not served. It had no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KvReadError {
    /// This node could not serve it.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// No node has been told of the revision that was asked for.
    #[error(
        "shard {shard} is at revision {revision}, and revision {at_least} was asked for; is it of another cluster?"
    )]
    NotReached {
        /// Of which namespace.
        shard: ShardKey,
        /// What was asked for.
        at_least: u64,
        /// What it has reached, after a linearizable barrier.
        revision: u64,
    },
}

impl Kv {
    /// Keys and values, written through `session` and read from `shards`, which belong to the machine that the
    /// session's replicator was opened with.
    pub fn new(session: Arc<Session>, shards: Shards) -> Self {
        Self { session, local: shards.kv() }
    }

    /// The session behind it.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Reads of what this node has applied, without waiting.
    pub fn local(&self) -> &Local {
        &self.local
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
        self.refresh(shard, options).await?;
        Ok(self.local.get(shard, key)?)
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
        self.refresh(shard, options).await?;
        Ok(self.local.scan(shard, scan)?)
    }

    /// Changes of a namespace since a revision; see [`Local::changes`].
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
        self.refresh(shard, options).await?;
        Ok(self.local.changes(shard, from, prefix, max)?)
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
        self.refresh_org(org, options).await?;
        Ok(self.local.namespaces(org, after, max)?)
    }

    /// A page of keys over all namespaces of an organisation; see [`Local::scan_org`].
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
        self.refresh_org(org, options).await?;
        Ok(self.local.scan_org(org, scan)?)
    }

    /// The newest durable checkpoint of the group of `shard`, to read many pages of one moment.
    ///
    /// # Errors
    ///
    /// [`ReadError::NoCheckpoint`] if there is none.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn pinned(&self, shard: &ShardKey) -> Result<PinnedKv, KvReadError> {
        Ok(PinnedKv::new(self.session.replicator().pinned(shard).await?))
    }

    /// Waits until what is applied here is as fresh as asked for.
    async fn refresh(&self, shard: &ShardKey, options: ReadOptions) -> Result<(), KvReadError> {
        let ReadOptions { consistency, at_least, within } = options;
        let deadline = Instant::now() + within;
        if consistency != Consistency::Local {
            self.session.replicator().read_barrier(shard, consistency, within).await?;
        }
        self.reach(shard, at_least, deadline).await
    }

    /// Waits until the namespace has reached a revision.
    async fn reach(
        &self,
        shard: &ShardKey,
        at_least: u64,
        deadline: Instant,
    ) -> Result<(), KvReadError> {
        if self.local.revision(shard)? >= at_least {
            return Ok(());
        }
        // Whoever knows the revision was told of it, so it is there after a linearizable barrier. Waiting longer
        // would only help one who guesses.
        let left = deadline.saturating_duration_since(Instant::now());
        let replicator = self.session.replicator();
        replicator.read_barrier(shard, Consistency::Linearizable, left).await?;
        let revision = self.local.revision(shard)?;
        if revision < at_least {
            return Err(KvReadError::NotReached { shard: shard.clone(), at_least, revision });
        }
        Ok(())
    }

    /// As [`refresh`](Self::refresh), over all groups.
    async fn refresh_org(&self, org: &str, options: OrgReadOptions) -> Result<(), KvReadError> {
        let OrgReadOptions { consistency, at_least, within } = options;
        let deadline = Instant::now() + within;
        if consistency != Consistency::Local {
            for shard in self.one_shard_of_each_group(org) {
                let left = deadline.saturating_duration_since(Instant::now());
                self.session.replicator().read_barrier(&shard, consistency, left).await?;
            }
        }
        for (shard, revision) in &at_least {
            self.reach(shard, *revision, deadline).await?;
        }
        Ok(())
    }

    /// Names that between them belong to every group: namespaces of an organisation may be in any of them, and a
    /// barrier is of one group. None if `org` can be no name, which then has no namespaces to be fresh.
    fn one_shard_of_each_group(&self, org: &str) -> Vec<ShardKey> {
        let replicator = self.session.replicator();
        let mut wanted = replicator.status().groups.len().max(1);
        let mut seen = BTreeSet::new();
        let mut shards = Vec::new();
        // Groups are spread over slots by a hash of the name, so a few names for each are enough.
        for number in 0..GROUP_PROBES_MAX {
            let Ok(shard) = ShardKey::new(org, &number.to_string()) else {
                return Vec::new();
            };
            if seen.insert(replicator.group(&shard)) {
                shards.push(shard);
                wanted -= 1;
                if wanted == 0 {
                    break;
                }
            }
        }
        shards
    }
}

/// Names tried to find one of each group: many times the number of slots that groups share.
const GROUP_PROBES_MAX: u32 = 1 << 16;

fn read_commit(commit: Commit) -> Result<Committed, KvError> {
    let Commit { position, reply } = commit;
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
