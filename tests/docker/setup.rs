//! `plugin/setup.sh`, which asks nothing: from no plugin to one with a bucket, again, changed, and away.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::dockerd::{Dockerd, Options, PLUGIN};
use crate::support::plugin::{rootfs, settings};
use crate::support::s3server as server;
use crate::support::s3server::{OTHER_ACCESS_KEY, OTHER_SECRET_KEY, TestS3};
use crate::support::wait_for;
use crate::{outside, turn};

const SOON: Duration = Duration::from_secs(30);

/// Runs the script, and returns whether it is as wanted, and all it said.
fn setup(engine: &Dockerd, args: &[&str]) -> (bool, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugin/setup.sh");
    let out = engine.script(&script, args);
    let said = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn ends_with(engine: &Dockerd, args: &[&str], last: &str) {
    let (good, said) = setup(engine, args);
    assert!(good && said.lines().last() == Some(last), "{args:?}: {said}");
}

fn refuses(engine: &Dockerd, args: &[&str], why: &str) {
    let (good, said) = setup(engine, args);
    assert!(!good && said.contains(why), "{args:?}: {said}");
}

/// A file with everything but the URL, for its owner only.
fn credentials(folder: &Path, server: &TestS3) -> PathBuf {
    let lines: Vec<String> = settings(server)
        .iter()
        .filter(|(name, _)| name != "S3VOL_URL")
        .map(|(name, value)| format!("{name}=\"{value}\""))
        .collect();
    for_owner(folder.join("credentials"), &format!("# keys\n\n{}\n", lines.join("\n")))
}

fn for_owner(file: PathBuf, text: &str) -> PathBuf {
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    file
}

/// Whose requests came to the bucket since the log began.
fn askers(server: &TestS3) -> BTreeSet<String> {
    server.log().into_iter().filter_map(|request| request.access_key).collect()
}

fn env(engine: &Dockerd) -> String {
    engine.docker(&[
        "plugin",
        "inspect",
        "-f",
        "{{range .Settings.Env}}{{println .}}{{end}}",
        PLUGIN,
    ])
}

#[test]
fn a_script_sets_the_plugin_up_again_changes_it_and_takes_it_away() {
    let _turn = turn();
    let (engine, server) = (Dockerd::start(&Options::default()), TestS3::start());
    engine.import_busybox(|_| ());
    let dir = tempfile::tempdir().unwrap();
    let file = credentials(dir.path(), &server);
    let (place, url) = (dir.path().join("plugin.tar"), format!("s3://{}/team", server.bucket()));
    let mut packed = Command::new("tar");
    packed.arg("-C").arg(rootfs()).arg("-cf").arg(&place).arg(".");
    assert!(packed.status().unwrap().success());
    let args =
        ["--from", place.to_str().unwrap(), "--url", &url, "--credentials", file.to_str().unwrap()];

    ends_with(&engine, &["--remove"], "unchanged");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    refuses(&engine, &args, "others may read");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (good, said) = setup(&engine, &args);
    assert!(good && said.ends_with("\nchanged\n"), "{said}");
    assert!(!said.contains(server.secret_key()), "a key was shown: {said}");
    assert!(env(&engine).contains(&format!("AWS_SECRET_ACCESS_KEY={}\n", server.secret_key())));

    engine.docker(&["volume", "create", "-d", PLUGIN, "data"]);
    engine.start_container("box", "data", "echo one >/d/file; sleep 600");
    wait_for("the container to write", SOON, || {
        (engine.exec("box", "cat /d/file 2>/dev/null || :") == "one\n").then_some(())
    });
    ends_with(&engine, &args, "unchanged");
    let changed = [&args[..], &["--set", "S3VOL_COMMIT=1s"]].concat();
    refuses(&engine, &changed, "box");
    refuses(&engine, &["--remove"], "box");
    assert_eq!(engine.exec("box", "cat /d/file"), "one\n", "refusing changed nothing");

    engine.docker(&["rm", "-f", "box"]);
    // And a key that is not in the file any more the next time.
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text + "AWS_SESSION_TOKEN=gone\n").unwrap();
    ends_with(&engine, &changed, "changed");
    assert!(env(&engine).contains("S3VOL_COMMIT=1s\n") && env(&engine).contains("=gone\n"));
    credentials(dir.path(), &server);
    ends_with(&engine, &args, "changed");
    assert!(!env(&engine).contains("gone"));
    refuses(&engine, &[&args[..], &["--set", "S3VOL_NONSENSE=1"]].concat(), "S3VOL_NONSENSE");
    assert_eq!(engine.run("data", "cat /d/file; echo two >/d/file"), "one\n");

    // What looks like changes that no bucket has.
    let log = engine.plugin_dir().join("state/volumes/0/log");
    std::fs::create_dir_all(&log).unwrap();
    std::fs::write(log.join("log"), "changes").unwrap();
    refuses(&engine, &["--remove"], "may not be in the bucket");
    assert_eq!(engine.run("data", "cat /d/file"), "two\n", "it is enabled again");
    std::fs::remove_dir_all(log.parent().unwrap()).unwrap();
    ends_with(&engine, &["--remove"], "changed");
    ends_with(&engine, &["--remove"], "unchanged");
    assert_eq!(engine.docker(&["plugin", "ls", "-q"]), "");
    outside::rests(&server, "team/data", &[("file", "two\n")]);
}

#[test]
fn a_script_changes_the_url_and_keys_and_puts_named_ones_in_place() {
    const THIRD: (&str, &str) = ("third-access-key", "third-secret-key");
    let _turn = turn();
    let engine = Dockerd::start(&Options::default());
    let mut keys = server::Options::default().keys;
    keys.push((THIRD.0.to_owned(), THIRD.1.to_owned()));
    let server = TestS3::with(server::Options { keys, ..Default::default() }).unwrap();
    engine.import_busybox(|_| ());
    let dir = tempfile::tempdir().unwrap();
    let (file, place) = (credentials(dir.path(), &server), rootfs());
    let named = |key: &str, secret: &str| {
        let text = format!("AWS_ACCESS_KEY_ID={key}\nAWS_SECRET_ACCESS_KEY={secret}\n");
        for_owner(dir.path().join("named"), &text)
    };
    let given = format!("team={}", named(OTHER_ACCESS_KEY, OTHER_SECRET_KEY).display());
    let bucket = server.bucket().to_owned();
    let (one, two) = (format!("s3://{bucket}/team"), format!("s3://{bucket}/elsewhere"));
    let at = |url: &str| {
        [
            "--from",
            place.to_str().unwrap(),
            "--credentials",
            file.to_str().unwrap(),
            "--named",
            &given,
            "--url",
            url,
        ]
        .map(str::to_owned)
    };
    let set_up = |url: &str, last: &str| {
        let args = at(url);
        ends_with(&engine, &args.each_ref().map(String::as_str), last);
    };
    for wrong in ["team", "=x", "../team=/x", "team="] {
        let (good, said) = setup(&engine, &["--url", &one, "--named", wrong]);
        assert!(!good && said.contains("write NAME=FILE"), "{wrong}: {said}");
    }

    set_up(&one, "changed");
    set_up(&one, "unchanged");
    let kept = engine.plugin_dir().join("files/credentials/team");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&kept), mode(kept.parent().unwrap())), (0o600, 0o700));
    engine.docker(&["volume", "create", "-d", PLUGIN, "-o", "credentials=team", "named"]);
    engine.start_container("box", "named", "echo one >/d/file; sleep 600");
    wait_for("the container to write", SOON, || {
        (engine.exec("box", "cat /d/file 2>/dev/null || :") == "one\n").then_some(())
    });

    // Other keys of that name, while the container runs; the old ones are taken away.
    named(THIRD.0, THIRD.1);
    set_up(&one, "changed");
    set_up(&one, "unchanged");
    server.only(&bucket, &[server.access_key(), THIRD.0]);
    server.clear_log();
    wait_for("a write with the new keys", SOON, || {
        let wrote = engine.try_docker(&[
            "exec",
            "box",
            "/bin/sh",
            "-c",
            "echo two >/d/file && sync /d/file",
        ]);
        (wrote.is_ok_and(|out| out.status.success()) && askers(&server).contains(THIRD.0))
            .then_some(())
    });

    // Another URL: not while a container uses the volumes, and what lies at the first one stays there.
    let args = at(&two);
    refuses(&engine, &args.each_ref().map(String::as_str), "box");
    engine.docker(&["rm", "-f", "box"]);
    set_up(&two, "changed");
    set_up(&two, "unchanged");
    assert!(env(&engine).contains(&format!("S3VOL_URL={two}\n")));
    assert_eq!(engine.docker(&["volume", "ls", "-q"]), "");
    engine.docker(&["volume", "create", "-d", PLUGIN, "data"]);
    assert_eq!(engine.run("data", "echo three >/d/file; cat /d/file"), "three\n");
    outside::rests(&server, "elsewhere/data", &[("file", "three\n")]);

    // Other keys of the plugin itself.
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace(server.access_key(), THIRD.0).replace(server.secret_key(), THIRD.1);
    for_owner(file.clone(), &text);
    set_up(&two, "changed");
    set_up(&two, "unchanged");
    server.only(&bucket, &[THIRD.0]);
    server.clear_log();
    assert_eq!(engine.run("data", "cat /d/file"), "three\n");
    assert_eq!(askers(&server), BTreeSet::from([THIRD.0.to_owned()]));
    // And back to where it was.
    set_up(&one, "changed");
    assert_eq!(engine.run("named", "cat /d/file"), "two\n");
    ends_with(&engine, &["--remove"], "changed");
}

#[test]
fn a_script_neither_hides_nor_removes_volumes_that_lie_inside_the_plugin() {
    let _turn = turn();
    let (engine, place) = (Dockerd::start(&Options::default()), rootfs());
    engine.import_busybox(|_| ());
    engine.install_plugin(&place, &[]);
    engine.docker(&["volume", "create", "-d", PLUGIN, "data"]);
    engine.run("data", "echo precious >/d/file");
    refuses(&engine, &["--remove"], "inside the plugin");
    let args = ["--from", place.to_str().unwrap(), "--url", "file:///s3vol/other"];
    refuses(&engine, &args, "they would not be shown");
    assert_eq!(engine.run("data", "cat /d/file"), "precious\n");
}
