//! What a volume may hold, as its options `size` and `inodes` say.
//!
//! Bytes are counted as the objects at rest weigh: by the sizes of files, holes included. Growth is
//! charged before it is acknowledged; what a crash leaves is counted anew from the records.

use parking_lot::Mutex;

use super::{Fs, FsError, StatFs};
use crate::data::{Inode, Volume};

/// Bytes in use. Counting exactly visits every uncommitted inode, so growth is added to what was counted
/// last, and only a sum past the limit is counted again: removals show then.
#[derive(Debug, Default)]
pub(super) struct Quota {
    charged: Mutex<Option<u64>>,
}

/// Bytes that the volume's files hold, uncommitted growth included.
fn used(volume: &Volume) -> u64 {
    volume.meta.superblock().bytes.saturating_add(volume.growth())
}

impl Quota {
    /// Growth by `more` bytes, or ENOSPC.
    fn charge(&self, volume: &Volume, limit: u64, more: u64) -> Result<(), FsError> {
        let mut charged = self.charged.lock();
        let fits = |used: &u64| used.saturating_add(more) <= limit;
        // Objects that others put are not charged, but recorded.
        let recorded = volume.meta.superblock().bytes;
        let known = charged.map(|charged| charged.max(recorded));
        let before = known.filter(fits).unwrap_or_else(|| used(volume));
        *charged = Some(before);
        if !fits(&before) {
            return Err(FsError::NoSpace(format!("the volume's size is limited to {limit} bytes")));
        }
        *charged = Some(before + more);
        Ok(())
    }
}

impl Fs {
    /// Before a file grows to `end`. A file that does not grow is never refused.
    pub(super) fn may_grow(&self, inode: &Inode, end: u64) -> Result<(), FsError> {
        let Some(limit) = self.volume.tuned().size else { return Ok(()) };
        let (size, committed) = {
            let live = inode.live();
            (live.size, live.content.size)
        };
        if end <= size {
            return Ok(());
        }
        // What was cut and is not committed yet still counts as in use.
        self.quota.charge(&self.volume, limit, end.saturating_sub(size.max(committed)))
    }

    /// Before room up to `end` is reserved in a file: no more than `df` shows, also where nothing limits the
    /// volume. Where something does, growth is refused anyway.
    pub(super) fn may_reserve(&self, inode: &Inode, end: u64) -> Result<(), FsError> {
        if self.volume.tuned().size.is_some() {
            return Ok(());
        }
        let free = StatFs::of(&self.volume.tuned(), used(&self.volume), 0).free;
        match end.saturating_sub(inode.live().size) > free {
            true => Err(FsError::NoSpace(format!("the volume has {free} bytes left"))),
            false => Ok(()),
        }
    }

    /// Before an inode is made, in a volume that holds `inodes`.
    pub(super) fn may_add_inode(&self, inodes: u64) -> Result<(), FsError> {
        match self.volume.tuned().inodes {
            Some(limit) if inodes >= limit => {
                Err(FsError::NoSpace(format!("the volume is limited to {limit} inodes")))
            }
            _ => Ok(()),
        }
    }

    /// What `df` shows: the quota where there is one, else more than anybody will fill.
    pub async fn statfs(&self) -> Result<StatFs, FsError> {
        let used = used(&self.volume);
        let inodes = self.volume.meta.superblock().inodes;
        let shown = StatFs::of(&self.volume.tuned(), used, inodes);
        let local = self.volume.local_files_free().unwrap_or(u64::MAX);
        Ok(StatFs { files_free: shown.files_free.min(local), ..shown })
    }
}
