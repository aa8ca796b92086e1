//! One operation as system calls of some user, below one folder.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::look::{Look, Target};
use crate::ops::{Op, bytes, name_of, user, xattr_of};

/// No file grows past this, bytes.
const LARGEST: u32 = 600_000;

/// What a call gave, or its errno.
pub type Answer = Result<Given, i32>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    Nothing,
    Count(i64),
    Bytes(Vec<u8>),
    Names(BTreeMap<Vec<u8>, bool>),
    /// By SEEK_HOLE or SEEK_DATA: what is a hole is the file system's to choose.
    Sought {
        target: Target,
        at: u32,
        hole: bool,
        found: Result<u64, i32>,
    },
}

/// A folder in which a sequence is played, and what the sequence has open there.
#[derive(Debug)]
pub struct Place {
    pub root: PathBuf,
    pub files: Vec<File>,
    pub dirs: Vec<File>,
}

fn check(result: i64) -> Result<i64, i32> {
    if result >= 0 {
        return Ok(result);
    }
    Err(std::io::Error::last_os_error().raw_os_error().expect("a system call failed"))
}

fn errno(error: std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or_else(|| panic!("not an errno: {error}"))
}

fn done(result: i64) -> Answer {
    check(result).map(|_| Given::Nothing)
}

/// Lets this thread act as a user, as far as file systems are concerned.
pub fn become_user(who: u8, umask: u16) {
    let (uid, gid, groups) = user(who);
    // SAFETY: these act on the calling thread alone (the raw calls, unlike libc's) and take numbers
    // and one array that outlives the call.
    unsafe {
        libc::setfsuid(0);
        check(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))
            .expect("setgroups");
        libc::setfsgid(gid);
        libc::setfsuid(uid);
        libc::umask(libc::mode_t::from(umask));
    }
}

impl Place {
    pub fn new(root: PathBuf) -> Self {
        Place { root, files: Vec::new(), dirs: Vec::new() }
    }

    pub fn at(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(OsStr::from_bytes(path)) }
    }

    fn c(&self, path: &[u8]) -> CString {
        c_path(&self.at(path))
    }

    fn below(&self, dir: &[u8], name: u8) -> CString {
        c_path(&self.at(dir).join(OsStr::from_bytes(&name_of(name))))
    }

    /// Files that are open and have no name.
    pub fn nameless(&self) -> Vec<usize> {
        let nameless = |file: &File| file.metadata().is_ok_and(|meta| meta.nlink() == 0);
        (0..self.files.len()).filter(|n| nameless(&self.files[*n])).collect()
    }

    fn open(&self, target: &Target, flags: i32) -> Result<File, i32> {
        match target {
            Target::Path(path) => open(&self.c(path), flags, 0),
            Target::Open(n) => self.files[*n].try_clone().map_err(errno),
        }
    }

    /// Everything that a file holds, read by root.
    pub fn content(&self, target: &Target) -> Vec<u8> {
        match target {
            Target::Path(path) => std::fs::read(self.at(path)).expect("readable by root"),
            Target::Open(n) => {
                let file = &self.files[*n];
                let mut content = vec![0; file.metadata().unwrap().len() as usize];
                file.read_exact_at(&mut content, 0).unwrap();
                content
            }
        }
    }

    /// Plays one operation. What its numbers mean is taken from `seen`, the same for both places.
    pub fn play(&mut self, op: &Op, seen: &Look) -> Option<Answer> {
        let dir = |n: u8| seen.dir(n);
        Some(match *op {
            Op::Create { dir: d, name } => {
                let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
                open(&self.below(dir(d), name), flags, 0o640).map(|_| Given::Nothing)
            }
            Op::Mkdir { dir: d, name } => {
                // SAFETY: a C string that outlives the call, as in all calls below.
                done(unsafe { libc::mkdir(self.below(dir(d), name).as_ptr(), 0o751) }.into())
            }
            Op::Symlink { dir: d, name, target } => {
                let target = CString::new(format!("../target-{target}")).unwrap();
                let at = self.below(dir(d), name);
                // SAFETY: as above.
                done(unsafe { libc::symlink(target.as_ptr(), at.as_ptr()) }.into())
            }
            Op::Mknod { dir: d, name, device } => {
                let kind = if device { libc::S_IFCHR } else { libc::S_IFIFO };
                mknod(&self.below(dir(d), name), kind | 0o600)
            }
            Op::Make { dir: d, name, kind, perm } => {
                make(&self.below(dir(d), name), kind, perm.into())
            }
            Op::As { who, umask } => {
                become_user(who, umask);
                return None;
            }
            Op::Write { file, at, len, seed } => self.write(&seen.file(file)?, at, len, seed),
            Op::Append { file, len, seed } => self.append(&seen.file(file)?, len, seed),
            Op::Truncate { file, size } => match seen.file(file)? {
                // SAFETY: as above.
                Target::Path(path) => {
                    done(unsafe { libc::truncate(self.c(&path).as_ptr(), size.into()) }.into())
                }
                Target::Open(n) => {
                    self.files[n].set_len(size.into()).map_err(errno).map(|()| Given::Nothing)
                }
            },
            Op::Punch { file, at, len } => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                self.allocate(&seen.file(file)?, mode, at, len)
            }
            Op::Zero { file, at, len, keep } => {
                let keep = if keep { libc::FALLOC_FL_KEEP_SIZE } else { 0 };
                self.allocate(&seen.file(file)?, libc::FALLOC_FL_ZERO_RANGE | keep, at, len)
            }
            Op::Allocate { file, at, len, keep } => {
                let keep = if keep { libc::FALLOC_FL_KEEP_SIZE } else { 0 };
                self.allocate(&seen.file(file)?, keep, at, len)
            }
            Op::Seek { file, at, hole } => self.seek(seen.file(file)?, at, hole),
            Op::CopyRange { from, at, to, to_at, len } => {
                self.copy(&seen.file(from)?, at, &seen.file(to)?, to_at, len)
            }
            Op::Rewrite { file, len, seed } => {
                let target = seen.file(file)?;
                self.open(&target, libc::O_WRONLY | libc::O_TRUNC).and_then(|open| {
                    if matches!(target, Target::Open(_)) {
                        open.set_len(0).map_err(errno)?;
                    }
                    open.write_all_at(&bytes(seed, len.min(LARGEST)), 0).map_err(errno)?;
                    Ok(Given::Nothing)
                })
            }
            Op::Read { file, at, len } => {
                self.open(&seen.file(file)?, libc::O_RDONLY).and_then(|open| {
                    let mut read = vec![0; len as usize];
                    let count = open.read_at(&mut read, at.into()).map_err(errno)?;
                    read.truncate(count);
                    Ok(Given::Bytes(read))
                })
            }
            Op::Rename { entry, dir: d, name, how } => {
                rename(&self.c(seen.entry(entry)?), &self.below(dir(d), name), how)
            }
            Op::RenameOnto { entry, other, how } => {
                rename(&self.c(seen.entry(entry)?), &self.c(seen.entry(other)?), how)
            }
            Op::Link { entry, dir: d, name } => {
                let (from, to) = (self.c(seen.entry(entry)?), self.below(dir(d), name));
                // SAFETY: as above.
                done(unsafe { libc::link(from.as_ptr(), to.as_ptr()) }.into())
            }
            Op::Unlink { entry } => {
                // SAFETY: as above.
                done(unsafe { libc::unlink(self.c(seen.entry(entry)?).as_ptr()) }.into())
            }
            Op::Rmdir { entry } => {
                // SAFETY: as above.
                done(unsafe { libc::rmdir(self.c(seen.entry(entry)?).as_ptr()) }.into())
            }
            Op::Chmod { entry, perm } => {
                let at = self.c(seen.entry(entry)?);
                // SAFETY: as above.
                done(unsafe { libc::chmod(at.as_ptr(), perm.into()) }.into())
            }
            Op::Chown { entry, uid, gid } => {
                let id = |n: u8| [0, 1001, 1002, 2000, u32::MAX][usize::from(n) % 5];
                let at = self.c(seen.entry(entry)?);
                // SAFETY: as above.
                done(unsafe { libc::lchown(at.as_ptr(), id(uid), id(gid)) }.into())
            }
            Op::Utimens { entry, secs, nanos } => {
                // From 1901 to 2038.
                let time = libc::timespec { tv_sec: (secs as i32).into(), tv_nsec: nanos.into() };
                utimens(
                    &self.c(seen.entry(entry)?),
                    [libc::timespec { tv_nsec: libc::UTIME_OMIT, ..time }, time],
                )
            }
            Op::Touch { entry } => {
                let now = libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW };
                utimens(&self.c(seen.entry(entry)?), [now, now])
            }
            Op::SetXattr { entry, name, len } => self.set_xattr(seen.entry(entry)?, name, len, 0),
            Op::XattrHow { entry, name, len, how } => self.set_xattr(
                seen.entry(entry)?,
                name,
                len,
                [0, libc::XATTR_CREATE, libc::XATTR_REPLACE][usize::from(how) % 3],
            ),
            Op::RemoveXattr { entry, name } => {
                let (at, name) =
                    (self.c(seen.entry(entry)?), CString::new(xattr_of(name, 0).0).unwrap());
                // SAFETY: as above.
                done(unsafe { libc::lremovexattr(at.as_ptr(), name.as_ptr()) }.into())
            }
            Op::Open { file } => {
                let Target::Path(path) = seen.file(file)? else { return None };
                open(&self.c(&path), libc::O_RDWR, 0).map(|open| {
                    self.files.push(open);
                    Given::Nothing
                })
            }
            Op::Close { handle } => {
                let count = self.files.len();
                if count > 0 {
                    drop(self.files.remove(usize::from(handle) % count));
                }
                return None;
            }
            Op::Fsync { file } => {
                let opened = self.open(&seen.file(file)?, libc::O_RDONLY);
                opened.and_then(|open| open.sync_all().map_err(errno)).map(|()| Given::Nothing)
            }
            Op::OpenDir { dir: d } => open(&self.c(dir(d)), libc::O_RDONLY | libc::O_DIRECTORY, 0)
                .map(|open| {
                    self.dirs.push(open);
                    Given::Nothing
                }),
            Op::CreateIn { handle, name } => {
                let open = self.dirs.get(usize::from(handle) % self.dirs.len().max(1))?;
                let name = CString::new(name_of(name)).unwrap();
                let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_CLOEXEC;
                // SAFETY: as above; the descriptor that comes back is taken over here.
                let made = check(
                    unsafe { libc::openat(open.as_raw_fd(), name.as_ptr(), flags, 0o644) }.into(),
                );
                made.map(|fd| drop(unsafe { File::from_raw_fd(fd as i32) }))
                    .map(|()| Given::Nothing)
            }
            Op::CloseDir { handle } => {
                let count = self.dirs.len();
                if count > 0 {
                    drop(self.dirs.remove(usize::from(handle) % count));
                }
                return None;
            }
            Op::ReadDir { dir: d, .. } => names(&self.at(dir(d))),
            _ => return None,
        })
    }

    fn write(&self, target: &Target, at: u32, len: u32, seed: u8) -> Answer {
        let open = self.open(target, libc::O_WRONLY)?;
        let data = bytes(seed, len.min(LARGEST.saturating_sub(at)));
        open.write_at(&data, at.into()).map(|n| Given::Count(n as i64)).map_err(errno)
    }

    fn append(&self, target: &Target, len: u32, seed: u8) -> Answer {
        let open = self.open(target, libc::O_WRONLY | libc::O_APPEND)?;
        let size = open.metadata().map_err(errno)?.len() as u32;
        let data = bytes(seed, len.min(LARGEST.saturating_sub(size)));
        open.write_at(&data, size.into()).map(|n| Given::Count(n as i64)).map_err(errno)
    }

    fn allocate(&self, target: &Target, mode: i32, at: u32, len: u32) -> Answer {
        let open = self.open(target, libc::O_RDWR)?;
        // SAFETY: a descriptor that is open and three numbers.
        done(unsafe { libc::fallocate(open.as_raw_fd(), mode, at.into(), len.into()) }.into())
    }

    fn seek(&self, target: Target, at: u32, hole: bool) -> Answer {
        let open = self.open(&target, libc::O_RDONLY)?;
        let whence = if hole { libc::SEEK_HOLE } else { libc::SEEK_DATA };
        // SAFETY: as above.
        let found = check(unsafe { libc::lseek(open.as_raw_fd(), at.into(), whence) });
        Ok(Given::Sought { target, at, hole, found: found.map(|at| at as u64) })
    }

    fn copy(&self, from: &Target, at: u32, to: &Target, to_at: u32, len: u32) -> Answer {
        let source = self.open(from, libc::O_RDONLY)?;
        let into = self.open(to, libc::O_WRONLY)?;
        let (mut at, mut to_at) = (i64::from(at), i64::from(to_at));
        let len = LARGEST.saturating_sub(to_at as u32).min(len) as usize;
        // SAFETY: as above, and two offsets that outlive the call.
        let copied = unsafe {
            libc::copy_file_range(source.as_raw_fd(), &mut at, into.as_raw_fd(), &mut to_at, len, 0)
        };
        check(copied as i64).map(Given::Count)
    }

    fn set_xattr(&self, path: &[u8], name: u8, len: u8, flags: i32) -> Answer {
        let (name, value) = xattr_of(name, len);
        let (at, name) = (self.c(path), CString::new(name).unwrap());
        // SAFETY: as above, and a buffer with its length.
        let set = unsafe {
            libc::lsetxattr(at.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags)
        };
        done(set.into())
    }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path")
}

fn open(path: &CString, flags: i32, mode: u32) -> Result<File, i32> {
    // SAFETY: a C string that outlives the call; the descriptor that comes back is taken over here.
    let fd = check(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, mode) }.into())?;
    Ok(unsafe { File::from_raw_fd(fd as i32) })
}

fn mknod(path: &CString, mode: u32) -> Answer {
    let device = if mode & libc::S_IFMT == libc::S_IFIFO { 0 } else { libc::makedev(1, 5) };
    // SAFETY: as above.
    done(unsafe { libc::mknod(path.as_ptr(), mode, device) }.into())
}

fn make(path: &CString, kind: u8, perm: u32) -> Answer {
    match kind % 6 {
        0 => {
            open(path, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL, perm).map(|_| Given::Nothing)
        }
        // SAFETY: as above.
        1 => done(unsafe { libc::mkdir(path.as_ptr(), perm) }.into()),
        2 => mknod(path, libc::S_IFIFO | perm),
        3 => mknod(path, libc::S_IFSOCK | perm),
        4 => mknod(path, libc::S_IFCHR | perm),
        _ => mknod(path, libc::S_IFBLK | perm),
    }
}

fn rename(from: &CString, to: &CString, how: u8) -> Answer {
    let flags = [0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE][usize::from(how) % 3];
    let here = libc::AT_FDCWD;
    // SAFETY: as above.
    let moved = unsafe {
        libc::syscall(libc::SYS_renameat2, here, from.as_ptr(), here, to.as_ptr(), flags)
    };
    done(moved)
}

fn utimens(path: &CString, times: [libc::timespec; 2]) -> Answer {
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: as above, and two times that outlive the call.
    done(unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), flags) }.into())
}

fn names(dir: &Path) -> Answer {
    let mut names = BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(errno)? {
        let entry = entry.map_err(errno)?;
        let is_dir = entry.file_type().map_err(errno)?.is_dir();
        assert_ne!(entry.ino(), 0);
        let before = names.insert(entry.file_name().as_bytes().to_vec(), is_dir);
        assert!(before.is_none(), "{:?} is listed twice", entry.file_name());
    }
    Ok(Given::Names(names))
}
