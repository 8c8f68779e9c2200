//! A directory goes from driver to driver by one command, and the node goes on.

mod common;

use std::fs::{self, File};
use std::process::Stdio;

use common::{Ended, Place};
use serde_json::json;

fn ok(place: &Place, arguments: &[&str]) -> Ended {
    let ended = place.run(arguments);
    assert_eq!(ended.code, 0, "{arguments:?}: {}", ended.err);
    ended
}

/// A stopped local node with two namespaces.
fn filled() -> Place {
    let place = Place::new();
    for (namespace, key, value) in [
        ("acme/cfg", "colour", "green"),
        ("acme/cfg", "colour", "blue"),
        ("acme/users", "7", "Ada"),
    ] {
        ok(&place, &["kv", "put", namespace, key, value]);
    }
    place
}

#[test]
fn a_node_goes_to_raft_and_back_and_its_revisions_go_on() {
    let place = filled();
    let shown = ok(&place, &["driver", "show"]).out;
    assert!(shown.starts_with("driver       local\nnode         n1\n"), "{shown}");

    // Started with another driver, it says the one command that helps.
    let other = place.run(&["--driver", "raft", "kv", "get", "acme/cfg", "colour"]);
    let data = place.data();
    let command = format!("`quorate driver switch --to raft --data-dir {}`", data.display());
    assert!(other.code == 3 && other.err.contains(&command), "{}", other.err);
    let shown = ok(&place, &["--driver", "raft", "driver", "show"]).out;
    assert!(shown.contains("configured   raft: `quorate driver switch --to raft`"), "{shown}");

    let switched = ok(&place, &["driver", "switch", "--to", "raft"]);
    let backup = place.path("data.before-switch-1");
    for part in [
        "driver       raft, one voter: n1 (it was local)\n",
        "namespaces   acme/cfg at revision 2, acme/users at revision 1\n",
        "positions    go on in epoch 2",
        &format!("backup       {}\n", backup.display()),
        "next         set `kind = \"raft\"` in [driver], start the node",
        "quorate member add n2=HOST:PORT",
    ] {
        assert!(switched.out.contains(part), "{part:?} in {}", switched.out);
    }
    assert!(switched.err.contains("it is copied first"), "{}", switched.err);
    let shown = ok(&place, &["driver", "show", "-o", "json"]).json();
    assert_eq!((&shown["driver"], &shown["configured"]), (&json!("raft"), &json!("local")));

    let raft = |arguments: &[&str]| ok(&place, &[&["--driver", "raft"], arguments].concat());
    raft(&["verify"]);
    assert_eq!(raft(&["kv", "get", "acme/cfg", "colour"]).out, "blue\n");
    assert_eq!(raft(&["kv", "put", "acme/cfg", "colour", "red"]).out, "3\n");

    let back = raft(&["driver", "switch", "--to", "local", "-o", "json"]).json();
    assert_eq!(back["groups"][0]["epoch"], 3);
    assert_eq!(back["voters"], json!([1]));
    assert_eq!(back["namespaces"][0], json!({ "namespace": "acme/cfg", "revision": 3, "keys": 1 }));
    assert_eq!(back["backup"], json!(place.path("data.before-switch-2").display().to_string()));
    ok(&place, &["verify"]);
    assert_eq!(ok(&place, &["kv", "put", "acme/cfg", "colour", "grey"]).out, "4\n");

    // What it was is there as it was.
    let mut command = place.bare();
    command.arg("--data-dir").arg(backup).args(["kv", "list", "acme/cfg"]);
    assert_eq!(Ended::of(command).out, "colour\t2\tblue\n");
}

/// A configuration of the place's data for driver quorum, without a network, with what `init-cluster` made for n1.
fn alone_as_validator(place: &Place) -> String {
    let nodes = "n1=127.0.0.1:7411,n2=127.0.0.1:7412";
    let made = ["--driver", "quorum", "init-cluster", "--from", "data", "--nodes", nodes];
    let made = ok(place, &[&made[..], &["--out", "made"]].concat());
    assert!(made.out.contains("quorate driver switch --to quorum --config"), "{}", made.out);
    let shown = ok(place, &["driver", "show", "-o", "json"]).json();
    let config = format!(
        "[node]\ncluster = {}\n[driver]\nkind = \"quorum\"\n[driver.quorum]\n\
         genesis_file = \"made/n1/genesis.toml\"\nkey_file = \"made/n1/validator.key\"\n",
        shown["cluster"]
    );
    place.write("quorum.toml", config).to_str().unwrap().to_owned()
}

#[test]
fn a_node_becomes_a_validator_whose_history_is_audited_from_there_on() {
    let place = filled();
    let config = alone_as_validator(&place);
    let quorum = |arguments: &[&str]| ok(&place, &[&["--config", &config], arguments].concat());
    let switched = quorum(&["driver", "switch", "--to", "quorum", "-o", "json"]).json();
    let left = &switched["groups"][0];
    quorum(&["verify"]);
    let empty = quorum(&["audit"]).out;
    assert!(empty.starts_with("nothing is decided in it yet"), "{empty}");

    assert_eq!(quorum(&["kv", "get", "acme/cfg", "colour"]).out, "blue\n");
    assert_eq!(quorum(&["kv", "put", "acme/cfg", "colour", "red"]).out, "3\n");
    let audited = quorum(&["audit", "--export", "h", "-o", "json"]).json();
    let index = left["index"].as_u64().unwrap();
    assert_eq!(audited["first"].as_u64(), Some(index + 1), "{audited}");
    assert_eq!(audited["inherited"], left["history"]);
    let words = ok(&place, &["audit", "h", "--genesis", "made/genesis.toml"]).out;
    let origin = format!("they go on from what another driver left at {index}");
    assert!(words.contains(&origin), "{words}");
    let proved = quorum(&["kv", "get", "acme/cfg", "colour", "--proof", "p"]);
    assert_eq!(proved.code, 0);
    ok(&place, &["audit", "p", "--genesis", "made/genesis.toml"]);

    let back = quorum(&["driver", "switch", "--to", "local", "-o", "json"]).json();
    assert_eq!((&back["groups"][0]["epoch"], &back["voters"]), (&json!(3), &json!([1])));
    ok(&place, &["verify"]);
    assert_eq!(ok(&place, &["kv", "put", "acme/cfg", "colour", "grey"]).out, "4\n");
}

#[test]
fn what_is_in_the_way_is_said_and_nothing_is_changed() {
    let place = filled();
    let refused = |arguments: &[&str], code: i32, parts: &[&str]| {
        let ended = place.run(&[&["driver", "switch"], arguments].concat());
        assert_eq!(ended.code, code, "{arguments:?}: {}", ended.err);
        for part in parts {
            assert!(ended.err.contains(part), "{part:?} in {}", ended.err);
        }
    };
    refused(
        &["--to", "paxos"],
        2,
        &["unknown driver \"paxos\"", "this program has: local, quorum, raft"],
    );
    refused(&["--to", "local"], 2, &["has driver `local` already: nothing is to be done"]);
    refused(&[], 2, &["--to <NAME>"]);
    refused(&["--to", "raft", "--durability", "memory"], 2, &["durability is memory"]);
    let taken = place.write("taken", "x");
    let taken = taken.to_str().unwrap();
    refused(&["--to", "raft", "--backup", taken], 2, &[taken, "name another with `--backup`"]);

    let lock = File::open(place.data().join("LOCK")).unwrap();
    lock.try_lock().unwrap();
    refused(&["--to", "raft"], 3, &["is in use: stop the node that holds its LOCK"]);
    drop(lock);

    let other = place.write("n2.toml", "[node]\nid = 2\n");
    let other = other.to_str().unwrap();
    refused(&["--to", "raft", "--config", other], 3, &["belongs to node 1, not 2"]);
    let groups = place.write("groups.toml", "[shard]\ngroups = 4\n");
    let groups = groups.to_str().unwrap();
    refused(&["--to", "raft", "--config", groups], 3, &["configure groups = 1"]);

    let manifest = fs::read(place.data().join("MANIFEST")).unwrap();
    fs::write(place.data().join("MANIFEST"), b"nothing").unwrap();
    refused(&["--to", "raft"], 3, &["MANIFEST is damaged", "restore it from a backup"]);
    fs::write(place.data().join("MANIFEST"), manifest).unwrap();

    let mut command = place.bare();
    command.args(["--data-dir", "nowhere", "driver", "switch", "--to", "raft"]);
    let nowhere = Ended::of(command);
    assert!(nowhere.code == 3 && nowhere.err.contains("not set up"), "{}", nowhere.err);
    let mut command = place.bare();
    command.args(["--data-dir", "nowhere", "driver", "show"]);
    let nowhere = Ended::of(command);
    assert!(nowhere.code == 3 && nowhere.err.contains("not set up"), "{}", nowhere.err);

    assert!(!place.path("data.before-switch-1").exists());
    ok(&place, &["verify"]);
}

#[test]
fn a_command_that_is_killed_leaves_a_directory_that_one_driver_opens() {
    let moments = [
        "data.before-switch-1",
        "data.before-switch-1/checkpoint",
        "data.before-switch-1/MANIFEST",
        "data/switched-1",
        "data/switched-1/log",
        "data/switched-1/log/segment-0000000001",
        "data/switched-1/checkpoint/g0.redb",
    ];
    for moment in moments {
        let place = filled();
        let mut command = place.command(["driver", "switch", "--to", "raft"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // It has come so far, or to its end.
        while !place.path(moment).exists() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        let _ = child.kill();
        child.wait().unwrap();
        let driver = ok(&place, &["driver", "show", "-o", "json"]).json()["driver"].clone();
        let driver = driver.as_str().unwrap();
        ok(&place, &["--driver", driver, "verify"]);
        let listed = ok(&place, &["--driver", driver, "kv", "list", "acme/cfg"]);
        assert_eq!(listed.out, "colour\t2\tblue\n", "killed at {moment}");
        if driver == "local" {
            // Once more, beside what is left of the copy.
            ok(&place, &["driver", "switch", "--to", "raft"]);
        }
        let put = ok(&place, &["--driver", "raft", "kv", "put", "acme/cfg", "colour", "red"]);
        assert_eq!(put.out, "3\n", "killed at {moment}");
    }
}
