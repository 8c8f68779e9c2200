//! Validators whose hosts estimate log time differently, and refuse what others propose.

use std::time::Duration;

use quorate_certificate::Scheme;

use crate::table::Table;

const HOUR: Duration = Duration::from_secs(3600);
const AWAY: Duration = Duration::from_secs(10);

#[test]
fn what_all_have_refused_is_judged_again_when_it_is_proposed_again() {
    let mut table = Table::new(Scheme::Ed25519);
    // All of the others are needed.
    table.stop(4);
    table.hesitates = true;
    for _ in 0..3 {
        table.offer();
        table.settle(&[1, 2, 3]);
    }
    table.audit(1);
    let mut given = std::collections::BTreeMap::new();
    for vote in &table.votes {
        let at = (vote.node, vote.height, vote.round, vote.is_precommit);
        assert_eq!(*given.entry(at).or_insert(vote.value), vote.value, "{at:?}");
    }
}

#[test]
fn who_was_away_believes_two_others_what_the_time_is() {
    let mut table = Table::new(Scheme::Ed25519);
    table.stop(4);
    table.seats[0].ahead = AWAY;
    table.seats[1].ahead = AWAY;
    table.offer();
    table.settle(&[1, 2, 3]);
    // Perhaps its own batch was decided first.
    for _ in 0..3 {
        table.offer();
        table.settle(&[1, 2, 3]);
    }
    assert_eq!(table.seats[2].ahead, AWAY);
}

#[test]
fn nobody_believes_one_other_what_the_time_is() {
    let mut table = Table::new(Scheme::Ed25519);
    table.seats[0].ahead = HOUR;
    for _ in 0..5 {
        table.offer();
        table.settle(&[1, 2, 3, 4]);
    }
    let others: Vec<_> = table.seats[1..].iter().map(|seat| seat.ahead).collect();
    assert_eq!(others, [Duration::ZERO; 4]);
    // Beside one that was away it is a second one, and is believed no more than that one.
    table.seats[1].ahead = AWAY;
    table.stop(4);
    for _ in 0..5 {
        table.offer();
        table.settle(&[1, 2, 3]);
    }
    assert!(table.seats[2].ahead <= AWAY, "{:?}", table.seats[2].ahead);
}
