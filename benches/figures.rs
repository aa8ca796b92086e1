//! The figures of s3vol, beside a directory of the local disk in the same run.
//!
//! `make bench` prints them; nothing is asserted. Each workload runs with 0 and with 20 ms added to
//! every store request, and shows the requests that it caused, by kind.

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::s3server::TestS3;
use support::watchdog::Watchdog;

const MIB: usize = 1 << 20;
const LARGE: usize = 256 * MIB;
const SMALL_FILES: usize = 1000;
const SYNCS: usize = 100;
/// Long enough to see an idle volume's renewals.
const IDLE: Duration = Duration::from_secs(60);

/// A mounted volume, unmounted when dropped.
struct Mount {
    child: Child,
    at: PathBuf,
    _watchdog: Watchdog,
}

impl Mount {
    fn new(server: &TestS3, state: &Path, at: &Path) -> Mount {
        fs::create_dir_all(at).expect("a mount point");
        let mut command = Command::new(env!("CARGO_BIN_EXE_s3vol"));
        command
            .args(["mount", "--state"])
            .arg(state)
            .arg(format!("s3://{}/bench", server.bucket()))
            .arg(at)
            .env_remove("AWS_CA_BUNDLE")
            .env_remove("SSL_CERT_FILE")
            .env("S3VOL_LOG", "warn")
            .envs(server.env())
            .env_remove("S3VOL_URL")
            .stdout(Stdio::null());
        let watchdog = Watchdog::guard(at, Duration::from_secs(900));
        let child = command.spawn().expect("s3vol");
        support::wait_for("the mount", Duration::from_secs(60), || {
            support::watchdog::mounted(at).then_some(())
        });
        // The first request waits until the volume is served.
        fs::read_dir(at).expect("the root").count();
        Mount { child, at: at.to_owned(), _watchdog: watchdog }
    }

    /// SIGTERM, and until everything is at rest.
    fn end(mut self) -> Duration {
        let start = Instant::now();
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("SIGTERM");
        self.child.wait().expect("the end");
        start.elapsed()
    }

    fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        status
            .unwrap_or_default()
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A mount that ended is not there any more.
        let _ = self.child.kill();
        support::watchdog::release(&self.at);
    }
}

fn write_large(dir: &Path) -> Duration {
    let block: Vec<u8> = (0..MIB).map(|i| (i * 31 % 251) as u8).collect();
    let start = Instant::now();
    let mut file = File::create(dir.join("large")).expect("create");
    for _ in 0..LARGE / MIB {
        file.write_all(&block).expect("write");
    }
    file.sync_all().expect("fsync");
    start.elapsed()
}

fn read_large(dir: &Path) -> Duration {
    let start = Instant::now();
    let mut file = File::open(dir.join("large")).expect("open");
    let mut block = vec![0; MIB];
    let mut total = 0;
    loop {
        match file.read(&mut block).expect("read") {
            0 => break,
            n => total += n,
        }
    }
    assert_eq!(total, LARGE);
    start.elapsed()
}

fn create_small(dir: &Path) -> Duration {
    let start = Instant::now();
    let dir = dir.join("small");
    fs::create_dir(&dir).expect("mkdir");
    for i in 0..SMALL_FILES {
        fs::write(dir.join(i.to_string()), [7; 4096]).expect("write");
    }
    start.elapsed()
}

fn remove_small(dir: &Path) -> Duration {
    let start = Instant::now();
    fs::remove_dir_all(dir.join("small")).expect("rm -r");
    start.elapsed()
}

/// Median time of a 4 KiB append with fsync.
fn sync_median(dir: &Path) -> Duration {
    let mut file =
        OpenOptions::new().create(true).append(true).open(dir.join("log")).expect("open");
    let mut times: Vec<Duration> = (0..SYNCS)
        .map(|_| {
            let start = Instant::now();
            file.write_all(&[1; 4096]).expect("append");
            file.sync_data().expect("fdatasync");
            start.elapsed()
        })
        .collect();
    times.sort();
    times[SYNCS / 2]
}

fn requests(server: &TestS3) -> String {
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for request in server.log() {
        *kinds.entry(format!("{:?}", request.op)).or_default() += 1;
    }
    server.clear_log();
    let text: Vec<String> = kinds.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
    if text.is_empty() { "none".into() } else { text.join(", ") }
}

fn line(what: &str, ours: Duration, local: Duration, requests: &str) {
    let ratio = ours.as_secs_f64() / local.as_secs_f64().max(1e-9);
    println!(
        "  {what:<34} {:>10.2} ms  local {:>9.2} ms  x{ratio:<7.2} {requests}",
        ours.as_secs_f64() * 1e3,
        local.as_secs_f64() * 1e3,
    );
}

fn main() {
    // cargo passes --bench.
    let home = tempfile::tempdir().expect("a folder");
    let local = home.path().join("local");
    fs::create_dir(&local).expect("mkdir");
    println!("each line: s3vol, a local directory in the same run, their ratio, store requests");
    let baseline = (
        write_large(&local),
        read_large(&local),
        create_small(&local),
        remove_small(&local),
        sync_median(&local),
    );
    for latency in [0, 20] {
        println!("\n{latency} ms added to every store request");
        let server = TestS3::start();
        let at = home.path().join(format!("mnt{latency}"));
        let mount = Mount::new(&server, &home.path().join(format!("state{latency}")), &at);
        server.set_latency(Duration::from_millis(latency));
        println!("  mounting an empty volume: {}", requests(&server));
        let time = create_small(&at);
        line("create 1,000 files of 4 KiB", time, baseline.2, &requests(&server));
        let time = remove_small(&at);
        line("remove them", time, baseline.3, &requests(&server));
        let time = sync_median(&at);
        line("append 4 KiB + fdatasync, median", time, baseline.4, &requests(&server));
        let time = write_large(&at);
        line("write 256 MiB + fsync", time, baseline.0, &requests(&server));
        let time = mount.end();
        println!(
            "  unmount until all is at rest: {:.2} s; {}",
            time.as_secs_f64(),
            requests(&server)
        );
        let mount = Mount::new(&server, &home.path().join(format!("cold{latency}")), &at);
        requests(&server);
        let time = read_large(&at);
        line("read 256 MiB, empty cache", time, baseline.1, &requests(&server));
        if latency == 0 {
            // The commit that follows the reads' access times is not idleness.
            std::thread::sleep(Duration::from_secs(10));
            server.clear_log();
            std::thread::sleep(IDLE);
            println!(
                "  idle for a minute: {}; {} KiB resident",
                requests(&server),
                mount.resident_kib()
            );
        }
        mount.end();
    }
}
