//! What a cluster begins with, and what all of its signatures refer to.

use std::fmt;

use serde::Deserialize;

use crate::codec::{Malformed, Reader, Writer, from_hex, hash, hex};
use crate::fault_model::FaultModel;
use crate::scheme::Scheme;
use crate::validator::{
    Validator, ValidatorSet, ValidatorSetError, read_validators, write_validators,
};
use crate::vote::ValueId;

/// What a cluster begins with. An auditor has to have it from somebody it trusts: everything else is checked against it.
///
/// As a file it is TOML; its [`hash`](Self::hash) does not depend on how that is written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "File")]
pub struct Genesis {
    cluster: [u8; 16],
    fault_model: FaultModel,
    log_time_drift_max_ms: u64,
    signed_frames: bool,
    validators: ValidatorSet,
}

impl Genesis {
    /// The genesis of the cluster with this id.
    ///
    /// `log_time_drift_max_ms`: validators vote against a batch whose time runs ahead of theirs by more than this.
    ///
    /// # Errors
    ///
    /// The validators cannot be a set.
    pub fn new(
        cluster: [u8; 16],
        fault_model: FaultModel,
        scheme: Scheme,
        log_time_drift_max_ms: u64,
        validators: Vec<Validator>,
    ) -> Result<Self, ValidatorSetError> {
        let validators = ValidatorSet::new(0, scheme, validators)?;
        Ok(Self { cluster, fault_model, log_time_drift_max_ms, signed_frames: false, validators })
    }

    /// The same, of a cluster that decides only what is [signed](crate::verify_calls) by those who propose it.
    pub const fn with_signed_frames(mut self) -> Self {
        self.signed_frames = true;
        self
    }

    /// The id of the cluster.
    pub const fn cluster(&self) -> [u8; 16] {
        self.cluster
    }

    /// Against what its validators stand.
    pub const fn fault_model(&self) -> FaultModel {
        self.fault_model
    }

    /// How far the time of a batch may run ahead of that of a validator that votes for it, in milliseconds.
    pub const fn log_time_drift_max_ms(&self) -> u64 {
        self.log_time_drift_max_ms
    }

    /// Whether each frame has to be [signed](crate::verify_calls) by who proposes it.
    pub const fn signed_frames(&self) -> bool {
        self.signed_frames
    }

    /// The version of its encodings: a genesis that asks for nothing newer is as it always was, and so is its hash.
    const fn version(&self) -> u8 {
        if self.signed_frames { SIGNED_VERSION } else { VERSION }
    }

    /// The validators of heights 1 and 2; epoch 0.
    pub const fn validators(&self) -> &ValidatorSet {
        &self.validators
    }

    /// What names it: no other genesis has this hash.
    pub fn hash(&self) -> [u8; 32] {
        hash("quorate 1 genesis", &[&self.encode()])
    }

    /// What the signatures of one group of this cluster refer to.
    pub fn chain(&self, group: u32) -> ChainId {
        ChainId(hash("quorate 1 chain", &[&self.hash(), &group.to_le_bytes()]))
    }

    /// What the keys that validators get refer to: that of group 0, as a node has one key for all groups.
    pub fn key_chain(&self) -> ChainId {
        self.chain(0)
    }

    /// The text of its file, which serde reads as TOML.
    pub fn to_toml(&self) -> String {
        let mut text = format!(
            "# What a cluster of the quorum driver begins with: the same at all of its nodes, and for ever.\n\n\
             format                = {}\ncluster               = \"{}\"\nfault_model           = \"{}\"\n\
             scheme                = \"{}\"\nlog_time_drift_max_ms = {}\n",
            self.version(),
            hex(&self.cluster),
            self.fault_model,
            self.validators.scheme(),
            self.log_time_drift_max_ms,
        );
        if self.signed_frames {
            text.push_str("signed_frames         = true\n");
        }
        for Validator { node, power, key } in self.validators.validators() {
            let key = String::from(key.clone());
            let line =
                format!("\n[[validators]]\nnode  = {node}\npower = {power}\nkey   = \"{key}\"\n");
            text.push_str(&line);
        }
        text
    }

    /// The bytes that [`decode`](Self::decode) reads.
    pub fn encode(&self) -> Vec<u8> {
        let writer = Writer::default()
            .u8(self.version())
            .bytes(&self.cluster)
            .u8(self.fault_model.code())
            .u8(self.validators.scheme().code())
            .u64(self.log_time_drift_max_ms);
        write_validators(writer, self.validators.validators()).done()
    }

    /// Reads a genesis. Each has one encoding.
    ///
    /// # Errors
    ///
    /// The bytes are not one.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("genesis", bytes);
        let version = reader.u8()?;
        if !matches!(version, VERSION | SIGNED_VERSION) {
            let known = format!("{VERSION} and {SIGNED_VERSION} are those known here");
            return Err(reader.wrong(format!("its version is {version}, and {known}")));
        }
        let cluster = reader.array()?;
        let (model, scheme) = (reader.u8()?, reader.u8()?);
        let fault_model = FaultModel::from_code(model)
            .ok_or_else(|| reader.wrong(format!("{model} is no fault model")))?;
        let scheme = Scheme::from_code(scheme)
            .ok_or_else(|| reader.wrong(format!("{scheme} is no signature scheme")))?;
        let log_time_drift_max_ms = reader.u64()?;
        let validators = read_validators(&mut reader, scheme)?;
        reader.end()?;
        let genesis = Self::new(cluster, fault_model, scheme, log_time_drift_max_ms, validators)
            .map_err(|error| Malformed::new("genesis", error.to_string()))?;
        Ok(if version == SIGNED_VERSION { genesis.with_signed_frames() } else { genesis })
    }
}

const VERSION: u8 = 1;

/// Of a genesis that wants frames signed; nothing else differs.
const SIGNED_VERSION: u8 = 2;

/// What all signatures of a group refer to, so that none counts in another group or in another cluster.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainId([u8; 32]);

impl ChainId {
    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What the header of the first height names as the one before it, where a history begins with what another driver has left: all up to
    /// `index`, with this hash. So the validators sign for that beginning, too.
    pub fn origin(&self, index: u64, state: &[u8; 32]) -> ValueId {
        hash("quorate 1 origin", &[&self.0, &index.to_le_bytes(), state])
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChainId({self})")
    }
}

/// How a genesis stands in a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u8,
    cluster: String,
    fault_model: FaultModel,
    scheme: Scheme,
    log_time_drift_max_ms: u64,
    #[serde(default)]
    signed_frames: bool,
    validators: Vec<Validator>,
}

impl TryFrom<File> for Genesis {
    type Error = String;

    fn try_from(file: File) -> Result<Self, Self::Error> {
        let version = if file.signed_frames { SIGNED_VERSION } else { VERSION };
        if file.format != version {
            let (format, signed) = (file.format, file.signed_frames);
            return Err(format!(
                "format {format} is not {version}, that of a genesis with signed_frames = {signed}"
            ));
        }
        let cluster = from_hex(&file.cluster)
            .and_then(|bytes| <[u8; 16]>::try_from(bytes).ok())
            .ok_or("cluster must have 32 lower-case hexadecimal digits")?;
        let drift = file.log_time_drift_max_ms;
        let genesis = Self::new(cluster, file.fault_model, file.scheme, drift, file.validators)
            .map_err(|error| error.to_string())?;
        Ok(if file.signed_frames { genesis.with_signed_frames() } else { genesis })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_keys::key;

    fn validators(scheme: Scheme) -> Vec<Validator> {
        let validator =
            |node| Validator { node, power: 1, key: key(scheme, node as u8).public().clone() };
        (1..=4).map(validator).collect()
    }

    fn genesis() -> Genesis {
        let validators = validators(Scheme::Ed25519);
        Genesis::new([7; 16], FaultModel::Byzantine, Scheme::Ed25519, 500, validators).unwrap()
    }

    #[test]
    fn everything_in_it_is_in_its_hash() {
        let new = |cluster, model, scheme, drift, count: usize| {
            let mut validators = validators(scheme);
            validators.truncate(count);
            Genesis::new(cluster, model, scheme, drift, validators).unwrap()
        };
        let base = new([7; 16], FaultModel::Byzantine, Scheme::Ed25519, 500, 4);
        assert_eq!(base, genesis());
        for other in [
            new([8; 16], FaultModel::Byzantine, Scheme::Ed25519, 500, 4),
            new([7; 16], FaultModel::Crash, Scheme::Ed25519, 500, 4),
            new([7; 16], FaultModel::Byzantine, Scheme::MlDsa65, 500, 4),
            new([7; 16], FaultModel::Byzantine, Scheme::Ed25519, 501, 4),
            new([7; 16], FaultModel::Byzantine, Scheme::Ed25519, 500, 3),
        ] {
            assert_ne!(base.hash(), other.hash());
            assert_ne!(base.chain(0), other.chain(0));
        }
        assert_ne!(base.chain(0), base.chain(1));
        assert_ne!(base.hash(), base.clone().with_signed_frames().hash());
    }

    #[test]
    fn a_genesis_comes_back_as_it_was_from_bytes_and_from_a_file() {
        let signed = genesis().with_signed_frames();
        assert_eq!(Genesis::decode(&signed.encode()).unwrap(), signed);
        assert_eq!(toml::from_str::<Genesis>(&signed.to_toml()).unwrap(), signed);
        let bytes = genesis().encode();
        assert_eq!(Genesis::decode(&bytes).unwrap(), genesis());
        for length in 0..bytes.len() {
            assert!(Genesis::decode(&bytes[..length]).is_err(), "{length}");
        }
        let file = genesis().to_toml();
        assert_eq!(toml::from_str::<Genesis>(&file).unwrap(), genesis());
        for (from, to, word) in [
            ("= 1", "= 2", "format 2"),
            ("\"byzantine\"", "\"bizarre\"", "bizarre"),
            ("\"07", "\"", "32 lower-case"),
            ("power = 1", "power = 0", "power of node 1"),
            ("node  = 2", "node  = 1", "twice"),
            ("\"ed25519\"", "\"hybrid\"", "of scheme ed25519"),
            ("= 1", "= 1\nformer = 2", "former"),
            ("= 500", "= 500\nsigned_frames = true", "format 1"),
        ] {
            let problem = toml::from_str::<Genesis>(&file.replacen(from, to, 1)).unwrap_err();
            assert!(problem.to_string().contains(word), "{to}: {problem}");
        }
    }

    #[test]
    fn no_bit_of_it_can_flip_unseen() {
        let bytes = genesis().encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = Genesis::decode(&flipped) {
                assert_ne!(other.hash(), genesis().hash(), "bit {bit}");
            }
        }
    }
}
