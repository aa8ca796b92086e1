//! What somebody else removed keeps its attributes for a day, in case its key returns: tools that
//! replace an object often delete it first, and a restore puts it back later.

use std::time::Duration;

use super::Reconciler;
use crate::clock::{boottime, now};
use crate::data::Tx;
use crate::meta::records::{InodeRec, TombRec, decode};
use crate::meta::{MetaError, Pages, keys};
use crate::settle::{SettleError, Settler};
use crate::types::{FileKind, Ino, ObjectKey, Timestamp};

/// How long, seconds.
const KEPT: i64 = 24 * 3600;
/// Expired ones are looked for at most this often.
const SWEEP: Duration = Duration::from_secs(3600);
const PAGE: usize = 1000;
/// As many extended attributes as an inode can have.
const XATTRS: usize = 65_536;

impl Reconciler {
    /// Records what an inode was that is about to go with its object.
    pub(super) async fn bury(
        &self,
        tx: &mut Tx<'_>,
        key: &ObjectKey,
        ino: Ino,
        rec: &InodeRec,
    ) -> Result<(), SettleError> {
        if !matches!(rec.kind, FileKind::File | FileKind::Dir) {
            // What returns is a file until its metadata says otherwise.
            return Ok(());
        }
        let (found, _) = tx.kv.scan(keys::of_inode(keys::XATTR, ino), XATTRS).await?;
        if !rec.known && found.is_empty() {
            // Nobody ever looked at more than its name.
            return Ok(());
        }
        let xattrs = found
            .iter()
            .map(|(key, value)| (keys::after_ino(key).to_vec().into(), value.to_vec().into()));
        let tomb = TombRec {
            at: now(),
            perm: rec.perm,
            uid: rec.uid,
            gid: rec.gid,
            btime: rec.btime,
            xattrs: xattrs.collect(),
        };
        tx.kv.put(keys::tomb(key), &tomb);
        Ok(())
    }

    /// The attributes for what appeared at `key`: those that were there before, if it was not long ago.
    /// What the object itself says about them is read later and counts more.
    pub(super) async fn revived(
        &self,
        tx: &mut Tx<'_>,
        key: &ObjectKey,
        ino: Ino,
        rec: InodeRec,
    ) -> Result<InodeRec, SettleError> {
        let Some(tomb) = tx.kv.get::<TombRec>(&keys::tomb(key)).await? else { return Ok(rec) };
        tx.kv.delete(keys::tomb(key));
        if expired(&tomb, now()) {
            return Ok(rec);
        }
        for (name, value) in &tomb.xattrs {
            tx.kv.put_raw(keys::xattr(ino, name), value.to_vec());
        }
        Ok(InodeRec { perm: tomb.perm, uid: tomb.uid, gid: tomb.gid, btime: tomb.btime, ..rec })
    }
}

impl Settler {
    /// Drops the records whose time is over, now and then.
    pub(in crate::settle) async fn sweep_tombs(&self) -> Result<(), SettleError> {
        {
            let mut swept = self.tombs_swept.lock();
            if swept.is_some_and(|at| boottime().saturating_sub(at) < SWEEP) {
                return Ok(());
            }
            *swept = Some(boottime());
        }
        if self.volume.meta.queue(keys::TOMB, 1).await?.is_empty() {
            return Ok(());
        }
        let mut pages = Pages::new(self.volume.meta.queued(keys::TOMB), PAGE);
        while let Some(page) =
            pages.next(&self.volume.meta.engine).await.map_err(MetaError::from)?
        {
            let mut tx = self.volume.begin().await?;
            for (key, value) in &page {
                if expired(&decode::<TombRec>(value)?, now()) {
                    tx.kv.delete(key.to_vec());
                }
            }
            tx.commit(0).await?;
        }
        Ok(())
    }
}

/// A clock that was set back makes nothing older than it is.
fn expired(tomb: &TombRec, now: Timestamp) -> bool {
    now.secs.saturating_sub(tomb.at.secs) > KEPT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tomb_is_kept_for_a_day() {
        let at = Timestamp { secs: 1_000_000, nanos: 0 };
        let tomb = TombRec { at, perm: 0o644, uid: 0, gid: 0, btime: at, xattrs: Vec::new() };
        let after = |secs| Timestamp { secs: at.secs + secs, nanos: 0 };
        assert!(!expired(&tomb, after(0)));
        assert!(!expired(&tomb, after(24 * 3600)));
        assert!(expired(&tomb, after(24 * 3600 + 1)));
        assert!(!expired(&tomb, after(-5000)));
    }
}
