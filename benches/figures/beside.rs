//! What settling takes from those who read and sync: how long they wait while nothing settles, and while 6,400 files do.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::support::s3server::TestS3;
use crate::times::{at_percent, sorted, timed};
use crate::workloads::PAGE;
use crate::{Bench, requests};

/// Files that settle meanwhile, so many in each folder.
const SETTLING: usize = 6_400;
const IN_FOLDER: usize = 160;
/// Files at rest that are read, each once.
const COLD: usize = 2_000;
/// From one of them to the next one that is read: no order that prefetch would see.
const STRIDE: usize = 787;
const ALONE: Duration = Duration::from_secs(8);
const PATIENCE: Duration = Duration::from_secs(300);
/// Long enough for all files to be written and committed before the first one settles.
const SETTLE_AFTER: &str = "settle_after=8s";

impl Bench {
    pub fn beside(&self) {
        println!(
            "\nreads and syncs beside {SETTLING} files that settle, 20 ms added to every store request"
        );
        let server = TestS3::start();
        let (mut mount, at) = self.mount(&server, "beside-made", &[]);
        fs::create_dir(at.join("cold")).expect("mkdir");
        (0..COLD).for_each(|n| fs::write(cold(&at, n), [7; PAGE]).expect("a file"));
        mount.settle();
        mount.end();

        server.set_latency(Duration::from_millis(20));
        let (mount, at) = self.mount(&server, "beside", &[SETTLE_AFTER]);
        let next = AtomicUsize::new(0);
        // Once, so that what a first look costs is in neither figure.
        fs::read_dir(at.join("cold")).expect("ls").for_each(drop);
        let alone = Times::until(&at, &next, |began| began.elapsed() > ALONE);
        alone.show("alone");

        let began = Instant::now();
        for folder in 0..SETTLING / IN_FOLDER {
            let folder = at.join(format!("many-{folder}"));
            fs::create_dir(&folder).expect("mkdir");
            (0..IN_FOLDER)
                .for_each(|n| fs::write(folder.join(n.to_string()), [7; PAGE]).expect("a file"));
        }
        println!("  {SETTLING} files written in {:.1} s", began.elapsed().as_secs_f64());
        let at_rest = || {
            let keys = server.keys("bench/many-");
            keys.iter().filter(|key| !key.ends_with('/')).count()
        };
        while at_rest() == 0 && began.elapsed() < PATIENCE {
            sleep(Duration::from_millis(10));
        }
        requests(&server);
        let (start, before) = (Instant::now(), mount.processor());
        let rested = AtomicBool::new(false);
        let beside = thread::scope(|scope| {
            scope.spawn(|| {
                while at_rest() < SETTLING && began.elapsed() < PATIENCE {
                    sleep(Duration::from_millis(20));
                }
                rested.store(true, Ordering::SeqCst);
            });
            Times::until(&at, &next, |_| rested.load(Ordering::SeqCst))
        });
        let (took, used) = (start.elapsed(), mount.processor() - before);
        beside.show("beside");
        println!(
            "  settled in {:.1} s, {:.2} s of processor; {}",
            took.as_secs_f64(),
            used.as_secs_f64(),
            requests(&server)
        );
        for (what, then, now) in
            [("fsync", &alone.syncs, &beside.syncs), ("read", &alone.reads, &beside.reads)]
        {
            let ratio = |part| at_percent(now, part) / at_percent(then, part).max(1e-9);
            println!("  {what}: x{:.2} at p50, x{:.2} at p99", ratio(50), ratio(99));
        }
        mount.end();
    }
}

fn cold(at: &Path, number: usize) -> PathBuf {
    at.join("cold").join(number.to_string())
}

/// How long each of them took, sorted.
struct Times {
    syncs: Vec<Duration>,
    reads: Vec<Duration>,
}

impl Times {
    /// One who writes 4 KiB and syncs, and one who reads cold files, until `over` or nothing is left to read.
    fn until(at: &Path, next: &AtomicUsize, over: impl Fn(Instant) -> bool + Sync) -> Times {
        let began = Instant::now();
        let over = || over(began);
        let file = File::create(at.join("synced")).expect("a file");
        file.sync_all().expect("a sync");
        thread::scope(|scope| {
            let syncs = scope.spawn(|| {
                let pages = (0..256).cycle().take_while(|_| !over());
                sorted(pages.map(|page| {
                    timed(|| {
                        file.write_all_at(&[page as u8; PAGE], page * PAGE as u64)
                            .expect("a write");
                        file.sync_data().expect("a sync");
                    })
                }))
            });
            let reads = scope.spawn(|| {
                let numbers = std::iter::repeat_with(|| next.fetch_add(1, Ordering::SeqCst));
                let numbers = numbers.take_while(|number| *number < COLD && !over());
                sorted(numbers.map(|number| {
                    let file = cold(at, number * STRIDE % COLD);
                    timed(|| assert_eq!(fs::read(file).expect("a read").len(), PAGE))
                }))
            });
            Times { syncs: syncs.join().expect("syncs"), reads: reads.join().expect("reads") }
        })
    }

    fn show(&self, when: &str) {
        for (what, times) in
            [("write 4 KiB + fdatasync", &self.syncs), ("read 4 KiB, cold", &self.reads)]
        {
            println!(
                "  {when:<7} {what:<24} p50 {:>7.2} ms  p99 {:>7.2} ms, of {}",
                at_percent(times, 50),
                at_percent(times, 99),
                times.len()
            );
        }
    }
}
