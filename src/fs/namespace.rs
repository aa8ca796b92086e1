//! Names: lookup, making and removing them.

use bytes::Bytes;

use super::attributes::in_group;
use super::{Attr, Fs, FsError};
use crate::data::{PathMemo, Tx};
use crate::meta::keys;
use crate::meta::records::{DirentRec, InodeRec, WorkRec};
use crate::types::{Caller, FileKind, FileName, Ino, Timestamp};

/// ext4's limit on hard links.
const MAX_LINKS: u32 = 65_000;
/// Linux's limit on a symlink's target, bytes (PATH_MAX less the NUL).
const MAX_TARGET: usize = 4095;

/// What a new inode starts from.
pub(super) struct NewInode {
    pub kind: FileKind,
    pub perm: u32,
    pub rdev: u32,
    pub target: Option<Bytes>,
    /// Whether its maker opens it for writing.
    pub writer: bool,
}

impl NewInode {
    /// `mode`: of which the permission bits count.
    pub fn new(kind: FileKind, mode: u32) -> Self {
        NewInode { kind, perm: mode & 0o7777, rdev: 0, target: None, writer: false }
    }
}

impl Fs {
    pub async fn lookup(&self, parent: Ino, name: FileName) -> Result<Attr, FsError> {
        self.directory(parent).await?;
        self.outside.name(parent, &name).await?;
        let dirent: DirentRec =
            self.volume.meta.get(&keys::dirent(parent, &name)).await?.ok_or(FsError::NotFound)?;
        match self.getattr(dirent.ino).await {
            // The name went away between the two reads.
            Err(FsError::Stale) => Err(FsError::NotFound),
            other => other,
        }
    }

    /// `mode` holds S_IFMT and the permission bits; the caller's umask is applied here.
    pub async fn mknod(
        &self,
        caller: Caller,
        parent: Ino,
        name: FileName,
        mode: u32,
        rdev: u32,
    ) -> Result<Attr, FsError> {
        let kind = match mode & libc::S_IFMT {
            0 => FileKind::File,
            bits => FileKind::from_mode(bits).ok_or(FsError::Invalid("file type"))?,
        };
        if matches!(kind, FileKind::Dir | FileKind::Symlink) {
            return Err(FsError::Invalid("mknod makes neither directories nor links"));
        }
        let rdev = match kind {
            FileKind::CharDevice | FileKind::BlockDevice => rdev,
            _ => 0,
        };
        let new = NewInode { rdev, ..NewInode::new(kind, mode) };
        self.make(caller, parent, name, new).await
    }

    pub async fn mkdir(
        &self,
        caller: Caller,
        parent: Ino,
        name: FileName,
        mode: u32,
    ) -> Result<Attr, FsError> {
        let attr = self.make(caller, parent, name, NewInode::new(FileKind::Dir, mode)).await?;
        self.outside.made(attr.ino);
        Ok(attr)
    }

    pub async fn symlink(
        &self,
        caller: Caller,
        parent: Ino,
        name: FileName,
        target: Bytes,
    ) -> Result<Attr, FsError> {
        if target.is_empty() {
            return Err(FsError::NotFound);
        }
        if target.len() > MAX_TARGET {
            return Err(FsError::NameTooLong);
        }
        let new = NewInode { target: Some(target), ..NewInode::new(FileKind::Symlink, 0o777) };
        self.make(caller, parent, name, new).await
    }

    pub(super) async fn make(
        &self,
        caller: Caller,
        parent: Ino,
        name: FileName,
        new: NewInode,
    ) -> Result<Attr, FsError> {
        if self.answered(&caller) {
            return self.made_before(parent, &name).await;
        }
        self.directory(parent).await?;
        self.outside.name(parent, &name).await?;
        let mut tx = self.volume.begin().await?;
        if tx.dirent(parent, &name).await?.is_some() {
            return Err(FsError::Exists);
        }
        self.may_add_inode(tx.kv.superblock.inodes)?;
        let dir = tx.inode(parent).await?;
        if dir.nlink == 0 {
            return Err(FsError::NotFound);
        }
        let inherited = self.inherit(&tx, parent, new.kind, new.perm, caller.umask).await?;
        let is_dir = new.kind == FileKind::Dir;
        let now = crate::clock::now();
        let (gid, mut perm) = if dir.perm & 0o2000 != 0 {
            (dir.gid, if is_dir { inherited.perm | 0o2000 } else { inherited.perm })
        } else {
            (caller.gid, inherited.perm)
        };
        // As Linux's mode_strip_sgid: a group-executable set-group-ID file needs the group's member.
        if !is_dir && perm & 0o2010 == 0o2010 && caller.uid != 0 && !in_group(&caller, gid) {
            perm &= !0o2000;
        }
        let rec = InodeRec {
            uid: caller.uid,
            gid,
            rdev: new.rdev,
            target: new.target,
            ..InodeRec::new(new.kind, perm, now)
        };
        let ino = tx.new_ino();
        tx.create(ino, rec.clone());
        if new.writer {
            tx.open_for_writing(ino);
        }
        inherited.store(&mut tx, ino);
        tx.link(parent, &name, ino, new.kind);
        tx.edit(parent, move |dir| {
            touch(dir, now);
            if is_dir {
                dir.nlink += 1;
            }
        })
        .await?;
        tx.needs_rest(ino, WorkRec::Inode).await?;
        tx.commit(caller.unique).await?;
        let size = rec.target.as_ref().map_or(0, |t| t.len() as u64);
        Ok(self.attr_from(ino, &rec, size, 0))
    }

    /// The answer to a resent request that had made this name.
    async fn made_before(&self, parent: Ino, name: &FileName) -> Result<Attr, FsError> {
        let dirent: DirentRec =
            self.volume.meta.get(&keys::dirent(parent, name)).await?.ok_or(FsError::NotFound)?;
        self.getattr(dirent.ino).await
    }

    pub async fn link(
        &self,
        caller: Caller,
        ino: Ino,
        new_parent: Ino,
        new_name: FileName,
    ) -> Result<Attr, FsError> {
        if self.answered(&caller) {
            return self.made_before(new_parent, &new_name).await;
        }
        self.directory(new_parent).await?;
        self.outside.name(new_parent, &new_name).await?;
        let inode = self.known(ino).await?;
        let mut tx = self.volume.begin().await?;
        let rec = tx.inode(ino).await?;
        if rec.kind == FileKind::Dir {
            return Err(FsError::NotPermitted);
        }
        if rec.nlink == 0 {
            return Err(FsError::NotFound);
        }
        if rec.nlink >= MAX_LINKS {
            return Err(FsError::TooManyLinks);
        }
        if tx.inode(new_parent).await?.nlink == 0 {
            return Err(FsError::NotFound);
        }
        if tx.dirent(new_parent, &new_name).await?.is_some() {
            return Err(FsError::Exists);
        }
        let now = crate::clock::now();
        tx.link(new_parent, &new_name, ino, rec.kind);
        tx.edit(ino, move |rec| {
            rec.nlink += 1;
            rec.ctime = now;
        })
        .await?;
        tx.edit(new_parent, move |dir| touch(dir, now)).await?;
        tx.needs_rest(ino, WorkRec::Inode).await?;
        tx.commit(caller.unique).await?;
        Ok(self.attr_of(&inode))
    }

    pub async fn unlink(&self, caller: Caller, parent: Ino, name: FileName) -> Result<(), FsError> {
        if self.answered(&caller) {
            return Ok(());
        }
        self.outside.name(parent, &name).await?;
        let mut tx = self.volume.begin_owed().await?;
        let dirent = tx.dirent(parent, &name).await?.ok_or(FsError::NotFound)?;
        if dirent.kind == FileKind::Dir {
            return Err(FsError::IsDir);
        }
        let now = crate::clock::now();
        self.leave_key(&mut tx, parent, &name, false).await?;
        tx.unlink(parent, &name, dirent.ino);
        tx.edit(parent, move |dir| touch(dir, now)).await?;
        self.drop_link(&mut tx, dirent.ino, now).await?;
        tx.commit(caller.unique).await?;
        Ok(())
    }

    pub async fn rmdir(&self, caller: Caller, parent: Ino, name: FileName) -> Result<(), FsError> {
        if self.answered(&caller) {
            return Ok(());
        }
        loop {
            self.outside.name(parent, &name).await?;
            let meta = &self.volume.meta;
            let dirent: DirentRec =
                meta.get(&keys::dirent(parent, &name)).await?.ok_or(FsError::NotFound)?;
            if dirent.kind != FileKind::Dir {
                return Err(FsError::NotDir);
            }
            self.outside.directory(dirent.ino).await?;
            if Box::pin(self.rmdir_known(caller, parent, &name, dirent)).await? {
                return Ok(());
            }
            // Somebody else has moved it meanwhile.
        }
    }

    /// Removes a directory of which all names are known; false when the name leads elsewhere by now.
    async fn rmdir_known(
        &self,
        caller: Caller,
        parent: Ino,
        name: &FileName,
        known: DirentRec,
    ) -> Result<bool, FsError> {
        let mut tx = self.volume.begin_owed().await?;
        let dirent = tx.dirent(parent, name).await?.ok_or(FsError::NotFound)?;
        if dirent != known {
            return Ok(false);
        }
        self.must_be_empty(&tx, dirent.ino).await?;
        let now = crate::clock::now();
        self.leave_key(&mut tx, parent, name, true).await?;
        tx.unlink(parent, name, dirent.ino);
        tx.edit(parent, move |dir| {
            touch(dir, now);
            dir.nlink = dir.nlink.saturating_sub(1);
        })
        .await?;
        self.drop_inode(&mut tx, dirent.ino, now).await?;
        tx.commit(caller.unique).await?;
        Ok(true)
    }

    pub(super) async fn must_be_empty(&self, tx: &Tx<'_>, dir: Ino) -> Result<(), FsError> {
        let (page, _) = tx.kv.scan(keys::dirents_after(dir, 0), 8).await?;
        if page.is_empty() { Ok(()) } else { Err(FsError::NotEmpty) }
    }

    /// One name of a file less; the last one takes the inode along.
    pub(super) async fn drop_link(
        &self,
        tx: &mut Tx<'_>,
        ino: Ino,
        now: Timestamp,
    ) -> Result<(), FsError> {
        if tx.inode(ino).await?.nlink <= 1 {
            return self.drop_inode(tx, ino, now).await;
        }
        tx.edit(ino, move |rec| {
            rec.nlink -= 1;
            rec.ctime = now;
        })
        .await?;
        tx.needs_rest(ino, WorkRec::Inode).await?;
        Ok(())
    }

    /// An inode lost its last name (a directory: its only one). It goes at once, or as an orphan with
    /// its last close.
    pub(super) async fn drop_inode(
        &self,
        tx: &mut Tx<'_>,
        ino: Ino,
        now: Timestamp,
    ) -> Result<(), FsError> {
        if tx.is_unused(ino).await? {
            tx.remove(ino).await?;
            return Ok(());
        }
        tx.edit(ino, move |rec| {
            rec.nlink = 0;
            rec.ctime = now;
        })
        .await?;
        tx.orphan(ino);
        Ok(())
    }

    /// A name is about to lead elsewhere or nowhere: what lies at its key may have to go. Nothing is
    /// recorded for a key where nothing of this volume was ever seen.
    pub(super) async fn leave_key(
        &self,
        tx: &mut Tx<'_>,
        parent: Ino,
        name: &FileName,
        dir: bool,
    ) -> Result<(), FsError> {
        let mut memo = PathMemo::default();
        if let Some(key) = self.volume.key_of(parent, name, &mut memo).await? {
            let key = match dir {
                true => crate::types::ObjectKey::new(format!("{key}/")),
                false => key,
            };
            if tx.kv.get_raw(&keys::rest(&key)).await?.is_some() {
                tx.needs_tidying(&key);
            }
        }
        // A directory that is there only because of the keys below it outlives them: it gets a marker.
        if parent != Ino::ROOT
            && let Some(dir) = self.volume.dir_key(parent, &mut memo).await?
            && tx.kv.get_raw(&keys::rest(&crate::types::ObjectKey::new(dir))).await?.is_none()
            && tx.kv.get_raw(&keys::work(parent)).await?.is_none()
        {
            tx.needs_rest(parent, WorkRec::Inode).await?;
        }
        Ok(())
    }
}

/// A directory's names changed.
pub(super) fn touch(dir: &mut InodeRec, now: Timestamp) {
    dir.mtime = now;
    dir.ctime = now;
}
