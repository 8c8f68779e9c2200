//! What the hub adds to a transport: faults by seed, cuts of every kind, virtual time, counters, and an end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use quorate_replicator::{
    BulkError, BulkId, BulkOffer, BulkSink, BulkSource, Bytes, Channel, Inbound, NodeId, PeerState,
    SendError, Transport,
};
use quorate_transport_memory::{HubConfig, LinkFaults, MemoryHub, MemoryTransport};
use tokio::time::Instant;

const MS: Duration = Duration::from_millis(1);

fn node(number: u64) -> NodeId {
    NodeId::new(number)
}

/// One message as it arrived: where, from whom, on which channel, what, and when.
type Arrival = (NodeId, NodeId, Channel, Bytes, Duration);

/// What all nodes of a test received, in one order.
#[derive(Clone, Debug)]
struct Journal {
    start: Instant,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
}

impl Journal {
    fn new() -> Self {
        Self { start: Instant::now(), arrivals: Arc::default() }
    }

    fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().unwrap().clone()
    }

    fn count(&self) -> usize {
        self.arrivals.lock().unwrap().len()
    }

    /// Connects a node whose arrivals are written down here.
    fn connect(&self, hub: &MemoryHub, id: NodeId) -> Arc<MemoryTransport> {
        let transport = hub.connect(id);
        transport.receive(Arc::new(Receiver { id, journal: self.clone() }));
        transport
    }
}

#[derive(Debug)]
struct Receiver {
    id: NodeId,
    journal: Journal,
}

#[async_trait]
impl Inbound for Receiver {
    async fn message(&self, from: NodeId, channel: Channel, message: Bytes) {
        let at = self.journal.start.elapsed();
        self.journal.arrivals.lock().unwrap().push((self.id, from, channel, message, at));
    }

    fn peer(&self, _: NodeId, _: PeerState) {}

    fn bulk(&self, _: NodeId, _: BulkOffer) -> Result<Box<dyn BulkSink>, String> {
        Ok(Box::new(Swallow))
    }
}

#[derive(Debug)]
struct Swallow;

#[async_trait]
impl BulkSink for Swallow {
    fn resume_at(&self) -> u64 {
        0
    }

    async fn write(&mut self, _: Bytes) -> Result<(), String> {
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), String> {
        Ok(())
    }
}

#[derive(Debug)]
struct Zeros;

#[async_trait]
impl BulkSource for Zeros {
    async fn read(&self, _: u64, bytes_max: usize) -> Result<Bytes, String> {
        Ok(vec![0; bytes_max].into())
    }
}

fn offer(bytes: u64) -> BulkOffer {
    BulkOffer { id: BulkId(1), bytes, head: Bytes::new() }
}

fn number(i: u32) -> Bytes {
    i.to_be_bytes().to_vec().into()
}

/// Lets everything that can happen at present happen; with paused time, that is all there is until time is moved.
async fn settle() {
    tokio::time::sleep(Duration::from_nanos(1)).await;
}

async fn close_all(transports: &[Arc<MemoryTransport>]) {
    for transport in transports {
        transport.close().await;
    }
}

/// Three nodes talk over a bad network for a while.
async fn conversation(seed: u64) -> Vec<Arrival> {
    let hub = MemoryHub::new(seed);
    let faults = LinkFaults::none()
        .delay(MS..=20 * MS)
        .loss(0.1)
        .duplication(0.1, 10 * MS)
        .reordering(0.1, 10 * MS);
    hub.set_faults(&faults).unwrap();
    let journal = Journal::new();
    let nodes: Vec<_> = (1..=3).map(|id| journal.connect(&hub, node(id))).collect();
    for i in 0..200 {
        for from in &nodes {
            for to in (1..=3).map(node).filter(|to| *to != from.local_id()) {
                for channel in Channel::ALL {
                    from.send(to, channel, number(i)).unwrap();
                }
            }
        }
        tokio::time::sleep(MS).await;
    }
    tokio::time::sleep(100 * MS).await;
    let totals = hub.totals();
    assert_eq!(totals.under_way, 0, "{totals:?}");
    assert_eq!(totals.sent, 200 * 3 * 2 * 3, "{totals:?}");
    assert_eq!(totals.delivered, totals.sent + totals.duplicated - totals.lost, "{totals:?}");
    assert_eq!(totals.delivered, journal.count() as u64);
    assert!(totals.lost > 200 && totals.duplicated > 200, "{totals:?}");
    close_all(&nodes).await;
    journal.arrivals()
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_delivers_in_the_same_order_at_the_same_moments() {
    let first = conversation(5).await;
    assert_eq!(first, conversation(5).await);
    assert_ne!(first, conversation(6).await);
}

#[tokio::test(start_paused = true)]
async fn delay_is_kept_in_virtual_time() {
    let hub = MemoryHub::new(1);
    hub.set_faults(&LinkFaults::none().delay(40 * MS..=60 * MS)).unwrap();
    let journal = Journal::new();
    let nodes = [journal.connect(&hub, node(1)), journal.connect(&hub, node(2))];
    for i in 0..100 {
        nodes[0].send(node(2), Channel::Control, number(i)).unwrap();
    }
    tokio::time::sleep(39 * MS).await;
    assert_eq!(journal.count(), 0, "a message came before the shortest delay");
    tokio::time::sleep(22 * MS).await;
    let got: Vec<_> = journal.arrivals().into_iter().map(|(.., message, _)| message).collect();
    assert_eq!(got, (0..100).map(number).collect::<Vec<_>>(), "delays keep the order");
    close_all(&nodes).await;
}

#[tokio::test(start_paused = true)]
async fn messages_under_way_count_against_the_queue() {
    let mut config = HubConfig::seeded(1);
    config.queue_messages_max = 10;
    config.queue_bytes_max = 1000;
    config.faults = LinkFaults::none().delay(MS..=MS);
    let hub = MemoryHub::with_config(config).unwrap();
    let journal = Journal::new();
    let nodes = [journal.connect(&hub, node(1)), journal.connect(&hub, node(2))];
    let send = |bytes| nodes[0].send(node(2), Channel::Entries, vec![0; bytes].into());
    (0..10).for_each(|_| send(1).unwrap());
    assert_eq!(send(1), Err(SendError::QueueFull));
    tokio::time::sleep(2 * MS).await;
    // One message always fits, and a second one not beside it.
    send(5000).unwrap();
    assert_eq!(send(1), Err(SendError::QueueFull));
    tokio::time::sleep(2 * MS).await;
    assert_eq!(journal.count(), 11);
    let counters = hub.counters(node(1), node(2), Channel::Entries);
    assert_eq!((counters.refused, counters.delivered), (2, 11));
    close_all(&nodes).await;
}

#[tokio::test(start_paused = true)]
async fn each_kind_of_cut_stops_what_it_should_and_nothing_else() {
    let hub = MemoryHub::new(1);
    let journal = Journal::new();
    let nodes: Vec<_> = (1..=4).map(|id| journal.connect(&hub, node(id))).collect();
    let reach = async |cut: &str, open: &dyn Fn(u64, u64) -> bool| {
        journal.arrivals.lock().unwrap().clear();
        for from in &nodes {
            for to in (1..=4).map(node).filter(|to| *to != from.local_id()) {
                from.send(to, Channel::Control, Bytes::new()).unwrap();
            }
        }
        settle().await;
        let arrivals = journal.arrivals();
        for from in 1..=4 {
            for to in (1..=4).filter(|to| *to != from) {
                let arrived = arrivals.iter().any(|a| (a.0, a.1) == (node(to), node(from)));
                assert_eq!(arrived, open(from, to), "{cut}: n{from} to n{to}");
            }
        }
    };
    settle().await;
    reach("nothing cut", &|_, _| true).await;
    hub.cut_one_way(node(1), node(2));
    reach("one way", &|from, to| (from, to) != (1, 2)).await;
    let standing = |at: usize, peer: u64| {
        let found = nodes[at].peers().into_iter().find(|(id, _)| *id == node(peer));
        found.map(|(_, state)| state)
    };
    let reason = Some("the link to n2 is cut".to_owned());
    assert_eq!(standing(0, 2), Some(PeerState::Connecting { reason }));
    assert_eq!(standing(2, 2), Some(PeerState::Connected));
    hub.cut(node(3), node(4));
    reach("two cuts", &|from, to| (from, to) != (1, 2) && from + to != 7).await;
    hub.restore(node(1), node(2));
    reach("one restored", &|from, to| from + to != 7).await;
    hub.heal();
    hub.split(&[&[node(1), node(2)], &[node(3), node(4)]]);
    reach("two halves", &|from, to| (from <= 2) == (to <= 2)).await;
    hub.split(&[&[node(1)]]);
    reach("one alone", &|from, to| from != 1 && to != 1).await;
    hub.heal();
    hub.disconnect(node(3));
    reach("disconnected", &|from, to| from != 3 && to != 3).await;
    hub.reconnect(node(3));
    reach("reconnected", &|_, _| true).await;
    close_all(&nodes).await;
}

#[tokio::test(start_paused = true)]
async fn a_cut_loses_what_is_under_way_and_later_messages_arrive() {
    let hub = MemoryHub::new(1);
    hub.set_link_faults(node(1), node(2), &LinkFaults::none().delay(10 * MS..=10 * MS)).unwrap();
    let journal = Journal::new();
    let nodes = [journal.connect(&hub, node(1)), journal.connect(&hub, node(2))];
    nodes[0].send(node(2), Channel::Entries, number(1)).unwrap();
    hub.cut(node(1), node(2));
    nodes[0].send(node(2), Channel::Entries, number(2)).unwrap();
    hub.heal();
    nodes[0].send(node(2), Channel::Entries, number(3)).unwrap();
    tokio::time::sleep(50 * MS).await;
    let got: Vec<_> = journal.arrivals().into_iter().map(|(.., message, _)| message).collect();
    assert_eq!(got, [number(3)]);
    assert_eq!(hub.counters(node(1), node(2), Channel::Entries).lost, 2);
    close_all(&nodes).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_connects_again_replaces_its_former_self() {
    let hub = MemoryHub::new(1);
    let journal = Journal::new();
    let first = journal.connect(&hub, node(1));
    let before = journal.connect(&hub, node(2));
    let after = journal.connect(&hub, node(2));
    assert_eq!(before.send(node(1), Channel::Control, Bytes::new()), Err(SendError::Closed));
    for i in 0..10 {
        first.send(node(2), Channel::Control, number(i)).unwrap();
        after.send(node(1), Channel::Control, number(i)).unwrap();
    }
    settle().await;
    assert_eq!(journal.count(), 20);
    close_all(&[first, before, after]).await;
}

#[tokio::test(start_paused = true)]
async fn a_bulk_transfer_to_nobody_is_given_up_after_the_time_set() {
    let hub = MemoryHub::new(1);
    hub.expect([node(2)]);
    let transport = Journal::new().connect(&hub, node(1));
    let start = Instant::now();
    let result = transport.send_bulk(node(2), offer(10), Arc::new(Zeros)).await;
    assert_eq!(result, Err(BulkError::Unreachable("no link to n2".into())));
    let took = start.elapsed();
    let give_up = HubConfig::default().bulk_give_up_after;
    assert!(took >= give_up && took < give_up + Duration::from_secs(2), "{took:?}");
    transport.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_bulk_transfer_waits_for_a_receiver_that_comes_back() {
    let hub = MemoryHub::new(1);
    let journal = Journal::new();
    let nodes = [journal.connect(&hub, node(1)), journal.connect(&hub, node(2))];
    hub.disconnect(node(2));
    let sender = Arc::clone(&nodes[0]);
    let sending =
        tokio::spawn(
            async move { sender.send_bulk(node(2), offer(1 << 20), Arc::new(Zeros)).await },
        );
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!sending.is_finished());
    hub.reconnect(node(2));
    assert_eq!(sending.await.unwrap(), Ok(()));
    close_all(&nodes).await;
}

#[tokio::test]
async fn nothing_runs_after_close() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks(), 0);
    let hub = MemoryHub::new(1);
    let journal = Journal::new();
    let nodes: Vec<_> = (1..=3).map(|id| journal.connect(&hub, node(id))).collect();
    for _ in 0..1000 {
        let message = Bytes::from_static(b"x");
        nodes[0].send(node(2), Channel::Control, message).unwrap();
        nodes[0].send_bulk(node(3), offer(10), Arc::new(Zeros)).await.unwrap();
    }
    // One task for each sender and channel, one for the peers, and a bulk task that has perhaps not been let go yet.
    assert!(tasks() <= 3 * (2 * 3 + 1) + 1, "{} tasks", tasks());
    close_all(&nodes).await;
    // The task that awaits the end of the others says so as its last act.
    while tasks() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_outside_of_the_runtime_can_send() {
    let hub = MemoryHub::new(1);
    let journal = Journal::new();
    let nodes = [journal.connect(&hub, node(1)), journal.connect(&hub, node(2))];
    hub.set_faults(&LinkFaults::none().delay(Duration::ZERO..=MS)).unwrap();
    let sender = Arc::clone(&nodes[0]);
    std::thread::spawn(move || {
        (0..1000).for_each(|i| sender.send(node(2), Channel::Entries, number(i)).unwrap());
    })
    .join()
    .unwrap();
    let arrived = async {
        while journal.count() < 1000 {
            tokio::time::sleep(MS).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), arrived).await.expect("1,000 messages arrive");
    close_all(&nodes).await;
}

#[test]
fn configuration_is_read_from_toml_and_checked() {
    let text = "seed = 7\n[faults]\ndelay_min = \"1ms\"\ndelay_max = \"5ms\"\nloss = 0.5\n";
    let config: HubConfig = toml::from_str(text).unwrap();
    assert_eq!(config.seed, 7);
    assert_eq!(config.faults, LinkFaults::none().delay(MS..=5 * MS).loss(0.5));
    assert_eq!(config.queue_messages_max, HubConfig::default().queue_messages_max);
    let error = toml::from_str::<HubConfig>("sede = 7").unwrap_err().to_string();
    assert!(error.contains("unknown field `sede`") && error.contains("`seed`"), "{error}");
    let mut config = HubConfig::default();
    config.faults = LinkFaults::none().loss(2.0);
    let error = MemoryHub::with_config(config).unwrap_err();
    assert_eq!(error.to_string(), "loss is 2, a share from 0 to 1 is needed");
}
