//! The signatures that decided a batch, and how they are verified.

use bytes::Bytes;

use crate::body::body_hash;
use crate::codec::{Malformed, Reader, Writer, hex};
use crate::fault_model::FaultModel;
use crate::genesis::ChainId;
use crate::header::{BodyKind, Header};
use crate::key::{PublicKey, Signature};
use crate::validator::{VALIDATORS_MAX, ValidatorSet};
use crate::vote::{ValueId, VoteType, vote_bytes};

/// The precommits of a quorum for one batch. Nodes may have different certificates for the same batch: of another round, or with the
/// signatures of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    height: u64,
    round: u32,
    value: ValueId,
    /// By node, each once.
    signatures: Vec<(u64, Signature)>,
}

const WHAT: &str = "certificate";
const VERSION: u8 = 1;

impl Certificate {
    /// The certificate with these signatures, each with the node that gave it, in any order.
    ///
    /// # Errors
    ///
    /// A node gave more than one, or there are more than validators may be.
    pub fn new(
        height: u64,
        round: u32,
        value: ValueId,
        mut signatures: Vec<(u64, Signature)>,
    ) -> Result<Self, Malformed> {
        signatures.sort_by_key(|(node, _)| *node);
        check(&signatures)?;
        Ok(Self { height, round, value, signatures })
    }

    /// Which height it decides.
    pub const fn height(&self) -> u64 {
        self.height
    }

    /// In which round it was decided.
    pub const fn round(&self) -> u32 {
        self.round
    }

    /// The id of the header that it decides.
    pub const fn value(&self) -> &ValueId {
        &self.value
    }

    /// The signatures, each with its node, in the order of the nodes.
    pub fn signatures(&self) -> &[(u64, Signature)] {
        &self.signatures
    }

    /// The bytes that [`decode`](Self::decode) reads. Layout, integers little-endian: version (1), height (8), round (4), value (32), count
    /// (2), and for each signature node (8), length (2), bytes.
    pub fn encode(&self) -> Vec<u8> {
        let count = u16::try_from(self.signatures.len()).expect("there are at most 100 validators");
        let writer = Writer::default()
            .u8(VERSION)
            .u64(self.height)
            .u32(self.round)
            .bytes(&self.value)
            .u16(count);
        self.signatures
            .iter()
            .fold(writer, |writer, (node, signature)| writer.u64(*node).short(signature.as_bytes()))
            .done()
    }

    /// Reads a certificate. Each has one encoding. It says nothing about whether it holds: [`verify_certificate`] does.
    ///
    /// # Errors
    ///
    /// The bytes are not one.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(WHAT, bytes);
        reader.version(VERSION)?;
        let (height, round, value) = (reader.u64()?, reader.u32()?, reader.array()?);
        let count = usize::from(reader.u16()?);
        if count > VALIDATORS_MAX {
            return Err(reader.wrong(format!("{count} signatures are more than {VALIDATORS_MAX}")));
        }
        let mut signatures = Vec::with_capacity(count);
        for _ in 0..count {
            let node = reader.u64()?;
            let signature = Signature::from_bytes(Bytes::copy_from_slice(reader.short()?))?;
            signatures.push((node, signature));
        }
        reader.end()?;
        check(&signatures)?;
        Ok(Self { height, round, value, signatures })
    }
}

fn check(signatures: &[(u64, Signature)]) -> Result<(), Malformed> {
    if signatures.len() > VALIDATORS_MAX {
        let problem = format!("{} signatures are more than {VALIDATORS_MAX}", signatures.len());
        return Err(Malformed::new(WHAT, problem));
    }
    for (earlier, later) in signatures.iter().zip(signatures.iter().skip(1)) {
        if earlier.0 == later.0 {
            return Err(Malformed::new(WHAT, format!("node {} signed it twice", later.0)));
        }
        if earlier.0 > later.0 {
            let problem = format!("node {} does not come after the one before it", later.0);
            return Err(Malformed::new(WHAT, problem));
        }
    }
    Ok(())
}

/// Why a certificate does not decide a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The header is not one.
    #[error(transparent)]
    Header(Malformed),
    /// The certificate is of another height than the header.
    #[error("the certificate is of height {certificate}, and the header of height {header}")]
    Height {
        /// The certificate's.
        certificate: u64,
        /// The header's.
        header: u64,
    },
    /// The certificate is for another header.
    #[error("height {height}: the certificate is for header {}, and this one is {}", hex(.certificate), hex(.header))]
    Value {
        /// Of which height.
        height: u64,
        /// What it is for.
        certificate: ValueId,
        /// The id of the header.
        header: ValueId,
    },
    /// The body is not that of the header.
    #[error("height {height}: the batch is not the one that its header names")]
    Body {
        /// Of which height.
        height: u64,
    },
    /// The header is of other validators.
    #[error(
        "height {height}: the header names other validators than those of its height, epoch {epoch}"
    )]
    Validators {
        /// Of which height.
        height: u64,
        /// The epoch of those of its height.
        epoch: u64,
    },
    /// Who made the batch is no validator.
    #[error("height {height}: node {node}, which made the batch, is no validator of epoch {epoch}")]
    Proposer {
        /// Of which height.
        height: u64,
        /// Who.
        node: u64,
        /// Of which epoch the validators are.
        epoch: u64,
    },
    /// Who signed is no validator.
    #[error(
        "height {height}: node {node}, whose signature it has, is no validator of epoch {epoch}"
    )]
    Signer {
        /// Of which height.
        height: u64,
        /// Who.
        node: u64,
        /// Of which epoch the validators are.
        epoch: u64,
    },
    /// Too few signed.
    #[error(
        "height {height}: signatures of power {power} out of {total} are no quorum ({fault_model})"
    )]
    NoQuorum {
        /// Of which height.
        height: u64,
        /// The power of those who signed.
        power: u64,
        /// The power of all.
        total: u64,
        /// Which model says how many it takes.
        fault_model: FaultModel,
    },
    /// A signature does not hold.
    #[error(
        "height {height}: the signature of node {node} does not hold: it is not that of its key for this chain, epoch, height, round and header"
    )]
    Signature {
        /// Of which height.
        height: u64,
        /// Whose.
        node: u64,
    },
}

/// Whether `certificate` decides the batch of these bytes in `chain`, for validators that the caller knows to be those of its height.
/// It reads no clock and no file. Each signature has to hold, also beyond the quorum.
///
/// # Errors
///
/// The first thing that is wrong.
pub fn verify_certificate(
    chain: &ChainId,
    fault_model: FaultModel,
    validators: &ValidatorSet,
    certificate: &Certificate,
    header: &[u8],
    body: &[u8],
) -> Result<Header, CertificateError> {
    let header = verify_header(chain, fault_model, validators, certificate, header)?;
    let is_named = header.kind != BodyKind::Empty || body.is_empty();
    if !is_named || body_hash(header.kind, body) != header.body {
        return Err(CertificateError::Body { height: header.height });
    }
    Ok(header)
}

/// As [`verify_certificate`], for who does not have the body: then it says nothing about that.
///
/// # Errors
///
/// The first thing that is wrong.
pub fn verify_header(
    chain: &ChainId,
    fault_model: FaultModel,
    validators: &ValidatorSet,
    certificate: &Certificate,
    header: &[u8],
) -> Result<Header, CertificateError> {
    verify_header_by(chain, fault_model, validators, certificate, header, PublicKey::verify)
}

/// As [`verify_header`], for who has looked at signatures before: `verify` says of each whether it holds.
///
/// # Errors
///
/// The first thing that is wrong.
pub fn verify_header_by(
    chain: &ChainId,
    fault_model: FaultModel,
    validators: &ValidatorSet,
    certificate: &Certificate,
    header: &[u8],
    verify: impl Fn(&PublicKey, &[u8], &Signature) -> bool,
) -> Result<Header, CertificateError> {
    let header = Header::decode(header).map_err(CertificateError::Header)?;
    let (height, epoch) = (header.height, validators.epoch());
    if certificate.height != height {
        return Err(CertificateError::Height { certificate: certificate.height, header: height });
    }
    if certificate.value != header.id() {
        let (certificate, header) = (certificate.value, header.id());
        return Err(CertificateError::Value { height, certificate, header });
    }
    if header.validators != validators.digest() {
        return Err(CertificateError::Validators { height, epoch });
    }
    if validators.get(header.proposer).is_none() {
        return Err(CertificateError::Proposer { height, node: header.proposer, epoch });
    }
    verify_signatures_by(chain, fault_model, validators, certificate, verify)?;
    Ok(header)
}

/// Whether the signatures of `certificate` are those of a quorum of `validators` for what it says it decides.
///
/// # Errors
///
/// The first thing that is wrong.
pub fn verify_signatures(
    chain: &ChainId,
    fault_model: FaultModel,
    validators: &ValidatorSet,
    certificate: &Certificate,
) -> Result<(), CertificateError> {
    verify_signatures_by(chain, fault_model, validators, certificate, PublicKey::verify)
}

fn verify_signatures_by(
    chain: &ChainId,
    fault_model: FaultModel,
    validators: &ValidatorSet,
    certificate: &Certificate,
    verify: impl Fn(&PublicKey, &[u8], &Signature) -> bool,
) -> Result<(), CertificateError> {
    let Certificate { height, round, value, signatures } = certificate;
    let (height, epoch) = (*height, validators.epoch());
    let mut signers = Vec::with_capacity(signatures.len());
    for (node, signature) in signatures {
        let Some(validator) = validators.get(*node) else {
            return Err(CertificateError::Signer { height, node: *node, epoch });
        };
        signers.push((validator, signature));
    }
    // Nobody is in it twice: a certificate cannot be made otherwise.
    let power = signers.iter().map(|(validator, _)| validator.power).sum();
    if !validators.is_quorum(power, fault_model) {
        let total = validators.total_power();
        return Err(CertificateError::NoQuorum { height, power, total, fault_model });
    }
    for (validator, signature) in signers {
        let node = validator.node;
        let kind = VoteType::Precommit;
        let vote = vote_bytes(chain, epoch, kind, height, *round, Some(value), node);
        if !verify(&validator.key, &vote, signature) {
            return Err(CertificateError::Signature { height, node });
        }
    }
    Ok(())
}
