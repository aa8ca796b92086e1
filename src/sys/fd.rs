//! Descriptors that pass from one process to the next.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{SigSet, Signal};

/// A descriptor that the supervisor hands to a child, by its agreed number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Inherited {
    /// The plugin socket (driver) or the FUSE device (worker).
    First = 3,
    /// The driver's channel to the supervisor.
    Second = 4,
}

/// Takes a descriptor that this process was started with. Marked close-on-exec on the way. An
/// error says that nothing was passed under that number, or that it was taken already.
pub fn inherited(which: Inherited) -> io::Result<OwnedFd> {
    use std::sync::atomic::{AtomicU8, Ordering};
    static TAKEN: AtomicU8 = AtomicU8::new(0);
    let number = which as i32;
    let bit = 1u8 << number;
    if TAKEN.fetch_or(bit, Ordering::SeqCst) & bit != 0 {
        return Err(io::Error::other(format!("descriptor {number} was taken already")));
    }
    // SAFETY: F_GETFD reads a flag of a number; it fails with EBADF when nothing is open there.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open (just checked), and the bit above makes this call the only
    // owner that this process ever makes of an inherited number.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    close_on_exec(&fd, true)?;
    Ok(fd)
}

/// Sets or clears close-on-exec.
pub fn close_on_exec(fd: &impl AsFd, on: bool) -> io::Result<()> {
    let flags = if on { FdFlag::FD_CLOEXEC } else { FdFlag::empty() };
    fcntl(fd, FcntlArg::F_SETFD(flags))?;
    Ok(())
}

/// Makes `target` refer to what `source` refers to, closing what it referred to before
/// (`dup3`, close-on-exec). The number of `target` stays.
pub fn replace(target: &impl AsFd, source: &impl AsFd) -> io::Result<()> {
    let (to, from) = (target.as_fd().as_raw_fd(), source.as_fd().as_raw_fd());
    // SAFETY: both numbers are open descriptors borrowed for the length of the call; dup3 swaps the
    // file behind `to` atomically, so its owner keeps a valid descriptor.
    if unsafe { libc::dup3(from, to, libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Gives this thread a table of descriptors of its own, with nothing in it but standard output, standard
/// error and the descriptor `kept`. Whatever else the process has open is then closed when its other
/// threads are gone, although this one may still wait in the kernel.
///
/// No signal of the process is delivered to this thread from then on: the handlers tell the runtime by a descriptor
/// that is not in this table, and a SIGTERM that came here would be lost. (The kernel hands it to any thread when the
/// first one cannot take it, as after SIGSTOP and SIGCONT.)
pub fn keep_only(kept: RawFd) -> io::Result<()> {
    const FIRST: RawFd = 3;
    let mut signals = SigSet::all();
    // Those are about what this thread itself does.
    for own in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE] {
        signals.remove(own);
    }
    signals.thread_block()?;
    // SAFETY: from here on this thread has a table of its own; no other thread sees what follows.
    if unsafe { libc::unshare(libc::CLONE_FILES) } < 0 {
        return Err(io::Error::last_os_error());
    }
    close_range(0, 0);
    close_range(FIRST, kept - 1);
    close_range(kept.max(FIRST - 1) + 1, RawFd::MAX);
    Ok(())
}

/// Closes every open number from `first` to `last`, in this thread's table.
fn close_range(first: RawFd, last: RawFd) {
    if first > last {
        return;
    }
    // SAFETY: plain integers. The caller made the table this thread's own, and what it closes here nobody
    // uses by this thread.
    let closed = unsafe {
        libc::syscall(libc::SYS_close_range, first as u32, last as u32, 0 as libc::c_uint)
    };
    if closed == 0 {
        return;
    }
    // Linux before 5.9.
    let Ok(open) = std::fs::read_dir("/proc/thread-self/fd") else { return };
    let open: Vec<RawFd> =
        open.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    for number in open.into_iter().filter(|number| (first..=last).contains(number)) {
        // SAFETY: as above. One that is closed already (the listing's own) fails with EBADF.
        unsafe { libc::close(number) };
    }
}

/// Keeps the numbers that children inherit from being used for anything else in this process, so
/// that no pipe of the spawning code can lie where a child expects its descriptor.
pub fn reserve_low_fds() -> io::Result<Vec<OwnedFd>> {
    let mut kept = Vec::new();
    loop {
        let fd = OwnedFd::from(std::fs::File::open("/dev/null")?);
        let number = fd.as_raw_fd();
        if number > Inherited::Second as i32 {
            return Ok(kept);
        }
        kept.push(fd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn replace_keeps_the_number_and_swaps_the_file() {
        let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        let target = std::fs::File::open("/dev/null").unwrap();
        let number = target.as_raw_fd();
        replace(&target, &far).unwrap();
        assert_eq!(target.as_raw_fd(), number);
        near.write_all(b"x").unwrap();
        let mut byte = [0];
        (&target).read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn a_thread_with_a_table_of_its_own_keeps_one_descriptor_and_nothing_else() {
        let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        let (mut beside, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let number = far.as_raw_fd();
        let (closed, wait) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            keep_only(number).unwrap();
            let mut kept: Vec<i32> = std::fs::read_dir("/proc/thread-self/fd")
                .unwrap()
                .filter_map(|e| e.unwrap().file_name().to_str()?.parse().ok())
                .collect();
            kept.sort_unstable();
            let taken = SigSet::thread_get_mask().unwrap();
            assert!(taken.contains(Signal::SIGTERM) && !taken.contains(Signal::SIGSEGV));
            closed.send(kept).unwrap();
            ended.recv().unwrap_err();
        });
        let kept = wait.recv().unwrap();
        // The listing itself has the lowest number that is free.
        assert!(kept.iter().all(|n| [0, 1, 2, number].contains(n)), "{kept:?}");
        assert!(kept.contains(&number));
        // Closed here, both: the thread holds only the one that it kept.
        drop((far, other));
        let mut byte = [0];
        assert_eq!(beside.read(&mut byte).unwrap(), 0);
        near.set_nonblocking(true).unwrap();
        assert_eq!(near.read(&mut byte).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        near.set_nonblocking(false).unwrap();
        drop(end);
        thread.join().unwrap();
        assert_eq!(near.read(&mut byte).unwrap(), 0);
    }

    #[test]
    fn low_numbers_are_taken_afterwards() {
        let _kept = reserve_low_fds().unwrap();
        let next = std::fs::File::open("/dev/null").unwrap();
        assert!(next.as_raw_fd() > 4);
    }
}
