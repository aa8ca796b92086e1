//! LIST over a directory tree, in the order of the keys.
//!
//! Keys sort by their bytes, and a directory's name counts with its closing `/`. A page goes on
//! after the last key or prefix of the page before, and whole subtrees before it are passed over.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::disk::Disk;
use super::name::{Place, decode};
use super::record::{Record, sidecar_base, version_of};
use crate::store::{Entry, ListPage, ListRequest, StoreError};
use crate::types::ObjectKey;

struct Walk<'a> {
    disk: &'a Disk,
    prefix: &'a str,
    delimiter: bool,
    after: Option<&'a str>,
    max: usize,
    page: ListPage,
    /// The last key or prefix that was put on the page.
    last: String,
    full: bool,
}

/// One name in a directory.
struct Child {
    /// As part of a key; ends with `/` for a directory.
    part: String,
    path: PathBuf,
}

impl Disk {
    pub(super) fn list(&self, request: &ListRequest) -> Result<ListPage, StoreError> {
        self.need_bucket()?;
        // Start at the deepest directory that the prefix names.
        let start = match request.prefix.rfind('/') {
            Some(end) => &request.prefix[..=end],
            None => "",
        };
        let dir = match start {
            "" => self.bucket.clone(),
            start => match Place::of(&self.bucket, start) {
                Ok(place) => place.dir,
                // No such key can exist.
                Err(_) => return Ok(ListPage::default()),
            },
        };
        let mut walk = Walk {
            disk: self,
            prefix: &request.prefix,
            delimiter: request.delimiter,
            after: request.token.as_deref(),
            max: request.max_keys.clamp(1, 1000) as usize,
            page: ListPage::default(),
            last: String::new(),
            full: false,
        };
        walk.dir(&dir, start).map_err(|e| self.error(&format!("list {:?}", request.prefix), e))?;
        if walk.full {
            walk.page.next = Some(walk.last);
        }
        Ok(walk.page)
    }
}

impl Walk<'_> {
    /// Lists a directory whose key is `key` (empty for the bucket).
    fn dir(&mut self, dir: &Path, key: &str) -> io::Result<()> {
        if !key.is_empty()
            && key.starts_with(self.prefix)
            && self.is_after(key)
            && !self.disk.is_implicit(dir)
            && fs::symlink_metadata(dir).is_ok_and(|m| m.is_dir())
        {
            self.entry(dir, key);
        }
        for child in children(dir)? {
            if self.full {
                return Ok(());
            }
            let child_key = format!("{key}{}", child.part);
            let is_dir = child.part.ends_with('/');
            let inside = child_key.starts_with(self.prefix);
            let around = is_dir && self.prefix.starts_with(&child_key);
            if !(inside || around) {
                continue;
            }
            if !is_dir {
                if self.is_after(&child_key) {
                    self.entry(&child.path, &child_key);
                }
            } else if self.delimiter && inside {
                if self.is_after(&child_key) && self.has_key(&child.path)? && self.room() {
                    self.last.clone_from(&child_key);
                    self.page.prefixes.push(child_key);
                }
            } else if self.may_follow(&child_key) {
                self.dir(&child.path, &child_key)?;
            }
        }
        Ok(())
    }

    fn is_after(&self, key: &str) -> bool {
        self.after.is_none_or(|after| key > after)
    }

    /// Whether a key below this directory can come after the page before.
    fn may_follow(&self, dir: &str) -> bool {
        self.after.is_none_or(|after| dir > after || after.starts_with(dir))
    }

    fn room(&mut self) -> bool {
        self.full = self.page.entries.len() + self.page.prefixes.len() >= self.max;
        !self.full
    }

    fn entry(&mut self, path: &Path, key: &str) {
        // Gone or unreadable since the directory was read: as if it had gone before.
        let Ok(file) = File::open(path) else { return };
        let Ok(meta) = file.metadata() else { return };
        let Ok(place) = Place::of(&self.disk.bucket, key) else { return };
        if !self.room() {
            return;
        }
        let record = Record::read(&file, &sidecar_base(&place.own(), key));
        key.clone_into(&mut self.last);
        self.page
            .entries
            .push(Entry { key: ObjectKey::new(key), version: version_of(&meta, record.as_ref()) });
    }

    /// Whether a directory is a marker or holds any key.
    fn has_key(&self, dir: &Path) -> io::Result<bool> {
        if !self.disk.is_implicit(dir) {
            return Ok(true);
        }
        for child in children(dir)? {
            if !child.part.ends_with('/') || self.has_key(&child.path)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The keys' parts in a directory, sorted; a directory that is gone has none. Links, special files
/// and names that are no UTF-8 are no keys.
fn children(dir: &Path) -> io::Result<Vec<Child>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) => {
            return match e.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => Ok(Vec::new()),
                _ => Err(e),
            };
        }
    };
    let mut children = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Some((segment, beside)) = entry.file_name().to_str().and_then(decode) else { continue };
        let kind = entry.file_type()?;
        let part = match (kind.is_dir(), kind.is_file()) {
            (true, _) if !beside => format!("{segment}/"),
            (_, true) => segment,
            _ => continue,
        };
        children.push(Child { part, path: entry.path() });
    }
    children.sort_unstable_by(|a, b| a.part.cmp(&b.part));
    Ok(children)
}
