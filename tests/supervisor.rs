//! The supervisor as a process of its own, with stand-ins for the driver and the workers, and with
//! real mounts. Needs root and `/dev/fuse`.

mod support;

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use s3vol::supervisor::{protocol, umount_helper};
use s3vol::types::VolumeId;
use s3vol::worker::WorkerSpec;
use serde_json::{Value, json};
use support::rig::{Rig, accept, spawn, supervise};
use support::wait_for;

/// The driver is the test; plays workers that log how they were started.
const CHILDREN: &str = r#"
import signal, stat, time
role = sys.argv[1]
work = os.environ["TEST_DIR"]
def log(line):
    with open(work + "/log", "a") as f: f.write(line + "\n")
if role == "umount":
    if "--dead" in sys.argv: os.environ["TEST_DEAD"] = "1"
    os.execv(os.environ["TEST_EXE"], ["t", "--ignored", "--exact", "helper_process", "--nocapture", "--quiet"]) \
        if os.environ.setdefault("TEST_PATH", sys.argv[2]) else None
if role == "driver":
    listening = socket.socket(fileno=3)
    log("driver listening %s empty %s" % (listening.getsockname(), "TEST_EMPTY" in os.environ))
    relay()
if role == "worker":
    import json
    spec = json.loads(sys.stdin.readline())
    signal.signal(signal.SIGUSR1, lambda *_: os._exit(75))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if spec["name"] != "stubborn" else None)
    device = os.fstat(3)
    fds = sorted(int(n) for n in os.listdir("/proc/self/fd"))
    log("worker %s pid %d successor %s fuse %s fds %d oom %s" % (
        spec["name"], os.getpid(), os.environ.get("S3VOL_SUCCESSOR"),
        stat.S_ISCHR(device.st_mode) and os.minor(device.st_rdev) == 229,
        len([f for f in fds if f > 3]) - 1, open("/proc/self/oom_score_adj").read().strip()))
    if spec["name"] == "stuck": exec(open(work + "/stuck.py").read())
    while True: time.sleep(60)
"#;

/// A worker that speaks just enough FUSE. The first one never answers a lookup, and tells the kernel meanwhile
/// that a name of the same directory is void, by a thread that has no other descriptor, as the real one
/// does: the kernel makes that thread wait for the lookup, whatever kills the worker. The successor asks for what
/// was not answered, and answers.
const STUCK: &str = r#"
import ctypes, struct, threading
def answer(unique, error, body=b""): os.write(3, struct.pack("<IiQ", 16 + len(body), error, unique) + body)
def notify():
    assert ctypes.CDLL(None, use_errno=True).unshare(0x400) == 0
    os.close(0); os.closerange(4, 1024)
    os.write(3, struct.pack("<IiQQII", 34, 3, 0, 1, 1, 0) + b"x\0")
first = "S3VOL_SUCCESSOR" not in os.environ
if not first: os.write(3, struct.pack("<IiQ", 16, 7, 0))
attributes = struct.pack("<QII" + "6Q10I", 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
while True:
    try: request = os.read(3, 1 << 20)
    except InterruptedError: continue
    length, opcode, unique, node = struct.unpack_from("<IIQQ", request)
    if opcode == 26: answer(unique, 0, struct.pack("<IIIIHHIIHHI28x", 7, 31, 1 << 16, 0, 16, 12, 1 << 16, 1, 0, 0, 0))
    elif opcode == 3: answer(unique, 0, attributes)
    elif opcode == 1 and first:
        threading.Thread(target=notify).start()
        log("notifies")
    elif opcode not in (2, 42, 36): answer(unique, -2 if opcode == 1 else -38)
"#;

/// Not a test: the process that the tests start as the supervisor.
#[test]
#[ignore = "started by the other tests"]
fn supervisor_process() {
    supervise();
}

/// Not a test: the process that unmounts.
#[test]
#[ignore = "started by the supervisor"]
fn helper_process() {
    let Some(path) = std::env::var_os("TEST_PATH") else { return };
    let dead = std::env::var_os("TEST_DEAD").is_some();
    let code = if umount_helper(Path::new(&path), dead).is_ok() { 0 } else { 1 };
    std::process::exit(code);
}

impl Rig {
    fn start() -> Self {
        let rig = Rig::of(CHILDREN, empty);
        std::fs::write(rig.dir.path().join("stuck.py"), STUCK).unwrap();
        rig
    }

    fn ask(&mut self, message: Value) -> Value {
        self.send(message);
        self.read()
    }

    fn volume(&self, name: &str) -> PathBuf {
        self.dir.path().join("vol").join(name)
    }

    fn spec(&self, name: &str) -> WorkerSpec {
        let options = s3vol::config::VolumeOptions {
            url: format!("s3://bucket/{name}"),
            ..Default::default()
        };
        WorkerSpec {
            name: name.into(),
            id: VolumeId::random(),
            options,
            state_dir: self.dir.path().join("state"),
            control_socket: self.dir.path().join("control"),
            stores: self.dir.path().join("stores"),
            mountpoint: self.volume(name),
        }
    }

    /// Kinds of what is mounted at a volume's place, bottom first.
    fn mounts(&self, name: &str) -> Vec<(String, String)> {
        let path = self.volume(name);
        let table = s3vol::sys::mount_table().unwrap();
        table.into_iter().filter(|e| e.path == path).map(|e| (e.kind, e.source)).collect()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn log_line(&self, wanted: impl Fn(&str) -> bool) -> String {
        let mut found = None;
        eventually("a line in the log", || {
            found = self.log().lines().find(|line| wanted(line)).map(str::to_owned);
            found.is_some()
        });
        found.unwrap()
    }

    fn worker_pid(&mut self) -> i32 {
        self.ask(json!({"id": 99, "op": "list"}))["workers"][0]["pid"].as_i64().unwrap() as i32
    }
}

/// A variable of which the driver has to have nothing.
fn empty(command: &mut Command) {
    command.env("TEST_EMPTY", "");
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(what, Duration::from_secs(15), || holds().then_some(()));
}

fn signal(pid: i32, signal: i32) {
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::try_from(signal).unwrap(),
    )
    .unwrap();
}

#[test]
fn a_volume_is_mounted_over_a_cover_and_taken_away_when_its_worker_ends() {
    let mut rig = Rig::start();
    let spec = rig.spec("data");
    assert_eq!(
        rig.ask(json!({"id": 1, "op": "start", "spec": spec})),
        json!({"id": 1, "ok": true})
    );
    let mounts = rig.mounts("data");
    assert_eq!(mounts[0], ("tmpfs".into(), "s3vol-cover".into()));
    assert_eq!(mounts[1], ("fuse.s3vol".into(), "s3://bucket/data".into()));
    let line = rig.log_line(|line| line.starts_with("worker data"));
    assert!(line.contains("successor None fuse True fds 0"), "{line}");
    let again = rig.ask(json!({"id": 2, "op": "start", "spec": rig.spec("data")}));
    assert!(again["error"].as_str().unwrap().contains("has a worker already"), "{again}");
    // SIGTERM is how a worker is asked to end; here it ends by itself with success.
    let pid = rig.worker_pid();
    signal(pid, libc::SIGTERM);
    let event = rig.read();
    assert_eq!(event, json!({"event": "exit", "name": "data", "code": 0, "restarting": false}));
    eventually("the place to be gone", || {
        rig.mounts("data").is_empty() && !rig.volume("data").exists()
    });
}

#[test]
fn a_crashed_worker_gets_a_successor_on_the_same_mount() {
    let mut rig = Rig::start();
    let spec = rig.spec("data");
    rig.ask(json!({"id": 1, "op": "start", "spec": spec}));
    let before = rig.mounts("data");
    rig.log_line(|line| line.starts_with("worker data"));
    let pid = rig.worker_pid();
    signal(pid, libc::SIGKILL);
    let event = rig.read();
    assert_eq!(event, json!({"event": "exit", "name": "data", "code": 137, "restarting": true}));
    let line = rig.log_line(|line| line.contains("successor 1"));
    assert!(line.contains("fuse True"), "{line}");
    assert_eq!(rig.mounts("data"), before);
    // Exit code 75: it could not open the volume; no further attempt.
    let pid = rig.worker_pid();
    signal(pid, libc::SIGUSR1);
    let event = rig.read();
    assert_eq!(event, json!({"event": "exit", "name": "data", "code": 75, "restarting": false}));
    eventually("the place to be gone", || !rig.volume("data").exists());
    eventually("the worker to be forgotten", || {
        let list = rig.ask(json!({"id": 5, "op": "list"}));
        list == json!({"id": 5, "ok": true, "workers": []})
    });
}

#[test]
fn stop_is_bounded_and_answers_when_the_mount_is_gone() {
    let mut rig = Rig::start();
    let spec = rig.spec("stubborn");
    rig.ask(json!({"id": 1, "op": "start", "spec": spec}));
    rig.log_line(|line| line.starts_with("worker stubborn"));
    rig.send(json!({"id": 2, "op": "stop", "name": "stubborn", "grace_ms": 200}));
    let event = rig.read();
    assert_eq!(event["code"], 137);
    assert_eq!(event["restarting"], false);
    assert_eq!(rig.read(), json!({"id": 2, "ok": true}));
    assert!(rig.mounts("stubborn").is_empty() && !rig.volume("stubborn").exists());
    let unknown = rig.ask(json!({"id": 3, "op": "stop", "name": "nobody"}));
    assert_eq!(unknown, json!({"id": 3, "ok": true}));
}

#[test]
fn the_driver_is_started_anew_and_finds_the_workers() {
    let mut rig = Rig::start();
    let line = rig.log_line(|line| line.starts_with("driver listening"));
    assert!(line.contains("plugin.sock empty False"), "{line}");
    let spec = rig.spec("data");
    rig.ask(json!({"id": 1, "op": "start", "spec": spec}));
    rig.driver.get_ref().shutdown(std::net::Shutdown::Both).unwrap();
    rig.driver = accept(&rig.relay);
    let list = rig.ask(json!({"id": 7, "op": "list"}));
    assert_eq!(list["workers"][0]["name"], "data");
    assert_eq!(list["workers"][0]["phase"], "running");
    let entry: protocol::WorkerEntry = serde_json::from_value(list["workers"][0].clone()).unwrap();
    assert_eq!(entry.spec.options.url, "s3://bucket/data");
    // The socket was never closed.
    UnixStream::connect(rig.dir.path().join("plugin.sock")).unwrap();
}

#[test]
fn a_driver_of_another_protocol_is_told_so() {
    let mut rig = Rig::start();
    let hello = |oldest: u32, newest: u32| json!({"id": 1, "op": "hello", "speaks": {"oldest": oldest, "newest": newest}});
    let reply = rig.ask(hello(1, 9));
    assert_eq!((&reply["ok"], &reply["speaks"]["oldest"]), (&json!(true), &json!(1)), "{reply}");
    let reply = rig.ask(hello(8, 9));
    let refused = reply["error"].as_str().unwrap();
    assert!(refused.contains("the driver speaks version 8-9"), "{refused}");
    assert!(refused.contains("disable and enable the plugin"), "{refused}");
    let reply = rig.ask(json!({"id": 2, "op": "program"}));
    assert_eq!(reply["program"]["upgrade"], Value::Null, "{reply}");
    let reply = rig.ask(json!({"id": 3, "op": "upgrade", "file": "/nowhere", "version": "2"}));
    assert!(reply["error"].as_str().unwrap().contains("/nowhere cannot be tried"), "{reply}");
}

#[test]
fn bad_requests_get_an_error_and_change_nothing() {
    let mut rig = Rig::start();
    let mut spec = rig.spec("data");
    spec.mountpoint = "/etc/cron.d".into();
    let reply = rig.ask(json!({"id": 1, "op": "start", "spec": spec}));
    assert!(reply["error"].as_str().unwrap().contains("not directly below"), "{reply}");
    let reply = rig.ask(json!({"id": 2, "op": "dance"}));
    assert_eq!(reply["id"], 2);
    assert!(reply["error"].as_str().unwrap().contains("not a request"), "{reply}");
    std::os::unix::fs::symlink("/etc", rig.volume("link")).unwrap();
    let reply = rig.ask(json!({"id": 3, "op": "start", "spec": rig.spec("link")}));
    assert!(reply["error"].is_string(), "{reply}");
    assert!(std::fs::symlink_metadata(rig.volume("link")).unwrap().is_symlink());
    assert_eq!(rig.ask(json!({"id": 4, "op": "list"}))["workers"], json!([]));
}

#[test]
fn mounts_of_a_killed_run_are_detached_before_the_driver_serves() {
    let mut rig = Rig::start();
    let spec = rig.spec("data");
    rig.ask(json!({"id": 1, "op": "start", "spec": spec}));
    rig.log_line(|line| line.starts_with("worker data"));
    rig.supervisor.kill().unwrap();
    rig.supervisor.wait().unwrap();
    assert_eq!(rig.mounts("data").len(), 2, "left behind");
    rig.supervisor = spawn(rig.dir.path(), empty);
    rig.driver = accept(&rig.relay);
    assert!(rig.mounts("data").is_empty() && !rig.volume("data").exists());
    let spec = rig.spec("data");
    assert_eq!(rig.ask(json!({"id": 1, "op": "start", "spec": spec}))["ok"], true);
}

#[test]
fn termination_lets_workers_finish_and_leaves_nothing() {
    let mut rig = Rig::start();
    for name in ["one", "two"] {
        let spec = rig.spec(name);
        assert_eq!(rig.ask(json!({"id": 1, "op": "start", "spec": spec}))["ok"], true);
        rig.log_line(|line| line.starts_with(&format!("worker {name}")));
    }
    signal(rig.supervisor.id() as i32, libc::SIGTERM);
    let start = Instant::now();
    let status = rig.supervisor.wait().unwrap();
    assert!(status.success(), "{status}");
    assert!(start.elapsed() < Duration::from_secs(9));
    assert!(rig.mounts("one").is_empty() && rig.mounts("two").is_empty());
}

/// A worker with a thread that no signal ends, and the program whose lookup it waits for.
fn stuck(rig: &mut Rig) -> (i32, Child) {
    let spec = rig.spec("stuck");
    rig.ask(json!({"id": 1, "op": "start", "spec": spec}));
    rig.log_line(|line| line.starts_with("worker stuck"));
    let pid = rig.worker_pid();
    let lookup = Command::new("stat")
        .arg(rig.volume("stuck").join("held"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    rig.log_line(|line| line == "notifies");
    eventually("a thread in the kernel", || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let stat = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("stat"));
        tasks.flatten().filter_map(|task| stat(task).ok()).any(|stat| stat.contains(") D "))
    });
    (pid, lookup)
}

fn ends(child: &mut Child) {
    eventually("the lookup to return", || child.try_wait().unwrap().is_some());
}

#[test]
fn a_killed_worker_whose_thread_waits_for_an_answer_of_its_own_has_a_successor() {
    let mut rig = Rig::start();
    let (pid, mut lookup) = stuck(&mut rig);
    signal(pid, libc::SIGKILL);
    let event = rig.read();
    assert_eq!(event, json!({"event": "exit", "name": "stuck", "code": 137, "restarting": true}));
    rig.log_line(|line| line.contains("worker stuck") && line.contains("successor 1"));
    // It answers, so that the lookup returns, and the thread, and the dead worker is gone as a whole.
    ends(&mut lookup);
    eventually("the dead worker to be gone", || !Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(rig.mounts("stuck").len(), 2);
}

#[test]
fn a_stop_ends_what_waits_for_a_worker_that_cannot_end() {
    let mut rig = Rig::start();
    let (pid, mut lookup) = stuck(&mut rig);
    rig.send(json!({"id": 2, "op": "stop", "name": "stuck", "grace_ms": 200}));
    assert_eq!(rig.read()["restarting"], false);
    assert_eq!(rig.read(), json!({"id": 2, "ok": true}));
    ends(&mut lookup);
    eventually("the worker to be gone", || !Path::new(&format!("/proc/{pid}")).exists());
    assert!(rig.mounts("stuck").is_empty() && !rig.volume("stuck").exists());
}
