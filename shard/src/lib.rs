//! Namespace-sharded ordered key-value state, and the extension point beside it.
