//! Credentials by name: two accounts on one host, keys that change under a mounted volume, and what is wrong with a name.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::rig::{Mount, Place, SOON, finish, s3vol};
use super::support::accounts::{
    FIRST, ONE, ONE_LATER, PLUGINS, SECOND, TWO, accounts, askers, lines, profile, put, secret,
    used,
};
use super::support::s3server::{Action, Logged, Op, Rule, TestS3};
use super::support::unmanaged::{Plugin, other_program, s3vol_as};
use super::support::wait_for;

/// A plugin with a home of its own, and the names `one` and `two`.
fn plugin(server: &TestS3) -> (Plugin, PathBuf) {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let files = dir.path().join("files");
    put(&files, "one", &lines(ONE));
    put(&files, "two", &profile(TWO));
    let url = format!("s3://{}/team", server.bucket());
    let env = [("S3VOL_URL", url.as_str()), ("S3VOL_FILES", files.to_str().unwrap())];
    (Plugin::again(dir, Some(server), &env), files)
}

fn created(plugin: &Plugin, name: &str, bucket: &str, credentials: &str) -> Result<(), String> {
    let url = format!("s3://{bucket}/{name}");
    plugin.create(name, &[("url", &url), ("credentials", credentials)])
}

fn hostname() -> String {
    s3vol::sys::hostname()
}

#[test]
fn two_volumes_of_two_accounts_live_on_one_host() {
    let server = accounts();
    let (mut plugin, files) = plugin(&server);
    // The keys of neither account, nor the plugin's, are of use for the other.
    for (bucket, name) in [(FIRST, "two"), (SECOND, "one"), (FIRST, "none")] {
        let error = created(&plugin, "wrong", bucket, name).unwrap_err();
        assert!(error.contains("access denied"), "{error}");
        if name != "none" {
            assert!(error.contains(&format!("the credentials {name} ")), "{error}");
            assert!(error.contains("s3:PutObject") && error.contains(&hostname()), "{error}");
        }
    }
    created(&plugin, "a", FIRST, "one").unwrap();
    created(&plugin, "b", SECOND, "two").unwrap();
    server.clear_log();
    for (name, bucket) in [("a", FIRST), ("b", SECOND)] {
        let place = plugin.mount(name, "c");
        std::fs::write(place.join("file"), name).unwrap();
        let shown = plugin.status(name);
        let credentials = if name == "a" { "one (" } else { "two (" };
        assert!(shown["credentials"].as_str().unwrap().starts_with(credentials), "{shown}");
        plugin.unmount(name, "c");
        assert_eq!(server.body_in(bucket, &format!("{name}/file")).unwrap(), name);
    }
    assert_eq!(askers(&server, FIRST), [ONE]);
    assert_eq!(askers(&server, SECOND), [TWO]);

    // The definition has the name.
    let kept = server.body_in(server.bucket(), "team/.s3vol/volumes/a.json").unwrap();
    let kept = String::from_utf8(kept.to_vec()).unwrap();
    assert!(kept.contains("\"credentials\"") && !kept.contains(&secret(ONE)), "{kept}");

    // Another name for a volume that exists; one that may not do what is needed changes nothing.
    let set = |name: &str| {
        plugin.call("S3vol.Set", &json!({ "Name": "a", "Opts": { "credentials": name } }))
    };
    let (status, answer) = set("two").unwrap();
    assert_eq!(status, 500, "{answer}");
    assert!(
        answer["Err"].as_str().unwrap().contains("may not do what the volume needs"),
        "{answer}"
    );
    put(&files, "again", &lines(ONE));
    let (status, answer) = set("again").unwrap();
    assert_eq!((status, &answer["Changes"][0]["name"]), (200, &json!("credentials")), "{answer}");
    let place = plugin.mount("a", "d");
    assert_eq!(std::fs::read_to_string(place.join("file")).unwrap(), "a");
    plugin.unmount("a", "d");
}

#[test]
fn a_name_that_is_missing_or_wrong_is_an_error_and_no_other_keys_are_tried() {
    let server = accounts();
    let (mut plugin, files) = plugin(&server);
    let bucket = server.bucket().to_owned();
    server.clear_log();
    // The plugin's own keys would do there.
    let error = created(&plugin, "v", &bucket, "nobody").unwrap_err();
    let path = files.join("credentials/nobody").display().to_string();
    for said in [&*hostname(), "nobody", &*path] {
        assert!(error.contains(said), "{said}: {error}");
    }
    // Neither an object there nor a list of it, and nothing is written anywhere.
    let other = |request: &Logged| request.key.starts_with('v') || request.method == "PUT";
    assert!(!server.log().iter().any(other), "{:?}", server.log());
    let error = created(&plugin, "v", &bucket, "../one").unwrap_err();
    assert!(error.contains("is not a name of credentials"), "{error}");
    let path = put(&files, "half", &format!("AWS_ACCESS_KEY_ID={PLUGINS}\n"));
    let error = created(&plugin, "v", &bucket, "half").unwrap_err();
    for said in
        [&*hostname(), "half", &*path.display().to_string(), "AWS_SECRET_ACCESS_KEY is missing"]
    {
        assert!(error.contains(said), "{said}: {error}");
    }
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let error = created(&plugin, "v", &bucket, "half").unwrap_err();
    assert!(error.contains("chmod 0600"), "{error}");
    // It was there when the volume was made.
    created(&plugin, "a", FIRST, "one").unwrap();
    std::fs::remove_file(files.join("credentials/one")).unwrap();
    server.clear_log();
    let error = plugin.err("VolumeDriver.Mount", json!({ "Name": "a", "ID": "c" }));
    for said in [&*hostname(), "one", "credentials/one"] {
        assert!(error.contains(said), "{said}: {error}");
    }
    assert!(askers(&server, FIRST).is_empty(), "{:?}", askers(&server, FIRST));
    put(&files, "one", &lines(ONE));
    plugin.mount("a", "c");
    plugin.unmount("a", "c");
}

/// Writes, syncs and reads, until it is told to stop.
fn busy(place: PathBuf, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<std::io::Result<u32>> {
    std::thread::spawn(move || {
        let mut times = 0;
        while !stop.load(Ordering::Relaxed) {
            times += 1;
            let path = place.join(format!("busy-{}", times % 20));
            let file = std::fs::File::create(&path)?;
            std::io::Write::write_all(&mut &file, format!("{times}").as_bytes())?;
            file.sync_all()?;
            drop(file);
            if std::fs::read_to_string(&path)? != format!("{times}") {
                return Err(std::io::Error::other("something else was read"));
            }
            std::fs::metadata(place.join("adopted"))?;
        }
        Ok(times)
    })
}

#[test]
fn changed_keys_are_used_without_a_remount_and_without_an_error() {
    let server = accounts();
    let (mut plugin, files) = plugin(&server);
    created(&plugin, "a", FIRST, "one").unwrap();
    let place = plugin.mount("a", "c");
    std::fs::write(place.join("adopted"), "x").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = busy(place.clone(), Arc::clone(&stop));
    let worker = plugin.children("worker");

    // Replaced, and the keys before end at once.
    server.clear_log();
    let path = put(&files, "one", &lines(ONE_LATER));
    server.only(FIRST, &[ONE_LATER]);
    used(&server, FIRST, ONE_LATER);
    // Written in place, while both are good.
    server.only(FIRST, &[ONE, ONE_LATER]);
    std::fs::write(&path, lines(ONE)).unwrap();
    used(&server, FIRST, ONE);
    wait_for("the status", SOON, || {
        let shown = plugin.status("a");
        shown["credentials"].as_str()?.contains("changed 2 times").then_some(())
    });

    // What cannot be read, or is gone, changes nothing but is said.
    std::fs::write(&path, "hush/hush").unwrap();
    let problem = |text: &str| {
        wait_for("the problem", SOON, || {
            let shown = plugin.status("a");
            let said = shown["credentials"].as_str()?.to_owned();
            assert!(!said.contains("hush"), "{said}");
            said.contains(text).then_some(())
        });
    };
    problem("line 1 is not of the form NAME=value");
    std::fs::remove_file(&path).unwrap();
    problem("it is gone");
    assert_eq!(askers(&server, FIRST), [ONE]);
    put(&files, "one", &lines(ONE));
    stop.store(true, Ordering::Relaxed);
    let times = writer.join().unwrap().unwrap_or_else(|e| panic!("{e}\n{}", plugin.log()));
    assert!(times > 10);
    assert_eq!(plugin.children("worker"), worker, "it was mounted again");
    plugin.unmount("a", "c");
    for key in [ONE, ONE_LATER] {
        assert!(!plugin.log().contains(&secret(key)));
    }
}

/// Every file below a folder, as text.
fn texts(folder: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => texts(&entry.path(), found),
            kind if kind.is_file() => {
                found.push((entry.path(), std::fs::read(entry.path()).unwrap_or_default()));
            }
            _ => {}
        }
    }
}

#[test]
fn nothing_shows_a_secret() {
    let server = accounts();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let files = dir.path().join("files");
    put(&files, "one", &lines(ONE));
    let url = format!("s3://{}/team", server.bucket());
    let (two, twos) = (secret(TWO), "S3VOL_CREDENTIALS_TWO_AWS_SECRET_ACCESS_KEY");
    let env = [
        ("S3VOL_URL", url.as_str()),
        ("S3VOL_FILES", files.to_str().unwrap()),
        ("S3VOL_CREDENTIALS_TWO_AWS_ACCESS_KEY_ID", TWO),
        (twos, &two),
        ("S3VOL_LOG", "debug"),
    ];
    let mut plugin = Plugin::again(Arc::clone(&dir), Some(&server), &env);
    created(&plugin, "a", FIRST, "one").unwrap();
    created(&plugin, "b", SECOND, "two").unwrap();
    plugin.create("c", &[]).unwrap();
    for name in ["a", "b", "c"] {
        let place = plugin.mount(name, "c");
        std::fs::write(place.join("file"), "x").unwrap();
    }
    let secrets = [PLUGINS, ONE, TWO].map(secret);
    let shows = |what: &str, text: &[u8]| {
        for secret in &secrets {
            let there = text.windows(secret.len()).any(|w| w == secret.as_bytes());
            assert!(!there, "{what} shows {secret}");
        }
    };
    let workers = plugin.children("worker");
    assert_eq!(workers.len(), 3);
    for pid in workers.iter().chain(&plugin.children("driver")).chain([&plugin.pid()]) {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        assert!(!environ.is_empty());
        shows(&format!("/proc/{pid}/environ"), &environ);
        shows(
            &format!("/proc/{pid}/cmdline"),
            &std::fs::read(format!("/proc/{pid}/cmdline")).unwrap(),
        );
    }
    for name in ["a", "b", "c"] {
        let shown = plugin.ok("VolumeDriver.Get", json!({ "Name": name })).to_string();
        shows("inspect", shown.as_bytes());
    }
    let state = dir.path().join("state");
    let bundle = dir.path().join("bundle");
    let place = format!("s3://{FIRST}/a");
    let bundled =
        [("doctor", vec!["--bundle", bundle.to_str().unwrap(), "-o", "credentials=one", &place])];
    for (command, args) in
        [("status", vec![]), ("credentials", vec!["list", "--here"])].into_iter().chain(bundled)
    {
        let mut run = s3vol(&server);
        run.arg(command).args(&args).env("S3VOL_STATE", &state).env("S3VOL_FILES", &files);
        run.env(twos, &two);
        let (_, out, err) = finish(&mut run);
        assert!(!out.is_empty(), "{command}: {err}");
        shows(command, out.as_bytes());
        shows(command, err.as_bytes());
    }
    let mut kept = Vec::new();
    texts(&state, &mut kept);
    kept.push((bundle.clone(), std::fs::read(&bundle).unwrap()));
    kept.push((dir.path().join("log"), plugin.log().into_bytes()));
    assert!(kept.len() > 10);
    for (path, text) in &kept {
        shows(&path.display().to_string(), text);
    }
    for name in ["a", "b", "c"] {
        plugin.unmount(name, "c");
    }
}

#[test]
fn no_process_with_keys_leaves_a_core_dump() {
    let (server, place) = (accounts(), Place::new());
    let url = format!("s3://{}/v", server.bucket());
    let may_dump = |command: &mut Command| {
        command.current_dir(place.dir.path());
        // SAFETY: a plain system call between fork and exec.
        unsafe {
            command.pre_exec(|| {
                let (rlim_cur, rlim_max) = (libc::RLIM_INFINITY, libc::RLIM_INFINITY);
                let all = libc::rlimit { rlim_cur, rlim_max };
                libc::setrlimit(libc::RLIMIT_CORE, &raw const all);
                Ok(())
            });
        }
    };
    let mut other = Command::new("sh");
    may_dump(other.args(["-c", "kill -ABRT $$"]));
    if !other.status().unwrap().core_dumped() {
        eprintln!("no process leaves a core dump here, so that nothing can be told");
        return;
    }
    let mut command = s3vol(&server);
    may_dump(&mut command);
    let mut mount = Mount::begin_as(&mut command, &place, &url, &[]).up();
    mount.signal(libc::SIGABRT);
    let status = mount.ended(SOON);
    assert_eq!((status.signal(), status.core_dumped()), (Some(libc::SIGABRT), false), "{status}");
}

/// The group that a file of a process in /proc belongs to. It is not that of the process where nobody else may look into
/// its memory, nor have it dumped (`PR_SET_DUMPABLE`).
fn group_of(pid: u64, file: &str) -> u32 {
    std::fs::metadata(format!("/proc/{pid}/{file}")).unwrap().gid()
}

#[test]
fn no_process_with_keys_may_be_dumped() {
    const GROUP: u32 = 12_345;
    let (server, dir) = (accounts(), Arc::new(tempfile::tempdir().unwrap()));
    let mut other = Command::new("sleep").arg("60").gid(GROUP).spawn().unwrap();
    let pid = u64::from(other.id());
    // Before exec it is a copy of this process.
    wait_for("another program", SOON, || {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        (name == "sleep\n").then_some(())
    });
    assert_eq!(group_of(pid, "environ"), GROUP, "an ordinary process shows nothing here");
    other.kill().unwrap();
    other.wait().unwrap();

    let files = dir.path().join("files");
    put(&files, "one", &lines(ONE));
    let url = format!("s3://{}/team", server.bucket());
    let env = [
        ("S3VOL_URL", url.as_str()),
        ("S3VOL_FILES", files.to_str().unwrap()),
        (s3vol::fault::PROVES, "300"),
    ];
    let mut command = s3vol(&server);
    command.gid(GROUP);
    let mut plugin = Plugin::by(command, dir, &env);
    created(&plugin, "a", FIRST, "one").unwrap();
    plugin.create("b", &[]).unwrap();
    let all = |plugin: &Plugin| {
        let children = ["driver", "worker"].iter().flat_map(|role| plugin.children(role));
        let all: Vec<u64> = children.chain([plugin.pid()]).collect();
        assert_eq!(all.len(), 4, "{all:?}");
        for pid in all {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let gid = status.lines().find_map(|line| line.strip_prefix("Gid:")).unwrap();
            assert_eq!(gid.split_whitespace().next(), Some("12345"), "{gid}");
            for file in ["environ", "mem", "maps", "auxv"] {
                assert_eq!(group_of(pid, file), 0, "{file} of {pid}");
            }
        }
    };
    for name in ["a", "b"] {
        plugin.mount(name, "c");
    }
    all(&plugin);
    // Nor those that come later, and the program that takes its place.
    let next = tempfile::tempdir().unwrap();
    plugin.upgrade_to(&other_program(next.path(), "next", "version=0.1.1-next"));
    all(&plugin);
    for name in ["a", "b"] {
        plugin.unmount(name, "c");
    }
}

#[test]
fn a_check_says_what_keys_may_do() {
    let server = accounts();
    let (plugin, files) = plugin(&server);
    let socket = plugin.socket();
    let check = |args: &[&str]| {
        let mut command = s3vol_as("s3vol", None);
        command.args(["credentials", "check", "--socket", socket.to_str().unwrap()]).args(args);
        finish(&mut command)
    };
    let (first, second) = (format!("s3://{FIRST}/a"), format!("s3://{SECOND}/b"));
    let (code, out, err) = check(&["one", &first]);
    assert_eq!(code, Some(0), "{out}{err}");
    for right in ["list", "read", "write", "delete", "tags", "multipart"] {
        assert!(
            out.lines().any(|line| line.starts_with(&format!("good  {right}"))),
            "{right}: {out}"
        );
    }
    assert!(!server.keys_in(FIRST).iter().any(|key| key.contains(".s3vol/probe/")));
    let (code, out, _) = check(&["one", &second]);
    assert_eq!(code, Some(4), "{out}");
    let refused = out.lines().filter(|line| line.starts_with("BAD ")).count();
    // At the place, and where the state would lie.
    assert_eq!(refused, 10, "{out}");
    // The same words.
    let error = created(&plugin, "b", SECOND, "one").unwrap_err();
    let said = out.lines().find(|line| line.starts_with("BAD   write")).unwrap();
    let cure = said.rsplit(" -> ").next().unwrap();
    assert!(error.contains("BAD   write") && error.contains(cure), "{error}\n{said}");
    let (code, out, _) = check(&["two"]);
    assert_eq!((code, out.lines().count()), (Some(0), 1), "{out}");
    let (code, _, err) = check(&["nobody", &first]);
    assert_eq!(code, Some(1));
    assert!(err.contains("has no credentials nobody") && err.contains(&hostname()), "{err}");

    // A key that may only read: good for readers.
    server.refuse_writes_of(TWO);
    let (code, out, _) = check(&["two", &second]);
    assert_eq!(code, Some(4), "{out}");
    let bad: Vec<&str> = out.lines().filter(|l| !l.starts_with("good")).collect();
    assert!(bad.iter().all(|line| !line.contains("  list") && !line.contains("  read")), "{out}");
    let (code, out, _) = check(&["-o", "readonly=true", "two", &second]);
    assert_eq!((code, out.lines().count()), (Some(0), 5), "{out}");

    put(&files, "broken", "x");
    let mut command = s3vol_as("s3vol", None);
    command.args(["credentials", "list", "--socket", socket.to_str().unwrap()]);
    let (_, out, _) = finish(&mut command);
    for said in ["AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY", "broken", "BAD, line 1"] {
        assert!(out.contains(said), "{said}: {out}");
    }
    assert!(!out.contains(ONE), "{out}");
}

#[test]
fn what_a_check_could_not_delete_does_not_keep_the_volume_away() {
    let server = accounts();
    let (plugin, _files) = plugin(&server);
    server.fault(Rule { times: None, ..Rule::new(Op::Delete, "probe/", 1, Action::Status(403)) });
    let error = created(&plugin, "a", FIRST, "one").unwrap_err();
    assert!(error.contains("BAD   delete"), "{error}");
    assert!(server.keys_in(FIRST).iter().any(|key| key.starts_with("a/.s3vol/probe/")));
    server.clear_faults();
    created(&plugin, "a", FIRST, "one").unwrap();
}

#[test]
fn keys_that_end_while_mounted_lose_nothing_and_promise_nothing() {
    let server = accounts();
    let (mut plugin, files) = plugin(&server);
    created(&plugin, "a", FIRST, "one").unwrap();
    let place = plugin.mount("a", "c");
    std::fs::write(place.join("before"), "x").unwrap();
    server.clear_log();
    server.only(FIRST, &[ONE_LATER]);
    // Written here, and nothing says that it is in the bucket.
    std::fs::write(place.join("during"), "y").unwrap();
    let during = place.join("during");
    let synced = std::thread::spawn(move || std::fs::File::open(during)?.sync_all());
    wait_for("a refusal", SOON, || {
        server.log().iter().find(|r| r.bucket == FIRST && r.status == 403).map(drop)
    });
    let is_told = synced.is_finished();
    assert_eq!(std::fs::read_to_string(place.join("during")).unwrap(), "y");
    put(&files, "one", &lines(ONE_LATER));
    let synced = synced.join().unwrap();
    assert!(!is_told || synced.is_err(), "it was synced into a bucket that refused it");
    wait_for("the bucket", SOON, || {
        std::fs::File::open(place.join("during")).ok()?.sync_all().ok()
    });
    plugin.unmount("a", "c");
    for (name, text) in [("before", "x"), ("during", "y")] {
        assert_eq!(server.body_in(FIRST, &format!("a/{name}")).unwrap(), text);
    }
}

#[test]
fn by_hand_a_profile_is_used_that_leads_to_a_program() {
    let (server, place) = (accounts(), Place::new());
    let home = place.dir.path().join("home");
    std::fs::create_dir_all(home.join(".aws")).unwrap();
    let script = home.join("keys");
    let printed =
        format!(r#"{{"Version":1,"AccessKeyId":"{ONE}","SecretAccessKey":"{}"}}"#, secret(ONE));
    std::fs::write(&script, format!("#!/bin/sh\necho '{printed}'\n")).unwrap();
    std::fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    let config = format!("[profile tool]\ncredential_process = {}\n", script.display());
    std::fs::write(home.join(".aws/config"), config).unwrap();
    let with = |profile: Option<&str>, option: &[&str]| {
        let mut command: Command = s3vol(&server);
        command.env("HOME", &home).env_remove("AWS_ACCESS_KEY_ID");
        command.env_remove("AWS_SECRET_ACCESS_KEY");
        command.envs(profile.map(|name| ("AWS_PROFILE", name)));
        let url = format!("s3://{FIRST}/v");
        Mount::begin_as(&mut command, &place, &url, option)
    };
    let mount = with(Some("tool"), &[]).up();
    std::fs::write(place.file("one"), "by AWS_PROFILE").unwrap();
    mount.end_well();
    let mount = with(None, &["credentials=tool"]).up();
    assert_eq!(std::fs::read_to_string(place.file("one")).unwrap(), "by AWS_PROFILE");
    mount.end_well();
    assert_eq!(askers(&server, FIRST), [ONE]);
    let mut wrong = with(Some("nobody"), &[]);
    assert!(!wrong.ended(SOON).success());
    let said = wrong.said();
    for part in ["AWS_PROFILE", "nobody", &*hostname(), ".aws/config"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
