//! The local engine, judged by the suite that judges every engine.

use quorate_conformance::EngineFactory;
use quorate_conformance::engine::{CASES, engine};
use quorate_driver_local::{Local, LocalConfig};

/// The local driver with this many batches in flight.
#[derive(Debug)]
struct Factory(u32);

impl EngineFactory for Factory {
    type Driver = Local;

    fn nodes(&self) -> usize {
        1
    }

    fn driver(&self) -> Local {
        Local
    }

    fn config(&self) -> LocalConfig {
        let mut config = LocalConfig::default();
        config.batches_in_flight = self.0;
        config
    }

    fn seeds(&self) -> u64 {
        40
    }
}

#[test]
fn the_local_engine_passes_with_one_batch_in_flight() {
    assert_eq!(engine(Factory(1)), CASES);
}

#[test]
fn the_local_engine_passes_with_the_default() {
    assert_eq!(engine(Factory(LocalConfig::default().batches_in_flight)), CASES);
}

#[test]
fn the_local_engine_passes_with_the_most_batches_in_flight() {
    assert_eq!(engine(Factory(64)), CASES);
}
