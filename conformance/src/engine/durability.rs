//! Nothing is delivered before it is durable, and what was delivered stays.

use std::time::Duration;

use super::{EngineFactory, each_seed};

/// While the disks of a majority do not answer, nothing new is delivered; afterwards, all of it is.
pub fn deliveries_wait_for_their_write<F: EngineFactory>(factory: &F) {
    each_seed("deliveries_wait_for_their_write", factory, |world| {
        world.offer(0);
        world.finish();
        let (before, nodes) = (world.top(), world.nodes());
        let majority = nodes / 2 + 1;
        (0..majority).for_each(|node| world.stall_disk(node, true));
        (0..nodes).for_each(|node| world.offer(node));
        world.pass(Duration::from_secs(5));
        if world.top() != before {
            world.broken(0, "R2: a delivery waits until its write is durable");
        }
        // What never became durable was never delivered, and a restart without it is as good.
        for node in 0..majority {
            world.crash_keeping(node, 0);
        }
    });
}

/// Crashes at any moment, with batches on their way to the disk, take back nothing that was delivered.
pub fn a_crash_loses_nothing_that_was_delivered<F: EngineFactory>(factory: &F) {
    each_seed("a_crash_loses_nothing_that_was_delivered", factory, |world| {
        for _ in 0..15 {
            let node = world.any_node();
            (0..world.random.usize(1..5)).for_each(|_| world.offer(node));
            let passing = Duration::from_micros(world.random.u64(..6_000));
            world.pass(passing);
            let node = world.any_node();
            match world.random.u32(..3) {
                0 => world.crash_keeping(node, 0),
                _ => world.crash(node),
            }
            if world.random.bool() {
                world.pass(Duration::from_millis(50));
            }
            world.start(node);
        }
    });
}
