//! What an import has to remember, so that killing it and starting it again imports every line once.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use quorate::SessionId;
use serde::{Deserialize, Serialize};

/// Rises when an older version could misread the file.
const FORMAT: u32 = 1;

/// One import of one file, named by the file's content.
#[derive(Debug)]
pub(crate) struct ImportState {
    path: PathBuf,
    kept: Kept,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    format: u32,
    /// As it was named; only for people who look.
    file: String,
    session: String,
    /// Groups in which the session was opened. Nothing is proposed in others.
    groups: Vec<u32>,
}

impl ImportState {
    /// The unfinished import that this directory has of a file with this digest, or a new one under a new session. The second value tells
    /// whether it is the old one.
    pub(crate) fn begin(
        directory: &Path,
        digest: &blake3::Hash,
        file: &Path,
        anew: bool,
    ) -> io::Result<(Self, bool)> {
        fs::create_dir_all(directory)?;
        if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        let path = directory.join(format!("{digest}.json"));
        let earlier = match fs::read(&path) {
            Ok(bytes) => Some(Kept::read(&path, &bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if let Some(kept) = earlier
            && !anew
        {
            return Ok((Self { path, kept }, true));
        }
        let kept = Kept {
            format: FORMAT,
            file: file.display().to_string(),
            session: SessionId::random()?.to_string(),
            groups: Vec::new(),
        };
        let state = Self { path, kept };
        state.write()?;
        Ok((state, false))
    }

    pub(crate) fn session(&self) -> SessionId {
        let number = u128::from_str_radix(&self.kept.session, 16);
        SessionId::new(number.expect("checked when it was read").to_be_bytes())
    }

    /// Whether frames may have been proposed in this group.
    pub(crate) fn is_open_in(&self, group: u32) -> bool {
        self.kept.groups.contains(&group)
    }

    /// Notes that frames will be proposed in this group.
    pub(crate) fn opened(&mut self, group: u32) -> io::Result<()> {
        self.kept.groups.push(group);
        self.write()
    }

    /// Forgets the import, since every line was answered: the next one of the file starts anew.
    pub(crate) fn finish(self) -> io::Result<()> {
        fs::remove_file(&self.path)?;
        self.sync_directory()
    }

    /// Replaces the file: after a crash there is the old content or the new one.
    fn write(&self) -> io::Result<()> {
        let temporary = self.path.with_extension("tmp");
        let mut file = File::create(&temporary)?;
        serde_json::to_writer(&mut file, &self.kept)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        self.sync_directory()
    }

    fn sync_directory(&self) -> io::Result<()> {
        let directory = self.path.parent().expect("the file is in a directory");
        File::open(directory)?.sync_all()
    }
}

impl Kept {
    fn read(path: &Path, bytes: &[u8]) -> io::Result<Self> {
        let problem = |problem: String| {
            io::Error::other(format!(
                "{}: {problem}; with --anew the file is imported from its first line",
                path.display()
            ))
        };
        let kept: Self =
            serde_json::from_slice(bytes).map_err(|error| problem(error.to_string()))?;
        if kept.format != FORMAT {
            return Err(problem(format!("format {} is not known", kept.format)));
        }
        if u128::from_str_radix(&kept.session, 16).is_err() {
            return Err(problem("its session is no number".into()));
        }
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_import_is_found_again_and_a_finished_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let digest = blake3::hash(b"content");
        let begin = |anew| {
            ImportState::begin(directory.path(), &digest, Path::new("f.ndjson"), anew).unwrap()
        };
        let (mut first, resumed) = begin(false);
        assert!(!resumed);
        first.opened(0).unwrap();

        let (again, resumed) = begin(false);
        assert!(resumed && again.is_open_in(0) && !again.is_open_in(1));
        assert_eq!(again.session(), first.session());
        again.finish().unwrap();
        let left = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left, 0, "a finished import left something behind");

        let (third, resumed) = begin(false);
        assert!(!resumed && !third.is_open_in(0));
        assert_ne!(third.session(), first.session());

        let (fourth, resumed) = begin(true);
        assert!(!resumed);
        assert_ne!(fourth.session(), third.session());
    }
}
