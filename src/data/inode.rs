//! Live inodes: what is known in memory about inodes in use.

use std::collections::HashMap;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Mutex as AsyncMutex, Notify};

use super::ways::Way;
use super::{CacheFile, DataError};
use crate::clock::boottime;
use crate::meta::records::{ContentRec, InodeRec};
use crate::meta::{Pending, RangeMap};
use crate::types::Ino;

/// One inode. There is at most one `Inode` a number at any time (the table sees to it), so its lock
/// orders everything about it.
#[derive(Debug)]
pub struct Inode {
    pub ino: Ino,
    live: Mutex<Live>,
    /// Held by whoever commits this inode or changes its content record.
    pub commit: AsyncMutex<()>,
    /// Rung when no change of the content record, and no removal, is on its way any more.
    calm: Notify,
    /// Rung when some of what is on its way arrived, or does not come any more.
    pub(super) arrived: Notify,
    /// Open handles.
    pub opens: AtomicU32,
    /// Of these, how many may write.
    pub writers: AtomicU32,
}

/// The state behind an inode's lock. The lock is a leaf but for the journal's.
#[derive(Debug)]
pub struct Live {
    /// Attributes as `stat` shows them; times may be ahead of the engine's record.
    pub attr: InodeRec,
    /// As last handed to the engine.
    pub content: ContentRec,
    pub pending: Pending,
    /// Bytes, uncommitted changes included.
    pub size: u64,
    /// Grows with every change of content by a user: guards a publish's body.
    pub write_seq: u64,
    /// Grows when committed content changes shape: guards a fetch.
    pub version: u64,
    /// Grows when clean bytes leave the cache: a fetch does not know of commits that came meanwhile, and
    /// relies on finding their bytes there.
    pub evicted: u64,
    /// Changes of the content record that are on their way through the engine: no fetch may start or
    /// end meanwhile.
    pub changing: u32,
    pub cache: CacheFile,
    /// Where a write failed since the last commit began to read: the cache may hold a part of it, and what
    /// was read not.
    spoiled: RangeMap<()>,
    /// Attributes (times) that no record holds yet.
    pub attr_dirty: bool,
    /// Boot time of the last change, for settling.
    pub changed_at: Duration,
    /// Boot time of the last use, for eviction.
    pub used_at: Duration,
    /// The inode is gone for good.
    pub removed: bool,
    /// A change is about to remove it: whoever opens it waits for that.
    leaving: bool,
    pub(super) window: super::ReadAhead,
    /// What is fetched ahead of readers, of a file that is large enough.
    pub(super) ahead: Option<Box<super::course::Ahead>>,
    /// What is on its way into the cache.
    pub(super) ways: super::ways::Ways,
}

impl Live {
    /// A write failed: what was clean there may be half of it now, and what is uncommitted, too.
    pub(super) fn spoil(&mut self, range: Range<u64>) {
        self.evicted += 1;
        self.cache.present.remove(range.clone());
        if !self.pending.is_clean() {
            self.spoiled.insert(range, ());
        }
    }

    /// Bytes of committed content that uncommitted truncations leave.
    pub(super) fn committed_size(&self) -> u64 {
        self.content.size.min(self.pending.limit())
    }

    /// What of a range is neither uncommitted nor cached.
    pub(super) fn missing(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        self.pending.ranges.gaps(range).into_iter().flat_map(|gap| self.cache.present.gaps(gap))
    }

    /// A commit begins to read what the cache holds now.
    pub(super) fn begins_commit(&mut self) {
        self.spoiled.clear();
    }

    /// What a commit has read of a range is in the engine, and clean unless it was changed since.
    pub(super) fn committed(&mut self, range: Range<u64>) {
        for clean in self.pending.ranges.gaps(range) {
            let same = self.spoiled.gaps(clean.clone());
            if same.len() != 1 || same[0] != clean {
                // A fetch that began before would look for it here.
                self.evicted += 1;
            }
            same.into_iter().for_each(|part| self.cache.present.insert(part, ()));
        }
    }

    /// Refuses a change of an inode that was removed while it was being opened: nothing would ever
    /// commit it.
    pub(super) fn in_use(&self, ino: Ino) -> Result<(), DataError> {
        if self.removed { Err(DataError::Gone(ino)) } else { Ok(()) }
    }
}

impl Inode {
    pub fn new(ino: Ino, attr: InodeRec, content: ContentRec, cache: CacheFile) -> Self {
        let size = match &attr.target {
            Some(target) => target.len() as u64,
            None => content.size,
        };
        Inode {
            ino,
            live: Mutex::new(Live {
                attr,
                content,
                pending: Pending::default(),
                size,
                write_seq: 0,
                version: 0,
                evicted: 0,
                changing: 0,
                cache,
                spoiled: RangeMap::default(),
                attr_dirty: false,
                changed_at: Duration::ZERO,
                used_at: Duration::ZERO,
                removed: false,
                leaving: false,
                window: Default::default(),
                ahead: None,
                ways: Default::default(),
            }),
            arrived: Notify::new(),
            commit: AsyncMutex::new(()),
            calm: Notify::new(),
            opens: AtomicU32::new(0),
            writers: AtomicU32::new(0),
        }
    }

    pub fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock()
    }

    /// Announces a change of the content record through the engine. Fetches that begin before the
    /// guard is dropped do not count, and new ones wait.
    pub fn changing(self: &Arc<Self>) -> ChangeGuard {
        self.live().changing += 1;
        ChangeGuard(Arc::clone(self))
    }

    /// Returns when no such change is on its way.
    pub async fn calm(&self) {
        loop {
            let calm = self.calm.notified();
            if self.live().changing == 0 {
                return;
            }
            calm.await;
        }
    }

    /// Counts a new handle; false when the inode is gone. A handle that is counted keeps the inode.
    pub async fn count_open(&self) -> bool {
        loop {
            let calm = self.calm.notified();
            {
                let live = self.live();
                if live.removed {
                    return false;
                }
                if !live.leaving {
                    self.opens.fetch_add(1, Ordering::SeqCst);
                    return true;
                }
            }
            calm.await;
        }
    }

    /// Counts a handle less; true when it was the last one.
    pub fn count_closed(&self) -> bool {
        count_less(&self.opens) <= 1
    }

    /// Counts a writer less; whether there is none now.
    pub fn count_written(&self) -> bool {
        count_less(&self.writers) <= 1
    }

    /// Announces the removal of an inode that nobody has open, and nobody opens before the guard is dropped.
    /// `None` when somebody has it open.
    pub(super) fn leaves(self: &Arc<Self>) -> Option<LeaveGuard> {
        let mut live = self.live();
        if self.is_open() {
            return None;
        }
        live.leaving = true;
        Some(LeaveGuard(Arc::clone(self)))
    }

    pub fn is_open(&self) -> bool {
        self.opens.load(Ordering::SeqCst) > 0
    }

    /// Lets the descriptor of the cache file go, unless a program has the file open: commits, settling
    /// and truncate(2) open it for themselves, and there may be more files than descriptors.
    pub(super) fn close_unused(&self) {
        if !self.is_open() {
            self.live().cache.close();
        }
    }

    /// Open, or about to be: whoever makes a file writes to it before the handle counts.
    fn is_used(&self) -> bool {
        self.is_open() || self.has_writer()
    }

    pub fn has_writer(&self) -> bool {
        self.writers.load(Ordering::SeqCst) > 0
    }
}

/// One less, if any was counted: those of an earlier worker were not. Says how many there were.
fn count_less(count: &AtomicU32) -> u32 {
    let less = |n: u32| n.checked_sub(1);
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).unwrap_or(0)
}

/// While it lives, the content record is between the engine and the live inode.
#[derive(Debug)]
pub struct ChangeGuard(Arc<Inode>);

impl Drop for ChangeGuard {
    fn drop(&mut self) {
        {
            let mut live = self.0.live();
            live.changing -= 1;
            live.version += 1;
        }
        self.0.calm.notify_waiters();
    }
}

/// While it lives, whoever opens the inode waits.
#[derive(Debug)]
pub(super) struct LeaveGuard(Arc<Inode>);

impl Drop for LeaveGuard {
    fn drop(&mut self) {
        self.0.live().leaving = false;
        self.0.calm.notify_waiters();
    }
}

/// Inodes kept in memory without being in use; more are dropped when nobody holds them.
const KEEP: usize = 16 << 10;

/// All live inodes. Lock order: table, then an inode's state.
#[derive(Debug, Default)]
pub struct InodeTable {
    map: Mutex<Map>,
    dropped: AtomicU64,
}

#[derive(Debug)]
struct Map {
    inodes: HashMap<Ino, Arc<Inode>>,
    /// So many are too many.
    full: usize,
}

impl Default for Map {
    fn default() -> Self {
        Map { inodes: HashMap::new(), full: KEEP }
    }
}

impl InodeTable {
    pub fn get(&self, ino: Ino) -> Option<Arc<Inode>> {
        self.map.lock().inodes.get(&ino).cloned()
    }

    /// To be taken before an inode's records are read for [`InodeTable::insert`].
    pub fn ticket(&self) -> u64 {
        self.dropped.load(Ordering::SeqCst)
    }

    /// Puts a loaded inode in and returns the one that counts; `None` when inodes were dropped since
    /// the ticket, so that the records may be stale.
    pub fn insert(&self, ticket: u64, inode: Inode) -> Option<Arc<Inode>> {
        let mut map = self.map.lock();
        if let Some(there) = map.inodes.get(&inode.ino) {
            return Some(Arc::clone(there));
        }
        if self.dropped.load(Ordering::SeqCst) != ticket {
            return None;
        }
        let inode = Arc::new(inode);
        map.inodes.insert(inode.ino, Arc::clone(&inode));
        self.shrink(&mut map);
        Some(inode)
    }

    /// Puts a new inode in, before its records can be read: its number was never used, and there must never be two
    /// of one number, which would have one cache file.
    pub fn created(&self, inode: Arc<Inode>) {
        let mut map = self.map.lock();
        map.inodes.insert(inode.ino, inode);
        self.shrink(&mut map);
    }

    /// Takes an inode out for good.
    pub fn remove(&self, ino: Ino) -> Option<Arc<Inode>> {
        let mut map = self.map.lock();
        let removed = map.inodes.remove(&ino);
        // Whoever does not find it any more finds the ticket void.
        self.dropped.fetch_add(1, Ordering::SeqCst);
        removed
    }

    /// Every inode that is in memory now.
    pub fn all(&self) -> Vec<Arc<Inode>> {
        self.map.lock().inodes.values().cloned().collect()
    }

    fn shrink(&self, map: &mut Map) {
        if map.inodes.len() <= map.full {
            return;
        }
        let before = map.inodes.len();
        let mut to_drop = before - KEEP / 2;
        map.inodes.retain(|_, inode| {
            if to_drop == 0 || Arc::strong_count(inode) > 1 || inode.is_used() {
                return true;
            }
            let mut live = inode.live();
            if !live.pending.is_clean() || live.attr_dirty {
                return true;
            }
            // A cached copy that cannot be deleted is only garbage on the local disk.
            if let Err(error) = live.cache.remove() {
                tracing::warn!(ino = %inode.ino, %error, "a cache file could not be deleted");
            }
            to_drop -= 1;
            false
        });
        let left = map.inodes.len();
        // Where most are in use each further one would have all of them looked at again.
        map.full = KEEP.max(left + left / 8);
        if left < before {
            self.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// A range of a file that is in flight as long as this lives.
#[derive(Debug)]
pub(super) struct OnWay {
    pub inode: Arc<Inode>,
    pub range: Range<u64>,
    number: u64,
}

impl OnWay {
    pub fn begin(inode: &Arc<Inode>, live: &mut Live, range: Range<u64>) -> Self {
        let number = live.ways.begin(range.clone(), boottime());
        OnWay { inode: Arc::clone(inode), range, number }
    }

    /// Some of it arrived.
    pub fn moves(&self) {
        self.inode.live().ways.with(self.number, |way| way.moved = boottime());
    }

    /// It is in the cache up to here, or there was no room for it.
    pub fn reached(&self, live: &mut Live, at: u64) {
        live.ways.with(self.number, |way| way.at = way.at.max(at));
    }

    /// Waits for something. No reader waits for this meanwhile.
    pub async fn stalled_while<T>(&self, wait: impl Future<Output = T>) -> T {
        let mut wait = pin!(wait);
        if let Poll::Ready(done) = futures::poll!(wait.as_mut()) {
            return done;
        }
        self.inode.live().ways.with(self.number, |way| way.stalled = true);
        self.inode.arrived.notify_waiters();
        let done = wait.await;
        let resumes = |way: &mut Way| (way.stalled, way.moved) = (false, boottime());
        self.inode.live().ways.with(self.number, resumes);
        done
    }
}

impl Drop for OnWay {
    fn drop(&mut self) {
        self.inode.live().ways.end(self.number);
        self.inode.arrived.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::FileKind;

    fn inode(number: usize) -> Arc<Inode> {
        let ino = Ino(number as u64);
        let attr = InodeRec::new(FileKind::File, 0o644, crate::clock::now());
        let cache = CacheFile::new(std::path::Path::new("/nowhere"), ino, Arc::default());
        Arc::new(Inode::new(ino, attr, ContentRec::default(), cache))
    }

    #[test]
    fn a_table_of_inodes_in_use_is_looked_over_now_and_then_only() {
        let table = InodeTable::default();
        let mut in_use = Vec::new();
        for number in 0..KEEP {
            let inode = inode(number);
            table.created(Arc::clone(&inode));
            in_use.push(inode);
        }
        let ticket = table.ticket();
        // The first of these finds nothing to drop; they all stay until it is worth another look.
        for number in KEEP..KEEP + KEEP / 8 {
            in_use.push(inode(number));
            table.created(Arc::clone(&in_use[number]));
        }
        assert_eq!(table.ticket(), ticket, "loads under way need not begin again");
        for number in 0..KEEP / 8 {
            in_use.pop();
            table.created(inode(2 * KEEP + number));
        }
        assert!(table.all().len() <= KEEP + KEEP / 4 + 1);
        drop(in_use);
        for number in 0..KEEP {
            table.created(inode(3 * KEEP + number));
        }
        assert!(table.all().len() <= KEEP + 1, "{}", table.all().len());
        assert!(table.ticket() > ticket);
    }
}
