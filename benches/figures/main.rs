//! The figures of s3vol, beside a directory of the local disk in the same run.
//!
//! `make bench` prints them; nothing is asserted. Each workload runs with 0 and with 20 ms added to
//! every store request, and shows the requests that it caused, by kind.

mod beside;
mod collect;
mod durable;
mod grows;
mod mount;
#[path = "../../tests/support/mod.rs"]
mod support;
mod times;
mod workloads;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use mount::Mount;
use support::s3server::TestS3;
use workloads::{COLD, CONTENT, LARGE_DIRECTORY, NAMESPACE, SMALL, Workload};

/// Long enough to see an idle volume's renewals.
const IDLE: Duration = Duration::from_secs(60);
/// Until the commit that follows the last use is over: two intervals of the timer.
const SETTLED: Duration = Duration::from_secs(10);

const NEVER: [&str; 1] = ["settle=never"];

/// Where the volumes of this run lie and what the local disk took for each workload.
struct Bench {
    home: PathBuf,
    local: BTreeMap<&'static str, Duration>,
}

/// The requests since the last call, by kind.
fn requests(server: &TestS3) -> String {
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for request in server.log() {
        *kinds.entry(format!("{:?}", request.op)).or_default() += 1;
    }
    server.clear_log();
    let text: Vec<String> = kinds.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
    if text.is_empty() { "none".into() } else { text.join(", ") }
}

fn idle(server: &TestS3) -> String {
    sleep(SETTLED);
    server.clear_log();
    sleep(IDLE);
    requests(server)
}

impl Bench {
    fn run(&self, server: &TestS3, at: &Path, workloads: &[Workload]) {
        for (what, work) in workloads {
            let (ours, local) = (work(at), self.local[what]);
            println!(
                "  {what:<36} {:>9.2} ms  local {:>9.2} ms  x{:<7.2} {}",
                ours.as_secs_f64() * 1e3,
                local.as_secs_f64() * 1e3,
                ours.as_secs_f64() / local.as_secs_f64().max(1e-9),
                requests(server),
            );
        }
    }

    fn mount(&self, server: &TestS3, state: &str, options: &[&str]) -> (Mount, PathBuf) {
        let at = self.home.join("mnt");
        (Mount::new(server, &self.home.join(state), &at, options), at)
    }

    fn with_latency(&self, milliseconds: u64) {
        println!("\n{milliseconds} ms added to every store request");
        let server = TestS3::start();
        server.set_latency(Duration::from_millis(milliseconds));
        let (mount, at) = self.mount(&server, &format!("warm-{milliseconds}"), &[]);
        println!("  mounting an empty volume: {}", requests(&server));
        self.run(&server, &at, &SMALL);
        self.run(&server, &at, &NAMESPACE);
        self.run(&server, &at, &CONTENT);
        let time = mount.end().as_secs_f64();
        println!("  unmount until all is at rest: {time:.2} s; {}", requests(&server));
        let (mount, at) = self.mount(&server, &format!("cold-{milliseconds}"), &[]);
        requests(&server);
        self.run(&server, &at, &COLD);
        mount.end();
    }

    fn large_directory(&self) {
        println!("\na large directory, never settled");
        let server = TestS3::start();
        let (mount, at) = self.mount(&server, "large", &NEVER);
        self.run(&server, &at, &LARGE_DIRECTORY);
        mount.end();
    }

    /// Whether a mount takes longer the more files there are.
    fn million(&self) {
        println!("\na volume of 1,000,000 files, never settled, on a host that never saw it");
        let (server, empty) = (TestS3::start(), TestS3::start());
        let (mount, at) = self.mount(&server, "million", &NEVER);
        let time = workloads::create_million(&at).as_secs_f64();
        let memory = mount.resident_kib();
        println!("  created in {time:.1} s; {memory} KiB resident; {}", requests(&server));
        mount.end();
        self.mount(&empty, "nothing", &NEVER).0.end();
        for (what, server) in [("empty", &empty), ("1,000,000 files", &server)] {
            requests(server);
            let start = Instant::now();
            let (mount, at) = self.mount(server, &format!("fresh {what}"), &NEVER);
            let time = start.elapsed().as_millis();
            println!("  mounted, {what}: {time} ms; {}", requests(server));
            let start = Instant::now();
            let found = fs::metadata(at.join("77/77")).is_ok();
            let time = start.elapsed().as_millis();
            println!("    the first file looked for ({found}): {time} ms; {}", requests(server));
            mount.end();
        }
    }

    fn at_rest(&self) {
        println!("\nidle for a minute");
        let server = TestS3::start();
        let (mount, _) = self.mount(&server, "idle", &[]);
        println!("  mounted, empty: {}; {} KiB resident", idle(&server), mount.resident_kib());
        mount.end();
        println!("  not mounted: {}", idle(&server));
    }
}

/// Without arguments everything but what takes minutes: the million files, the scattered ones, what
/// settles beside others, what grows, and what waits for leases.
fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let runs = |part: &str, default| match wanted.is_empty() {
        true => default,
        false => wanted.iter().any(|wanted| wanted == part),
    };
    let home = tempfile::tempdir().expect("a folder");
    let local = home.path().join("local");
    fs::create_dir(&local).expect("mkdir");
    println!("each line: s3vol, a local directory in the same run, their ratio, store requests");
    let all = SMALL.iter().chain(&NAMESPACE).chain(&CONTENT).chain(&COLD).chain(&LARGE_DIRECTORY);
    let bench = Bench {
        home: home.path().to_owned(),
        local: all.map(|(what, work)| (*what, work(&local))).collect(),
    };
    for (part, milliseconds) in [("near", 0), ("far", 20)] {
        if runs(part, true) {
            bench.with_latency(milliseconds);
        }
    }
    if runs("directory", true) {
        bench.large_directory();
    }
    if runs("idle", true) {
        bench.at_rest();
    }
    if runs("collect", false) {
        bench.collect();
        bench.names();
        bench.exports();
    }
    if runs("durable", false) {
        durable::durable(home.path());
    }
    if runs("beside", false) {
        bench.beside();
    }
    if runs("grows", false) {
        bench.grows();
    }
    if runs("million", false) {
        bench.million();
    }
}
