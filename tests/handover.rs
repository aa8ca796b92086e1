//! A worker dies under the supervisor; its successor goes on with the same mount.
//!
//! Needs root and /dev/fuse.

mod support;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use s3vol::clock::Deadline;
use s3vol::config::VolumeOptions;
use s3vol::driver::{ControlClient, Stays};
use s3vol::worker::{Asked, VolumeState, WorkerSpec};
use serde_json::{Value, json};
use support::host::Host;
use support::rig::{Rig, supervise};
use support::s3server::{Action, Op, Rule, TestS3};
use support::wait_for;
use support::watchdog::Watchdog;

const PATIENCE: Duration = Duration::from_secs(60);

/// The driver is the test; everything else is the real program.
const CHILDREN: &str = r#"
if sys.argv[1] != "driver":
    os.execv(os.environ["TEST_PROGRAM"], ["s3vol"] + sys.argv[1:])
relay()
"#;

/// Not a test: the process that the tests start as the supervisor.
#[test]
#[ignore = "started by the other tests"]
fn supervisor_process() {
    supervise();
}

impl Rig {
    /// A supervised volume, mounted.
    fn start(server: &TestS3) -> Self {
        // The volume's state is made by a mount of its own.
        let mut maker = Host::new("commit=1s");
        maker.mount(server);
        assert!(maker.unmount().success());
        let mut rig = Rig::of(CHILDREN, |command| {
            server.used_by(command);
            command.env("TEST_PROGRAM", env!("CARGO_BIN_EXE_s3vol"));
        });
        rig.dog = Some(Watchdog::guard(rig.path(""), Duration::from_secs(200)));
        let started = rig.ask(json!({"id": 1, "op": "start", "spec": rig.spec(server)}));
        assert_eq!(started, json!({"id": 1, "ok": true}));
        rig
    }

    fn spec(&self, server: &TestS3) -> WorkerSpec {
        let entry = server.keys("").into_iter().find(|k| k.contains("/by-prefix/")).unwrap();
        let entry: Value = serde_json::from_slice(&server.get(&entry).unwrap().body).unwrap();
        let id = serde_json::from_value(entry["uuid"].clone()).unwrap();
        let options = VolumeOptions {
            url: entry["url"].as_str().unwrap().to_owned(),
            state_url: entry["state_url"].as_str().unwrap().to_owned(),
            endpoint: Some(server.endpoint()),
            commit: Duration::from_millis(300),
            ..VolumeOptions::default()
        };
        WorkerSpec {
            name: "data".to_owned(),
            id,
            options,
            state_dir: self.dir.path().join("state"),
            control_socket: self.dir.path().join("control"),
            stores: self.dir.path().join("stores"),
            mountpoint: self.path(""),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        let at = self.dir.path().join("vol/data");
        if name.is_empty() { at } else { at.join(name) }
    }

    /// Sends a request and returns its reply; events in between are dropped.
    fn ask(&mut self, message: Value) -> Value {
        self.send(message);
        loop {
            let answer = self.read();
            if answer.get("id").is_some() {
                return answer;
            }
        }
    }

    fn entry(&mut self) -> Value {
        self.ask(json!({"id": 9, "op": "list"}))["workers"][0].clone()
    }

    fn kill_worker(&mut self) {
        let pid = self.entry()["pid"].as_i64();
        if let Some(pid) = pid {
            let pid = nix::unistd::Pid::from_raw(pid as i32);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        }
    }

    fn control(&self) -> ControlClient {
        ControlClient::new(&self.dir.path().join("control"))
    }

    fn control_state(&self, runtime: &tokio::runtime::Runtime, state: VolumeState) {
        wait_for(&format!("the state {state:?}"), PATIENCE, || {
            let asked = runtime.block_on(self.control().status(PATIENCE));
            asked.ok().filter(|status| status.state == state)
        });
    }

    /// Ends the worker; returns when its mount is gone.
    fn stop(&mut self) {
        let stopped = self.ask(json!({"id": 2, "op": "stop", "name": "data", "grace_ms": 15_000}));
        assert_eq!(stopped, json!({"id": 2, "ok": true}));
    }

    fn restarts(&mut self) -> u64 {
        self.entry()["restarts"].as_u64().unwrap()
    }
}

#[test]
fn a_request_that_was_carried_out_before_the_worker_died_is_answered_with_success() {
    let server = TestS3::start();
    let mut rig = Rig::start(&server);
    let root = rig.path("");
    for dir in ["a", "gone", "full"] {
        std::fs::create_dir(root.join(dir)).unwrap();
    }
    for file in ["old", "source", "target", "x", "y"] {
        std::fs::write(root.join(file), file).unwrap();
    }
    let at = |name: &str| root.join(name);
    let exchange = || {
        let (x, y) = (at("x"), at("y"));
        nix::fcntl::renameat2(
            nix::fcntl::AT_FDCWD,
            &x,
            nix::fcntl::AT_FDCWD,
            &y,
            nix::fcntl::RenameFlags::RENAME_EXCHANGE,
        )
        .map_err(std::io::Error::from)
    };
    let node = || {
        nix::sys::stat::mknod(
            &at("fifo"),
            nix::sys::stat::SFlag::S_IFIFO,
            nix::sys::stat::Mode::S_IRWXU,
            0,
        )
        .map_err(std::io::Error::from)
    };
    type Call<'c> = (&'c str, Box<dyn Fn() -> std::io::Result<()> + 'c>);
    let calls: Vec<Call<'_>> = vec![
        ("mkdir", Box::new(|| std::fs::create_dir(at("new")))),
        ("create", Box::new(|| File::create_new(at("made")).map(drop))),
        ("mknod", Box::new(node)),
        ("symlink", Box::new(|| symlink("old", at("link")))),
        ("link", Box::new(|| std::fs::hard_link(at("old"), at("hard")))),
        ("unlink", Box::new(|| std::fs::remove_file(at("old")))),
        ("rmdir", Box::new(|| std::fs::remove_dir(at("gone")))),
        ("rename", Box::new(|| std::fs::rename(at("source"), at("target")))),
        ("exchange", Box::new(exchange)),
        ("open", Box::new(|| File::open(at("target")).map(drop))),
        ("opendir", Box::new(|| std::fs::read_dir(at("full")).map(drop))),
    ];
    for (n, (name, call)) in calls.iter().enumerate() {
        std::fs::write(rig.dir.path().join("die"), "").unwrap();
        call().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!rig.dir.path().join("die").exists(), "{name} was to kill the worker");
        assert_eq!(rig.restarts(), n as u64 + 1, "{name}");
    }
    assert!(at("new").is_dir() && at("made").is_file() && at("link").is_symlink());
    assert!(at("fifo").exists() && !at("old").exists() && !at("gone").exists());
    assert_eq!(std::fs::read(at("hard")).unwrap(), b"old");
    assert_eq!(std::fs::read(at("target")).unwrap(), b"source");
    assert_eq!(
        (std::fs::read(at("x")).unwrap(), std::fs::read(at("y")).unwrap()),
        (b"y".to_vec(), b"x".to_vec())
    );
    assert_eq!(
        rig.ask(json!({"id": 4, "op": "stop", "name": "data", "grace_ms": 30000}))["ok"],
        true
    );
}

#[test]
fn readers_and_writers_see_no_error_when_workers_die() {
    let server = TestS3::start();
    let mut rig = Rig::start(&server);
    let root = rig.path("");
    let stable: Vec<u8> = (0..1 << 20).map(|n: u32| (n >> 8) as u8 ^ n as u8).collect();
    std::fs::write(root.join("stable"), &stable).unwrap();
    let nameless = File::create_new(root.join("nameless")).unwrap();
    std::fs::remove_file(root.join("nameless")).unwrap();
    nameless.write_all_at(b"open without a name", 0).unwrap();
    let done = AtomicBool::new(false);
    let running = || !done.load(Ordering::SeqCst);
    let written = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut rounds = 0;
            while running() {
                let open = OpenOptions::new().read(true).open(root.join("stable")).unwrap();
                // Past the page cache, so that the worker has to answer.
                let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
                nix::fcntl::posix_fadvise(&open, 0, 0, advice).unwrap();
                let mut found = vec![0; stable.len()];
                open.read_exact_at(&mut found, 0).unwrap();
                assert!(found == stable);
                rounds += 1;
            }
            rounds
        });
        let writer = scope.spawn(|| {
            let file = File::create_new(root.join("log")).unwrap();
            let mut n = 0u64;
            while running() {
                file.write_all_at(&n.to_be_bytes(), n * 8).unwrap();
                n += 1;
                if n.is_multiple_of(50) {
                    file.sync_all().unwrap();
                }
            }
            n
        });
        let namer = scope.spawn(|| {
            let mut n = 0;
            while running() {
                let (a, b) = (root.join(format!("n{n}")), root.join(format!("m{n}")));
                std::fs::create_dir(&a).unwrap();
                std::fs::rename(&a, &b).unwrap();
                std::fs::write(b.join("f"), b"x").unwrap();
                std::fs::remove_file(b.join("f")).unwrap();
                std::fs::remove_dir(&b).unwrap();
                n += 1;
            }
            n
        });
        for round in 0..5 {
            std::thread::sleep(Duration::from_millis(300 + 90 * round));
            rig.kill_worker();
            wait_for("a successor", PATIENCE, || (rig.restarts() > round).then_some(()));
        }
        std::thread::sleep(Duration::from_millis(300));
        done.store(true, Ordering::SeqCst);
        assert!(reader.join().unwrap() > 0 && namer.join().unwrap() > 0);
        writer.join().unwrap()
    });
    let mut found = vec![0; 19];
    nameless.read_exact_at(&mut found, 0).unwrap();
    assert_eq!(found, b"open without a name");
    let log = std::fs::read(root.join("log")).unwrap();
    assert_eq!(log.len() as u64, written * 8);
    for (n, chunk) in (0u64..).zip(log.chunks(8)) {
        assert_eq!(chunk, n.to_be_bytes());
    }
    drop(nameless);
    let names = |path: &Path| {
        let mut names: Vec<_> =
            std::fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&root), ["log", "stable"]);
    assert_eq!(
        rig.ask(json!({"id": 4, "op": "stop", "name": "data", "grace_ms": 30000}))["ok"],
        true
    );
}

#[test]
fn a_file_opened_across_a_crash_goes_with_its_last_close() {
    let server = TestS3::start();
    let mut rig = Rig::start(&server);
    let at = rig.path("file");
    std::fs::write(&at, "content").unwrap();
    let files = |rig: &Rig| {
        let client = s3vol::driver::ControlClient::new(&rig.dir.path().join("control"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // A successor answers the kernel a moment before it says of itself that it serves.
        let served = || {
            let status = runtime.block_on(client.status(PATIENCE)).unwrap();
            (status.state == VolumeState::Active).then_some(status.files)
        };
        wait_for("a worker that serves", PATIENCE, served)
    };
    let empty = files(&rig) - 1;
    std::fs::write(rig.dir.path().join("die"), "").unwrap();
    let file = File::open(&at).unwrap();
    assert_eq!(rig.restarts(), 1, "the open was to kill the worker");
    std::fs::remove_file(&at).unwrap();
    let mut found = [0; 7];
    file.read_exact_at(&mut found, 0).unwrap();
    assert_eq!((&found, files(&rig)), (b"content", empty + 1));
    drop(file);
    wait_for("its end", PATIENCE, || (files(&rig) == empty).then_some(()));
    assert_eq!(
        rig.ask(json!({"id": 4, "op": "stop", "name": "data", "grace_ms": 30000}))["ok"],
        true
    );
}

/// Tries to lock each file as another process, in the way in which it is locked.
const TRY_LOCKS: &str = r#"
import fcntl, os, struct, sys
F_OFD_SETLK = 37
def attempt(kind, fd):
    if kind == "flock":
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 10, 0)
        fcntl.fcntl(fd, fcntl.F_SETLK if kind == "posix" else F_OFD_SETLK, lock)
for kind in ["flock", "posix", "ofd"]:
    fd = os.open(os.path.join(sys.argv[1], kind), os.O_RDWR)
    try:
        attempt(kind, fd)
        print(kind, "free")
    except OSError as error:
        print(kind, os.strerror(error.errno))
"#;

fn try_locks(root: &Path) -> String {
    let done =
        Command::new("python3").args(["-c", TRY_LOCKS]).arg(root).output().expect("python3 runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn locks_of_every_kind_outlive_the_worker() {
    use std::os::fd::AsRawFd;
    let server = TestS3::start();
    let mut rig = Rig::start(&server);
    let root = rig.path("");
    let open = |name: &str| File::create_new(root.join(name)).unwrap();
    let (whole, process, description) = (open("flock"), open("posix"), open("ofd"));
    let range = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 10,
        l_pid: 0,
    };
    // SAFETY: open descriptors, and a lock description that outlives the calls.
    let locked = unsafe {
        [
            libc::flock(whole.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB),
            libc::fcntl(process.as_raw_fd(), libc::F_SETLK, &range),
            libc::fcntl(description.as_raw_fd(), libc::F_OFD_SETLK, &range),
        ]
    };
    assert_eq!(locked, [0; 3], "{}", std::io::Error::last_os_error());
    let refused = "Resource temporarily unavailable";
    let held = format!("flock {refused}\nposix {refused}\nofd {refused}\n");
    assert_eq!(try_locks(&root), held);
    for round in 0..2 {
        rig.kill_worker();
        wait_for("a successor", PATIENCE, || (rig.restarts() > round).then_some(()));
        assert_eq!(try_locks(&root), held, "after {} crashes", round + 1);
    }
    // They are held through the files, which still work, and end with them.
    process.write_all_at(b"under the lock", 0).unwrap();
    drop((whole, process, description));
    assert_eq!(try_locks(&root), "flock free\nposix free\nofd free\n");
    assert_eq!(std::fs::read(root.join("posix")).unwrap(), b"under the lock");
    assert_eq!(
        rig.ask(json!({"id": 4, "op": "stop", "name": "data", "grace_ms": 30000}))["ok"],
        true
    );
}

#[test]
fn what_is_written_after_a_drain_is_recovered_when_another_host_takes_the_volume() {
    let server = TestS3::start();
    let mut rig = Rig::start(&server);
    wait_for("the mount", PATIENCE, || std::fs::write(rig.path("f"), b"before").ok());
    let file = OpenOptions::new().write(true).open(rig.path("f")).unwrap();
    file.sync_all().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let drained = runtime.block_on(rig.control().drain(PATIENCE)).unwrap();
    assert!(drained.committed, "{drained:?}");
    let mut other = Host::new("commit=200ms");
    other.mount(&server);
    // The bytes are handed over; that nobody takes them any more is found out by the flush.
    file.write_at(b"after!", 0).unwrap();
    assert!(file.sync_all().is_err());
    drop(file);
    rig.stop();
    let url = format!("s3://{}/vol", server.bucket());
    let list = other.run(&server, &["recovered", "list", &url]).expect("a list");
    let name = list.lines().next().expect("one").split_once("  ").expect("a name").0.to_owned();
    let into = other.dir.path().join("restored");
    let to = into.to_str().unwrap();
    other.run(&server, &["recovered", "restore", &url, &name, to]).expect("restored");
    assert_eq!(std::fs::read(into.join("f")).unwrap(), b"after!");
    assert!(other.unmount().success());
}

/// What the last record of a lease says.
fn lease(server: &TestS3) -> String {
    let leases = server.objects("").into_iter().filter(|(key, _)| key.contains("/lease/"));
    let (_, last) = leases.max_by_key(|(key, _)| key.clone()).expect("a lease");
    let record: Value = serde_json::from_slice(&last.body).unwrap();
    record["state"].as_str().unwrap().to_owned()
}

#[test]
fn a_drain_gives_back_nothing_that_was_mounted_again_since_it_was_asked_for() {
    let server = TestS3::start();
    let mut rig = Rig::start(&server);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let control = rig.control();
    runtime.block_on(control.ready(Deadline::after(PATIENCE))).unwrap();
    let (asked, in_use) = (Asked::now(), lease(&server));
    server.fault(Rule::always(Some(Op::Put), "/segments/", Action::Hold));
    std::fs::write(rig.path("f"), vec![7; 1 << 20]).unwrap();
    wait_for("its upload", PATIENCE, || (server.held() > 0).then_some(()));
    let draining = {
        let control = rig.control();
        runtime.spawn(async move { control.drain(PATIENCE).await })
    };
    rig.control_state(&runtime, VolumeState::Draining);
    assert!(runtime.block_on(control.resume(PATIENCE)).unwrap());
    server.clear_faults();
    server.release();
    let drained = runtime.block_on(draining).unwrap().unwrap();
    assert!(drained.committed, "{drained:?}");
    let stays = |what: &str| {
        assert_eq!(lease(&server), in_use, "{what}");
        let asked = runtime.block_on(control.vacate(PATIENCE));
        assert!(matches!(asked, Err(Stays::Serves(_))), "{what}: {asked:?}");
    };
    stays("after a drain that it overtook");
    // The request itself may come late.
    let drained = runtime.block_on(control.drain_as(asked, PATIENCE)).unwrap();
    assert!(drained.committed, "{drained:?}");
    stays("after one that it overtook on its way");
    rig.control_state(&runtime, VolumeState::Active);
    std::fs::write(rig.path("f"), b"still served").unwrap();
    // And one that was asked for since does.
    assert!(runtime.block_on(control.drain(PATIENCE)).unwrap().committed);
    assert_ne!(lease(&server), in_use);
    rig.stop();
    assert_eq!(server.get("vol/f").expect("it").body, b"still served"[..]);
}

#[test]
fn the_end_does_not_wait_for_all_that_is_still_to_settle() {
    let server = TestS3::start();
    let mut rig = Rig::start(&server);
    wait_for("the mount", PATIENCE, || std::fs::create_dir(rig.path("d")).ok());
    server.fault(Rule::always(Some(Op::Put), "vol/d/", Action::Latency(Duration::from_secs(1))));
    // Many rounds.
    for number in 0..3000 {
        std::fs::write(rig.path(&format!("d/{number}")), b"x").unwrap();
    }
    wait_for("settling", PATIENCE, || {
        let settled = server.keys("vol/d/").len();
        assert!(settled < 1500, "too fast for this test");
        (settled > 10).then_some(())
    });
    // After this long the supervisor kills it.
    let asked = std::time::Instant::now();
    rig.stop();
    assert!(asked.elapsed() < Duration::from_secs(14), "{:?}", asked.elapsed());
    let left = 3000 - server.keys("vol/d/").len();
    assert!(left > 0, "too fast for this test");
    // Given back, so that another host has it at once.
    let leases = server.objects("");
    let released = leases
        .iter()
        .filter(|(key, _)| key.contains("/lease/"))
        .any(|(_, object)| String::from_utf8_lossy(&object.body).contains("released"));
    assert!(released, "{:?}", server.keys(""));
    server.clear_faults();
    let mut other = Host::new("commit=200ms,settle=never");
    other.mount(&server);
    assert_eq!(std::fs::read_dir(other.path("d")).unwrap().count(), 3000);
    other.end();
}
