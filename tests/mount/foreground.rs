//! `s3vol mount` from its start to its end.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::rig::{
    GIVEN_BACK, Mount, Place, SOON, finish, mount_of, object, run_ok, runs, s3vol, s3vol_as,
};
use super::support::s3server::{Action, Op, Rule, TestS3};
use super::support::wait_for;
use super::support::watchdog::mounted;

#[test]
fn sigterm_leaves_plain_objects() {
    let (server, place) = (TestS3::start(), Place::new());
    let url = format!("s3://{}/team/web", server.bucket());
    let mount = Mount::start(Some(&server), &place, &url, &[]);
    assert_eq!(mount_of(&place.at).unwrap(), ("fuse.s3vol".to_owned(), url.clone()));
    std::fs::create_dir(place.file("sub")).unwrap();
    std::fs::write(place.file("sub/page.html"), "hello").unwrap();
    let mode = std::fs::Permissions::from_mode(0o640);
    std::fs::set_permissions(place.file("sub/page.html"), mode).unwrap();
    std::os::unix::fs::symlink("sub/page.html", place.file("link")).unwrap();
    assert_eq!(std::fs::read_to_string(place.file("link")).unwrap(), "hello");
    mount.end_well();
    assert_eq!(object(&server, "team/web/sub/page.html").as_deref(), Some("hello"));
    let page = server.get("team/web/sub/page.html").unwrap();
    assert_eq!(page.metadata["mode"], (0o100640).to_string());
    assert!(server.get("team/web/sub/").is_some(), "{:?}", server.keys("team/web/"));
    assert_eq!(object(&server, "team/web/link").as_deref(), Some("sub/page.html"));

    // Another host, which has nothing but the bucket.
    let other = Place::new();
    let mount = Mount::start(Some(&server), &other, &url, &[]);
    assert_eq!(std::fs::read_to_string(other.file("link")).unwrap(), "hello");
    let mode = std::fs::metadata(other.file("sub/page.html")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o640);
    mount.end_well();
}

#[test]
fn sigint_and_umount_end_it_as_well() {
    let server = TestS3::start();
    for (number, end) in ["sigint", "umount"].into_iter().enumerate() {
        let place = Place::new();
        let url = format!("s3://{}/{end}", server.bucket());
        let mut mount = Mount::start(Some(&server), &place, &url, &[]);
        std::fs::write(place.file("f"), end).unwrap();
        match number {
            0 => mount.signal(libc::SIGINT),
            _ => run_ok("umount", &[place.at.as_os_str()]),
        }
        let status = mount.ended(GIVEN_BACK);
        assert!(status.success(), "{end}: {status}: {}", mount.said());
        assert!(!mounted(&place.at), "{end}: the cover of the mount point stays");
        assert_eq!(object(&server, &format!("{end}/f")).as_deref(), Some(end));
    }
}

#[test]
fn a_directory_is_a_store() {
    let place = Place::new();
    let store = place.dir.path().join("store");
    std::fs::create_dir(&store).unwrap();
    let url = format!("file://{}/vol", store.display());
    let mount = Mount::start(None, &place, &url, &[]);
    std::fs::create_dir_all(place.file("a/b")).unwrap();
    std::fs::write(place.file("a/b/c"), "content").unwrap();
    mount.end_well();
    assert_eq!(std::fs::read_to_string(store.join("vol/a/b/c")).unwrap(), "content");
    std::fs::remove_dir_all(place.state()).unwrap();
    let mount = Mount::start(None, &place, &url, &[]);
    assert_eq!(std::fs::read_to_string(place.file("a/b/c")).unwrap(), "content");
    mount.end_well();
}

#[test]
fn detached_it_returns_once_mounted_and_status_shows_it() {
    let (server, place) = (TestS3::start(), Place::new());
    let url = format!("s3://{}/v", server.bucket());
    let state = place.state();
    let (code, _, error) = finish(
        s3vol(&server).args(["mount", "--detach", "--state"]).arg(&state).arg(&url).arg(&place.at),
    );
    assert_eq!(code, Some(0), "{error}");
    assert_eq!(mount_of(&place.at).unwrap().0, "fuse.s3vol");
    std::fs::write(place.file("f"), "x").unwrap();
    let (code, out, error) =
        finish(s3vol(&server).args(["status", "--json", "--state"]).arg(&state));
    assert_eq!(code, Some(0), "{error}");
    let status: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(status[0]["state"], "active", "{out}");
    assert_eq!(status[0]["mountpoint"], place.at.to_str().unwrap());
    assert_eq!(status[0]["files"], 1, "{out}");
    let pid = status[0]["pid"].as_u64().unwrap();
    let (_, out, _) = finish(s3vol(&server).args(["status", "--state"]).arg(&state));
    assert!(out.contains(&format!("v at {}", place.at.display())), "{out}");

    // The same state folder twice.
    let other = Place::new();
    let (code, _, error) = finish(
        s3vol(&server).args(["mount", "--detach", "--state"]).arg(&state).arg(&url).arg(&other.at),
    );
    assert_eq!(code, Some(1));
    assert!(error.contains("already served"), "{error}");

    run_ok("umount", &[place.at.as_os_str()]);
    wait_for("the end of the background process", GIVEN_BACK, || (!runs(pid)).then_some(()));
    assert_eq!(object(&server, "v/f").as_deref(), Some("x"));
    let (code, out, _) = finish(s3vol(&server).args(["status", "--state"]).arg(&state));
    assert_eq!(code, Some(0));
    assert!(out.contains("no volume is served"), "{out}");
}

#[test]
fn wrong_usage_exits_64() {
    let place = Place::new();
    let at = place.at.to_str().unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&[], "Usage"),
        (&["mount"], "required"),
        (&["mount", "s3://b/v"], "required"),
        (&["nonsense"], "nonsense"),
        (&["mount", "s3://b/v", at, "-o", "refesh=5s"], "did you mean refresh?"),
        (&["mount", "s3://b/v", at, "-o", "refresh=soon"], "refresh"),
        (&["mount", "s3:/b", at], "s3://"),
        (&["mount", "s3://b/../x", at], "'..'"),
        (&["status", "--verbose"], "--verbose"),
    ];
    for (args, expected) in cases {
        let mut command = s3vol_as("s3vol", None);
        let state = place.state();
        let (code, _, error) = finish(command.args(*args).env("S3VOL_STATE", &state));
        assert_eq!(code, Some(64), "{args:?}: {error}");
        assert!(error.contains(expected), "{args:?}: {error}");
    }
}

#[test]
fn a_held_volume_names_its_holder() {
    let (server, place, other) = (TestS3::start(), Place::new(), Place::new());
    let url = format!("s3://{}/v", server.bucket());
    let mount = Mount::start(Some(&server), &place, &url, &[]);
    let began = Instant::now();
    let mut second = Mount::begin(Some(&server), &other, &url, &[]);
    let status = second.ended(Duration::from_secs(25));
    assert!(!status.success());
    assert!(began.elapsed() < Duration::from_secs(25));
    let said = second.said();
    let host = s3vol::sys::hostname();
    let last = said.lines().rev().find(|line| line.starts_with("s3vol: ")).unwrap_or(&said);
    assert!(last.contains(&format!("host {host} holds this volume since")), "{said}");
    assert!(last.contains("stop the containers"), "{said}");
    assert!(!mounted(&other.at));
    mount.end_well();
    // Given back: at once.
    Mount::start(Some(&server), &other, &url, &[]).end_well();
}

/// The bucket goes and comes back.
type Gone = (fn(&TestS3), fn(&TestS3));

fn says_what_is_left_and_uploads_it_later((goes, returns): Gone) {
    let (server, place) = (TestS3::start(), Place::new());
    let url = format!("s3://{}/v", server.bucket());
    // Nothing is committed by the clock before the bucket is gone.
    let mut mount = Mount::start(Some(&server), &place, &url, &["commit=300s"]);
    goes(&server);
    std::fs::write(place.file("precious"), "not lost").unwrap();
    mount.signal(libc::SIGTERM);
    let status = mount.ended(Duration::from_secs(60));
    assert_eq!(status.code(), Some(4));
    let said = mount.said();
    let left = said.lines().find_map(|line| {
        let (bytes, _) =
            line.strip_prefix("s3vol: ")?.split_once(" bytes are not in the bucket, of ")?;
        bytes.parse::<u64>().ok()
    });
    assert!(left.is_some_and(|bytes| bytes >= 8), "{said}");
    assert!(said.contains(place.state().to_str().unwrap()), "{said}");
    assert!(!mounted(&place.at));
    assert_eq!(object(&server, "v/precious"), None);

    returns(&server);
    let mount = Mount::start(Some(&server), &place, &url, &[]);
    assert_eq!(std::fs::read_to_string(place.file("precious")).unwrap(), "not lost");
    mount.end_well();
    assert_eq!(object(&server, "v/precious").as_deref(), Some("not lost"));
}

#[test]
fn with_an_unreachable_bucket_nothing_is_lost() {
    says_what_is_left_and_uploads_it_later((TestS3::stop, TestS3::restart));
}

#[test]
fn with_a_vanished_bucket_nothing_is_lost() {
    says_what_is_left_and_uploads_it_later((TestS3::remove_bucket, TestS3::restore_bucket));
}

#[test]
fn a_killed_mount_loses_nothing() {
    let (server, place) = (TestS3::start(), Place::new());
    let url = format!("s3://{}/v", server.bucket());
    let mount = Mount::start(Some(&server), &place, &url, &["commit=300s", "settle_after=1h"]);
    std::fs::write(place.file("f"), "written, never synced").unwrap();
    mount.kill();
    super::support::watchdog::release(&place.at);
    wait_for("the dead mount to be gone", SOON, || (!mounted(&place.at)).then_some(()));
    let mount = Mount::start(Some(&server), &place, &url, &[]);
    assert_eq!(std::fs::read_to_string(place.file("f")).unwrap(), "written, never synced");
    mount.end_well();
}

#[test]
fn sigterm_ends_it_while_the_bucket_keeps_it_from_opening() {
    let (server, place) = (TestS3::start(), Place::new());
    let url = format!("s3://{}/v", server.bucket());
    Mount::start(Some(&server), &place, &url, &[]).end_well();
    server.fault(Rule::always(None, "/meta/", Action::Hold));
    let mut mount = Mount::begin(Some(&server), &place, &url, &[]);
    wait_for("the opening", SOON, || (server.held() > 0).then_some(()));
    let asked = Instant::now();
    mount.signal(libc::SIGTERM);
    assert!(!mount.ended(SOON).success());
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    assert!(mount.said().contains("before the volume was open"), "{}", mount.said());
}

#[test]
fn what_a_killed_mount_was_publishing_is_at_rest_when_the_next_one_ends() {
    let (server, place) = (TestS3::start(), Place::new());
    let url = format!("s3://{}/v", server.bucket());
    server.fault(Rule::new(Op::Put, "v/arrives-late", 1, Action::Hold));
    server.fault(Rule::new(Op::Put, "v/arrives-never", 1, Action::DropBeforeApply));
    // Both in one round.
    let options = ["commit=100ms", "settle_after=300ms"];
    let mount = Mount::start(Some(&server), &place, &url, &options);
    for name in ["arrives-late", "arrives-never"] {
        std::fs::write(place.file(name), name).unwrap();
    }
    wait_for("both publishes", SOON, || {
        (server.held() == 1 && server.faults_left() == 0).then_some(())
    });
    mount.kill();
    super::support::watchdog::release(&place.at);
    wait_for("the dead mount to be gone", SOON, || (!mounted(&place.at)).then_some(()));
    server.release();
    let mut command = s3vol(&server);
    command.env("S3VOL_TEST_HOT_MARGIN_MS", "1000");
    let mut mount = Mount::begin_as(&mut command, &place, &url, &options).up();
    assert!(mount.said().contains("requests of an earlier run"), "{}", mount.said());
    // Nobody waits for an unmount, so that it can wait for those names.
    run_ok("umount", &[place.at.as_os_str()]);
    let status = mount.ended(GIVEN_BACK);
    assert!(status.success(), "{status}: {}", mount.said());
    for name in ["arrives-late", "arrives-never"] {
        assert_eq!(object(&server, &format!("v/{name}")).as_deref(), Some(name));
    }
}
