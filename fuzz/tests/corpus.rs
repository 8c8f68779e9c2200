//! Every input that was ever worth keeping, on each target.
//!
//! One test, because memory is counted for the whole process.

use std::fs;
use std::path::Path;

use quorate_fuzz::TARGETS;

#[test]
fn no_input_breaks_a_promise() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut played = 0;
    for target in TARGETS {
        target.prepare();
        let seeds = target.seeds();
        assert!(!seeds.is_empty(), "{target:?} has no seed");
        for (number, seed) in seeds.iter().enumerate() {
            println!("{target:?}, seed {number}");
            target.judge(seed);
            // Cut short, and with one bit of each byte changed.
            for at in 0..seed.len().min(2_000) {
                target.judge(&seed[..at]);
                let mut changed = seed.clone();
                changed[at] ^= 1 << (at % 8);
                target.judge(&changed);
            }
        }
        let directory = corpus.join(target.name);
        // A target that is new has nothing but its seeds.
        for file in fs::read_dir(&directory).into_iter().flatten() {
            let path = file.unwrap().path();
            println!("{}", path.display());
            target.judge(&fs::read(&path).unwrap());
            played += 1;
        }
    }
    let known: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    for directory in fs::read_dir(&corpus).unwrap() {
        let name = directory.unwrap().file_name().into_string().unwrap();
        assert!(known.contains(&&*name), "corpus/{name} is of no target");
    }
    println!("{played} inputs");
}
