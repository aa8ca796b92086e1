//! The supervisor as a process of its own, whose driver is the test: a script takes the driver's place and relays
//! its channel.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use s3vol::supervisor::{Settings, run};
use serde_json::Value;

use super::wait_for;
use super::watchdog::{Watchdog, release};

const PATIENCE: Duration = Duration::from_secs(60);

/// What the script of the children begins with: its driver calls `relay`.
const RELAY: &str = r#"
import os, select, socket, sys
def relay():
    channel = socket.socket(fileno=4)
    test = socket.socket(socket.AF_UNIX); test.connect(os.environ["TEST_DIR"] + "/relay")
    while True:
        ready, _, _ = select.select([channel, test], [], [])
        for a in ready:
            data = a.recv(65536)
            if not data: sys.exit(1)
            (test if a is channel else channel).sendall(data)
"#;

/// Suites add what only they ask of it.
pub struct Rig {
    pub dir: tempfile::TempDir,
    pub relay: UnixListener,
    pub supervisor: Child,
    pub driver: BufReader<UnixStream>,
    pub dog: Option<Watchdog>,
}

impl Rig {
    /// One whose children run this script, which is told by its first argument which of them it is. `set` says
    /// what else the supervisor's command needs.
    pub fn of(children: &str, set: impl FnOnce(&mut Command)) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("children.py"), [RELAY, children].concat()).unwrap();
        let relay = UnixListener::bind(dir.path().join("relay")).unwrap();
        let supervisor = spawn(dir.path(), set);
        let driver = accept(&relay);
        Rig { dir, relay, supervisor, driver, dog: None }
    }

    pub fn send(&mut self, message: Value) {
        let line = format!("{message}\n");
        self.driver.get_mut().write_all(line.as_bytes()).unwrap();
    }

    /// What it says next: an answer, or an event.
    pub fn read(&mut self) -> Value {
        let mut line = String::new();
        self.driver.read_line(&mut line).expect("an answer in time");
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.dir.path().join("out")).unwrap());
        }
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
        if let Ok(places) = std::fs::read_dir(self.dir.path().join("vol")) {
            places.flatten().for_each(|place| release(&place.path()));
        }
    }
}

/// Starts the supervisor of a folder, in which a file `die` makes a worker die once it has logged a request. Each
/// suite has a test `supervisor_process` that calls [`supervise`].
pub fn spawn(dir: &Path, set: impl FnOnce(&mut Command)) -> Child {
    let exe = std::env::current_exe().unwrap();
    // The test harness has threads of its own; with the mask set before it starts, none of them
    // takes a signal that is meant for the supervisor, which is a process with one thread.
    let masked = "import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT, signal.SIGCHLD])
os.execv(sys.argv[1], sys.argv[1:])";
    let out = File::options().create(true).append(true).open(dir.join("out")).unwrap();
    let mut command = Command::new("python3");
    command
        .args(["-c", masked])
        .arg(&exe)
        .args(["--ignored", "--exact", "supervisor_process", "--nocapture", "--test-threads=1"])
        .env("TEST_DIR", dir)
        .env("TEST_EXE", &exe)
        .env("S3VOL_TEST_DIE_LOGGED", dir.join("die"))
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(out);
    set(&mut command);
    command.spawn().unwrap()
}

/// What that process does.
pub fn supervise() {
    let Some(dir) = std::env::var_os("TEST_DIR").map(PathBuf::from) else { return };
    let mut settings = Settings::new(dir.join("plugin.sock"), dir.join("vol"));
    settings.program = vec!["python3".into(), dir.join("children.py").into()];
    std::process::exit(if run(settings).is_ok() { 0 } else { 1 });
}

/// The next driver of the supervisor.
pub fn accept(relay: &UnixListener) -> BufReader<UnixStream> {
    relay.set_nonblocking(true).unwrap();
    let stream = wait_for("the driver", PATIENCE, || relay.accept().ok()).0;
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    BufReader::new(stream)
}
