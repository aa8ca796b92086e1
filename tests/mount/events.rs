//! `s3vol events`: what happens to volumes is told as it happens.

use std::fs::File;
use std::io::Write;
use std::process::Command;

use serde_json::{Value, json};

use super::metrics::Reads;
use super::plugin::Plugin;
use super::rig::{Mount, Place, SOON, finish, s3vol};
use super::support::s3server::TestS3;
use super::support::wait_for;

fn events(server: &TestS3, args: &[&std::ffi::OsStr]) -> Command {
    let mut command = s3vol(server);
    command.arg("events").args(args);
    command
}

/// Volume and event of each line.
fn told(reads: &Reads) -> Vec<(String, String)> {
    let text = reads.said();
    // The last line may be half written.
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    lines
        .map(|line| {
            let event: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
            assert!(event["at"].as_str().unwrap().ends_with('Z'), "{line}");
            (text(&event["volume"]), text(&event["event"]))
        })
        .collect()
}

fn wait_until_told(reads: &Reads, volume: &str, event: &str) {
    let wanted = (volume.to_owned(), event.to_owned());
    let what = format!("{event} of {volume}");
    wait_for(&what, SOON, || {
        let told = told(reads);
        if told.contains(&wanted) {
            return Some(());
        }
        None
    });
}

#[test]
fn the_plugin_tells_what_happens_to_its_volumes() {
    let server = TestS3::start();
    let url = format!("s3://{}/team", server.bucket());
    let env = [("S3VOL_URL", url.as_str()), ("S3VOL_GRACE", "0s")];
    let mut plugin = Plugin::with(Some(&server), &env);
    let socket = plugin.socket();
    let args = ["--past".as_ref(), "--json".as_ref(), "--socket".as_ref(), socket.as_os_str()];
    let mut reads = Reads::begin(&mut events(&server, &args));
    plugin.create("web", &[("commit", "500ms")]).unwrap();
    let place = plugin.mount("web", "c1");
    wait_until_told(&reads, "web", "mounted");
    plugin.kill("worker");
    wait_until_told(&reads, "web", "died");
    std::fs::write(place.join("f"), "after").unwrap();
    let mounts = |reads: &Reads| told(reads).iter().filter(|(_, event)| event == "mounted").count();
    wait_for("the successor", SOON, || (mounts(&reads) == 2).then_some(()));

    let mut open = File::create(place.join("g")).unwrap();
    server.stop();
    open.write_all(b"not in the bucket").unwrap();
    drop(open);
    let patience = std::time::Duration::from_secs(90);
    wait_for("degraded", patience, || {
        told(&reads).contains(&("web".to_owned(), "degraded".to_owned())).then_some(())
    });
    server.restart();
    wait_until_told(&reads, "web", "active");

    plugin.unmount("web", "c1");
    wait_until_told(&reads, "web", "draining");
    plugin.ok("VolumeDriver.Remove", json!({ "Name": "web" }));
    wait_until_told(&reads, "web", "unmounted");
    assert_eq!(reads.interrupt(), Some(0), "{}", reads.said());

    // Who comes later reads the same as lines, from what is remembered.
    let args = ["--past".as_ref(), "--socket".as_ref(), socket.as_os_str()];
    let later = Reads::begin(&mut events(&server, &args));
    wait_for("the past", SOON, || {
        let lines = later.said();
        let has = |event: &str| lines.lines().any(|l| l.contains(event) && l.contains(" web"));
        ["mounted", "died", "unmounted"].into_iter().all(has).then_some(())
    });
    let nobody = events(&server, &["--socket".as_ref(), "/nowhere".as_ref()]);
    let (code, _, errors) = finish(&mut { nobody });
    assert_eq!(code, Some(1));
    assert!(errors.contains("/nowhere"), "{errors}");
}

#[test]
fn mounts_by_hand_are_followed_by_their_state_folder() {
    let (server, place, other) = (TestS3::start(), Place::new(), Place::new());
    let url = format!("s3://{}/v", server.bucket());
    let state = place.state();
    let args = ["--json".as_ref(), "--state".as_ref(), state.as_os_str()];
    // It may begin before there is anything to follow.
    let mut reads = Reads::begin(&mut events(&server, &args));
    wait_for("it to look", SOON, || {
        let signals = std::fs::read_to_string(format!("/proc/{}/status", reads.child.id())).ok()?;
        // SIGINT is caught from then on.
        let caught = signals.lines().find_map(|line| line.strip_prefix("SigCgt:"))?.trim();
        (u64::from_str_radix(caught, 16).ok()? & 2 != 0).then_some(())
    });
    let mount = Mount::start(Some(&server), &place, &url, &[]);
    wait_until_told(&reads, "v", "mounted");
    mount.end_well();
    wait_until_told(&reads, "v", "unmounted");
    let before = told(&reads);
    let count = |event: &str| before.iter().filter(|(_, told)| told == event).count();
    assert_eq!((count("mounted"), count("unmounted"), count("died")), (1, 1, 0), "{before:?}");

    // A process that is killed has no last words.
    let mount = Mount::start(Some(&server), &place, &url, &[]);
    let mounts = || told(&reads).iter().filter(|(_, event)| event == "mounted").count();
    wait_for("the second mount", SOON, || (mounts() == 2).then_some(()));
    mount.kill();
    wait_until_told(&reads, "v", "died");

    // Another host takes the volume.
    let mount = Mount::start(Some(&server), &place, &url, &["commit=1s"]);
    wait_for("the third mount", SOON, || (mounts() == 3).then_some(()));
    let mut takeover = s3vol(&server);
    takeover.args(["takeover", "--yes", &url]).arg("--state").arg(other.state());
    let (code, out, errors) = finish(&mut takeover);
    assert_eq!(code, Some(0), "{out}{errors}");
    // Only to have it look; it may know already.
    drop(std::fs::write(place.file("f"), "not heard any more"));
    wait_until_told(&reads, "v", "fenced");
    assert_eq!(reads.interrupt(), Some(0), "{}", reads.said());
    drop(mount);
}
