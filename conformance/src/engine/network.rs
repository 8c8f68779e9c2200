//! Links that carry nothing for a while.

use std::time::Duration;

use super::{EngineFactory, each_seed};

/// Links that fail in one direction only, for a while or for long.
pub fn one_way_cuts_are_survived<F: EngineFactory>(factory: &F) {
    each_seed("one_way_cuts_are_survived", factory, |world| {
        for _ in 0..30 {
            let (from, to) = (world.any_node(), world.any_node());
            let cut = world.random.u32(..3) > 0;
            world.cut(from, to, cut);
            let node = world.any_node();
            world.offer(node);
            world.read(node);
            let passing = match world.random.u32(..4) {
                0 => Duration::from_secs(1),
                _ => Duration::from_micros(world.random.u64(..20_000)),
            };
            world.pass(passing);
        }
    });
}

/// A node that was away while the others went on, and trimmed what it lacks, is brought up to them.
pub fn who_was_away_is_brought_up<F: EngineFactory>(factory: &F) {
    each_seed("who_was_away_is_brought_up", factory, |world| {
        let nodes = world.nodes();
        world.offer(0);
        world.finish();
        for _ in 0..3 {
            let away = world.any_node();
            match world.random.bool() {
                true => world.isolate(away, true),
                false => world.crash(away),
            }
            for _ in 0..5 {
                for node in (0..nodes).filter(|node| *node != away) {
                    (0..3).for_each(|_| world.offer(node));
                }
                world.pass(Duration::from_millis(800));
                for node in (0..nodes).filter(|node| *node != away) {
                    world.checkpoint_trimming(node, 1.0);
                }
            }
            world.offer(away);
            world.finish();
        }
    });
}
