//! Validators come, go, and change their keys while batches are decided.

mod log_time;
mod signed;
mod table;

use std::time::Duration;

use bytes::Bytes;
use quorate_certificate::{
    BodyKind, ChainId, Header, Motion, NewKey, Scheme, ValidatorChange, body_hash,
};
use quorate_driver_quorum::simulation::{self, Ballot};
use quorate_driver_quorum::{QuorumConfig, QuorumDriver, Setup, evidence_in};
use quorate_engine::engine::{EngineDriver, Opening, Output};
use quorate_replicator::{AdminError, GroupId, NodeId, Role};
use quorate_storage::{Body, Recovered};
use table::{Table, key, next_key};

fn chain(table: &Table) -> ChainId {
    table.genesis.chain(0)
}

fn motion(change: ValidatorChange) -> Motion {
    Motion::new(vec![change], Vec::new()).unwrap()
}

fn add_five(table: &Table) -> Motion {
    let key = key(Scheme::Ed25519, 5);
    let change = ValidatorChange::add(&chain(table), 5, 1, &key).unwrap();
    Motion::new(vec![change], vec![(5, "host-5:7000".into())]).unwrap()
}

fn rotate_two(table: &Table) -> Motion {
    let (old, new) = (key(Scheme::Ed25519, 2), next_key(Scheme::Ed25519, 2));
    motion(ValidatorChange::RotateKey(NewKey::new(&chain(table), 2, &old, &new).unwrap()))
}

fn remove(node: u64) -> Motion {
    motion(ValidatorChange::Remove { node })
}

fn members(table: &Table, node: u64) -> Vec<u64> {
    table.status(node).members.iter().map(|node| node.number()).collect()
}

#[test]
fn four_become_five_and_four_again_while_batches_are_decided() {
    let mut table = Table::new(Scheme::Ed25519);
    // Who is to be one follows before.
    for _ in 0..2 {
        table.offer();
        table.settle(&[1, 2, 3, 4, 5]);
    }
    assert_eq!(table.status(5).role, Role::Learner);
    let add = add_five(&table);
    table.change(&add, &[1, 2, 3, 4]);
    table.settle(&[5]);
    assert_eq!(members(&table, 5), [1, 2, 3, 4, 5]);
    let reached = &table.seats[0].members;
    let there = reached.iter().find(|member| member.node == NodeId::new(5)).unwrap();
    assert_eq!(there.address, "host-5:7000");
    // Without one of the five all others are needed, and so is the new one.
    table.stop(4);
    table.offer();
    table.settle(&[1, 2, 3, 5]);
    table.start(4);
    table.offer();
    table.settle(&[4]);

    table.change(&remove(1), &[2, 3, 4, 5]);
    assert_eq!(members(&table, 2), [2, 3, 4, 5]);
    assert_eq!(table.status(1).role, Role::Learner, "it has learned that it is out");
    table.stop(1);
    table.stop(2);
    table.offer();
    table.settle(&[3, 4, 5]);
    for node in [3, 4, 5] {
        assert_eq!(table.audit(node).epoch, 2);
    }
    // What is so already is not done again.
    let ticket = table.approve(3, &remove(1));
    assert_eq!(table.answer(3, ticket), Some(&Ok(())));
    assert_eq!(table.audit(3).epoch, 2);
}

#[test]
fn a_validator_signs_with_its_next_key_from_the_height_on_from_which_it_is_known_by_it() {
    let mut table = Table::new(Scheme::Ed25519);
    let rotate = rotate_two(&table);
    table.change(&rotate, &[1, 2, 3, 4]);
    // Nothing is decided now without it.
    table.stop(1);
    table.offer();
    table.settle(&[2, 3, 4]);
    // Nor after it has begun anew.
    table.stop(2);
    table.start(2);
    table.offer();
    table.settle(&[2, 3, 4]);
    assert_eq!(table.audit(4).epoch, 1);
}

/// The genesis does not know its key, nor does an empty directory say that it was changed.
#[test]
fn who_has_another_key_than_the_genesis_says_and_an_empty_disk_says_so() {
    let genesis = Table::new(Scheme::Ed25519).genesis;
    let open = |is_changed: bool| {
        let mut setup = Setup::new(genesis.clone(), next_key(Scheme::Ed25519, 2));
        setup.next_key = is_changed.then(|| next_key(Scheme::Ed25519, 2));
        let driver = QuorumDriver::with_setups([(NodeId::new(2), setup)]);
        let opening = Opening {
            group: GroupId::new(0),
            node: NodeId::new(2),
            members: (1..=4).map(NodeId::new).collect(),
            incarnation: [2; 16],
            seed: 2,
            checkpoint: None,
            log: Recovered::default(),
        };
        driver.open(&QuorumConfig::default(), opening, &mut Output::default())
    };
    let refused = open(false).unwrap_err();
    assert!(refused.contains("have the key as next_key_file too"), "{refused}");
    let status = open(true).unwrap().status();
    assert!(status.reason.is_some_and(|reason| reason.contains("has not the key")));
}

#[test]
fn a_node_that_is_not_there_is_not_added() {
    let mut table = Table::new(Scheme::Ed25519);
    table.settle(&[1, 2, 3, 4]);
    table.stop(5);
    assert!(!table.run(Duration::from_secs(10), |_| false));
    let add = add_five(&table);
    let tickets = [1, 2, 3, 4].map(|node| (node, table.approve(node, &add)));
    let height = table.status(1).decided;
    table.run(Duration::from_secs(100), |_| false);
    for (node, ticket) in tickets {
        refused(&table, node, ticket, "nothing is heard of n5, which is to be added: start it");
    }
    assert_eq!(table.status(1).decided, height);
    table.start(5);
    table.change(&add, &[1, 2, 3, 4]);
    assert_eq!(members(&table, 1), [1, 2, 3, 4, 5]);
}

/// Nobody says how far it is while one height follows the other: what is said of them tells.
#[test]
fn who_speaks_of_a_height_is_known_to_have_decided_what_was_before() {
    let mut table = Table::new(Scheme::Ed25519);
    table.settle(&[1, 2, 3, 4]);
    (0..50).for_each(|_| table.offer());
    let begun = table.now();
    table.settle(&[1, 2, 3, 4]);
    assert!(table.now() < begun + Duration::from_millis(200), "there was no time to ask");
    for node in 1..=4 {
        let status = table.status(node);
        assert!(status.decided >= 50);
        for peer in status.peers {
            assert!(peer.lag.is_some_and(|lag| lag <= 2), "n{node}: {peer:?}");
        }
    }
}

#[test]
fn all_change_to_another_scheme_at_one_height() {
    let mut table = Table::new(Scheme::Hybrid);
    let new = |node: u64| {
        let (old, new) = (key(Scheme::Ed25519, node as u8), next_key(Scheme::Hybrid, node));
        NewKey::new(&chain(&table), node, &old, &new).unwrap()
    };
    let keys = (1..=4).map(new).collect();
    let scheme = motion(ValidatorChange::Scheme { scheme: Scheme::Hybrid, keys });
    table.change(&scheme, &[1, 2, 3, 4]);
    table.stop(3);
    table.offer();
    table.settle(&[1, 2, 4]);
    assert_eq!(table.audit(1).epoch, 1);
}

#[test]
fn power_changes_who_is_a_quorum() {
    let mut table = Table::new(Scheme::Ed25519);
    table.change(&motion(ValidatorChange::Power { node: 3, power: 2 }), &[1, 2, 3, 4]);
    // Four of five: not without the one that has two.
    table.stop(3);
    table.offer();
    let height = table.status(1).decided;
    assert!(!table.run(Duration::from_secs(30), |table| table.status(1).decided > height));
    table.start(3);
    table.stop(4);
    table.settle(&[1, 2, 3]);
    assert_eq!(table.audit(3).epoch, 1);
}

fn refused(table: &Table, node: u64, ticket: u64, words: &str) {
    match table.answer(node, ticket) {
        Some(Err(AdminError::Refused { reason })) => {
            assert!(reason.contains(words), "{words}: {reason}");
        }
        other => panic!("{words}: {other:?}"),
    }
}

#[test]
fn what_may_not_be_is_refused_with_the_reason() {
    let mut table = Table::new(Scheme::Ed25519);
    let two = [1, 2].map(|node| ValidatorChange::Remove { node });
    let two = Motion::new(two.to_vec(), Vec::new()).unwrap();
    let ticket = table.approve(3, &two);
    refused(&table, 3, ticket, "do it in smaller steps");
    let ticket = table.approve(3, &motion(ValidatorChange::Power { node: 9, power: 2 }));
    refused(&table, 3, ticket, "node 9 is no validator");
    let ticket = table.approve(5, &remove(1));
    refused(&table, 5, ticket, "is no validator: those who are");
    // A key that its owner did not sign for.
    let other = Table::new(Scheme::Ed25519);
    let (old, new) = (key(Scheme::Ed25519, 3), next_key(Scheme::Ed25519, 2));
    let stolen = NewKey::new(&chain(&other), 2, &old, &new).unwrap();
    let ticket = table.approve(3, &motion(ValidatorChange::RotateKey(stolen)));
    refused(&table, 3, ticket, "not signed for");
}

#[test]
fn nothing_changes_without_a_quorum_of_approvals() {
    let mut table = Table::new(Scheme::Ed25519);
    let tickets = [1, 2].map(|node| (node, table.approve(node, &remove(4))));
    for _ in 0..5 {
        table.offer();
    }
    table.settle(&[1, 2, 3, 4]);
    assert!(!table.run(Duration::from_secs(60), |table| members(table, 1).len() < 4));
    assert!(tickets.iter().all(|(node, ticket)| table.answer(*node, *ticket).is_none()));
    let notes: Vec<_> = table.status(3).peers.into_iter().map(|peer| peer.note).collect();
    assert_eq!(notes, ["approves: remove n4", "approves: remove n4", ""]);
    // Another change is decided, which ends it: approvals are for one epoch.
    table.change(&motion(ValidatorChange::Power { node: 3, power: 2 }), &[1, 3, 4]);
    table.settle(&[2]);
    for (node, ticket) in tickets {
        refused(&table, node, ticket, "another change was decided first");
    }
    let late = table.approve(3, &remove(4));
    assert!(!table.run(Duration::from_secs(60), |table| members(table, 1).len() < 4));
    assert_eq!(table.answer(3, late), None);
    assert_eq!(table.audit(2).epoch, 1);
}

/// A proposer that is a liar proposes a change by itself; the others vote for it only if it carries approvals of a quorum.
#[test]
fn validators_vote_for_no_change_that_a_quorum_has_not_approved() {
    let proposed = |approved_by: &[u64]| {
        let mut table = Table::new(Scheme::Ed25519);
        let (chain, set) = (chain(&table), table.genesis.validators().clone());
        let motion = remove(4);
        let approve = |node: &u64| {
            let approval = motion.approve(&chain, 0, *node, &key(Scheme::Ed25519, *node as u8));
            (*node, approval.unwrap())
        };
        let approvals: Vec<_> = approved_by.iter().map(approve).collect();
        let body = motion.body(&approvals).encode();
        let header = Header {
            height: 1,
            previous: *chain.as_bytes(),
            proposer: 1,
            validators: set.digest(),
            next_validators: set.digest(),
            state_index: 0,
            state: [0; 32],
            kind: BodyKind::Members,
            body: body_hash(BodyKind::Members, &body),
        };
        let body = Body::Members(body.into());
        let key = key(Scheme::Ed25519, 1);
        let proposal = simulation::proposal((&chain, 0), 0, &header, &body, &key).unwrap();
        table.stop(1);
        table.say(1, &[2, 3, 4], &proposal);
        table.offer();
        table.settle(&[2, 3, 4]);
        let first = |vote: &&Ballot| !vote.is_precommit && (vote.height, vote.round) == (1, 0);
        let voted: Vec<_> = table.votes.iter().filter(first).map(|vote| vote.value).collect();
        assert!(voted.len() >= 3, "{voted:?}");
        let is_for = voted.iter().all(|value| *value == Some(header.id()));
        assert!(is_for || voted.iter().all(Option::is_none), "{voted:?}");
        assert_eq!(table.audit(2).epoch, u64::from(is_for));
        is_for
    };
    assert!(proposed(&[1, 2, 3]), "three of four are a quorum");
    assert!(proposed(&[2, 3, 4]));
    for too_few in [&[][..], &[1], &[1, 2]] {
        assert!(!proposed(too_few), "{too_few:?}");
    }
}

#[test]
fn a_validator_with_two_faces_is_shown_and_its_signatures_are_kept() {
    let mut table = Table::new(Scheme::Ed25519);
    let chain = chain(&table);
    table.offer();
    for value in [[1; 32], [2; 32]] {
        let (node, is_precommit, height, round) = (2, false, 1, 0);
        let value = Some(value);
        let ballot = Ballot { node, is_precommit, height, round, value, line: Bytes::new() };
        let key = key(Scheme::Ed25519, 2);
        let vote = simulation::vote(&chain, (&chain, 0), &ballot, &key).unwrap();
        table.say(2, &[1, 3], &vote);
    }
    table.settle(&[1, 3, 4]);
    table.stop(1);
    table.start(1);
    for node in [1, 3] {
        let status = table.status(node);
        let two = status.peers.iter().find(|peer| peer.node == NodeId::new(2)).unwrap();
        assert!(two.note.contains("prevoted for two values at height 1"), "{}", two.note);
        let kept = evidence_in(&table.genesis, 0, &table.state(node).unwrap()).unwrap();
        let [ref evidence, ..] = kept[..] else { panic!("n{node} has kept it") };
        assert_eq!(evidence.verify(&chain, table.genesis.validators()), Ok(()));
        assert_eq!(evidence.validator(), 2);
    }
}

/// Power is lost at all nodes after each so many messages; the operators ask again, as what they said is lost too.
#[test]
fn power_that_is_lost_at_any_step_of_a_change_does_no_harm() {
    let mut in_force = 0;
    for messages in (0..240).step_by(6) {
        let mut table = Table::new(Scheme::Ed25519);
        let wanted = if messages % 12 == 0 { rotate_two(&table) } else { add_five(&table) };
        table.offer();
        table.settle(&[1, 2, 3, 4]);
        for node in 1..=4 {
            table.approve(node, &wanted);
        }
        table.patience = Some(messages);
        // A node that is added is heard of once a second.
        table.run(Duration::from_secs(3), |_| false);
        table.lose_power();
        in_force += usize::from(table.audit(1).epoch > 0);
        // What was voted for before is decided first.
        table.offer();
        table.settle(&[1, 2, 3, 4]);
        table.change(&rotate_two(&table), &[1, 2, 3, 4]);
        table.stop(1);
        table.offer();
        table.settle(&[2, 3, 4]);
        assert!(table.audit(2).epoch > 0);
    }
    assert!((5..35).contains(&in_force), "some had it decided before: {in_force}");
}

#[test]
fn a_decision_that_a_checkpoint_alone_has_is_given_to_who_lacks_it() {
    let mut table = Table::new(Scheme::Ed25519);
    table.offer();
    table.settle(&[1, 2, 3, 4]);
    table.stop(4);
    table.offer();
    table.settle(&[1, 2, 3]);
    for node in [1, 2, 3] {
        table.checkpoint_without_decision(node);
    }
    // It is needed now, and lacks what was decided without it.
    table.stop(3);
    table.start(4);
    table.offer();
    table.settle(&[1, 2, 4]);
}
