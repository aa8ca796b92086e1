//! Settling because somebody asks for it: in slices of time, each of which says how far it came, so that
//! whoever waits needs no connection that lives as long.

use std::time::Duration;

use super::Shared;
use super::commits::commit_all;
use crate::clock::Deadline;
use crate::config::SettleMode;
use crate::worker::error::chain;
use crate::worker::{SettleReply, WorkerError};

/// After this long a caller hears how far it is.
const SLICE: Duration = Duration::from_secs(3);

impl Shared {
    /// Commits everything, and settles for a slice of time what can be settled, files with writers too.
    pub async fn settle_slice(&self) -> SettleReply {
        let deadline = Deadline::after(SLICE);
        let committed = commit_all(&self.volume, SLICE).await;
        let settled = match &committed {
            Ok(()) => self.settler.settle_all(deadline).await.map(drop).map_err(WorkerError::from),
            Err(_) => Ok(()),
        };
        let status = self.settler.status();
        // Looked at like everything else in the index; where that does not answer, the count does.
        let left = tokio::time::timeout(SLICE, self.settler.left()).await;
        let (files, bytes) = match left {
            Ok(Ok(left)) => (left.files, left.bytes),
            Ok(Err(_)) | Err(_) => (status.unsettled, None),
        };
        SettleReply {
            uncommitted_bytes: self.volume.uncommitted_bytes(),
            unsettled_files: files,
            unsettled_bytes: bytes,
            stuck: files > 0 && settled.is_ok() && committed.is_ok() && !deadline.passed(),
            late: self.settler.has_late(),
            never: self.spec.options.settle == SettleMode::Never,
            unsettleable: status.unsettleable,
            error: committed.and(settled).err().map(|error| chain(&error)),
        }
    }
}
