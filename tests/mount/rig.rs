//! `s3vol` as a process, and what it left behind.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::support::s3server::TestS3;
pub use super::support::unmanaged::{clean, runs, s3vol_as};
use super::support::wait_for;
use super::support::watchdog::{Watchdog, mounted};

pub const SOON: Duration = Duration::from_secs(30);
/// A process that gives a volume back may take this long.
pub const GIVEN_BACK: Duration = Duration::from_secs(120);

pub fn s3vol(server: &TestS3) -> Command {
    s3vol_as("s3vol", Some(server))
}

/// Runs a command to its end: exit code, standard output, standard error.
pub fn finish(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Type and source of what is mounted at `path`, the topmost first.
pub fn mount_of(path: &Path) -> Option<(String, String)> {
    let table = s3vol::sys::mount_table().unwrap();
    table.into_iter().rev().find(|e| e.path == path).map(|e| (e.kind, e.source))
}

/// A place to mount at and a state folder; both go when it is dropped.
pub struct Place {
    pub dir: tempfile::TempDir,
    pub at: PathBuf,
    _watchdog: Watchdog,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("mnt");
        std::fs::create_dir(&at).unwrap();
        let watchdog = Watchdog::guard(&at, Duration::from_secs(150));
        Place { dir, at, _watchdog: watchdog }
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }
}

/// `s3vol mount` in the foreground. Killed when dropped.
pub struct Mount {
    pub child: Child,
    log: PathBuf,
    at: PathBuf,
    /// How often it was mounted by then, by the log: what a killed one leaves looks like a mount.
    mounted: usize,
}

fn mounted_so_far(log: &Path) -> usize {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.matches("the volume is mounted").count() + text.matches("the volume is followed").count()
}

impl Mount {
    /// Starts and waits until the volume is mounted.
    pub fn start(server: Option<&TestS3>, place: &Place, url: &str, options: &[&str]) -> Mount {
        Mount::begin(server, place, url, options).up()
    }

    /// Waits until the volume is mounted.
    pub fn up(mut self) -> Mount {
        wait_for("the mount", SOON, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("it ended with {status}: {}", self.said());
            }
            let there = mount_of(&self.at).filter(|(kind, _)| kind == "fuse.s3vol");
            there.filter(|_| mounted_so_far(&self.log) > self.mounted)
        });
        self
    }

    pub fn begin(server: Option<&TestS3>, place: &Place, url: &str, options: &[&str]) -> Mount {
        let mut command = s3vol_as("s3vol", server);
        Mount::begin_as(&mut command, place, url, options)
    }

    /// The same by a command with an environment of its own.
    pub fn begin_as(command: &mut Command, place: &Place, url: &str, options: &[&str]) -> Mount {
        Mount::begin_at(command, place, &place.at, url, options)
    }

    /// With the state folder of `place`, at another one.
    pub fn begin_at(
        command: &mut Command,
        place: &Place,
        at: &Path,
        url: &str,
        options: &[&str],
    ) -> Mount {
        let log = place.dir.path().join("log");
        let out = File::options().create(true).append(true).open(&log).unwrap();
        command.arg("mount").arg("--state").arg(place.state());
        for option in options {
            command.args(["-o", option]);
        }
        command.arg(url).arg(at).stdin(Stdio::null());
        command.stdout(out.try_clone().unwrap()).stderr(out);
        let mounted = mounted_so_far(&log);
        Mount { child: command.spawn().unwrap(), log, at: at.to_owned(), mounted }
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: plain system call; the child was not waited for, so its number is its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    /// Waits for the end.
    pub fn ended(&mut self, within: Duration) -> ExitStatus {
        wait_for("the end of s3vol mount", within, || self.child.try_wait().unwrap())
    }

    /// Everything printed so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGTERM, and everything settled.
    pub fn end_well(mut self) {
        self.signal(libc::SIGTERM);
        let status = self.ended(GIVEN_BACK);
        assert!(status.success(), "{status}: {}", self.said());
        assert!(!mounted(&self.at), "something is still mounted");
    }

    /// SIGTERM, and everything in the bucket; names whose last request may still arrive need not be at rest.
    pub fn end_committed(mut self) {
        self.signal(libc::SIGTERM);
        let status = self.ended(GIVEN_BACK);
        assert!(matches!(status.code(), Some(0 | 3)), "{status}: {}", self.said());
    }

    /// As a power cut would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The body of an object as text.
pub fn object(server: &TestS3, key: &str) -> Option<String> {
    server.get(key).map(|o| String::from_utf8_lossy(&o.body).into_owned())
}

pub fn run_ok(program: impl AsRef<OsStr>, args: &[&OsStr]) {
    let output = Command::new(&program).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {said}", program.as_ref());
}
