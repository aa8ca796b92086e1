//! What is agreed with the kernel at INIT.
//!
//! It is a function of the INIT request alone: a worker that takes over a mount must arrive at the
//! same bytes as the one that made it (see `session`).

use std::time::Duration;

use fuser::{InitFlags, KernelConfig};

/// Largest WRITE and READ: 256 pages.
const MAX_WRITE: u32 = crate::sys::LARGEST_WRITE as u32;

/// Read-ahead and asynchronous requests that the kernel may have in flight. The kernel's default of 12
/// serialises reads of a store whose answers take tens of milliseconds.
const MAX_BACKGROUND: u16 = 64;

/// The capabilities we ask for; nothing else is. Deliberately absent:
/// * `WRITEBACK_CACHE`: the kernel would acknowledge writes that we have not seen; they would not
///   survive the worker, and outside changes of a file's size would be ignored.
/// * `POSIX_LOCKS`, `FLOCK_LOCKS`: a volume is mounted on one host at a time, so the kernel's own locks
///   are complete, and they survive the worker.
/// * `HANDLE_KILLPRIV*`: the kernel clears set-id bits itself by SETATTR; `fuser` does not pass on the
///   flags by which v2 delegates that for truncation.
/// * `ATOMIC_O_TRUNC`: an open that truncates would come before the kernel has looked whether the file is a program
///   that runs, which was then cut under its feet although the open fails with ETXTBSY. So it truncates by SETATTR.
/// * `AUTO_INVAL_DATA`: we know when content changed and say so; guessing from mtime would drop the page
///   cache after our own writes.
/// * `NO_OPENDIR_SUPPORT`, `SETXATTR_EXT` (its requests break `fuser` 0.18), `PASSTHROUGH`
///   (O_SYNC and msync would bypass us).
const WANTED: &[InitFlags] = &[
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_BIG_WRITES,
    InitFlags::FUSE_MAX_PAGES,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
    // A directory's default list takes the place of the umask, so that we have to apply that.
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_DONT_MASK,
    // mmap of a file that is also open with direct I/O works on local file systems.
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
];

/// Fills in the reply to INIT. What fuser refuses with is the nearest value that it would take, which
/// nobody asked for.
pub(super) fn negotiate(config: &mut KernelConfig) -> std::io::Result<()> {
    for &flag in WANTED {
        if config.capabilities().contains(flag) {
            config.add_capabilities(flag).map_err(|_| unacceptable("capabilities"))?;
        }
    }
    config.set_max_write(MAX_WRITE).map_err(|_| unacceptable("max_write"))?;
    config.set_max_background(MAX_BACKGROUND).map_err(|_| unacceptable("max_background"))?;
    config
        .set_time_granularity(Duration::from_nanos(1))
        .map_err(|_| unacceptable("time granularity"))?;
    Ok(())
}

fn unacceptable(what: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::Unsupported, format!("FUSE INIT: {what} refused"))
}
