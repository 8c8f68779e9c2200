//! The suite notices when Raft is run wrongly: each control breaks one thing around the engine, and must not pass.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use quorate_conformance::EngineFactory;
use quorate_conformance::engine::engine;
use quorate_driver_raft::{RaftConfig, RaftDriver};
use quorate_engine::engine::{
    Demand, Engine, EngineDriver, EngineStatus, Input, Now, Opening, Output, Placed, ReadAnswer,
};
use quorate_engine::panic_words;
use quorate_storage::{Body, Index};

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Control {
    /// Votes and acknowledgements leave before what they promise is durable.
    LetsSendsGo,
    /// Reads are answered with what is applied here.
    ReadsLocally,
    /// A disk that was lost passes for the one before.
    KeepsTheName,
    /// A node that comes back has forgotten its votes and its log's end.
    ForgetsItsState,
    /// Writes are called durable when they are made.
    CallsWritesDurable,
}

#[derive(Clone, Copy, Debug)]
struct Factory(Control);

impl EngineFactory for Factory {
    type Driver = Driver;

    fn driver(&self) -> Driver {
        Driver(self.0)
    }

    fn config(&self) -> RaftConfig {
        let mut config = RaftConfig::default();
        config.election_timeout = Duration::from_millis(100);
        config.heartbeat_interval = Duration::from_millis(20);
        config
    }

    fn changes_members(&self) -> bool {
        true
    }

    fn seeds(&self) -> u64 {
        8
    }
}

struct Driver(Control);

impl EngineDriver for Driver {
    const NAME: &'static str = "raft, broken";
    type Config = RaftConfig;

    fn open(
        &self,
        config: &RaftConfig,
        mut opening: Opening,
        out: &mut Output,
    ) -> Result<Box<dyn Engine>, String> {
        match self.0 {
            Control::KeepsTheName => opening.incarnation = [opening.node.number() as u8; 16],
            Control::ForgetsItsState if opening.checkpoint.is_none() => {
                opening.log.state = opening.log.state.filter(|_| opening.log.entries.is_empty());
                if opening.log.state.is_none() {
                    opening.log.entries.clear();
                }
            }
            _ => {}
        }
        let applied = opening.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.index);
        let engine = RaftDriver.open(config, opening, out)?;
        let mut broken = Broken { engine, control: self.0, applied };
        broken.spoil(out);
        Ok(Box::new(broken))
    }
}

#[derive(Debug)]
struct Broken {
    engine: Box<dyn Engine>,
    control: Control,
    applied: Index,
}

impl Broken {
    fn spoil(&mut self, out: &mut Output) {
        if self.control == Control::LetsSendsGo {
            out.sends.iter_mut().for_each(|send| send.after = 0);
        }
    }
}

impl Engine for Broken {
    fn step(&mut self, now: Now, input: Input, out: &mut Output) {
        match (self.control, &input) {
            (Control::ReadsLocally, Input::Read(read)) => {
                return out.reads.push((*read, ReadAnswer::At(self.applied)));
            }
            (_, Input::Applied { index, .. }) => self.applied = *index,
            _ => {}
        }
        self.engine.step(now, input, out);
    }

    fn propose(&mut self, now: Now, batch: Body, out: &mut Output) -> Result<Placed, Body> {
        self.engine.propose(now, batch, out)
    }

    fn settle(&mut self, now: Now, out: &mut Output) {
        self.engine.settle(now, out);
        if self.control == Control::CallsWritesDurable {
            self.engine.step(now, Input::Durable(out.last_seq()), out);
            self.engine.settle(now, out);
        }
        self.spoil(out);
    }

    fn demand(&self) -> Demand {
        self.engine.demand()
    }

    fn status(&self) -> EngineStatus {
        self.engine.status()
    }
}

fn caught(control: Control) {
    let run = catch_unwind(AssertUnwindSafe(|| engine(Factory(control))));
    let Err(panic) = run else { panic!("{control:?} passes the suite") };
    println!("{control:?}: {}", panic_words(&*panic));
}

macro_rules! controls {
    ($($name:ident: $control:ident;)*) => {
        $(#[test]
        fn $name() {
            caught(Control::$control);
        })*
    };
}

controls! {
    sends_that_are_let_go_are_noticed: LetsSendsGo;
    reads_at_what_is_applied_here_are_noticed: ReadsLocally;
    a_lost_disk_under_its_old_name_is_noticed: KeepsTheName;
    a_node_that_forgets_is_noticed: ForgetsItsState;
    writes_that_are_called_durable_are_noticed: CallsWritesDurable;
}
