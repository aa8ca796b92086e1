//! Real programs on a mounted volume, and again on a host that never saw it: what they wrote must be
//! whole there. `make test-apps` runs them; they need root, /dev/fuse, git, tar and Python.

mod support;
#[path = "posix/volume.rs"]
mod volume;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::dockerd::output_within;
use volume::Bucket;

/// For one mount; past it the mount is taken away.
const LIMIT: Duration = Duration::from_secs(600);
const PROGRAM: Duration = Duration::from_secs(300);

/// Runs a shell script in `dir`, which must succeed; returns its output.
fn shell(dir: &Path, script: &str) -> String {
    let mut command = Command::new("bash");
    // Changing the folder is the child's business: a mount that hangs must not hang the test.
    command.args(["-euo", "pipefail", "-c", &format!("cd \"$0\"; {script}")]).arg(dir);
    let out = output_within(command, PROGRAM).unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{script}: {}\n{said}", out.status);
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
#[ignore = "make test-apps"]
fn apps_a_git_repository_is_whole_after_a_move() {
    let mut bucket = Bucket::new();
    let mounted = bucket.mount(&[], LIMIT);
    shell(
        &mounted.path,
        "git init -q repo; cd repo; git config user.name n; git config user.email e; \
         for i in $(seq 300); do mkdir -p d$((i % 10)); echo $i >d$((i % 10))/$i; done; \
         git add .; git commit -qm one; git mv d1 moved; chmod +x d2/2; git commit -qam two; \
         git gc -q; echo more >>d3/3; git commit -qam three; git fsck --full --strict",
    );
    mounted.unmount();
    let mounted = bucket.mount(&[], LIMIT);
    let seen = shell(
        &mounted.path.join("repo"),
        "git fsck --full --strict; git status --porcelain; git log --format=%s; cat moved/1 d3/3",
    );
    assert_eq!(seen, "three\ntwo\none\n1\n3\nmore\n");
    mounted.unmount();
}

const SQLITE: &str = r#"
import sqlite3, sys
for mode in ("delete", "wal"):
    db = sqlite3.connect(mode + ".db")
    assert db.execute("pragma journal_mode=" + mode).fetchone()[0] == mode
    if sys.argv[1] == "write":
        db.execute("create table t(a integer primary key, b blob)")
        for i in range(200):
            with db:
                db.execute("insert into t(b) values(?)", (bytes([i]) * 3000,))
        with db:
            db.execute("update t set b = zeroblob(10) where a % 3 = 0")
        db.execute("vacuum")
    rows = db.execute("select count(*), sum(length(b)) from t").fetchone()
    print(mode, db.execute("pragma integrity_check").fetchone()[0], *rows)
    db.close()
"#;

#[test]
#[ignore = "make test-apps"]
fn apps_sqlite_databases_are_whole_after_a_move() {
    let mut bucket = Bucket::new();
    let script = bucket.local("script").join("sqlite.py");
    std::fs::write(&script, SQLITE).unwrap();
    let wanted = "delete ok 200 402660\nwal ok 200 402660\n";
    for step in ["write", "read"] {
        let mounted = bucket.mount(&[], LIMIT);
        let seen = shell(&mounted.path, &format!("python3 {} {step}", script.display()));
        assert_eq!(seen, wanted, "{step}");
        mounted.unmount();
    }
}

#[test]
#[ignore = "make test-apps"]
fn apps_an_unpacked_archive_is_the_same_after_a_move_and_at_rest() {
    let mut bucket = Bucket::new();
    let archive = bucket.local("archive").join("archive.tar");
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packed = format!("tar -cf {} src tests docs Cargo.lock", archive.display());
    shell(project, &packed);
    let mounted = bucket.mount(&[], LIMIT);
    shell(&mounted.path, &format!("tar -xpf {}", archive.display()));
    mounted.unmount();
    let lock = std::fs::read(project.join("Cargo.lock")).unwrap();
    assert_eq!(bucket.object("Cargo.lock"), Some(lock));
    let mounted = bucket.mount(&[], LIMIT);
    // Contents, modes, owners and times.
    shell(&mounted.path, &format!("tar -df {}", archive.display()));
    mounted.unmount();
}
