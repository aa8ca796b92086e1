//! The values that go in and out of the file system.

use std::time::Duration;

use crate::config::Tuned;
use crate::meta::records::InodeRec;
use crate::types::{FileKind, FileName, Ino, Timestamp};

/// What `stat` shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attr {
    pub ino: Ino,
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky: 0o7777 at most.
    pub perm: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    /// Linux device number of a character or block device, as in `st_rdev` (32-bit kernel form).
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    /// 512-byte blocks.
    pub blocks: u64,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub btime: Timestamp,
    /// How long the kernel may believe this.
    pub ttl: Duration,
}

impl Attr {
    /// What a record shows of an inode with `size` bytes, of which `data` are not holes.
    pub fn of(ino: Ino, rec: &InodeRec, size: u64, data: u64, ttl: Duration) -> Self {
        let size = match rec.kind {
            FileKind::File | FileKind::Symlink => size,
            FileKind::Dir => 4096,
            _ => 0,
        };
        let bytes = match rec.kind {
            FileKind::File => size.min(data).max(rec.reserved),
            _ => size,
        };
        Attr {
            ino,
            kind: rec.kind,
            perm: rec.perm,
            nlink: rec.nlink,
            uid: rec.uid,
            gid: rec.gid,
            rdev: rec.rdev,
            size,
            blocks: bytes.div_ceil(512),
            atime: rec.atime,
            mtime: rec.mtime,
            ctime: rec.ctime,
            btime: rec.btime,
            ttl,
        }
    }
}

/// What a listing tells besides names and kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    Names,
    /// Also the attributes that cost no request.
    Attributes,
}

/// A number for an open file or directory; unique within a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileHandle(pub u64);

/// The answer to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    pub fh: FileHandle,
    /// Page cache from earlier opens is still right.
    pub keep_cache: bool,
    /// Bypass the page cache (O_DIRECT).
    pub direct_io: bool,
}

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    Now,
    At(Timestamp),
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetAttr {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
    pub fh: Option<FileHandle>,
}

/// renameat2's flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    Replace,
    NoReplace,
    Exchange,
}

/// setxattr's flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrMode {
    Any,
    Create,
    Replace,
}

/// fallocate's modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallocate {
    /// Reserve; extend the size unless `keep_size`.
    Allocate {
        keep_size: bool,
    },
    PunchHole,
    ZeroRange {
        keep_size: bool,
    },
}

/// One name of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    pub ino: Ino,
    pub kind: FileKind,
    /// Raw bytes: `.` and `..` come first.
    pub name: Vec<u8>,
    /// Pass this to continue after this entry. Stable while the directory changes.
    pub cookie: u64,
    /// Known attributes, for READDIRPLUS; `None` when they would cost a request.
    pub attr: Option<Attr>,
}

impl DirEntry {
    /// Whether this is `.` or `..`.
    pub fn is_dot(&self) -> bool {
        self.name == b"." || self.name == b".."
    }
}

/// What `df` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatFs {
    /// Bytes.
    pub total: u64,
    pub free: u64,
    pub files: u64,
    pub files_free: u64,
}

/// What `df` shows of a volume without a limit, bytes: 32 PiB.
const ENDLESS: u64 = 1 << 55;

impl StatFs {
    /// The quota where there is one, else more than anybody will fill.
    pub fn of(options: &Tuned, used: u64, inodes: u64) -> Self {
        let total = options.size.unwrap_or(ENDLESS.max(used.saturating_mul(2)));
        let files = options.inodes.unwrap_or((1 << 32).max(inodes.saturating_mul(2)));
        StatFs {
            total,
            free: total.saturating_sub(used),
            files,
            files_free: files.saturating_sub(inodes),
        }
    }
}

/// A checked name, or the error that an over-long or impossible one deserves.
pub fn check_name(bytes: &[u8]) -> Result<FileName, super::FsError> {
    FileName::new(bytes).map_err(|e| match e {
        crate::types::NameError::FileTooLong => super::FsError::NameTooLong,
        crate::types::NameError::File | crate::types::NameError::Volume(_) => {
            super::FsError::Invalid("file name")
        }
    })
}
