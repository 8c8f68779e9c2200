//! What clients sign with, where frames are signed: a key for each session, the same in every life of a seed.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use quorate_certificate::{CallKey, Genesis, Scheme, SigningKey};
use quorate_driver_quorum::simulation;
use quorate_replicator::{Frame, SessionId, Signer};

/// The keys of all sessions of a life.
#[derive(Debug)]
pub(crate) struct CallKeys {
    genesis: Genesis,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// By what the session is called here.
    sessions: HashMap<[u8; 16], SessionId>,
    signers: HashMap<SessionId, Signer>,
}

impl CallKeys {
    /// For a genesis of scheme Ed25519, whose signatures are the same each time.
    pub(crate) fn new(genesis: Genesis) -> Self {
        assert_eq!(genesis.validators().scheme(), Scheme::Ed25519);
        Self { genesis, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session that goes by this name.
    pub(crate) fn session(&self, name: [u8; 16]) -> SessionId {
        let mut known = self.known();
        if let Some(session) = known.sessions.get(&name) {
            return *session;
        }
        let key = SigningKey::from_bytes(&[&[1][..], &name, &name].concat()).expect("it is a key");
        let signer = simulation::signer(CallKey::of(&self.genesis, key));
        let session = signer.session();
        known.sessions.insert(name, session);
        known.signers.insert(session, signer);
        session
    }

    /// Signs a call. All of its frames are of one session.
    pub(crate) fn sign(&self, frames: &mut [Frame]) {
        let Some(session) = frames.first().map(|frame| frame.id.session) else { return };
        let known = self.known();
        let signer = known.signers.get(&session).expect("all sessions are named here");
        signer.sign(frames).expect("ed25519 draws no randomness");
    }
}
