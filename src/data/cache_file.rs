//! One sparse local file with an inode's bytes at their natural offsets.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};

use super::disk_ahead::DiskAhead;
use super::freeing::Freeing;
use super::room::{Taken, less, more};
use crate::clock::Deadline;
use crate::meta::RangeMap;
use crate::types::Ino;

/// Giving a file of more bytes back may take long: a few hundred pieces do on some disks.
const LARGE: u64 = 1 << 20;
/// Blocks that nobody needs any more are given back for so long, and otherwise with the file.
pub(super) const MOMENT: Duration = Duration::from_millis(50);
/// The unit of `st_blocks`.
const BLOCK: u64 = 512;

/// Cached bytes of one inode. `present` are clean ranges; uncommitted ones are the inode's pending
/// ranges. Bytes outside both mean nothing. The descriptor opens on demand.
#[derive(Debug)]
pub struct CacheFile {
    path: PathBuf,
    file: Option<File>,
    pub present: RangeMap<()>,
    ahead: DiskAhead,
    exists: bool,
    /// What it takes on the disk, bytes.
    size: u64,
    /// What all of the volume's take.
    taken: Arc<Taken>,
}

impl CacheFile {
    /// The cache file of `ino` below `dir`, not opened yet.
    pub fn new(dir: &std::path::Path, ino: Ino, taken: Arc<Taken>) -> Self {
        let path = Self::path_in(dir, ino);
        let (present, ahead) = Default::default();
        CacheFile { path, file: None, present, ahead, exists: false, size: 0, taken }
    }

    /// Where the bytes of `ino` lie below `dir`.
    pub fn path_in(dir: &std::path::Path, ino: Ino) -> PathBuf {
        dir.join(format!("{:02x}", ino.0 & 0xff)).join(ino.0.to_string())
    }

    fn file(&mut self) -> io::Result<&File> {
        if self.file.is_none() {
            let open = || {
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(&self.path)
            };
            let file = match open() {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    if let Some(parent) = self.path.parent() {
                        std::fs::create_dir_all(parent)?;
                    }
                    open()?
                }
                other => other?,
            };
            self.now_exists();
            self.file = Some(file);
        }
        Ok(self.file.as_ref().expect("invariant: opened just above"))
    }

    pub fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let written = self.file()?.write_all_at(data, offset);
        self.weigh();
        written
    }

    /// Counts what the file takes on the disk now.
    fn weigh(&mut self) {
        let now = match &self.file {
            // One that cannot be asked counts as before.
            Some(file) => file.metadata().map_or(self.size, |found| found.blocks() * BLOCK),
            None => 0,
        };
        self.counts(now);
    }

    fn counts(&mut self, now: u64) {
        let before = std::mem::replace(&mut self.size, now);
        match now >= before {
            true => more(&self.taken.bytes, now - before),
            false => less(&self.taken.bytes, before - now),
        }
    }

    /// Fills `buffer`; what lies past the file's end is zeros.
    pub fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let ahead = self.ahead.next(offset..offset + buffer.len() as u64);
        let file = self.file()?;
        if let Some(ahead) = ahead {
            // Nothing depends on it.
            let (from, len) = (ahead.start as i64, (ahead.end - ahead.start) as i64);
            let _ = posix_fadvise(file, from, len, PosixFadviseAdvice::POSIX_FADV_WILLNEED);
        }
        let mut done = 0;
        while done < buffer.len() {
            match file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => {
                    buffer[done..].fill(0);
                    return Ok(());
                }
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Makes `range` read as zeros and gives its blocks back.
    pub fn punch(&mut self, range: Range<u64>) -> io::Result<()> {
        if range.is_empty() || !self.exists && self.file.is_none() {
            return Ok(());
        }
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let len = range.end.min(i64::MAX as u64) - range.start;
        let file = self.file()?;
        let punched = match fallocate(file, flags, range.start as i64, len as i64) {
            Err(nix::errno::Errno::EOPNOTSUPP) => write_zeros(file, range),
            other => other.map_err(io::Error::from),
        };
        self.weigh();
        punched
    }

    /// Gives the blocks of a range back, whose bytes mean nothing any more, from its end, as far as that goes
    /// within a moment. Returns where what was given back begins: before that the bytes are as they were.
    pub fn give_back(&mut self, range: Range<u64>) -> io::Result<u64> {
        if self.size <= LARGE {
            let start = range.start;
            return self.punch(range).map(|()| start);
        }
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let file = self.file()?;
        let end = range.end.min(file.metadata()?.len());
        let punch = |part: Range<u64>| match fallocate(
            file,
            flags,
            part.start as i64,
            (part.end - part.start) as i64,
        ) {
            Err(nix::errno::Errno::EOPNOTSUPP) => Ok(()),
            other => other.map_err(io::Error::from),
        };
        let freed = for_a_moment(file, range.start..end.max(range.start), punch);
        self.weigh();
        freed
    }

    /// Forgets everything at and after `size`. Blocks that cannot be given back within a moment stay; what
    /// they hold means nothing.
    pub fn cut(&mut self, size: u64) -> io::Result<()> {
        self.present.truncate(size);
        if !self.exists && self.file.is_none() {
            return Ok(());
        }
        if size == 0 && self.size > LARGE {
            return self.remove();
        }
        let small = self.size <= LARGE;
        let file = self.file()?;
        let len = file.metadata()?.len();
        if len > size {
            let cut = match small {
                true => file.set_len(size),
                false => for_a_moment(file, size..len, |part| file.set_len(part.start)).map(drop),
            };
            self.weigh();
            cut?;
        }
        Ok(())
    }

    /// The file of an earlier run is there and its pending ranges mean something.
    pub fn adopt(&mut self) {
        self.now_exists();
        // What cannot be asked is met by whoever reads it.
        let now = std::fs::metadata(&self.path).map_or(0, |found| found.blocks() * BLOCK);
        self.counts(now);
    }

    pub fn exists(&self) -> bool {
        self.exists
    }

    fn now_exists(&mut self) {
        if !self.exists {
            self.exists = true;
            self.taken.files.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lets the descriptor go; the next use opens it again.
    pub fn close(&mut self) {
        self.file = None;
    }

    /// Forgets and deletes everything. Blocks of a large file are given back beside.
    pub fn remove(&mut self) -> io::Result<()> {
        let large = self.size > LARGE;
        self.file = None;
        self.weigh();
        std::mem::take(&mut self.present).forget();
        if self.exists {
            self.exists = false;
            self.taken.files.fetch_sub(1, Ordering::Relaxed);
            match &self.taken.trash {
                Some(trash) if large => trash.take(&self.path)?,
                _ => crate::sys::remove_if_there(&self.path)?,
            }
        }
        Ok(())
    }
}

/// Frees the parts of a range, from its end, for a moment. Returns where what is free begins.
fn for_a_moment(
    file: &File,
    range: Range<u64>,
    free: impl Fn(Range<u64>) -> io::Result<()>,
) -> io::Result<u64> {
    let (mut freeing, end) = (Freeing::over(range), Deadline::after(MOMENT));
    while freeing.go(file, &free)? && !end.passed() {}
    Ok(freeing.free_from())
}

/// Where the file system makes no holes.
fn write_zeros(file: &File, range: Range<u64>) -> io::Result<()> {
    let end = range.end.min(file.metadata()?.len());
    let zeros = vec![0; 64 << 10];
    let mut at = range.start;
    while at < end {
        let n = zeros.len().min((end - at) as usize);
        file.write_all_at(&zeros[..n], at)?;
        at += n as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_slow_disk_does_not_give_back_in_time_is_told() {
        let file = tempfile::tempfile().unwrap();
        let range = 0..256 * 8192;
        (0..256).for_each(|piece| file.write_all_at(&[1; 4096], piece * 8192).unwrap());
        let freed = parking_lot::Mutex::new(range.end);
        let slow = |part: Range<u64>| {
            let began = Deadline::after(MOMENT);
            while !began.passed() {}
            *freed.lock() = part.start;
            Ok(())
        };
        let from = for_a_moment(&file, range.clone(), slow).unwrap();
        assert_eq!(from, *freed.lock());
        assert!(range.start < from && from < range.end, "{from}");
        assert_eq!(for_a_moment(&file, range.clone(), |_| Ok(())).unwrap(), range.start);
        assert_eq!(for_a_moment(&file, 7..7, |_| Ok(())).unwrap(), 7);
    }
}
