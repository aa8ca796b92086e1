//! The tools as a user of the managed plugin reaches them: OPERATION.md's recipes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::support::dockerd::{Dockerd, IMAGE, PLUGIN, output_within};
use crate::support::unmanaged::Plugin;
use crate::support::{wait_for, watchdog};
use crate::{engine, turn};

const TOOL: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(60);

fn said(out: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&out.stdout) + &text(&out.stderr)
}

/// The ways to the program of the plugin.
struct Ways<'e> {
    engine: &'e Dockerd,
    id: String,
}

impl<'e> Ways<'e> {
    fn to(engine: &'e Dockerd) -> Self {
        let id = engine.docker(&["plugin", "inspect", "-f", "{{.Id}}", PLUGIN]);
        Ways { engine, id: id.trim().to_owned() }
    }

    /// The program, which is static and runs on the host.
    fn program(&self) -> PathBuf {
        let folder = self.engine.plugin_dir();
        folder.parent().expect("the plugin's folder").join("rootfs/bin/s3vol")
    }

    fn socket_folder(&self) -> PathBuf {
        // Whatever the daemon's own folders are.
        Path::new("/run/docker/plugins").join(&self.id)
    }

    /// On the host, through the plugin's socket.
    fn on_the_host(&self, args: &[&str]) -> Output {
        let mut command = Command::new(self.program());
        command.env_clear().env("S3VOL_STATE", "/nowhere").args(args);
        command.arg("--socket").arg(self.socket_folder().join("s3vol.sock"));
        output_within(command, TOOL).unwrap()
    }

    /// From a container, for who has the Docker API alone.
    fn in_a_container(&self, args: &[&str]) -> Output {
        let program = format!("{}:/s3vol:ro", self.program().display());
        let socket = format!("{}:/plugin", self.socket_folder().display());
        let mut all =
            vec!["run", "--rm", "--network", "none", "-v", &program, "-v", &socket, IMAGE];
        all.push("/s3vol");
        all.extend(args);
        all.extend(["--socket", "/plugin/s3vol.sock"]);
        self.engine.try_docker(&all).unwrap()
    }

    /// In the plugin, with its settings and credentials.
    fn in_the_plugin(&self, args: &[&str], input: &Path) -> Output {
        let root = self.engine.exec_root().join("runtime-runc/plugins.moby");
        let mut command = Command::new("sh");
        let script = "in=$1; shift; exec runc \"$@\" <\"$in\"";
        command.args(["-c", script, "sh"]).arg(input).arg("--root").arg(root);
        command.args(["exec", "-e", "S3VOL_STATE=/s3vol/state", &self.id, "/bin/s3vol"]).args(args);
        output_within(command, TOOL).unwrap()
    }
}

#[test]
fn each_tool_can_be_reached_where_only_docker_is() {
    let _turn = turn();
    let (engine, server) = engine();
    let ways = Ways::to(&engine);
    let nothing = Path::new("/dev/null");
    let lazy = ["-o", "commit=5m", "-o", "settle_after=1d"];
    engine.docker(&[&["volume", "create", "-d", PLUGIN][..], &lazy[..], &["web"][..]].concat());
    let out = ways.on_the_host(&["settle", "web"]);
    assert!(
        said(&out).starts_with("s3vol: volume web is not mounted on this host"),
        "{}",
        said(&out)
    );
    engine.start_container("user", "web", "echo one >/d/page; echo two >/d/other; sleep 600");
    wait_for("the files", SOON, || (engine.exec("user", "cat /d/other") == "two\n").then_some(()));
    assert!(server.keys("team/web/").is_empty());

    let out = ways.on_the_host(&["settle", "web"]);
    assert!(out.status.success() && said(&out).contains("everything is at rest"), "{}", said(&out));
    assert_eq!(&*server.get("team/web/page").unwrap().body, b"one\n");
    engine.exec("user", "echo three >/d/page");
    let out = ways.in_a_container(&["settle", "web"]);
    assert!(out.status.success() && said(&out).contains("everything is at rest"), "{}", said(&out));
    assert_eq!(&*server.get("team/web/page").unwrap().body, b"three\n");

    let out = ways.in_the_plugin(&["fsck", "--data", "web"], nothing);
    assert!(out.status.success(), "{}", said(&out));
    assert!(
        said(&out).contains("not judged: ") && said(&out).contains("\nclean\n"),
        "{}",
        said(&out)
    );
    let out = ways.in_the_plugin(&["fsck", "--repair", "web"], nothing);
    assert_eq!(out.status.code(), Some(8), "{}", said(&out));
    assert!(said(&out).contains("is in use by process"), "{}", said(&out));
    let list = tempfile::NamedTempFile::new().unwrap();
    let hash = "d3b8f5a4ee6a9ae4e1b0ae2e5d8a45a3a5a5b5d5ad7e2b2f6e6a7f0a70a9b6f0";
    std::fs::write(list.path(), format!("{hash}  page\n")).unwrap();
    let out = ways.in_the_plugin(&["verify", "--manifest", "-", "web"], list.path());
    assert_eq!(out.status.code(), Some(4), "{}", said(&out));
    assert!(said(&out).contains("page: differs"), "{}", said(&out));
    let out = ways.in_the_plugin(&["fsck", "no-such-volume"], nothing);
    assert!(said(&out).contains("no volume no-such-volume is defined in"), "{}", said(&out));

    // Somebody removes the state: the objects are all there is.
    engine.docker(&["rm", "-f", "user"]);
    let mountpoint = engine.plugin_dir().join("vol/web");
    wait_for("the end of the mount", SOON, || (!watchdog::mounted(&mountpoint)).then_some(()));
    let keys = server.keys("team/.s3vol/v/");
    let keys = keys.iter().filter(|key| key.contains("/meta/"));
    assert!(keys.filter(|key| server.delete_foreign(key)).count() > 3);
    let out = ways.in_the_plugin(&["rebuild", "--yes", "web"], nothing);
    assert!(out.status.success() && said(&out).contains("2 files"), "{}", said(&out));
    assert_eq!(engine.run("web", "cat /d/page /d/other"), "three\ntwo\n");
}

#[test]
fn a_volume_is_taken_from_a_host_that_lives_and_options_say_how() {
    let _turn = turn();
    let (engine, server) = engine();
    let ways = Ways::to(&engine);
    let mut other = Plugin::start(&server);
    other.create("web", &[]).unwrap();
    let there = other.mount("web", "c");
    std::fs::write(there.join("page"), "one").unwrap();
    std::fs::File::open(there.join("page")).unwrap().sync_all().unwrap();
    let out = engine.try_run("web", "cat /d/page");
    assert!(!out.status.success() && said(&out).contains("holds this volume"), "{}", said(&out));
    assert!(said(&out).contains("s3vol takeover web"), "it says what to do: {}", said(&out));
    // Nobody is there to be asked.
    let out = ways.on_the_host(&["takeover", "web"]);
    assert!(!out.status.success() && said(&out).contains("--yes"), "{}", said(&out));
    let out = ways.in_a_container(&["takeover", "--yes", "web"]);
    assert!(out.status.success() && said(&out).contains("is free"), "{}", said(&out));
    assert_eq!(engine.run("web", "cat /d/page"), "one");
    let create = ["volume", "create", "-d", PLUGIN, "-o", "takeover=yes", "another"];
    let said = engine.docker_fails(&create);
    assert!(
        said.contains("is a command and no option") && said.contains("s3vol takeover"),
        "{said}"
    );
}
