//! A volume mounted by the program itself.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use s3vol::driver::{ControlClient, DriverSettings};
use s3vol::worker::DrainReply;

use crate::support::s3server::TestS3;
use crate::support::wait_for;
use crate::support::watchdog::Watchdog;

/// Opening a volume, and closing it with all that is left to settle.
const PATIENCE: Duration = Duration::from_secs(120);

/// The bucket, and one volume that is mounted again and again.
pub struct Bucket {
    pub server: TestS3,
    dir: tempfile::TempDir,
    states: u32,
}

/// One mount of the volume. Dropping it aborts the connection, so that nothing can hang.
pub struct Mounted {
    pub path: PathBuf,
    log: PathBuf,
    state: PathBuf,
    worker: Child,
    _watchdog: Watchdog,
}

impl Bucket {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Other users must reach the mount.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).unwrap();
        Bucket { server: TestS3::start(), dir, states: 0 }
    }

    /// A folder on the local disk, beside the volume's.
    pub fn local(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// Mounts the volume as a host does that never saw it: with an empty state folder.
    pub fn mount(&mut self, options: &[&str], limit: Duration) -> Mounted {
        self.states += 1;
        self.mount_again(options, limit)
    }

    /// Mounts the volume on the host that had it last.
    pub fn mount_again(&mut self, options: &[&str], limit: Duration) -> Mounted {
        let state = self.local(&format!("state-{}", self.states));
        let log = self.dir.path().join(format!("log-{}", self.states));
        let path = self.local("mnt");
        let watchdog = Watchdog::guard(&path, limit);
        let said = File::create(&log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_s3vol"));
        self.server.used_by(&mut command);
        // The server is near: what a killed worker sent is there at once or never.
        command.env("S3VOL_TEST_HOT_MARGIN_MS", "1000");
        command.arg("mount").arg("--state").arg(&state);
        for option in options {
            command.args(["-o", option]);
        }
        let worker = command
            .arg(format!("s3://{}/volume", self.server.bucket()))
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(said.try_clone().unwrap())
            .stderr(said)
            .spawn()
            .unwrap();
        let mut mounted = Mounted { path, log, state, worker, _watchdog: watchdog };
        wait_for("the mount", PATIENCE, || {
            let ended = mounted.worker.try_wait().unwrap();
            assert!(ended.is_none(), "the worker ended: {ended:?}\n{}", mounted.said());
            mounted.said().contains("the volume is mounted").then_some(())
        });
        mounted
    }

    /// The content of the object that a file became.
    pub fn object(&self, name: &str) -> Option<Vec<u8>> {
        self.server.get(&format!("volume/{name}")).map(|object| object.body.to_vec())
    }
}

impl Mounted {
    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Unmounts, and ends the worker; it must say that nothing was left behind.
    pub fn unmount(self) {
        let (ended, said) = self.end();
        assert!(ended.success(), "{ended}\n{said}");
    }

    /// The same, and it must say that something stays in motion.
    pub fn unmount_leaving(self) {
        assert!(!self.unmount_in_the_middle(), "nothing stays in motion");
    }

    /// The same; whether everything is plain objects. The rest is in the bucket as well.
    pub fn unmount_in_the_middle(self) -> bool {
        let (ended, said) = self.end();
        let left = said.contains("are not plain objects yet");
        assert!(ended.success() != left, "{ended}\n{said}");
        !left
    }

    /// Commits everything and settles what can be, and lets others have the volume until it is resumed.
    pub fn drain(&self) -> DrainReply {
        let said = self.ask(|control| async move { control.drain(PATIENCE).await });
        assert!(said.committed, "{said:?}");
        said
    }

    /// Takes a drained volume back into use.
    pub fn resume(&self) {
        assert!(self.ask(|control| async move { control.resume(PATIENCE).await }), "it is gone");
    }

    fn ask<T, F>(&self, what: impl FnOnce(ControlClient) -> F) -> T
    where
        F: Future<Output = Result<T, s3vol::driver::ControlError>>,
    {
        let folder = DriverSettings::control_sockets(&self.state);
        let socket = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(what(ControlClient::new(&socket))).unwrap()
    }

    /// What `s3vol status` says.
    pub fn status(&self) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_s3vol"));
        let done = command.arg("status").arg("--state").arg(&self.state).output().unwrap();
        String::from_utf8(done.stdout).unwrap()
    }

    /// Waits until `s3vol status` says this.
    pub fn says(&self, what: &str) {
        wait_for(what, PATIENCE, || self.status().contains(what).then_some(()));
    }

    /// Kills the worker, as a crash would.
    pub fn kill(mut self) {
        self.worker.kill().unwrap();
        self.worker.wait().unwrap();
    }

    fn end(mut self) -> (ExitStatus, String) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.worker.id()).unwrap());
        // An unmount waits for requests that may still arrive; who sends a signal is not kept waiting.
        if nix::mount::umount(&self.path).is_err() {
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        }
        let ended = wait_for("the unmount", PATIENCE, || self.worker.try_wait().unwrap());
        assert!(!is_mounted(&self.path), "{} is still mounted", self.path.display());
        (ended, self.said())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if matches!(self.worker.try_wait(), Ok(None)) {
            eprintln!("{}", self.said());
            let _ = self.worker.kill();
            let _ = self.worker.wait();
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    crate::support::watchdog::mounted(path)
}
