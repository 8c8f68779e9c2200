//! What this node signs with, and which signatures it has found to hold.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_certificate::{ChainId, PublicKey, Signature, SigningKey};

/// Most signatures of which it is remembered whether they hold, twice; a height of few rounds has a few for each validator.
const LOOKED_MAX: usize = 16 << 10;

/// Signatures that were looked at, and whether they hold: the core asks for the same ones several times, and most are looked at where
/// they arrive. A signature holds or does not, whoever asks and when.
#[derive(Debug, Default)]
pub(crate) struct Looked(Mutex<Generations>);

/// Hashes of messages with their signatures and keys. What is old goes as a whole.
#[derive(Debug, Default)]
struct Generations {
    recent: HashMap<[u8; 32], bool>,
    before: HashMap<[u8; 32], bool>,
}

impl Generations {
    fn turn(&mut self) {
        self.before = std::mem::take(&mut self.recent);
    }
}

impl Looked {
    /// Whether a signature holds.
    pub(crate) fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        self.judge(fingerprint(key, message, signature), || key.verify(message, signature))
    }

    /// Whether what has this fingerprint holds, which `find` finds out if nobody has looked at it yet.
    pub(crate) fn judge(&self, fingerprint: [u8; 32], find: impl FnOnce() -> bool) -> bool {
        {
            let looked = self.lock();
            let known = looked.recent.get(&fingerprint).or_else(|| looked.before.get(&fingerprint));
            if let Some(holds) = known {
                return *holds;
            }
        }
        // Two threads may look at the same one; they find the same.
        let holds = find();
        self.note(fingerprint, holds);
        holds
    }

    fn note(&self, fingerprint: [u8; 32], holds: bool) {
        let mut looked = self.lock();
        if looked.recent.len() >= LOOKED_MAX {
            looked.turn();
        }
        looked.recent.insert(fingerprint, holds);
    }

    /// How many are remembered.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        let looked = self.lock();
        looked.recent.len() + looked.before.len()
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What this node signs with, and which signatures were looked at.
pub(crate) struct Keys {
    chain: ChainId,
    /// What it signs with now.
    key: Arc<SigningKey>,
    /// All keys that it has.
    all: Vec<Arc<SigningKey>>,
    looked: Arc<Looked>,
    /// What is read from this node's own journal was verified before it was written.
    trusting: bool,
    fault: Option<String>,
}

impl Keys {
    pub(crate) fn new(
        chain: ChainId,
        key: Arc<SigningKey>,
        next_key: Option<Arc<SigningKey>>,
    ) -> Self {
        let all = [Some(Arc::clone(&key)), next_key].into_iter().flatten().collect();
        Self { chain, key, all, looked: Arc::default(), trusting: false, fault: None }
    }

    /// The key to sign with for whom the validators know by `public`; none if this node does not have it.
    pub(crate) fn of(&self, public: &PublicKey) -> Option<&Arc<SigningKey>> {
        self.all.iter().find(|key| key.public() == public)
    }

    /// Signs from now on as the one whom the validators know by `public`.
    pub(crate) fn sign_as(&mut self, public: &PublicKey) {
        if let Some(key) = self.of(public) {
            self.key = Arc::clone(key);
        }
    }

    pub(crate) const fn chain(&self) -> &ChainId {
        &self.chain
    }

    /// What was looked at, for who looks ahead.
    pub(crate) const fn looked(&self) -> &Arc<Looked> {
        &self.looked
    }

    /// Signs; none if that failed, which [`fault`](Self::fault) then says.
    pub(crate) fn sign(&mut self, message: &[u8]) -> Option<Signature> {
        match self.key.sign(message) {
            Ok(signature) => {
                self.looked.note(fingerprint(self.key.public(), message, &signature), true);
                Some(signature)
            }
            Err(error) => {
                self.fault = Some(error.to_string());
                None
            }
        }
    }

    pub(crate) fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        self.trusting || self.looked.verify(key, message, signature)
    }

    /// Signatures of a height that is decided are asked for no more; those of the next one may be here already.
    pub(crate) fn forget(&self) {
        self.looked.lock().turn();
    }

    /// Takes signatures for good while this node reads its own journal.
    pub(crate) fn trust(&mut self, trusting: bool) {
        self.trusting = trusting;
    }

    pub(crate) fn fault(&mut self) -> Option<String> {
        self.fault.take()
    }
}

fn fingerprint(key: &PublicKey, message: &[u8], signature: &Signature) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    // The message has a fixed length for its kind, which it begins with.
    hasher.update(&key.fingerprint()).update(message).update(signature.as_bytes());
    *hasher.finalize().as_bytes()
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("key", &self.key).finish_non_exhaustive()
    }
}
