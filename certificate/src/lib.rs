//! Certificates of decided batches, and how anyone verifies them with the validators' keys alone.
//!
//! ```text
//!   Genesis ---> ValidatorSet of epoch 0, ChainId of each group
//!                      |
//!   Header 1 <--- Header 2 <--- Header 3      each names the one before, and the hash of its batch
//!      ^             ^             ^
//!   Certificate   Certificate   Certificate   signatures of a quorum of the validators of that height
//! ```
//!
//! A history that a node wrote with `quorate audit --export` is verified so:
//!
//! ```
//! use quorate_certificate::{Genesis, HistoryWriter, Scheme, SigningKey, FaultModel, Validator, audit_history};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let key = SigningKey::generate(Scheme::Ed25519)?;
//! let validator = Validator { node: 1, power: 1, key: key.public().clone() };
//! let genesis = Genesis::new([7; 16], FaultModel::Byzantine, Scheme::Ed25519, 500, vec![validator])?;
//!
//! // A history of nothing: it ends where it begins.
//! let chain = genesis.chain(0);
//! let file = HistoryWriter::new(Vec::new(), &genesis, 0)?.end(0, 0, chain.as_bytes())?;
//!
//! let audited = audit_history(&file[..], Some(&genesis), None)?;
//! assert_eq!((audited.height, audited.id), (0, *chain.as_bytes()));
//! # Ok(())
//! # }
//! ```
//!
//! There is no I/O in it beyond what is passed in, no clock, no runtime, and nothing of the rest of quorate: this is all that an auditor has to trust, and to
//! read.
//!
//! 1. What is signed names its kind, the chain (the genesis and the group in it), the epoch of the validators, height, round, value
//!    and signer: no signature counts anywhere else.
//! 2. Whatever is signed or hashed has one encoding, and decoding it takes every byte.
//! 3. A certificate holds if each of its signatures does and their power is a quorum; nobody counts twice.
//! 4. No bytes make any of it panic, or use memory beyond their own length.

mod audit;
mod body;
mod call;
mod certificate;
mod change;
mod codec;
mod decided;
mod evidence;
mod fault_model;
mod genesis;
mod header;
mod history_file;
mod key;
mod motion;
mod proof;
mod scheme;
#[cfg(test)]
mod test_keys;
mod validator;
mod validator_history;
mod vote;

pub use audit::{Audit, AuditError, Audited, AuditedChange};
pub use body::{FrameProof, FrameProofs, ProvenFrame, body_hash, frames_of};
pub use call::{
    CALLS_MAX, CallError, CallFrame, CallHead, CallKey, CallProblem, call_bytes, session_of,
    verify_body_calls, verify_calls,
};
pub use certificate::{
    Certificate, CertificateError, verify_certificate, verify_header, verify_header_by,
    verify_signatures,
};
pub use change::{
    CHANGES_MAX, ChangeError, MembersBody, NOTE_BYTES_MAX, NewKey, ValidatorChange, key_bytes,
};
pub use codec::Malformed;
pub use decided::Decided;
pub use evidence::{Evidence, EvidenceError};
pub use fault_model::FaultModel;
pub use genesis::{ChainId, Genesis};
pub use header::{BodyKind, HEADER_BYTES, Header};
pub use history_file::{HistoryFileError, HistoryWriter, RECORD_BYTES_MAX, audit_history};
pub use key::{PublicKey, SIGNATURE_BYTES_MAX, Signature, SigningError, SigningKey};
pub use motion::{ApprovalError, MOTION_BYTES_MAX, Motion, MotionError};
pub use proof::{DecidedFrame, PROOF_BYTES_MAX, PROOF_MAGIC, ProofError, Shown};
pub use scheme::Scheme;
pub use validator::{POWER_MAX, VALIDATORS_MAX, Validator, ValidatorSet, ValidatorSetError};
pub use validator_history::{CHANGE_DELAY, HistoryError, ValidatorHistory};
pub use vote::{ValueId, VoteType, proposal_bytes, vote_bytes};
