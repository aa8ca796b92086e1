//! Engine errors, named by what the caller must do.

use std::sync::Arc;

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
