//! What is no longer referenced: extents of removed or truncated files, segments without live bytes.
//!
//! Order is everything here: an object is deleted only after the batch that dropped its last
//! reference is durable, because until then a takeover could still bring the reference back.

use std::time::Duration;

use super::{DataError, SegmentDelta, Volume};
use crate::meta::records::{ContentRec, ExtentRec, decode};
use crate::meta::{Logged, Txn, keys};
use crate::store::{Listing, PutOutcome, Send};
use crate::types::{Base, Ino};

/// Records dropped in one batch.
const BATCH: usize = 1000;
/// Inodes in one batch: everybody who changes something waits for it.
const TOGETHER: usize = 64;
/// An upload takes minutes at the very most, so an hour leaves no doubt, milliseconds.
const ORPHAN_AGE_MS: i64 = 3600 * 1000;
const DELETE_TIMEOUT: Duration = Duration::from_secs(20);

impl Volume {
    /// Drops dead extents and xattrs of some inodes; whether there may be more.
    pub async fn collect_dead(&self) -> Result<bool, DataError> {
        let dead = self.meta.scan(keys::below(keys::DEAD, &[]), BATCH).await?;
        let inodes: Vec<Ino> = dead.iter().filter_map(|(key, _)| keys::parse_ino(key)).collect();
        let mut rest = inodes.as_slice();
        while !rest.is_empty() {
            let mut txn = self.meta.begin().await?;
            let (mut delta, mut dropped) = (SegmentDelta::default(), 0);
            let mut done = 0;
            for &ino in rest.iter().take(TOGETHER) {
                if !drop_dead(&mut txn, ino, &mut delta, &mut dropped).await? {
                    break;
                }
                done += 1;
            }
            delta.apply(&mut txn).await?;
            txn.commit(Logged::Op { unique: 0 }, || {}).await?;
            rest = &rest[done..];
        }
        Ok(dead.len() == BATCH)
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

    /// Deletes segment objects whose last reference is durably gone. The caller has flushed since it
    /// was dropped: only what is in `garbage` before the flush may be passed on.
    pub async fn collect_segments(&self, flush_timeout: Duration) -> Result<usize, DataError> {
        let garbage = self.meta.scan(keys::below(keys::GARBAGE, &[]), BATCH).await?;
        if garbage.is_empty() {
            return Ok(0);
        }
        let _receipt = self.meta.flush(flush_timeout).await?;
        let mut gone = Vec::new();
        for (key, _) in garbage {
            let Some(id) = keys::parse_id(&key) else { continue };
            let send = Send::plain(DELETE_TIMEOUT);
            match self.state_store.delete(&self.segment_key(id), send).await {
                PutOutcome::Won(_) | PutOutcome::Lost => gone.push(key),
                PutOutcome::Ambiguous(error) => {
                    tracing::debug!(%error, "a dead segment stays for the next round");
                }
            }
        }
        let count = gone.len();
        let mut txn = self.meta.begin().await?;
        for key in gone {
            txn.delete(key.to_vec());
        }
        txn.commit(Logged::Op { unique: 0 }, || {}).await?;
        Ok(count)
    }

    /// Deletes segments that were uploaded and never referenced: a crash came between. Only those
    /// are taken that are older than an hour by the store's own clock and that lay there before
    /// this epoch's log was replayed, so no upload under way and no replayed batch can want them.
    pub async fn collect_orphan_segments(&self) -> Result<usize, DataError> {
        let prefix = self.state.key("segments/");
        let now = self.state_store.now(DELETE_TIMEOUT).await?;
        let mut deleted = 0;
        let mut pages = Listing::of_keys(prefix.as_str());
        while let Some(page) = pages.next(self.state_store.as_ref(), DELETE_TIMEOUT).await? {
            // A host that lost the volume meanwhile would take the new owner's segments for orphans.
            // What was listed before this proof is not theirs, however late it is deleted.
            let _receipt = self.meta.confirm_ownership(DELETE_TIMEOUT).await?;
            for entry in page.entries {
                let old = entry.version.modified.is_some_and(|at| now.0 - at.0 > ORPHAN_AGE_MS);
                let id = entry
                    .key
                    .as_str()
                    .strip_prefix(prefix.as_str())
                    .and_then(|id| u128::from_str_radix(id, 16).ok());
                let (true, Some(id)) = (old, id) else { continue };
                let known = self.meta.get_raw(&keys::segment(id)).await?.is_some()
                    || self.meta.get_raw(&keys::garbage(id)).await?.is_some();
                if known {
                    continue;
                }
                match self.state_store.delete(&entry.key, Send::plain(DELETE_TIMEOUT)).await {
                    PutOutcome::Won(_) | PutOutcome::Lost => deleted += 1,
                    PutOutcome::Ambiguous(error) => {
                        tracing::debug!(%error, "an orphan segment stays for the next time");
                    }
                }
            }
        }
        Ok(deleted)
    }

    /// Removes what has no name and is not open: what was unlinked while open by a process that is no
    /// more, and what its last close could not remove.
    pub async fn remove_orphans(&self) -> Result<usize, DataError> {
        let mut removed = 0;
        loop {
            let mut tx = self.begin().await?;
            let page = self.meta.scan(keys::below(keys::ORPHAN, &[]), BATCH).await?;
            let mut closed = Vec::new();
            for (key, _) in &page {
                let Some(ino) = keys::parse_ino(key) else { continue };
                match self.inodes.get(ino) {
                    Some(inode) if inode.is_open() => {}
                    _ => closed.push(ino),
                }
            }
            if closed.is_empty() {
                return Ok(removed);
            }
            for ino in closed {
                tx.remove(ino).await?;
                removed += 1;
            }
            tx.commit(0).await?;
        }
    }
}

/// Drops what is dead of one inode, until `dropped` records went in this batch; true when nothing is left.
async fn drop_dead(
    txn: &mut Txn<'_>,
    ino: Ino,
    delta: &mut SegmentDelta,
    dropped: &mut usize,
) -> Result<bool, DataError> {
    let content: Option<ContentRec> = txn.get(&keys::content(ino)).await?;
    let gone = txn.get_raw(&keys::inode(ino)).await?.is_none();
    let drop_gen = match &content {
        Some(content) => content.drop_gen,
        None => u64::MAX,
    };
    let mut from = 0;
    loop {
        if *dropped >= BATCH {
            return Ok(false);
        }
        let (page, more) = txn.scan(keys::extents_after(ino, from), BATCH).await?;
        for (key, value) in &page {
            let end = keys::parse_extent(key)
                .ok_or_else(|| DataError::Damaged(format!("an extent key of inode {ino}")))?;
            from = end;
            let extent: ExtentRec = decode(value)?;
            if extent.generation <= drop_gen {
                delta.sub(&extent.place, end - extent.start);
                txn.delete(key.to_vec());
                *dropped += 1;
            }
        }
        if !more {
            break;
        }
    }
    if gone {
        let (page, more) = txn.scan(keys::of_inode(keys::XATTR, ino), BATCH).await?;
        *dropped += page.len();
        for (key, _) in &page {
            txn.delete(key.to_vec());
        }
        if more {
            return Ok(false);
        }
    }
    txn.delete(keys::dead(ino));
    Ok(true)
}
