//! Programs that use two volumes all the time, and see no error.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::SOON;
use super::support::wait_for;

/// What they saw.
pub struct Seen {
    /// The longest call of each.
    pub longest: [(&'static str, Duration); 4],
    /// What is in `log`, and was synced.
    pub written: Vec<u8>,
}

/// Locks `file` without waiting.
fn lock(file: &File) -> bool {
    // SAFETY: an open descriptor.
    unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) == 0 }
}

/// The longest time that `step` took until `done`, and how often it ran.
pub fn repeat(done: &AtomicBool, mut step: impl FnMut(u64)) -> (Duration, u64) {
    let (mut longest, mut rounds) = (Duration::ZERO, 0);
    while !done.load(Ordering::SeqCst) {
        let began = Instant::now();
        step(rounds);
        longest = longest.max(began.elapsed());
        rounds += 1;
    }
    (longest, rounds)
}

/// Ends the users also when what goes on meanwhile fails: they would be waited for otherwise.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Writes and syncs `log` in `place` and reads its end, uses a file without a name, holds a lock, and makes, renames and
/// removes files in `other`, while `meanwhile` goes on.
pub fn in_use(place: &Path, other: &Path, meanwhile: impl FnOnce()) -> Seen {
    let nameless = OpenOptions::new().read(true).write(true).create_new(true).open(place.join("n"));
    let nameless = nameless.unwrap();
    std::fs::remove_file(place.join("n")).unwrap();
    let locked = File::create(place.join("lock")).unwrap();
    assert!(lock(&locked));
    let contender = File::open(place.join("lock")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut log = File::create_new(place.join("log")).unwrap();
            repeat(&done, |n| {
                log.write_all(&n.to_be_bytes()).unwrap();
                log.sync_all().unwrap();
            })
        });
        let tail = scope.spawn(|| {
            let mut log = wait_for("the log", SOON, || File::open(place.join("log")).ok());
            let mut seen = Vec::new();
            let (longest, _) = repeat(&done, |_| {
                log.read_to_end(&mut seen).unwrap();
                std::thread::sleep(Duration::from_millis(2));
            });
            (longest, seen)
        });
        let holder = scope.spawn(|| {
            repeat(&done, |n| {
                nameless.write_all_at(&n.to_be_bytes(), 0).unwrap();
                let mut found = [0; 8];
                nameless.read_exact_at(&mut found, 0).unwrap();
                assert_eq!(found, n.to_be_bytes());
                assert!(!lock(&contender), "somebody else had the lock");
                std::thread::sleep(Duration::from_millis(1));
            })
        });
        let namer = scope.spawn(|| {
            repeat(&done, |n| {
                let (a, b) = (other.join(format!("a{n}")), other.join(format!("b{n}")));
                std::fs::write(&a, "x").unwrap();
                std::fs::rename(&a, &b).unwrap();
                std::fs::remove_file(&b).unwrap();
            })
        });
        let ends = Done(&done);
        meanwhile();
        drop(ends);
        let (tailed, seen) = tail.join().unwrap();
        let (wrote, rounds) = writer.join().unwrap();
        let written: Vec<u8> = (0..rounds).flat_map(u64::to_be_bytes).collect();
        assert!(written.starts_with(&seen) && !seen.is_empty(), "{} of {rounds}", seen.len() / 8);
        let longest = [
            ("write", wrote),
            ("tail", tailed),
            ("hold", holder.join().unwrap().0),
            ("name", namer.join().unwrap().0),
        ];
        Seen { longest, written }
    })
}
