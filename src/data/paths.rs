//! From inodes to object keys and from key segments to names.

use std::collections::HashMap;

use super::{DataError, Volume};
use crate::meta::{Lookup, keys};
use crate::types::{FileName, Ino, KeyPrefix, ObjectKey};

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
        let found = self.meta.scan(keys::of_inode(keys::PARENT, ino), 100_000).await?;
        Ok(found.iter().filter_map(|(key, _)| keys::parse_parent(key)).collect())
    }

    /// See [`dir_key`].
    pub async fn dir_key(
        &self,
        dir: Ino,
        memo: &mut PathMemo,
    ) -> Result<Option<String>, DataError> {
        dir_key(&self.meta, &self.prefix, dir, memo).await
    }

    /// The key of a name in a directory, whatever its length.
    pub async fn key_of(
        &self,
        parent: Ino,
        name: &FileName,
        memo: &mut PathMemo,
    ) -> Result<Option<ObjectKey>, DataError> {
        Ok(self
            .dir_key(parent, memo)
            .await?
            .map(|dir| ObjectKey::new(format!("{dir}{}", escape_name(name)))))
    }

    /// What the tree has at a key: follows its segments from the root. A key that ends in `/` names a
    /// directory.
    pub async fn lookup_key(&self, key: &ObjectKey) -> Result<Option<Ino>, DataError> {
        let Some(path) = self.prefix.strip(key) else { return Ok(None) };
        let (path, want_dir) = match path.strip_suffix('/') {
            Some(dir) => (dir, true),
            None => (path, false),
        };
        let mut at = Ino::ROOT;
        let mut kind = crate::types::FileKind::Dir;
        for segment in path.split('/') {
            let Some(name) = unescape_name(segment) else { return Ok(None) };
            let dirent: Option<crate::meta::records::DirentRec> =
                self.meta.get(&keys::dirent(at, &name)).await?;
            match dirent {
                Some(d) => (at, kind) = (d.ino, d.kind),
                None => return Ok(None),
            }
        }
        Ok((want_dir == (kind == crate::types::FileKind::Dir)).then_some(at))
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
