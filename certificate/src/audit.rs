//! Verifies a whole history, batch by batch.

use std::collections::BTreeMap;

use crate::call::{CallError, verify_body_calls};
use crate::change::MembersBody;
use crate::codec::hex;
use crate::decided::Decided;
use crate::evidence::{Evidence, EvidenceError};
use crate::genesis::Genesis;
use crate::header::{BodyKind, Header};
use crate::motion::Motion;
use crate::validator_history::{HistoryError, ValidatorHistory};
use crate::vote::ValueId;

/// Of how many indexes the hash that proposers claimed is remembered, to be compared with what later ones claim.
const CLAIMS_MAX: usize = 1024;

/// Verifies decided batches in their order, without a gap. What it says of a tip is true if all that it was given was taken; whether
/// something was decided after that, nobody can see without asking another one.
#[derive(Clone, Debug)]
pub struct Audit {
    validators: ValidatorHistory,
    tip: u64,
    /// The id at the tip; none where the history begins later.
    id: Option<ValueId>,
    /// The first height that was taken; 0 before that.
    first: u64,
    /// What another driver left, if that is where the first height says that the history begins.
    inherited: Option<[u8; 32]>,
    /// What headers said of the history at an index.
    claims: BTreeMap<u64, [u8; 32]>,
    /// How the validators changed, and what some of them did.
    changes: Vec<AuditedChange>,
    evidence: Vec<Evidence>,
    /// A height and the id of its header, which are to be found.
    wanted: Option<(u64, ValueId)>,
}

/// What a history that was verified says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Audited {
    /// The hash of its genesis. An auditor who was not given that by somebody it trusts has to compare this.
    pub genesis: [u8; 32],
    /// Which group it is the history of.
    pub group: u32,
    /// The first height in it; above 1, what was before is not in it. 0 if it is empty.
    pub first: u64,
    /// The hash of the history up to the height before the first one, if another driver has left that and nothing was decided by
    /// validators before: then the history is whole, from there on.
    pub inherited: Option<[u8; 32]>,
    /// The newest height; 0 before the first.
    pub height: u64,
    /// The id of the header of that height, or the chain before the first.
    pub id: ValueId,
    /// The epoch of the validators of the next height.
    pub epoch: u64,
    /// How the validators changed in it, in the order of the heights.
    pub changes: Vec<AuditedChange>,
    /// What validators did that keep no rules; each is verified, and a part of what they may have done.
    pub evidence: Vec<Evidence>,
}

/// A decided change of the validators.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditedChange {
    /// At which height it was decided; it is in force two heights later.
    pub height: u64,
    /// What changed, in words.
    pub words: String,
    /// The validators whose operators have approved it; their signatures hold.
    pub approved_by: Vec<u64>,
}

/// The first thing that is wrong with a history.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// A batch is not the next one.
    #[error("height {found} comes where {expected} should")]
    Gap {
        /// The height that should come.
        expected: u64,
        /// The one that does.
        found: u64,
    },
    /// A batch is not decided by the validators of its height.
    #[error(transparent)]
    Decision(#[from] HistoryError),
    /// A header names another one before it.
    #[error("height {height}: the header follows {}, and the one before it is {}", hex(.named), hex(.previous))]
    Previous {
        /// Of which height.
        height: u64,
        /// Which one it names.
        named: ValueId,
        /// Which one is there.
        previous: ValueId,
    },
    /// A header vouches for the history of a height that is not before it.
    #[error("height {height}: the header has the state of height {index}, which is not before it")]
    FutureState {
        /// Of which height.
        height: u64,
        /// Of which state.
        index: u64,
    },
    /// Two headers vouch for different histories of the same height.
    #[error(
        "height {height}: the header has another state of height {index} than one before it had"
    )]
    State {
        /// Of which height.
        height: u64,
        /// Of which state.
        index: u64,
    },
    /// A frame was not proposed by the one whom its session names: more validators lied than may.
    #[error("height {height}: {error}")]
    Call {
        /// Of which height.
        height: u64,
        /// What is wrong.
        error: CallError,
    },
    /// It ends before the tip that is to be found.
    #[error("it ends at height {height}, and {wanted} is decided: its tail is missing")]
    Tail {
        /// Where it ends.
        height: u64,
        /// How far it should go.
        wanted: u64,
    },
    /// The height of the tip that is to be found is not in it.
    #[error("height {height}, whose header is to be found, is not in it")]
    Tip {
        /// Which.
        height: u64,
    },
    /// What is to show that a validator broke the rules does not.
    #[error("evidence against node {node}: {error}")]
    Evidence {
        /// Against whom.
        node: u64,
        /// Why it shows nothing.
        error: EvidenceError,
    },
    /// It has another header at the height of the tip that is to be found.
    #[error("height {height}: its header is {}, and the one to be found {}", hex(.found), hex(.wanted))]
    OtherTip {
        /// Of which height.
        height: u64,
        /// The id there.
        found: ValueId,
        /// The one that should be there.
        wanted: ValueId,
    },
}

impl Audit {
    /// From height 1 on.
    pub fn new(genesis: &Genesis, group: u32) -> Self {
        let validators = ValidatorHistory::new(genesis, group);
        let id = Some(*validators.chain().as_bytes());
        Self { id, ..Self::after(validators, 0) }
    }

    /// From the height after `height` on, for a history whose beginning is gone. `validators` has the changes of all heights up to that one.
    pub fn after(validators: ValidatorHistory, height: u64) -> Self {
        Self {
            validators,
            tip: height,
            id: None,
            first: 0,
            inherited: None,
            claims: BTreeMap::new(),
            changes: Vec::new(),
            evidence: Vec::new(),
            wanted: None,
        }
    }

    /// With a height and the id of its header, which have to be in it: a tail that is missing cannot be seen otherwise.
    pub const fn looking_for(mut self, tip: Option<(u64, ValueId)>) -> Self {
        self.wanted = tip;
        self
    }

    /// Takes the next batch.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with it; then nothing is taken.
    pub fn add(&mut self, decided: Decided<'_>) -> Result<Header, AuditError> {
        let header = Header::decode(decided.header).map_err(HistoryError::from)?;
        let (height, expected) = (header.height, self.tip.saturating_add(1));
        if height != expected {
            return Err(AuditError::Gap { expected, found: height });
        }
        if let Some(previous) = self.id
            && header.previous != previous
        {
            return Err(AuditError::Previous { height, named: header.previous, previous });
        }
        let index = header.state_index;
        if index >= height {
            return Err(AuditError::FutureState { height, index });
        }
        if self.claims.get(&index).is_some_and(|known| *known != header.state) {
            return Err(AuditError::State { height, index });
        }
        if let Some((wanted_height, wanted)) = self.wanted
            && wanted_height == height
            && wanted != header.id()
        {
            return Err(AuditError::OtherTip { height, found: header.id(), wanted });
        }
        self.validators.verify(decided)?;
        if let Some(scheme) = self.validators.calls()
            && header.kind == BodyKind::Frames
        {
            verify_body_calls(self.validators.chain(), scheme, decided.body)
                .map_err(|error| AuditError::Call { height, error })?;
        }
        if header.kind == BodyKind::Members {
            let change = self.change(height, decided.body);
            self.validators.apply(height, decided.body)?;
            self.changes.extend(change);
        }
        self.claims.insert(index, header.state);
        if self.claims.len() > CLAIMS_MAX {
            self.claims.pop_first();
        }
        (self.tip, self.id) = (height, Some(header.id()));
        if self.first == 0 {
            self.first = height;
            let origin = self.validators.chain().origin(index, &header.state);
            self.inherited =
                (index + 1 == height && header.previous == origin).then_some(header.state);
        }
        Ok(header)
    }

    /// What a decided change says of itself, before it is applied.
    fn change(&self, height: u64, body: &[u8]) -> Option<AuditedChange> {
        let (motion, approvals) = Motion::of(&MembersBody::decode(body).ok()?).ok()?;
        let (chain, set) = (self.validators.chain(), self.validators.at(height.saturating_add(1)));
        let holds = |(node, approval): &(u64, _)| {
            motion.verify_approval(chain, set, *node, approval).is_ok().then_some(*node)
        };
        let approved_by = approvals.iter().filter_map(holds).collect();
        Some(AuditedChange { height, words: motion.to_string(), approved_by })
    }

    /// Takes evidence, of an epoch up to which the changes were taken.
    ///
    /// # Errors
    ///
    /// It shows nothing; then nothing is taken.
    pub fn evidence(&mut self, evidence: Evidence) -> Result<(), AuditError> {
        let (node, found) = (evidence.validator(), evidence.epoch());
        let refused = |error| AuditError::Evidence { node, error };
        let newest = self.validators.at(u64::MAX).epoch();
        let set = self.validators.of_epoch(found);
        let set = set.ok_or_else(|| refused(EvidenceError::Epoch { found, epoch: newest }))?;
        evidence.verify(self.validators.chain(), set).map_err(refused)?;
        self.evidence.push(evidence);
        Ok(())
    }

    /// The newest height, and the id of its header: of the chain itself before the first; none where the beginning is gone and nothing was
    /// taken yet.
    pub fn tip(&self) -> Option<(u64, ValueId)> {
        self.id.map(|id| (self.tip, id))
    }

    /// What all that was taken says; nothing more comes.
    ///
    /// # Errors
    ///
    /// The height that was to be found is not in it.
    pub fn finish(&self) -> Result<Audited, AuditError> {
        let (height, first, inherited) = (self.tip, self.first, self.inherited);
        match self.wanted {
            Some((wanted, _)) if wanted > height => {
                return Err(AuditError::Tail { height, wanted });
            }
            Some((wanted, _)) if wanted < first || first == 0 => {
                return Err(AuditError::Tip { height: wanted });
            }
            _ => {}
        }
        let Self { validators, .. } = self;
        Ok(Audited {
            genesis: validators.genesis(),
            group: validators.group(),
            first,
            inherited,
            height,
            id: self.id.unwrap_or_default(),
            epoch: validators.at(height.saturating_add(1)).epoch(),
            changes: self.changes.clone(),
            evidence: self.evidence.clone(),
        })
    }

    /// Which validators decide which height.
    pub const fn validators(&self) -> &ValidatorHistory {
        &self.validators
    }
}
