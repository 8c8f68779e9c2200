//! How frames stand in an entry: one encoding for the log, for peers and for subscribers.
//!
//! A batch names each shard once and lets its frames refer to it, since most frames of a batch go to few shards.

use bytes::Bytes;
use quorate_replicator::limits::{
    BATCH_BYTES_MAX, BATCH_FRAMES_MAX, FRAME_BYTES_MAX, FRAME_OVERHEAD_BYTES,
};
use quorate_replicator::{CallSignature, Frame, FrameId, LogTime, SessionId, ShardKey};
use quorate_storage::Index;
use serde::{Deserialize, Deserializer, Serialize};

use crate::codec;
use crate::engine::StateHash;

/// The version of this encoding, its first field, where no frame is signed.
const VERSION: u8 = 1;

/// Where some are: the first frame of each signed run has one more element.
const SIGNED_VERSION: u8 = 2;

/// Most bytes of an encoded batch: a full one, and one largest frame that came last.
const ENCODED_BYTES_MAX: usize = BATCH_BYTES_MAX + FRAME_BYTES_MAX + (64 << 10);

/// What a proposer says about a batch beside its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHead {
    /// When it was proposed, as the proposer estimates log time.
    pub log_time: LogTime,
    /// The history of an index that the proposer had applied: whoever has another one there must stop.
    pub witness: Witness,
}

/// The history hash that a node computed at an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The index; 0 before the first batch.
    pub index: Index,
    /// The hash of everything up to it.
    pub history: StateHash,
}

/// A batch as it was read from an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedBatch {
    /// What the proposer said.
    pub head: BatchHead,
    /// The frames by slot.
    pub frames: Vec<Frame>,
}

/// Bytes that are not a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a batch: {0}")]
pub struct BatchError(String);

#[derive(Serialize)]
struct EncodeBatch<'a> {
    version: u8,
    log_time: u64,
    witness_index: u64,
    #[serde(with = "serde_bytes")]
    witness: &'a [u8],
    shards: &'a [ShardKey],
    frames: &'a [EncodeFrame<'a>],
}

#[derive(Serialize)]
struct EncodeFrame<'a>(
    #[serde(with = "serde_bytes")] &'a [u8],
    u64,
    u64,
    u32,
    #[serde(with = "serde_bytes")] &'a [u8],
    Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")] Option<EncodeSigned<'a>>,
);

/// How many frames, the key, the signature.
#[derive(Serialize, Deserialize)]
struct EncodeSigned<'a>(
    u32,
    #[serde(borrow, with = "serde_bytes")] &'a [u8],
    #[serde(borrow, with = "serde_bytes")] &'a [u8],
);

#[derive(Deserialize)]
struct DecodeBatch<'a> {
    version: u8,
    log_time: u64,
    witness_index: u64,
    #[serde(borrow, with = "serde_bytes")]
    witness: &'a [u8],
    #[serde(borrow)]
    shards: Vec<&'a str>,
    #[serde(borrow)]
    frames: Vec<DecodeFrame<'a>>,
}

#[derive(Deserialize)]
struct DecodeFrame<'a>(
    #[serde(borrow, with = "serde_bytes")] &'a [u8],
    u64,
    u64,
    u32,
    #[serde(borrow, with = "serde_bytes")] &'a [u8],
    Option<u64>,
    #[serde(borrow, default, deserialize_with = "some")] Option<EncodeSigned<'a>>,
);

/// An element that is there is one: a frame has one encoding.
fn some<'de, D: Deserializer<'de>>(from: D) -> Result<Option<EncodeSigned<'de>>, D::Error> {
    EncodeSigned::deserialize(from).map(Some)
}

/// Encodes batches, one after the other.
#[derive(Debug, Default)]
pub struct BatchEncoder {
    shards: Vec<ShardKey>,
    /// Places in `shards`, used once there are more than a scan is good for.
    places: std::collections::HashMap<ShardKey, u32>,
}

/// How many shards of a batch are found by comparing them one by one.
const SCANNED_SHARDS: usize = 8;

impl BatchEncoder {
    /// Encodes `frames` in their order.
    ///
    /// # Panics
    ///
    /// If there are more than [`BATCH_FRAMES_MAX`] frames: whoever builds batches keeps to the limits.
    pub fn encode<'a>(
        &mut self,
        head: &BatchHead,
        frames: impl ExactSizeIterator<Item = &'a Frame>,
    ) -> Bytes {
        assert!(frames.len() <= BATCH_FRAMES_MAX, "batch of {} frames", frames.len());
        self.shards.clear();
        self.places.clear();
        let (mut payload_bytes, mut version) = (0, VERSION);
        let encoded: Vec<EncodeFrame<'_>> = frames
            .map(|frame| {
                payload_bytes += frame.payload.len();
                let signed =
                    frame.signed.as_deref().map(|CallSignature { frames, key, signature }| {
                        payload_bytes += key.len() + signature.len();
                        version = SIGNED_VERSION;
                        EncodeSigned(*frames, key, signature)
                    });
                EncodeFrame(
                    frame.id.session.as_bytes(),
                    frame.id.serial,
                    frame.settled,
                    self.place(&frame.shard),
                    &frame.payload,
                    frame.valid_until.map(LogTime::as_ms),
                    signed,
                )
            })
            .collect();
        let mut bytes = Vec::with_capacity(
            payload_bytes + encoded.len() * FRAME_OVERHEAD_BYTES + self.shards.len() * 32 + 64,
        );
        let batch = EncodeBatch {
            version,
            log_time: head.log_time.as_ms(),
            witness_index: head.witness.index,
            witness: &head.witness.history,
            shards: &self.shards,
            frames: &encoded,
        };
        rmp_serde::encode::write(&mut bytes, &batch).expect("plain data is written to memory");
        assert!(bytes.len() <= ENCODED_BYTES_MAX, "batch of {} bytes", bytes.len());
        bytes.into()
    }

    fn place(&mut self, shard: &ShardKey) -> u32 {
        // From the end, since frames of one shard tend to stand together.
        let mut scanned = self.shards.iter().enumerate().rev().take(SCANNED_SHARDS);
        if let Some((place, _)) = scanned.find(|(_, known)| *known == shard) {
            return u32::try_from(place).expect("fewer shards than frames");
        }
        if let Some(place) = self.places.get(shard) {
            return *place;
        }
        let place = u32::try_from(self.shards.len()).expect("fewer shards than frames");
        self.shards.push(shard.clone());
        self.places.insert(shard.clone(), place);
        place
    }
}

impl DecodedBatch {
    /// Reads a batch. Payloads share the memory of `bytes`.
    ///
    /// # Errors
    ///
    /// The bytes are not a batch of this version within the limits. All of them must be used.
    pub fn decode(bytes: &Bytes) -> Result<Self, BatchError> {
        if bytes.len() > ENCODED_BYTES_MAX {
            return Err(BatchError(format!(
                "{} bytes are more than a batch may have",
                bytes.len()
            )));
        }
        let batch: DecodeBatch<'_> = codec::decode_all(bytes).map_err(BatchError)?;
        let is_signed = batch.frames.iter().any(|frame| frame.6.is_some());
        let version = if is_signed { SIGNED_VERSION } else { VERSION };
        if batch.version != version {
            return Err(BatchError(format!("version {} is not {version}", batch.version)));
        }
        Self::check(batch, bytes)
    }

    fn check(batch: DecodeBatch<'_>, bytes: &Bytes) -> Result<Self, BatchError> {
        if batch.frames.len() > BATCH_FRAMES_MAX || batch.shards.len() > batch.frames.len() {
            return Err(BatchError(format!(
                "{} frames of {} shards are more than a batch may have",
                batch.frames.len(),
                batch.shards.len()
            )));
        }
        let shards = batch
            .shards
            .iter()
            .map(|text| ShardKey::parse(text).map_err(|error| BatchError(error.to_string())))
            .collect::<Result<Vec<_>, _>>()?;
        let frames = batch
            .frames
            .iter()
            .map(|DecodeFrame(session, serial, settled, place, payload, valid_until, signed)| {
                let session = <[u8; 16]>::try_from(*session)
                    .map_err(|_| BatchError(format!("session id of {} bytes", session.len())))?;
                let shard =
                    usize::try_from(*place).ok().and_then(|place| shards.get(place)).ok_or_else(
                        || BatchError(format!("frame of shard {place}, which is not named")),
                    )?;
                if payload.len() > FRAME_BYTES_MAX {
                    return Err(BatchError(format!("payload of {} bytes", payload.len())));
                }
                Ok(Frame {
                    id: FrameId { session: SessionId::new(session), serial: *serial },
                    settled: *settled,
                    shard: shard.clone(),
                    payload: bytes.slice_ref(payload),
                    valid_until: valid_until.map(LogTime::from_ms),
                    signed: signed.as_ref().map(|EncodeSigned(frames, key, signature)| {
                        let (key, signature) = (bytes.slice_ref(key), bytes.slice_ref(signature));
                        Box::new(CallSignature { frames: *frames, key, signature })
                    }),
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let history = batch
            .witness
            .try_into()
            .map_err(|_| BatchError(format!("witness of {} bytes", batch.witness.len())))?;
        Ok(Self {
            head: BatchHead {
                log_time: LogTime::from_ms(batch.log_time),
                witness: Witness { index: batch.witness_index, history },
            },
            frames,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head() -> BatchHead {
        BatchHead {
            log_time: LogTime::from_ms(77),
            witness: Witness { index: 3, history: [9; 32] },
        }
    }

    fn frame(session: u8, serial: u64, namespace: &str, payload: &[u8]) -> Frame {
        let id = FrameId { session: SessionId::new([session; 16]), serial };
        let shard = ShardKey::new("org", namespace).unwrap();
        Frame { settled: serial / 2, ..Frame::new(id, shard, payload.to_vec()) }
    }

    fn encode(frames: &[Frame]) -> Bytes {
        BatchEncoder::default().encode(&head(), frames.iter())
    }

    #[test]
    fn a_batch_comes_back_as_it_was() {
        // More shards than are scanned, in an order that comes back to the first ones.
        let frames: Vec<_> = (0..100)
            .map(|i| frame(i as u8, i, &format!("ns{}", i % 20), &vec![7; i as usize]))
            .collect();
        let decoded = DecodedBatch::decode(&encode(&frames)).unwrap();
        assert_eq!(decoded, DecodedBatch { head: head(), frames });
    }

    #[test]
    fn signatures_come_back_as_they_were_and_cost_nothing_where_there_are_none() {
        let mut frames: Vec<_> = (0..5).map(|i| frame(1, i, "ns", b"payload")).collect();
        let unsigned = encode(&frames);
        let signed = |frames| {
            let (key, signature) = (Bytes::from_static(&[1; 32]), Bytes::from_static(&[2; 64]));
            Some(Box::new(CallSignature { frames, key, signature }))
        };
        (frames[0].signed, frames[2].signed) = (signed(2), signed(3));
        let bytes = encode(&frames);
        assert_eq!((unsigned[1], bytes[1]), (VERSION, SIGNED_VERSION));
        assert_eq!(bytes.len() - unsigned.len(), 2 * (1 + 1 + 34 + 66));
        let decoded = DecodedBatch::decode(&bytes).unwrap();
        assert_eq!(decoded, DecodedBatch { head: head(), frames });
        for (bytes, version) in [(unsigned, SIGNED_VERSION), (bytes, VERSION)] {
            let mut other = bytes.to_vec();
            other[1] = version;
            assert!(DecodedBatch::decode(&other.into()).is_err());
        }
    }

    #[test]
    fn bytes_after_the_batch_are_refused() {
        for extra in [0x00, 0xc1, 0xff] {
            let mut bytes = encode(&[frame(1, 1, "ns", b"x")]).to_vec();
            bytes.push(extra);
            assert!(DecodedBatch::decode(&bytes.into()).is_err(), "extra byte {extra:#x}");
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes = encode(&[frame(1, 1, "ns", b"payload"), frame(2, 5, "other", b"")]);
        for length in 0..bytes.len() {
            assert!(DecodedBatch::decode(&bytes.slice(..length)).is_err(), "cut at {length}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = DecodedBatch::decode(&bytes.into());
        }

        #[test]
        fn no_damage_panics(place in 0usize..200, bit in 0u8..8) {
            let mut bytes = encode(&[frame(1, 1, "ns", b"payload"), frame(2, 5, "other", b"")]).to_vec();
            let place = place % bytes.len();
            bytes[place] ^= 1 << bit;
            let _ = DecodedBatch::decode(&bytes.into());
        }
    }
}
