//! The requests of a volume that is only read: each becomes one call of [`ReadFs`], and every change is
//! refused. The kernel refuses changes itself as long as the mount is read-only; a mount can be told
//! otherwise.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};

use super::Notifier;
use super::adapter::convert::{checked_name, handle, ino, seek};
use super::adapter::directory::{self, Listing};
use super::adapter::request::{Op, Runner};
use super::adapter::{answer, calls};
use crate::follow::{KernelPages, ReadFs};
use crate::fs::{Attr, DirEntry, FsError, Show};
use crate::metrics::Meters;
use crate::types::{FileName, Ino};

/// The file system as `fuser` sees it.
#[derive(Debug)]
pub(super) struct Following {
    fs: Arc<ReadFs>,
    runner: Runner,
}

impl Following {
    pub(super) fn new(fs: Arc<ReadFs>, runtime: tokio::runtime::Handle) -> Self {
        let runner = Runner::new(runtime, Arc::clone(&fs.meters), Arc::default());
        Following { fs, runner }
    }

    fn fs(&self) -> Arc<ReadFs> {
        Arc::clone(&self.fs)
    }
}

#[async_trait]
impl KernelPages for Notifier {
    async fn drop_pages(&self, ino: Ino) {
        self.content_dropped(ino).await;
    }
}

impl Listing for ReadFs {
    async fn readdir(
        &self,
        dir: Ino,
        _fh: crate::fs::FileHandle,
        cookie: u64,
        max: usize,
        show: Show,
    ) -> Result<Vec<DirEntry>, FsError> {
        ReadFs::readdir(self, dir, cookie, max, show).await
    }

    async fn lookup(&self, dir: Ino, name: FileName) -> Result<Attr, FsError> {
        ReadFs::lookup(self, dir, name).await
    }

    fn meters(&self) -> &Meters {
        &self.meters
    }
}

impl Filesystem for Following {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        super::negotiate::negotiate(config)
    }

    // --- Names and attributes ---

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, name) = (self.fs(), checked_name(name));
        let call = async move { fs.lookup(ino(parent), name?).await };
        self.runner.run(Op::new(calls::LOOKUP, req, parent), call, answer::entry(reply));
    }

    fn getattr(&self, req: &Request, inode: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let fs = self.fs();
        let call = async move { fs.getattr(ino(inode)).await };
        self.runner.run(Op::new(calls::GETATTR, req, inode), call, answer::attr(reply));
    }

    fn readlink(&self, req: &Request, inode: INodeNo, reply: ReplyData) {
        let fs = self.fs();
        let call = async move { fs.readlink(ino(inode)).await };
        self.runner.run(
            Op::new(calls::READLINK, req, inode),
            call,
            answer::data(reply, usize::MAX),
        );
    }

    fn opendir(&self, req: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let fs = self.fs();
        let call = async move { fs.opendir(ino(inode)).await };
        self.runner.run(Op::new(calls::OPENDIR, req, inode), call, answer::opened_dir(reply));
    }

    fn readdir(
        &self,
        req: &Request,
        inode: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let op = Op::new(calls::READDIR, req, inode);
        let at = (op, ino(inode), handle(fh));
        self.runner.drive(op, directory::list(self.fs(), at, offset, reply));
    }

    fn readdirplus(
        &self,
        req: &Request,
        inode: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let op = Op::new(calls::READDIRPLUS, req, inode);
        let at = (op, ino(inode), handle(fh));
        self.runner.drive(op, directory::list_plus(self.fs(), at, offset, reply));
    }

    fn releasedir(
        &self,
        _req: &Request,
        _inode: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn getxattr(&self, req: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let fs = self.fs();
        let name = Bytes::copy_from_slice(name.as_bytes());
        let call = async move { fs.getxattr(ino(inode), name).await };
        self.runner.run(Op::new(calls::GETXATTR, req, inode), call, answer::xattr(reply, size));
    }

    fn listxattr(&self, req: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let fs = self.fs();
        let call = async move { fs.listxattr(ino(inode)).await };
        self.runner.run(Op::new(calls::LISTXATTR, req, inode), call, answer::xattr(reply, size));
    }

    fn statfs(&self, req: &Request, inode: INodeNo, reply: ReplyStatfs) {
        let fs = self.fs();
        let call = async move { fs.statfs().await };
        self.runner.run(Op::new(calls::STATFS, req, inode), call, answer::statfs(reply));
    }

    // --- Content ---

    fn open(&self, req: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let fs = self.fs();
        let call = async move { fs.open_file(ino(inode), flags.0).await };
        self.runner.run(Op::new(calls::OPEN, req, inode), call, answer::opened(reply));
    }

    fn read(
        &self,
        req: &Request,
        inode: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let fs = self.fs();
        let call = async move {
            let data = fs.read(ino(inode), offset, size).await?;
            fs.meters.operations.read(data.len());
            Ok(data)
        };
        self.runner.run(Op::new(calls::READ, req, inode), call, answer::data(reply, size as usize));
    }

    fn lseek(
        &self,
        req: &Request,
        inode: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let (fs, target) = (self.fs(), seek(offset, whence));
        let call = async move {
            let (offset, hole) = target?;
            fs.lseek(ino(inode), offset, hole).await
        };
        self.runner.run(Op::new(calls::LSEEK, req, inode), call, answer::sought(reply));
    }

    fn release(
        &self,
        _req: &Request,
        inode: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.fs.release(ino(inode));
        reply.ok();
    }

    // Nothing here is dirty.
    fn fsync(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _ds: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    // --- Answered as for a volume that is written ---

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn flush(
        &self,
        _req: &Request,
        _inode: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    // --- Refused ---

    fn mknod(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _target: &Path,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn rename(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _new_parent: INodeNo,
        _new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn link(
        &self,
        _req: &Request,
        _inode: INodeNo,
        _new_parent: INodeNo,
        _new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _req: &Request,
        _inode: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn fallocate(
        &self,
        _req: &Request,
        _inode: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn setattr(
        &self,
        _req: &Request,
        _inode: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn setxattr(
        &self,
        _req: &Request,
        _inode: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _req: &Request, _inode: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }
}
