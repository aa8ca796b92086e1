//! Where newer programs lie that took the place of the one that the plugin was installed with.
//!
//! Programs are named by their hash. `note.json` names the one that is to be used after a restart; it is written when
//! that has taken over completely, and holds only over the very program that was installed then: whoever installs
//! another one wants that, and the note is dropped. A crash at any time leaves the note of before.
//!
//! What is found here is executed as root, so nobody else may be able to change it: that is looked at each time.

use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::catalog::write_durably;
use crate::sys::{make_private, remove_if_there};
use crate::worker::{About, version};

const FOLDER: &str = "program";
const NOTE: &str = "note.json";
/// How often the program was started since it last came up.
const TRIES: &str = "tries";
/// The program of this process.
pub(super) const OWN: &str = "/proc/self/exe";
/// A program that so often did not come up is left alone.
const MOST_TRIES: u32 = 3;
const FORMAT: u32 = 1;
/// What the installed program reads, which a restart may lead to at any time.
const INSTALLED: &str = "installed.json";

#[derive(Debug, Serialize, Deserialize)]
struct Installed {
    /// See [`Note::over`].
    over: String,
    about: About,
}

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    format: u32,
    file: String,
    sha256: String,
    version: String,
    /// The program that was installed; see [`installed`].
    over: String,
}

/// What is in the note's file.
enum Read {
    Note(Note),
    /// Of another version of this program.
    OfFormat(u32),
    Damaged(String),
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

/// Names the program of this process among those that may be installed: its version, length, file and the time of its
/// last change. The same version has another name once it was installed anew: whoever does that wants it, and no program
/// that came over it before. What changes nothing of the program (its owner, mode or labels) changes no name.
pub fn installed() -> io::Result<String> {
    let file = fs::metadata("/proc/self/exe")?;
    let changed = format!("{}.{:09}", file.mtime(), file.mtime_nsec());
    Ok(format!("{} {} {} {changed}", version(), file.len(), file.ino()))
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
        // Not through a link, nor into a folder of somebody else.
        if let Some(folder) = self.folder()?
            && folder.metadata()?.uid() != 0
        {
            return Err(io::Error::other("the folder there does not belong to root"));
        }
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

    /// What is there of the program that was installed as `over`; that says it itself, with `this`, while it runs.
    pub(super) fn about_installed(&self, over: &str, this: &About) -> io::Result<Option<About>> {
        let path = self.0.join(INSTALLED);
        if installed().is_ok_and(|own| own == over) {
            let noted = Installed { over: over.to_owned(), about: this.clone() };
            write_durably(&path, &serde_json::to_vec(&noted)?)?;
            return Ok(Some(noted.about));
        }
        let Some(bytes) = content(&path)? else { return Ok(None) };
        // What cannot be read says nothing of a program, like what is not there.
        let noted: Option<Installed> = serde_json::from_slice(&bytes).ok();
        Ok(noted.filter(|noted| noted.over == over).map(|noted| noted.about))
    }

    /// From now on `program`, which was received here, is used after a restart, as long as `over` is installed.
    pub(super) fn keep(&self, program: &Path, version: &str, over: &str) -> io::Result<()> {
        let file =
            program.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if over.is_empty() {
            return Err(io::Error::other("the installed program cannot be looked at"));
        }
        if self.noted()?.is_some_and(|note| note.file == file && note.over == over) {
            self.forget_tries()?;
            return self.tidy(&[]);
        }
        let sha256 = copy_hashed(&mut File::open(program)?, None)?;
        let (version, over) = (version.to_owned(), over.to_owned());
        let note = Note { format: FORMAT, file, sha256, version, over };
        write_durably(&self.0.join(NOTE), &serde_json::to_vec(&note)?)?;
        self.forget_tries()?;
        self.tidy(&[])
    }

    /// Removes programs that are neither noted nor in use: the one of this process, and those of `used`.
    pub(super) fn tidy(&self, used: &[&Path]) -> io::Result<()> {
        let noted = self.noted()?.map(|note| self.0.join(note.file));
        let nothing = noted.is_none() && used.is_empty();
        let used = used.iter().copied().chain([Path::new(OWN)]).chain(noted.as_deref());
        let kept: Vec<(u64, u64)> = used.filter_map(which).collect();
        let files = match fs::read_dir(&self.0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            files => files?,
        };
        for file in files {
            let name = file?.file_name();
            let program = name.to_str().is_some_and(|n| n == "new" || n.starts_with("s3vol-"));
            let path = self.0.join(&name);
            // One that cannot be looked at is not in use, or its removal says why.
            let file = identity(fs::symlink_metadata(&path));
            if program && !file.is_some_and(|file| kept.contains(&file)) {
                fs::remove_file(path)?;
            }
        }
        if nothing {
            remove_if_there(&self.0.join(INSTALLED))?;
        }
        Ok(())
    }

    /// The program whose file is `runs` has come up. If that is the one that is noted, its tries begin anew; the installed
    /// program says nothing about another.
    pub(super) fn came_up(&self, runs: &Path) -> io::Result<()> {
        let Some(note) = self.noted()? else { return Ok(()) };
        let noted = which(&self.0.join(note.file));
        match noted.is_some() && noted == which(runs) {
            true => self.forget_tries(),
            false => Ok(()),
        }
    }

    /// Where there are none, a disk that takes nothing is no reason to complain.
    fn forget_tries(&self) -> io::Result<()> {
        let tries = self.0.join(TRIES);
        match fs::symlink_metadata(&tries) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            _ => remove_if_there(&tries),
        }
    }

    /// Looks what is to be used instead of the program of this process, which is the one that was installed as `over`.
    /// That counts as a try of what is found, and a note that does not hold any more is dropped: only whoever is about to
    /// serve as the plugin may look.
    pub fn look(&self, over: &str) -> Found {
        match self.find(over) {
            Ok(found) => found,
            Err(error) => Found::Ignored(format!("it cannot be used: {error}")),
        }
    }

    fn find(&self, over: &str) -> io::Result<Found> {
        let Some(folder) = self.folder()? else { return Ok(Found::Nothing) };
        is_safe(&folder, &self.0)?;
        if let Some(state) = self.0.parent() {
            is_safe(&File::open(state)?, state)?;
        }
        let Some(read) = self.read()? else { return Ok(Found::Nothing) };
        let note = match read {
            Read::Note(note) => note,
            Read::OfFormat(format) => {
                return Ok(Found::Ignored(format!("its note has format {format}")));
            }
            Read::Damaged(why) => return Ok(self.without(format!("its note is damaged: {why}"))),
        };
        // It may be looked at next time.
        if over.is_empty() {
            return Ok(Found::Ignored("the installed program cannot be looked at".to_owned()));
        }
        if note.over != over {
            return Ok(self.without("another version of the plugin was installed since".to_owned()));
        }
        if note.file != name(&note.sha256) {
            return Ok(self.without("its note names another file".to_owned()));
        }
        let tries = self.0.join(TRIES);
        let tried = fs::read_to_string(&tries).ok().and_then(|text| text.trim().parse().ok());
        let tried: u32 = tried.unwrap_or(0);
        if tried >= MOST_TRIES {
            return Ok(self.without(format!("it did not come up {tried} times")));
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let mut program = File::from(openat(&folder, note.file.as_str(), flags, Mode::empty())?);
        is_safe(&program, &self.0.join(&note.file))?;
        if copy_hashed(&mut program, None)? != note.sha256 {
            return Ok(self.without("its hash is not the one that was noted".to_owned()));
        }
        // A disk that takes nothing has no say in what program runs.
        if let Err(error) = write_durably(&tries, (tried + 1).to_string().as_bytes()) {
            tracing::warn!(%error, "the start of the newer program is not counted");
        }
        Ok(Found::Newer { program: program.into(), version: note.version })
    }

    /// Drops a note that does not hold any more, so that it never comes back into force by itself.
    fn without(&self, why: String) -> Found {
        let dropped = [NOTE, TRIES].map(|file| remove_if_there(&self.0.join(file)));
        let synced = File::open(&self.0).and_then(|folder| folder.sync_all());
        if let Some(error) = dropped.into_iter().chain([synced]).find_map(Result::err) {
            tracing::warn!(%error, "the note of a program that is not used any more is left");
        }
        Found::Ignored(why)
    }

    /// The folder, if it is there, and no link to another.
    fn folder(&self) -> io::Result<Option<File>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match open(&self.0, flags, Mode::empty()) {
            Ok(folder) => Ok(Some(folder.into())),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The note, if there is one that this program understands.
    fn noted(&self) -> io::Result<Option<Note>> {
        Ok(match self.read()? {
            Some(Read::Note(note)) => Some(note),
            Some(Read::OfFormat(_) | Read::Damaged(_)) | None => None,
        })
    }

    fn read(&self) -> io::Result<Option<Read>> {
        #[derive(Deserialize)]
        struct OnlyFormat {
            format: u32,
        }
        let Some(bytes) = content(&self.0.join(NOTE))? else { return Ok(None) };
        Ok(Some(match serde_json::from_slice::<OnlyFormat>(&bytes) {
            Ok(OnlyFormat { format }) if format != FORMAT => Read::OfFormat(format),
            _ => match serde_json::from_slice(&bytes) {
                Ok(note) => Read::Note(note),
                Err(error) => Read::Damaged(error.to_string()),
            },
        }))
    }
}

/// The file at `path`, wherever that leads.
fn which(path: &Path) -> Option<(u64, u64)> {
    identity(fs::metadata(path))
}

fn identity(file: io::Result<fs::Metadata>) -> Option<(u64, u64)> {
    file.map(|file| (file.dev(), file.ino())).ok()
}

/// What a file of the folder has; `None`: it is not there.
fn content(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        bytes => bytes.map(Some),
    }
}

/// Whether nobody but root can have put there, or can change, what `file` is.
fn is_safe(file: &File, path: &Path) -> io::Result<()> {
    let found = file.metadata()?;
    match found.uid() == 0 && found.mode() & 0o022 == 0 {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "{} does not belong to root, or others may write to it",
            path.display()
        ))),
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
        let len = io::Read::read(from, &mut piece)?;
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
        // It did not come up again and again. That the installed one does changes nothing about it.
        assert!(matches!(place.look("base"), Found::Newer { .. }));
        place.came_up(&from).unwrap();
        assert!(matches!(place.look("base"), Found::Newer { .. }));
        ignored(&place, "base", "did not come up 3 times");
        // Whoever wants it again puts it in place again.
        place.keep(&received, "2", "base").unwrap();
        for _ in 0..5 {
            assert!(matches!(place.look("base"), Found::Newer { .. }));
            place.came_up(&received).unwrap();
        }
        // The next one takes its place, and its file goes.
        fs::write(&from, "another program").unwrap();
        let next = place.receive(&mut File::open(&from).unwrap()).unwrap();
        assert_ne!(next, received);
        place.keep(&next, "3", "base").unwrap();
        assert!(!received.exists() && next.exists());
        fs::write(&next, "another prognam").unwrap();
        ignored(&place, "base", "hash");
    }

    #[track_caller]
    fn ignored(place: &Place, over: &str, why: &str) {
        match place.look(over) {
            Found::Ignored(said) => assert!(said.contains(why), "{said}"),
            other => panic!("{other:?}"),
        }
    }

    /// A place with a program that is noted over `base`.
    fn noted() -> (tempfile::TempDir, Place, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::below(dir.path());
        let from = dir.path().join("from");
        fs::write(&from, "a program").unwrap();
        let received = place.receive(&mut File::open(&from).unwrap()).unwrap();
        place.keep(&received, "2", "base").unwrap();
        (dir, place, received)
    }

    #[test]
    fn a_program_that_was_installed_since_ends_the_note_for_good() {
        let (_dir, place, _) = noted();
        ignored(&place, "another base", "installed since");
        assert!(matches!(place.look("base"), Found::Nothing), "it stays gone");
    }

    #[test]
    fn a_damaged_note_is_none() {
        let (_dir, place, received) = noted();
        let note = place.path().join(NOTE);
        for damaged in ["", "{\"format\": 1, \"fi", "{\"format\": 1}", "none"] {
            fs::write(&note, damaged).unwrap();
            place.came_up(&received).unwrap();
            place.keep(&received, "2", "base").unwrap();
            assert!(matches!(place.look("base"), Found::Newer { .. }));
            fs::write(&note, damaged).unwrap();
            ignored(&place, "base", "its note is damaged");
            assert!(!note.exists(), "it is gone for good");
        }
        fs::write(&note, "none").unwrap();
        place.tidy(&[&received]).unwrap();
        assert!(received.exists(), "it is in use");
        place.tidy(&[]).unwrap();
        assert!(!received.exists());
        // One of a later version is left to that.
        fs::write(&note, "{\"format\": 2}").unwrap();
        ignored(&place, "base", "its note has format 2");
        assert!(note.exists());
    }

    #[test]
    fn an_installed_program_that_cannot_be_looked_at_drops_no_note() {
        let (_dir, place, received) = noted();
        ignored(&place, "", "cannot be looked at");
        assert!(matches!(place.look("base"), Found::Newer { .. }));
        assert!(place.keep(&received, "2", "").is_err());
        assert!(matches!(place.look("base"), Found::Newer { .. }));
    }

    #[test]
    fn a_disk_that_takes_nothing_has_no_say_in_what_program_runs() {
        let (_dir, place, _) = noted();
        // Nothing can be written under that name.
        fs::create_dir(place.path().join("tries.new")).unwrap();
        for _ in 0..5 {
            assert!(matches!(place.look("base"), Found::Newer { .. }));
        }
    }

    #[test]
    fn what_others_may_change_is_not_executed() {
        let (dir, place, program) = noted();
        let mode = |path: &Path, mode| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(path, mode).unwrap();
        };
        assert!(matches!(place.look("base"), Found::Newer { .. }));
        mode(place.path(), 0o777);
        ignored(&place, "base", "others may write to it");
        mode(place.path(), 0o700);
        mode(&program, 0o720);
        ignored(&place, "base", "others may write to it");
        mode(&program, 0o700);
        std::os::unix::fs::chown(&program, Some(1), None).unwrap();
        ignored(&place, "base", "does not belong to root");
        std::os::unix::fs::chown(&program, Some(0), None).unwrap();
        assert!(matches!(place.look("base"), Found::Newer { .. }));
        // Nor what a link leads to.
        let elsewhere = dir.path().join("elsewhere");
        fs::rename(&program, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &program).unwrap();
        ignored(&place, "base", "cannot be used");
        fs::remove_file(&program).unwrap();
        fs::rename(&elsewhere, &program).unwrap();
        fs::rename(place.path(), &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, place.path()).unwrap();
        ignored(&place, "base", "cannot be used");
        let mut from = File::open(dir.path().join("from")).unwrap();
        assert!(place.receive(&mut from).is_err(), "nothing is put through a link");
    }
}
