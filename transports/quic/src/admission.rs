//! Decides which connections are let in before anything is known about them: sans-IO, and bounded whatever arrives.
//!
//! 1. Nobody is charged for what came with an address that was not proved: forging it costs its owner nothing.
//! 2. Under load everybody has to prove the address first, which holds nothing on this side.
//! 3. One address has a share of the handshakes, and a rate.
//! 4. Whoever holds many handshakes open gives one up for somebody who holds fewer: silence keeps nobody out.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use crate::Limits;

/// Most addresses that are remembered. Each costs about 100 bytes.
const ADDRESSES_MAX: usize = 4096;

/// What happens with a connection that knocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may greet. [`Admission::ended`] is owed for the number.
    Accept {
        /// Which handshake it is.
        number: u64,
        /// The one whose place it takes, which has ended by that.
        instead_of: Option<u64>,
    },
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
    /// The handshakes under way, the oldest first.
    under_way: BTreeMap<u64, Handshake>,
    unproved: usize,
    accepted: u64,
    addresses: HashMap<IpAddr, Address>,
    pruned_at: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Handshake {
    from: IpAddr,
    proved: bool,
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
            under_way: BTreeMap::new(),
            unproved: 0,
            accepted: 0,
            addresses: HashMap::new(),
            pruned_at: Duration::ZERO,
        }
    }

    /// Judges a connection from `ip`. `proved` says that the address is its own; `now` runs from any zero.
    pub(crate) fn judge(&mut self, now: Duration, ip: IpAddr, proved: bool) -> Verdict {
        if !proved && self.unproved >= self.unproved_max {
            return Verdict::Prove;
        }
        let mut instead_of = None;
        if self.under_way.len() >= self.handshakes_max {
            if !proved {
                return Verdict::Prove;
            }
            instead_of = self.held_by_whoever_has_most(network(ip));
            if instead_of.is_none() {
                let max = self.handshakes_max;
                return Verdict::Refuse(format!(
                    "{max} handshakes are under way (limits.handshakes_max)"
                ));
            }
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
        if let Some(number) = instead_of {
            self.ended(number);
        }
        self.accepted += 1;
        self.unproved += usize::from(!proved);
        let number = self.accepted;
        self.under_way.insert(number, Handshake { from: network(ip), proved });
        Verdict::Accept { number, instead_of }
    }

    /// A handshake that was accepted is over. One whose place was taken is over already.
    pub(crate) fn ended(&mut self, number: u64) {
        let Some(Handshake { from, proved }) = self.under_way.remove(&number) else { return };
        if !proved {
            self.unproved -= 1;
        } else if let Some(address) = self.addresses.get_mut(&from) {
            address.proved = address.proved.saturating_sub(1);
        }
    }

    /// Handshakes under way.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// The handshake that has to make place for one from `ip`: the oldest without proof, or else the oldest of the address that has
    /// most, if that has more even when it has given up one. So shares become equal, and nobody can take turns with himself.
    fn held_by_whoever_has_most(&self, ip: IpAddr) -> Option<u64> {
        let oldest = |wanted: &dyn Fn(&Handshake) -> bool| {
            let mut all = self.under_way.iter();
            all.find(|(_, handshake)| wanted(handshake)).map(|(number, _)| *number)
        };
        if let Some(number) = oldest(&|handshake| !handshake.proved) {
            return Some(number);
        }
        let mut held = HashMap::<IpAddr, usize>::new();
        for handshake in self.under_way.values() {
            *held.entry(handshake.from).or_default() += 1;
        }
        let own = held.get(&ip).copied().unwrap_or(0);
        let (most, count) = held.into_iter().max_by_key(|(from, count)| (*count, *from))?;
        if count >= own + 2 { oldest(&|handshake| handshake.from == most) } else { None }
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

    fn accept(admission: &mut Admission, now: Duration, ip: IpAddr, proved: bool) -> u64 {
        match admission.judge(now, ip, proved) {
            Verdict::Accept { number, instead_of: None } => number,
            other => panic!("{ip} is to be accepted: {other:?}"),
        }
    }

    #[test]
    fn with_many_under_way_an_address_has_to_be_proved() {
        let mut admission = Admission::new(&limits());
        let first = accept(&mut admission, SECOND, ip(0), false);
        for number in 1..4 {
            accept(&mut admission, SECOND, ip(number), false);
        }
        assert_eq!(admission.judge(SECOND, ip(9), false), Verdict::Prove);
        accept(&mut admission, SECOND, ip(9), true);
        admission.ended(first);
        accept(&mut admission, SECOND, ip(10), false);
    }

    #[test]
    fn forged_addresses_cost_their_owner_nothing() {
        let mut admission = Admission::new(&limits());
        for _ in 0..1000 {
            if let Verdict::Accept { number, .. } = admission.judge(SECOND, ip(1), false) {
                admission.ended(number);
            }
        }
        assert_eq!(admission.judge(SECOND, ip(1), false), Verdict::Prove);
        accept(&mut admission, SECOND, ip(1), true);
    }

    #[test]
    fn one_address_has_a_share_and_a_rate() {
        let mut admission = Admission::new(&limits());
        let three = [(); 3].map(|()| accept(&mut admission, SECOND, ip(1), true));
        assert!(matches!(admission.judge(SECOND, ip(1), true), Verdict::Refuse(_)));
        accept(&mut admission, SECOND, ip(2), true);
        three.into_iter().for_each(|number| admission.ended(number));
        // One of the burst of four is left.
        let fourth = accept(&mut admission, SECOND, ip(1), true);
        admission.ended(fourth);
        assert!(matches!(admission.judge(SECOND, ip(1), true), Verdict::Refuse(_)));
        accept(&mut admission, SECOND * 2, ip(1), true);
    }

    #[test]
    fn who_holds_many_open_makes_place_for_who_holds_fewer() {
        let mut admission = Admission::new(&limits());
        let forged = accept(&mut admission, SECOND, ip(7), false);
        let held =
            [1, 1, 1, 2, 2, 3, 4].map(|number| accept(&mut admission, SECOND, ip(number), true));
        // Who never proved anything goes first, then the oldest of who has most.
        let Verdict::Accept { instead_of: Some(first), .. } = admission.judge(SECOND, ip(5), true)
        else {
            panic!("there is a place for one who has none");
        };
        assert_eq!(first, forged);
        let Verdict::Accept { number, instead_of } = admission.judge(SECOND, ip(6), true) else {
            panic!("there is a place for one who has none");
        };
        assert_eq!(instead_of, Some(held[0]));
        assert_eq!(admission.under_way(), 8);
        // The one whose place was taken has no other to give up.
        admission.ended(held[0]);
        assert_eq!(admission.under_way(), 8);
        // Nobody makes place for one who has as many already, or would have then.
        for known in [1, 2, 3] {
            assert!(
                matches!(admission.judge(SECOND, ip(known), true), Verdict::Refuse(_)),
                "{known}"
            );
        }
        admission.ended(number);
        accept(&mut admission, SECOND, ip(3), true);
    }

    #[test]
    fn all_together_are_bounded_and_the_table_too() {
        let mut admission = Admission::new(&limits());
        let mut accepted = 0;
        for number in 0..100_000 {
            let verdict = admission.judge(SECOND, ip(number), number % 2 == 0);
            accepted += usize::from(matches!(verdict, Verdict::Accept { .. }));
        }
        // Each that had proved its address took the place of one that had not.
        assert_eq!((accepted, admission.under_way()), (12, 8));
        let mut admission = Admission::new(&limits());
        for number in 0..100_000 {
            if let Verdict::Accept { number, .. } = admission.judge(SECOND, ip(number), false) {
                admission.ended(number);
            }
        }
        assert_eq!(admission.addresses.len(), ADDRESSES_MAX);
        // The table has room again when those in it have been quiet.
        accept(&mut admission, SECOND * 10, ip(200_000), false);
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
