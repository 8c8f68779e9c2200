//! The transport as the engine thread uses it, and what comes in from it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use quorate_engine::{Liveness, Packet, Sent};
use quorate_replicator::{
    BulkOffer, BulkSink, Channel, GroupId, Inbound, Member, NodeId, PeerState, Transport,
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
        groups: u32,
        runtime: Handle,
        now: Duration,
    ) -> Self {
        let room =
            Channel::ALL.map(|channel| (channel, Arc::new(Semaphore::new(WAITING_BYTES_MAX))));
        let receiver = Receiver { inbox, groups, snapshots: Arc::clone(&snapshots), room };
        transport.receive(Arc::new(receiver));
        Self { transport, snapshots, liveness: Liveness::new(now), runtime }
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

    /// Says now and then that this process is there; answers whose have gone.
    pub(crate) fn look(&mut self, now: Duration) -> Vec<NodeId> {
        let (say, gone) = self.liveness.look(now);
        if say {
            let bytes = Packet::Alive.encode(group_id(0));
            for (peer, _) in self.transport.peers() {
                let _ = self.transport.send(peer, Packet::Alive.channel(true), bytes.clone());
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

    /// Lets the transport reach these members and no others. A list without this node is of the past, as one that joins meets
    /// it on its way through the log: who leads now may have come later, and must be heard.
    pub(crate) fn members(&self, members: &[Member]) {
        if members.iter().any(|member| member.node == self.transport.local_id()) {
            self.transport.members(members);
        }
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
    groups: u32,
    snapshots: Arc<Snapshots>,
    /// What may still come in, for each channel: a flood of entries must not hold up votes.
    room: [(Channel, Arc<Semaphore>); Channel::ALL.len()],
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("groups", &self.groups).finish_non_exhaustive()
    }
}

#[async_trait]
impl Inbound for Receiver {
    async fn message(&self, from: NodeId, channel: Channel, message: Bytes) {
        // What cannot be read is of another version or of a node that is not right. It is lost, as on any network.
        let Ok((group, packet)) = Packet::decode(&message) else { return };
        if group.number() >= self.groups {
            return;
        }
        let (_, room) = self.room.iter().find(|(of, _)| *of == channel).expect("each has its room");
        let share =
            u32::try_from(message.len().clamp(1, WAITING_BYTES_MAX)).expect("it is bounded");
        let Ok(permit) = Arc::clone(room).acquire_many_owned(share).await else { return };
        self.inbox.report(Command::Packet(from, group.number() as usize, packet, permit));
    }

    fn peer(&self, _peer: NodeId, _state: PeerState) {
        // The status asks the transport itself.
    }

    fn bulk(&self, from: NodeId, offer: BulkOffer) -> Result<Box<dyn BulkSink>, String> {
        self.snapshots.offer(from, offer)
    }
}
