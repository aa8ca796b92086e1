//! The program under measurement: one volume, mounted in the foreground.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::support::s3server::TestS3;
use crate::support::wait_for;
use crate::support::watchdog::{self, Watchdog};

/// A mounted volume; dropping it ends the program and frees the mount point.
pub struct Mount {
    child: Child,
    at: PathBuf,
    _watchdog: Watchdog,
}

impl Mount {
    /// Returns once the first request is answered.
    pub fn new(server: &TestS3, state: &Path, at: &Path, options: &[&str]) -> Mount {
        fs::create_dir_all(at).expect("a mount point");
        let mut command = Command::new(env!("CARGO_BIN_EXE_s3vol"));
        command
            .args(["mount", "--state"])
            .arg(state)
            .args(options.iter().flat_map(|option| ["-o", option]))
            .arg(format!("s3://{}/bench", server.bucket()))
            .arg(at)
            .env_remove("AWS_CA_BUNDLE")
            .env_remove("SSL_CERT_FILE")
            .env_remove("SSL_CERT_DIR")
            .env("S3VOL_LOG", "warn")
            .envs(server.env())
            .env_remove("S3VOL_URL")
            .stdout(Stdio::null());
        let watchdog = Watchdog::guard(at, Duration::from_secs(3600));
        let child = command.spawn().expect("s3vol");
        wait_for("the mount", Duration::from_secs(60), || watchdog::mounted(at).then_some(()));
        // It waits until the volume is served.
        fs::metadata(at).expect("the root");
        Mount { child, at: at.to_owned(), _watchdog: watchdog }
    }

    /// SIGTERM, and until everything is at rest.
    pub fn end(self) -> Duration {
        let (time, ended) = self.end_anyhow();
        assert!(ended.success(), "unmounting left something behind: {ended}");
        time
    }

    /// The same, and with what exit code.
    pub fn end_anyhow(mut self) -> (Duration, ExitStatus) {
        let start = Instant::now();
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("SIGTERM");
        let ended = self.child.wait().expect("the end");
        (start.elapsed(), ended)
    }

    /// Memory of the program.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        status
            .unwrap_or_default()
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A mount that ended is not there any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
        watchdog::release(&self.at);
    }
}
