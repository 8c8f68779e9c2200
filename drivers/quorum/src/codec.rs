//! Fixed-width fields in a row, written and read within bounds.
//!
//! What is read may be from anyone: no field is trusted, nothing is kept before its size was checked against what is there,
//! and bytes that are left over are an error.

use bytes::{BufMut, Bytes, BytesMut};
use quorate_certificate::Signature;

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

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.put_u32_le(value);
        self
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

    pub(crate) fn array<const N: usize>(&mut self, value: &[u8; N]) -> &mut Self {
        self.0.put_slice(value);
        self
    }

    /// Bytes whose end is known otherwise.
    pub(crate) fn raw(&mut self, value: &[u8]) -> &mut Self {
        self.0.put_slice(value);
        self
    }

    /// A string of bytes with its length.
    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.u32(u32::try_from(value.len()).expect("strings of bytes are small"));
        self.0.put_slice(value);
        self
    }

    pub(crate) fn signature(&mut self, value: &Signature) -> &mut Self {
        self.bytes(value.as_bytes())
    }

    pub(crate) fn finish(&mut self) -> Bytes {
        std::mem::take(&mut self.0).freeze()
    }
}

#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

type Read<T> = Result<T, Malformed>;

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Read<u8> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    pub(crate) fn bool(&mut self) -> Read<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("a flag is neither 0 nor 1")),
        }
    }

    pub(crate) fn u32(&mut self) -> Read<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Read<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A number of things that take at least `each` bytes each, and of which there are at most `max`.
    pub(crate) fn count(&mut self, max: usize, each: usize) -> Read<usize> {
        let value = usize::from(u16::from_le_bytes(self.array()?));
        if value > max || value * each > self.0.len() {
            return Err(Malformed("a table is too long"));
        }
        Ok(value)
    }

    pub(crate) fn bytes(&mut self, max: usize) -> Read<&'a [u8]> {
        let length = usize::try_from(self.u32()?).map_err(|_| Malformed("a string is too long"))?;
        if length > max {
            return Err(Malformed("a string is too long"));
        }
        let (taken, rest) =
            self.0.split_at_checked(length).ok_or(Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn signature(&mut self) -> Read<Signature> {
        let bytes = self.bytes(quorate_certificate::SIGNATURE_BYTES_MAX)?;
        Signature::from_bytes(Bytes::copy_from_slice(bytes))
            .map_err(|_| Malformed("no scheme has such a signature"))
    }

    /// All that is left.
    pub(crate) const fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(crate) const fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) const fn finish(self) -> Read<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("bytes follow the end")) }
    }
}
