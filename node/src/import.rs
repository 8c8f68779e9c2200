//! `quorate import`: proposes the lines of a file, each once, however often the import is killed and started again.
//!
//! ```text
//!  file --> lines --> chunk --> propose_many --> answers --> summary
//!             |         |            |
//!             |         |            +-- up to WINDOW_FRAMES in flight or not yet settled
//!             |         +-- never holds a key that an earlier chunk in flight holds
//!             +-- bad ones are reported and skipped; the line number is the serial
//! ```
//!
//! 1. The serial of a frame is the number of its line, and the session is remembered with the file's digest. So a
//!    line that is proposed again is the same frame, and is answered as before.
//! 2. A frame settles all serials below the oldest line that waits for its answer. What is settled was answered:
//!    a resumed import finds that line by asking the group, and goes on from there.
//! 3. Lines of one key are decided in the order of the file: within a chunk the contract keeps their order, and two
//!    chunks in flight share no key.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Seek};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use quorate::limits::{FRAME_BYTES_MAX, SESSION_UNSETTLED_MAX};
use quorate::{
    Commit, Decision, Durability, Frame, FrameId, ProposeError, ReadError, Rejection, Replicator,
    SessionId, ShardKey, Signer,
};
use tokio::task::JoinSet;

use crate::cli::{ImportArgs, Output};
use crate::exit::{Exit, Failure};
use crate::import_state::ImportState;
use crate::ndjson::{BadLine, Line, Lines};
use crate::progress::Progress;
use crate::summary::Summary;
use crate::target::{Target, Way};
use crate::{operation, print_as};

/// Most frames that are in flight or not yet settled.
const WINDOW_FRAMES: usize = SESSION_UNSETTLED_MAX;

/// Most frames of one chunk: a quarter of the window, so that the log is written while answers come in.
const CHUNK_FRAMES: usize = WINDOW_FRAMES / 4;

/// Most payload bytes of one chunk, except that one frame of the largest size always fits.
const CHUNK_BYTES: usize = FRAME_BYTES_MAX;

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);

/// How long a chunk may stay without any answer before the import gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// First pause after a refusal that passes by itself; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// Longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Bad lines that are shown; the rest are counted.
const BAD_SHOWN_MAX: usize = 100;

/// Its session cannot be opened again, or nobody could know what happened twice.
const SESSION_GONE: &str = "the session of the unfinished import has ended, because the node served others for so long; what was \
                            imported is there; import the file from its first line with --anew";

/// What cannot be read again cannot be resumed.
const NOT_A_FILE: &str = "only a regular file can be imported, since it is read again when the import goes on after a \
                          kill; save the lines to a file first";

pub(crate) async fn run(way: Way, arguments: &ImportArgs, output: Output) -> Result<Exit, Failure> {
    // A file that cannot be read should not cost an empty data directory.
    check(&arguments.file)?;
    let state_dir = match &arguments.state {
        Some(state) => state.clone(),
        None => way.import_state()?,
    };
    let target = way.open().await?;
    // What a node of this process holds in memory ends with it.
    let forgets =
        matches!(&target, Target::Node(node) if node.status().durability == Durability::Memory);
    let state_dir = (!forgets).then_some(&*state_dir);
    let imported = import(&target.replicator(), state_dir, arguments).await;
    let result = imported.and_then(|summary| {
        print_as(output, || summary.json(), || summary.to_string())?;
        Ok(if summary.is_clean() { Exit::Done } else { Exit::Problems })
    });
    target.close(result).await
}

/// Whether this can be an input.
fn check(file: &Path) -> Result<(), Failure> {
    let problem =
        |problem: &dyn std::fmt::Display| Failure::usage(format!("{}: {problem}", file.display()));
    if file.as_os_str() == "-" {
        return Err(problem(&NOT_A_FILE));
    }
    let metadata = File::open(file).and_then(|file| file.metadata());
    let metadata = metadata.map_err(|error| problem(&error))?;
    match (metadata.is_dir(), metadata.is_file()) {
        (true, _) => Err(problem(&std::io::Error::from(std::io::ErrorKind::IsADirectory))),
        (false, false) => Err(problem(&NOT_A_FILE)),
        (false, true) => Ok(()),
    }
}

/// Imports a file. The summary says how it went line by line; the error says why it could not go on.
async fn import(
    replicator: &Arc<dyn Replicator>,
    state_dir: Option<&Path>,
    options: &ImportArgs,
) -> Result<Summary, Failure> {
    let named =
        |error: std::io::Error| Failure::usage(format!("{}: {error}", options.file.display()));
    let mut file = File::open(&options.file).map_err(named)?;
    let bytes_total = file.metadata().map_err(named)?.len();
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&file).map_err(named)?;
    file.rewind().map_err(named)?;
    let digest = hasher.finalize();

    let status = replicator.status();
    let signer = replicator.signer().map_err(Failure::service)?.map(Arc::new);
    // What is kept nowhere cannot be resumed, and a key that signs is not kept.
    let state_dir = state_dir.filter(|_| signer.is_none());
    let (state, resumed) = match state_dir {
        None => (None, false),
        Some(directory) => {
            let (state, resumed) =
                ImportState::begin(directory, &digest, &options.file, options.anew)
                    .map_err(kept)?;
            (Some(state), resumed)
        }
    };
    let session = match (&state, &signer) {
        (_, Some(signer)) => signer.session(),
        (Some(state), None) => state.session(),
        (None, None) => SessionId::random().map_err(Failure::service)?,
    };
    let mut import = Import {
        replicator,
        file: &options.file,
        lines: Lines::new(BufReader::with_capacity(1 << 20, file)),
        held: None,
        session,
        signer,
        state,
        groups: HashMap::new(),
        window: Window::default(),
        pace: options.rate.map(Pace::new),
        progress: Progress::new(bytes_total, options.report_every),
        summary: Summary::new(&options.file, &digest, resumed, &status),
    };
    if resumed {
        import
            .progress
            .say("this file was not imported to its end before: going on where it stopped");
    }
    let begun = Instant::now();
    import.run().await?;
    import.finish().await?;
    import.progress.finish();
    import.summary.elapsed = begun.elapsed();
    Ok(import.summary)
}

#[derive(Debug)]
struct Import<'a> {
    replicator: &'a Arc<dyn Replicator>,
    file: &'a Path,
    lines: Lines<BufReader<File>>,
    /// A line that was read and has to wait for room.
    held: Option<(u64, Line)>,
    session: SessionId,
    /// Where frames have to be signed.
    signer: Option<Arc<Signer>>,
    state: Option<ImportState>,
    /// Groups that were met, each with the shard that was met first and the first serial that is not settled.
    groups: HashMap<u32, (ShardKey, u64)>,
    window: Window,
    pace: Option<Pace>,
    progress: Progress,
    summary: Summary,
}

impl Import<'_> {
    /// Proposes everything and takes all answers.
    async fn run(&mut self) -> Result<(), Failure> {
        let mut flying = JoinSet::new();
        loop {
            let mut wait = None;
            // Fill the window, as far as the pace allows.
            while let Some(room) = self.window.room() {
                let room = match &self.pace {
                    None => room,
                    Some(pace) => match pace.allowed() {
                        Ok(allowed) => room.min(allowed),
                        Err(pause) => {
                            wait = Some(pause);
                            break;
                        }
                    },
                };
                let Some(chunk) = self.next_chunk(room).await? else { break };
                if let Some(pace) = &mut self.pace {
                    pace.sent += chunk.frames.len() as u64;
                }
                self.window.sent(&chunk);
                flying.spawn(chunk.propose(Arc::clone(self.replicator), self.signer.clone()));
            }
            let answered = match (wait, flying.is_empty()) {
                (None, true) => return Ok(()),
                (None, false) => flying.join_next().await,
                // The pace is kept by waiting; answers are taken meanwhile.
                (Some(pause), true) => {
                    tokio::time::sleep(pause).await;
                    continue;
                }
                (Some(pause), false) => tokio::select! {
                    () = tokio::time::sleep(pause) => continue,
                    answered = flying.join_next() => answered,
                },
            };
            let answered = answered.expect("something flies").map_err(Failure::service)??;
            self.take(answered);
        }
    }

    /// The next frames to propose, at most `room`; none at the end of the file, or while the next line has to wait
    /// for a chunk in flight.
    async fn next_chunk(&mut self, room: usize) -> Result<Option<Chunk>, Failure> {
        let mut chunk = Chunk::default();
        let mut bytes = 0;
        while chunk.frames.len() < room {
            let Some((number, line)) = self.next_line()? else { break };
            if number < self.first_serial(&line.shard, number).await? {
                self.summary.already += 1;
                continue;
            }
            let payload = match operation::encode(&line) {
                Ok(payload) => payload,
                Err(reason) => {
                    self.bad(BadLine { line: number, column: None, reason });
                    continue;
                }
            };
            let key = (line.shard.clone(), line.key.clone());
            let full = !chunk.frames.is_empty() && bytes + payload.len() > CHUNK_BYTES;
            if full || self.window.keys.contains(&key) {
                self.held = Some((number, line));
                break;
            }
            bytes += payload.len();
            self.summary.bytes += payload.len() as u64;
            let id = FrameId { session: self.session, serial: number };
            chunk.frames.push(Frame::new(id, line.shard, payload));
            chunk.keys.insert(key);
        }
        let Some(first) = chunk.frames.first() else { return Ok(None) };
        let settled = self.window.oldest().unwrap_or(first.id.serial);
        chunk.frames.iter_mut().for_each(|frame| frame.settled = settled);
        Ok(Some(chunk))
    }

    /// The next good line; bad ones are reported on the way.
    fn next_line(&mut self) -> Result<Option<(u64, Line)>, Failure> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        loop {
            let next = self
                .lines
                .next()
                .map_err(|error| Failure::usage(format!("{}: {error}", self.file.display())))?;
            match next {
                None => return Ok(None),
                Some((number, Ok(line))) => return Ok(Some((number, line))),
                Some((_, Err(bad))) => self.bad(bad),
            }
        }
    }

    fn bad(&mut self, bad: BadLine) {
        self.summary.bad_lines += 1;
        self.show(bad);
    }

    /// Reports what is wrong with a line, as long as that is readable.
    fn show(&mut self, bad: BadLine) {
        if self.summary.problems.len() < BAD_SHOWN_MAX {
            self.progress.say(&format!("{}:{bad}", self.file.display()));
            self.summary.problems.push(bad);
        } else if self.summary.problems_hidden == 0 {
            self.progress.say("more such lines are counted and not shown");
            self.summary.problems_hidden = 1;
        } else {
            self.summary.problems_hidden += 1;
        }
    }

    /// The first serial that is still to be proposed in the group of `shard`. Opens the session there when a group
    /// is met for the first time.
    async fn first_serial(&mut self, shard: &ShardKey, serial: u64) -> Result<u64, Failure> {
        let group = self.replicator.group(shard).number();
        if let Some((_, first)) = self.groups.get(&group) {
            return Ok(*first);
        }
        let first = if self.state.as_ref().is_some_and(|state| state.is_open_in(group)) {
            self.first_unsettled(shard).await?
        } else {
            self.open_session(shard).await?;
            if let Some(state) = &mut self.state {
                state.opened(group).map_err(kept)?;
            }
            serial
        };
        self.groups.insert(group, (shard.clone(), first));
        Ok(first)
    }

    /// Asks the group how far the earlier import got: the smallest serial whose answer is still kept.
    async fn first_unsettled(&self, shard: &ShardKey) -> Result<u64, Failure> {
        // No line has this number, so only a session that is gone has forgotten it.
        let mut kept = FrameId::CLOSE - 1;
        if self.is_settled(shard, kept).await? {
            return Err(Failure::service(SESSION_GONE));
        }
        let mut settled = 0;
        // Double the step first: files have few lines among the numbers that there are.
        let mut probe = 1;
        while probe < kept && self.is_settled(shard, probe).await? {
            settled = probe;
            probe = probe.saturating_mul(2);
        }
        kept = kept.min(probe);
        while kept - settled > 1 {
            let middle = settled + (kept - settled) / 2;
            if self.is_settled(shard, middle).await? {
                settled = middle;
            } else {
                kept = middle;
            }
        }
        Ok(kept)
    }

    async fn is_settled(&self, shard: &ShardKey, serial: u64) -> Result<bool, Failure> {
        let id = FrameId { session: self.session, serial };
        let deadline = Instant::now() + PATIENCE;
        let mut pause = PAUSE_MIN;
        loop {
            match self.replicator.decision(shard, id, ATTEMPT).await {
                Ok(_) => return Ok(false),
                Err(ReadError::Forgotten) => return Ok(true),
                // A leader is being elected, or a node comes back.
                Err(
                    ReadError::Timeout
                    | ReadError::Overloaded { .. }
                    | ReadError::Unreachable { .. },
                ) if Instant::now() < deadline => {}
                Err(error) => return Err(Failure::service(error)),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn open_session(&self, shard: &ShardKey) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = PAUSE_MIN;
        loop {
            let open = match &self.signer {
                Some(signer) => signer.open_session(shard, &self.replicator.status()),
                None => Ok(Frame::open_session(self.session, shard.clone())),
            };
            let open = open.map_err(Failure::service)?;
            let problem = match self.replicator.propose(open, ATTEMPT).await {
                Ok(Decision::Accept(_)) => return Ok(()),
                // An idle group had not told how late it is.
                Ok(Decision::Reject(rejection @ Rejection::Expired)) => rejection.to_string(),
                Ok(Decision::Reject(rejection)) => return Err(Failure::service(rejection)),
                Ok(Decision::Timeout | Decision::Undecided) => "no decision in time".to_string(),
                Err(error) if passes(&error) => error.to_string(),
                Err(ProposeError::SessionEnded) => return Err(Failure::service(SESSION_GONE)),
                Err(error) => return Err(Failure::service(error)),
            };
            if Instant::now() > deadline {
                return Err(Failure::service(format!(
                    "the session could not be opened: {problem}"
                )));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn take(&mut self, answered: Answered) {
        self.window.answered(&answered);
        self.summary.timeouts += answered.timeouts;
        for (serial, outcome) in answered.outcomes {
            self.summary.frames += 1;
            let took = u64::try_from(outcome.took.as_micros()).unwrap_or(u64::MAX);
            self.summary.latency_us.saturating_record(took);
            let reason = match outcome.answer {
                Answer::Accepted(commit) => match operation::refusal(&commit.reply) {
                    None => {
                        self.summary.accepted += 1;
                        continue;
                    }
                    Some(reason) => reason,
                },
                Answer::Rejected(reason) => reason,
            };
            self.summary.rejected += 1;
            self.show(BadLine { line: serial, column: None, reason });
        }
        self.progress.update(self.summary.frames, self.lines.bytes());
    }

    /// Everything is answered: the file is done, and its session is not needed any more.
    async fn finish(&mut self) -> Result<(), Failure> {
        if let Some(state) = self.state.take() {
            state.finish().map_err(kept)?;
        }
        for (shard, _) in self.groups.values() {
            let mut close = Frame::close_session(self.session, shard.clone());
            sign(self.signer.as_deref(), std::slice::from_mut(&mut close))?;
            if let Err(error) = self.replicator.propose(close, ATTEMPT).await {
                // The group ends it by itself after a while without use.
                tracing::warn!(%error, "the session of the import was not closed");
            }
        }
        Ok(())
    }
}

/// Frames that are in flight, or answered and not yet settled.
#[derive(Debug, Default)]
struct Window {
    /// By the first serial: how many frames, and whether all are answered. Chunks are sent in the order of serials.
    chunks: BTreeMap<u64, (usize, bool)>,
    frames: usize,
    keys: HashSet<(ShardKey, String)>,
}

impl Window {
    /// How many frames the next chunk may have; none while there is no room for a whole one, since many small ones
    /// would cost more than they gain.
    fn room(&self) -> Option<usize> {
        (WINDOW_FRAMES - self.frames >= CHUNK_FRAMES).then_some(CHUNK_FRAMES)
    }

    /// The oldest serial that waits for its answer.
    fn oldest(&self) -> Option<u64> {
        self.chunks.first_key_value().map(|(serial, _)| *serial)
    }

    fn sent(&mut self, chunk: &Chunk) {
        let first = chunk.frames.first().expect("no chunk is empty").id.serial;
        self.chunks.insert(first, (chunk.frames.len(), false));
        self.frames += chunk.frames.len();
        self.keys.extend(chunk.keys.iter().cloned());
    }

    fn answered(&mut self, answered: &Answered) {
        let (first, _) = answered.outcomes.first().expect("no chunk is empty");
        self.chunks.get_mut(first).expect("it was sent").1 = true;
        for key in &answered.keys {
            self.keys.remove(key);
        }
        while let Some(oldest) = self.chunks.first_entry()
            && oldest.get().1
        {
            self.frames -= oldest.remove().0;
        }
    }
}

/// Signs what is to be proposed together, where that is wanted.
fn sign(signer: Option<&Signer>, frames: &mut [Frame]) -> Result<(), Failure> {
    signer.map_or(Ok(()), |signer| signer.sign(frames)).map_err(Failure::service)
}

/// Frames that are proposed together, in the order of their serials.
#[derive(Debug, Default)]
struct Chunk {
    frames: Vec<Frame>,
    keys: HashSet<(ShardKey, String)>,
}

#[derive(Debug)]
struct Answered {
    outcomes: Vec<(u64, Outcome)>,
    keys: HashSet<(ShardKey, String)>,
    timeouts: u64,
}

#[derive(Debug)]
struct Outcome {
    answer: Answer,
    /// From the first attempt to the answer.
    took: Duration,
}

#[derive(Debug)]
enum Answer {
    Accepted(Commit),
    Rejected(String),
}

impl Chunk {
    /// Proposes until every frame is answered. Frames without an answer are proposed again under the same ids, in
    /// the same order, which is safe.
    async fn propose(
        self,
        replicator: Arc<dyn Replicator>,
        signer: Option<Arc<Signer>>,
    ) -> Result<Answered, Failure> {
        let begun = Instant::now();
        let Self { frames, keys } = self;
        let mut outcomes: Vec<Option<Outcome>> = frames.iter().map(|_| None).collect();
        let mut timeouts = 0;
        let mut pause = PAUSE_MIN;
        let mut patient_until = begun + PATIENCE;
        // Most frames of one call: one after a call was refused for something in it, to find out for what.
        let mut at_once = frames.len();
        loop {
            let open: Vec<usize> =
                (0..frames.len()).filter(|at| outcomes[*at].is_none()).take(at_once).collect();
            if open.is_empty() {
                break;
            }
            let mut offered: Vec<_> = open.iter().map(|at| frames[*at].clone()).collect();
            sign(signer.as_deref(), &mut offered)?;
            let mut answered = |at: usize, answer| {
                outcomes[at] = Some(Outcome { answer, took: begun.elapsed() });
                patient_until = Instant::now() + PATIENCE;
            };
            let waiting_for = match replicator.propose_many(offered, ATTEMPT).await {
                Ok(decisions) => {
                    let before = timeouts;
                    for (at, decision) in open.into_iter().zip(decisions) {
                        match decision {
                            Decision::Accept(commit) => answered(at, Answer::Accepted(commit)),
                            Decision::Reject(why) => {
                                answered(at, Answer::Rejected(why.to_string()))
                            }
                            Decision::Timeout | Decision::Undecided => timeouts += 1,
                        }
                    }
                    if timeouts == before {
                        pause = PAUSE_MIN;
                        continue;
                    }
                    "no decision in time".to_string()
                }
                Err(error @ (ProposeError::TooLarge { .. } | ProposeError::Invalid { .. })) => {
                    if open.len() == 1 {
                        answered(open[0], Answer::Rejected(error.to_string()));
                    }
                    at_once = 1;
                    continue;
                }
                Err(error) if passes(&error) => error.to_string(),
                Err(error) => {
                    return Err(Failure::service(format!(
                        "{error}; run the same command again to go on from here"
                    )));
                }
            };
            if Instant::now() > patient_until {
                return Err(Failure::service(format!(
                    "no frame was answered for {} s: {waiting_for}; run the same command again to go on from here",
                    PATIENCE.as_secs()
                )));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        let outcomes = frames.iter().zip(outcomes).map(|(frame, outcome)| {
            (frame.id.serial, outcome.expect("the loop ends when all are answered"))
        });
        Ok(Answered { outcomes: outcomes.collect(), keys, timeouts })
    }
}

/// Whether a refusal passes by itself.
fn passes(error: &ProposeError) -> bool {
    matches!(
        error,
        ProposeError::Overloaded { .. }
            | ProposeError::NotLeader { .. }
            | ProposeError::Unreachable { .. }
    )
}

/// Frames per second since the beginning.
#[derive(Debug)]
struct Pace {
    rate: f64,
    begun: Instant,
    sent: u64,
}

impl Pace {
    fn new(rate: u64) -> Self {
        Self { rate: rate as f64, begun: Instant::now(), sent: 0 }
    }

    /// How many frames may be sent now, or how long until the next one may.
    fn allowed(&self) -> Result<usize, Duration> {
        let due = (self.begun.elapsed().as_secs_f64() * self.rate) as u64 + 1;
        if due > self.sent {
            return Ok(usize::try_from(due - self.sent).unwrap_or(usize::MAX));
        }
        let next = Duration::from_secs_f64(self.sent as f64 / self.rate);
        Err(next.saturating_sub(self.begun.elapsed()).max(Duration::from_millis(1)))
    }
}

/// The file that an import remembers itself in could not be read or written.
fn kept(error: std::io::Error) -> Failure {
    Failure::data(format!("the state of the import cannot be kept: {error}"))
}

/// Latencies in microseconds up to an hour, to three digits.
pub(crate) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("fixed bounds")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use quorate::kv::Op;

    use super::*;
    use crate::scripted::Scripted;

    const LINES: u64 = 3000;

    /// Lines over few keys, so that the order of each matters, with bad and blank ones among them.
    fn write_file(directory: &Path) -> ImportArgs {
        let file = directory.join("lines.ndjson");
        let mut out = File::create(&file).unwrap();
        for number in 1..=LINES {
            match number % 100 {
                7 => writeln!(out).unwrap(),
                13 => writeln!(out, "{{\"org\":\"o\"}}").unwrap(),
                19 => writeln!(
                    out,
                    "{{\"org\":\"o\",\"ns\":\"n\",\"op\":\"del\",\"key\":\"k{}\"}}",
                    number % 700
                )
                .unwrap(),
                _ => writeln!(
                    out,
                    "{{\"org\":\"o\",\"ns\":\"n\",\"op\":\"put\",\"key\":\"k{}\",\"text\":\"{number}\"}}",
                    number % 700
                )
                .unwrap(),
            }
        }
        ImportArgs { file, rate: None, report_every: Some(u64::MAX), state: None, anew: false }
    }

    /// What has to be applied, in an order that keeps the order of each key: serial by key.
    fn by_key(frames: &[Frame]) -> BTreeMap<Vec<u8>, Vec<u64>> {
        let mut by_key: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for frame in frames {
            let key = match Op::decode(&frame.payload).unwrap() {
                Op::Put { key, .. } | Op::Delete { key, .. } => key.to_vec(),
                op => panic!("an import does not {op:?}"),
            };
            by_key.entry(key).or_default().push(frame.id.serial);
        }
        by_key
    }

    fn check_applied(node: &Scripted, seed: u64) {
        let applied = node.applied();
        assert_eq!(applied.len() as u64, LINES - 2 * LINES / 100, "seed {seed}: each line once");
        for (key, serials) in by_key(&applied) {
            assert!(
                serials.is_sorted_by(|a, b| a < b),
                "seed {seed}: key {key:?} in the order {serials:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_line_is_applied_once_and_in_the_order_of_its_key() {
        for seed in 1..=20 {
            let directory = tempfile::tempdir().unwrap();
            let arguments = write_file(directory.path());
            let node = Scripted::new(seed * 7919);
            let replicator: Arc<dyn Replicator> = Arc::<Scripted>::clone(&node);
            let summary = import(&replicator, Some(directory.path()), &arguments).await.unwrap();
            assert_eq!(summary.bad_lines, LINES / 100, "seed {seed}");
            assert_eq!(summary.accepted, LINES - 2 * LINES / 100, "seed {seed}");
            check_applied(&node, seed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopped_import_goes_on_and_applies_nothing_twice() {
        for seed in 1..=20 {
            let directory = tempfile::tempdir().unwrap();
            let arguments = write_file(directory.path());
            let node = Scripted::new(seed * 104_729);
            let replicator: Arc<dyn Replicator> = Arc::<Scripted>::clone(&node);
            for stop_after in [0, 1, seed * 37, 256, 1024] {
                node.stop_after(Some(stop_after));
                let stopped = import(&replicator, Some(directory.path()), &arguments).await;
                assert_eq!(stopped.unwrap_err().exit, Exit::Service, "seed {seed}");
            }
            node.stop_after(None);
            let summary = import(&replicator, Some(directory.path()), &arguments).await.unwrap();
            assert!(summary.already > 0, "seed {seed}: nothing was settled before");
            assert_eq!(summary.bad_lines, LINES / 100, "seed {seed}");
            check_applied(&node, seed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_ended_is_told_and_not_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut arguments = write_file(directory.path());
        let node = Scripted::new(5);
        let replicator: Arc<dyn Replicator> = Arc::<Scripted>::clone(&node);
        node.stop_after(Some(500));
        import(&replicator, Some(directory.path()), &arguments).await.unwrap_err();
        node.stop_after(None);
        node.end_sessions();
        let failure = import(&replicator, Some(directory.path()), &arguments).await.unwrap_err();
        assert!(failure.message.contains("--anew"), "{}", failure.message);
        assert_eq!(node.applied().len(), 500);
        arguments.anew = true;
        let summary = import(&replicator, Some(directory.path()), &arguments).await.unwrap();
        assert_eq!(summary.already, 0);
    }
}
