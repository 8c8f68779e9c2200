//! Subscribers whose cursors are of before a switch.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use quorate_host::SwitchOptions;
use quorate_replicator::{
    Accepted, Cursor, Handler, HandlerError, Position, Replicator, Scope, SubscribeError,
};
use tokio::sync::watch;

use crate::life::{Home, Kind, LONG, Told, shard};

/// Keeps where each frame was accepted.
#[derive(Debug)]
struct Seen {
    positions: Mutex<Vec<Position>>,
    count: watch::Sender<usize>,
}

#[async_trait]
impl Handler for Seen {
    async fn handle(&self, batch: &[Accepted]) -> Result<(), HandlerError> {
        let mut positions = self.positions.lock().unwrap();
        positions.extend(batch.iter().map(|accepted| accepted.position));
        self.count.send_replace(positions.len());
        Ok(())
    }
}

/// The positions of the first `count` frames after `cursor`.
async fn see(node: &Arc<dyn Replicator>, cursor: Cursor, count: usize) -> Vec<Position> {
    let (sender, mut reached) = watch::channel(0);
    let seen = Arc::new(Seen { positions: Mutex::default(), count: sender });
    let handler = Arc::clone(&seen) as Arc<dyn Handler>;
    let subscription = node.subscribe(Scope::All, cursor, handler).await.unwrap();
    tokio::time::timeout(LONG, reached.wait_for(|seen| *seen >= count)).await.unwrap().unwrap();
    subscription.cancel();
    let seen = seen.positions.lock().unwrap();
    seen.clone()
}

/// Where the state is, for a cursor that lacks frames.
pub(crate) async fn compacted(node: &Arc<dyn Replicator>, cursor: Cursor) -> Position {
    let handler = Arc::new(Seen { positions: Mutex::default(), count: watch::channel(0).0 });
    match node.subscribe(Scope::All, cursor, handler).await {
        Err(SubscribeError::Compacted { snapshot: Some(snapshot), .. }) => snapshot,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_of_before_goes_on_or_is_told_where_the_state_is() {
    let directory = tempfile::tempdir().unwrap();
    let home = Home::new(directory.path().join("n1"));
    let mut told = Told::new(100);
    let (local, _) = home.open(Kind::Local).await.unwrap();
    told.open_session(&local).await;
    told.put(&local, 10).await;
    let early = told.cursor();
    told.put(&local, 10).await;
    let all = see(&local, Cursor::beginning(), 20).await;
    assert_eq!(told.cursor(), Cursor::after([all[19]]));
    let late = told.cursor();
    local.close().await.unwrap();
    home.switch(Kind::Raft, &SwitchOptions::default()).unwrap();

    let (raft, _) = home.open(Kind::Raft).await.unwrap();
    told.put(&raft, 10).await;
    let seen = see(&raft, late, 10).await;
    assert_eq!(seen.len(), 10, "each once");
    assert!(seen.is_sorted() && seen[0] > all[19], "{seen:?}");
    assert_eq!(Cursor::after(seen.iter().copied()), told.cursor());
    let snapshot = compacted(&raft, early).await;
    // The state there has what it lacks, and what comes after is given.
    let pinned = raft.pinned(&shard()).await.unwrap();
    assert!(pinned.position() >= snapshot);
    assert_eq!(see(&raft, Cursor::after([snapshot]), 10).await, seen);
    raft.close().await.unwrap();
}
