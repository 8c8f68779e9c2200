//! Attackers, written with quinn, rustls and sockets alone, and the node that refuses them and says why.
//!
//! The names of the tests carry the numbers of the attack cases: A1 to A9 are about who somebody is, A10 and A11 about packets
//! from nowhere and from the past, A14 to A17 and A21 about what a member in wrong hands may say. Those of clients have no
//! numbers. A12 and A13 are in
//! `attack_memory.rs`, with whatever is measured.

mod cluster;

mod attacks {
    pub(crate) use crate::cluster::receiver::PATIENCE;

    pub(crate) mod attacker;
    mod bulk;
    mod clients;
    mod credentials;
    mod datagrams;
    mod frames;
    mod greeting;
    pub(crate) mod honest;
    #[allow(dead_code, reason = "shared with `attack_memory.rs`, which needs the rest")]
    pub(crate) mod initial;
    pub(crate) mod wire;
}
