//! Fixed layouts, little-endian: what is signed or hashed has one encoding, and reading it takes every byte.

/// Bytes that are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a {what}: {problem}")]
pub struct Malformed {
    /// What they should be.
    pub what: &'static str,
    /// What is wrong with them.
    pub problem: String,
}

impl Malformed {
    pub(crate) fn new(what: &'static str, problem: impl Into<String>) -> Self {
        Self { what, problem: problem.into() }
    }
}

/// Writes a layout.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(crate) fn u16(self, value: u16) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Bytes with their length before them. What is written so has at most 64 KiB; see the callers' limits.
    pub(crate) fn short(self, bytes: &[u8]) -> Self {
        let length =
            u16::try_from(bytes.len()).expect("keys and signatures have some thousand bytes");
        self.u16(length).bytes(bytes)
    }

    /// As [`short`](Self::short), for up to 4 GiB.
    pub(crate) fn long(self, bytes: &[u8]) -> Self {
        let length = u32::try_from(bytes.len()).expect("a batch has some million bytes");
        self.u32(length).bytes(bytes)
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.0
    }
}

/// Reads a layout. Nothing is taken for granted of the bytes.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    pub(crate) fn wrong(&self, problem: impl Into<String>) -> Malformed {
        Malformed::new(self.what, problem)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            let left = self.rest.len();
            return Err(self.wrong(format!("it ends {} bytes too early", count - left)));
        };
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// Bytes with their length before them.
    pub(crate) fn short(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u16()?;
        self.bytes(length.into())
    }

    /// As [`short`](Self::short), for up to 4 GiB.
    pub(crate) fn long(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()?;
        self.bytes(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// The version of a layout, its first byte.
    pub(crate) fn version(&mut self, known: u8) -> Result<(), Malformed> {
        let version = self.u8()?;
        if version == known {
            return Ok(());
        }
        Err(self.wrong(format!("its version is {version}, and {known} is the one known here")))
    }

    /// All that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Whether there is a value, and the value: `nothing` in its place if there is none, so that it has one encoding.
    pub(crate) fn option<T: PartialEq>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Malformed>,
        nothing: &T,
    ) -> Result<Option<T>, Malformed> {
        let code = self.u8()?;
        let value = read(self)?;
        match code {
            0 if value == *nothing => Ok(None),
            1 => Ok(Some(value)),
            _ => Err(self.wrong("it does not say whether there is a value")),
        }
    }

    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(self.wrong(format!("{} bytes follow it", self.rest.len())))
    }
}

/// A hash that nothing of another kind has: `context` names the kind.
pub(crate) fn hash(context: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// Bytes in hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;

    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a text takes everything");
        text
    })
}

/// Bytes from lower-case hexadecimal digits, of which there is one spelling.
pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| match pair {
            [high, low] => Some((digit(*high)? << 4) | digit(*low)?),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_have_one_spelling() {
        assert_eq!(from_hex(&hex(&[0, 0x9a, 0xff])), Some(vec![0, 0x9a, 0xff]));
        for text in ["0", "0g", "FF", "é", "+1", " 1"] {
            assert_eq!(from_hex(text), None, "{text}");
        }
    }

    #[test]
    fn a_reader_takes_every_byte_and_no_more() {
        let bytes = Writer::default().u8(1).u16(2).u32(3).u64(4).short(b"five").done();
        let mut reader = Reader::new("test", &bytes);
        assert_eq!((reader.u8(), reader.u16(), reader.u32()), (Ok(1), Ok(2), Ok(3)));
        assert_eq!((reader.u64(), reader.short()), (Ok(4), Ok(&b"five"[..])));
        assert!(reader.bytes(1).is_err());
        assert_eq!(reader.end(), Ok(()));
        assert!(Reader::new("test", &bytes).end().is_err());
    }
}
