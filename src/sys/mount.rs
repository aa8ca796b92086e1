//! Mounting, covering and detaching, by mount(2) itself: the plugin's root has no fusermount.
//!
//! A volume's place is one directory directly below a mount root. It is reached through a
//! descriptor of the root and never through a symlink. Under every FUSE mount of the
//! plugin lies an empty read-only tmpfs, so that what shows when FUSE is gone is never the host's disk; a mount made by hand
//! has none, so that its place is free as soon as it is unmounted.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// The type under which our mounts show in mount tables.
pub const FUSE_TYPE: &str = "fuse.s3vol";
/// The source of the tmpfs below a FUSE mount.
const COVER_SOURCE: &str = "s3vol-cover";

/// A name directly below a mount root.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MountPoint {
    root: PathBuf,
    name: OsString,
}

impl MountPoint {
    /// Takes `path` if it is exactly one plain name below `root`.
    pub fn new(root: &Path, path: &Path) -> io::Result<Self> {
        let inside = path.strip_prefix(root).ok().and_then(|rest| {
            let mut parts = rest.components();
            match (parts.next(), parts.next()) {
                (Some(std::path::Component::Normal(name)), None) => Some(name.to_owned()),
                _ => None,
            }
        });
        match inside {
            Some(name) => Ok(MountPoint { root: root.to_owned(), name }),
            None => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is not directly below {}", path.display(), root.display()),
            )),
        }
    }

    pub fn path(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    fn open_root(&self) -> io::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(open(&self.root, flags, Mode::empty())?)
    }

    /// A descriptor of whatever is on top here. Only called where no FUSE can be on top.
    fn open(&self) -> io::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(openat(self.open_root()?, self.name.as_os_str(), flags, Mode::empty())?)
    }
}

/// How a volume is mounted.
#[derive(Debug, Clone, Copy)]
pub struct FuseMount<'a> {
    /// Shown as the mount's source.
    pub source: &'a str,
    pub readonly: bool,
    /// What the kernel itself enforces.
    pub flags: MountFlags,
}

impl<'a> FuseMount<'a> {
    /// With what is usual.
    pub fn of(source: &'a str) -> Self {
        FuseMount { source, readonly: false, flags: MountFlags::default() }
    }
}

/// Options of `mount(8)` that the kernel enforces for every file system. Device nodes never work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountFlags {
    pub nosuid: bool,
    pub noexec: bool,
    /// Every write waits until it is in the bucket.
    pub sync: bool,
}

/// Creates the directory of a mount point; one that exists already is fine.
pub fn make_mountpoint(at: &MountPoint) -> io::Result<()> {
    match mkdirat(at.open_root()?, at.name.as_os_str(), Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Removes the directory of a mount point; only ever an empty one. Not being there is fine.
pub fn remove_mountpoint(at: &MountPoint) -> io::Result<()> {
    match unlinkat(at.open_root()?, at.name.as_os_str(), UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(nix::errno::Errno::ENOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Covers the directory with an empty read-only tmpfs.
pub fn cover(at: &MountPoint) -> io::Result<()> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount_on(&at.open()?, COVER_SOURCE, "tmpfs", flags, "size=4k,nr_inodes=1,mode=0555")
}

/// Opens the FUSE device, close-on-exec. The connection lives as long as the description does.
pub fn open_fuse_device() -> io::Result<OwnedFd> {
    let open =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open("/dev/fuse");
    match open {
        Ok(file) => Ok(OwnedFd::from(file)),
        Err(e) => {
            let cure = match e.kind() {
                io::ErrorKind::PermissionDenied => "mounting needs root",
                _ => "load the kernel module with `modprobe fuse`",
            };
            Err(io::Error::new(e.kind(), format!("cannot open /dev/fuse ({e}); {cure}")))
        }
    }
}

/// Mounts FUSE over a mount point. Returns at once: the kernel's first request waits in
/// `device` for whoever serves it.
pub fn mount_fuse(at: &MountPoint, device: &OwnedFd, how: FuseMount<'_>) -> io::Result<()> {
    let mut flags = MsFlags::MS_NODEV;
    flags.set(MsFlags::MS_RDONLY, how.readonly);
    flags.set(MsFlags::MS_NOSUID, how.flags.nosuid);
    flags.set(MsFlags::MS_NOEXEC, how.flags.noexec);
    flags.set(MsFlags::MS_SYNCHRONOUS, how.flags.sync);
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
        device.as_fd().as_raw_fd()
    );
    mount_on(&at.open()?, how.source, FUSE_TYPE, flags, &data)
}

fn mount_on(
    target: &OwnedFd,
    source: &str,
    kind: &str,
    flags: MsFlags,
    data: &str,
) -> io::Result<()> {
    // Through the descriptor, so that the place cannot be swapped for a symlink in between.
    let target = format!("/proc/self/fd/{}", target.as_raw_fd());
    mount(Some(source), target.as_str(), Some(kind), flags, Some(data))?;
    Ok(())
}

/// Detaches every mount of ours at exactly `path`, top first: FUSE, then its cover. Never waits for
/// open files. Mounts of other people on that path are left alone and end the loop with an error.
pub fn detach_all(path: &Path) -> io::Result<()> {
    // More layers than this can only be somebody mounting faster than we detach.
    for _ in 0..16 {
        match top_mount(path)? {
            None => return Ok(()),
            Some(entry) if entry.is_ours() => {
                umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
            }
            Some(entry) => {
                return Err(io::Error::other(format!(
                    "{} is a {} mount, not one of s3vol",
                    path.display(),
                    entry.kind
                )));
            }
        }
    }
    Err(io::Error::other(format!("{} keeps being mounted again", path.display())))
}

/// As [`detach_all`], for mounts whose server is dead: what still waits for it fails at once, also where
/// something in the kernel keeps the connection.
pub fn detach_dead(path: &Path) -> io::Result<()> {
    let flags = MntFlags::MNT_FORCE | MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
    for _ in 0..16 {
        let on_top = top_mount(path)?.is_some_and(|top| top.kind == FUSE_TYPE);
        // Who may not force it only detaches it.
        if !on_top || umount2(path, flags).is_err() {
            break;
        }
    }
    detach_all(path)
}

/// Detaches the FUSE mount of `device` at `path` if it is the topmost there, and no other: somebody else may
/// have mounted at that path since.
pub fn detach_one(path: &Path, device: &str) -> io::Result<()> {
    match top_mount(path)? {
        Some(top) if top.kind == FUSE_TYPE && top.device == device => {
            umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
            Ok(())
        }
        Some(top) if mount_table()?.iter().any(|e| e.path == path && e.device == device) => {
            let (path, kind) = (path.display(), top.kind);
            Err(io::Error::other(format!("a {kind} mount lies over the volume at {path}")))
        }
        _ => Ok(()),
    }
}

/// What lies on top at exactly `path`, if anything is mounted there.
pub fn top_mount(path: &Path) -> io::Result<Option<MountEntry>> {
    // The last entry for a path is the one on top.
    Ok(mount_table()?.into_iter().rfind(|entry| entry.path == path))
}

/// Whether somebody serves a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    Yes,
    /// The connection has ended.
    Never,
    /// Not in time.
    NotNow,
}

/// Asks the server of the mount at `path` for its attributes, in a thread that may have to stay behind.
pub fn answers(path: &Path, within: std::time::Duration) -> Answers {
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else {
        return Answers::Never;
    };
    let ask = move || {
        // Nobody may be waiting any more.
        let _ = tell.send(fresh_attributes(&path));
    };
    if std::thread::Builder::new().name("mount-asked".to_owned()).spawn(ask).is_err() {
        return Answers::NotNow;
    }
    match told.recv_timeout(within) {
        Ok(Err(e)) if matches!(e.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)) => {
            Answers::Never
        }
        // Any other error is an answer, too.
        Ok(_) => Answers::Yes,
        Err(_) => Answers::NotNow,
    }
}

/// stat(2) that does not believe what the kernel remembers.
fn fresh_attributes(path: &std::ffi::CStr) -> io::Result<()> {
    const AT_STATX_FORCE_SYNC: libc::c_int = 0x2000;
    const BASIC: libc::c_uint = 0x7ff;
    // Larger than any statx so far.
    let mut into = [0u64; 64];
    // SAFETY: the path is a C string and the buffer is writable and large enough, both for the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_statx,
            libc::AT_FDCWD,
            path.as_ptr(),
            AT_STATX_FORCE_SYNC,
            BASIC,
            into.as_mut_ptr(),
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// One line of a mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Where it shows, in this process's view.
    pub path: PathBuf,
    /// All of the file system, and no folder of it that was bound there.
    pub whole: bool,
    pub kind: String,
    pub source: String,
    /// `major:minor`; the minor of a FUSE mount names its connection.
    pub device: String,
    /// Mounts below it are seen in other mount namespaces that have it, too.
    pub shared: bool,
}

impl MountEntry {
    /// A volume of s3vol, or the cover below one.
    pub fn is_ours(&self) -> bool {
        self.kind == FUSE_TYPE || (self.kind == "tmpfs" && self.source == COVER_SOURCE)
    }
}

/// The mount table of this process. Reading it touches no mount.
pub fn mount_table() -> io::Result<Vec<MountEntry>> {
    let mut text = Vec::new();
    io::Read::read_to_end(&mut File::open("/proc/self/mountinfo")?, &mut text)?;
    Ok(parse_mount_table(&text))
}

/// The mount on which `path` lies, as far as its text tells: symlinks are not followed.
pub fn holder_of<'t>(table: &'t [MountEntry], path: &Path) -> Option<&'t MountEntry> {
    // Of mounts over each other the last one shows; of `max_by_key` the last of equal ones counts.
    let holders = table.iter().filter(|mount| path.starts_with(&mount.path));
    holders.max_by_key(|mount| mount.path.components().count())
}

/// Parses the format of `/proc/self/mountinfo`; lines it does not understand are skipped.
pub fn parse_mount_table(text: &[u8]) -> Vec<MountEntry> {
    text.split(|&b| b == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let fields: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    // Optional fields of any number end with a lone dash.
    let dash = fields.iter().skip(6).position(|f| *f == b"-")? + 6;
    Some(MountEntry {
        path: PathBuf::from(OsString::from_vec(unescape(fields.get(4)?))),
        whole: *fields.get(3)? == b"/",
        device: String::from_utf8_lossy(fields.get(2)?).into_owned(),
        kind: String::from_utf8_lossy(&unescape(fields.get(dash + 1)?)).into_owned(),
        source: String::from_utf8_lossy(&unescape(fields.get(dash + 2)?)).into_owned(),
        shared: fields[6..dash].iter().any(|field| field.starts_with(b"shared:")),
    })
}

/// Undoes the kernel's `\ooo` for space, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let code = (byte == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(value) => {
                out.push(value);
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests;
