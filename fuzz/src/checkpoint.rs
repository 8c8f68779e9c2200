//! The file of a checkpoint, damaged.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use quorate_storage::{
    CHECKPOINT_DIR, CheckpointError, CheckpointMeta, CheckpointMode, CheckpointStore,
    CheckpointWrite, Disk, Group, MemoryDisk,
};

use crate::input::{Files, Input, Written, damage, disk_with, files_in};

const CACHE_BYTES: usize = 1 << 20;

/// Index, and the pairs of machine and host.
type Content = (u64, Vec<(Bytes, Bytes)>, Vec<(Bytes, Bytes)>);

pub(crate) fn open(disk: Arc<dyn Disk>) -> Result<CheckpointStore, CheckpointError> {
    CheckpointStore::open(disk, Group::new(0), CheckpointMode::Create, CACHE_BYTES)
}

/// Everything in it, if it can be read.
fn content(store: &CheckpointStore) -> Result<Option<Content>, CheckpointError> {
    let Some(pin) = store.pin()? else { return Ok(None) };
    let machine = pin.read_machine(Bound::Unbounded, 1000, 1 << 20)?;
    let host = pin.read_host(Bound::Unbounded, 1000, 1 << 20)?;
    Ok(Some((pin.meta().index, machine, host)))
}

/// A file with three checkpoints, one after the other, and what each had.
static HONEST: LazyLock<(Files, Vec<Option<Content>>)> = LazyLock::new(|| {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let store = open(Arc::clone(&disk)).expect("an empty directory");
    let mut all = vec![None];
    for index in 1..=3_u64 {
        let meta = CheckpointMeta {
            index,
            position: Bytes::from(vec![index as u8; 9]),
            mark: Bytes::from(vec![index as u8; 30]),
            state: [index as u8; 32],
            log_watermark: index,
        };
        let put = |key: String, value: Vec<u8>| (Bytes::from(key), Some(Bytes::from(value)));
        let machine_pairs =
            (0..20 * index).map(|key| put(format!("key {key}"), vec![index as u8; 90]));
        let host_pairs = vec![put("session".to_owned(), vec![index as u8; 16])];
        let write = CheckpointWrite { meta, machine_pairs: machine_pairs.collect(), host_pairs };
        store.write(write).expect("memory does not fail");
        all.push(content(&store).expect("memory does not fail"));
    }
    drop(store);
    (files_in(&*disk, CHECKPOINT_DIR), all)
});

/// A damaged file is refused, or what is compared with the digests is a checkpoint that was written.
pub(crate) fn judge(bytes: &[u8]) {
    let (files, honest) = &*HONEST;
    let mut damaged: BTreeMap<_, _> = files.clone();
    damage(&mut damaged, Input(bytes));
    let Ok(mut store) = open(disk_with(&damaged)) else { return };
    let read = content(&store);
    if store.verify().is_ok()
        && let Ok(read) = read
    {
        assert!(honest.contains(&read), "what was never there is found: {read:?}");
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![Vec::new()];
    for at in [0, 9, 64, 128, 192, 200, 320, 4096, 5000, 8192, 12_288, 20_000, 40_000] {
        seeds.push(Written::default().u8(1).u8(0).u32(at).u8(1).0);
        seeds.push(Written::default().u8(0).u8(0).u32(at).piece(&[0xff; 8]).0);
        seeds.push(Written::default().u8(3).u8(0).u32(at).u32(4096).0);
        seeds.push(Written::default().u8(4).u8(0).u32(at).0);
    }
    seeds
}
