//! Reads as fresh as asked for, wherever the state is.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use quorate_replicator::{Consistency, ReadError, Replicator, ReplicatorExt, ShardKey};
use serde::{Deserialize, Serialize};

use crate::Shards;
use crate::kv::{Changes, Got, Local, NamespacePage, OrgPage, Page, Scan};
use crate::limits::PAGE_KEYS_MAX;

/// How long calls wait unless told otherwise.
pub(crate) const WITHIN: Duration = Duration::from_secs(2);

/// How fresh a read of one namespace must be.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Serialize, Deserialize)]
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

/// Why a read was not served. It had no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
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

/// The reads of a [`Kv`](crate::Kv): of the state in this process, or of a node that is another process. Each is described at the
/// method of the same name of [`Kv`](crate::Kv).
///
/// # Errors
///
/// Freshness could not be shown in time; nothing has an effect.
///
/// # Cancel safety
///
/// All are cancel safe.
#[async_trait]
#[allow(missing_docs, reason = "the methods are described where they are called")]
pub trait Reads: fmt::Debug + Send + Sync + 'static {
    async fn get(
        &self,
        shard: &ShardKey,
        key: &[u8],
        options: ReadOptions,
    ) -> Result<Got, KvReadError>;

    async fn scan(
        &self,
        shard: &ShardKey,
        scan: &Scan,
        options: ReadOptions,
    ) -> Result<Page, KvReadError>;

    async fn changes(
        &self,
        shard: &ShardKey,
        from: u64,
        prefix: &[u8],
        max: usize,
        options: ReadOptions,
    ) -> Result<Changes, KvReadError>;

    async fn orgs(
        &self,
        after: Option<&str>,
        max: usize,
        options: OrgReadOptions,
    ) -> Result<Vec<String>, KvReadError>;

    async fn namespaces(
        &self,
        org: &str,
        after: Option<&str>,
        max: usize,
        options: OrgReadOptions,
    ) -> Result<NamespacePage, KvReadError>;

    async fn scan_org(
        &self,
        org: &str,
        scan: &Scan,
        options: OrgReadOptions,
    ) -> Result<OrgPage, KvReadError>;
}

/// Reads of what is applied in this process, behind barriers of its replicator.
#[derive(Clone, Debug)]
pub struct Applied {
    replicator: Arc<dyn Replicator>,
    local: Local,
}

#[async_trait]
impl Reads for Applied {
    async fn get(
        &self,
        shard: &ShardKey,
        key: &[u8],
        options: ReadOptions,
    ) -> Result<Got, KvReadError> {
        self.refresh(shard, options).await?;
        Ok(self.local.get(shard, key)?)
    }

    async fn scan(
        &self,
        shard: &ShardKey,
        scan: &Scan,
        options: ReadOptions,
    ) -> Result<Page, KvReadError> {
        self.refresh(shard, options).await?;
        Ok(self.local.scan(shard, scan)?)
    }

    async fn changes(
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

    async fn orgs(
        &self,
        after: Option<&str>,
        max: usize,
        options: OrgReadOptions,
    ) -> Result<Vec<String>, KvReadError> {
        self.refresh_all(options).await?;
        Ok(self.local.orgs(after, max.clamp(1, PAGE_KEYS_MAX)))
    }

    async fn namespaces(
        &self,
        org: &str,
        after: Option<&str>,
        max: usize,
        options: OrgReadOptions,
    ) -> Result<NamespacePage, KvReadError> {
        self.refresh_all(options).await?;
        Ok(self.local.namespaces(org, after, max)?)
    }

    async fn scan_org(
        &self,
        org: &str,
        scan: &Scan,
        options: OrgReadOptions,
    ) -> Result<OrgPage, KvReadError> {
        self.refresh_all(options).await?;
        Ok(self.local.scan_org(org, scan)?)
    }
}

impl Applied {
    /// Reads of `shards`, which belong to the machine that `replicator` was opened with.
    pub fn new(replicator: Arc<dyn Replicator>, shards: &Shards) -> Self {
        Self { replicator, local: shards.kv() }
    }

    /// Waits until what is applied here is as fresh as asked for.
    async fn refresh(&self, shard: &ShardKey, options: ReadOptions) -> Result<(), KvReadError> {
        let ReadOptions { consistency, at_least, within } = options;
        let deadline = Instant::now() + within;
        if consistency != Consistency::Local {
            self.replicator.read_barrier(shard, consistency, within).await?;
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
        let replicator = &self.replicator;
        replicator.read_barrier(shard, Consistency::Linearizable, left).await?;
        let revision = self.local.revision(shard)?;
        if revision < at_least {
            return Err(KvReadError::NotReached { shard: shard.clone(), at_least, revision });
        }
        Ok(())
    }

    /// As [`refresh`](Self::refresh), over all groups. `org` is any name to find them by.
    async fn refresh_all(&self, options: OrgReadOptions) -> Result<(), KvReadError> {
        let OrgReadOptions { consistency, at_least, within } = options;
        let deadline = Instant::now() + within;
        if consistency != Consistency::Local {
            // Namespaces of an organisation may be in any group, and a barrier is of one.
            for shard in self.replicator.shard_of_each_group() {
                let left = deadline.saturating_duration_since(Instant::now());
                self.replicator.read_barrier(&shard, consistency, left).await?;
            }
        }
        for (shard, revision) in &at_least {
            self.reach(shard, *revision, deadline).await?;
        }
        Ok(())
    }
}
