//! Extended attributes, any size that ext4 takes. They live in the index; the objects carry them too
//! where they fit into metadata. Those named `user.s3.…` are what the object itself bears, and those named
//! `user.s3vol.…` are kept nowhere: they tell where the file is by now.

use bytes::Bytes;

use super::acl::{ACCESS, Acl, DEFAULT};
use super::attributes::in_group;
use super::{Fs, FsError, XattrMode};
use crate::data::{Borne, Question, Slot, guessed};
use crate::meta::records::WorkRec;
use crate::meta::{Lookup, keys};
use crate::store::{Header, Unfit};
use crate::types::{Caller, FileKind, Ino, ObjectKey};

/// Linux's limits (XATTR_NAME_MAX, XATTR_SIZE_MAX), bytes.
const MAX_NAME: usize = 255;
const MAX_VALUE: usize = 65_536;
/// What S3 answers for an object whose content type nobody said.
const UNTYPED: &str = "binary/octet-stream";

impl Fs {
    pub async fn setxattr(
        &self,
        caller: Caller,
        ino: Ino,
        name: Bytes,
        value: Bytes,
        mode: XattrMode,
    ) -> Result<(), FsError> {
        if self.answered(&caller) {
            return Ok(());
        }
        settable(&name)?;
        if name.len() > MAX_NAME {
            return Err(FsError::Range);
        }
        if value.len() > MAX_VALUE {
            return Err(FsError::TooBig);
        }
        let inode = self.known(ino).await?;
        if name == ACCESS {
            return self.set_access_list(caller, ino, &value).await;
        }
        if name == DEFAULT {
            Acl::parse(&value)?;
            if inode.live().attr.kind != FileKind::Dir {
                return Err(FsError::AccessDenied);
            }
        }
        let slot = Slot::parse(&name).transpose().map_err(unfit)?;
        let key = keys::xattr(ino, &name);
        let mut tx = self.volume.begin().await?;
        match (mode, tx.kv.get_raw(&key).await?) {
            (XattrMode::Create, Some(_)) => return Err(FsError::Exists),
            (XattrMode::Replace, None) => return Err(FsError::NoXattr),
            // As on ext4, the value that is there already is no change.
            (_, Some(there)) if there == value => return Ok(()),
            _ => {}
        }
        let bears = slot.is_some();
        if let Some(slot) = slot {
            let mut borne = Borne::of_rows(&self.volume.meta.xattrs(ino).await?);
            borne.change(slot, &value).map_err(unfit)?;
        }
        tx.kv.put_raw(key, value.to_vec());
        self.changed_attributes(&mut tx, ino, bears).await?;
        tx.commit(caller.unique).await?;
        Ok(())
    }

    /// A content type that nobody gave shows as what the object has by its name when it is asked for;
    /// listed, and so copied with the file, is only what somebody gave.
    pub async fn getxattr(&self, ino: Ino, name: Bytes) -> Result<Bytes, FsError> {
        supported(&name)?;
        if let Some(question) = Question::parse(&name) {
            self.inode(ino).await?;
            return Ok(question.answer(&self.volume.standing(ino).await?).into());
        }
        let inode = self.known(ino).await?;
        let key = keys::xattr(ino, &name);
        if let Some(value) = self.volume.meta.get_raw(&key).await? {
            return Ok(value);
        }
        let is_file = inode.live().attr.kind == FileKind::File;
        if !is_file || Slot::parse(&name) != Some(Ok(Slot::Header(Header::ContentType))) {
            return Err(FsError::NoXattr);
        }
        let mut names = self.volume.names_of(ino).await?;
        let Some((parent, name)) = names.pop() else { return Err(FsError::NoXattr) };
        let segment = self.volume.segment_of(parent, &name).await?;
        let guess = guessed(&self.volume.options.content_type, &ObjectKey::new(segment));
        guess.map(Bytes::from).ok_or(FsError::NoXattr)
    }

    /// Names, each ended by a NUL.
    pub async fn listxattr(&self, ino: Ino) -> Result<Bytes, FsError> {
        self.known(ino).await?;
        Ok(listed(&self.volume.meta.xattrs(ino).await?))
    }

    pub async fn removexattr(&self, caller: Caller, ino: Ino, name: Bytes) -> Result<(), FsError> {
        if self.answered(&caller) {
            return Ok(());
        }
        settable(&name)?;
        self.known(ino).await?;
        let key = keys::xattr(ino, &name);
        let mut tx = self.volume.begin().await?;
        if tx.kv.get_raw(&key).await?.is_none() {
            // Linux takes a list away that is not there.
            let list = name == ACCESS || name == DEFAULT;
            return if list { Ok(()) } else { Err(FsError::NoXattr) };
        }
        tx.kv.delete(key);
        let bears = matches!(Slot::parse(&name), Some(Ok(_)));
        self.changed_attributes(&mut tx, ino, bears).await?;
        tx.commit(caller.unique).await?;
        Ok(())
    }

    /// The mode says what the list says; a list that says no more than a mode is not kept.
    async fn set_access_list(&self, caller: Caller, ino: Ino, value: &[u8]) -> Result<(), FsError> {
        let acl = Acl::parse(value)?;
        let key = keys::xattr(ino, ACCESS);
        let mut tx = self.volume.begin().await?;
        if acl.is_a_mode() {
            tx.kv.delete(key);
        } else {
            tx.kv.put_raw(key, acl.value());
        }
        let rec = tx.inode(ino).await?;
        // As chmod: a caller outside the file's group cannot keep its set-group-ID bit.
        let foreign = caller.uid != 0 && !in_group(&caller, rec.gid);
        let kept = if foreign { 0o5000 } else { 0o7000 };
        let now = crate::clock::now();
        let mode = acl.mode();
        tx.edit(ino, move |rec| {
            rec.perm = rec.perm & kept | mode;
            rec.ctime = now;
            rec.attr_gen += 1;
        })
        .await?;
        if rec.nlink > 0 {
            tx.needs_rest(ino, WorkRec::Inode).await?;
        }
        tx.commit(caller.unique).await?;
        Ok(())
    }

    async fn changed_attributes(
        &self,
        tx: &mut crate::data::Tx<'_>,
        ino: Ino,
        bears: bool,
    ) -> Result<(), FsError> {
        let now = crate::clock::now();
        let rec = tx.inode(ino).await?;
        tx.edit(ino, move |rec| {
            rec.ctime = now;
            rec.attr_gen += 1;
            if bears {
                rec.borne_gen = rec.attr_gen;
            }
        })
        .await?;
        if rec.nlink > 0 {
            tx.needs_rest(ino, WorkRec::Inode).await?;
        }
        Ok(())
    }
}

/// What a store cannot hold beside the object.
fn unfit(why: Unfit) -> FsError {
    match why {
        Unfit::Syntax => FsError::Invalid("a store cannot hold this attribute of an object"),
        Unfit::TooLong => FsError::TooBig,
        Unfit::TooMuch => FsError::NoSpace(why.to_string()),
    }
}

/// The names as listxattr(2) gives them, each ended by a NUL. One that is longer than a name may be (a
/// tag's) cannot be asked for either, and the content type that S3 gives where nobody said one is not
/// listed, so that no copy of the file insists on it.
pub fn listed(xattrs: &[(Bytes, Bytes)]) -> Bytes {
    let content_type = Slot::Header(Header::ContentType).xattr();
    let shows = |(name, value): &&(Bytes, Bytes)| {
        name.len() <= MAX_NAME
            && !Question::reserves(name)
            && !(*name == content_type && value == UNTYPED)
    };
    let mut names = Vec::new();
    for (name, _) in xattrs.iter().filter(shows) {
        names.extend_from_slice(name);
        names.push(0);
    }
    Bytes::from(names)
}

/// Of the kernel's own names, the access control lists: another one would mean nothing here.
pub fn supported(name: &[u8]) -> Result<(), FsError> {
    let refused = name.starts_with(b"system.") && name != ACCESS && name != DEFAULT;
    if refused { Err(FsError::Unsupported) } else { Ok(()) }
}

/// [`supported`], and none of those that only answer.
fn settable(name: &[u8]) -> Result<(), FsError> {
    if Question::reserves(name) { Err(FsError::Unsupported) } else { supported(name) }
}
