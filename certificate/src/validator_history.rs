//! Which validators decide which height, as the decided changes say.

use crate::certificate::{Certificate, CertificateError, verify_certificate, verify_header};
use crate::change::{ChangeError, MembersBody};
use crate::codec::Malformed;
use crate::decided::Decided;
use crate::fault_model::FaultModel;
use crate::genesis::{ChainId, Genesis};
use crate::header::{BodyKind, Header};
use crate::scheme::Scheme;
use crate::validator::ValidatorSet;

/// How many heights after the one that decides a change it is in force: the next one is under way already.
pub const CHANGE_DELAY: u64 = 2;

/// The validators of all heights of one group, from the genesis on. It takes no more than the batches that change them, so that whoever
/// has those can verify any decided batch, without the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatorHistory {
    genesis: [u8; 32],
    group: u32,
    chain: ChainId,
    /// What new keys are signed for, in all groups.
    key_chain: ChainId,
    fault_model: FaultModel,
    /// How calls are signed, where the genesis wants that.
    calls: Option<Scheme>,
    /// The validators, each with the first height they decide.
    sets: Vec<(u64, ValidatorSet)>,
    /// The height of the newest change; 0 before the first.
    changed: u64,
}

/// Why a batch is not decided by the validators of its height.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// The certificate is not one.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The certificate does not hold.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The header names other validators for the next height.
    #[error(
        "height {height}: the header names other validators for the next height than the changes before it make"
    )]
    NextValidators {
        /// Of which height.
        height: u64,
    },
    /// What is taken for a change is none.
    #[error("height {height}: it carries {}, where a change of the validators is wanted", .kind.name())]
    Kind {
        /// Of which height.
        height: u64,
        /// What it carries.
        kind: BodyKind,
    },
    /// The changes are not in their order.
    #[error("height {height}: a change of it comes after one of height {newest}")]
    Order {
        /// The height of the change.
        height: u64,
        /// That of the newest before it.
        newest: u64,
    },
    /// The body of a change cannot be read.
    #[error("height {height}: {error}")]
    Body {
        /// Of which height.
        height: u64,
        /// What is wrong.
        error: Malformed,
    },
    /// Validators may not be changed in this way.
    #[error("height {height}: {error}")]
    Change {
        /// Of which height.
        height: u64,
        /// Why not.
        error: ChangeError,
    },
}

impl ValidatorHistory {
    /// Before any change.
    pub fn new(genesis: &Genesis, group: u32) -> Self {
        Self {
            genesis: genesis.hash(),
            group,
            chain: genesis.chain(group),
            key_chain: genesis.key_chain(),
            fault_model: genesis.fault_model(),
            calls: genesis.signed_frames().then(|| genesis.validators().scheme()),
            sets: vec![(0, genesis.validators().clone())],
            changed: 0,
        }
    }

    /// The hash of the genesis.
    pub const fn genesis(&self) -> [u8; 32] {
        self.genesis
    }

    /// Which group it is of.
    pub const fn group(&self) -> u32 {
        self.group
    }

    /// What the signatures refer to.
    pub const fn chain(&self) -> &ChainId {
        &self.chain
    }

    /// Against what the validators stand.
    pub const fn fault_model(&self) -> FaultModel {
        self.fault_model
    }

    /// How the calls of all batches are [signed](crate::verify_calls); none where the genesis does not ask.
    pub const fn calls(&self) -> Option<Scheme> {
        self.calls
    }

    /// The validators of a height, as far as changes are known: those of heights up to [`changed`](Self::changed) + 2 are certain.
    pub fn at(&self, height: u64) -> &ValidatorSet {
        let place = self.sets.partition_point(|(from, _)| *from <= height);
        // The first set is from height 0 on.
        let (_, set) = self.sets.get(place.saturating_sub(1)).expect("the genesis has a set");
        set
    }

    /// The validators of an epoch, if it has been.
    pub fn of_epoch(&self, epoch: u64) -> Option<&ValidatorSet> {
        self.sets.iter().map(|(_, set)| set).find(|set| set.epoch() == epoch)
    }

    /// The first height at which a node was a validator, and the one since which it is without a break, as far as changes are known; none
    /// if it is none now.
    pub fn since(&self, node: u64) -> Option<(u64, u64)> {
        let is_there = |(_, set): &&(u64, ValidatorSet)| set.get(node).is_some();
        let (since, _) = self.sets.iter().rev().take_while(is_there).last()?;
        let (first, _) = self.sets.iter().find(is_there)?;
        Some((*first, *since))
    }

    /// The height of the newest change that it has; 0 before the first.
    pub const fn changed(&self) -> u64 {
        self.changed
    }

    /// Whether `certificate` decides this batch, by the validators of its height. Changes of all heights below it have to be known;
    /// if one is missing, the header names other validators, and is refused.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn verify(&self, decided: Decided<'_>) -> Result<Header, HistoryError> {
        let Decided { header, body, certificate } = decided;
        let certificate = Certificate::decode(certificate)?;
        let set = self.at(certificate.height());
        let (chain, model) = (&self.chain, self.fault_model);
        let header = verify_certificate(chain, model, set, &certificate, header, body)?;
        self.check_next(header)
    }

    /// As [`verify`](Self::verify), for who does not have the body: then it says nothing about that.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn verify_header(&self, header: &[u8], certificate: &[u8]) -> Result<Header, HistoryError> {
        let certificate = Certificate::decode(certificate)?;
        let set = self.at(certificate.height());
        let header = verify_header(&self.chain, self.fault_model, set, &certificate, header)?;
        self.check_next(header)
    }

    fn check_next(&self, header: Header) -> Result<Header, HistoryError> {
        let height = header.height;
        if header.next_validators != self.at(height.saturating_add(1)).digest() {
            return Err(HistoryError::NextValidators { height });
        }
        Ok(header)
    }

    /// Takes a decided change, which has to come after those that it has.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong; then nothing is taken.
    pub fn push(&mut self, decided: Decided<'_>) -> Result<Header, HistoryError> {
        let header = self.verify(decided)?;
        let (height, kind) = (header.height, header.kind);
        if kind != BodyKind::Members {
            return Err(HistoryError::Kind { height, kind });
        }
        self.apply(height, decided.body)?;
        Ok(header)
    }

    /// Takes the change of a height that is known to be decided, as by the driver that decided it.
    ///
    /// # Errors
    ///
    /// It is no change, or not one that validators vote for; then nothing is taken.
    pub fn apply(&mut self, height: u64, body: &[u8]) -> Result<(), HistoryError> {
        if height <= self.changed {
            return Err(HistoryError::Order { height, newest: self.changed });
        }
        let changed = self.check(height, body)?;
        if changed.epoch() != self.at(height.saturating_add(1)).epoch() {
            self.sets.push((height.saturating_add(CHANGE_DELAY), changed));
        }
        self.changed = height;
        Ok(())
    }

    /// The validators that the change of `body`, decided at `height`, would put in force two heights later: what a validator asks before
    /// it votes for it.
    ///
    /// # Errors
    ///
    /// It is no change, or not one to vote for.
    pub fn check(&self, height: u64, body: &[u8]) -> Result<ValidatorSet, HistoryError> {
        let body =
            MembersBody::decode(body).map_err(|error| HistoryError::Body { height, error })?;
        self.at(height.saturating_add(1))
            .change(&self.key_chain, &body.changes)
            .map_err(|error| HistoryError::Change { height, error })
    }
}
