//! Chunks of frames on their way from the engine thread to a subscriber: one at a time, each once, in order, and the end is told.

use std::sync::Arc;

use async_trait::async_trait;
use quorate_engine::{Chunk, SubscriptionId, SubscriptionOver};
use quorate_replicator::{
    Accepted, Cursor, Frame, FrameId, GroupId, Handler, HandlerError, Position, SessionId,
    ShardKey, SubscriptionControl as _, SubscriptionEnd,
};
use tokio::sync::{mpsc, watch};

use crate::engine_thread::{Command, ForGroup};
use crate::inbox::Inbox;
use crate::subscriber::{self, Control};
use crate::sync::{Mutex, explore, thread};
use crate::waiters::News;

const CHUNKS: u64 = 3;

#[derive(Debug, Default)]
struct Seen(Mutex<Vec<u64>>);

#[async_trait]
impl Handler for Seen {
    async fn handle(&self, frames: &[Accepted]) -> Result<(), HandlerError> {
        // Others go on while it works.
        shuttle::future::yield_now().await;
        self.0.lock().unwrap().extend(frames.iter().map(|frame| frame.position.index));
        Ok(())
    }
}

fn position(index: u64) -> Position {
    Position { group: GroupId::new(0), epoch: 0, index, slot: 0 }
}

fn accepted(index: u64) -> Accepted {
    let id = FrameId { session: SessionId::new([1; 16]), serial: index };
    let shard = ShardKey::new("acme", "orders").unwrap();
    Accepted { position: position(index), frame: Frame::new(id, shard, vec![1]) }
}

/// As the engine thread and its hub do it: the next chunk is given when the one before was handled, and after the last one the end.
fn give(inbox: &Inbox<Command>, news: &mpsc::UnboundedSender<News>, id: SubscriptionId) -> u64 {
    let (mut commands, mut given) = (Vec::new(), 1);
    let give = |index: u64| {
        let chunk =
            Chunk { subscription: id, frames: vec![accepted(index)], reached: position(index) };
        // A task that has ended takes nothing.
        let _ = news.send(News::Chunk(chunk));
    };
    give(given);
    loop {
        inbox.take(&mut commands, None);
        for command in commands.drain(..) {
            match command {
                Command::Group(0, ForGroup::Handled(of)) if of == id && given < CHUNKS => {
                    given += 1;
                    give(given);
                }
                Command::Group(0, ForGroup::Handled(of)) if of == id => {
                    let over = SubscriptionOver::Faulted { cause: "the end".to_owned() };
                    let _ = news.send(News::Over(over));
                }
                Command::Group(0, ForGroup::Unsubscribe(of)) if of == id => return given,
                other => panic!("{other:?}"),
            }
        }
    }
}

fn subscription(cancels: bool, closes: bool) {
    explore(move || {
        let inbox = Arc::new(Inbox::new(2));
        let (news, receiver) = mpsc::unbounded_channel();
        let control = Arc::new(Control::new(Cursor::default()));
        let seen = Arc::new(Seen::default());
        let (closing, closes_at) = watch::channel(false);
        let id = SubscriptionId(7);
        let engine = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || give(&inbox, &news, id))
        };
        let handler: Arc<dyn Handler> = Arc::clone(&seen) as Arc<dyn Handler>;
        let task = subscriber::run(
            vec![(0, id)],
            Arc::clone(&control),
            handler,
            receiver,
            Arc::clone(&inbox),
            closes_at,
        );
        let task = shuttle::future::spawn(task);
        let owner = {
            let control = Arc::clone(&control);
            thread::spawn(move || {
                if cancels {
                    control.cancel();
                }
                if closes {
                    closing.send_replace(true);
                }
                let end = shuttle::future::block_on(control.ended());
                (end, closing)
            })
        };
        shuttle::future::block_on(task).unwrap();
        let (end, _closing) = owner.join().unwrap();
        let given = engine.join().unwrap();
        let seen = seen.0.lock().unwrap();
        assert!(seen.iter().copied().eq(1..=seen.len() as u64), "a gap, or twice: {seen:?}");
        let (cursor, whole) = match end {
            SubscriptionEnd::Cancelled { cursor } => (cursor, false),
            SubscriptionEnd::Faulted { cursor, cause } => {
                assert_eq!(cause, "the end");
                (cursor, true)
            }
            other => panic!("{other:?}"),
        };
        let reached = cursor.position(GroupId::new(0)).map_or(0, |reached| reached.index);
        // A handler that was given up may have handled the last one; the next subscription begins with it again.
        assert!(reached <= seen.len() as u64 && seen.len() as u64 <= given.min(reached + 1));
        assert_eq!(control.cursor(), cursor);
        if whole {
            assert_eq!((reached, seen.len() as u64), (CHUNKS, CHUNKS));
        }
        assert!(whole || cancels || closes, "it ended by itself");
    });
}

#[test]
fn every_chunk_is_handled_once_and_the_end_is_told() {
    subscription(false, false);
}

#[test]
fn a_subscription_that_is_cancelled_ends_where_its_cursor_says() {
    subscription(true, false);
}

#[test]
fn a_subscription_of_a_node_that_closes_ends_where_its_cursor_says() {
    subscription(false, true);
}
