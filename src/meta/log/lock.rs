//! One worker a state folder.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

use super::LogError;

const FILE: &str = "lock";

/// Held as long as this value lives; the kernel frees it when the process ends, however it ends.
#[derive(Debug)]
pub struct StateDirLock(#[expect(dead_code, reason = "held, not used")] Flock<File>);

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
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io_error)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                let holder = std::process::id().to_string();
                // In place: on a full disk an emptied file would stay so. It serves a message only.
                let named = lock
                    .write_all(holder.as_bytes())
                    .and_then(|()| lock.set_len(holder.len() as u64));
                if let Err(error) = named {
                    tracing::debug!(%error, "the lock does not say who holds it");
                }
                Ok(StateDirLock(lock))
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).map_err(io_error)?;
                Err(LogError::InUse { path: dir.to_owned(), holder })
            }
            Err((_, errno)) => Err(io_error(errno.into())),
        }
    }
}
