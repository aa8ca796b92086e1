//! One host that mounts a volume with the real program.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use s3vol::driver::ControlClient;
use s3vol::worker::{DrainReply, VolumeState, WorkerStatus};
use tempfile::TempDir;

use super::s3server::TestS3;
use super::wait_for;
use super::watchdog::{Watchdog, mounted, release};

const PATIENCE: Duration = Duration::from_secs(60);

/// A state folder, a mount point, and the process that serves it while it is mounted.
pub struct Host {
    pub dir: TempDir,
    options: String,
    env: Vec<(String, String)>,
    child: Option<Child>,
    _dog: Watchdog,
}

impl Host {
    /// `options` as after `-o`.
    pub fn new(options: &str) -> Self {
        Host::guarded(options, Duration::from_secs(300))
    }

    /// One whose mounts may last so long.
    pub fn guarded(options: &str, limit: Duration) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("mnt")).expect("the mount point");
        let dog = Watchdog::guard(dir.path().join("mnt"), limit);
        Host { dir, options: options.to_owned(), env: Vec::new(), child: None, _dog: dog }
    }

    /// Sets the options of the next mount.
    pub fn set_options(&mut self, options: &str) {
        options.clone_into(&mut self.options);
    }

    /// Sets a variable for the next mount.
    pub fn env(&mut self, name: &str, value: impl ToString) -> &mut Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn mnt(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.mnt().join(name)
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The local folders of volumes.
    pub fn local_folders(&self) -> impl Iterator<Item = PathBuf> {
        let volumes = std::fs::read_dir(self.state().join("volumes")).expect("volumes");
        volumes.map(|e| e.expect("one").path()).filter(|path| !path.ends_with("trash"))
    }

    fn volume_dir(&self) -> PathBuf {
        let mut found: Vec<_> = self.local_folders().collect();
        assert_eq!(found.len(), 1);
        found.remove(0)
    }

    /// The volume's local folder.
    pub fn local(&self, name: &str) -> PathBuf {
        self.volume_dir().join(name)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("out")).unwrap_or_default()
    }

    /// Mounts, and panics with what the process said if that fails.
    pub fn mount(&mut self, server: &TestS3) {
        if let Err(text) = self.try_mount(server) {
            panic!("not mounted: {text}");
        }
    }

    /// Mounts; the error is what the process said.
    pub fn try_mount(&mut self, server: &TestS3) -> Result<(), String> {
        assert!(self.child.is_none());
        let out = File::create(self.dir.path().join("out")).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_s3vol"));
        server.used_by(&mut command);
        command
            .envs(self.env.iter().cloned())
            .args(["mount", "--state"])
            .arg(self.state())
            .args(["-o", &self.options])
            .arg(format!("s3://{}/vol", server.bucket()))
            .arg(self.mnt())
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a copy"))
            .stderr(out);
        let mut child = command.spawn().expect("the program runs");
        let pid = child.id();
        let ended = wait_for("mounted or ended", PATIENCE, || {
            if child.try_wait().expect("a child").is_some() {
                return Some(true);
            }
            self.status()
                .is_some_and(|s| s.pid == pid && s.state != VolumeState::Opening)
                .then_some(false)
        });
        if ended {
            return Err(self.log());
        }
        self.child = Some(child);
        Ok(())
    }

    /// What another command of the program prints; the error is what it complains of.
    pub fn run(&self, server: &TestS3, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_s3vol"));
        server.used_by(&mut command);
        let out = command.args(args).stdin(Stdio::null()).output().expect("the program runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if out.status.success() { Ok(text(&out.stdout)) } else { Err(text(&out.stderr)) }
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = self.child.as_ref().expect("mounted").id();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal).expect("a signal");
    }

    pub fn is_alive(&mut self) -> bool {
        let child = self.child.as_mut().expect("mounted");
        child.try_wait().expect("a child").is_none()
    }

    /// kill -9, and the dead mount taken away.
    pub fn kill(&mut self) {
        self.crash();
        release(&self.mnt());
    }

    /// kill -9.
    pub fn crash(&mut self) {
        self.signal(nix::sys::signal::Signal::SIGKILL);
        self.child.take().expect("mounted").wait().expect("an end");
    }

    /// A clean unmount.
    pub fn unmount(&mut self) -> ExitStatus {
        // An unmount waits for requests that may still arrive; who sends a signal is not kept waiting.
        let in_use = mounted(&self.mnt()) && nix::mount::umount(&self.mnt()).is_err();
        if in_use {
            self.signal(nix::sys::signal::Signal::SIGTERM);
        }
        self.ended()
    }

    /// Waits for the end of a process that was told to end.
    pub fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("mounted");
        let status = wait_for("the end", PATIENCE * 2, || child.try_wait().expect("a child"));
        release(&self.mnt());
        status
    }

    /// A clean unmount; what a lost host had under way may still be waiting to become plain objects.
    pub fn end(&mut self) {
        let status = self.unmount();
        let log = self.log();
        assert!(status.success() || log.contains("everything is in the bucket"), "{log}");
    }

    /// Asks through the control socket, once there is one.
    fn ask<T, F: Future<Output = T>>(
        &self,
        question: impl FnOnce(ControlClient) -> F,
    ) -> Option<T> {
        let folder = s3vol::driver::DriverSettings::control_sockets(&self.state());
        let socket = std::fs::read_dir(folder).ok()?.flatten().next()?.path();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Some(runtime.block_on(question(ControlClient::new(&socket))))
    }

    /// What the control socket says.
    pub fn status(&self) -> Option<WorkerStatus> {
        self.ask(|control| async move { control.status(Duration::from_secs(5)).await.ok() })?
    }

    /// What an unmount says that Docker asks for.
    pub fn drain(&self) -> DrainReply {
        let drained =
            self.ask(|control| async move { control.drain(Duration::from_secs(30)).await });
        drained.expect("a control socket").expect("an answer")
    }

    /// Whether the volume could be taken back into use.
    pub fn resume(&self) -> bool {
        let resumed =
            self.ask(|control| async move { control.resume(Duration::from_secs(30)).await });
        resumed.expect("a control socket").expect("an answer")
    }

    pub fn wait_state(&self, state: VolumeState) {
        wait_for(&format!("the state {state:?}"), PATIENCE, || {
            self.status().filter(|status| status.state == state)
        });
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.mnt().display(), self.log());
        }
        release(&self.mnt());
    }
}

/// fsync of a file by its path.
pub fn fsync(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}
