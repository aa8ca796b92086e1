//! What an object says of the inode that it belongs to: the attributes that other tools gave it, read
//! when they are first asked for, and what else it bears, read again before it is replaced. A condition
//! compares ETags, and a change of headers or tags alone leaves the ETag as it is.
//!
//! Nothing is taken from an object that is not the inode's base any more, and nothing that was changed
//! here and is not published yet gives way to what the object still says.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};

use super::attributes::{from_object, is_ours};
use super::{Changed, SettleError, Settler};
use crate::config::VolumeOptions;
use crate::data::{Borne, DataError, PathMemo, Slot, Tx};
use crate::meta::records::{ContentRec, DirentRec, InodeRec, RestRec, WorkRec};
use crate::meta::{Lookup, keys};
use crate::store::{Header, ObjectInfo, STANDARD, StoreError, Tags};
use crate::types::{ATTR_TYPE, FileKind, Ino, NO_TYPE, ObjectKey, Version};

const PARALLEL: usize = 64;
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bodies of symlinks are read whole; a target cannot be longer.
const TARGET: u64 = 4096;
/// What stores answer for an object without a content type.
const UNTYPED: [&str; 2] = ["binary/octet-stream", "application/octet-stream"];

/// The object that speaks for an inode.
struct Source {
    ino: Ino,
    key: ObjectKey,
    /// `None`: the marker of a directory, which may not be there.
    version: Option<Version>,
    /// Whether its attributes were read before.
    known: bool,
    tagged: bool,
}

/// What it said.
struct Said {
    info: ObjectInfo,
    tags: Option<Tags>,
    target: Option<Bytes>,
}

impl Said {
    fn given(&self, slot: &Slot) -> Option<&str> {
        let properties = &self.info.properties;
        match slot {
            Slot::Class => properties.class.as_deref(),
            _ => properties.encryption.as_ref().map(|encryption| encryption.algorithm.as_str()),
        }
    }
}

/// What came of a look at some objects.
#[derive(Default)]
pub(super) struct Learned {
    /// These could not be looked at.
    pub failed: HashMap<Ino, StoreError>,
    /// Something else lies there than what the tree shows.
    pub replaced: HashMap<Ino, ObjectKey>,
    /// The object lies there that the tree shows.
    pub seen: HashSet<Ino>,
    /// Nothing lies there any more.
    pub gone: HashSet<Ino>,
}

impl Settler {
    /// Whether there is an object that could say something about this inode.
    pub(super) async fn has_source(&self, ino: Ino) -> Result<bool, SettleError> {
        Ok(self.source(ino, &mut PathMemo::default()).await?.is_some())
    }

    /// Looks at the objects of these inodes, side by side, and records what they say.
    /// `before_publish`: they are about to be replaced, so nothing may be left unknown.
    pub(super) async fn learn(
        &self,
        inodes: impl IntoIterator<Item = Ino>,
        before_publish: bool,
    ) -> Result<Learned, SettleError> {
        let mut learned = Learned::default();
        let mut memo = PathMemo::default();
        let mut sources = Vec::new();
        for ino in inodes {
            sources.extend(self.source(ino, &mut memo).await?);
        }
        let asked: Vec<_> = stream::iter(sources)
            .map(|source| async move {
                let said = self.ask(&source, before_publish).await;
                (source, said)
            })
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        let mut found = Vec::new();
        for (source, said) in asked {
            match said {
                Ok(said) => found.push((source, said)),
                Err(error) => {
                    learned.failed.insert(source.ino, error);
                }
            }
        }
        if found.is_empty() {
            return Ok(learned);
        }
        let mut changed = Vec::new();
        let mut tx = self.volume.begin().await?;
        for (source, said) in found {
            self.record(&mut tx, source, said, &mut learned, &mut changed).await?;
        }
        if tx.kv.is_empty() {
            return Ok(learned);
        }
        let reconciler = self.reconciler.get().and_then(std::sync::Weak::upgrade);
        let _told = reconciler.as_ref().map(|reconciler| reconciler.telling(changed));
        tx.commit(0).await?;
        Ok(learned)
    }

    async fn source(&self, ino: Ino, memo: &mut PathMemo) -> Result<Option<Source>, SettleError> {
        let meta = &self.volume.meta;
        let Some(rec) = meta.get::<InodeRec>(&keys::inode(ino)).await? else { return Ok(None) };
        let at = match rec.kind {
            FileKind::File => {
                let content: ContentRec = meta.get(&keys::content(ino)).await?.unwrap_or_default();
                let base = content.base.filter(|base| !base.parked);
                base.map(|base| (base.key, Some(base.version)))
            }
            kind => match self.resting(ino, kind, memo).await? {
                Some((key, version)) => Some((key, Some(version))),
                None if kind == FileKind::Dir && !rec.known => {
                    let key = self.volume.dir_key(ino, memo).await?;
                    key.filter(|key| !key.is_empty()).map(|key| (ObjectKey::new(key), None))
                }
                None => None,
            },
        };
        let Some((key, version)) = at else { return Ok(None) };
        let tags = keys::below(keys::XATTR, &[&ino.0.to_be_bytes()[..], b"user.s3.tag."].concat());
        let tagged = !meta.scan(tags, 1).await?.is_empty();
        Ok(Some(Source { ino, key, version, known: rec.known, tagged }))
    }

    /// Where an inode without content rests: under its own name if it does, else where it was.
    pub(super) async fn resting(
        &self,
        ino: Ino,
        kind: FileKind,
        memo: &mut PathMemo,
    ) -> Result<Option<(ObjectKey, Version)>, SettleError> {
        let meta = &self.volume.meta;
        let mut rests = Vec::new();
        for (key, _) in meta.scan_all(keys::of_inode(keys::RESTS, ino)).await? {
            let Some(key) = keys::parse_rests(&key) else { continue };
            let rest: Option<RestRec> = meta.get(&keys::rest(&key)).await?;
            rests.extend(rest.filter(|rest| rest.ino == ino).map(|rest| (key, rest.version)));
        }
        if rests.len() > 1 {
            let own = self.keys_of(ino, kind, memo).await?;
            if let Some(at) = rests.iter().position(|(key, _)| own.contains(key)) {
                return Ok(Some(rests.swap_remove(at)));
            }
        }
        Ok(rests.pop())
    }

    async fn ask(&self, source: &Source, before_publish: bool) -> Result<Option<Said>, StoreError> {
        let store = &self.volume.store;
        let Some(info) = store.head(&source.key, TIMEOUT).await? else { return Ok(None) };
        let ours = is_ours(&info.attributes, &source.key, self.volume.id);
        let unsure = before_publish && (!ours || source.tagged);
        let tags = self.tags_of(&source.key, &info, unsure).await?;
        let symlink = from_object(&info.attributes, false).kind == Some(FileKind::Symlink);
        let target = match symlink && !source.known {
            true => {
                let range = 0..info.version.size.min(TARGET);
                Some(store.get(&source.key, Some(range), Some(&info.version), TIMEOUT).await?.data)
            }
            false => None,
        };
        Ok(Some(Said { info, tags, target }))
    }

    async fn record(
        &self,
        tx: &mut Tx<'_>,
        source: Source,
        said: Option<Said>,
        learned: &mut Learned,
        changed: &mut Vec<Changed>,
    ) -> Result<(), SettleError> {
        let ino = source.ino;
        let Some(rec) = tx.kv.get::<InodeRec>(&keys::inode(ino)).await? else { return Ok(()) };
        let rest: Option<RestRec> = tx.kv.get(&keys::rest(&source.key)).await?;
        let rest = rest.filter(|rest| rest.ino == ino);
        if rec.known != source.known || !still_speaks(tx, &source, &rec, rest.as_ref()).await? {
            return Ok(());
        }
        let Some(said) = said else {
            learned.gone.insert(ino);
            if !rec.known {
                tx.edit(ino, |rec| rec.known = true).await?;
            }
            return Ok(());
        };
        let version = &said.info.version;
        let is_dir = rec.kind == FileKind::Dir;
        if !is_dir && !source.version.as_ref().is_some_and(|of| of.same_bytes(version)) {
            learned.replaced.insert(ino, source.key);
            return Ok(());
        }
        learned.seen.insert(ino);
        if is_dir && !self.hot.is_hot(&source.key) {
            let same = rest.as_ref().filter(|rest| rest.version.same(version));
            let marker = RestRec {
                ino,
                put_id: same.and_then(|rest| rest.put_id),
                version: version.clone(),
                generation: 0,
                attr_gen: rest.as_ref().map_or(rec.attr_gen, |rest| rest.attr_gen),
            };
            if same.is_none() {
                tx.kv.put_rest(&source.key, &marker).await?;
                if let Some(reconciler) = self.reconciler.get().and_then(std::sync::Weak::upgrade) {
                    reconciler.saw_newer(source.key.as_str());
                }
            }
        }
        // What the object shows of the inode; nothing: it has no record, so nobody changed it either.
        let shown = rest.as_ref().map_or(rec.attr_gen, |rest| rest.attr_gen);
        if rec.borne_gen <= shown {
            self.take_over(tx, &source, &said, rec.nlink > 1 && !is_dir).await?;
        }
        if !rec.known {
            if shown == rec.attr_gen {
                self.adopt_attributes(tx, ino, &rec, said, changed).await?;
            } else {
                tx.edit(ino, |rec| rec.known = true).await?;
            }
        }
        Ok(())
    }

    /// Records what the object bears. The copies under other names of the file get it, too.
    async fn take_over(
        &self,
        tx: &mut Tx<'_>,
        source: &Source,
        said: &Said,
        has_copies: bool,
    ) -> Result<(), SettleError> {
        let ino = source.ino;
        let range = keys::below(keys::XATTR, &[&ino.0.to_be_bytes()[..], BORNE_NAMES].concat());
        let rows = tx.kv.scan_all(range).await?;
        let rows: Vec<(Bytes, Bytes)> = rows
            .into_iter()
            .map(|(key, value)| (key.slice_ref(keys::after_ino(&key)), value))
            .collect();
        let old = Borne::of_rows(&rows);
        let ours = is_ours(&said.info.attributes, &source.key, self.volume.id);
        let mut borne = borne_by(&self.volume.options, &said.info, ours);
        borne.set_tags(said.tags.clone().unwrap_or_else(|| old.tags()));
        for slot in [Slot::Class, Slot::Encryption] {
            // Somebody did ask for what is usual.
            if let Some(given) = said.given(&slot).filter(|given| old.get(&slot) == Some(*given)) {
                borne.set(slot.clone(), given);
            }
        }
        let next = borne.rows();
        let mut differs = false;
        for (name, _) in rows.iter().filter(|(name, _)| !next.contains_key(name)) {
            tx.kv.delete(keys::xattr(ino, name));
            differs = true;
        }
        for (name, value) in &next {
            if !rows.iter().any(|(n, v)| n == name && v == value) {
                tx.kv.put_raw(keys::xattr(ino, name), value.to_vec());
                differs = true;
            }
        }
        if differs && has_copies {
            tx.edit(ino, |rec| rec.attr_gen += 1).await?;
            tx.needs_rest(ino, WorkRec::Inode).await?;
        }
        Ok(())
    }

    async fn adopt_attributes(
        &self,
        tx: &mut Tx<'_>,
        ino: Ino,
        rec: &InodeRec,
        said: Said,
        changed: &mut Vec<Changed>,
    ) -> Result<(), SettleError> {
        let shown = from_object(&said.info.attributes, rec.kind == FileKind::Dir);
        let kind = shown.kind.filter(|kind| *kind != FileKind::Dir).unwrap_or(rec.kind);
        if kind != rec.kind {
            for (parent, name) in self.volume.names_of(ino).await? {
                tx.kv.put(keys::dirent(parent, &name), &DirentRec { ino, kind });
                changed.push(Changed::Entry { parent, name });
            }
            if rec.kind == FileKind::File {
                // Only files are counted by their bytes.
                let content: Option<ContentRec> = tx.kv.get(&keys::content(ino)).await?;
                let size = content.map_or(0, |content| content.size);
                tx.kv.superblock.bytes = tx.kv.superblock.bytes.saturating_sub(size);
                tx.kv.delete(keys::content(ino));
            }
        }
        for (name, value) in &shown.xattrs {
            tx.kv.put_raw(keys::xattr(ino, name), value.to_vec());
        }
        let target = if kind == FileKind::Symlink { said.target } else { None };
        // Content that was written here since has a time of its own.
        let content: Option<ContentRec> = tx.kv.get(&keys::content(ino)).await?;
        let written = content.is_some_and(|content| !content.at_rest())
            || !tx.live(ino).await?.live().pending.is_clean();
        let mtime = shown.mtime.filter(|_| !written);
        tx.edit(ino, move |rec| {
            rec.known = true;
            rec.kind = kind;
            rec.perm = shown.perm.unwrap_or(rec.perm);
            rec.uid = shown.uid.unwrap_or(rec.uid);
            rec.gid = shown.gid.unwrap_or(rec.gid);
            rec.rdev = shown.rdev.unwrap_or(rec.rdev);
            if let Some(time) = mtime {
                rec.mtime = time;
                rec.ctime = rec.ctime.max(time);
            }
            rec.target = target.clone();
        })
        .await?;
        if let Some(inode) = self.volume.inodes.get(ino)
            && kind == FileKind::Symlink
        {
            inode.live().size = said.info.version.size;
        }
        Ok(())
    }
}

const BORNE_NAMES: &[u8] = crate::data::BORNE.as_bytes();

/// What an object bears, without what we or the store gave it unasked.
pub fn borne_by(options: &VolumeOptions, info: &ObjectInfo, ours: bool) -> Borne {
    let mut borne = Borne::of_object(&info.properties, &info.attributes);
    let content_type = Slot::Header(Header::ContentType);
    let by_us = match info.attributes.get(ATTR_TYPE).map(String::as_str) {
        Some(NO_TYPE) => borne.get(&content_type).is_some_and(|given| UNTYPED.contains(&given)),
        given => given.is_some() && given == borne.get(&content_type),
    };
    if ours && by_us {
        borne.remove(&content_type);
    }
    // The usual class says something only where new files get another one.
    let class = borne.get(&Slot::Class);
    let usual = class == Some(STANDARD) && (ours || options.storage_class.is_none());
    if usual || ours && class == options.storage_class.as_deref() {
        borne.remove(&Slot::Class);
    }
    // What S3 does unasked, and what the volume asks for all of its objects.
    let algorithm = borne.get(&Slot::Encryption);
    if ours && (algorithm == Some("AES256") || algorithm == options.sse.as_deref()) {
        borne.remove(&Slot::Encryption);
        borne.remove(&Slot::EncryptionKey);
    }
    borne
}

/// Whether the source is still what speaks for the inode.
async fn still_speaks(
    tx: &Tx<'_>,
    source: &Source,
    rec: &InodeRec,
    rest: Option<&RestRec>,
) -> Result<bool, DataError> {
    if rec.kind != FileKind::File {
        return Ok(rest.map(|rest| &rest.version) == source.version.as_ref());
    }
    let content: ContentRec = tx.kv.get(&keys::content(source.ino)).await?.unwrap_or_default();
    Ok(content.base.is_some_and(|base| {
        !base.parked && base.key == source.key && Some(&base.version) == source.version.as_ref()
    }))
}
