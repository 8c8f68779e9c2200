//! Consensus as a pure state machine, and the host core that does the rest once for every driver.

pub mod engine;
