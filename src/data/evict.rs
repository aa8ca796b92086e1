//! Eviction: clean cached bytes make room for others. Uncommitted bytes are never touched.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::cache_file::MOMENT;
use super::{DataError, Inode, Live, Volume};
use crate::clock::{Deadline, boottime};
use crate::meta::RangeMap;

/// Bytes that are given back at a time; less of a small file is not worth two system calls.
const STEP: u64 = 4 << 20;
/// A file is fetched whole if it would fit into the cache this many times.
const TIMES: u64 = 2;
/// And if nothing is evicted for it that was used this recently.
const LATELY: Duration = Duration::from_secs(10);

/// What the cache takes once room was made in it: a tenth less, so that not every write has to look for victims.
fn after_room(limit: u64) -> u64 {
    limit - limit / 10
}

impl Volume {
    /// Whether the cache can take a whole file beside all that is in use.
    pub(super) fn can_hold(&self, inode: &Inode, size: u64) -> bool {
        let limit = self.room.limit();
        if size > limit / TIMES {
            return false;
        }
        let missing = size.saturating_sub(inode.live().cache.present.covered(0..size));
        let others: Vec<_> =
            self.inodes.all().into_iter().filter(|other| other.ino != inode.ino).collect();
        let coming: u64 = others.iter().map(|other| other.live().will_hold()).sum();
        let after = self.room.taken().bytes() + coming + missing;
        if after <= limit {
            return true;
        }
        let now = boottime();
        let idle = others.iter().map(|other| {
            let live = other.live();
            let lately = now.saturating_sub(live.used_at) < LATELY;
            if lately { 0 } else { live.cache.present.total() }
        });
        after.saturating_sub(idle.sum()) <= after_room(limit)
    }

    /// Whether the cache may take so many bytes more, after evicting the least recently used clean ranges if need be.
    /// Windows of other readers are evicted only when nothing else is left, then the file of this `reader`, and the
    /// range that it needs not at all.
    pub(super) fn make_room(&self, bytes: u64, reader: Option<(&Arc<Inode>, Range<u64>)>) -> bool {
        if self.room.fits(bytes) {
            return true;
        }
        let _one_at_a_time = self.evicting.lock();
        let limit = self.room.limit();
        let target = after_room(limit).min(limit.saturating_sub(bytes + self.room.coming()));
        if self.room.taken().bytes() > target {
            let reading = reader.as_ref().map(|(inode, _)| inode.ino);
            let others: Vec<_> = self.least_used(|inode| Some(inode.ino) != reading).collect();
            let window = |inode: &Arc<Inode>| inode.live().needed();
            let beside = others.iter().map(|inode| (inode, window(inode)));
            let windows = others.iter().filter(|inode| !window(inode).is_empty());
            let whole = windows.map(|inode| (inode, RangeMap::default()));
            let own = reader.iter().map(|(inode, keep)| {
                let mut all = window(inode);
                all.insert(keep.clone(), ());
                (*inode, all)
            });
            let rest = reader.iter().map(|(inode, keep)| {
                let mut only = RangeMap::default();
                only.insert(keep.clone(), ());
                (*inode, only)
            });
            for (inode, keep) in beside.chain(own).chain(whole).chain(rest) {
                if self.room.taken().bytes() <= target {
                    break;
                }
                self.evict_until(inode, target, &keep);
            }
        }
        self.room.fits(bytes)
    }

    /// Removes the cache files of the least recently used files that are in the bucket when there are
    /// too many: a million small files need not be a million local inodes.
    pub(super) fn evict_files(&self) {
        let most = self.room.files();
        let count = || self.room.taken().files();
        if count() <= most {
            return;
        }
        let _one_at_a_time = self.evicting.lock();
        for inode in self.least_used(|inode| inode.live().pending.is_clean()) {
            // A tenth more, so that not every commit has to look at all of them.
            if count() <= most - most / 10 {
                return;
            }
            if let Err(error) = self.evict(&inode) {
                tracing::warn!(ino = %inode.ino, %error, "a clean cache file could not be removed");
            }
        }
    }

    /// The inodes with something in the cache that may go, those first that were not used for longest.
    fn least_used(&self, may: impl Fn(&Inode) -> bool) -> impl Iterator<Item = Arc<Inode>> {
        let mut victims: Vec<_> = self
            .inodes
            .all()
            .into_iter()
            .filter(|inode| may(inode))
            .filter_map(|inode| {
                let live = inode.live();
                let clean = !live.cache.present.is_empty()
                    || live.cache.exists() && live.pending.is_clean();
                let used = clean.then_some(live.used_at);
                drop(live);
                used.map(|used| (used, inode))
            })
            .collect();
        victims.sort_by_key(|(used, _)| *used);
        victims.into_iter().map(|(_, inode)| inode)
    }

    /// Gives back clean bytes outside of `keep` until the cache takes `target` or there are none.
    fn evict_until(&self, inode: &Inode, target: u64, keep: &RangeMap<()>) {
        let mut live = inode.live();
        live.evicted += 1;
        let small = keep.is_empty() && live.cache.present.total() <= STEP;
        let evicted = match small {
            true if live.pending.is_clean() => live.cache.remove(),
            true => self.punch_until(&mut live, 0, keep),
            false => self.punch_until(&mut live, target, keep),
        };
        if !inode.is_open() {
            live.cache.close();
        }
        if let Err(error) = evicted {
            tracing::warn!(ino = %inode.ino, %error, "clean bytes could not be evicted");
        }
    }

    /// What the disk does not give back in time stays in the cache.
    fn punch_until(
        &self,
        live: &mut Live,
        target: u64,
        keep: &RangeMap<()>,
    ) -> std::io::Result<()> {
        let present = live.cache.present.iter();
        let clean: Vec<_> = present.flat_map(|(range, ())| keep.gaps(range)).collect();
        // The file is locked meanwhile. Whoever needs more room looks again.
        let moment = Deadline::after(MOMENT);
        for range in clean {
            let mut at = range.start;
            while at < range.end {
                if self.room.taken().bytes() <= target || moment.passed() {
                    return Ok(());
                }
                let part = at..range.end.min(at + STEP);
                at = part.end;
                let freed = live.cache.give_back(part.clone());
                // Of a part that was refused nobody knows what is left.
                let from = *freed.as_ref().unwrap_or(&part.start);
                live.cache.present.remove(from..part.end);
                freed?;
            }
        }
        Ok(())
    }

    /// Drops all clean cached bytes of an inode. Blocks that take long to give back go with the file.
    pub fn evict(&self, inode: &Inode) -> Result<(), DataError> {
        let mut live = inode.live();
        live.evicted += 1;
        let present = std::mem::take(&mut live.cache.present);
        if live.pending.is_clean() {
            return live.cache.remove().map_err(|e| DataError::disk(inode.ino, e));
        }
        let moment = Deadline::after(MOMENT);
        let mut within = present.iter().take_while(|_| !moment.passed());
        let punched = within.try_for_each(|(range, ())| live.cache.give_back(range).map(drop));
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
