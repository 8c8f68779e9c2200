//! Batches go in, and each comes out.

use std::time::Duration;

use super::{EngineFactory, each_seed};

/// One batch, and then several at once, offered at each node, are decided and delivered everywhere.
pub fn an_offered_batch_is_decided<F: EngineFactory>(factory: &F) {
    each_seed("an_offered_batch_is_decided", factory, |world| {
        world.offer(0);
        world.finish();
        if world.top() == 0 {
            world.broken(0, "a batch on offer is decided");
        }
        for node in 0..world.nodes() {
            (0..5).for_each(|_| world.offer(node));
        }
    });
}

/// A group that had nothing to do for long takes the next batch.
pub fn a_group_that_idles_decides_again<F: EngineFactory>(factory: &F) {
    each_seed("a_group_that_idles_decides_again", factory, |world| {
        for _ in 0..3 {
            let node = world.any_node();
            world.offer(node);
            world.pass(Duration::from_secs(30));
        }
    });
}

/// Whatever befalls the proposer, what becomes of a placed batch is told: nothing is lost silently. No node crashes here,
/// so that an engine has no excuse to forget.
pub fn proposals_are_delivered_released_or_overtaken<F: EngineFactory>(factory: &F) {
    let case = "proposals_are_delivered_released_or_overtaken";
    each_seed(case, factory, |world| {
        world.lossy(0.05, 0.02);
        for _ in 0..40 {
            let node = world.any_node();
            (0..world.random.usize(1..6)).for_each(|_| world.offer(node));
            match world.random.u32(..8) {
                0 => world.isolate(node, true),
                1 => world.isolate(node, false),
                2 => world.stall_disk(node, true),
                3 => world.stall_disk(node, false),
                _ => {}
            }
            let passing = Duration::from_micros(world.random.u64(..20_000));
            world.pass(passing);
        }
    });
}
