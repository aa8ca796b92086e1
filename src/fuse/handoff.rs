//! What a worker leaves for the next one that serves the same mount: the kernel's INIT request and
//! the reply to it, which the kernel exchanges only once in the life of a mount.
//!
//! Lives on the local disk in the volume's folder and is worth as much as the mount: nothing once the
//! host has restarted, so that it is replaced as a whole but never synced.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::FuseError;

/// Where the agreement with the kernel is kept.
#[derive(Debug, Clone)]
pub struct HandoffFiles {
    path: PathBuf,
}

/// The one exchange of INIT of a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Agreement {
    pub(super) request: Vec<u8>,
    pub(super) reply: Vec<u8>,
    /// The kernel certainly has the reply.
    pub(super) answered: bool,
}

impl HandoffFiles {
    /// Keeps it in `state_dir`, which must exist and be one volume's.
    pub fn new(state_dir: &Path) -> Self {
        HandoffFiles { path: state_dir.join("fuse-init") }
    }

    /// Forgets the mount. For when it was unmounted; leaving it out does no harm, because a new mount
    /// is recognised by its INIT.
    pub fn clear(&self) -> Result<(), FuseError> {
        crate::sys::remove_if_there(&self.path).map_err(|e| self.failed(e))
    }

    pub(super) fn load(&self) -> Result<Option<Agreement>, FuseError> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(self.failed(e)),
        };
        match postcard::from_bytes(&bytes) {
            Ok(agreement) => Ok(Some(agreement)),
            // Cut short by a crash of the host, so the mount is gone, too.
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "ignoring an unreadable file");
                Ok(None)
            }
        }
    }

    pub(super) fn store(&self, agreement: &Agreement) -> Result<(), FuseError> {
        let bytes = postcard::to_stdvec(agreement).map_err(|e| self.failed(e))?;
        let temporary = self.path.with_extension("tmp");
        std::fs::write(&temporary, bytes)
            .and_then(|()| std::fs::rename(&temporary, &self.path))
            .map_err(|e| self.failed(e))
    }

    fn failed(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> FuseError {
        FuseError::Handoff { path: self.path.clone(), source: source.into() }
    }
}
