//! From and to another driver: what a node alone knows to be decided, and a group of one validator that begins with a state.
//!
//! The first height follows what another driver has left: its header names that state in place of the header before it, and so the validator
//! signs for where the history begins. See `docs/decisions/0029`.

use bytes::Bytes;
use quorate_certificate::ValidatorSet;
use quorate_engine::engine::{Founding, Inherited};
use quorate_replicator::NodeId;
use quorate_storage::{Recovered, Tag};

use super::QuorumEngine;
use super::opening::{check_key, unread};
use super::standing::Standing;
use crate::mark::Mark;
use crate::setup::Setup;
use crate::tendermint::commitment_of;

/// A group of one validator, which has decided everything up to the index that it inherits. Others would have to vote on what they do not
/// have: they come later, by changes of the validators.
pub(super) fn found(setup: &Setup, inherited: &Inherited) -> Result<Founding, String> {
    let Setup { genesis, key, .. } = setup;
    let Inherited { group, node, index, state, .. } = inherited;
    let all = genesis.validators();
    check_key(all, node.number(), key, false)?;
    if all.get(node.number()).is_none() || all.validators().len() != 1 {
        return Err(format!(
            "a group that goes on from what another driver has decided begins with {node} alone, and genesis_file has {} as validators; make a \
             genesis of {node} with `quorate init-cluster --driver quorum --from DATA --nodes {node}=HOST:PORT,...`, and add the others \
             when it runs",
            names(all)
        ));
    }
    let chain = genesis.chain(group.number());
    let mark = Mark::inherited(all, &chain, *index, *state);
    // It has voted for nothing that comes after.
    let standing = Standing::alone(index + 1);
    Ok(Founding { mark: mark.encode(), state: Some(standing.encode(&chain)) })
}

/// What this node has precommitted to may be decided, and answered: how that came about is written later.
pub(super) fn take_for_decided(node: NodeId, log: &mut Recovered) -> Result<(), String> {
    let mut newest = None;
    for (index, note) in &log.notes {
        let committed = commitment_of(node.number(), note).map_err(|_| unread("journal"))?;
        if let Some((round, value)) = committed {
            newest = newest.max(Some((*index, round, value)));
        }
    }
    let last = log.decided.last().map_or(0, |(index, ..)| *index);
    if let Some((index, _, value)) = newest.filter(|(index, ..)| *index > last) {
        log.decided.push((index, Tag(value), Bytes::new()));
    }
    Ok(())
}

/// A validator without which, and with which alone, everything is decided has decided all there is; any other has to ask.
pub(super) fn knows_all(engine: &QuorumEngine) -> Result<(), String> {
    let node = engine.node;
    let (set, next) = (engine.validators(), &engine.mark.next_validators);
    let all = names(set);
    if !engine.is_validator() {
        return Err(format!(
            "{node} is no validator, and what the validators ({all}) have decided may not be here: switch one of them that decides alone"
        ));
    }
    if !engine.votes() {
        return Err(engine.why_it_does_not_vote());
    }
    let decides_alone = |set: &ValidatorSet| {
        let own = set.get(node.number()).map_or(0, |own| own.power);
        engine.fault_model.is_quorum(own, set.total_power())
    };
    if decides_alone(set) && decides_alone(next) && engine.claim() == engine.mark.height {
        return Ok(());
    }
    let others: Vec<_> = engine.others().iter().map(ToString::to_string).collect();
    Err(format!(
        "{node} is one of {} validators ({all}), and what the others have decided without it is not here: start the cluster, remove the \
         others while {node} runs (`quorate member remove {}`), and stop {node} when it is the only validator",
        set.validators().len(),
        others.join("`, `quorate member remove ")
    ))
}

/// The validators, as a sentence has them.
fn names(set: &ValidatorSet) -> String {
    let names: Vec<_> =
        set.validators().iter().map(|known| NodeId::new(known.node).to_string()).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quorate_certificate::{FaultModel, Genesis, Scheme, SigningKey, Validator};
    use quorate_replicator::GroupId;

    use super::*;
    use crate::tendermint::signed_vote_of;

    const NODE: NodeId = NodeId::new(2);

    fn key() -> Arc<SigningKey> {
        Arc::new(SigningKey::generate(Scheme::Ed25519).unwrap())
    }

    fn setup(nodes: &[u64]) -> Setup {
        let keys: Vec<_> = nodes.iter().map(|node| (*node, key())).collect();
        let validator = |(node, key): &(u64, Arc<SigningKey>)| Validator {
            node: *node,
            power: 1,
            key: key.public().clone(),
        };
        let all = keys.iter().map(validator).collect();
        let genesis = Genesis::new([7; 16], FaultModel::Byzantine, Scheme::Ed25519, 500, all);
        let own = keys.into_iter().find(|(node, _)| *node == NODE.number());
        Setup::new(genesis.unwrap(), own.map_or_else(key, |(_, key)| key))
    }

    fn inherited() -> Inherited {
        let (group, incarnation) = (GroupId::new(3), [9; 16]);
        Inherited { group, node: NODE, incarnation, index: 7, state: [4; 32] }
    }

    #[test]
    fn the_first_height_names_what_was_left() {
        let setup = setup(&[2]);
        let founding = found(&setup, &inherited()).unwrap();
        let chain = setup.genesis.chain(3);
        let mark = Mark::decode(&chain, &founding.mark).unwrap();
        assert_eq!((mark.height, mark.value), (7, chain.origin(7, &[4; 32])));
        assert_eq!(mark.encode(), founding.mark);
        // Neither for another index or state, nor in another group, is it the same.
        let other = setup.genesis.chain(2);
        let values =
            [chain.origin(6, &[4; 32]), chain.origin(7, &[5; 32]), other.origin(7, &[4; 32])];
        assert!(!values.contains(&mark.value));
        for length in 0..founding.mark.len() {
            assert!(Mark::decode(&chain, &founding.mark[..length]).is_err(), "{length}");
        }
        let standing = Standing::decode(&chain, &founding.state.unwrap()).unwrap();
        assert_eq!(standing.votes_from, Some(8));
    }

    #[test]
    fn only_a_genesis_of_this_node_alone_is_taken() {
        for (nodes, words) in [
            (&[1, 2, 3, 4][..], "has n1, n2, n3 and n4 as validators"),
            (&[3], "has n3 as validators"),
        ] {
            let refused = found(&setup(nodes), &inherited()).unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
        let refused = found(&Setup { key: key(), ..setup(&[2]) }, &inherited()).unwrap_err();
        assert!(refused.contains("a key that the genesis does not know"), "{refused}");
    }

    #[test]
    fn what_this_node_precommitted_to_last_is_taken_for_decided() {
        let (chain, key) = (setup(&[2]).genesis.chain(3), key());
        let note = |node, is_precommit, height, round, value: Option<u8>| {
            let vote = (is_precommit, height, round, value.map(|value| [value; 32]));
            (height, signed_vote_of((&chain, 0), vote, node, &key).unwrap().note())
        };
        let mut log = Recovered {
            decided: vec![(5, Tag([5; 32]), Bytes::from_static(b"certificate"))],
            notes: vec![
                note(2, true, 5, 0, Some(5)),
                note(2, true, 6, 0, Some(60)),
                note(1, true, 6, 2, Some(61)),
                note(2, true, 6, 1, Some(62)),
                note(2, false, 6, 2, Some(63)),
                note(2, true, 6, 2, None),
            ],
            ..Recovered::default()
        };
        take_for_decided(NODE, &mut log).unwrap();
        assert_eq!(log.decided[1..], [(6, Tag([62; 32]), Bytes::new())]);
        // What is decided already is so once.
        let before = log.decided.clone();
        take_for_decided(NODE, &mut log).unwrap();
        assert_eq!(log.decided, before);
        log.notes.push((7, Bytes::from_static(b"?")));
        assert!(take_for_decided(NODE, &mut log).unwrap_err().contains("journal"));
    }
}
