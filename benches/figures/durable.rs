//! What durability takes: a worker that is killed, a volume that another host has or had, and commits.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use crate::mount::Mount;
use crate::support::s3server::TestS3;
use crate::support::unmanaged::Plugin;
use crate::times::{at_percent, sorted};
use crate::workloads::PAGE;

const DELAYS: [u64; 3] = [0, 5, 20];
const KILLS: usize = 9;
const MOVES: usize = 9;
const WRITERS: [usize; 3] = [1, 4, 16];
const COMMITTING: Duration = Duration::from_secs(5);
const LEASE: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(3600);
const NAME: &str = "v";

pub fn durable(home: &Path) {
    for milliseconds in DELAYS {
        println!("\n{milliseconds} ms added to every store request");
        let server = TestS3::start();
        server.set_latency(Duration::from_millis(milliseconds));
        let mut plugin = Plugin::start(&server);
        plugin.create(NAME, &[]).expect("the volume");
        killed(&mut plugin);
        let mut other = Plugin::start(&server);
        released([&mut plugin, &mut other]);
        dead(&server, plugin, &mut other);
        drop(other);
        commits(milliseconds, home);
    }
}

fn line(what: &str, times: Vec<Duration>) {
    let times = sorted(times);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let (median, most) = (ms(times[times.len() / 2]), ms(times[times.len() - 1]));
    println!("  {what:<60} median {median:>8.1} ms, most {most:>8.1} ms, of {}", times.len());
}

/// Each on a volume of its own: from crash to crash a supervisor waits longer.
fn killed(plugin: &mut Plugin) {
    let pauses = (0..KILLS).map(|n| {
        let name = format!("killed-{n}");
        plugin.create(&name, &[]).expect("the volume");
        let place = plugin.mount_for(&name, "c", LIMIT);
        (0..200).for_each(|n| fs::write(place.join(format!("f{n}")), [7; PAGE]).expect("a file"));
        let [worker] = plugin.children("worker")[..] else { panic!("one worker") };
        let pid = nix::unistd::Pid::from_raw(worker as i32);
        let start = Instant::now();
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("a kill");
        fs::write(place.join("after"), "x").expect("a pause, and no error");
        let pause = start.elapsed();
        plugin.unmount(&name, "c");
        plugin.ok("VolumeDriver.Remove", json!({ "Name": name }));
        pause
    });
    line("kill -9 of a worker to the next answered request", pauses.collect());
}

fn released(hosts: [&mut Plugin; 2]) {
    let mut takes = Vec::new();
    let place = hosts[0].mount_for(NAME, "c", LIMIT);
    (0..200).for_each(|n| fs::write(place.join(format!("f{n}")), [7; PAGE]).expect("a file"));
    hosts[0].unmount(NAME, "c");
    for number in 0..MOVES {
        let host = if number % 2 == 0 { 1 } else { 0 };
        let start = Instant::now();
        let place = hosts[host].mount_for(NAME, "c", LIMIT);
        fs::metadata(place.join("f7")).expect("a file of the other");
        takes.push(start.elapsed());
        fs::write(place.join("f7"), number.to_string()).expect("a write");
        hosts[host].unmount(NAME, "c");
    }
    line("takeover of a released volume, to the first file", takes);
}

/// A mount that is repeated until it succeeds, as by somebody who starts a container again and again.
fn dead(server: &TestS3, mut plugin: Plugin, other: &mut Plugin) {
    let place = plugin.mount_for(NAME, "c", LIMIT);
    fs::write(place.join("f8"), "synced").expect("a write");
    File::open(place.join("f8")).and_then(|file| file.sync_all()).expect("a sync");
    server.clear_log();
    // A sign of life of this mount.
    let renewed = loop {
        let log = server.log();
        let of_lease = log.iter().filter(|r| r.method == "PUT" && r.key.contains("/lease/"));
        if let Some(renewed) = of_lease.map(|request| request.time).next_back() {
            break renewed;
        }
        sleep(Duration::from_millis(100));
    };
    plugin.lost();
    let body = json!({ "Name": NAME, "ID": "c" });
    while other.call("VolumeDriver.Mount", &body).expect("an answer").0 != 200 {}
    let took = SystemTime::now().duration_since(renewed).expect("time goes on");
    let beyond = took.saturating_sub(LEASE).as_secs_f64();
    let place = other.mount_for(NAME, "c", LIMIT);
    assert_eq!(fs::read_to_string(place.join("f8")).expect("it"), "synced");
    println!("  takeover of a dead volume: {beyond:.1} s beyond its lease of {LEASE:?}");
    other.unmount(NAME, "c");
    other.unmount(NAME, "c");
}

fn commits(milliseconds: u64, home: &Path) {
    println!("  writers  commits/s   p50 ms   p99 ms  requests/commit  KiB/commit");
    for writers in WRITERS {
        let server = TestS3::start();
        server.set_latency(Duration::from_millis(milliseconds));
        let state = home.join(format!("commits-{milliseconds}-{writers}"));
        let mount = Mount::new(&server, &state, &home.join("mnt"), &["settle=never"]);
        let at = home.join("mnt");
        let files: Vec<File> =
            (0..writers).map(|n| File::create(at.join(n.to_string())).expect("a file")).collect();
        files.iter().for_each(|file| file.sync_all().expect("a sync"));
        server.clear_log();
        let start = Instant::now();
        let times: Vec<Duration> = std::thread::scope(|scope| {
            let threads = files.iter().map(|file| scope.spawn(move || commit_for(file, start)));
            let threads: Vec<_> = threads.collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("a writer")).collect()
        });
        let (took, times) = (start.elapsed().as_secs_f64(), sorted(times));
        let log = server.log();
        let count = times.len() as f64;
        let bytes: u64 = log.iter().map(|request| request.bytes_in).sum();
        println!(
            "  {writers:>7} {:>10.0} {:>8.2} {:>8.2} {:>16.2} {:>11.1}",
            count / took,
            at_percent(&times, 50),
            at_percent(&times, 99),
            log.len() as f64 / count,
            bytes as f64 / 1024.0 / count
        );
        mount.end();
    }
}

/// 4 KiB and fdatasync, again and again.
fn commit_for(file: &File, start: Instant) -> Vec<Duration> {
    let mut times = Vec::new();
    for page in (0..256).cycle() {
        if start.elapsed() > COMMITTING {
            break;
        }
        let began = Instant::now();
        file.write_all_at(&[page as u8; PAGE], page * PAGE as u64).expect("a write");
        file.sync_data().expect("a sync");
        times.push(began.elapsed());
    }
    times
}
