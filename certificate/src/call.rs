//! What proposers sign, where the genesis wants frames signed: calls, each a run of frames of one session.
//!
//! ```text
//!   key --names--> session          signature: of (chain, session, how many, hash of all frames of the call in their order)
//! ```
//!
//! 1. Who has no key of a session can put no frame into it, change none, move none to another shard, and settle nothing.
//! 2. A call holds as a whole: one frame less, more, or in another place is another call.
//! 3. A session that was forgotten is not protected from those who have kept all of its frames: its opening has to become too late first.

use std::fmt;

use crate::body::calls_of;
use crate::codec::{Writer, hash};
use crate::genesis::{ChainId, Genesis};
use crate::key::{PublicKey, Signature, SigningError, SigningKey};
use crate::scheme::Scheme;

/// What no signature of another kind begins with.
const CALL: &[u8; 16] = b"quorate.call.001";

/// Most calls in one batch: each validator verifies all of them before it votes, and the others wait for that.
pub const CALLS_MAX: usize = 1024;

/// What is signed of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct CallFrame<'a> {
    /// The session that numbered it.
    pub session: &'a [u8; 16],
    /// Its number there.
    pub serial: u64,
    /// Below which serial its proposer has all answers.
    pub settled: u64,
    /// The shard that it is for, as `org/namespace`.
    pub shard: &'a str,
    /// What it says.
    pub payload: &'a [u8],
    /// The log time, in milliseconds, after which it is not applied.
    pub valid_until_ms: Option<u64>,
}

/// How a call begins: what signs for so many frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct CallHead<'a> {
    /// How many frames it has.
    pub frames: u32,
    /// The public key.
    pub key: &'a [u8],
    /// The signature.
    pub signature: &'a [u8],
}

/// The first thing that is wrong with the calls of a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame {slot}: {problem}")]
pub struct CallError {
    /// At which frame.
    pub slot: usize,
    /// What.
    pub problem: CallProblem,
}

/// What is wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallProblem {
    /// The batch cannot be read.
    #[error("the batch cannot be read")]
    Unread,
    /// No signature is for it.
    #[error("it is not signed, and the genesis wants that")]
    Unsigned,
    /// It says that it begins a call, where another one goes on.
    #[error("a call begins before the one before it has ended")]
    Within,
    /// The call has fewer frames than its signature is for.
    #[error("its call has fewer frames than its signature is for")]
    Cut,
    /// Another session than that of the key.
    #[error("its session is not that of the key that signs")]
    Session,
    /// The key is none.
    #[error("its key is none of the scheme of the genesis")]
    Key,
    /// The signature does not hold.
    #[error("the signature of its call does not hold")]
    Signature,
    /// More calls than one batch may have.
    #[error("the batch has more than {CALLS_MAX} calls")]
    TooMany,
}

/// The session that a key names. Half of a hash: who looks for a key that names somebody else's has 2^128 to look at.
pub fn session_of(key: &PublicKey) -> [u8; 16] {
    let hash = hash("quorate 1 session", &[&[key.scheme().code()], key.as_bytes()]);
    let mut session = [0; 16];
    session.copy_from_slice(hash.split_at(16).0);
    session
}

/// The bytes that a call signs. Layout, integers little-endian: domain (16), chain (32), session (16), count of frames (4), and their hash
/// (32), of each frame: serial (8), settled (8), whether it is valid only until some time (1), that time or zeros (8), length of the shard (4),
/// the shard, length of the payload (4), the payload.
pub fn call_bytes<'a>(
    chain: &ChainId,
    session: &[u8; 16],
    frames: impl IntoIterator<Item = CallFrame<'a>>,
) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new_derive_key("quorate 1 call");
    let mut count: u32 = 0;
    for frame in frames {
        count = count.saturating_add(1);
        let front = Writer::default()
            .u64(frame.serial)
            .u64(frame.settled)
            .u8(frame.valid_until_ms.is_some().into())
            .u64(frame.valid_until_ms.unwrap_or(0))
            .long(frame.shard.as_bytes())
            .long(frame.payload)
            .done();
        hasher.update(&front);
    }
    Writer::default()
        .bytes(CALL)
        .bytes(chain.as_bytes())
        .bytes(session)
        .u32(count)
        .bytes(hasher.finalize().as_bytes())
        .done()
}

/// Whether every frame of a batch was signed by the one that its session names, in calls that are whole and in their order.
///
/// `scheme`: that of the genesis. `frames`: all of the batch, each with the head of the call that begins with it.
///
/// # Errors
///
/// The first thing that is wrong.
pub fn verify_calls<'a>(
    chain: &ChainId,
    scheme: Scheme,
    frames: &[(Option<CallHead<'a>>, CallFrame<'a>)],
) -> Result<(), CallError> {
    if frames.iter().filter(|(head, _)| head.is_some()).count() > CALLS_MAX {
        return Err(CallError { slot: 0, problem: CallProblem::TooMany });
    }
    let mut rest = frames;
    while let Some((head, _)) = rest.first() {
        let slot = frames.len() - rest.len();
        let wrong = |problem| CallError { slot, problem };
        let head = head.ok_or_else(|| wrong(CallProblem::Unsigned))?;
        let count = usize::try_from(head.frames).unwrap_or(usize::MAX);
        if count == 0 {
            return Err(wrong(CallProblem::Cut));
        }
        let (call, others) = rest.split_at_checked(count).ok_or_else(|| wrong(CallProblem::Cut))?;
        if call.iter().skip(1).any(|(head, _)| head.is_some()) {
            return Err(wrong(CallProblem::Within));
        }
        let key = PublicKey::from_bytes(scheme, head.key).map_err(|_| wrong(CallProblem::Key))?;
        let session = session_of(&key);
        if call.iter().any(|(_, frame)| *frame.session != session) {
            return Err(wrong(CallProblem::Session));
        }
        let signature = Signature::from_bytes(bytes::Bytes::copy_from_slice(head.signature));
        let message = call_bytes(chain, &session, call.iter().map(|(_, frame)| *frame));
        if !signature.is_ok_and(|signature| key.verify(&message, &signature)) {
            return Err(wrong(CallProblem::Signature));
        }
        rest = others;
    }
    Ok(())
}

/// As [`verify_calls`], of the frames of an encoded batch.
///
/// # Errors
///
/// The first thing that is wrong.
pub fn verify_body_calls(chain: &ChainId, scheme: Scheme, body: &[u8]) -> Result<(), CallError> {
    let unread = CallError { slot: 0, problem: CallProblem::Unread };
    verify_calls(chain, scheme, &calls_of(body).ok_or(unread)?)
}

/// What a proposer signs its calls with: made for one session, and kept by nobody.
pub struct CallKey {
    genesis: Genesis,
    key: SigningKey,
    session: [u8; 16],
}

impl CallKey {
    /// A new key, for the cluster of this genesis.
    ///
    /// # Errors
    ///
    /// The system gave no randomness.
    pub fn generate(genesis: &Genesis) -> Result<Self, SigningError> {
        Ok(Self::of(genesis, SigningKey::generate(genesis.validators().scheme())?))
    }

    /// The same with a key that is there already; nobody else may have it, and no other session.
    pub fn of(genesis: &Genesis, key: SigningKey) -> Self {
        let session = session_of(key.public());
        Self { genesis: genesis.clone(), key, session }
    }

    /// The session that it names.
    pub const fn session(&self) -> [u8; 16] {
        self.session
    }

    /// What others verify with.
    pub const fn public(&self) -> &PublicKey {
        self.key.public()
    }

    /// Signs frames of its session as one call, in a group.
    ///
    /// # Errors
    ///
    /// The system gave no randomness.
    pub fn sign<'a>(
        &self,
        group: u32,
        frames: impl IntoIterator<Item = CallFrame<'a>>,
    ) -> Result<Signature, SigningError> {
        self.key.sign(&call_bytes(&self.genesis.chain(group), &self.session, frames))
    }
}

impl fmt::Debug for CallKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallKey").field("key", &self.key).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault_model::FaultModel;
    use crate::test_keys::key;
    use crate::validator::Validator;

    fn genesis(scheme: Scheme) -> Genesis {
        let validator = Validator { node: 1, power: 1, key: key(scheme, 1).public().clone() };
        let model = FaultModel::Byzantine;
        Genesis::new([7; 16], model, scheme, 500, vec![validator]).unwrap().with_signed_frames()
    }

    struct Signed {
        key: CallKey,
        signature: Signature,
    }

    impl Signed {
        fn new(genesis: &Genesis, serials: std::ops::Range<u64>) -> Self {
            let key = CallKey::generate(genesis).unwrap();
            let session = key.session();
            let signature = key.sign(0, serials.map(|serial| frame(&session, serial))).unwrap();
            Self { key, signature }
        }

        fn head(&self, frames: u32) -> CallHead<'_> {
            let (key, signature) = (self.key.public().as_bytes(), self.signature.as_bytes());
            CallHead { frames, key, signature }
        }
    }

    fn frame(session: &[u8; 16], serial: u64) -> CallFrame<'_> {
        let (shard, payload) = ("org/ns", &b"payload"[..]);
        CallFrame { session, serial, settled: 1, shard, payload, valid_until_ms: None }
    }

    #[test]
    fn a_call_holds_for_what_was_signed_and_for_nothing_else() {
        for scheme in Scheme::ALL {
            let genesis = genesis(scheme);
            let signed = Signed::new(&genesis, 1..4);
            let other = Signed::new(&genesis, 4..5);
            let (session, other_session) = (signed.key.session(), other.key.session());
            let others = frame(&other_session, 4);
            let frame = |serial| frame(&session, serial);
            let call = [
                (Some(signed.head(3)), frame(1)),
                (None, frame(2)),
                (None, frame(3)),
                (Some(other.head(1)), others),
            ];
            let found = |frames: &[_], group| {
                let found = verify_calls(&genesis.chain(group), scheme, frames);
                found.map_err(|error| (error.slot, error.problem))
            };
            assert_eq!(found(&call, 0), Ok(()));
            assert_eq!(found(&[], 0), Ok(()));
            // In another group, and so in another cluster.
            assert_eq!(found(&call, 1), Err((0, CallProblem::Signature)));
            // Split, swapped, repeated, without its head, with more than it had.
            let [a, b, c, d] = call;
            assert_eq!(found(&[d, a, b, c], 0), Ok(()));
            assert_eq!(found(&[d, a, b], 0), Err((1, CallProblem::Cut)));
            assert_eq!(found(&[a, b, d, c], 0), Err((0, CallProblem::Within)));
            assert_eq!(found(&[a, c, b, d], 0), Err((0, CallProblem::Signature)));
            assert_eq!(found(&[a, b, b, d], 0), Err((0, CallProblem::Signature)));
            assert_eq!(found(&[b, c], 0), Err((0, CallProblem::Unsigned)));
            assert_eq!(found(&[d, b], 0), Err((1, CallProblem::Unsigned)));
            let headed = |head, (_, frame)| (Some(head), frame);
            let (two, none) = (signed.head(2), signed.head(0));
            assert_eq!(found(&[headed(two, a), b], 0), Err((0, CallProblem::Signature)));
            assert_eq!(found(&[headed(two, b), c], 0), Err((0, CallProblem::Signature)));
            assert_eq!(found(&[headed(none, a)], 0), Err((0, CallProblem::Cut)));
            // Everything that a frame says.
            for changed in [
                CallFrame { session: &other_session, ..frame(3) },
                CallFrame { serial: 9, ..frame(3) },
                CallFrame { settled: 2, ..frame(3) },
                CallFrame { shard: "org/nt", ..frame(3) },
                CallFrame { payload: b"Payload", ..frame(3) },
                CallFrame { valid_until_ms: Some(0), ..frame(3) },
            ] {
                let found = found(&[a, b, (None, changed)], 0);
                let problem = match *changed.session == session {
                    true => CallProblem::Signature,
                    false => CallProblem::Session,
                };
                assert_eq!(found, Err((0, problem)), "{changed:?}");
            }
            // Signed by somebody else, and by a key that is none.
            assert_eq!(found(&[headed(other.head(1), a)], 0), Err((0, CallProblem::Session)));
            let short = CallHead { key: &[1; 3], ..signed.head(3) };
            assert_eq!(found(&[headed(short, a), b, c], 0), Err((0, CallProblem::Key)));
            let unsigned = CallHead { signature: &[], ..signed.head(3) };
            assert_eq!(found(&[headed(unsigned, a), b, c], 0), Err((0, CallProblem::Signature)));
        }
    }

    #[test]
    fn a_batch_has_so_many_calls() {
        let genesis = genesis(Scheme::Ed25519);
        let signed = Signed::new(&genesis, 1..2);
        let session = signed.key.session();
        let frames = vec![(Some(signed.head(1)), frame(&session, 1)); CALLS_MAX + 1];
        let found = verify_calls(&genesis.chain(0), Scheme::Ed25519, &frames);
        assert_eq!(found.unwrap_err().problem, CallProblem::TooMany);
    }
}
