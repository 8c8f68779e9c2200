//! An engine for one node.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quorate_conformance::EngineFactory;
use quorate_engine::engine::{
    Deliver, Delivery, Demand, Engine, EngineDriver, EngineStatus, Input, LogWrite, Now, Opening,
    Output, Placed, ReadAnswer, ReadId,
};
use quorate_replicator::{AdminError, NodeId, Role};
use quorate_storage::{Body, Entry, Index, Record, Seq, Tag};

/// What an engine for one node does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Deliveries do not wait for their put.
    DeliversBeforeDurable,
    /// Deliveries wait for a write that nobody made.
    WaitsForNoWrite,
    /// Two deliveries of one turn are swapped.
    DeliversOutOfOrder,
    /// Every fifth index is not delivered.
    SkipsAnIndex,
    /// Writes are numbered by hand, and every fourth number is used twice.
    ReusesSeqs,
    /// After a restart, one index is left out.
    GapAfterRestart,
    /// After a restart, the last entry is not delivered again.
    ForgetsTheLastAtOpen,
    /// After a restart, nothing below the checkpoint is left out.
    DeliversBelowTheCheckpoint,
    /// After a restart, deliveries wait for a write of this life.
    WaitsAtOpen,
    /// It keeps entries beside the log, and delivers them at open whether they were durable or not.
    DeliversUndurableAtOpen,
    /// It trims everything below the checkpoint, whatever it allows.
    TrimsTooMuch,
    /// It trims by itself every eight entries.
    TrimsUnasked,
    /// Every seventh proposal is dropped.
    LosesAProposal,
    /// A proposal that is refused comes back changed.
    ChangesWhatItGivesBack,
    /// It releases what it never placed.
    ReleasesAnything,
    /// Reads are answered with what was decided some time ago.
    ReadsTooLow,
    /// Reads are not answered while something is in flight, and forgotten for ever once it was asked often.
    NeverAnswersReads,
    /// It delivers a batch of its own making.
    InventsABatch,
    /// It panics at a message.
    PanicsAtMessages,
    /// It faults at a timer that it never set.
    FaultsAtTimers,
    /// An operator hears nothing of what was wished.
    IgnoresWishes,
    /// A wish is answered twice.
    AnswersWishesTwice,
    /// It wants no batch any more after an operator's wish.
    StopsWhenAsked,
    /// It wants no batch when it has been idle for long.
    FallsAsleep,
    /// Its status says that less is decided than was delivered.
    StatusTooLow,
    /// The heads of its entries hold a number that no seed decides.
    DrawsRandomness,
    /// It wants nought batches here.
    WantsNoneHere,
    /// It does not open on a log that it wrote.
    RefusesItsLog,
}

#[derive(Clone, Debug)]
pub(crate) struct Factory(pub(crate) Fault);

impl EngineFactory for Factory {
    type Driver = Driver;

    fn nodes(&self) -> usize {
        1
    }

    fn driver(&self) -> Driver {
        Driver { fault: self.0, beside: Arc::default() }
    }

    fn seeds(&self) -> u64 {
        5
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }
}

/// Counts what nobody may depend on: it goes on from run to run.
static ENTROPY: AtomicU64 = AtomicU64::new(0);

#[derive(Debug)]
pub(crate) struct Driver {
    fault: Fault,
    /// Entries kept beside the log, which no crash takes back.
    beside: Arc<std::sync::Mutex<Vec<Entry>>>,
}

impl EngineDriver for Driver {
    const NAME: &'static str = "alone";
    type Config = ();

    fn open(&self, (): &(), opening: Opening, out: &mut Output) -> Result<Box<dyn Engine>, String> {
        let fault = self.fault;
        let mut last = opening.checkpoint.map_or(0, |checkpoint| checkpoint.index);
        let mut entries = opening.log.entries;
        if fault == Fault::RefusesItsLog && !entries.is_empty() {
            return Err("the log is not empty".into());
        }
        if fault == Fault::DeliversUndurableAtOpen {
            entries = self.beside.lock().unwrap().clone();
        }
        if fault != Fault::DeliversBelowTheCheckpoint {
            entries.retain(|entry| entry.index > last);
        }
        if fault == Fault::GapAfterRestart && entries.len() > 2 {
            entries.remove(1);
        }
        if fault == Fault::ForgetsTheLastAtOpen {
            entries.pop();
        }
        for entry in entries {
            last = entry.index;
            let after = u64::from(fault == Fault::WaitsAtOpen);
            out.deliveries.push(delivery(after, entry));
        }
        Ok(Box::new(Alone {
            fault,
            beside: Arc::clone(&self.beside),
            node: opening.node,
            given: last,
            decided: last,
            in_flight: VecDeque::new(),
            proposals: 0,
            asleep_at: Duration::MAX,
            stopped: false,
            seqs: 0,
        }))
    }
}

const fn delivery(after: Seq, entry: Entry) -> Delivery {
    Delivery { after, what: Deliver::Batch { entry, mark: Bytes::new(), proof: Bytes::new() } }
}

#[derive(Debug)]
struct Alone {
    fault: Fault,
    beside: Arc<std::sync::Mutex<Vec<Entry>>>,
    node: NodeId,
    given: Index,
    decided: Index,
    in_flight: VecDeque<(Seq, Index)>,
    proposals: u64,
    asleep_at: Now,
    stopped: bool,
    seqs: Seq,
}

const WINDOW: usize = 3;

impl Alone {
    fn write(&mut self, flush: bool, record: Record, out: &mut Output) -> Seq {
        if self.fault != Fault::ReusesSeqs {
            return out.write(flush, record);
        }
        self.seqs += u64::from(self.seqs == 0 || !self.proposals.is_multiple_of(4));
        out.writes.push(LogWrite { seq: self.seqs, flush, record });
        self.seqs
    }
}

impl Engine for Alone {
    fn step(&mut self, _: Now, input: Input, out: &mut Output) {
        match (input, self.fault) {
            (Input::Durable(seq), _) => {
                while let Some((put, index)) = self.in_flight.front().copied()
                    && put <= seq
                {
                    self.in_flight.pop_front();
                    self.decided = index;
                }
            }
            (Input::Read(_), Fault::NeverAnswersReads) => {}
            (Input::Read(id), Fault::ReadsTooLow) => {
                out.reads.push((id, ReadAnswer::At(self.decided.saturating_sub(3))));
            }
            (Input::Read(ReadId(id)), _) => {
                out.reads.push((ReadId(id), ReadAnswer::At(self.decided)));
            }
            (Input::Checkpointed { index, .. }, Fault::TrimsTooMuch) => {
                self.write(false, Record::Trim { below: index + 1 }, out);
            }
            (Input::Checkpointed { trim_below, .. }, _) => {
                self.write(false, Record::Trim { below: trim_below }, out);
            }
            (Input::Applied { index, .. }, Fault::TrimsUnasked) if index % 8 == 0 => {
                self.write(false, Record::Trim { below: index }, out);
            }
            (Input::Message { message, .. }, Fault::PanicsAtMessages) => {
                panic!("{:?} is no message", message.head);
            }
            (Input::Timer(id), Fault::FaultsAtTimers) => out.fault = Some(format!("no {id:?}")),
            (Input::Admin { .. }, Fault::IgnoresWishes) => {}
            (Input::Admin { ticket, .. }, fault) => {
                self.stopped |= fault == Fault::StopsWhenAsked;
                let answer = || Err(AdminError::Unsupported { driver: "alone".into() });
                out.admin.push((ticket, answer()));
                if fault == Fault::AnswersWishesTwice {
                    out.admin.push((ticket, answer()));
                }
            }
            _ => {}
        }
    }

    fn propose(&mut self, now: Now, batch: Body, out: &mut Output) -> Result<Placed, Body> {
        self.proposals += 1;
        if self.fault == Fault::ChangesWhatItGivesBack && self.proposals == 3 {
            return Err(Body::Empty);
        }
        self.asleep_at = now + Duration::from_secs(10);
        self.given += 1;
        let (index, tag) = (self.given, Tag::ZERO);
        let placed = Placed { index, tag };
        if self.fault == Fault::LosesAProposal && self.proposals == 7 {
            self.given -= 1;
            return Ok(Placed { index: index + 1000, tag });
        }
        let head = match self.fault {
            Fault::DrawsRandomness => {
                Bytes::from(ENTROPY.fetch_add(1, Ordering::Relaxed).to_string())
            }
            _ => Bytes::new(),
        };
        let body = match self.fault {
            Fault::InventsABatch if self.proposals == 4 => Body::Frames("mine".into()),
            _ => batch,
        };
        let entry = Entry { index, tag, head, body };
        self.beside.lock().unwrap().push(entry.clone());
        let put = self.write(true, Record::Put(entry.clone()), out);
        let after = match self.fault {
            Fault::DeliversBeforeDurable => 0,
            Fault::WaitsForNoWrite => put + 1,
            _ => put,
        };
        if self.fault != Fault::SkipsAnIndex || index % 5 != 0 {
            out.deliveries.push(delivery(after, entry));
        }
        self.in_flight.push_back((put, index));
        if self.fault == Fault::ReleasesAnything {
            out.released.push(Placed { index: index + 1, tag });
        }
        Ok(placed)
    }

    fn settle(&mut self, now: Now, out: &mut Output) {
        if self.fault == Fault::DeliversOutOfOrder && out.deliveries.len() > 1 {
            out.deliveries.swap(0, 1);
        }
        if now > self.asleep_at && self.fault == Fault::FallsAsleep {
            self.stopped = true;
        }
    }

    fn demand(&self) -> Demand {
        let free = WINDOW.saturating_sub(self.in_flight.len());
        if self.stopped || free == 0 && self.fault != Fault::WantsNoneHere {
            return Demand::Nowhere;
        }
        Demand::Here { batches: u32::try_from(free).unwrap(), members: false }
    }

    fn status(&self) -> EngineStatus {
        let decided = match self.fault {
            Fault::StatusTooLow => self.decided.saturating_sub(1),
            _ => self.decided,
        };
        EngineStatus {
            proposer: Some(self.node),
            decided,
            members: vec![self.node],
            ..EngineStatus::new(Role::Leader)
        }
    }
}
