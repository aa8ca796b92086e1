//! Reading directories.

use std::ops::Bound;

use super::core::AttrRows;
use super::{DirEntry, FileHandle, Fs, FsError, Show};
use crate::meta::records::{DirentRec, decode};
use crate::meta::{Lookup, keys};
use crate::types::{Caller, FileKind, FileName, Ino};

/// Attributes of fewer inodes are read one by one, and so are those whose numbers lie farther apart than this.
const FEW: usize = 8;
const SPARSE: usize = 4;

impl Fs {
    pub async fn opendir(&self, caller: Caller, ino: Ino) -> Result<FileHandle, FsError> {
        let inode = self.directory(ino).await?;
        self.outside.directory(ino).await?;
        self.count_open(&caller, &inode).await?;
        Ok(self.new_handle())
    }

    /// See [`entries_after`].
    pub async fn readdir(
        &self,
        ino: Ino,
        _fh: FileHandle,
        cookie: u64,
        max: usize,
        show: Show,
    ) -> Result<Vec<DirEntry>, FsError> {
        let mut entries = entries_after(&self.volume.meta, ino, cookie, max).await?;
        if show == Show::Names {
            return Ok(entries);
        }
        let inodes = entries.iter().filter(|entry| !entry.is_dot()).map(|entry| entry.ino);
        // The live ones tell themselves.
        let unknown = inodes.filter(|ino| self.volume.inodes.get(*ino).is_none());
        let rows = self.rows_of(unknown.collect()).await?;
        for entry in entries.iter_mut().filter(|entry| !entry.is_dot()) {
            entry.attr = self.peek_in(&rows, entry.ino).await?;
        }
        Ok(entries)
    }

    /// The records of inodes, read in order where their numbers lie together.
    async fn rows_of(&self, inodes: Vec<Ino>) -> Result<AttrRows, FsError> {
        let mut rows = AttrRows { ticket: self.volume.inodes.ticket(), ..AttrRows::default() };
        let (Some(first), Some(last)) = (inodes.iter().min(), inodes.iter().max()) else {
            return Ok(rows);
        };
        let span = (last.0 - first.0 + 1) as usize;
        if inodes.len() < FEW || span > SPARSE * inodes.len() {
            return Ok(rows);
        }
        let meta = &self.volume.meta;
        let between =
            |key: fn(Ino) -> Vec<u8>| (Bound::Included(key(*first)), Bound::Included(key(*last)));
        for (key, value) in meta.scan(between(keys::inode), span).await? {
            if let Some(ino) = keys::parse_ino(&key) {
                rows.inodes.insert(ino, decode(&value).map_err(crate::meta::MetaError::from)?);
            }
        }
        for (key, value) in meta.scan(between(keys::content), span).await? {
            if let Some(ino) = keys::parse_ino(&key) {
                rows.contents.insert(ino, decode(&value).map_err(crate::meta::MetaError::from)?);
            }
        }
        Ok(rows)
    }

    pub async fn releasedir(
        &self,
        caller: Caller,
        ino: Ino,
        _fh: FileHandle,
    ) -> Result<(), FsError> {
        if self.answered(&caller) {
            return Ok(());
        }
        self.closed(caller, ino).await
    }
}

/// At most `max` entries after `cookie` (0 starts), `.` and `..` included, without attributes; a few
/// more when several names share the last cookie. An empty answer ends.
pub async fn entries_after<L: Lookup>(
    meta: &L,
    dir: Ino,
    cookie: u64,
    max: usize,
) -> Result<Vec<DirEntry>, FsError> {
    let entry = |ino, kind, name: &[u8], cookie| DirEntry {
        ino,
        kind,
        name: name.to_vec(),
        cookie,
        attr: None,
    };
    let mut entries = Vec::new();
    if cookie < 1 {
        entries.push(entry(dir, FileKind::Dir, b".", 1));
    }
    if cookie < 2 {
        entries.push(entry(parent_of(meta, dir).await?, FileKind::Dir, b"..", 2));
    }
    let max = max.max(entries.len() + 1);
    let mut after = cookie.max(keys::FIRST_COOKIE - 1);
    loop {
        let (found, more) = names_after(meta, dir, after, max - entries.len() + 1).await?;
        for (cookie, name, dirent) in found {
            after = cookie;
            entries.push(entry(dirent.ino, dirent.kind, name.as_bytes(), cookie));
        }
        if !more || entries.len() + 1 >= max {
            return Ok(entries);
        }
    }
}

/// The names of a directory whose cookies come after `after`: fewer than `want`, unless more share
/// one cookie, because such a group is never split. Whether there are more comes with them.
async fn names_after<L: Lookup>(
    meta: &L,
    dir: Ino,
    after: u64,
    want: usize,
) -> Result<(Vec<(u64, FileName, DirentRec)>, bool), FsError> {
    // One more than is returned, to see whether the last cookie is shared.
    let page = meta.scan(keys::dirents_after(dir, after), want).await?;
    let more = page.len() == want;
    let mut found = Vec::with_capacity(page.len());
    for (key, value) in &page {
        let Some((cookie, name)) = keys::parse_dirent(key) else { continue };
        let dirent: DirentRec = decode(value).map_err(crate::meta::MetaError::from)?;
        found.push((cookie, name, dirent));
    }
    if more {
        let last = found.last().map_or(after, |(cookie, ..)| *cookie);
        if found.first().is_some_and(|(cookie, ..)| *cookie == last) {
            // All of one cookie: take the whole group.
            let group = meta.scan(keys::dirents_after(dir, last - 1), 4096).await?;
            found.clear();
            for (key, value) in &group {
                let Some((cookie, name)) = keys::parse_dirent(key) else { continue };
                if cookie == last {
                    let dirent = decode(value).map_err(crate::meta::MetaError::from)?;
                    found.push((cookie, name, dirent));
                }
            }
        } else {
            found.retain(|(cookie, ..)| *cookie != last);
        }
    }
    Ok((found, more))
}

/// The directory that holds this one.
async fn parent_of<L: Lookup>(meta: &L, dir: Ino) -> Result<Ino, FsError> {
    let found = meta.scan(keys::of_inode(keys::PARENT, dir), 1).await?;
    Ok(found
        .first()
        .and_then(|(key, _)| keys::parse_parent(key))
        .map_or(Ino::ROOT, |(parent, _)| parent))
}
