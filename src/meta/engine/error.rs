//! Engine errors, named by what the caller must do.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;

use crate::types::{Epoch, Lsn};

/// The cause below an engine error.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// An error of the engine.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// Another host writes this volume now. Final.
    #[error(
        "another host has taken over this volume (its epoch is {found}, ours was {ours}); \
         changes that were not yet synced stay in this host's recovery folder"
    )]
    Fenced { ours: Epoch, found: Epoch },
    /// The bucket did not answer as it should; trying later can help.
    #[error("the volume's metadata in the bucket cannot be reached")]
    Unavailable(#[source] Cause),
    /// The caller's deadline passed; what was begun goes on.
    #[error("the volume's metadata did not reach the bucket in time")]
    Deadline,
    /// What lies in the bucket cannot be read, and trying again did not help.
    #[error("the volume's metadata in the bucket is damaged")]
    Damaged(#[source] Cause),
    /// The engine was closed.
    #[error("the volume's metadata is closed")]
    Closed,
    /// A batch with a sequence number that is not greater than the last one's.
    #[error("batch {} was handed over after batch {}", given.0, last.0)]
    OutOfOrder { last: Lsn, given: Lsn },
    /// A batch or lookup with an empty or reserved key.
    #[error("the key is empty or reserved")]
    BadKey,
}

impl EngineError {
    /// Whether this engine will never work again.
    pub fn is_final(&self) -> bool {
        matches!(self, EngineError::Fenced { .. } | EngineError::Closed)
    }

    pub(in crate::meta) fn from_slate(error: slatedb::Error) -> Self {
        match error.kind() {
            slatedb::ErrorKind::Data => EngineError::Damaged(Arc::new(error)),
            _ => EngineError::Unavailable(Arc::new(error)),
        }
    }
}

/// Work of the engine on files that somebody may have edited: where it panics at them, they are damaged.
pub(in crate::meta) async fn guarded<T>(
    work: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    let panic = match AssertUnwindSafe(work).catch_unwind().await {
        Ok(done) => return done,
        Err(panic) => panic,
    };
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    let why = std::io::Error::other(format!("the engine cannot read its files: {text}"));
    Err(EngineError::Damaged(Arc::new(why)))
}
