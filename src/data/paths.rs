//! From inodes to object keys and from key segments to names.

use std::collections::HashMap;

use super::{DataError, Volume};
use crate::meta::records::DirentRec;
use crate::meta::{Lookup, keys};
use crate::types::{FileKind, FileName, Ino, KeyPrefix, ObjectKey};

/// S3's limit on keys, bytes (AmazonS3 user guide, "Object key naming").
pub const MAX_KEY: usize = 1024;

/// Starts an escaped name.
const ESCAPE: &str = ".s3vol%";
/// The folder of our own state; a user's file of that name is escaped.
const RESERVED: &str = ".s3vol";

/// The key segment of a name: the name itself wherever it can be, else `.s3vol%` and its bytes with
/// everything but letters, digits, `.`, `_` and `-` as `%XX`. Escaped are: names that are not UTF-8,
/// that hold control characters, and those that look like ours.
pub fn escape_name(name: &FileName) -> String {
    if let Ok(text) = std::str::from_utf8(name.as_bytes())
        && !text.chars().any(char::is_control)
        && text != RESERVED
        && !text.starts_with(ESCAPE)
    {
        return text.to_owned();
    }
    let mut escaped = ESCAPE.to_owned();
    for &byte in name.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
            escaped.push(byte as char);
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// The name of a key segment, or `None` when no file can have it: empty, `.`, `..`, longer than 255
/// bytes, holding NUL, our own folder, or an escape that `escape_name` would not write.
pub fn unescape_name(segment: &str) -> Option<FileName> {
    if segment == RESERVED {
        return None;
    }
    let Some(escaped) = segment.strip_prefix(ESCAPE) else {
        let name = FileName::new(segment).ok()?;
        return (escape_name(&name) == segment).then_some(name);
    };
    let bytes = percent_encoding::percent_decode_str(escaped).collect::<Vec<u8>>();
    let name = FileName::new(bytes).ok()?;
    (escape_name(&name) == segment).then_some(name)
}

/// Ends the name of an object whose own name is a directory's.
const BESIDE: &str = ".s3vol-conflict-object";

/// The name under which an object shows that lies beside a directory of its own name; `None` when
/// that would be too long.
pub fn beside(name: &FileName) -> Option<FileName> {
    FileName::new([name.as_bytes(), BESIDE.as_bytes()].concat()).ok()
}

/// The other way: the own name of the object that `name` may show.
pub fn own_name(name: &FileName) -> Option<FileName> {
    FileName::new(name.as_bytes().strip_suffix(BESIDE.as_bytes())?).ok()
}

/// Keys of directories seen in one round of work.
#[derive(Debug, Default)]
pub struct PathMemo {
    dirs: HashMap<Ino, Option<String>>,
}

/// The key prefix of a directory (ending in `/` but for an empty root prefix), or `None` when it
/// is no longer linked.
pub async fn dir_key<L: Lookup>(
    meta: &L,
    prefix: &KeyPrefix,
    dir: Ino,
    memo: &mut PathMemo,
) -> Result<Option<String>, DataError> {
    let mut chain: Vec<(Ino, String)> = Vec::new();
    let mut at = dir;
    let mut key = loop {
        if at == Ino::ROOT {
            break Some(prefix.as_str().to_owned());
        }
        if let Some(known) = memo.dirs.get(&at) {
            break known.clone();
        }
        match meta.scan(keys::of_inode(keys::PARENT, at), 1).await?.first() {
            Some((key, _)) => match keys::parse_parent(key) {
                Some((parent, name)) => {
                    chain.push((at, escape_name(&name)));
                    at = parent;
                }
                None => return Err(DataError::Damaged(format!("a parent key of inode {at}"))),
            },
            None => break None,
        }
        if chain.len() > 10_000 {
            return Err(DataError::Damaged(format!("directory {dir} is its own ancestor")));
        }
    };
    for (ino, segment) in chain.into_iter().rev() {
        key = key.map(|k| format!("{k}{segment}/"));
        memo.dirs.insert(ino, key.clone());
    }
    Ok(key)
}

impl Volume {
    /// The names of an inode: parent and name each.
    pub async fn names_of(&self, ino: Ino) -> Result<Vec<(Ino, FileName)>, DataError> {
        let found = self.meta.scan_all(keys::of_inode(keys::PARENT, ino)).await?;
        Ok(found.iter().filter_map(|(key, _)| keys::parse_parent(key)).collect())
    }

    /// See [`dir_key`].
    pub async fn dir_key(
        &self,
        dir: Ino,
        memo: &mut PathMemo,
    ) -> Result<Option<String>, DataError> {
        if let Some(known) = self.dir_keys.get(dir) {
            return Ok(Some(known));
        }
        // What the memo has may be older than the ticket.
        let fresh = memo.dirs.is_empty();
        let ticket = self.dir_keys.ticket();
        let found = dir_key(&self.meta, &self.prefix, dir, memo).await?;
        if fresh && found.is_some() {
            let chain = memo.dirs.iter().filter_map(|(dir, key)| Some((*dir, key.as_deref()?)));
            self.dir_keys.keep(ticket, chain);
        }
        Ok(found)
    }

    /// The key of a name in a directory, whatever its length.
    pub async fn key_of(
        &self,
        parent: Ino,
        name: &FileName,
        memo: &mut PathMemo,
    ) -> Result<Option<ObjectKey>, DataError> {
        let Some(dir) = self.dir_key(parent, memo).await? else { return Ok(None) };
        Ok(Some(ObjectKey::new(format!("{dir}{}", self.segment_of(parent, name).await?))))
    }

    /// The key segment of a name: its own, or that of the object that it shows.
    pub async fn segment_of(&self, parent: Ino, name: &FileName) -> Result<String, DataError> {
        let shown = self.stands_beside(parent, name).await?;
        Ok(escape_name(shown.as_ref().unwrap_or(name)))
    }

    /// The own name of the object that this name shows, if it shows one that lies beside a directory.
    /// A file that took the name meanwhile has the key as well.
    pub async fn stands_beside(
        &self,
        parent: Ino,
        name: &FileName,
    ) -> Result<Option<FileName>, DataError> {
        let Some(own) = own_name(name) else { return Ok(None) };
        if self.meta.get_raw(&keys::beside(parent, name)).await?.is_none() {
            return Ok(None);
        }
        let there: Option<DirentRec> = self.meta.get(&keys::dirent(parent, &own)).await?;
        Ok(there.is_none_or(|dirent| dirent.kind == FileKind::Dir).then_some(own))
    }

    /// What the tree has at a key: follows its segments from the root. A key that ends in `/` names a
    /// directory.
    pub async fn lookup_key(&self, key: &ObjectKey) -> Result<Option<Ino>, DataError> {
        let Some(path) = self.prefix.strip(key) else { return Ok(None) };
        let (path, want_dir) = match path.strip_suffix('/') {
            Some(dir) => (dir, true),
            None => (path, false),
        };
        let (parents, last) = match path.rsplit_once('/') {
            Some((parents, last)) => (Some(parents), last),
            None => (None, path),
        };
        let mut at = Ino::ROOT;
        for segment in parents.into_iter().flat_map(|parents| parents.split('/')) {
            let Some(name) = unescape_name(segment) else { return Ok(None) };
            match self.meta.get::<DirentRec>(&keys::dirent(at, &name)).await? {
                Some(dirent) => at = dirent.ino,
                None => return Ok(None),
            }
        }
        let Some(name) = unescape_name(last) else { return Ok(None) };
        let dirent: Option<DirentRec> = self.meta.get(&keys::dirent(at, &name)).await?;
        let is_dir = dirent.is_some_and(|dirent| dirent.kind == FileKind::Dir);
        if let Some(dirent) = dirent
            && is_dir == want_dir
        {
            let shows_another = self.stands_beside(at, &name).await?.is_some();
            return Ok((!shows_another).then_some(dirent.ino));
        }
        if want_dir {
            return Ok(None);
        }
        let Some(beside) = beside(&name) else { return Ok(None) };
        if self.stands_beside(at, &beside).await?.is_none() {
            return Ok(None);
        }
        let dirent: Option<DirentRec> = self.meta.get(&keys::dirent(at, &beside)).await?;
        Ok(dirent.map(|dirent| dirent.ino))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_name_round_trips(bytes in prop::collection::vec(any::<u8>(), 1..255)) {
            if let Ok(name) = FileName::new(bytes) {
                let segment = escape_name(&name);
                prop_assert!(!segment.contains('/'));
                prop_assert_eq!(unescape_name(&segment), Some(name));
            }
        }
    }

    #[test]
    fn reserved_names_are_escaped() {
        for odd in [&b".s3vol"[..], b".s3vol%x", b"\x01", b"\xff\xfe", b"a\nb"] {
            let name = FileName::new(odd).expect("a name");
            let segment = escape_name(&name);
            assert!(segment.starts_with(ESCAPE), "{segment}");
            assert_eq!(unescape_name(&segment), Some(name));
        }
        for not_ours in ["", ".", "..", ".s3vol", ".s3vol%a%2G", ".s3vol%abc"] {
            assert_eq!(unescape_name(not_ours), None, "{not_ours}");
        }
    }
}
