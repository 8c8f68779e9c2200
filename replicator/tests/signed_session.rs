//! A session signs each attempt with the key of its id, and opens itself anew where a group was later than it had told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use quorate_replicator::limits::SESSION_IDLE_MS;
use quorate_replicator::*;

const WITHIN: Duration = Duration::from_secs(60);

/// Remembers what it is proposed, and answers as scripted.
#[derive(Debug, Default)]
struct Group(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// How late it is, and how late the node says that it is.
    now: u64,
    told: u64,
    sessions: u8,
    /// To mutations, the last one first; then all are accepted.
    answers: Vec<Result<Decision, ProposeError>>,
    proposed: Vec<Frame>,
}

impl Group {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap())
    }
}

fn accept() -> Result<Decision, ProposeError> {
    let position = Position::origin(GroupId::new(0));
    Ok(Decision::Accept(Commit { position, reply: Reply::Known(Bytes::new()), proof: None }))
}

/// What is signed, so that a test can read it.
fn signature(frames: &[&Frame]) -> Bytes {
    format!("{:?}", frames.iter().map(|it| (it.id, it.settled)).collect::<Vec<_>>()).into()
}

#[async_trait]
impl Replicator for Group {
    async fn propose(&self, frame: Frame, _: Duration) -> Result<Decision, ProposeError> {
        self.with(|state| {
            state.proposed.push(frame.clone());
            // What is decided tells the time.
            state.told = state.now;
            match frame.role() {
                FrameRole::OpenSession if frame.valid_until < Some(LogTime::from_ms(state.now)) => {
                    Ok(Decision::Reject(Rejection::Expired))
                }
                FrameRole::Mutation => state.answers.pop().unwrap_or_else(accept),
                FrameRole::OpenSession | FrameRole::CloseSession => accept(),
            }
        })
    }

    async fn propose_many(
        &self,
        _: Vec<Frame>,
        _: Duration,
    ) -> Result<Vec<Decision>, ProposeError> {
        Ok(Vec::new())
    }

    async fn decision(&self, _: &ShardKey, _: FrameId, _: Duration) -> Result<Decision, ReadError> {
        Ok(Decision::Undecided)
    }

    async fn subscribe(
        &self,
        _: Scope,
        _: Cursor,
        _: Arc<dyn Handler>,
    ) -> Result<Subscription, SubscribeError> {
        Err(SubscribeError::Closed)
    }

    async fn read_barrier(
        &self,
        _: &ShardKey,
        _: Consistency,
        _: Duration,
    ) -> Result<Position, ReadError> {
        Err(ReadError::Closed)
    }

    async fn pinned(&self, _: &ShardKey) -> Result<Arc<dyn Pinned>, ReadError> {
        Err(ReadError::NoCheckpoint)
    }

    fn group(&self, shard: &ShardKey) -> GroupId {
        GroupId::of(shard, 1)
    }

    fn status(&self) -> Status {
        let mut status = Status::new(NodeId::new(1), "scripted", Durability::Memory, Health::Ready);
        let mut group = GroupStatus::new(GroupId::new(0), Role::Leader);
        group.log_time = LogTime::from_ms(self.with(|state| state.told));
        status.groups.push(group);
        status
    }

    fn signer(&self) -> std::io::Result<Option<Signer>> {
        let number = self.with(|state| {
            state.sessions += 1;
            state.sessions
        });
        Ok(Some(Signer::new(SessionId::new([number; 16]), 1, move |_, frames| {
            let count = u32::try_from(frames.len()).unwrap();
            let key = Bytes::copy_from_slice(&[number; 16]);
            Ok(CallSignature { frames: count, key, signature: signature(frames) })
        })))
    }

    fn events(&self) -> EventStream {
        unreachable!("nobody asks")
    }

    async fn close(&self) -> Result<(), CloseError> {
        Ok(())
    }
}

fn shard() -> ShardKey {
    ShardKey::new("org", "ns").unwrap()
}

/// Everything that was proposed is signed, by the key of its session, as it was proposed.
fn all_is_signed(proposed: &[Frame]) {
    for frame in proposed {
        let signed = frame.signed.as_ref().expect("it is signed");
        assert_eq!((signed.frames, &signed.key[..]), (1, &frame.id.session.as_bytes()[..]));
        assert_eq!(signed.signature, signature(&[frame]), "{}", frame.id);
    }
}

#[tokio::test]
async fn each_attempt_is_signed_with_the_key_of_its_session() {
    let group = Arc::new(Group::default());
    let session = Session::new(Arc::<Group>::clone(&group)).unwrap();
    let first = session.id();
    // Its outcome is unknown at first, so it stays under its id, whatever the session is called then.
    group.with(|state| state.answers = vec![Ok(Decision::Timeout)]);
    let unknown = session.propose(&shard(), "a", WITHIN).await.unwrap_err();
    let SessionError::Unknown { attempt, .. } = unknown else { panic!("{unknown}") };
    session.close(&shard(), WITHIN).await.unwrap();
    session.propose(&shard(), "b", WITHIN).await.unwrap();
    assert_ne!(session.id(), first);
    session.resume(*attempt, WITHIN).await.unwrap();
    session.propose(&shard(), "c", WITHIN).await.unwrap();
    // The group has ended it: the next one has another key.
    group.with(|state| state.answers = vec![accept(), Err(ProposeError::SessionEnded)]);
    session.propose(&shard(), "d", WITHIN).await.unwrap();
    let proposed = group.with(|state| std::mem::take(&mut state.proposed));
    all_is_signed(&proposed);
    let ids: Vec<_> = proposed.iter().map(|it| it.id.to_string()).collect();
    let expected = [
        (1, "open"),
        (1, "1"),
        (1, "close"),
        (2, "open"),
        (2, "1"),
        (1, "1"),
        (2, "2"),
        (2, "3"),
        (3, "open"),
        (3, "1"),
    ];
    let name = |number| SessionId::new([number; 16]);
    assert_eq!(ids, expected.map(|(number, what)| format!("{}#{what}", name(number))));
}

#[tokio::test]
async fn a_group_that_is_later_than_it_told_is_given_another_opening() {
    let group = Arc::new(Group::default());
    group.with(|state| state.now = 10 * SESSION_IDLE_MS);
    let session = Session::new(Arc::<Group>::clone(&group)).unwrap();
    session.propose(&shard(), "a", WITHIN).await.unwrap();
    let proposed = group.with(|state| std::mem::take(&mut state.proposed));
    all_is_signed(&proposed);
    let until: Vec<_> = proposed.iter().map(|it| it.valid_until.map(LogTime::as_ms)).collect();
    let half = SESSION_IDLE_MS / 2;
    assert_eq!(until, [Some(half), Some(10 * SESSION_IDLE_MS + half), None]);
}
