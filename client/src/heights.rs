//! What a node told a lane of the heights that its answers are about, and which of it holds.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use quorate_certificate::Header;
use quorate_replicator::GroupId;
use tokio::sync::OnceCell;

use crate::protocol::{HEIGHTS_TOLD, Height};

/// More than a node tells once, since callers look at a height a moment after its answer came.
const KEPT_MAX: usize = 2 * HEIGHTS_TOLD;

/// The newest heights that a lane was told of.
#[derive(Debug, Default)]
pub(crate) struct Heights(Mutex<VecDeque<Arc<Told>>>);

/// One of them.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) height: Height,
    /// Its header, once it is found to be decided: verified once for all frames of the height.
    pub(crate) judged: OnceCell<Header>,
}

impl Heights {
    pub(crate) fn add(&self, height: Height) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.push_back(Arc::new(Told { height, judged: OnceCell::new() }));
        if told.len() > KEPT_MAX {
            told.pop_front();
        }
    }

    /// What was told last of this height.
    pub(crate) fn get(&self, group: GroupId, index: u64) -> Option<Arc<Told>> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |told: &&Arc<Told>| (told.height.group, told.height.index) == (group, index);
        told.iter().rev().find(is_it).cloned()
    }
}
