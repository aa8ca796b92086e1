//! A mount that survives the worker's death, with the real kernel.
//!
//! Needs root and /dev/fuse.
//!
//! This process holds the descriptor and must never touch a path on the mount: its exec of the
//! successor would wait for the worker that is not there. So the readers are processes, too.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, Request,
};

use crate::fuse::HandoffFiles;
use crate::fuse::session::serve_filesystem;
use crate::sys;

const READERS: u64 = 6;
const DIR: &str = "S3VOL_TEST_HANDOVER_DIR";
const HOLD: &str = "S3VOL_TEST_HANDOVER_HOLD";

/// Files `2` to `7`, each holding its own name.
struct Numbers {
    /// Never answers reads.
    hold: bool,
    held: Mutex<Vec<ReplyData>>,
}

pub(super) fn attr(ino: u64) -> FileAttr {
    let dir = ino == 1;
    FileAttr {
        ino: INodeNo(ino),
        size: 1,
        blocks: 1,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if dir { FileType::Directory } else { FileType::RegularFile },
        perm: if dir { 0o755 } else { 0o644 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Numbers {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        crate::fuse::negotiate::negotiate(config)
    }

    fn lookup(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str().and_then(|name| name.parse().ok()) {
            Some(ino) => reply.entry(&Duration::from_secs(60), &attr(ino), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::from_secs(60), &attr(ino.0));
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if self.hold {
            self.held.lock().unwrap().push(reply);
            eprintln!("held");
        } else {
            if req.unique().0 >> 63 == 1 {
                eprintln!("resent");
            }
            reply.data(ino.to_string().as_bytes());
        }
    }
}

/// The worker's side; not a test when run by itself.
#[test]
#[ignore = "the worker process of `readers_survive_the_worker`"]
fn worker() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let device = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let numbers = Numbers { hold: std::env::var_os(HOLD).is_some(), held: Mutex::new(Vec::new()) };
    let handoff = HandoffFiles::new(Path::new(&dir));
    let mut serving = serve_filesystem(device, numbers, &handoff, 2).unwrap();
    eprintln!("serving");
    tokio::runtime::Runtime::new().unwrap().block_on(serving.wait()).unwrap();
}

struct Worker {
    process: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Worker {
    fn start(device: &OwnedFd, dir: &Path, hold: bool) -> Worker {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["fuse::tests::handover::worker", "--exact", "--ignored", "--nocapture"]);
        command.env(DIR, dir).stdin(device.try_clone().unwrap());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        if hold {
            command.env(HOLD, "1");
        }
        let mut process = command.spawn().unwrap();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Worker { process, lines }
    }

    fn expect(&self, line: &str, times: u64) {
        for seen in 0..times {
            match self.lines.recv_timeout(Duration::from_secs(20)) {
                Ok(said) => assert_eq!(said, line),
                Err(e) => panic!("{seen} times {line:?} instead of {times}: {e}"),
            }
        }
    }
}

/// Detaches the mount and ends the processes whatever happens, so that nothing hangs on it.
pub(super) struct Cleanup {
    pub(super) mountpoint: PathBuf,
    processes: Vec<Child>,
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        let _ = sys::detach_all(&self.mountpoint);
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A mount of the real kernel that nobody serves yet.
pub(super) fn mounted(dir: &Path) -> (OwnedFd, Cleanup) {
    let mountpoint = dir.join("mnt");
    let at = sys::MountPoint::new(dir, &mountpoint).unwrap();
    sys::make_mountpoint(&at).unwrap();
    let device = sys::open_fuse_device().unwrap();
    sys::mount_fuse(&at, &device, sys::FuseMount::of("handover-test")).unwrap();
    (device, Cleanup { mountpoint, processes: Vec::new() })
}

fn cat(cleanup: &mut Cleanup, ino: u64) -> std::process::ChildStdout {
    let path = cleanup.mountpoint.join(ino.to_string());
    let mut cat = Command::new("cat").arg(path).stdout(Stdio::piped()).spawn().unwrap();
    let output = cat.stdout.take().unwrap();
    cleanup.processes.push(cat);
    output
}

/// A worker died between reading INIT and storing it.
#[test]
fn a_lost_init_is_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let (device, mut cleanup) = mounted(dir.path());
    let mut lost = [0; 65536];
    assert!(nix::unistd::read(&device, &mut lost).unwrap() >= 56);

    let mut worker = Worker::start(&device, dir.path(), false);
    worker.expect("serving", 1);
    let mut content = String::new();
    cat(&mut cleanup, 2).read_to_string(&mut content).unwrap();
    assert_eq!(content, "2");
    drop(device);
    sys::detach_all(&cleanup.mountpoint).unwrap();
    assert!(worker.process.wait().unwrap().success());
}

#[test]
fn readers_survive_the_worker() {
    let dir = tempfile::tempdir().unwrap();
    let (device, mut cleanup) = mounted(dir.path());
    let mut first = Worker::start(&device, dir.path(), true);
    first.expect("serving", 1);
    let mut outputs = Vec::new();
    for ino in 2..2 + READERS {
        outputs.push((ino, cat(&mut cleanup, ino)));
    }
    first.expect("held", READERS);
    first.process.kill().unwrap();
    first.process.wait().unwrap();

    let killed = Instant::now();
    let mut second = Worker::start(&device, dir.path(), false);
    // The reads are answered as soon as the loops run, so the two kinds of line may mix.
    let mut said = Vec::new();
    for _ in 0..READERS + 1 {
        said.push(second.lines.recv_timeout(Duration::from_secs(20)).unwrap());
    }
    assert_eq!(said.iter().filter(|line| *line == "resent").count() as u64, READERS);
    for (ino, mut output) in outputs {
        let mut content = String::new();
        output.read_to_string(&mut content).unwrap();
        assert_eq!(content, ino.to_string());
    }
    for cat in &mut cleanup.processes {
        assert!(cat.wait().unwrap().success());
    }
    println!("answered {:?} after the death", killed.elapsed());

    // The worker learns of the end of the mount and leaves nothing behind.
    drop(device);
    sys::detach_all(&cleanup.mountpoint).unwrap();
    assert!(second.process.wait().unwrap().success());
    assert!(!dir.path().join("fuse-init").exists());
}
