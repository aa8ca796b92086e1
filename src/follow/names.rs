//! Names, attributes and extended attributes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::ReadFs;
use super::core::TTL;
use super::newest::Failed;
use crate::config::Tuned;
use crate::data::{Question, Slot, Standing, escape_name, guessed};
use crate::fs::{
    Attr, DirEntry, FileHandle, FsError, Show, StatFs, entries_after, listed_xattrs,
    supported_xattr,
};
use crate::meta::records::{ContentRec, DirentRec, InodeRec, SuperRec};
use crate::meta::{Lookup, View, keys};
use crate::store::Header;
use crate::types::{FileKind, FileName, Ino, ObjectKey};

/// The generation of a file grows between two looks; so often in a row it does not.
const ATTEMPTS: usize = 10;

/// Attributes, and the generation of the content whose size they show.
pub(super) type Shown = (Attr, Option<u64>);

impl ReadFs {
    pub async fn lookup(&self, parent: Ino, name: FileName) -> Result<Attr, FsError> {
        let key = keys::dirent(parent, &name);
        for _ in 0..ATTEMPTS {
            let shown = self
                .answer(self.fresh().await, |view| {
                    let key = &key;
                    async move {
                        let dirent: Option<DirentRec> = view.get(key).await?;
                        let dirent = dirent.ok_or(FsError::NotFound)?;
                        self.attributes(&view, dirent.ino).await
                    }
                })
                .await?;
            if self.agreed(&shown).await {
                return Ok(shown.0);
            }
        }
        Err(FsError::Stale)
    }

    pub async fn getattr(&self, ino: Ino) -> Result<Attr, FsError> {
        Ok(self.newest_attributes(ino).await?.0)
    }

    pub(super) async fn newest_attributes(&self, ino: Ino) -> Result<Shown, FsError> {
        for _ in 0..ATTEMPTS {
            let ask = |view: Arc<View>| async move { self.attributes(&view, ino).await };
            let shown = self.answer(self.fresh().await, ask).await?;
            if self.agreed(&shown).await {
                return Ok(shown);
            }
        }
        Err(FsError::Stale)
    }

    /// Whether the kernel may have these: a new size only when none of its pages shows the old
    /// content any more. If not, they are not the newest.
    async fn agreed(&self, (attr, generation): &Shown) -> bool {
        match generation {
            Some(generation) => self.pages.agree(attr.ino, *generation).await,
            None => true,
        }
    }

    /// The attributes of an inode; one that is gone is stale.
    pub(super) async fn attributes(&self, view: &View, ino: Ino) -> Result<Shown, Failed> {
        let rec: Option<InodeRec> = view.get(&keys::inode(ino)).await?;
        let rec = rec.ok_or(FsError::Stale)?;
        let content = match rec.kind {
            FileKind::File => Some(self.content_of(view, ino).await?),
            _ => None,
        };
        let rec = match rec.known {
            true => rec,
            false => self.shown_by_object(view, ino, rec, content.as_ref()).await?.rec,
        };
        Ok(shown(ino, &rec, content.as_ref()))
    }

    pub(super) async fn content_of(&self, view: &View, ino: Ino) -> Result<ContentRec, Failed> {
        Ok(view.get(&keys::content(ino)).await?.unwrap_or_default())
    }

    pub async fn readlink(&self, ino: Ino) -> Result<Bytes, FsError> {
        let view = self.fresh().await;
        self.answer(view, |view| async move {
            let rec: Option<InodeRec> = view.get(&keys::inode(ino)).await?;
            let mut rec = rec.ok_or(FsError::Stale)?;
            if !rec.known {
                let content = self.content_of(&view, ino).await?;
                rec = self.shown_by_object(&view, ino, rec, Some(&content)).await?.rec;
            }
            Ok(rec.target.ok_or(FsError::Invalid("not a symbolic link"))?)
        })
        .await
    }

    pub async fn opendir(&self, ino: Ino) -> Result<FileHandle, FsError> {
        match self.newest_attributes(ino).await?.0.kind {
            FileKind::Dir => Ok(self.new_handle()),
            _ => Err(FsError::NotDir),
        }
    }

    pub(super) fn new_handle(&self) -> FileHandle {
        FileHandle(self.next_handle.fetch_add(1, Ordering::Relaxed))
    }

    /// At most `max` entries after `cookie`, a few more when several names share the last cookie.
    pub async fn readdir(
        &self,
        dir: Ino,
        cookie: u64,
        max: usize,
        show: Show,
    ) -> Result<Vec<DirEntry>, FsError> {
        let view = self.fresh().await;
        self.answer(view, |view| async move {
            let mut entries = entries_after(&*view, dir, cookie, max).await?;
            if show == Show::Names {
                return Ok(entries);
            }
            for entry in entries.iter_mut().filter(|entry| !entry.is_dot()) {
                entry.attr = self.peek(&view, entry.ino).await?;
            }
            Ok(entries)
        })
        .await
    }

    /// Attributes that cost neither a request nor a word with the kernel.
    async fn peek(&self, view: &View, ino: Ino) -> Result<Option<Attr>, Failed> {
        let rec: Option<InodeRec> = view.get(&keys::inode(ino)).await?;
        let Some(rec) = rec.filter(|rec| rec.known) else { return Ok(None) };
        let content = match rec.kind {
            FileKind::File => Some(self.content_of(view, ino).await?),
            _ => None,
        };
        let (attr, generation) = shown(ino, &rec, content.as_ref());
        let agreed = generation.is_none_or(|generation| self.pages.agrees(ino, generation));
        Ok(agreed.then_some(attr))
    }

    pub async fn getxattr(&self, ino: Ino, name: Bytes) -> Result<Bytes, FsError> {
        supported_xattr(&name)?;
        if let Some(question) = Question::parse(&name) {
            return Ok(question.answer(&self.standing(ino).await?).into());
        }
        let key = keys::xattr(ino, &name);
        let (key, name) = (&key, &name);
        self.answer(self.fresh().await, |view| async move {
            let value = match self.xattrs_by_object(&view, ino).await? {
                Some(all) => all.into_iter().find(|(n, _)| n == name).map(|(_, value)| value),
                None => Lookup::get_raw(&*view, key).await?,
            };
            match value {
                Some(value) => Ok(value),
                None => Ok(self.guess(&view, ino, name).await?.ok_or(FsError::NoXattr)?),
            }
        })
        .await
    }

    /// Where an inode is by now: whatever a follower knows of is in the bucket.
    async fn standing(&self, ino: Ino) -> Result<Standing, FsError> {
        self.answer(self.fresh().await, |view| async move {
            let rec: Option<InodeRec> = view.get(&keys::inode(ino)).await?;
            let rec = rec.ok_or(FsError::Stale)?;
            let content = self.content_of(&view, ino).await?;
            Ok(Standing::in_bucket(&*view, ino, &rec, &content).await?)
        })
        .await
    }

    /// The content type of a file to which nobody gave one; see [`crate::fs::Fs::getxattr`].
    async fn guess(&self, view: &View, ino: Ino, name: &Bytes) -> Result<Option<Bytes>, Failed> {
        if Slot::parse(name) != Some(Ok(Slot::Header(Header::ContentType))) {
            return Ok(None);
        }
        let rec: Option<InodeRec> = view.get(&keys::inode(ino)).await?;
        if rec.is_none_or(|rec| rec.kind != FileKind::File) {
            return Ok(None);
        }
        let names = view.scan_all(keys::of_inode(keys::PARENT, ino)).await?;
        let name = names.last().and_then(|(key, _)| keys::parse_parent(key));
        let key = name.map(|(_, name)| ObjectKey::new(escape_name(&name)));
        let guess = key.and_then(|key| guessed(&self.options.content_type, &key));
        Ok(guess.map(Bytes::from))
    }

    /// Names, each ended by a NUL.
    pub async fn listxattr(&self, ino: Ino) -> Result<Bytes, FsError> {
        self.answer(self.fresh().await, |view| async move {
            let xattrs = match self.xattrs_by_object(&view, ino).await? {
                Some(all) => all,
                None => view.xattrs(ino).await?,
            };
            Ok(listed_xattrs(&xattrs))
        })
        .await
    }

    /// The extended attributes of an adopted object that the index does not have yet.
    async fn xattrs_by_object(
        &self,
        view: &View,
        ino: Ino,
    ) -> Result<Option<Vec<(Bytes, Bytes)>>, Failed> {
        let rec: Option<InodeRec> = view.get(&keys::inode(ino)).await?;
        let Some(rec) = rec.filter(|rec| !rec.known) else { return Ok(None) };
        let content = match rec.kind {
            FileKind::File => Some(self.content_of(view, ino).await?),
            _ => None,
        };
        Ok(Some(self.shown_by_object(view, ino, rec, content.as_ref()).await?.xattrs))
    }

    pub async fn statfs(&self) -> Result<StatFs, FsError> {
        let view = self.fresh().await;
        let counters: Option<SuperRec> = self
            .answer(view, |view| async move { Ok(view.get(&keys::superblock()).await?) })
            .await?;
        let (bytes, inodes) = counters.map_or((0, 0), |c| (c.bytes, c.inodes));
        Ok(StatFs::of(&Tuned::of(&self.options), bytes, inodes))
    }
}

fn shown(ino: Ino, rec: &InodeRec, content: Option<&ContentRec>) -> Shown {
    let size = match (&rec.target, content) {
        (Some(target), _) => target.len() as u64,
        (None, Some(content)) => content.size,
        (None, None) => 0,
    };
    let is_file = rec.kind == FileKind::File;
    let generation = content.filter(|_| is_file).map(|content| content.generation);
    let data = content.map_or(0, ContentRec::allocated);
    (Attr::of(ino, rec, size, data, TTL), generation)
}
