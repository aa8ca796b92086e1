//! Large files go up beside the rounds, one at a time: nobody else waits for hours until one file is sent. What is up
//! is kept, and published by a round like any other.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::body::part_size;
use super::kept::Upload;
use super::plan::Plan;
use super::{LONGEST_PAUSE, Settler};
use crate::clock::{Deadline, boottime};
use crate::types::{Ino, ObjectKey};

/// Files of more parts than this are not sent within a round.
const FEW_PARTS: u64 = 4;

/// The one file that is being sent, and who waits for it.
#[derive(Debug, Default)]
pub(super) struct Beside {
    sending: Arc<AsyncMutex<()>>,
    key: Mutex<Option<ObjectKey>>,
    waiting: Mutex<HashSet<Ino>>,
}

impl Beside {
    pub fn sends(&self, key: &ObjectKey) -> bool {
        self.sending.try_lock().is_err() && self.key.lock().as_ref() == Some(key)
    }
}

impl Settler {
    /// Whether a file of this size is sent beside the rounds. A volume that is being left has no other work.
    pub(super) fn goes_beside(&self, size: u64) -> bool {
        !self.hurried() && size > FEW_PARTS * part_size(size)
    }

    /// Begins to send it, or has it come again when another one is up.
    pub(super) fn send_beside(&self, key: ObjectKey, upload: Upload) -> Plan {
        let sending = Arc::clone(&self.beside.sending).try_lock_owned();
        let (Ok(turn), Some(this)) = (sending, self.this.upgrade()) else {
            self.beside.waiting.lock().insert(upload.ino());
            return Plan::Later(LONGEST_PAUSE);
        };
        *self.beside.key.lock() = Some(key.clone());
        tokio::spawn(async move { this.sent_beside(key, upload, turn).await });
        Plan::Later(LONGEST_PAUSE)
    }

    async fn sent_beside(
        self: Arc<Self>,
        key: ObjectKey,
        mut upload: Upload,
        turn: OwnedMutexGuard<()>,
    ) {
        let (ino, began) = (upload.ino(), boottime());
        tracing::info!(%key, size = upload.content.size, "a large file is sent beside the others");
        let sent = upload.send(&self, &key, None).await;
        let wait = match sent {
            Ok(body) => {
                upload.prepared = boottime().saturating_sub(began);
                if let Some(body) = body {
                    upload.body = Some(body);
                    self.keep_upload(key, upload).await;
                }
                Duration::ZERO
            }
            Err(error) if error.is_of_one() => match self.cannot_settle(ino, &error) {
                Plan::Later(wait) => wait,
                _ => LONGEST_PAUSE,
            },
            Err(error) => {
                self.volume.note_error(&error);
                tracing::warn!(%key, error = &error as &dyn std::error::Error, "a large file is not sent for now");
                LONGEST_PAUSE
            }
        };
        drop(turn);
        let now = boottime();
        self.schedule.by(ino, now + wait);
        for ino in std::mem::take(&mut *self.beside.waiting.lock()) {
            self.schedule.by(ino, now);
        }
        self.volume.settle_wanted.notify_one();
    }

    /// Waits until what is being sent beside the rounds is up, or given up; `false` when there is nothing, or when
    /// that takes longer.
    pub(super) async fn beside_ends(&self, deadline: Deadline) -> bool {
        if self.beside.sending.try_lock().is_ok() {
            return false;
        }
        tokio::time::timeout(deadline.left(), self.beside.sending.lock()).await.is_ok()
    }
}
