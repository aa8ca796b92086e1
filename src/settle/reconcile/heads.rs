//! The attributes of adopted objects, read when they are first asked for.

use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};

use super::{Changed, Reconciler};
use crate::data::{DataError, PathMemo};
use crate::meta::keys;
use crate::meta::records::{DirentRec, InodeRec, RestRec, decode};
use crate::settle::{SettleError, attributes, from_object};
use crate::store::ObjectInfo;
use crate::types::{FileKind, Ino, ObjectKey, Timestamp};

/// Siblings read along with the one that was asked for, and how many at a time.
const SIBLINGS: usize = 256;
const PARALLEL: usize = 64;
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bodies of symlinks are read whole; a target cannot be longer.
const TARGET: u64 = 4096;

impl Reconciler {
    pub(super) async fn read_attributes(&self, ino: Ino) -> Result<(), DataError> {
        let _turn = self.one_at_a_time.lock().await;
        let unknown = self.unknown_siblings(ino).await?;
        let found: Result<Vec<_>, SettleError> = stream::iter(unknown)
            .map(|(ino, key)| async move {
                let info = self.volume.store.head(&key, TIMEOUT).await?;
                let target = match &info {
                    Some(info) if is_symlink(info) => {
                        let range = 0..info.version.size.min(TARGET);
                        let body =
                            self.volume.store.get(&key, Some(range), None, TIMEOUT).await?.data;
                        Some(body)
                    }
                    _ => None,
                };
                Ok::<_, SettleError>((ino, key, info, target))
            })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await;
        let found = match found {
            Ok(found) => found,
            Err(SettleError::Data(e) | SettleError::Commit(e)) => return Err(e),
            Err(SettleError::Store(e)) => return Err(e.into()),
            Err(SettleError::NoAuthority) => return Ok(()),
        };
        let mut changed = Vec::new();
        let mut tx = self.volume.begin().await?;
        for (ino, key, info, target) in found {
            let Some(rec) = tx.kv.get::<InodeRec>(&keys::inode(ino)).await? else { continue };
            if rec.known {
                continue;
            }
            let is_dir = rec.kind == FileKind::Dir;
            let shown = info.as_ref().map(|info| from_object(&info.attributes, is_dir));
            let shown = shown.unwrap_or_default();
            let kind = shown.kind.filter(|kind| *kind != FileKind::Dir).unwrap_or(rec.kind);
            if kind != rec.kind {
                for (parent, name) in self.volume.names_of(ino).await? {
                    tx.kv.put(keys::dirent(parent, &name), &DirentRec { ino, kind });
                    changed.push(Changed::Entry { parent, name });
                }
                if rec.kind == FileKind::File {
                    tx.kv.delete(keys::content(ino));
                }
            }
            if let (Some(info), true) = (&info, is_dir) {
                let rest = RestRec {
                    ino,
                    put_id: None,
                    version: info.version.clone(),
                    generation: 0,
                    attr_gen: rec.attr_gen,
                };
                tx.kv.put_rest(&key, &rest).await?;
            }
            for (name, value) in &shown.xattrs {
                tx.kv.put_raw(keys::xattr(ino, name), value.to_vec());
            }
            let target = if kind == FileKind::Symlink { target } else { None };
            tx.edit(ino, move |rec| {
                rec.known = true;
                rec.kind = kind;
                rec.perm = shown.perm.unwrap_or(rec.perm);
                rec.uid = shown.uid.unwrap_or(rec.uid);
                rec.gid = shown.gid.unwrap_or(rec.gid);
                rec.rdev = shown.rdev.unwrap_or(rec.rdev);
                if let Some(time) = shown.mtime {
                    rec.mtime = time;
                    rec.ctime = rec.ctime.max(time);
                }
                rec.target = target.clone();
            })
            .await?;
            if let Some(inode) = self.volume.inodes.get(ino)
                && kind == FileKind::Symlink
            {
                let size = info.map_or(0, |info| info.version.size);
                inode.live().size = size;
            }
        }
        let _told = self.telling(changed);
        tx.commit(0).await?;
        Ok(())
    }

    /// The inode and others of its directory whose attributes are not known, each with its key.
    async fn unknown_siblings(&self, ino: Ino) -> Result<Vec<(Ino, ObjectKey)>, DataError> {
        let mut memo = PathMemo::default();
        let mut found: Vec<(Ino, ObjectKey)> = Vec::new();
        let names = self.volume.names_of(ino).await?;
        let Some((parent, name)) = names.into_iter().next() else { return Ok(found) };
        let own = self.unknown_key(ino, parent, &name, &mut memo).await?;
        found.extend(own);
        let page = self.volume.meta.scan(keys::dirents_after(parent, 0), SIBLINGS).await?;
        for (key, value) in &page {
            let Some((_, name)) = keys::parse_dirent(key) else { continue };
            let dirent: DirentRec = decode(value)?;
            if dirent.ino != ino {
                found.extend(self.unknown_key(dirent.ino, parent, &name, &mut memo).await?);
            }
        }
        Ok(found)
    }

    async fn unknown_key(
        &self,
        ino: Ino,
        parent: Ino,
        name: &crate::types::FileName,
        memo: &mut PathMemo,
    ) -> Result<Option<(Ino, ObjectKey)>, DataError> {
        let rec: Option<InodeRec> = self.volume.meta.get(&keys::inode(ino)).await?;
        let Some(rec) = rec.filter(|rec| !rec.known) else { return Ok(None) };
        let Some(key) = self.volume.key_of(parent, name, memo).await? else { return Ok(None) };
        let key = match rec.kind {
            FileKind::Dir => ObjectKey::new(format!("{key}/")),
            _ => key,
        };
        Ok(Some((ino, key)))
    }
}

fn is_symlink(info: &ObjectInfo) -> bool {
    attributes::from_object(&info.attributes, false).kind == Some(FileKind::Symlink)
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
