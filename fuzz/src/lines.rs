//! The lines of an import.

use crate::ndjson::{Lines, canonical, parse};

pub(crate) fn judge(bytes: &[u8]) {
    let mut lines = Lines::new(bytes);
    let mut before = 0;
    while let Some((number, line)) = lines.next().expect("memory is read") {
        assert!(number > before, "a line is read twice");
        before = number;
        match line {
            Ok(line) => {
                let Some(value) = &line.value else { continue };
                let written = canonical(&line.shard, &line.key, value);
                assert_eq!(parse(written.as_bytes(), number).as_ref(), Ok(&line));
            }
            Err(bad) => assert!(!bad.to_string().is_empty(), "a refusal without words"),
        }
    }
    assert_eq!(lines.bytes(), bytes.len() as u64, "bytes that are not of any line");
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let lines = [
        r#"{"org":"o","ns":"n","op":"put","key":"k","text":"a \"word\""}"#,
        r#"{"org":"o","ns":"n","op":"put","key":"k","val":"aGk="}"#,
        r#"{"org":"o","ns":"n","op":"del","key":"\u00e9"}"#,
        r#"{"key":"k","op":"put","ns":"n","text":"\ud83d\ude00","org":"o"}"#,
    ];
    vec![lines.join("\n").into(), lines.concat().into(), lines.join("\r\n\n").into()]
}
