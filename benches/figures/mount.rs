//! The program under measurement: one volume, mounted in the foreground.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::wait::{Id, WaitPidFlag, waitid};

use crate::support::s3server::TestS3;
use crate::support::wait_for;
use crate::support::watchdog::{self, Watchdog};

/// A mounted volume; dropping it ends the program and frees the mount point.
pub struct Mount {
    child: Child,
    at: PathBuf,
    settle: Command,
    _watchdog: Watchdog,
}

fn url(server: &TestS3) -> String {
    format!("s3://{}/bench", server.bucket())
}

fn s3vol(command: &str, server: &TestS3, state: &Path) -> Command {
    let mut s3vol = Command::new(env!("CARGO_BIN_EXE_s3vol"));
    s3vol
        .args([command, "--state"])
        .arg(state)
        .env_remove("AWS_CA_BUNDLE")
        .env_remove("SSL_CERT_FILE")
        .env_remove("SSL_CERT_DIR")
        .env("S3VOL_LOG", "warn")
        .envs(server.env())
        .env_remove("S3VOL_URL")
        .stdout(Stdio::null());
    s3vol
}

impl Mount {
    /// Returns once the first request is answered.
    pub fn new(server: &TestS3, state: &Path, at: &Path, options: &[&str]) -> Mount {
        fs::create_dir_all(at).expect("a mount point");
        let mut command = s3vol("mount", server, state);
        command.args(options.iter().flat_map(|option| ["-o", option])).arg(url(server)).arg(at);
        let mut settle = s3vol("settle", server, state);
        settle.arg(url(server));
        let watchdog = Watchdog::guard(at, Duration::from_secs(3600));
        let child = command.spawn().expect("s3vol");
        wait_for("the mount", Duration::from_secs(60), || watchdog::mounted(at).then_some(()));
        // It waits until the volume is served.
        fs::metadata(at).expect("the root");
        Mount { child, at: at.to_owned(), settle, _watchdog: watchdog }
    }

    /// SIGTERM, and until everything is at rest.
    pub fn end(self) -> Duration {
        self.end_using().0
    }

    /// The same, and how much processor time it took meanwhile.
    pub fn end_using(mut self) -> (Duration, Duration) {
        let (start, before) = (Instant::now(), self.processor());
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("SIGTERM");
        let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(pid), ended).expect("the end");
        let took = (start.elapsed(), self.processor() - before);
        let ended = self.child.wait().expect("it has ended");
        assert!(ended.success(), "unmounting left something behind: {ended}");
        took
    }

    /// Until all that was written is at rest.
    pub fn settle(&mut self) -> Duration {
        let start = Instant::now();
        let ended = self.settle.status().expect("s3vol");
        assert!(ended.success(), "settling left something in motion: {ended}");
        start.elapsed()
    }

    /// Processor time of the program so far, in steps of the kernel's clock of 10 ms.
    pub fn processor(&self) -> Duration {
        processor_of(self.child.id().into())
    }

    /// Memory of the program.
    pub fn resident_kib(&self) -> u64 {
        resident_kib_of(self.child.id().into())
    }
}

/// Processor time of a process, in steps of the kernel's clock of 10 ms.
pub fn processor_of(pid: u64) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let (_, fields) = stat.rsplit_once(')').expect("its name");
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}

/// Memory of a process.
pub fn resident_kib_of(pid: u64) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    status
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A mount that ended is not there any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
        watchdog::release(&self.at);
    }
}
