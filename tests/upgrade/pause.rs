//! How long programs wait while a worker takes the place of another one, in requests to the store.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use s3vol::fault;

use super::support::s3server::{Logged, Op, TestS3, rounds, shown, waited_for};
use super::support::unmanaged::{Plugin, other_program as program};
use super::{repeat, start};

/// Long beside what this machine needs for a request, so that those that overlap left together.
const LATENCY: Duration = Duration::from_millis(150);

const ATTEMPTS: usize = 3;

/// When the process began, by the wall clock, to a hundredth of a second.
fn began(pid: u64) -> SystemTime {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let ticks: u64 = stat.rsplit(") ").next().unwrap().split(' ').nth(19).unwrap().parse().unwrap();
    // SAFETY: a plain question.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as u64;
    let after_boot = Duration::from_millis(ticks * 1000 / per_second);
    let up = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).unwrap();
    SystemTime::now() - Duration::from(up) + after_boot
}

/// The longest write of a program that writes all the time, while `meanwhile` goes on: when it ended, and how long it took.
fn longest_write(place: &Path, meanwhile: impl FnOnce()) -> (SystemTime, Duration) {
    let file = File::create(place.join("written")).unwrap();
    file.sync_all().unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut longest = (SystemTime::now(), Duration::ZERO);
            repeat(&done, |n| {
                let asked = Instant::now();
                file.write_all_at(&n.to_be_bytes(), n % 1024 * 8).unwrap();
                if asked.elapsed() > longest.1 {
                    longest = (SystemTime::now(), asked.elapsed());
                }
                std::thread::sleep(Duration::from_millis(2));
            });
            longest
        });
        meanwhile();
        done.store(true, Ordering::SeqCst);
        writer.join().unwrap()
    })
}

/// A volume that was used for a while: its engine has tables and a log.
fn used(server: &TestS3, plugin: &mut Plugin) -> std::path::PathBuf {
    plugin.create("v", &[("commit", "5m"), ("settle_after", "1h")]).unwrap();
    let place = plugin.mount("v", "c1");
    for n in 0..30 {
        std::fs::write(place.join(format!("f{n}")), "before").unwrap();
        File::open(place.join(format!("f{n}"))).unwrap().sync_all().unwrap();
    }
    server.set_latency(LATENCY);
    place
}

/// What the worker of now asked before the program that writes had its answer.
fn of_successor(server: &TestS3, plugin: &Plugin, answered: SystemTime) -> Vec<Logged> {
    let began = began(plugin.children("worker")[0]);
    let mut log = server.log();
    log.retain(|entry| entry.time >= began && entry.time + entry.took <= answered);
    waited_for(log)
}

/// Whether a worker waited for at most so many rounds in one of a few pauses: two requests that leave together count as two
/// rounds where this machine had no time for the second one.
fn waits_for_at_most(most: usize, mut pause: impl FnMut() -> (Vec<Logged>, Duration)) {
    let mut seen = String::new();
    for _ in 0..ATTEMPTS {
        let (log, took) = pause();
        let rounds = rounds(&log);
        seen += &format!("a pause of {took:?}, {} rounds:\n{}", rounds.len(), shown(&rounds));
        let sent = |op, part: &str| {
            log.iter().filter(|entry| entry.op == op && entry.key.contains(part)).count()
        };
        // The longest write may have been another one.
        let whole = sent(Op::Put, ".manifest") >= 1
            && sent(Op::Put, "/wal/") >= 1
            && sent(Op::Put, "/lease/") >= 1
            && sent(Op::Get, "format.json") >= 2;
        if whole && rounds.len() <= most {
            return;
        }
    }
    panic!("more than {most} rounds, or not all of an opening, in each of {ATTEMPTS}\n{seen}");
}

#[test]
fn a_worker_of_another_program_asks_in_few_rounds_before_it_serves() {
    let server = TestS3::start();
    let mut plugin = start(&server, &[(fault::PROVES, "2000")]);
    let dir = tempfile::tempdir().unwrap();
    let newer = program(dir.path(), "newer", "version=0.1.1-newer");
    let place = used(&server, &mut plugin);
    let older = program(dir.path(), "older", "version=0.1.1-older");
    let mut programs = [newer, older].into_iter().cycle();
    waits_for_at_most(6, || {
        server.clear_log();
        let next = programs.next().unwrap();
        let (answered, pause) = longest_write(&place, || plugin.upgrade_to(&next));
        let log = of_successor(&server, &plugin, answered);
        assert!(!log.iter().any(|entry| entry.key.ends_with("/trial")), "tried again");
        (log, pause)
    });
    server.set_latency(Duration::ZERO);
    plugin.unmount("v", "c1");
}

#[test]
fn a_worker_that_succeeds_one_that_was_killed_asks_in_few_rounds_before_it_serves() {
    let server = TestS3::start();
    let mut plugin = start(&server, &[]);
    let place = used(&server, &mut plugin);
    waits_for_at_most(8, || {
        server.clear_log();
        let (answered, pause) = longest_write(&place, || {
            plugin.kill("worker");
            std::fs::metadata(place.join("not there")).unwrap_err();
        });
        (of_successor(&server, &plugin, answered), pause)
    });
    server.set_latency(Duration::ZERO);
    plugin.unmount("v", "c1");
}
