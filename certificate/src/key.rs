//! Keys and signatures.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand;
use aws_lc_rs::signature::{
    ED25519, Ed25519KeyPair, KeyPair, ML_DSA_65, ML_DSA_65_SIGNING, ParsedPublicKey, PqdsaKeyPair,
};
use bytes::Bytes;
use serde::Deserialize;

use crate::codec::{Malformed, Reader, Writer, from_hex, hash, hex};
use crate::scheme::{
    ED25519_KEY_BYTES, ED25519_SIGNATURE_BYTES, ML_DSA_65_SIGNATURE_BYTES, Scheme,
};

/// Bytes of the secret from which either kind of key is made.
const SEED_BYTES: usize = 32;

/// What a validator signs with. It is secret: no `Debug` shows it, and what [`to_bytes`](Self::to_bytes) gives belongs into a
/// file that its owner alone may read.
pub struct SigningKey {
    secret: Secret,
    public: PublicKey,
}

struct Secret {
    scheme: Scheme,
    ed25519: Option<([u8; SEED_BYTES], Ed25519KeyPair)>,
    ml_dsa_65: Option<([u8; SEED_BYTES], PqdsaKeyPair)>,
}

/// The library that signs did not do so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no {0} signature could be made: the system gave no randomness, or the key is not usable")]
pub struct SigningError(Scheme);

impl SigningKey {
    /// A new key.
    ///
    /// # Errors
    ///
    /// The system gave no randomness.
    pub fn generate(scheme: Scheme) -> Result<Self, SigningError> {
        let mut seeds = [0; 2 * SEED_BYTES];
        rand::fill(&mut seeds).map_err(|_| SigningError(scheme))?;
        let (ed25519, ml_dsa_65) = seeds.split_at(SEED_BYTES);
        let seed = |bytes: &[u8]| {
            let mut seed = [0; SEED_BYTES];
            seed.copy_from_slice(bytes);
            seed
        };
        Self::from_seeds(scheme, seed(ed25519), seed(ml_dsa_65)).map_err(|_| SigningError(scheme))
    }

    /// The key that [`to_bytes`](Self::to_bytes) gave.
    ///
    /// # Errors
    ///
    /// The bytes are no such key. The message does not have them in it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(SIGNING_KEY, bytes);
        let scheme = read_scheme(&mut reader)?;
        let first = reader.array()?;
        let second = match scheme {
            Scheme::Hybrid => reader.array()?,
            Scheme::Ed25519 | Scheme::MlDsa65 => first,
        };
        reader.end()?;
        Self::from_seeds(scheme, first, second)
    }

    fn from_seeds(
        scheme: Scheme,
        ed25519: [u8; SEED_BYTES],
        ml_dsa_65: [u8; SEED_BYTES],
    ) -> Result<Self, Malformed> {
        let refused = |_| Malformed::new(SIGNING_KEY, format!("no {scheme} key has this secret"));
        let ed25519 = match scheme {
            Scheme::MlDsa65 => None,
            Scheme::Ed25519 | Scheme::Hybrid => {
                Some((ed25519, Ed25519KeyPair::from_seed_unchecked(&ed25519).map_err(refused)?))
            }
        };
        let ml_dsa_65 = match scheme {
            Scheme::Ed25519 => None,
            Scheme::MlDsa65 | Scheme::Hybrid => Some((
                ml_dsa_65,
                PqdsaKeyPair::from_seed(&ML_DSA_65_SIGNING, &ml_dsa_65).map_err(refused)?,
            )),
        };
        let mut public = Vec::with_capacity(scheme.key_bytes());
        if let Some((_, pair)) = &ed25519 {
            public.extend_from_slice(pair.public_key().as_ref());
        }
        if let Some((_, pair)) = &ml_dsa_65 {
            public.extend_from_slice(pair.public_key().as_ref());
        }
        let public = PublicKey::from_bytes(scheme, &public)?;
        Ok(Self { secret: Secret { scheme, ed25519, ml_dsa_65 }, public })
    }

    /// The secret, to be kept in a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Secret { scheme, ed25519, ml_dsa_65 } = &self.secret;
        let mut writer = Writer::default().u8(scheme.code());
        if let Some((seed, _)) = ed25519 {
            writer = writer.bytes(seed);
        }
        if let Some((seed, _)) = ml_dsa_65 {
            writer = writer.bytes(seed);
        }
        writer.done()
    }

    /// The text of its file: what it is, the scheme, and the secret in hexadecimal digits.
    pub fn to_text(&self) -> String {
        let bytes = self.to_bytes();
        let (_, secret) = bytes.split_at(1);
        format!("{KEY_TEXT}{}:{}\n", self.scheme(), hex(secret))
    }

    /// The key in such a file.
    ///
    /// # Errors
    ///
    /// It is no such file. The message has nothing of a secret in it.
    pub fn from_text(text: &str) -> Result<Self, Malformed> {
        let wrong = |problem: &str| Malformed::new(SIGNING_KEY, problem);
        let line = text.strip_suffix('\n').unwrap_or(text);
        let Some(line) = line.strip_prefix(KEY_TEXT) else {
            return Err(wrong(
                "it does not begin as the file of a validator's key; that of a TLS key is another one",
            ));
        };
        let (scheme, digits) = line.split_once(':').ok_or_else(|| wrong("it has no scheme"))?;
        let scheme: Scheme = scheme.parse().map_err(|problem: String| wrong(&problem))?;
        let secret = from_hex(digits).ok_or_else(|| {
            wrong("its secret has other characters than lower-case hexadecimal digits, or one too few")
        })?;
        Self::from_bytes(&[&[scheme.code()], &secret[..]].concat())
    }

    /// Signs `message`, which has its domain in it: see [`vote_bytes`](crate::vote_bytes). An Ed25519 signature of the same message
    /// is always the same; one with ML-DSA is not.
    ///
    /// # Errors
    ///
    /// The system gave no randomness for ML-DSA.
    pub fn sign(&self, message: &[u8]) -> Result<Signature, SigningError> {
        let Secret { scheme, ed25519, ml_dsa_65 } = &self.secret;
        let mut signature = Vec::with_capacity(scheme.signature_bytes());
        if let Some((_, pair)) = ed25519 {
            signature.extend_from_slice(pair.sign(message).as_ref());
        }
        if let Some((_, pair)) = ml_dsa_65 {
            let mut bytes = [0; ML_DSA_65_SIGNATURE_BYTES];
            pair.sign(message, &mut bytes).map_err(|_| SigningError(*scheme))?;
            signature.extend_from_slice(&bytes);
        }
        Ok(Signature(signature.into()))
    }

    /// What others verify with.
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Which signatures it gives.
    pub const fn scheme(&self) -> Scheme {
        self.secret.scheme
    }
}

const SIGNING_KEY: &str = "signing key";

/// How the file of a key begins.
const KEY_TEXT: &str = "quorate validator key, secret: ";

fn read_scheme(reader: &mut Reader<'_>) -> Result<Scheme, Malformed> {
    let code = reader.u8()?;
    Scheme::from_code(code).ok_or_else(|| reader.wrong(format!("{code} is no signature scheme")))
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// What the signatures of a validator are verified with. A clone copies no bytes.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct PublicKey(Arc<Parsed>);

struct Parsed {
    scheme: Scheme,
    bytes: Vec<u8>,
    /// Parsed once: that is a third of what a verification costs.
    ed25519: Option<ParsedPublicKey>,
    ml_dsa_65: Option<ParsedPublicKey>,
}

impl PublicKey {
    /// The key with these bytes; for [`Scheme::Hybrid`] the Ed25519 key stands first.
    ///
    /// # Errors
    ///
    /// Not the length of such a key, or not one.
    pub fn from_bytes(scheme: Scheme, bytes: &[u8]) -> Result<Self, Malformed> {
        const WHAT: &str = "public key";
        // The library takes other encodings of a key, too; a key has one here.
        if bytes.len() != scheme.key_bytes() {
            return Err(Malformed::new(
                WHAT,
                format!("{scheme} keys have {} bytes, not {}", scheme.key_bytes(), bytes.len()),
            ));
        }
        let refused = |_| Malformed::new(WHAT, format!("no {scheme} key has these bytes"));
        let (first, second) = match scheme {
            Scheme::Ed25519 => (Some(bytes), None),
            Scheme::MlDsa65 => (None, Some(bytes)),
            Scheme::Hybrid => {
                let (first, second) = bytes.split_at(ED25519_KEY_BYTES);
                (Some(first), Some(second))
            }
        };
        let ed25519 = first.map(|key| ParsedPublicKey::new(&ED25519, key)).transpose();
        let ml_dsa_65 = second.map(|key| ParsedPublicKey::new(&ML_DSA_65, key)).transpose();
        Ok(Self(Arc::new(Parsed {
            scheme,
            bytes: bytes.to_vec(),
            ed25519: ed25519.map_err(refused)?,
            ml_dsa_65: ml_dsa_65.map_err(refused)?,
        })))
    }

    /// Whether `signature` is one of `message` under this key. A hybrid signature is one if both of its parts are.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> bool {
        let Parsed { scheme, ed25519, ml_dsa_65, .. } = &*self.0;
        let bytes = &signature.0;
        if bytes.len() != scheme.signature_bytes() {
            return false;
        }
        let split = if ed25519.is_some() { ED25519_SIGNATURE_BYTES } else { 0 };
        let (first, second) = bytes.split_at(split);
        let holds = |key: &Option<ParsedPublicKey>, part: &[u8]| {
            key.as_ref().is_none_or(|key| key.verify_sig(message, part).is_ok())
        };
        holds(ed25519, first) && holds(ml_dsa_65, second)
    }

    /// Which signatures it verifies.
    pub fn scheme(&self) -> Scheme {
        self.0.scheme
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// A short name of the key, of which there is no second one: what operators compare.
    pub fn fingerprint(&self) -> [u8; 16] {
        let hash = hash("quorate 1 key fingerprint", &[&[self.scheme().code()], self.as_bytes()]);
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(hash.split_at(16).0);
        fingerprint
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        (self.scheme(), self.as_bytes()) == (other.scheme(), other.as_bytes())
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({}:{})", self.scheme(), hex(&self.fingerprint()))
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        format!("{}:{}", key.scheme(), hex(key.as_bytes()))
    }
}

impl TryFrom<String> for PublicKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let (scheme, digits) = text
            .split_once(':')
            .ok_or("a key is written as SCHEME:DIGITS, as in ed25519:0a1b..")?;
        let scheme: Scheme = scheme.parse()?;
        let bytes = from_hex(digits)
            .ok_or("a key has lower-case hexadecimal digits after its scheme, two for each byte")?;
        Self::from_bytes(scheme, &bytes).map_err(|error| error.to_string())
    }
}

/// Most bytes of a signature.
pub const SIGNATURE_BYTES_MAX: usize = Scheme::Hybrid.signature_bytes();

/// A signature. Whether it holds, [`PublicKey::verify`] says.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature(Bytes);

impl Signature {
    /// The signature with these bytes.
    ///
    /// # Errors
    ///
    /// No scheme has signatures of this length.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, Malformed> {
        if Scheme::ALL.iter().any(|scheme| scheme.signature_bytes() == bytes.len()) {
            return Ok(Self(bytes));
        }
        Err(Malformed::new("signature", format!("no scheme has one of {} bytes", bytes.len())))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({} bytes, {}..)", self.0.len(), hex(self.0.get(..4).unwrap_or(&[])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_is_verified_and_nothing_else() {
        for scheme in Scheme::ALL {
            let key = SigningKey::generate(scheme).unwrap();
            let other = SigningKey::generate(scheme).unwrap();
            let signature = key.sign(b"message").unwrap();
            assert_eq!(signature.as_bytes().len(), scheme.signature_bytes());
            assert!(key.public().verify(b"message", &signature));
            assert!(!key.public().verify(b"massage", &signature));
            assert!(!other.public().verify(b"message", &signature));
            // Every part of it counts, and no bit is left over.
            for place in (0..signature.as_bytes().len()).step_by(7).chain([63, 64]) {
                let mut bytes = signature.as_bytes().to_vec();
                let Some(byte) = bytes.get_mut(place) else { continue };
                *byte ^= 1 << (place % 8);
                let damaged = Signature::from_bytes(bytes.into()).unwrap();
                assert!(!key.public().verify(b"message", &damaged), "{scheme}, byte {place}");
            }
        }
    }

    #[test]
    fn a_signature_of_another_scheme_is_none() {
        let keys = Scheme::ALL.map(|scheme| SigningKey::generate(scheme).unwrap());
        for key in &keys {
            for other in &keys {
                let signature = other.sign(b"message").unwrap();
                let same = key.scheme() == other.scheme();
                assert_eq!(key.public().verify(b"message", &signature), same);
            }
        }
        // Half of a hybrid signature under the half of the key that made it.
        let [.., hybrid] = &keys;
        let signature = hybrid.sign(b"message").unwrap();
        for parts in [[true, false], [false, true]] {
            let (first, second) = signature.as_bytes().split_at(64);
            let part = |keep: bool, bytes: &[u8]| match keep {
                true => bytes.to_vec(),
                false => vec![0; bytes.len()],
            };
            let half = [part(parts[0], first), part(parts[1], second)].concat();
            let half = Signature::from_bytes(half.into()).unwrap();
            assert!(!hybrid.public().verify(b"message", &half), "{parts:?}");
        }
    }

    #[test]
    fn keys_come_back_as_they_were() {
        for scheme in Scheme::ALL {
            let key = SigningKey::generate(scheme).unwrap();
            let again = SigningKey::from_bytes(&key.to_bytes()).unwrap();
            assert_eq!(again.public(), key.public());
            let file = key.to_text();
            assert_eq!(SigningKey::from_text(&file).unwrap().public(), key.public());
            assert_eq!(SigningKey::from_text(file.trim_end()).unwrap().public(), key.public());
            for text in ["", "-----BEGIN PRIVATE KEY-----", &file[..file.len() - 3], &file[9..]] {
                let problem = SigningKey::from_text(text).unwrap_err().to_string();
                assert!(!problem.contains(&hex(&key.to_bytes()[1..5])), "{problem}");
            }
            let text = String::from(key.public().clone());
            assert_eq!(&PublicKey::try_from(text).unwrap(), key.public());
            for length in 0..key.to_bytes().len() {
                assert!(SigningKey::from_bytes(&key.to_bytes()[..length]).is_err());
            }
            let long = [&key.to_bytes()[..], &[0]].concat();
            assert!(SigningKey::from_bytes(&long).is_err());
        }
    }

    #[test]
    fn ed25519_is_that_of_rfc_8032() {
        // RFC 8032, 7.1, test 1.
        let seed = from_hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let signature = "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b";
        let key = SigningKey::from_bytes(&[&[1][..], &seed.unwrap()].concat()).unwrap();
        assert_eq!(String::from(key.public().clone()), format!("ed25519:{public}"));
        assert_eq!(hex(key.sign(b"").unwrap().as_bytes()), signature);
    }

    #[test]
    fn no_secret_is_shown() {
        for scheme in Scheme::ALL {
            let key = SigningKey::generate(scheme).unwrap();
            let secret = hex(key.to_bytes().get(1..9).unwrap());
            assert!(!format!("{key:?} {key:#?}").contains(&secret));
        }
    }

    #[test]
    fn a_text_that_is_no_key_is_refused_with_the_reason() {
        for (text, word) in [
            ("ed25519", "SCHEME:DIGITS"),
            ("rsa:00", "there are ed25519"),
            ("ed25519:0G", "hexadecimal"),
            ("ed25519:00", "have 32 bytes, not 1"),
        ] {
            let problem = PublicKey::try_from(text.to_owned()).unwrap_err();
            assert!(problem.contains(word), "{text}: {problem}");
        }
    }
}
