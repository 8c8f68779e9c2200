//! A stopped node's log is verified, and one in which a bit has changed is not.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate::audit::{AuditOptions, StoredAuditError, stored};
use quorate::certificate::{
    AuditError, BodyKind, Certificate, FaultModel, Genesis, Header, Scheme, SigningKey, Validator,
    VoteType, audit_history, body_hash, vote_bytes,
};
use quorate::{GroupId, NodeId};
use quorate_driver_quorum::simulation::{self, Ballot};
use quorate_driver_quorum::{QuorumConfig, QuorumDriver, Setup};
use quorate_engine::engine::{EngineDriver as _, Input, Opening, Output};
use quorate_storage::{
    Body, DataDir, DataMode, Entry, Group, Identity, LogConfig, RealDisk, Record, Recovered, Tag,
};

struct Cluster {
    genesis: Genesis,
    keys: Vec<SigningKey>,
}

impl Cluster {
    fn new() -> Self {
        let keys: Vec<_> = (0..4).map(|_| SigningKey::generate(Scheme::Ed25519).unwrap()).collect();
        let validators = (1..).zip(&keys).map(|(node, key)| Validator {
            node,
            power: 1,
            key: key.public().clone(),
        });
        let (model, scheme) = (FaultModel::Byzantine, Scheme::Ed25519);
        let genesis = Genesis::new([7; 16], model, scheme, 500, validators.collect()).unwrap();
        Self { genesis, keys }
    }

    /// What a node of this cluster writes of so many decided heights of group 1, and of one that is not.
    fn records(&self, heights: u64) -> Vec<Record> {
        let (chain, set) = (self.genesis.chain(1), self.genesis.validators());
        let mut previous = *chain.as_bytes();
        let mut records = Vec::new();
        for height in 1..=heights + 1 {
            let body = vec![height as u8; 100];
            let header = Header {
                height,
                previous,
                proposer: 1,
                validators: set.digest(),
                next_validators: set.digest(),
                state_index: 0,
                state: [0; 32],
                kind: BodyKind::Frames,
                body: body_hash(BodyKind::Frames, &body),
            };
            let id = header.id();
            let signatures = (1..).zip(&self.keys).map(|(node, key)| {
                let vote = vote_bytes(&chain, 0, VoteType::Precommit, height, 0, Some(&id), node);
                (node, key.sign(&vote).unwrap())
            });
            let certificate = Certificate::new(height, 0, id, signatures.collect()).unwrap();
            let (index, tag) = (height, Tag(id));
            let (head, body) = (header.encode().into(), Body::Frames(body.into()));
            records.push(Record::Put(Entry { index, tag, head, body }));
            if height <= heights {
                let proof = Bytes::from(certificate.encode());
                records.push(Record::Decide { index, tag, proof });
            }
            previous = id;
        }
        records
    }
}

fn write(directory: &Path, driver: &str, records: Vec<Record>) {
    let identity = Identity { cluster: [7; 16], node: 1, driver: driver.into(), groups: 2 };
    let disk = Arc::new(RealDisk::new(directory));
    let mut opened = DataDir::open(disk, &identity, DataMode::Create, [1; 16]).unwrap();
    let (mut log, _) = opened.open_log(LogConfig::default(), 0, Default::default()).unwrap();
    let writes = (1..).zip(records).map(|(seq, record)| (seq, true, record));
    log.submit(Group::new(1), writes.collect()).unwrap();
    while log.has_pending() {
        log.commit().unwrap();
    }
    log.close().unwrap();
}

fn options() -> AuditOptions {
    let mut options = AuditOptions::default();
    options.group = GroupId::new(1);
    options
}

#[test]
fn a_log_is_verified_and_comes_out_as_a_file_that_is_too() {
    let (cluster, place) = (Cluster::new(), tempfile::tempdir().unwrap());
    write(place.path(), "quorum", cluster.records(5));
    let mut file = Vec::new();
    let audited = stored(place.path(), &cluster.genesis, &options(), Some(&mut file)).unwrap();
    assert_eq!((audited.first, audited.height, audited.group), (1, 5, 1));
    assert_eq!(audit_history(&file[..], Some(&cluster.genesis), None).unwrap(), audited);
    let looked_for = |tip| {
        let mut options = options();
        options.tip = Some(tip);
        stored(place.path(), &cluster.genesis, &options, None)
    };
    assert_eq!(looked_for((5, audited.id)).unwrap(), audited);
    let error = looked_for((6, audited.id)).unwrap_err();
    assert!(matches!(error, StoredAuditError::Audit(AuditError::Tail { height: 5, wanted: 6 })));
    let error = looked_for((4, audited.id)).unwrap_err();
    assert!(matches!(error, StoredAuditError::Audit(AuditError::OtherTip { height: 4, .. })));
    // The other group has decided nothing.
    let empty = stored(place.path(), &cluster.genesis, &AuditOptions::default(), None).unwrap();
    assert_eq!((empty.first, empty.height), (0, 0));
}

#[test]
fn a_log_that_was_changed_is_refused() {
    let cluster = Cluster::new();
    let audit = |records: Vec<Record>| {
        let place = tempfile::tempdir().unwrap();
        write(place.path(), "quorum", records);
        stored(place.path(), &cluster.genesis, &options(), None)
    };
    assert_eq!(audit(cluster.records(3)).unwrap().height, 3);
    let changed = |change: &dyn Fn(&mut Record)| {
        let mut records = cluster.records(3);
        change(&mut records[2]);
        change(&mut records[3]);
        audit(records).unwrap_err()
    };
    let error = changed(&|record| {
        if let Record::Put(Entry { body, .. }) = record {
            *body = Body::Frames(vec![9; 100].into());
        }
    });
    assert!(error.to_string().contains("height 2"), "{error}");
    let error = changed(&|record| {
        if let Record::Put(Entry { body, .. }) = record {
            let Body::Frames(bytes) = body.clone() else { return };
            *body = Body::Members(bytes);
        }
    });
    assert!(matches!(error, StoredAuditError::Differs { height: 2, .. }), "{error}");
    let error = changed(&|record| match record {
        Record::Put(Entry { tag, .. }) | Record::Decide { tag, .. } => *tag = Tag([9; 32]),
        _ => {}
    });
    assert!(matches!(error, StoredAuditError::Differs { height: 2, .. }), "{error}");
    let other = Cluster::new();
    let place = tempfile::tempdir().unwrap();
    write(place.path(), "quorum", other.records(3));
    let error = stored(place.path(), &cluster.genesis, &options(), None).unwrap_err();
    assert!(error.is_refusal(), "{error}");
}

#[test]
fn a_directory_that_cannot_be_audited_is_told_apart() {
    let (cluster, place) = (Cluster::new(), tempfile::tempdir().unwrap());
    let audit = |path: &Path, options: &AuditOptions| {
        let error = stored(path, &cluster.genesis, options, None).unwrap_err();
        assert!(!error.is_refusal());
        error.to_string()
    };
    let nothing = place.path().join("nothing");
    let problem = audit(&nothing, &options());
    assert!(problem.contains("nothing: "), "{problem}");
    let raft = place.path().join("raft");
    write(&raft, "raft", Vec::new());
    assert!(audit(&raft, &options()).contains("driver \"raft\""));
    let quorum = place.path().join("quorum");
    write(&quorum, "quorum", Vec::new());
    let mut options = options();
    options.group = GroupId::new(2);
    assert!(audit(&quorum, &options).contains("there is no g2"));
}

/// What a node stores that decides a height while another validator prevotes for two values.
fn state_of_one_who_saw_two_faces(cluster: &Cluster) -> Bytes {
    let chain = cluster.genesis.chain(1);
    let setup = |(node, key): (u64, &SigningKey)| {
        let key = SigningKey::from_bytes(&key.to_bytes()).unwrap();
        (NodeId::new(node), Setup::new(cluster.genesis.clone(), Arc::new(key)))
    };
    let driver = QuorumDriver::with_setups((1..).zip(&cluster.keys).map(setup));
    let now = Duration::from_secs(1);
    let open = |node: u8| {
        let opening = Opening {
            group: GroupId::new(1),
            node: NodeId::new(node.into()),
            members: (1..=4).map(NodeId::new).collect(),
            incarnation: [node; 16],
            seed: 1,
            checkpoint: None,
            log: Recovered { first: 1, ..Recovered::default() },
        };
        let mut out = Output::default();
        let engine = driver.open(&QuorumConfig::default(), opening, &mut out).unwrap();
        (engine, out)
    };
    let (mut engine, mut out) = open(1);
    engine.settle(now, &mut out);
    // The others note which directory it has: then it votes.
    let hello: Vec<_> = out.sends.drain(..).map(|send| send.message).collect();
    for node in 2..=4 {
        let (mut other, mut answers) = open(node);
        for message in hello.clone() {
            other.step(now, Input::Message { from: NodeId::new(1), message }, &mut answers);
        }
        other.settle(now, &mut answers);
        for send in answers.sends.drain(..).filter(|send| send.to == [NodeId::new(1)]) {
            let (from, message) = (NodeId::new(node.into()), send.message);
            engine.step(now, Input::Message { from, message }, &mut out);
        }
    }
    engine.settle(now, &mut out);
    let batch = Body::Frames(Bytes::from_static(b"batch"));
    let placed = engine.propose(now, batch, &mut out).unwrap();
    let mut say = |node: u64, is_precommit, value: [u8; 32]| {
        let (height, round, value) = (placed.index, 0, Some(value));
        let ballot = Ballot { node, is_precommit, height, round, value, line: Bytes::new() };
        let key = &cluster.keys[node as usize - 1];
        let message = simulation::vote(&chain, (&chain, 0), &ballot, key).unwrap();
        let from = NodeId::new(node);
        engine.step(now, Input::Message { from, message }, &mut out);
    };
    say(2, false, [9; 32]);
    for is_precommit in [false, true] {
        (2..=4).for_each(|node| say(node, is_precommit, placed.tag.0));
    }
    engine.settle(now, &mut out);
    let states = out.writes.into_iter().filter_map(|write| match write.record {
        Record::State(state) => Some(state),
        _ => None,
    });
    states.last().expect("it has stored what it saw")
}

#[test]
fn evidence_is_shown_and_exported_and_only_if_it_holds() {
    let (cluster, place) = (Cluster::new(), tempfile::tempdir().unwrap());
    let mut records = cluster.records(3);
    records.push(Record::State(state_of_one_who_saw_two_faces(&cluster)));
    write(place.path(), "quorum", records);
    let mut file = Vec::new();
    let audited = stored(place.path(), &cluster.genesis, &options(), Some(&mut file)).unwrap();
    let [ref evidence] = audited.evidence[..] else { panic!("{:?}", audited.evidence) };
    assert_eq!((evidence.validator(), evidence.deed()), (2, "prevoted for two values"));
    assert_eq!(audit_history(&file[..], Some(&cluster.genesis), None).unwrap(), audited);

    // It stands before the last record: a bit of it is changed.
    let bytes = evidence.encode();
    let place = file.windows(bytes.len()).position(|window| window == bytes).unwrap();
    file[place + bytes.len() - 1] ^= 1;
    let error = audit_history(&file[..], Some(&cluster.genesis), None).unwrap_err();
    assert!(error.to_string().contains("evidence against node 2"), "{error}");
}
