//! What a namespace costs that nobody uses. Alone in its program, so that nothing else allocates meanwhile.

#![cfg(target_os = "linux")]

use quorate_replicator::{
    Batch, BatchFrame, Frame, FrameId, GroupId, LogTime, Outcomes, SessionId, ShardKey,
    StateMachine,
};
use quorate_shard::Shards;
use quorate_shard::kv::Op;

const NAMESPACES: usize = 50_000;
const BYTES_MAX: usize = 1024;

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("linux has it");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a running process");
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().expect("a number of KiB");
    kib * 1024
}

/// Makes namespaces whose only key is deleted again, and namespaces with one key; the journal is emptied by
/// checkpoints, as on a node that runs. What a namespace is charged must be no less than what it costs.
#[test]
fn an_idle_namespace_costs_at_most_a_kibibyte() {
    let (mut machine, shards) = Shards::builder().build();
    let mut outcomes = Outcomes::default();
    let mut index = 0;
    let mut apply = |machine: &mut quorate_shard::ShardMachine,
                     names: std::ops::Range<usize>,
                     ops: &[Op<'_>]| {
        for op in ops {
            let frames: Vec<_> = names
                .clone()
                .map(|name| {
                    let shard = ShardKey::new("organisation", &format!("namespace-{name:06}"));
                    let id = FrameId { session: SessionId::new([1; 16]), serial: 1 };
                    let frame = Frame::new(id, shard.expect("a good name"), op.encode());
                    BatchFrame { slot: 0, frame }
                })
                .collect();
            index += 1;
            outcomes.reset(true);
            let batch = Batch {
                group: GroupId::new(0),
                epoch: 0,
                index,
                log_time: LogTime::ZERO,
                frames: &frames,
            };
            machine.apply(&batch, &mut outcomes);
        }
        drop(machine.begin_checkpoint());
    };
    let put = Op::put(b"sixteen byte key", &[7; 64]);
    let emptied = [put.clone(), Op::delete(b"sixteen byte key")];
    // Reach what the machine keeps for batches of this size before counting.
    apply(&mut machine, 0..1000, &emptied);
    for (kind, first, ops) in
        [("empty", 1000, &emptied[..]), ("one key", 1000 + NAMESPACES, &[put])]
    {
        let before = (resident_bytes(), shards.state_bytes());
        for start in (first..first + NAMESPACES).step_by(1000) {
            apply(&mut machine, start..start + 1000, ops);
        }
        let each = resident_bytes().saturating_sub(before.0) / NAMESPACES;
        let charged = (shards.state_bytes() - before.1) as usize / NAMESPACES;
        println!("{kind}: {each} bytes for each namespace, charged {charged}");
        assert!(each <= charged, "{kind}: {each} bytes for each namespace, charged {charged}");
        assert!(each <= BYTES_MAX || kind != "empty", "{each} bytes for each namespace");
    }
    assert_eq!(shards.count(), 1000 + 2 * NAMESPACES);
}
