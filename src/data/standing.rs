//! Where a file is by now: only on this host, in the bucket, or at rest as an object.
//!
//! It is read from what is in memory and in the index, so it costs the bucket nothing, and it is true for
//! the moment in which it was asked. It shows as two extended attributes that are kept nowhere and not
//! listed, so that no copy of a file takes them along: [`Question`].

use std::collections::HashSet;
use std::fmt;

use super::{DataError, Volume};
use crate::meta::records::{ContentRec, InodeRec, RestRec};
use crate::meta::{Lookup, MetaError, keys};
use crate::types::{FileKind, Ino, ObjectKey, Version};

/// What all attributes begin with that say something of the file system's own. `trusted.` is for those
/// of which Linux shows no `user.` attributes: symbolic links and special files.
const OURS: [&str; 2] = ["user.s3vol.", "trusted.s3vol."];

/// What is asked by the name of an extended attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// `user.s3vol.status`: the text of [`Standing`].
    Status,
    /// `user.s3vol.durable`: `1` or `0`, see [`Standing::is_durable`].
    Durable,
}

impl Question {
    /// What this name asks for, if it does.
    pub fn parse(name: &[u8]) -> Option<Question> {
        match OURS.iter().find_map(|ours| name.strip_prefix(ours.as_bytes()))? {
            b"status" => Some(Question::Status),
            b"durable" => Some(Question::Durable),
            _ => None,
        }
    }

    /// Whether attributes of this name are ours alone to give.
    pub fn reserves(name: &[u8]) -> bool {
        OURS.iter().any(|ours| name.starts_with(ours.as_bytes()))
    }

    /// The value of the attribute.
    pub fn answer(self, standing: &Standing) -> String {
        match self {
            Question::Status => standing.to_string(),
            Question::Durable => u8::from(standing.is_durable()).to_string(),
        }
    }
}

/// Where an inode's content and name are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It has no name any more and lives as long as a program has it open.
    Removed,
    /// Written here, and in no commit: so many bytes.
    Written { bytes: u64 },
    /// The last change of content, attributes or path is on its way to the bucket.
    Sent,
    /// In the bucket's state since this commit of the content, or this change of the attributes of what
    /// has none. An object may show it, or an older one.
    Committed { since: Since, shown: Option<Shown> },
    /// A plain object, or nothing but a prefix of objects' keys.
    AtRest { shown: Option<Shown> },
}

/// The number of the change that brought something into the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    Commit(u64),
    Attributes(u64),
}

/// The object of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub key: ObjectKey,
    pub version: Version,
    /// The commit whose content it has; `None` for what has no content, and where nobody knows.
    pub commit: Option<u64>,
    /// Other keys at which the same inode rests.
    pub more: usize,
}

impl Standing {
    /// Whether content and name are in the bucket, so that any host that mounts the volume has them.
    pub fn is_durable(&self) -> bool {
        matches!(self, Standing::Committed { .. } | Standing::AtRest { .. })
    }

    /// Of an inode whose records are all in the bucket.
    pub async fn in_bucket<L: Lookup>(
        meta: &L,
        ino: Ino,
        attr: &InodeRec,
        content: &ContentRec,
    ) -> Result<Standing, MetaError> {
        if attr.nlink == 0 {
            return Ok(Standing::Removed);
        }
        let is_file = attr.kind == FileKind::File;
        let shown = shown(meta, ino, content).await?;
        let owed = meta.get_raw(&keys::work(ino)).await?.is_some();
        if !owed && (!is_file || content.at_rest()) {
            return Ok(Standing::AtRest { shown });
        }
        let since = match is_file {
            true => Since::Commit(content.generation),
            false => Since::Attributes(attr.attr_gen),
        };
        Ok(Standing::Committed { since, shown })
    }
}

/// The object below a file's content, or where else the inode was seen at rest.
async fn shown<L: Lookup>(
    meta: &L,
    ino: Ino,
    content: &ContentRec,
) -> Result<Option<Shown>, MetaError> {
    let rows = meta.scan_all(keys::of_inode(keys::RESTS, ino)).await?;
    let seen: Vec<ObjectKey> = rows.iter().filter_map(|(key, _)| keys::parse_rests(key)).collect();
    let base = content.base.as_ref().filter(|base| !base.parked);
    let Some(key) = base.map(|base| &base.key).or(seen.first()) else { return Ok(None) };
    let rest: Option<RestRec> = meta.get(&keys::rest(key)).await?;
    let rest = rest.filter(|rest| rest.ino == ino);
    let version = match (&rest, base) {
        (Some(rest), _) => rest.version.clone(),
        (None, Some(base)) => base.version.clone(),
        (None, None) => return Ok(None),
    };
    let commit = rest.map(|rest| rest.generation).filter(|commit| *commit > 0);
    let more = seen.iter().filter(|other| *other != key).count();
    Ok(Some(Shown { key: key.clone(), version, commit, more }))
}

impl Volume {
    /// Where an inode is by now. Reads the index, and asks nothing of the objects' bucket.
    pub async fn standing(&self, ino: Ino) -> Result<Standing, DataError> {
        let inode = self.inode(ino).await?;
        // First what no batch has: a commit that ends meanwhile is found among the batches.
        let (attr, content, clean, bytes) = {
            let live = inode.live();
            let clean = live.pending.is_clean();
            (live.attr.clone(), live.content.clone(), clean, live.pending.data_bytes())
        };
        if attr.nlink == 0 {
            return Ok(Standing::Removed);
        }
        if !clean {
            return Ok(Standing::Written { bytes });
        }
        let (mut sent, mut renamed) = (false, HashSet::new());
        self.meta.engine.each_undurable_batch(|batch| {
            let rows = || batch.iter().map(|(key, _)| key);
            // What a publish notes of a content adds nothing to it that could be lost.
            let of_a_publish = rows().any(|key| key.first() == Some(&keys::INTENT));
            for key in rows() {
                let Some(of) = keys::parse_ino(key) else { continue };
                match key.first() {
                    Some(&keys::PARENT) => drop(renamed.insert(of)),
                    Some(&keys::CONTENT) if of_a_publish => {}
                    Some(&(keys::INODE | keys::CONTENT | keys::XATTR)) => sent |= of == ino,
                    _ => {}
                }
            }
        });
        if sent || self.path_has(ino, &renamed).await? {
            return Ok(Standing::Sent);
        }
        Ok(Standing::in_bucket(&self.meta, ino, &attr, &content).await?)
    }

    /// Whether one of these inodes lies on a path to `ino`, itself included.
    async fn path_has(&self, ino: Ino, renamed: &HashSet<Ino>) -> Result<bool, DataError> {
        if renamed.is_empty() {
            return Ok(false);
        }
        let mut look_at = vec![ino];
        let mut looked = HashSet::new();
        while let Some(at) = look_at.pop() {
            if renamed.contains(&at) {
                return Ok(true);
            }
            if looked.insert(at) && at != Ino::ROOT {
                look_at.extend(self.names_of(at).await?.into_iter().map(|(parent, _)| parent));
            }
        }
        Ok(false)
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Standing::Removed => {
                f.write_str("removed: it has no name, and goes when nobody has it open")
            }
            Standing::Written { bytes } => write!(f, "local: {bytes} bytes are in no commit yet"),
            Standing::Sent => f.write_str("local: its last change is on its way to the bucket"),
            Standing::Committed { since, shown } => {
                write!(f, "committed: since {since}")?;
                match shown {
                    None => f.write_str(", no object yet"),
                    Some(shown) if Some(*since) == shown.commit.map(Since::Commit) => {
                        write!(f, ", whose content is the {shown}; attributes or names follow")
                    }
                    Some(shown) => write!(f, "; older than that is the {shown}"),
                }
            }
            Standing::AtRest { shown: Some(shown) } => write!(f, "at rest: {shown}"),
            Standing::AtRest { shown: None } => {
                f.write_str("at rest: a directory without an object of its own")
            }
        }
    }
}

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Since::Commit(number) => write!(f, "commit {number}"),
            Since::Attributes(number) => write!(f, "change {number} of its attributes"),
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "object {}, ETag {}", self.key, self.version.etag)?;
        if let Some(version) = &self.version.generation {
            write!(f, ", version {version}")?;
        }
        if let Some(commit) = self.commit {
            write!(f, ", of commit {commit}")?;
        }
        match self.more {
            0 => Ok(()),
            1 => f.write_str(", and one of another name"),
            more => write!(f, ", and {more} of other names"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_known_by_its_whole_name() {
        assert_eq!(Question::parse(b"user.s3vol.status"), Some(Question::Status));
        assert_eq!(Question::parse(b"trusted.s3vol.durable"), Some(Question::Durable));
        for other in ["user.s3vol.", "user.s3vol.statuses", "user.s3.status", "user.status"] {
            assert_eq!(Question::parse(other.as_bytes()), None, "{other}");
        }
        assert!(Question::reserves(b"user.s3vol.later") && !Question::reserves(b"user.s3.x"));
    }

    #[test]
    fn each_standing_is_one_line() {
        let version =
            Version { etag: "abc".into(), size: 3, modified: None, generation: Some("v7".into()) };
        let shown = |commit| {
            Some(Shown { key: ObjectKey::new("v/a b"), version: version.clone(), commit, more: 1 })
        };
        let since = Since::Commit(4);
        let cases = [
            (Standing::Removed, "removed: it has no name, and goes when nobody has it open", "0"),
            (Standing::Written { bytes: 9 }, "local: 9 bytes are in no commit yet", "0"),
            (Standing::Sent, "local: its last change is on its way to the bucket", "0"),
            (
                Standing::Committed { since, shown: None },
                "committed: since commit 4, no object yet",
                "1",
            ),
            (
                Standing::Committed { since, shown: shown(Some(3)) },
                "committed: since commit 4; older than that is the object v/a b, ETag abc, version v7, \
                 of commit 3, and one of another name",
                "1",
            ),
            (
                Standing::AtRest { shown: shown(Some(4)) },
                "at rest: object v/a b, ETag abc, version v7, of commit 4, and one of another name",
                "1",
            ),
        ];
        for (standing, text, durable) in cases {
            assert_eq!(Question::Status.answer(&standing), text);
            assert_eq!(Question::Durable.answer(&standing), durable, "{text}");
        }
    }
}
