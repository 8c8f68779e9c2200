//! What a seed makes of a cluster: how many nodes, how much load, and which faults how often.

use std::time::Duration;

use quorate_storage::LogConfig;
use quorate_transport_memory::LinkFaults;

use super::subject::RaftTuning;
use crate::node::Settings;

const MS: Duration = Duration::from_millis(1);

/// Something that can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A process is killed; what the system has of its writes stays.
    Kill,
    /// A node ends in order and starts again.
    Close,
    /// A node loses its power.
    PowerCut,
    /// All nodes lose their power at once.
    Blackout,
    /// The power fails at one of the next operations of a disk.
    ArmedPowerCut,
    /// One of the next operations of a disk fails.
    DiskFault,
    /// A disk has hardly room any more, for a while.
    FullDisk,
    /// A disk becomes slow for a while.
    SlowDisk,
    /// A process stands still for a while.
    Pause,
    /// Messages are lost, doubled, held back and late for a while.
    Storm,
    /// Some nodes do not reach the others, for a while.
    Partition,
    /// One node hears nobody, or is heard by nobody, or both.
    Isolation,
    /// One node does not reach one other.
    OneWay,
    /// Two nodes do not reach one another, all others do.
    Partial,
    /// Links go one after the other and come back in another order.
    Swizzle,
    /// All nodes are ended in order and started again, one after the other.
    Rolling,
    /// Two nodes try to lead at the same moment, while a third one restarts.
    Duel,
    /// The disk of a voter is lost.
    Wipe,
    /// What the disk of a voter holds is damaged.
    Rot,
    /// A clock jumps forward.
    ClockJump,
}

const KINDS: [(Kind, u32); 20] = [
    (Kind::Kill, 8),
    (Kind::Close, 2),
    (Kind::PowerCut, 8),
    (Kind::Blackout, 1),
    (Kind::ArmedPowerCut, 5),
    (Kind::DiskFault, 5),
    (Kind::FullDisk, 2),
    (Kind::SlowDisk, 3),
    (Kind::Pause, 5),
    (Kind::Storm, 5),
    (Kind::Partition, 6),
    (Kind::Isolation, 6),
    (Kind::OneWay, 4),
    (Kind::Partial, 4),
    (Kind::Swizzle, 2),
    (Kind::Rolling, 1),
    (Kind::Duel, 4),
    (Kind::Wipe, 2),
    (Kind::Rot, 3),
    (Kind::ClockJump, 3),
];

/// What a seed makes of a cluster.
#[derive(Debug)]
pub(super) struct Swarm {
    pub(super) founders: usize,
    /// All nodes there may be, founders included.
    pub(super) nodes: usize,
    /// After what time without progress nodes do something about it: the election timeout of Raft.
    pub(super) patience: Duration,
    pub(super) settings: Settings,
    pub(super) clients: u8,
    pub(super) list_max: usize,
    /// Whether the history of some keys is judged for linearizability.
    pub(super) registers: bool,
    /// The time between two things that a client does.
    pub(super) think: Duration,
    /// How long anything may happen.
    pub(super) live: Duration,
    pub(super) calm: LinkFaults,
    pub(super) storm: LinkFaults,
    /// Requests arrive at most once. Otherwise what was refused may happen all the same.
    pub(super) keeps_contract: bool,
    pub(super) fault_every: Duration,
    /// What may go wrong, each as often as it is likely.
    pub(super) kinds: Vec<Kind>,
    /// How often an operator does something; never if none.
    pub(super) operator_every: Option<Duration>,
    /// The longest time that a sync takes on a disk that is well.
    pub(super) sync_max: Duration,
    /// How far clocks may be from the right rate.
    pub(super) clock_ppm: i64,
    /// Whether some stay broken for ever while the others are healed, and how many at most.
    pub(super) heals_majority_only: bool,
    pub(super) stays_broken: usize,
    /// Whether the power fails everywhere once more at the very end.
    pub(super) last_blackout: bool,
}

/// Segments that are full soon, and take the largest batch that the clients can make.
fn log_config(bulk: bool) -> LogConfig {
    let mut config = LogConfig::small();
    config.segment_bytes = if bulk { 1 << 20 } else { 128 << 10 };
    config.fill_bytes = 64 << 10;
    config.pinned_bytes_max = 8 * config.segment_bytes;
    config
}

impl Swarm {
    /// What a seed makes of a cluster of Raft.
    pub(super) fn draw(rng: &mut fastrand::Rng) -> (Self, RaftTuning) {
        let founders = [1, 2, 3, 3, 3, 3, 4, 5, 5, 7][rng.usize(..10)];
        let operator_every = (rng.u8(..3) > 0).then(|| MS * rng.u32(300..3000));
        let nodes =
            if operator_every.is_some() { (founders + rng.usize(1..=3)).min(7) } else { founders };
        let patience = MS * [300, 500, 1000][rng.usize(..3)];
        // Long lists of small frames: many frames in a seed.
        let bulk = rng.u8(..8) == 0;
        let settings = Settings {
            checkpoint_bytes: if bulk {
                [256 << 10, 1 << 40][rng.usize(..2)]
            } else {
                [2 << 10, 16 << 10, 64 << 10, 1 << 40][rng.usize(..4)]
            },
            retain_bytes: [0, 0, 8 << 10, 1 << 40][rng.usize(..4)],
            session_idle_ms: [3_000, 30_000, 600_000][rng.usize(..3)],
            unsettled_max: if bulk { 1 << 12 } else { [6, 1024, 1024][rng.usize(..3)] },
            frames_in_flight_max: if bulk { 1 << 16 } else { [64, 1 << 16][rng.usize(..2)] },
            log: log_config(bulk),
            forward: rng.u8(..10) > 0,
        };
        // A list that does not fit into a session is refused as a whole, so only large sessions are given lists.
        let list_max = if bulk {
            512
        } else if settings.unsettled_max > 100 {
            [1, 8, 24][rng.usize(..3)]
        } else {
            1
        };
        let mut kinds = Vec::new();
        for (kind, weight) in KINDS {
            if rng.u8(..5) > 1 {
                kinds.extend(std::iter::repeat_n(kind, weight as usize));
            }
        }
        let late = MS * [5, 20, 80][rng.usize(..3)];
        let calm = LinkFaults::none().delay(MS / 10..=MS * [1, 3][rng.usize(..2)]);
        let calm = if rng.bool() { calm.loss(0.01).duplication(0.01, late) } else { calm };
        let storm = LinkFaults::none()
            .delay(MS / 10..=late)
            .loss(f64::from(rng.u8(..=30)) / 100.0)
            .duplication(f64::from(rng.u8(..=50)) / 100.0, late * 4)
            .reordering(f64::from(rng.u8(..=30)) / 100.0, late * 4);
        let heals_majority_only = operator_every.is_none() && founders > 2 && rng.u8(..3) == 0;
        if heals_majority_only {
            kinds.retain(|kind| !matches!(kind, Kind::Wipe | Kind::Rot));
        }
        let tuning = RaftTuning {
            batches_in_flight: [1, 4, 16][rng.usize(..3)],
            catch_up_bytes: [0, 4 << 10, 1 << 20][rng.usize(..3)],
        };
        let swarm = Self {
            founders,
            nodes,
            patience,
            settings,
            clients: 1 + rng.u8(..4),
            list_max,
            registers: !bulk && rng.bool(),
            think: MS * [5, 20, 60][rng.usize(..3)],
            live: patience * (8 + rng.u32(..12)),
            calm,
            storm,
            keeps_contract: rng.u8(..4) > 0,
            fault_every: patience / [1, 2, 4][rng.usize(..3)],
            kinds,
            operator_every,
            sync_max: MS * [1, 3, 10][rng.usize(..3)],
            clock_ppm: [0, 1_000, 20_000][rng.usize(..3)],
            heals_majority_only,
            stays_broken: (founders - 1) / 2,
            last_blackout: rng.u8(..3) == 0,
        };
        (swarm, tuning)
    }
}
