//! The lines that `import` reads and `export` writes: one frame each, in the shape
//! `{"org","ns","op":"put"|"del","key","val"}`, where `val` is base64 and `text` may stand in its place.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufRead};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate::ShardKey;
use quorate::limits::FRAME_BYTES_MAX;
use serde::{Deserialize, Serialize};

/// Longest line, in bytes: the largest frame in base64, or as text in which most characters are written as escapes.
pub(crate) const LINE_BYTES_MAX: usize = 8 * FRAME_BYTES_MAX;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) shard: ShardKey,
    pub(crate) key: String,
    /// The value to put; none deletes the key.
    pub(crate) value: Option<Vec<u8>>,
}

/// A line as it is written. The order of the fields is the canonical one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    #[serde(borrow)]
    org: Cow<'a, str>,
    #[serde(borrow)]
    ns: Cow<'a, str>,
    op: Op,
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    val: Option<Cow<'a, str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Put,
    Del,
}

/// Why a line is not a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct BadLine {
    /// From 1.
    pub(crate) line: u64,
    /// In bytes, from 1; none if the line as a whole is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) column: Option<usize>,
    pub(crate) reason: String,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.column {
            Some(column) => write!(f, "{}:{column}: {}", self.line, self.reason),
            None => write!(f, "{}: {}", self.line, self.reason),
        }
    }
}

/// Reads one line; `number` is for the error.
pub(crate) fn parse(bytes: &[u8], number: u64) -> Result<Line, BadLine> {
    let bad = |reason: String| BadLine { line: number, column: None, reason };
    let written: Written<'_> = serde_json::from_slice(bytes).map_err(|error| {
        // serde_json ends its words with the place in this one line, which stands before them here.
        let words = error.to_string();
        let reason = words.rsplit_once(" at line ").map_or(words.as_str(), |(reason, _)| reason);
        BadLine {
            line: number,
            column: Some(error.column()).filter(|column| *column > 0),
            reason: reason.into(),
        }
    })?;
    let shard = ShardKey::new(&written.org, &written.ns).map_err(|error| bad(error.to_string()))?;
    let value = match (written.op, written.text, written.val) {
        (Op::Put, Some(_), Some(_)) => {
            return Err(bad("has both `val` and `text`; give one of them".into()));
        }
        (Op::Put, None, None) => {
            return Err(bad("a put needs `val` (base64) or `text`".into()));
        }
        (Op::Put, Some(text), None) => Some(text.into_owned().into_bytes()),
        (Op::Put, None, Some(val)) => Some(
            STANDARD
                .decode(val.as_bytes())
                .map_err(|error| bad(format!("`val` is not base64: {error}")))?,
        ),
        (Op::Del, None, None) => None,
        (Op::Del, _, _) => return Err(bad("a del takes neither `val` nor `text`".into())),
    };
    Ok(Line { shard, key: written.key.into_owned(), value })
}

/// Writes the canonical line of a live key: `text` where the value is UTF-8, else `val`. No newline.
pub(crate) fn canonical(shard: &ShardKey, key: &str, value: &[u8]) -> String {
    let text = std::str::from_utf8(value).ok();
    let written = Written {
        org: shard.org().into(),
        ns: shard.namespace().into(),
        op: Op::Put,
        key: key.into(),
        text: text.map(Cow::Borrowed),
        val: text.is_none().then(|| STANDARD.encode(value).into()),
    };
    serde_json::to_string(&written).expect("strings become JSON")
}

/// Reads lines one at a time into one buffer, which never grows beyond [`LINE_BYTES_MAX`].
#[derive(Debug)]
pub(crate) struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    number: u64,
    bytes: u64,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new(), number: 0, bytes: 0 }
    }

    /// How much has been read so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The number and the content of the next line that is not blank; an overlong one is skipped to its end and
    /// answered as bad.
    pub(crate) fn next(&mut self) -> io::Result<Option<(u64, Result<Line, BadLine>)>> {
        loop {
            self.buffer.clear();
            let limit = LINE_BYTES_MAX as u64 + 1;
            let read =
                io::Read::take(&mut self.reader, limit).read_until(b'\n', &mut self.buffer)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            self.bytes += read as u64;
            let whole = self.buffer.last() == Some(&b'\n');
            if !whole && self.buffer.len() > LINE_BYTES_MAX {
                self.bytes += self.reader.skip_until(b'\n')? as u64;
                let reason = format!("is longer than {LINE_BYTES_MAX} bytes");
                let bad = BadLine { line: self.number, column: None, reason };
                return Ok(Some((self.number, Err(bad))));
            }
            if !self.buffer.trim_ascii().is_empty() {
                return Ok(Some((self.number, parse(&self.buffer, self.number))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str) -> String {
        parse(line.as_bytes(), 7).unwrap_err().to_string()
    }

    #[test]
    fn a_bad_line_says_where_and_why() {
        let cases = [
            (
                r#"{"org":"o","ns":"n","op":"put","key":"k","val":"aGk=","text":"hi"}"#,
                "7: has both `val` and `text`; give one of them",
            ),
            (
                r#"{"org":"o","ns":"n","op":"put","key":"k"}"#,
                "7: a put needs `val` (base64) or `text`",
            ),
            (
                r#"{"org":"o","ns":"n","op":"del","key":"k","text":""}"#,
                "7: a del takes neither `val` nor `text`",
            ),
            (
                r#"{"org":"o","ns":"n","op":"put","key":"k","val":"a-b"}"#,
                "7: `val` is not base64: Invalid symbol 45, offset 1.",
            ),
            (r#"{"org":"","ns":"n","op":"del","key":"k"}"#, r#"7: organisation "" is empty"#),
            (
                r#"{"org":"o","ns":"../n","op":"del","key":"k"}"#,
                r#"7: namespace "../n" holds the character '/', which names may not"#,
            ),
            (
                r#"{"org":"o","ns":"n","op":"cas","key":"k"}"#,
                "7:30: unknown variant `cas`, expected `put` or `del`",
            ),
            (
                r#"{"org":"o","ns":"n","op":"del","key":"k","ttl":5}"#,
                "7:46: unknown field `ttl`, expected one of `org`, `ns`, `op`, `key`, `text`, `val`",
            ),
            (r#"{"org":"o","ns":"n","op":"del"}"#, "7:31: missing field `key`"),
            (
                r#"{"org":"o","ns":"n","op":"del","key":5}"#,
                "7:38: invalid type: integer `5`, expected a string",
            ),
            (
                r#"{"org":"o","org":"p","ns":"n","op":"del","key":"k"}"#,
                "7:16: duplicate field `org`",
            ),
            (r#"{"org":"o","ns":"n","op":"del","key":"k"} x"#, "7:43: trailing characters"),
            (r#"{"org":"o""#, "7:10: EOF while parsing an object"),
            ("[1]", "7:2: invalid type: integer `1`, expected a string"),
        ];
        for (line, expected) in cases {
            assert_eq!(refused(line), expected, "for {line}");
        }
        let not_utf8 = parse(b"{\"org\":\"\xff\"}", 7).unwrap_err();
        assert!(not_utf8.to_string().starts_with("7:"), "{not_utf8}");
    }

    #[test]
    fn a_canonical_line_reads_back_as_it_was() {
        let shard = ShardKey::new("größe", "a b").unwrap();
        for value in [&b""[..], b"plain", "\u{0}\"\\\u{7f}\u{2028}ü".as_bytes(), b"\xff\x00"] {
            let line = canonical(&shard, "k\"\n", value);
            let read = parse(line.as_bytes(), 1).unwrap();
            assert_eq!((read.key.as_str(), read.value.as_deref()), ("k\"\n", Some(value)));
            assert_eq!(read.shard, shard);
            assert_eq!(canonical(&read.shard, &read.key, value), line);
        }
    }

    #[test]
    fn an_overlong_line_is_skipped_and_the_next_one_read() {
        let good = r#"{"org":"o","ns":"n","op":"del","key":"k"}"#;
        let mut input = vec![b'x'; LINE_BYTES_MAX + 1];
        input.extend_from_slice(format!("\n\n{good}\r\n{good}").as_bytes());
        let mut lines = Lines::new(&input[..]);
        let (number, line) = lines.next().unwrap().unwrap();
        assert_eq!(number, 1);
        assert_eq!(
            line.unwrap_err().to_string(),
            format!("1: is longer than {LINE_BYTES_MAX} bytes")
        );
        for expected in [3, 4] {
            let (number, line) = lines.next().unwrap().unwrap();
            assert_eq!((number, line.unwrap().key.as_str()), (expected, "k"));
        }
        assert!(lines.next().unwrap().is_none());
    }
}
