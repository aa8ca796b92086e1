//! The managed plugin in a real dockerd: what `docker` users do, and what they must find in the
//! bucket afterwards. Needs root, docker.io, busybox-static, docker-compose and rclone, and the plugin
//! laid out by `make plugin-rootfs`; `make test` brings them.

mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use support::dockerd::{Dockerd, IMAGE, Options, PLUGIN, SERVER_ADDRESS, output_within};
use support::s3server::{self, TestS3};
use support::wait_for;

/// One test at a time: two cores, and one dockerd is heavy enough.
static ONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn rootfs() -> PathBuf {
    let dir = std::env::var_os("S3VOL_ROOTFS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("build/plugin"), PathBuf::from);
    assert!(dir.join("config.json").exists(), "run `make plugin-rootfs` first");
    dir
}

fn settings(server: &TestS3) -> Vec<(String, String)> {
    [
        ("S3VOL_URL", format!("s3://{}/team", server.bucket())),
        ("AWS_ENDPOINT_URL", server.endpoint()),
        ("AWS_REGION", server.region().to_owned()),
        ("AWS_ACCESS_KEY_ID", server.access_key().to_owned()),
        ("AWS_SECRET_ACCESS_KEY", server.secret_key().to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// An engine with the plugin on a server of ours, and the test image.
fn engine() -> (Dockerd, TestS3) {
    let server = TestS3::start();
    let engine = Dockerd::start(&Options::default());
    engine.import_busybox(|_| ());
    engine.install_plugin(&rootfs(), &settings(&server));
    (engine, server)
}

/// Every object below a prefix as an independent client reads it.
fn rclone_cat(server: &TestS3, key: &str) -> Option<String> {
    let mut command = Command::new("rclone");
    for variable in ["AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
        command.env_remove(variable);
    }
    command
        .env("RCLONE_CONFIG", "/dev/null")
        .env("RCLONE_CONFIG_T_TYPE", "s3")
        .env("RCLONE_CONFIG_T_PROVIDER", "Other")
        .env("RCLONE_CONFIG_T_ENDPOINT", server.endpoint())
        .env("RCLONE_CONFIG_T_REGION", server.region())
        .env("RCLONE_CONFIG_T_ACCESS_KEY_ID", server.access_key())
        .env("RCLONE_CONFIG_T_SECRET_ACCESS_KEY", server.secret_key())
        .args(["--retries", "1", "cat", &format!("T:{}/{key}", server.bucket())]);
    let out = output_within(command, Duration::from_secs(30)).expect("rclone runs");
    (out.status.success() && !out.stdout.is_empty())
        .then(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Waits until the file rests as a plain object, and compares what rclone reads.
fn rests(server: &TestS3, key: &str, content: &str) {
    let found = wait_for(key, Duration::from_secs(30), || rclone_cat(server, key));
    assert_eq!(found, content, "{key}");
}

#[test]
fn a_volume_is_created_listed_inspected_used_and_removed() {
    let _alone = alone();
    let (engine, server) = engine();
    engine.docker(&["volume", "create", "-d", PLUGIN, "data"]);
    assert!(engine.docker(&["volume", "ls", "-q"]).lines().any(|line| line == "data"));
    let inspected = engine.docker(&["volume", "inspect", "data"]);
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected[0]["Scope"], "global");
    let status = inspected[0]["Status"].to_string();
    assert!(status.contains("team/data"), "{status}");

    engine.run(
        "data",
        "echo first >/d/a.txt; mkdir -p /d/x/y; echo deep >/d/x/y/z; chmod 640 /d/a.txt",
    );
    let seen = engine.run("data", "cat /d/a.txt /d/x/y/z; stat -c %a /d/a.txt");
    assert_eq!(seen, "first\ndeep\n640\n");
    rests(&server, "team/data/a.txt", "first\n");
    rests(&server, "team/data/x/y/z", "deep\n");

    engine.docker(&["volume", "rm", "data"]);
    assert!(!engine.docker(&["volume", "ls", "-q"]).lines().any(|line| line == "data"));
}

#[test]
fn an_unknown_option_is_refused_with_the_list() {
    let _alone = alone();
    let (engine, _server) = engine();
    let said = engine.docker_fails(&["volume", "create", "-d", PLUGIN, "-o", "colour=red", "v"]);
    assert!(said.contains("colour"), "{said}");
    assert!(!engine.docker(&["volume", "ls", "-q"]).lines().any(|line| line == "v"));
}

#[test]
fn copy_up_keeps_modes_owners_symlinks_and_hard_links() {
    let _alone = alone();
    let (engine, server) = engine();
    engine.import_busybox(|root| {
        use std::os::unix::fs::{PermissionsExt, chown, symlink};
        let app = root.join("app");
        std::fs::create_dir(&app).unwrap();
        std::fs::set_permissions(&app, PermissionsExt::from_mode(0o750)).unwrap();
        std::fs::write(app.join("file"), "content").unwrap();
        std::fs::set_permissions(app.join("file"), PermissionsExt::from_mode(0o604)).unwrap();
        chown(app.join("file"), Some(1234), Some(2345)).unwrap();
        std::fs::hard_link(app.join("file"), app.join("second")).unwrap();
        symlink("file", app.join("link")).unwrap();
        chown(&app, Some(77), Some(88)).unwrap();
    });
    engine.docker(&["volume", "create", "-d", PLUGIN, "copied"]);
    let script = "stat -c '%a %u %g %h' /app/file; stat -c '%a %u %g' /app; cat /app/link /app/second; \
                  stat -c %F /app/link; [ /app/file -ef /app/second ] && echo same";
    let run = |script: &str| {
        engine.docker(&[
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            "copied:/app",
            IMAGE,
            "/bin/sh",
            "-c",
            script,
        ])
    };
    let wanted = "604 1234 2345 2\n750 77 88\ncontentcontentsymbolic link\nsame\n";
    assert_eq!(run(script), wanted);
    // And again from a second mount.
    assert_eq!(run(script), wanted);
    rests(&server, "team/copied/file", "content");
    let object = server.get("team/copied/file").unwrap();
    let metadata = format!("{object:?}");
    assert!(metadata.contains("1234") && metadata.contains("2345"), "owner: {metadata}");
}

#[test]
fn docker_cp_works_while_a_container_runs_and_does_not_unmount_it() {
    let _alone = alone();
    let (engine, _server) = engine();
    engine.docker(&[
        "run",
        "-d",
        "--name",
        "c",
        "--network",
        "none",
        "-v",
        "data:/d",
        "--volume-driver",
        PLUGIN,
        IMAGE,
        "/bin/sh",
        "-c",
        "echo inside >/d/in; sleep 600",
    ]);
    let work = tempfile::tempdir().unwrap();
    let (here, back) = (work.path().join("out"), work.path().join("back"));
    std::fs::write(&here, "from outside\n").unwrap();
    engine.docker(&["cp", here.to_str().unwrap(), "c:/d/copied"]);
    engine.docker(&["cp", "c:/d/in", back.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(&back).unwrap(), "inside\n");
    let seen = engine.docker(&[
        "exec",
        "c",
        "/bin/sh",
        "-c",
        "cat /d/copied; echo more >/d/more; cat /d/more",
    ]);
    assert_eq!(seen, "from outside\nmore\n");
    engine.docker(&["rm", "-f", "c"]);
    assert_eq!(engine.run("data", "cat /d/copied /d/more"), "from outside\nmore\n");
}

#[test]
fn compose_volumes_with_driver_opts() {
    let _alone = alone();
    let (engine, server) = engine();
    let project = tempfile::Builder::new().prefix("proj").tempdir().unwrap();
    let file = format!(
        "version: '2.4'\nservices:\n  app:\n    image: {IMAGE}\n    network_mode: none\n    \
         command: [/bin/sh, -c, 'echo composed >/d/file']\n    volumes: ['data:/d']\n\
         volumes:\n  data:\n    driver: {PLUGIN}\n    name: composed\n    driver_opts:\n      \
         commit: 1s\n      settle-after: 1s\n"
    );
    std::fs::write(project.path().join("docker-compose.yml"), file).unwrap();
    let out = engine.compose(project.path(), &["up", "--no-color"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    rests(&server, "team/composed/file", "composed\n");
    let out = engine.compose(project.path(), &["down", "-v"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn volumes_survive_the_plugin_and_the_daemon_restarting() {
    let _alone = alone();
    let (mut engine, _server) = engine();
    engine.docker(&["volume", "create", "-d", PLUGIN, "data"]);
    engine.run("data", "echo kept >/d/file");
    engine.docker(&["plugin", "disable", "-f", PLUGIN]);
    engine.docker(&["plugin", "enable", PLUGIN]);
    assert_eq!(engine.run("data", "cat /d/file"), "kept\n");
    engine.down();
    engine.up();
    assert!(engine.docker(&["volume", "ls", "-q"]).lines().any(|line| line == "data"));
    assert_eq!(
        engine.run("data", "cat /d/file; echo again >/d/file; cat /d/file"),
        "kept\nagain\n"
    );
}

#[test]
fn a_killed_plugin_comes_back_and_its_volume_with_all_it_had() {
    let _alone = alone();
    let (engine, _server) = engine();
    engine.docker(&["volume", "create", "-d", PLUGIN, "data"]);
    engine.docker(&[
        "run",
        "-d",
        "--name",
        "c",
        "--network",
        "none",
        "-v",
        "data:/d",
        IMAGE,
        "/bin/sh",
        "-c",
        "echo synced >/d/file; sync; sleep 600",
    ]);
    wait_for("the file", Duration::from_secs(20), || {
        let out = engine.try_docker(&["exec", "c", "/bin/cat", "/d/file"]).unwrap();
        (out.stdout == b"synced\n").then_some(())
    });
    let id = engine.docker(&["plugin", "inspect", "-f", "{{.Id}}", PLUGIN]);
    let plugin =
        wait_for("the plugin's process", Duration::from_secs(5), || supervisor_of(id.trim()));
    nix::sys::signal::kill(plugin, nix::sys::signal::Signal::SIGKILL).unwrap();
    // The container keeps a dead mount and must be ended; the volume itself comes back.
    let _ = engine.try_docker(&["rm", "-f", "c"]);
    wait_for("the volume to be mountable again", Duration::from_secs(60), || {
        let script =
            ["run", "--rm", "--network", "none", "-v", "data:/d", IMAGE, "/bin/cat", "/d/file"];
        let out = engine.try_docker(&script).unwrap();
        (out.stdout == b"synced\n").then_some(())
    });
}

/// The plugin's first process: the child of the shim that names the plugin's id.
fn supervisor_of(id: &str) -> Option<nix::unistd::Pid> {
    let entries = std::fs::read_dir("/proc").ok()?;
    entries.flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        if line != b"/bin/s3vol\0plugin\0" {
            return None;
        }
        let stat = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let parent = stat.lines().find_map(|l| l.strip_prefix("PPid:"))?.trim().to_owned();
        let shim = std::fs::read(format!("/proc/{parent}/cmdline")).ok()?;
        String::from_utf8_lossy(&shim).contains(id).then(|| nix::unistd::Pid::from_raw(pid))
    })
}

#[test]
fn a_volume_moves_between_two_hosts_and_has_one_writer() {
    let _alone = alone();
    let a = start_host("host-a");
    let address = SocketAddr::from((SERVER_ADDRESS, 0));
    let server = TestS3::with(s3server::Options { address, ..Default::default() }).unwrap();
    let b = start_host("host-b");
    for engine in [&a, &b] {
        engine.install_plugin(&rootfs(), &settings(&server));
    }
    a.docker(&["volume", "create", "-d", PLUGIN, "shared"]);
    wait_for("the volume to be listed on the other host", Duration::from_secs(70), || {
        b.docker(&["volume", "ls", "-q"]).lines().any(|line| line == "shared").then_some(())
    });
    a.run("shared", "echo from a >/d/file");
    assert_eq!(b.run("shared", "cat /d/file; echo from b >>/d/file"), "from a\n");
    a.docker(&[
        "run",
        "-d",
        "--name",
        "holder",
        "--network",
        "none",
        "-v",
        "shared:/d",
        IMAGE,
        "/bin/sh",
        "-c",
        "sleep 600",
    ]);
    let said = b.docker_fails(&[
        "run",
        "--rm",
        "--network",
        "none",
        "-v",
        "shared:/d",
        IMAGE,
        "/bin/cat",
        "/d/file",
    ]);
    assert!(said.contains("host-a"), "the holder is named: {said}");
    assert_eq!(a.docker(&["exec", "holder", "/bin/cat", "/d/file"]), "from a\nfrom b\n");
    a.docker(&["rm", "-f", "holder"]);
    assert_eq!(b.run("shared", "cat /d/file"), "from a\nfrom b\n");
    rests(&server, "team/shared/file", "from a\nfrom b\n");
}

fn start_host(name: &str) -> Dockerd {
    let engine = Dockerd::start(&Options { host: Some(name.to_owned()) });
    engine.import_busybox(|_| ());
    engine
}
