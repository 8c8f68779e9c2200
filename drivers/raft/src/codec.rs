//! Fixed-width fields in a row, written and read within bounds.
//!
//! What is read may be from anyone: no field is trusted, nothing is kept before its size was checked against what is there,
//! and bytes that are left over are an error.

use bytes::{BufMut, Bytes, BytesMut};
use quorate_replicator::NodeId;

/// The random id of a data directory.
pub(crate) type Incarnation = [u8; 16];

/// Most bytes of a member's address; host names have at most 253.
pub(crate) const ADDRESS_BYTES_MAX: usize = 512;

/// What was read is nothing that this crate writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

#[derive(Debug, Default)]
pub(crate) struct Writer(BytesMut);

impl Writer {
    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.put_u8(value);
        self
    }

    pub(crate) fn bool(&mut self, value: bool) -> &mut Self {
        self.u8(u8::from(value))
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.put_u64_le(value);
        self
    }

    /// A number of things of which there are few.
    pub(crate) fn count(&mut self, value: usize) -> &mut Self {
        self.0.put_u16_le(u16::try_from(value).expect("tables have fewer than 65,536 entries"));
        self
    }

    pub(crate) fn node(&mut self, value: NodeId) -> &mut Self {
        self.u64(value.number())
    }

    pub(crate) fn incarnation(&mut self, value: &Incarnation) -> &mut Self {
        self.0.put_slice(value);
        self
    }

    /// A string of bytes with its length.
    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.count(value.len());
        self.0.put_slice(value);
        self
    }

    pub(crate) fn finish(self) -> Bytes {
        self.0.freeze()
    }
}

#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

type Read<T> = Result<T, Malformed>;

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take<const N: usize>(&mut self) -> Read<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Read<u8> {
        Ok(self.take::<1>()?[0])
    }

    pub(crate) fn bool(&mut self) -> Read<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("a flag is neither 0 nor 1")),
        }
    }

    /// A number up to `max`.
    pub(crate) fn u64(&mut self, max: u64) -> Read<u64> {
        let value = u64::from_le_bytes(self.take()?);
        if value > max { Err(Malformed("a number is too large")) } else { Ok(value) }
    }

    /// A number of things that take at least `each` bytes each, and of which there are at most `max`.
    pub(crate) fn count(&mut self, max: usize, each: usize) -> Read<usize> {
        let value = usize::from(u16::from_le_bytes(self.take()?));
        if value > max || value * each > self.0.len() {
            return Err(Malformed("a table is too long"));
        }
        Ok(value)
    }

    pub(crate) fn node(&mut self) -> Read<NodeId> {
        Ok(NodeId::new(self.u64(u64::MAX)?))
    }

    pub(crate) fn incarnation(&mut self) -> Read<Incarnation> {
        self.take()
    }

    pub(crate) fn bytes(&mut self, max: usize) -> Read<&'a [u8]> {
        let length = self.count(max, 1)?;
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn text(&mut self, max: usize) -> Read<String> {
        let bytes = self.bytes(max)?;
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed("text is not UTF-8"))?;
        Ok(text.to_owned())
    }

    pub(crate) const fn finish(self) -> Read<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("bytes follow the end")) }
    }
}
