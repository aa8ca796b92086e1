//! `s3vol plugin --socket`: the real supervisor, driver and workers, and a client as dockerd is one.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use s3vol::fault::points;
use serde_json::json;

use super::rig::{SOON, object};
use super::support::orders::Orders;
use super::support::s3server::{OTHER_ACCESS_KEY, OTHER_SECRET_KEY, TestS3};
pub use super::support::unmanaged::Plugin;
use super::support::unmanaged::s3vol_as;
use super::support::wait_for;
use super::support::watchdog::mounted;

fn write(place: &Path, name: &str, text: &str) {
    std::fs::write(place.join(name), text).unwrap();
}

#[test]
fn a_volume_lives() {
    let server = TestS3::start();
    let mut plugin = Plugin::start(&server);
    plugin.create("web", &[]).unwrap();
    let place = plugin.mount("web", "c1");
    write(&place, "page", "one");
    assert_eq!(plugin.status("web")["state"], "active");
    plugin.unmount("web", "c1");
    assert_eq!(object(&server, "team/web/page").as_deref(), Some("one"));

    // Within the linger: the same worker.
    let before = plugin.children("worker");
    let place = plugin.mount("web", "c2");
    assert_eq!(plugin.children("worker"), before);
    assert_eq!(std::fs::read_to_string(place.join("page")).unwrap(), "one");
    write(&place, "page", "two");
    let error = plugin.err("VolumeDriver.Remove", json!({ "Name": "web" }));
    assert!(error.contains("in use by 1 mount"), "{error}");
    plugin.unmount("web", "c2");
    assert_eq!(object(&server, "team/web/page").as_deref(), Some("two"));
    plugin.ok("VolumeDriver.Remove", json!({ "Name": "web" }));
    assert_eq!(plugin.ok("VolumeDriver.List", json!({}))["Volumes"], json!([]));
    assert!(plugin.children("worker").is_empty());
    assert!(!mounted(&place));

    // Brought back within the grace, with its data.
    plugin.create("web", &[]).unwrap();
    let place = plugin.mount("web", "c3");
    assert_eq!(std::fs::read_to_string(place.join("page")).unwrap(), "two");
    plugin.unmount("web", "c3");
}

#[test]
fn the_embedded_store_needs_no_settings() {
    let mut plugin = Plugin::with(None, &[]);
    plugin.create("v", &[]).unwrap();
    let place = plugin.mount("v", "1");
    write(&place, "f", "kept here");
    plugin.unmount("v", "1");
    let file = plugin.dir.path().join("state/store/v/f");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "kept here");
    let warning = plugin.status("v").to_string();
    assert!(warning.contains("docker plugin rm"), "{warning}");
}

#[test]
fn a_killed_driver_keeps_the_counts_and_the_mounts() {
    let server = TestS3::start();
    let mut plugin = Plugin::start(&server);
    plugin.create("v", &[]).unwrap();
    let place = plugin.mount("v", "c1");
    plugin.mount("v", "c2");
    plugin.mount("v", "c2");
    write(&place, "f", "before");
    let worker = plugin.children("worker");
    plugin.kill("driver");
    assert_eq!(std::fs::read_to_string(place.join("f")).unwrap(), "before");
    let status = wait_for("the new driver", SOON, || {
        let (code, answer) = plugin.call("VolumeDriver.Get", &json!({ "Name": "v" })).ok()?;
        (code == 200).then(|| answer["Volume"]["Status"].clone())
    });
    assert_eq!(status["mounts"], 3, "{status}");
    assert_eq!(plugin.children("worker"), worker);
    for id in ["c1", "c2"] {
        plugin.unmount("v", id);
        assert_ne!(plugin.status("v")["mounts"], 0);
    }
    plugin.unmount("v", "c2");
    assert_eq!(plugin.status("v")["mounts"], 0);
    assert_eq!(object(&server, "team/v/f").as_deref(), Some("before"));
}

#[test]
fn a_killed_worker_is_succeeded() {
    let server = TestS3::start();
    let mut plugin = Plugin::start(&server);
    plugin.create("v", &[("commit", "300s"), ("settle_after", "1h")]).unwrap();
    let place = plugin.mount("v", "c1");
    write(&place, "f", "never synced");
    let mut open = File::open(place.join("f")).unwrap();
    plugin.kill("worker");
    // The mount never went away, and an open file goes on.
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "never synced");
    write(&place, "g", "after");
    drop(open);
    plugin.unmount("v", "c1");
    assert_eq!(object(&server, "team/v/f").as_deref(), Some("never synced"));
    assert_eq!(object(&server, "team/v/g").as_deref(), Some("after"));
}

#[test]
fn what_uses_a_volume_waits_for_a_successor_that_finds_no_bucket() {
    let server = TestS3::start();
    let mut plugin = Plugin::start(&server);
    plugin.create("v", &[("commit", "300s"), ("settle_after", "1h")]).unwrap();
    let place = plugin.mount("v", "c1");
    write(&place, "f", "never synced");
    server.stop();
    plugin.kill("worker");
    let failures = || plugin.log().matches("the volume cannot be opened").count();
    wait_for("two attempts in vain", SOON, || (failures() >= 2).then_some(()));
    // Others are told, and the one that has it keeps it.
    let error = plugin.err("VolumeDriver.Mount", json!({ "Name": "v", "ID": "c2" }));
    assert!(error.contains("volume v"), "{error}");
    server.restart();
    assert_eq!(std::fs::read_to_string(place.join("f")).unwrap(), "never synced");
    write(&place, "g", "after");
    plugin.unmount("v", "c1");
    assert_eq!(object(&server, "team/v/f").as_deref(), Some("never synced"));
    assert_eq!(object(&server, "team/v/g").as_deref(), Some("after"));
}

#[test]
fn a_volume_whose_state_is_gone_says_so_and_can_be_removed() {
    let server = TestS3::start();
    let url = format!("s3://{}/team", server.bucket());
    let env = [("S3VOL_URL", url.as_str()), ("S3VOL_TEST_RENEW_MS", "300")];
    let mut plugin = Plugin::with(Some(&server), &env);
    plugin.create("v", &[("commit", "300s")]).unwrap();
    let place = plugin.mount("v", "c1");
    write(&place, "f", "never synced");
    for key in server.keys("").into_iter().filter(|key| key.contains(".s3vol/v/")) {
        server.delete_foreign(&key);
    }
    wait_for("it to be noticed", SOON, || (plugin.status("v")["state"] == "damaged").then_some(()));
    let error = plugin.err("VolumeDriver.Mount", json!({ "Name": "v", "ID": "c2" }));
    assert!(error.contains("format.json") && error.contains("stop the containers"), "{error}");
    let error = plugin.err("VolumeDriver.Unmount", json!({ "Name": "v", "ID": "c1" }));
    assert!(error.contains("stay on this host"), "{error}");
    wait_for("the end of its worker", SOON, || plugin.children("worker").is_empty().then_some(()));
    wait_for("the end of its mount", SOON, || (!mounted(&place)).then_some(()));
    plugin.ok("VolumeDriver.Remove", json!({ "Name": "v" }));
    let log = plugin.dir.path().join("state/volumes");
    let kept = std::fs::read_dir(log).unwrap().any(|e| e.unwrap().path().join("log/log").exists());
    assert!(kept, "what only this host has stays");
}

#[test]
fn a_name_follows_a_volume_that_was_rebuilt() {
    let server = TestS3::start();
    let mut plugin = Plugin::start(&server);
    plugin.create("v", &[]).unwrap();
    let place = plugin.mount("v", "c1");
    write(&place, "f", "at rest");
    plugin.unmount("v", "c1");
    let definition = "team/.s3vol/volumes/v.json";
    let leads = server.get(definition).unwrap().body;
    let option = |name: &str, value: &str| format!("{name}={value}");
    let rebuilt = s3vol_as("s3vol", Some(&server))
        .arg("rebuild")
        .arg("--state")
        .arg(plugin.dir.path().join("by-hand"))
        .args(["-o", &option("endpoint", &server.endpoint())])
        .args(["-o", &option("state_url", &format!("s3://{}/team/", server.bucket()))])
        .arg("--yes")
        .arg(format!("s3://{}/team/v/", server.bucket()))
        .output()
        .unwrap();
    assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
    // As one in another catalog, of which a rebuild knows nothing.
    server.put_foreign(definition, leads.clone(), &[]);
    let place = plugin.mount("v", "c2");
    assert_eq!(std::fs::read_to_string(place.join("f")).unwrap(), "at rest");
    write(&place, "g", "after");
    plugin.unmount("v", "c2");
    assert_eq!(object(&server, "team/v/g").as_deref(), Some("after"));
    assert_ne!(server.get(definition).unwrap().body, leads);

    // A removal of the name that still leads to the old state takes nothing with it.
    server.put_foreign(definition, leads, &[]);
    plugin.ok("VolumeDriver.Remove", json!({ "Name": "v" }));
    assert!(server.get(definition).is_none());
    assert_eq!(object(&server, "team/v/f").as_deref(), Some("at rest"));
}

#[test]
fn an_unmount_over_which_the_worker_dies_is_answered_by_its_successor() {
    let (server, scratch) = (TestS3::start(), tempfile::tempdir().unwrap());
    let orders = Orders::below(scratch.path());
    let url = format!("s3://{}/team", server.bucket());
    let mut plugin = Plugin::with(Some(&server), &[("S3VOL_URL", &url), orders.env()]);
    plugin.create("v", &[("commit", "300s"), ("settle_after", "1h")]).unwrap();
    let place = plugin.mount("v", "c1");
    write(&place, "f", "never synced");
    orders.give("v", points::FLUSH_BEFORE, "");
    plugin.unmount("v", "c1");
    assert!(!orders.is_open("v", points::FLUSH_BEFORE), "it died");
    // Yielding at once, not at some later attempt.
    let mut other = Plugin::start(&server);
    let asked = Instant::now();
    let place = other.mount("v", "c1");
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    assert_eq!(std::fs::read_to_string(place.join("f")).unwrap(), "never synced");
    other.unmount("v", "c1");
}

#[test]
fn an_unmount_of_a_volume_that_another_host_took_says_where_the_rest_is() {
    let server = TestS3::start();
    let mut old = Plugin::start(&server);
    old.create("v", &[("commit", "300s"), ("settle_after", "1h")]).unwrap();
    let place = old.mount("v", "c1");
    write(&place, "f", "never synced");
    let worker = nix::unistd::Pid::from_raw(old.children("worker")[0] as i32);
    nix::sys::signal::kill(worker, nix::sys::signal::Signal::SIGSTOP).unwrap();
    // Its lease runs out by the store's clock.
    server.set_clock_offset(100);
    let mut new = Plugin::start(&server);
    new.mount("v", "c1");
    nix::sys::signal::kill(worker, nix::sys::signal::Signal::SIGCONT).unwrap();
    let error = old.err("VolumeDriver.Unmount", json!({ "Name": "v", "ID": "c1" }));
    assert!(error.contains("another host has taken it over"), "{error}");
    assert!(error.contains("`s3vol recovered list`") && !error.contains("goes on"), "{error}");
    new.unmount("v", "c1");
}

/// A host with credentials that may only read.
fn reader(server: &TestS3, more: &[(&str, &str)]) -> Plugin {
    server.refuse_writes_of(OTHER_ACCESS_KEY);
    let url = format!("s3://{}/team", server.bucket());
    let own = [
        ("S3VOL_URL", url.as_str()),
        ("AWS_ACCESS_KEY_ID", OTHER_ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", OTHER_SECRET_KEY),
    ];
    Plugin::with(Some(server), &[&own, more].concat())
}

fn shows(place: &Path, name: &str, text: &str) {
    let path = place.join(name);
    wait_for(name, SOON, || (std::fs::read_to_string(&path).ok()? == text).then_some(()));
}

#[test]
fn other_hosts_read_a_volume_while_one_writes_it() {
    let server = TestS3::start();
    let mut writer = Plugin::start(&server);
    writer.create("web", &[("commit", "200ms"), ("settle_after", "0s")]).unwrap();
    let wish = [("readonly", "true")];
    let mut hosts = [reader(&server, &[]), reader(&server, &[("S3VOL_READONLY", "true")])];
    hosts[0].create("web", &wish).unwrap();
    let body = json!({ "Name": "web", "ID": "early" });
    let error = hosts[0].err("VolumeDriver.Mount", body);
    assert!(error.contains("mount it once without readonly"), "{error}");
    let written = writer.mount("web", "w");
    write(&written, "page", "one");
    std::fs::File::open(written.join("page")).unwrap().sync_all().unwrap();
    // The other one's environment says it for all volumes, so that a plain `docker run` will do.
    let places = hosts.each_mut().map(|host| host.mount("web", "r"));
    let mut open = Vec::new();
    for (host, place) in hosts.iter().zip(&places) {
        shows(place, "page", "one");
        let status = host.status("web");
        assert_eq!((&status["state"], &status["readonly"]), (&json!("active"), &json!(true)));
        let error = std::fs::write(place.join("new"), "x").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
        open.push(File::open(place.join("page")).unwrap());
    }
    // A worker that dies is succeeded, and its successor trusts no page that it did not bring.
    hosts[0].kill("worker");
    write(&written, "page", "two, after the worker died");
    for (place, mut file) in places.iter().zip(open) {
        shows(place, "page", "two, after the worker died");
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "two, after the worker died");
    }
    // On one host: beside the writer, under a name of its own.
    let url = format!("s3://{}/team/web", server.bucket());
    writer.create("web-ro", &[("url", &url), ("readonly", "true")]).unwrap();
    let beside = writer.mount("web-ro", "r");
    shows(&beside, "page", "two, after the worker died");
    writer.unmount("web-ro", "r");

    for host in &hosts {
        host.unmount("web", "r");
        // Within the linger it is the same worker, and it still follows.
    }
    write(&written, "page", "three");
    let again = hosts[0].mount("web", "r2");
    shows(&again, "page", "three");
    hosts[0].unmount("web", "r2");
    hosts[0].ok("VolumeDriver.Remove", json!({ "Name": "web" }));
    assert!(!mounted(&again));
    let log = server.log();
    let theirs = log.iter().filter(|r| r.access_key.as_deref() == Some(OTHER_ACCESS_KEY));
    let changing: Vec<_> = theirs.filter(|r| !r.only_reads()).collect();
    assert!(changing.is_empty(), "{changing:?}");
    assert_eq!(std::fs::read_to_string(written.join("page")).unwrap(), "three");
    writer.unmount("web", "w");
}
