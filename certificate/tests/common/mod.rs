//! A cluster that decides whatever a test wants.

#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod chain;

use quorate_certificate::{
    BodyKind, Certificate, ChainId, FaultModel, Genesis, Header, Scheme, Signature, SigningKey,
    Validator, ValidatorSet, VoteType, body_hash, vote_bytes,
};

pub(crate) struct Cluster {
    pub(crate) genesis: Genesis,
    pub(crate) keys: Vec<(u64, SigningKey)>,
}

/// The key with this number, the same at each run.
pub(crate) fn key(scheme: Scheme, number: u8) -> SigningKey {
    let (code, seeds) = match scheme {
        Scheme::Ed25519 => (1, 32),
        Scheme::MlDsa65 => (2, 32),
        Scheme::Hybrid => (3, 64),
    };
    SigningKey::from_bytes(&[vec![code], vec![number; seeds]].concat()).unwrap()
}

pub(crate) fn validator(node: u64, power: u64, key: &SigningKey) -> Validator {
    Validator { node, power, key: key.public().clone() }
}

impl Cluster {
    /// Nodes 1 to `count` of power 1; `id` tells clusters apart.
    pub(crate) fn new(id: u8, scheme: Scheme, fault_model: FaultModel, count: u8) -> Self {
        let keys: Vec<_> = (1..=count).map(|node| (u64::from(node), key(scheme, node))).collect();
        let validators = keys.iter().map(|(node, key)| validator(*node, 1, key)).collect();
        let genesis = Genesis::new([id; 16], fault_model, scheme, 500, validators).unwrap();
        Self { genesis, keys }
    }

    pub(crate) fn chain(&self) -> ChainId {
        self.genesis.chain(0)
    }

    pub(crate) fn set(&self) -> &ValidatorSet {
        self.genesis.validators()
    }

    /// The header of a batch at height 1.
    pub(crate) fn first(&self, kind: BodyKind, body: &[u8]) -> Header {
        Header {
            height: 1,
            previous: *self.chain().as_bytes(),
            proposer: 1,
            validators: self.set().digest(),
            next_validators: self.set().digest(),
            state_index: 0,
            state: [0; 32],
            kind,
            body: body_hash(kind, body),
        }
    }

    /// The precommit of `node` for `header`, by the key `signer` has.
    pub(crate) fn precommit(
        &self,
        header: &Header,
        round: u32,
        node: u64,
        signer: u64,
    ) -> Signature {
        let (kind, epoch) = (VoteType::Precommit, self.set().epoch());
        let (height, id) = (header.height, header.id());
        let vote = vote_bytes(&self.chain(), epoch, kind, height, round, Some(&id), node);
        let (_, key) = self.keys.iter().find(|(node, _)| *node == signer).unwrap();
        key.sign(&vote).unwrap()
    }

    /// The certificate of these nodes for `header`.
    pub(crate) fn certificate(&self, header: &Header, round: u32, nodes: &[u64]) -> Certificate {
        let signatures =
            nodes.iter().map(|node| (*node, self.precommit(header, round, *node, *node)));
        Certificate::new(header.height, round, header.id(), signatures.collect()).unwrap()
    }
}
