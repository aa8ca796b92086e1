//! The attributes of adopted objects, read when they are first asked for.

use super::{Changed, Reconciler};
use crate::data::DataError;
use crate::meta::keys;
use crate::meta::records::{DirentRec, InodeRec, RestRec, decode};
use crate::settle::SettleError;
use crate::types::{Ino, ObjectKey, Timestamp, Version};

/// Siblings read along with the one that was asked for.
const SIBLINGS: usize = 256;
/// Looks at an object that somebody replaces again and again.
const TRIES: u32 = 3;

impl Reconciler {
    pub(super) async fn read_attributes(&self, ino: Ino) -> Result<(), DataError> {
        let _turn = self.one_at_a_time.lock().await;
        if self.bucket_is_away() {
            return match self.is_unknown(ino).await? {
                true => Err(self.told_away().into()),
                false => Ok(()),
            };
        }
        match self.read_unknown(ino).await {
            Ok(()) | Err(SettleError::NoAuthority) => Ok(()),
            Err(SettleError::Data(error) | SettleError::Commit(error)) => Err(error),
            Err(SettleError::Store(error)) => {
                self.no_answer(&error);
                Err(error.into())
            }
        }
    }

    async fn read_unknown(&self, ino: Ino) -> Result<(), SettleError> {
        for _ in 0..TRIES {
            let unknown = self.unknown_siblings(ino).await?;
            let mut learned = self.settler.learn(unknown, false).await?;
            if let Some(error) = learned.failed.remove(&ino) {
                return Err(error.into());
            }
            // A newer object than the one that was listed: the tree gets that first.
            let Some(key) = learned.replaced.remove(&ino) else { return Ok(()) };
            self.check_key(&key).await?;
        }
        Ok(())
    }

    /// The inode and others of its directory whose attributes are not known.
    async fn unknown_siblings(&self, ino: Ino) -> Result<Vec<Ino>, DataError> {
        let mut found = Vec::new();
        if self.is_unknown(ino).await? {
            found.push(ino);
        }
        let names = self.volume.names_of(ino).await?;
        let Some((parent, _)) = names.into_iter().next() else { return Ok(found) };
        let page = self.volume.meta.scan(keys::dirents_after(parent, 0), SIBLINGS).await?;
        for (_, value) in &page {
            let sibling = decode::<DirentRec>(value)?.ino;
            if sibling != ino && self.is_unknown(sibling).await? {
                found.push(sibling);
            }
        }
        Ok(found)
    }

    async fn is_unknown(&self, ino: Ino) -> Result<bool, DataError> {
        let rec: Option<InodeRec> = self.volume.meta.get(&keys::inode(ino)).await?;
        Ok(rec.is_some_and(|rec| !rec.known))
    }

    /// The marker of a directory, as a listing sent at `sent` showed it. What it says is read when the
    /// directory is looked at, or when it moves: then it must be known where it lay.
    pub(super) async fn marker_seen(
        &self,
        dir: Ino,
        key: &ObjectKey,
        version: &Version,
        sent: std::time::Duration,
    ) -> Result<(), SettleError> {
        let known = |rest: &Option<RestRec>| {
            rest.as_ref().is_some_and(|rest| rest.ino != dir || rest.version.same(version))
        };
        let rest: Option<RestRec> = self.volume.meta.get(&keys::rest(key)).await?;
        if dir == Ino::ROOT || known(&rest) || self.settler.hot.touched_since(key, sent) {
            return Ok(());
        }
        let mut tx = self.taking_in().await?;
        let rest: Option<RestRec> = tx.kv.get(&keys::rest(key)).await?;
        let Some(rec) = tx.kv.get::<InodeRec>(&keys::inode(dir)).await? else { return Ok(()) };
        if known(&rest) || self.settler.hot.touched_since(key, sent) {
            return Ok(());
        }
        let shown = match &rest {
            Some(rest) => rest.attr_gen,
            // Made here as well, and not published yet.
            None if tx.kv.get_raw(&keys::work(dir)).await?.is_some() => 0,
            None => rec.attr_gen,
        };
        let (put_id, version) = (None, version.clone());
        let marker = RestRec { ino: dir, put_id, version, generation: 0, attr_gen: shown };
        tx.kv.put_rest(key, &marker).await?;
        if rec.known && shown == rec.attr_gen {
            tx.edit(dir, |rec| rec.known = false).await?;
        }
        let _told = self.telling(vec![Changed::Inode { ino: dir }]);
        self.taken_in(tx).await?;
        Ok(())
    }
}

/// The time that a new inode of an object starts with, until its own attributes are read.
pub(super) fn modified(version: &crate::types::Version) -> Timestamp {
    match version.modified {
        Some(at) => Timestamp {
            secs: at.0.div_euclid(1000),
            nanos: at.0.rem_euclid(1000) as u32 * 1_000_000,
        },
        None => crate::clock::now(),
    }
}
