//! Who signs, and how much each signature weighs.

use std::sync::Arc;

use serde::Deserialize;

use crate::codec::{Malformed, Reader, Writer, hash};
use crate::fault_model::FaultModel;
use crate::key::PublicKey;
use crate::scheme::Scheme;

/// Most validators: each sends its votes to all others, and a certificate has a signature of most of them.
pub const VALIDATORS_MAX: usize = 100;

/// Most power of one validator. With [`VALIDATORS_MAX`] of them no sum overflows.
pub const POWER_MAX: u64 = 1_000_000;

/// One who signs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(clippy::exhaustive_structs)]
pub struct Validator {
    /// The number of its node.
    pub node: u64,
    /// How much its signature weighs, from 1 to [`POWER_MAX`].
    pub power: u64,
    /// What its signatures are verified with.
    pub key: PublicKey,
}

/// The validators of an epoch. A clone copies nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatorSet(Arc<Inner>);

#[derive(Debug, PartialEq, Eq)]
struct Inner {
    epoch: u64,
    scheme: Scheme,
    validators: Vec<Validator>,
    total_power: u64,
    digest: [u8; 32],
}

/// Validators that cannot be a set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValidatorSetError {
    /// There is nobody.
    #[error("there is no validator; a cluster needs one at least")]
    Nobody,
    /// There are too many.
    #[error("{count} validators are more than {VALIDATORS_MAX}")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// A node is in it twice.
    #[error("node {node} is there twice; a node has one key")]
    Twice {
        /// Which.
        node: u64,
    },
    /// Two nodes have the same key.
    #[error("nodes {first} and {second} have the same key; each needs its own")]
    SameKey {
        /// One of them.
        first: u64,
        /// The other.
        second: u64,
    },
    /// The power of a validator is out of bounds.
    #[error("the power of node {node} is {power}; it may be from 1 to {POWER_MAX}")]
    Power {
        /// Whose.
        node: u64,
        /// How much.
        power: u64,
    },
    /// A key is of another scheme than the others.
    #[error("the key of node {node} is of scheme {found}, and that of the set is {scheme}")]
    Scheme {
        /// Whose.
        node: u64,
        /// The key's.
        found: Scheme,
        /// The set's.
        scheme: Scheme,
    },
}

impl ValidatorSet {
    /// The set of these validators, in the order of their nodes.
    ///
    /// # Errors
    ///
    /// They cannot be one, and why.
    pub fn new(
        epoch: u64,
        scheme: Scheme,
        mut validators: Vec<Validator>,
    ) -> Result<Self, ValidatorSetError> {
        if validators.is_empty() {
            return Err(ValidatorSetError::Nobody);
        }
        if validators.len() > VALIDATORS_MAX {
            return Err(ValidatorSetError::TooMany { count: validators.len() });
        }
        validators.sort_by_key(|validator| validator.node);
        let mut total_power = 0;
        let mut seen: Vec<&Validator> = Vec::with_capacity(validators.len());
        for validator in &validators {
            let Validator { node, power, key } = validator;
            if !(1..=POWER_MAX).contains(power) {
                return Err(ValidatorSetError::Power { node: *node, power: *power });
            }
            if key.scheme() != scheme {
                let found = key.scheme();
                return Err(ValidatorSetError::Scheme { node: *node, found, scheme });
            }
            for earlier in &seen {
                if earlier.node == *node {
                    return Err(ValidatorSetError::Twice { node: *node });
                }
                if earlier.key == *key {
                    let (first, second) = (earlier.node, *node);
                    return Err(ValidatorSetError::SameKey { first, second });
                }
            }
            total_power += power;
            seen.push(validator);
        }
        let digest = hash("quorate 1 validator set", &[&encode(epoch, scheme, &validators)]);
        Ok(Self(Arc::new(Inner { epoch, scheme, validators, total_power, digest })))
    }

    /// Which set it is: each change makes the next one.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// Which signatures its validators give.
    pub fn scheme(&self) -> Scheme {
        self.0.scheme
    }

    /// Its validators, in the order of their nodes.
    pub fn validators(&self) -> &[Validator] {
        &self.0.validators
    }

    /// The power of all.
    pub fn total_power(&self) -> u64 {
        self.0.total_power
    }

    /// What names it in headers: no other set has this hash.
    pub fn digest(&self) -> [u8; 32] {
        self.0.digest
    }

    /// The validator of this node.
    pub fn get(&self, node: u64) -> Option<&Validator> {
        let place = self.validators().binary_search_by_key(&node, |known| known.node).ok()?;
        self.validators().get(place)
    }

    /// Whether `power` of its validators decides.
    pub fn is_quorum(&self, power: u64, fault_model: FaultModel) -> bool {
        fault_model.is_quorum(power, self.total_power())
    }

    /// The bytes that [`decode`](Self::decode) reads.
    pub fn encode(&self) -> Vec<u8> {
        encode(self.epoch(), self.scheme(), self.validators())
    }

    /// Reads a set. Each set has one encoding.
    ///
    /// # Errors
    ///
    /// The bytes are not one.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("validator set", bytes);
        reader.version(VERSION)?;
        let epoch = reader.u64()?;
        let code = reader.u8()?;
        let scheme = Scheme::from_code(code)
            .ok_or_else(|| reader.wrong(format!("{code} is no signature scheme")))?;
        let validators = read_validators(&mut reader, scheme)?;
        reader.end()?;
        Self::new(epoch, scheme, validators)
            .map_err(|error| Malformed::new("validator set", error.to_string()))
    }
}

const VERSION: u8 = 1;

fn encode(epoch: u64, scheme: Scheme, validators: &[Validator]) -> Vec<u8> {
    let writer = Writer::default().u8(VERSION).u64(epoch).u8(scheme.code());
    write_validators(writer, validators).done()
}

/// Validators of one scheme, sorted by node.
pub(crate) fn write_validators(writer: Writer, validators: &[Validator]) -> Writer {
    let count = u16::try_from(validators.len()).expect("there are at most 100 validators");
    validators.iter().fold(writer.u16(count), |writer, Validator { node, power, key }| {
        writer.u64(*node).u64(*power).bytes(key.as_bytes())
    })
}

pub(crate) fn read_validators(
    reader: &mut Reader<'_>,
    scheme: Scheme,
) -> Result<Vec<Validator>, Malformed> {
    let count = usize::from(reader.u16()?);
    if count > VALIDATORS_MAX {
        return Err(reader.wrong(format!("{count} validators are more than {VALIDATORS_MAX}")));
    }
    let mut validators = Vec::with_capacity(count);
    for _ in 0..count {
        let (node, power) = (reader.u64()?, reader.u64()?);
        let key = PublicKey::from_bytes(scheme, reader.bytes(scheme.key_bytes())?)?;
        if validators.last().is_some_and(|last: &Validator| last.node >= node) {
            return Err(reader.wrong(format!("node {node} does not come after the one before it")));
        }
        validators.push(Validator { node, power, key });
    }
    Ok(validators)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_keys::key;

    fn validator(node: u64, power: u64) -> Validator {
        Validator { node, power, key: key(Scheme::Ed25519, node as u8).public().clone() }
    }

    fn set(validators: Vec<Validator>) -> Result<ValidatorSet, ValidatorSetError> {
        ValidatorSet::new(0, Scheme::Ed25519, validators)
    }

    #[test]
    fn the_order_in_which_they_are_named_does_not_count() {
        let set_of = |nodes: [u64; 3]| set(nodes.map(|node| validator(node, node)).into()).unwrap();
        let sorted = set_of([1, 2, 3]);
        assert_eq!(sorted, set_of([3, 1, 2]));
        assert_eq!(sorted.total_power(), 6);
        assert_eq!(sorted.get(2).unwrap().power, 2);
        assert_eq!(sorted.get(4), None);
    }

    #[test]
    fn what_is_no_set_is_refused() {
        let twin = Validator { node: 2, ..validator(1, 1) };
        let many = (1..=101).map(|node| validator(node, 1)).collect();
        for (validators, error) in [
            (vec![], ValidatorSetError::Nobody),
            (many, ValidatorSetError::TooMany { count: 101 }),
            (vec![validator(1, 0)], ValidatorSetError::Power { node: 1, power: 0 }),
            (
                vec![validator(1, POWER_MAX + 1)],
                ValidatorSetError::Power { node: 1, power: POWER_MAX + 1 },
            ),
            (vec![validator(1, 1), validator(1, 1)], ValidatorSetError::Twice { node: 1 }),
            (vec![validator(1, 1), twin], ValidatorSetError::SameKey { first: 1, second: 2 }),
        ] {
            assert_eq!(set(validators), Err(error));
        }
        let other = ValidatorSet::new(0, Scheme::Hybrid, vec![validator(1, 1)]);
        assert!(matches!(other, Err(ValidatorSetError::Scheme { node: 1, .. })));
    }

    #[test]
    fn everything_in_it_is_in_its_digest() {
        let base = set(vec![validator(1, 1), validator(2, 1)]).unwrap();
        let other_key =
            Validator { key: key(Scheme::Ed25519, 9).public().clone(), ..validator(2, 1) };
        let next = ValidatorSet::new(1, Scheme::Ed25519, base.validators().to_vec()).unwrap();
        for other in [
            next,
            set(vec![validator(1, 1)]).unwrap(),
            set(vec![validator(1, 1), validator(2, 2)]).unwrap(),
            set(vec![validator(1, 1), Validator { node: 3, ..validator(2, 1) }]).unwrap(),
            set(vec![validator(1, 1), other_key]).unwrap(),
        ] {
            assert_ne!(base.digest(), other.digest());
        }
    }

    #[test]
    fn a_set_comes_back_as_it_was_and_has_one_encoding() {
        for scheme in Scheme::ALL {
            let validators = [1, 2, 7].map(|node| Validator {
                node,
                power: node,
                key: key(scheme, node as u8).public().clone(),
            });
            let set = ValidatorSet::new(3, scheme, validators.into()).unwrap();
            let bytes = set.encode();
            assert_eq!(ValidatorSet::decode(&bytes).unwrap(), set);
            for length in (0..bytes.len()).step_by(if bytes.len() > 500 { 97 } else { 1 }) {
                assert!(ValidatorSet::decode(&bytes[..length]).is_err(), "{length}");
            }
            assert!(ValidatorSet::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
        // Two validators of 48 bytes follow 12 bytes of head.
        let bytes = set(vec![validator(1, 1), validator(2, 1)]).unwrap().encode();
        assert_eq!(bytes.len(), 12 + 2 * 48);
        let swapped = [&bytes[..12], &bytes[60..], &bytes[12..60]].concat();
        assert!(ValidatorSet::decode(&swapped).unwrap_err().problem.contains("node 1"));
    }
}
