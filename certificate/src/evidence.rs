//! Proof that a validator broke the rules: two signatures that no honest one gives.

use bytes::Bytes;

use crate::codec::{Malformed, Reader, Writer};
use crate::genesis::ChainId;
use crate::key::Signature;
use crate::validator::ValidatorSet;
use crate::vote::{ValueId, VoteType, proposal_bytes, vote_bytes};

/// Two statements of one validator that contradict each other, with both signatures. Anyone who has the validators of that epoch can
/// verify it. In a cluster without a fault there is none: a node that loses what it signed does not vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    epoch: u64,
    height: u64,
    round: u32,
    validator: u64,
    what: Contradiction,
}

/// What contradicts what; the lesser value stands first, so that the same contradiction has one form.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Contradiction {
    Votes { kind: VoteType, votes: [(Option<ValueId>, Signature); 2] },
    Proposals([(Option<u32>, ValueId, Signature); 2]),
}

/// Why something is no evidence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// It is of another epoch than the validators.
    #[error("it is of epoch {found}, and the validators are of epoch {epoch}")]
    Epoch {
        /// Its epoch.
        found: u64,
        /// That of the validators.
        epoch: u64,
    },
    /// Whom it names is no validator.
    #[error("node {node}, which it names, is no validator of epoch {epoch}")]
    Validator {
        /// Whom.
        node: u64,
        /// Of which epoch.
        epoch: u64,
    },
    /// A signature does not hold.
    #[error("one of its signatures is not that of node {node}")]
    Signature {
        /// Whose it should be.
        node: u64,
    },
}

const WHAT: &str = "evidence";
const VERSION: u8 = 1;
const PREVOTES: u8 = 1;
const PRECOMMITS: u8 = 2;
const PROPOSALS: u8 = 3;

impl Evidence {
    /// Two votes of one kind, height and round for different values.
    ///
    /// # Errors
    ///
    /// The values are the same.
    pub fn votes(
        (epoch, height, round): (u64, u64, u32),
        validator: u64,
        kind: VoteType,
        mut votes: [(Option<ValueId>, Signature); 2],
    ) -> Result<Self, Malformed> {
        votes.sort_by_key(|(value, _)| *value);
        Self { epoch, height, round, validator, what: Contradiction::Votes { kind, votes } }
            .checked()
    }

    /// Two proposals for one height and round, of different values: each with its earlier round, if there is one.
    ///
    /// # Errors
    ///
    /// The values are the same.
    pub fn proposals(
        (epoch, height, round): (u64, u64, u32),
        validator: u64,
        mut proposals: [(Option<u32>, ValueId, Signature); 2],
    ) -> Result<Self, Malformed> {
        proposals.sort_by_key(|(_, value, _)| *value);
        Self { epoch, height, round, validator, what: Contradiction::Proposals(proposals) }
            .checked()
    }

    fn checked(self) -> Result<Self, Malformed> {
        let is_ordered = match &self.what {
            Contradiction::Votes { votes: [(first, _), (second, _)], .. } => first < second,
            Contradiction::Proposals([(_, first, _), (_, second, _)]) => first < second,
        };
        if is_ordered {
            return Ok(self);
        }
        Err(Malformed::new(WHAT, "its two values are the same, or not in their order"))
    }

    /// The epoch of the validators.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// At which height it happened.
    pub const fn height(&self) -> u64 {
        self.height
    }

    /// In which round.
    pub const fn round(&self) -> u32 {
        self.round
    }

    /// The node that did it.
    pub const fn validator(&self) -> u64 {
        self.validator
    }

    /// What it did, in words.
    pub const fn deed(&self) -> &'static str {
        match &self.what {
            Contradiction::Votes { kind: VoteType::Prevote, .. } => "prevoted for two values",
            Contradiction::Votes { kind: VoteType::Precommit, .. } => "precommitted to two values",
            Contradiction::Proposals(_) => "proposed two batches",
        }
    }

    /// Whether the validator did it; `validators` are those of its epoch.
    ///
    /// # Errors
    ///
    /// It shows nothing, and why.
    pub fn verify(&self, chain: &ChainId, validators: &ValidatorSet) -> Result<(), EvidenceError> {
        let Self { epoch, height, round, validator: node, what } = self;
        let (epoch, height, round, node) = (*epoch, *height, *round, *node);
        if epoch != validators.epoch() {
            return Err(EvidenceError::Epoch { found: epoch, epoch: validators.epoch() });
        }
        let validator = validators.get(node).ok_or(EvidenceError::Validator { node, epoch })?;
        let hold = match what {
            Contradiction::Votes { kind, votes } => votes.iter().all(|(value, signature)| {
                let vote = vote_bytes(chain, epoch, *kind, height, round, value.as_ref(), node);
                validator.key.verify(&vote, signature)
            }),
            Contradiction::Proposals(proposals) => {
                proposals.iter().all(|(pol_round, value, signature)| {
                    let proposal =
                        proposal_bytes(chain, epoch, height, round, *pol_round, value, node);
                    validator.key.verify(&proposal, signature)
                })
            }
        };
        if hold { Ok(()) } else { Err(EvidenceError::Signature { node }) }
    }

    /// The bytes that [`decode`](Self::decode) reads.
    pub fn encode(&self) -> Vec<u8> {
        let Self { epoch, height, round, validator, what } = self;
        let kind = match what {
            Contradiction::Votes { kind: VoteType::Prevote, .. } => PREVOTES,
            Contradiction::Votes { kind: VoteType::Precommit, .. } => PRECOMMITS,
            Contradiction::Proposals(_) => PROPOSALS,
        };
        let writer = Writer::default()
            .u8(VERSION)
            .u8(kind)
            .u64(*epoch)
            .u64(*height)
            .u32(*round)
            .u64(*validator);
        let writer = match what {
            Contradiction::Votes { votes, .. } => {
                votes.iter().fold(writer, |writer, (value, signature)| {
                    writer
                        .u8(value.is_some().into())
                        .bytes(value.as_ref().unwrap_or(&[0; 32]))
                        .short(signature.as_bytes())
                })
            }
            Contradiction::Proposals(proposals) => {
                proposals.iter().fold(writer, |writer, (pol_round, value, signature)| {
                    writer
                        .u8(pol_round.is_some().into())
                        .u32(pol_round.unwrap_or(0))
                        .bytes(value)
                        .short(signature.as_bytes())
                })
            }
        };
        writer.done()
    }

    /// Reads evidence. It says nothing about whether it shows anything: [`verify`](Self::verify) does.
    ///
    /// # Errors
    ///
    /// The bytes are not any.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(WHAT, bytes);
        reader.version(VERSION)?;
        let kind = reader.u8()?;
        let (epoch, height, round) = (reader.u64()?, reader.u64()?, reader.u32()?);
        let validator = reader.u64()?;
        let what = match kind {
            PREVOTES | PRECOMMITS => {
                let votes = [read_vote(&mut reader)?, read_vote(&mut reader)?];
                let kind = if kind == PREVOTES { VoteType::Prevote } else { VoteType::Precommit };
                Contradiction::Votes { kind, votes }
            }
            PROPOSALS => {
                Contradiction::Proposals([read_proposal(&mut reader)?, read_proposal(&mut reader)?])
            }
            code => return Err(reader.wrong(format!("{code} is no kind of it"))),
        };
        reader.end()?;
        Self { epoch, height, round, validator, what }.checked()
    }
}

fn read_signature(reader: &mut Reader<'_>) -> Result<Signature, Malformed> {
    Signature::from_bytes(Bytes::copy_from_slice(reader.short()?))
}

fn read_vote(reader: &mut Reader<'_>) -> Result<(Option<ValueId>, Signature), Malformed> {
    let value = reader.option(|reader| reader.array(), &[0; 32])?;
    Ok((value, read_signature(reader)?))
}

fn read_proposal(reader: &mut Reader<'_>) -> Result<(Option<u32>, ValueId, Signature), Malformed> {
    let pol_round = reader.option(Reader::u32, &0)?;
    Ok((pol_round, reader.array()?, read_signature(reader)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault_model::FaultModel;
    use crate::genesis::Genesis;
    use crate::scheme::Scheme;
    use crate::test_keys::key;
    use crate::validator::Validator;

    fn genesis() -> Genesis {
        let validator = |node: u64| Validator {
            node,
            power: 1,
            key: key(Scheme::Ed25519, node as u8).public().clone(),
        };
        let (model, scheme) = (FaultModel::Byzantine, Scheme::Ed25519);
        Genesis::new([1; 16], model, scheme, 500, (1..=4).map(validator).collect()).unwrap()
    }

    fn vote(kind: VoteType, value: Option<ValueId>) -> (Option<ValueId>, Signature) {
        let bytes = vote_bytes(&genesis().chain(0), 0, kind, 5, 6, value.as_ref(), 2);
        (value, key(Scheme::Ed25519, 2).sign(&bytes).unwrap())
    }

    fn proposal(pol: Option<u32>, value: ValueId) -> (Option<u32>, ValueId, Signature) {
        let bytes = proposal_bytes(&genesis().chain(0), 0, 5, 6, pol, &value, 2);
        (pol, value, key(Scheme::Ed25519, 2).sign(&bytes).unwrap())
    }

    fn all() -> [Evidence; 3] {
        let (prevote, precommit) = (VoteType::Prevote, VoteType::Precommit);
        let at = (0, 5, 6);
        let prevotes = [vote(prevote, Some([1; 32])), vote(prevote, Some([2; 32]))];
        let precommits = [vote(precommit, None), vote(precommit, Some([2; 32]))];
        let proposals = [proposal(Some(3), [1; 32]), proposal(None, [2; 32])];
        [
            Evidence::votes(at, 2, prevote, prevotes).unwrap(),
            Evidence::votes(at, 2, precommit, precommits).unwrap(),
            Evidence::proposals(at, 2, proposals).unwrap(),
        ]
    }

    #[test]
    fn two_signatures_that_contradict_each_other_name_who_gave_them() {
        let (genesis, chain) = (genesis(), genesis().chain(0));
        for evidence in all() {
            assert_eq!(evidence.verify(&chain, genesis.validators()), Ok(()));
            assert_eq!((evidence.validator(), evidence.height(), evidence.round()), (2, 5, 6));
            assert_eq!(Evidence::decode(&evidence.encode()).unwrap(), evidence);
            let other = evidence.verify(&genesis.chain(1), genesis.validators());
            assert_eq!(other, Err(EvidenceError::Signature { node: 2 }));
        }
    }

    #[test]
    fn the_order_in_which_they_were_found_does_not_count() {
        let (kind, at) = (VoteType::Precommit, (0, 5, 6));
        let [first, second] = [vote(kind, None), vote(kind, Some([2; 32]))];
        let one = Evidence::votes(at, 2, kind, [first.clone(), second.clone()]).unwrap();
        assert_eq!(Evidence::votes(at, 2, kind, [second, first.clone()]).unwrap(), one);
        // The same vote twice is none; nor is the same batch proposed again for another reason.
        assert!(Evidence::votes(at, 2, kind, [first.clone(), first]).is_err());
        let again = [proposal(None, [1; 32]), proposal(Some(1), [1; 32])];
        assert!(Evidence::proposals(at, 2, again).is_err());
    }

    #[test]
    fn no_bit_of_it_can_flip() {
        let (genesis, chain) = (genesis(), genesis().chain(0));
        for evidence in all() {
            let bytes = evidence.encode();
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let Ok(evidence) = Evidence::decode(&flipped) else { continue };
                assert!(evidence.verify(&chain, genesis.validators()).is_err(), "bit {bit}");
            }
            for length in 0..bytes.len() {
                assert!(Evidence::decode(&bytes[..length]).is_err());
            }
            assert!(Evidence::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
    }
}
