//! Behaviour of shards and of the KV in them.

mod changes;
mod client;
mod extension;
mod hostile;
mod model;
mod operations;
mod pages;
mod restore;
mod rules;
mod support;
