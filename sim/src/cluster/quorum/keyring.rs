//! What validators sign with: each has a key, perhaps a next one, and those that it had before.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_certificate::{Genesis, PublicKey, Scheme, SigningKey, ValidatorSet};
use quorate_driver_quorum::Setup;
use quorate_replicator::NodeId;

/// The number of the first key that an operator makes; those before are of the beginning.
const MADE: u64 = 100;

/// The key of a number, as it is written into files.
pub(super) fn secret(scheme: Scheme, number: u64) -> Vec<u8> {
    let mut seed = vec![number as u8; 32];
    seed[31] ^= (number >> 8) as u8;
    let code = match scheme {
        Scheme::Ed25519 => 1,
        Scheme::MlDsa65 => 2,
        Scheme::Hybrid => 3,
    };
    let both = if scheme == Scheme::Hybrid { vec![seed.clone(), seed] } else { vec![seed] };
    [vec![code], both.concat()].concat()
}

pub(super) fn key(scheme: Scheme, number: u64) -> Arc<SigningKey> {
    Arc::new(SigningKey::from_bytes(&secret(scheme, number)).expect("it is a key"))
}

/// The keys of all nodes, which their operators and they themselves look at.
#[derive(Clone, Debug)]
pub(in crate::cluster) struct Keyring(Arc<Mutex<Keys>>);

#[derive(Debug)]
struct Keys {
    genesis: Genesis,
    own: BTreeMap<NodeId, Own>,
    made: u64,
}

/// What is in a node's files, and what was.
#[derive(Debug)]
struct Own {
    key: Arc<SigningKey>,
    next: Option<Arc<SigningKey>>,
    before: Vec<Arc<SigningKey>>,
}

impl Own {
    fn all(&self) -> impl Iterator<Item = &Arc<SigningKey>> {
        [&self.key].into_iter().chain(&self.next).chain(&self.before)
    }
}

impl Keyring {
    pub(super) fn new(
        genesis: Genesis,
        keys: impl Iterator<Item = (NodeId, Arc<SigningKey>)>,
    ) -> Self {
        let own = keys.map(|(node, key)| (node, Own { key, next: None, before: Vec::new() }));
        Self(Arc::new(Mutex::new(Keys { genesis, own: own.collect(), made: MADE })))
    }

    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The files that a node begins a life with.
    pub(super) fn setup(&self, node: NodeId) -> Option<Setup> {
        let keys = self.lock();
        let own = keys.own.get(&node)?;
        let mut setup = Setup::new(keys.genesis.clone(), Arc::clone(&own.key));
        // A key that is none of the beginning is beside itself, so that a node with an empty disk follows until it knows of it.
        let known = keys.genesis.validators().get(node.number());
        let is_changed = known.is_some_and(|known| known.key != *own.key.public());
        let also = is_changed.then(|| Arc::clone(&own.key));
        setup.next_key = own.next.clone().or(also);
        Some(setup)
    }

    /// The key of a node that others know by `public`, if it has or had it.
    pub(in crate::cluster) fn of(
        &self,
        node: NodeId,
        public: &PublicKey,
    ) -> Option<Arc<SigningKey>> {
        let keys = self.lock();
        keys.own.get(&node)?.all().find(|key| key.public() == public).cloned()
    }

    /// A key of a node by which these validators do not know it.
    pub(in crate::cluster) fn outdated(
        &self,
        node: NodeId,
        validators: &ValidatorSet,
    ) -> Option<Arc<SigningKey>> {
        let known = validators.get(node.number()).map(|known| &known.key);
        let keys = self.lock();
        let own = keys.own.get(&node)?;
        own.all().find(|key| Some(key.public()) != known).cloned()
    }

    /// The key that a validator is to have next; none while its files are not in order for another one: it may still need the
    /// one before. `has_followed`: its node is where it does not.
    pub(in crate::cluster) fn next(
        &self,
        node: NodeId,
        validators: &ValidatorSet,
        scheme: Scheme,
        has_followed: bool,
    ) -> Option<(Arc<SigningKey>, Arc<SigningKey>)> {
        let mut keys = self.lock();
        let Keys { own, made, .. } = &mut *keys;
        let own = own.get_mut(&node)?;
        let known = &validators.get(node.number())?.key;
        if own.next.as_ref().is_some_and(|next| next.public() == known) {
            if !has_followed {
                return None;
            }
            // The next key takes the place of the one before.
            let next = own.next.take()?;
            own.before.push(std::mem::replace(&mut own.key, next));
        }
        if own.key.public() != known {
            return None;
        }
        // One that was made in this epoch may still be decided.
        match &own.next {
            Some(next) if next.scheme() != scheme => return None,
            Some(_) => {}
            None => {
                *made += 1;
                own.next = Some(key(scheme, *made));
            }
        }
        Some((Arc::clone(&own.key), own.next.clone()?))
    }

    /// The key with which a node becomes a validator, and whether its files have changed for that.
    pub(in crate::cluster) fn fresh(
        &self,
        node: NodeId,
        scheme: Scheme,
    ) -> Option<(Arc<SigningKey>, bool)> {
        let mut keys = self.lock();
        let Keys { own, made, .. } = &mut *keys;
        let own = own.get_mut(&node)?;
        let had = own.before.len();
        if let Some(next) = own.next.take() {
            own.before.push(std::mem::replace(&mut own.key, next));
        }
        if own.key.scheme() != scheme {
            *made += 1;
            own.before.push(std::mem::replace(&mut own.key, key(scheme, *made)));
        }
        Some((Arc::clone(&own.key), own.before.len() > had))
    }

    /// Other validators are in force: what was made for those before, and not used, is of no use any more.
    pub(in crate::cluster) fn forget_unused(&self, validators: &ValidatorSet) {
        for (node, own) in &mut self.lock().own {
            let known = validators.get(node.number()).map(|known| &known.key);
            if known.is_some_and(|known| known == own.key.public()) {
                own.next = None;
            }
        }
    }
}
