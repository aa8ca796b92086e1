//! What is no longer referenced: extents of removed or truncated files, segments without live bytes.
//!
//! Whoever takes content away gives up the file's whole map of extents by one dead record, whatever
//! its shape. The collector drops the rows page by page; how far it is lies in that record, in the
//! batch that dropped them, so that each row is counted off its segment once, and no page goes over what
//! the pages before it left. It may be stopped at any moment, and goes on with the next mount.
//!
//! Order is everything here: an object is deleted only after the batch that dropped its last
//! reference is durable, because until then a takeover could still bring the reference back.

use std::time::Duration;

use super::extents::extent_of;
use super::{DataError, SegmentDelta, Volume};
use crate::fault::{Mutant, at, points};
use crate::meta::records::{ContentRec, DeadRec, decode};
use crate::meta::{Logged, MetaError, Pages, Txn, keys};
use crate::store::{Listing, PutOutcome, delete_unique, scratch_of};
use crate::types::{Base, Ino, ObjectKey};

/// Rows looked at for one batch: everybody who changes something waits for it.
const BATCH: usize = 1000;
/// Dead records of one batch.
const TOGETHER: usize = 256;
/// Segment objects deleted between two flushes.
const SEGMENTS: usize = 256;
/// As many xattrs go with their inode; more are left to the collector.
const FEW_XATTRS: usize = 16;
/// Inodes removed in one batch.
const ORPHANS: usize = 64;
/// No other process of this volume uploads any more after so long, milliseconds.
const ORPHAN_AGE_MS: i64 = 3600 * 1000;
const DELETE_TIMEOUT: Duration = Duration::from_secs(20);

/// The extents of a file are dead, all of them: it goes on with a new map.
pub fn give_up_map(txn: &mut Txn<'_>, ino: Ino, content: &mut ContentRec) {
    content.data = 0;
    if content.pieces > 0 {
        txn.put(keys::dead(ino, content.map), &DeadRec::whole());
        content.map += 1;
        content.pieces = 0;
    }
}

/// The extents up to this generation are dead, and newer ones lie among them.
pub fn give_up_older(txn: &mut Txn<'_>, ino: Ino, content: &ContentRec) {
    if content.pieces > 0 {
        let dead = DeadRec { through: content.drop_gen, ..DeadRec::whole() };
        txn.put(keys::dead(ino, content.map), &dead);
    }
}

/// The xattrs of an inode that is being removed.
pub(super) async fn give_up_xattrs(txn: &mut Txn<'_>, ino: Ino) -> Result<(), DataError> {
    let (found, more) = txn.scan(keys::of_inode(keys::XATTR, ino), FEW_XATTRS).await?;
    if more {
        txn.put(keys::dead(ino, keys::XATTRS), &DeadRec::whole());
        return Ok(());
    }
    for (key, _) in found {
        txn.delete(key.to_vec());
    }
    Ok(())
}

/// Rows of one dead record that go in one batch.
struct DeadPage {
    ino: Ino,
    map: u64,
    rows: Vec<(bytes::Bytes, bytes::Bytes)>,
    /// Whether there may be more behind them.
    more: bool,
}

impl Volume {
    /// Drops a page of dead extents and xattrs; whether there may be more.
    pub async fn collect_dead(&self) -> Result<bool, DataError> {
        // Two at once would count the same rows off their segments.
        let _one = self.collecting.lock().await;
        let queue = self.meta.queue(keys::DEAD, TOGETHER).await?;
        if queue.is_empty() {
            return Ok(false);
        }
        // Dead maps and the xattrs of what is gone change no more: they are read while others work.
        let (mut settled, mut pages) = (Vec::new(), Vec::new());
        let mut left = BATCH;
        for (key, value) in &queue {
            let (ino, map) = keys::parse_dead(key)
                .ok_or_else(|| DataError::Damaged("the key of a dead record".into()))?;
            let dead: DeadRec = decode(value)?;
            if left == 0 {
                break;
            }
            if dead.through < u64::MAX {
                settled.push((ino, map));
                left = left.saturating_sub(BATCH / 4);
                continue;
            }
            let rows = self.meta.scan(keys::dead_rows(ino, map, &dead.after), left).await?;
            let more = rows.len() >= left;
            left -= rows.len();
            pages.push(DeadPage { ino, map, rows, more });
        }
        let more = left == 0 || queue.len() >= TOGETHER;
        let mut txn = self.meta.begin_bulk().await?;
        let mut delta = SegmentDelta::default();
        for page in &pages {
            drop_page(&mut txn, page, u64::MAX, &mut delta)?;
        }
        let mut shown = Vec::new();
        let mut unfinished = false;
        for (ino, map) in settled {
            let (page, through) = match self.still_dead(&txn, ino, map).await? {
                Some(found) => found,
                None => continue,
            };
            unfinished |= page.more;
            let dropped = drop_page(&mut txn, &page, through, &mut delta)?;
            if let Some(mut content) = txn.get::<ContentRec>(&keys::content(ino)).await?
                && content.map == map
            {
                content.pieces = content.pieces.saturating_sub(dropped);
                txn.put(keys::content(ino), &content);
                shown.push((ino, content.pieces));
            }
        }
        delta.apply(&mut txn).await?;
        txn.commit(Logged::Op { unique: 0 }, || {
            for (ino, pieces) in shown {
                if let Some(inode) = self.inodes.get(ino) {
                    inode.live().content.pieces = pieces;
                }
            }
        })
        .await?;
        Ok(more || unfinished)
    }

    /// Rows of a map that is still in use, read within the change: others rewrite them.
    async fn still_dead(
        &self,
        txn: &Txn<'_>,
        ino: Ino,
        map: u64,
    ) -> Result<Option<(DeadPage, u64)>, DataError> {
        let Some(dead): Option<DeadRec> = txn.get(&keys::dead(ino, map)).await? else {
            return Ok(None);
        };
        let rows = keys::dead_rows(ino, map, &dead.after);
        let (rows, more) = txn.scan(rows, BATCH / 4).await?;
        Ok(Some((DeadPage { ino, map, rows, more }, dead.through)))
    }

    /// Nothing shows through this base any more: a parked copy becomes garbage.
    pub fn release_parked(&self, txn: &mut Txn<'_>, base: &Base) {
        if let Some(id) = self.parked_id(base) {
            txn.delete(keys::segment(id));
            txn.put_raw(keys::garbage(id), Vec::new());
        }
    }

    /// The id of a parked copy: it lies among the segments, under a name of its own.
    pub fn parked_id(&self, base: &Base) -> Option<u128> {
        let id = self.state.strip(&base.key).filter(|_| base.parked)?.strip_prefix("segments/")?;
        u128::from_str_radix(id, 16).ok()
    }

    /// Deletes segment objects whose last reference is durably gone, a page of them; returns how many. Only
    /// what is in `garbage` before the flush may be passed on.
    pub async fn collect_segments(&self, flush_timeout: Duration) -> Result<usize, DataError> {
        self.give_up_unused().await?;
        let garbage = self.meta.queue(keys::GARBAGE, SEGMENTS).await?;
        if garbage.is_empty() {
            return Ok(0);
        }
        if !Mutant::ReleasedBeforeDurable.lives() {
            let _receipt = self.meta.flush_beside(flush_timeout).await?;
        }
        let dead = garbage.into_iter().filter_map(|(key, _)| Some((keys::parse_id(&key)?, key)));
        let (ids, rows): (Vec<u128>, Vec<_>) = dead.unzip();
        let segments: Vec<ObjectKey> = ids.into_iter().map(|id| self.segment_key(id)).collect();
        at(points::GARBAGE_BEFORE);
        let outcomes = self.delete_segments(&segments).await;
        at(points::GARBAGE_AFTER);
        let gone = rows.into_iter().zip(outcomes).filter_map(|(row, gone)| gone.then_some(row));
        let gone: Vec<_> = gone.collect();
        let count = gone.len();
        let mut txn = self.meta.begin().await?;
        for key in gone {
            txn.delete(key.to_vec());
        }
        txn.commit(Logged::Op { unique: 0 }, || {}).await?;
        Ok(count)
    }

    /// Deletes segments that were uploaded and never referenced: a crash came between. Only those
    /// are taken that are older than an hour by the store's own clock and that this process is not
    /// uploading: a commit may last for hours, and a host may sleep in the middle of one.
    pub async fn collect_orphan_segments(&self) -> Result<usize, DataError> {
        let prefix = self.state.key("segments/");
        let now = self.state_store.now(DELETE_TIMEOUT).await?;
        let mut deleted = 0;
        let mut pages = Listing::of_keys(prefix.as_str());
        while let Some(page) = pages.next(self.state_store.as_ref(), DELETE_TIMEOUT).await? {
            // A host that lost the volume meanwhile would take the new owner's segments for orphans.
            // What was listed before this proof is not theirs, however late it is deleted.
            let _receipt = self.meta.confirm_ownership(DELETE_TIMEOUT).await?;
            let mut orphans = Vec::new();
            for entry in page.entries {
                let old = entry.version.modified.is_some_and(|at| now.0 - at.0 > ORPHAN_AGE_MS);
                let id = entry
                    .key
                    .as_str()
                    .strip_prefix(prefix.as_str())
                    .and_then(|id| u128::from_str_radix(id, 16).ok());
                let (true, Some(id)) = (old, id) else { continue };
                let known = self.uploads.has(id)
                    || self.meta.get_raw(&keys::segment(id)).await?.is_some()
                    || self.meta.get_raw(&keys::garbage(id)).await?.is_some();
                if known && !Mutant::GarbageByAge.lives() {
                    continue;
                }
                orphans.push(entry.key);
            }
            deleted +=
                self.delete_segments(&orphans).await.into_iter().filter(|gone| *gone).count();
        }
        Ok(deleted)
    }

    /// Whether each of them is gone; the others stay for the next time.
    async fn delete_segments(&self, segments: &[ObjectKey]) -> Vec<bool> {
        let scratch = scratch_of(&self.state);
        let store = self.state_store.as_ref();
        let outcomes = delete_unique(store, segments, &scratch, DELETE_TIMEOUT).await;
        let is_gone = |outcome| match outcome {
            PutOutcome::Won(_) | PutOutcome::Lost => true,
            PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) => {
                tracing::debug!(%error, "a dead segment stays for the next round");
                false
            }
        };
        outcomes.into_iter().map(is_gone).collect()
    }

    /// Removes what has no name and is not open: what was unlinked while open by a process that is no
    /// more, and what its last close could not remove.
    pub async fn remove_orphans(&self) -> Result<usize, DataError> {
        let mut removed = 0;
        // Raises the queue's floor over those that went before.
        if self.meta.queue(keys::ORPHAN, 1).await?.is_empty() {
            return Ok(0);
        }
        let mut pages = Pages::new(self.meta.queued(keys::ORPHAN), ORPHANS);
        while let Some(page) = pages.next(&self.meta.engine).await.map_err(MetaError::from)? {
            let mut tx = self.begin().await?;
            for (key, _) in &page {
                let Some(ino) = keys::parse_ino(key) else { continue };
                if tx.kv.get_raw(key).await?.is_none() || !tx.is_unused(ino).await? {
                    continue;
                }
                tx.remove(ino).await?;
                removed += 1;
            }
            tx.commit(0).await?;
        }
        Ok(removed)
    }
}

/// Takes rows off, as far as they are dead, and says where the next page begins; returns how many
/// extents went.
fn drop_page(
    txn: &mut Txn<'_>,
    page: &DeadPage,
    through: u64,
    delta: &mut SegmentDelta,
) -> Result<u64, DataError> {
    let mut dropped = 0;
    for (key, value) in &page.rows {
        if page.map == keys::XATTRS {
            txn.delete(key.to_vec());
            continue;
        }
        // A damaged row of something dead says nothing that counts; its segment is found without it.
        let Ok((range, extent)) = extent_of(page.ino, key, value) else {
            txn.delete(key.to_vec());
            continue;
        };
        if extent.generation <= through {
            delta.sub(&extent.place, range.end - range.start);
            txn.delete(key.to_vec());
            dropped += 1;
        }
    }
    txn.superblock.extents = txn.superblock.extents.saturating_sub(dropped);
    let dead = keys::dead(page.ino, page.map);
    match page.rows.last() {
        Some((last, _)) if page.more => {
            let after = last.slice_ref(keys::dead_row_id(page.map, last));
            txn.put(dead, &DeadRec { through, after });
        }
        _ => txn.delete(dead),
    }
    Ok(dropped)
}
