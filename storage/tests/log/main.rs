//! The log against a model: on each disk, through crashes, faults and damage.

mod disks;
mod model;
mod musts;
mod properties;
mod workload;
