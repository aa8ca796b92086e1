//! Eviction: clean cached bytes make room for others. Uncommitted bytes are never touched.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{DataError, Inode, Volume};

impl Volume {
    /// Punches the least recently used clean ranges when the cache is over its size. `keep` was just
    /// filled for a reader.
    pub(super) fn evict_if_full(&self, keep: &Arc<Inode>) {
        let limit = self.options.cache_size;
        if self.cached_bytes.load(Ordering::Relaxed) <= limit {
            return;
        }
        let mut victims: Vec<_> = self
            .inodes
            .all()
            .into_iter()
            .filter(|inode| inode.ino != keep.ino)
            .filter_map(|inode| {
                let live = inode.live();
                let used = (!live.cache.present.is_empty()).then_some(live.used_at);
                drop(live);
                used.map(|used| (used, inode))
            })
            .collect();
        victims.sort_by_key(|(used, _)| *used);
        for (_, inode) in victims {
            if self.cached_bytes.load(Ordering::Relaxed) <= limit - limit / 10 {
                return;
            }
            if let Err(error) = self.evict(&inode) {
                tracing::warn!(ino = %inode.ino, %error, "clean bytes could not be evicted");
            }
        }
    }

    /// Drops all clean cached bytes of an inode.
    pub fn evict(&self, inode: &Inode) -> Result<(), DataError> {
        let mut live = inode.live();
        let present = std::mem::take(&mut live.cache.present);
        self.cached_less(present.total());
        if live.pending.is_clean() {
            return live.cache.remove().map_err(|e| DataError::disk(inode.ino, e));
        }
        for (range, ()) in present.iter() {
            live.cache.punch(range).map_err(|e| DataError::disk(inode.ino, e))?;
        }
        Ok(())
    }

    /// Drops every clean cached byte of the volume.
    pub fn evict_all(&self) -> Result<(), DataError> {
        for inode in self.inodes.all() {
            self.evict(&inode)?;
        }
        Ok(())
    }
}
