//! Signatures are looked at where messages arrive, so that the thread that runs the engine finds them looked at.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use quorate_certificate::{
    Certificate, ChainId, FaultModel, Genesis, Validator, ValidatorSet, verify_header_by,
};
use quorate_engine::engine::{Inspector, Message};
use quorate_replicator::{Frame, NodeId, Signer};
use quorate_storage::Body;

use crate::calls::Calls;
use crate::keys::Looked;
use crate::mark::Mark;
use crate::message::Said;

/// Looks at signatures, for an engine that takes the same ones for looked at.
#[derive(Debug)]
pub(crate) struct Inspection {
    chain: ChainId,
    fault_model: FaultModel,
    looked: Arc<Looked>,
    calls: Calls,
    known: RwLock<Known>,
}

/// Whose signatures those of which heights are.
#[derive(Debug)]
struct Known {
    /// The height that is decided next.
    height: u64,
    validators: ValidatorSet,
    next_validators: ValidatorSet,
}

impl Inspection {
    pub(crate) fn new(genesis: &Genesis, group: u32, looked: Arc<Looked>, mark: &Mark) -> Self {
        let (chain, fault_model) = (genesis.chain(group), genesis.fault_model());
        let calls = Calls::new(genesis, group, Arc::clone(&looked));
        let known = Known {
            height: mark.height + 1,
            validators: mark.validators.clone(),
            next_validators: mark.next_validators.clone(),
        };
        Self { chain, fault_model, looked, calls, known: RwLock::new(known) }
    }

    pub(crate) const fn calls(&self) -> &Calls {
        &self.calls
    }

    /// The group stands elsewhere.
    pub(crate) fn follow(&self, mark: &Mark) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.height = mark.height + 1;
        // Sets of one epoch are one set, and a set is large.
        if known.validators.epoch() != mark.validators.epoch() {
            known.validators = mark.validators.clone();
        }
        if known.next_validators.epoch() != mark.next_validators.epoch() {
            known.next_validators = mark.next_validators.clone();
        }
    }
}

impl Inspector for Inspection {
    fn inspect(&self, from: NodeId, message: &Message) {
        let Ok(said) = Said::decode(&self.chain, message) else { return };
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let is_known = |set: &ValidatorSet| set.get(from.number()).is_some();
        if !is_known(&known.validators) && !is_known(&known.next_validators) {
            return;
        }
        match said {
            Said::Words(words, carried) => {
                let validators = match words.height().checked_sub(known.height) {
                    Some(0) => &known.validators,
                    Some(1) => &known.next_validators,
                    _ => return,
                };
                for (node, message, signature) in words.signed(&self.chain, validators.epoch()) {
                    let validator = validators.get(node);
                    let verify = |it: &Validator| self.looked.verify(&it.key, &message, &signature);
                    if !validator.is_some_and(verify) {
                        return;
                    }
                }
                // What a validator has signed for is worth a longer look.
                if let Some(Body::Frames(batch)) = carried.map(|carried| carried.body) {
                    drop(known);
                    self.calls.hold(&batch);
                }
            }
            Said::Heights(heights) => {
                for proved in heights {
                    let Ok(certificate) = Certificate::decode(&proved.proof) else { return };
                    let header = &proved.carried.header;
                    if header.height < known.height {
                        continue;
                    }
                    let is_of = |set: &&&ValidatorSet| header.validators == set.digest();
                    let sets = [&known.validators, &known.next_validators];
                    let Some(validators) = sets.iter().find(is_of) else { return };
                    let verified = verify_header_by(
                        &self.chain,
                        self.fault_model,
                        validators,
                        &certificate,
                        &proved.carried.head,
                        |key, message, signature| self.looked.verify(key, message, signature),
                    );
                    if verified.is_err() {
                        return;
                    }
                }
            }
            _ => {}
        }
    }

    fn wants_signed(&self) -> bool {
        self.calls.are_signed()
    }

    fn admits(&self, frames: &[Frame]) -> Result<(), String> {
        self.calls.admits(frames)
    }

    fn admits_batch(&self, batch: &Bytes) -> bool {
        self.calls.hold(batch)
    }

    fn signer(&self, groups: u32) -> io::Result<Option<Signer>> {
        self.calls.signer(groups)
    }
}

#[cfg(test)]
mod tests {
    use quorate_certificate::{Genesis, Scheme, SigningKey, Validator, VoteType, vote_bytes};

    use super::*;
    use crate::codec::Writer;
    use crate::keys::Keys;
    use crate::message;
    use crate::tendermint::signed_vote_of;

    const VALUE: [u8; 32] = [7; 32];

    struct Bench {
        chain: ChainId,
        signers: Vec<SigningKey>,
        keys: Keys,
        inspection: Inspection,
    }

    fn bench() -> Bench {
        let key = |number| SigningKey::from_bytes(&[vec![1], vec![number; 32]].concat()).unwrap();
        let signers: Vec<_> = (1..=4).map(key).collect();
        let validators = (1..).zip(&signers).map(|(node, key)| Validator {
            node,
            power: 1,
            key: key.public().clone(),
        });
        let model = FaultModel::Byzantine;
        let genesis =
            Genesis::new([3; 16], model, Scheme::Ed25519, 1000, validators.collect()).unwrap();
        let chain = genesis.chain(0);
        let keys = Keys::new(chain, Arc::new(key(1)), None);
        let mark = Mark::genesis(&genesis, &chain);
        let inspection = Inspection::new(&genesis, 0, Arc::clone(keys.looked()), &mark);
        Bench { chain, signers, keys, inspection }
    }

    impl Bench {
        /// A precommit that names `node`, signed with the key of `signer`.
        fn vote(&self, height: u64, node: u64, signer: usize) -> Message {
            let at = (true, height, 0, Some(VALUE));
            let vote =
                signed_vote_of((&self.chain, 0), at, node, &self.signers[signer - 1]).unwrap();
            let mut words = Writer::default();
            vote.encode(&mut words);
            message::words(&self.chain, &words.finish(), None)
        }

        /// What the engine finds of the same vote.
        fn holds(&self, height: u64, node: usize, signer: usize) -> bool {
            let (kind, value) = (VoteType::Precommit, Some(&VALUE));
            let bytes = vote_bytes(&self.chain, 0, kind, height, 0, value, node as u64);
            let signature = self.signers[signer - 1].sign(&bytes).unwrap();
            self.keys.verify(self.signers[node - 1].public(), &bytes, &signature)
        }
    }

    #[test]
    fn what_was_looked_at_where_it_arrived_is_not_looked_at_again() {
        let bench = bench();
        let looked = bench.keys.looked();
        // Of this height, of the next one, and one that is forged.
        for (height, signer) in [(1, 2), (2, 2), (1, 3)] {
            let before = looked.len();
            bench.inspection.inspect(NodeId::new(2), &bench.vote(height, 2, signer));
            assert_eq!(looked.len(), before + 1);
            assert_eq!(bench.holds(height, 2, signer), signer == 2);
            assert_eq!(looked.len(), before + 1, "it was looked at twice");
        }
    }

    #[test]
    fn what_is_for_the_next_height_outlives_this_one() {
        let bench = bench();
        bench.inspection.inspect(NodeId::new(2), &bench.vote(2, 2, 2));
        bench.keys.forget();
        assert!(bench.holds(2, 2, 2));
        assert_eq!(bench.keys.looked().len(), 1);
    }

    #[test]
    fn nobody_makes_it_look_at_what_is_not_asked_for() {
        let bench = bench();
        for (from, message) in [
            (9, bench.vote(1, 2, 2)),
            (2, bench.vote(3, 2, 2)),
            (2, bench.vote(1, 9, 2)),
            (2, Message::default()),
        ] {
            bench.inspection.inspect(NodeId::new(from), &message);
        }
        assert_eq!(bench.keys.looked().len(), 0);
    }
}
