//! Reading directories.

use std::sync::atomic::Ordering;

use super::{DirEntry, FileHandle, Fs, FsError};
use crate::meta::keys;
use crate::meta::records::{DirentRec, decode};
use crate::types::{Caller, FileKind, Ino};

impl Fs {
    pub async fn opendir(&self, ino: Ino) -> Result<FileHandle, FsError> {
        let inode = self.directory(ino).await?;
        self.outside.directory(ino).await?;
        inode.opens.fetch_add(1, Ordering::SeqCst);
        self.note_open(ino)?;
        Ok(self.new_handle())
    }

    /// At most `max` entries after `cookie` (0 starts), `.` and `..` included; a few more when several
    /// names share the last cookie. An empty answer ends.
    pub async fn readdir(
        &self,
        ino: Ino,
        _fh: FileHandle,
        cookie: u64,
        max: usize,
    ) -> Result<Vec<DirEntry>, FsError> {
        let mut entries = Vec::new();
        let dot = |ino, name: &[u8], cookie| DirEntry {
            ino,
            kind: FileKind::Dir,
            name: name.to_vec(),
            cookie,
            attr: None,
        };
        if cookie < 1 {
            entries.push(dot(ino, b".", 1));
        }
        if cookie < 2 {
            entries.push(dot(self.parent_of(ino).await?, b"..", 2));
        }
        let max = max.max(entries.len() + 1);
        let mut after = cookie.max(keys::FIRST_COOKIE - 1);
        loop {
            // One more than asked, to see whether the last cookie is shared.
            let want = max - entries.len() + 1;
            let page = self.volume.meta.scan(keys::dirents_after(ino, after), want).await?;
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
                    let group =
                        self.volume.meta.scan(keys::dirents_after(ino, last - 1), 4096).await?;
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
            for (cookie, name, dirent) in found {
                after = cookie;
                let attr = self.peek(dirent.ino).await?;
                entries.push(DirEntry {
                    ino: dirent.ino,
                    kind: dirent.kind,
                    name: name.as_bytes().to_vec(),
                    cookie,
                    attr,
                });
            }
            if !more || entries.len() + 1 >= max {
                return Ok(entries);
            }
        }
    }

    pub async fn releasedir(&self, ino: Ino, _fh: FileHandle) -> Result<(), FsError> {
        self.closed(Caller::ROOT, ino).await
    }

    async fn parent_of(&self, ino: Ino) -> Result<Ino, FsError> {
        let found = self.volume.meta.scan(keys::of_inode(keys::PARENT, ino), 1).await?;
        Ok(found
            .first()
            .and_then(|(key, _)| keys::parse_parent(key))
            .map_or(Ino::ROOT, |(parent, _)| parent))
    }
}
