//! From an engine that the program cannot read to its own: the export that an unmount leaves, and what
//! becomes of it.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use serde_json::{Value, json};

use super::rig::{GIVEN_BACK, Mount, Place, SOON, finish, object, s3vol};
use super::support::s3server::{Action, Op, Rule, TestS3};
use super::support::wait_for;

const OURS: &str = "meta/slatedb-0.18/";
const THEIRS: &str = "meta/other-9/";

/// The folder of the only volume's state.
fn state(server: &TestS3) -> String {
    let keys = server.keys(".s3vol/v/");
    let format = keys.iter().find(|key| key.ends_with("format.json")).expect("a volume");
    format.trim_end_matches("format.json").to_owned()
}

fn format(server: &TestS3) -> Value {
    let text = object(server, &format!("{}format.json", state(server))).expect("format.json");
    serde_json::from_str(&text).unwrap()
}

fn put_format(server: &TestS3, format: &Value) {
    server.put_foreign(&format!("{}format.json", state(server)), format.to_string(), &[]);
}

fn leases(server: &TestS3) -> Vec<String> {
    let prefix = format!("{}lease/", state(server));
    server.keys(&prefix).iter().map(|key| key[prefix.len()..].to_owned()).collect()
}

/// As if another version had written the volume: its engine's files are in another format.
fn write_with_another_engine(server: &TestS3) {
    let state = state(server);
    let ours = format!("{state}{OURS}");
    for (key, _) in server.objects(&ours) {
        let theirs = format!("{state}{THEIRS}{}", &key[ours.len()..]);
        server.put_foreign(&theirs, "nothing that this version can read", &[]);
        assert!(server.delete_foreign(&key));
    }
    let mut format = format(server);
    format["engine"] =
        json!({ "format": "other-9", "folder": "meta/other-9", "after": 0, "plugin": "9.9.9" });
    put_format(server, &format);
}

fn url(server: &TestS3) -> String {
    format!("s3://{}/v", server.bucket())
}

/// A volume with something of everything that only the records know, unmounted.
fn volume(server: &TestS3) {
    let place = Place::new();
    let mount = Mount::start(Some(server), &place, &url(server), &["settle=never"]);
    std::fs::create_dir(place.file("dir")).unwrap();
    std::fs::write(place.file("dir/file"), "content").unwrap();
    let mode = std::fs::Permissions::from_mode(0o4751);
    std::fs::set_permissions(place.file("dir/file"), mode).unwrap();
    std::fs::hard_link(place.file("dir/file"), place.file("link")).unwrap();
    std::os::unix::fs::symlink("dir/file", place.file("symlink")).unwrap();
    xattr::set(place.file("dir/file"), "user.large", &[7; 4000]).unwrap();
    xattr::set(place.file("dir/file"), "user.s3.cache-control", b"no-cache").unwrap();
    mount.end_well();
}

fn check(place: &Place) {
    let file = place.file("dir/file");
    assert_eq!(std::fs::read_to_string(place.file("symlink")).unwrap(), "content");
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o7777, 0o4751);
    assert_eq!(
        std::fs::metadata(&file).unwrap().ino(),
        place.file("link").metadata().unwrap().ino()
    );
    assert_eq!(xattr::get(&file, "user.large").unwrap(), Some(vec![7; 4000]));
    assert_eq!(xattr::get(&file, "user.s3.cache-control").unwrap(), Some(b"no-cache".to_vec()));
}

fn refused(server: &TestS3, options: &[&str]) -> String {
    let place = Place::new();
    let mut mount = Mount::begin(Some(server), &place, &url(server), options);
    assert_eq!(mount.ended(GIVEN_BACK).code(), Some(1), "{}", mount.said());
    mount.said()
}

#[test]
fn a_volume_of_another_engine_is_opened_from_its_export() {
    let server = TestS3::start();
    volume(&server);
    let before = leases(&server);
    write_with_another_engine(&server);

    let place = Place::new();
    let mount = Mount::start(Some(&server), &place, &url(&server), &["settle=never"]);
    check(&place);
    std::fs::write(place.file("new"), "by this version").unwrap();
    let format = format(&server);
    assert_eq!(format["engine"]["format"], "slatedb-0.18");
    assert_eq!(format.get("switching"), None);
    let folder = format["engine"]["folder"].as_str().unwrap();
    assert_ne!(format!("{folder}/"), OURS, "another engine of ours may still be writing there");
    assert_eq!(server.keys(&format!("{}{THEIRS}", state(&server))), Vec::<String>::new());
    mount.end_well();
    let after = leases(&server);
    assert!(after.last() > before.last(), "epochs go on: {before:?} {after:?}");

    let place = Place::new();
    let mount = Mount::start(Some(&server), &place, &url(&server), &["settle=never"]);
    check(&place);
    assert_eq!(std::fs::read_to_string(place.file("new")).unwrap(), "by this version");
    mount.end_well();
}

#[test]
fn an_export_that_is_not_of_the_last_use_is_not_believed() {
    let server = TestS3::start();
    volume(&server);
    let place = Place::new();
    let mount = Mount::start(Some(&server), &place, &url(&server), &["settle=never"]);
    std::fs::write(place.file("later"), "than the export").unwrap();
    mount.kill();
    // Its lease is a crashed host's, and runs out.
    server.set_clock_offset(120);
    write_with_another_engine(&server);
    let said = refused(&server, &["settle=never"]);
    assert!(said.contains("version 9.9.9"), "{said}");
    assert!(said.contains("did not unmount it"), "{said}");
    let keys = server.keys(&format!("{}{THEIRS}", state(&server)));
    assert!(!keys.is_empty(), "nothing of it was touched");
    assert_eq!(format(&server)["engine"]["format"], "other-9");

    // Nor does a follower change anything.
    let said = refused(&server, &["readonly"]);
    assert!(said.contains("version 9.9.9"), "{said}");
}

/// As if a host with the other version claimed the next epoch there: it says so before it serves.
fn claim_with_another_engine(server: &TestS3) {
    let (state, leases) = (state(server), leases(server));
    let last = leases.last().unwrap();
    let record = object(server, &format!("{state}lease/{last}")).unwrap();
    let mut record: Value = serde_json::from_str(&record).unwrap();
    record["state"] = json!("held");
    record["host"] = json!("old-host");
    let next = last.parse::<u64>().unwrap() + 1;
    server.put_foreign(&format!("{state}lease/{next:020}"), record.to_string(), &[]);
}

#[test]
fn a_host_that_takes_the_volume_while_a_change_is_announced_keeps_it() {
    let server = TestS3::start();
    volume(&server);
    write_with_another_engine(&server);
    server.fault(Rule::new(Op::Put, "format.json", 1, Action::Hold));
    let place = Place::new();
    let mut mount = Mount::begin(Some(&server), &place, &url(&server), &[]);
    wait_for("the announcement", SOON, || (server.held() == 1).then_some(()));
    claim_with_another_engine(&server);
    server.release();
    assert_eq!(mount.ended(GIVEN_BACK).code(), Some(1), "{}", mount.said());
    assert!(mount.said().contains("old-host"), "{}", mount.said());
    let format = format(&server);
    assert_eq!(format["engine"]["format"], "other-9");
    assert!(format["switching"].is_object(), "it was announced: {format}");
}

#[test]
fn a_host_that_takes_the_volume_beside_an_announced_change_does_not_serve_it() {
    let server = TestS3::start();
    volume(&server);
    // Between its look at format.json and its lease record somebody announces a change.
    server.fault(Rule::new(Op::Put, "/lease/", 1, Action::Hold));
    let place = Place::new();
    let mut mount = Mount::begin(Some(&server), &place, &url(&server), &["settle=never"]);
    wait_for("the lease record", SOON, || (server.held() == 1).then_some(()));
    let mut known = format(&server);
    known["switching"] =
        json!({ "format": "other-9", "folder": "meta/other-9-x", "after": 1, "plugin": "9.9.9" });
    put_format(&server, &known);
    server.release();
    assert_eq!(mount.ended(GIVEN_BACK).code(), Some(1), "{}", mount.said());
    assert!(mount.said().contains("just moving"), "{}", mount.said());
}

#[test]
fn a_host_of_the_old_version_that_has_the_volume_keeps_it() {
    let server = TestS3::start();
    volume(&server);
    write_with_another_engine(&server);
    claim_with_another_engine(&server);
    let said = refused(&server, &[]);
    assert!(said.contains("old-host"), "{said}");
    assert_eq!(format(&server)["engine"]["format"], "other-9");
}

#[test]
fn a_change_that_was_cut_short_is_called_off_or_goes_on() {
    let server = TestS3::start();
    volume(&server);
    let half =
        json!({ "format": "other-9", "folder": "meta/other-9-x", "after": 1, "plugin": "9.9.9" });

    // Somebody with a later version began, and this one still has the volume.
    let mut known = format(&server);
    known["switching"] = half;
    put_format(&server, &known);
    let place = Place::new();
    let mount = Mount::start(Some(&server), &place, &url(&server), &["settle=never"]);
    check(&place);
    mount.end_well();
    assert_eq!(format(&server).get("switching"), None);

    // This version began, and died before the end.
    write_with_another_engine(&server);
    let mut known = format(&server);
    known["switching"] = json!({ "format": "slatedb-0.18", "folder": "meta/slatedb-0.18-x", "after": 1, "plugin": "0.1.0" });
    put_format(&server, &known);
    server.put_foreign(&format!("{}meta/slatedb-0.18-x/wal/1.sst", state(&server)), "half", &[]);
    let place = Place::new();
    let mount = Mount::start(Some(&server), &place, &url(&server), &["settle=never"]);
    check(&place);
    assert_eq!(
        server.keys(&format!("{}meta/slatedb-0.18-x/", state(&server))),
        Vec::<String>::new()
    );
    mount.end_well();
}

#[test]
fn a_large_volume_is_exported_when_it_is_asked_for() {
    let server = TestS3::start();
    let place = Place::new();
    let mount = Mount::start(Some(&server), &place, &url(&server), &["settle=never"]);
    // More than an unmount exports by itself.
    for n in 0..150 {
        let file = place.file(&format!("f{n}"));
        std::fs::write(&file, "x").unwrap();
        xattr::set(&file, "user.large", &[n as u8; 60_000]).unwrap();
    }
    mount.end_well();
    let exports = |server: &TestS3| server.keys(&format!("{}export/", state(server)));
    assert_eq!(exports(&server), Vec::<String>::new());

    let export = |url: &str| {
        let place = Place::new();
        finish(s3vol(&server).arg("export").arg("--state").arg(place.state()).arg(url))
    };
    let (code, said, error) = export(&url(&server));
    assert_eq!(code, Some(0), "{error}");
    assert!(said.starts_with("exported "), "{said}");
    assert!(exports(&server).len() >= 3, "{:?}", exports(&server));
    let (code, _, error) = export(&format!("s3://{}/nowhere", server.bucket()));
    assert_eq!(code, Some(1));
    assert!(error.contains("there is no volume"), "{error}");

    write_with_another_engine(&server);
    let place = Place::new();
    let mount = Mount::start(Some(&server), &place, &url(&server), &["settle=never"]);
    for n in 0..150 {
        let file = place.file(&format!("f{n}"));
        assert_eq!(xattr::get(&file, "user.large").unwrap(), Some(vec![n as u8; 60_000]));
    }
    mount.end_well();
    assert_eq!(exports(&server), Vec::<String>::new(), "the one before is no longer the last");
}

#[test]
fn a_damaged_export_is_not_used() {
    let server = TestS3::start();
    volume(&server);
    write_with_another_engine(&server);
    let exports = server.keys(&format!("{}export/", state(&server)));
    let page = exports.iter().find(|key| key.ends_with("000000")).unwrap();
    let mut body = server.get(page).unwrap().body.to_vec();
    let middle = body.len() / 2;
    body[middle] ^= 1;
    server.put_foreign(page, body, &[]);
    let said = refused(&server, &[]);
    assert!(said.contains("is damaged"), "{said}");
    assert_eq!(format(&server)["engine"]["format"], "other-9");
}
