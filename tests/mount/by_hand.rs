//! What is asked for by hand: `s3vol settle` and `s3vol takeover`.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use s3vol::meta::log::Header;
use s3vol::meta::{LocalLog, Record};
use s3vol::types::{Epoch, VolumeId};
use serde_json::json;

use super::plugin::Plugin;
use super::rig::{Mount, Place, finish, object, s3vol};
use super::support::s3server::{Action, Op, Rule, TestS3};

/// Nothing is committed or settled by itself.
const BY_HAND: [&str; 2] = ["commit=5m", "settle_after=1d"];

type Said = (Option<i32>, String, String);

fn run(server: &TestS3, place: &Place, command: &[&str]) -> Said {
    let mut program = s3vol(server);
    let state = place.state();
    finish(program.arg(command[0]).arg("--state").arg(state).args(&command[1..]))
}

fn url(server: &TestS3) -> String {
    format!("s3://{}/v", server.bucket())
}

#[test]
fn settle_waits_until_all_is_at_rest_and_names_what_is_not() {
    let (server, place) = (TestS3::start(), Place::new());
    let url = url(&server);
    let mount = Mount::start(Some(&server), &place, &url, &BY_HAND);
    for number in 0..20 {
        std::fs::write(place.file(&format!("f{number}")), format!("content {number}")).unwrap();
    }
    // A file that a program still writes is settled as it is.
    let mut open = File::create(place.file("open")).unwrap();
    open.write_all(b"so far").unwrap();
    assert!(server.keys("v/").is_empty(), "{:?}", server.keys("v/"));
    let (code, out, errors) = run(&server, &place, &["settle", &url]);
    assert_eq!((code, out.as_str()), (Some(0), "everything is at rest\n"), "{errors}");
    assert!(errors.contains("0 files with 0 bytes to settle"), "{errors}");
    assert_eq!(object(&server, "v/f19").as_deref(), Some("content 19"));
    assert_eq!(object(&server, "v/open").as_deref(), Some("so far"));
    drop(open);

    // By its name, with a file that cannot rest.
    std::fs::write(place.file("f0"), "newer").unwrap();
    let holes = File::create(place.file("holes")).unwrap();
    holes.set_len(1 << 30).unwrap();
    drop(holes);
    let (code, out, errors) = run(&server, &place, &["settle", "v"]);
    assert_eq!(code, Some(3), "{out}{errors}");
    assert!(out.contains("1 files with 1073741824 bytes are not at rest"), "{out}");
    assert!(out.contains("v/holes: more than half of it is holes"), "{out}");
    assert_eq!(object(&server, "v/f0").as_deref(), Some("newer"));
    std::fs::remove_file(place.file("holes")).unwrap();
    mount.end_well();

    let (code, _, errors) = run(&server, &place, &["settle", "nobody", "--socket", "/nowhere"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("no plugin answers at /nowhere"), "{errors}");
}

#[test]
fn settle_opens_what_nobody_has_mounted() {
    let (server, place) = (TestS3::start(), Place::new());
    let url = url(&server);
    let mount = Mount::start(Some(&server), &place, &url, &BY_HAND);
    std::fs::write(place.file("synced"), "in the bucket").unwrap();
    File::open(place.file("synced")).unwrap().sync_all().unwrap();
    std::fs::write(place.file("logged"), "only here").unwrap();
    mount.kill();
    let (code, out, errors) = run(&server, &place, &["settle", &url, "-o", BY_HAND[1]]);
    assert_eq!((code, out.as_str()), (Some(0), "everything is at rest\n"), "{errors}");
    assert_eq!(object(&server, "v/synced").as_deref(), Some("in the bucket"));
    assert_eq!(object(&server, "v/logged").as_deref(), Some("only here"));
    // It was given back: another host has it at once.
    let other = Place::new();
    let mount = Mount::start(Some(&server), &other, &url, &[]);
    assert_eq!(std::fs::read_to_string(other.file("logged")).unwrap(), "only here");

    // And what another host has is not opened.
    let (code, _, errors) = run(&server, &place, &["settle", &url]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("holds this volume"), "{errors}");
    mount.end_well();
}

#[test]
fn a_tool_whose_engine_broke_meanwhile_gives_the_volume_back() {
    for tool in ["settle", "export"] {
        let (server, place) = (TestS3::start(), Place::new());
        let url = url(&server);
        let mount = Mount::start(Some(&server), &place, &url, &BY_HAND);
        std::fs::write(place.file("logged"), "only here").unwrap();
        mount.kill();
        // The first is the engine's own when it opens.
        server.fault(Rule::new(Op::Put, "/wal/", 1, Action::Status(412)).after(1));
        let (code, out, errors) = run(&server, &place, &[tool, &url]);
        assert_eq!((code, server.faults_left()), (Some(0), 0), "{tool}: {out}{errors}");
        let mut objects = server.objects(".s3vol/v/").into_iter();
        let (epoch, last) = objects.rfind(|(key, _)| key.contains("/lease/")).unwrap();
        // The mount's, the one that the tool claimed, and the one that its engine claimed.
        assert!(epoch.ends_with("/lease/00000000000000000003"), "{tool}: {epoch}");
        let last: serde_json::Value = serde_json::from_slice(&last.body).unwrap();
        assert_eq!(last["state"], json!("released"), "{tool}: {epoch}");
        // Nobody waits for a sign of life of the epoch that the engine claimed by itself.
        let (other, begun) = (Place::new(), Instant::now());
        let mount = Mount::start(Some(&server), &other, &url, &[]);
        assert!(begun.elapsed() < Duration::from_secs(10), "{tool}: it was waited for");
        assert_eq!(std::fs::read_to_string(other.file("logged")).unwrap(), "only here");
        mount.end_well();
    }
}

#[test]
fn takeover_says_what_is_at_risk_asks_and_does_it_at_once() {
    let (server, old, new) = (TestS3::start(), Place::new(), Place::new());
    let url = url(&server);
    let mut holder = Mount::start(Some(&server), &old, &url, &BY_HAND);
    std::fs::write(old.file("f"), "synced").unwrap();
    let synced = File::open(old.file("f")).unwrap();
    synced.sync_all().unwrap();
    std::fs::write(old.file("mine"), "only there").unwrap();

    // Not from under a process of this very host, nor without consent.
    let (code, _, errors) = run(&server, &old, &["takeover", "--yes", &url]);
    assert!(code == Some(1) && errors.contains("is used on this host"), "{errors}");
    let (code, out, errors) = run(&server, &new, &["takeover", &url]);
    assert!(code == Some(1) && errors.contains("--yes"), "{out}{errors}");
    for told in ["held by   host", "renewed ", "last commit reached", "epochs ", "at risk "] {
        assert!(out.contains(told), "{told}: {out}");
    }
    synced.sync_all().expect("it was only asked");

    let begun = Instant::now();
    let (code, out, errors) = run(&server, &new, &["takeover", "--yes", &url]);
    assert!(code == Some(0) && out.contains("is free; the next mount has it"), "{out}{errors}");
    let (code, out, _) = run(&server, &new, &["takeover", &url]);
    assert!(code == Some(0) && out.contains("is free"), "{out}");
    let mount = Mount::start(Some(&server), &new, &url, &[]);
    assert!(begun.elapsed() < Duration::from_secs(15), "a lease was waited for");
    assert_eq!(std::fs::read_to_string(new.file("f")).unwrap(), "synced");
    // The name was there before the last sync, the content was not synced.
    assert_eq!(std::fs::read(new.file("mine")).unwrap(), b"");
    std::fs::write(new.file("f"), "newer").unwrap();
    mount.end_well();

    // The old host learns of it, acknowledges nothing more, and leaves what it had for people.
    std::fs::write(old.file("mine"), "only there, and more").unwrap();
    let refused = File::open(old.file("mine")).unwrap().sync_all().unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EIO));
    drop(synced);
    holder.signal(libc::SIGTERM);
    assert_eq!(holder.ended(Duration::from_secs(60)).code(), Some(5), "{}", holder.said());
    let (_, out, errors) = finish(s3vol(&server).args(["recovered", "list", &url]));
    assert!(out.contains("1 files, 20 bytes"), "{out}{errors}");
    assert_eq!(object(&server, "v/f").as_deref(), Some("newer"));
}

#[test]
fn a_host_that_comes_back_to_a_volume_nobody_mounted_goes_on() {
    let (server, old, new) = (TestS3::start(), Place::new(), Place::new());
    let url = url(&server);
    let holder = Mount::start(Some(&server), &old, &url, &BY_HAND);
    std::fs::write(old.file("f"), "in its log").unwrap();
    holder.kill();
    let (code, out, errors) = run(&server, &new, &["takeover", "--yes", &url]);
    assert_eq!(code, Some(0), "{out}{errors}");
    let mount = Mount::start(Some(&server), &old, &url, &[]);
    assert_eq!(std::fs::read_to_string(old.file("f")).unwrap(), "in its log");
    mount.end_well();
}

#[test]
fn an_epoch_that_came_to_nothing_before_others_used_the_volume_keeps_no_later_log_from_going_on() {
    let (server, old, new) = (TestS3::start(), Place::new(), Place::new());
    let url = url(&server);
    let holder = Mount::start(Some(&server), &old, &url, &BY_HAND);
    let volumes = std::fs::read_dir(old.state().join("volumes")).unwrap();
    let folders =
        volumes.map(|entry| entry.unwrap().path()).filter(|path| !path.ends_with("trash"));
    let [folder] = &*folders.collect::<Vec<_>>() else { panic!("one volume") };
    holder.end_well();
    // As an opening leaves it that ended between its claim and its first record.
    let name = folder.file_name().unwrap().to_str().unwrap();
    let id = VolumeId(uuid::Uuid::parse_str(name).unwrap());
    std::fs::create_dir_all(folder.join("log")).unwrap();
    let header = Header::here(id).unwrap();
    let mut log = LocalLog::<Record>::open(&folder.join("log"), header.clone()).unwrap().log;
    log.append_epoch(Epoch(1)).unwrap();
    drop(log);
    let other = Mount::start(Some(&server), &new, &url, &[]);
    std::fs::write(new.file("theirs"), "of another host").unwrap();
    other.end_well();

    let holder = Mount::start(Some(&server), &old, &url, &BY_HAND);
    std::fs::write(old.file("f"), "in its log").unwrap();
    holder.kill();
    let epochs = LocalLog::<Record>::epochs(&folder.join("log"), &header).unwrap();
    assert_eq!(epochs.len(), 1, "{epochs:?}");
    let (code, out, errors) = run(&server, &new, &["takeover", "--yes", &url]);
    assert_eq!(code, Some(0), "{out}{errors}");
    let mount = Mount::start(Some(&server), &old, &url, &[]);
    assert_eq!(std::fs::read_to_string(old.file("f")).unwrap(), "in its log");
    mount.end_well();
}

#[test]
fn both_work_through_the_plugin_by_the_name_of_the_volume() {
    let server = TestS3::start();
    let (mut here, mut there) = (Plugin::start(&server), Plugin::start(&server));
    here.create("web", &[("commit", "5m"), ("settle_after", "1d")]).unwrap();
    let place = here.mount("web", "c1");
    std::fs::write(place.join("page"), "one").unwrap();
    let by_hand = |plugin: &Plugin, command: &str, more: &[&str]| {
        let state = plugin.dir.path().join("nothing here");
        let mut program = s3vol(&server);
        program.arg(command).arg("--state").arg(state).arg("--socket").arg(plugin.socket());
        finish(program.arg("web").args(more))
    };
    let (code, out, errors) = by_hand(&here, "settle", &[]);
    assert_eq!((code, out.as_str()), (Some(0), "everything is at rest\n"), "{errors}");
    assert_eq!(object(&server, "team/web/page").as_deref(), Some("one"));

    let (code, _, errors) = by_hand(&here, "takeover", &["--yes"]);
    assert!(code == Some(1) && errors.contains("is used on this host"), "{errors}");
    let (code, _, errors) = by_hand(&there, "settle", &[]);
    assert!(code == Some(1) && errors.contains("is not mounted on this host"), "{errors}");
    let asked = there.ok("S3vol.TakeOver", json!({ "Name": "web" }));
    assert_eq!(asked["Hold"]["host"], json!(s3vol::sys::hostname()), "{asked}");
    let stale = json!({ "Name": "web", "Epoch": 0 });
    let error = there.err("S3vol.TakeOver", stale);
    assert!(error.contains("epoch 0 has ended"), "{error}");
    let (code, out, errors) = by_hand(&there, "takeover", &["--yes"]);
    assert!(code == Some(0) && out.contains("is free"), "{out}{errors}");
    let begun = Instant::now();
    let place = there.mount("web", "c1");
    assert!(begun.elapsed() < Duration::from_secs(12), "a lease was waited for");
    assert_eq!(std::fs::read_to_string(place.join("page")).unwrap(), "one");
    there.unmount("web", "c1");
}
