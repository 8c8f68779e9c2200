//! A history in a file: the genesis, and decided batches with their certificates.
//!
//! ```text
//!   quorate.hist.001 | start: group, genesis | changes of before .. | batches .. | evidence .. | end: first height, tip
//! ```
//!
//! Each record is a kind (1 byte), a length (4) and so many bytes. A batch, and a change of the validators from before the first batch, is header
//! (186), length of the certificate (4), certificate, body. The end says what was written, so that a file that was cut off is seen; it
//! is signed by nobody, so that who wants to be sure of the tail asks somebody else for the tip.

use std::io::{self, Read, Write};

use crate::audit::{Audit, AuditError, Audited};
use crate::codec::{Malformed, Reader, Writer, hex};
use crate::decided::Decided;
use crate::evidence::Evidence;
use crate::genesis::Genesis;
use crate::header::{HEADER_BYTES, Header};
use crate::validator_history::ValidatorHistory;
use crate::vote::ValueId;

const MAGIC: &[u8; 16] = b"quorate.hist.001";

/// Most bytes of a record: more than the largest batch and certificate have.
pub const RECORD_BYTES_MAX: usize = 16 << 20;

const START: u8 = 1;
const CHANGE: u8 = 2;
const BATCH: u8 = 3;
const END: u8 = 4;
const EVIDENCE: u8 = 5;

/// Writes a history, whose batches the caller has verified with an [`Audit`].
#[derive(Debug)]
pub struct HistoryWriter<W> {
    to: W,
}

impl<W: Write> HistoryWriter<W> {
    /// Begins a history.
    ///
    /// # Errors
    ///
    /// What was written to did not take it; so do the others.
    pub fn new(to: W, genesis: &Genesis, group: u32) -> io::Result<Self> {
        let mut writer = Self { to };
        writer.to.write_all(MAGIC)?;
        let start = Writer::default().u32(group).bytes(&genesis.encode()).done();
        writer.record(START, &[&start])?;
        Ok(writer)
    }

    /// Adds a change of the validators from before the first batch.
    ///
    /// # Errors
    ///
    /// See [`new`](Self::new).
    pub fn change(&mut self, decided: Decided<'_>) -> io::Result<()> {
        self.decided(CHANGE, decided)
    }

    /// Adds the next batch.
    ///
    /// # Errors
    ///
    /// See [`new`](Self::new).
    pub fn batch(&mut self, decided: Decided<'_>) -> io::Result<()> {
        self.decided(BATCH, decided)
    }

    /// Adds evidence, after the last batch.
    ///
    /// # Errors
    ///
    /// See [`new`](Self::new).
    pub fn evidence(&mut self, evidence: &Evidence) -> io::Result<()> {
        self.record(EVIDENCE, &[&evidence.encode()])
    }

    /// Ends the history, which goes from `first` to this tip, and gives back what it was written to. An empty one goes from 0 to height 0,
    /// and the id there is the chain.
    ///
    /// # Errors
    ///
    /// See [`new`](Self::new).
    pub fn end(mut self, first: u64, height: u64, id: &ValueId) -> io::Result<W> {
        let end = Writer::default().u64(first).u64(height).bytes(id).done();
        self.record(END, &[&end])?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn decided(&mut self, kind: u8, decided: Decided<'_>) -> io::Result<()> {
        let Decided { header, body, certificate } = decided;
        let front = Writer::default().bytes(header).long(certificate).done();
        self.record(kind, &[&front, body])
    }

    fn record(&mut self, kind: u8, parts: &[&[u8]]) -> io::Result<()> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let bytes = u32::try_from(length).ok().filter(|_| length <= RECORD_BYTES_MAX);
        let Some(bytes) = bytes else {
            let problem = format!("a record of {length} bytes is longer than {RECORD_BYTES_MAX}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        };
        self.to.write_all(&Writer::default().u8(kind).u32(bytes).done())?;
        parts.iter().try_for_each(|part| self.to.write_all(part))
    }
}

/// The first thing that is wrong with the file of a history.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryFileError {
    /// It cannot be read.
    #[error("byte {at}: {error}")]
    Read {
        /// Where.
        at: u64,
        /// Why.
        error: io::Error,
    },
    /// It is not such a file, or damaged.
    #[error("byte {at}: {error}")]
    Malformed {
        /// Where the record begins.
        at: u64,
        /// What is wrong.
        error: Malformed,
    },
    /// It is of another cluster than the auditor says.
    #[error("it is of the cluster whose genesis has hash {}, and not of that with {}", hex(.found), hex(.wanted))]
    Genesis {
        /// That of the file.
        found: [u8; 32],
        /// That of the auditor.
        wanted: [u8; 32],
    },
    /// A batch is not decided, or not the next one.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// It does not end where it says.
    #[error("it says that it goes from height {first} to {height}, {}, and that is not what is in it", hex(.id))]
    End {
        /// The first height that it says it has.
        first: u64,
        /// The last one.
        height: u64,
        /// The id there.
        id: ValueId,
    },
}

/// Verifies the history that `from` has, as [`HistoryWriter`] writes it, reading a record at a time.
///
/// `genesis`: that of the cluster, from somebody the auditor trusts; without one, that of the file is taken. `tip`: a height and the id of
/// its header, which have to be in it.
///
/// # Errors
///
/// The first thing that is wrong.
pub fn audit_history(
    from: impl Read,
    genesis: Option<&Genesis>,
    tip: Option<(u64, ValueId)>,
) -> Result<Audited, HistoryFileError> {
    let mut records = Records { from, at: 0, buffer: Vec::new() };
    records.magic()?;
    let (group, found) = match records.next()? {
        (START, at, record) => start(record).map_err(|error| malformed(at, error))?,
        (kind, at, _) => return Err(malformed(at, unexpected(kind))),
    };
    if let Some(genesis) = genesis
        && genesis.hash() != found.hash()
    {
        let (found, wanted) = (found.hash(), genesis.hash());
        return Err(HistoryFileError::Genesis { found, wanted });
    }
    let mut changes = ValidatorHistory::new(&found, group);
    let mut audit: Option<Audit> = None;
    loop {
        let (kind, at, record) = records.next()?;
        match kind {
            CHANGE if audit.is_none() => {
                let decided = read_decided(record).map_err(|error| malformed(at, error))?;
                changes.push(decided).map_err(AuditError::from)?;
            }
            BATCH => {
                let decided = read_decided(record).map_err(|error| malformed(at, error))?;
                let audit = match &mut audit {
                    Some(audit) => audit,
                    None => {
                        let header = Header::decode(decided.header);
                        let first = header.map_err(|error| malformed(at, error))?.height;
                        audit.insert(begin(&found, group, &changes, first).looking_for(tip))
                    }
                };
                audit.add(decided)?;
            }
            EVIDENCE => {
                let evidence = Evidence::decode(record).map_err(|error| malformed(at, error))?;
                let audit =
                    audit.get_or_insert_with(|| begin(&found, group, &changes, 1).looking_for(tip));
                audit.evidence(evidence)?;
            }
            END => {
                let audit =
                    audit.unwrap_or_else(|| begin(&found, group, &changes, 1).looking_for(tip));
                let audited = audit.finish()?;
                let said = end(record).map_err(|error| malformed(at, error))?;
                if said != (audited.first, audited.height, audited.id) {
                    let (first, height, id) = said;
                    return Err(HistoryFileError::End { first, height, id });
                }
                records.finished()?;
                return Ok(audited);
            }
            kind => return Err(malformed(at, unexpected(kind))),
        }
    }
}

/// A history that begins at height 1 has to be that of its chain; one that begins later is taken from there.
fn begin(genesis: &Genesis, group: u32, changes: &ValidatorHistory, first: u64) -> Audit {
    if first <= 1 && changes.changed() == 0 {
        return Audit::new(genesis, group);
    }
    Audit::after(changes.clone(), first.saturating_sub(1).max(changes.changed()))
}

const WHAT: &str = "history of decided batches";

fn malformed(at: u64, error: Malformed) -> HistoryFileError {
    HistoryFileError::Malformed { at, error }
}

fn unexpected(kind: u8) -> Malformed {
    Malformed::new(WHAT, format!("a record of kind {kind} does not come here"))
}

fn start(record: &[u8]) -> Result<(u32, Genesis), Malformed> {
    let mut reader = Reader::new(WHAT, record);
    Ok((reader.u32()?, Genesis::decode(reader.rest())?))
}

fn end(record: &[u8]) -> Result<(u64, u64, ValueId), Malformed> {
    let mut reader = Reader::new(WHAT, record);
    let said = (reader.u64()?, reader.u64()?, reader.array()?);
    reader.end()?;
    Ok(said)
}

fn read_decided(record: &[u8]) -> Result<Decided<'_>, Malformed> {
    let mut reader = Reader::new(WHAT, record);
    let header = reader.bytes(HEADER_BYTES)?;
    let certificate = reader.long()?;
    Ok(Decided { header, body: reader.rest(), certificate })
}

/// Reads one record after the other.
struct Records<R> {
    from: R,
    at: u64,
    buffer: Vec<u8>,
}

impl<R: Read> Records<R> {
    fn magic(&mut self) -> Result<(), HistoryFileError> {
        if self.array::<16>()? != *MAGIC {
            let problem = "it does not begin as one; `quorate audit --export` writes them";
            return Err(malformed(0, Malformed::new(WHAT, problem)));
        }
        Ok(())
    }

    /// The next record: its kind, where it begins, and its bytes.
    fn next(&mut self) -> Result<(u8, u64, &[u8]), HistoryFileError> {
        let at = self.at;
        let [kind, length @ ..] = self.array::<5>()?;
        let length = u32::from_le_bytes(length);
        if usize::try_from(length).is_ok_and(|length| length > RECORD_BYTES_MAX) {
            let problem = format!("a record of {length} bytes is longer than {RECORD_BYTES_MAX}");
            return Err(malformed(at, Malformed::new(WHAT, problem)));
        }
        self.buffer.clear();
        // What is not there is not reserved for either.
        let read = (&mut self.from).take(length.into()).read_to_end(&mut self.buffer);
        let read = read.map_err(|error| HistoryFileError::Read { at, error })? as u64;
        self.at += read;
        if read < u64::from(length) {
            return Err(self.cut());
        }
        Ok((kind, at, &self.buffer))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], HistoryFileError> {
        let mut array = [0; N];
        match self.from.read_exact(&mut array) {
            Ok(()) => {
                self.at += N as u64;
                Ok(array)
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.cut()),
            Err(error) => Err(HistoryFileError::Read { at: self.at, error }),
        }
    }

    fn cut(&self) -> HistoryFileError {
        malformed(self.at, Malformed::new(WHAT, "it is cut off: no record says that it ends"))
    }

    /// Nothing follows.
    fn finished(&mut self) -> Result<(), HistoryFileError> {
        let at = self.at;
        match (&mut self.from).take(1).read_to_end(&mut self.buffer) {
            Ok(0) => Ok(()),
            Ok(_) => Err(malformed(at, Malformed::new(WHAT, "bytes follow its end"))),
            Err(error) => Err(HistoryFileError::Read { at, error }),
        }
    }
}
