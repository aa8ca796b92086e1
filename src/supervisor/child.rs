//! Starting the three kinds of children.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use super::Settings;
use super::channel::Channel;
use super::protocol::SUCCESSOR_ENV;
use crate::sys::{self, ChildFds};
use crate::worker::{SPOKEN_ENV, TELLS_ENV, WORKER_PROTOCOL, WorkerSpec};

/// The kernel should rather kill one volume than the process that holds them all.
const CHILD_OOM_SCORE: i32 = 500;
/// A pipe holds 64 KiB; a longer line could block the supervisor.
const MAX_SPEC: usize = 60 << 10;

/// The driver: the listening socket is its descriptor 3, its channel to the supervisor 4.
pub(super) fn driver(settings: &Settings, socket: &UnixListener) -> io::Result<(u32, Channel)> {
    let (near, far) = UnixStream::pair()?;
    let mut command = command(settings, "driver")?;
    command.args(&settings.driver_args).stdin(Stdio::null());
    let first = OwnedFd::from(socket.try_clone()?);
    let fds = ChildFds { first: Some(first), second: Some(far.into()) };
    sys::prepare_child(&mut command, fds, Signal::SIGKILL);
    let pid = spawn(command)?;
    Ok((pid, Channel::new(near)?))
}

/// A worker that was started.
pub(super) struct Worker {
    pub(super) pid: u32,
    /// The writing end of its standard input. It has an error (POLLERR) from when nothing of the worker is
    /// left that could use a descriptor of it but the FUSE device: see [`crate::sys::keep_only`].
    pub(super) input: OwnedFd,
    /// Of a successor: here it says that it serves.
    pub(super) says: Option<OwnedFd>,
}

/// A worker: the FUSE device is its descriptor 3, its spec one line on standard input.
pub(super) fn worker(
    settings: &Settings,
    spec: &WorkerSpec,
    device: &OwnedFd,
    successor: bool,
) -> io::Result<Worker> {
    let mut line = serde_json::to_vec(spec)?;
    line.push(b'\n');
    if line.len() > MAX_SPEC {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the volume's options are longer than 60 KiB",
        ));
    }
    let (reader, mut writer) = io::pipe()?;
    writer.write_all(&line)?;
    let mut command = command(settings, "worker")?;
    command.stdin(reader);
    command.env(SPOKEN_ENV, WORKER_PROTOCOL.to_string());
    command.env_remove(SUCCESSOR_ENV).env_remove(TELLS_ENV);
    let (says, tells) = match successor {
        true => {
            command.env(SUCCESSOR_ENV, "1").env(TELLS_ENV, "1");
            let (says, tells) = io::pipe()?;
            (Some(OwnedFd::from(says)), Some(OwnedFd::from(tells)))
        }
        false => (None, None),
    };
    let fds = ChildFds { first: Some(device.try_clone()?), second: tells };
    // A worker that outlives its supervisor finishes what it has and ends.
    sys::prepare_child(&mut command, fds, Signal::SIGTERM);
    // With the command go our copies of the ends that are the worker's.
    Ok(Worker { pid: spawn(command)?, input: writer.into(), says })
}

/// The new program with copies of everything that it is to go on with, `kept`; `state` names the file that describes
/// them. It changes nothing, and ends with [`TRIAL_PASSED`] where it could go on.
pub(super) fn trial(
    settings: &Settings,
    program: &OwnedFd,
    state: &OwnedFd,
    mut kept: Vec<RawFd>,
) -> io::Result<u32> {
    // Looked up by the child, which has it until it becomes the program.
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.args(settings.going_on(state.as_raw_fd()).into_iter().skip(1));
    command.arg("--trial").stdin(Stdio::null());
    kept.push(state.as_raw_fd());
    let none = ChildFds { first: None, second: None };
    sys::prepare_child_keeping(&mut command, none, Signal::SIGKILL, kept);
    spawn(command)
}

/// The helper that takes the mounts at `path` away; those of a `dead` worker with all that waits for them.
pub(super) fn umount(settings: &Settings, path: &Path, dead: bool) -> io::Result<u32> {
    let mut command = command(settings, "umount")?;
    command.arg(path).stdin(Stdio::null());
    if dead {
        command.arg("--dead");
    }
    sys::prepare_child(&mut command, ChildFds { first: None, second: None }, Signal::SIGKILL);
    spawn(command)
}

fn command(settings: &Settings, role: &str) -> io::Result<Command> {
    let (program, leading) = settings
        .program
        .split_first()
        .ok_or_else(|| io::Error::other("no program to start is configured"))?;
    if crate::fault::noted("spawn") == Some(role) {
        return Err(io::Error::other("a test has it fail"));
    }
    let mut command = Command::new(program);
    command.args(leading).arg(role);
    // dockerd passes every variable of the manifest, unset ones as empty strings.
    for (name, value) in std::env::vars_os() {
        if value.is_empty() {
            command.env_remove(name);
        }
    }
    Ok(command)
}

fn spawn(mut command: Command) -> io::Result<u32> {
    let pid = command.spawn()?.id();
    if let Err(error) = sys::add_oom_score(pid, CHILD_OOM_SCORE) {
        tracing::debug!(%error, pid, "cannot set the OOM score");
    }
    Ok(pid)
}
