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
//! There is no I/O in it, no clock, no runtime, and nothing of the rest of quorate: this is all that an auditor has to trust, and to
//! read.
//!
//! 1. What is signed names its kind, the chain (the genesis and the group in it), the epoch of the validators, height, round, value
//!    and signer: no signature counts anywhere else.
//! 2. Whatever is signed or hashed has one encoding, and decoding it takes every byte.
//! 3. A certificate holds if each of its signatures does and their power is a quorum; nobody counts twice.
//! 4. No bytes make any of it panic, or use memory beyond their own length.

mod body;
mod certificate;
mod change;
mod codec;
mod fault_model;
mod genesis;
mod header;
mod key;
mod scheme;
#[cfg(test)]
mod test_keys;
mod validator;
mod vote;

pub use body::{FrameProof, ProvenFrame, body_hash};
pub use certificate::{
    Certificate, CertificateError, verify_certificate, verify_header, verify_signatures,
};
pub use change::{
    CHANGES_MAX, ChangeError, MembersBody, NOTE_BYTES_MAX, NewKey, ValidatorChange, key_bytes,
};
pub use codec::Malformed;
pub use fault_model::FaultModel;
pub use genesis::{ChainId, Genesis};
pub use header::{BodyKind, HEADER_BYTES, Header};
pub use key::{PublicKey, SIGNATURE_BYTES_MAX, Signature, SigningError, SigningKey};
pub use scheme::Scheme;
pub use validator::{POWER_MAX, VALIDATORS_MAX, Validator, ValidatorSet, ValidatorSetError};
pub use vote::{ValueId, VoteType, proposal_bytes, vote_bytes};
