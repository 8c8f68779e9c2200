//! The same inputs give the same outputs.

use super::{EngineFactory, World, restarts};

/// Two lives with the same seed are the same in every output: no clock, no random source, no order of a hash map.
pub fn the_same_seed_gives_the_same_outputs<F: EngineFactory>(factory: &F) {
    let case = "the_same_seed_gives_the_same_outputs";
    for seed in 0..factory.seeds() {
        let run = || {
            let mut world = World::open_traced(case, factory, seed);
            restarts::live(&mut world);
            world.finish();
            world.into_trace()
        };
        let (first, second) = (run(), run());
        let differs = first.iter().zip(&second).position(|(first, second)| first != second);
        if let Some(place) = differs {
            panic!(
                "{case}: the same inputs give the same outputs (seed {seed}, step {place}); first {}, then {}",
                first[place], second[place]
            );
        }
        assert_eq!(first.len(), second.len(), "{case}: two runs of seed {seed} end alike");
    }
}
