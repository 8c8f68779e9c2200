//! What is known of one group: where its records are, and the small ones themselves.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::format::{Item, Loc};
use crate::{Index, Record, Tag};

/// Records of one group, folded in order. The same fold runs at a commit and at recovery.
///
/// # Invariants
///
/// 1. Slot `i` is of index `first + i`; nothing below `first` is known.
/// 2. A decided slot has at most one candidate, the decided one.
/// 3. `live` counts for each segment the puts, decisions and notes that are in it and still needed.
#[derive(Clone, Debug)]
pub(super) struct GroupLog {
    first: Index,
    slots: VecDeque<Slot>,
    reset: Option<(Index, Bytes)>,
    state: Option<Bytes>,
    notes: BTreeMap<Index, Vec<(u32, Bytes)>>,
    live: VecDeque<(u32, u64)>,
}

/// What is known of an index. There are as many as there are entries, so that what few of them have is apart.
#[derive(Clone, Debug)]
struct Slot {
    /// Where the decided candidate is, or the first one.
    put: Loc,
    /// The tag of that candidate if only its first eight bytes are not zero, as with terms.
    tag: [u8; 8],
    extra: Option<Box<Extra>>,
}

/// What else can be known of an index.
#[derive(Clone, Debug, Default)]
struct Extra {
    /// What follows the first eight bytes of the tag.
    tag: [u8; 24],
    /// Where the decision is.
    decide: Loc,
    /// Whether the decision has a proof.
    proof: bool,
    /// The other candidates, in the order in which they were put last.
    more: Vec<(Tag, Loc)>,
}

/// Where the entry is that a reader wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) put: Loc,
    /// Where its proof is, if it is decided with one.
    pub(super) proof: Option<Loc>,
}

impl Slot {
    const EMPTY: Self = Self { put: Loc::NONE, tag: [0; 8], extra: None };

    fn is_empty(&self) -> bool {
        self.put.is_none() && self.decide().is_none()
    }

    fn tag(&self) -> Tag {
        let mut tag = [0; 32];
        tag[..8].copy_from_slice(&self.tag);
        if let Some(extra) = &self.extra {
            tag[8..].copy_from_slice(&extra.tag);
        }
        Tag(tag)
    }

    fn set_tag(&mut self, tag: &Tag) {
        let (short, long) = tag.0.split_at(8);
        self.tag.copy_from_slice(short);
        if self.extra.is_some() || long != [0; 24] {
            self.extra.get_or_insert_default().tag.copy_from_slice(long);
        }
    }

    fn decide(&self) -> Loc {
        self.extra.as_ref().map_or(Loc::NONE, |extra| extra.decide)
    }

    fn proof(&self) -> Option<Loc> {
        self.extra.as_ref().filter(|extra| extra.proof).map(|extra| extra.decide)
    }

    fn more(&self) -> &[(Tag, Loc)] {
        self.extra.as_ref().map_or(&[], |extra| &extra.more)
    }

    fn candidates(&self) -> impl Iterator<Item = (Tag, Loc)> {
        let one = (!self.put.is_none()).then(|| (self.tag(), self.put));
        one.into_iter().chain(self.more().iter().copied())
    }

    fn places(&self) -> impl Iterator<Item = Loc> {
        let one = (!self.put.is_none()).then_some(self.put);
        one.into_iter().chain(self.more().iter().map(|&(_, loc)| loc))
    }
}

impl GroupLog {
    pub(super) fn new() -> Self {
        Self {
            first: 1,
            slots: VecDeque::new(),
            reset: None,
            state: None,
            notes: BTreeMap::new(),
            live: VecDeque::new(),
        }
    }

    /// The first index that is kept.
    pub(super) fn first(&self) -> Index {
        self.first
    }

    /// The last index that has a candidate; one below `first` if none has.
    pub(super) fn last(&self) -> Index {
        let after = self.slots.iter().rposition(|slot| !slot.put.is_none());
        self.first + after.map_or(0, |at| at as u64 + 1) - 1
    }

    /// One above the last index of which anything but a note is known.
    pub(super) fn end(&self) -> Index {
        self.first + self.slots.len() as u64
    }

    pub(super) fn reset(&self) -> Option<&(Index, Bytes)> {
        self.reset.as_ref()
    }

    pub(super) fn state(&self) -> Option<&Bytes> {
        self.state.as_ref()
    }

    /// The oldest segment that holds something of this group.
    pub(super) fn oldest(&self) -> Option<u32> {
        self.live.front().map(|&(segment, _)| segment)
    }

    /// The oldest segment that holds something of this group once a head is written, which repeats the notes of undecided
    /// indexes.
    pub(super) fn oldest_after_head(&self) -> Option<u32> {
        let mut after = self.clone_counts();
        for (&index, notes) in &self.notes {
            if !self.is_decided(index) {
                for &(segment, _) in notes {
                    *after.get_mut(&segment).expect("a note has been counted") -= 1;
                }
            }
        }
        after.into_iter().find(|&(_, count)| count > 0).map(|(segment, _)| segment)
    }

    fn clone_counts(&self) -> BTreeMap<u32, u64> {
        self.live.iter().copied().collect()
    }

    /// How many puts, decisions and notes are needed.
    pub(super) fn live(&self) -> u64 {
        self.live.iter().map(|&(_, count)| count).sum()
    }

    /// How many of them are in this segment.
    pub(super) fn live_in(&self, segment: u32) -> u64 {
        let at = self.live.binary_search_by_key(&segment, |&(at, _)| at);
        at.map_or(0, |at| self.live[at].1)
    }

    /// The decided candidate at an index or, if none is decided, the last one.
    pub(super) fn find(&self, index: Index) -> Option<Found> {
        let slot = self.slot(index)?;
        Some(Found { put: slot.places().last()?, proof: slot.proof() })
    }

    /// Whether this is where a candidate is.
    pub(super) fn has(&self, index: Index, loc: Loc) -> bool {
        self.slot(index).is_some_and(|slot| slot.places().any(|put| put == loc))
    }

    /// The place of a candidate among those at its index.
    pub(super) fn ordinal(&self, index: Index, loc: Loc) -> usize {
        let slot = self.slot(index);
        slot.and_then(|slot| slot.places().position(|put| put == loc)).unwrap_or(0)
    }

    /// Candidates at an index, in the order in which they were put, and where its decision is.
    pub(super) fn records(&self, index: Index) -> (Vec<Loc>, Option<Loc>) {
        let Some(slot) = self.slot(index) else { return (Vec::new(), None) };
        let decide = Some(slot.decide()).filter(|decide| !decide.is_none());
        (slot.places().collect(), decide)
    }

    /// Whether this is where the decision of an index is.
    pub(super) fn decides(&self, index: Index, loc: Loc) -> bool {
        self.slot(index).is_some_and(|slot| slot.decide() == loc)
    }

    /// Notes by index and then in their order.
    pub(super) fn notes(&self) -> impl Iterator<Item = (Index, &Bytes)> {
        self.notes.iter().flat_map(|(&index, notes)| notes.iter().map(move |(_, n)| (index, n)))
    }

    pub(super) fn notes_at(&self, index: Index) -> impl Iterator<Item = &Bytes> {
        self.notes.get(&index).into_iter().flatten().map(|(_, note)| note)
    }

    /// Indexes of which something is in this segment.
    pub(super) fn indexes_in(&self, segment: u32, max: usize) -> Vec<Index> {
        let in_slot = |slot: &Slot| {
            slot.decide().segment == segment || slot.places().any(|loc| loc.segment == segment)
        };
        let slots = (self.first..).zip(&self.slots).filter(|(_, slot)| in_slot(slot));
        let mut indexes: Vec<Index> = slots.map(|(index, _)| index).take(max).collect();
        let notes = self.notes.iter().filter(|(_, notes)| notes.iter().any(|n| n.0 == segment));
        indexes.extend(notes.map(|(&index, _)| index).take(max));
        indexes.sort_unstable();
        indexes.dedup();
        indexes.truncate(max);
        indexes
    }

    /// What the beginning of a segment says of this group.
    pub(super) fn head(&self) -> Vec<Item> {
        let (reset, state) = (self.reset.clone(), self.state.clone());
        let mut items = vec![Item::Head { first: self.first, reset, state }];
        for (&index, notes) in &self.notes {
            if !self.is_decided(index) {
                let note = |(_, note): &(u32, Bytes)| {
                    Item::Record(Record::Note { index, note: note.clone() })
                };
                items.extend(notes.iter().map(note));
            }
        }
        items
    }

    /// The notes of undecided indexes are in the head of this segment from now on.
    pub(super) fn head_written(&mut self, segment: u32) {
        let mut notes = std::mem::take(&mut self.notes);
        for (&index, notes) in &mut notes {
            if !self.is_decided(index) {
                for (at, _) in notes {
                    self.drop_live(*at);
                    *at = segment;
                    self.add_live(segment);
                }
            }
        }
        self.notes = notes;
    }

    pub(super) fn apply_item(&mut self, item: &Item, loc: Loc) {
        match item {
            Item::Record(record) => self.apply(record, loc),
            Item::Head { first, reset, state } => {
                self.first = *first;
                self.reset = reset.as_ref().map(|(index, mark)| (*index, copy(mark)));
                self.state = state.as_ref().map(copy);
            }
            Item::Renew { index } => {
                self.clear_slot(*index);
                self.clear_notes(*index);
            }
        }
    }

    pub(super) fn apply(&mut self, record: &Record, loc: Loc) {
        match record {
            Record::Put(entry) => self.put(entry.index, &entry.tag, loc),
            Record::Cut { from } => self.cut(*from),
            Record::Decide { index, tag, proof } => {
                self.decide(*index, tag, !proof.is_empty(), loc);
            }
            Record::State(state) => self.state = Some(copy(state)),
            Record::Note { index, note } => {
                if *index >= self.first {
                    self.add_live(loc.segment);
                    self.notes.entry(*index).or_default().push((loc.segment, copy(note)));
                }
            }
            Record::Reset { index, mark } => {
                self.slots.clear();
                self.notes.clear();
                self.live.clear();
                self.first = index + 1;
                self.reset = Some((*index, copy(mark)));
            }
            Record::Trim { below } => self.trim(*below),
        }
    }

    /// Notes where a candidate is.
    pub(super) fn put(&mut self, index: Index, tag: &Tag, loc: Loc) {
        if index == self.end() {
            let mut slot = Slot { put: loc, ..Slot::EMPTY };
            slot.set_tag(tag);
            self.slots.push_back(slot);
            self.add_live(loc.segment);
            return;
        }
        let Some(slot) = self.slot_mut(index) else { return };
        let same = slot.tag() == *tag;
        if !slot.decide().is_none() && !same {
            // Another candidate is decided: this one is void already.
            return;
        }
        // One that is put again comes after its rivals: where it was first may be gone when the log is read again.
        let old = if slot.put.is_none() {
            slot.set_tag(tag);
            std::mem::replace(&mut slot.put, loc)
        } else if same && slot.more().is_empty() {
            std::mem::replace(&mut slot.put, loc)
        } else {
            let more = &mut slot.extra.get_or_insert_default().more;
            more.push((*tag, loc));
            if same {
                let (next, place) = more.remove(0);
                slot.set_tag(&next);
                std::mem::replace(&mut slot.put, place)
            } else {
                let at = more.iter().position(|(other, _)| other == tag).expect("it was added");
                match at + 1 < more.len() {
                    true => more.remove(at).1,
                    false => Loc::NONE,
                }
            }
        };
        self.add_live(loc.segment);
        self.drop_live(old.segment);
    }

    /// Whether a candidate with this tag is the only one at an index.
    pub(super) fn is_only(&self, index: Index, tag: &Tag) -> bool {
        let slot = self.slot(index).filter(|slot| !slot.put.is_none());
        slot.is_some_and(|slot| slot.more().is_empty() && slot.tag() == *tag)
    }

    /// Where the first candidate at an index is.
    pub(super) fn place(&self, index: Index) -> Option<Loc> {
        self.slot(index)?.places().next()
    }

    fn decide(&mut self, index: Index, tag: &Tag, proof: bool, loc: Loc) {
        let Some(slot) = self.slot_mut(index) else { return };
        let same = slot.tag() == *tag;
        if !slot.decide().is_none() && !same {
            // A decision is for ever; the engine that says otherwise is judged elsewhere.
            return;
        }
        let mut void = Vec::new();
        if !same || !slot.more().is_empty() {
            let kept = slot.candidates().find(|(other, _)| other == tag);
            void.extend(slot.candidates().filter(|(other, _)| other != tag).map(|(_, l)| l));
            slot.set_tag(tag);
            slot.put = kept.map_or(Loc::NONE, |(_, put)| put);
        }
        let extra = slot.extra.get_or_insert_default();
        extra.more = Vec::new();
        extra.proof = proof;
        let old = std::mem::replace(&mut extra.decide, loc).segment;
        self.add_live(loc.segment);
        self.drop_live(old);
        for loc in void {
            self.drop_live(loc.segment);
        }
    }

    fn cut(&mut self, from: Index) {
        for index in from.max(self.first)..self.end() {
            if !self.is_decided(index) {
                self.clear_slot(index);
            }
        }
        while self.slots.back().is_some_and(Slot::is_empty) {
            self.slots.pop_back();
        }
    }

    fn trim(&mut self, below: Index) {
        while self.first < below {
            if self.slots.is_empty() {
                self.first = below;
                break;
            }
            self.clear_slot(self.first);
            self.slots.pop_front();
            self.first += 1;
        }
        while let Some((&index, _)) = self.notes.first_key_value()
            && index < below
        {
            self.clear_notes(index);
        }
    }

    fn clear_slot(&mut self, index: Index) {
        if index < self.first || index >= self.end() {
            return;
        }
        let at = (index - self.first) as usize;
        let slot = std::mem::replace(&mut self.slots[at], Slot::EMPTY);
        for loc in slot.places() {
            self.drop_live(loc.segment);
        }
        self.drop_live(slot.decide().segment);
    }

    fn clear_notes(&mut self, index: Index) {
        for (segment, _) in self.notes.remove(&index).unwrap_or_default() {
            self.drop_live(segment);
        }
    }

    fn is_decided(&self, index: Index) -> bool {
        self.slot(index).is_some_and(|slot| !slot.decide().is_none())
    }

    fn slot(&self, index: Index) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// The slot of an index, made if need be; `None` below `first`. The caller has bounded the index.
    fn slot_mut(&mut self, index: Index) -> Option<&mut Slot> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        if at == self.slots.len() {
            self.slots.push_back(Slot::EMPTY);
        } else if at > self.slots.len() {
            self.slots.resize_with(at + 1, || Slot::EMPTY);
        }
        self.slots.get_mut(at)
    }

    fn add_live(&mut self, segment: u32) {
        match self.live.back_mut() {
            Some((last, count)) if *last == segment => *count += 1,
            Some((last, _)) if *last > segment => {
                match self.live.binary_search_by_key(&segment, |&(at, _)| at) {
                    Ok(at) => self.live[at].1 += 1,
                    Err(at) => self.live.insert(at, (segment, 1)),
                }
            }
            _ => self.live.push_back((segment, 1)),
        }
    }

    fn drop_live(&mut self, segment: u32) {
        if segment == 0 {
            return;
        }
        // Trims drop what is oldest.
        let at = match self.live.front() {
            Some((first, _)) if *first == segment => Ok(0),
            _ => self.live.binary_search_by_key(&segment, |&(at, _)| at),
        };
        let at = at.expect("what is dropped has been counted");
        self.live[at].1 -= 1;
        if self.live[at].1 == 0 {
            self.live.remove(at);
        }
    }
}

/// Small things are copied, so that they do not hold on to the block they came in.
fn copy(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
