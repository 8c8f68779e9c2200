//! Locks as the files use them that many threads meet in.
//!
//! `tests/models` compiles the same files over locks of a scheduler, which tries the orders in which threads can take turns. So
//! these files take their locks from here, and their tests run in [`explore`].

pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
#[cfg(test)]
pub(crate) use std::thread;

/// Runs a test of one thread.
#[cfg(test)]
pub(crate) fn once(test: impl Fn() + Send + Sync + 'static) {
    test();
}

/// Runs a test once, as the system lets its threads take turns.
#[cfg(test)]
pub(crate) fn explore(test: impl Fn() + Send + Sync + 'static) {
    test();
}
