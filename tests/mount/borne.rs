//! What applications put on objects goes with the files, whatever is done to these. Put and read by
//! boto3, which knows nothing of this project.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::rig::{Mount, Place, SOON, finish, object, run_ok, s3vol};
use super::support::boto::Boto;
use super::support::s3server::TestS3;
use super::support::wait_for;

type Bears = BTreeMap<String, String>;

const GZIP: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Everything that an application may put on an object but an encoding.
fn everything(content_type: &str) -> Value {
    json!({
        "ContentType": content_type,
        "CacheControl": "public, max-age=60",
        "ContentDisposition": "inline; filename=\"x y\"",
        "ContentLanguage": "de, en",
        "Expires": "2030-01-01T00:00:00Z",
        "WebsiteRedirectLocation": "/other",
        "Metadata": { "color": "blue", "my-key": "with spaces: and = signs" },
        "Tagging": "team=web%20site&empty=",
        "StorageClass": "STANDARD_IA",
        "ServerSideEncryption": "AES256",
    })
}

/// The same as boto3 shows it.
fn all_of(content_type: &str) -> Bears {
    bears(&[
        ("content-type", content_type),
        ("cache-control", "public, max-age=60"),
        ("content-disposition", "inline; filename=\"x y\""),
        ("content-language", "de, en"),
        ("expires", "Tue, 01 Jan 2030 00:00:00 GMT"),
        ("x-amz-website-redirect-location", "/other"),
        ("x-amz-meta-color", "blue"),
        ("x-amz-meta-my-key", "with spaces: and = signs"),
        ("x-amz-storage-class", "STANDARD_IA"),
        ("x-amz-server-side-encryption", "AES256"),
        ("tag team", "web site"),
        ("tag empty", ""),
    ])
}

fn bears(pairs: &[(&str, &str)]) -> Bears {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn get(path: &Path, name: &str) -> Option<String> {
    xattr::get(path, name).unwrap().map(|value| String::from_utf8(value).unwrap())
}

fn set(path: &Path, name: &str, value: &str) {
    xattr::set(path, name, value.as_bytes()).unwrap_or_else(|e| panic!("{name}={value}: {e}"));
}

fn errno(result: std::io::Result<()>) -> Option<i32> {
    result.unwrap_err().raw_os_error()
}

fn append(path: &Path, text: &[u8]) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(text).unwrap();
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn url(server: &TestS3) -> String {
    format!("s3://{}/v", server.bucket())
}

/// Waits until what is done at rest is done; unlike an unmount it leaves the time for changes of
/// attributes alone.
fn at_rest(server: &TestS3, key: &str, body: &[u8]) {
    wait_for(key, SOON, || server.get(key).filter(|object| object.body[..] == *body));
}

#[test]
fn what_applications_put_on_objects_goes_with_the_files() {
    let (server, place) = (TestS3::start(), Place::new());
    let mut boto = Boto::new(&server);
    let site = [
        ("index.html", "text/html; charset=iso-8859-1"),
        ("style.css", "text/x-css"),
        ("logo.svg", "image/svg+xml; charset=utf-8"),
        ("photo.jpg", "image/jpg"),
        ("plain.bin", "application/x-thing"),
        ("pages/one.html", "text/html; charset=one"),
        ("pages/deep/two.html", "text/html; charset=two"),
    ];
    for (name, content_type) in site {
        boto.put(&format!("v/{name}"), name.as_bytes(), everything(content_type));
    }
    boto.put("v/pages/", b"", everything("application/x-directory"));
    boto.put("v/pages/deep/", b"", everything("application/x-directory; deep"));
    let mut zipped = everything("text/html");
    zipped["ContentEncoding"] = json!("gzip");
    for name in ["zipped.html", "rewritten.html"] {
        boto.put(&format!("v/{name}"), GZIP, zipped.clone());
    }

    let options = ["settle_after=100ms", "refresh=1s"];
    let mount = Mount::start(Some(&server), &place, &url(&server), &options);
    let at = |name: &str| place.file(name);
    assert_eq!(get(&at("index.html"), "user.s3.content-type").as_deref(), Some(site[0].1));
    assert_eq!(get(&at("index.html"), "user.s3.tag.team").as_deref(), Some("web site"));
    assert_eq!(get(&at("index.html"), "user.s3.meta.color").as_deref(), Some("blue"));
    assert_eq!(get(&at("index.html"), "user.s3.storage-class").as_deref(), Some("STANDARD_IA"));
    assert_eq!(get(&at("pages"), "user.s3.cache-control").as_deref(), Some("public, max-age=60"));
    let listed = xattr::list(at("index.html")).unwrap().count();
    assert_eq!(listed, 12, "{:?}", xattr::list(at("index.html")).unwrap().collect::<Vec<_>>());

    // Attributes alone, new content in both ways, names of files and of directories above.
    chmod(&at("index.html"), 0o600);
    File::open(at("index.html")).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    append(&at("style.css"), b" and more");
    std::fs::write(at("plain.bin"), vec![7; 9 << 20]).unwrap();
    std::fs::rename(at("photo.jpg"), at("picture")).unwrap();
    std::fs::rename(at("pages"), at("moved")).unwrap();
    chmod(&at("moved/deep"), 0o700);
    std::fs::hard_link(at("logo.svg"), at("second.svg")).unwrap();
    append(&at("zipped.html"), GZIP);
    std::fs::write(at("rewritten.html"), "<html>plain</html>").unwrap();
    // Content is new, and so is a file; with its attributes it is a copy.
    std::fs::copy(at("style.css"), at("copy.css")).unwrap();
    run_ok("cp", &["-a".as_ref(), at("index.html").as_ref(), at("archive").as_ref()]);
    let (from, to) = (at("index.html"), at("synced"));
    run_ok("rsync", &["-X".as_ref(), from.as_ref(), to.as_ref()]);
    std::fs::write(at("new.html"), "new").unwrap();
    std::fs::write(at("README"), "new").unwrap();
    std::fs::create_dir(at("made")).unwrap();
    mount.end_well();

    let mut has = |name: &str| boto.bears(&format!("v/{name}"));
    for (name, of) in [("index.html", 0), ("style.css", 1), ("logo.svg", 2), ("second.svg", 2)] {
        assert_eq!(has(name), all_of(site[of].1), "{name}");
    }
    assert_eq!(has("picture"), all_of(site[3].1));
    assert_eq!(has("plain.bin"), all_of(site[4].1));
    assert_eq!(has("moved/one.html"), all_of(site[5].1));
    assert_eq!(has("moved/deep/two.html"), all_of(site[6].1));
    assert_eq!(has("moved/"), all_of("application/x-directory"));
    assert_eq!(has("moved/deep/"), all_of("application/x-directory; deep"));
    assert_eq!(has("archive"), all_of(site[0].1));
    assert_eq!(has("synced"), all_of(site[0].1));
    let mut encoded = all_of("text/html");
    assert_eq!(has("rewritten.html"), encoded);
    encoded.insert("content-encoding".into(), "gzip".into());
    assert_eq!(has("zipped.html"), encoded);
    assert_eq!(has("copy.css"), bears(&[("content-type", "text/css; charset=utf-8")]));
    assert_eq!(has("new.html"), bears(&[("content-type", "text/html; charset=utf-8")]));
    assert_eq!(has("README"), bears(&[("content-type", "binary/octet-stream")]));
    assert_eq!(has("made/"), bears(&[("content-type", "binary/octet-stream")]));
    assert!(server.keys("v/pages").is_empty(), "{:?}", server.keys("v/"));
    assert_eq!(object(&server, "v/style.css").as_deref(), Some("style.css and more"));
    let told = server.get("v/index.html").unwrap().metadata.contains_key("xattr");
    assert!(!told, "what the object shows is not told twice");
}

#[test]
fn programs_see_and_set_what_an_object_bears() {
    let (server, place) = (TestS3::start(), Place::new());
    let mut boto = Boto::new(&server);
    boto.put("v/theirs", b"x", everything("a/b"));
    let options = ["content_type=x/default"];
    let mount = Mount::start(Some(&server), &place, &url(&server), &options);
    let (ours, theirs, dir) = (place.file("ours.html"), place.file("theirs"), place.file("dir"));
    std::fs::write(&ours, "x").unwrap();
    std::fs::create_dir(&dir).unwrap();
    // What nobody gave shows, and is not listed: a copy would have it for ever.
    assert_eq!(get(&ours, "user.s3.content-type").as_deref(), Some("x/default"));
    assert_eq!(xattr::list(&ours).unwrap().count(), 0);
    for (name, value) in [
        ("user.s3.content-type", "text/plain"),
        ("user.s3.cache-control", "no-store"),
        ("user.s3.meta.made-by", "hand"),
        ("user.s3.tag.state", "new file"),
        ("user.s3.storage-class", "STANDARD_IA"),
        ("user.s3.encryption", "AES256"),
        ("user.color", "red"),
    ] {
        set(&ours, name, value);
        assert_eq!(get(&ours, name).as_deref(), Some(value));
    }
    set(&dir, "user.s3.meta.kind", "folder");
    set(&theirs, "user.s3.cache-control", "no-cache");
    for gone in ["user.s3.content-language", "user.s3.tag.team", "user.s3.meta.color"] {
        xattr::remove(&theirs, gone).unwrap();
        assert_eq!(get(&theirs, gone), None);
    }

    for (name, value, why) in [
        ("user.s3.content-type", "text/plain\n", libc::EINVAL),
        ("user.s3.content-type", "", libc::EINVAL),
        ("user.s3.colour", "red", libc::EINVAL),
        ("user.s3.meta.mode", "33188", libc::EINVAL),
        ("user.s3.meta.Upper", "x", libc::EINVAL),
        ("user.s3.meta.a", "\u{fc}", libc::EINVAL),
        ("user.s3.storage-class", "GLACIER", libc::EINVAL),
        ("user.s3.encryption", "rot13", libc::EINVAL),
        ("user.s3.tag.a", "a?b", libc::EINVAL),
    ] {
        assert_eq!(errno(xattr::set(&ours, name, value.as_bytes())), Some(why), "{name}={value}");
        assert_ne!(get(&ours, name).as_deref(), Some(value));
    }
    let long = "x".repeat(3000);
    assert_eq!(errno(xattr::set(&ours, "user.s3.meta.a", long.as_bytes())), Some(libc::E2BIG));
    let large = &long[..1900];
    assert_eq!(errno(xattr::set(&ours, "user.s3.meta.a", large.as_bytes())), Some(libc::ENOSPC));
    for number in 0..10 {
        set(&dir, &format!("user.s3.tag.{number}"), "");
    }
    assert_eq!(errno(xattr::set(&dir, "user.s3.tag.more", b"")), Some(libc::ENOSPC));
    // As other attributes of users: who may write.
    chmod(&ours, 0o644);
    let denied = Command::new("setpriv")
        .args(["--reuid=1234", "--regid=1234", "--clear-groups", "setfattr"])
        .args(["-n", "user.s3.cache-control", "-v", "x"])
        .arg(&ours)
        .output()
        .unwrap();
    assert!(!denied.status.success());
    mount.end_well();

    let expected = bears(&[
        ("content-type", "text/plain"),
        ("cache-control", "no-store"),
        ("x-amz-meta-made-by", "hand"),
        ("x-amz-storage-class", "STANDARD_IA"),
        ("x-amz-server-side-encryption", "AES256"),
        ("tag state", "new file"),
    ]);
    assert_eq!(boto.bears("v/ours.html"), expected);
    assert_eq!(boto.bears("v/dir/")["x-amz-meta-kind"], "folder");
    let mut expected = all_of("a/b");
    expected.insert("cache-control".into(), "no-cache".into());
    for gone in ["content-language", "tag team", "x-amz-meta-color"] {
        expected.remove(gone);
    }
    assert_eq!(boto.bears("v/theirs"), expected);

    // What nobody gave any more is guessed anew.
    let mount = Mount::start(Some(&server), &place, &url(&server), &["content_type=none"]);
    assert_eq!(get(&ours, "user.s3.tag.state").as_deref(), Some("new file"));
    for name in ["user.s3.content-type", "user.s3.tag.state", "user.s3.meta.made-by"] {
        xattr::remove(&ours, name).unwrap();
    }
    mount.end_well();
    let left = boto.bears("v/ours.html");
    assert_eq!(left["content-type"], "binary/octet-stream");
    assert!(
        !left.contains_key("tag state") && !left.contains_key("x-amz-meta-made-by"),
        "{left:?}"
    );
}

/// A condition compares ETags, and what others change besides the bytes leaves them as they are.
#[test]
fn what_others_change_just_before_a_publish_stays() {
    let (server, place) = (TestS3::start(), Place::new());
    let mut boto = Boto::new(&server);
    let options = ["settle_after=100ms", "refresh=1h"];
    let mount = Mount::start(Some(&server), &place, &url(&server), &options);
    let files = ["tagged", "headed", "renamed", "parked", "written"];
    for name in files {
        std::fs::write(place.file(name), name).unwrap();
    }
    for name in files {
        at_rest(&server, &format!("v/{name}"), name.as_bytes());
    }
    let source = |key: &str| json!({ "CopySource": format!("{}/{key}", server.bucket()) });
    // So that the objects have another time, too.
    server.set_clock_offset(3);
    for name in files {
        let key = format!("v/{name}");
        let mut copy = source(&key);
        copy["MetadataDirective"] = json!("REPLACE");
        copy["ContentType"] = json!(format!("x/{name}"));
        copy["Metadata"] = json!({ "by": "others" });
        if name != "tagged" {
            boto.call("copy_object", &key, copy);
        }
        let tags = json!({ "Tagging": { "TagSet": [{ "Key": "of", "Value": name }] } });
        boto.call("put_object_tagging", &key, tags);
    }
    let follower = Place::new();
    let reads = Mount::start(Some(&server), &follower, &url(&server), &["readonly=true"]);
    assert_eq!(std::fs::read_to_string(follower.file("headed")).unwrap(), "headed");
    reads.end_well();
    // Nobody looked at the bucket since.
    append(&place.file("tagged"), b"!");
    append(&place.file("headed"), b"!");
    std::fs::rename(place.file("renamed"), place.file("new name")).unwrap();
    // A circle: one of the two has to be parked.
    std::fs::rename(place.file("parked"), place.file("t")).unwrap();
    std::fs::rename(place.file("written"), place.file("parked")).unwrap();
    std::fs::rename(place.file("t"), place.file("written")).unwrap();
    at_rest(&server, "v/tagged", b"tagged!");
    at_rest(&server, "v/headed", b"headed!");
    at_rest(&server, "v/new name", b"renamed");
    at_rest(&server, "v/written", b"parked");
    at_rest(&server, "v/parked", b"written");
    let mut expect = |key: &str, of: &str| {
        let content_type = format!("x/{of}");
        let expected = [("content-type", content_type.as_str()), ("x-amz-meta-by", "others")];
        let mut expected = bears(&expected);
        if of == "tagged" {
            expected = bears(&[("content-type", "binary/octet-stream")]);
        }
        expected.insert("tag of".into(), of.into());
        assert_eq!(boto.bears(key), expected, "{key}");
    };
    expect("v/tagged", "tagged");
    expect("v/headed", "headed");
    expect("v/new name", "renamed");
    expect("v/written", "parked");
    expect("v/parked", "written");
    mount.end_well();
}

/// What is changed here and not published yet is not lost to others' new bytes, nor they to it.
#[test]
fn changes_of_both_sides_meet() {
    let (server, place) = (TestS3::start(), Place::new());
    let mut boto = Boto::new(&server);
    for name in ["mode", "set", "written"] {
        boto.put(&format!("v/{name}"), b"first", everything("a/first"));
    }
    let options = ["settle_after=1h", "refresh=0s"];
    let mount = Mount::start(Some(&server), &place, &url(&server), &options);
    chmod(&place.file("mode"), 0o600);
    set(&place.file("set"), "user.s3.cache-control", "no-cache");
    append(&place.file("written"), b" and more");
    for name in ["mode", "set"] {
        boto.put(&format!("v/{name}"), b"second one", everything("a/second"));
        let path = place.file(name);
        wait_for("their content", SOON, || {
            (std::fs::read(&path).unwrap() == b"second one").then_some(())
        });
    }
    // The same bytes with other headers are no conflict with what was written here.
    boto.put("v/written", b"first", everything("a/second"));
    assert_eq!(std::fs::read(place.file("written")).unwrap(), b"first and more");
    assert_eq!(std::fs::metadata(place.file("mode")).unwrap().permissions().mode() & 0o777, 0o600);
    mount.end_well();
    assert_eq!(boto.bears("v/mode"), all_of("a/second"));
    let mode = server.get("v/mode").unwrap().metadata["mode"].clone();
    assert_eq!(mode, (libc::S_IFREG | 0o600).to_string());
    let mut ours = all_of("a/first");
    ours.insert("cache-control".into(), "no-cache".into());
    assert_eq!(boto.bears("v/set"), ours);
    assert_eq!(object(&server, "v/set").as_deref(), Some("second one"));
    assert_eq!(boto.bears("v/written"), all_of("a/second"));
    assert_eq!(object(&server, "v/written").as_deref(), Some("first and more"));
    assert_eq!(server.keys("v/").len(), 3, "{:?}", server.keys("v/"));
}

#[test]
fn tags_that_cannot_be_read_stay_where_the_store_copies() {
    let (server, place) = (TestS3::start(), Place::new());
    let mut boto = Boto::new(&server);
    for name in ["changed", "renamed", "written"] {
        boto.put(&format!("v/{name}"), b"x", everything("a/b"));
    }
    boto.put("v/dir/", b"", everything("a/dir"));
    server.copy_any_tags();
    server.deny("s3:GetObjectTagging");
    let mount = Mount::start(Some(&server), &place, &url(&server), &["settle_after=100ms"]);
    std::fs::rename(place.file("renamed"), place.file("new name")).unwrap();
    chmod(&place.file("changed"), 0o600);
    chmod(&place.file("dir"), 0o700);
    std::fs::write(place.file("written"), "new content").unwrap();
    at_rest(&server, "v/new name", b"x");
    let status = finish(s3vol(&server).arg("status").arg("--state").arg(place.state())).1;
    assert!(status.contains("s3:GetObjectTagging"), "{status}");
    mount.end_well();
    server.allow_all();
    assert_eq!(boto.bears("v/new name"), all_of("a/b"));
    assert_eq!(boto.bears("v/changed"), all_of("a/b"));
    assert_eq!(boto.bears("v/dir/"), all_of("a/dir"));
    let mut untagged = all_of("a/b");
    untagged.retain(|name, _| !name.starts_with("tag "));
    assert_eq!(boto.bears("v/written"), untagged);
    let mode = server.get("v/changed").unwrap().metadata["mode"].clone();
    assert_eq!(mode, (libc::S_IFREG | 0o600).to_string());
}

#[test]
fn what_an_object_bears_outlives_the_host_and_shows_on_followers() {
    let (server, place) = (TestS3::start(), Place::new());
    let mut boto = Boto::new(&server);
    boto.put("v/theirs", b"theirs", everything("a/theirs"));
    boto.put("v/both", b"both", everything("a/both"));
    let options = ["settle_after=1d", "refresh=1s"];
    let mount = Mount::start(Some(&server), &place, &url(&server), &options);
    assert!(place.file("theirs").exists() && place.file("both").exists());
    std::fs::write(place.file("theirs"), "written here").unwrap();
    std::fs::write(place.file("both"), "written here").unwrap();
    std::fs::write(place.file("ours"), "ours").unwrap();
    set(&place.file("ours"), "user.s3.content-type", "a/ours");
    for name in ["theirs", "both", "ours"] {
        File::open(place.file(name)).unwrap().sync_all().unwrap();
    }
    // Changed on both sides: each keeps what it bears.
    boto.put("v/both", b"others wrote too", json!({ "ContentType": "a/second" }));
    let aside = wait_for("the conflict", SOON, || {
        let names = std::fs::read_dir(&place.at).unwrap().map(|e| e.unwrap().file_name());
        names.map(|n| n.into_string().unwrap()).find(|n| n.starts_with("both.s3vol-conflict-"))
    });
    File::open(&place.at).unwrap().sync_all().unwrap();
    mount.kill();

    let follower = Place::new();
    let reads = Mount::start(Some(&server), &follower, &url(&server), &["readonly=true"]);
    assert_eq!(get(&follower.file("ours"), "user.s3.content-type").as_deref(), Some("a/ours"));
    assert_eq!(get(&follower.file("theirs"), "user.s3.tag.team").as_deref(), Some("web site"));
    reads.end_well();

    server.set_clock_offset(100);
    let other = Place::new();
    let mount = Mount::start(Some(&server), &other, &url(&server), &["settle_after=100ms"]);
    assert_eq!(get(&other.file("ours"), "user.s3.content-type").as_deref(), Some("a/ours"));
    mount.end_well();
    assert_eq!(object(&server, "v/theirs").as_deref(), Some("written here"));
    assert_eq!(boto.bears("v/theirs"), all_of("a/theirs"));
    assert_eq!(boto.bears(&format!("v/{aside}")), all_of("a/both"));
    assert_eq!(object(&server, "v/both").as_deref(), Some("others wrote too"));
    assert_eq!(boto.bears("v/both"), bears(&[("content-type", "a/second")]));
    assert_eq!(boto.bears("v/ours"), bears(&[("content-type", "a/ours")]));
}

#[test]
fn what_an_object_bears_survives_parking_links_conflicts_and_its_return() {
    let (server, place) = (TestS3::start(), Place::new());
    let mut boto = Boto::new(&server);
    for name in ["one", "two", "three", "theirs", "gone", "copied"] {
        boto.put(&format!("v/{name}"), name.as_bytes(), everything(&format!("a/{name}")));
    }
    let options = ["settle_after=200ms", "refresh=200ms"];
    let mount = Mount::start(Some(&server), &place, &url(&server), &options);
    let at = |name: &str| place.file(name);
    // A cycle, which parking breaks, each with a second name.
    for name in ["one", "two", "three"] {
        std::fs::hard_link(at(name), at(&format!("link to {name}"))).unwrap();
    }
    for (from, to) in [("one", "t"), ("two", "one"), ("three", "two"), ("t", "three")] {
        std::fs::rename(at(from), at(to)).unwrap();
    }
    at_rest(&server, "v/one", b"two");
    at_rest(&server, "v/two", b"three");
    at_rest(&server, "v/three", b"one");
    // And back, with other content.
    append(&at("one"), b" and more");
    for (from, to) in [("one", "t"), ("three", "one"), ("two", "three"), ("t", "two")] {
        std::fs::rename(at(from), at(to)).unwrap();
    }
    // Gone and back: removed by others, copied back by a tool that keeps what it finds.
    let copy = |from: &str| {
        json!({
            "CopySource": { "Bucket": server.bucket(), "Key": from },
            // What a copy loses unless it is told.
            "StorageClass": "STANDARD_IA",
            "ServerSideEncryption": "AES256",
            "WebsiteRedirectLocation": "/other",
        })
    };
    boto.call("copy_object", "kept/gone", copy("v/gone"));
    boto.call("delete_object", "v/gone", json!({}));
    wait_for("its name goes", SOON, || (!at("gone").exists()).then_some(()));
    boto.call("copy_object", "v/gone", copy("kept/gone"));
    wait_for("its name returns", SOON, || at("gone").exists().then_some(()));
    append(&at("gone"), b" and back");
    // A conflict: both sides keep what is theirs.
    std::fs::write(at("theirs"), "written here").unwrap();
    boto.put("v/theirs", b"others wrote too", everything("a/others"));
    let aside = wait_for("the conflict", SOON, || {
        let names = std::fs::read_dir(&place.at).unwrap().map(|e| e.unwrap().file_name());
        names.map(|n| n.into_string().unwrap()).find(|n| n.starts_with("theirs.s3vol-conflict-"))
    });
    // Whole trees and single files, by tools that copy extended attributes.
    for name in ["tree", "synced"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    run_ok("cp", &["-a".as_ref(), at("copied").as_ref(), at("tree/copied").as_ref()]);
    run_ok("rsync", &["-aHX".as_ref(), at("tree/").as_ref(), at("synced/").as_ref()]);
    mount.end_well();

    for (name, body) in [("one", "one"), ("two", "two and more"), ("three", "three")] {
        for key in [format!("v/{name}"), format!("v/link to {name}")] {
            assert_eq!(object(&server, &key).as_deref(), Some(body), "{key}");
            assert_eq!(boto.bears(&key), all_of(&format!("a/{name}")), "{key}");
        }
    }
    assert_eq!(object(&server, "v/gone").as_deref(), Some("gone and back"));
    assert_eq!(boto.bears("v/gone"), all_of("a/gone"));
    assert_eq!(object(&server, "v/theirs").as_deref(), Some("others wrote too"));
    assert_eq!(boto.bears("v/theirs"), all_of("a/others"));
    let aside = format!("v/{aside}");
    assert_eq!(object(&server, &aside).as_deref(), Some("written here"));
    assert_eq!(boto.bears(&aside), all_of("a/theirs"));
    for key in ["v/copied", "v/tree/copied", "v/synced/copied"] {
        assert_eq!(boto.bears(key), all_of("a/copied"), "{key}");
    }
}
