//! Reading MessagePack that came from a disk or a peer.

use serde::Deserialize;
use serde::de::IgnoredAny;

/// Nothing that we encode nests deeper; without a bound, bytes could choose a depth that exhausts the stack.
const DEPTH_MAX: usize = 8;

/// Reads one value that uses up all of `bytes`.
pub(crate) fn decode_all<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
    deserializer.set_max_depth(DEPTH_MAX);
    let value = T::deserialize(&mut deserializer).map_err(|error| error.to_string())?;
    // The deserializer does not tell how far it got; at the end there is no further marker to read.
    match IgnoredAny::deserialize(&mut deserializer) {
        Err(rmp_serde::decode::Error::InvalidMarkerRead(error))
            if error.kind() == std::io::ErrorKind::UnexpectedEof =>
        {
            Ok(value)
        }
        _ => Err("bytes follow the value".into()),
    }
}

/// Encodes plain data, which cannot fail.
pub(crate) fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec(value).expect("plain data is written to memory")
}
