//! One frame with all that it takes to see that it was decided.

use bytes::Bytes;

use crate::body::{FrameProof, ProvenFrame};
use crate::codec::{Malformed, Reader, Writer, hex};
use crate::decided::Decided;
use crate::genesis::Genesis;
use crate::header::{BodyKind, HEADER_BYTES};
use crate::validator_history::{HistoryError, ValidatorHistory};
use crate::vote::ValueId;

/// How the file of a proof begins.
pub const PROOF_MAGIC: &[u8; 16] = b"quorate.proof.01";

/// Most bytes of a proof that is read.
pub const PROOF_BYTES_MAX: usize = 64 << 20;

const WHAT: &str = "proof of a decided frame";

/// One frame, the header and the certificate of its batch, and the changes of the validators from the genesis to there. It proves that the frame was
/// decided at its place; not that it was applied as its sender wished, and not that nothing came after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecidedFrame {
    genesis: Genesis,
    group: u32,
    changes: Vec<Block>,
    header: Bytes,
    certificate: Bytes,
    frame: FrameProof,
}

/// A decided batch that this owns.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Block {
    header: Bytes,
    certificate: Bytes,
    body: Bytes,
}

/// What a proof shows, if it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shown {
    /// The hash of the genesis. Who was not given that by somebody it trusts has to compare this.
    pub genesis: [u8; 32],
    /// In which group it was decided.
    pub group: u32,
    /// At which height.
    pub height: u64,
    /// The id of the header of that height.
    pub id: ValueId,
    /// The frame.
    pub frame: ProvenFrame,
}

/// Why a proof shows nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// It is of another cluster than whoever looks at it says.
    #[error("it is of the cluster whose genesis has hash {}, and not of that with {}", hex(.found), hex(.wanted))]
    Genesis {
        /// That of the proof.
        found: [u8; 32],
        /// The one that is trusted.
        wanted: [u8; 32],
    },
    /// The batch is not decided.
    #[error(transparent)]
    Decision(#[from] HistoryError),
    /// The batch does not have the frame.
    #[error("height {height}: {error}")]
    Frame {
        /// Of which height.
        height: u64,
        /// What is wrong.
        error: Malformed,
    },
}

impl DecidedFrame {
    /// Shows the frame in this slot of a decided batch; none if there is no such frame. `changes` are the batches that changed the validators,
    /// from the genesis to it, in order.
    pub fn new<'a>(
        genesis: &Genesis,
        group: u32,
        changes: impl IntoIterator<Item = Decided<'a>>,
        batch: Decided<'_>,
        slot: u32,
    ) -> Option<Self> {
        let frame = FrameProof::new(&Bytes::copy_from_slice(batch.body), slot)?;
        let changes: Vec<_> = changes.into_iter().collect();
        let (header, certificate) = (batch.header, batch.certificate);
        Some(Self::with_frame(genesis, group, &changes, (header, certificate), frame))
    }

    /// The same of a frame that is shown already, by somebody who does not have the batch. `batch`: its encoded header and certificate.
    pub fn with_frame(
        genesis: &Genesis,
        group: u32,
        changes: &[Decided<'_>],
        batch: (&[u8], &[u8]),
        frame: FrameProof,
    ) -> Self {
        let changes = changes.iter().map(|decided| Block {
            header: Bytes::copy_from_slice(decided.header),
            certificate: Bytes::copy_from_slice(decided.certificate),
            body: Bytes::copy_from_slice(decided.body),
        });
        let (header, certificate) = batch;
        Self {
            genesis: genesis.clone(),
            group,
            changes: changes.collect(),
            header: Bytes::copy_from_slice(header),
            certificate: Bytes::copy_from_slice(certificate),
            frame,
        }
    }

    /// What it shows. `genesis`: that of the cluster, from somebody who is trusted; without one, its own is taken.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn verify(&self, genesis: Option<&Genesis>) -> Result<Shown, ProofError> {
        let found = self.genesis.hash();
        if let Some(genesis) = genesis
            && genesis.hash() != found
        {
            return Err(ProofError::Genesis { found, wanted: genesis.hash() });
        }
        let mut validators = ValidatorHistory::new(&self.genesis, self.group);
        for Block { header, certificate, body } in &self.changes {
            validators.push(Decided { header, body, certificate })?;
        }
        let header = validators.verify_header(&self.header, &self.certificate)?;
        let height = header.height;
        if header.kind != BodyKind::Frames {
            let error = Malformed::new(WHAT, format!("its batch carries {}", header.kind.name()));
            return Err(ProofError::Frame { height, error });
        }
        let frame = self.frame.verify(&header.body);
        let frame = frame.map_err(|error| ProofError::Frame { height, error })?;
        Ok(Shown { genesis: found, group: self.group, height, id: header.id(), frame })
    }

    /// The bytes of its file.
    pub fn encode(&self) -> Vec<u8> {
        let changes = u32::try_from(self.changes.len()).expect("there are fewer than heights");
        let writer = Writer::default()
            .bytes(PROOF_MAGIC)
            .u32(self.group)
            .long(&self.genesis.encode())
            .u32(changes);
        let writer = self.changes.iter().fold(writer, |writer, block| {
            writer.bytes(&block.header).long(&block.certificate).long(&block.body)
        });
        writer.bytes(&self.header).long(&self.certificate).bytes(&self.frame.encode()).done()
    }

    /// Reads such a file. It says nothing about whether it shows anything: [`verify`](Self::verify) does.
    ///
    /// # Errors
    ///
    /// The bytes are not one.
    pub fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::new(WHAT, bytes);
        if bytes.len() > PROOF_BYTES_MAX {
            return Err(reader.wrong(format!("{} bytes are too many", bytes.len())));
        }
        if reader.array()? != *PROOF_MAGIC {
            return Err(reader.wrong("it does not begin as one"));
        }
        let group = reader.u32()?;
        let genesis = Genesis::decode(reader.long()?)?;
        let count = reader.u32()?;
        let mut changes = Vec::new();
        for _ in 0..count {
            changes.push(Block {
                header: bytes.slice_ref(reader.bytes(HEADER_BYTES)?),
                certificate: bytes.slice_ref(reader.long()?),
                body: bytes.slice_ref(reader.long()?),
            });
        }
        let header = bytes.slice_ref(reader.bytes(HEADER_BYTES)?);
        let certificate = bytes.slice_ref(reader.long()?);
        let frame = FrameProof::decode(&bytes.slice_ref(reader.rest()))?;
        Ok(Self { genesis, group, changes, header, certificate, frame })
    }
}
