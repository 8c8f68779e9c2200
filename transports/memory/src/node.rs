//! One node on the hub, from its connection to its close: what receives, and the tasks that deliver to it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_replicator::{Inbound, NodeId};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::hub::{Shared, Wire};

/// One life of a node on the hub.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) hub: Arc<Shared>,
    runtime: Handle,
    closed: watch::Sender<bool>,
    /// Set when nothing of this node runs any more.
    ended: watch::Sender<bool>,
    /// The network around this node changed.
    changed: Arc<Notify>,
    listening: AtomicBool,
    // Never held across an await, nor while the hub is called.
    receiving: Mutex<Receiving>,
}

#[derive(Debug, Default)]
struct Receiving {
    inbound: Option<Arc<dyn Inbound>>,
    /// Senders whose messages are delivered here.
    attached: BTreeSet<NodeId>,
    /// None once the node closes.
    tasks: Option<JoinSet<()>>,
}

impl Node {
    pub(crate) fn new(id: NodeId, hub: Arc<Shared>) -> Self {
        Self {
            id,
            hub,
            runtime: Handle::current(),
            closed: watch::Sender::new(false),
            ended: watch::Sender::new(false),
            changed: Arc::new(Notify::new()),
            listening: AtomicBool::new(false),
            receiving: Mutex::new(Receiving {
                tasks: Some(JoinSet::new()),
                ..Receiving::default()
            }),
        }
    }

    /// Begins to receive. A second call would leave open which of the two gets a message, so it is a mistake.
    pub(crate) fn receive(&self, inbound: Arc<dyn Inbound>) {
        {
            let mut receiving = self.receiving();
            if receiving.tasks.is_none() {
                return;
            }
            assert!(receiving.inbound.is_none(), "receive was called twice on {}", self.id);
            receiving.inbound = Some(Arc::clone(&inbound));
            self.listening.store(true, Ordering::Release);
        }
        self.hub.listening();
        let (id, hub, changed) = (self.id, Arc::clone(&self.hub), Arc::clone(&self.changed));
        self.spawn(async move {
            let mut told = BTreeMap::new();
            loop {
                for (peer, state) in hub.peers(id) {
                    if told.insert(peer, state.clone()).as_ref() != Some(&state) {
                        inbound.peer(peer, state);
                    }
                }
                changed.notified().await;
            }
        });
    }

    pub(crate) fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Acquire)
    }

    pub(crate) fn inbound(&self) -> Option<Arc<dyn Inbound>> {
        self.receiving().inbound.clone()
    }

    /// Delivers what comes in on these wires, and looks at the peers anew. Called by the hub after each change.
    pub(crate) fn attach(&self, wires: impl Iterator<Item = (NodeId, Arc<Wire>)>) {
        let mut guard = self.receiving();
        let receiving = &mut *guard;
        if let (Some(inbound), Some(tasks)) = (&receiving.inbound, &mut receiving.tasks) {
            for (from, wire) in wires {
                if receiving.attached.insert(from) {
                    for pipe in wire.pipes() {
                        let delivery = Arc::clone(pipe).deliver(Arc::clone(inbound));
                        tasks.spawn_on(delivery, &self.runtime);
                    }
                }
            }
        }
        self.changed.notify_one();
    }

    /// Runs `task` until it ends or the node closes; drops it if the node has closed.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(tasks) = &mut self.receiving().tasks {
            // Tasks that have ended are let go here, so that they do not add up.
            while tasks.try_join_next().is_some() {}
            tasks.spawn_on(task, &self.runtime);
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Waits until the node begins to close.
    pub(crate) async fn closing(&self) {
        // The sender lives in this node, so waiting cannot fail.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Takes the node off the hub and stops everything that it runs; may be called again.
    pub(crate) fn begin_close(&self) {
        let tasks = {
            let mut receiving = self.receiving();
            receiving.inbound = None;
            self.listening.store(false, Ordering::Release);
            receiving.tasks.take()
        };
        let Some(mut tasks) = tasks else { return };
        self.closed.send_replace(true);
        self.hub.leave(self);
        tasks.abort_all();
        let ended = self.ended.clone();
        self.runtime.spawn(async move {
            while tasks.join_next().await.is_some() {}
            ended.send_replace(true);
        });
    }

    /// Waits until nothing of the node runs any more.
    pub(crate) async fn ended(&self) {
        // The sender lives in this node, so waiting cannot fail.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    fn receiving(&self) -> MutexGuard<'_, Receiving> {
        // Nothing panics between two changes that belong together, except for the assertion, which changes nothing.
        self.receiving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
