//! The quorum-vote driver in the simulator: what a seed makes of it, and who lies in which way.

mod keyring;
mod liar;
mod votes;

use std::collections::BTreeSet;
use std::sync::Arc;

use quorate_certificate::{FaultModel, Genesis, Scheme, SigningKey, Validator};
use quorate_driver_quorum::{QuorumConfig, QuorumDriver};
use quorate_replicator::NodeId;

use super::MS;
use super::subject::{Crash, Group, Subject};
use super::swarm::{Kind, Swarm};
use super::watched::Opener;
pub(super) use keyring::Keyring;
pub(super) use liar::{FAR_AHEAD_MS, Liar, Lies};
pub(super) use votes::Votes;
use votes::VotesOf;

/// Most nodes of a group whose validators change.
const NODES_MAX: u64 = 8;

/// What is special about a life of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scenario {
    /// Nobody lies, under either fault model; everything else may fail.
    Swarm,
    /// The power fails everywhere, again and again.
    Blackouts,
    /// Disks are lost, as many as may lie.
    LostDisks,
    /// A liar says nothing.
    Silent,
    /// A liar runs twice with one key: each process talks to a half of the others, and at times to all.
    Twins,
    /// A liar votes for two things, and proposes two.
    Equivocation,
    /// A liar forgets what it has voted for whenever it ends.
    Amnesia,
    /// A liar gives what it proposes to some only.
    Withhold,
    /// A liar changes bits of what it says.
    Forge,
    /// A liar says what others said before, and what was said in another cluster with the same keys.
    Replay,
    /// A liar talks of heights and rounds that are far off.
    Flood,
    /// A liar proposes what it was asked to propose by its own client alone.
    Censor,
    /// A liar proposes what is no batch.
    Invalid,
    /// A liar stamps its batches with a time that is far ahead.
    FarFuture,
    /// A liar stamps its batches with the time of the batch before.
    Standstill,
    /// A liar answers those who lag with changed heights, and readers with changed claims.
    LyingPeer,
    /// A liar lets a single other node see that there is a quorum of first votes, and gives no second ones.
    HiddenLock,
    /// Frames are signed. A liar makes some up, or changes those that it is to propose.
    Invent,
    /// Any of the others, while operators change the validators. A seed that chooses its scenario does that in one life of four.
    Changes,
}

impl Scenario {
    /// Every scenario.
    pub const ALL: &[Self] = &[
        Self::Swarm,
        Self::Blackouts,
        Self::LostDisks,
        Self::Silent,
        Self::Twins,
        Self::Equivocation,
        Self::Amnesia,
        Self::Withhold,
        Self::Forge,
        Self::Replay,
        Self::Flood,
        Self::Censor,
        Self::Invalid,
        Self::FarFuture,
        Self::Standstill,
        Self::LyingPeer,
        Self::HiddenLock,
        Self::Invent,
        Self::Changes,
    ];

    /// Its name on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Swarm => "swarm",
            Self::Blackouts => "blackouts",
            Self::LostDisks => "lost-disks",
            Self::Silent => "silent",
            Self::Twins => "twins",
            Self::Equivocation => "equivocation",
            Self::Amnesia => "amnesia",
            Self::Withhold => "withhold",
            Self::Forge => "forge",
            Self::Replay => "replay",
            Self::Flood => "flood",
            Self::Censor => "censor",
            Self::Invalid => "invalid",
            Self::FarFuture => "far-future",
            Self::Standstill => "standstill",
            Self::LyingPeer => "lying-peer",
            Self::HiddenLock => "hidden-lock",
            Self::Invent => "invent",
            Self::Changes => "changes",
        }
    }

    const fn has_liars(self) -> bool {
        !matches!(self, Self::Swarm | Self::Blackouts | Self::LostDisks)
    }
}

/// What is broken on purpose, so that it can be seen that it is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Control {
    /// Nothing.
    #[default]
    None,
    /// One more lies than may.
    TooManyLiars,
    /// Journals are lost whenever a node ends.
    NoJournal,
    /// What is voted for is lost whenever a node ends.
    NoBodies,
    /// Nothing waits until it is durable.
    NoFlush,
    /// Nobody asks for signatures of frames.
    NoSignatures,
}

/// The quorum driver as it is, among liars.
#[derive(Clone, Copy, Debug, Default)]
pub struct QuorumSubject {
    scenario: Option<Scenario>,
    control: Control,
    crash: Option<Crash>,
}

impl QuorumSubject {
    /// With this scenario, or one that the seed chooses.
    pub const fn new(scenario: Option<Scenario>) -> Self {
        Self { scenario, control: Control::None, crash: None }
    }

    /// With something broken on purpose.
    pub const fn broken(scenario: Scenario, control: Control) -> Self {
        Self { scenario: Some(scenario), control, crash: None }
    }

    /// Four validators for a short while, of which nobody lies; the power of the one at this place fails after so many of its effects,
    /// and nothing else goes wrong.
    pub const fn crashing(place: usize, at: u64) -> Self {
        let (scenario, crash) = (Some(Scenario::Blackouts), Some(Crash { place, at }));
        Self { scenario, control: Control::None, crash }
    }
}

impl Subject for QuorumSubject {
    fn draw(&self, rng: &mut fastrand::Rng) -> Group {
        let any = Scenario::ALL[rng.usize(..Scenario::ALL.len())];
        let asked = self.scenario.unwrap_or(any);
        let changes = asked == Scenario::Changes || self.scenario.is_none() && rng.u8(..4) == 0;
        let scenario = match asked {
            Scenario::Changes => Scenario::ALL[rng.usize(..Scenario::ALL.len() - 1)],
            asked => asked,
        };
        let (mut swarm, _) = Swarm::draw(rng);
        let model = match rng.u8(..4) {
            0 if !scenario.has_liars() && self.control == Control::None && self.crash.is_none() => {
                FaultModel::Crash
            }
            _ => FaultModel::Byzantine,
        };
        let nodes = match (scenario, model) {
            _ if self.crash.is_some() => 4,
            (Scenario::Swarm | Scenario::Blackouts, _) => [1, 2, 3, 4, 4, 5, 7][rng.usize(..7)],
            (_, FaultModel::Crash) => [3, 3, 5, 7][rng.usize(..4)],
            _ => [4, 4, 4, 5, 7][rng.usize(..5)],
        };
        let tolerated = model.tolerates(nodes) as usize;
        let liars = match self.control {
            _ if !scenario.has_liars() => 0,
            Control::TooManyLiars => tolerated + 1,
            _ => 1 + rng.usize(..tolerated),
        };
        let mut all: Vec<_> = (1..=nodes).map(NodeId::new).collect();
        let founders = all.clone();
        rng.shuffle(&mut all);
        let mut liars: BTreeSet<_> = all.into_iter().take(liars).collect();
        // Where nobody lies a lost disk is one of the faults that are borne; under the crash model it is one at most.
        let losses = match model {
            FaultModel::Crash => tolerated.min(1),
            FaultModel::Byzantine => tolerated.saturating_sub(liars.len()),
        };
        tune(scenario, rng, &mut swarm, nodes as usize, losses);
        let twins = if scenario == Scenario::Twins { liars.len() } else { 0 };
        let mut all = nodes;
        if changes {
            all = (nodes + rng.u64(1..=3)).min(NODES_MAX);
            swarm.operator_every = Some(swarm.patience / [2, 4, 8][rng.usize(..3)]);
            swarm.live *= 3;
            // Who comes later may lie as well. Who runs twice has a machine more from the beginning.
            let comes = (nodes + 1..=all).map(NodeId::new);
            let lies = comes.filter(|_| scenario.has_liars() && rng.u8(..4) == 0);
            liars.extend(lies.filter(|_| scenario != Scenario::Twins));
        }
        let ids: Vec<_> = (1..=all).map(NodeId::new).collect();
        swarm.nodes = ids.len() + twins;
        if self.crash.is_some() {
            swarm.kinds.clear();
            (swarm.live, swarm.think, swarm.last_blackout) = (MS * 400, MS * 40, false);
        }
        swarm.stays_broken =
            tolerated.saturating_sub(liars.len()).min(if losses > 0 { 0 } else { 3 });
        swarm.heals_majority_only &= swarm.stays_broken > 0;

        let schemes = changes && rng.u8(..4) == 0;
        let scheme = match rng.u8(..32) {
            // A life is the same each time only if its batches are, and approvals that stand in them.
            _ if changes || scenario == Scenario::Invent => Scheme::Ed25519,
            0 => Scheme::Hybrid,
            1 => Scheme::MlDsa65,
            _ => Scheme::Ed25519,
        };
        // What validators note of a height is more than its batch; a checkpoint of each height would be most of the work.
        let least = if scheme == Scheme::Ed25519 && !schemes { 16 << 10 } else { 256 << 10 };
        swarm.settings.checkpoint_bytes = swarm.settings.checkpoint_bytes.max(least);
        let keys: Vec<_> = (1..=all).map(|number| keyring::key(scheme, number)).collect();
        let (first, _) = keys.split_at(founders.len());
        let mut genesis = genesis(7, model, scheme, first);
        if scenario == Scenario::Invent && self.control != Control::NoSignatures {
            genesis = genesis.with_signed_frames();
        }
        let keyring = Keyring::new(genesis.clone(), ids.iter().copied().zip(keys.clone()));
        let mut config = QuorumConfig::default();
        let patience = swarm.patience;
        config.propose_timeout = patience / [5, 10][rng.usize(..2)];
        config.prevote_timeout = patience / [10, 20][rng.usize(..2)];
        config.precommit_timeout = config.prevote_timeout;
        config.timeout_delta = patience / [10, 20][rng.usize(..2)];
        config.timeout_max = patience;
        config.rebroadcast_interval = patience / [3, 6][rng.usize(..2)];
        config.rotate_every = [1, 3, 20, 1000][rng.usize(..4)];
        let lies = Lies {
            scenario,
            chain: genesis.chain(0),
            foreign: self::genesis(8, model, scheme, first).chain(0),
            keyring: keyring.clone(),
            founders: genesis.validators().clone(),
            nodes: ids.clone(),
        };
        let votes = Votes::new(VotesOf {
            scenario,
            control: self.control,
            genesis,
            nodes: ids,
            founders,
            liars,
            losses,
            keyring: keyring.clone(),
            schemes,
        });
        let driver =
            move |node| QuorumDriver::with_setups(keyring.setup(node).map(|setup| (node, setup)));
        let opener = Opener::of_votes(driver, config, lies);
        Group {
            opens: Box::new(opener),
            swarm,
            term_of: None,
            votes: Some(votes),
            crash: self.crash,
        }
    }
}

/// Fits a swarm to votes.
fn tune(
    scenario: Scenario,
    rng: &mut fastrand::Rng,
    swarm: &mut Swarm,
    nodes: usize,
    losses: usize,
) {
    (swarm.founders, swarm.operator_every) = (nodes, None);
    swarm.patience = MS * [500, 1000][rng.usize(..2)];
    swarm.live = swarm.patience * (3 + rng.u32(..5));
    swarm.fault_every = swarm.patience / [1, 2, 4][rng.usize(..3)];
    swarm.think = MS * [10, 30, 60][rng.usize(..3)];
    swarm.settings.forward = true;
    // Journals of a few rounds of long signatures fit into the first half of a segment.
    swarm.settings.log.segment_bytes = 1 << 20;
    swarm.settings.log.pinned_bytes_max = 8 << 20;
    // What is forwarded to a liar may come twice.
    swarm.keeps_contract &= !scenario.has_liars();
    swarm.heals_majority_only = rng.u8(..3) == 0;
    let is_lost = |kind: &Kind| matches!(kind, Kind::Wipe | Kind::Rot);
    swarm.kinds.retain(|kind| *kind != Kind::Duel && (losses > 0 || !is_lost(kind)));
    match scenario {
        Scenario::Blackouts => {
            swarm.kinds = vec![Kind::Blackout, Kind::Blackout, Kind::PowerCut, Kind::ArmedPowerCut];
            swarm.fault_every = swarm.patience / 3;
            swarm.last_blackout = true;
        }
        Scenario::LostDisks if losses > 0 => {
            swarm.kinds.extend([Kind::Wipe; 12]);
            swarm.heals_majority_only = false;
        }
        _ => {}
    }
}

fn genesis(cluster: u8, model: FaultModel, scheme: Scheme, keys: &[Arc<SigningKey>]) -> Genesis {
    let validator = |(node, key): (u64, &Arc<SigningKey>)| Validator {
        node,
        power: 1,
        key: key.public().clone(),
    };
    let validators = (1..).zip(keys).map(validator).collect();
    Genesis::new([cluster; 16], model, scheme, 500, validators).expect("it is a genesis")
}
