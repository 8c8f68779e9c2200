//! What operators are asked to approve: changes of the validators, and the approvals that a batch of them carries.
//!
//! ```text
//!   motion: changes, addresses of new nodes ---> approval of each operator's node ---> body with those of a quorum
//! ```
//!
//! Validators vote for a change only if it carries the approvals of a quorum, so that nobody who proposes can change the validators alone. An
//! approval is for one motion in one epoch: whatever was not decided in it has to be approved again.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use crate::change::{CHANGES_MAX, ChangeError, MembersBody, ValidatorChange};
use crate::codec::{Malformed, Reader, Writer, from_hex, hash, hex};
use crate::fault_model::FaultModel;
use crate::genesis::ChainId;
use crate::key::{Signature, SigningError, SigningKey};
use crate::validator::{VALIDATORS_MAX, ValidatorSet};

/// Most bytes of an address.
const ADDRESS_BYTES_MAX: usize = 256;

/// Most bytes of an encoded motion; with its approvals it fits into a batch.
pub const MOTION_BYTES_MAX: usize = 896 << 10;

const WHAT: &str = "motion to change the validators";
const VERSION: u8 = 1;
const APPROVAL: &[u8; 16] = b"quorate.approve1";

/// What operators are asked to approve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Motion {
    changes: Vec<ValidatorChange>,
    /// Where nodes that are added are reached, in the order of their numbers.
    addresses: Vec<(u64, String)>,
}

/// Why a motion is not approved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApprovalError {
    /// Who approves is no validator, or is named twice.
    #[error("node {node}, which approves it, is no validator of epoch {epoch}, or named twice")]
    Validator {
        /// Who.
        node: u64,
        /// Of which epoch.
        epoch: u64,
    },
    /// An approval does not hold.
    #[error("the approval of node {node} is not signed by it, for this motion and epoch {epoch}")]
    Signature {
        /// Whose.
        node: u64,
        /// In which epoch.
        epoch: u64,
    },
    /// Too few approve.
    #[error("validators with power {power} of {total} approve it, and that is no quorum")]
    TooFew {
        /// The power of those who do.
        power: u64,
        /// That of all.
        total: u64,
    },
}

impl Motion {
    /// These changes, to be in force together. `addresses`: where the nodes that they add are reached.
    ///
    /// # Errors
    ///
    /// An address is empty or too long, stands there twice, or is of a node that is not added; or there is no change, or there are too many.
    pub fn new(
        changes: Vec<ValidatorChange>,
        mut addresses: Vec<(u64, String)>,
    ) -> Result<Self, Malformed> {
        addresses.sort_by_key(|(node, _)| *node);
        let is_long = addresses.iter().any(|(_, address)| address.len() > ADDRESS_BYTES_MAX);
        if changes.len() > CHANGES_MAX || addresses.len() > changes.len() || is_long {
            let problem = format!("it has more than {CHANGES_MAX} changes, or long addresses");
            return Err(Malformed::new(WHAT, problem));
        }
        let motion = Self { changes, addresses };
        // What comes back is the same, so that each motion has one encoding.
        Self::decode(&motion.encode())
    }

    /// What is to change.
    pub fn changes(&self) -> &[ValidatorChange] {
        &self.changes
    }

    /// Where the nodes that are added are reached.
    pub fn addresses(&self) -> &[(u64, String)] {
        &self.addresses
    }

    /// All of these changes in one motion.
    ///
    /// # Errors
    ///
    /// See [`new`](Self::new).
    pub fn together(motions: impl IntoIterator<Item = Self>) -> Result<Self, Malformed> {
        let (mut changes, mut addresses) = (Vec::new(), Vec::new());
        for motion in motions {
            changes.extend(motion.changes);
            addresses.extend(motion.addresses);
        }
        Self::new(changes, addresses)
    }

    /// What names it.
    pub fn digest(&self) -> [u8; 32] {
        hash("quorate 1 motion", &[&self.encode()])
    }

    /// The bytes that [`decode`](Self::decode) reads: those of a body without approvals.
    pub fn encode(&self) -> Vec<u8> {
        self.body(&[]).encode()
    }

    /// Reads a motion.
    ///
    /// # Errors
    ///
    /// The bytes are not one.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let wrong = |problem: String| Err(Malformed::new(WHAT, problem));
        if bytes.len() > MOTION_BYTES_MAX {
            return wrong(format!("{} bytes are more than {MOTION_BYTES_MAX}", bytes.len()));
        }
        match Self::of(&MembersBody::decode(bytes)?)? {
            (motion, approvals) if approvals.is_empty() => Ok(motion),
            _ => wrong("it has approvals already".into()),
        }
    }

    /// The body of a batch with this motion and these approvals, which are in the order of their nodes.
    pub fn body(&self, approvals: &[(u64, Signature)]) -> MembersBody {
        let count = |count| u16::try_from(count).expect("there are at most 100 validators");
        let writer = Writer::default().u8(VERSION).u16(count(self.addresses.len()));
        let writer = self
            .addresses
            .iter()
            .fold(writer, |writer, (node, address)| writer.u64(*node).short(address.as_bytes()));
        let note = approvals
            .iter()
            .fold(writer.u16(count(approvals.len())), |writer, (node, signature)| {
                writer.u64(*node).short(signature.as_bytes())
            });
        MembersBody { changes: self.changes.clone(), note: note.done().into() }
    }

    /// The motion of a body, and its approvals, of which nothing is known yet.
    ///
    /// # Errors
    ///
    /// The body is not one of a motion.
    pub fn of(body: &MembersBody) -> Result<(Self, Vec<(u64, Signature)>), Malformed> {
        let mut reader = Reader::new(WHAT, &body.note);
        if body.changes.is_empty() {
            return Err(reader.wrong("it changes nothing"));
        }
        reader.version(VERSION)?;
        let mut addresses: Vec<(u64, String)> = Vec::new();
        for _ in 0..count(&mut reader)? {
            let node = reader.u64()?;
            let address = String::from_utf8(reader.short()?.to_vec()).unwrap_or_default();
            let is_next = addresses.last().is_none_or(|(last, _)| *last < node);
            let is_added = body.changes.iter().any(|change| match change {
                ValidatorChange::Add { validator, .. } => validator.node == node,
                _ => false,
            });
            let is_sound = (1..=ADDRESS_BYTES_MAX).contains(&address.len())
                && !address.chars().any(char::is_control);
            if !(is_next && is_added && is_sound) {
                let problem = format!("node {node} has no such address, or is not added");
                return Err(reader.wrong(problem));
            }
            addresses.push((node, address));
        }
        let mut approvals: Vec<(u64, Signature)> = Vec::new();
        for _ in 0..count(&mut reader)? {
            let node = reader.u64()?;
            let signature = Signature::from_bytes(Bytes::copy_from_slice(reader.short()?))?;
            if approvals.last().is_some_and(|(last, _)| *last >= node) {
                return Err(reader.wrong("its approvals are not in their order"));
            }
            approvals.push((node, signature));
        }
        reader.end()?;
        Ok((Self { changes: body.changes.clone(), addresses }, approvals))
    }

    /// The bytes that an approval signs. Layout, integers little-endian: domain (16), chain (32), epoch (8), motion (32), node (8).
    fn approval_bytes(&self, chain: &ChainId, epoch: u64, node: u64) -> Vec<u8> {
        Writer::default()
            .bytes(APPROVAL)
            .bytes(chain.as_bytes())
            .u64(epoch)
            .bytes(&self.digest())
            .u64(node)
            .done()
    }

    /// The approval of `node`, a validator of this epoch.
    ///
    /// # Errors
    ///
    /// It could not be signed.
    pub fn approve(
        &self,
        chain: &ChainId,
        epoch: u64,
        node: u64,
        key: &SigningKey,
    ) -> Result<Signature, SigningError> {
        key.sign(&self.approval_bytes(chain, epoch, node))
    }

    /// Whether `approval` is that of `node`, one of these validators.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn verify_approval(
        &self,
        chain: &ChainId,
        validators: &ValidatorSet,
        node: u64,
        approval: &Signature,
    ) -> Result<(), ApprovalError> {
        let epoch = validators.epoch();
        let validator = validators.get(node).ok_or(ApprovalError::Validator { node, epoch })?;
        if validator.key.verify(&self.approval_bytes(chain, epoch, node), approval) {
            return Ok(());
        }
        Err(ApprovalError::Signature { node, epoch })
    }

    /// Whether a quorum of these validators, which it is to change, approves it.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn verify(
        &self,
        chain: &ChainId,
        fault_model: FaultModel,
        validators: &ValidatorSet,
        approvals: &[(u64, Signature)],
    ) -> Result<(), ApprovalError> {
        let (mut seen, mut power) = (BTreeSet::new(), 0);
        for (node, approval) in approvals {
            let (node, epoch) = (*node, validators.epoch());
            if !seen.insert(node) {
                return Err(ApprovalError::Validator { node, epoch });
            }
            self.verify_approval(chain, validators, node, approval)?;
            power += validators.get(node).map_or(0, |known| known.power);
        }
        if validators.is_quorum(power, fault_model) {
            return Ok(());
        }
        Err(ApprovalError::TooFew { power, total: validators.total_power() })
    }

    /// Whether `validators` are as this motion wants them.
    pub fn is_done(&self, validators: &ValidatorSet) -> bool {
        let has = |new: &crate::change::NewKey| {
            validators.get(new.node).is_some_and(|known| known.key == new.key)
        };
        self.changes.iter().all(|change| match change {
            ValidatorChange::Add { validator, .. } => {
                validators.get(validator.node) == Some(validator)
            }
            ValidatorChange::Remove { node } => validators.get(*node).is_none(),
            ValidatorChange::Power { node, power } => {
                validators.get(*node).is_some_and(|known| known.power == *power)
            }
            ValidatorChange::RotateKey(new) => has(new),
            ValidatorChange::Scheme { scheme, keys } => {
                validators.scheme() == *scheme && keys.iter().all(has)
            }
        })
    }

    /// What a validator asks before it votes for the body of a change: whether a quorum of `validators` has approved it in the group of
    /// `chain`, and what they are after it; `key_chain` is what new keys are signed for.
    ///
    /// # Errors
    ///
    /// Why it does not.
    pub fn decide(
        (chain, key_chain): (&ChainId, &ChainId),
        fault_model: FaultModel,
        validators: &ValidatorSet,
        body: &[u8],
    ) -> Result<ValidatorSet, MotionError> {
        let body = MembersBody::decode(body)?;
        let (motion, approvals) = Self::of(&body)?;
        // What costs least comes first.
        let changed = validators.change(key_chain, motion.changes())?;
        motion.verify(chain, fault_model, validators, &approvals)?;
        Ok(changed)
    }
}

/// Why a validator does not vote for a change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MotionError {
    /// It is not one of a motion.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Validators cannot be changed so.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// It is not approved.
    #[error(transparent)]
    Approval(#[from] ApprovalError),
}

fn count(reader: &mut Reader<'_>) -> Result<usize, Malformed> {
    let count = usize::from(reader.u16()?);
    if count > VALIDATORS_MAX {
        return Err(reader.wrong(format!("{count} of its parts are more than {VALIDATORS_MAX}")));
    }
    Ok(count)
}

/// Its changes in words, one after the other.
impl fmt::Display for Motion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, change) in self.changes.iter().enumerate() {
            if number > 0 {
                f.write_str(", ")?;
            }
            match change {
                ValidatorChange::Add { validator, .. } => {
                    write!(f, "add n{} with power {}", validator.node, validator.power)?;
                    let known = self.addresses.iter().find(|(node, _)| *node == validator.node);
                    if let Some((_, address)) = known {
                        write!(f, " at {address}")?;
                    }
                }
                ValidatorChange::Remove { node } => write!(f, "remove n{node}")?,
                ValidatorChange::Power { node, power } => {
                    write!(f, "give n{node} power {power}")?;
                }
                ValidatorChange::RotateKey(new) => {
                    write!(f, "give n{} another {} key", new.node, new.key.scheme())?;
                }
                ValidatorChange::Scheme { scheme, .. } => {
                    write!(f, "let all sign with scheme {scheme}")?;
                }
            }
        }
        Ok(())
    }
}

const FIRST_LINE: &str = "quorate change of validators 1";

impl Motion {
    /// The text of its file: what is to change, in words, and its bytes.
    pub fn to_text(&self) -> String {
        format!("{FIRST_LINE}\n# {self}\n{}\n", hex(&self.encode()))
    }
}

impl FromStr for Motion {
    type Err = Malformed;

    /// Reads the text of a file. The words in it say nothing.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        let (first, digits, rest) = (lines.next(), lines.next(), lines.next());
        let bytes = digits.and_then(from_hex);
        match (first, bytes, rest) {
            (Some(FIRST_LINE), Some(bytes), None) => Self::decode(&bytes),
            _ => Err(Malformed::new(
                WHAT,
                format!("its file is `{FIRST_LINE}`, and a line of lower-case hexadecimal digits"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::NewKey;
    use crate::genesis::Genesis;
    use crate::scheme::Scheme;
    use crate::test_keys::key;
    use crate::validator::Validator;

    fn genesis() -> Genesis {
        let validator = |node: u64| Validator {
            node,
            power: 1,
            key: key(Scheme::Ed25519, node as u8).public().clone(),
        };
        let (model, scheme) = (FaultModel::Byzantine, Scheme::Ed25519);
        Genesis::new([1; 16], model, scheme, 500, (1..=4).map(validator).collect()).unwrap()
    }

    fn motion() -> Motion {
        let chain = genesis().chain(0);
        let add = ValidatorChange::add(&chain, 5, 1, &key(Scheme::Ed25519, 5)).unwrap();
        Motion::new(vec![add], vec![(5, "host-5:7000".into())]).unwrap()
    }

    fn approvals(of: &Motion, epoch: u64, nodes: &[u64]) -> Vec<(u64, Signature)> {
        let chain = genesis().chain(0);
        let approve = |node: &u64| {
            let key = key(Scheme::Ed25519, *node as u8);
            (*node, of.approve(&chain, epoch, *node, &key).unwrap())
        };
        nodes.iter().map(approve).collect()
    }

    fn decide(body: &MembersBody) -> Result<ValidatorSet, MotionError> {
        let genesis = genesis();
        let (chain, model) = (genesis.chain(0), genesis.fault_model());
        Motion::decide((&chain, &genesis.key_chain()), model, genesis.validators(), &body.encode())
    }

    #[test]
    fn a_quorum_of_approvals_for_this_motion_in_this_epoch_decides() {
        let motion = motion();
        let changed = decide(&motion.body(&approvals(&motion, 0, &[1, 2, 4]))).unwrap();
        assert_eq!((changed.epoch(), changed.validators().len()), (1, 5));
        assert!(motion.is_done(&changed) && !motion.is_done(genesis().validators()));

        let refused = |approvals: &[(u64, Signature)], word: &str| {
            let error = decide(&motion.body(approvals)).unwrap_err().to_string();
            assert!(error.contains(word), "{word}: {error}");
        };
        refused(&approvals(&motion, 0, &[1, 4]), "no quorum");
        refused(&approvals(&motion, 0, &[1, 4, 5]), "node 5");
        refused(&approvals(&motion, 1, &[1, 2, 4]), "epoch 0");
        let other = Motion::new(vec![ValidatorChange::Remove { node: 1 }], Vec::new()).unwrap();
        refused(&approvals(&other, 0, &[1, 2, 4]), "not signed");
        let mut twice = approvals(&motion, 0, &[1, 2]);
        twice.push(twice[1].clone());
        refused(&twice, "order");
        // Too large a step is one, whoever wants it.
        let two = [1, 2].map(|node| ValidatorChange::Remove { node });
        let two = Motion::new(two.to_vec(), Vec::new()).unwrap();
        let error = decide(&two.body(&approvals(&two, 0, &[1, 2, 3, 4]))).unwrap_err();
        assert!(error.to_string().contains("smaller steps"), "{error}");
    }

    #[test]
    fn a_motion_comes_back_from_bytes_and_text_and_in_no_other_form() {
        let chain = genesis().chain(0);
        let [old, new] = [2, 12].map(|number| key(Scheme::Ed25519, number));
        let rotate = ValidatorChange::RotateKey(NewKey::new(&chain, 2, &old, &new).unwrap());
        let rotate = Motion::new(vec![rotate], Vec::new()).unwrap();
        let both = Motion::together([motion(), rotate]).unwrap();
        assert_eq!(
            both.to_string(),
            "add n5 with power 1 at host-5:7000, give n2 another ed25519 key"
        );
        assert_eq!(both.to_text().parse::<Motion>().unwrap(), both);
        let bytes = both.encode();
        for length in 0..bytes.len() {
            assert!(Motion::decode(&bytes[..length]).is_err());
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = Motion::decode(&flipped) {
                assert_ne!(other.digest(), both.digest(), "bit {bit}");
                assert_eq!(other.encode(), flipped);
            }
        }
        assert!(Motion::new(Vec::new(), Vec::new()).is_err());
        let of_nobody = vec![(6, "host".into())];
        assert!(Motion::new(both.changes().to_vec(), of_nobody).is_err());
        assert!("".parse::<Motion>().is_err());
    }
}
