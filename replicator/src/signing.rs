//! Who signs what is proposed, where the members of a group have agreed that it must be.
//!
//! ```text
//!   frames of a call:   1   2   3   4   5   6   7          in the order in which they are proposed
//!                       \_ run 1 _/ \__ run 2 __/          one signature for each run, with its first frame
//! ```
//!
//! 1. A run is decided as a whole, in its order, or not at all: its signature holds for nothing else.
//! 2. The session of a frame is named by the key that signs for it, so nobody else can number frames in it.

use std::fmt;
use std::io;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::limits::{RUN_BYTES_MAX, RUN_FRAMES_MAX, SESSION_IDLE_MS};
use crate::{Frame, GroupId, LogTime, SessionId, ShardKey, Status};

/// The signature of a run of frames: of the one that has it, and of those that follow.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallSignature {
    /// How many frames it is for, at least 1.
    pub frames: u32,
    /// The public key, which names the session.
    pub key: Bytes,
    /// Of the frames, in their order.
    pub signature: Bytes,
}

impl CallSignature {
    /// How many bytes it has.
    pub fn size(&self) -> usize {
        self.key.len() + self.signature.len()
    }
}

impl fmt::Debug for CallSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallSignature").field("frames", &self.frames).finish_non_exhaustive()
    }
}

/// Signs a run of frames of one group.
type Sign = dyn Fn(GroupId, &[&Frame]) -> io::Result<CallSignature> + Send + Sync;

/// A key that was made for one session, and signs what is proposed in it. It is never stored: who begins anew has another session.
pub struct Signer {
    session: SessionId,
    groups: u32,
    sign: Box<Sign>,
}

impl Signer {
    /// The signer of `session` in a cluster of so many groups. `sign` is given frames of one group, which are to be one run.
    pub fn new(
        session: SessionId,
        groups: u32,
        sign: impl Fn(GroupId, &[&Frame]) -> io::Result<CallSignature> + Send + Sync + 'static,
    ) -> Self {
        Self { session, groups, sign: Box::new(sign) }
    }

    /// The session that its key names.
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// The frame that opens its session in the group of `shard`. It is valid until half of the time has passed after which a session ends for want of
    /// use: once the group has forgotten the session, nobody who has kept its frames can open it again, and have them happen twice.
    ///
    /// `status`: of the node that it is proposed to, which says how late it is. An idle group may be later, and answers that the frame
    /// has [expired](crate::Rejection::Expired); it has told the time then, and another frame will do.
    ///
    /// # Errors
    ///
    /// The system gave no randomness.
    pub fn open_session(&self, shard: &ShardKey, status: &Status) -> io::Result<Frame> {
        let group = GroupId::of(shard, self.groups);
        let now = status.groups.iter().find(|status| status.group == group);
        let now = now.map_or(LogTime::ZERO, |status| status.log_time);
        let mut open = Frame::open_session(self.session, shard.clone());
        open.valid_until = Some(now.plus_ms(SESSION_IDLE_MS / 2));
        self.sign(std::slice::from_mut(&mut open))?;
        Ok(open)
    }

    /// Signs frames that are to be proposed together: those of each group are cut into as few runs as fit.
    ///
    /// Whatever of them changes afterwards, also what they settle, has to be signed again.
    ///
    /// # Errors
    ///
    /// The system gave no randomness.
    pub fn sign(&self, frames: &mut [Frame]) -> io::Result<()> {
        if let [frame] = frames {
            let signed = (self.sign)(GroupId::of(&frame.shard, self.groups), &[frame])?;
            frame.signed = Some(Box::new(signed));
            return Ok(());
        }
        frames.iter_mut().for_each(|frame| frame.signed = None);
        let mut by_group: Vec<(usize, GroupId)> = frames
            .iter()
            .enumerate()
            .map(|(place, frame)| (place, GroupId::of(&frame.shard, self.groups)))
            .collect();
        // Stable: the frames of a group stay in their order.
        by_group.sort_by_key(|(_, group)| *group);
        let mut rest = by_group.as_slice();
        while let Some((first, group)) = rest.first().copied() {
            let (mut length, mut bytes) = (0, 0);
            for (place, of) in rest {
                bytes += frames.get(*place).map_or(0, Frame::cost);
                let is_full = length > 0 && (bytes > RUN_BYTES_MAX || length == RUN_FRAMES_MAX);
                if *of != group || is_full {
                    break;
                }
                length += 1;
            }
            let (run, others) = rest.split_at(length);
            let signed: Vec<_> = run.iter().filter_map(|(place, _)| frames.get(*place)).collect();
            let signed = (self.sign)(group, &signed)?;
            if let Some(frame) = frames.get_mut(first) {
                frame.signed = Some(Box::new(signed));
            }
            rest = others;
        }
        Ok(())
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("session", &self.session).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FrameId;

    fn signer(groups: u32) -> Signer {
        Signer::new(SessionId::new([1; 16]), groups, |group, frames| {
            assert!(
                frames
                    .iter()
                    .all(|frame| GroupId::of(&frame.shard, 4) == group || group.number() == 0)
            );
            let serials = frames.iter().flat_map(|frame| frame.id.serial.to_le_bytes());
            let signature = serials.collect::<Vec<_>>().into();
            let frames = u32::try_from(frames.len()).unwrap();
            Ok(CallSignature { frames, key: Bytes::new(), signature })
        })
    }

    fn frame(serial: u64, namespace: u64, bytes: usize) -> Frame {
        let id = FrameId { session: SessionId::new([1; 16]), serial };
        let shard = ShardKey::new("org", &namespace.to_string()).unwrap();
        Frame::new(id, shard, vec![0; bytes])
    }

    /// The serials of each run that a group is given.
    fn runs(frames: &[Frame], groups: u32, group: u32) -> Vec<Vec<u64>> {
        let mut of_group =
            frames.iter().filter(|frame| GroupId::of(&frame.shard, groups) == GroupId::new(group));
        let mut runs = Vec::new();
        while let Some(first) = of_group.next() {
            let signed = first.signed.as_ref().expect("a run begins here");
            let count = signed.frames as usize;
            let run: Vec<_> =
                std::iter::once(first).chain(of_group.by_ref().take(count - 1)).collect();
            assert!(run.iter().skip(1).all(|frame| frame.signed.is_none()));
            let serials: Vec<_> = run.iter().map(|frame| frame.id.serial).collect();
            let bytes: Vec<_> = serials.iter().flat_map(|serial| serial.to_le_bytes()).collect();
            assert_eq!(signed.signature, bytes);
            runs.push(serials);
        }
        runs
    }

    #[test]
    fn a_call_is_one_run_of_each_group_where_that_fits() {
        let mut frames: Vec<_> = (1..100).map(|serial| frame(serial, serial % 7, 10)).collect();
        signer(4).sign(&mut frames).unwrap();
        let all: Vec<_> = (0..4).map(|group| runs(&frames, 4, group)).collect();
        assert!(all.iter().all(|runs| runs.len() <= 1));
        assert_eq!(all.concat().concat().len(), 99);
        signer(1).sign(&mut frames).unwrap();
        assert_eq!(runs(&frames, 1, 0), [(1..100).collect::<Vec<_>>()]);
    }

    #[test]
    fn a_run_has_no_more_than_a_batch_takes() {
        let count = RUN_FRAMES_MAX as u64 + 1;
        let mut frames: Vec<_> = (1..=count).map(|serial| frame(serial, 0, 0)).collect();
        signer(1).sign(&mut frames).unwrap();
        assert_eq!(runs(&frames, 1, 0), [(1..count).collect(), vec![count]]);
        let largest = crate::limits::FRAME_BYTES_MAX;
        let mut frames = [(1, 7), (2, largest), (3, largest), (4, 7), (5, 7)]
            .map(|(serial, bytes)| frame(serial, 0, bytes));
        signer(1).sign(&mut frames).unwrap();
        assert_eq!(runs(&frames, 1, 0), [vec![1], vec![2], vec![3], vec![4, 5]]);
    }
}
