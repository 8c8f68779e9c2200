//! The transport as the engine thread uses it, and what comes in from it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use quorate_engine::engine::Inspector;
use quorate_engine::{Liveness, MemberList, Packet, Reach, Sent};
use quorate_replicator::{
    BulkOffer, BulkSink, Channel, GroupId, Inbound, NodeId, PeerState, Transport,
};
use quorate_storage::Index;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::engine_thread::Command;
use crate::inbox::Inbox;
use crate::snapshots::Snapshots;

/// Most bytes of packets of one channel that wait for the engine thread; what comes after them waits at its sender.
const WAITING_BYTES_MAX: usize = 16 << 20;

/// The network of a running node.
pub(crate) struct Network {
    transport: Arc<dyn Transport>,
    snapshots: Arc<Snapshots>,
    liveness: Liveness,
    reach: Reach,
    runtime: Handle,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("transport", &self.transport).finish_non_exhaustive()
    }
}

impl Network {
    /// Begins to receive.
    pub(crate) fn start(
        transport: Arc<dyn Transport>,
        snapshots: Arc<Snapshots>,
        inbox: Arc<Inbox<Command>>,
        inspectors: Vec<Option<Arc<dyn Inspector>>>,
        runtime: Handle,
        now: Duration,
    ) -> Self {
        let room =
            Channel::ALL.map(|channel| (channel, Arc::new(Semaphore::new(WAITING_BYTES_MAX))));
        let receiver = Receiver { inbox, inspectors, snapshots: Arc::clone(&snapshots), room };
        transport.receive(Arc::new(receiver));
        let (liveness, reach) = (Liveness::new(now), Reach::new(transport.local_id()));
        Self { transport, snapshots, liveness, reach, runtime }
    }

    /// Puts a packet into the queues of its receivers. One that finds no room is lost, as on any network: whoever needs it
    /// sends it again.
    pub(crate) fn send(&self, group: usize, sent: &Sent) {
        let bytes = sent.packet.encode(group_id(group));
        let channel = sent.packet.channel(sent.urgent);
        for to in &sent.to {
            let _ = self.transport.send(*to, channel, bytes.clone());
        }
    }

    /// Something came from `node`; true if its process did not count as there before.
    pub(crate) fn heard(&mut self, node: NodeId, now: Duration) -> bool {
        self.liveness.heard(node, now)
    }

    /// Says now and then that this process is there, and lets go of those who were removed; answers whose have gone.
    pub(crate) fn look(&mut self, now: Duration) -> Vec<NodeId> {
        let (say, gone) = self.liveness.look(now);
        if say {
            if let Some(reached) = self.reach.look(now) {
                self.transport.members(&reached);
            }
            let alive = Packet::Alive(self.reach.known().clone());
            let bytes = alive.encode(group_id(0));
            for peer in self.peers().filter(|peer| self.reach.is_member(*peer)) {
                let _ = self.transport.send(peer, alive.channel(true), bytes.clone());
            }
        }
        gone
    }

    /// When to [`look`](Self::look) again.
    pub(crate) const fn wake_at(&self) -> Duration {
        self.liveness.wake_at()
    }

    pub(crate) fn send_snapshot(&self, group: usize, to: NodeId, index: Index, head: Bytes) {
        self.snapshots.send(group_id(group), to, index, head);
    }

    pub(crate) fn discard_snapshot(&self, group: usize, index: Index) {
        self.snapshots.discard(group_id(group), index);
    }

    /// Lets the transport reach these members, and for a while those who were.
    pub(crate) fn members(&mut self, now: Duration, members: MemberList) {
        let before: Vec<_> = self.peers().collect();
        let reached = self.reach.members(now, members, before);
        self.transport.members(&reached);
    }

    /// Another process says who the members are.
    pub(crate) fn told(&mut self, now: Duration, from: NodeId, members: MemberList) {
        if let Some(reached) = self.reach.told(now, from, members) {
            self.transport.members(&reached);
        }
    }

    fn peers(&self) -> impl Iterator<Item = NodeId> {
        self.transport.peers().into_iter().map(|(peer, _)| peer)
    }

    /// Ends everything of the network and waits for it.
    pub(crate) fn close(self) {
        let Self { transport, snapshots, runtime, .. } = self;
        // On a task of the runtime, since this thread is none of its own; a runtime that has ended has ended these tasks too.
        let (ended, wait) = std::sync::mpsc::channel::<()>();
        runtime.spawn(async move {
            transport.close().await;
            snapshots.close().await;
            drop(ended);
        });
        let _ = wait.recv();
    }
}

fn group_id(group: usize) -> GroupId {
    GroupId::new(u32::try_from(group).expect("groups are counted in 32 bits"))
}

/// Takes what comes from other nodes to the engine thread.
struct Receiver {
    inbox: Arc<Inbox<Command>>,
    /// Of each group.
    inspectors: Vec<Option<Arc<dyn Inspector>>>,
    snapshots: Arc<Snapshots>,
    /// What may still come in, for each channel: a flood of entries must not hold up votes.
    room: [(Channel, Arc<Semaphore>); Channel::ALL.len()],
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("groups", &self.inspectors.len()).finish_non_exhaustive()
    }
}

/// What is longer may hold up a thread of the runtime, and is looked at beside it.
const INSPECTED_AT_ONCE_MAX: usize = 16 << 10;

/// Lets the inspector look at a packet, if it is for an engine that has one. None if nobody is to have it: an honest node forwards no frames
/// that may not be proposed, or the runtime ends.
async fn inspected(
    inspector: Option<&Arc<dyn Inspector>>,
    from: NodeId,
    packet: Packet,
    length: usize,
) -> Option<Packet> {
    let Some(inspector) = inspector else { return Some(packet) };
    let is_looked_at = match &packet {
        Packet::Engine(_) => true,
        Packet::Forward(_) => inspector.wants_signed(),
        _ => false,
    };
    if !is_looked_at {
        return Some(packet);
    }
    let inspector = Arc::clone(inspector);
    let look = move || match &packet {
        Packet::Engine(message) => {
            inspector.inspect(from, message);
            Some(packet)
        }
        Packet::Forward(forward) => inspector.admits_batch(&forward.batch).then_some(packet),
        _ => Some(packet),
    };
    if length <= INSPECTED_AT_ONCE_MAX {
        return look();
    }
    tokio::task::spawn_blocking(look).await.ok()?
}

#[async_trait]
impl Inbound for Receiver {
    async fn message(&self, from: NodeId, channel: Channel, message: Bytes) {
        // What cannot be read is of another version or of a node that is not right. It is lost, as on any network.
        let Ok((group, packet)) = Packet::decode(&message) else { return };
        let Some(inspector) = self.inspectors.get(group.number() as usize) else { return };
        let (_, room) = self.room.iter().find(|(of, _)| *of == channel).expect("each has its room");
        let share =
            u32::try_from(message.len().clamp(1, WAITING_BYTES_MAX)).expect("it is bounded");
        let Ok(permit) = Arc::clone(room).acquire_many_owned(share).await else { return };
        let Some(packet) = inspected(inspector.as_ref(), from, packet, message.len()).await else {
            return;
        };
        self.inbox.report(Command::Packet(from, group.number() as usize, packet, permit));
    }

    fn peer(&self, _peer: NodeId, _state: PeerState) {
        // The status asks the transport itself.
    }

    fn bulk(&self, from: NodeId, offer: BulkOffer) -> Result<Box<dyn BulkSink>, String> {
        self.snapshots.offer(from, offer)
    }
}
