//! What this node signs with, and which signatures it has found to hold.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use quorate_certificate::{ChainId, PublicKey, Signature, SigningKey};

/// Most signatures that are remembered; a height of few rounds has a few for each validator.
const VERIFIED_MAX: usize = 16 << 10;

/// What this node signs with, and which signatures it has found to hold: the core asks for the same ones several times.
pub(crate) struct Keys {
    chain: ChainId,
    /// What it signs with now.
    key: Arc<SigningKey>,
    /// All keys that it has.
    all: Vec<Arc<SigningKey>>,
    /// Hashes of messages with their signatures and keys.
    verified: HashSet<[u8; 32]>,
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
        Self { chain, key, all, verified: HashSet::new(), trusting: false, fault: None }
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

    /// Signs; none if that failed, which [`fault`](Self::fault) then says.
    pub(crate) fn sign(&mut self, message: &[u8]) -> Option<Signature> {
        match self.key.sign(message) {
            Ok(signature) => {
                self.remember(fingerprint(self.key.public(), message, &signature));
                Some(signature)
            }
            Err(error) => {
                self.fault = Some(error.to_string());
                None
            }
        }
    }

    pub(crate) fn verify(
        &mut self,
        key: &PublicKey,
        message: &[u8],
        signature: &Signature,
    ) -> bool {
        if self.trusting {
            return true;
        }
        let fingerprint = fingerprint(key, message, signature);
        if self.verified.contains(&fingerprint) {
            return true;
        }
        let holds = key.verify(message, signature);
        if holds {
            self.remember(fingerprint);
        }
        holds
    }

    fn remember(&mut self, fingerprint: [u8; 32]) {
        if self.verified.len() >= VERIFIED_MAX {
            self.verified.clear();
        }
        self.verified.insert(fingerprint);
    }

    /// Signatures of a height that is decided are asked for no more.
    pub(crate) fn forget(&mut self) {
        self.verified.clear();
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
