//! Each FUSE request becomes one call of [`Fs`].
//!
//! This file is the table of requests; how one runs is in `request`, how results become replies in
//! `answer` and `directory`, how values are converted in `convert`.
//!
//! Locks (GETLK, SETLK) and ACCESS never arrive: locks are not negotiated and the kernel checks
//! permissions itself.

pub(super) mod answer;
pub(super) mod calls;
pub(super) mod convert;
pub(super) mod directory;
pub(super) mod request;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};

use self::convert::{
    caller, checked_name, copy_length, fallocate_mode, handle, ino, rename_mode, seek, set_time,
    xattr_mode,
};
use self::request::{Op, Runner};
use crate::fs::{Fs, SetAttr};
use crate::types::Caller;

/// The file system as `fuser` sees it.
#[derive(Debug)]
pub(super) struct Adapter {
    fs: Arc<Fs>,
    runner: Runner,
}

impl Adapter {
    pub(super) fn new(fs: Arc<Fs>, runtime: tokio::runtime::Handle) -> Self {
        let runner = Runner::new(
            runtime,
            Arc::clone(&fs.volume().meters),
            Arc::clone(&fs.volume().programs),
        );
        Adapter { fs, runner }
    }

    fn fs(&self) -> Arc<Fs> {
        Arc::clone(&self.fs)
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        super::negotiate::negotiate(config)
    }

    // --- Names ---

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, name) = (self.fs(), checked_name(name));
        let call = async move { fs.lookup(ino(parent), name?).await };
        self.runner.run(Op::new(calls::LOOKUP, req, parent), call, answer::entry(reply));
    }

    fn forget(&self, _req: &Request, inode: INodeNo, count: u64) {
        self.fs.forget(ino(inode), count);
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let who = Caller { umask: umask & 0o777, ..caller(req) };
        let (fs, name) = (self.fs(), checked_name(name));
        let call = async move { fs.mknod(who, ino(parent), name?, mode, rdev).await };
        self.runner.run(Op::new(calls::MKNOD, req, parent), call, answer::entry(reply));
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let who = Caller { umask: umask & 0o777, ..caller(req) };
        let (fs, name) = (self.fs(), checked_name(name));
        let call = async move { fs.mkdir(who, ino(parent), name?, mode).await };
        self.runner.run(Op::new(calls::MKDIR, req, parent), call, answer::entry(reply));
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, who, name) = (self.fs(), caller(req), checked_name(name));
        let call = async move { fs.unlink(who, ino(parent), name?).await };
        self.runner.run(Op::new(calls::UNLINK, req, parent), call, answer::empty(reply));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, who, name) = (self.fs(), caller(req), checked_name(name));
        let call = async move { fs.rmdir(who, ino(parent), name?).await };
        self.runner.run(Op::new(calls::RMDIR, req, parent), call, answer::empty(reply));
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (fs, who, name) = (self.fs(), caller(req), checked_name(name));
        let target = Bytes::copy_from_slice(target.as_os_str().as_bytes());
        let call = async move { fs.symlink(who, ino(parent), name?, target).await };
        self.runner.run(Op::new(calls::SYMLINK, req, parent), call, answer::entry(reply));
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

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (fs, who) = (self.fs(), caller(req));
        let (name, new_name, mode) =
            (checked_name(name), checked_name(new_name), rename_mode(flags));
        let call = async move {
            fs.rename(who, ino(parent), name?, ino(new_parent), new_name?, mode?).await
        };
        self.runner.run(Op::new(calls::RENAME, req, parent), call, answer::empty(reply));
    }

    fn link(
        &self,
        req: &Request,
        inode: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let (fs, who, name) = (self.fs(), caller(req), checked_name(new_name));
        let call = async move { fs.link(who, ino(inode), ino(new_parent), name?).await };
        self.runner.run(Op::new(calls::LINK, req, inode), call, answer::entry(reply));
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let who = Caller { umask: umask & 0o777, ..caller(req) };
        let (fs, name) = (self.fs(), checked_name(name));
        let call = async move { fs.create(who, ino(parent), name?, mode, flags).await };
        self.runner.run(Op::new(calls::CREATE, req, parent), call, answer::created(reply));
    }

    // --- Directories ---

    fn opendir(&self, req: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let (fs, who) = (self.fs(), caller(req));
        let call = async move { fs.opendir(who, ino(inode)).await };
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
        req: &Request,
        inode: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let (fs, who) = (self.fs(), caller(req));
        let call = async move { fs.releasedir(who, ino(inode), handle(fh)).await };
        self.runner.run(Op::new(calls::RELEASEDIR, req, inode), call, answer::empty(reply));
    }

    fn fsyncdir(
        &self,
        req: &Request,
        inode: INodeNo,
        _fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs();
        let call = async move { fs.fsync(ino(inode), datasync).await };
        self.runner.run(Op::new(calls::FSYNCDIR, req, inode), call, answer::synced(reply));
    }

    // --- Content ---

    fn open(&self, req: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (fs, who) = (self.fs(), caller(req));
        let call = async move { fs.open(who, ino(inode), flags.0).await };
        self.runner.run(Op::new(calls::OPEN, req, inode), call, answer::opened(reply));
    }

    fn read(
        &self,
        req: &Request,
        inode: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let fs = self.fs();
        let call = async move {
            let data = fs.read(ino(inode), handle(fh), offset, size).await?;
            fs.volume().meters.operations.read(data.len());
            Ok(data)
        };
        self.runner.run(Op::new(calls::READ, req, inode), call, answer::data(reply, size as usize));
    }

    fn write(
        &self,
        req: &Request,
        inode: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let fs = self.fs();
        // The only copy: the slice lies in the loop's buffer, which the next request overwrites.
        let data = Bytes::copy_from_slice(data);
        let kill_priv = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let call = async move {
            let written = fs.write(ino(inode), handle(fh), offset, data, kill_priv).await?;
            fs.volume().meters.operations.written(written as usize);
            Ok(written)
        };
        self.runner.run(Op::new(calls::WRITE, req, inode), call, answer::written(reply));
    }

    fn release(
        &self,
        req: &Request,
        inode: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let (fs, who) = (self.fs(), caller(req));
        let call = async move { fs.released(who, ino(inode), handle(fh)).await };
        self.runner.run(Op::new(calls::RELEASE, req, inode), call, answer::empty(reply));
    }

    fn fsync(
        &self,
        req: &Request,
        inode: INodeNo,
        _fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs();
        let call = async move { fs.fsync(ino(inode), datasync).await };
        self.runner.run(Op::new(calls::FSYNC, req, inode), call, answer::synced(reply));
    }

    fn fallocate(
        &self,
        req: &Request,
        inode: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (fs, mode) = (self.fs(), fallocate_mode(mode));
        let call = async move { fs.fallocate(ino(inode), handle(fh), mode?, offset, length).await };
        self.runner.run(Op::new(calls::FALLOCATE, req, inode), call, answer::empty(reply));
    }

    fn lseek(
        &self,
        req: &Request,
        inode: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let (fs, target) = (self.fs(), seek(offset, whence));
        let call = async move {
            let (offset, hole) = target?;
            fs.lseek(ino(inode), handle(fh), offset, hole).await
        };
        self.runner.run(Op::new(calls::LSEEK, req, inode), call, answer::sought(reply));
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (fs, len) = (self.fs(), copy_length(len, flags));
        let call = async move {
            let (to, fh) = (ino(ino_out), handle(fh_out));
            fs.copy_range(ino(ino_in), offset_in, to, fh, offset_out, len?).await
        };
        self.runner.run(Op::new(calls::COPY_FILE_RANGE, req, ino_out), call, answer::copied(reply));
    }

    // --- Attributes ---

    fn getattr(&self, req: &Request, inode: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let fs = self.fs();
        let call = async move { fs.getattr(ino(inode)).await };
        self.runner.run(Op::new(calls::GETATTR, req, inode), call, answer::attr(reply));
    }

    fn setattr(
        &self,
        req: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (fs, who) = (self.fs(), caller(req));
        let change = SetAttr {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
            fh: fh.map(handle),
        };
        let call = async move { fs.setattr(who, ino(inode), change).await };
        self.runner.run(Op::new(calls::SETATTR, req, inode), call, answer::attr(reply));
    }

    fn statfs(&self, req: &Request, inode: INodeNo, reply: ReplyStatfs) {
        let fs = self.fs();
        let call = async move { fs.statfs().await };
        self.runner.run(Op::new(calls::STATFS, req, inode), call, answer::statfs(reply));
    }

    fn setxattr(
        &self,
        req: &Request,
        inode: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (fs, who, mode) = (self.fs(), caller(req), xattr_mode(flags));
        let name = Bytes::copy_from_slice(name.as_bytes());
        let value = Bytes::copy_from_slice(value);
        let call = async move { fs.setxattr(who, ino(inode), name, value, mode?).await };
        self.runner.run(Op::new(calls::SETXATTR, req, inode), call, answer::empty(reply));
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

    fn removexattr(&self, req: &Request, inode: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, who) = (self.fs(), caller(req));
        let name = Bytes::copy_from_slice(name.as_bytes());
        let call = async move { fs.removexattr(who, ino(inode), name).await };
        self.runner.run(Op::new(calls::REMOVEXATTR, req, inode), call, answer::empty(reply));
    }

    // --- Answered here ---

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    // A close has nothing to do: what was written is in the log. After this answer the kernel asks no more, as long as
    // the mount lives, whichever worker serves it.
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

    /// The kernel answers poll(2) itself once it has seen ENOSYS: files are always ready.
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
}
