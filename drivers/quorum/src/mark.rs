//! Where a group stands after a height: what the next one begins with, and what a checkpoint carries.

use bytes::Bytes;
use quorate_certificate::{
    Certificate, ChainId, Genesis, HEADER_BYTES, Header, SIGNATURE_BYTES_MAX, VALIDATORS_MAX,
    ValidatorSet, ValueId,
};

use crate::codec::{Malformed, Reader, Writer};

const VERSION: u8 = 1;

/// Most bytes of an encoded certificate.
pub(crate) const PROOF_BYTES_MAX: usize = 64 + VALIDATORS_MAX * (SIGNATURE_BYTES_MAX + 16);

/// Most bytes of an encoded set of validators.
const SET_BYTES_MAX: usize = 64 + VALIDATORS_MAX * 2048;

/// Where a group stands after a height.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The height; 0 before the first.
    pub(crate) height: u64,
    /// The id of its header; of the chain before the first.
    pub(crate) value: ValueId,
    /// Its header and the certificate for it, encoded; none before the first.
    pub(crate) proved: Option<(Bytes, Bytes)>,
    /// Who made it.
    pub(crate) proposer: Option<u64>,
    /// The validators of the next height.
    pub(crate) validators: ValidatorSet,
    /// Those of the height after that.
    pub(crate) next_validators: ValidatorSet,
}

impl Mark {
    /// Before the first height.
    pub(crate) fn genesis(genesis: &Genesis, chain: &ChainId) -> Self {
        Self {
            height: 0,
            value: *chain.as_bytes(),
            proved: None,
            proposer: None,
            validators: genesis.validators().clone(),
            next_validators: genesis.validators().clone(),
        }
    }

    /// After the next height, whose header and certificate these are.
    pub(crate) fn after(&self, header: &Header, head: Bytes, proof: Bytes) -> Self {
        Self {
            height: header.height,
            value: header.id(),
            proved: Some((head, proof)),
            proposer: Some(header.proposer),
            validators: self.next_validators.clone(),
            next_validators: self.next_validators.clone(),
        }
    }

    /// The place among the validators of who proposes first at the next height: who made the last one, for so many heights, and then
    /// the one after it.
    pub(crate) fn first(&self, rotate_every: u64) -> usize {
        let validators = self.validators.validators();
        let Some(proposer) = self.proposer else { return 0 };
        let place = validators.partition_point(|known| known.node < proposer);
        let is_there = validators.get(place).is_some_and(|known| known.node == proposer);
        let turn = usize::from(is_there && (self.height + 1).is_multiple_of(rotate_every));
        (place + turn) % validators.len()
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut to = Writer::default();
        let (head, proof) = self.proved.clone().unwrap_or_default();
        to.u8(VERSION).bytes(&head).bytes(&proof).bytes(&self.validators.encode());
        let changes = self.next_validators != self.validators;
        to.bool(changes);
        if changes {
            to.bytes(&self.next_validators.encode());
        }
        to.finish()
    }

    /// Reads the mark of a checkpoint at some height above 0. It says nothing about whether what it says is so.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(bytes);
        if from.u8()? != VERSION {
            return Err(Malformed("its version is another one"));
        }
        let head = Bytes::copy_from_slice(from.bytes(HEADER_BYTES)?);
        let proof = Bytes::copy_from_slice(from.bytes(PROOF_BYTES_MAX)?);
        let header = Header::decode(&head).map_err(|_| Malformed("its header is none"))?;
        Certificate::decode(&proof).map_err(|_| Malformed("its certificate is none"))?;
        let set =
            |bytes| ValidatorSet::decode(bytes).map_err(|_| Malformed("its validators are no set"));
        let validators = set(from.bytes(SET_BYTES_MAX)?)?;
        let next_validators = match from.bool()? {
            true => set(from.bytes(SET_BYTES_MAX)?)?,
            false => validators.clone(),
        };
        from.finish()?;
        Ok(Self {
            height: header.height,
            value: header.id(),
            proposer: Some(header.proposer),
            proved: Some((head, proof)),
            validators,
            next_validators,
        })
    }
}
