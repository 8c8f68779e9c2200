//! The local driver: one node, a batch is committed once it is durable.
