//! What a mount asks of the bucket before it is served: how many requests, and how many of them one after another.
//!
//! Needs root and /dev/fuse.

mod support;

use std::time::Duration;

use support::host::{Host, fsync};
use support::s3server::{Action, Logged, Op, Rule, TestS3, rounds, shown, waited_for};

/// Long beside what a host needs for a request, so that those that overlap left together.
const LATENCY: Duration = Duration::from_millis(150);

const OPTIONS: &str = "commit=5m,settle_after=0s";

/// A volume with `files` plain objects, which nobody has mounted. Its engine's log has one object a sync, and a few more.
fn resting(server: &TestS3, host: &mut Host, files: usize, syncs: usize) {
    host.mount(server);
    for number in 0..files {
        let folder = host.path(&format!("folder-{}", number % 5));
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(format!("file-{number}")), b"what lies there").expect("a file");
    }
    for number in 0..syncs {
        let file = host.path("folder-0/file-0");
        std::fs::write(&file, format!("synced {number}")).expect("a write");
        fsync(&file).expect("a sync");
    }
    assert!(host.unmount().success(), "{}", host.log());
    let objects = server.keys("vol/folder-").iter().filter(|key| !key.ends_with('/')).count();
    assert_eq!(objects, files, "all of them are objects");
}

/// What was asked until the volume was served.
fn asked(server: &TestS3, host: &mut Host) -> Vec<Logged> {
    server.set_latency(LATENCY);
    server.clear_log();
    host.mount(server);
    let log = server.log();
    server.set_latency(Duration::ZERO);
    waited_for(log)
}

fn most(log: &[Logged], requests: usize, most_rounds: usize) {
    let rounds = rounds(log);
    let text = shown(&rounds);
    println!("{} requests in {} rounds:\n{text}", log.len(), rounds.len());
    assert!(log.len() <= requests, "{} requests:\n{text}", log.len());
    assert!(rounds.len() <= most_rounds, "{} rounds:\n{text}", rounds.len());
}

/// Mounts it here again, and on a host that never had it.
fn mounts(server: &TestS3, host: &mut Host, count: impl Fn(&[Logged])) {
    let log = asked(server, host);
    assert!(host.unmount().success(), "{}", host.log());
    count(&log);
    let mut other = Host::new(OPTIONS);
    let log = asked(server, &mut other);
    let file = other.path("folder-1/file-1");
    assert_eq!(std::fs::read(file).expect("it"), b"what lies there");
    assert!(other.unmount().success(), "{}", other.log());
    count(&log);
}

#[test]
fn a_mount_asks_in_nine_rounds_and_once_for_each_object_of_the_log() {
    let server = TestS3::start();
    let mut host = Host::new(OPTIONS);
    resting(&server, &mut host, 20, 8);
    mounts(&server, &mut host, |log| {
        let of_log = log.iter().filter(|entry| entry.key.contains("/wal/")).count();
        assert!(of_log < 33, "{of_log}");
        most(log, 18 + of_log, 9);
    });
}

#[test]
fn a_volume_whose_log_went_to_a_table_is_mounted_in_one_round_more_at_most() {
    let server = TestS3::start();
    let mut host = Host::new(OPTIONS);
    resting(&server, &mut host, 200, 40);
    let tables = server.keys(".s3vol/v/").iter().filter(|key| key.contains("/compacted/")).count();
    assert!(tables > 0);
    // On a host that never had it the first rows are read from the table again.
    mounts(&server, &mut host, |log| most(log, 25, 10));
}

#[test]
fn another_endpoint_is_refused_before_anything_is_written() {
    let server = TestS3::start();
    let mut host = Host::new(OPTIONS);
    host.mount(&server);
    assert!(host.unmount().success(), "{}", host.log());
    server.clear_log();
    let (ours, theirs) = (server.endpoint().replace("127.0.0.1", "localhost"), server.endpoint());
    assert_ne!(ours, theirs);
    let mut other = Host::new(&format!("{OPTIONS},endpoint={ours}"));
    let refused = other.try_mount(&server).unwrap_err();
    assert!(refused.contains(&format!("give endpoint={theirs}")), "{refused}");
    assert!(refused.contains(&ours), "{refused}");
    let log = server.log();
    assert!(log.iter().all(|entry| entry.only_reads()), "{log:?}");
    // The bucket comes first.
    server.remove_bucket();
    let refused = other.try_mount(&server).unwrap_err();
    assert!(refused.contains("does not exist"), "{refused}");
    server.restore_bucket();
    server.fault(Rule::new(Op::List, "vol/", 9, Action::Status(403)));
    let refused = other.try_mount(&server).unwrap_err();
    assert!(refused.to_lowercase().contains("denied"), "{refused}");
}

#[test]
fn what_is_known_of_a_store_no_more_is_found_out_beside_a_mount() {
    const EIGHT_DAYS: i64 = 8 * 24 * 3600;
    let server = TestS3::start();
    let mut host = Host::new(OPTIONS);
    host.mount(&server);
    assert!(host.unmount().success(), "{}", host.log());
    let stores = host.dir.path().join("state/stores");
    let mut findings = std::fs::read_dir(stores).expect("what is known").flatten();
    let (path, none) = (findings.next().expect("one store").path(), findings.next());
    assert!(none.is_none());
    let read = || -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(&path).expect("a finding")).expect("JSON")
    };
    let mut old = read();
    let found_at = |finding: &serde_json::Value| finding["found_at"].as_i64().expect("a time");
    old["found_at"] = (found_at(&old) - EIGHT_DAYS).into();
    std::fs::write(&path, old.to_string()).expect("an old finding");
    host.env("S3VOL_TEST_MAINTENANCE_MS", 100);
    host.mount(&server);
    let probed = || (found_at(&read()) > found_at(&old)).then(read);
    let now = support::wait_for("another probe", Duration::from_secs(60), probed);
    assert_eq!(now["capabilities"], old["capabilities"]);
    assert!(host.unmount().success(), "{}", host.log());
    let left = server.keys("").into_iter().filter(|key| key.contains("/probe/"));
    assert_eq!(left.collect::<Vec<_>>(), [""; 0], "the probe cleans up");
}
