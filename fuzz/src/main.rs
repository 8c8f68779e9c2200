//! Names the targets; or writes the seeds of one into a directory, for `fuzz/run`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs};

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let (Some(name), Some(directory)) = (arguments.next(), arguments.next()) else {
        println!("usage: fuzz/run TARGET SECONDS, with one of these targets:");
        quorate_fuzz::TARGETS.iter().for_each(|target| println!("  {}", target.name));
        return ExitCode::SUCCESS;
    };
    let Some(target) = quorate_fuzz::target(&name) else {
        eprintln!("there is no target {name:?}; fuzz/run names those there are");
        return ExitCode::from(2);
    };
    let directory = PathBuf::from(directory);
    for (number, seed) in target.seeds().into_iter().enumerate() {
        let file = directory.join(format!("seed-{number}"));
        if let Err(error) = fs::write(&file, seed) {
            eprintln!("cannot write {}: {error}", file.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
