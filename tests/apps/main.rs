//! Real programs on a mounted volume, and again on a host that never saw it: what they wrote must be
//! whole there. `make test-apps` runs them and installs what they need; they need root and /dev/fuse.

mod build;
mod container;
mod files;
mod git;
mod killed;
mod mariadb;
mod postgres;
mod sqlite;
mod stress;
#[path = "../support/mod.rs"]
mod support;
mod upgraded;
#[allow(dead_code, reason = "the POSIX suites use the rest of it")]
#[path = "../posix/volume.rs"]
mod volume;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::dockerd::output_within;
use volume::Bucket;

/// For one mount; past it the mount is taken away.
const LIMIT: Duration = Duration::from_secs(600);
/// For one program.
const PROGRAM: Duration = Duration::from_secs(300);

/// Runs a shell script in `dir`, which must succeed; returns its output.
fn shell(dir: &Path, script: &str) -> String {
    shell_with(dir, script, &[])
}

/// The same with `$1`, `$2`, … set, for paths.
fn shell_with(dir: &Path, script: &str, args: &[&Path]) -> String {
    let mut command = Command::new("bash");
    // Changing the folder is the child's business: a mount that hangs must not hang the test.
    command.args(["-euo", "pipefail", "-c", &format!("cd \"$0\"\n{script}")]).arg(dir).args(args);
    command.env("LC_ALL", "C");
    let out = output_within(command, PROGRAM).unwrap();
    let (text, said) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{script}: {}\n{text}{said}", out.status);
    text.into_owned()
}

/// Ends the server that a file names on drop, so that a failed test leaves no process behind.
struct Server {
    pid_file: std::path::PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let Ok(text) = std::fs::read_to_string(&self.pid_file) else { return };
        let Some(pid) = text.lines().next().and_then(|line| line.trim().parse().ok()) else {
            return;
        };
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        );
    }
}
