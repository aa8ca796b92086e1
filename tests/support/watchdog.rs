//! Keeps a FUSE test from hanging for ever, and its mount from outliving it.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Guards one mount: when it is dropped, or after its time, the FUSE connection is aborted and the
/// mount is removed, so that everything stuck in it returns with an error.
///
/// No path below the mount is ever touched: the connection's number comes from
/// `/proc/self/mountinfo`.
#[derive(Debug)]
pub struct Watchdog {
    mount: PathBuf,
    done: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Guards `mount`, which need not be mounted yet. Past `limit` it also says so on stderr.
    pub fn guard(mount: impl Into<PathBuf>, limit: Duration) -> Self {
        let mount = mount.into();
        let guarded = mount.clone();
        let (done, finished) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            if finished.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                eprintln!("watchdog: {} was not done in {limit:?}", guarded.display());
                release(&guarded);
            }
        });
        Watchdog { mount, done: Some(done), thread: Some(thread) }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        release(&self.mount);
    }
}

/// Aborts the FUSE connections mounted at exactly `mount` and removes every mount there.
pub fn release(mount: &Path) {
    for minor in fuse_connections(mount) {
        let _ = std::fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1");
    }
    let Ok(path) = CString::new(mount.as_os_str().as_bytes()) else { return };
    // Mounts stack; the bound only guards against a mount that cannot be removed.
    for _ in 0..16 {
        if !mounted(mount) {
            return;
        }
        let flags = libc::MNT_FORCE | libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW;
        // SAFETY: `path` is a valid C string that outlives the call.
        if unsafe { libc::umount2(path.as_ptr(), flags) } != 0 {
            return;
        }
    }
}

/// Whether something is mounted at exactly this path.
pub fn mounted(mount: &Path) -> bool {
    mounts_at(mount).next().is_some()
}

fn fuse_connections(mount: &Path) -> Vec<u64> {
    mounts_at(mount).filter(|(_, kind)| kind.starts_with("fuse")).map(|(minor, _)| minor).collect()
}

/// Minor device number and type of the mounts at exactly `mount`.
fn mounts_at(mount: &Path) -> impl Iterator<Item = (u64, String)> {
    let info = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount = mount.to_path_buf();
    let found: Vec<_> = info
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let kind = fields.iter().position(|f| *f == "-").and_then(|at| fields.get(at + 1))?;
            if unescape(fields.get(4)?) != mount.as_os_str().as_bytes() {
                return None;
            }
            let minor = fields.get(2)?.split_once(':')?.1.parse().ok()?;
            Some((minor, (*kind).to_owned()))
        })
        .collect();
    found.into_iter()
}

/// Undoes the octal escapes of mountinfo.
fn unescape(field: &str) -> Vec<u8> {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) if bytes[at] == b'\\' => {
                out.push(byte);
                at += 4;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}
