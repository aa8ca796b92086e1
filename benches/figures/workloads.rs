//! What is measured. Every workload runs in a folder, on the local disk first and on the volume then,
//! in the order of the lists: later ones use what earlier ones made.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::times::timed;

const MIB: usize = 1 << 20;
const LARGE: usize = 256 * MIB;
pub const PAGE: usize = 4096;
const SMALL_FILES: usize = 1_000;
const SYNCS: usize = 100;
const NAMES: usize = 10_000;
/// Folders of the tree that holds `NAMES` files.
const FOLDERS: usize = 100;
const RANDOM: usize = 2_000;
/// Entries of the large directory.
pub const ENTRIES: usize = 100_000;

/// A name for the table, and the work: returns how long what is measured took.
pub type Workload = (&'static str, fn(&Path) -> Duration);

pub const SMALL: [Workload; 3] = [
    ("create 1,000 files of 4 KiB", create_small),
    ("remove the 1,000", remove_small),
    ("append 4 KiB + fdatasync, median", sync_median),
];

pub const NAMESPACE: [Workload; 11] = [
    ("create 10,000 in one directory", |d| create(&d.join("flat"), flat)),
    ("list them", |d| list(&d.join("flat"))),
    ("stat them", |d| stat(&d.join("flat"), flat)),
    ("look up 10,000 missing names", missing),
    ("rename them", |d| rename(&d.join("flat"), flat)),
    ("remove the 10,000", |d| remove(&d.join("flat"))),
    ("create 10,000 in a tree", |d| create(&d.join("tree"), deep)),
    ("list the tree", |d| list(&d.join("tree"))),
    ("stat the tree", |d| stat(&d.join("tree"), deep)),
    ("rename in the tree", |d| rename(&d.join("tree"), deep)),
    ("remove the tree", |d| remove(&d.join("tree"))),
];

pub const CONTENT: [Workload; 3] = [
    ("write 256 MiB + fsync", write_large),
    ("2,000 random reads of 4 KiB", random_read),
    ("2,000 random writes of 4 KiB + sync", random_write),
];

pub const LARGE_DIRECTORY: [Workload; 5] = [
    ("create 100,000 in one directory", |d| create_many(&d.join("many"))),
    ("create one more", |d| timed(|| drop(File::create(d.join("many/more")).expect("create")))),
    ("look up one", |d| timed(|| fs::metadata(d.join("many/77777")).map(drop).expect("stat"))),
    ("ls -f", |d| {
        timed(|| assert_eq!(fs::read_dir(d.join("many")).expect("ls").count(), ENTRIES + 1))
    }),
    ("rm -r", |d| remove(&d.join("many"))),
];

pub const COLD: [Workload; 1] = [("read 256 MiB, empty cache", read_large)];

// --- Content ---

fn write_large(dir: &Path) -> Duration {
    let block: Vec<u8> = (0..MIB).map(|i| (i * 31 % 251) as u8).collect();
    timed(|| {
        let mut file = File::create(dir.join("large")).expect("create");
        for _ in 0..LARGE / MIB {
            file.write_all(&block).expect("write");
        }
        file.sync_all().expect("fsync");
    })
}

fn read_large(dir: &Path) -> Duration {
    let mut block = vec![0; MIB];
    timed(|| {
        let mut file = File::open(dir.join("large")).expect("open");
        let mut total = 0;
        loop {
            match file.read(&mut block).expect("read") {
                0 => break,
                n => total += n,
            }
        }
        assert_eq!(total, LARGE);
    })
}

/// Offsets of pages of the large file in a fixed order without a pattern.
fn pages() -> impl Iterator<Item = u64> {
    let count = (LARGE / PAGE) as u64;
    // Multiplying by an odd number permutes the residues of a power of two.
    (0..RANDOM as u64).map(move |i| (i * 40_503 % count) * PAGE as u64)
}

/// The kernel's cache is emptied first, on both sides.
fn random_read(dir: &Path) -> Duration {
    let file = File::open(dir.join("large")).expect("open");
    posix_fadvise(file.as_fd(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("fadvise");
    let mut page = [0; PAGE];
    timed(|| pages().for_each(|at| file.read_exact_at(&mut page, at).expect("read")))
}

fn random_write(dir: &Path) -> Duration {
    let file = OpenOptions::new().write(true).open(dir.join("large")).expect("open");
    timed(|| {
        pages().for_each(|at| file.write_all_at(&[9; PAGE], at).expect("write"));
        file.sync_data().expect("fdatasync");
    })
}

/// Median time of a 4 KiB append with its sync.
fn sync_median(dir: &Path) -> Duration {
    let mut file =
        OpenOptions::new().create(true).append(true).open(dir.join("log")).expect("open");
    let mut times: Vec<Duration> = (0..SYNCS)
        .map(|_| {
            timed(|| {
                file.write_all(&[1; PAGE]).expect("append");
                file.sync_data().expect("fdatasync");
            })
        })
        .collect();
    times.sort();
    times[SYNCS / 2]
}

/// How the blocks of a file lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// With a hole as large as a block behind each; as many bytes, and a file of twice the size.
    Holes,
    /// Without holes, every other one committed before its neighbours.
    Woven,
    /// One piece.
    One,
}

/// A file of so many blocks.
pub fn write_blocks(dir: &Path, blocks: u64, size: usize, shape: Shape) -> Duration {
    let block = vec![5; size];
    let stride = size as u64;
    timed(|| {
        let file = File::create(dir.join("blocks")).expect("create");
        let write = |i: u64| file.write_all_at(&block, i * stride).expect("write");
        match shape {
            Shape::Holes => (0..blocks).for_each(|i| write(i * 2)),
            Shape::Woven => {
                (0..blocks).step_by(2).for_each(write);
                file.sync_all().expect("fsync");
                (1..blocks).step_by(2).for_each(write);
            }
            Shape::One => {
                let whole = block.repeat(MIB / size);
                let bytes = blocks * size as u64;
                let pieces = (0..bytes).step_by(MIB);
                pieces.for_each(|at| {
                    let len = MIB.min((bytes - at) as usize);
                    file.write_all_at(&whole[..len], at).expect("write");
                });
            }
        }
        file.sync_all().expect("fsync");
    })
}

pub fn read_blocks(dir: &Path) -> Duration {
    let mut buffer = vec![0; MIB];
    timed(|| {
        let mut file = File::open(dir.join("blocks")).expect("open");
        while file.read(&mut buffer).expect("read") > 0 {}
    })
}

/// Without the pages that the kernel has of it: dropping those takes the kernel as long as there are pages.
pub fn remove_blocks(dir: &Path) -> Duration {
    let file = File::open(dir.join("blocks")).expect("open");
    posix_fadvise(file.as_fd(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("fadvise");
    drop(file);
    timed(|| fs::remove_file(dir.join("blocks")).expect("rm"))
}

// --- Names ---

fn create_small(dir: &Path) -> Duration {
    let dir = dir.join("small");
    timed(|| {
        fs::create_dir(&dir).expect("mkdir");
        for i in 0..SMALL_FILES {
            fs::write(dir.join(i.to_string()), [7; PAGE]).expect("write");
        }
    })
}

fn remove_small(dir: &Path) -> Duration {
    timed(|| fs::remove_dir_all(dir.join("small")).expect("rm -r"))
}

fn flat(dir: &Path, i: usize) -> PathBuf {
    dir.join(i.to_string())
}

fn deep(dir: &Path, i: usize) -> PathBuf {
    dir.join((i % FOLDERS).to_string()).join(i.to_string())
}

type Place = fn(&Path, usize) -> PathBuf;

fn create(dir: &Path, place: Place) -> Duration {
    timed(|| {
        fs::create_dir(dir).expect("mkdir");
        if place(dir, 0).parent() != Some(dir) {
            (0..FOLDERS).for_each(|i| fs::create_dir(dir.join(i.to_string())).expect("mkdir"));
        }
        (0..NAMES).for_each(|i| drop(File::create(place(dir, i)).expect("create")));
    })
}

pub fn create_many(dir: &Path) -> Duration {
    timed(|| {
        fs::create_dir(dir).expect("mkdir");
        (0..ENTRIES).for_each(|i| drop(File::create(flat(dir, i)).expect("create")));
    })
}

/// A million empty files, a thousand in each folder.
pub fn create_million(dir: &Path) -> Duration {
    timed(|| {
        for folder in 0..1_000 {
            let folder = dir.join(folder.to_string());
            fs::create_dir(&folder).expect("mkdir");
            (0..1_000).for_each(|i| drop(File::create(flat(&folder, i)).expect("create")));
        }
    })
}

fn list(dir: &Path) -> Duration {
    fn count(dir: &Path) -> usize {
        fs::read_dir(dir)
            .expect("list")
            .map(|entry| {
                let entry = entry.expect("an entry");
                let below = entry.file_type().expect("its type").is_dir();
                if below { count(&entry.path()) } else { 1 }
            })
            .sum()
    }
    timed(|| assert_eq!(count(dir), NAMES))
}

fn stat(dir: &Path, place: Place) -> Duration {
    timed(|| (0..NAMES).for_each(|i| fs::metadata(place(dir, i)).map(drop).expect("stat")))
}

fn missing(dir: &Path) -> Duration {
    timed(|| {
        for i in 0..NAMES {
            assert!(!dir.join(format!("flat/missing-{i}")).exists());
        }
    })
}

fn rename(dir: &Path, place: Place) -> Duration {
    timed(|| {
        for i in 0..NAMES {
            let from = place(dir, i);
            fs::rename(&from, from.with_extension("renamed")).expect("rename");
        }
    })
}

pub fn remove(dir: &Path) -> Duration {
    timed(|| fs::remove_dir_all(dir).expect("rm -r"))
}
