//! How the validators change: by decided batches, a bounded part of their power at a time.

use bytes::Bytes;

use crate::codec::{Malformed, Reader, Writer};
use crate::genesis::ChainId;
use crate::key::{PublicKey, Signature, SigningError, SigningKey};
use crate::scheme::Scheme;
use crate::validator::{VALIDATORS_MAX, Validator, ValidatorSet, ValidatorSetError};

/// Most changes of one batch.
pub const CHANGES_MAX: usize = 16;

/// Most bytes of the note in a batch that changes the validators: an approval of each of a hundred, with the longest signatures.
pub const NOTE_BYTES_MAX: usize = 384 << 10;

/// One change of the validators.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ValidatorChange {
    /// A node that was none becomes one.
    Add {
        /// It, with its power and its key.
        validator: Validator,
        /// Made with that key, over [`key_bytes`]: who adds it has not mistyped it, and it is nobody else's.
        proof: Signature,
    },
    /// A validator is one no more.
    Remove {
        /// Its node.
        node: u64,
    },
    /// A validator's signature weighs another power.
    Power {
        /// Its node.
        node: u64,
        /// How much from now on.
        power: u64,
    },
    /// A validator signs with another key of the same scheme.
    RotateKey(NewKey),
    /// All validators sign with another scheme; the only change of its batch.
    Scheme {
        /// The new one.
        scheme: Scheme,
        /// A new key for each validator, in the order of their nodes.
        keys: Vec<NewKey>,
    },
}

/// A validator's next key, which nobody but itself can give it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct NewKey {
    /// The validator's node.
    pub node: u64,
    /// The key.
    pub key: PublicKey,
    /// Made with the key that it replaces, over [`key_bytes`].
    pub by_old: Signature,
    /// Made with the new key, over the same.
    pub by_new: Signature,
}

const KEY: &[u8; 16] = b"quorate.key..001";

/// The bytes that a key signs to be taken for the key of `node`; `chain` is that of [`Genesis::key_chain`](crate::Genesis::key_chain). Layout, integers little-endian: domain (16), chain (32), node (8), scheme (1), key.
pub fn key_bytes(chain: &ChainId, node: u64, key: &PublicKey) -> Vec<u8> {
    Writer::default()
        .bytes(KEY)
        .bytes(chain.as_bytes())
        .u64(node)
        .u8(key.scheme().code())
        .bytes(key.as_bytes())
        .done()
}

impl ValidatorChange {
    /// Adds a node; made by who has its key.
    ///
    /// # Errors
    ///
    /// The proof could not be signed.
    pub fn add(
        chain: &ChainId,
        node: u64,
        power: u64,
        key: &SigningKey,
    ) -> Result<Self, SigningError> {
        let proof = key.sign(&key_bytes(chain, node, key.public()))?;
        Ok(Self::Add { validator: Validator { node, power, key: key.public().clone() }, proof })
    }
}

impl NewKey {
    /// The next key of a validator; made by who has both.
    ///
    /// # Errors
    ///
    /// It could not be signed.
    pub fn new(
        chain: &ChainId,
        node: u64,
        old: &SigningKey,
        new: &SigningKey,
    ) -> Result<Self, SigningError> {
        let bytes = key_bytes(chain, node, new.public());
        let (by_old, by_new) = (old.sign(&bytes)?, new.sign(&bytes)?);
        Ok(Self { node, key: new.public().clone(), by_old, by_new })
    }

    fn holds(&self, chain: &ChainId, old: &PublicKey) -> bool {
        let bytes = key_bytes(chain, self.node, &self.key);
        old.verify(&bytes, &self.by_old) && self.key.verify(&bytes, &self.by_new)
    }
}

/// Why validators cannot be changed in this way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The node is a validator already.
    #[error("node {node} is a validator already; its key or power is changed in another way")]
    Known {
        /// Which.
        node: u64,
    },
    /// The node is no validator.
    #[error("node {node} is no validator")]
    Unknown {
        /// Which.
        node: u64,
    },
    /// A node is changed twice.
    #[error("node {node} is changed twice in one batch; change it once")]
    Twice {
        /// Which.
        node: u64,
    },
    /// Nothing would be as it was not.
    #[error("node {node} would be as it is")]
    Same {
        /// Which.
        node: u64,
    },
    /// A key did not sign for itself, or the one before it did not.
    #[error(
        "the new key of node {node} is not signed for: by itself and, if it replaces one, by that"
    )]
    Proof {
        /// Whose.
        node: u64,
    },
    /// A change of scheme stands beside others, or has not a key for each validator.
    #[error("a change of scheme stands alone, and has a new key for each validator: {problem}")]
    Scheme {
        /// What is wrong.
        problem: String,
    },
    /// What comes out is no set.
    #[error(transparent)]
    Set(#[from] ValidatorSetError),
    /// Too much power would change hands.
    #[error(
        "power {gone} of {before} would go and {come} of {after} come, and less than a third of each may at a time, or one validator of average power; do it in smaller steps"
    )]
    TooMuch {
        /// The power that goes, or gets another key.
        gone: u64,
        /// The power of all before.
        before: u64,
        /// The power that comes, or has another key.
        come: u64,
        /// The power of all after.
        after: u64,
    },
}

impl ValidatorSet {
    /// The validators after these changes, in the next epoch; after none, these. `chain` is what new keys are signed for.
    ///
    /// Less than a third of the power may go, and less than a third of what is then there may be new. That would leave two or three equal
    /// validators as they are for ever, so that one validator of at most average power may always come, go or change.
    ///
    /// # Errors
    ///
    /// They cannot be changed in this way.
    pub fn change(
        &self,
        chain: &ChainId,
        changes: &[ValidatorChange],
    ) -> Result<Self, ChangeError> {
        let mut validators = self.validators().to_vec();
        let mut scheme = self.scheme();
        let mut touched = Vec::new();
        for change in changes {
            match change {
                ValidatorChange::Add { validator: Validator { node, power, key }, proof } => {
                    if self.get(*node).is_some() {
                        return Err(ChangeError::Known { node: *node });
                    }
                    if !key.verify(&key_bytes(chain, *node, key), proof) {
                        return Err(ChangeError::Proof { node: *node });
                    }
                    touch(&mut touched, *node)?;
                    validators.push(Validator { node: *node, power: *power, key: key.clone() });
                }
                ValidatorChange::Remove { node } => {
                    self.known(*node)?;
                    touch(&mut touched, *node)?;
                    validators.retain(|validator| validator.node != *node);
                }
                ValidatorChange::Power { node, power } => {
                    if self.known(*node)?.power == *power {
                        return Err(ChangeError::Same { node: *node });
                    }
                    touch(&mut touched, *node)?;
                    set(&mut validators, *node, |validator| validator.power = *power);
                }
                ValidatorChange::RotateKey(new) => {
                    self.take_key(chain, new, &mut validators)?;
                    touch(&mut touched, new.node)?;
                }
                ValidatorChange::Scheme { scheme: next, keys } => {
                    let wrong = |problem: &str| ChangeError::Scheme { problem: problem.into() };
                    if changes.len() > 1 {
                        return Err(wrong("there are other changes"));
                    }
                    if *next == scheme {
                        return Err(wrong("the scheme is the one in force"));
                    }
                    let nodes = keys.iter().map(|key| key.node);
                    if !nodes.eq(self.validators().iter().map(|validator| validator.node)) {
                        return Err(wrong(
                            "the keys are not those of all validators in their order",
                        ));
                    }
                    scheme = *next;
                    for key in keys {
                        self.take_key(chain, key, &mut validators)?;
                    }
                }
            }
        }
        if changes.is_empty() {
            return Ok(self.clone());
        }
        let changed = Self::new(self.epoch() + 1, scheme, validators)?;
        self.allows(&changed, &touched)?;
        Ok(changed)
    }

    fn known(&self, node: u64) -> Result<&Validator, ChangeError> {
        self.get(node).ok_or(ChangeError::Unknown { node })
    }

    fn take_key(
        &self,
        chain: &ChainId,
        new: &NewKey,
        validators: &mut [Validator],
    ) -> Result<(), ChangeError> {
        let node = new.node;
        let old = self.known(node)?;
        if old.key == new.key {
            return Err(ChangeError::Same { node });
        }
        if !new.holds(chain, &old.key) {
            return Err(ChangeError::Proof { node });
        }
        set(validators, node, |validator| validator.key = new.key.clone());
        Ok(())
    }

    /// Whether a bounded part of the power changes hands. A change of scheme touches nobody: each has the power it had.
    fn allows(&self, changed: &Self, touched: &[u64]) -> Result<(), ChangeError> {
        let (mut gone, mut come) = (0, 0);
        for node in touched {
            let (before, after) = (self.get(*node), changed.get(*node));
            let power = |validator: Option<&Validator>| validator.map_or(0, |known| known.power);
            let (old, new) = (power(before), power(after));
            let is_same_key = before.map(|known| &known.key) == after.map(|known| &known.key);
            if is_same_key {
                gone += old.saturating_sub(new);
                come += new.saturating_sub(old);
            } else {
                gone += old;
                come += new;
            }
        }
        let (before, after) = (self.total_power(), changed.total_power());
        let is_small = gone * 3 < before && come * 3 < after;
        let is_average = match touched {
            [_] => gone.max(come).saturating_mul(self.validators().len() as u64) <= before,
            _ => false,
        };
        if is_small || is_average {
            return Ok(());
        }
        Err(ChangeError::TooMuch { gone, before, come, after })
    }
}

fn touch(touched: &mut Vec<u64>, node: u64) -> Result<(), ChangeError> {
    if touched.contains(&node) {
        return Err(ChangeError::Twice { node });
    }
    touched.push(node);
    Ok(())
}

fn set(validators: &mut [Validator], node: u64, set: impl FnOnce(&mut Validator)) {
    if let Some(validator) = validators.iter_mut().find(|validator| validator.node == node) {
        set(validator);
    }
}

/// What a batch carries that changes the validators.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct MembersBody {
    /// The changes, which come into force together.
    pub changes: Vec<ValidatorChange>,
    /// What stands beside them, opaque to the change itself: who approves it, as [`Motion`](crate::Motion) says.
    pub note: Bytes,
}

const VERSION: u8 = 1;

impl MembersBody {
    /// The bytes that [`decode`](Self::decode) reads.
    pub fn encode(&self) -> Vec<u8> {
        let count = u8::try_from(self.changes.len()).expect("a batch has few changes");
        let writer = Writer::default().u8(VERSION).u8(count);
        self.changes.iter().fold(writer, write_change).long(&self.note).done()
    }

    /// Reads such a batch. Each has one encoding.
    ///
    /// # Errors
    ///
    /// The bytes are not one.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("change of the validators", bytes);
        reader.version(VERSION)?;
        let count = usize::from(reader.u8()?);
        if count > CHANGES_MAX {
            return Err(reader.wrong(format!("{count} changes are more than {CHANGES_MAX}")));
        }
        let changes = (0..count).map(|_| read_change(&mut reader)).collect::<Result<_, _>>()?;
        let note = reader.long()?;
        if note.len() > NOTE_BYTES_MAX {
            let problem = format!("a note of {} bytes is longer than {NOTE_BYTES_MAX}", note.len());
            return Err(reader.wrong(problem));
        }
        reader.end()?;
        Ok(Self { changes, note: Bytes::copy_from_slice(note) })
    }
}

fn write_change(writer: Writer, change: &ValidatorChange) -> Writer {
    match change {
        ValidatorChange::Add { validator: Validator { node, power, key }, proof } => {
            write_key(writer.u8(1).u64(*node).u64(*power), key).short(proof.as_bytes())
        }
        ValidatorChange::Remove { node } => writer.u8(2).u64(*node),
        ValidatorChange::Power { node, power } => writer.u8(3).u64(*node).u64(*power),
        ValidatorChange::RotateKey(new) => write_new_key(writer.u8(4), new),
        ValidatorChange::Scheme { scheme, keys } => {
            let count = u16::try_from(keys.len()).expect("there are at most 100 validators");
            keys.iter().fold(writer.u8(5).u8(scheme.code()).u16(count), write_new_key)
        }
    }
}

fn write_key(writer: Writer, key: &PublicKey) -> Writer {
    writer.u8(key.scheme().code()).bytes(key.as_bytes())
}

fn write_new_key(writer: Writer, new: &NewKey) -> Writer {
    let NewKey { node, key, by_old, by_new } = new;
    write_key(writer.u64(*node), key).short(by_old.as_bytes()).short(by_new.as_bytes())
}

fn read_change(reader: &mut Reader<'_>) -> Result<ValidatorChange, Malformed> {
    Ok(match reader.u8()? {
        1 => ValidatorChange::Add {
            validator: Validator {
                node: reader.u64()?,
                power: reader.u64()?,
                key: read_key(reader)?,
            },
            proof: read_signature(reader)?,
        },
        2 => ValidatorChange::Remove { node: reader.u64()? },
        3 => ValidatorChange::Power { node: reader.u64()?, power: reader.u64()? },
        4 => ValidatorChange::RotateKey(read_new_key(reader)?),
        5 => {
            let scheme = read_scheme(reader)?;
            let count = usize::from(reader.u16()?);
            if count > VALIDATORS_MAX {
                return Err(reader.wrong(format!("{count} keys are more than {VALIDATORS_MAX}")));
            }
            let keys = (0..count).map(|_| read_new_key(reader)).collect::<Result<_, _>>()?;
            ValidatorChange::Scheme { scheme, keys }
        }
        code => return Err(reader.wrong(format!("{code} is no kind of change"))),
    })
}

fn read_scheme(reader: &mut Reader<'_>) -> Result<Scheme, Malformed> {
    let code = reader.u8()?;
    Scheme::from_code(code).ok_or_else(|| reader.wrong(format!("{code} is no signature scheme")))
}

fn read_key(reader: &mut Reader<'_>) -> Result<PublicKey, Malformed> {
    let scheme = read_scheme(reader)?;
    PublicKey::from_bytes(scheme, reader.bytes(scheme.key_bytes())?)
}

fn read_signature(reader: &mut Reader<'_>) -> Result<Signature, Malformed> {
    Signature::from_bytes(Bytes::copy_from_slice(reader.short()?))
}

fn read_new_key(reader: &mut Reader<'_>) -> Result<NewKey, Malformed> {
    Ok(NewKey {
        node: reader.u64()?,
        key: read_key(reader)?,
        by_old: read_signature(reader)?,
        by_new: read_signature(reader)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault_model::FaultModel;
    use crate::genesis::Genesis;
    use crate::test_keys::key;

    fn genesis(powers: &[u64]) -> Genesis {
        let validators = powers.iter().zip(1..).map(|(power, node)| Validator {
            node,
            power: *power,
            key: key(Scheme::Ed25519, node as u8).public().clone(),
        });
        let (model, scheme) = (FaultModel::Byzantine, Scheme::Ed25519);
        Genesis::new([1; 16], model, scheme, 500, validators.collect()).unwrap()
    }

    fn add(node: u64, power: u64) -> ValidatorChange {
        let chain = genesis(&[1]).chain(0);
        ValidatorChange::add(&chain, node, power, &key(Scheme::Ed25519, node as u8)).unwrap()
    }

    /// Changes a set of these powers. All sets have the chain of the same genesis.
    fn change(powers: &[u64], changes: &[ValidatorChange]) -> Result<Vec<(u64, u64)>, ChangeError> {
        let set = genesis(powers).validators().clone();
        let changed = set.change(&genesis(&[1]).chain(0), changes)?;
        assert_eq!(changed.epoch(), u64::from(!changes.is_empty()));
        Ok(changed.validators().iter().map(|known| (known.node, known.power)).collect())
    }

    #[test]
    fn a_cluster_of_equals_grows_and_shrinks_one_by_one() {
        let remove = |node| ValidatorChange::Remove { node };
        let mut powers = vec![1];
        for node in 2..=7 {
            let grown = change(&powers, &[add(node, 1)]).unwrap();
            powers.push(1);
            assert_eq!(grown.len(), powers.len());
        }
        for count in (2..=7).rev() {
            let shrunk = change(&vec![1; count], &[remove(1)]).unwrap();
            assert_eq!(shrunk.len(), count - 1);
        }
        let last = change(&[1], &[remove(1)]);
        assert_eq!(last, Err(ChangeError::Set(ValidatorSetError::Nobody)));
        // One for another, in one step.
        let replaced = change(&[1; 4], &[remove(2), add(5, 1)]).unwrap();
        assert_eq!(replaced, [(1, 1), (3, 1), (4, 1), (5, 1)]);
        assert_eq!(change(&[1; 4], &[]).unwrap().len(), 4);
    }

    #[test]
    fn a_third_of_the_power_does_not_change_hands_at_once() {
        let remove = |node| ValidatorChange::Remove { node };
        let power = |node, power| ValidatorChange::Power { node, power };
        for (powers, changes) in [
            (&[1; 4][..], vec![remove(1), remove(2)]),
            (&[1; 6], vec![remove(1), remove(2)]),
            (&[1; 4], vec![add(5, 1), add(6, 1)]),
            (&[1; 4], vec![add(5, 2)]),
            (&[1; 4], vec![power(1, 4)]),
            (&[5, 1, 1], vec![remove(1)]),
            (&[5, 1, 1], vec![power(1, 1)]),
            (&[1; 3], vec![remove(1), add(4, 1)]),
        ] {
            let result = change(powers, &changes);
            assert!(matches!(result, Err(ChangeError::TooMuch { .. })), "{powers:?} {changes:?}");
        }
        for (powers, changes) in [
            (&[1; 7][..], vec![remove(1), remove(2)]),
            (&[1; 5], vec![add(6, 1), add(7, 1)]),
            (&[1; 4], vec![power(1, 2)]),
            (&[5, 1, 1], vec![power(1, 3)]),
        ] {
            assert!(change(powers, &changes).is_ok(), "{powers:?} {changes:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let remove = |node| ValidatorChange::Remove { node };
        let power = |node, power| ValidatorChange::Power { node, power };
        let forged = match add(5, 1) {
            ValidatorChange::Add { validator, proof } => {
                ValidatorChange::Add { validator: Validator { node: 6, ..validator }, proof }
            }
            other => other,
        };
        let foreign = genesis(&[2]).chain(0);
        let foreign = ValidatorChange::add(&foreign, 5, 1, &key(Scheme::Ed25519, 5)).unwrap();
        for (changes, error) in [
            (vec![add(4, 1)], ChangeError::Known { node: 4 }),
            (vec![remove(5)], ChangeError::Unknown { node: 5 }),
            (vec![power(5, 1)], ChangeError::Unknown { node: 5 }),
            (vec![power(4, 1)], ChangeError::Same { node: 4 }),
            (vec![add(5, 1), add(5, 1)], ChangeError::Twice { node: 5 }),
            (vec![power(1, 2), remove(1)], ChangeError::Twice { node: 1 }),
            (vec![forged], ChangeError::Proof { node: 6 }),
            (vec![foreign], ChangeError::Proof { node: 5 }),
        ] {
            assert_eq!(change(&[1; 4], &changes), Err(error));
        }
    }

    #[test]
    fn a_key_changes_if_the_old_and_the_new_one_say_so() {
        let chain = genesis(&[1]).chain(0);
        let set = genesis(&[1; 4]).validators().clone();
        let keys = [2, 3, 9].map(|number| key(Scheme::Ed25519, number));
        let [old, other, new] = &keys;
        let rotate = |node, old, new| NewKey::new(&chain, node, old, new).unwrap();
        let good = rotate(2, old, new);
        let change = |new| set.change(&chain, &[ValidatorChange::RotateKey(new)]);
        let changed = change(good.clone()).unwrap();
        assert_eq!((&changed.get(2).unwrap().key, changed.epoch()), (new.public(), 1));
        let proof = Err(ChangeError::Proof { node: 2 });
        assert_eq!(change(rotate(2, other, new)), proof);
        assert_eq!(change(rotate(2, new, new)), proof);
        let unproved = NewKey { by_new: good.by_old.clone(), ..good.clone() };
        assert_eq!(change(unproved), proof);
        assert_eq!(change(NewKey { node: 3, ..good }), Err(ChangeError::Proof { node: 3 }));
        assert_eq!(change(rotate(2, old, old)), Err(ChangeError::Same { node: 2 }));
        // A key that another validator has is not taken, even from who has both.
        let same = ChangeError::Set(ValidatorSetError::SameKey { first: 2, second: 3 });
        assert_eq!(change(rotate(2, old, other)), Err(same));
    }

    #[test]
    fn a_scheme_changes_with_the_keys_of_all() {
        let chain = genesis(&[1]).chain(0);
        let set = genesis(&[1; 4]).validators().clone();
        let keys: Vec<_> = (1..=4)
            .map(|node| {
                let old = key(Scheme::Ed25519, node);
                NewKey::new(&chain, node.into(), &old, &key(Scheme::Hybrid, node)).unwrap()
            })
            .collect();
        let scheme =
            |scheme, keys: &[NewKey]| ValidatorChange::Scheme { scheme, keys: keys.into() };
        let changed = set.change(&chain, &[scheme(Scheme::Hybrid, &keys)]).unwrap();
        assert_eq!((changed.scheme(), changed.epoch()), (Scheme::Hybrid, 1));
        for changes in [
            vec![scheme(Scheme::Hybrid, &keys[1..])],
            vec![scheme(Scheme::Ed25519, &keys)],
            vec![scheme(Scheme::Hybrid, &keys), add(5, 1)],
        ] {
            let result = set.change(&chain, &changes);
            assert!(matches!(result, Err(ChangeError::Scheme { .. })), "{result:?}");
        }
        let result = set.change(&chain, &[scheme(Scheme::MlDsa65, &keys)]);
        assert!(matches!(result, Err(ChangeError::Set(ValidatorSetError::Scheme { .. }))));
        // A key of another scheme does not come in alone.
        let one = ValidatorChange::RotateKey(keys[0].clone());
        assert!(matches!(set.change(&chain, &[one]), Err(ChangeError::Set(_))));
    }

    #[test]
    fn a_change_comes_back_as_it_was_and_no_cut_of_it_is_one() {
        let chain = genesis(&[1]).chain(0);
        let old = key(Scheme::Ed25519, 2);
        let new = NewKey::new(&chain, 2, &old, &key(Scheme::Hybrid, 9)).unwrap();
        let changes = vec![
            add(5, 7),
            ValidatorChange::Remove { node: 1 },
            ValidatorChange::Power { node: 2, power: 3 },
            ValidatorChange::RotateKey(new.clone()),
            ValidatorChange::Scheme { scheme: Scheme::Hybrid, keys: vec![new.clone(), new] },
        ];
        let body = MembersBody { changes, note: Bytes::from_static(b"note") };
        let bytes = body.encode();
        assert_eq!(MembersBody::decode(&bytes).unwrap(), body);
        for length in (0..bytes.len()).step_by(13) {
            assert!(MembersBody::decode(&bytes[..length]).is_err(), "{length}");
        }
        assert!(MembersBody::decode(&[&bytes[..], &[0]].concat()).is_err());
        let many = MembersBody { changes: vec![ValidatorChange::Remove { node: 1 }; 17], ..body };
        assert!(MembersBody::decode(&many.encode()).unwrap_err().problem.contains("17 changes"));
    }
}
