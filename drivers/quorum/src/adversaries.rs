//! Validators that do what they like, and what becomes of the others.

mod world;

use std::time::Duration;

use bytes::Bytes;
use quorate_certificate::{ChainId, FaultModel};
use quorate_engine::engine::Message;
use quorate_replicator::NodeId;

use self::world::{Broken, Violation, World};
use crate::codec::Writer;

/// What liars do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Adversary {
    /// There are none.
    Nobody,
    /// Says nothing.
    Silent,
    /// Runs twice with one key: proposes and votes for two things, to halves of the others or to all.
    Twins,
    /// Forgets what it has voted for when it crashes, and votes again.
    Amnesia,
    /// Gives what it proposes to some only.
    Withhold,
    /// Changes bits of what it says.
    Forge,
    /// Says what others said before, and what was said in another cluster with the same keys.
    Replay,
    /// Talks of heights and rounds that are far off.
    Flood,
    /// Proposes its own batches alone.
    Censor,
    /// Proposes what is invalid.
    InvalidBatch,
    /// Answers with changed heights, and claims to know more.
    LyingPeer,
}

/// What leaves a liar in place of a message; none for silence.
fn tamper(
    adversary: Adversary,
    random: &mut fastrand::Rng,
    twin: usize,
    to: usize,
    chain: &ChainId,
    message: Message,
) -> Option<Message> {
    match adversary {
        Adversary::Silent => None,
        // Each twin speaks with a half of the others, and at times with all.
        Adversary::Twins if to % 2 != twin && random.u32(..4) > 0 => None,
        Adversary::Withhold if !message.bodies.is_empty() && to.is_multiple_of(2) => None,
        Adversary::Withhold if !message.bodies.is_empty() && random.u32(..4) == 0 => {
            Some(Message { bodies: vec![Bytes::from_static(b"garbage")], ..message })
        }
        Adversary::Forge if random.bool() => Some(flip(random, message)),
        Adversary::LyingPeer if !message.bodies.is_empty() && random.bool() => {
            Some(flip(random, message))
        }
        Adversary::LyingPeer if random.u32(..3) == 0 => {
            Some(world::status(chain, random.u64(..) >> random.u32(..64)))
        }
        _ => Some(message),
    }
}

/// Flips a bit of the head or of a body.
fn flip(random: &mut fastrand::Rng, message: Message) -> Message {
    let Message { head, mut bodies } = message;
    let mut flip = |bytes: Bytes| {
        let mut bytes = bytes.to_vec();
        if !bytes.is_empty() {
            let bit = random.usize(..bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        Bytes::from(bytes)
    };
    match bodies.pop() {
        Some(body) => {
            bodies.push(flip(body));
            Message { head, bodies }
        }
        None => Message { head: flip(head), bodies },
    }
}

/// What a liar says beside what it says as others do.
fn make_up(
    adversary: Adversary,
    random: &mut fastrand::Rng,
    chain: &ChainId,
    from: NodeId,
    height: u64,
    recorded: &[(usize, NodeId, Message)],
) -> Vec<Message> {
    match adversary {
        Adversary::Replay => (0..8).filter_map(|_| replayed(random, recorded)).collect(),
        Adversary::Flood => (0..32).map(|_| far_off(random, chain, from, height)).collect(),
        _ => Vec::new(),
    }
}

fn replayed(random: &mut fastrand::Rng, recorded: &[(usize, NodeId, Message)]) -> Option<Message> {
    let others = world::foreign_words(random);
    if random.bool() {
        return Some(others);
    }
    let place = random.usize(..recorded.len().max(1));
    recorded.get(place).map(|(.., message)| message.clone())
}

/// A vote, rightly signed, for a round or a height that is far off.
fn far_off(random: &mut fastrand::Rng, chain: &ChainId, from: NodeId, height: u64) -> Message {
    let key = world::keys(7).remove(from.number() as usize - 1);
    let height = match random.u32(..3) {
        0 => height + 1,
        1 => height + random.u64(..100),
        _ => random.u64(1..u64::MAX / 2),
    };
    let round = random.u32(..(1 << 24));
    let value = random.bool().then(|| [random.u8(..); 32]);
    let is_precommit = random.bool();
    let words = crate::tendermint::signed_vote_of(
        (chain, 0),
        (is_precommit, height, round, value),
        from.number(),
        &key,
    )
    .expect("it signs");
    let mut to = Writer::default();
    words.encode(&mut to);
    crate::message::words(chain, &to.finish(), None)
}

/// One life of a group with some of its nodes lying, and faults of the others on top.
fn live(
    seed: u64,
    count: u8,
    model: FaultModel,
    liars: u8,
    adversary: Adversary,
    broken: Broken,
    crashes: bool,
) -> Result<(u64, u64), Violation> {
    let mut world = World::new(seed, count, model, liars, adversary, broken);
    for _ in 0..25 {
        if world.random.u32(..3) > 0 {
            world.offer();
        }
        let node = world.random.usize(..usize::from(count));
        match world.random.u32(..10) {
            0 if crashes => world.crash(node),
            1..=3 => world.start(node),
            4 => world.cut(node, true),
            5..=6 => world.cut(node, false),
            7 => world.read(node),
            8 if crashes && world.random.u32(..4) == 0 => {
                // The power fails everywhere.
                (0..usize::from(count)).for_each(|node| world.crash(node));
                (0..usize::from(count)).for_each(|node| world.start(node));
            }
            _ => {}
        }
        let time = match world.random.u32(..6) {
            0 => Duration::from_millis(700),
            _ => Duration::from_micros(world.random.u64(..40_000)),
        };
        if !world.pass(time) {
            break;
        }
    }
    world.finish(Duration::from_secs(120)).map(|heights| (heights, world.evidence))
}

fn seeds() -> u64 {
    match std::env::var("QUORATE_TEST_BUDGET").as_deref() {
        Ok("long") => 2000,
        _ if cfg!(debug_assertions) => 10,
        _ => 200,
    }
}

fn each_seed(count: u8, model: FaultModel, liars: u8, adversary: Adversary, crashes: bool) {
    let (mut heights, mut evidence) = (0, 0);
    for seed in 0..seeds() {
        match live(seed, count, model, liars, adversary, Broken::No, crashes) {
            Ok((decided, found)) => {
                heights += decided;
                evidence += found;
            }
            Err(violation) => panic!("{adversary:?}, n = {count}: {violation}"),
        }
    }
    println!(
        "{adversary:?}, n = {count}, {liars} of them lie: {heights} heights, {evidence} evidence"
    );
    if adversary == Adversary::Twins {
        assert!(evidence > 0, "who says two things is found out");
    }
}

macro_rules! scenarios {
    ($($name:ident: $adversary:ident, $count:literal, $liars:literal;)*) => {$(
        #[test]
        fn $name() {
            each_seed($count, FaultModel::Byzantine, $liars, Adversary::$adversary, true);
        }
    )*};
}

scenarios! {
    nobody_lies_of_four: Nobody, 4, 0;
    one_of_four_is_silent: Silent, 4, 1;
    one_of_four_runs_twice: Twins, 4, 1;
    two_of_seven_run_twice: Twins, 7, 2;
    one_of_four_forgets_its_votes: Amnesia, 4, 1;
    one_of_four_withholds_what_it_proposes: Withhold, 4, 1;
    one_of_four_changes_what_it_says: Forge, 4, 1;
    one_of_four_repeats_what_was_said: Replay, 4, 1;
    one_of_four_talks_of_what_is_far_off: Flood, 4, 1;
    one_of_four_proposes_what_is_invalid: InvalidBatch, 4, 1;
    one_of_four_lies_about_what_was_decided: LyingPeer, 4, 1;
    one_of_four_ignores_what_others_offer: Censor, 4, 1;
}

/// One that is well and serves itself alone does not keep its place for a thousand heights.
#[test]
fn who_leaves_out_what_others_offer_loses_its_place() {
    for seed in 0..seeds() {
        let (model, censor) = (FaultModel::Byzantine, Adversary::Censor);
        let mut world = World::new(seed, 4, model, 1, censor, Broken::No);
        world.offer();
        if let Err(violation) = world.finish(Duration::from_secs(4)) {
            panic!("a censor: {violation}");
        }
    }
}

/// Where nobody lies a lost disk is the one fault that is borne.
#[test]
fn a_disk_of_four_is_lost_and_does_not_vote_twice() {
    for seed in 0..seeds() {
        let (model, nobody) = (FaultModel::Byzantine, Adversary::Nobody);
        let mut world = World::new(seed, 4, model, 0, nobody, Broken::No);
        let lost = world.random.usize(..4);
        let losses = world.random.u32(1..4);
        for _ in 0..losses {
            for _ in 0..world.random.u32(1..6) {
                world.offer();
                let time = Duration::from_micros(world.random.u64(..60_000));
                world.pass(time);
            }
            world.lose_disk(lost);
        }
        if let Err(violation) = world.finish(Duration::from_secs(120)) {
            panic!("a lost disk: {violation}");
        }
    }
}

#[test]
fn a_minority_of_three_crashes_where_nobody_lies() {
    each_seed(3, FaultModel::Crash, 0, Adversary::Nobody, true);
}

/// The judge must notice what is broken on purpose.
fn is_caught(count: u8, liars: u8, adversary: Adversary, broken: Broken, word: &str) {
    let seeds = seeds().max(40);
    let found = (0..seeds).find_map(|seed| {
        let model = FaultModel::Byzantine;
        live(seed, count, model, liars, adversary, broken, true).err()
    });
    let found = found.unwrap_or_else(|| panic!("{broken:?}: none of {seeds} seeds showed it"));
    assert!(found.contains(word), "{broken:?} showed something else: {found}");
    println!("{broken:?}, {liars} liars: {found}");
}

#[test]
fn two_liars_of_four_are_too_many() {
    is_caught(4, 2, Adversary::Twins, Broken::No, "");
}

#[test]
fn a_lost_journal_is_noticed() {
    is_caught(4, 0, Adversary::Nobody, Broken::NoJournal, "");
}

#[test]
fn what_does_not_wait_for_the_disk_is_noticed() {
    is_caught(4, 0, Adversary::Nobody, Broken::NoFlush, "");
}

#[test]
fn candidates_that_are_not_kept_are_noticed() {
    is_caught(4, 0, Adversary::Nobody, Broken::NoBodies, "");
}
