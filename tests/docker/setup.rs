//! `plugin/setup.sh`, which asks nothing: from no plugin to one with a bucket, again, changed, and away.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::dockerd::{Dockerd, Options, PLUGIN};
use crate::support::plugin::{rootfs, settings};
use crate::support::s3server::TestS3;
use crate::support::wait_for;
use crate::{outside, turn};

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
    let file = folder.join("credentials");
    let lines: Vec<String> = settings(server)
        .iter()
        .filter(|(name, _)| name != "S3VOL_URL")
        .map(|(name, value)| format!("{name}=\"{value}\""))
        .collect();
    std::fs::write(&file, format!("# keys\n\n{}\n", lines.join("\n"))).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    file
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
    wait_for("the container to write", Duration::from_secs(30), || {
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
