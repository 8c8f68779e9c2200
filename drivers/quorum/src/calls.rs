//! Whether frames are signed by those who propose them, where the genesis wants that.
//!
//! It is looked at where frames come in, and never on the thread that runs the engine: what a caller proposes on its own, what another node
//! forwards and what is proposed for a height where the packet arrives. What is decided was voted for by a quorum, and is not looked at again.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use quorate_certificate::{
    CallFrame, CallHead, CallKey, CallProblem, ChainId, Genesis, verify_calls,
};
use quorate_engine::DecodedBatch;
use quorate_replicator::{CallSignature, Frame, GroupId, LogTime, SessionId, Signer};

use crate::keys::Looked;

/// Verifies calls.
#[derive(Debug)]
pub(crate) struct Calls {
    /// None where frames are not signed.
    genesis: Option<Genesis>,
    chain: ChainId,
    looked: Arc<Looked>,
}

impl Calls {
    pub(crate) fn new(genesis: &Genesis, group: u32, looked: Arc<Looked>) -> Self {
        let chain = genesis.chain(group);
        let genesis = genesis.signed_frames().then(|| genesis.clone());
        Self { genesis, chain, looked }
    }

    pub(crate) const fn are_signed(&self) -> bool {
        self.genesis.is_some()
    }

    /// Whether all calls of a batch hold. It is looked at once, whoever asks.
    pub(crate) fn hold(&self, batch: &Bytes) -> bool {
        if self.genesis.is_none() {
            return true;
        }
        let mut hasher = blake3::Hasher::new_derive_key("quorate 1 calls looked at");
        let fingerprint = *hasher.update(batch).finalize().as_bytes();
        self.looked.judge(fingerprint, || {
            DecodedBatch::decode(batch).is_ok_and(|batch| self.admits(&batch.frames).is_ok())
        })
    }

    /// Whether these frames are whole calls, each signed by the one whom its session names.
    ///
    /// # Errors
    ///
    /// What is wrong, for who proposes them.
    pub(crate) fn admits(&self, frames: &[Frame]) -> Result<(), String> {
        let Some(genesis) = &self.genesis else { return Ok(()) };
        let listed: Vec<_> =
            frames.iter().map(|frame| (head_of(frame), call_frame(frame))).collect();
        verify_calls(&self.chain, genesis.validators().scheme(), &listed).map_err(|error| {
            let id = frames.get(error.slot).map_or_else(String::new, |frame| format!("{}: ", frame.id));
            let problem = error.problem;
            match problem {
                CallProblem::Unsigned | CallProblem::Session => format!(
                    "{id}{problem}; a Session signs what it proposes, at a client whose genesis_file names the genesis, too; who numbers frames by hand takes the session of Replicator::signer"
                ),
                _ => format!("{id}{problem}"),
            }
        })
    }

    /// A new key for who proposes, where frames are signed.
    pub(crate) fn signer(&self, groups: u32) -> io::Result<Option<Signer>> {
        let Some(genesis) = &self.genesis else { return Ok(None) };
        let key = CallKey::generate(genesis).map_err(io::Error::other)?;
        Ok(Some(signer(key, groups)))
    }
}

/// What signs with a key, in a cluster of so many groups.
pub(crate) fn signer(key: CallKey, groups: u32) -> Signer {
    let session = SessionId::new(key.session());
    let sign = move |group: GroupId, frames: &[&Frame]| {
        let calls = frames.iter().map(|frame| call_frame(frame));
        let signature = key.sign(group.number(), calls).map_err(io::Error::other)?;
        Ok(CallSignature {
            frames: u32::try_from(frames.len()).map_err(io::Error::other)?,
            key: Bytes::copy_from_slice(key.public().as_bytes()),
            signature: Bytes::copy_from_slice(signature.as_bytes()),
        })
    };
    Signer::new(session, groups, sign)
}

fn head_of(frame: &Frame) -> Option<CallHead<'_>> {
    let CallSignature { frames, key, signature } = frame.signed.as_deref()?;
    Some(CallHead { frames: *frames, key, signature })
}

fn call_frame(frame: &Frame) -> CallFrame<'_> {
    CallFrame {
        session: frame.id.session.as_bytes(),
        serial: frame.id.serial,
        settled: frame.settled,
        shard: frame.shard.as_str(),
        payload: &frame.payload,
        valid_until_ms: frame.valid_until.map(LogTime::as_ms),
    }
}
