//! Looks for each planted bug, and notes in the page on tests how many seeds that took.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use indicatif::ProgressBar;
use quorate_planted::{Bug, Planted, Subject};
use quorate_sim::{QuorumSubject, RaftSubject, Scenario, Violation, run, run_cluster};

/// In so many seeds each bug must show.
const SEEDS_MAX: u64 = 500;

/// Where the search begins for bugs of clusters: not where those are lived through that must show nothing.
const CLUSTERS_FROM: u64 = 1000;

/// Most characters of what was said that stand in the table.
const SAID_MAX: usize = 110;

/// Between these lines of the page stands the table.
const MARKS: [&str; 2] = ["<!-- planted bugs -->", "<!-- end of planted bugs -->"];

/// The first seed that shows a bug, and what it says; none if it does not show.
type Found = Option<(u64, String)>;

/// Gives this thread the bug of a name, if there is one to give.
pub(crate) fn plant(name: Option<&str>) -> Result<Option<Planted>, Violation> {
    let Some(name) = name else { return Ok(None) };
    match Bug::ALL.iter().find(|bug| bug.name() == name) {
        Some(bug) => Ok(Some(bug.plant())),
        None => {
            let known: Vec<_> = Bug::ALL.iter().map(|bug| bug.name()).collect();
            let what = format!("there is no bug {name}; there are {}", known.join(", "));
            Err(Violation { what })
        }
    }
}

/// Looks for all bugs, and writes the table; a failure if one is not found.
pub(crate) fn find_all(jobs: usize, page: Option<&Path>) -> ExitCode {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let bar = ProgressBar::new(Bug::ALL.len() as u64);
    let next = AtomicUsize::new(0);
    let found = Mutex::new(vec![None; Bug::ALL.len()]);
    let work = || {
        while let Some(bug) = Bug::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            let seen = find(*bug);
            let said = match &seen {
                Some((seed, what)) => format!("{}: seed {seed}: {}", bug.name(), short(what)),
                None => format!("{}: NOT FOUND in {SEEDS_MAX} seeds", bug.name()),
            };
            bar.suspend(|| println!("{said}"));
            bar.inc(1);
            let place = Bug::ALL.iter().position(|it| it == bug).unwrap_or_default();
            found.lock().unwrap_or_else(PoisonError::into_inner)[place] = seen;
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..jobs.max(1) {
            scope.spawn(work);
        }
        work();
    });
    std::panic::set_hook(quiet);
    bar.finish_and_clear();
    let found: Vec<Found> = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(page) = page
        && let Err(error) = write(page, &table(&found))
    {
        eprintln!("{} is not written: {error}", page.display());
        return ExitCode::FAILURE;
    }
    let hidden = found.iter().filter(|found| found.is_none()).count();
    println!("{} planted bugs, {hidden} of them not found", found.len());
    if hidden == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn find(bug: Bug) -> Found {
    let _planted = bug.plant();
    let first = first_of(bug);
    (first..first + SEEDS_MAX).find_map(|seed| {
        let live = || match bug.subject() {
            Subject::Local => run(seed, &mut |_| {}).err(),
            Subject::Cluster => run_cluster(&RaftSubject, seed, None).err(),
            Subject::Validators(scenario) => {
                run_cluster(&QuorumSubject::new(Some(scenario_of(scenario))), seed, None).err()
            }
        };
        match catch_unwind(AssertUnwindSafe(live)) {
            Ok(violation) => violation.map(|violation| (seed, violation.what)),
            Err(_) => Some((seed, "a panic".to_owned())),
        }
    })
}

fn scenario_of(name: &str) -> Scenario {
    let found = Scenario::ALL.iter().find(|known| known.name() == name);
    *found.expect("bugs name scenarios that there are")
}

/// The first seed in which a bug is looked for.
fn first_of(bug: Bug) -> u64 {
    match bug.subject() {
        Subject::Local => 0,
        Subject::Cluster | Subject::Validators(_) => CLUSTERS_FROM,
    }
}

fn table(found: &[Found]) -> String {
    let mut table = String::from(
        "| bug | what is wrong | where | seeds needed | what was said |\n|---|---|---|---|---|\n",
    );
    for (bug, found) in Bug::ALL.iter().zip(found) {
        let subject = match bug.subject() {
            Subject::Local => "one node",
            Subject::Cluster => "cluster",
            Subject::Validators(scenario) => &format!("validators, `{scenario}`"),
        };
        let (seeds, said) = match found {
            Some((seed, what)) => ((seed - first_of(*bug) + 1).to_string(), short(what)),
            None => ("not found".to_owned(), String::new()),
        };
        let (name, words) = (bug.name(), bug.words());
        table += &format!("| `{name}` | {words} | {subject} | {seeds} | {said} |\n");
    }
    table
}

/// What was said, for one cell of the table.
fn short(what: &str) -> String {
    let line = what.replace('|', "/").replace('\n', " ");
    match line.char_indices().nth(SAID_MAX) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line,
    }
}

fn write(page: &Path, table: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(page).map_err(|error| error.to_string())?;
    let [begin, end] = MARKS;
    let (before, rest) =
        text.split_once(begin).ok_or_else(|| format!("it has no line `{begin}`"))?;
    let (_, after) = rest.split_once(end).ok_or_else(|| format!("it has no line `{end}`"))?;
    let text = format!("{before}{begin}\n{table}{end}{after}");
    std::fs::write(page, text).map_err(|error| error.to_string())
}
