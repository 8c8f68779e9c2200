//! Single keys from the command line.

mod common;

use std::io::Write as _;
use std::process::Stdio;

use common::{Ended, Place};

#[test]
fn keys_are_put_read_listed_and_deleted() {
    let place = Place::new();
    let ok = |arguments: &[&str]| {
        let ended = place.run(arguments);
        assert_eq!(ended.code, 0, "{arguments:?}: {}", ended.err);
        ended
    };
    assert_eq!(ok(&["kv", "put", "acme/cfg", "colour", "green"]).out, "1\n");
    assert_eq!(ok(&["kv", "put", "acme/cfg", "count", "7"]).out, "2\n");
    assert_eq!(ok(&["kv", "put", "acme/cfg", "colour", "blue"]).out, "3\n");
    let got = ok(&["kv", "get", "acme/cfg", "colour"]);
    assert_eq!((got.out.as_str(), got.err.as_str()), ("blue\n", "revision 3, created at 1\n"));
    let got = ok(&["kv", "get", "acme/cfg", "colour", "-o", "json"]).json();
    assert_eq!(
        got,
        serde_json::json!({
            "key": "colour", "text": "blue", "revision": 3, "created": 1, "namespace_revision": 3
        })
    );
    assert_eq!(ok(&["kv", "list", "acme/cfg"]).out, "colour\t3\tblue\ncount\t2\t7\n");
    assert_eq!(ok(&["kv", "list", "acme/cfg", "--prefix", "cou"]).out, "count\t2\t7\n");
    assert_eq!(ok(&["kv", "list", "acme/cfg", "--limit", "1"]).out, "colour\t3\tblue\n");
    let json = ok(&["kv", "list", "acme/cfg", "-o", "json", "--limit", "1"]).json();
    assert_eq!(json["namespace_revision"], 3);
    assert_eq!(ok(&["kv", "del", "acme/cfg", "colour"]).out, "4\n");

    for arguments in [["kv", "get", "acme/cfg", "colour"], ["kv", "del", "acme/cfg", "colour"]] {
        let gone = place.run(&arguments);
        assert_eq!((gone.code, gone.out.as_str()), (1, ""), "{arguments:?}");
        assert_eq!(gone.err, "quorate: no key \"colour\" in acme/cfg\n");
    }
}

#[test]
fn a_value_may_come_from_standard_input() {
    let place = Place::new();
    let mut child = place
        .command(["kv", "put", "acme/blob", "k", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"\xff\x00\n").unwrap();
    assert_eq!(Ended::from(child.wait_with_output().unwrap()).code, 0);
    let got = place.run(&["kv", "get", "acme/blob", "k", "-o", "json"]).json();
    assert_eq!(got["val"], "/wAK");
}
