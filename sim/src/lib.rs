//! The whole node on one thread: seeded clock, network and disk.
