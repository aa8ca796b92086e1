//! Extended attributes. They live in the index, any size that ext4 takes.

use bytes::Bytes;

use super::{Fs, FsError, XattrMode};
use crate::meta::keys;
use crate::types::{Caller, Ino};

/// Linux's limits (XATTR_NAME_MAX, XATTR_SIZE_MAX), bytes.
const MAX_NAME: usize = 255;
const MAX_VALUE: usize = 65_536;
/// XATTR_LIST_MAX: what one inode's names may need together, bytes.
const MAX_LIST: usize = 65_536;

impl Fs {
    pub async fn setxattr(
        &self,
        caller: Caller,
        ino: Ino,
        name: Bytes,
        value: Bytes,
        mode: XattrMode,
    ) -> Result<(), FsError> {
        self.writable()?;
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
        self.inode(ino).await?;
        let key = keys::xattr(ino, &name);
        let mut tx = self.volume.begin().await;
        match (mode, tx.kv.get_raw(&key).await?.is_some()) {
            (XattrMode::Create, true) => return Err(FsError::Exists),
            (XattrMode::Replace, false) => return Err(FsError::NoXattr),
            _ => {}
        }
        tx.kv.put_raw(key, value.to_vec());
        self.changed_attributes(&mut tx, ino).await?;
        tx.commit(caller.unique).await?;
        Ok(())
    }

    pub async fn getxattr(&self, ino: Ino, name: Bytes) -> Result<Bytes, FsError> {
        supported(&name)?;
        let key = keys::xattr(ino, &name);
        self.volume.meta.get_raw(&key).await?.ok_or(FsError::NoXattr)
    }

    /// Names, each ended by a NUL.
    pub async fn listxattr(&self, ino: Ino) -> Result<Bytes, FsError> {
        self.inode(ino).await?;
        let found = self.volume.meta.scan(keys::of_inode(keys::XATTR, ino), MAX_LIST).await?;
        let mut names = Vec::new();
        for (key, _) in &found {
            names.extend_from_slice(keys::after_ino(key));
            names.push(0);
        }
        Ok(Bytes::from(names))
    }

    pub async fn removexattr(&self, caller: Caller, ino: Ino, name: Bytes) -> Result<(), FsError> {
        self.writable()?;
        if self.answered(&caller) {
            return Ok(());
        }
        supported(&name)?;
        let key = keys::xattr(ino, &name);
        let mut tx = self.volume.begin().await;
        if tx.kv.get_raw(&key).await?.is_none() {
            return Err(FsError::NoXattr);
        }
        tx.kv.delete(key);
        self.changed_attributes(&mut tx, ino).await?;
        tx.commit(caller.unique).await?;
        Ok(())
    }

    async fn changed_attributes(
        &self,
        tx: &mut crate::data::Tx<'_>,
        ino: Ino,
    ) -> Result<(), FsError> {
        let now = crate::clock::now();
        tx.edit(ino, move |rec| rec.ctime = now).await?;
        Ok(())
    }
}

/// POSIX ACLs change how permissions are judged, which the kernel does here by mode bits alone: taking
/// one without enforcing it would open files, so it is refused.
fn supported(name: &[u8]) -> Result<(), FsError> {
    if name.starts_with(b"system.") { Err(FsError::Unsupported) } else { Ok(()) }
}
