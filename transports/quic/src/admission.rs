//! Decides which connections are let in before anything is known about them: sans-IO, and bounded whatever arrives.
//!
//! 1. Nobody is charged for what came with an address that was not proved: forging it costs its owner nothing.
//! 2. Under load everybody has to prove the address first, which holds nothing on this side.
//! 3. One address has a share of the handshakes, and a rate.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::Limits;

/// Most addresses that are remembered. Each costs about 100 bytes.
const ADDRESSES_MAX: usize = 4096;

/// What happens with a connection that knocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may greet. [`Admission::ended`] is owed.
    Accept,
    /// It has to show first that it receives what is sent to its address.
    Prove,
    /// It is turned away.
    Refuse(String),
}

/// Who is let in.
#[derive(Debug)]
pub(crate) struct Admission {
    handshakes_max: usize,
    per_address_max: usize,
    unproved_max: usize,
    per_second: f64,
    proved: usize,
    unproved: usize,
    addresses: HashMap<IpAddr, Address>,
    pruned_at: Duration,
}

#[derive(Debug)]
struct Address {
    /// Handshakes under way, of those that had proved the address.
    proved: usize,
    /// What may come now, with and without proof.
    proved_tokens: f64,
    unproved_tokens: f64,
    at: Duration,
}

impl Admission {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            handshakes_max: limits.handshakes_max,
            per_address_max: limits.handshakes_per_address_max,
            unproved_max: limits.handshakes_unproved_max,
            per_second: f64::from(limits.accepts_per_second),
            proved: 0,
            unproved: 0,
            addresses: HashMap::new(),
            pruned_at: Duration::ZERO,
        }
    }

    /// Judges a connection from `ip`. `proved` says that the address is its own; `now` runs from any zero.
    pub(crate) fn judge(&mut self, now: Duration, ip: IpAddr, proved: bool) -> Verdict {
        if !proved && self.unproved >= self.unproved_max {
            return Verdict::Prove;
        }
        if self.proved + self.unproved >= self.handshakes_max {
            if !proved {
                return Verdict::Prove;
            }
            let max = self.handshakes_max;
            return Verdict::Refuse(format!(
                "{max} handshakes are under way (limits.handshakes_max)"
            ));
        }
        let (rate, per_address_max) = (self.per_second, self.per_address_max);
        match self.address(now, ip) {
            Some(address) if proved => {
                if address.proved >= per_address_max {
                    return Verdict::Refuse(format!(
                        "{per_address_max} handshakes are under way from that address \
                         (limits.handshakes_per_address_max)"
                    ));
                }
                if address.proved_tokens < 1.0 {
                    return Verdict::Refuse(format!(
                        "more than {rate} connections a second come from that address (limits.accepts_per_second)"
                    ));
                }
                address.proved_tokens -= 1.0;
                address.proved += 1;
            }
            Some(address) => {
                if address.unproved_tokens < 1.0 {
                    return Verdict::Prove;
                }
                address.unproved_tokens -= 1.0;
            }
            // The table is full of others: who proved its address is let in all the same, within the bound for all.
            None if !proved => return Verdict::Prove,
            None => {}
        }
        if proved {
            self.proved += 1;
        } else {
            self.unproved += 1;
        }
        Verdict::Accept
    }

    /// A handshake that was accepted is over.
    pub(crate) fn ended(&mut self, ip: IpAddr, proved: bool) {
        if proved {
            self.proved -= 1;
            if let Some(address) = self.addresses.get_mut(&network(ip)) {
                address.proved = address.proved.saturating_sub(1);
            }
        } else {
            self.unproved -= 1;
        }
    }

    /// Handshakes under way.
    pub(crate) fn under_way(&self) -> usize {
        self.proved + self.unproved
    }

    fn address(&mut self, now: Duration, ip: IpAddr) -> Option<&mut Address> {
        let (rate, burst) = (self.per_second, self.per_second * 2.0);
        let ip = network(ip);
        if !self.addresses.contains_key(&ip) && self.addresses.len() >= ADDRESSES_MAX {
            // Looking through all of them is worth it once in a second.
            if now.saturating_sub(self.pruned_at) < Duration::from_secs(1) {
                return None;
            }
            self.pruned_at = now;
            // Who has waited long enough to be full again is as one who never came.
            self.addresses
                .retain(|_, address| address.proved > 0 || address.refilled(now, rate) < burst);
            if self.addresses.len() >= ADDRESSES_MAX {
                return None;
            }
        }
        let address = self.addresses.entry(ip).or_insert(Address {
            proved: 0,
            proved_tokens: burst,
            unproved_tokens: burst,
            at: now,
        });
        let passed = now.saturating_sub(address.at).as_secs_f64() * rate;
        address.proved_tokens = (address.proved_tokens + passed).min(burst);
        address.unproved_tokens = (address.unproved_tokens + passed).min(burst);
        address.at = now;
        Some(address)
    }
}

impl Address {
    fn refilled(&self, now: Duration, rate: f64) -> f64 {
        let passed = now.saturating_sub(self.at).as_secs_f64() * rate;
        self.proved_tokens.min(self.unproved_tokens) + passed
    }
}

/// What counts as one address: in IPv6 everybody has a network of 64 bits.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.into(),
            None => std::net::Ipv6Addr::from(u128::from(v6) >> 64 << 64).into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ip(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from(number).into()
    }

    fn limits() -> Limits {
        Limits {
            handshakes_max: 8,
            handshakes_per_address_max: 3,
            handshakes_unproved_max: 4,
            accepts_per_second: 2,
            ..Limits::default()
        }
    }

    #[test]
    fn with_many_under_way_an_address_has_to_be_proved() {
        let mut admission = Admission::new(&limits());
        for number in 0..4 {
            assert_eq!(admission.judge(SECOND, ip(number), false), Verdict::Accept);
        }
        assert_eq!(admission.judge(SECOND, ip(9), false), Verdict::Prove);
        assert_eq!(admission.judge(SECOND, ip(9), true), Verdict::Accept);
        admission.ended(ip(0), false);
        assert_eq!(admission.judge(SECOND, ip(10), false), Verdict::Accept);
    }

    #[test]
    fn forged_addresses_cost_their_owner_nothing() {
        let mut admission = Admission::new(&limits());
        for _ in 0..1000 {
            if admission.judge(SECOND, ip(1), false) == Verdict::Accept {
                admission.ended(ip(1), false);
            }
        }
        assert_eq!(admission.judge(SECOND, ip(1), false), Verdict::Prove);
        assert_eq!(admission.judge(SECOND, ip(1), true), Verdict::Accept);
    }

    #[test]
    fn one_address_has_a_share_and_a_rate() {
        let mut admission = Admission::new(&limits());
        for _ in 0..3 {
            assert_eq!(admission.judge(SECOND, ip(1), true), Verdict::Accept);
        }
        assert!(matches!(admission.judge(SECOND, ip(1), true), Verdict::Refuse(_)));
        assert_eq!(admission.judge(SECOND, ip(2), true), Verdict::Accept);
        (0..3).for_each(|_| admission.ended(ip(1), true));
        // One of the burst of four is left.
        assert_eq!(admission.judge(SECOND, ip(1), true), Verdict::Accept);
        admission.ended(ip(1), true);
        assert!(matches!(admission.judge(SECOND, ip(1), true), Verdict::Refuse(_)));
        assert_eq!(admission.judge(SECOND * 2, ip(1), true), Verdict::Accept);
    }

    #[test]
    fn all_together_are_bounded_and_the_table_too() {
        let mut admission = Admission::new(&limits());
        let mut accepted = 0;
        for number in 0..100_000 {
            if admission.judge(SECOND, ip(number), number % 2 == 0) == Verdict::Accept {
                accepted += 1;
            }
        }
        assert_eq!((accepted, admission.under_way()), (8, 8));
        let mut admission = Admission::new(&limits());
        for number in 0..100_000 {
            if admission.judge(SECOND, ip(number), false) == Verdict::Accept {
                admission.ended(ip(number), false);
            }
        }
        assert_eq!(admission.addresses.len(), ADDRESSES_MAX);
        // The table has room again when those in it have been quiet.
        assert_eq!(admission.judge(SECOND * 10, ip(200_000), false), Verdict::Accept);
        assert_eq!(admission.addresses.len(), 1);
    }

    #[test]
    fn a_network_of_64_bits_is_one_address() {
        let parse = |text: &str| network(text.parse().unwrap());
        assert_eq!(parse("2001:db8::1"), parse("2001:db8::ffff:1:2:3"));
        assert_ne!(parse("2001:db8::1"), parse("2001:db8:0:1::1"));
        assert_eq!(parse("::ffff:127.0.0.1"), parse("127.0.0.1"));
    }
}
