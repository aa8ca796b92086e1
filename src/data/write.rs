//! Changing content: writes, zeroing, sizes. Cache file first, then the log record, then the reply.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{DataError, Inode, Live, Volume};
use crate::meta::{Change, Record};
use crate::types::{Ino, Lsn, Timestamp};

/// How long a writer waits for room before it gets EIO. Longer than a restart of a store, shorter
/// than the kernel's hung-task warning (120 s).
const ROOM_TIMEOUT: Duration = Duration::from_secs(60);

/// Uncommitted data of one inode that starts a commit by itself, bytes: long streams then overlap
/// with their upload.
const EAGER_COMMIT: u64 = 64 << 20;

impl Volume {
    /// Writes `data` at `offset`. It survives the process once this returns.
    ///
    /// Bytes go to the cache file before the record: what a crash leaves in between was never
    /// acknowledged, lies over uncommitted or absent bytes, and clean ranges are forgotten at start.
    pub async fn write(
        &self,
        inode: &Arc<Inode>,
        offset: u64,
        data: &[u8],
    ) -> Result<(), DataError> {
        if data.is_empty() {
            return Ok(());
        }
        self.room_for(data.len() as u64, ROOM_TIMEOUT).await?;
        let end = offset + data.len() as u64;
        let time = crate::clock::now();
        let (eager, ino) = {
            let mut live = inode.live();
            live.in_use(inode.ino)?;
            let size = live.size.max(end);
            let record = Record::Wrote { ino: inode.ino, start: offset, end, size, time };
            let written =
                live.cache.write_at(offset, data).map_err(|e| DataError::disk(inode.ino, e));
            let logged = written.and_then(|()| Ok(self.meta.journal.lock().append(&record)?));
            let lsn = logged.inspect_err(|_| {
                // What was clean there may be half of this write now.
                self.cached_less(live.cache.present.covered(offset..end));
                live.cache.present.remove(offset..end);
            })?;
            self.changed(&mut live, lsn, offset..end, Change::Data, size, time);
            (live.pending.data_bytes() >= EAGER_COMMIT, inode.ino)
        };
        inode.close_unused();
        self.mark_dirty(inode);
        if eager {
            tracing::trace!(%ino, "much to commit");
            self.commit_wanted.notify_one();
        }
        Ok(())
    }

    /// Makes `start..end` read as zeros; the file then has `size` bytes.
    pub async fn zero(
        &self,
        inode: &Arc<Inode>,
        start: u64,
        end: u64,
        keep_size: bool,
    ) -> Result<(), DataError> {
        let time = crate::clock::now();
        {
            let mut live = inode.live();
            live.in_use(inode.ino)?;
            let size = if keep_size { live.size } else { live.size.max(end) };
            let end = end.min(size);
            if start >= end {
                return Ok(());
            }
            let record = Record::Zeroed { ino: inode.ino, start, end, size, time };
            let lsn = self.meta.journal.lock().append(&record)?;
            self.changed(&mut live, lsn, start..end, Change::Zero, size, time);
            unless_freed(inode.ino, live.cache.punch(start..end));
        }
        inode.close_unused();
        self.mark_dirty(inode);
        Ok(())
    }

    fn changed(
        &self,
        live: &mut Live,
        lsn: Lsn,
        range: std::ops::Range<u64>,
        change: Change,
        size: u64,
        time: Timestamp,
    ) {
        let before = live.pending.data_bytes();
        live.pending.changed(lsn, range.start, range.end, change, size);
        self.dirty_adjust(before, live.pending.data_bytes());
        self.cached_less(live.cache.present.covered(range.clone()));
        live.cache.present.remove(range);
        live.size = size;
        live.attr.mtime = time;
        live.attr.ctime = time;
        live.write_seq += 1;
        live.changed_at = crate::clock::boottime();
        live.used_at = live.changed_at;
    }

    /// Sets the size: truncates or extends with zeros. Enters the engine with the next commit, so that
    /// a file rewritten after O_TRUNC keeps its old content until the new one is committed.
    pub async fn set_size(&self, inode: &Arc<Inode>, size: u64) -> Result<(), DataError> {
        let time = crate::clock::now();
        {
            let mut live = inode.live();
            live.in_use(inode.ino)?;
            let record = Record::Cut { ino: inode.ino, size, time };
            let lsn = self.meta.journal.lock().append(&record)?;
            let before = live.pending.data_bytes();
            live.pending.cut(lsn, size);
            self.dirty_adjust(before, live.pending.data_bytes());
            self.cached_less(live.cache.present.covered(size..u64::MAX));
            unless_freed(inode.ino, live.cache.cut(size));
            live.size = size;
            live.attr.mtime = time;
            live.attr.ctime = time;
            live.write_seq += 1;
            live.version += 1;
            live.changed_at = crate::clock::boottime();
        }
        inode.close_unused();
        self.mark_dirty(inode);
        Ok(())
    }

    /// Times that only the live inode has; the next timer commit stores them.
    pub fn mark_attr_dirty(&self, inode: &Arc<Inode>) {
        inode.live().attr_dirty = true;
        self.mark_dirty(inode);
    }

    pub(super) fn mark_dirty(&self, inode: &Arc<Inode>) {
        let mut dirty = self.dirty.lock();
        dirty.entry(inode.ino).or_insert_with(|| Arc::clone(inode));
    }

    pub(super) fn dirty_adjust(&self, before: u64, after: u64) {
        if after >= before {
            self.dirty_bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.dirty_less(before - after);
        }
    }

    pub(super) fn dirty_less(&self, bytes: u64) {
        less(&self.dirty_bytes, bytes);
    }

    pub(super) fn cached_less(&self, bytes: u64) {
        less(&self.cached_bytes, bytes);
    }
}

/// The change is in the log by now. Nothing reads what it hides, so that it only costs space when the
/// local disk does not let it go.
fn unless_freed(ino: Ino, freed: std::io::Result<()>) {
    if let Err(error) = freed {
        tracing::warn!(%ino, %error, "space in a cache file was not given back");
    }
}

/// A counter that would go below zero only shows a counting slip; it must not wrap.
pub(super) fn less(counter: &AtomicU64, bytes: u64) {
    let _ = counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some(now.saturating_sub(bytes)));
}
