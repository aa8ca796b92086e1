//! A process that becomes another program and stays the same process: its number, its children, and the descriptors
//! that are meant.
//!
//! Blocked signals stay blocked over execve(2), and pending ones pending, so none is lost.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::Mutex;

use nix::fcntl::AtFlags;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::execveat;

use super::fd::{Inherited, close_on_exec};

/// What a descriptor leads to that was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandedKind {
    /// A regular file; also one that has no name any more.
    File,
    Pipe,
    Socket,
    /// The FUSE device.
    Device,
}

/// The program that this process runs, also where its file was replaced meanwhile.
pub fn own_program() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/self/exe")?.into())
}

/// Tells programs on this host apart: the file of `program`, with its length and the time of its last change.
pub fn program_identity(program: &OwnedFd) -> io::Result<String> {
    let file = File::from(program.try_clone()?).metadata()?;
    Ok(format!("{:x}:{:x}:{:x}:{:x}", file.dev(), file.ino(), file.len(), file.mtime()))
}

/// A file in memory that holds `bytes`, close-on-exec.
pub fn memory_file(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file.into())
}

/// Replaces this process by `program`. Of the descriptors beyond 2 it keeps those of `kept`, and no others.
///
/// Returns only if that failed; nothing has changed then. The process must have one thread.
pub fn become_program(program: &OwnedFd, args: &[OsString], kept: &[RawFd]) -> io::Error {
    let failed = match try_become(program, args, kept) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    // None may leak into a child.
    for number in kept {
        // SAFETY: plain integers; what is not open fails with EBADF.
        unsafe { libc::fcntl(*number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    failed
}

fn try_become(program: &OwnedFd, args: &[OsString], kept: &[RawFd]) -> io::Result<Infallible> {
    let text = |text: OsString| CString::new(text.into_vec()).map_err(io::Error::other);
    let args: Vec<CString> = args.iter().cloned().map(text).collect::<io::Result<_>>()?;
    let mut variables = Vec::new();
    for (mut name, value) in std::env::vars_os() {
        name.push("=");
        name.push(value);
        variables.push(text(name)?);
    }
    // SAFETY: plain integers. Whatever some library opened without close-on-exec; old kernels lack the call.
    unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    for number in kept {
        // SAFETY: plain integers; the flags of a number that is not open cannot be set.
        if unsafe { libc::fcntl(*number, libc::F_SETFD, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(execveat(program, c"", &args, &variables, AtFlags::AT_EMPTY_PATH)?)
}

/// Whether `number` is open and came with execve: this process opens everything close-on-exec.
pub fn came_with_exec(number: RawFd) -> bool {
    // SAFETY: F_GETFD reads a flag of a number; it fails with EBADF when nothing is open there.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC == 0
}

/// Whether `number` is open, was handed over, and leads to what is expected. Changes nothing.
pub fn is_handed(number: RawFd, kind: HandedKind) -> io::Result<()> {
    if number <= 2 || !came_with_exec(number) {
        return Err(io::Error::other("it was not handed over"));
    }
    let found = std::fs::metadata(format!("/proc/self/fd/{number}"))?.file_type();
    let is = match kind {
        HandedKind::File => found.is_file(),
        HandedKind::Pipe => found.is_fifo(),
        HandedKind::Socket => found.is_socket(),
        HandedKind::Device => found.is_char_device(),
    };
    if is { Ok(()) } else { Err(io::Error::other("it leads to something else")) }
}

/// Takes a descriptor over that the program before this one handed over, once. Marked close-on-exec on the way.
pub fn handed(number: RawFd, kind: HandedKind) -> io::Result<OwnedFd> {
    static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());
    is_handed(number, kind)?;
    let mut taken = TAKEN.lock().unwrap_or_else(|broken| broken.into_inner());
    if !taken.insert(number) {
        return Err(io::Error::other("it was taken already"));
    }
    // SAFETY: the descriptor is open and came with execve, as its missing flag says; the set makes this call the only
    // owner that this process ever makes of it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    close_on_exec(&fd, true)?;
    Ok(fd)
}

/// A second descriptor of what `number` leads to, beyond all that were handed over. Close-on-exec.
pub fn spare(number: RawFd) -> io::Result<OwnedFd> {
    // Those below are for children.
    const FIRST: RawFd = Inherited::Second as RawFd + 1;
    // SAFETY: plain integers; a number that is not open fails with EBADF. Nobody else has what it returns.
    let fd = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, FIRST) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just made, for this.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has every number lead again to what its spare leads to, as it came with execve. What this process opened under such a
/// number meanwhile is closed: nothing of it may be used any more but to become another program.
pub fn put_back(spares: Vec<(RawFd, OwnedFd)>) -> io::Result<()> {
    for (number, spare) in spares {
        // SAFETY: plain integers; see above for who owned the number.
        if unsafe { libc::dup2(spare.as_raw_fd(), number) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn only_what_came_from_outside_is_taken_and_only_once() {
        let file = memory_file("s3vol-test", b"state").unwrap();
        let number = file.as_raw_fd();
        assert!(handed(number, HandedKind::File).is_err(), "it is this process's own");
        close_on_exec(&file, false).unwrap();
        assert!(handed(number, HandedKind::Socket).is_err(), "it is no socket");
        std::mem::forget(file);
        let taken = handed(number, HandedKind::File).unwrap();
        assert!(handed(number, HandedKind::File).is_err(), "taken");
        let text = std::fs::read(format!("/proc/self/fd/{number}")).unwrap();
        assert_eq!(text, b"state");
        drop(taken);
    }
}
