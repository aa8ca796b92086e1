//! A private dockerd with its own data, optionally on a host of its own: network and UTS namespace,
//! joined to this one by a pair of virtual interfaces.
//!
//! Every command has a deadline, and nothing here looks at a path on a FUSE mount, so a hung volume
//! fails a test instead of hanging it. Dropping a [`Dockerd`] ends every process it has started and
//! removes every mount, namespace and file of it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::netns::Netns;

/// Longer than any docker command of the tests takes, shorter than anybody wants to wait.
const COMMAND: Duration = Duration::from_secs(90);
/// A large image on a busy disk.
const IMPORT: Duration = Duration::from_secs(300);
const START: Duration = Duration::from_secs(40);
/// dockerd gives plugins 10 s and containers some more.
const STOP: Duration = Duration::from_secs(25);

/// The image that [`Dockerd::import_busybox`] makes.
pub const IMAGE: &str = "busybox-test";
/// The name under which the tests install the plugin.
pub const PLUGIN: &str = "s3vol";

/// How to start one.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A name for a host of its own; `None` shares this machine's network and name.
    pub host: Option<String>,
}

pub struct Dockerd {
    dir: tempfile::TempDir,
    daemon: Option<Child>,
    host: Option<Netns>,
}

impl Dockerd {
    pub fn start(options: &Options) -> Self {
        let dir = tempfile::Builder::new().prefix("s3vol-dockerd-").tempdir().unwrap();
        let host = options.host.as_deref().map(Netns::create);
        let mut dockerd = Dockerd { dir, daemon: None, host };
        dockerd.up();
        dockerd
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts the daemon on the data that is there.
    pub fn up(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("dockerd.log"))
            .unwrap();
        let mut command = match &self.host {
            Some(host) => host.command("dockerd"),
            None => Command::new("dockerd"),
        };
        command
            .arg("--data-root")
            .arg(self.path("data"))
            .arg("--exec-root")
            .arg(self.path("exec"))
            .arg("-H")
            .arg(self.address())
            .arg("--pidfile")
            .arg(self.path("pid"))
            .args(["--iptables=false", "--bridge=none"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        end_with_this_thread(&mut command);
        self.daemon = Some(command.spawn().expect("dockerd is installed (docker.io)"));
        let begun = Instant::now();
        while !self.try_docker(&["version"]).is_ok_and(|out| out.status.success()) {
            let ended = self.daemon.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && begun.elapsed() < START,
                "dockerd did not start ({ended:?}):\n{}",
                self.log_tail(4000)
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The host of its own that it was started on.
    pub fn host(&self) -> &Netns {
        self.host.as_ref().expect("it was started on a host of its own")
    }

    /// Ends the daemon the way the system does, and waits for it.
    pub fn down(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        signal(daemon.id(), libc::SIGTERM);
        if wait(&mut daemon, STOP).is_none() {
            eprintln!("dockerd did not end in {STOP:?}; killed");
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    fn address(&self) -> String {
        format!("unix://{}", self.path("docker.sock").display())
    }

    /// Runs the docker client; its failure is the caller's to judge.
    pub fn try_docker(&self, args: &[&str]) -> std::io::Result<Output> {
        self.client("docker", args)
    }

    /// Runs docker-compose in `dir`.
    pub fn compose(&self, dir: &Path, args: &[&str]) -> Output {
        let mut command = Command::new("docker-compose");
        command.current_dir(dir).args(args);
        self.bounded(command).expect("docker-compose runs")
    }

    /// Runs a script against this engine; its failure is the caller's to judge.
    pub fn script(&self, path: &Path, args: &[&str]) -> Output {
        let mut command = Command::new(path);
        command.args(args);
        self.bounded(command).expect("the script runs")
    }

    fn client(&self, program: &str, args: &[&str]) -> std::io::Result<Output> {
        let mut command = Command::new(program);
        command.args(args);
        self.bounded(command)
    }

    fn bounded(&self, mut command: Command) -> std::io::Result<Output> {
        command.env("DOCKER_HOST", self.address()).env("DOCKER_CONFIG", self.path("client"));
        output_within(command, COMMAND)
    }

    /// Runs the docker client and returns what it printed; panics with all it said if it fails.
    pub fn docker(&self, args: &[&str]) -> String {
        let out = self.try_docker(args).expect("docker runs");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(
            out.status.success(),
            "docker {args:?}: {}\n{text}{}\n--- dockerd\n{}",
            out.status,
            String::from_utf8_lossy(&out.stderr),
            self.log_tail(3000)
        );
        text
    }

    /// Runs the docker client, expects it to fail, and returns what it complained.
    pub fn docker_fails(&self, args: &[&str]) -> String {
        let out = self.try_docker(args).expect("docker runs");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success(), "docker {args:?} succeeded: {said}");
        said
    }

    /// Runs a shell script in a fresh container with `volume` at `/d`; returns its output.
    pub fn run(&self, volume: &str, script: &str) -> String {
        self.run_at(volume, "/d", script)
    }

    /// The same with the volume elsewhere.
    pub fn run_at(&self, volume: &str, at: &str, script: &str) -> String {
        let mount = format!("{volume}:{at}");
        let mut args = vec!["run", "--rm"];
        args.extend(["--network", "none", "-v", &mount, IMAGE, "/bin/sh", "-c", script]);
        self.docker(&args)
    }

    /// The same as [`Self::run`]; its failure is the caller's to judge.
    pub fn try_run(&self, volume: &str, script: &str) -> Output {
        let mount = format!("{volume}:/d");
        let mut args = vec!["run", "--rm"];
        args.extend(["--network", "none", "-v", &mount, IMAGE, "/bin/sh", "-c", script]);
        self.try_docker(&args).expect("docker runs")
    }

    /// Starts a container that runs a shell script, with `volume` at `/d`.
    pub fn start_container(&self, name: &str, volume: &str, script: &str) {
        let mount = format!("{volume}:/d");
        let mut args = vec!["run", "-d", "--name", name];
        args.extend(["--network", "none", "-v", &mount, IMAGE, "/bin/sh", "-c", script]);
        self.docker(&args);
    }

    /// Runs a shell script in a running container; returns its output.
    pub fn exec(&self, container: &str, script: &str) -> String {
        self.docker(&["exec", container, "/bin/sh", "-c", script])
    }

    /// Makes the image [`IMAGE`] from busybox-static, with whatever `fill` adds to its root.
    pub fn import_busybox(&self, fill: impl FnOnce(&Path)) {
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        let busybox =
            ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|p| Path::new(p).exists());
        std::fs::copy(busybox.expect("busybox-static is installed"), bin.join("busybox")).unwrap();
        for applet in [
            "cat", "chmod", "chown", "cp", "dd", "echo", "find", "ln", "ls", "md5sum", "mkdir",
            "mv", "rm", "sh", "sleep", "stat", "sync", "touch",
        ] {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
        }
        fill(root.path());
        let tar = self.path("image.tar");
        let mut command = Command::new("tar");
        command.arg("-C").arg(root.path()).arg("-cf").arg(&tar).args(["--numeric-owner", "."]);
        assert!(output_within(command, COMMAND).unwrap().status.success());
        self.import(&tar, IMAGE);
    }

    /// Makes an image of a root file system in an archive.
    pub fn import(&self, tar: &Path, image: &str) {
        let mut command = Command::new("docker");
        command.arg("import").arg(tar).arg(image).env("DOCKER_HOST", self.address());
        let out = output_within(command, IMPORT).expect("docker runs");
        assert!(out.status.success(), "docker import: {}", String::from_utf8_lossy(&out.stderr));
    }

    /// Installs and enables the plugin laid out in `dir` (config.json and rootfs/).
    pub fn install_plugin(&self, dir: &Path, settings: &[(String, String)]) {
        self.docker(&["plugin", "create", PLUGIN, dir.to_str().unwrap()]);
        if !settings.is_empty() {
            let words: Vec<String> = settings.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let mut args = vec!["plugin", "set", PLUGIN];
            args.extend(words.iter().map(String::as_str));
            self.docker(&args);
        }
        self.docker(&["plugin", "enable", PLUGIN]);
    }

    /// Where sockets and what runs are kept.
    pub fn exec_root(&self) -> PathBuf {
        self.path("exec")
    }

    /// Where the plugin's propagated mount lies on this machine.
    pub fn plugin_dir(&self) -> PathBuf {
        let id = self.docker(&["plugin", "inspect", "-f", "{{.Id}}", PLUGIN]);
        self.path("data").join("plugins").join(id.trim()).join("propagated-mount")
    }

    /// The end of the daemon's log, the plugin's output included.
    pub fn log_tail(&self, bytes: usize) -> String {
        let log = std::fs::read(self.path("dockerd.log")).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(bytes)..]).into_owned()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- dockerd\n{}", self.log_tail(6000));
        }
        if self.daemon.is_some() {
            if let Ok(out) = self.try_docker(&["ps", "-aq"]) {
                let ids = String::from_utf8_lossy(&out.stdout).into_owned();
                let mut args = vec!["rm", "-f"];
                args.extend(ids.split_whitespace());
                if args.len() > 2 {
                    let _ = self.try_docker(&args);
                }
            }
            self.down();
        }
        // containerd, shims and the plugin all carry the unique folder in their arguments or root.
        for pid in processes_of(self.dir.path()) {
            signal(pid, libc::SIGKILL);
        }
        for mount in mounts_below(self.dir.path()) {
            let _ = nix::mount::umount2(
                &mount,
                nix::mount::MntFlags::MNT_DETACH | nix::mount::MntFlags::UMOUNT_NOFOLLOW,
            );
        }
        // Removing files through a mount that stayed would be worse than leaving files.
        if !mounts_below(self.dir.path()).is_empty() {
            self.dir.disable_cleanup(true);
        }
    }
}

/// Processes whose command line names `dir`, and everything they have started: the plugin itself,
/// a child of its shim, does not know where it runs.
fn processes_of(dir: &Path) -> Vec<u32> {
    let needle = dir.to_str().unwrap();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids: Vec<u32> =
        entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    let named = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid != std::process::id() && String::from_utf8_lossy(&line).contains(needle)
    };
    let parent = |pid: u32| -> Option<u32> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
    };
    let mut found: Vec<u32> = pids.iter().copied().filter(named).collect();
    let mut next = 0;
    while let Some(&above) = found.get(next) {
        found.extend(pids.iter().filter(|pid| parent(**pid) == Some(above)));
        next += 1;
    }
    found
}

/// Mount points below `dir`, the last mounted first.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = s3vol::sys::mount_table().unwrap_or_default();
    let mut below: Vec<PathBuf> =
        table.into_iter().map(|entry| entry.path).filter(|path| path.starts_with(dir)).collect();
    below.reverse();
    below
}

fn signal(pid: u32, number: i32) {
    let signal = nix::sys::signal::Signal::try_from(number).unwrap();
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal);
}

/// A test that is killed cleans nothing up, but at least its daemon must end.
fn end_with_this_thread(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec the closure makes one system call, and touches no memory.
    unsafe {
        command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?))
    };
}

fn wait(child: &mut Child, limit: Duration) -> Option<std::process::ExitStatus> {
    let begun = Instant::now();
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if begun.elapsed() > limit {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a command to its end, killing it after `limit`.
pub fn output_within(mut command: Command, limit: Duration) -> std::io::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let reader = |mut pipe: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.read_to_end(&mut bytes);
            bytes
        })
    };
    let out = reader(Box::new(child.stdout.take().unwrap()));
    let err = reader(Box::new(child.stderr.take().unwrap()));
    let Some(status) = wait(&mut child, limit) else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            format!("{command:?} was not done in {limit:?}"),
        ));
    };
    Ok(Output { status, stdout: out.join().unwrap(), stderr: err.join().unwrap() })
}
