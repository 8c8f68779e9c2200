//! A history that validators decided, with changes of them on the way.

use quorate_certificate::{
    Audit, BodyKind, Certificate, Decided, Genesis, Header, HistoryWriter, MembersBody, NewKey,
    Scheme, SigningKey, ValidatorChange, ValidatorHistory, ValueId, VoteType, body_hash,
    vote_bytes,
};

use crate::common::{Cluster, key};

/// One decided batch.
#[derive(Clone)]
pub(crate) struct Block {
    pub(crate) header: Vec<u8>,
    pub(crate) body: Vec<u8>,
    pub(crate) certificate: Vec<u8>,
}

impl Block {
    pub(crate) fn as_decided(&self) -> Decided<'_> {
        let Self { header, body, certificate } = self;
        Decided { header, body, certificate }
    }

    pub(crate) fn header(&self) -> Header {
        Header::decode(&self.header).unwrap()
    }
}

/// Decides batch after batch, with the keys of all who ever were validators.
pub(crate) struct Chain {
    pub(crate) genesis: Genesis,
    pub(crate) blocks: Vec<Block>,
    /// The height before the first.
    before: u64,
    validators: ValidatorHistory,
    /// By node, the newest last.
    keys: Vec<(u64, SigningKey)>,
    previous: ValueId,
}

impl Chain {
    pub(crate) fn new(cluster: Cluster) -> Self {
        let Cluster { genesis, keys } = cluster;
        let validators = ValidatorHistory::new(&genesis, 0);
        let previous = *validators.chain().as_bytes();
        Self { genesis, blocks: Vec::new(), before: 0, validators, keys, previous }
    }

    /// One that goes on from what another driver left.
    pub(crate) fn inherited(cluster: Cluster, index: u64, state: [u8; 32]) -> Self {
        let mut chain = Self::new(cluster);
        chain.before = index;
        chain.previous = chain.validators.chain().origin(index, &state);
        chain
    }

    fn height(&self) -> u64 {
        self.before + self.blocks.len() as u64 + 1
    }

    /// The header of the next batch.
    pub(crate) fn next(&self, kind: BodyKind, body: &[u8]) -> Header {
        let height = self.height();
        let validators = self.validators.at(height);
        Header {
            height,
            previous: self.previous,
            proposer: validators.validators()[0].node,
            validators: validators.digest(),
            next_validators: self.validators.at(height + 1).digest(),
            state_index: height - 1,
            state: [height as u8; 32],
            kind,
            body: body_hash(kind, body),
        }
    }

    /// The header, signed by all validators of its height.
    pub(crate) fn signed(&self, header: &Header, body: &[u8]) -> Block {
        let validators = self.validators.at(header.height);
        let (height, id, chain) = (header.height, header.id(), self.validators.chain());
        let signatures = validators.validators().iter().map(|validator| {
            let owner = |(_, key): &&(u64, SigningKey)| *key.public() == validator.key;
            let (_, key) = self.keys.iter().find(owner).expect("the key of a validator");
            let (epoch, kind) = (validators.epoch(), VoteType::Precommit);
            let vote = vote_bytes(chain, epoch, kind, height, 0, Some(&id), validator.node);
            (validator.node, key.sign(&vote).unwrap())
        });
        let certificate = Certificate::new(height, 0, id, signatures.collect()).unwrap();
        Block { header: header.encode(), body: body.to_vec(), certificate: certificate.encode() }
    }

    pub(crate) fn decide(&mut self, kind: BodyKind, body: &[u8]) {
        let header = self.next(kind, body);
        let block = self.signed(&header, body);
        if kind == BodyKind::Members {
            self.validators.apply(header.height, body).unwrap();
        }
        self.previous = header.id();
        self.blocks.push(block);
    }

    pub(crate) fn change(&mut self, change: ValidatorChange) {
        let body = MembersBody { changes: vec![change], note: Default::default() };
        self.decide(BodyKind::Members, &body.encode());
    }

    pub(crate) fn frames(&mut self, count: u8) {
        for number in 0..count {
            self.decide(BodyKind::Frames, &[number; 40]);
        }
    }

    /// Adds a node with a new key.
    pub(crate) fn add(&mut self, node: u8) {
        let key = key(Scheme::Ed25519, node);
        let chain = self.validators.chain();
        let change = ValidatorChange::add(chain, node.into(), 1, &key).unwrap();
        self.keys.push((node.into(), key));
        self.change(change);
    }

    /// Gives a node another key.
    pub(crate) fn rotate(&mut self, node: u64, number: u8) {
        let new = key(Scheme::Ed25519, number);
        let owner = |(known, _): &&(u64, SigningKey)| *known == node;
        let (_, old) = self.keys.iter().rev().find(owner).unwrap();
        let change = NewKey::new(self.validators.chain(), node, old, &new).unwrap();
        self.keys.push((node, new));
        self.change(ValidatorChange::RotateKey(change));
    }

    /// Heights 1 to 14, with validators that come, go, and get another key.
    pub(crate) fn example() -> Self {
        let mut chain = Self::new(Cluster::new(
            7,
            Scheme::Ed25519,
            quorate_certificate::FaultModel::Byzantine,
            4,
        ));
        chain.frames(2);
        chain.add(5);
        // Decided by those of before; the one after it is the first of the new ones.
        chain.frames(1);
        chain.rotate(2, 20);
        // Two in a row build on one another.
        chain.change(ValidatorChange::Remove { node: 1 });
        chain.add(6);
        chain.decide(BodyKind::Empty, &[]);
        chain.frames(6);
        chain
    }

    /// All of it in a file.
    pub(crate) fn file(&self) -> Vec<u8> {
        self.file_from(1)
    }

    /// The file of a node that keeps only what is at and above this height.
    pub(crate) fn file_from(&self, first: usize) -> Vec<u8> {
        let mut writer = HistoryWriter::new(Vec::new(), &self.genesis, 0).unwrap();
        for block in &self.blocks[..first - 1] {
            if block.header().kind == BodyKind::Members {
                writer.change(block.as_decided()).unwrap();
            }
        }
        for block in &self.blocks[first - 1..] {
            writer.batch(block.as_decided()).unwrap();
        }
        let (height, id) = self.tip();
        writer.end(if height == 0 { 0 } else { first as u64 }, height, &id).unwrap()
    }

    pub(crate) fn tip(&self) -> (u64, ValueId) {
        (self.height() - 1, self.previous)
    }

    pub(crate) fn audit(&self) -> Audit {
        Audit::new(&self.genesis, 0)
    }
}
