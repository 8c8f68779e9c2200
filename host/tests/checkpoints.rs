//! Checkpoints are written beside the work, never instead of it.

#[path = "support/counter.rs"]
mod counter;

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_driver_local::{Local, LocalConfig};
use quorate_host::{HostConfig, Hosted};
use quorate_replicator::{
    Batch, CheckpointPairs, CheckpointReader, Decision, Driver, Env, Event, Frame, MonotonicClock,
    NodeId, Outcomes, Replicator, RestoreError, SessionId, StateMachine,
};
use tokio::sync::oneshot;

use counter::{Counter, frame, shard};

/// Longer than any test runs.
const LONG: Duration = Duration::from_secs(600);

const SESSION: SessionId = SessionId::new([1; 16]);

/// Pairs of a checkpoint that are given out only when the test lets them.
#[derive(Debug)]
struct Gate {
    /// Tells on which thread the first pair was asked for.
    reached: Option<oneshot::Sender<String>>,
    passed: Receiver<()>,
}

/// A counter whose first checkpoint takes as long as the test wants.
#[derive(Debug)]
struct Slow {
    counter: Counter,
    gate: Mutex<Option<Gate>>,
    begun: Arc<Mutex<Vec<String>>>,
}

fn this_thread() -> String {
    std::thread::current().name().unwrap_or_default().to_owned()
}

impl StateMachine for Slow {
    fn apply(&mut self, batch: &Batch<'_>, outcomes: &mut Outcomes) {
        self.counter.apply(batch, outcomes);
    }

    fn begin_checkpoint(&mut self) -> CheckpointPairs {
        self.begun.lock().unwrap().push(this_thread());
        let pairs = self.counter.begin_checkpoint();
        let Some(Gate { mut reached, passed }) = self.gate.lock().unwrap().take() else {
            return pairs;
        };
        Box::new(pairs.inspect(move |_| {
            if let Some(reached) = reached.take() {
                reached.send(this_thread()).unwrap();
                passed.recv().unwrap();
            }
        }))
    }

    fn restore(&mut self, reader: &mut dyn CheckpointReader) -> Result<(), RestoreError> {
        self.counter.restore(reader)
    }
}

fn gate() -> (Gate, oneshot::Receiver<String>, Sender<()>) {
    let ((reached, at_gate), (pass, passed)) = (oneshot::channel(), mpsc::channel());
    (Gate { reached: Some(reached), passed }, at_gate, pass)
}

async fn accept(node: &dyn Replicator, frame: Frame) {
    let decision = node.propose(frame, LONG).await.unwrap();
    assert!(matches!(decision, Decision::Accept(_)), "{decision:?}");
}

#[tokio::test]
async fn applying_goes_on_while_a_checkpoint_is_read_and_written() {
    let directory = tempfile::tempdir().unwrap();
    let begun = Arc::<Mutex<Vec<String>>>::default();
    let (gate, at_gate, pass) = gate();
    let machine = Slow {
        counter: Counter::default(),
        gate: Mutex::new(Some(gate)),
        begun: Arc::clone(&begun),
    };
    let mut config = HostConfig::default();
    config.checkpoint.log_bytes = 1;
    let env = Env::new(NodeId::new(1), directory.path(), Arc::new(MonotonicClock::new()), 1);
    let hosted = Hosted::new(Local, config);
    let node = hosted.open(LocalConfig::default(), env, Box::new(machine)).await.unwrap();
    let mut events = node.events();

    // The first batch makes a checkpoint due.
    accept(&*node, Frame::open_session(SESSION, shard())).await;
    let reader = at_gate.await.unwrap();
    assert_ne!(reader, "quorate-engine", "pairs are read beside the engine");

    // It stands at its first pair, and everything else goes on.
    for serial in 1..=1000 {
        accept(&*node, frame(SESSION, serial, serial, vec![1])).await;
    }
    assert_eq!(node.status().groups[0].checkpoint, 0);
    assert_eq!(
        *begun.lock().unwrap(),
        ["quorate-engine"],
        "one at a time, begun where it is applied"
    );

    pass.send(()).unwrap();
    let stored = loop {
        let next = std::future::poll_fn(|context| events.as_mut().poll_next(context));
        if let Some(Event::Checkpoint { index, .. }) = next.await {
            break index;
        }
    };
    assert_eq!(stored, 1, "it holds what was applied when it began");
    node.close().await.unwrap();
}
