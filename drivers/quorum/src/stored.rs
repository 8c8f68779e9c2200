//! What a stopped node has stored beside its log: for who looks at it without running it.

use bytes::Bytes;
use quorate_certificate::{Decided, Evidence, Genesis};

use crate::codec::Malformed;
use crate::engine::evidence_of;
use crate::mark::{Mark, MarkError};

/// The changes of the validators that a checkpoint's mark carries, each as header, body and certificate: all since the genesis, decided up to the
/// height of the checkpoint. They follow from the genesis.
///
/// # Errors
///
/// The mark is not one of this group and genesis.
pub fn changes_in(genesis: &Genesis, group: u32, mark: &[u8]) -> Result<Vec<[Bytes; 3]>, String> {
    let words = |error| match error {
        MarkError::Malformed(Malformed(problem)) => {
            format!("the mark of the checkpoint: {problem}")
        }
        MarkError::Change(error) => format!("the mark of the checkpoint: {error}"),
        MarkError::Validators => {
            "the mark of the checkpoint has other validators than its changes make".to_owned()
        }
    };
    let mark = Mark::decode(&genesis.chain(group), mark);
    let mark = mark.map_err(|error| words(MarkError::Malformed(error)))?;
    mark.history(genesis, group).map_err(words)?;
    let mut changes = Vec::new();
    let own = |decided: Decided<'_>| {
        [decided.header, decided.body, decided.certificate].map(Bytes::copy_from_slice)
    };
    let read: Result<(), MarkError> = mark.changes.each(|decided| {
        changes.push(own(decided));
        Ok(())
    });
    read.map_err(words).map(|()| changes)
}

/// The evidence in the state that a group's log has.
///
/// # Errors
///
/// The state is not one of this group and genesis.
pub fn evidence_in(genesis: &Genesis, group: u32, state: &[u8]) -> Result<Vec<Evidence>, String> {
    evidence_of(&genesis.chain(group), state)
        .ok_or_else(|| "the state in the log is not that of this genesis and group".to_owned())
}
