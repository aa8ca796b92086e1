//! The bucket goes away, answers badly, or loses the volume's state.
//!
//! Needs root and /dev/fuse.

mod support;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use s3vol::worker::VolumeState;
use support::host::{Host, fsync};
use support::s3server::{Action, Op, Rule, TestS3};
use support::wait_for;

const LONG: Duration = Duration::from_secs(90);

fn write_and_sync(path: PathBuf, body: Vec<u8>) -> std::thread::JoinHandle<std::io::Result<()>> {
    std::thread::spawn(move || {
        let mut file = File::create(path)?;
        file.write_all(&body)?;
        file.sync_all()
    })
}

/// Ends the host as a lost one and reads what another finds.
fn found_elsewhere(server: &TestS3, host: &mut Host, names: &[&str]) -> Vec<Vec<u8>> {
    host.kill();
    server.clear_faults();
    server.set_clock_offset(100);
    let mut other = Host::new("commit=1s");
    other.mount(server);
    names.iter().map(|name| std::fs::read(other.path(name)).expect("the file")).collect()
}

#[test]
fn an_fsync_waits_for_a_bucket_that_is_away_and_cached_reads_go_on() {
    let server = TestS3::start();
    let mut host = Host::new("commit=300ms,settle_after=300ms");
    host.mount(&server);
    std::fs::write(host.path("cached"), b"cached").expect("a file");
    fsync(&host.path("cached")).expect("a sync");
    let open = File::open(host.path("cached")).expect("it");
    server.stop();
    let large = vec![7u8; 3 << 20];
    let small = write_and_sync(host.path("small"), b"small".to_vec());
    let big = write_and_sync(host.path("large"), large.clone());
    host.wait_state(VolumeState::Degraded);
    for _ in 0..3 {
        let asked = Instant::now();
        let mut buffer = [0; 6];
        open.read_exact_at(&mut buffer, 0).expect("a cached read");
        assert_eq!(std::fs::read(host.path("cached")).expect("by name"), b"cached");
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    }
    assert!(!small.is_finished() && !big.is_finished() && host.is_alive());
    server.restart();
    small.join().expect("a thread").expect("the small sync");
    big.join().expect("a thread").expect("the large sync");
    host.wait_state(VolumeState::Active);
    let found = found_elsewhere(&server, &mut host, &["small", "large"]);
    assert!(found[0] == b"small" && found[1] == large);
}

#[test]
fn an_fsync_fails_after_its_deadline_and_the_data_goes_up_later() {
    let server = TestS3::start();
    let mut host = Host::new("commit=300ms,settle=never");
    host.env("S3VOL_TEST_SYNC_TIMEOUT_MS", 2500);
    host.mount(&server);
    std::fs::write(host.path("first"), b"1").expect("a file");
    fsync(&host.path("first")).expect("a sync");
    server.remove_bucket();
    let mut file = OpenOptions::new().append(true).open(host.path("first")).expect("it");
    file.write_all(b"2").expect("a write is local");
    for _ in 0..2 {
        let asked = Instant::now();
        let error = file.sync_all().expect_err("no bucket");
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    }
    assert!(host.status().is_some(), "the status answers");
    assert!(host.is_alive());
    server.restore_bucket();
    host.wait_state(VolumeState::Active);
    wait_for("a sync that works again", LONG, || file.sync_all().ok());
    assert_eq!(found_elsewhere(&server, &mut host, &["first"]), [b"12"]);
}

#[test]
fn a_slow_uplink_is_waited_for_as_long_as_it_takes_something() {
    const PIECES: u64 = 26_000;
    let server = TestS3::start();
    let mut host = Host::new("commit=5m,settle=never");
    host.env("S3VOL_TEST_SYNC_TIMEOUT_MS", 1500);
    host.mount(&server);
    // So many pieces go up in steps, and all of them take longer than an fsync waits for nothing.
    let slow = Action::Latency(Duration::from_millis(800));
    server.fault(Rule::always(Some(Op::Put), "/segments/", slow));
    let file = File::create(host.path("pieces")).expect("a file");
    for piece in 0..PIECES {
        file.write_all_at(&[piece as u8; 100], piece * 200).expect("a piece");
    }
    let asked = Instant::now();
    file.sync_all().expect("a sync of all pieces");
    assert!(asked.elapsed() > Duration::from_millis(1500), "{:?}", asked.elapsed());
    let found = found_elsewhere(&server, &mut host, &["pieces"]);
    let mut wanted = vec![0; (PIECES * 200 - 100) as usize];
    for (at, byte) in wanted.iter_mut().enumerate().filter(|(at, _)| at % 200 < 100) {
        *byte = (at / 200) as u8;
    }
    assert!(found[0] == wanted);
}

#[test]
fn faults_of_the_store_delay_an_fsync_and_lose_nothing() {
    let server = TestS3::start();
    let mut host = Host::new("commit=10s,settle=never");
    host.mount(&server);
    let large = |n: u8| vec![n; 2 << 20];
    let faults = [
        Action::Status(503),
        Action::Status(409),
        Action::ApplyThenDropReply,
        Action::ApplyThenStatus(500),
        Action::DropBeforeApply,
    ];
    let mut names = Vec::new();
    for (n, action) in (1u8..).zip(faults) {
        for key in ["/wal/", "/segments/"] {
            server.fault(Rule::new(Op::Put, key, 2, action.clone()));
        }
        let (small, big) = (format!("small-{n}"), format!("large-{n}"));
        let syncs = [
            write_and_sync(host.path(&small), vec![n; 3000]),
            write_and_sync(host.path(&big), large(n)),
        ];
        for sync in syncs {
            sync.join().expect("a thread").unwrap_or_else(|e| panic!("{action:?}: {e}"));
        }
        server.clear_faults();
        names.extend([small, big]);
        assert!(host.is_alive());
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let found = found_elsewhere(&server, &mut host, &names);
    for (n, pair) in (1u8..).zip(found.chunks(2)) {
        assert!(pair[0] == vec![n; 3000] && pair[1] == large(n), "after fault {n}");
    }
}

#[test]
fn a_volume_whose_state_was_wiped_is_damaged_and_never_empty() {
    let server = TestS3::start();
    let mut host = Host::new("commit=300ms,settle_after=0s");
    host.env("S3VOL_TEST_RENEW_MS", 300);
    host.mount(&server);
    std::fs::write(host.path("f"), b"data").expect("a file");
    fsync(&host.path("f")).expect("a sync");
    wait_for("the object", LONG, || {
        server.get("vol/f").filter(|object| object.body == b"data"[..])
    });
    for key in server.keys("").into_iter().filter(|key| key.contains(".s3vol/v/")) {
        server.delete_foreign(&key);
    }
    let file = OpenOptions::new().write(true).open(host.path("f")).expect("it");
    host.wait_state(VolumeState::Damaged);
    let asked = Instant::now();
    assert!(file.write_at(b"more", 0).is_err(), "nothing is accepted any more");
    assert!(file.sync_all().is_err());
    drop(file);
    assert!(asked.elapsed() < Duration::from_secs(5), "at once, not after {:?}", asked.elapsed());
    let mut other = Host::new("commit=1s");
    let refused = other.try_mount(&server).expect_err("nothing there");
    assert!(refused.contains("damaged") && refused.contains("format.json"), "{refused}");
    assert!(!host.unmount().success());
    assert!(host.local("log/log").exists(), "the local state is kept");
    assert_eq!(server.get("vol/f").expect("it").body, b"data"[..]);
}

#[test]
fn a_publish_without_an_answer_is_decided_later_and_loses_nothing() {
    let server = TestS3::start();
    let mut host = Host::new("commit=200ms,settle_after=200ms");
    host.env("S3VOL_TEST_HOT_MARGIN_MS", 1000);
    host.mount(&server);
    server.fault(Rule::new(Op::Put, "vol/applied", 1, Action::ApplyThenDropReply));
    server.fault(Rule::new(Op::Put, "vol/dropped", 1, Action::DropBeforeApply));
    server.fault(Rule::new(Op::Put, "vol/late", 1, Action::Hold));
    for name in ["applied", "dropped", "late"] {
        std::fs::write(host.path(name), format!("{name}: one")).expect("a file");
    }
    wait_for("the three publishes", LONG, || (server.faults_left() == 0).then_some(()));
    // While nobody knows their outcome the files change once more.
    for name in ["applied", "late"] {
        std::fs::write(host.path(name), format!("{name}: the second")).expect("a file");
        fsync(&host.path(name)).expect("a sync does not wait for publishing");
    }
    for name in ["applied", "dropped", "late"] {
        let want =
            if name == "dropped" { format!("{name}: one") } else { format!("{name}: the second") };
        wait_for(name, LONG, || server.get(&format!("vol/{name}")).filter(|o| o.body == want));
        assert_eq!(std::fs::read_to_string(host.path(name)).expect("it"), want);
    }
    // The held request arrives when it is long over.
    server.release();
    wait_for("its arrival", LONG, || (server.held() == 0).then_some(()));
    std::fs::write(host.path("after"), b"after").expect("a file");
    wait_for("the next publish", LONG, || server.get("vol/after"));
    assert_eq!(server.get("vol/late").expect("it").body, b"late: the second"[..]);
    assert!(host.unmount().success(), "{}", host.log());
    let mut other = Host::new("commit=1s");
    other.mount(&server);
    for name in ["applied", "late"] {
        let found = std::fs::read_to_string(other.path(name)).expect("it");
        assert_eq!(found, format!("{name}: the second"));
    }
}

#[test]
fn the_small_becomes_durable_in_its_time_beside_an_upload_that_hangs() {
    let server = TestS3::start();
    let mut host = Host::new("commit=300ms,settle=never");
    host.mount(&server);
    server.fault(Rule::always(Some(Op::Put), "/segments/", Action::Hold));
    let mut file = File::create(host.path("stream")).expect("a file");
    for _ in 0..80 {
        file.write_all(&[7; 1 << 20]).expect("a write is local");
    }
    wait_for("the upload", LONG, || (server.held() > 0).then_some(()));
    std::fs::create_dir(host.path("dir")).expect("a directory");
    std::fs::write(host.path("dir/small"), b"small").expect("a small file");
    let flushes = || server.log().iter().filter(|entry| entry.key.contains("/wal/")).count();
    let before = flushes();
    // The first may have begun before the file was written, the second has not.
    wait_for("two flushes", Duration::from_secs(15), || {
        std::fs::write(host.path("dir/other"), b"more").expect("another file");
        (flushes() >= before + 2).then_some(())
    });
    assert!(server.held() > 0, "the upload still hangs");
    let found = found_elsewhere(&server, &mut host, &["dir/small"]);
    assert_eq!(found, [b"small"]);
}

#[test]
fn a_large_file_waits_for_no_upload_of_another_that_hangs() {
    const STREAM: u64 = 80 << 20;
    let server = TestS3::start();
    let mut host = Host::new("commit=300ms,settle=never");
    host.mount(&server);
    server.fault(Rule::new(Op::Put, "/segments/", 1, Action::Hold));
    let mut file = File::create(host.path("stream")).expect("a file");
    for _ in 0..STREAM >> 20 {
        file.write_all(&[7; 1 << 20]).expect("a write is local");
    }
    wait_for("the upload", LONG, || (server.held() > 0).then_some(()));
    let large = vec![8; 24 << 20];
    std::fs::write(host.path("large"), &large).expect("a file");
    // Sooner than a hanging request is given up.
    wait_for("its commit", Duration::from_secs(12), || {
        let status = host.status()?;
        (status.uncommitted_bytes <= STREAM).then_some(())
    });
    let flushes = || server.log().iter().filter(|entry| entry.key.contains("/wal/")).count();
    let before = flushes();
    wait_for("a flush", Duration::from_secs(5), || {
        std::fs::create_dir_all(host.path("dir")).expect("a directory");
        std::fs::remove_dir(host.path("dir")).expect("it goes");
        (flushes() >= before + 2).then_some(())
    });
    assert!(server.held() > 0, "the upload still hangs");
    assert!(found_elsewhere(&server, &mut host, &["large"])[0] == large);
}

#[test]
fn a_file_that_cannot_be_read_here_does_not_keep_others_from_the_bucket() {
    let server = TestS3::start();
    let mut host = Host::new("commit=5m,settle=never");
    host.mount(&server);
    for name in ["a", "bad", "c"] {
        std::fs::write(host.path(name), name).expect("a file");
    }
    let ino = std::fs::metadata(host.path("bad")).expect("it").ino();
    host.kill();
    let lost = host.local("cache").join(format!("{:02x}", ino & 0xff)).join(ino.to_string());
    std::fs::remove_file(&lost).expect("its bytes");
    std::fs::create_dir(&lost).expect("what cannot be opened as a file");
    host.set_options("commit=300ms,settle=never");
    host.mount(&server);
    host.wait_state(VolumeState::Degraded);
    // Nobody syncs: the timer alone has to bring it up.
    std::fs::write(host.path("later"), b"later").expect("a file");
    wait_for("the others", Duration::from_secs(20), || {
        let status = host.status()?;
        (status.uncommitted_bytes <= b"bad".len() as u64).then_some(())
    });
    let error = host.status().expect("a status").last_error.expect("the trouble is told");
    assert!(error.contains("cache file"), "{error}");
    assert!(!host.unmount().success(), "one file is not in the bucket");
    server.set_clock_offset(100);
    let mut other = Host::new("commit=1s");
    other.mount(&server);
    for name in ["a", "c", "later"] {
        assert_eq!(std::fs::read(other.path(name)).expect("it"), name.as_bytes());
    }
}

#[test]
fn a_process_that_ends_is_not_taken_back_into_use() {
    let server = TestS3::start();
    let mut host = Host::new("commit=200ms,settle_after=1h");
    host.mount(&server);
    std::fs::write(host.path("f"), b"data").expect("a file");
    assert!(host.resume(), "it is in use");
    server.fault(Rule::new(Op::Put, "vol/f", 1, Action::Hold));
    host.signal(nix::sys::signal::Signal::SIGTERM);
    wait_for("the last publish", LONG, || (server.held() > 0).then_some(()));
    assert!(!host.resume(), "it ends and takes no content any more");
    server.release();
    assert!(host.unmount().success(), "{}", host.log());
    assert_eq!(server.get("vol/f").expect("it").body, b"data"[..]);
}

#[test]
fn a_volume_that_is_taken_back_while_it_is_drained_is_given_to_nobody() {
    let server = TestS3::start();
    let mut host = Host::new("commit=200ms,settle_after=1h");
    host.mount(&server);
    std::fs::write(host.path("f"), b"data").expect("a file");
    server.fault(Rule::new(Op::Put, "vol/f", 1, Action::Hold));
    std::thread::scope(|scope| {
        let draining = scope.spawn(|| host.drain());
        wait_for("the publish", LONG, || (server.held() > 0).then_some(()));
        assert!(host.resume(), "it is there");
        server.release();
        assert!(draining.join().expect("an answer").committed);
    });
    host.wait_state(VolumeState::Active);
    let mut other = Host::new("commit=1s");
    let error = other.try_mount(&server).expect_err("it is in use");
    assert!(error.contains("holds this volume"), "{error}");
    assert!(host.drain().committed);
    other.mount(&server);
    assert_eq!(std::fs::read(other.path("f")).expect("it"), b"data");
}

/// One extended attribute of so many bytes, named by a number.
fn set_attribute(file: &File, number: u32, len: usize) -> std::io::Result<()> {
    let name = std::ffi::CString::new(format!("user.{number}")).expect("a name");
    let value = vec![(number % 251) as u8; len];
    // SAFETY: plain system call on memory of ours.
    let set = unsafe {
        libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    if set == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn attribute(file: &File, number: u32) -> std::io::Result<Vec<u8>> {
    let name = std::ffi::CString::new(format!("user.{number}")).expect("a name");
    let mut value = vec![0; 64 << 10];
    // SAFETY: plain system call on memory of ours.
    let got = unsafe {
        libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    if got < 0 {
        return Err(std::io::Error::last_os_error());
    }
    value.truncate(got as usize);
    Ok(value)
}

/// Changes metadata until there is no room for more; what was acknowledged, of which file and number.
fn fill_with_metadata(host: &Host) -> (Vec<u32>, (u32, std::io::Error)) {
    let mut set = Vec::new();
    for number in 0..2000 {
        let name = host.path(&format!("holder {}", number / 50));
        let file = File::options().create(true).append(true).open(name);
        match file.and_then(|file| set_attribute(&file, number, 60_000)) {
            Ok(()) => set.push(number),
            Err(error) => return (set, (number, error)),
        }
    }
    panic!("there is no limit");
}

fn has_all(host: &Host, set: &[u32]) {
    for number in set {
        let file = File::open(host.path(&format!("holder {}", number / 50))).expect("it");
        let value = attribute(&file, *number).unwrap_or_else(|e| panic!("{number}: {e}"));
        assert!(value == vec![(number % 251) as u8; 60_000], "{number}");
    }
}

#[test]
fn changes_of_names_end_in_time_without_a_bucket_and_leave_nothing_half_made() {
    let server = TestS3::start();
    let mut host = Host::new("commit=300ms,settle=never");
    host.env("S3VOL_TEST_SYNC_TIMEOUT_MS", 1500);
    host.mount(&server);
    std::fs::create_dir(host.path("dir")).expect("a directory");
    server.fault(Rule::always(Some(Op::Put), "/wal/", Action::Status(503)));
    let (set, (refused, error)) = fill_with_metadata(&host);
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    assert!(set.len() > 300, "{}", set.len());
    let asked = Instant::now();
    let moved = std::fs::rename(host.path("dir"), host.path("moved"));
    assert_eq!(moved.expect_err("no room").raw_os_error(), Some(libc::EIO));
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
    assert!(host.path("dir").exists() && !host.path("moved").exists());
    server.clear_faults();
    wait_for("the rename", LONG, || std::fs::rename(host.path("dir"), host.path("moved")).ok());
    has_all(&host, &set);
    let file = File::open(host.path(&format!("holder {}", set[0] / 50))).expect("it");
    assert!(attribute(&file, refused).is_err());
    assert!(host.unmount().success(), "{}", host.log());
    let mut other = Host::new("commit=1s");
    other.mount(&server);
    has_all(&other, &set);
    assert!(other.path("moved").exists());
}

#[test]
fn a_handle_of_the_engine_that_breaks_while_the_volume_is_opened_is_replaced() {
    let server = TestS3::start();
    let mut host = Host::new("commit=5m,settle=never");
    host.env("S3VOL_TEST_SYNC_TIMEOUT_MS", 1500);
    host.mount(&server);
    server.fault(Rule::always(Some(Op::Put), "/wal/", Action::Status(503)));
    let (set, _) = fill_with_metadata(&host);
    let before = host.status().and_then(|status| status.epoch).expect("an epoch");
    host.kill();
    server.clear_faults();
    // The first is the engine's own when it opens; the replay flushes what is too much to keep.
    server.fault(Rule::new(Op::Put, "/wal/", 1, Action::Status(412)).after(1));
    host.mount(&server);
    assert_eq!(server.faults_left(), 0);
    assert!(host.log().contains("metadata engine reopened"), "{}", host.log());
    // One that the opening claimed, and one that the engine claimed: the lease is kept under that.
    wait_for("the lease", Duration::from_secs(20), || {
        host.status().filter(|status| status.epoch == Some(before + 2))
    });
    // What the replaced handle wrote is known to be this host's own.
    host.kill();
    host.mount(&server);
    has_all(&host, &set);
}
