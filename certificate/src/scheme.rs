//! Which signatures validators give.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which signatures validators give. All validators of an epoch give the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(clippy::exhaustive_enums)]
pub enum Scheme {
    /// Ed25519 (RFC 8032): small and quick.
    Ed25519,
    /// ML-DSA-65 (FIPS 204): holds against quantum computers; a signature has 3,309 bytes.
    #[serde(rename = "ml-dsa-65")]
    MlDsa65,
    /// Both, each of which must hold: as safe as the safer one.
    Hybrid,
}

pub(crate) const ED25519_KEY_BYTES: usize = 32;
pub(crate) const ML_DSA_65_KEY_BYTES: usize = 1952;
pub(crate) const ED25519_SIGNATURE_BYTES: usize = 64;
pub(crate) const ML_DSA_65_SIGNATURE_BYTES: usize = 3309;

impl Scheme {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ed25519, Self::MlDsa65, Self::Hybrid];

    /// The name that configurations have for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::MlDsa65 => "ml-dsa-65",
            Self::Hybrid => "hybrid",
        }
    }

    /// How many bytes a public key has.
    pub const fn key_bytes(self) -> usize {
        match self {
            Self::Ed25519 => ED25519_KEY_BYTES,
            Self::MlDsa65 => ML_DSA_65_KEY_BYTES,
            Self::Hybrid => ED25519_KEY_BYTES + ML_DSA_65_KEY_BYTES,
        }
    }

    /// How many bytes a signature has.
    pub const fn signature_bytes(self) -> usize {
        match self {
            Self::Ed25519 => ED25519_SIGNATURE_BYTES,
            Self::MlDsa65 => ML_DSA_65_SIGNATURE_BYTES,
            Self::Hybrid => ED25519_SIGNATURE_BYTES + ML_DSA_65_SIGNATURE_BYTES,
        }
    }

    /// Its number in encodings.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Ed25519 => 1,
            Self::MlDsa65 => 2,
            Self::Hybrid => 3,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.code() == code)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scheme {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|scheme| scheme.name() == text).ok_or_else(|| {
            format!("{text:?} is no signature scheme; there are ed25519, ml-dsa-65 and hybrid")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_everywhere() {
        #[derive(Deserialize)]
        struct File {
            scheme: Scheme,
        }

        for scheme in Scheme::ALL {
            assert_eq!(scheme.name().parse(), Ok(scheme));
            assert_eq!(Scheme::from_code(scheme.code()), Some(scheme));
            let file: File = toml::from_str(&format!("scheme = \"{scheme}\"")).unwrap();
            assert_eq!(file.scheme, scheme);
        }
        assert!("rsa".parse::<Scheme>().unwrap_err().contains("hybrid"));
        assert_eq!(Scheme::from_code(0), None);
    }
}
