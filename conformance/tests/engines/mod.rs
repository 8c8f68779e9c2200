//! Small engines that keep the contract, and that break one clause of it when told to.

pub(crate) mod alone;
pub(crate) mod asking;
pub(crate) mod primary;
