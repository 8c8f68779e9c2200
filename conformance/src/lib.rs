//! Public suites that every driver, transport and log must pass.
