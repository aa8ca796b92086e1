//! Volumes that are only read, beside a host that writes them.
//!
//! Needs root and /dev/fuse.

mod support;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use s3vol::worker::VolumeState;
use support::host::{Host, fsync};
use support::s3server::{Action, Logged, OTHER_ACCESS_KEY, OTHER_SECRET_KEY, Op, Rule, TestS3};
use support::wait_for;

/// Within this a follower shows what was synced: two seconds between looks, a third for what the
/// kernel believes, and the time of a busy machine.
const SOON: Duration = Duration::from_secs(20);
const WRITER: &str = "commit=200ms,settle_after=0s";

/// A host that may only read: the server refuses whatever else it asks.
fn follower(server: &TestS3) -> Host {
    server.refuse_writes_of(OTHER_ACCESS_KEY);
    let mut host = Host::new("readonly=true");
    host.env("AWS_ACCESS_KEY_ID", OTHER_ACCESS_KEY);
    host.env("AWS_SECRET_ACCESS_KEY", OTHER_SECRET_KEY);
    host
}

/// What the followers of a server asked for.
fn asked(server: &TestS3) -> Vec<Logged> {
    let log = server.log();
    log.into_iter().filter(|r| r.access_key.as_deref() == Some(OTHER_ACCESS_KEY)).collect()
}

fn only_read(server: &TestS3) {
    let log = asked(server);
    assert!(!log.is_empty());
    let changing: Vec<_> = log.iter().filter(|r| !r.only_reads()).collect();
    assert!(changing.is_empty(), "{changing:?}");
}

fn put(path: &Path, body: &[u8]) {
    std::fs::write(path, body).expect("a file");
    fsync(path).expect("a sync");
}

fn shows(host: &Host, name: &str, body: &[u8]) {
    wait_for(name, SOON, || (std::fs::read(host.path(name)).ok()? == body).then_some(()));
}

fn gone(host: &Host, name: &str) {
    let path = host.path(name);
    wait_for(name, SOON, || {
        let error = path.symlink_metadata().err()?;
        (error.raw_os_error() == Some(libc::ENOENT)).then_some(())
    });
}

fn names(host: &Host, dir: &str) -> Vec<String> {
    let listed = std::fs::read_dir(host.path(dir)).expect("a directory");
    let mut names: Vec<String> =
        listed.map(|e| e.expect("one").file_name().into_string().expect("text")).collect();
    names.sort();
    names
}

/// Bytes that say where they are and of which version they are.
fn version(number: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| number ^ (at / 4096) as u8).collect()
}

#[test]
fn followers_see_what_the_writer_synced() {
    let server = TestS3::start();
    let mut writer = Host::new(WRITER);
    writer.mount(&server);
    put(&writer.path("before"), b"there before");
    let (mut one, mut two) = (follower(&server), follower(&server));
    one.mount(&server);
    two.mount(&server);
    let both = [&one, &two];
    for host in both {
        assert_eq!(std::fs::read(host.path("before")).expect("it"), b"there before");
    }
    let open = File::open(one.path("before")).expect("it");

    put(&writer.path("new"), b"new");
    put(&writer.path("before"), b"overwritten, and longer than before");
    std::fs::create_dir_all(writer.path("dir/sub")).expect("directories");
    put(&writer.path("dir/sub/deep"), b"deep");
    put(&writer.path("large"), &version(1, 3 << 20));
    symlink("dir/sub/deep", writer.path("link")).expect("a link");
    std::fs::hard_link(writer.path("new"), writer.path("hard")).expect("a link");
    xattr::set(writer.path("new"), "user.note", b"seen").expect("an attribute");
    std::fs::set_permissions(writer.path("new"), PermissionsExt::from_mode(0o640)).expect("a mode");
    fsync(&writer.path("new")).expect("a sync");
    for host in both {
        shows(host, "before", b"overwritten, and longer than before");
        shows(host, "new", b"new");
        // Whatever is seen here is in the bucket.
        let told = |name| xattr::get(host.path("new"), name).expect("an answer").expect("a value");
        let status = String::from_utf8(told("user.s3vol.status")).expect("text");
        let known =
            status.starts_with("committed: since commit 1") || status.starts_with("at rest: ");
        assert!(known, "{status}");
        assert_eq!(told("user.s3vol.durable"), b"1");
        shows(host, "link", b"deep");
        shows(host, "large", &version(1, 3 << 20));
        let note = || xattr::get(host.path("new"), "user.note").ok()?;
        assert_eq!(wait_for("the attribute", SOON, note), b"seen");
        let meta = host.path("hard").metadata().expect("attributes");
        assert_eq!((meta.nlink(), meta.mode() & 0o7777), (2, 0o640));
        let all = ["before", "dir", "hard", "large", "link", "new"];
        assert_eq!(names(host, ""), all);
    }
    // A descriptor that was open before the change shows the new bytes, too.
    let mut buffer = [0; 64];
    let seen = wait_for("the new bytes through an old descriptor", SOON, || {
        let n = open.read_at(&mut buffer, 0).expect("a read");
        (buffer[..n].starts_with(b"overwritten")).then_some(n)
    });
    assert_eq!(seen, 35);

    // Appended, cut, renamed, removed.
    let mut log = OpenOptions::new().append(true).open(writer.path("new")).expect("it");
    log.write_all(b", appended").expect("a write");
    log.sync_all().expect("a sync");
    let large = OpenOptions::new().write(true).open(writer.path("large")).expect("it");
    large.set_len(5000).expect("a truncation");
    large.sync_all().expect("a sync");
    std::fs::rename(writer.path("dir"), writer.path("moved")).expect("a rename");
    std::fs::remove_file(writer.path("before")).expect("a removal");
    std::fs::rename(writer.path("hard"), writer.path("moved/harder")).expect("a rename");
    fsync(&writer.mnt()).expect("a sync");
    for host in both {
        shows(host, "new", b"new, appended");
        shows(host, "large", &version(1, 5000));
        shows(host, "moved/sub/deep", b"deep");
        gone(host, "dir");
        gone(host, "before");
        gone(host, "hard");
        shows(host, "moved/harder", b"new, appended");
        assert_eq!(names(host, ""), ["large", "link", "moved", "new"]);
        assert_eq!(names(host, "moved"), ["harder", "sub"]);
    }
    drop(open);
    for mut host in [one, two] {
        assert!(host.unmount().success(), "{}", host.log());
    }
    only_read(&server);
    assert!(writer.unmount().success(), "{}", writer.log());
}

#[test]
fn a_growing_log_never_shows_zeros() {
    let server = TestS3::start();
    let mut writer = Host::new(WRITER);
    writer.mount(&server);
    put(&writer.path("log"), b"0000001\n");
    let mut host = follower(&server);
    host.mount(&server);
    let path = host.path("log");
    let reader = std::thread::spawn(move || {
        let mut seen = Vec::new();
        let mut file = File::open(&path).expect("it");
        let began = Instant::now();
        let lines = || (1..=40).map(|n| format!("{n:07}\n")).collect::<String>();
        while seen.len() < lines().len() {
            assert!(began.elapsed() < Duration::from_secs(120), "only {} bytes", seen.len());
            // As tail does: the size, and then what is new.
            if file.metadata().expect("attributes").len() > seen.len() as u64 {
                file.read_to_end(&mut seen).expect("a read");
                assert!(
                    lines().as_bytes().starts_with(&seen),
                    "{:?}",
                    String::from_utf8_lossy(&seen)
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let mut log = OpenOptions::new().append(true).open(writer.path("log")).expect("it");
    for n in 2..=40 {
        log.write_all(format!("{n:07}\n").as_bytes()).expect("a write");
        log.sync_all().expect("a sync");
        std::thread::sleep(Duration::from_millis(150));
    }
    reader.join().expect("no line was torn or empty");
    assert!(host.unmount().success(), "{}", host.log());
    only_read(&server);
}

#[test]
fn files_replaced_at_rest_are_read_whole_and_of_one_version() {
    let server = TestS3::start();
    let mut writer = Host::new(WRITER);
    writer.mount(&server);
    let len = 600_000;
    put(&writer.path("f"), &version(1, len));
    let mut host = follower(&server);
    host.mount(&server);
    let path = host.path("f");
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let reader = std::thread::spawn(move || {
        let (mut reads, mut newest) = (0, 0);
        while !stopped.load(Ordering::SeqCst) {
            // Renamed over, so that an open file keeps one version, as far as it still exists.
            let mut body = Vec::new();
            let read = File::open(&path).and_then(|mut file| file.read_to_end(&mut body));
            match read {
                Ok(_) => {}
                // It was replaced while it was read, as a file of NFS.
                Err(e) if e.raw_os_error() == Some(libc::ESTALE) => continue,
                Err(e) => panic!("{e}"),
            }
            assert_eq!(body.len(), len);
            assert_eq!(body, version(body[0], len), "two versions in one");
            assert!(body[0] >= newest, "{} after {newest}", body[0]);
            newest = body[0];
            reads += 1;
        }
        (reads, newest)
    });
    for number in 2..=30 {
        put(&writer.path("f.new"), &version(number, len));
        std::fs::rename(writer.path("f.new"), writer.path("f")).expect("a rename");
        fsync(&writer.path("f")).expect("a sync");
        std::thread::sleep(Duration::from_millis(300));
    }
    shows(&host, "f", &version(30, len));
    stop.store(true, Ordering::SeqCst);
    let (reads, newest) = reader.join().expect("every read was whole and of one version");
    assert!(reads > 20 && newest > 20, "{reads} reads, up to {newest}");
    assert!(!host.log().contains("a request failed"), "{}", host.log());
    only_read(&server);
    assert!(host.unmount().success(), "{}", host.log());
}

#[test]
fn an_object_that_is_published_again_and_again_stays_readable() {
    let server = TestS3::start();
    let mut writer = Host::new(WRITER);
    writer.mount(&server);
    let len = 600_000;
    put(&writer.path("f"), &version(0, len));
    let mut host = follower(&server);
    host.mount(&server);
    let path = host.path("f");
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let reader = std::thread::spawn(move || {
        // Written over in place, it may show two versions at once, as on any disk; but no error.
        let mut reads = 0;
        while !stopped.load(Ordering::SeqCst) {
            std::fs::read(&path).expect("a read");
            reads += 1;
        }
        reads
    });
    for number in 1..=20 {
        put(&writer.path("f"), &version(number, len));
        wait_for("the object", SOON, || {
            server.get("vol/f").filter(|object| object.body == version(number, len))
        });
        if number % 5 == 0 {
            shows(&host, "f", &version(number, len));
        }
    }
    stop.store(true, Ordering::SeqCst);
    assert!(reader.join().expect("no read failed") > 20);
    assert!(!host.log().contains("a request failed"), "{}", host.log());
    only_read(&server);
    assert!(host.unmount().success(), "{}", host.log());
}

/// The object is replaced and its outcome is not recorded: its put-id is that of an open intent.
#[test]
fn the_object_of_an_open_intent_is_read() {
    let server = TestS3::start();
    let mut writer = Host::new("commit=200ms,settle_after=300ms");
    writer.mount(&server);
    put(&writer.path("f"), &version(1, 300_000));
    wait_for("the object", SOON, || server.get("vol/f"));
    let mut host = follower(&server);
    host.mount(&server);
    // A change in the middle: around it the base is needed.
    server.fault(Rule::new(Op::Put, "vol/f", 1, Action::ApplyThenDropReply));
    let file = OpenOptions::new().write(true).open(writer.path("f")).expect("it");
    file.write_all_at(b"changed", 100_000).expect("a write");
    file.sync_all().expect("a sync");
    drop(file);
    let mut changed = version(1, 300_000);
    changed[100_000..100_007].copy_from_slice(b"changed");
    wait_for("the new object", SOON, || server.get("vol/f").filter(|o| o.body == changed));
    shows(&host, "f", &changed);
    assert!(!host.log().contains("a request failed"), "{}", host.log());
    only_read(&server);
    assert!(host.unmount().success(), "{}", host.log());
}

#[test]
fn every_change_is_refused_and_nothing_is_written() {
    let server = TestS3::start();
    let mut writer = Host::new(WRITER);
    writer.mount(&server);
    put(&writer.path("f"), b"text");
    std::fs::create_dir(writer.path("d")).expect("a directory");
    fsync(&writer.path("d")).expect("a sync");
    assert!(writer.unmount().success(), "{}", writer.log());
    let mut host = follower(&server);
    host.mount(&server);
    for remounted in [false, true] {
        if remounted {
            // Then the kernel passes on what it refused itself before.
            let none: Option<&str> = None;
            let flags = nix::mount::MsFlags::MS_REMOUNT | nix::mount::MsFlags::MS_NODEV;
            nix::mount::mount(none, &host.mnt(), none, flags, none).expect("a remount");
        }
        let f = host.path("f");
        let cpath = |path: &Path| {
            std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).expect("a path")
        };
        let system = |result: i32| match result {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        };
        let fifo = cpath(&host.path("fifo"));
        let now = std::time::SystemTime::now();
        let changes: Vec<(&str, std::io::Result<()>)> = vec![
            ("create", File::create(host.path("new")).map(drop)),
            ("open to write", OpenOptions::new().write(true).open(&f).map(drop)),
            ("open to cut", OpenOptions::new().write(true).truncate(true).open(&f).map(drop)),
            ("mkdir", std::fs::create_dir(host.path("new"))),
            // SAFETY: a plain system call with a path that lives.
            ("mkfifo", system(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) })),
            ("symlink", symlink("f", host.path("new"))),
            ("link", std::fs::hard_link(&f, host.path("new"))),
            ("rename", std::fs::rename(&f, host.path("new"))),
            ("unlink", std::fs::remove_file(&f)),
            ("rmdir", std::fs::remove_dir(host.path("d"))),
            ("chmod", std::fs::set_permissions(&f, PermissionsExt::from_mode(0o600))),
            ("chown", std::os::unix::fs::chown(&f, Some(5), Some(5))),
            ("utimes", File::open(&f).and_then(|file| file.set_modified(now))),
            ("setxattr", xattr::set(&f, "user.a", b"b")),
            ("removexattr", xattr::remove(&f, "user.a")),
        ];
        for (what, result) in changes {
            let error = result.expect_err(what);
            assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{what} {remounted}: {error}");
        }
        // What reads goes on.
        let file = File::open(&f).expect("it");
        file.sync_all().expect("nothing to sync");
        assert_eq!(std::fs::read(&f).expect("it"), b"text");
        assert_eq!(names(&host, ""), ["d", "f"]);
        assert!(nix::sys::statvfs::statvfs(&host.mnt()).expect("statfs").files() > 0);
    }
    let objects = server.objects("");
    assert!(host.unmount().success(), "{}", host.log());
    assert_eq!(server.objects(""), objects);
    only_read(&server);
    assert!(!host.local_folders().any(|_| true), "local state is left");
}

#[test]
fn a_follower_goes_on_when_another_host_takes_over() {
    let server = TestS3::start();
    let mut first = Host::new(WRITER);
    first.mount(&server);
    put(&first.path("f"), b"by the first");
    let mut host = follower(&server);
    host.mount(&server);
    shows(&host, "f", b"by the first");
    assert!(first.unmount().success(), "{}", first.log());
    shows(&host, "f", b"by the first");
    let mut second = Host::new(WRITER);
    second.mount(&server);
    put(&second.path("f"), b"by the second");
    shows(&host, "f", b"by the second");
    // A host that is lost, and one that takes over after it.
    second.kill();
    server.set_clock_offset(100);
    first.mount(&server);
    put(&first.path("f"), b"by the first again");
    put(&first.path("g"), b"new");
    shows(&host, "f", b"by the first again");
    shows(&host, "g", b"new");
    assert!(host.unmount().success(), "{}", host.log());
    only_read(&server);
}

#[test]
fn what_is_known_serves_while_the_bucket_is_away() {
    let server = TestS3::start();
    let mut writer = Host::new(WRITER);
    writer.mount(&server);
    put(&writer.path("f"), b"known");
    let mut host = follower(&server);
    host.mount(&server);
    assert_eq!(std::fs::read(host.path("f")).expect("it"), b"known");
    server.stop();
    host.wait_state(VolumeState::Degraded);
    assert_eq!(std::fs::read(host.path("f")).expect("it is cached"), b"known");
    server.restart();
    host.wait_state(VolumeState::Active);
    put(&writer.path("f"), b"newer");
    shows(&host, "f", b"newer");
    assert!(host.unmount().success(), "{}", host.log());
}

#[test]
fn an_idle_follower_asks_one_head_a_look() {
    let server = TestS3::start();
    let mut writer = Host::new("commit=200ms,settle=never");
    writer.mount(&server);
    put(&writer.path("f"), b"there");
    let mut host = follower(&server);
    host.mount(&server);
    assert_eq!(std::fs::read(host.path("f")).expect("it"), b"there");
    server.clear_log();
    let began = Instant::now();
    wait_for("four looks", SOON, || (asked(&server).len() >= 4).then_some(()));
    assert!(began.elapsed() > Duration::from_secs(5), "{:?}", began.elapsed());
    let log = asked(&server);
    assert!(log.iter().all(|r| r.op == Op::Head && r.key.contains("/wal/")), "{log:?}");
    assert!(host.unmount().success(), "{}", host.log());
}

#[test]
fn a_volume_that_nobody_wrote_is_refused_with_the_cure() {
    let server = TestS3::start();
    let mut host = follower(&server);
    let refused = host.try_mount(&server).expect_err("there is nothing");
    assert!(refused.contains("mount it once without readonly"), "{refused}");
    only_read(&server);
    assert!(server.keys("").is_empty(), "{:?}", server.keys(""));
}

#[test]
fn adopted_objects_show_their_own_attributes() {
    let server = TestS3::start();
    for n in 0..5 {
        // As s3fs has it: user.note is "seen".
        let note = ("xattr", "%7B%22user.note%22%3A%22c2Vlbg%3D%3D%22%7D");
        let secret = [("mode", "33152"), ("uid", "7"), ("gid", "8"), ("mtime", "1000"), note];
        server.put_foreign(&format!("vol/secret-{n}"), "text", &secret);
    }
    server.put_foreign("vol/link", "secret-0", &[("mode", "41471")]);
    let mut writer = Host::new(WRITER);
    writer.mount(&server);
    // Listed and nothing more: the writer has not looked at them.
    let listed = names(&writer, "");
    assert_eq!(listed.len(), 6);
    fsync(&writer.mnt()).expect("a sync");
    let mut host = follower(&server);
    host.mount(&server);
    wait_for("the names", SOON, || (names(&host, "") == listed).then_some(()));
    for n in 0..5 {
        let path = host.path(&format!("secret-{n}"));
        let meta = path.metadata().expect("attributes");
        let shown = (meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.mtime());
        assert_eq!(shown, (0o600, 7, 8, 1000));
        let note = xattr::get(&path, "user.note").expect("attributes");
        assert_eq!(note.as_deref(), Some(&b"seen"[..]));
        assert_eq!(xattr::list(&path).expect("attributes").count(), 1);
        assert_eq!(std::fs::read(&path).expect("it"), b"text");
    }
    assert_eq!(std::fs::read(host.path("link")).expect("through a link"), b"text");
    only_read(&server);
    assert!(host.unmount().success(), "{}", host.log());
}

/// Pieces of the log and segments go while they are followed. (That tables may go is shown where the
/// clock can be turned, in `meta::follower`.)
#[test]
fn a_follower_outlives_what_the_writer_collects() {
    let server = TestS3::start();
    let mut writer = Host::new(WRITER);
    writer.env("S3VOL_TEST_MAINTENANCE_MS", 1000).env("S3VOL_TEST_GARBAGE_AGE_MS", 8000);
    writer.mount(&server);
    let body = |round: u8, n: u8| vec![round ^ n; 100_000];
    let write = |round: u8| {
        for n in 0..30 {
            put(&writer.path(&format!("small-{n}")), &body(round, n));
        }
        put(&writer.path("large"), &version(round, 600_000));
    };
    write(1);
    let mut host = follower(&server);
    host.mount(&server);
    shows(&host, "large", &version(1, 600_000));
    let deleted = |what: &str| {
        let deletes = |op| op == Op::Delete || op == Op::DeleteMany;
        let gone = |r: &&Logged| deletes(r.op) && r.status < 300 && r.key.contains(what);
        server.log().iter().filter(gone).count()
    };
    let began = Instant::now();
    let mut round = 1;
    while ["/wal/", "/segments/"].iter().any(|what| deleted(what) == 0) {
        let counts = ["/wal/", "/segments/"].map(deleted);
        assert!(began.elapsed() < Duration::from_secs(150), "collected: {counts:?}");
        round += 1;
        write(round);
        // None of these is read before the last round, so their records come from tables.
        shows(&host, "large", &version(round, 600_000));
    }
    for n in 0..30 {
        shows(&host, &format!("small-{n}"), &body(round, n));
    }
    assert!(!host.log().contains("a request failed"), "{}", host.log());
    only_read(&server);
    assert!(host.unmount().success(), "{}", host.log());
}
