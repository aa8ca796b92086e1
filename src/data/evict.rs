//! Eviction: clean cached bytes make room for others. Uncommitted bytes are never touched.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{DataError, Inode, Volume};

impl Volume {
    /// Punches the least recently used clean ranges when the cache is over its size; in the end those
    /// of `reader` itself, but for the range that it was just given.
    pub(super) fn evict_if_full(&self, reader: &Arc<Inode>, keep: Range<u64>) {
        self.evict_files();
        let limit = self.options.cache_size;
        let over = || self.cached_bytes.load(Ordering::Relaxed) > limit - limit / 10;
        if self.cached_bytes.load(Ordering::Relaxed) <= limit {
            return;
        }
        let mut victims: Vec<_> = self
            .inodes
            .all()
            .into_iter()
            .filter(|inode| inode.ino != reader.ino)
            .filter_map(|inode| {
                let live = inode.live();
                let used = (!live.cache.present.is_empty()).then_some(live.used_at);
                drop(live);
                used.map(|used| (used, inode))
            })
            .collect();
        victims.sort_by_key(|(used, _)| *used);
        for (_, inode) in victims {
            if !over() {
                return;
            }
            if let Err(error) = self.evict(&inode) {
                tracing::warn!(ino = %inode.ino, %error, "clean bytes could not be evicted");
            }
        }
        if over()
            && let Err(error) = self.evict_but(reader, keep)
        {
            tracing::warn!(ino = %reader.ino, %error, "clean bytes could not be evicted");
        }
    }

    /// Removes the cache files of the least recently used files that are in the bucket when there are
    /// too many: a million small files need not be a million local inodes.
    pub(super) fn evict_files(&self) {
        let count = || self.cache_files.load(Ordering::Relaxed);
        if count() <= self.most_cache_files {
            return;
        }
        let mut victims: Vec<_> = self
            .inodes
            .all()
            .into_iter()
            .filter_map(|inode| {
                let live = inode.live();
                let clean = live.cache.exists() && live.pending.is_clean();
                let used = clean.then_some(live.used_at);
                drop(live);
                used.map(|used| (used, inode))
            })
            .collect();
        victims.sort_by_key(|(used, _)| *used);
        for (_, inode) in victims {
            // A tenth more, so that not every commit has to look at all of them.
            if count() <= self.most_cache_files - self.most_cache_files / 10 {
                return;
            }
            if let Err(error) = self.evict(&inode) {
                tracing::warn!(ino = %inode.ino, %error, "a clean cache file could not be removed");
            }
        }
    }

    fn evict_but(&self, inode: &Inode, keep: Range<u64>) -> Result<(), DataError> {
        let mut live = inode.live();
        live.version += 1;
        for range in [0..keep.start, keep.end..u64::MAX] {
            let old: Vec<_> = live.cache.present.overlapping(range).map(|(r, ())| r).collect();
            for part in old {
                self.cached_less(part.end - part.start);
                live.cache.present.remove(part.clone());
                live.cache.punch(part).map_err(|e| DataError::disk(inode.ino, e))?;
            }
        }
        Ok(())
    }

    /// Drops all clean cached bytes of an inode.
    pub fn evict(&self, inode: &Inode) -> Result<(), DataError> {
        let mut live = inode.live();
        live.version += 1;
        let present = std::mem::take(&mut live.cache.present);
        self.cached_less(present.total());
        if live.pending.is_clean() {
            return live.cache.remove().map_err(|e| DataError::disk(inode.ino, e));
        }
        let punched = present.iter().try_for_each(|(range, ())| live.cache.punch(range));
        if !inode.is_open() {
            live.cache.close();
        }
        punched.map_err(|e| DataError::disk(inode.ino, e))
    }

    /// Drops every clean cached byte of the volume.
    pub fn evict_all(&self) -> Result<(), DataError> {
        for inode in self.inodes.all() {
            self.evict(&inode)?;
        }
        Ok(())
    }
}
