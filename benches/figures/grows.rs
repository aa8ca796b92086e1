//! How cost grows: with the entries of a directory, with the files of a volume, and with mounted volumes.

use std::fs::{self, File};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::collect::Cost;
use crate::mount::{processor_of, resident_kib_of};
use crate::support::s3server::TestS3;
use crate::support::unmanaged::Plugin;
use crate::times::timed;
use crate::{Bench, NEVER, requests};

const DIRECTORIES: [usize; 3] = [1_000, 10_000, 100_000];
const VOLUMES: [usize; 3] = [1, 10, 100];
const MOUNTING: Duration = Duration::from_secs(3600);
/// Until what a mount begins is over.
const QUIET: Duration = Duration::from_secs(20);
const IDLE: Duration = Duration::from_secs(60);

impl Bench {
    /// Each line ends with what one entry costs, in processor time of the program.
    pub fn grows(&self) {
        println!("\ndirectories of more and more empty files, never settled");
        for entries in DIRECTORIES {
            self.directory_of(entries);
        }
        println!("\nmore and more volumes, mounted by one plugin, each of a worker of its own");
        for volumes in VOLUMES {
            volumes_mounted(volumes);
        }
    }

    fn directory_of(&self, entries: usize) {
        let server = TestS3::start();
        let (mut mount, at) = self.mount(&server, &format!("grows-{entries}"), &NEVER);
        let many = at.join("many");
        let mut step = |what: &str, count: usize, work: &dyn Fn(&Path)| {
            let Cost(time, used, requests) =
                Cost::of(&mut mount, &server, |_| timed(|| work(&many)));
            println!(
                "  {entries:>7} {what:<18} {:>8.3} s  {:>8.4} ms of processor each; {requests}",
                time.as_secs_f64(),
                used.as_secs_f64() * 1e3 / count as f64,
            );
        };
        let name = |dir: &Path, number: usize| dir.join(number.to_string());
        step("create", entries, &|dir| {
            fs::create_dir(dir).expect("mkdir");
            (0..entries).for_each(|n| drop(File::create(name(dir, n)).expect("create")));
        });
        step("create 1,000 more", 1_000, &|dir| {
            (entries..entries + 1_000)
                .for_each(|n| drop(File::create(name(dir, n)).expect("create")));
        });
        step("look up 1,000", 1_000, &|dir| {
            (0..1_000).for_each(|n| assert!(name(dir, n * entries / 1_000).is_file()));
        });
        step("list", entries, &|dir| {
            assert_eq!(fs::read_dir(dir).expect("ls").count(), entries + 1_000);
        });
        step("rm -r", entries, &|dir| fs::remove_dir_all(dir).expect("rm -r"));
        println!("          {} KiB resident", mount.resident_kib());
        mount.end();
    }
}

/// Memory, and requests and processor time of a minute in which nobody does anything.
fn volumes_mounted(volumes: usize) {
    let server = TestS3::start();
    let mut plugin = Plugin::start(&server);
    let start = Instant::now();
    for number in 0..volumes {
        let name = format!("v{number}");
        plugin.create(&name, &[]).expect("the volume");
        let place = plugin.mount_for(&name, "c", MOUNTING);
        fs::write(place.join("file"), "content").expect("a file");
    }
    let mounting = start.elapsed().as_secs_f64() / volumes as f64;
    sleep(QUIET);
    requests(&server);
    let workers = plugin.children("worker");
    let all = || workers.iter().chain([plugin.pid()].iter()).copied().collect::<Vec<_>>();
    let used = || all().into_iter().map(processor_of).sum::<Duration>();
    let before = used();
    sleep(IDLE);
    let used = (used() - before).as_secs_f64() * 1e3 / volumes as f64;
    let asked = server.log().len() as f64 / volumes as f64;
    let memory = workers.iter().map(|pid| resident_kib_of(*pid)).sum::<u64>() / volumes as u64;
    println!(
        "  {volumes:>4} volumes, each: mounted in {mounting:.2} s; {memory} KiB resident; idle for a minute: \
         {asked:.1} requests, {used:.0} ms of processor"
    );
    for number in 0..volumes {
        plugin.unmount(&format!("v{number}"), "c");
    }
}
