//! How much of the local disk the cache may take, and waiting for room.
//!
//! A volume is as large as its bucket; the disk below the cache may be small, shared, and filled by others.
//! So the cache takes at most seven times of what it leaves free, beyond a reserve: the volumes of one
//! disk then get equal shares without knowing of each other, and all of them shrink when
//! somebody else fills it. First clean content goes; where there is none, writers wait for commits.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{DataError, Patience, Trash, Volume};
use crate::clock::boottime;
use crate::sys::DiskSpace;

/// What the disk has is believed for so long.
const LOOK: Duration = Duration::from_millis(200);
/// Of what can be had, the cache takes so many parts and leaves one.
const PARTS: u64 = 7;
/// Left to the log and the engine's mirror: a part of the disk, at most so many bytes.
const RESERVE_PART: u64 = 64;
const MOST_RESERVE: u64 = 64 << 20;
/// Of the cache so much may be on its way into it: uncommitted data takes up to half of it.
const COMING_PART: u64 = 4;
/// Cache files that a volume has at most, whatever the local disk could hold, and at least.
const MOST_FILES: u64 = 64 << 10;
const LEAST_FILES: u64 = 64;
/// A disk with fewer inodes left has run out of them, as far as a refused write tells.
const FEW_INODES: u64 = 16;

/// Uncommitted data that a volume holds at most before writers wait, bytes.
const DIRTY_LIMIT: u64 = 1 << 30;
/// Uncommitted data of one inode that starts a commit by itself, bytes: long streams then overlap
/// with their upload.
const EAGER_COMMIT: u64 = 64 << 20;
const LEAST_EAGER: u64 = 1 << 20;
/// What one changed range may add to a commit's record, bytes: two extents and what they replace.
const RANGE_RECORD: u64 = 256;
/// A commit of more comes in steps, and what they log becomes durable between them.
const STEPS: u64 = 1536 << 10;

/// Bytes that commits of so many ranges take in the log at a time.
pub(super) fn will_take(ranges: u64) -> u64 {
    (ranges * RANGE_RECORD).min(STEPS)
}

/// What cache files take on the local disk, and where large ones go.
#[derive(Debug, Default)]
pub struct Taken {
    pub(super) bytes: AtomicU64,
    pub(super) files: AtomicUsize,
    pub(super) trash: Option<Trash>,
}

impl Taken {
    /// Blocks, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed) as u64
    }
}

/// The share of one cache in its disk.
#[derive(Debug)]
pub struct Room {
    dir: PathBuf,
    /// The most that the options allow, bytes.
    most: AtomicU64,
    taken: Arc<Taken>,
    coming: Arc<OnTheWay>,
    seen: Mutex<Seen>,
}

/// All that is on its way into the cache.
#[derive(Debug, Default)]
struct OnTheWay {
    bytes: AtomicU64,
    /// Rung when it is less.
    less: Notify,
}

impl OnTheWay {
    fn less(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.less.notify_waiters();
    }
}

/// Room for bytes on their way, as long as they have not arrived.
#[derive(Debug)]
pub(super) struct Coming {
    left: AtomicU64,
    all: Arc<OnTheWay>,
}

impl Coming {
    /// So many of them are in the cache now.
    pub(super) fn arrived(&self, bytes: u64) {
        let less = |left: u64| Some(left.saturating_sub(bytes));
        let before = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        self.all.less(before.unwrap_or_else(|left| left).min(bytes));
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.all.less(self.left.load(Ordering::Relaxed));
    }
}

/// The disk as it was looked at last, and what the cache had then.
#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Duration,
    /// `None` when it cannot be told: then only the options count.
    space: Option<DiskSpace>,
    bytes: u64,
    files: u64,
}

impl Room {
    /// For the cache in `dir`, which must exist.
    pub fn new(dir: &Path, most: u64, trash: Trash) -> Self {
        let taken = Arc::new(Taken { trash: Some(trash), ..Taken::default() });
        let seen = Mutex::new(Seen::now(dir, &taken));
        Room {
            dir: dir.to_owned(),
            most: AtomicU64::new(most),
            taken,
            coming: Arc::default(),
            seen,
        }
    }

    /// What the cache's files count into.
    pub fn taken(&self) -> &Arc<Taken> {
        &self.taken
    }

    fn seen(&self) -> Seen {
        let mut seen = self.seen.lock();
        if boottime().saturating_sub(seen.at) >= LOOK {
            *seen = Seen::now(&self.dir, &self.taken);
        }
        *seen
    }

    /// Allows so many bytes from now on. What is above a smaller limit goes as room is needed.
    pub(super) fn allow(&self, most: u64) {
        self.most.store(most, Ordering::Relaxed);
        self.coming.less.notify_waiters();
    }

    /// Bytes that the cache may take now.
    pub fn limit(&self) -> u64 {
        let seen = self.seen();
        let most = self.most.load(Ordering::Relaxed);
        let Some(space) = seen.space else { return most };
        let reserve = (space.total / RESERVE_PART).min(MOST_RESERVE);
        // What it has now and what was free then, as far as it has not taken that itself since.
        let all = (space.available + seen.bytes).saturating_sub(reserve);
        most.min(all / (PARTS + 1) * PARTS)
    }

    /// Cache files that there may be now: a part of what the disk has, because others live there, too.
    pub fn files(&self) -> u64 {
        let seen = self.seen();
        match seen.space {
            Some(space) if space.inodes > 0 => {
                ((space.inodes_available + seen.files) / 4).clamp(LEAST_FILES, MOST_FILES)
            }
            _ => MOST_FILES,
        }
    }

    /// Whether so many bytes more would be within the limit, beside those on their way.
    pub fn fits(&self, bytes: u64) -> bool {
        self.taken.bytes().saturating_add(self.coming()).saturating_add(bytes) <= self.limit()
    }

    /// Bytes on their way into the cache.
    pub(super) fn coming(&self) -> u64 {
        self.coming.bytes.load(Ordering::Relaxed)
    }

    /// Counts bytes on their way from now on, once no more are on their way than writers can do without. One part may
    /// be larger than that.
    pub(super) async fn expect(&self, bytes: u64) -> Coming {
        loop {
            let less = self.coming.less.notified();
            let most = self.limit() / COMING_PART;
            let more = |coming: u64| {
                let all = coming.saturating_add(bytes);
                (coming == 0 || all <= most).then_some(all)
            };
            let bytes_on_way = &self.coming.bytes;
            if bytes_on_way.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok() {
                return Coming { left: AtomicU64::new(bytes), all: Arc::clone(&self.coming) };
            }
            less.await;
        }
    }

    /// The disk refused a write: until the next look there is nothing free.
    pub fn met_full(&self) {
        let mut seen = self.seen.lock();
        *seen = Seen::now(&self.dir, &self.taken);
        if let Some(space) = &mut seen.space {
            if space.inodes > 0 && space.inodes_available < FEW_INODES {
                space.inodes_available = 0;
            } else {
                space.available = 0;
            }
        }
    }

    /// Inodes that the disk has left, if it has a limit.
    pub fn inodes_left(&self) -> Option<u64> {
        self.seen().space.filter(|space| space.inodes > 0).map(|space| space.inodes_available)
    }
}

impl Seen {
    fn now(dir: &Path, taken: &Taken) -> Self {
        let space = crate::sys::disk_space(dir)
            .inspect_err(
                |error| tracing::warn!(%error, "the local disk does not say what it has left"),
            )
            .ok();
        Seen { at: boottime(), space, bytes: taken.bytes(), files: taken.files() }
    }
}

/// What keeps a writer waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lack {
    /// Too much is not committed yet.
    Commits,
    /// The local disk is full of it, or of what others have.
    Disk,
    /// The local log has no room.
    Log,
}

impl Volume {
    /// Waits while the volume holds too much uncommitted data, or the local disk has no room for `bytes`
    /// more of it. The caller holds nothing that a commit needs. A slow uplink is waited for as long as it
    /// takes something.
    pub(super) async fn room_for(
        &self,
        bytes: u64,
        patience: &mut Patience<'_>,
    ) -> Result<(), DataError> {
        loop {
            let committed = self.committed.notified();
            let Some(lack) = self.lacks(bytes) else { return Ok(()) };
            self.commit_wanted.notify_one();
            let over = match lack {
                Lack::Commits => patience.is_over(),
                Lack::Disk | Lack::Log => patience.until().passed(),
            };
            if over {
                return Err(self.out_of(lack));
            }
            let deadline = patience.until();
            // Whoever waits looks again, whether something came or the time was over.
            match lack {
                Lack::Log => self.meta.log_room(deadline).await?,
                // Whoever has filled the disk may free it without a sign.
                Lack::Disk => {
                    self.note_error(&DataError::NoSpace);
                    let _ = tokio::time::timeout(LOOK.min(deadline.left()), committed).await;
                }
                Lack::Commits => {
                    let _ = tokio::time::timeout(deadline.left(), committed).await;
                }
            }
        }
    }

    fn lacks(&self, bytes: u64) -> Option<Lack> {
        // Their cache files cannot be evicted.
        if bytes > 0 && self.dirty.lock().len() as u64 > self.room.files() / 2 {
            return Some(Lack::Commits);
        }
        let limit = self.dirty_limit();
        let dirty = self.dirty_bytes.load(Ordering::Relaxed);
        if dirty > 0 && bytes > 0 && dirty + bytes > limit {
            return Some(Lack::Commits);
        }
        if bytes > 0 && !self.make_room(bytes, None) {
            return Some(Lack::Disk);
        }
        let mut journal = self.meta.journal.lock();
        match self.owed() {
            owed if journal.has_room(owed) => None,
            // Commits are what makes it less.
            _ if journal.has_room(0) => Some(Lack::Commits),
            _ => Some(Lack::Log),
        }
    }

    fn out_of(&self, lack: Lack) -> DataError {
        match lack {
            Lack::Log => self.meta.journal.lock().full().into(),
            Lack::Disk => DataError::NoSpace,
            Lack::Commits => DataError::Late(
                self.last_error().unwrap_or_else(|| "the bucket is too slow".into()),
            ),
        }
    }

    /// Bytes that the commits of what is uncommitted will take in the log.
    fn owed(&self) -> u64 {
        will_take(self.dirty_ranges.load(Ordering::Relaxed))
    }

    /// Uncommitted data before writers wait, bytes.
    fn dirty_limit(&self) -> u64 {
        DIRTY_LIMIT.min(self.room.limit() / 2).max(1 << 20)
    }

    /// Whether what is uncommitted should soon be less.
    pub(super) fn is_pressed(&self) -> bool {
        self.eager_commit() < EAGER_COMMIT
            || self.dirty_bytes() > self.dirty_limit() / 2
            || !self.meta.journal.lock().has_room(self.owed())
    }

    /// Uncommitted data of one inode that starts a commit by itself, bytes.
    pub(super) fn eager_commit(&self) -> u64 {
        EAGER_COMMIT.min(self.room.limit() / 8).max(LEAST_EAGER)
    }

    /// Gives back what the cache has too much since others filled the local disk. For every second or so.
    pub fn keep_within_the_disk(&self) {
        self.evict_files();
        if !self.make_room(0, None) && self.dirty_bytes() > 0 {
            self.commit_wanted.notify_one();
        }
    }
}

pub(super) fn more(counter: &AtomicU64, bytes: u64) {
    counter.fetch_add(bytes, Ordering::Relaxed);
}

/// A counter that would go below zero only shows a counting slip; it must not wrap.
pub(super) fn less(counter: &AtomicU64, bytes: u64) {
    let _ = counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some(now.saturating_sub(bytes)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_write_makes_the_share_smaller_than_what_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::new(dir.path(), 1 << 30, Trash::within(dir.path()));
        assert!(room.fits(4096), "the disk of the tests has some room");
        room.taken().bytes.store(512 << 20, Ordering::Relaxed);
        assert!(room.fits(4096));
        room.met_full();
        assert!(room.limit() < 512 << 20 && !room.fits(0), "{}", room.limit());
    }

    #[test]
    fn the_options_bound_it_on_a_large_disk() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::new(dir.path(), 1 << 20, Trash::within(dir.path()));
        assert_eq!(room.limit(), 1 << 20);
        assert!(room.fits(1 << 20) && !room.fits((1 << 20) + 1));
    }
}
