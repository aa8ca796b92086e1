//! The plugin as `s3vol plugin` serves it, without Docker's plugin manager, and a client as dockerd is one.

use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};

use super::netns::Netns;
use super::s3server::TestS3;
use super::wait_for;
use super::watchdog::{Watchdog, mounted, release};

const SOON: Duration = Duration::from_secs(30);

/// The program under the name `name`, with the credentials for `server` and no others.
pub fn s3vol_as(name: &str, server: Option<&TestS3>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_s3vol"));
    command.arg0(name);
    clean(&mut command, server);
    command
}

pub fn clean(command: &mut Command, server: Option<&TestS3>) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["AWS_", "S3VOL_", "SSL_CERT"].iter().any(|start| text.starts_with(start)) {
            command.env_remove(&name);
        }
    }
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    if let Some(server) = server {
        command.envs(server.env().into_iter().filter(|(name, _)| name != "S3VOL_URL"));
    }
}

/// A copy of the program that differs in what `note` says; see `fault::noted`.
pub fn other_program(dir: &Path, name: &str, note: &str) -> PathBuf {
    // Without what only a debugger reads: it is copied, hashed and synced again and again.
    static SMALL: OnceLock<Vec<u8>> = OnceLock::new();
    let small = SMALL.get_or_init(|| {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut strip = Command::new("strip");
        strip.arg("-o").arg(file.path()).arg(env!("CARGO_BIN_EXE_s3vol"));
        assert!(strip.status().expect("binutils are installed").success());
        std::fs::read(file.path()).unwrap()
    });
    let path = dir.join(name);
    std::fs::write(&path, small).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    if !note.is_empty() {
        let mut file = File::options().append(true).open(&path).unwrap();
        write!(file, "{}{note}", s3vol::fault::NOTE).unwrap();
    }
    path
}

/// Whether a process of this number runs.
pub fn runs(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    // A zombie has ended; who reaps it depends on the machine.
    stat.is_ok_and(|s| s.rsplit(") ").next().is_some_and(|rest| !rest.starts_with('Z')))
}

/// One plugin with folders of its own.
pub struct Plugin {
    pub dir: Arc<tempfile::TempDir>,
    child: Child,
    watchdogs: Vec<Watchdog>,
}

impl Plugin {
    /// A plugin whose volumes live in the bucket of `server`.
    pub fn start(server: &TestS3) -> Plugin {
        let url = format!("s3://{}/team", server.bucket());
        Plugin::with(Some(server), &[("S3VOL_URL", &url)])
    }

    pub fn with(server: Option<&TestS3>, env: &[(&str, &str)]) -> Plugin {
        Plugin::again(Arc::new(tempfile::tempdir().unwrap()), server, env)
    }

    /// With the folders of one that has ended.
    pub fn again(
        dir: Arc<tempfile::TempDir>,
        server: Option<&TestS3>,
        env: &[(&str, &str)],
    ) -> Plugin {
        Plugin::by(s3vol_as("s3vol", server), dir, env)
    }

    /// Of another program.
    pub fn of(
        program: &Path,
        dir: Arc<tempfile::TempDir>,
        server: &TestS3,
        env: &[(&str, &str)],
    ) -> Plugin {
        let mut command = Command::new(program);
        clean(&mut command, Some(server));
        Plugin::by(command, dir, env)
    }

    /// The same on a host of its own.
    pub fn on(
        host: &Netns,
        dir: Arc<tempfile::TempDir>,
        server: &TestS3,
        env: &[(&str, &str)],
    ) -> Plugin {
        let mut command = host.command(env!("CARGO_BIN_EXE_s3vol"));
        clean(&mut command, Some(server));
        Plugin::by(command, dir, env)
    }

    /// Of a command with settings of its own.
    pub fn by(mut command: Command, dir: Arc<tempfile::TempDir>, env: &[(&str, &str)]) -> Plugin {
        let log = File::options().create(true).append(true).open(dir.path().join("log")).unwrap();
        command.arg("plugin").arg("--socket").arg(dir.path().join("plugin.sock"));
        command.env("S3VOL_STATE", dir.path().join("state"));
        command.env("S3VOL_MOUNTS", dir.path().join("vol")).envs(env.iter().copied());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        let mut plugin = Plugin { dir, child, watchdogs: Vec::new() };
        // The socket may still be that of one which is being killed; dockerd calls again, too.
        let (_, answer) = wait_for("the plugin", SOON, || {
            if let Some(status) = plugin.child.try_wait().unwrap() {
                panic!("the plugin ended with {status}: {}", plugin.log());
            }
            plugin.call("Plugin.Activate", &json!({})).ok()
        });
        assert_eq!(answer["Implements"], json!(["VolumeDriver"]));
        plugin
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("plugin.sock")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// One call, as dockerd sends it: no Content-Type, 30 s.
    pub fn call(&self, method: &str, body: &Value) -> std::io::Result<(u16, Value)> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let body = body.to_string();
        let accept = "application/vnd.docker.plugins.v1.2+json";
        let request = format!(
            "POST /{method} HTTP/1.1\r\nHost: plugin\r\nAccept: {accept}\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        // At once: who needs no body answers when the head is there, and closes.
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let broken = || std::io::Error::new(std::io::ErrorKind::UnexpectedEof, answer.clone());
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(broken)?;
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(broken)?;
        Ok((status, serde_json::from_str(body).map_err(|_| broken())?))
    }

    pub fn ok(&self, method: &str, body: Value) -> Value {
        let called = self.call(method, &body);
        let (status, answer) =
            called.unwrap_or_else(|e| panic!("{method} {body}: {e}\n{}", self.log()));
        assert_eq!(status, 200, "{method} {body}: {answer}\n{}", self.log());
        assert!(answer["Err"].as_str().unwrap_or_default().is_empty(), "{answer}");
        answer
    }

    /// The error that a call ends in.
    pub fn err(&self, method: &str, body: Value) -> String {
        let called = self.call(method, &body);
        let (status, answer) =
            called.unwrap_or_else(|e| panic!("{method} {body}: {e}\n{}", self.log()));
        assert_eq!(status, 500, "{method} {body}: {answer}");
        answer["Err"].as_str().unwrap().to_owned()
    }

    pub fn create(&self, name: &str, options: &[(&str, &str)]) -> Result<(), String> {
        let options: serde_json::Map<String, Value> =
            options.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
        let body = json!({ "Name": name, "Opts": options });
        let (status, answer) = self.call("VolumeDriver.Create", &body).unwrap();
        match status {
            200 => Ok(()),
            _ => Err(answer["Err"].as_str().unwrap().to_owned()),
        }
    }

    pub fn mount(&mut self, name: &str, id: &str) -> PathBuf {
        self.mount_for(name, id, Duration::from_secs(150))
    }

    /// One that may last so long.
    pub fn mount_for(&mut self, name: &str, id: &str, limit: Duration) -> PathBuf {
        let place = self.dir.path().join("vol").join(name);
        self.watchdogs.push(Watchdog::guard(&place, limit));
        let answer = self.ok("VolumeDriver.Mount", json!({ "Name": name, "ID": id }));
        assert_eq!(answer["Mountpoint"], place.to_str().unwrap());
        assert!(mounted(&place));
        place
    }

    pub fn unmount(&self, name: &str, id: &str) {
        self.ok("VolumeDriver.Unmount", json!({ "Name": name, "ID": id }));
    }

    pub fn status(&self, name: &str) -> Value {
        self.ok("VolumeDriver.Get", json!({ "Name": name }))["Volume"]["Status"].clone()
    }

    /// The children of the plugin whose command line ends in `role`.
    pub fn children(&self, role: &str) -> Vec<u64> {
        let path = format!("/proc/{0}/task/{0}/children", self.child.id());
        let pids = std::fs::read_to_string(path).unwrap_or_default();
        let is = |pid: &u64| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.strip_suffix(b"\0").is_some_and(|l| l.ends_with(role.as_bytes())) && runs(*pid)
        };
        pids.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(is).collect()
    }

    /// The supervisor's.
    pub fn pid(&self) -> u64 {
        u64::from(self.child.id())
    }

    /// `s3vol upgrade`: whether it went well, and all that it said.
    pub fn upgrade(&self, args: &[&str]) -> (bool, String) {
        let mut command = s3vol_as("s3vol", None);
        command.arg("upgrade").arg("--socket").arg(self.socket()).args(args);
        let done = command.output().unwrap();
        let said = [done.stdout, done.stderr].concat();
        (done.status.success(), String::from_utf8(said).unwrap())
    }

    pub fn upgrade_to(&self, program: &Path) {
        let (well, said) = self.upgrade(&["--from", program.to_str().unwrap()]);
        assert!(well, "{said}\n{}", self.log());
    }

    /// Waits for its end, if something has killed it.
    pub fn ended(&mut self) {
        wait_for("the end of the plugin", SOON, || self.child.try_wait().unwrap());
    }

    /// Kills all of it, as the loss of the host would, and takes the dead mounts away.
    pub fn lost(&mut self) {
        // Nobody is told of another's end: a worker without a supervisor would commit what it has.
        let send = |pid: u64, signal| {
            // SAFETY: plain system call; nobody can have waited for the child of a process that stands still.
            assert_eq!(unsafe { libc::kill(pid as i32, signal) }, 0);
        };
        send(self.pid(), libc::SIGSTOP);
        for pid in ["worker", "driver"].iter().flat_map(|role| self.children(role)) {
            send(pid, libc::SIGKILL);
            wait_for("the end of a child", SOON, || (!runs(pid)).then_some(()));
        }
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let volumes = std::fs::read_dir(self.dir.path().join("vol")).unwrap();
        volumes.flatten().for_each(|volume| release(&volume.path()));
    }

    /// Kills the only child of a role and waits for its successor.
    pub fn kill(&self, role: &str) {
        let before = self.children(role);
        assert_eq!(before.len(), 1, "{role}: {before:?}\n{}", self.log());
        // SAFETY: plain system call on a child of our own child, which has not reaped it.
        assert_eq!(unsafe { libc::kill(before[0] as i32, libc::SIGKILL) }, 0);
        wait_for("the successor", SOON, || {
            let now = self.children(role);
            (now.len() == 1 && now != before).then_some(())
        });
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the plugin's log\n{}---", self.log());
        }
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // SAFETY: plain system call; the child was not waited for, so its number is its own.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        let ended = (0..6000).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            self.child.try_wait().is_ok_and(|status| status.is_some())
        });
        if !ended {
            eprintln!("the plugin did not end after SIGTERM");
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
