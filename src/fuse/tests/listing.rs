//! How the kernel goes on after a READDIRPLUS reply that ends before an entry without attributes: what
//! `adapter::directory` relies on.
//!
//! Needs root and /dev/fuse.

use std::ffi::OsStr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use fuser::{
    Errno, FileHandle, FileType, Filesystem, Generation, INodeNo, KernelConfig, ReplyAttr,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, Request,
};

use super::handover::{attr, mounted};
use crate::fuse::HandoffFiles;
use crate::fuse::session::serve_filesystem;

const TTL: Duration = Duration::from_secs(60);
const FILES: u64 = 500;

#[derive(Default)]
struct Calls {
    readdir: AtomicU64,
    readdirplus: AtomicU64,
    /// Attributes fetched, by LOOKUP or for READDIRPLUS.
    fetched: AtomicU64,
}

/// A directory of files `2`, `3`, … whose attributes are all unknown until asked for.
struct Cold {
    calls: Arc<Calls>,
}

fn name(ino: u64) -> String {
    if ino < 2 { ".".repeat(ino as usize + 1) } else { ino.to_string() }
}

impl Filesystem for Cold {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        crate::fuse::negotiate::negotiate(config)
    }

    fn lookup(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.calls.fetched.fetch_add(1, SeqCst);
        match name.to_str().and_then(|name| name.parse().ok()) {
            Some(ino) => reply.entry(&TTL, &attr(ino), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &attr(ino.0));
    }

    fn readdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.calls.readdir.fetch_add(1, SeqCst);
        for ino in offset..FILES + 2 {
            if reply.add(INodeNo(ino.max(1)), ino + 1, FileType::RegularFile, name(ino)) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.calls.readdirplus.fetch_add(1, SeqCst);
        for at in offset..FILES + 2 {
            if at >= 2 {
                if at > offset {
                    break;
                }
                self.calls.fetched.fetch_add(1, SeqCst);
            }
            let ino = at.max(1);
            if reply.add(INodeNo(ino), at + 1, name(at), &TTL, &attr(ino), Generation(0)) {
                break;
            }
        }
        reply.ok();
    }
}

/// Lists a fresh mount of `Cold`; the number of names seen and the calls it took.
fn list(arguments: &[&str]) -> (usize, Arc<Calls>) {
    let dir = tempfile::tempdir().unwrap();
    let (device, cleanup) = mounted(dir.path());
    let calls = Arc::new(Calls::default());
    let cold = Cold { calls: Arc::clone(&calls) };
    let _serving = serve_filesystem(device, cold, &HandoffFiles::new(dir.path()), 2).unwrap();
    let listed = Command::new("ls").args(arguments).arg(&cleanup.mountpoint).output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).unwrap();
    (names.lines().filter(|line| !line.starts_with("total")).count(), calls)
}

#[test]
fn listing_names_fetches_no_attributes() {
    let (names, calls) = list(&["-1U"]);
    assert_eq!(names as u64, FILES);
    assert_eq!(calls.readdirplus.load(SeqCst), 1);
    assert!(calls.readdir.load(SeqCst) >= 1);
    assert_eq!(calls.fetched.load(SeqCst), 0);
}

#[test]
fn listing_attributes_fetches_each_once() {
    let (names, calls) = list(&["-lU"]);
    assert_eq!(names as u64, FILES);
    assert_eq!(calls.fetched.load(SeqCst), FILES);
}
