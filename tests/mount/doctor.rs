//! `s3vol doctor` as a whole: its lines, its exit codes, and what it puts into a bundle.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::rig::{Mount, Place, clean, finish};
use super::support::s3server::{Options, TestS3};
use super::support::unmanaged::Plugin;

const GOOD: Option<i32> = Some(0);
const BAD: Option<i32> = Some(4);

/// In a view of the file system without the mounts of other tests, of which some are dead on purpose.
const SCRIPT: &str = r#"
set -e
# The whole list first: it changes with each that goes, also by itself when its test removes the folder.
for at in $(awk '/ - fuse[.]s3vol / { print $5 }' /proc/self/mountinfo); do
  [ "$at" = "$KEEP" ] || umount -l "$at" 2>/dev/null || ! grep -qF " $at " /proc/self/mountinfo
done
eval "$BEFORE"
exec "$@"
"#;

/// One look: the bucket of a server, with a state folder, and what is wrong with them.
struct Look<'l> {
    server: Option<&'l TestS3>,
    place: &'l Place,
    url: String,
    /// Runs before it, as root, where only it is seen.
    before: String,
    env: Vec<(&'static str, String)>,
    args: Vec<String>,
}

impl<'l> Look<'l> {
    fn at(server: &'l TestS3, place: &'l Place) -> Self {
        Look {
            server: Some(server),
            place,
            url: format!("s3://{}/v", server.bucket()),
            before: String::new(),
            env: Vec::new(),
            args: Vec::new(),
        }
    }

    fn with(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new("unshare");
        clean(&mut command, self.server);
        command.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"]);
        command.args([env!("CARGO_BIN_EXE_s3vol"), "doctor", "--docker"]);
        command.arg(self.place.dir.path().join("no-dockerd")).args(&self.args).arg(&self.url);
        command.env("KEEP", &self.place.at).env("BEFORE", &self.before);
        command.env("S3VOL_STATE", self.place.state()).envs(self.env.iter().cloned());
        command.env("S3VOL_FILES", self.place.dir.path().join("files"));
        command
    }

    /// Exit code, lines, standard output and error.
    fn json(self) -> (Option<i32>, Vec<Line>, String) {
        let look = self.with(&["--json"]);
        let (code, out, errors) = finish(&mut look.command());
        let lines: Vec<Value> =
            serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{errors}"));
        (code, lines.iter().map(Line::of).collect(), format!("{out}{errors}"))
    }

    /// The look ends with a bad line about this that has both texts, in itself and in its cure.
    fn finds(self, about: &str, text: &str, cure: &str) {
        let (code, lines, said) = self.json();
        let bad = |line: &&Line| line.grade == "bad" && line.about == about;
        let mut found = lines.iter().filter(bad);
        let is = |line: &Line| line.text.contains(text) && line.cure.contains(cure);
        assert!(found.any(is), "no bad line about {about} with {text:?} and {cure:?}: {said}");
        assert_eq!(code, BAD, "{said}");
    }
}

struct Line {
    about: String,
    grade: String,
    text: String,
    cure: String,
}

impl Line {
    /// Whatever is not good says what to do.
    fn of(line: &Value) -> Line {
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let found = Line {
            about: text("about"),
            grade: text("grade"),
            text: text("text"),
            cure: text("cure"),
        };
        assert!(!found.about.is_empty() && !found.text.is_empty(), "{line}");
        match found.grade.as_str() {
            "good" => assert!(line["cure"].is_null(), "{line}"),
            "note" | "bad" => assert!(found.cure.len() > 8, "{line}"),
            _ => panic!("{line}"),
        }
        found
    }
}

fn state_made(place: &Place) {
    fs::create_dir(place.state()).unwrap();
}

#[test]
fn a_host_in_order_is_good_in_words_and_as_json() {
    let (server, place) = (TestS3::start(), Place::new());
    state_made(&place);
    let (code, lines, said) = Look::at(&server, &place).json();
    assert_eq!(code, GOOD, "{said}");
    assert!(lines.iter().all(|line| line.grade != "bad"), "{said}");
    for about in [
        "kernel",
        "/dev/fuse",
        "rights",
        "FUSE limits",
        "volumes",
        "dockerd",
        "state folder",
        "local disk",
        "local sync",
        "bucket",
        "clock",
        "store",
        "latency",
        "throughput",
    ] {
        assert!(lines.iter().any(|line| line.about == about), "nothing about {about}: {said}");
    }
    let good = |about: &str| lines.iter().any(|line| line.about == about && line.grade == "good");
    for about in ["/dev/fuse", "volumes", "local sync", "bucket", "clock", "store", "throughput"] {
        assert!(good(about), "{about} is not good: {said}");
    }
    assert_eq!(server.keys(""), [""; 0], "it leaves nothing in the bucket");
    // What it found of the store is remembered, as by a mount.
    let left = fs::read_dir(place.state()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["stores"]);

    let (code, out, errors) = finish(&mut Look::at(&server, &place).command());
    assert_eq!(code, GOOD, "{out}{errors}");
    assert!(out.lines().any(|line| line.starts_with("good  bucket ")), "{out}");
    let notes = out.lines().filter(|line| line.starts_with("note  ")).count();
    assert_eq!(
        out.lines().filter(|line| line.trim_start().starts_with("-> ")).count(),
        notes,
        "{out}"
    );
    assert!(out.ends_with(&format!("\nnothing is wrong; {notes} to note\n")), "{out}");

    let (code, _, errors) =
        finish(clean_doctor(&server).args(["-o", "region=eu-west-1"]).env_remove("S3VOL_URL"));
    assert_eq!(code, Some(64), "{errors}");
    assert!(errors.contains("options of a store need its URL"), "{errors}");
}

fn clean_doctor(server: &TestS3) -> Command {
    let mut command = super::rig::s3vol(server);
    command.arg("doctor");
    command
}

#[test]
fn a_store_that_cannot_be_used_is_bad() {
    let (server, place) = (TestS3::start(), Place::new());
    let look = || Look::at(&server, &place);
    let cure = "docs/TROUBLESHOOTING.md";
    server.only(server.bucket(), &["somebody-else"]);
    look().finds("bucket", "access denied", cure);
    server.only(server.bucket(), &[server.access_key()]);
    server.refuse_writes_of(server.access_key());
    look().finds("store", "access denied", cure);
    server.remove_bucket();
    look().finds("bucket", "bucket", cure);
    server.restore_bucket();
    look().env("AWS_SECRET_ACCESS_KEY", "a-wrong-secret-key").finds(
        "bucket",
        "the secret does not fit",
        cure,
    );
    let keyless = |name| look().env(name, "");
    keyless("AWS_ACCESS_KEY_ID").env("AWS_SECRET_ACCESS_KEY", "").finds(
        "bucket",
        "credentials",
        cure,
    );
    server.stop();
    look().finds("bucket", &server.address().to_string(), cure);
    let folder = place.dir.path().join("none");
    Look { url: format!("file://{}", folder.display()), ..look() }.finds(
        "bucket",
        "is no folder",
        "create it first",
    );
}

#[test]
fn clocks_that_differ_are_told() {
    let (server, place) = (TestS3::start(), Place::new());
    let look = || Look::at(&server, &place);
    server.set_clock_offset(-60);
    let (code, lines, said) = look().json();
    let clock = lines.iter().find(|line| line.about == "clock").expect("a clock");
    assert_eq!((code, clock.grade.as_str()), (GOOD, "note"), "{said}");
    assert!(clock.text.contains("ahead of the store's") && clock.cure.contains("NTP"), "{said}");
    server.set_clock_offset(400);
    look().finds("clock", "behind the store's", "timedatectl set-ntp true");
    // Now the store takes no request at all, and says why.
    server.set_clock_offset(3600);
    look().finds("bucket", "this host's clock is 1 hour behind", "docs/TROUBLESHOOTING.md");
}

#[test]
fn a_state_folder_that_cannot_be_used_is_bad() {
    let (server, place) = (TestS3::start(), Place::new());
    let state = place.state();
    let look = |before: &str| {
        let before = before.replace("STATE", state.to_str().unwrap());
        Look { before, ..Look::at(&server, &place) }
    };
    let about = "state folder";
    // It is not there yet, and cannot be made.
    let folder = place.dir.path().display();
    let before = format!("mount --bind '{folder}' '{folder}'; mount -o remount,bind,ro '{folder}'");
    look(&before).finds(about, "Read-only file system", "--state");
    fs::write(&state, "").unwrap();
    look("").finds(about, "is no folder", "--state");
    fs::remove_file(&state).unwrap();
    state_made(&place);
    look("mount -t tmpfs -o ro none STATE").finds(
        "local sync",
        "Read-only file system",
        "writable",
    );
    look("mount -t tmpfs -o size=1M none STATE").finds("local disk", "GiB free", "free some");
}

#[test]
fn a_mount_whose_process_was_killed_is_bad_until_it_is_gone() {
    let (server, place) = (TestS3::start(), Place::new());
    let url = format!("s3://{}/v", server.bucket());
    let mount = Mount::start(Some(&server), &place, &url, &[]);
    let (code, lines, said) = Look::at(&server, &place).json();
    assert_eq!(code, GOOD, "{said}");
    let served = |line: &Line| line.about == "volumes" && line.text == "1 mounted, and served";
    assert!(lines.iter().any(served), "{said}");
    mount.kill();
    let cure = format!("umount -l {}", place.at.display());
    Look::at(&server, &place).finds("volumes", "the process that served it is gone", &cure);
    let (code, _, said) = Look { before: cure, ..Look::at(&server, &place) }.json();
    assert_eq!(code, GOOD, "{said}");
}

#[test]
fn credentials_that_cannot_be_used_are_bad() {
    let (server, place) = (TestS3::start(), Place::new());
    let folder = place.dir.path().join("files/credentials");
    fs::create_dir_all(&folder).unwrap();
    let put = |name: &str, mode: u32, text: &str| {
        fs::write(folder.join(name), text).unwrap();
        fs::set_permissions(folder.join(name), Permissions::from_mode(mode)).unwrap();
    };
    let keys = "AWS_ACCESS_KEY_ID=name\nAWS_SECRET_ACCESS_KEY=a-secret-nobody-sees\n";
    put("team", 0o600, keys);
    let (code, lines, said) = Look::at(&server, &place).json();
    assert_eq!(code, GOOD, "{said}");
    let team = lines.iter().find(|line| line.about == "credentials").expect("a line about them");
    assert!(team.grade == "good" && team.text.starts_with("team: "), "{said}");
    put("open", 0o644, keys);
    Look::at(&server, &place).finds("credentials", "open: ", "docs/CREDENTIALS.md");
    fs::remove_file(folder.join("open")).unwrap();
    put("broken", 0o600, "a-secret-nobody-sees\n");
    let (_, _, said) = Look::at(&server, &place).json();
    assert!(!said.contains("a-secret-nobody-sees"), "{said}");
    Look::at(&server, &place).finds("credentials", "broken: ", "docs/CREDENTIALS.md");
}

#[test]
fn a_bundle_has_all_for_a_bug_report_and_no_secret() {
    const ENVIRONMENT: &str = "distinctive+secret/in-the-environment";
    const FILE: &str = "distinctive+secret/in-a-file";
    const BROKEN: &str = "distinctive+secret/in-a-broken-file";
    const OTHER: &str = "distinctive-token-of-another-cloud";
    let server = TestS3::with(Options {
        keys: vec![("env-key".into(), ENVIRONMENT.into()), ("file-key".into(), FILE.into())],
        ..Options::default()
    })
    .unwrap();
    let place = Place::new();
    let folder = place.dir.path().join("files/credentials");
    fs::create_dir_all(&folder).unwrap();
    let put = |name: &str, text: String| {
        fs::write(folder.join(name), text).unwrap();
        fs::set_permissions(folder.join(name), Permissions::from_mode(0o600)).unwrap();
    };
    put("team", format!("AWS_ACCESS_KEY_ID=file-key\nAWS_SECRET_ACCESS_KEY={FILE}\n"));
    put("broken", format!("AWS_SECRET_ACCESS_KEY {BROKEN}\n"));

    // A plugin with a volume, and one that was mounted by hand and left its log.
    let files = place.dir.path().join("files");
    let home = format!("s3://{}/team", server.bucket());
    let env = [
        ("S3VOL_URL", home.as_str()),
        ("S3VOL_FILES", files.to_str().unwrap()),
        ("S3VOL_LOG", "debug"),
    ];
    let mut plugin = Plugin::with(Some(&server), &env);
    plugin.create("web", &[("credentials", "team")]).unwrap();
    let web = plugin.mount("web", "c1");
    fs::write(web.join("file"), "text").unwrap();
    let by_hand = format!("s3://{}/by-hand/", server.bucket());
    let mut helper = super::rig::s3vol_as("/sbin/mount.fuse.s3vol", Some(&server));
    helper.env("S3VOL_STATE", place.state()).env("S3VOL_LOG", "debug").arg(&by_hand).arg(&place.at);
    let (code, _, errors) = finish(&mut helper);
    assert_eq!(code, Some(0), "{errors}");

    let bundle = place.dir.path().join("bundle.txt");
    let socket = plugin.socket();
    let look = || {
        Look::at(&server, &place)
            .with(&["--bundle", bundle.to_str().unwrap(), "--socket", socket.to_str().unwrap()])
            .env("AZURE_STORAGE_SAS_KEY", OTHER)
            .env("HTTP_PROXY", format!("http://user:{OTHER}@127.0.0.1:1"))
            .env("NO_PROXY", "127.0.0.1")
    };
    let (code, lines, said) = look().json();
    // The broken file.
    assert_eq!(code, BAD, "{said}");
    let version = format!("version {} answers at {}", env!("CARGO_PKG_VERSION"), socket.display());
    assert!(lines.iter().any(|line| line.about == "plugin" && line.text == version), "{said}");
    let text = fs::read_to_string(&bundle).unwrap();
    let section = |name: &str| {
        let head = format!("===== {name} =====\n");
        let (_, rest) = text.split_once(&head).unwrap_or_else(|| panic!("no {name} in\n{text}"));
        rest.split("\n===== ").next().unwrap()
    };
    assert!(section("s3vol").starts_with(&format!("version {}\n", env!("CARGO_PKG_VERSION"))));
    let told: Value = serde_json::from_str(section("doctor").trim()).unwrap();
    assert_eq!(told.as_array().unwrap().len(), lines.len(), "{text}");
    let status: Value = serde_json::from_str(section("volumes here").trim()).unwrap();
    assert_eq!(status[0]["url"], by_hand.as_str(), "{status}");
    let events = section("events");
    assert!(events.contains("\"mounted\"") && events.contains("\"web\""), "{events}");
    assert!(section("environment").contains("AWS_SECRET_ACCESS_KEY=[hidden]"), "{text}");
    assert!(section("/proc/self/mountinfo").contains(place.at.to_str().unwrap()), "{text}");
    let log =
        text.split("worker.log =====\n").nth(1).unwrap_or_else(|| panic!("no log in\n{text}"));
    assert!(log.contains("mounted"), "{log}");
    for secret in [ENVIRONMENT, FILE, BROKEN, OTHER] {
        for (what, text) in
            [("the bundle", &text), ("what it prints", &said), ("the log", &plugin.log())]
        {
            assert!(!text.contains(secret), "{what} shows {secret}");
        }
    }
    let mode = fs::metadata(&bundle).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);

    // What is there is not replaced.
    let (code, _, errors) = finish(&mut look().command());
    assert_eq!(code, Some(8), "{errors}");
    assert!(errors.contains("bundle.txt"), "{errors}");
    assert_eq!(fs::read_to_string(&bundle).unwrap(), text);

    // Without the plugin: that is bad, and what the processes here remember is in it.
    fs::remove_file(&bundle).unwrap();
    plugin.unmount("web", "c1");
    drop(plugin);
    ended_at(&socket);
    look().finds("plugin", "none answers at ", "its log says why");
    let text = fs::read_to_string(&bundle).unwrap();
    assert!(text.split("===== events =====").nth(1).unwrap().contains("by-hand"), "{text}");
    super::rig::run_ok("umount", &[place.at.as_os_str()]);
}

/// What a plugin leaves that was killed: a socket without anybody behind it.
fn ended_at(socket: &Path) {
    if !socket.exists() {
        fs::create_dir_all(socket.parent().unwrap()).unwrap();
        drop(std::os::unix::net::UnixListener::bind(socket).unwrap());
    }
}
