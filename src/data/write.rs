//! Changing content: writes, zeroing, sizes. Cache file first, then the log record, then the reply.

use std::sync::Arc;

use super::room::{less, more};
use super::{DataError, Dirty, Inode, Live, Patience, Volume};
use crate::fault::{Mutant, at, points};
use crate::meta::{Change, Record, Weight};
use crate::types::{Ino, Lsn, Timestamp};

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
        self.with_room(data.len() as u64, || self.write_now(inode, offset, data)).await
    }

    fn write_now(&self, inode: &Arc<Inode>, offset: u64, data: &[u8]) -> Result<(), DataError> {
        let end = offset + data.len() as u64;
        let time = crate::clock::now();
        let (eager, streams, ino) = {
            let mut live = inode.live();
            live.in_use(inode.ino)?;
            let size = live.size.max(end);
            let record = match Mutant::ReplyBeforeLog.lives() {
                true => Record::Durable { through: Lsn(0) },
                false => Record::Wrote { ino: inode.ino, start: offset, end, size, time },
            };
            at(points::PWRITE_BEFORE);
            let written =
                live.cache.write_at(offset, data).map_err(|e| DataError::disk(inode.ino, e));
            at(points::PWRITE_AFTER);
            let logged = written.and_then(|()| Ok(self.meta.journal.lock().append(&record)?));
            let lsn = logged.inspect_err(|_| live.spoil(offset..end))?;
            self.changed(&mut live, lsn, offset..end, Change::Data, size, time);
            let much = live.pending.data_bytes() >= self.eager_commit();
            (much, live.ends_block(end), inode.ino)
        };
        inode.close_unused();
        self.mark_dirty(inode);
        if eager {
            tracing::trace!(%ino, "much to commit");
            self.commit_wanted.notify_one();
        } else if streams {
            self.block_ended.notify_one();
        }
        Ok(())
    }

    /// Makes a change that needs `bytes` in the cache as soon as there is room for it. A disk may be
    /// fuller than it looked.
    async fn with_room(
        &self,
        bytes: u64,
        change: impl Fn() -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let mut patience = Patience::new(self, self.meta.patience());
        loop {
            self.room_for(bytes, &mut patience).await?;
            match change() {
                Err(error) if error.is_full() && !patience.until().passed() => {
                    tracing::debug!(%error, "waiting for room");
                    self.room.met_full();
                    self.evict_files();
                }
                done => return done,
            }
        }
    }

    /// Makes `start..end` read as zeros; the file then has `size` bytes.
    pub async fn zero(
        &self,
        inode: &Arc<Inode>,
        start: u64,
        end: u64,
        keep_size: bool,
    ) -> Result<(), DataError> {
        self.with_room(0, || self.zero_now(inode, start, end, keep_size)).await
    }

    fn zero_now(
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
            unless_freed(inode.ino, live.cache.give_back(start..end).map(drop));
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
        let before = live.pending.weight();
        live.pending.changed(lsn, range.start, range.end, change, size);
        self.dirty_adjust(before, live.pending.weight());
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
    ///
    /// truncate(2) needs no handle: it counts as one meanwhile, so that nobody takes the file away under it.
    pub async fn set_size(&self, inode: &Arc<Inode>, size: u64) -> Result<(), DataError> {
        let Some(_kept) = Kept::new(self, inode).await else {
            return Err(DataError::Gone(inode.ino));
        };
        self.with_room(0, || self.cut_now(inode, size)).await
    }

    fn cut_now(&self, inode: &Arc<Inode>, size: u64) -> Result<(), DataError> {
        let time = crate::clock::now();
        {
            let mut live = inode.live();
            live.in_use(inode.ino)?;
            let record = Record::Cut { ino: inode.ino, size, time };
            let lsn = self.meta.journal.lock().append(&record)?;
            let before = live.pending.weight();
            live.pending.cut(lsn, size);
            self.dirty_adjust(before, live.pending.weight());
            unless_freed(inode.ino, live.cache.cut(size));
            if size <= live.size {
                live.attr.reserved = live.attr.reserved.min(size);
            }
            if size < live.size {
                // What a fetch brings from behind it is not this file's any more.
                live.version += 1;
            }
            live.size = size;
            live.attr.mtime = time;
            live.attr.ctime = time;
            live.write_seq += 1;
            live.changed_at = crate::clock::boottime();
        }
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
        dirty
            .entry(inode.ino)
            .or_insert_with(|| Dirty { inode: Arc::clone(inode), since: crate::clock::boottime() });
    }

    /// Counts what is uncommitted of one inode.
    pub(super) fn dirty_adjust(&self, before: Weight, after: Weight) {
        let adjust = |counter, before: u64, after: u64| match after >= before {
            true => more(counter, after - before),
            false => less(counter, before - after),
        };
        adjust(&self.dirty_bytes, before.bytes, after.bytes);
        adjust(&self.dirty_ranges, before.ranges, after.ranges);
    }
}

/// Keeps an inode as an open handle does.
struct Kept<'v> {
    volume: &'v Volume,
    inode: &'v Arc<Inode>,
}

impl<'v> Kept<'v> {
    /// `None`: the inode is gone.
    async fn new(volume: &'v Volume, inode: &'v Arc<Inode>) -> Option<Self> {
        inode.count_open().await.then_some(Kept { volume, inode })
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        if self.inode.count_closed() {
            self.inode.close_unused();
            if self.inode.live().attr.nlink == 0 {
                // It lost its last name meanwhile.
                self.volume.wants_tidying();
            }
        }
    }
}

/// The change is in the log by now. Nothing reads what it hides, so that it only costs space when the
/// local disk does not let it go.
fn unless_freed(ino: Ino, freed: std::io::Result<()>) {
    if let Err(error) = freed {
        tracing::warn!(%ino, %error, "space in a cache file was not given back");
    }
}
