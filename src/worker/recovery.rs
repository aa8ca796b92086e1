//! Local state that belongs to another past is moved aside, never replayed and never deleted.

use std::path::{Path, PathBuf};

use super::WorkerError;

/// Moves the local log and the cache files to `recovery-<n>/` in the state folder.
pub(super) fn set_aside(state_dir: &Path) -> Result<PathBuf, WorkerError> {
    let mut number = 0;
    let aside = loop {
        let candidate = state_dir.join(format!("recovery-{number}"));
        match std::fs::create_dir(&candidate) {
            Ok(()) => break candidate,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(e) => return Err(WorkerError::local(candidate.display().to_string())(e)),
        }
    };
    for part in ["log", "cache"] {
        match std::fs::rename(state_dir.join(part), aside.join(part)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(WorkerError::local(aside.display().to_string())(e));
            }
            _ => {}
        }
    }
    Ok(aside)
}
