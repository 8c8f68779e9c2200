//! Where a group stands after a height: what the next one begins with, and what a checkpoint carries.

use bytes::Bytes;
use quorate_certificate::{
    Certificate, ChainId, Decided, Genesis, HEADER_BYTES, Header, HistoryError, RECORD_BYTES_MAX,
    SIGNATURE_BYTES_MAX, VALIDATORS_MAX, ValidatorHistory, ValidatorSet, ValueId,
};
use quorate_engine::engine::StateHash;
use quorate_replicator::DecidedBatch;
use quorate_storage::Index;

use crate::codec::{Malformed, Reader, Writer};

/// Of a mark after a decided height.
const VERSION: u8 = 2;

/// Of a mark after what another driver has left.
const INHERITED: u8 = 128;

/// Most bytes of an encoded certificate.
pub(crate) const PROOF_BYTES_MAX: usize = 64 + VALIDATORS_MAX * (SIGNATURE_BYTES_MAX + 16);

/// Most bytes of an encoded set of validators.
const SET_BYTES_MAX: usize = 64 + VALIDATORS_MAX * 2048;

/// Where a group stands after a height.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The height; before the first it is 0, or the last index of another driver.
    pub(crate) height: u64,
    /// The id of its header; before the first what that names as the one before it.
    pub(crate) value: ValueId,
    /// Its header and the certificate for it, encoded; none before the first.
    pub(crate) proved: Option<(Bytes, Bytes)>,
    /// Before the first, the hash of the history that another driver has left.
    pub(crate) inherited: Option<StateHash>,
    /// Who made it.
    pub(crate) proposer: Option<u64>,
    /// The validators of the next height.
    pub(crate) validators: ValidatorSet,
    /// Those of the height after that.
    pub(crate) next_validators: ValidatorSet,
    /// The decided changes that lead to them from the genesis.
    pub(crate) changes: Changes,
}

/// All changes of the validators since the genesis, with their certificates: who trims its log, or begins with a snapshot, can still show
/// who may decide. They are kept as they are stored, so that a mark of each height is made without looking at them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes(Bytes);

impl Changes {
    /// With one more.
    fn with(&self, decided: Decided<'_>) -> Self {
        let Decided { header, body, certificate } = decided;
        let mut to = Writer::default();
        to.raw(&self.0).bytes(header).bytes(body).bytes(certificate);
        Self(to.finish())
    }

    /// Whether they are these, and perhaps more, with whatever certificates.
    pub(crate) fn begin_with(&self, other: &Self) -> bool {
        self.headers().starts_with(&other.headers())
    }

    fn headers(&self) -> Vec<[u8; HEADER_BYTES]> {
        let mut headers = Vec::new();
        let read: Result<(), Malformed> = self.each(|decided| {
            headers.extend(<[u8; HEADER_BYTES]>::try_from(decided.header));
            Ok(())
        });
        assert!(read.is_ok(), "changes are read before they are kept");
        headers
    }

    /// Those after a height, in order.
    pub(crate) fn after(&self, height: u64) -> Vec<DecidedBatch> {
        let mut after = Vec::new();
        let kept = self.each(|Decided { header, body, certificate }| {
            let is_after = Header::decode(header).is_ok_and(|header| header.height > height);
            after.extend(is_after.then(|| DecidedBatch {
                head: Bytes::copy_from_slice(header),
                body: Bytes::copy_from_slice(body),
                proof: Bytes::copy_from_slice(certificate),
            }));
            Ok::<_, Malformed>(())
        });
        assert_eq!(kept, Ok(()), "they were read when the mark was");
        after
    }

    /// Each of them, in order.
    pub(crate) fn each<E: From<Malformed>>(
        &self,
        mut each: impl FnMut(Decided<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut from = Reader::new(&self.0);
        while !from.is_at_end() {
            let header = from.bytes(HEADER_BYTES)?;
            let body = from.bytes(RECORD_BYTES_MAX)?;
            let certificate = from.bytes(PROOF_BYTES_MAX)?;
            each(Decided { header, body, certificate })?;
        }
        Ok(())
    }
}

/// Why a mark does not follow from the genesis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MarkError {
    Malformed(Malformed),
    /// A change in it was not decided.
    Change(HistoryError),
    /// Its validators are not those that its changes make.
    Validators,
}

impl From<Malformed> for MarkError {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

impl Mark {
    /// Before the first height.
    pub(crate) fn genesis(genesis: &Genesis, chain: &ChainId) -> Self {
        Self {
            height: 0,
            value: *chain.as_bytes(),
            proved: None,
            inherited: None,
            proposer: None,
            validators: genesis.validators().clone(),
            next_validators: genesis.validators().clone(),
            changes: Changes::default(),
        }
    }

    /// Before the first height, after an index up to which another driver has decided.
    pub(crate) fn inherited(
        validators: &ValidatorSet,
        chain: &ChainId,
        index: Index,
        state: StateHash,
    ) -> Self {
        Self {
            height: index,
            value: chain.origin(index, &state),
            proved: None,
            inherited: Some(state),
            proposer: None,
            validators: validators.clone(),
            next_validators: validators.clone(),
            changes: Changes::default(),
        }
    }

    /// After the next height, whose header and certificate these are. `changed` has the body of a change and the validators that it
    /// makes, if it is one.
    pub(crate) fn after(
        &self,
        header: &Header,
        head: Bytes,
        proof: Bytes,
        changed: Option<(&[u8], ValidatorSet)>,
    ) -> Self {
        let (changes, next_validators) = match changed {
            Some((body, next)) => {
                (self.changes.with(Decided { header: &head, body, certificate: &proof }), next)
            }
            None => (self.changes.clone(), self.next_validators.clone()),
        };
        let validators = self.next_validators.clone();
        #[cfg(quorate_planted)]
        let validators = match quorate_planted::Bug::ChangeTooEarly.is_planted() {
            true => next_validators.clone(),
            false => validators,
        };
        Self {
            height: header.height,
            value: header.id(),
            proved: Some((head, proof)),
            inherited: None,
            proposer: Some(header.proposer),
            validators,
            next_validators,
            changes,
        }
    }

    /// Whether a change is decided and not in force.
    pub(crate) fn is_changing(&self) -> bool {
        self.validators.epoch() != self.next_validators.epoch()
    }

    /// The validators of all heights up to two after this one, if all that the mark says of them was decided.
    ///
    /// # Errors
    ///
    /// What was not.
    pub(crate) fn history(
        &self,
        genesis: &Genesis,
        group: u32,
    ) -> Result<ValidatorHistory, MarkError> {
        let mut history = ValidatorHistory::new(genesis, group);
        self.changes.each(|decided| history.push(decided).map(drop).map_err(MarkError::Change))?;
        let follows = history.changed() <= self.height
            && *history.at(self.height + 1) == self.validators
            && *history.at(self.height.saturating_add(2)) == self.next_validators;
        if follows { Ok(history) } else { Err(MarkError::Validators) }
    }

    /// The validators of all heights up to two after this one, for who has verified the mark before.
    pub(crate) fn known_history(&self, genesis: &Genesis, group: u32) -> ValidatorHistory {
        let mut history = ValidatorHistory::new(genesis, group);
        let read: Result<(), MarkError> = self.changes.each(|Decided { header, body, .. }| {
            let header = Header::decode(header).map_err(|_| Malformed("its header is none"))?;
            history.apply(header.height, body).map_err(MarkError::Change)
        });
        assert_eq!(read, Ok(()), "changes are verified before they are kept");
        history
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
        if let Some(state) = &self.inherited {
            return to
                .u8(INHERITED)
                .u64(self.height)
                .array(state)
                .bytes(&self.validators.encode())
                .finish();
        }
        let (head, proof) = self.proved.clone().unwrap_or_default();
        to.u8(VERSION).bytes(&head).bytes(&proof).bytes(&self.validators.encode());
        let changes = self.next_validators != self.validators;
        to.bool(changes);
        if changes {
            to.bytes(&self.next_validators.encode());
        }
        to.raw(&self.changes.0);
        to.finish()
    }

    /// Reads the mark of a checkpoint at some height above 0. It says nothing about whether what it says is so.
    pub(crate) fn decode(chain: &ChainId, bytes: &[u8]) -> Result<Self, Malformed> {
        let set =
            |bytes| ValidatorSet::decode(bytes).map_err(|_| Malformed("its validators are no set"));
        let mut from = Reader::new(bytes);
        match from.u8()? {
            VERSION => {}
            INHERITED => {
                let (index, state) = (from.u64()?, from.array()?);
                let validators = set(from.bytes(SET_BYTES_MAX)?)?;
                from.finish()?;
                return Ok(Self::inherited(&validators, chain, index, state));
            }
            _ => return Err(Malformed("its version is another one")),
        }
        let head = Bytes::copy_from_slice(from.bytes(HEADER_BYTES)?);
        let proof = Bytes::copy_from_slice(from.bytes(PROOF_BYTES_MAX)?);
        let header = Header::decode(&head).map_err(|_| Malformed("its header is none"))?;
        Certificate::decode(&proof).map_err(|_| Malformed("its certificate is none"))?;
        let validators = set(from.bytes(SET_BYTES_MAX)?)?;
        let next_validators = match from.bool()? {
            true => set(from.bytes(SET_BYTES_MAX)?)?,
            false => validators.clone(),
        };
        let changes = Changes(Bytes::copy_from_slice(from.rest()));
        changes.each(|_| Ok::<_, Malformed>(()))?;
        Ok(Self {
            height: header.height,
            value: header.id(),
            proposer: Some(header.proposer),
            proved: Some((head, proof)),
            inherited: None,
            validators,
            next_validators,
            changes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes have certificates of other signers for the same height.
    #[test]
    fn changes_are_compared_without_their_certificates() {
        let with = |changes: &Changes, header: u8, certificate: &[u8]| {
            changes.with(Decided { header: &[header; HEADER_BYTES], body: b"change", certificate })
        };
        let here = with(&Changes::default(), 1, b"of 1, 2, 3");
        let there = with(&with(&Changes::default(), 1, b"of 1, 2, 4"), 2, b"of 2, 3, 4");
        assert!(there.begin_with(&here) && there.begin_with(&Changes::default()));
        assert!(!here.begin_with(&there), "one is missing");
        let other = with(&Changes::default(), 3, b"of 1, 2, 3");
        assert!(!there.begin_with(&other), "another one was decided");
    }
}
