//! Bytes of a host's local state that are others all of a sudden, while no process runs there.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use s3vol::meta::{Change, Fold, LocalLog, RangeMap, Record};
use s3vol::types::Ino;

use crate::random::Random;

/// Changes one byte of the local log in the state folder of a volume. False when there is none.
pub fn of_log(state: &Path, random: &Random) -> bool {
    let path = state.join("log/log");
    let len = fs::metadata(&path).map_or(0, |found| found.len());
    if len > 0 {
        flip(&path, random.below(len), random);
    }
    len > 0
}

/// Changes bytes of cache files that are no uncommitted ones. Returns how many.
pub fn of_clean(state: &Path, random: &Random) -> u64 {
    let Ok(records) = LocalLog::<Record>::read(&state.join("log")) else { return 0 };
    let mut fold = Fold::default();
    for (lsn, record) in &records {
        fold.apply(*lsn, record);
    }
    let mut flipped = 0;
    for path in files(&state.join("cache")) {
        let number = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        let uncommitted = number.and_then(|number| fold.pending.get(&Ino(number)));
        let mut kept = RangeMap::<()>::default();
        for (range, (_, change)) in uncommitted.iter().flat_map(|pending| pending.ranges.iter()) {
            if change == Change::Data {
                kept.insert(range, ());
            }
        }
        let len = fs::metadata(&path).map_or(0, |found| found.len());
        for gap in kept.gaps(0..len) {
            for _ in 0..3 {
                flip(&path, random.between(gap.start, gap.end), random);
                flipped += 1;
            }
        }
    }
    flipped
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ => found.push(entry.path()),
            }
        }
    }
    found.sort();
    found
}

fn flip(path: &Path, at: u64, random: &Random) {
    let file = File::options().read(true).write(true).open(path).expect("a disk");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("it is there");
    byte[0] ^= 1 << random.below(8);
    file.write_all_at(&byte, at).expect("a disk");
}
