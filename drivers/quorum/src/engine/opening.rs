//! Where an engine begins: what is decided is delivered again, and what was said about the next height is said again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use quorate_certificate::{Header, SigningKey, ValidatorSet};
use quorate_engine::engine::{Deliver, Delivery, Now, Opening, Output};
use quorate_storage::{Entry, Index, Record, Recovered, Tag};

use super::candidates::Candidate;
use super::catching_up::Sync;
use super::heights::{Ahead, TELL_AFTER};
use super::log_time::Stamps;
use super::members::Motions;
use super::reads::Reads;
use super::standing::{Standing, StoredError};
use super::{QuorumEngine, TELL};
use crate::config::Timing;
use crate::inspection::Inspection;
use crate::keys::Keys;
use crate::mark::Mark;
use crate::message::body_parts;
use crate::setup::Setup;
use crate::tendermint::Tendermint;

impl QuorumEngine {
    pub(super) fn open(
        rotate_every: u64,
        timing: Timing,
        setup: Setup,
        opening: Opening,
        out: &mut Output,
    ) -> Result<Self, String> {
        let Opening { group, node, members, incarnation, seed, checkpoint, log } = opening;
        let Setup { genesis, key, next_key } = setup;
        check_members(&genesis, members.iter().map(|member| member.number()))?;
        let chain = genesis.chain(group.number());
        let mark = match &checkpoint {
            Some(checkpoint) => {
                Mark::decode(&chain, &checkpoint.mark).map_err(|_| unread("checkpoint"))?
            }
            None => Mark::genesis(&genesis, &chain),
        };
        let standing = match &log.state {
            Some(stored) => Standing::decode(&chain, stored).map_err(|error| match error {
                StoredError::Malformed => unread("state in the log"),
                StoredError::Foreign => {
                    "the data directory is of another cluster, group or genesis: compare genesis_file with the one that it was begun with".into()
                }
            })?,
            None => Standing::default(),
        };
        let base = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.index);
        if mark.height != base {
            return Err(unread("checkpoint"));
        }
        if base > 0 && mark.history(&genesis, group.number()).is_err() {
            return Err(unread("checkpoint"));
        }
        let log_first = log.first.max(1);
        if log_first > base + 1 {
            return Err(format!(
                "the log begins at index {log_first} and the newest checkpoint ends at {base}: what is between is lost; run `quorate verify`"
            ));
        }
        let is_changed = next_key.is_some();
        let keys = Keys::new(chain, Arc::clone(&key), next_key);
        let looked = Arc::clone(keys.looked());
        let inspection = Inspection::new(&genesis, group.number(), looked, &mark);
        let mut engine = Self {
            node,
            timing,
            rotate_every,
            fault_model: genesis.fault_model(),
            genesis,
            group: group.number(),
            keys,
            inspection: Arc::new(inspection),
            chain,
            incarnation,
            standing,
            now: Now::ZERO,
            mark,
            last: None,
            decided_at: Now::ZERO,
            applied: checkpoint.as_ref().map_or((0, [0; 32]), |known| (known.index, known.state)),
            vouched: BTreeMap::new(),
            height: None,
            has_work: false,
            candidates: BTreeMap::new(),
            own: None,
            ahead: Ahead::default(),
            gate: 0,
            durable: 0,
            held: VecDeque::new(),
            next_ticket: 0,
            checks: BTreeMap::new(),
            stamps: Stamps::default(),
            fetches: BTreeMap::new(),
            peers: BTreeMap::new(),
            sync: Sync::default(),
            reads: Reads::new(seed),
            motions: Motions::default(),
            waits: None,
            kept_back: Vec::new(),
            log_first,
            checkpoint: (base > 0).then_some(base),
            is_empty_timer_set: false,
            tell_after: TELL_AFTER,
            foreign: BTreeSet::new(),
            fault: None,
        };
        engine.decide_again(out);
        engine.deliver_again(&log, out)?;
        engine.check_keys(&key, is_changed)?;
        engine.say_again(&log, out)?;
        // What waits for a write is not of the opening (R7).
        let now = out.deliveries.iter().take_while(|delivery| delivery.after == 0).count();
        engine.held.extend(out.deliveries.drain(now..));
        engine.found(out);
        engine.tell_members(out);
        if !engine.others().is_empty() {
            out.timers.push((TELL, Some(TELL_AFTER)));
        }
        match engine.fault.take() {
            Some(fault) => Err(fault),
            None => Ok(engine),
        }
    }

    /// Writes the decision of the last height in the checkpoint, which has it. Nothing waits for that record to be durable, so it may have
    /// been lost with the power when the checkpoint was not; and somebody may lack this height, and be needed for the next.
    fn decide_again(&self, out: &mut Output) {
        let index = self.mark.height;
        if let Some((_, proof)) = self.mark.proved.as_ref().filter(|_| index >= self.log_first) {
            let (tag, proof) = (Tag(self.mark.value), proof.clone());
            out.write(true, Record::Decide { index, tag, proof });
        }
    }

    fn deliver_again(&mut self, log: &Recovered, out: &mut Output) -> Result<(), String> {
        let entries: BTreeMap<(Index, Tag), &Entry> =
            log.entries.iter().map(|entry| ((entry.index, entry.tag), entry)).collect();
        for (index, tag, proof) in &log.decided {
            if *index <= self.mark.height {
                if let Some(entry) = entries.get(&(*index, *tag))
                    && *index == self.mark.height
                {
                    self.last = Some((Entry::clone(entry), proof.clone()));
                }
                continue;
            }
            if *index != self.next() {
                break;
            }
            let Some(entry) = entries.get(&(*index, *tag)) else {
                return Err(format!(
                    "what was decided at index {index} is not in the log: run `quorate verify`"
                ));
            };
            let header = header_of(entry).ok_or_else(|| unread("log"))?;
            if header.previous != self.mark.value {
                return Err(unread("log"));
            }
            let changed = self.changed_by(&entry.body).map_err(|_| unread("log"))?;
            let body = body_parts(&entry.body).1;
            let changed = changed.map(|next| (&body[..], next));
            self.mark = self.mark.after(&header, entry.head.clone(), proof.clone(), changed);
            self.vouched.insert(header.state_index, header.state);
            let entry = Entry::clone(entry);
            let (mark, delivered) = (self.mark.encode(), entry.clone());
            let what = Deliver::Batch { entry: delivered, mark, proof: proof.clone() };
            out.deliveries.push(Delivery { after: 0, what });
            self.last = Some((entry, proof.clone()));
        }
        // What is applied with the checkpoint was found right then.
        self.vouched.retain(|index, _| *index > self.applied.0);
        Ok(())
    }

    /// Whether this node signs with a key that is its own; `key` is the one that it has signed with up to now.
    fn check_keys(&mut self, key: &SigningKey, is_changed: bool) -> Result<(), String> {
        if self.validators().epoch() == 0 || !self.has_key() {
            check_key(self.validators(), self.node.number(), key, is_changed)?;
        }
        if let Some(known) = self.validators().get(self.node.number()) {
            let key = known.key.clone();
            self.keys.sign_as(&key);
        }
        Ok(())
    }

    /// Comes to where it was in the height that was under way, from its journal.
    fn say_again(&mut self, log: &Recovered, out: &mut Output) -> Result<(), String> {
        let index = self.next();
        let at = |note: &&(Index, Bytes)| note.0 == index;
        let journal: Vec<_> = log.notes.iter().filter(at).map(|(_, note)| note.clone()).collect();
        #[cfg(quorate_planted)]
        let journal = match quorate_planted::Bug::JournalNotReplayed.is_planted() {
            true => Vec::new(),
            false => journal,
        };
        if journal.is_empty() {
            return Ok(());
        }
        if !self.has_key() {
            return Err(format!("its journal has votes of height {index}: {}", self.lacks_key()));
        }
        if !self.votes() {
            return Err(unread("journal"));
        }
        for entry in log.entries.iter().filter(|entry| entry.index == index) {
            let header = header_of(entry).ok_or_else(|| unread("log"))?;
            let entry = entry.clone();
            let candidate = Candidate { entry, header, refused_in: None, is_kept: true };
            self.candidates.insert(candidate.entry.tag.0, candidate);
        }
        self.has_work = true;
        let mut acts = Vec::new();
        let (about, timing) = (self.about(), &self.timing);
        let height = Tendermint::replay(about, timing, &journal, &mut self.keys, &mut acts);
        self.height = Some(height.map_err(|_| unread("journal"))?);
        self.act(acts, out);
        Ok(())
    }
}

/// The header of an entry, if it is that of its tag and its body.
pub(super) fn header_of(entry: &Entry) -> Option<Header> {
    let header = Header::decode(&entry.head).ok()?;
    let (kind, bytes) = body_parts(&entry.body);
    let is_its = header.height == entry.index
        && header.id() == entry.tag.0
        && header.kind == kind
        && header.body == quorate_certificate::body_hash(kind, &bytes);
    is_its.then_some(header)
}

pub(super) fn check_key(
    validators: &ValidatorSet,
    node: u64,
    key: &SigningKey,
    is_changed: bool,
) -> Result<(), String> {
    let Some(validator) = validators.get(node) else { return Ok(()) };
    if validator.key == *key.public() {
        return Ok(());
    }
    let other = validators.validators().iter().find(|known| known.key == *key.public());
    Err(match other {
        Some(other) => format!(
            "key_file has the key of node {}, and this is node {node}; each node has its own",
            other.node
        ),
        // It may be one that the validators know by now: it follows until it has caught up.
        None if validators.epoch() > 0 || is_changed => return Ok(()),
        None => format!(
            "key_file has a key that the genesis does not know, and node {node} has another one there; use the files that were made together, or, if the key was changed since and the data directory is new, have the key as next_key_file too: then the node follows until it knows of the change"
        ),
    })
}

fn check_members(
    genesis: &quorate_certificate::Genesis,
    members: impl Iterator<Item = u64>,
) -> Result<(), String> {
    for node in members {
        if genesis.validators().get(node).is_none() {
            return Err(format!(
                "node {node} is configured as a member, and the genesis has no validator of that number; the members of a `quorum` cluster are those of its genesis"
            ));
        }
    }
    Ok(())
}

/// Something stored that is not this driver's.
pub(super) fn unread(what: &str) -> String {
    format!(
        "the {what} is not one that this driver wrote with this genesis: was another driver or another genesis used before?"
    )
}
