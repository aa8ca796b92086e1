//! Objects of others: there before the volume, or put later.

use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;

use super::rig::{Mount, Place, SOON, finish, object, s3vol};
use super::support::s3server::{Op, TestS3};
use super::support::wait_for;

#[test]
fn what_was_there_shows_at_once() {
    let (server, place) = (TestS3::start(), Place::new());
    server.put_foreign("old/images/next/racoon.jpg", "jpeg", &[]);
    server.put_foreign(
        "old/by-s3fs",
        "secret",
        &[("mode", "33152"), ("uid", "999"), ("gid", "998"), ("mtime", "1500000000")],
    );
    let aws = [
        ("file-permissions", "0100640"),
        ("file-owner", "7"),
        ("file-group", "8"),
        ("file-mtime", "1500000000000000000ns"),
    ];
    server.put_foreign("old/by-aws", "shared", &aws);
    server.put_foreign("old/folder/", "", &[("mode", "16832"), ("uid", "5")]);
    server.put_foreign("old/folder/x", "x", &[]);
    for number in 0..50 {
        server.put_foreign(&format!("old/many/{number:03}/deep/f"), "", &[]);
    }
    server.put_foreign("older/not-below", "", &[]);
    let url = format!("s3://{}/old", server.bucket());
    let mount = Mount::start(Some(&server), &place, &url, &["uid=42", "file_mode=0600"]);

    assert_eq!(std::fs::read_to_string(place.file("images/next/racoon.jpg")).unwrap(), "jpeg");
    let racoon = std::fs::metadata(place.file("images/next/racoon.jpg")).unwrap();
    assert_eq!((racoon.permissions().mode() & 0o7777, racoon.uid()), (0o600, 42));

    // The first look at a name already tells its own permissions, also through a listing.
    let listed: Vec<_> = std::fs::read_dir(&place.at)
        .unwrap()
        .map(|e| {
            let e = e.unwrap();
            let meta = e.metadata().unwrap();
            (e.file_name().into_string().unwrap(), meta.mode() & 0o7777, meta.uid())
        })
        .collect();
    let entry = |name: &str| listed.iter().find(|e| e.0 == name).cloned();
    assert_eq!(entry("by-s3fs"), Some(("by-s3fs".into(), 0o600, 999)), "{listed:?}");
    assert_eq!(entry("by-aws"), Some(("by-aws".into(), 0o640, 7)), "{listed:?}");
    assert_eq!(entry("folder"), Some(("folder".into(), 0o700, 5)), "{listed:?}");
    assert_eq!(listed.len(), 5, "{listed:?}");
    let s3fs = std::fs::metadata(place.file("by-s3fs")).unwrap();
    assert_eq!((s3fs.gid(), s3fs.mtime(), s3fs.len()), (998, 1_500_000_000, 6));
    let aws = std::fs::metadata(place.file("by-aws")).unwrap();
    assert_eq!((aws.gid(), aws.mtime()), (8, 1_500_000_000));
    // Nobody listed what nobody looked at.
    let log = server.log();
    assert!(!log.iter().any(|r| r.op == Op::List && r.key.contains("many/0")), "{log:?}");

    mount.end_well();
    // Untouched objects stay as they were.
    let s3fs = server.get("old/by-s3fs").unwrap();
    assert_eq!(s3fs.metadata.len(), 4, "{:?}", s3fs.metadata);
    assert_eq!(object(&server, "old/images/next/racoon.jpg").as_deref(), Some("jpeg"));
}

#[test]
fn what_comes_later_appears_within_refresh() {
    let (server, place) = (TestS3::start(), Place::new());
    let url = format!("s3://{}/v", server.bucket());
    let mount = Mount::start(Some(&server), &place, &url, &["refresh=1s", "settle_after=100ms"]);
    std::fs::write(place.file("ours"), "ours").unwrap();
    wait_for("ours to settle", SOON, || object(&server, "v/ours"));
    assert!(!place.file("theirs").exists());
    server.put_foreign("v/theirs", "theirs", &[("mode", "33152"), ("uid", "999")]);
    server.put_foreign("v/new/below/x", "x", &[]);
    server.put_foreign("v/ours", "replaced", &[]);
    let read = |name: &str, text: &str| {
        let (path, text) = (place.file(name), text.to_owned());
        wait_for(name, SOON, || std::fs::read_to_string(&path).ok().filter(|found| *found == text));
    };
    read("theirs", "theirs");
    let theirs = std::fs::metadata(place.file("theirs")).unwrap();
    assert_eq!((theirs.mode() & 0o7777, theirs.uid()), (0o600, 999));
    read("new/below/x", "x");
    read("ours", "replaced");
    // The kernel tells of a close some time after it, and what is open here is published again.
    wait_for("theirs to vanish", SOON, || {
        server.delete_foreign("v/theirs");
        (!place.file("theirs").exists()).then_some(())
    });
    mount.end_well();
}

/// As s3fs writes them: a percent-encoded JSON object of base64 values.
#[test]
fn extended_attributes_travel_with_the_objects() {
    let (server, place) = (TestS3::start(), Place::new());
    let theirs = "%7B%22user.color%22%3A%22Ymx1ZQ%3D%3D%22%7D";
    server.put_foreign("v/theirs", "x", &[("mode", "33188"), ("xattr", theirs)]);
    let url = format!("s3://{}/v", server.bucket());
    let mount = Mount::start(Some(&server), &place, &url, &[]);
    assert_eq!(xattr::get(place.file("theirs"), "user.color").unwrap().unwrap(), b"blue");
    for name in ["ours", "changed", "large"] {
        std::fs::write(place.file(name), name).unwrap();
    }
    xattr::set(place.file("ours"), "user.a", b"1").unwrap();
    xattr::set(place.file("large"), "user.a", &[7; 4000]).unwrap();
    mount.end_well();
    let carried = |key: &str| server.get(key).unwrap().metadata.get("xattr").cloned();
    let ours = "%7B%22user%2Ea%22%3A%22MQ%3D%3D%22%7D";
    assert_eq!(carried("v/ours").as_deref(), Some(ours));
    assert_eq!((carried("v/changed"), carried("v/large")), (None, None));

    // A change of nothing else is brought to rest as well, and the index keeps what objects cannot.
    let mount = Mount::start(Some(&server), &place, &url, &[]);
    xattr::set(place.file("changed"), "user.a", b"1").unwrap();
    xattr::remove(place.file("ours"), "user.a").unwrap();
    assert_eq!(xattr::get(place.file("large"), "user.a").unwrap().unwrap(), [7; 4000]);
    mount.end_well();
    assert_eq!((carried("v/ours"), carried("v/changed").as_deref()), (None, Some(ours)));
    assert_eq!(object(&server, "v/changed").as_deref(), Some("changed"));
}

#[test]
fn a_prefix_that_was_emptied_does_not_empty_the_volume() {
    let (server, place) = (TestS3::start(), Place::new());
    let url = format!("s3://{}/v", server.bucket());
    let options = ["refresh=100ms", "settle_after=10ms"];
    let mount = Mount::start(Some(&server), &place, &url, &options);
    for number in 0..20 {
        std::fs::write(place.file(&format!("f{number}")), format!("content {number}")).unwrap();
    }
    wait_for("all to settle", SOON, || (server.keys("v/").len() == 20).then_some(()));
    let kept = server.objects("v/");
    let names = || std::fs::read_dir(&place.at).unwrap().count();
    let status = || {
        let said = finish(s3vol(&server).arg("status").arg("--state").arg(place.state())).1;
        said.contains("is gone from the bucket").then_some(())
    };
    // A single object that goes takes its file along.
    assert!(server.delete_foreign("v/f0"));
    wait_for("f0 to go", SOON, || (names() == 19).then_some(()));
    for (key, _) in kept.iter().skip(1) {
        assert!(server.delete_foreign(key));
    }
    wait_for("it to be seen", SOON, || {
        names();
        status()
    });
    assert_eq!(names(), 19);
    assert_eq!(std::fs::read_to_string(place.file("f7")).unwrap(), "content 7");
    // One by one they are no less there.
    assert!((1..20).all(|n| place.file(&format!("f{n}")).exists()));
    for (key, object) in &kept {
        server.put_foreign(key, object.body.clone(), &[]);
    }
    wait_for("f0 to come back", SOON, || (names() == 20).then_some(()));
    mount.end_well();
}

#[test]
fn a_directory_is_renamed_without_a_request_for_what_is_below() {
    let (server, place) = (TestS3::start(), Place::new());
    for number in 0..300 {
        server.put_foreign(&format!("v/many/{number}"), "x", &[]);
    }
    let url = format!("s3://{}/v", server.bucket());
    let mount = Mount::start(Some(&server), &place, &url, &["refresh=1h", "settle_after=1h"]);
    assert_eq!(std::fs::read_dir(place.file("many")).unwrap().count(), 300);
    server.clear_log();
    std::fs::rename(place.file("many"), place.file("moved")).unwrap();
    let asked: Vec<_> = server.log().into_iter().filter(|r| r.key.starts_with("v/many/")).collect();
    assert!(asked.is_empty(), "{asked:?}");
    assert_eq!(std::fs::read_to_string(place.file("moved/7")).unwrap(), "x");
    mount.end_well();
    // With the marker of the directory itself.
    assert_eq!((server.keys("v/many/").len(), server.keys("v/moved/").len()), (0, 301));
}
