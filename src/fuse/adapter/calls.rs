//! The requests by name, and what each counts as.

use crate::metrics::Operation;

/// One of the kernel's calls.
#[derive(Debug, Clone, Copy)]
pub(in crate::fuse) struct Call {
    /// For the log.
    pub(in crate::fuse) name: &'static str,
    pub(in crate::fuse) operation: Operation,
}

const fn call(name: &'static str, operation: Operation) -> Call {
    Call { name, operation }
}

pub(in crate::fuse) const LOOKUP: Call = call("lookup", Operation::Lookup);
pub(in crate::fuse) const MKNOD: Call = call("mknod", Operation::Create);
pub(in crate::fuse) const MKDIR: Call = call("mkdir", Operation::Create);
pub(in crate::fuse) const UNLINK: Call = call("unlink", Operation::Remove);
pub(in crate::fuse) const RMDIR: Call = call("rmdir", Operation::Remove);
pub(in crate::fuse) const SYMLINK: Call = call("symlink", Operation::Create);
pub(in crate::fuse) const READLINK: Call = call("readlink", Operation::Other);
pub(in crate::fuse) const RENAME: Call = call("rename", Operation::Rename);
pub(in crate::fuse) const LINK: Call = call("link", Operation::Create);
pub(in crate::fuse) const CREATE: Call = call("create", Operation::Create);
pub(in crate::fuse) const OPENDIR: Call = call("opendir", Operation::Readdir);
pub(in crate::fuse) const READDIR: Call = call("readdir", Operation::Readdir);
pub(in crate::fuse) const READDIRPLUS: Call = call("readdirplus", Operation::Readdir);
pub(in crate::fuse) const RELEASEDIR: Call = call("releasedir", Operation::Readdir);
pub(in crate::fuse) const FSYNCDIR: Call = call("fsyncdir", Operation::Fsync);
pub(in crate::fuse) const OPEN: Call = call("open", Operation::Open);
pub(in crate::fuse) const READ: Call = call("read", Operation::Read);
pub(in crate::fuse) const WRITE: Call = call("write", Operation::Write);
pub(in crate::fuse) const RELEASE: Call = call("release", Operation::Close);
pub(in crate::fuse) const FSYNC: Call = call("fsync", Operation::Fsync);
pub(in crate::fuse) const FALLOCATE: Call = call("fallocate", Operation::Write);
pub(in crate::fuse) const LSEEK: Call = call("lseek", Operation::Other);
pub(in crate::fuse) const COPY_FILE_RANGE: Call = call("copy_file_range", Operation::Write);
pub(in crate::fuse) const GETATTR: Call = call("getattr", Operation::Getattr);
pub(in crate::fuse) const SETATTR: Call = call("setattr", Operation::Setattr);
pub(in crate::fuse) const STATFS: Call = call("statfs", Operation::Other);
pub(in crate::fuse) const SETXATTR: Call = call("setxattr", Operation::Xattr);
pub(in crate::fuse) const GETXATTR: Call = call("getxattr", Operation::Xattr);
pub(in crate::fuse) const LISTXATTR: Call = call("listxattr", Operation::Xattr);
pub(in crate::fuse) const REMOVEXATTR: Call = call("removexattr", Operation::Xattr);
