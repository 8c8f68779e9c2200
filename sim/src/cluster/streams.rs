//! Snapshots on their way: pieces of a checkpoint, from one node to another.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::{SnapshotPlan, SnapshotSink, SnapshotSource};
use quorate_replicator::NodeId;
use quorate_storage::Index;

use super::event::Event;
use super::{Cluster, MS};
use crate::node::{GROUP, untouched};
use crate::oracle::Checked;

/// Most bytes that go at once: small, so that many things happen between two pieces.
const PIECE_BYTES: usize = 4 << 10;

/// How often a stream that is cut tries to go on before it is given up.
const TRIES: u32 = 8;

/// The snapshots that are on their way.
#[derive(Debug, Default)]
pub(super) struct Streams {
    streams: BTreeMap<u64, Stream>,
    next: u64,
}

#[derive(Debug)]
struct Stream {
    from: usize,
    from_life: u32,
    to: usize,
    index: Index,
    head: Bytes,
    source: SnapshotSource,
    /// The receiver's end, and in which life.
    sink: Option<(u32, SnapshotSink)>,
    tries: u32,
}

impl Cluster<'_> {
    /// A node wants to stream its checkpoint at `index`.
    pub(super) fn begin_stream(&mut self, from: usize, to: NodeId, index: Index, head: Bytes) {
        let from_life = self.machines[from].life;
        let not_sent = Event::StreamOver { place: from, life: from_life, to, arrived: false };
        let Some((target, node)) = self.place_of(to).zip(self.machines[from].node.as_ref()) else {
            return self.plan(MS, not_sent);
        };
        let pin = node.checkpoints.pin().ok().flatten().filter(|pin| pin.meta().index == index);
        let opened = pin.and_then(|pin| {
            let plan = Arc::new(SnapshotPlan::new(GROUP, &pin).ok()?);
            Some(SnapshotSource::new(pin, plan))
        });
        let Some(source) = opened else { return self.plan(MS, not_sent) };
        self.tell(|it| format!("{} sends a snapshot at {index} to {to}", it.machines[from].id));
        let stream =
            Stream { from, from_life, to: target, index, head, source, sink: None, tries: 0 };
        self.streams.next += 1;
        let id = self.streams.next;
        self.streams.streams.insert(id, stream);
        self.plan(MS, Event::Stream(id));
    }

    /// A machine dies, and with it its ends of all streams. Nothing is tidied up.
    pub(super) fn streams_die(&mut self, place: usize) {
        let disk = &self.machines[place].disk;
        for stream in self.streams.streams.values_mut().filter(|stream| stream.to == place) {
            untouched(disk, stream.sink.take());
        }
        self.streams.streams.retain(|_, stream| stream.from != place);
    }

    /// The next piece of a stream.
    pub(super) fn stream(&mut self, id: u64) -> Checked {
        let Some(mut stream) = self.streams.streams.remove(&id) else { return Ok(()) };
        if !self.is_of(stream.from, stream.from_life) {
            return Ok(());
        }
        let paused = |place: usize| self.machines[place].paused_until.max(self.now);
        let until = paused(stream.from).max(paused(stream.to));
        if until > self.now {
            self.streams.streams.insert(id, stream);
            self.queue.push(until, Event::Stream(id));
            return Ok(());
        }
        let target = &self.machines[stream.to];
        let passes = self.are_peers(stream.from, stream.to)
            && self.network.passes(stream.from, stream.to)
            && self.network.passes(stream.to, stream.from);
        let moved = match &target.node {
            Some(_) if passes => self.move_piece(&mut stream),
            _ => Err("no connection".to_owned()),
        };
        match moved {
            Ok(true) => self.arrives(stream),
            Ok(false) => {
                let time = self.draw(MS / 2, MS * 10);
                self.streams.streams.insert(id, stream);
                self.plan(time, Event::Stream(id));
                Ok(())
            }
            Err(why) => {
                stream.tries += 1;
                if stream.tries > TRIES {
                    self.tell(|it| {
                        let (from, to) = (it.machines[stream.from].id, it.machines[stream.to].id);
                        format!("{from} gives up a snapshot for {to}: {why}")
                    });
                    self.stream_over(&stream, false);
                    return Ok(());
                }
                self.streams.streams.insert(id, stream);
                self.plan(self.swarm.patience / 8, Event::Stream(id));
                Ok(())
            }
        }
    }

    /// Moves a piece; true if that was the last one.
    fn move_piece(&mut self, stream: &mut Stream) -> Result<bool, String> {
        let life = self.machines[stream.to].life;
        if stream.sink.as_ref().is_none_or(|(begun, _)| *begun != life) {
            stream.sink = None;
            let busy = self.streams.streams.values().any(|other| {
                other.to == stream.to
                    && other.sink.as_ref().is_some_and(|(begun, _)| *begun == life)
            });
            let node = self.machines[stream.to].node.as_ref().expect("it is up");
            if busy || !node.may_receive(stream.index) {
                return Err("it does not take it".to_owned());
            }
            let (from, bytes) = (self.machines[stream.from].id, stream.source.plan().head().bytes);
            let id = stream.source.plan().id(from);
            let sink = SnapshotSink::new(&node.checkpoints, from, id, GROUP, stream.index, bytes);
            stream.sink = Some((life, sink.map_err(|error| error.to_string())?));
        }
        if self.faults_on && self.rng.u8(..40) == 0 {
            // The connection breaks; what has come stays.
            return Err("the connection broke".to_owned());
        }
        let (_, sink) = stream.sink.as_mut().expect("it was begun");
        let piece = stream.source.read(sink.received(), PIECE_BYTES);
        let written = piece.and_then(|piece| sink.write(&piece));
        if let Err(error) = written {
            stream.sink = None;
            return Err(error.to_string());
        }
        Ok(sink.received() == stream.source.plan().head().bytes)
    }

    /// All of it has come.
    fn arrives(&mut self, mut stream: Stream) -> Checked {
        let (life, sink) = stream.sink.take().expect("it was received");
        let node = self.machines[stream.to].node.as_ref().expect("it is up");
        let staged = sink.finish(node.watermark());
        self.stream_over(&stream, staged.is_ok());
        let (from, head) = (self.machines[stream.from].id, stream.head);
        match staged {
            Ok(staged) => {
                self.with(stream.to, life, |node, now| node.staged(now, from, head, staged))
            }
            Err(error) => {
                self.tell(|_| format!("a snapshot was not kept: {error}"));
                Ok(())
            }
        }
    }

    fn stream_over(&mut self, stream: &Stream, arrived: bool) {
        let (place, life) = (stream.from, stream.from_life);
        let to = self.machines[stream.to].id;
        self.plan(MS, Event::StreamOver { place, life, to, arrived });
    }
}
