//! The file system of one mounted volume: its parts, and what all operations share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::quota::Quota;
use super::{Attr, FileHandle, Fs, FsError};
use crate::data::{DataError, Inode, Outside, Volume};
use crate::fault::Mutant;
use crate::meta::records::{ContentRec, InodeRec};
use crate::meta::{Record, keys};
use crate::types::{Caller, FileKind, Ino};

/// How long the kernel may believe names and attributes. Short, because a hit costs microseconds, and
/// because what others do to the bucket has to show within `refresh`.
const TTL: Duration = Duration::from_secs(1);

/// How long an fsync waits for a bucket that takes nothing before it fails with EIO. The data stays in the
/// local log and goes up when the bucket is back.
pub(super) const SYNC_TIMEOUT: Duration = Duration::from_secs(60);

/// Records of inodes that were read together.
#[derive(Debug, Default)]
pub(super) struct AttrRows {
    /// Of the table of inodes, before the records were read.
    pub ticket: u64,
    pub inodes: HashMap<Ino, InodeRec>,
    pub contents: HashMap<Ino, ContentRec>,
}

impl AttrRows {
    /// The records of an inode that was not in memory when the ticket was `now`. If any were dropped since, it may
    /// have been one of them, and changed before.
    fn of(&self, ino: Ino, now: u64) -> Option<(InodeRec, Option<ContentRec>)> {
        let rec = self.inodes.get(&ino).filter(|_| now == self.ticket)?;
        Some((rec.clone(), self.contents.get(&ino).cloned()))
    }
}

impl Fs {
    pub fn new(volume: Arc<Volume>, outside: Arc<dyn Outside>) -> Self {
        Fs { volume, outside, next_handle: AtomicU64::new(1), quota: Quota::default() }
    }

    /// The volume below.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    pub(super) fn new_handle(&self) -> FileHandle {
        FileHandle(self.next_handle.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether the worker that died before had carried this request out: the kernel sends what was
    /// not answered once more, and doing it twice would fail or undo it.
    pub(super) fn answered(&self, caller: &Caller) -> bool {
        caller.resent
            && caller.unique != 0
            && !Mutant::ResentAnew.lives()
            && self.volume.meta.journal.lock().answered(caller.unique)
    }

    /// Whether the worker that died before had counted the handle that this request opens.
    pub(super) fn counted(&self, caller: &Caller) -> bool {
        caller.resent && caller.unique != 0 && self.volume.meta.journal.lock().opened(caller.unique)
    }

    /// Counts a new handle: an inode without a name lives while one is open.
    pub(super) async fn count_open(&self, caller: &Caller, inode: &Inode) -> Result<(), FsError> {
        if self.counted(caller) {
            return Ok(());
        }
        if !inode.count_open().await {
            // The kernel looks the name up again.
            return Err(FsError::Stale);
        }
        let counted = self.log_open(caller, inode);
        if counted.is_err() && inode.count_closed() && inode.live().attr.nlink == 0 {
            // It lost its last name meanwhile, and was kept for this handle.
            self.volume.wants_tidying();
        }
        counted
    }

    fn log_open(&self, caller: &Caller, inode: &Inode) -> Result<(), FsError> {
        let meta = &self.volume.meta;
        let (conn, unique, ino) = (meta.connection(), caller.unique, inode.ino);
        let record = Record::OpenedBy { conn, unique, ino };
        meta.journal.lock().append(&record).map_err(DataError::from)?;
        if unique != 0 {
            crate::fault::die_if_asked(crate::fault::DIE_LOGGED);
        }
        Ok(())
    }

    /// Inodes are kept by use and by size of the table, not by the kernel's lookups: nothing to do.
    pub fn forget(&self, _ino: Ino, _count: u64) {}

    pub(super) async fn inode(&self, ino: Ino) -> Result<Arc<Inode>, FsError> {
        self.volume.inode(ino).await.map_err(|e| match e {
            DataError::Gone(_) => FsError::Stale,
            other => other.into(),
        })
    }

    /// The inode with its attributes, read from its object if that was not done yet.
    pub(super) async fn known(&self, ino: Ino) -> Result<Arc<Inode>, FsError> {
        let inode = self.inode(ino).await?;
        if !inode.live().attr.known {
            self.outside.attributes(ino).await?;
        }
        Ok(inode)
    }

    /// The inode, which must be a directory.
    pub(super) async fn directory(&self, ino: Ino) -> Result<Arc<Inode>, FsError> {
        let inode = self.inode(ino).await?;
        let kind = inode.live().attr.kind;
        if kind == FileKind::Dir { Ok(inode) } else { Err(FsError::NotDir) }
    }

    pub(super) fn attr_of(&self, inode: &Inode) -> Attr {
        let live = inode.live();
        let data = live.content.allocated().saturating_add(live.pending.data_bytes());
        self.attr_from(inode.ino, &live.attr, live.size, data)
    }

    /// `data`: how many bytes of a file are not holes.
    pub(super) fn attr_from(&self, ino: Ino, rec: &InodeRec, size: u64, data: u64) -> Attr {
        Attr::of(ino, rec, size, data, TTL.min(self.volume.tuned().refresh))
    }

    /// Attributes without making the inode live; `None` when they would cost a request.
    pub(super) async fn peek_in(&self, rows: &AttrRows, ino: Ino) -> Result<Option<Attr>, FsError> {
        if let Some(inode) = self.volume.inodes.get(ino) {
            let known = inode.live().attr.known;
            return Ok(known.then(|| self.attr_of(&inode)));
        }
        let meta = &self.volume.meta;
        let (rec, content) = match rows.of(ino, self.volume.inodes.ticket()) {
            Some((rec, content)) => (Some(rec), content),
            None => (meta.get::<InodeRec>(&keys::inode(ino)).await?, None),
        };
        let Some(rec) = rec else { return Ok(None) };
        if !rec.known {
            return Ok(None);
        }
        let (size, data) = match (&rec.target, rec.kind) {
            (Some(target), _) => (target.len() as u64, 0),
            (None, FileKind::File) => {
                let content: ContentRec = match content {
                    Some(content) => content,
                    None => meta.get(&keys::content(ino)).await?.unwrap_or_default(),
                };
                (content.size, content.allocated())
            }
            (None, _) => (0, 0),
        };
        Ok(Some(self.attr_from(ino, &rec, size, data)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_not_believed_once_an_inode_was_dropped_after_they_were_read() {
        let rec = InodeRec::new(FileKind::File, 0o644, crate::clock::now());
        let inodes = HashMap::from([(Ino(7), rec)]);
        let rows = AttrRows { ticket: 3, inodes, contents: HashMap::new() };
        assert!(rows.of(Ino(7), 3).is_some());
        assert!(rows.of(Ino(7), 4).is_none());
        assert!(rows.of(Ino(8), 3).is_none());
    }
}
