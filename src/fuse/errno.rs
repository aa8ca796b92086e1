//! One errno for each reason of the file system. There is no other place that chooses one for `Fs`.

use fuser::Errno;

use crate::fs::FsError;

/// The errno that a program sees. Has no default arm, so that a new reason must be decided on here.
pub(super) fn errno(error: &FsError) -> Errno {
    match error {
        FsError::NotFound => Errno::ENOENT,
        FsError::Exists => Errno::EEXIST,
        FsError::NotDir => Errno::ENOTDIR,
        FsError::IsDir => Errno::EISDIR,
        FsError::NotEmpty => Errno::ENOTEMPTY,
        FsError::Invalid(_) => Errno::EINVAL,
        FsError::NameTooLong => Errno::ENAMETOOLONG,
        FsError::AccessDenied => Errno::EACCES,
        FsError::NotPermitted => Errno::EPERM,
        FsError::ReadOnly => Errno::EROFS,
        FsError::NoSpace(_) => Errno::ENOSPC,
        FsError::Quota => Errno::EDQUOT,
        FsError::FileTooBig => Errno::EFBIG,
        FsError::TooManyLinks => Errno::EMLINK,
        FsError::NoXattr => Errno::ENODATA,
        FsError::Range => Errno::ERANGE,
        FsError::TooBig => Errno::E2BIG,
        // Not ENOSYS: the kernel remembers that for the whole mount.
        FsError::Unsupported => Errno::EOPNOTSUPP,
        FsError::BadHandle => Errno::EBADF,
        FsError::NoSeek => Errno::ENXIO,
        FsError::Stale => Errno::ESTALE,
        FsError::Io { .. } => Errno::EIO,
    }
}
