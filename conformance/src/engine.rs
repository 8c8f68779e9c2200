//! What every engine must do, seen from outside of it.
//!
//! ```text
//!   case: offers, reads, crashes, cuts, ...        panic: "case: clause (node, seed, time)"
//!        |                                              ^
//!        v                                              |
//!   world: one shell for each engine, and a judge at every turn
//!        |  step, propose, settle            ^ writes, sends, deliveries, ...
//!        v                                   |
//!                     the engines
//! ```
//!
//! [`engine()`] runs all cases, each with several seeds, on one thread and in virtual time: the same seed gives the same
//! run. The network delays, loses and repeats messages; a disk makes writes durable in their order and loses the rest, or
//! a part of it, at a crash. The rules R1 to R11 of [`quorate_engine::engine`] are judged at every turn of every case, as
//! far as they can be seen from outside of an engine:
//!
//! | rule | what is judged |
//! | --- | --- |
//! | R1 | the seqs of writes rise by one in each life |
//! | R2 | sends and deliveries wait for a write that was made; deliveries are in order and without gaps |
//! | R3 | what is delivered is durable on a majority; all nodes and all lives deliver the same at an index |
//! | R4, R8, R10 | duties of the shell, which this one keeps |
//! | R5 | resets and installs name a snapshot that was staged; the install waits for its reset |
//! | R6 | trims name what a checkpoint of this life allows; snapshots are checkpoints that were stored |
//! | R7 | at open, all that is decided after the checkpoint and in the log is delivered, nothing else, with `after = 0` |
//! | R9 | a proposal is delivered, released or overtaken |
//! | members | are told the same at an index by all nodes; wishes are answered once; a disk that was lost does not vote |
//! | R11 | by R3 after crashes: a decision whose bodies came after its votes would not be on a majority |
//!
//! Beside them: batches are proposed only while they are wanted, none is invented, reads see what was delivered before they
//! were asked, no input makes an engine panic or fault, the same inputs give the same outputs, and a driver that takes over what
//! another one has decided goes on from there.

mod durability;
mod foreign;
mod inheritance;
mod log_model;
mod membership;
mod network;
mod proposals;
mod reads;
mod repeat;
mod restarts;
mod world;

use std::fmt;
use std::time::Duration;

use quorate_engine::engine::EngineDriver;
use quorate_replicator::MemberChange;

pub use durability::{a_crash_loses_nothing_that_was_delivered, deliveries_wait_for_their_write};
pub use foreign::inputs_for_others_do_no_harm;
pub use inheritance::what_is_inherited_goes_on_with_one_node;
pub use membership::{
    a_lost_disk_never_votes_again, members_change_under_faults, members_come_and_go,
};
pub use network::{one_way_cuts_are_survived, who_was_away_is_brought_up};
pub use proposals::{
    a_group_that_idles_decides_again, an_offered_batch_is_decided,
    proposals_are_delivered_released_or_overtaken,
};
pub use reads::{reads_see_what_was_delivered_before, reads_survive_faults};
pub use repeat::the_same_seed_gives_the_same_outputs;
pub use restarts::{
    a_life_of_faults_keeps_every_rule, an_empty_log_opens_empty,
    opening_begins_after_the_checkpoint, opening_delivers_again_what_is_decided,
    trims_stay_below_what_a_checkpoint_allows,
};

use world::World;

/// Makes the engines that the cases run on.
pub trait EngineFactory: fmt::Debug {
    /// What opens them.
    type Driver: EngineDriver;

    /// How many nodes a group is to have: 1 for a driver that has no others.
    fn nodes(&self) -> usize {
        3
    }

    /// The driver; called once for each run, so that what it keeps does not pass from one run to the next.
    fn driver(&self) -> Self::Driver;

    /// Its configuration, the same at each open.
    fn config(&self) -> <Self::Driver as EngineDriver>::Config {
        Default::default()
    }

    /// Whether its engines add, replace and remove members when they are asked to; those that do not answer that they
    /// cannot.
    fn changes_members(&self) -> bool {
        false
    }

    /// A change as operators ask for it: as it is where whoever leads makes it, and in the driver's own words where they approve it, each at
    /// its own node. None for what its engines do not do.
    fn change(&self, change: MemberChange) -> Option<MemberChange> {
        Some(change)
    }

    /// With how many seeds each case runs.
    fn seeds(&self) -> u64 {
        20
    }

    /// How much virtual time a group gets, once all faults have ended, to decide and deliver what is on offer.
    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }
}

macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        /// The names of all cases, in the order in which [`engine`] runs them.
        pub const CASES: &[&str] = &[$(stringify!($case)),*];

        /// Runs all cases, and answers the names of those that passed: all of them, or it panics.
        ///
        /// # Panics
        ///
        /// At the first clause of the contract that does not hold, naming it, and the seed.
        pub fn engine<F: EngineFactory>(factory: F) -> &'static [&'static str] {
            $($case(&factory);)*
            CASES
        }
    };
}

cases![
    an_offered_batch_is_decided,
    a_group_that_idles_decides_again,
    deliveries_wait_for_their_write,
    an_empty_log_opens_empty,
    opening_delivers_again_what_is_decided,
    a_crash_loses_nothing_that_was_delivered,
    opening_begins_after_the_checkpoint,
    trims_stay_below_what_a_checkpoint_allows,
    proposals_are_delivered_released_or_overtaken,
    reads_see_what_was_delivered_before,
    reads_survive_faults,
    inputs_for_others_do_no_harm,
    one_way_cuts_are_survived,
    who_was_away_is_brought_up,
    a_life_of_faults_keeps_every_rule,
    members_come_and_go,
    members_change_under_faults,
    a_lost_disk_never_votes_again,
    what_is_inherited_goes_on_with_one_node,
    the_same_seed_gives_the_same_outputs,
];

/// Runs one case once for each seed, and lets each run come to its end. With every second seed the group has decided
/// something before, so that there is somebody to lose.
fn each_seed<F: EngineFactory>(case: &'static str, factory: &F, run: impl Fn(&mut World<'_, F>)) {
    for seed in 0..factory.seeds() {
        let mut world = World::open(case, factory, seed);
        if seed % 2 == 1 {
            world.offer(0);
            world.finish();
        }
        run(&mut world);
        world.finish();
    }
}
