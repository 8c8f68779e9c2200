//! Whom a client believes: the validators of its genesis, and those that they decided on since.
//!
//! ```text
//!   frame that was proposed == frame of the proof --path--> header of the height <--signed-- a quorum of its validators
//! ```
//!
//! What it says of an accepted frame is that it was decided at its position. The reply, a refusal and a read are the word of the node.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quorate_certificate::{
    BodyKind, CallFrame, CallKey, Decided, DecidedFrame, FrameProof, Genesis, Header, ProvenFrame,
    ValidatorHistory,
};
use quorate_replicator::{
    CallSignature, Commit, DecidedBatch, Decision, Frame, FrameRole, GroupId, LogTime, ReadError,
    SessionId, Signer,
};

use crate::heights::Told;
use crate::link::Link;
use crate::protocol::{self, Request};

/// The validators of a cluster, as far as a client knows them.
#[derive(Debug)]
pub(crate) struct Trust {
    genesis: Genesis,
    groups: Mutex<BTreeMap<GroupId, Validators>>,
}

/// The validators of one group.
#[derive(Debug)]
struct Validators {
    history: ValidatorHistory,
    /// The batches that changed them.
    changes: Vec<DecidedBatch>,
}

impl Trust {
    pub(crate) fn new(genesis: Genesis) -> Self {
        Self { genesis, groups: Mutex::default() }
    }

    /// A new key for who proposes in a cluster of so many groups, if it decides only what is signed.
    pub(crate) fn signer(&self, groups: u32) -> io::Result<Option<Signer>> {
        if !self.genesis.signed_frames() {
            return Ok(None);
        }
        let key = CallKey::generate(&self.genesis).map_err(io::Error::other)?;
        let session = SessionId::new(key.session());
        let sign = move |group: GroupId, frames: &[&Frame]| {
            let calls = frames.iter().map(|frame| call_frame(frame));
            let signature = key.sign(group.number(), calls).map_err(io::Error::other)?;
            Ok(CallSignature {
                frames: u32::try_from(frames.len()).map_err(io::Error::other)?,
                key: Bytes::copy_from_slice(key.public().as_bytes()),
                signature: Bytes::copy_from_slice(signature.as_bytes()),
            })
        };
        Ok(Some(Signer::new(session, groups, sign)))
    }

    fn groups(&self) -> MutexGuard<'_, BTreeMap<GroupId, Validators>> {
        // A change is taken as a whole or not at all.
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of<T>(&self, group: GroupId, look: impl FnOnce(&mut Validators) -> T) -> T {
        let mut groups = self.groups();
        let validators = groups.entry(group).or_insert_with(|| Validators {
            history: ValidatorHistory::new(&self.genesis, group.number()),
            changes: Vec::new(),
        });
        look(validators)
    }

    /// Verifies that `frame` was decided where `commit` of the node at the other end of `link` says, and puts all that shows it into the
    /// commit. The node may be asked who its validators are, and is waited for.
    ///
    /// # Errors
    ///
    /// Why this is not believed.
    pub(crate) async fn verify(
        &self,
        frame: &Frame,
        commit: &mut Commit,
        link: &Link,
        within: Duration,
    ) -> Result<(), String> {
        let position = commit.position;
        let path = commit.proof.take().ok_or("it has no proof")?;
        let proof =
            FrameProof::decode_with(&path, &frame.payload).map_err(|error| error.to_string())?;
        let told = link.calls.heights().get(position.group, position.index);
        let told = told.ok_or("its height was not told")?;
        let header = told.judged.get_or_try_init(|| self.judge(&told, link, within)).await?;
        let shown = proof.verify(&header.body).map_err(|error| error.to_string())?;
        if shown.slot != position.slot || !is_it(frame, &shown) {
            return Err("its proof is of another frame".into());
        }
        commit.proof = Some(self.whole(&told, proof));
        Ok(())
    }

    /// The header of a height, if it is one that its validators have decided.
    async fn judge(&self, told: &Told, link: &Link, within: Duration) -> Result<Header, String> {
        let group = told.height.group;
        let (known, judged) = self.of(group, |it| (it.history.changed(), it.judge(told)));
        let Err(problem) = judged else { return judged };
        // Perhaps its validators are others than those known here.
        let request = Request::MemberBatches { group, after: known };
        let answer = link.pages.ask(&request, within).await;
        let answer = answer.map_err(|_| format!("{problem}; nor does it say who changed them"))?;
        let changes: Result<Vec<DecidedBatch>, ReadError> =
            protocol::decode(&answer).map_err(|malformed| malformed.to_string())?;
        let changes = changes.map_err(|error| error.to_string())?;
        if changes.is_empty() {
            return Err(problem);
        }
        self.of(group, |validators| {
            for change in changes {
                validators.take(change)?;
            }
            validators.judge(told)
        })
    }

    /// All that it takes to verify a frame with the genesis alone, as a file.
    fn whole(&self, told: &Told, frame: FrameProof) -> Bytes {
        let (genesis, group) = (&self.genesis, told.height.group);
        let batch = (&told.height.head[..], &told.height.proof[..]);
        let whole = self.of(group, |validators| {
            let changes: Vec<_> = validators.changes.iter().map(decided).collect();
            DecidedFrame::with_frame(genesis, group.number(), &changes, batch, frame)
        });
        whole.encode().into()
    }
}

impl Validators {
    fn judge(&self, told: &Told) -> Result<Header, String> {
        let (head, proof) = (&told.height.head, &told.height.proof);
        let header = self.history.verify_header(head, proof).map_err(|error| error.to_string())?;
        let (height, kind) = (header.height, header.kind);
        if height != told.height.index {
            return Err(format!("what was told of height {} is of {height}", told.height.index));
        }
        if kind != BodyKind::Frames {
            return Err(format!("height {height} carries {}", kind.name()));
        }
        Ok(header)
    }

    /// Takes a change that the validators before it decided.
    fn take(&mut self, change: DecidedBatch) -> Result<(), String> {
        // Another caller may have asked for it, too.
        let header = Header::decode(&change.head).map_err(|error| error.to_string())?;
        if header.height > self.history.changed() {
            self.history.push(decided(&change)).map_err(|error| error.to_string())?;
            self.changes.push(change);
        }
        Ok(())
    }
}

fn call_frame(frame: &Frame) -> CallFrame<'_> {
    CallFrame {
        session: frame.id.session.as_bytes(),
        serial: frame.id.serial,
        settled: frame.settled,
        shard: frame.shard.as_str(),
        payload: &frame.payload,
        valid_until_ms: frame.valid_until.map(LogTime::as_ms),
    }
}

/// Whether what was decided is what was proposed.
fn is_it(frame: &Frame, shown: &ProvenFrame) -> bool {
    let has_id = shown.session == frame.id.session.bytes() && shown.serial == frame.id.serial;
    let says_it = shown.shard == frame.shard.as_str()
        && shown.payload == frame.payload
        && shown.valid_until_ms == frame.valid_until.map(LogTime::as_ms);
    // Who opens a session of the group again, through whatever shard, is told where it was opened first.
    has_id && (says_it || frame.role() == FrameRole::OpenSession)
}

fn decided(batch: &DecidedBatch) -> Decided<'_> {
    Decided { header: &batch.head, body: &batch.body, certificate: &batch.proof }
}

/// What a proposal is answered with: a decision for each of its frames.
pub(crate) trait Decisions: Debug {
    /// The decisions, in the order of the frames.
    fn decisions(&mut self) -> &mut [Decision];
}

impl Decisions for Decision {
    fn decisions(&mut self) -> &mut [Decision] {
        std::slice::from_mut(self)
    }
}

impl Decisions for Vec<Decision> {
    fn decisions(&mut self) -> &mut [Decision] {
        self
    }
}
