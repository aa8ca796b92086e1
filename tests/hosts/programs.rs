//! Programs of others that work on a volume for hours, step by step, and what each of them must find afterwards.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::support::dockerd::output_within;

/// For one step, worker kills and full processors included.
const STEP: Duration = Duration::from_secs(300);

/// What is run again and again in a folder of the volume. `$1` is a folder outside of it, `$2` the step's number.
pub struct Program {
    pub name: &'static str,
    step: &'static str,
    /// What must hold between steps.
    check: &'static str,
    steps: AtomicU64,
}

const fn program(name: &'static str, step: &'static str, check: &'static str) -> Program {
    Program { name, step, check, steps: AtomicU64::new(0) }
}

const GIT: &str = r#"
git() { command git -c user.name=a -c user.email=a@example.org -c gc.auto=0 -c core.fsync=all "$@"; }
if [ ! -d repository ] || [ $(($2 % 60)) = 0 ]; then rm -rf repository; git init -q repository; fi
for n in $(seq 12); do head -c $((RANDOM % 9000 + 1)) /dev/urandom >repository/file-$((RANDOM % 80)); done
git -C repository add -A
git -C repository commit -qm "step $2"
git -C repository rev-parse HEAD >"$1/head"
case $(($2 % 12)) in
4) git -C repository gc -q --prune=now ;;
8) rm -rf clone; git clone -q --no-local repository clone; git -C clone fsck --full >/dev/null 2>&1 ;;
esac
"#;
const GIT_CHECK: &str = r#"
[ "$(git -C repository rev-parse HEAD)" = "$(cat "$1/head")" ]
git -C repository fsck --full --strict --no-dangling
[ -z "$(git -C repository status --porcelain)" ]
"#;

const SQLITE: &str = r#"
python3 - "$1/row" "$2" <<'END'
import sqlite3, sys, os
told, step = sys.argv[1], int(sys.argv[2])
db = sqlite3.connect("db")
mode = "wal" if step % 2 else "delete"
assert db.execute("pragma journal_mode=" + mode).fetchone()[0] == mode
db.execute("pragma synchronous=full")
db.execute("create table if not exists t(a integer primary key autoincrement, b blob)")
db.execute("create index if not exists i on t(b)")
for n in range(25):
    with db:
        row = db.execute("insert into t(b) values(randomblob(abs(random()) % 3000))").lastrowid
        db.execute("update t set b = randomblob(100) where a = ?", (row - 50,))
        db.execute("delete from t where a <= ?", (row - 1500,))
    with open(told + ".new", "w") as file:
        file.write(str(row))
    os.rename(told + ".new", told)
if step % 20 == 0:
    db.execute("vacuum")
db.close()
END
"#;
const SQLITE_CHECK: &str = r#"
python3 - "$1/row" <<'END'
import sqlite3, sys
db = sqlite3.connect("db")
assert db.execute("pragma integrity_check").fetchone()[0] == "ok"
last, told = db.execute("select max(a) from t").fetchone()[0], int(open(sys.argv[1]).read())
assert last == told, (last, told)
db.close()
END
"#;

const RSYNC: &str = r#"
mkdir -p "$1/tree" tree
for n in $(seq 25); do
  folder="$1/tree/$((RANDOM % 12))"
  mkdir -p "$folder"
  head -c $((RANDOM * 3 % 60000)) /dev/urandom >"$folder/$((RANDOM % 25))"
done
for n in $(seq 4); do rm -f "$1/tree/$((RANDOM % 12))/$((RANDOM % 25))"; done
[ $(($2 % 15)) != 0 ] || rm -rf "$1/tree/$((RANDOM % 12))"
rsync -a --delete --fsync "$1/tree/" tree/
"#;
const RSYNC_CHECK: &str = r#"
changes=$(rsync -anci --delete "$1/tree/" tree/)
[ -z "$changes" ] || { echo "$changes" >&2; exit 1; }
"#;

const TAR: &str = r#"
if [ ! -d "$1/source" ] || [ $(($2 % 10)) = 0 ]; then
  rm -rf "$1/source"; mkdir "$1/source"
  for n in $(seq 150); do
    mkdir -p "$1/source/$((n % 10))"
    head -c $((RANDOM % 20000)) /dev/urandom >"$1/source/$((n % 10))/$n"
  done
  ln -s 1/1 "$1/source/link"; ln "$1/source/2/2" "$1/source/hard"
fi
to=$(($2 % 2))
tar -C "$1" -czf archive-$to.tar.gz source
rm -rf unpacked-$to; mkdir unpacked-$to
tar -C unpacked-$to -xzf archive-$to.tar.gz
diff -r "$1/source" unpacked-$to/source
echo $to >"$1/last"
"#;
const TAR_CHECK: &str = r#"
tar -C "$1" --compare -zf archive-$(cat "$1/last").tar.gz
diff -r --no-dereference "$1/source" unpacked-$(cat "$1/last")/source
"#;

const CARGO: &str = r#"
export CARGO_INCREMENTAL=0 CARGO_NET_OFFLINE=true
if [ ! -d crate ] || [ $(($2 % 25)) = 0 ]; then rm -rf crate; cargo init -q --vcs none --name program crate; fi
for n in $(seq 5); do echo "pub fn number() -> u64 { $2 + $n }" >crate/src/m$n.rs; done
{ for n in $(seq 5); do echo "mod m$n;"; done
  echo 'fn main() { println!("{}", m1::number() + m2::number() + m3::number() + m4::number() + m5::number()); }'
} >crate/src/main.rs
cd crate
cargo build -q
[ "$(./target/debug/program)" = $((5 * $2 + 15)) ]
echo $((5 * $2 + 15)) >"$1/printed"
"#;
const CARGO_CHECK: &str = r#"
[ "$(./crate/target/debug/program)" = "$(cat "$1/printed")" ]
"#;

pub static ALL: [Program; 5] = [
    program("git", GIT, GIT_CHECK),
    program("sqlite", SQLITE, SQLITE_CHECK),
    program("rsync", RSYNC, RSYNC_CHECK),
    program("tar", TAR, TAR_CHECK),
    program("cargo", CARGO, CARGO_CHECK),
];

/// Runs a shell script in `dir`; what it printed. The error is what it complained of.
pub fn shell(dir: &Path, script: &str, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new("bash");
    // Changing the folder is the child's business: a mount that hangs must not hang the test.
    command.args(["-euo", "pipefail", "-c", &format!("cd \"$0\"\n{script}")]).arg(dir).args(args);
    command.env("LC_ALL", "C");
    for name in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET", "RUSTFLAGS"] {
        command.env_remove(name);
    }
    let out = output_within(command, STEP).map_err(|error| error.to_string())?;
    let (text, said) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    match out.status.success() {
        true => Ok(text.into_owned()),
        false => Err(format!("{}\n{text}{said}", out.status)),
    }
}

impl Program {
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::SeqCst)
    }

    fn folders(&self, volume: &Path, outside: &Path) -> (PathBuf, String) {
        let outside = outside.join(self.name);
        std::fs::create_dir_all(&outside).unwrap();
        (volume.join(self.name), outside.to_str().unwrap().to_owned())
    }

    /// Step after step until `end`; an error of any of them is the story's.
    pub fn run(&self, volume: &Path, outside: &Path, end: &AtomicBool) {
        let (dir, outside) = self.folders(volume, outside);
        std::fs::create_dir_all(&dir).unwrap();
        while !end.load(Ordering::SeqCst) {
            let step = self.steps() + 1;
            let done = shell(&dir, self.step, &[&outside, &step.to_string()]);
            done.unwrap_or_else(|e| panic!("step {step} of {}: {e}", self.name));
            self.steps.store(step, Ordering::SeqCst);
        }
    }

    pub fn check(&self, volume: &Path, outside: &Path) {
        if self.steps() == 0 {
            return;
        }
        let (dir, outside) = self.folders(volume, outside);
        let found = shell(&dir, self.check, &[&outside]);
        found.unwrap_or_else(|e| panic!("after step {} of {}: {e}", self.steps(), self.name));
    }
}
