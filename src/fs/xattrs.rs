//! Extended attributes, any size that ext4 takes. They live in the index; the objects carry them too
//! where they fit into metadata.

use bytes::Bytes;

use super::acl::{ACCESS, Acl, DEFAULT};
use super::attributes::in_group;
use super::{Fs, FsError, XattrMode};
use crate::meta::records::WorkRec;
use crate::meta::{Lookup, keys};
use crate::types::{Caller, FileKind, Ino};

/// Linux's limits (XATTR_NAME_MAX, XATTR_SIZE_MAX), bytes.
const MAX_NAME: usize = 255;
const MAX_VALUE: usize = 65_536;

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
        supported(&name)?;
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
        let key = keys::xattr(ino, &name);
        let mut tx = self.volume.begin().await?;
        match (mode, tx.kv.get_raw(&key).await?) {
            (XattrMode::Create, Some(_)) => return Err(FsError::Exists),
            (XattrMode::Replace, None) => return Err(FsError::NoXattr),
            // As on ext4, the value that is there already is no change.
            (_, Some(there)) if there == value => return Ok(()),
            _ => {}
        }
        tx.kv.put_raw(key, value.to_vec());
        self.changed_attributes(&mut tx, ino).await?;
        tx.commit(caller.unique).await?;
        Ok(())
    }

    pub async fn getxattr(&self, ino: Ino, name: Bytes) -> Result<Bytes, FsError> {
        supported(&name)?;
        self.known(ino).await?;
        let key = keys::xattr(ino, &name);
        self.volume.meta.get_raw(&key).await?.ok_or(FsError::NoXattr)
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
        supported(&name)?;
        self.known(ino).await?;
        let key = keys::xattr(ino, &name);
        let mut tx = self.volume.begin().await?;
        if tx.kv.get_raw(&key).await?.is_none() {
            // Linux takes a list away that is not there.
            let list = name == ACCESS || name == DEFAULT;
            return if list { Ok(()) } else { Err(FsError::NoXattr) };
        }
        tx.kv.delete(key);
        self.changed_attributes(&mut tx, ino).await?;
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
    ) -> Result<(), FsError> {
        let now = crate::clock::now();
        let rec = tx.inode(ino).await?;
        tx.edit(ino, move |rec| {
            rec.ctime = now;
            rec.attr_gen += 1;
        })
        .await?;
        if rec.nlink > 0 {
            tx.needs_rest(ino, WorkRec::Inode).await?;
        }
        Ok(())
    }
}

/// The names as listxattr(2) gives them, each ended by a NUL.
pub fn listed(xattrs: &[(Bytes, Bytes)]) -> Bytes {
    let mut names = Vec::new();
    for (name, _) in xattrs {
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
