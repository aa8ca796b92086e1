//! The symbols of libc that reach time, randomness and the disk, defined once more: the linker takes these for the
//! whole program, the standard library and every crate included, and no code under test has to know of it.
//!
//! Each does what libc does by a plain system call, unless the thread simulates a process ([`seam::running`]).
//! Arguments that vary in number are passed as fixed ones are on every platform that the plugin has.

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_long, c_uint, c_void};
use std::os::unix::ffi::OsStrExt;

use libc::{mode_t, off_t, size_t, ssize_t};

use crate::disk::{Disk, PAGE, PAGES};
use crate::seam::{self, Change, Machine, SECOND, Seam};

fn fail(errno: c_int) -> c_int {
    // SAFETY: the location is this thread's own.
    unsafe { *libc::__errno_location() = errno };
    -1
}

/// Closes what `fd` is, and keeps its number, for whoever would close it later.
pub fn lead_nowhere(fd: c_int) {
    // SAFETY: plain integers and a literal; the descriptor is replaced atomically.
    unsafe {
        let nowhere = libc::syscall(
            libc::SYS_openat,
            libc::AT_FDCWD,
            c"/dev/null".as_ptr(),
            libc::O_RDWR | libc::O_CLOEXEC,
            0,
        );
        if nowhere >= 0 {
            libc::syscall(libc::SYS_dup3, nowhere, fd, libc::O_CLOEXEC);
            libc::syscall(libc::SYS_close, nowhere);
        }
    }
}

// SAFETY (of every symbol below): the signature is libc's, and the pointers are used as libc uses them: they are
// passed on to the kernel, or written to as far as the caller says that they reach.

#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, at: *mut libc::timespec) -> c_int {
    let Some((seam, machine)) = seam::running() else {
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, at) } as c_int;
    };
    // No two looks at a clock see the same time.
    seam.now.set(seam.now.get() + seam::LOOK);
    let nanos = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => seam.wall(machine),
        _ => seam.monotonic() as i64,
    };
    let second = SECOND as i64;
    unsafe {
        (*at).tv_sec = nanos.div_euclid(second);
        (*at).tv_nsec = nanos.rem_euclid(second);
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(into: *mut c_void, len: size_t, flags: c_uint) -> ssize_t {
    match seam::running() {
        Some((_, machine)) if len > 0 => {
            let bytes = unsafe { std::slice::from_raw_parts_mut(into.cast::<u8>(), len) };
            machine.random.fill(bytes);
            len as ssize_t
        }
        Some(_) => 0,
        None => unsafe { libc::syscall(libc::SYS_getrandom, into, len, flags) as ssize_t },
    }
}

/// A runtime that has nothing to do waits here: its turn ends.
#[unsafe(no_mangle)]
unsafe extern "C" fn epoll_wait(
    poll: c_int,
    events: *mut libc::epoll_event,
    max: c_int,
    timeout: c_int,
) -> c_int {
    let wait = |timeout: c_int| unsafe {
        let none = std::ptr::null::<c_void>();
        libc::syscall(libc::SYS_epoll_pwait, poll, events, max, timeout, none, 8usize) as c_int
    };
    let Some((seam, machine)) = seam::running() else { return wait(timeout) };
    let met = wait(0);
    if met != 0 {
        seam.met.set(true);
    } else if timeout != 0 {
        let later = |ms: c_int| seam.now.get() + ms as u64 * seam::MILLI;
        machine.timer.set((timeout > 0).then(|| later(timeout)));
        machine.idle.set(true);
        machine.wake();
    }
    met
}

/// What the machine says about itself lies on its simulated disk.
fn redirected(machine: &Machine, path: &CStr) -> Option<CString> {
    let name = match path.to_bytes() {
        b"/proc/sys/kernel/random/boot_id" => "boot_id",
        b"/proc/sys/kernel/hostname" => "hostname",
        _ => return None,
    };
    CString::new(machine.root.join(name).into_os_string().into_encoded_bytes()).ok()
}

fn is_random(path: &CStr) -> bool {
    matches!(path.to_bytes(), b"/dev/urandom" | b"/dev/random")
}

/// Descriptors that lead to the kernel's randomness, whoever opened them: the thread that reads decides.
static RANDOM: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(-1);

unsafe fn open_at(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    let open = |path: *const c_char| unsafe {
        libc::syscall(libc::SYS_openat, dir, path, flags | libc::O_LARGEFILE, mode) as c_int
    };
    let name = unsafe { CStr::from_ptr(path) };
    if is_random(name) {
        let fd = open(path);
        RANDOM.store(fd, std::sync::atomic::Ordering::Relaxed);
        return fd;
    }
    let Some((seam, machine)) = seam::running() else { return open(path) };
    let other = redirected(machine, name);
    let inside = OsStr::from_bytes(name.to_bytes());
    if other.is_none()
        && !std::path::Path::new(inside).starts_with(&machine.root)
        && name.to_bytes().starts_with(b"/")
    {
        return open(path);
    }
    if flags & (libc::O_CREAT | libc::O_TRUNC) != 0 {
        match machine.changes(seam.now.get()) {
            Change::Made => {}
            Change::Torn => {
                if machine.random.chance(500) {
                    let fd = open(path);
                    unsafe { libc::syscall(libc::SYS_close, fd) };
                }
                return fail(libc::EIO);
            }
            Change::Fails => return fail(libc::EIO),
        }
    }
    let fd = open(other.as_ref().map_or(path, |other| other.as_ptr()));
    if fd >= 0 && flags & libc::O_TRUNC != 0 {
        machine.disk.frees(file_of(fd), 0, u64::MAX);
    }
    // Streams of directories are closed within libc.
    if fd >= 0 && flags & libc::O_DIRECTORY == 0 {
        seam.files.borrow_mut().insert(fd, machine);
    }
    fd
}

#[unsafe(no_mangle)]
unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    unsafe { open_at(libc::AT_FDCWD, path, flags, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    unsafe { open_at(libc::AT_FDCWD, path, flags, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn openat64(
    dir: c_int,
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
) -> c_int {
    unsafe { open_at(dir, path, flags, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn openat(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    unsafe { open_at(dir, path, flags, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn close(fd: c_int) -> c_int {
    if let Some((seam, _)) = seam::running() {
        seam.files.borrow_mut().remove(&fd);
    }
    unsafe { libc::syscall(libc::SYS_close, fd) as c_int }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn read(fd: c_int, into: *mut c_void, len: size_t) -> ssize_t {
    if let Some((seam, machine)) = seam::running() {
        if fd == RANDOM.load(std::sync::atomic::Ordering::Relaxed) {
            return unsafe { getrandom(into, len, 0) };
        }
        if seam.owner(fd).is_some() && fails_to_read(seam, machine) {
            return fail(libc::EIO) as ssize_t;
        }
    }
    unsafe { libc::syscall(libc::SYS_read, fd, into, len) as ssize_t }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pread64(fd: c_int, into: *mut c_void, len: size_t, at: off_t) -> ssize_t {
    if let Some((seam, machine)) = seam::running()
        && seam.owner(fd).is_some()
        && fails_to_read(seam, machine)
    {
        return fail(libc::EIO) as ssize_t;
    }
    unsafe { libc::syscall(libc::SYS_pread64, fd, into, len, at) as ssize_t }
}

fn fails_to_read(seam: &Seam, machine: &Machine) -> bool {
    machine.dead.get() || machine.fails(seam.now.get())
}

/// What a descriptor or a path leads to.
fn file_of(fd: c_int) -> (u64, u64) {
    // SAFETY: all zeros are a value of it.
    let mut found: libc::stat64 = unsafe { std::mem::zeroed() };
    // SAFETY: there is room for it.
    match unsafe { libc::fstat64(fd, &mut found) } {
        0 => (found.st_dev, found.st_ino),
        _ => (0, 0),
    }
}

/// A file of which this is the only name.
fn only_name(path: *const c_char) -> Option<(u64, u64)> {
    // SAFETY: all zeros are a value of it.
    let mut found: libc::stat64 = unsafe { std::mem::zeroed() };
    // SAFETY: there is room for it.
    let there = unsafe { libc::lstat64(path, &mut found) } == 0;
    let file = there && found.st_mode & libc::S_IFMT == libc::S_IFREG && found.st_nlink == 1;
    file.then_some((found.st_dev, found.st_ino))
}

/// The process of a descriptor whose file the caller is about to change.
fn changed(fd: c_int) -> Option<(&'static Seam, &'static Machine)> {
    let (seam, _) = seam::running()?;
    Some((seam, seam.owner(fd)?))
}

/// Carries out a change that is whole or not at all.
fn change(
    machine: Option<(&'static Seam, &'static Machine)>,
    make: impl FnOnce() -> c_long,
) -> c_long {
    match machine.map_or(Change::Made, |(seam, machine)| machine.changes(seam.now.get())) {
        Change::Made => make(),
        Change::Torn => {
            if machine.is_some_and(|(_, machine)| machine.random.chance(500)) {
                make();
            }
            c_long::from(fail(libc::EIO))
        }
        Change::Fails => c_long::from(fail(libc::EIO)),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(fd: c_int, from: *const c_void, len: size_t, at: off_t) -> ssize_t {
    let write = |len: size_t| unsafe { libc::syscall(libc::SYS_pwrite64, fd, from, len, at) };
    partial_write(fd, len, || at as u64, write)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn write(fd: c_int, from: *const c_void, len: size_t) -> ssize_t {
    let write = |len: size_t| unsafe { libc::syscall(libc::SYS_write, fd, from, len) };
    if let Some((seam, _)) = seam::running()
        && seam.owner(fd).is_none()
        && !matches!(fd, libc::STDOUT_FILENO | libc::STDERR_FILENO)
    {
        // Runtimes wake each other like this. What is said to people wakes nobody.
        seam.met.set(true);
    }
    let at = || unsafe { libc::syscall(libc::SYS_lseek, fd, 0, libc::SEEK_CUR) as u64 };
    partial_write(fd, len, at, write)
}

/// Of the write in which a process dies, and of one that fails, the disk has any part of its beginning. A full disk
/// takes what finds room.
fn partial_write(
    fd: c_int,
    len: size_t,
    at: impl FnOnce() -> u64,
    write: impl FnOnce(size_t) -> c_long,
) -> ssize_t {
    let Some((seam, machine)) = changed(fd) else { return write(len) as ssize_t };
    let change = machine.changes(seam.now.get());
    if machine.dead.get() && change == Change::Fails {
        return fail(libc::EIO) as ssize_t;
    }
    let room = machine.disk.takes(file_of(fd), at(), len as u64);
    match change {
        Change::Made if room == 0 && len > 0 => fail(libc::ENOSPC) as ssize_t,
        Change::Made => write(room as size_t) as ssize_t,
        Change::Torn => {
            write(machine.random.below(room + 1) as size_t);
            fail(libc::EIO) as ssize_t
        }
        Change::Fails => {
            // Whoever is told so may take it for not written.
            write(machine.random.below(room.max(1)) as size_t);
            fail(libc::EIO) as ssize_t
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ftruncate64(fd: c_int, len: off_t) -> c_int {
    let disk = changed(fd).map(|(_, machine)| machine.disk);
    change(changed(fd), || {
        if let Some(disk) = disk {
            disk.frees(file_of(fd), len as u64, u64::MAX);
        }
        unsafe { libc::syscall(libc::SYS_ftruncate, fd, len) }
    }) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fallocate(fd: c_int, mode: c_int, at: off_t, len: off_t) -> c_int {
    let disk = changed(fd).map(|(_, machine)| machine.disk);
    let (start, end) = (at as u64, (at as u64).saturating_add(len as u64));
    change(changed(fd), || {
        match disk {
            Some(disk) if mode & libc::FALLOC_FL_PUNCH_HOLE != 0 => {
                disk.frees(file_of(fd), start, end);
            }
            Some(disk) if !disk.allocates(file_of(fd), start, len as u64) => {
                return c_long::from(fail(libc::ENOSPC));
            }
            _ => {}
        }
        unsafe { libc::syscall(libc::SYS_fallocate, fd, mode, at, len) }
    }) as c_int
}

/// Simulated disks never forget by themselves: what a host loses with its power is decided where that is simulated.
#[unsafe(no_mangle)]
unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    match changed(fd) {
        Some((_, machine)) if machine.dead.get() => fail(libc::EIO),
        Some(_) => 0,
        None => unsafe { libc::syscall(libc::SYS_fsync, fd) as c_int },
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    unsafe { fsync(fd) }
}

/// Takes a name away, by `make`; with the last one the file gives its room back.
fn unname(path: *const c_char, make: impl FnOnce() -> c_long) -> c_long {
    let Some((_, machine)) = seam::running() else { return make() };
    change(seam::running(), || {
        let last = only_name(path);
        let done = make();
        if let (0, Some(file)) = (done, last) {
            machine.disk.forgets(file);
        }
        done
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let at = libc::AT_FDCWD;
    let make = || unsafe { libc::syscall(libc::SYS_renameat2, at, from, at, to, 0) };
    // What is in the trash goes from there by and by, by a thread that simulates nothing.
    let trash = unsafe { CStr::from_ptr(to) }.to_bytes().windows(7).any(|part| part == b"/trash/");
    unname(if trash { from } else { to }, make) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    let make = || unsafe { libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, path, 0) };
    unname(path, make) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn unlinkat(dir: c_int, path: *const c_char, flags: c_int) -> c_int {
    let make = || unsafe { libc::syscall(libc::SYS_unlinkat, dir, path, flags) };
    change(seam::running(), make) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
    let make = || unsafe { libc::syscall(libc::SYS_mkdirat, libc::AT_FDCWD, path, mode) };
    change(seam::running(), make) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rmdir(path: *const c_char) -> c_int {
    let dir = libc::AT_REMOVEDIR;
    let make = || unsafe { libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, path, dir) };
    change(seam::running(), make) as c_int
}

/// Simulated disks are all of one size.
unsafe fn space(disk: &Disk, into: *mut libc::statvfs) {
    let left = disk.available().min(PAGES / 2);
    unsafe {
        std::ptr::write_bytes(into, 0, 1);
        (*into).f_bsize = PAGE;
        (*into).f_frsize = PAGE;
        (*into).f_blocks = PAGES;
        (*into).f_bfree = left;
        (*into).f_bavail = left;
        (*into).f_files = PAGES;
        (*into).f_ffree = PAGES / 2;
        (*into).f_favail = PAGES / 2;
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn statvfs(path: *const c_char, into: *mut libc::statvfs) -> c_int {
    if let Some((_, machine)) = seam::running() {
        unsafe { space(machine.disk, into) };
        return 0;
    }
    // Nothing outside of the simulation looks at disks through this symbol.
    let _ = path;
    fail(libc::ENOSYS)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn statvfs64(path: *const c_char, into: *mut libc::statvfs) -> c_int {
    unsafe { statvfs(path, into) }
}
