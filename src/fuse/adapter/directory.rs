//! Filling a READDIR or READDIRPLUS reply.
//!
//! READDIRPLUS hands attributes to the kernel, so an entry whose attributes are not known (asking the
//! store would take a request) must not be in it with guessed ones: a guess opens private files. The
//! wire format has a form for "a name without attributes", which `fuser` cannot write. Instead the
//! reply ends before such an entry: with READDIRPLUS_AUTO the kernel asks for the rest by READDIR, unless
//! it sees that the program looks at every entry; then the next READDIRPLUS starts at that entry and
//! its attributes are fetched as the program's own stat would.
//!
//! Names that share a cookie must not be torn apart: going on "after the cookie" would skip the rest of
//! them. So all but the last of them say "go on before them", and a program may see one twice instead.

use std::ffi::OsStr;
use std::future::Future;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use fuser::{INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::answer::GENERATION;
use super::convert::{file_attr, file_type};
use super::request::Op;
use crate::fs::{Attr, DirEntry, FileHandle, Fs, FsError, Show, check_name};
use crate::metrics::Meters;
use crate::types::{FileName, Ino, Timestamp};

/// Entries asked for at once: what fits the 4 KiB of a small READDIR with names of usual length.
const BATCH: usize = 64;

/// A file system whose directories are listed.
pub(in crate::fuse) trait Listing: Sync {
    fn readdir(
        &self,
        dir: Ino,
        fh: FileHandle,
        cookie: u64,
        max: usize,
        show: Show,
    ) -> impl Future<Output = Result<Vec<DirEntry>, FsError>> + Send;

    fn lookup(
        &self,
        dir: Ino,
        name: FileName,
    ) -> impl Future<Output = Result<Attr, FsError>> + Send;

    /// Where what failed is counted.
    fn meters(&self) -> &Meters;
}

impl Listing for Fs {
    async fn readdir(
        &self,
        dir: Ino,
        fh: FileHandle,
        cookie: u64,
        max: usize,
        show: Show,
    ) -> Result<Vec<DirEntry>, FsError> {
        Fs::readdir(self, dir, fh, cookie, max, show).await
    }

    async fn lookup(&self, dir: Ino, name: FileName) -> Result<Attr, FsError> {
        Fs::lookup(self, dir, name).await
    }

    fn meters(&self) -> &Meters {
        &self.volume().meters
    }
}

/// Answers READDIR.
pub(in crate::fuse) async fn list<L: Listing>(
    fs: Arc<L>,
    (op, dir, fh): (Op, Ino, FileHandle),
    cookie: u64,
    mut reply: ReplyDirectory,
) {
    match fill(&*fs, dir, fh, cookie, &mut reply).await {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(op.errno(&error, fs.meters())),
    }
}

/// Answers READDIRPLUS.
pub(in crate::fuse) async fn list_plus<L: Listing>(
    fs: Arc<L>,
    (op, dir, fh): (Op, Ino, FileHandle),
    cookie: u64,
    mut reply: ReplyDirectoryPlus,
) {
    match fill_plus(&*fs, dir, fh, cookie, &mut reply).await {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(op.errno(&error, fs.meters())),
    }
}

async fn fill<L: Listing>(
    fs: &L,
    dir: Ino,
    fh: FileHandle,
    mut cookie: u64,
    reply: &mut ReplyDirectory,
) -> Result<(), FsError> {
    let mut filled = false;
    loop {
        let batch = match fs.readdir(dir, fh, cookie, BATCH, Show::Names).await {
            Ok(batch) if batch.is_empty() => return Ok(()),
            Ok(batch) => batch,
            // The entries so far are right; the error comes again with the next request.
            Err(_) if filled => return Ok(()),
            Err(error) => return Err(error),
        };
        for (at, entry) in batch.iter().enumerate() {
            let resume = resume_at(&batch, at, cookie);
            let name = OsStr::from_bytes(&entry.name);
            if reply.add(INodeNo(entry.ino.0), resume, file_type(entry.kind), name) {
                return Ok(());
            }
            cookie = resume;
            filled = true;
        }
    }
}

async fn fill_plus<L: Listing>(
    fs: &L,
    dir: Ino,
    fh: FileHandle,
    mut cookie: u64,
    reply: &mut ReplyDirectoryPlus,
) -> Result<(), FsError> {
    let mut filled = false;
    loop {
        let batch = match fs.readdir(dir, fh, cookie, BATCH, Show::Attributes).await {
            Ok(batch) if batch.is_empty() => return Ok(()),
            Ok(batch) => batch,
            Err(_) if filled => return Ok(()),
            Err(error) => return Err(error),
        };
        for (at, entry) in batch.iter().enumerate() {
            let resume = resume_at(&batch, at, cookie);
            let torn = at > 0 && batch[at - 1].cookie == entry.cookie;
            let attr = match &entry.attr {
                Some(attr) => attr.clone(),
                // The kernel takes nothing but name and kind of these two.
                None if entry.is_dot() => closed(entry),
                None if filled && !torn => return Ok(()),
                None => match fs.lookup(dir, check_name(&entry.name)?).await {
                    Ok(attr) => attr,
                    // Removed since it was listed.
                    Err(FsError::NotFound) => {
                        cookie = resume;
                        continue;
                    }
                    // One object that cannot be read must not hide the rest of its directory.
                    Err(error) => {
                        tracing::debug!(%error, name = ?OsStr::from_bytes(&entry.name), "listed without attributes");
                        closed(entry)
                    }
                },
            };
            let name = OsStr::from_bytes(&entry.name);
            let (ino, ttl) = (INodeNo(attr.ino.0), attr.ttl);
            if reply.add(ino, resume, name, &ttl, &file_attr(&attr), GENERATION) {
                return Ok(());
            }
            cookie = resume;
            filled = true;
        }
    }
}

/// Where to go on after the entry at `at`, when everything before it is behind `before`.
pub(in crate::fuse) fn resume_at(batch: &[DirEntry], at: usize, before: u64) -> u64 {
    let cookie = batch[at].cookie;
    let shared = batch.get(at + 1).is_some_and(|next| next.cookie == cookie);
    if shared { before } else { cookie }
}

/// Attributes that allow nothing to anybody and that the kernel asks for again before it uses them.
fn closed(entry: &DirEntry) -> Attr {
    Attr {
        ino: entry.ino,
        kind: entry.kind,
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        atime: Timestamp::default(),
        mtime: Timestamp::default(),
        ctime: Timestamp::default(),
        btime: Timestamp::default(),
        ttl: Duration::ZERO,
    }
}
