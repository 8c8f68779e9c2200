//! Verifies a whole history, batch by batch.

use std::collections::BTreeMap;

use crate::codec::hex;
use crate::decided::Decided;
use crate::genesis::Genesis;
use crate::header::{BodyKind, Header};
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
    /// What headers said of the history at an index.
    claims: BTreeMap<u64, [u8; 32]>,
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
}

impl Audit {
    /// From height 1 on.
    pub fn new(genesis: &Genesis, group: u32) -> Self {
        let validators = ValidatorHistory::new(genesis, group);
        let id = Some(*validators.chain().as_bytes());
        Self { validators, tip: 0, id, claims: BTreeMap::new() }
    }

    /// From the height after `height` on, for a history whose beginning is gone. `validators` has the changes of all heights up to that one.
    pub fn after(validators: ValidatorHistory, height: u64) -> Self {
        Self { validators, tip: height, id: None, claims: BTreeMap::new() }
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
        self.validators.verify(decided)?;
        if header.kind == BodyKind::Members {
            self.validators.apply(height, decided.body)?;
        }
        self.claims.insert(index, header.state);
        if self.claims.len() > CLAIMS_MAX {
            self.claims.pop_first();
        }
        (self.tip, self.id) = (height, Some(header.id()));
        Ok(header)
    }

    /// The newest height, and the id of its header: of the chain itself before the first; none where the beginning is gone and nothing was
    /// taken yet.
    pub fn tip(&self) -> Option<(u64, ValueId)> {
        self.id.map(|id| (self.tip, id))
    }

    /// Which validators decide which height.
    pub const fn validators(&self) -> &ValidatorHistory {
        &self.validators
    }
}
