//! What an engine does with what it finds at open.

use std::time::Duration;

use super::{EngineFactory, World, each_seed};

/// An engine that wrote nothing of worth before a crash begins as if for the first time.
pub fn an_empty_log_opens_empty<F: EngineFactory>(factory: &F) {
    each_seed("an_empty_log_opens_empty", factory, |world| {
        for node in 0..world.nodes() {
            world.crash_keeping(node, 0);
            world.start(node);
        }
        world.offer(0);
    });
}

/// Without a checkpoint, a restart delivers everything from the first index on.
pub fn opening_delivers_again_what_is_decided<F: EngineFactory>(factory: &F) {
    each_seed("opening_delivers_again_what_is_decided", factory, |world| {
        for _ in 0..3 {
            for node in 0..world.nodes() {
                (0..4).for_each(|_| world.offer(node));
            }
            world.finish();
            // All at once, as in a loss of power.
            (0..world.nodes()).for_each(|node| world.crash(node));
            (0..world.nodes()).for_each(|node| world.start(node));
            world.finish();
        }
    });
}

/// With a checkpoint, a restart delivers what is above it and nothing below.
pub fn opening_begins_after_the_checkpoint<F: EngineFactory>(factory: &F) {
    each_seed("opening_begins_after_the_checkpoint", factory, |world| {
        for _ in 0..4 {
            for node in 0..world.nodes() {
                (0..3).for_each(|_| world.offer(node));
            }
            world.finish();
            let node = world.any_node();
            world.checkpoint(node);
            (0..world.random.usize(..4)).for_each(|_| world.offer(node));
            let passing = Duration::from_micros(world.random.u64(..10_000));
            world.pass(passing);
            world.crash(node);
            world.start(node);
        }
    });
}

/// Checkpoints that allow to trim a part, and restarts after which nothing is allowed until the next checkpoint.
pub fn trims_stay_below_what_a_checkpoint_allows<F: EngineFactory>(factory: &F) {
    each_seed("trims_stay_below_what_a_checkpoint_allows", factory, |world| {
        for _ in 0..12 {
            let node = world.any_node();
            (0..world.random.usize(1..6)).for_each(|_| world.offer(node));
            world.finish();
            let node = world.any_node();
            world.checkpoint(node);
            world.offer(node);
            world.finish();
            if world.random.u32(..3) == 0 {
                world.crash(node);
                world.start(node);
            }
        }
    });
}

/// Everything at once and for long: crashes, losses of power, cuts, slow disks, checkpoints, reads.
pub fn a_life_of_faults_keeps_every_rule<F: EngineFactory>(factory: &F) {
    each_seed("a_life_of_faults_keeps_every_rule", factory, live);
}

/// One random life, up to the point where all faults have ended.
pub(super) fn live<F: EngineFactory>(world: &mut World<'_, F>) {
    world.lossy(0.05, 0.02);
    for _ in 0..60 {
        let node = world.any_node();
        match world.random.u32(..16) {
            0 | 1 => world.crash(node),
            2..=4 => world.start(node),
            5 => world.isolate(node, true),
            6 => world.isolate(node, false),
            7 => world.stall_disk(node, true),
            8 => world.stall_disk(node, false),
            9 => world.checkpoint(node),
            10 | 11 => world.read(node),
            12 if world.random.u32(..4) == 0 => {
                (0..world.nodes()).for_each(|node| world.crash(node));
                (0..world.nodes()).for_each(|node| world.start(node));
            }
            _ => (0..world.random.usize(1..5)).for_each(|_| world.offer(node)),
        }
        let passing = match world.random.u32(..8) {
            0 => Duration::from_secs(2),
            _ => Duration::from_micros(world.random.u64(..8_000)),
        };
        world.pass(passing);
    }
}
