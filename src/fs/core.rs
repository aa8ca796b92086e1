//! The file system of one mounted volume.

use bytes::Bytes;

use super::*;
use crate::types::{Caller, FileName, Ino};

/// One volume as a POSIX file system. Every operation is a future that is ready at its first poll
/// when it needs no request to the store; all of them may be polled from any thread, with any waker.
#[derive(Debug)]
pub struct Fs {}

#[allow(unused_variables)]
impl Fs {
    pub async fn lookup(&self, parent: Ino, name: FileName) -> Result<Attr, FsError> {
        todo!()
    }
    pub fn forget(&self, ino: Ino, count: u64) {
        todo!()
    }
    pub async fn getattr(&self, ino: Ino) -> Result<Attr, FsError> {
        todo!()
    }
    pub async fn setattr(
        &self,
        caller: Caller,
        ino: Ino,
        change: SetAttr,
    ) -> Result<Attr, FsError> {
        todo!()
    }
    pub async fn readlink(&self, ino: Ino) -> Result<Bytes, FsError> {
        todo!()
    }
    /// `mode` holds S_IFMT and the permission bits, umask already applied.
    pub async fn mknod(
        &self,
        caller: Caller,
        parent: Ino,
        name: FileName,
        mode: u32,
        rdev: u32,
    ) -> Result<Attr, FsError> {
        todo!()
    }
    pub async fn mkdir(
        &self,
        caller: Caller,
        parent: Ino,
        name: FileName,
        mode: u32,
    ) -> Result<Attr, FsError> {
        todo!()
    }
    pub async fn unlink(&self, caller: Caller, parent: Ino, name: FileName) -> Result<(), FsError> {
        todo!()
    }
    pub async fn rmdir(&self, caller: Caller, parent: Ino, name: FileName) -> Result<(), FsError> {
        todo!()
    }
    pub async fn symlink(
        &self,
        caller: Caller,
        parent: Ino,
        name: FileName,
        target: Bytes,
    ) -> Result<Attr, FsError> {
        todo!()
    }
    pub async fn rename(
        &self,
        caller: Caller,
        parent: Ino,
        name: FileName,
        new_parent: Ino,
        new_name: FileName,
        mode: RenameMode,
    ) -> Result<(), FsError> {
        todo!()
    }
    pub async fn link(
        &self,
        caller: Caller,
        ino: Ino,
        new_parent: Ino,
        new_name: FileName,
    ) -> Result<Attr, FsError> {
        todo!()
    }
    /// `flags` are open(2)'s.
    pub async fn open(&self, caller: Caller, ino: Ino, flags: i32) -> Result<Opened, FsError> {
        todo!()
    }
    pub async fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: FileName,
        mode: u32,
        flags: i32,
    ) -> Result<(Attr, Opened), FsError> {
        todo!()
    }
    pub async fn read(
        &self,
        ino: Ino,
        fh: FileHandle,
        offset: u64,
        len: u32,
    ) -> Result<Bytes, FsError> {
        todo!()
    }
    /// `kill_priv`: clear setuid and setgid as POSIX asks of writes by non-root.
    pub async fn write(
        &self,
        ino: Ino,
        fh: FileHandle,
        offset: u64,
        data: Bytes,
        kill_priv: bool,
    ) -> Result<u32, FsError> {
        todo!()
    }
    /// At every close(2) of a descriptor.
    pub async fn flush(&self, ino: Ino, fh: FileHandle) -> Result<(), FsError> {
        todo!()
    }
    /// At the last close.
    pub async fn release(&self, ino: Ino, fh: FileHandle) -> Result<(), FsError> {
        todo!()
    }
    pub async fn fsync(&self, ino: Ino, datasync: bool) -> Result<crate::meta::Receipt, FsError> {
        todo!()
    }
    pub async fn opendir(&self, ino: Ino) -> Result<FileHandle, FsError> {
        todo!()
    }
    /// At most `max` entries after `cookie` (0 starts), `.` and `..` included. An empty answer ends.
    pub async fn readdir(
        &self,
        ino: Ino,
        fh: FileHandle,
        cookie: u64,
        max: usize,
    ) -> Result<Vec<DirEntry>, FsError> {
        todo!()
    }
    pub async fn releasedir(&self, ino: Ino, fh: FileHandle) -> Result<(), FsError> {
        todo!()
    }
    pub async fn statfs(&self) -> Result<StatFs, FsError> {
        todo!()
    }
    pub async fn setxattr(
        &self,
        caller: Caller,
        ino: Ino,
        name: Bytes,
        value: Bytes,
        mode: XattrMode,
    ) -> Result<(), FsError> {
        todo!()
    }
    pub async fn getxattr(&self, ino: Ino, name: Bytes) -> Result<Bytes, FsError> {
        todo!()
    }
    /// Names, each ended by a NUL.
    pub async fn listxattr(&self, ino: Ino) -> Result<Bytes, FsError> {
        todo!()
    }
    pub async fn removexattr(&self, caller: Caller, ino: Ino, name: Bytes) -> Result<(), FsError> {
        todo!()
    }
    pub async fn fallocate(
        &self,
        ino: Ino,
        fh: FileHandle,
        mode: Fallocate,
        offset: u64,
        len: u64,
    ) -> Result<(), FsError> {
        todo!()
    }
    /// SEEK_DATA (`hole` false) or SEEK_HOLE.
    pub async fn lseek(
        &self,
        ino: Ino,
        fh: FileHandle,
        offset: u64,
        hole: bool,
    ) -> Result<u64, FsError> {
        todo!()
    }
    pub async fn copy_range(
        &self,
        from: Ino,
        from_offset: u64,
        to: Ino,
        to_fh: FileHandle,
        to_offset: u64,
        len: u64,
    ) -> Result<u64, FsError> {
        todo!()
    }
}
