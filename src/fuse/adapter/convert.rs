//! Values of the FUSE protocol to those of the file system and back.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{SystemTime, UNIX_EPOCH};

use fuser::{CopyFileRangeFlags, FileAttr, FileType, INodeNo, RenameFlags, Request, TimeOrNow};

use crate::fs::{Attr, Fallocate, FileHandle, FsError, RenameMode, SetTime, XattrMode, check_name};
use crate::types::{Caller, FileKind, FileName, Ino, Timestamp};

/// Set in a request's unique when the kernel sends it again (FUSE_UNIQUE_RESEND).
const RESENT: u64 = 1 << 63;

/// st_blksize: the preferred size of a read.
const BLKSIZE: u32 = 4096;

pub(in crate::fuse) fn ino(inode: INodeNo) -> Ino {
    Ino(inode.0)
}

pub(in crate::fuse) fn handle(fh: fuser::FileHandle) -> FileHandle {
    FileHandle(fh.0)
}

pub(in crate::fuse) fn checked_name(name: &OsStr) -> Result<FileName, FsError> {
    check_name(name.as_bytes())
}

pub(in crate::fuse) fn caller(req: &Request) -> Caller {
    caller_of(req.uid(), req.gid(), req.pid(), req.unique().0)
}

pub(in crate::fuse) fn caller_of(uid: u32, gid: u32, pid: u32, unique: u64) -> Caller {
    let (unique, resent) = (unique & !RESENT, unique & RESENT != 0);
    Caller { uid, gid, pid, unique, resent, umask: 0 }
}

pub(in crate::fuse) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Dir => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

pub(in crate::fuse) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.into(),
        mtime: attr.mtime.into(),
        ctime: attr.ctime.into(),
        crtime: attr.btime.into(),
        kind: file_type(attr.kind),
        perm: (attr.perm & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLKSIZE,
        flags: 0,
    }
}

pub(in crate::fuse) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(received_time(time)),
    }
}

/// The time that the kernel sent. For one before 1970 `fuser` 0.18 subtracts the nanoseconds from the
/// epoch instead of adding them; seconds and nanoseconds can still be told apart.
pub(in crate::fuse) fn received_time(time: SystemTime) -> Timestamp {
    match UNIX_EPOCH.duration_since(time) {
        Ok(before) if !before.is_zero() => Timestamp {
            secs: i64::try_from(before.as_secs()).map_or(i64::MIN, |secs| -secs),
            nanos: before.subsec_nanos(),
        },
        _ => time.into(),
    }
}

pub(in crate::fuse) fn rename_mode(flags: RenameFlags) -> Result<RenameMode, FsError> {
    if flags.is_empty() {
        Ok(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Ok(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Ok(RenameMode::Exchange)
    } else {
        Err(FsError::Invalid("flags of rename"))
    }
}

pub(in crate::fuse) fn xattr_mode(flags: i32) -> Result<XattrMode, FsError> {
    match flags {
        0 => Ok(XattrMode::Any),
        libc::XATTR_CREATE => Ok(XattrMode::Create),
        libc::XATTR_REPLACE => Ok(XattrMode::Replace),
        _ => Err(FsError::Invalid("flags of setxattr")),
    }
}

pub(in crate::fuse) fn fallocate_mode(mode: i32) -> Result<Fallocate, FsError> {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH_KEEP: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const ZERO_KEEP: i32 = ZERO | KEEP;
    match mode {
        0 => Ok(Fallocate::Allocate { keep_size: false }),
        KEEP => Ok(Fallocate::Allocate { keep_size: true }),
        PUNCH_KEEP => Ok(Fallocate::PunchHole),
        ZERO => Ok(Fallocate::ZeroRange { keep_size: false }),
        ZERO_KEEP => Ok(Fallocate::ZeroRange { keep_size: true }),
        _ => Err(FsError::Unsupported),
    }
}

/// Offset and whether a hole is sought. The kernel answers the other forms of lseek itself.
pub(in crate::fuse) fn seek(offset: i64, whence: i32) -> Result<(u64, bool), FsError> {
    let hole = match whence {
        libc::SEEK_DATA => false,
        libc::SEEK_HOLE => true,
        _ => return Err(FsError::Invalid("whence of lseek")),
    };
    // A negative offset, for which lseek(2) knows no other error.
    Ok((u64::try_from(offset).map_err(|_| FsError::NoSeek)?, hole))
}

/// How much to copy: the reply has 32 bits for it, and a short copy is continued by the caller.
pub(in crate::fuse) fn copy_length(len: u64, flags: CopyFileRangeFlags) -> Result<u64, FsError> {
    const MOST: u64 = (u32::MAX as u64) & !4095;
    if flags.bits() != 0 {
        return Err(FsError::Invalid("flags of copy_file_range"));
    }
    Ok(len.min(MOST))
}
