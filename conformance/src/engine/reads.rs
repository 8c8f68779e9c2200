//! A linearizable read sees everything that was delivered before it was asked.

use std::time::Duration;

use super::{EngineFactory, each_seed};

/// Reads at every node, while batches are decided.
pub fn reads_see_what_was_delivered_before<F: EngineFactory>(factory: &F) {
    each_seed("reads_see_what_was_delivered_before", factory, |world| {
        // Of an empty group, too.
        world.read(0);
        for _ in 0..30 {
            let node = world.any_node();
            world.offer(node);
            let passing = Duration::from_micros(world.random.u64(..5_000));
            world.pass(passing);
            let node = world.any_node();
            world.read(node);
        }
    });
}

/// Reads at nodes that were cut off, or have just begun again, or whose disk is slow: they may wait, never lie.
pub fn reads_survive_faults<F: EngineFactory>(factory: &F) {
    each_seed("reads_survive_faults", factory, |world| {
        for _ in 0..30 {
            let node = world.any_node();
            world.offer(node);
            match world.random.u32(..6) {
                0 => {
                    world.crash(node);
                    world.start(node);
                }
                1 => world.isolate(node, true),
                2 => world.isolate(node, false),
                3 => world.stall_disk(node, true),
                4 => world.stall_disk(node, false),
                _ => {}
            }
            let passing = Duration::from_micros(world.random.u64(..5_000));
            world.pass(passing);
            for node in 0..world.nodes() {
                world.read(node);
            }
        }
    });
}
