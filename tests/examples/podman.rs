//! Podman of Debian with the plugin as a service: what the quadlet files say, and the same by hand on a second host.
//! systemd does not run here, and Debian 12's Podman has no quadlet: the commands are made of the files as
//! Podman 5.4.2 makes them.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::image::{Image, path};
use crate::support::dockerd::output_within;
use crate::support::s3server::{self, TestS3};
use crate::support::unmanaged::Plugin;
use crate::support::wait_for;
use crate::support::watchdog::Watchdog;
use crate::{SOON, example, object};

const COMMAND: Duration = Duration::from_secs(90);
const LIMIT: Duration = Duration::from_secs(240);

/// A value of a quadlet file.
fn value(file: &str, name: &str) -> String {
    let text = std::fs::read_to_string(example("podman").join(file)).unwrap();
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("{file} has no {name}")).to_owned()
}

/// The words of a line, of which those in double quotes are one.
fn words(line: &str) -> Vec<String> {
    let quoted = line.split('"').enumerate();
    quoted
        .flat_map(|(at, part)| match at % 2 {
            1 => vec![part.to_owned()],
            _ => part.split_whitespace().map(str::to_owned).collect(),
        })
        .collect()
}

/// A host of Podman and the plugin, with folders of their own. Containers end with it.
struct Host {
    dir: tempfile::TempDir,
    // They end after the containers.
    plugin: Plugin,
    _mounts: Vec<Watchdog>,
}

impl Host {
    fn start(server: &TestS3, image: &Path) -> Host {
        let url = format!("s3://{}/team", server.bucket());
        // As the page advises.
        let env = [("S3VOL_URL", url.as_str()), ("S3VOL_CAPTURE", "false")];
        let plugin = Plugin::with(Some(server), &env);
        let dir = tempfile::Builder::new().prefix("s3vol-podman-").tempdir().unwrap();
        let ours = std::fs::read_to_string(example("podman").join("s3vol.conf")).unwrap();
        let known = "/run/docker/plugins/s3vol.sock";
        assert!(ours.contains(known) && ours.contains("[engine]\n"), "{ours}");
        // Beside it, what a machine without systemd needs, in a namespace that may not raise limits.
        let config = ours.replace(known, path(&plugin.socket())).replace(
            "[engine]\n",
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
             [engine]\nlock_type = \"file\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n",
        );
        let networks = dir.path().join("networks");
        let config = format!("[network]\nnetwork_config_dir = {networks:?}\n{config}");
        std::fs::write(dir.path().join("containers.conf"), config).unwrap();
        let mounts = plugin.dir.path().join("vol");
        let mounts = ["counter", "other"].map(|name| Watchdog::guard(mounts.join(name), LIMIT));
        let host = Host { dir, plugin, _mounts: mounts.into() };
        host.podman(&["import", path(image), "docker.io/library/alpine:latest"]);
        host
    }

    fn try_podman(&self, args: &[&str]) -> Output {
        let mut command = Command::new("podman");
        for (option, folder) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(option).arg(self.dir.path().join(folder));
        }
        command.args(["--storage-driver", "vfs"]).args(args);
        command.env("CONTAINERS_CONF", self.dir.path().join("containers.conf"));
        command.env("TMPDIR", self.dir.path()).current_dir("/");
        output_within(command, COMMAND).expect("podman is installed")
    }

    fn podman(&self, args: &[&str]) -> String {
        let out = self.try_podman(args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "podman {args:?}: {said}\n{}", self.plugin.log());
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Runs a script in a container of its own.
    fn run(&self, volume: &str, script: &str) -> String {
        self.podman(&["run", "--rm", "--network=none", "-v", volume, "alpine", "sh", "-c", script])
    }

    fn drivers(&self) -> String {
        self.podman(&["volume", "ls", "--format", "{{.Driver}} {{.Name}}"])
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let out = self.try_podman(&["rm", "-fa", "-t", "0"]);
        if !out.status.success() {
            eprintln!("podman rm: {}", String::from_utf8_lossy(&out.stderr));
        }
        for mount in s3vol::sys::mount_table().unwrap_or_default() {
            if mount.path.starts_with(self.dir.path()) {
                let flags = nix::mount::MntFlags::MNT_DETACH;
                let _ = nix::mount::umount2(&mount.path, flags);
            }
        }
    }
}

#[test]
#[ignore = "make test-examples"]
fn examples_podman_runs_what_the_quadlet_files_say_and_the_volume_moves() {
    let server =
        TestS3::with(s3server::Options { bucket: "my-bucket".into(), ..Default::default() });
    let server = server.unwrap();
    let image = Image::new("mkdir \"$1/full\"; echo image >\"$1/full/file\"");
    let host = Host::start(&server, &image.tar());

    // What the generator makes of counter.volume, without --ignore, which this Podman does not know.
    let name = value("counter.volume", "VolumeName");
    let driver = value("counter.volume", "Driver");
    let more = words(&value("counter.volume", "PodmanArgs"));
    let mut args = vec!["volume", "create", "--driver", &driver];
    args.extend(more.iter().map(String::as_str).chain([name.as_str()]));
    host.podman(&args);
    let inspected: Value =
        serde_json::from_str(&host.podman(&["volume", "inspect", &name])).unwrap();
    assert_eq!(inspected[0]["Timeout"], 60, "{inspected}");
    assert_eq!(inspected[0]["Options"]["commit"], "2s", "{inspected}");

    // And of counter.container, without what needs systemd or a network.
    let container = value("counter.container", "ContainerName");
    let volume = value("counter.container", "Volume");
    let volume = volume.replace("counter.volume", &name);
    let image_name = value("counter.container", "Image");
    let exec = words(&value("counter.container", "Exec"));
    let mut args =
        vec!["run", "--name", &container, "--replace", "--rm", "-d", "--network=none", "-v"];
    args.extend([volume.as_str(), &image_name]);
    args.extend(exec.iter().map(String::as_str));
    host.podman(&args);
    wait_for("some lines", SOON, || {
        let out = host.try_podman(&["exec", &container, "cat", "/data/log"]);
        (out.status.success() && out.stdout.split(|b| *b == b'\n').count() > 2).then_some(())
    });
    // As ExecStop does; nothing but an anonymous volume goes with it.
    host.podman(&["stop", "-t", "30", &container]);
    let log = object(&server, "team/counter/log", |text| text.lines().count() > 1);
    assert_eq!(host.drivers(), "s3vol counter\n");

    // By hand on another host, which knows the volume when it was created there, too.
    let other = Host::start(&server, &image.tar());
    assert_eq!(other.drivers(), "");
    other.podman(&["volume", "create", "--driver", "s3vol", "counter"]);
    assert_eq!(other.run("counter:/data", "cat /data/log; date >>/data/log"), log);
    object(&server, "team/counter/log", |text| text.lines().count() == log.lines().count() + 1);
    // An empty volume gets what the image has there.
    other.podman(&["volume", "create", "--driver", "s3vol", "other"]);
    assert_eq!(other.run("other:/full", "cat /full/file"), "image\n");
    // One that was not created is Podman's own, whatever the bucket has.
    assert_eq!(host.run("other:/full", "cat /full/file"), "image\n");
    assert_eq!(host.drivers(), "s3vol counter\nlocal other\n");

    // Podman's prune takes volumes of plugins, too; this host's, if nobody else's are shown to it.
    other.podman(&["volume", "reload"]);
    assert_eq!(other.drivers(), "s3vol counter\ns3vol other\n");
    host.podman(&["volume", "reload"]);
    host.podman(&["volume", "prune", "-f"]);
    assert_eq!(host.drivers(), "");
    assert!(server.get("team/counter/log").is_some(), "within the grace nothing is deleted");
    host.podman(&["volume", "create", "--driver", "s3vol", "counter"]);
    assert!(host.run("counter:/data", "cat /data/log").starts_with(&log));
}
