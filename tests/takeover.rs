//! Two processes as two hosts.
//!
//! Needs root and /dev/fuse.

mod support;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use s3vol::fault::points;
use s3vol::worker::VolumeState;
use support::host::{Host, fsync};
use support::orders::Orders;
use support::s3server::{Action, Op, Rule, TestS3};
use support::wait_for;
use support::watchdog::release;

/// One at a time: a process that is started while this one has a file of a paused mount open would
/// wait in exec for that file to be closed.
fn alone() -> parking_lot::MutexGuard<'static, ()> {
    static ALONE: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
    ALONE.lock()
}

/// Another process with a file open: it writes at once, and syncs when told.
struct Writer(Child);

impl Writer {
    fn start(path: &Path, text: &str) -> Self {
        let script = "import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
os.pwrite(fd, sys.argv[2].encode(), 0)
print('written', flush=True)
sys.stdin.readline()
try:
    os.fsync(fd)
    print('synced', flush=True)
except OSError as e:
    print(e.errno, flush=True)";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .arg(path)
            .arg(text)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut line = String::new();
        let out = child.stdout.as_mut().expect("a pipe");
        // One line at a time is written, so nothing is lost with this reader.
        BufReader::new(out).read_line(&mut line).expect("a line");
        assert_eq!(line, "written\n");
        Writer(child)
    }

    fn sync(mut self) -> String {
        self.0.stdin.take().expect("a pipe").write_all(b"\n").expect("told");
        let mut line = String::new();
        let out = self.0.stdout.take().expect("a pipe");
        BufReader::new(out).read_line(&mut line).expect("a line");
        self.0.wait().expect("its end");
        line.trim().to_owned()
    }
}

#[test]
fn a_held_volume_is_refused_and_free_after_a_clean_unmount() {
    let _alone = alone();
    let server = TestS3::start();
    let mut first = Host::new("commit=200ms");
    first.mount(&server);
    std::fs::write(first.path("f"), b"by the first").expect("a file");
    let mut second = Host::new("commit=200ms");
    let refused = second.try_mount(&server).expect_err("it is held");
    let name = s3vol::sys::hostname();
    assert!(refused.contains(&format!("host {name} holds this volume")), "{refused}");
    assert!(first.unmount().success(), "{}", first.log());
    let asked = Instant::now();
    second.mount(&server);
    assert_eq!(std::fs::read(second.path("f")).expect("it"), b"by the first");
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}

#[test]
fn a_paused_holder_loses_the_volume_and_never_publishes_over_the_new_owner() {
    let _alone = alone();
    let server = TestS3::start();
    // What it would publish it does not get to before it is paused.
    let mut old = Host::new("commit=5m,settle_after=1d");
    old.mount(&server);
    std::fs::write(old.path("f"), b"synced by the old").expect("a file");
    fsync(&old.path("f")).expect("a sync");
    std::fs::write(old.path("mine"), b"only in the old host's log").expect("a file");
    let writer = Writer::start(&old.path("f"), "NEVER! by");
    old.signal(Signal::SIGSTOP);
    server.set_clock_offset(100);

    let mut new = Host::new("commit=200ms,settle_after=0s");
    new.mount(&server);
    assert_eq!(std::fs::read(new.path("f")).expect("it"), b"synced by the old");
    std::fs::write(new.path("f"), b"written by the new").expect("a write");
    fsync(&new.path("f")).expect("a sync");
    wait_for("the new owner's object", Duration::from_secs(120), || {
        server.get("vol/f").filter(|object| object.body == b"written by the new"[..])
    });

    old.signal(Signal::SIGCONT);
    assert_eq!(writer.sync(), libc::EIO.to_string(), "the old host must not acknowledge");
    old.wait_state(VolumeState::Fenced);
    assert!(!old.unmount().success(), "what it had is not in the bucket");
    assert_eq!(server.get("vol/f").expect("it").body, b"written by the new"[..]);
    assert!(server.get("vol/mine").is_none());
    assert_eq!(std::fs::read(new.path("f")).expect("it"), b"written by the new");
    assert!(new.unmount().success());

    // What never got there is in the bucket all the same, for anybody.
    let [name] = recovered(&new, &server).try_into().expect("one");
    let url = format!("s3://{}/vol", server.bucket());
    let shown = new.run(&server, &["recovered", "show", &url, &name]).expect("its files");
    assert!(shown.contains("  mine  (whole)"), "{shown}");
    let into = new.dir.path().join("restored");
    let to = into.to_str().expect("a path");
    new.run(&server, &["recovered", "restore", &url, &name, to]).expect("restored");
    assert_eq!(std::fs::read(into.join("mine")).expect("it"), b"only in the old host's log");
    assert_eq!(std::fs::read(into.join("f")).expect("it")[..9], *b"NEVER! by");
    let again = new.run(&server, &["recovered", "restore", &url, &name, to]);
    assert!(again.expect_err("it is there").contains("exists"));

    // The old host comes back: what the bucket has of it is not kept here, and not replayed.
    old.mount(&server);
    assert_eq!(std::fs::read(old.path("f")).expect("it"), b"written by the new");
    assert!(!old.path("mine").exists());
    assert!(!old.local("recovery-0").exists());
    assert!(old.unmount().success());
    assert_eq!(recovered(&new, &server), [name], "once is enough");
}

/// The names of what was recovered.
fn recovered(host: &Host, server: &TestS3) -> Vec<String> {
    let url = format!("s3://{}/vol", server.bucket());
    let list = host.run(server, &["recovered", "list", &url]).expect("a list");
    if list == "nothing had to be recovered\n" {
        return Vec::new();
    }
    list.lines().map(|line| line.split_once("  ").expect("a name").0.to_owned()).collect()
}

#[test]
fn what_a_crashed_host_had_not_synced_comes_up_when_it_returns() {
    let _alone = alone();
    let server = TestS3::start();
    let mut old = Host::new("commit=5m,settle_after=1d");
    old.mount(&server);
    std::fs::create_dir(old.path("d")).expect("a directory");
    std::fs::write(old.path("d/known"), vec![b'k'; 300_000]).expect("a file");
    assert!(old.unmount().success());
    old.mount(&server);
    let mut file = File::options().write(true).open(old.path("d/known")).expect("the file");
    file.write_all(b"changed").expect("a write");
    drop(file);
    old.kill();
    server.set_clock_offset(100);
    let mut new = Host::new("commit=200ms");
    new.mount(&server);
    std::fs::write(new.path("theirs"), b"new").expect("a file");
    assert!(new.unmount().success());
    assert!(recovered(&new, &server).is_empty());

    // It is killed at each step of setting aside what it had.
    let orders = Orders::below(old.dir.path());
    let (name, folder) = orders.env();
    old.env(name, folder);
    for point in [points::ASIDE_BEFORE, points::ASIDE_CACHE, points::ASIDE_AFTER] {
        orders.give("vol", point, "");
        let said = old.try_mount(&server).expect_err("it dies");
        assert!(!orders.is_open("vol", point), "{point}: {said}");
        release(&old.mnt());
    }
    old.mount(&server);
    let name = wait_for("the upload", Duration::from_secs(30), || recovered(&old, &server).pop());
    let url = format!("s3://{}/vol", server.bucket());
    let into = old.dir.path().join("restored");
    let to = into.to_str().expect("a path");
    old.run(&server, &["recovered", "restore", &url, &name, to]).expect("restored");
    let found = std::fs::read(into.join("d/known")).expect("by the name that the bucket knows");
    assert_eq!((found.len(), &found[..7], found[7]), (300_000, &b"changed"[..], 0));
    wait_for("the end of what was kept here", Duration::from_secs(30), || {
        (!old.local("recovery-0").exists()).then_some(())
    });
    assert!(old.unmount().success());
}

#[test]
fn a_takeover_that_lost_nothing_leaves_nothing_behind() {
    let _alone = alone();
    let server = TestS3::start();
    let mut old = Host::new("commit=5m,settle_after=1d");
    old.mount(&server);
    std::fs::write(old.path("f"), b"synced").expect("a file");
    fsync(&old.path("f")).expect("a sync");
    old.kill();
    server.set_clock_offset(100);
    let mut new = Host::new("commit=200ms");
    new.mount(&server);
    std::fs::write(new.path("theirs"), b"new").expect("a file");
    assert!(new.unmount().success());
    old.mount(&server);
    assert!(!old.log().contains("ERROR"), "{}", old.log());
    assert!(!old.local("recovery-0").exists());
    assert_eq!(std::fs::read(old.path("f")).expect("it"), b"synced");
    assert!(old.unmount().success());
    assert!(recovered(&old, &server).is_empty());
}

#[test]
fn a_holder_that_learns_of_its_loss_only_at_its_end_saves_what_it_had() {
    let _alone = alone();
    let server = TestS3::start();
    let mut old = Host::new("commit=5m,settle_after=1d");
    old.mount(&server);
    std::fs::write(old.path("known"), b"synced").expect("a file");
    fsync(&old.path("known")).expect("a sync");
    let mut file = File::options().write(true).open(old.path("known")).expect("it");
    file.write_all(b"change").expect("a write");
    drop(file);
    old.signal(Signal::SIGSTOP);
    server.set_clock_offset(100);
    let mut new = Host::new("commit=200ms,settle=never");
    new.mount(&server);
    std::fs::write(new.path("theirs"), b"new").expect("a file");
    fsync(&new.path("theirs")).expect("a sync");
    old.signal(Signal::SIGTERM);
    old.signal(Signal::SIGCONT);
    assert!(!old.ended().success(), "what it had is not in the volume");
    assert!(old.log().contains("another host has the volume now"), "{}", old.log());
    let found = recovered(&new, &server);
    let [name] = found.try_into().unwrap_or_else(|found| panic!("{found:?}: {}", old.log()));
    let url = format!("s3://{}/vol", server.bucket());
    let into = new.dir.path().join("restored");
    let to = into.to_str().expect("a path");
    new.run(&server, &["recovered", "restore", &url, &name, to]).expect("restored");
    assert_eq!(std::fs::read(into.join("known")).expect("it"), b"change");
}

#[test]
fn a_claim_whose_host_died_at_once_does_not_lock_the_volume() {
    let _alone = alone();
    let server = TestS3::start();
    let mut host = Host::new("commit=200ms");
    host.mount(&server);
    std::fs::write(host.path("f"), b"there").expect("a file");
    fsync(&host.path("f")).expect("a sync");
    host.kill();
    // As if it had died between its claim and its first record.
    for key in server.keys("").into_iter().filter(|key| key.contains("/lease/")) {
        server.delete_foreign(&key);
    }
    let mut other = Host::new("commit=200ms");
    let refused = other.try_mount(&server).expect_err("it may still come");
    assert!(refused.contains("not yet said who it is"), "{refused}");
    server.set_clock_offset(100);
    other.mount(&server);
    assert_eq!(std::fs::read(other.path("f")).expect("it"), b"there");
}

#[test]
fn a_host_whose_opening_takes_long_says_that_it_has_the_volume() {
    let _alone = alone();
    let server = TestS3::start();
    let mut host = Host::new("commit=5m,settle=never");
    host.mount(&server);
    for number in 0..8 {
        let file = File::create(host.path(&format!("f{number}"))).expect("a file");
        set_attribute(&file, &vec![number; 60_000]).expect("its attribute");
    }
    host.kill();
    // So little may be on its way at a time that the replay has to wait for the bucket.
    host.env("S3VOL_TEST_LONG_LOG", 128 << 10).env("S3VOL_TEST_RENEW_MS", 300);
    server.fault(Rule::always(Some(Op::Put), "/wal/", Action::Hold).after(1));
    std::thread::scope(|scope| {
        let opens = scope.spawn(|| host.try_mount(&server));
        wait_for("the replay", Duration::from_secs(30), || (server.held() > 0).then_some(()));
        let renewed = || {
            let log = server.log();
            log.iter()
                .filter(|e| e.key.contains("/lease/") && e.op == Op::Put && e.status == 200)
                .count()
        };
        server.set_clock_offset(100);
        let before = renewed();
        // Without a lease nobody would renew one.
        wait_for("a renewal", Duration::from_secs(20), || (renewed() > before + 1).then_some(()));
        let mut other = Host::new("commit=200ms");
        let refused = other.try_mount(&server).expect_err("it is being opened");
        assert!(refused.contains("holds this volume"), "{refused}");
        server.clear_faults();
        server.release();
        opens.join().expect("its end").expect("it is open");
    });
    for number in 0..8 {
        let file = File::open(host.path(&format!("f{number}"))).expect("a file");
        assert!(attribute(&file).expect("its attribute") == vec![number; 60_000]);
    }
    assert!(host.unmount().success(), "{}", host.log());
}

fn set_attribute(file: &File, value: &[u8]) -> std::io::Result<()> {
    // SAFETY: plain system call on memory of ours.
    let set = unsafe {
        libc::fsetxattr(file.as_raw_fd(), c"user.a".as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    if set == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn attribute(file: &File) -> std::io::Result<Vec<u8>> {
    let mut value = vec![0; 64 << 10];
    // SAFETY: plain system call on memory of ours.
    let got = unsafe {
        libc::fgetxattr(
            file.as_raw_fd(),
            c"user.a".as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    if got < 0 {
        return Err(std::io::Error::last_os_error());
    }
    value.truncate(got as usize);
    Ok(value)
}

#[test]
fn two_state_folders_of_one_machine_never_both_write() {
    let _alone = alone();
    let server = TestS3::start();
    let mut host = Host::new("commit=200ms");
    host.mount(&server);
    let mut file = File::create_new(host.path("f")).expect("a file");
    file.write_all(b"one").expect("a write");
    // The lease runs out by the store's clock while its owner lives: the challenger wins, and the
    // owner learns of it at its next sync.
    server.set_clock_offset(100);
    let mut other = Host::new("commit=200ms");
    match other.try_mount(&server) {
        Ok(()) => {
            file.write_all(b"two").expect("a write to the local log");
            assert!(file.sync_all().is_err());
            std::fs::write(other.path("g"), b"new").expect("a file");
            fsync(&other.path("g")).expect("the owner's sync");
        }
        // It renewed just in time.
        Err(refused) => {
            assert!(refused.contains("holds this volume"), "{refused}");
            file.sync_all().expect("the owner's sync");
        }
    }
}

#[test]
fn a_claim_that_was_lost_says_nothing_of_the_one_that_won() {
    let _alone = alone();
    let server = TestS3::start();
    let mut first = Host::new("commit=200ms");
    first.mount(&server);
    assert!(first.unmount().success());
    let (mut late, mut quick) = (Host::new("commit=200ms"), Host::new("commit=200ms"));
    server.fault(Rule::new(Op::Put, "/manifest/", 1, Action::Hold));
    std::thread::scope(|scope| {
        let loser = scope.spawn(|| late.try_mount(&server));
        wait_for("the claim", Duration::from_secs(30), || (server.held() > 0).then_some(()));
        quick.mount(&server);
        server.release();
        let lost = loser.join().expect("its end").expect_err("the other one was first");
        assert!(lost.contains("another host has taken over"), "{lost}");
    });
    assert!(!late.local("claiming").exists(), "it names the epoch of the winner");
    assert!(quick.unmount().success());
}
