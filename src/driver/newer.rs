//! Where newer programs lie that took the place of the one that the plugin was installed with.
//!
//! Programs are named by their hash. `note.json` names the one that is to be used after a restart; it is written when
//! that has taken over completely, and holds only over the very program that was installed then: whoever installs
//! another one wants that. A crash at any time leaves the note of before.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::catalog::write_durably;
use crate::sys::{make_private, remove_if_there};
use crate::worker::version;

const FOLDER: &str = "program";
const NOTE: &str = "note.json";
/// How often the program was started since it last came up.
const TRIES: &str = "tries";
/// A program that so often did not come up is left alone.
const MOST_TRIES: u32 = 3;
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    format: u32,
    file: String,
    sha256: String,
    version: String,
    /// The program that was installed; see [`installed`].
    over: String,
}

/// What is to be used instead of the program that was installed.
#[derive(Debug)]
pub enum Found {
    Nothing,
    Newer {
        program: OwnedFd,
        version: String,
    },
    /// And why.
    Ignored(String),
}

/// The folder of newer programs.
#[derive(Debug, Clone)]
pub struct Place(PathBuf);

/// Names the program of this process among those that may be installed: its version, length and time.
pub fn installed() -> io::Result<String> {
    let file = fs::metadata("/proc/self/exe")?;
    Ok(format!("{} {} {}", version(), file.len(), file.mtime()))
}

impl Place {
    /// In the plugin's state.
    pub fn below(state: &Path) -> Self {
        Place(state.join(FOLDER))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Takes a copy in, whole or not at all. It is used only once it is noted.
    pub(super) fn receive(&self, from: &mut File) -> io::Result<PathBuf> {
        make_private(&self.0)?;
        let new = self.0.join("new");
        remove_if_there(&new)?;
        from.rewind()?;
        let mut copy = File::options().write(true).create_new(true).mode(0o700).open(&new)?;
        let hash = copy_hashed(from, Some(&mut copy))?;
        copy.sync_all()?;
        // A file that is open for writing cannot be executed.
        drop(copy);
        let path = self.0.join(name(&hash));
        fs::rename(&new, &path)?;
        File::open(&self.0)?.sync_all()?;
        Ok(path)
    }

    /// From now on `program`, which was received here, is used after a restart, as long as `over` is installed.
    pub(super) fn keep(&self, program: &Path, version: &str, over: &str) -> io::Result<()> {
        let file =
            program.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if self.read()?.is_some_and(|note| note.file == file && note.over == over) {
            return self.tidy();
        }
        let sha256 = copy_hashed(&mut File::open(program)?, None)?;
        let (version, over) = (version.to_owned(), over.to_owned());
        let note = Note { format: FORMAT, file, sha256, version, over };
        write_durably(&self.0.join(NOTE), &serde_json::to_vec(&note)?)?;
        self.came_up()?;
        self.tidy()
    }

    /// Removes programs that are not noted. The ones that run stay until they end.
    pub(super) fn tidy(&self) -> io::Result<()> {
        let kept = self.read()?.map(|note| note.file);
        let files = match fs::read_dir(&self.0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            files => files?,
        };
        for file in files {
            let name = file?.file_name();
            let program = name.to_str().is_some_and(|n| n == "new" || n.starts_with("s3vol-"));
            if program && kept.as_deref().map(AsRef::as_ref) != Some(name.as_os_str()) {
                fs::remove_file(self.0.join(name))?;
            }
        }
        Ok(())
    }

    /// The program that runs has come up.
    pub(super) fn came_up(&self) -> io::Result<()> {
        remove_if_there(&self.0.join(TRIES))
    }

    fn read(&self) -> io::Result<Option<Note>> {
        match fs::read(self.0.join(NOTE)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Looks what is to be used instead of the program of this process, which is the one that was installed as
    /// `over`.
    pub fn look(&self, over: &str) -> Found {
        match self.find(over) {
            Ok(found) => found,
            Err(error) => Found::Ignored(format!("it cannot be read: {error}")),
        }
    }

    fn find(&self, over: &str) -> io::Result<Found> {
        let Some(note) = self.read()? else { return Ok(Found::Nothing) };
        if note.format != FORMAT {
            return Ok(Found::Ignored(format!("its note has format {}", note.format)));
        }
        if note.over != over {
            return Ok(Found::Ignored(
                "another version of the plugin was installed since".to_owned(),
            ));
        }
        if note.file != name(&note.sha256) {
            return Ok(Found::Ignored("its note names another file".to_owned()));
        }
        let tries = self.0.join(TRIES);
        let tried = fs::read_to_string(&tries).ok().and_then(|text| text.trim().parse().ok());
        let tried: u32 = tried.unwrap_or(0);
        if tried >= MOST_TRIES {
            return Ok(Found::Ignored(format!("it did not come up {tried} times")));
        }
        let mut program = File::open(self.0.join(&note.file))?;
        if copy_hashed(&mut program, None)? != note.sha256 {
            return Ok(Found::Ignored("its hash is not the one that was noted".to_owned()));
        }
        fs::write(&tries, (tried + 1).to_string())?;
        Ok(Found::Newer { program: program.into(), version: note.version })
    }
}

fn name(hash: &str) -> String {
    format!("s3vol-{}", hash.get(..16).unwrap_or(hash))
}

/// The hash of all that `from` still has, which also goes to `to`.
fn copy_hashed(from: &mut File, mut to: Option<&mut File>) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        let len = from.read(&mut piece)?;
        if len == 0 {
            return Ok(format!("{:x}", hash.finalize()));
        }
        hash.update(&piece[..len]);
        if let Some(to) = &mut to {
            to.write_all(&piece[..len])?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_used_once_noted_over_the_one_it_came_over_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::below(dir.path());
        assert!(matches!(place.look("base"), Found::Nothing));
        let from = dir.path().join("from");
        fs::write(&from, "a program").unwrap();
        let received = place.receive(&mut File::open(&from).unwrap()).unwrap();
        assert!(matches!(place.look("base"), Found::Nothing), "it has not taken over yet");
        place.keep(&received, "2", "base").unwrap();
        match place.look("base") {
            Found::Newer { version, .. } => assert_eq!(version, "2"),
            other => panic!("{other:?}"),
        }
        match place.look("another base") {
            Found::Ignored(why) => assert!(why.contains("installed since"), "{why}"),
            other => panic!("{other:?}"),
        }
        // It did not come up again and again.
        assert!(matches!(place.look("base"), Found::Newer { .. }));
        assert!(matches!(place.look("base"), Found::Newer { .. }));
        assert!(matches!(place.look("base"), Found::Ignored(_)));
        place.came_up().unwrap();
        // The next one takes its place, and its file goes.
        fs::write(&from, "another program").unwrap();
        let next = place.receive(&mut File::open(&from).unwrap()).unwrap();
        assert_ne!(next, received);
        place.keep(&next, "3", "base").unwrap();
        assert!(!received.exists() && next.exists());
        fs::write(&next, "another prognam").unwrap();
        match place.look("base") {
            Found::Ignored(why) => assert!(why.contains("hash"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}
