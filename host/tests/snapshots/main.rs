//! Snapshots from node to node over the memory transport: whole, cut, replaced, refused, and through crashes.

mod crashes;
mod fixture;
mod limits;
mod transfers;
