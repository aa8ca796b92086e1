//! The managed plugin becomes another program under a container that uses a volume: `make plugin`, and what it calls.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::dockerd::{Dockerd, Options, PLUGIN};
use crate::support::plugin::{rootfs, settings};
use crate::support::s3server::TestS3;
use crate::support::wait_for;
use crate::turn;

const SOON: Duration = Duration::from_secs(60);

/// Holds a lock, an open file without a name and the end of a log, and writes all the time; what fails is in `/errors`.
const USER: &str = r#"
trap 'exit 0' TERM
exec 8>/d/lock; flock -n 8 || echo lock >>/errors
exec 9<>/d/nameless; rm /d/nameless
: >/d/log
busybox tail -f /d/log >/tail &
i=0
while [ ! -e /stop ]; do
  echo $i >>/d/log || echo log >>/errors
  echo $i >&9 || echo nameless >>/errors
  i=$((i+1)); echo $i >/count
  sleep 0.02
done
echo $i >/stopped
while :; do sleep 0.1; done
"#;

/// What `make plugin` works with, with a program of our choice laid out.
struct Folder(tempfile::TempDir);

impl Folder {
    fn with(program: &Path) -> Folder {
        let dir = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let copy = |from: &Path, to: &str| {
            let to = dir.path().join(to);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
            assert!(copied.unwrap().success());
        };
        copy(&root.join("plugin"), "plugin");
        copy(&rootfs(), "build/plugin");
        copy(program, "build/plugin/rootfs/bin/s3vol");
        Folder(dir)
    }

    /// The second half of `make plugin`.
    fn install(&self, engine: &Dockerd) {
        let out = engine.script(&self.0.path().join("plugin/install.sh"), &[]);
        let said = [out.stdout, out.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(out.status.success() && said.contains("upgrade from"), "{said}");
    }
}

/// Adds this system's `flock`, which busybox may lack, with its libraries.
fn with_flock(root: &Path) {
    let program = ["/usr/bin/flock", "/bin/flock"].into_iter().find(|p| Path::new(p).exists());
    let program = program.expect("util-linux is installed");
    let out = Command::new("ldd").arg(program).output().unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    let libraries = said.split_whitespace().filter(|word| word.starts_with('/'));
    for file in libraries.chain([program]) {
        let to = root.join(file.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(file, to).unwrap();
    }
    std::fs::copy(program, root.join("bin/flock")).unwrap();
}

/// The file that the plugin's first process runs, as that sees it.
fn runs(id: &str) -> Option<PathBuf> {
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let read = |pid: &str, file: &str| {
            let text = std::fs::read(format!("/proc/{pid}/{file}")).ok()?;
            Some(String::from_utf8_lossy(&text).into_owned())
        };
        let status = read(&pid.to_string(), "status")?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let shim = read(field("PPid:")?.trim(), "cmdline")?;
        let is = field("Name:")?.trim() == "s3vol" && shim.contains("shim") && shim.contains(id);
        is.then(|| std::fs::read_link(format!("/proc/{pid}/exe")).ok())?
    })
}

struct Used {
    engine: Dockerd,
    id: String,
}

impl Used {
    fn count(&self) -> u64 {
        // It is empty while it is written.
        let count = || self.engine.exec("box", "cat /count").trim().parse().ok();
        wait_for("the container's count", SOON, count)
    }

    /// The container goes on, and missed nothing.
    fn goes_on(&self) {
        let before = self.count();
        wait_for("more from the container", SOON, || (self.count() > before + 5).then_some(()));
        let failed = self.engine.exec("box", "cat /errors 2>/dev/null || :");
        assert_eq!(failed, "", "{}", self.engine.log_tail(6000));
        let other = self.engine.try_run("data", "flock -n /d/lock true");
        assert_eq!(other.status.code(), Some(1), "somebody else has the lock");
    }

    /// Waits until the plugin serves, and says whether it is a program that took the place of the installed one.
    fn runs(&self) -> PathBuf {
        wait_for("the plugin", SOON, || runs(&self.id))
    }
}

#[test]
fn make_plugin_upgrades_a_plugin_in_use_until_it_is_replaced_itself() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let (engine, server) = (Dockerd::start(&Options::default()), TestS3::start());
    engine.import_busybox(with_flock);
    engine.install_plugin(&rootfs(), &settings(&server));
    let id = engine.docker(&["plugin", "inspect", "-f", "{{.Id}}", PLUGIN]).trim().to_owned();
    let mut used = Used { engine, id };
    used.engine.docker(&["volume", "create", "-d", PLUGIN, "data"]);
    used.engine.start_container("box", "data", USER);
    wait_for("the container", SOON, || {
        let count = used.engine.exec("box", "cat /count 2>/dev/null || :");
        count.trim().parse::<u64>().is_ok_and(|count| count > 5).then_some(())
    });
    assert!(used.runs().ends_with("bin/s3vol"), "{:?}", used.runs());

    let installed = rootfs().join("rootfs/bin/s3vol");
    let newer = dir.path().join("newer");
    std::fs::copy(&installed, &newer).unwrap();
    let mut file = std::fs::File::options().append(true).open(&newer).unwrap();
    write!(file, "{}version=0.1.1-newer", s3vol::fault::NOTE).unwrap();
    drop(file);
    let (newer, older) = (Folder::with(&newer), Folder::with(&installed));
    newer.install(&used.engine);
    let first = used.runs();
    assert!(first.to_str().unwrap().contains("/program/s3vol-"), "{first:?}");
    used.goes_on();
    // And back.
    older.install(&used.engine);
    let second = used.runs();
    assert!(second.to_str().unwrap().contains("/program/s3vol-") && second != first, "{second:?}");
    used.goes_on();
    newer.install(&used.engine);
    assert_eq!(used.runs(), first);
    used.goes_on();
    let left = used.engine.plugin_dir().join("upgrade");
    assert!(!left.exists(), "what was put into the plugin's folder is gone");

    // All that the container wrote is where it reads it.
    used.engine.exec("box", ": >/stop");
    wait_for("the last line", SOON, || {
        let script = "[ -e /stopped ] && [ \"$(md5sum </tail)\" = \"$(md5sum </d/log)\" ] && cat /stopped || :";
        let stopped = used.engine.exec("box", script);
        let lines: String =
            (0..stopped.trim().parse::<u64>().ok()?).map(|n| format!("{n}\n")).collect();
        assert_eq!(used.engine.exec("box", "cat /d/log"), lines);
        assert_eq!(used.engine.exec("box", "cat /proc/1/fd/9"), lines);
        Some(())
    });

    // After a restart of the engine it is used, too.
    used.engine.docker(&["rm", "-f", "box"]);
    used.engine.down();
    used.engine.up();
    assert_eq!(used.runs(), first);
    assert_eq!(used.engine.run("data", "cat /d/log | { read l; echo $l; }"), "0\n");
    // Until somebody installs another: `docker plugin upgrade` leaves all but the root file system.
    used.engine.docker(&["plugin", "disable", "-f", PLUGIN]);
    let place = used.engine.plugin_dir().with_file_name("rootfs").join("bin/s3vol");
    std::fs::remove_file(&place).unwrap();
    std::fs::copy(&installed, &place).unwrap();
    used.engine.docker(&["plugin", "enable", PLUGIN]);
    assert!(used.runs().ends_with("bin/s3vol"), "{:?}", used.runs());
    assert_eq!(used.engine.run("data", "cat /d/log | { read l; echo $l; }"), "0\n");
}
