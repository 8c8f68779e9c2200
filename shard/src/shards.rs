//! All shards of a machine: how they are found, listed and read.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use dashmap::DashMap;
use quorate_replicator::limits::NAMESPACE_BYTES_MAX;
use quorate_replicator::{GroupId, NameError, ReadError, ShardKey};

use crate::context::Core;
use crate::layout::TABLE_MAX;
use crate::rules::{RuleBook, Rules};
use crate::shard::{Shard, ShardView};
use crate::{Extension, Limits, ShardMachine, kv};

/// The shards of one machine, to be read. A clone is another handle to the same shards.
///
/// Reads here see what this node has applied, however old: [`Kv`](crate::Kv) waits for a barrier first.
#[derive(Clone)]
pub struct Shards {
    /// Of each group. Each is replaced as a whole when a checkpoint is restored, so that no reader sees half of one.
    worlds: Arc<RwLock<Vec<Arc<World>>>>,
}

impl Shards {
    /// Begins a machine with the [KV](crate::kv) in it.
    pub fn builder() -> ShardsBuilder {
        ShardsBuilder {
            extensions: vec![Arc::new(kv::KvExtension)],
            rules: RuleBook::default(),
            limits: Limits::default(),
        }
    }

    /// Reads one shard at one moment between two operations; none if nothing ever changed it. Frames of the shard
    /// wait until `read` returns.
    ///
    /// # Errors
    ///
    /// [`ReadError::Faulted`] if the machine stopped in the middle of an operation.
    pub fn read<T>(
        &self,
        shard: &ShardKey,
        read: impl FnOnce(ShardView<'_>) -> T,
    ) -> Result<Option<T>, ReadError> {
        // The handle is cloned out of the map, so no lock of the map is held while the shard is read.
        let Some(shard) = self.world_of(shard).shard(shard) else {
            return Ok(None);
        };
        let state = shard.state.read().map_err(|_| ReadError::Faulted {
            cause: format!(
                "applying a frame of shard {} panicked; restart the node, and report this",
                shard.key()
            ),
        })?;
        Ok(Some(read(ShardView { state: &state })))
    }

    /// Namespaces of an organisation after `after` in byte order, at most `max`. A namespace is there once something
    /// has changed it, and stays when its last key is gone, since its revision must never begin anew.
    pub fn namespaces(&self, org: &str, after: Option<&str>, max: usize) -> Vec<ShardKey> {
        let mut all: Vec<_> =
            self.worlds().iter().flat_map(|world| world.namespaces(org, after, max)).collect();
        all.sort_unstable();
        all.truncate(max);
        all
    }

    /// Organisations after `after` in byte order, at most `max`: those that have a namespace.
    pub fn orgs(&self, after: Option<&str>, max: usize) -> Vec<String> {
        let mut all: Vec<_> =
            self.worlds().iter().flat_map(|world| world.orgs(after, max)).collect();
        all.sort_unstable();
        all.dedup();
        all.truncate(max);
        all
    }

    /// How many namespaces there are.
    pub fn count(&self) -> usize {
        self.worlds().iter().map(|world| world.len()).sum()
    }

    /// What all shards together are charged, in bytes, after the last batch.
    pub fn state_bytes(&self) -> u64 {
        self.worlds().iter().map(|world| world.bytes.load(Ordering::Relaxed)).sum()
    }

    /// Adds the world of the next group, and answers its place.
    pub(crate) fn add(&self, world: Arc<World>) -> usize {
        let mut worlds = self.worlds.write().unwrap_or_else(PoisonError::into_inner);
        worlds.push(world);
        worlds.len() - 1
    }

    pub(crate) fn replace(&self, place: usize, world: Arc<World>) {
        self.worlds.write().unwrap_or_else(PoisonError::into_inner)[place] = world;
    }

    fn worlds(&self) -> Vec<Arc<World>> {
        self.worlds.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn world_of(&self, shard: &ShardKey) -> Arc<World> {
        let worlds = self.worlds.read().unwrap_or_else(PoisonError::into_inner);
        let groups = u32::try_from(worlds.len()).expect("groups are counted in 32 bits");
        Arc::clone(&worlds[GroupId::of(shard, groups).number() as usize])
    }
}

impl fmt::Debug for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shards").field("namespaces", &self.count()).finish_non_exhaustive()
    }
}

/// Puts a machine together.
#[derive(Debug)]
pub struct ShardsBuilder {
    extensions: Vec<Arc<dyn Extension>>,
    rules: RuleBook,
    limits: Limits,
}

impl ShardsBuilder {
    /// Plugs in a service.
    #[must_use]
    pub fn extension(mut self, extension: impl Extension) -> Self {
        self.extensions.push(Arc::new(extension));
        self
    }

    /// Registers rules under a version, to be put in force in a namespace by [`Kv::set_rules`](crate::Kv::set_rules).
    ///
    /// # Panics
    ///
    /// If the version is 0 or taken: a mistake in the program.
    #[must_use]
    pub fn rules(mut self, version: u32, rules: impl Rules) -> Self {
        self.rules.add(version, rules);
        self
    }

    /// Sets the limits; every node of the group must have the same.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Changes one of the limits: `.limit(|limits| limits.changes_max = 64)`.
    #[must_use]
    pub fn limit(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.limits);
        self
    }

    /// The machine, to be given to a driver, and the handle that reads it.
    ///
    /// # Panics
    ///
    /// If two extensions share a kind or a table, or have a table that is not theirs to take: a mistake in the
    /// program.
    pub fn build(mut self) -> (ShardMachine, Shards) {
        self.extensions.push(Arc::new(self.rules.clone()));
        let extensions = Arc::new(Extensions::new(self.extensions, self.rules));
        let shards = Shards { worlds: Arc::default() };
        (ShardMachine::new(shards.clone(), Core::new(self.limits), extensions), shards)
    }
}

/// Extensions by their kinds and tables.
#[derive(Debug)]
pub(crate) struct Extensions {
    list: Vec<Arc<dyn Extension>>,
    pub(crate) rules: RuleBook,
}

impl Extensions {
    fn new(list: Vec<Arc<dyn Extension>>, rules: RuleBook) -> Self {
        for (place, one) in list.iter().enumerate() {
            assert!(!one.kinds().is_empty(), "{} has no kind of operation", one.name());
            for table in one.tables() {
                assert!(
                    (1..=TABLE_MAX).contains(&table.number),
                    "{} has table {}; tables are 1 to {TABLE_MAX}",
                    one.name(),
                    table.number
                );
            }
            for other in &list[place + 1..] {
                let apart = one.kinds().end() < other.kinds().start()
                    || other.kinds().end() < one.kinds().start();
                assert!(apart, "{} and {} share a kind of operation", one.name(), other.name());
                let shared = one
                    .tables()
                    .iter()
                    .find(|table| other.tables().iter().any(|other| other.number == table.number));
                assert!(shared.is_none(), "{} and {} share a table", one.name(), other.name());
            }
        }
        Self { list, rules }
    }

    pub(crate) fn of_kind(&self, kind: u16) -> Option<&dyn Extension> {
        self.list.iter().map(AsRef::as_ref).find(|extension| extension.kinds().contains(&kind))
    }

    pub(crate) fn of_table(&self, table: u8) -> Option<&dyn Extension> {
        let list = self.list.iter().map(AsRef::as_ref);
        list.into_iter().find(|own| own.tables().iter().any(|own| own.number == table))
    }
}

/// The shards that a machine has, between two restores.
pub(crate) struct World {
    /// Finds a shard. Never iterated: that would hold its locks while frames are applied.
    shards: DashMap<ShardKey, Arc<Shard>>,
    /// The same names in order.
    names: RwLock<BTreeSet<ShardKey>>,
    bytes: AtomicU64,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            shards: DashMap::new(),
            names: RwLock::new(BTreeSet::new()),
            bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn shard(&self, key: &ShardKey) -> Option<Arc<Shard>> {
        self.shards.get(key).map(|shard| Arc::clone(&shard))
    }

    pub(crate) fn insert(&self, shard: Arc<Shard>) {
        let key = shard.key().clone();
        let before = self.shards.insert(key.clone(), shard);
        assert!(before.is_none(), "shard {key} is made once");
        self.names.write().unwrap_or_else(PoisonError::into_inner).insert(key);
    }

    pub(crate) fn len(&self) -> usize {
        self.names.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn set_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    fn namespaces(&self, org: &str, after: Option<&str>, max: usize) -> Vec<ShardKey> {
        // "!" is the least byte that a name can hold and a name cannot begin with a space, so this is before all.
        let from = match after {
            None => ShardKey::new(org, "!").map(Bound::Included),
            Some(after) => ShardKey::new(org, after).map(Bound::Excluded),
        };
        // What cannot be a name has no namespaces.
        let Ok(from) = from else {
            return Vec::new();
        };
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names
            .range((from, Bound::Unbounded))
            .take_while(|key| key.org() == org)
            .take(max)
            .cloned()
            .collect()
    }

    fn orgs(&self, after: Option<&str>, max: usize) -> Vec<String> {
        let mut from = match after.map(last_of) {
            None => Bound::Unbounded,
            Some(Ok(last)) => Bound::Excluded(last),
            // As for namespaces: nothing comes after what cannot be a name.
            Some(Err(_)) => return Vec::new(),
        };
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let mut orgs = Vec::new();
        // One step for each organisation, however many namespaces it has.
        while orgs.len() < max
            && let Some(first) = names.range((from, Bound::Unbounded)).next()
        {
            orgs.push(first.org().to_owned());
            from = Bound::Excluded(last_of(first.org()).expect("it is the name of a shard"));
        }
        orgs
    }
}

/// The last key that an organisation can have: no name is greater than one of the greatest characters only.
fn last_of(org: &str) -> Result<ShardKey, NameError> {
    let greatest = char::MAX.to_string();
    ShardKey::new(org, &greatest.repeat(NAMESPACE_BYTES_MAX / greatest.len()))
}
