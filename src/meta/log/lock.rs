//! One worker a state folder.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

use super::LogError;

const FILE: &str = "lock";

/// Held as long as this value lives; the kernel frees it when the process ends, however it ends.
#[derive(Debug)]
pub struct StateDirLock(Flock<File>);

impl StateDirLock {
    /// Deletes the file of the lock, for a folder that is to go. Who locks it anew makes another one.
    pub fn remove(&self, dir: &Path) {
        // One that stays is locked again by the next.
        let _ = std::fs::remove_file(dir.join(FILE));
    }

    /// Locks `dir`, which must exist, or says which process has it. Does not wait.
    pub fn acquire(dir: &Path) -> Result<Self, LogError> {
        let path = dir.join(FILE);
        let io_error = |source| LogError::io(&path, source);
        // Whoever had it may have deleted the file while it was opened here.
        for _ in 0..16 {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(io_error)?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) if is_at(&lock, &path).map_err(io_error)? => {
                    let lock = StateDirLock(lock);
                    // It serves a message only, and a full disk is mounted all the same.
                    if let Err(error) = lock.write(&format!("{}\n", std::process::id())) {
                        tracing::debug!(%error, "the lock does not say who holds it");
                    }
                    return Ok(lock);
                }
                Ok(_deleted) => {}
                Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                    let mut text = String::new();
                    file.read_to_string(&mut text).map_err(io_error)?;
                    let holder = text.lines().next().unwrap_or_default().to_owned();
                    return Err(LogError::InUse { path: dir.to_owned(), holder });
                }
                Err((_, errno)) => return Err(io_error(errno.into())),
            }
        }
        Err(LogError::InUse { path: dir.to_owned(), holder: "that is just ending".into() })
    }

    /// Writes down which mount the holder serves, as the device of a mount table, for whoever finds it dead.
    pub fn note_mount(&self, device: &str) -> io::Result<()> {
        self.write(&format!("{}\n{device}\n", std::process::id()))
    }

    /// Whether the mount of `device` was served by a process that had `dir` and was killed.
    pub fn served_dead(dir: &Path, device: &str) -> bool {
        let noted = std::fs::read_to_string(dir.join(FILE));
        noted.is_ok_and(|text| text.lines().nth(1) == Some(device)) && Self::acquire(dir).is_ok()
    }

    fn write(&self, text: &str) -> io::Result<()> {
        // In place: on a full disk an emptied file would stay so.
        self.0.write_all_at(text.as_bytes(), 0)?;
        self.0.set_len(text.len() as u64)
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(there) => Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}
