//! How much waits to settle and since when, for whoever watches the volume.
//!
//! It is read from the queue of work, and only when the engine took something since the last look: an idle volume
//! is not read for it. Nothing here survives a crash, nor needs to.

use std::collections::HashMap;
use std::time::Duration;

use super::{SettleError, Settler};
use crate::clock::{boottime, now};
use crate::config::SettleMode;
use crate::meta::keys;
use crate::meta::records::{ContentRec, InodeRec};
use crate::types::{Ino, Lsn, PutId};

/// Rows that are looked at: the first ones of the queue.
const MOST: usize = 1000;

/// What is not at rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Files and directories, and names whose objects are to be deleted.
    pub files: u64,
    /// What the files hold; of more than 1,000 those that were looked at.
    pub bytes: u64,
    /// Boot time since when the oldest of them waits, no later than the look before the one that found it. `None`
    /// when nothing waits, and for a volume that never settles.
    pub since: Option<Duration>,
}

/// What the last look found.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Boot time.
    at: Duration,
    through: Option<Lsn>,
    waiting: Waiting,
    rows: HashMap<Ino, Row>,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    since: Duration,
    /// The object that showed it then: another one was published since, and what waits now is younger.
    shown: Option<PutId>,
}

impl Settler {
    /// What waits now.
    ///
    /// # Errors
    /// The engine's, when the queue cannot be read.
    pub async fn waiting(&self) -> Result<Waiting, SettleError> {
        let counters = self.volume.meta.superblock();
        let files = counters.work + counters.tidy;
        let mut seen = self.seen_waiting.lock().await;
        let through = self.volume.meta.engine.last_accepted();
        if seen.through != through || seen.at.is_zero() {
            let looked = boottime();
            let rows = self.rows(counters.work, &seen, looked).await?;
            let bytes = rows.iter().map(|(_, _, bytes)| bytes).sum();
            let rows: HashMap<_, _> = rows.into_iter().map(|(ino, row, _)| (ino, row)).collect();
            let never = self.volume.options.settle == SettleMode::Never;
            let since = rows.values().map(|row| row.since).min().filter(|_| !never);
            let waiting = Waiting { files, bytes, since };
            *seen = Seen { at: looked, through, waiting, rows };
        } else {
            seen.at = boottime();
        }
        Ok(Waiting { files, ..seen.waiting })
    }

    /// What the last look found, for whoever cannot wait for another one.
    pub fn waited(&self) -> Waiting {
        self.seen_waiting.try_lock().map(|seen| seen.waiting).unwrap_or_default()
    }

    async fn rows(
        &self,
        work: u64,
        seen: &Seen,
        looked: Duration,
    ) -> Result<Vec<(Ino, Row, u64)>, SettleError> {
        if work == 0 {
            return Ok(Vec::new());
        }
        let meta = &self.volume.meta;
        let queued = meta.scan(keys::below(keys::WORK, &[]), MOST).await?;
        let mut rows = Vec::with_capacity(queued.len());
        for ino in queued.iter().filter_map(|(key, _)| keys::parse_ino(key)) {
            let content: Option<ContentRec> = meta.get(&keys::content(ino)).await?;
            let shown = content.as_ref().and_then(|content| content.base.as_ref()?.put_id);
            let bytes = content.map_or(0, |content| content.size);
            let known = seen.rows.get(&ino).filter(|row| row.shown == shown);
            let since = match known {
                Some(row) => row.since,
                None => {
                    let attr: Option<InodeRec> = meta.get(&keys::inode(ino)).await?;
                    let changed = attr.map_or(0, |attr| attr.ctime.secs);
                    let age = now().secs.saturating_sub(changed).max(0).unsigned_abs();
                    // What was not there at the last look came since.
                    looked.saturating_sub(Duration::from_secs(age)).max(seen.at)
                }
            };
            rows.push((ino, Row { since, shown }, bytes));
        }
        Ok(rows)
    }
}
