//! Content kept on the local disk, each file's bytes for one generation of its content.
//!
//! Lock order: the map, then a file. An entry leaves the map only when nobody else has it, because two
//! would write one file.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use crate::clock::boottime;
use crate::data::{CacheFile, ReadAhead, Room, Trash};
use crate::types::Ino;

/// Files remembered; more are dropped when nobody reads them.
const KEEP: usize = 16 << 10;

#[derive(Debug)]
pub(super) struct Cache {
    dir: PathBuf,
    room: Room,
    files: Mutex<HashMap<Ino, Arc<Mutex<Cached>>>>,
}

#[derive(Debug)]
struct Cached {
    generation: u64,
    file: CacheFile,
    ahead: ReadAhead,
    used: Duration,
}

/// What the cache has of a range.
#[derive(Debug)]
pub(super) enum Found {
    All(Bytes),
    /// This range is to be fetched.
    Missing(Range<u64>),
    /// The cache has a newer generation already.
    Newer,
}

/// A piece of content; `None` is zeros.
pub(super) type Piece = (Range<u64>, Option<Bytes>);

impl Cache {
    /// What lies in `dir` is of an earlier process, and goes.
    pub fn open(dir: PathBuf, limit: u64, trash: Trash) -> io::Result<Self> {
        trash.take(&dir)?;
        std::fs::create_dir_all(&dir)?;
        let room = Room::new(&dir, limit, trash);
        Ok(Cache { dir, room, files: Mutex::default() })
    }

    /// Bytes that it takes on the local disk, and how many it may take now.
    pub fn size(&self) -> (u64, u64) {
        (self.room.taken().bytes(), self.room.limit())
    }

    fn of(&self, ino: Ino, generation: u64) -> Arc<Mutex<Cached>> {
        let mut files = self.files.lock();
        if files.len() > KEEP && !files.contains_key(&ino) {
            self.drop_unused(&mut files);
        }
        let new = || Cached {
            generation,
            file: CacheFile::new(&self.dir, ino, Arc::clone(self.room.taken())),
            ahead: ReadAhead::default(),
            used: boottime(),
        };
        Arc::clone(files.entry(ino).or_insert_with(|| Arc::new(Mutex::new(new()))))
    }

    /// `range`, which lies below `size`, of this generation of the content. `ahead`: how much may be fetched at
    /// once.
    pub fn read(
        &self,
        ino: Ino,
        generation: u64,
        range: Range<u64>,
        size: u64,
        ahead: u64,
    ) -> io::Result<Found> {
        let cached = self.of(ino, generation);
        let mut cached = cached.lock();
        if cached.generation > generation {
            return Ok(Found::Newer);
        }
        if cached.generation < generation {
            self.empty(&mut cached)?;
            cached.generation = generation;
            cached.ahead = ReadAhead::default();
        }
        cached.used = boottime();
        if let Some(gap) = cached.file.present.gaps(range.clone()).into_iter().next() {
            let missing = gap.start..range.end;
            let most = ahead.min(self.room.limit() / 8);
            return Ok(Found::Missing(cached.ahead.window(&missing, size, most)));
        }
        let mut buffer = BytesMut::zeroed((range.end - range.start) as usize);
        cached.file.read_at(range.start, &mut buffer)?;
        Ok(Found::All(buffer.freeze()))
    }

    /// Takes pieces of a generation, unless a newer one came meanwhile. False when the local disk has no
    /// room for them, and nothing that could go instead.
    pub fn fill(&self, ino: Ino, generation: u64, pieces: &[Piece], size: u64) -> io::Result<bool> {
        let bytes = pieces.iter().filter_map(|(_, bytes)| bytes.as_ref()).map(|b| b.len() as u64);
        let bytes = bytes.sum();
        if !self.fits(bytes) {
            self.shrink(ino, bytes);
        }
        if !self.fits(bytes) {
            return Ok(false);
        }
        let cached = self.of(ino, generation);
        let mut cached = cached.lock();
        if cached.generation != generation {
            return Ok(true);
        }
        for (range, bytes) in pieces {
            for gap in cached.file.present.gaps(range.start..range.end.min(size)) {
                let put = match bytes {
                    Some(bytes) => {
                        let from = (gap.start - range.start) as usize;
                        let to = (gap.end - range.start) as usize;
                        let Some(part) = bytes.get(from..to) else { continue };
                        cached.file.write_at(gap.start, part)
                    }
                    None => cached.file.punch(gap.clone()),
                };
                match put {
                    Ok(()) => cached.file.present.insert(gap, ()),
                    Err(error) if is_full(&error) => {
                        self.room.met_full();
                        return Ok(false);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(true)
    }

    fn fits(&self, bytes: u64) -> bool {
        self.room.fits(bytes) && self.room.taken().files() <= self.room.files()
    }

    /// Lets the descriptor of a file go; the next read opens it again.
    pub fn close(&self, ino: Ino) {
        let cached = self.files.lock().get(&ino).cloned();
        if let Some(cached) = cached {
            cached.lock().file.close();
        }
    }

    fn empty(&self, cached: &mut Cached) -> io::Result<()> {
        cached.file.remove()
    }

    /// Empties the files that were not used for longest, in the end `reader` too, until there is room for
    /// so many bytes.
    fn shrink(&self, reader: Ino, bytes: u64) {
        let (limit, files) = (self.room.limit(), self.room.files());
        let target = (limit - limit / 10).min(limit.saturating_sub(bytes));
        let taken = self.room.taken();
        let enough = || taken.bytes() <= target && taken.files() <= files - files / 10;
        let files: Vec<_> = self.files.lock().iter().map(|(i, c)| (*i, Arc::clone(c))).collect();
        let mut by_age: Vec<_> = files
            .into_iter()
            .map(|(ino, cached)| {
                let used = cached.lock().used;
                ((ino == reader, used), cached)
            })
            .collect();
        by_age.sort_by_key(|(age, _)| *age);
        for (_, cached) in by_age {
            if enough() {
                return;
            }
            if let Err(error) = self.empty(&mut cached.lock()) {
                tracing::warn!(%error, "a cache file could not be deleted");
            }
        }
    }

    fn drop_unused(&self, files: &mut HashMap<Ino, Arc<Mutex<Cached>>>) {
        let mut left = files.len() - KEEP / 2;
        files.retain(|_, cached| {
            if left == 0 || Arc::strong_count(cached) > 1 {
                return true;
            }
            left -= 1;
            // A copy that cannot be deleted is only garbage on the local disk.
            if let Err(error) = self.empty(&mut cached.lock()) {
                tracing::warn!(%error, "a cache file could not be deleted");
            }
            false
        });
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Ino = Ino(9);

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = Cache::open(dir.path().join("cache"), 8 << 20, Trash::within(dir.path()))
            .expect("a cache");
        (dir, cache)
    }

    fn all(found: Found) -> Option<Bytes> {
        match found {
            Found::All(bytes) => Some(bytes),
            _ => None,
        }
    }

    #[test]
    fn bytes_count_for_their_generation_alone() {
        let (_dir, cache) = cache();
        let one = vec![(0..4, Some(Bytes::from_static(b"aaaa"))), (4..8, None)];
        assert!(cache.fill(FILE, 1, &one, 6).expect("a disk"));
        let read =
            |generation, range| cache.read(FILE, generation, range, 8, u64::MAX).expect("a look");
        assert_eq!(all(read(1, 2..6)).expect("it"), b"aa\0\0"[..]);
        assert!(matches!(read(1, 4..8), Found::Missing(gap) if gap.contains(&6)));
        assert!(matches!(read(2, 0..4), Found::Missing(_)));
        assert!(cache.fill(FILE, 1, &one, 6).expect("a late fill"));
        assert!(matches!(read(2, 0..4), Found::Missing(_)), "old bytes under a new generation");
        assert!(matches!(read(1, 0..4), Found::Newer));
        let two = [(0..4, Some(Bytes::from_static(b"bbbb")))];
        assert!(cache.fill(FILE, 2, &two, 4).expect("a disk"));
        assert_eq!(all(read(2, 0..4)).expect("it"), b"bbbb"[..]);
    }

    #[test]
    fn the_cache_stays_within_its_size() {
        let (_dir, cache) = cache();
        for n in 0..40 {
            let piece = vec![(0..1 << 20, Some(Bytes::from(vec![n; 1 << 20])))];
            assert!(cache.fill(Ino(u64::from(n)), 1, &piece, 1 << 20).expect("a disk"));
            assert!(cache.room.taken().bytes() <= 8 << 20);
        }
        let last = cache.read(Ino(39), 1, 0..10, 1 << 20, u64::MAX).expect("a look");
        assert_eq!(all(last).expect("the newest stays"), vec![39; 10]);
    }
}
